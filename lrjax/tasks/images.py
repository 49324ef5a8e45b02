"""Tasks that classify images: perceptrons, convolutional and recurrent networks, ViTs.

Images are on the device as uint8; the compiled step augments and scales them. There are
two protocols with the same augmentation of training images: `study` also augments the
validation and test images, once, when the task is made; `sound` does not. Details:
docs/protocol.md.
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
    bundled,
    data,
    image_data,
    libsvm,
)
from lrjax.tasks.data import DataError
from lrjax.tasks.image_data import Part
from lrjax.tasks.options import OPTIONAL, Factory, TaskOptions

BATCH_SIZE = 64
DIGITS = "digits"
_SLICE = 64  # rows augmented at once when a task is made

# `view(key, batch, dtype=float32)` gives images [rows, height, width, channels] in
# [0, 1]: augmented at random with a key, as for evaluation if the key is None.
View = Callable[..., jax.Array]


def _plain(key: jax.Array | None, batch: Batch, dtype: Any = jnp.float32) -> jax.Array:
    """Scale pixels to [0, 1]; no augmentation."""
    del key
    return batch["images"].astype(dtype) / 255


def _flipped_and_cropped(
    key: jax.Array | None, batch: Batch, dtype: Any = jnp.float32
) -> jax.Array:
    """Mirror at random and shift by up to 4 pixels; scale to [0, 1]."""
    images = batch["images"]
    images = images if key is None else augment.flip_and_crop(key, images)
    return images.astype(dtype) / 255


def _resized(
    key: jax.Array | None,
    batch: Batch,
    dtype: Any = jnp.float32,
    products: Any = None,
) -> jax.Array:
    """Cut 224 x 224 pixels out of images of any size; scale to [0, 1].

    With a key a random window of 8 to 100 % of the area, with random colours; without
    one the central square of 224/256 of the shorter side. Batches without 'sizes' are
    of the final size already. `products` is that of `augment.cut_out`.
    """
    if "sizes" not in batch:
        return _plain(key, batch, dtype)
    # Padding rows have size 0; the result must be finite there too.
    sizes = jnp.maximum(batch["sizes"], 1)
    if key is not None:
        return augment.flip_crop_and_color(
            key, batch["images"], sizes, 224, dtype, products
        )
    box = augment.central_box(sizes, 224 / 256, dtype)
    return augment.cut_out(batch["images"], box, 224, dtype, products)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Data set, model and preprocessing of a task.

    Attributes:
      data: name of the data set in `image_data.SETS`; that of `DIGITS` is bundled.
      model: name of the linen module in `lrjax.tasks.models`.
      options: the module's arguments, without the number of classes.
      mean, deviation: mean and standard deviation of each channel of images in
        [0, 1], for standardisation.
      view: the augmentation, see `View`.
      size: height and width of the model's input in pixels.
    """

    data: str
    model: str
    options: Mapping[str, Any]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    view: View
    size: int

    @property
    def has_blocks(self) -> bool:
        """Whether the model supports `remat`."""
        return self.model not in ("LSTM", "Perceptron", "SmallCNN")


def _digits(model: str, options: Mapping[str, Any]) -> Recipe:
    """A recipe of scikit-learn's digits, whose pixels go from 0 to 16."""
    scale = (8 / 255,)
    return Recipe(DIGITS, model, options, scale, scale, _plain, 8)


def _mnist(model: str, options: Mapping[str, Any]) -> Recipe:
    """A recipe of MNIST's digits."""
    scale = (0.1307,), (0.3081,)
    return Recipe("mnist", model, options, *scale, _plain, 28)


def _fashion(model: str, options: Mapping[str, Any]) -> Recipe:
    """A recipe of Fashion-MNIST."""
    scale = (0.5,), (0.5,)
    return Recipe("fashion_mnist", model, options, *scale, _plain, 28)


_CIFAR10_WRN = Recipe(
    "cifar10",
    "WideResNet",
    {"depth": 16, "width": 8, "dropout": 0.3},
    (0.5,) * 3,
    (0.5,) * 3,
    _flipped_and_cropped,
    32,
)
_MLP = {"hidden": (256, 256)}
_LSTM = {"units": 128}
_VIT = {"patch": 7, "dim": 64, "depth": 2, "heads": 4}

