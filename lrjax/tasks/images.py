"""Tasks that classify images with convolutional networks and transformers.

Images lie on the device as uint8; they are changed at random and scaled inside the
compiled step. Two protocols. `study` has the study's augmentation and validates and
tests on images that were augmented too, once, when the task is made. `sound` leaves
those alone. docs/protocol.md has all of it line by line.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.common import numerics
from lrjax.core import (
    ACCURACY,
    NONNEGATIVE_LOSS,
    Batch,
    PyTree,
    Task,
)
from lrjax.tasks import (
    augment,
    data,
    image_data,
    libsvm,
)
from lrjax.tasks.data import DataError
from lrjax.tasks.image_data import Part
from lrjax.tasks.options import OPTIONAL, Factory, TaskOptions

BATCH_SIZE = 64
_SLICE = 64  # rows augmented at once when a task is made

# `view(key, batch, dtype) -> images` at random if there is a key, else as they are
# judged; computed in `dtype`, float32 if it is not given.
View = Callable[..., jax.Array]


def _plain(key: jax.Array | None, batch: Batch, dtype: Any = jnp.float32) -> jax.Array:
    """Pixels as they are."""
    del key
    return batch["images"].astype(dtype) / 255


def _flipped_and_cropped(
    key: jax.Array | None, batch: Batch, dtype: Any = jnp.float32
) -> jax.Array:
    """Mirrored, and moved by up to 4 pixels."""
    images = batch["images"]
    images = images if key is None else augment.flip_and_crop(key, images)
    return images.astype(dtype) / 255


def _resized(
    key: jax.Array | None, batch: Batch, dtype: Any = jnp.float32
) -> jax.Array:
    """224 x 224 pixels out of images of any size.

    At random, a window of 8 to 100 % in changed colours; else the centre, where the
    shorter side counts as 256. Images without a size have their own already.
    """
    images = batch["images"].astype(dtype) / 255
    if "sizes" not in batch:
        return images
    # Rows that pad a part have no pixels; what is seen of them must be finite.
    sizes = jnp.maximum(batch["sizes"], 1)
    if key is not None:
        return augment.flip_crop_and_color(key, images, sizes, 224)
    return augment.resize(images, augment.central_box(sizes, 224 / 256, dtype), 224)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a task is made.

    Attributes:
      data: the data set.
      model: the linen module's name in `lrjax.tasks.models`.
      options: its arguments but the number of classes.
      mean, deviation: of each channel, to scale images from 0 to 1.
      view: what training sees.
      size: height and width of what the model sees.
      has_blocks: whether the model has blocks to compute again, for `remat`.
    """

    data: str
    model: str
    options: Mapping[str, Any]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    view: View
    size: int
    has_blocks: bool = True


_CIFAR10 = ((0.5,) * 3, (0.5,) * 3, _flipped_and_cropped, 32)

RECIPES = {
    "mnist/cnn": Recipe(
        "mnist", "SmallCNN", {}, (0.1307,), (0.3081,), _plain, 28, has_blocks=False
    ),
    "fashion_mnist/cnn": Recipe(
        "fashion_mnist", "SmallCNN", {}, (0.5,), (0.5,), _plain, 28, has_blocks=False
    ),
    "cifar10/wrn16_2": Recipe(
        "cifar10", "WideResNet", {"depth": 16, "width": 2, "dropout": 0.3}, *_CIFAR10
    ),
    "cifar10/wrn16_8": Recipe(
        "cifar10", "WideResNet", {"depth": 16, "width": 8, "dropout": 0.3}, *_CIFAR10
    ),
    "cifar100/densenet_bc": Recipe(
        "cifar100",
        "DenseNet",
        {"blocks": (6, 12, 24, 16), "growth": 12, "reduction": 0.5},
        (0.4914, 0.4822, 0.4465),
        (0.2023, 0.1994, 0.2010),
        _flipped_and_cropped,
        32,
    ),
    "dtd/vit_ti16": Recipe(
        "dtd",
        "VisionTransformer",
        {"patch": 16, "dim": 192, "depth": 12, "heads": 3},
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
        _resized,
        224,
    ),
}


