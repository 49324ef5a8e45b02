"""An LSTM (Hochreiter and Schmidhuber, 1997) that reads an image row by row."""

from __future__ import annotations

from typing import Any

import jax
from flax import linen as nn

from lrjax.tasks.models.convolution import torch_default, uniform


class LSTM(nn.Module):
    """A recurrent layer over the rows of an image; a linear layer on its last output.

    Parameters are initialised as in PyTorch's layers, which have a second, redundant
    bias for the gates.

    Attributes:
      num_classes: number of outputs.
      units: of the recurrent layer.
      dtype: dtype of the matrix products; that of the parameters if None.
      param_dtype: dtype of parameters and memory.
    """

    num_classes: int
    units: int
    dtype: Any = None
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool, mask: jax.Array | None = None
    ) -> jax.Array:
        """Compute logits of images.

        Args:
          images: [rows, height, width, channels]: `height` steps.
          train, mask: ignored.

        Returns:
          [rows, num_classes].
        """
        del train, mask
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        init = uniform(self.units**-0.5)
        cell = nn.OptimizedLSTMCell(
            self.units,
            kernel_init=init,
            recurrent_kernel_init=init,
            bias_init=init,
            **types,
        )
        steps = images.reshape(*images.shape[:2], -1)
        # The memory stays in the parameters' type, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            outputs: Any = nn.RNN(cell)(steps)
        classifier = nn.Dense(
            self.num_classes,
            kernel_init=torch_default,
            bias_init=uniform(self.units**-0.5),
            **types,
            name="classifier",
        )
        return classifier(outputs[:, -1])
