"""Denoisers against closed forms of diffusion; evaluations that hang on rows alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from lrjax import tasks
from lrjax.tasks import diffusion, images, models
from lrjax.tasks.models.denoiser import waves

SPREAD = 0.5  # standard deviation of the made-up images


def test_a_step_at_a_time_comes_to_the_closed_form():
    """Mean and variance of the Markov chain q(x_t | x_{t-1}) with steps of beta."""
    kept = diffusion.signal()
    at = (np.arange(len(kept) + 1) / len(kept) + 0.008) / 1.008
    curve = np.cos(at * np.pi / 2) ** 2  # eq. 17 of Nichol and Dhariwal
    betas = np.minimum(1 - curve[1:] / curve[:-1], 0.999)
    mean, variance = 1.0, 0.0
    for time, beta in enumerate(betas):
        mean, variance = np.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        np.testing.assert_allclose(np.sqrt(kept[time]), mean, rtol=1e-12)
        np.testing.assert_allclose(1 - kept[time], variance, rtol=1e-9)
    assert (np.diff(kept) < 0).all()


def test_moments_of_noisy_images():
    noise = jax.random.normal(jax.random.key(0), (20_000, 1, 1, 1))
    for time in (0, 64, 127):
        kept = diffusion.signal()[time]
        noisy = diffusion.mixed(
            jnp.full_like(noise, 0.8), noise, jnp.full(len(noise), kept, jnp.float32)
        )
        np.testing.assert_allclose(noisy.mean(), 0.8 * np.sqrt(kept), atol=0.03)
        np.testing.assert_allclose(noisy.var(), 1 - kept, rtol=0.04)


class BestForGaussians(nn.Module):
    """The conditional mean of the noise, for pixels drawn from N(0, SPREAD^2)."""

    @nn.compact
    def __call__(self, noisy, times):
        kept = jnp.asarray(diffusion.signal(), noisy.dtype)
        kept = kept[(times * diffusion.STEPS / 1000).round().astype(int)]
        slope = jnp.sqrt(1 - kept) / (kept * SPREAD**2 + 1 - kept)
        unit = self.param("unit", nn.initializers.ones, (), noisy.dtype)
        return unit * slope[:, None, None, None] * noisy


def gaussian_task(rows):
    pixels = np.random.default_rng(0).normal(1, SPREAD, (rows, 4, 4, 1))
    parts = dict.fromkeys(("train", "valid", "test"), pixels.astype(np.float32))
    return diffusion.diffusion_task(
        "own/gaussian", parts, BestForGaussians(), 1.0, tasks.TaskOptions()
    )


def test_the_best_denoiser_of_gaussian_pixels_has_the_loss_of_the_closed_form():
    task, kept = gaussian_task(3000), diffusion.signal()
    expected = np.mean(kept * SPREAD**2 / (kept * SPREAD**2 + 1 - kept))
    params, state = task.init(jax.random.key(0))
    batch = dict(task.valid) | {"mask": jnp.ones(3000)}
    sums = jax.jit(task.evaluate)(params, state, batch)
    np.testing.assert_allclose(sums["loss"] / sums["count"], expected, rtol=0.005)
    trained, _ = jax.jit(task.loss)(params, state, jax.random.key(1), batch)
    np.testing.assert_allclose(trained, expected, rtol=0.05)
    worse = jax.jit(task.evaluate)({"unit": jnp.asarray(1.1)}, state, batch)
    assert worse["loss"] > 1.01 * sums["loss"]


@functools.cache
def digits():
    return tasks.make_task("digits/diffusion")


def shaken(params):
    """Parameters that do not predict zeros, as they do at the start."""
    keys = iter(jax.random.split(jax.random.key(1), 100))
    return jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), params
    )


@functools.cache
def begun():
    return shaken(digits().init(jax.random.key(0))[0])


def test_digits_have_the_rows_of_the_other_tasks():
    task, other = digits(), tasks.make_task("digits/wrn")
    for part in ("train", "valid", "test"):
        theirs = getattr(other, part)["images"]
        np.testing.assert_array_equal(getattr(task, part)["images"], theirs)
    assert (task.metric.name, task.metric.higher_is_better) == ("loss", False)


def test_evaluations_do_not_hang_on_slices_or_padding():
    task = gaussian_task(60)
    evaluate, params = jax.jit(task.evaluate), {"unit": jnp.asarray(0.7)}

    def loss(rows, mask=None):
        batch = {k: v[rows] for k, v in task.valid.items()}
        mask = np.ones(len(rows)) if mask is None else mask
        sums = evaluate(params, (), batch | {"mask": jnp.asarray(mask, jnp.float32)})
        return np.array([sums["loss"], sums["count"]])

    whole = loss(np.arange(60))
    np.testing.assert_array_equal(loss(np.arange(60)), whole)
    slices = loss(np.arange(30)) + loss(np.arange(30, 60))
    np.testing.assert_allclose(slices, whole, rtol=1e-5)
    backwards = loss(np.arange(60)[::-1])
    np.testing.assert_allclose(backwards, whole, rtol=1e-5)
    padded = loss(np.r_[np.arange(30), np.zeros(30, int)], np.arange(60) < 30)
    np.testing.assert_allclose(padded, loss(np.arange(30)), rtol=1e-5)


def test_padding_counts_for_nothing_in_training():
    task, params = digits(), begun()
    step = jax.jit(jax.value_and_grad(lambda *args: task.loss(*args)[0]))
    mask = jnp.asarray(np.arange(16) < 10, jnp.float32)
    found = []
    for rows in (np.arange(16), np.r_[np.arange(10), np.full(6, 700)]):
        batch = {k: v[rows] for k, v in task.train.items()} | {"mask": mask}
        found.append(step(params, (), jax.random.key(2), batch))
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_rows_are_evaluated_at_times_that_cover_all():
    numbers = jnp.arange(500, dtype=jnp.uint32)
    times, keys = diffusion.evaluation_draws(numbers)
    room = diffusion.STEPS // diffusion.DRAWS
    assert (times // room == jnp.arange(diffusion.DRAWS)).all()
    assert set(np.unique(times)) == set(range(diffusion.STEPS))
    bits = jax.random.key_data(keys).reshape(-1, 2)
    assert len(np.unique(bits, axis=0)) == len(bits)  # no noise comes twice
    alone, _ = diffusion.evaluation_draws(numbers[7:8])
    np.testing.assert_array_equal(alone[0], times[7])


def test_waves_are_sines_and_cosines():
    times = jnp.array([0.0, 250.0])
    angles = np.array([[0.0], [250.0]]) * np.array([1, 0.1, 0.01, 0.001])
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(waves(times, 8), expected, atol=1e-4)


@pytest.mark.parametrize(
    "model",
    [
        models.MLPDenoiser(width=16, depth=2),
        pytest.param(models.UNet((4, 8)), marks=pytest.mark.slow),
    ],
)
def test_denoisers_begin_with_zeros_and_see_times(model):
    images = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    times = jnp.array([0.0, 500.0, 990.0])
    variables = model.init(jax.random.key(1), images, times)
    apply = jax.jit(model.apply)
    assert not apply(variables, images, times).any()
    changed = shaken(variables)
    found = apply(changed, images, times)
    assert found.shape == images.shape
    others = apply(changed, images, times[::-1])
    assert abs(found[0] - others[0]).max() > 1e-4
    np.testing.assert_allclose(found[1], others[1], atol=1e-5)


@pytest.mark.slow
def test_a_denoiser_of_digits_beats_the_best_linear_one():
    import lrjax

    pixels = np.asarray(digits().train["images"], float).reshape(-1, 64) / 8 - 1
    spread = np.linalg.eigvalsh(np.cov(pixels.T)).clip(0)
    kept = diffusion.signal()[:, None]
    linear = np.mean(kept * spread / (kept * spread + 1 - kept))
    found = lrjax.compare("digits/diffusion", ["adamw_cosine"], seeds=1)
    assert 0.5 * linear < found.runs["valid_loss"].iloc[0] < linear


def test_sizes():
    counts = {}
    for name in diffusion.RECIPES:
        shape = (8, 8, 1) if name.startswith(images.DIGITS) else (28, 28, 1)
        parts = dict.fromkeys(("train", "valid", "test"), np.zeros((2, *shape), "u1"))
        task = diffusion.recipe_task(name, parts, tasks.TaskOptions())
        params, _ = jax.eval_shape(task.init, jax.random.key(0))
        counts[name] = sum(x.size for x in jax.tree.leaves(params))
    assert counts == {
        "digits/diffusion": 133_057,
        "mnist/diffusion": 864_785,
        "fashion_mnist/diffusion": 611_873,
    }
