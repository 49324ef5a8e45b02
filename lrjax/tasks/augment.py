"""Random augmentation of images, batched, as torchvision defines it.

Images are float [rows, height, width, channels], with values from 0 to 1 where colours
change. Drawing random numbers and applying them are separate functions; every row has
its own draws.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lrjax import machine


def flip(images: jax.Array, which: jax.Array) -> jax.Array:
    """Mirror images left to right where `which` is true.

    Args:
      images: [rows, height, width, channels].
      which: bool [rows].
    """
    return jnp.where(which[:, None, None, None], images[:, :, ::-1], images)


def crop(images: jax.Array, top: jax.Array, left: jax.Array, padding: int) -> jax.Array:
    """Pad each side with zeros, then cut out windows of the images' size.

    Args:
      images: [rows, height, width, channels].
      top, left: int [rows], corner of the window, from 0 to twice the padding.
      padding: pixels on each side.
    """
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(images, sides)

    def window(image: jax.Array, top: jax.Array, left: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (top, left, 0), images.shape[1:])

    return jax.vmap(window)(padded, top, left)


def flip_and_crop(key: jax.Array, images: jax.Array, padding: int = 4) -> jax.Array:
    """RandomHorizontalFlip, then RandomCrop of the same size with padding.

    Args:
      key: random key for all rows.
      images: [rows, height, width, channels].
      padding: pixels of zeros on each side, and the largest shift.
    """
    keys = jax.random.split(key, 3)
    rows = len(images)
    images = flip(images, jax.random.bernoulli(keys[0], 0.5, (rows,)))
    top, left = (jax.random.randint(k, (rows,), 0, 2 * padding + 1) for k in keys[1:])
    return crop(images, top, left, padding)


class Box(NamedTuple):
    """Windows in images, in pixels; every field is [rows]."""

    top: jax.Array
    left: jax.Array
    height: jax.Array
    width: jax.Array


def resize(images: jax.Array, box: Box, size: int, dtype: Any = None) -> jax.Array:
    """Cut out windows and resize them: linear with antialiasing, as Pillow does.

    Args:
      images: [rows, height, width, channels].
      box: windows inside the images.
      size: height and width of the result.
      dtype: of the result; that of the images if None. Products are of the images'.
    """
    down = jax.vmap(_weights, (0, 0, None, None))
    dtype, narrow = dtype or images.dtype, images.dtype
    box = jax.tree.map(lambda edge: edge.astype(dtype), box)
    rows = down(box.top, box.height, images.shape[1], size).astype(narrow)
    columns = down(box.left, box.width, images.shape[2], size).astype(narrow)
    images = jnp.einsum("noh,nhwc->nowc", rows, images)
    return jnp.einsum("npw,nowc->nopc", columns, images, preferred_element_type=dtype)


def cut_out(
    pixels: jax.Array, box: Box, size: int, dtype: Any, products: Any = None
) -> jax.Array:
    """Cut out windows, resize them with `resize`, and scale them to [0, 1].

    Args:
      pixels: uint8 [rows, height, width, channels].
      box: windows inside the images.
      size: height and width of the result.
      dtype: of the result.
      products: dtype of the products, which bfloat16 makes cheaper on GPUs and TPUs:
        it holds pixels exactly, and rounds weights to three digits. As `dtype` if None.
    """
    if machine.kind() == "cpu":
        return resize(pixels.astype(dtype) / 255, box, size)
    # The division follows, since images are many times as large as windows.
    return resize(pixels.astype(products or dtype), box, size, dtype) / 255


def _weights(start: jax.Array, length: jax.Array, pixels: int, size: int) -> jax.Array:
    """Weights [size, pixels] of a line's pixels in the pixels of the resized window.

    Args:
      start, length: scalars, the window on the line, in pixels.
      pixels: pixels of the line.
      size: pixels of the resized window.
    """
    scale = length / size
    centre = (jnp.arange(size).astype(float) + 0.5)[:, None].astype(scale.dtype) * scale
    place = jnp.arange(pixels)[None].astype(start.dtype) - start
    distance = jnp.abs(place + 0.5 - centre) / jnp.maximum(scale, 1)
    inside = (place >= 0) & (place < length)
    weights = jnp.where(inside, jnp.maximum(1 - distance, 0), 0)
    return weights / weights.sum(axis=1, keepdims=True)


def random_box(
    key: jax.Array,
    sizes: jax.Array,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    dtype: Any = jnp.float32,
) -> Box:
    """Draw windows as RandomResizedCrop: the first of ten that fits, else central.

    Args:
      key: random key for all rows.
      sizes: [rows, 2], height and width of each image, in pixels.
      scale: least and largest share of the area.
      ratio: least and largest width over height, log-uniform.
      dtype: dtype of the draws and the result.
    """
    height, width = (sizes[:, None, i].astype(dtype) for i in (0, 1))
    keys, shape = jax.random.split(key, 4), (len(sizes), 10)
    area = height * width * jax.random.uniform(keys[0], shape, dtype, *scale)
    low, high = (math.log(end) for end in ratio)
    aspect = jnp.exp(jax.random.uniform(keys[1], shape, dtype, low, high))
    w, h = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = jnp.argmax(fits, axis=1, keepdims=True)
    w, h = (jnp.take_along_axis(side, first, 1)[:, 0] for side in (w, h))
    height, width = height[:, 0], width[:, 0]
    # Only for very elongated images do all ten draws fail.
    whole_w = jnp.where(width / height > ratio[1], jnp.round(height * ratio[1]), width)
    whole_h = jnp.where(width / height < ratio[0], jnp.round(width / ratio[0]), height)
    fitted = fits.any(axis=1)
    w, h = jnp.where(fitted, w, whole_w), jnp.where(fitted, h, whole_h)

    def place(key: jax.Array, room: jax.Array) -> jax.Array:
        draw = jnp.floor(jax.random.uniform(key, room.shape, dtype) * (room + 1))
        return jnp.where(fitted, jnp.minimum(draw, room), jnp.floor(room / 2))

    return Box(place(keys[2], height - h), place(keys[3], width - w), h, w)


def central_box(sizes: jax.Array, share: float, dtype: Any = jnp.float32) -> Box:
    """The central square of a share of the shorter side.

    Args:
      sizes: [rows, 2], height and width of each image, in pixels.
      share: side of the square over the shorter side.
      dtype: dtype of the result.
    """
    sizes = sizes.astype(dtype)
    side = jnp.round(share * sizes.min(axis=1))
    top, left = (jnp.round((sizes[:, i] - side) / 2) for i in (0, 1))
    return Box(top, left, side, side)


# Colours


def _grey(images: jax.Array) -> jax.Array:
    """Luminance: [..., 3] -> [..., 1]."""
    red, green, blue = (images[..., i : i + 1] for i in range(3))
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def _blend(images: jax.Array, other: jax.Array | float, factor: jax.Array) -> jax.Array:
    """Mix images by `factor` [rows] with others by 1 - factor, clipped to [0, 1]."""
    factor = factor[:, None, None, None]
    return jnp.clip(factor * images + (1 - factor) * other, 0, 1)


def brightness(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Blend with black; factor [rows], 1 changes nothing."""
    return _blend(images, 0.0, factor)


