"""Dropout: what is drawn, and that it is the same mask wherever it is used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrjax.tasks.models.dropout import Dropout, draw

SHAPE = (40, 30, 50)  # 50 is no multiple of the four numbers of a block


def dropped(key, x, rate=0.3):
    return Dropout(rate, deterministic=False).apply({}, x, rngs={"dropout": key})


def test_numbers_are_those_of_threefry():
    # Random123's known answer for key and counter 0: 6b200159 99ba4efe.
    key = jax.random.wrap_key_data(jnp.zeros(2, jnp.uint32))
    numbers = np.array([0x0159, 0x6B20, 0x4EFE, 0x99BA])
    for number in numbers:
        for kept in (number, number + 1):
            np.testing.assert_array_equal(draw(key, kept, (1, 4))[0], numbers < kept)


@pytest.mark.parametrize("partitionable", [False, True])
@pytest.mark.parametrize("x64", [False, True])
def test_settings_of_jax_change_nothing(partitionable, x64):
    mask = draw(jax.random.key(1), 40_000, (7, 5))
    with jax.threefry_partitionable(partitionable), jax.enable_x64(x64):
        np.testing.assert_array_equal(draw(jax.random.key(1), 40_000, (7, 5)), mask)


def test_other_generators_are_refused():
    with pytest.raises(ValueError, match="Threefry"):
        draw(jax.random.key(0, impl="rbg"), 1, (4,))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_share_of_zeros_and_the_mean(rate):
    out = dropped(jax.random.key(0), jnp.ones(SHAPE), rate)
    size, kept = out.size, round((1 - rate) * 65536) / 65536
    bound = 5 * (size * kept * (1 - kept)) ** 0.5  # 5 deviations of the binomial
    assert abs(int((out != 0).sum()) - size * kept) < bound
    np.testing.assert_allclose(out[out != 0], 1 / kept, rtol=1e-6)
    # The same holds along each axis.
    for axis in range(3):
        others = size // SHAPE[axis]
        share = (out != 0).mean(tuple({0, 1, 2} - {axis}))
        assert abs(share - kept).max() < 5 * (kept * (1 - kept) / others) ** 0.5


def test_places_rows_and_keys_are_independent():
    masks = jnp.stack(
        [draw(jax.random.key(seed), 2**15, SHAPE) for seed in (0, 1)]
    ).astype(float)
    first = masks[0]
    pairs = {
        "keys": (masks[0], masks[1]),
        "rows": (first[1:], first[:-1]),
        "of a block": (first[..., 13:26], first[..., :13]),  # of one word
        "of both words": (first[..., 26:39], first[..., :13]),
        "neighbours": (first[..., 1:], first[..., :-1]),
    }
    for name, (x, y) in pairs.items():
        correlation = np.corrcoef(x.ravel(), y.ravel())[0, 1]
        assert abs(correlation) < 5 / x.size**0.5, name


def test_a_row_is_the_same_among_any_number_of_rows():
    few, many = (draw(jax.random.key(3), 30_000, (n, 6, 9)) for n in (2, 5))
    np.testing.assert_array_equal(few, many[:2])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_runs_are_as_alone(dtype):
    with jax.enable_x64(dtype == "float64"):
        keys = jax.random.split(jax.random.key(5), 6).reshape(2, 3)
        x = jax.random.normal(jax.random.key(6), (3, 4, 10), dtype)  # no seeds' axis
        found = jax.jit(jax.vmap(jax.vmap(dropped), (0, None)))(keys, x)
        assert found.dtype == dtype
        for seed in range(2):
            for lane in range(3):
                alone = dropped(keys[seed, lane], x[lane])
                np.testing.assert_array_equal(
                    found[seed, lane].astype(float), alone.astype(float)
                )


def test_gradients_have_the_mask_of_the_result():
    x = jnp.ones((8, 20))
    for wrap in (lambda f: f, jax.checkpoint):
        run = wrap(lambda key, x: dropped(key, x, 0.25))

        def both(key, run=run):
            out, pull = jax.vjp(lambda x: run(key, x), x)
            return out, pull(x)[0]

        out, slopes = jax.jit(jax.vmap(both))(jax.random.split(jax.random.key(1), 3))
        np.testing.assert_array_equal(out, slopes)
        assert 0 < (out == 0).mean() < 0.5


def test_rates_at_the_ends():
    key, x = jax.random.key(0), jnp.arange(8.0)
    np.testing.assert_array_equal(dropped(key, x, 0.0), x)
    np.testing.assert_array_equal(dropped(key, x, 1e-6), x)  # rounded to 0
    np.testing.assert_array_equal(dropped(key, x, 1.0), 0 * x)
    quiet = Dropout(0.5, deterministic=True)
    np.testing.assert_array_equal(quiet.apply({}, x), x)
