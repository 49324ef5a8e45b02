"""A plain small convolutional network, for MNIST and machines without a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from flax import linen as nn

from lrjax.tasks.models import pooling
from lrjax.tasks.models.convolution import Conv, torch_default, uniform


class SmallCNN(nn.Module):
    """3 x 3 convolutions with ReLU and 2 x 2 max pooling, then a linear layer.

    Parameters are initialised as in PyTorch's layers.

    Attributes:
      num_classes: number of outputs.
      channels: outputs of each convolution.
      dtype: dtype of the computation; that of the parameters if None.
      param_dtype: dtype of the parameters.
    """

    num_classes: int
    channels: Sequence[int] = (16, 32)
    dtype: Any = None
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool, mask: jax.Array | None = None
    ) -> jax.Array:
        """Compute logits of images.

        Args:
          images: [rows, height, width, channels].
          train, mask: ignored.

        Returns:
          [rows, num_classes].
        """
        del train, mask
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = images
        for number, channels in enumerate(self.channels, 1):
            conv = Conv(
                channels, 3, padding=1, use_bias=True, **types, name=f"conv{number}"
            )
            x = pooling.maximum(nn.relu(conv(x)))
        x = x.reshape(len(x), -1)
        classifier = nn.Dense(
            self.num_classes,
            kernel_init=torch_default,
            bias_init=uniform(x.shape[-1] ** -0.5),
            **types,
            name="classifier",
        )
        return classifier(x)
