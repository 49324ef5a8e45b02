"""Convolutions against a plain sum over shifts, and their derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrjax import machine
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


# The form for several runs on GPUs, with the numbers of the plain one


@pytest.fixture
def for_gpus(monkeypatch):
    """A function that makes another use the forms for GPUs."""

    def wrap(function):
        def inside(*args):
            with monkeypatch.context() as patch:
                patch.setattr(machine, "kind", lambda: "gpu")
                return function(*args)

        return inside

    return wrap


def close(found, expected, dtype):
    tolerance = {"float64": 1e-12, "float32": 2e-6, "bfloat16": 0.02}[dtype]
    for ours, plain in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        assert (ours.dtype, ours.shape) == (plain.dtype, plain.shape)
        ours, plain = (np.asarray(x, np.float64) for x in (ours, plain))
        assert np.abs(ours - plain).max() <= tolerance * np.abs(plain).max()


def gradients(images, kernel, stride, padding):
    def loss(images, kernel):
        out = convolution.convolve(images, kernel, stride, padding)
        return jnp.sum(jnp.sin(out.astype(np.promote_types(out.dtype, np.float32))))

    return jax.value_and_grad(loss, (0, 1))(images, kernel)


@pytest.mark.parametrize(
    ("dtype", "k", "s", "p"),
    [
        ("float32", 3, 1, 1),
        ("float32", 3, 2, 1),
        ("float32", 1, 2, 0),
        ("float32", 1, 1, 0),
        ("bfloat16", 3, 1, 1),
        ("float64", 3, 2, 1),
    ],
)
@pytest.mark.parametrize("shared", [None, "lanes", "seeds"])
def test_runs_as_groups(dtype, k, s, p, shared, for_gpus):
    with jax.enable_x64(dtype == "float64"):
        keys = jax.random.split(jax.random.key(0))
        images = jax.random.normal(keys[0], (2, 3, 2, 7, 7, 4), dtype)
        kernel = jax.random.normal(keys[1], (2, 3, k, k, 4, 5), dtype)
        axes: dict = {"lanes": ((0, 0), (None, 0)), "seeds": ((None, 0), (0, 0))}
        outer, inner = axes.get(shared, ((0, 0), (0, 0)))
        if shared:
            images = images[:, 0] if shared == "lanes" else images[0]

        def run(images, kernel):
            one = functools.partial(gradients, stride=s, padding=p)
            return jax.jit(jax.vmap(jax.vmap(one, inner), outer))(images, kernel)

        close(for_gpus(run)(images, kernel), run(images, kernel), dtype)


def test_shared_kernels_and_other_orders_of_transformations(for_gpus):
    keys = jax.random.split(jax.random.key(0))
    images = jax.random.normal(keys[0], (3, 2, 6, 6, 4))
    kernels = jax.random.normal(keys[1], (3, 3, 3, 4, 5))

    def outputs(images, kernel):
        return jnp.sin(convolution.convolve(images, kernel, 1, 1))

    def shared(images, kernel):  # gradient of a mapped function, one kernel
        return jnp.sum(jax.vmap(outputs, (0, None))(images, kernel))

    def of_mapped(images, kernels):
        return jnp.sum(jax.vmap(jax.checkpoint(outputs))(images, kernels))

    def bent(images, kernels):  # a product with the second derivative
        def slope(kernels):
            return jax.grad(of_mapped, 1)(images, kernels)

        return jax.jvp(slope, (kernels,), (jnp.cos(kernels),))[1]

    for function, kernel in (
        (jax.grad(shared, (0, 1)), kernels[0]),
        (jax.grad(of_mapped, (0, 1)), kernels),
        (bent, kernels),
    ):
        close(for_gpus(function)(images, kernel), function(images, kernel), "float32")


def test_derivatives_by_kernels_have_groups_of_the_batch(for_gpus):
    images, kernels = jnp.ones((4, 2, 8, 8, 3)), jnp.ones((4, 3, 3, 3, 5))
    run = jax.vmap(functools.partial(gradients, stride=1, padding=1))
    text = for_gpus(lambda *args: str(jax.make_jaxpr(run)(*args)))(images, kernels)
    assert "batch_group_count=4" in text  # cuDNN's derivative by the kernel