def contrast(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Blend with the mean grey of each image; factor [rows]."""
    return _blend(images, _grey(images).mean((1, 2, 3), keepdims=True), factor)


def saturation(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Blend with the grey image; factor [rows]."""
    return _blend(images, _grey(images), factor)


def hue(images: jax.Array, shift: jax.Array) -> jax.Array:
    """Rotate hues in HSV.

    Args:
      images: [rows, height, width, 3], from 0 to 1.
      shift: [rows], fraction of a full turn.
    """
    red, green, blue = images[..., 0], images[..., 1], images[..., 2]
    value, least = images.max(-1), images.min(-1)
    spread = value - least
    grey = spread == 0
    share = spread / jnp.where(value == 0, 1, value)
    divisor = jnp.where(grey, 1, spread)
    r, g, b = ((value - channel) / divisor for channel in (red, green, blue))
    turn = jnp.where(
        value == red, b - g, jnp.where(value == green, 2 + r - b, 4 + g - r)
    )
    turn = (turn / 6 + 1 + shift[:, None, None]) % 1.0

    # Along the turn each channel falls from the largest to the least value and back.
    def channel(start: float) -> jax.Array:
        along = (start + turn * 6) % 6
        fall = jnp.clip(jnp.minimum(along, 4 - along), 0, 1)
        return value - value * share * fall

    return jnp.stack([channel(5.0), channel(3.0), channel(1.0)], axis=-1)


_COLOURS = (brightness, contrast, saturation, hue)


def jitter(images: jax.Array, factors: jax.Array, order: jax.Array) -> jax.Array:
    """Change brightness, contrast, saturation and hue, each row in its own order.

    Args:
      images: [rows, height, width, 3], from 0 to 1.
      factors: [rows, 4], for brightness, contrast, saturation and hue.
      order: int [rows, 4], a permutation of 0 to 3 in each row.
    """
    for turn in range(4):
        which = order[:, turn, None, None, None]
        changed = images
        for number, change in enumerate(_COLOURS):
            changed = jnp.where(
                which == number, change(images, factors[:, number]), changed
            )
        images = changed
    return images


def color_jitter(key: jax.Array, images: jax.Array) -> jax.Array:
    """ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1).

    Args:
      key: random key for all rows.
      images: [rows, height, width, 3], from 0 to 1.
    """
    keys, rows, dtype = jax.random.split(key), len(images), images.dtype
    spread = jnp.array([0.4, 0.4, 0.4, 0.1], dtype)
    middle = jnp.array([1.0, 1.0, 1.0, 0.0], dtype)
    draws = jax.random.uniform(keys[0], (rows, 4), dtype, -1, 1)
    order = jnp.argsort(jax.random.uniform(keys[1], (rows, 4), dtype), axis=1)
    return jitter(images, middle + spread * draws, order)


def flip_crop_and_color(
    key: jax.Array,
    pixels: jax.Array,
    sizes: jax.Array,
    size: int,
    dtype: Any = jnp.float32,
    products: Any = None,
) -> jax.Array:
    """RandomHorizontalFlip, RandomResizedCrop and ColorJitter; values from 0 to 1.

    The window is drawn before the flip. That is equivalent, since a window and its
    mirror image are equally likely.

    Args:
      key: random key for all rows.
      pixels: uint8 [rows, height, width, 3].
      sizes: [rows, 2], height and width of each image, in pixels.
      size: height and width of the result, in pixels.
      dtype, products: as in `cut_out`.
    """
    keys = jax.random.split(key, 3)
    box = random_box(keys[0], sizes, dtype=dtype)
    images = cut_out(pixels, box, size, dtype, products)
    images = flip(images, jax.random.bernoulli(keys[1], 0.5, (len(images),)))
    return color_jitter(keys[2], images)
