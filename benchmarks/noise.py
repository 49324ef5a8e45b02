"""Tasks with noise for data: their shapes are real, and no files are needed."""

from __future__ import annotations

import numpy as np

from lrjax.core import Task
from lrjax.tasks import TaskOptions, image_data, images, packing, text
from lrjax.tasks.image_data import Part
from lrjax.tasks.tokens import PAD as PAD

MASK_TOKEN = 4


def image_task(name: str, precision: str, batch_size: int) -> Task:
    """A task of `RECIPES` with noise for images."""
    recipe = images.RECIPES[name]
    entry = image_data.SETS[recipe.data]
    random = np.random.default_rng(0)
    shape = entry.shape or (480, 500, 3)  # usual for DTD

    def part(rows: int) -> Part:
        pixels = random.integers(0, 256, (rows, *shape), np.uint8)
        made = Part(pixels, np.arange(rows) % entry.classes)
        return made if entry.shape else images.with_sizes(made)

    return images.recipe_task(
        name,
        {"train": part(4 * batch_size), "valid": part(8), "test": part(8)},
        TaskOptions(batch_size=batch_size, precision=precision),
    )


def rows_of_noise(recipe: text.Recipe, count: int, packed: bool) -> np.ndarray:
    """Rows of documents of noise, [count, length]."""
    random = np.random.default_rng(0)
    room = recipe.length - 2
    documents = 4 * count * (room // 20 if packed else 1)
    sizes = np.exp(random.normal(np.log(20), 0.6, documents)).round().clip(1, room)
    ends = np.cumsum(sizes.astype(np.int64))
    tokens = random.integers(5, recipe.vocab_size, ends[-1]).astype(np.uint16)
    cut = packing.pieces(ends, np.arange(documents), room, whole=packed)
    return packing.make_rows(tokens, cut, recipe.length, packed)[:count]


def text_task(name: str, precision: str, batch_size: int) -> Task:
    """A task of `text.RECIPES` with documents of noise, packed into rows."""
    recipe = text.RECIPES[name]
    part = rows_of_noise(recipe, 4 * batch_size, packed=True)
    rows = {"train": part, "valid": part[:1]}
    options = TaskOptions(batch_size=batch_size, precision=precision)
    return text.recipe_task(name, rows, recipe.vocab_size, MASK_TOKEN, options)
