"""Convolutions against a plain sum over shifts, and their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrjax.tasks.models import convolution

# rows, height, width, channels in and out, kernel, stride, padding
SHAPES = [
    (64, 8, 8, 5, 32, 3, 1, 1),  # several images at once
    (7, 9, 6, 2, 33, 5, 1, 2),  # a prime number of rows, no square
    (2, 40, 60, 3, 32, 3, 1, 1),  # an image larger than what is taken at once
    (3, 8, 8, 4, 6, 3, 1, 1),
    (3, 9, 9, 4, 32, 3, 2, 1),
    (3, 8, 8, 4, 32, 1, 2, 0),
]


def by_shifts(images, kernel, stride, padding):
    """The definition, in NumPy's float64."""
    size = len(kernel)
    edges = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = np.pad(np.asarray(images, np.float64), edges)
    down, across = ((n - size) // stride + 1 for n in padded.shape[1:3])
    total = 0.0
    for i in range(size):
        for j in range(size):
            seen = padded[:, i::stride, j::stride][:, :down, :across]
            total = total + seen @ np.asarray(kernel[i, j], np.float64)
    return total


@pytest.mark.parametrize(("rows", "height", "width", "i", "o", "k", "s", "p"), SHAPES)
def test_convolution_and_its_derivatives(rows, height, width, i, o, k, s, p):
    generator = np.random.default_rng(0)
    images = generator.normal(size=(rows, height, width, i)).astype(np.float32)
    kernel = generator.normal(size=(k, k, i, o)).astype(np.float32)
    expected = by_shifts(images, kernel, s, p)
    slopes = generator.normal(size=expected.shape).astype(np.float32)
    out, pull = jax.vjp(
        lambda x, w: convolution.convolve(x, w, s, p),
        jnp.asarray(images),
        jnp.asarray(kernel),
    )
    np.testing.assert_allclose(out, expected, atol=1e-4)
    # It is linear in either argument: <slopes, f(v)> = <derivative, v> for any v.
    by_images, by_kernel = pull(jnp.asarray(slopes))
    for _ in range(3):
        v = generator.normal(size=images.shape)
        both = np.vdot(slopes, by_shifts(v, kernel, s, p)), np.vdot(by_images, v)
        assert both[0] == pytest.approx(both[1], rel=1e-4, abs=1e-2)
        v = generator.normal(size=kernel.shape)
        both = np.vdot(slopes, by_shifts(images, v, s, p)), np.vdot(by_kernel, v)
        assert both[0] == pytest.approx(both[1], rel=1e-4, abs=1e-2)


def test_half_precision_sums_in_float32():
    images = jnp.ones((64, 16, 16, 1), jnp.bfloat16)
    kernel = jnp.zeros((3, 3, 1, 32), jnp.bfloat16)
    slopes = jnp.ones((64, 16, 16, 32), jnp.bfloat16)
    _, pull = jax.vjp(lambda w: convolution.convolve(images, w, 1, 1), kernel)
    # 16,384 ones; a sum in bfloat16 would stay at 256.
    assert float(pull(slopes)[0][1, 1, 0, 0]) == 64 * 16 * 16
