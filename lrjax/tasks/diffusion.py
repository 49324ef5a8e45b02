"""Tasks that train a denoiser of images: diffusion models.

The network predicts the noise that was mixed into an image, by the simple loss of Ho,
Jain and Abbeel (2020, arXiv 2006.11239), with the cosine schedule of Nichol and
Dhariwal (2021, arXiv 2102.09672). Training draws a time and noise per row and step;
evaluations draw several, which follow from the row's number alone. The study has no
such tasks, and both protocols are the same.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.common import numerics
from lrjax.core import NONNEGATIVE_LOSS, Batch, PyTree, Task
from lrjax.tasks import data, image_data, images
from lrjax.tasks.options import Factory, TaskOptions

STEPS = 128  # from data to noise
DRAWS = 8  # per row of an evaluation, one in each eighth of the times
_OFFSET = 0.008  # of the cosine schedule
_LARGEST = 0.999  # share of noise that one step may add
_TIME = 1000.0  # the last time, as the network sees it
_EVALUATION_SEED = 0  # decides times and noise of evaluations


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Data set and model of a task.

    Attributes:
      data: name of the data set in `image_data.SETS`.
      model: name of the linen module in `lrjax.tasks.models`.
      options: the module's arguments.
      highest: the value of the brightest pixel.
    """

    data: str
    model: str
    options: Mapping[str, Any]
    highest: int


RECIPES = {
    "digits/diffusion": Recipe(
        images.DIGITS, "MLPDenoiser", {"width": 128, "depth": 2}, 16
    ),
    "mnist/diffusion": Recipe("mnist", "MLPDenoiser", {"width": 256, "depth": 2}, 255),
    "fashion_mnist/diffusion": Recipe(
        "fashion_mnist", "UNet", {"channels": (32, 64, 128)}, 255
    ),
}


def make(name: str, options: TaskOptions) -> Task:
    """Make a task of `RECIPES`; see `tasks.make_task`."""
    recipe = RECIPES[name]
    if recipe.data == images.DIGITS:
        parts = images.digits()
    else:
        loaded = image_data.load(recipe.data, options.data_dir)
        parts = images.split(name, loaded)
    return recipe_task(name, {key: part.images for key, part in parts.items()}, options)


def recipe_task(
    name: str, parts: Mapping[str, np.ndarray], options: TaskOptions
) -> Task:
    """Make a task of `RECIPES` from images; see `diffusion_task`.

    Args:
      name: name of the recipe.
      parts: 'train', 'valid' and 'test': uint8 [rows, height, width, channels].
      options: those of the task.
    """
    from lrjax.tasks import models

    recipe = RECIPES[name]
    types = images.types(options.precision)
    model = getattr(models, recipe.model)(**recipe.options, **types)
    return diffusion_task(name, parts, model, recipe.highest / 2, options)


