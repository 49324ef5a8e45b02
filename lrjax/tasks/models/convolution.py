"""Convolution of images, for all models.

Images are [rows, height, width, channels], kernels [height, width, in, out].
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import lax

from lrjax import machine

# The default of `torch.nn.Conv2d` and `torch.nn.Linear`: uniform in +-1/sqrt(fan in).
torch_default = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def convolve(
    images: jax.Array, kernel: jax.Array, stride: int = 1, padding: int = 0
) -> jax.Array:
    """Cross-correlates images with a kernel, as `torch.nn.functional.conv2d` does.

    Args:
      images: [rows, height, width, in].
      kernel: [height, width, in, out], of the same dtype.
      stride: pixels from one output to the next, down and across.
      padding: rows and columns of zeros on each of the four sides.

    Returns:
      [rows, (height + 2 padding - kernel height) // stride + 1, ..., out].
    """
    size = len(kernel)
    same = stride == 1 and size == kernel.shape[1] == 2 * padding + 1 > 1
    # With few output channels XLA's own derivative is as fast.
    if machine.kind() == "cpu":
        if same and kernel.shape[3] >= 32:
            return _same(images, kernel)
        return _plain(images, kernel, stride, padding)
    if kernel.shape[:2] == (1, 1) and stride == 1 and not padding:
        # A product of matrices, also for several runs, which else were groups.
        return jnp.einsum("nhwi,io->nhwo", images, kernel[0, 0])
    if machine.kind() == "gpu":
        return _grouped(images, kernel, stride, padding)
    return _plain(images, kernel, stride, padding)


def _plain(
    images: jax.Array,
    kernel: jax.Array,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> jax.Array:
    """Cross-correlate [rows, height, width, in] with [height, width, in, out].

    With groups, `in` is that of one group, and `out` counts the channels of all.
    """
    return lax.conv_general_dilated(
        images,
        kernel,
        (stride, stride),
        ((padding, padding), (padding, padding)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


@jax.custom_vjp
def _same(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution that keeps the size, with a custom gradient for CPUs."""
    return _plain(images, kernel, padding=len(kernel) // 2)


def _same_forward(images: jax.Array, kernel: jax.Array):
    # Without the custom derivative, as here it may be differentiated a second time.
    return _plain(images, kernel, padding=len(kernel) // 2), (images, kernel)


def _same_backward(kept: tuple[jax.Array, jax.Array], slopes: jax.Array):
    """Gradients of `_same` by images and kernel, from those of its result.

    Args:
      kept: images [rows, height, width, in] and kernel [size, size, in, out].
      slopes: gradient by the result, [rows, height, width, out].
    """
    images, kernel = kept
    swapped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    by_images = _plain(slopes, swapped, padding=len(kernel) // 2)
    return by_images, _kernel_gradient(images, slopes, len(kernel)).astype(kernel.dtype)


_same.defvjp(_same_forward, _same_backward)

_GROUP_PIXELS = 2048  # per group of images in `_kernel_gradient`: fits in a cache


def _kernel_gradient(images: jax.Array, slopes: jax.Array, size: int) -> jax.Array:
    """Gradient of a size-preserving convolution with respect to its kernel.

    On CPUs XLA computes it as a convolution with a kernel as large as the image, at a
    fifth of the speed of the other two. Here images are padded and flattened to one row
    of pixels per channel, so that a shift down and across is a slice of that row; the
    slopes are 0 where a slice runs into padding. A few images are processed at a time,
    so that the shifted copies stay in the cache.

    Args:
      images: [rows, height, width, in].
      slopes: [rows, height, width, out], gradient with respect to the output.
      size: height and width of the kernel, odd.

    Returns:
      [size, size, in, out], in float32 or wider.
    """
    rows, height, width, inputs = images.shape
    outputs, edge = slopes.shape[-1], size // 2
    wide = width + 2 * edge
    pixels = (height + 2 * edge) * wide
    most = max(1, _GROUP_PIXELS // pixels)
    at_once = max(n for n in range(1, rows + 1) if rows % n == 0 and n <= most)
    groups, length = rows // at_once, at_once * pixels
    shifts = [i * wide + j for i in range(size) for j in range(size)]

    padded = jnp.pad(images, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    padded = padded.reshape(groups, length, inputs).swapaxes(1, 2)
    padded = jnp.pad(padded, ((0, 0), (0, 0), (0, shifts[-1])))
    slopes = jnp.pad(slopes, ((0, 0), (0, 2 * edge), (0, 2 * edge), (0, 0)))
    slopes = slopes.reshape(groups, length, outputs)
    dtype = np.promote_types(images.dtype, np.float32)

    def add(total: jax.Array, group: tuple[jax.Array, jax.Array]):
        """Add the products of a group of images."""
        pixels, slopes = group
        copies = [pixels[:, shift : shift + length] for shift in shifts]
        part = jnp.matmul(jnp.concatenate(copies), slopes, preferred_element_type=dtype)
        return total + part, None

    zero = jnp.zeros((size * size * inputs, outputs), dtype)
    total, _ = lax.scan(add, zero, (padded, slopes))
    return total.reshape(size, size, inputs, outputs)


# Several runs on GPUs


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _grouped(
    images: jax.Array, kernel: jax.Array, stride: int, padding: int
) -> jax.Array:
    """A convolution whose runs are groups of channels, in its derivatives, too.

    The derivative of a mapped convolution by its kernels would become a convolution
    with kernels as large as images, since XLA gives cuDNN only the derivatives of
    grouped convolutions as what they are.
    """
    return _of_groups(1, stride, padding)[0](images, kernel)


def _grouped_forward(images: jax.Array, kernel: jax.Array, stride: int, padding: int):
    # Without the custom derivative, as here it may be differentiated a second time.
    return _of_groups(1, stride, padding)[0](images, kernel), (images, kernel)


def _grouped_backward(
    stride: int, padding: int, kept: tuple[jax.Array, jax.Array], slopes: jax.Array
):
    """Gradients of `_grouped` by images and kernel, from those of its result."""
    images, kernel = kept
    _, by_images, by_kernel = _of_groups(1, stride, padding)
    return by_images(slopes, kernel, images), by_kernel(images, slopes, kernel)


_grouped.defvjp(_grouped_forward, _grouped_backward)


@functools.cache
def _of_groups(
    groups: int, stride: int, padding: int
) -> tuple[Callable[..., Any], ...]:
    """A convolution in groups of channels, and its two derivatives.

    Under `vmap` each makes a group of every mapped one; a second `vmap` makes more. If
    all have the same images, and there is one group so far, the kernels' outputs are
    put side by side instead.

    Args:
      groups: groups of channels of images, kernel and slopes.
      stride, padding: as in `convolve`.

    Returns:
      Functions of (images, kernel), of (slopes, kernel, images) and of (images, slopes,
      kernel). The last argument of derivatives says what shape the result has.
    """

    def forward(images: jax.Array, kernel: jax.Array) -> jax.Array:
        return _plain(images, kernel, stride, padding, groups)

    def by_images(slopes: jax.Array, kernel: jax.Array, images: jax.Array) -> jax.Array:
        return jax.vjp(lambda images: forward(images, kernel), images)[1](slopes)[0]

    def by_kernel(images: jax.Array, slopes: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.vjp(lambda kernel: forward(images, kernel), kernel)[1](slopes)[0]

    def mapped(number: int, function: Callable[..., jax.Array]) -> Any:
        """Give the function of this number a rule for `vmap`."""
        made = jax.custom_batching.custom_vmap(function)

        @made.def_vmap
        def rule(size: int, batched: Any, *args: jax.Array) -> tuple[jax.Array, bool]:
            shared = groups == 1 and number != 1 and not batched[0]
            more = groups if shared else groups * size
            args = tuple(
                arg
                if shared and not place
                else _side_by_side(
                    arg if has_axis else jnp.broadcast_to(arg, (size, *arg.shape))
                )
                for place, (arg, has_axis) in enumerate(zip(args, batched, strict=True))
            )
            result = _of_groups(more, stride, padding)[number](*args)
            parts = result.reshape(*result.shape[:-1], size, -1)
            return jnp.moveaxis(parts, -2, 0), True

        return made

    return tuple(
        mapped(number, function)
        for number, function in enumerate((forward, by_images, by_kernel))
    )


def _side_by_side(mapped: jax.Array) -> jax.Array:
    """Put arrays side by side: [size, ..., channels] -> [..., size * channels]."""
    moved = jnp.moveaxis(mapped, 0, -2)
    return moved.reshape(*moved.shape[:-2], -1)


class Conv(nn.Module):
    """A convolutional layer.

    Attributes:
      features: output channels.
      size: height and width of the kernel.
      stride, padding: as in `convolve`.
      init: initialiser of the kernel.
      use_bias: whether to add a bias, initialised as in PyTorch.
      dtype: dtype of the computation; that of the kernel if None.
      param_dtype: dtype of kernel and bias.
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
        """Convolve images: [rows, height, width, in] -> [..., features]."""
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
    """Make an initialiser that is uniform in +-bound."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
