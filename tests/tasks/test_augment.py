"""Augmentation against torchvision, from tests/golden/make_augment.py."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrjax import machine
from lrjax.tasks import augment

GOLDEN = Path(__file__).parent.parent / "golden" / "augment.npz"
with np.load(GOLDEN, allow_pickle=False) as file:
    ARRAYS = dict(file)
CASES = json.loads(str(ARRAYS["cases"]))


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda i: CASES[i][0])
def test_changes_as_in_torchvision(number):
    name, values = CASES[number]
    image = jnp.asarray(ARRAYS["image"], jnp.float32)
    images = jnp.stack([image[::-1], image])  # the first row must not matter
    two = [jnp.asarray([v, v]) for v in values]
    if name == "flip":
        found = augment.flip(images, jnp.array([False, True]))
    elif name == "crop":
        found = augment.crop(images, *two, padding=4)
    elif name == "resize":
        found = augment.resize(images, augment.Box(*two[:4]), values[4])
    elif name == "jitter":
        factors, order = jnp.stack(two[:4], 1), jnp.stack(two[4:], 1)
        found = augment.jitter(images, factors, order)
    else:
        found = getattr(augment, name)(images, two[0])
    np.testing.assert_allclose(found[1], ARRAYS[f"result{number}"], atol=1e-5)


@pytest.mark.parametrize(("products", "error"), [(None, 1e-6), (jnp.bfloat16, 1 / 128)])
def test_accelerators_scale_windows_instead_of_images(products, error, monkeypatch):
    pixels = jnp.asarray(255 * ARRAYS["image"], jnp.uint8)[None]
    height, width = pixels.shape[1:3]
    box = augment.Box(*(jnp.array([v]) for v in (1, 2, height - 3, width - 2)))
    expected = augment.cut_out(pixels, box, 5, jnp.float32)
    monkeypatch.setattr(machine, "kind", lambda: "gpu")
    found = augment.cut_out(pixels, box, 5, jnp.float32, products)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=error)


def test_boxes_are_distributed_as_torchvisions():
    sizes = jnp.tile(jnp.array([[300, 500]]), (4000, 1))
    box = augment.random_box(jax.random.key(0), sizes)
    area = box.height * box.width / (300 * 500)
    # What fits is no longer uniform, but its smaller half is.
    small = np.sort(area[area < 0.4])
    uniform = (small - 0.08) / (0.4 - 0.08)
    gap = np.abs(uniform - (np.arange(len(small)) + 0.5) / len(small)).max()
    assert gap < 2 / len(small) ** 0.5  # Kolmogorov-Smirnov, far out
    aspect = np.log(box.width / box.height)[area < 0.3]
    assert abs(aspect.mean()) < 0.02
    assert abs(aspect.std() - np.log(16 / 9) / 12**0.5) < 0.01
    assert (box.top >= 0).all()
    assert (box.top + box.height <= 300).all()
    assert (box.left + box.width <= 500).all()
    assert (box.top == np.round(box.top)).all()


def test_long_images_have_a_central_box():
    box = augment.random_box(jax.random.key(0), jnp.array([[10, 1000], [1000, 10]]))
    np.testing.assert_array_equal(box.height, [10, 13])
    np.testing.assert_array_equal(box.width, [13, 10])
    np.testing.assert_array_equal(box.left, [493, 0])


def flip_crop_and_color(key, images):
    pixels, sizes = (255 * images).astype(jnp.uint8), jnp.full((64, 2), 8)
    return augment.flip_crop_and_color(key, pixels, sizes, 8)


@pytest.mark.parametrize("change", [augment.flip_and_crop, flip_crop_and_color])
def test_a_key_decides_and_rows_differ(change):
    image = jax.random.uniform(jax.random.key(0), (1, 8, 8, 3))
    images = jnp.tile(image, (64, 1, 1, 1))
    change = jax.jit(change)
    first = change(jax.random.key(1), images)
    assert (first == change(jax.random.key(1), images)).all()
    assert (first != change(jax.random.key(2), images)).any()
    assert len(np.unique(np.asarray(first).reshape(64, -1), axis=0)) > 32
    assert 0 <= first.min() <= first.max() <= 1


def test_every_window_and_both_sides_come_up():
    images = jnp.tile(jnp.arange(1.0, 65).reshape(1, 8, 8, 1), (4000, 1, 1, 1))
    found = augment.flip_and_crop(jax.random.key(0), images, padding=1)
    kinds, counts = np.unique(
        np.asarray(found).reshape(4000, -1), axis=0, return_counts=True
    )
    assert len(kinds) == 2 * 3 * 3
    assert np.abs(counts - 4000 / 18).max() < 5 * (4000 / 18) ** 0.5