def diffusion_task(
    name: str,
    parts: Mapping[str, np.ndarray],
    model: Any,
    half: float,
    options: TaskOptions,
) -> Task:
    """Make a task from images and a linen module.

    Args:
      name: the task's name.
      parts: 'train', 'valid' and 'test': [rows, height, width, channels].
      model: called as `(images, times)`, as `models.MLPDenoiser`.
      half: the middle between the darkest and the brightest pixel, 0 and 2 `half`;
        images are scaled to [-1, 1].
      options: `batch_size` (64 if None), `precision` and `stream` are used.
    """
    dtype = images.types(options.precision)["param_dtype"]
    kept = np.asarray(signal(), dtype)

    def init(key: jax.Array) -> tuple[PyTree, PyTree]:
        one = jnp.zeros((1, *parts["train"].shape[1:]), dtype)
        return model.init(key, one, jnp.zeros(1, dtype))["params"], ()

    def losses(params: PyTree, keys: jax.Array, times: jax.Array, rows: jax.Array):
        """Mean squared error of each row's predicted noise: [rows]."""
        clean = rows.astype(dtype) / half - 1
        draw = functools.partial(jax.random.normal, shape=clean.shape[1:], dtype=dtype)
        noise = jax.vmap(draw)(keys)
        noisy = mixed(clean, noise, jnp.asarray(kept)[times])
        seen = times.astype(dtype) * (_TIME / STEPS)
        found = model.apply({"params": params}, noisy, seen).astype(dtype)
        return jnp.square(found - noise).mean(axis=(1, 2, 3))

    def loss(params: PyTree, state: PyTree, key: jax.Array, batch: Batch):
        mask = batch["mask"]
        time_key, noise_key = jax.random.split(key)
        times = jax.random.randint(time_key, (len(mask),), 0, STEPS)
        keys = jax.random.split(noise_key, len(mask))
        values = losses(params, keys, times, batch["images"])
        return jnp.sum(values * mask) / jnp.maximum(mask.sum(), 1), (state, {})

    def evaluate(params: PyTree, state: PyTree, batch: Batch):
        del state
        mask = batch["mask"]
        times, keys = evaluation_draws(batch["number"])
        rows = batch["images"].repeat(DRAWS, axis=0)
        values = losses(params, keys.reshape(-1), times.reshape(-1), rows)
        means = values.reshape(-1, DRAWS).mean(axis=1)
        return {"loss": jnp.sum(means * mask), "count": mask.sum()}

    arrays = {key: _part(rows) for key, rows in parts.items()}
    streamed = data.stays_on_host(arrays["train"].values(), options.stream)
    return Task(
        name=name,
        train=arrays["train"] if streamed else jax.device_put(arrays["train"]),
        valid=jax.device_put(arrays["valid"]),
        test=jax.device_put(arrays["test"]),
        init=init,
        loss=loss,
        evaluate=evaluate,
        batch_size=options.batch_size or images.BATCH_SIZE,
        metrics=(NONNEGATIVE_LOSS,),
        measured_rows=len(arrays["valid"]["number"]),
        streamed=streamed,
    )


def evaluation_draws(numbers: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Times and random keys of the noise that rows are evaluated with.

    Each row has one time in each of `DRAWS` equal parts of all times, so that its mean
    loss is that of a uniform time.

    Args:
      numbers: uint32 [rows].

    Returns:
      Times and keys, both [rows, DRAWS].
    """
    key, room = numerics.key(_EVALUATION_SEED), STEPS // DRAWS

    def of(number: jax.Array, draw: jax.Array) -> tuple[jax.Array, jax.Array]:
        own = jax.random.fold_in(jax.random.fold_in(key, number), draw)
        time, noise = jax.random.split(own)
        return draw * room + jax.random.randint(time, (), 0, room), noise

    draws = jnp.arange(DRAWS)
    return jax.vmap(jax.vmap(of, (None, 0)), (0, None))(numbers, draws)


def signal() -> np.ndarray:
    """Share of the data's variance that is left at each time: [STEPS], falling.

    Called alpha-bar in the papers; its product form limits what one step adds.

    Example:
      >>> kept = signal()
      >>> bool(kept[0] > 0.999), bool(kept[-1] < 1e-3)
      (True, True)
    """
    at = (np.arange(STEPS + 1) / STEPS + _OFFSET) / (1 + _OFFSET)
    curve = np.cos(at * math.pi / 2) ** 2
    return np.cumprod(np.maximum(curve[1:] / curve[:-1], 1 - _LARGEST))


def mixed(clean: jax.Array, noise: jax.Array, kept: jax.Array) -> jax.Array:
    """Draw q(x_t | x_0): images with a share of noise, of the shape of `clean`.

    Args:
      clean: [rows, height, width, channels].
      noise: standard normal, of the same shape.
      kept: [rows], the share of the images' variance that is left.

    Example:
      >>> images, noise = jnp.ones((1, 1, 1, 1)), jnp.full((1, 1, 1, 1), 2.0)
      >>> round(float(mixed(images, noise, jnp.array([0.36]))[0, 0, 0, 0]), 6)
      2.2
    """
    kept = kept[:, None, None, None]
    return jnp.sqrt(kept) * clean + jnp.sqrt(1 - kept) * noise


def _part(rows: np.ndarray) -> dict[str, np.ndarray]:
    """A part's arrays: images, and numbers, which seed the noise of evaluations."""
    return {"images": rows, "number": np.arange(len(rows), dtype=np.uint32)}


FACTORIES = {
    name: Factory(functools.partial(make, name), frozenset({"stream"}), network=True)
    for name in RECIPES
}
