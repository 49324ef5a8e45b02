"""Densely connected network (Huang et al., 2017, arXiv 1608.06993)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lrjax import machine
from lrjax.tasks.models import pooling
from lrjax.tasks.models.batch_norm import BatchNorm, moments
from lrjax.tasks.models.convolution import Conv, torch_default, uniform


class DenseNet(nn.Module):
    """DenseNet-BC for small images: bottleneck layers and compressing transitions.

    The first convolution has 3 x 3 pixels and stride 1. A transition has no ReLU, as
    in the definition that the study uses. Parameters are initialised as in PyTorch.

    Attributes:
      blocks: layers of each dense block.
      growth: channels that each layer adds.
      reduction: share of the channels that a transition keeps, rounded down.
      num_classes: number of outputs.
      dtype: dtype of the computation; that of the parameters if None.
      param_dtype: dtype of parameters and statistics.
      remat: whether to recompute activations inside layers in the backward pass
        instead of storing them.
    """

    blocks: Sequence[int]
    growth: int
    reduction: float
    num_classes: int
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
          train: whether to use this batch's statistics and update the running ones
            (collection 'batch_stats').
          mask: [rows], 1 for the rows that count in the statistics.

        Returns:
          [rows, num_classes].
        """
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        make_layer = nn.remat(_Layer, static_argnums=2) if self.remat else _Layer
        x = Conv(2 * self.growth, 3, padding=1, **types, name="conv")(images)
        known = None  # moments of x
        for block, layers in enumerate(self.blocks, 1):
            if block > 1:
                x = BatchNorm(**types, name=f"transition{block - 1}_norm")(
                    x, train, mask, known
                )
                kept = int(self.reduction * x.shape[-1])
                x = Conv(kept, 1, **types, name=f"transition{block - 1}_conv")(x)
                x = pooling.average(x)
            maps = _Maps(train, mask, self.param_dtype)
            for layer in range(1, layers + 1):
                x, known = maps.with_more(x)
                name = f"block{block}_layer{layer}"
                x = make_layer(self.growth, types, name=name)(x, train, mask, known)
            x, known = maps.with_more(x)
        x = BatchNorm(**types, name="norm")(x, train, mask, known)
        x = nn.relu(x).mean((1, 2))
        classifier = nn.Dense(
            self.num_classes,
            kernel_init=torch_default,
            bias_init=uniform(x.shape[-1] ** -0.5),
            **types,
            name="classifier",
        )
        return classifier(x)


class _Maps:
    """The feature maps of a dense block so far.

    Each layer reads all of them, and on GPUs and TPUs that takes most of the time. So
    there, their moments are computed once, and the gradients of a map from all later
    layers are added at once. The numbers agree with those of CPUs up to rounding.
    """

    def __init__(self, train: bool, mask: jax.Array | None, dtype: Any):
        """Begin a block, with the arguments of `moments` for training."""
        self._maps: list[jax.Array] = []
        self._moments: list[tuple[jax.Array, jax.Array]] = []
        self._train, self._mask, self._dtype = train, mask, dtype
        self._apart = machine.kind() != "cpu"

    def with_more(
        self, new: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
        """Add maps; return all side by side, and their moments if they are kept."""
        self._maps.append(new)
        x = jnp.concatenate(self._maps, axis=-1)
        if not self._apart:
            self._maps = [x]
            return x, None
        if not self._train:
            return x, None
        self._moments.append(moments(new, self._mask, self._dtype))
        mean, var = map(jnp.concatenate, zip(*self._moments, strict=True))
        return x, (mean, var)


class _Layer(nn.Module):
    """Norm, 1 x 1 convolution to 4 growth channels, norm, 3 x 3 to growth channels."""

    growth: int
    types: Any

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        train: bool,
        mask: jax.Array | None,
        known: tuple[jax.Array, jax.Array] | None,
    ) -> jax.Array:
        """Compute [rows, height, width, growth] from [..., channels].

        Args:
          x, train, mask, known: as in `BatchNorm`.
        """
        x = nn.relu(BatchNorm(**self.types, name="norm1")(x, train, mask, known))
        x = Conv(4 * self.growth, 1, **self.types, name="conv1")(x)
        x = nn.relu(BatchNorm(**self.types, name="norm2")(x, train, mask))
        return Conv(self.growth, 3, padding=1, **self.types, name="conv2")(x)