def make(name: str, options: TaskOptions) -> Task:
    """Makes a task of `RECIPES`; see `make_task`."""
    recipe = RECIPES[name]
    entry = image_data.SETS[recipe.data]
    batch_size = options.batch_size or BATCH_SIZE
    parts = split(name, image_data.load(recipe.data, options.data_dir))
    if entry.shape is None:  # of any size
        parts = {key: with_sizes(part) for key, part in parts.items()}
    if options.protocol == "study":
        # The study leaves out a short last batch, other rows every epoch.
        rows = len(parts["train"].labels)
        whole = rows // batch_size * batch_size or rows
        kept = np.linspace(0, rows - 1, whole).round().astype(int)
        parts["train"] = take(parts["train"], kept)
        for number, key in enumerate(("valid", "test")):
            noise = jax.random.fold_in(numerics.key(libsvm.SPLIT_SEED), number)
            parts[key] = augmented(parts[key], recipe.view, noise)
    return recipe_task(name, parts, options)


def recipe_task(name: str, parts: Mapping[str, Part], options: TaskOptions) -> Task:
    """Makes a task of `RECIPES` from its parts."""
    recipe = RECIPES[name]
    classes = image_data.SETS[recipe.data].classes
    return image_task(
        name,
        parts,
        _model(recipe.model, classes, recipe.options, options),
        recipe.view,
        (recipe.mean, recipe.deviation),
        (recipe.size, recipe.size, len(recipe.mean)),
        options,
    )


