"""A multilayer perceptron of images, with or without batch normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from flax import linen as nn

from lrjax.tasks.models.batch_norm import BatchNorm
from lrjax.tasks.models.convolution import torch_default, uniform


class Perceptron(nn.Module):
    """Linear layers with ReLU between them: `mlp.apply` as a module.

    Parameters are initialised as in PyTorch's layers.

    Attributes:
      num_classes: number of outputs.
      hidden: units of each hidden layer.
      norm: whether batch normalisation comes before each ReLU.
      dtype: dtype of the computation; that of the parameters if None.
      param_dtype: dtype of parameters and statistics.
    """

    num_classes: int
    hidden: Sequence[int]
    norm: bool = False
    dtype: Any = None
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool, mask: jax.Array | None = None
    ) -> jax.Array:
        """Compute logits of images.

        Args:
          images: [rows, height, width, channels].
          train: whether to use this batch's statistics and update the running ones
            (collection 'batch_stats').
          mask: [rows], 1 for the rows that count in the statistics.

        Returns:
          [rows, num_classes].
        """
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = images.reshape(len(images), -1)
        for number, units in enumerate((*self.hidden, self.num_classes), 1):
            x = nn.Dense(
                units,
                kernel_init=torch_default,
                bias_init=uniform(x.shape[-1] ** -0.5),
                **types,
                name=f"layer{number}",
            )(x)
            if number > len(self.hidden):
                break
            if self.norm:
                x = BatchNorm(**types, name=f"norm{number}")(x, train, mask)
            x = nn.relu(x)
        return x
