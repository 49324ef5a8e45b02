"""Convolution of images: the one place where models call it.

Images are [rows, height, width, channels], kernels [height, width, in, out].
"""

from __future__ import annotations

from typing import Any

import jax
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import lax

# As `torch.nn.Conv2d` and `torch.nn.Linear` start: uniform in +-1/sqrt(fan in).
torch_default = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def convolve(
    images: jax.Array, kernel: jax.Array, stride: int = 1, padding: int = 0
) -> jax.Array:
    """Cross-correlates images with a kernel, as `torch.nn.functional.conv2d` does.

    Args:
      images: [rows, height, width, in].
      kernel: [height, width, in, out], of the same type.
      stride: pixels from one output to the next, down and across.
      padding: rows and columns of zeros on each of the four sides.

    Returns:
      [rows, (height + 2 padding - kernel height) // stride + 1, ..., out].
    """
    return lax.conv_general_dilated(
        images,
        kernel,
        (stride, stride),
        ((padding, padding), (padding, padding)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


class Conv(nn.Module):
    """A convolution with a kernel of its own.

    Attributes:
      features: output channels.
      size: height and width of the kernel.
      stride, padding: as in `convolve`.
      init: initialiser of the kernel.
      use_bias: whether a bias is added, which starts as PyTorch's does.
      dtype: in which to compute; that of the kernel if None.
      param_dtype: of kernel and bias.
    """

    features: int
    size: int
    stride: int = 1
    padding: int = 0
    init: Any = torch_default
    use_bias: bool = False
    dtype: Any = None
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """[rows, height, width, in] -> [rows, height, width, features]."""
        inputs = images.shape[-1]
        shape = (self.size, self.size, inputs, self.features)
        kernel = self.param("kernel", self.init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            start = uniform((inputs * self.size**2) ** -0.5)
            bias = self.param("bias", start, (self.features,), self.param_dtype)
        images, kernel, bias = promote_dtype(images, kernel, bias, dtype=self.dtype)
        out = convolve(images, kernel, self.stride, self.padding)
        return out if bias is None else out + bias


def uniform(bound: float) -> Any:
    """An initialiser that is uniform in +-bound."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