def make_digits(options: TaskOptions) -> Task:
    """Makes `digits/wrn`: scikit-learn's 1,797 images of 8 x 8 pixels, WRN-10-1.

    The study has no such task: both protocols are the same.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = np.asarray(pixels).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = np.asarray(labels).astype(np.int32)
    rows = libsvm.split(labels)
    return image_task(
        "digits/wrn",
        {key: Part(images[at], labels[at]) for key, at in rows._asdict().items()},
        _model("WideResNet", 10, {"depth": 10, "width": 1}, options),
        _plain,
        ((8 / 255,), (8 / 255,)),  # pixels go from 0 to 16
        (8, 8, 1),
        options,
    )


def split(name: str, parts: Mapping[str, Part]) -> dict[str, Part]:
    """Parts to train, validate and test with, the same for every run.

    A fifth of the training part of each class validates, unless the set has a part for
    that; a set without parts is cut in three. Rows keep their order.
    """
    parts = dict(parts)
    if "all" in parts:
        whole = parts["all"]
        rows = libsvm.split(whole.labels, 1 / 3)
        parts = {key: take(whole, at) for key, at in rows._asdict().items()}
    elif "valid" not in parts:
        whole = parts["train"]
        rows = libsvm.split(whole.labels, 0.2)
        parts["train"] = take(whole, np.sort(np.r_[rows.train, rows.test]))
        parts["valid"] = take(whole, rows.valid)
    for key, part in parts.items():
        if not len(part.labels):
            raise DataError(f"{name}: no image is left for its {key} part")
    return parts


def take(part: Part, rows: np.ndarray) -> Part:
    """Some rows of a part."""
    sizes = None if part.sizes is None else part.sizes[rows]
    return Part(part.images[rows], part.labels[rows], sizes)


def with_sizes(part: Part) -> Part:
    """The part with the sizes of its images, also where all are alike."""
    if part.sizes is not None:
        return part
    shape = part.images.shape
    return part._replace(sizes=np.full((len(part.labels), 2), shape[1:3], np.int32))


def augmented(part: Part, view: View, key: jax.Array) -> Part:
    """The part with each image changed at random, once."""

    @jax.jit
    def change(number: jax.Array, batch: Batch) -> jax.Array:
        images = view(jax.random.fold_in(key, number), batch)
        return jnp.round(255 * images).astype(jnp.uint8)

    slices = []
    for start in range(0, len(part.labels), _SLICE):
        # A short last slice is filled up, so that all share one program.
        rows = np.minimum(np.arange(start, start + _SLICE), len(part.labels) - 1)
        batch = _arrays(take(part, rows))
        slices.append(np.asarray(change(jnp.int32(start // _SLICE), batch)))
    return Part(np.concatenate(slices)[: len(part.labels)], part.labels)


def _arrays(part: Part) -> dict[str, np.ndarray]:
    arrays = {"images": part.images, "labels": part.labels.astype(np.int32)}
    return arrays if part.sizes is None else arrays | {"sizes": part.sizes}


def _types(precision: str) -> dict[str, Any]:
    """`dtype` and `param_dtype` of a model."""
    if precision == "bfloat16":
        return {"dtype": jnp.bfloat16, "param_dtype": jnp.float32}
    return {"dtype": None, "param_dtype": jnp.dtype(precision)}


def _model(
    name: str, classes: int, arguments: Mapping[str, Any], options: TaskOptions
) -> Any:
    """The linen module `models.NAME`; `arguments` are its own."""
    from lrjax.tasks import models

    again = {"remat": True} if options.remat else {}
    make = getattr(models, name)
    return make(num_classes=classes, **arguments, **again, **_types(options.precision))


def image_task(
    name: str,
    parts: Mapping[str, Part],
    model: Any,
    view: View,
    scale: tuple[tuple[float, ...], tuple[float, ...]],
    shape: tuple[int, int, int],
    options: TaskOptions,
) -> Task:
    """Makes a task from images and a linen module.

    Args:
      name: the task's name.
      parts: 'train', 'valid' and 'test'.
      model: called as `(images, train=..., mask=...)`, with collections 'params' and
        'batch_stats' and stream 'dropout'.
      view: what of a batch is seen, from 0 to 1.
      scale: mean and deviation of each channel of that.
      shape: height, width and channels of what is seen.
      options: of these `batch_size` (64 if None), `precision`, `label_smoothing` and
        `stream` count.
    """
    dtype = _types(options.precision)["param_dtype"]
    label_smoothing = options.label_smoothing
    mean, deviation = (np.asarray(each, dtype) for each in scale)

    def seen(key: jax.Array | None, batch: Batch) -> jax.Array:
        return (view(key, batch, dtype) - mean) / deviation

    def init(key: jax.Array) -> tuple[PyTree, PyTree]:
        variables = model.init(key, jnp.zeros((1, *shape), dtype), train=False)
        return variables["params"], variables.get("batch_stats", {})

    def loss(params: PyTree, state: PyTree, key: jax.Array, batch: Batch):
        view_key, dropout_key = jax.random.split(key)
        mask = batch["mask"]
        logits, new = model.apply(
            {"params": params, "batch_stats": state},
            seen(view_key, batch),
            train=True,
            mask=mask,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key},
        )
        logits = logits.astype(dtype)
        losses = cross_entropy(logits, batch["labels"])
        if label_smoothing:
            spread = -jax.nn.log_softmax(logits).mean(axis=-1)
            losses = (1 - label_smoothing) * losses + label_smoothing * spread
        mean_loss = jnp.sum(losses * mask) / jnp.maximum(mask.sum(), 1)
        return mean_loss, (new.get("batch_stats", state), {})

    def evaluate(params: PyTree, state: PyTree, batch: Batch):
        logits = model.apply(
            {"params": params, "batch_stats": state}, seen(None, batch), train=False
        ).astype(dtype)
        return sums(logits, batch["labels"], batch["mask"])

    arrays = {key: _arrays(part) for key, part in parts.items()}
    streamed = data.stays_on_host(arrays["train"].values(), options.stream)
    return Task(
        name=name,
        train=arrays["train"] if streamed else jax.device_put(arrays["train"]),
        valid=jax.device_put(arrays["valid"]),
        test=jax.device_put(arrays["test"]),
        init=init,
        loss=loss,
        evaluate=evaluate,
        batch_size=options.batch_size or BATCH_SIZE,
        num_classes=model.num_classes,
        metrics=(ACCURACY, NONNEGATIVE_LOSS),
        streamed=streamed,
    )


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Negative log-likelihood of each row: [rows, classes], [rows] -> [rows]."""
    # Chosen by comparing, because JAX's derivative of a gather scatters into zeros.
    classes = jnp.arange(logits.shape[-1])
    own = labels[:, None].astype(classes.dtype) == classes
    return -jnp.sum(jnp.where(own, jax.nn.log_softmax(logits), 0), axis=-1)


def sums(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> Mapping[str, Any]:
    """Sums over the rows with mask 1: 'loss', 'accuracy' (right rows) and 'count'.

    Of equal logits the first counts; a row whose logits have no softmax is wrong.
    """
    losses = cross_entropy(logits, labels)
    best = jnp.argmax(logits, axis=-1)
    right = (best == labels.astype(best.dtype)) & jnp.isfinite(losses)
    return {
        "loss": jnp.sum(losses * mask),
        "accuracy": jnp.sum(right.astype(mask.dtype) * mask),
        "count": mask.sum(),
    }


def _factory(name: str) -> Factory:
    supports = frozenset(OPTIONAL)
    lacking = set() if RECIPES[name].has_blocks else {"remat"}
    return Factory(functools.partial(make, name), supports - lacking, network=True)


FACTORIES = {
    **{name: _factory(name) for name in RECIPES},
    "digits/wrn": Factory(make_digits, frozenset(OPTIONAL), network=True),
}