RECIPES = {
    "digits/mlp": _digits("Perceptron", {"hidden": (128, 128)}),
    "digits/mlp_bn": _digits("Perceptron", {"hidden": (128, 128), "norm": True}),
    "digits/lstm": _digits("LSTM", {"units": 64}),
    "digits/cnn": _digits("SmallCNN", {}),
    "digits/wrn": _digits("WideResNet", {"depth": 10, "width": 1}),
    "digits/vit": _digits(
        "VisionTransformer", {"patch": 2, "dim": 32, "depth": 2, "heads": 2}
    ),
    "mnist/mlp": _mnist("Perceptron", _MLP),
    "mnist/lstm": _mnist("LSTM", _LSTM),
    "mnist/cnn": _mnist("SmallCNN", {}),
    "mnist/vit": _mnist("VisionTransformer", _VIT),
    "fashion_mnist/mlp": _fashion("Perceptron", _MLP),
    "fashion_mnist/lstm": _fashion("LSTM", _LSTM),
    "fashion_mnist/cnn": _fashion("SmallCNN", {}),
    "fashion_mnist/wrn": _fashion("WideResNet", {"depth": 10, "width": 1}),
    "fashion_mnist/wrn16_4": _fashion("WideResNet", {"depth": 16, "width": 4}),
    "fashion_mnist/vit": _fashion("VisionTransformer", _VIT),
    "cifar10/wrn16_2": dataclasses.replace(
        _CIFAR10_WRN, options={**_CIFAR10_WRN.options, "width": 2}
    ),
    "cifar10/wrn16_8": _CIFAR10_WRN,
    "cifar10/vit_s4": dataclasses.replace(
        _CIFAR10_WRN,
        model="VisionTransformer",
        options={"patch": 4, "dim": 384, "depth": 12, "heads": 6},
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
    """Make a task of `RECIPES`; see `tasks.make_task`.

    Args:
      name: name of the recipe.
      options: protocol, directory of the data and batch size; the rest goes to
        `image_task`.
    """
    recipe = RECIPES[name]
    if recipe.data == DIGITS:  # the study has no such tasks: its protocol is `sound`
        return recipe_task(name, digits(), options)
    batch_size = options.batch_size or BATCH_SIZE
    parts = split(name, image_data.load(recipe.data, options.data_dir))
    if image_data.SETS[recipe.data].shape is None:  # images of any size
        parts = {which: with_sizes(part) for which, part in parts.items()}
    if options.protocol == "study":
        # The study drops a short last batch, with different rows in every epoch. Here
        # the same rows, evenly spaced, are left out.
        rows = len(parts["train"].labels)
        in_batches = rows // batch_size * batch_size or rows
        kept = np.linspace(0, rows - 1, in_batches).round().astype(int)
        parts["train"] = take(parts["train"], kept)
        # Augmented once, with the same keys in every run.
        for number, which in enumerate(("valid", "test")):
            key = jax.random.fold_in(numerics.key(libsvm.SPLIT_SEED), number)
            parts[which] = augmented(parts[which], recipe.view, key)
    return recipe_task(name, parts, options)


def recipe_task(name: str, parts: Mapping[str, Part], options: TaskOptions) -> Task:
    """Make a task of `RECIPES` from 'train', 'valid' and 'test'; see `image_task`.

    Args:
      name: name of the recipe.
      parts: 'train', 'valid' and 'test'.
      options: those of the task.
    """
    recipe = RECIPES[name]
    classes = image_data.SETS[recipe.data].classes
    arguments = {**recipe.options, **_fused(recipe, options)}
    view = recipe.view
    if view is _resized:
        view = functools.partial(view, products=types(options.precision)["dtype"])
    return image_task(
        name,
        parts,
        _model(recipe.model, classes, arguments, options),
        view,
        (recipe.mean, recipe.deviation),
        (recipe.size, recipe.size, len(recipe.mean)),
        options,
    )


def _fused(recipe: Recipe, options: TaskOptions) -> dict[str, bool]:
    """Arguments of a model with attention: whether it uses the fused kernel."""
    if recipe.model != "VisionTransformer":
        return {}
    from lrjax.tasks.models import attention, vit

    patch, dim, heads = (recipe.options[name] for name in ("patch", "dim", "heads"))
    tokens = vit.filled((recipe.size // patch) ** 2 + 1)
    dtype = types(options.precision)["dtype"]
    return {"fused": attention.can_fuse(tokens, heads, dim // heads, dtype)}


def digits() -> dict[str, Part]:
    """Scikit-learn's 1,797 images of 8 x 8 pixels, in the rows of `digits/logistic`."""
    pixels, labels = bundled.load("digits")
    images = pixels.astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = labels.astype(np.int32)
    rows = libsvm.split(labels)
    return {key: Part(images[at], labels[at]) for key, at in rows._asdict().items()}


def split(name: str, parts: Mapping[str, Part]) -> dict[str, Part]:
    """Split a data set into 'train', 'valid' and 'test', the same for every run.

    A set without a validation part gives a fifth of every class's training images to
    it; a set without any split is cut into thirds. Rows keep their order.
    """
    parts = dict(parts)
    if "all" in parts:
        whole = parts["all"]
        rows = libsvm.split(whole.labels, 1 / 3)
        parts = {which: take(whole, at) for which, at in rows._asdict().items()}
    elif "valid" not in parts:
        whole = parts["train"]
        rows = libsvm.split(whole.labels, 0.2)
        parts["train"] = take(whole, np.sort(np.r_[rows.train, rows.test]))
        parts["valid"] = take(whole, rows.valid)
    for which, part in parts.items():
        if not len(part.labels):
            raise DataError(f"{name}: no image is left for its {which} part")
    return parts


def take(part: Part, rows: np.ndarray) -> Part:
    """Select rows of a part by number."""
    sizes = None if part.sizes is None else part.sizes[rows]
    return Part(part.images[rows], part.labels[rows], sizes)


def with_sizes(part: Part) -> Part:
    """Add the sizes of a part's images where all are the same and so left out."""
    if part.sizes is not None:
        return part
    shape = part.images.shape
    return part._replace(sizes=np.full((len(part.labels), 2), shape[1:3], np.int32))


def augmented(part: Part, view: View, key: jax.Array) -> Part:
    """Augment every image of a part once; the result is uint8.

    Args:
      part: images [rows, height, width, channels] and labels [rows].
      view: the augmentation.
      key: random key of the part.
    """

    @jax.jit
    def change(number: jax.Array, batch: Batch) -> jax.Array:
        images = view(jax.random.fold_in(key, number), batch)
        return jnp.round(255 * images).astype(jnp.uint8)

    slices = []
    for start in range(0, len(part.labels), _SLICE):
        # A short last slice is padded, so that all slices share one program.
        rows = np.minimum(np.arange(start, start + _SLICE), len(part.labels) - 1)
        batch = _arrays(take(part, rows))
        slices.append(np.asarray(change(jnp.int32(start // _SLICE), batch)))
    return Part(np.concatenate(slices)[: len(part.labels)], part.labels)


def _arrays(part: Part) -> dict[str, np.ndarray]:
    """A part as the arrays of a task."""
    arrays = {"images": part.images, "labels": part.labels.astype(np.int32)}
    return arrays if part.sizes is None else arrays | {"sizes": part.sizes}


def types(precision: str) -> dict[str, Any]:
    """A model's arguments `dtype` and `param_dtype` for a precision."""
    if precision == "bfloat16":
        return {"dtype": jnp.bfloat16, "param_dtype": jnp.float32}
    return {"dtype": None, "param_dtype": jnp.dtype(precision)}


def _model(
    name: str, classes: int, arguments: Mapping[str, Any], options: TaskOptions
) -> Any:
    """Make the linen module `models.NAME` with its own `arguments`."""
    from lrjax.tasks import models

    remat = {"remat": True} if options.remat else {}
    make = getattr(models, name)
    return make(num_classes=classes, **arguments, **remat, **types(options.precision))


def image_task(
    name: str,
    parts: Mapping[str, Part],
    model: Any,
    view: View,
    scale: tuple[tuple[float, ...], tuple[float, ...]],
    shape: tuple[int, int, int],
    options: TaskOptions,
) -> Task:
    """Make a task from images and a linen module.

    Args:
      name: the task's name.
      parts: 'train', 'valid' and 'test'.
      model: called as `(images, train=..., mask=...)`, with collections 'params' and
        'batch_stats' and RNG stream 'dropout'.
      view: the augmentation, see `View`.
      scale: mean and standard deviation of each channel of the view's result.
      shape: height, width and channels of the model's input.
      options: `batch_size` (64 if None), `precision`, `label_smoothing` and `stream`
        are used.
    """
    dtype = types(options.precision)["param_dtype"]
    label_smoothing = options.label_smoothing
    mean, deviation = (np.asarray(values, dtype) for values in scale)

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
    """Negative log-likelihood: logits [rows, classes], labels [rows] -> [rows]."""
    # A comparison instead of a gather, whose derivative in JAX is a slow scatter.
    classes = jnp.arange(logits.shape[-1])
    own = labels[:, None].astype(classes.dtype) == classes
    return -jnp.sum(jnp.where(own, jax.nn.log_softmax(logits), 0), axis=-1)


def sums(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> Mapping[str, Any]:
    """Sum over the rows with mask 1: 'loss', 'accuracy' (right rows) and 'count'.

    Of equal logits the first is the prediction; a row with a non-finite loss is wrong.

    Args:
      logits: [rows, classes].
      labels: int [rows].
      mask: [rows], 0 on padding.
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
    """The factory of a task of `RECIPES`."""
    supports = frozenset(OPTIONAL)
    lacking = set() if RECIPES[name].has_blocks else {"remat"}
    return Factory(functools.partial(make, name), supports - lacking, network=True)


FACTORIES = {name: _factory(name) for name in RECIPES}
