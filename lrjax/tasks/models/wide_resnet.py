"""Wide residual network (Zagoruyko and Komodakis, 2016, arXiv 1605.07146)."""

from __future__ import annotations

import functools
from typing import Any

import jax
from flax import linen as nn

from lrjax.tasks.models.batch_norm import BatchNorm
from lrjax.tasks.models.convolution import Conv, torch_default
from lrjax.tasks.models.dropout import Dropout

_he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class WideResNet(nn.Module):
    """WRN-depth-width with pre-activation basic blocks, for small images.

    Convolutions are initialised by He's normal distribution with the fan out, the
    classifier as `torch.nn.Linear` with a bias of 0.

    Attributes:
      depth: layers; 6 n + 4 for n blocks in each of the three groups.
      width: channels are 16, 32 and 64 times this.
      num_classes: number of outputs.
      dropout: dropout rate between the two convolutions of a block.
      dtype: dtype of the computation; that of the parameters if None.
      param_dtype: dtype of parameters and statistics.
      remat: whether to recompute activations inside blocks in the backward pass
        instead of storing them.
    """

    depth: int
    width: int
    num_classes: int
    dropout: float = 0.0
    dtype: Any = None
    param_dtype: Any = "float32"
    remat: bool = False

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool, mask: jax.Array | None = None
    ) -> jax.Array:
        """Compute logits of images.

        Args:
          images: [rows, height, width, channels].
          train: whether to use this batch's statistics, update the running ones
            (collection 'batch_stats') and apply dropout (RNG stream 'dropout').
          mask: [rows], 1 for the rows that count in the statistics.

        Returns:
          [rows, num_classes].
        """
        blocks, rest = divmod(self.depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth {self.depth} is not 6 n + 4 for an n from 1 up")
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = functools.partial(Conv, size=3, padding=1, init=_he_fan_out, **types)
        make_block = nn.remat(_Block, static_argnums=2) if self.remat else _Block
        x = conv(16, name="conv")(images)
        for group, channels in enumerate((16, 32, 64)):
            for block in range(blocks):
                x = make_block(
                    channels * self.width,
                    stride=2 if group > 0 and block == 0 else 1,
                    dropout=self.dropout,
                    conv=conv,
                    norm=functools.partial(BatchNorm, **types),
                    name=f"group{group + 1}_block{block + 1}",
                )(x, train, mask)
        x = nn.relu(BatchNorm(**types, name="norm")(x, train, mask))
        classifier = nn.Dense(
            self.num_classes, kernel_init=torch_default, **types, name="classifier"
        )
        return classifier(x.mean((1, 2)))


class _Block(nn.Module):
    """Norm, convolution, norm, dropout, convolution, with a residual connection.

    If the number of channels changes, the shortcut is a 1 x 1 convolution of the
    normalised input.
    """

    channels: int
    stride: int
    dropout: float
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None) -> jax.Array:
        """Compute [rows, height / stride, width / stride, channels]."""
        out = nn.relu(self.norm(name="norm1")(x, train, mask))
        if x.shape[-1] != self.channels:
            shortcut = self.conv(
                self.channels, size=1, padding=0, stride=self.stride, name="shortcut"
            )
            x = shortcut(out)
        out = self.conv(self.channels, stride=self.stride, name="conv1")(out)
        out = nn.relu(self.norm(name="norm2")(out, train, mask))
        out = Dropout(self.dropout, deterministic=not train)(out)
        return x + self.conv(self.channels, name="conv2")(out)
