"""Tasks to learn priors from: many of a shape, whose runs one program trains.

A number seeds each task: where its rows come from (a real set, or a random teacher as
in `lrjax.tasks.synthetic`), which rows, classes and features, how they are scaled, and
how long a full run is. Shapes differ in sizes, batch and initialisation.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.across_tasks import row_sets
from lrjax.core import ACCURACY, NONNEGATIVE_LOSS, Task
from lrjax.tasks import synthetic

HORIZONS = (150, 300, 600, 1200, 4000)
_SHARES = (0.25, 0.3, 0.25, 0.15, 0.05)  # of tasks with each horizon
_REAL = 0.65  # share of tasks of real rows
TEST_ROWS = 2048
JUDGED_FROM = 10**6  # numbers of tasks that only judge start here


class Shape(NamedTuple):
    """What tasks have in common that share a program.

    Attributes:
      features, outputs, width: sizes of the network.
      depth: hidden layers.
      rows: of the training part, and of the validation part.
      batch_size: rows of a batch.
      kind: 'classification' or 'regression'.
      init: 'normal', or 'uniform' as in PyTorch's linear layers.
    """

    features: int
    outputs: int
    width: int
    depth: int
    rows: int
    batch_size: int
    kind: str = "classification"
    init: str = "normal"


_SIZES = {
    "a": Shape(16, 8, 16, 0, 256, 32),
    "b": Shape(64, 10, 32, 0, 1024, 64, init="uniform"),
    "c": Shape(8, 3, 8, 0, 128, 16, init="uniform"),
    "d": Shape(32, 16, 32, 0, 512, 128),
    "r": Shape(16, 1, 16, 0, 256, 32, "regression"),
    "s": Shape(8, 1, 8, 0, 128, 16, "regression", "uniform"),
}
SHAPES = {
    f"{name}{depth}": shape._replace(depth=depth)
    for name, shape in _SIZES.items()
    for depth in (range(3) if name in "abr" else range(2))
}

# Of tasks with more rows, for runs of many updates (`benchmarks/length_tables.py`).
LONG_SHAPES = {
    "u0": Shape(32, 10, 16, 0, 4096, 32, init="uniform"),
    "v1": Shape(16, 10, 16, 1, 4096, 16),
    "w2": Shape(16, 8, 16, 2, 1024, 16, init="uniform"),
    "x1": Shape(16, 1, 16, 1, 4096, 16, "regression"),
}


class Made(NamedTuple):
    """A task with what is known of it.

    Attributes:
      task: to train.
      family: of whose tasks a prior knows nothing when this one judges it: the set of
        the rows, or 'synthetic'.
      horizon: updates of a full run.
      about: name -> number, how the rows were drawn.
    """

    task: Task
    family: str
    horizon: int
    about: Mapping[str, float]


def make(shape_name: str, number: int, folder: Path) -> Made:
    """Make task `number` of a shape.

    Args:
      shape_name: of `SHAPES` or `LONG_SHAPES`.
      number: its seed; from `JUDGED_FROM` on rows are of sets that only judge.
      folder: of the data, as for `row_sets.load`.
    """
    shape = (SHAPES | LONG_SHAPES)[shape_name]
    stream = [number, *shape[:6], *map(ord, shape_name)]
    draw = np.random.RandomState(stream)
    horizon = int(draw.choice(HORIZONS, p=_SHARES))
    if draw.uniform() < _REAL:
        family, arrays, about = _real(shape, number, draw, folder)
    else:
        family, arrays, about = _synthetic(shape, draw)
    rows = shape.rows
    parts = [
        jax.device_put({k: v[begin:end] for k, v in arrays.items()})
        for begin, end in ((0, rows), (rows, 2 * rows), (2 * rows, None))
    ]
    classify = shape.kind == "classification"
    init, loss, evaluate = _functions(shape)
    task = Task(
        f"{family}/{shape_name}-{number}",
        *parts,
        init,
        loss,
        evaluate,
        batch_size=shape.batch_size,
        num_classes=shape.outputs if classify else 0,
        metrics=(ACCURACY, NONNEGATIVE_LOSS) if classify else (NONNEGATIVE_LOSS,),
    )
    return Made(task, family, horizon, about)


def _scaled(features: np.ndarray, draw: np.random.RandomState) -> tuple[Any, str]:
    """Features in one of the scales that users have, and its name."""
    how = draw.choice(["standard", "standard", "range", "raw", "times"])
    if how == "raw":
        return features, how
    middle, spread = features.mean(0), features.std(0)
    scaled = (features - middle) / np.where(spread > 0, spread, 1)
    if how == "range":
        low, high = features.min(0), features.max(0)
        scaled = 2 * (features - low) / np.where(high > low, high - low, 1) - 1
    if how == "times":
        scaled = scaled * 10 ** draw.uniform(-1, 1)
    return scaled, how


def _mapped(
    features: np.ndarray, count: int, draw: np.random.RandomState
) -> tuple[np.ndarray, str]:
    """Features [rows, count] made of those of a set, and how."""
    columns = features.shape[1]
    how = draw.choice(["columns", "components", "projection", "random units"])
    if how == "columns" and columns >= count:
        return features[:, draw.permutation(columns)[:count]], how
    middle, spread = features.mean(0), features.std(0)
    standard = (features - middle) / np.where(spread > 0, spread, 1)
    if how == "components" and columns >= count:
        _, _, axes = np.linalg.svd(standard[:2000], full_matrices=False)
        return standard @ axes[:count].T, how
    weights = draw.normal(size=(columns, count)) / columns**0.5
    if how == "projection" and columns >= count:
        return standard @ weights, how
    return np.maximum(standard @ weights + 0.5 * draw.normal(size=count), 0), "units"


def _real(
    shape: Shape, number: int, draw: np.random.RandomState, folder: Path
) -> tuple[str, dict[str, np.ndarray], dict[str, float]]:
    """Rows of a real set: its name, arrays, and how they were drawn."""
    sets = row_sets.JUDGED if number >= JUDGED_FROM else row_sets.LEARNED
    names = sorted(sets)
    while True:
        family = names[draw.randint(len(names))]
        features, targets = row_sets.load(family, folder)
        classes = targets.max() + 1 if targets.dtype.kind == "i" else 0
        regress = shape.kind == "regression"
        if len(features) >= 1.2 * shape.rows and (regress or classes):
            break  # a smaller set has too few rows to test on
    kept = np.arange(len(features))
    if regress and (classes or draw.uniform() < 0.5):
        # Another column is what is to be predicted.
        varied = np.flatnonzero(features.std(0) > 0)
        column = draw.choice(varied)
        targets, features = features[:, column], np.delete(features, column, axis=1)
    elif not regress:
        most = min(classes, shape.outputs)
        chosen = draw.permutation(classes)[: draw.randint(2, most + 1)]
        kept = np.flatnonzero(np.isin(targets, chosen))
        if len(kept) < 1.2 * shape.rows:
            chosen = draw.permutation(classes)[:most]
            kept = np.flatnonzero(np.isin(targets, chosen))
        places = {each: place for place, each in enumerate(chosen)}
        targets = np.array([places.get(each, -1) for each in targets])
    kept = draw.permutation(kept)
    mapped, how = _mapped(features, shape.features, draw)
    scaled, scale = _scaled(mapped, draw)
    # A set with fewer rows than wanted gives some of them twice within a part, never
    # in two parts.
    most = len(kept)
    rows = min(shape.rows, int(0.4 * most))
    ends = ((0, rows), (rows, 2 * rows), (2 * rows, most))
    wanted = (shape.rows, shape.rows, TEST_ROWS)
    order = np.concatenate(
        [np.resize(kept[a:b], n) for (a, b), n in zip(ends, wanted, strict=True)]
    )
    about = {f"map {how}": 1.0, f"scale {scale}": 1.0, "rows": float(rows)}
    return family, _arrays(scaled[order], targets[order], shape), about


def _arrays(
    features: np.ndarray, targets: np.ndarray, shape: Shape
) -> dict[str, np.ndarray]:
    """Arrays of a task; numbers to predict are standardised."""
    arrays = {"features": features.astype(np.float32)}
    if shape.kind == "classification":
        return arrays | {"labels": targets.astype(np.int32)}
    known = targets[: 2 * shape.rows]
    spread = known.std() or 1.0
    return arrays | {"targets": ((targets - known.mean()) / spread).astype(np.float32)}


def _synthetic(
    shape: Shape, draw: np.random.RandomState
) -> tuple[str, dict[str, np.ndarray], dict[str, float]]:
    """Gaussian rows and a random teacher, as in `lrjax.tasks.synthetic`."""
    condition, scale = 10 ** draw.uniform(0, 4), 10 ** draw.uniform(-1, 1)
    noise, label_noise = 10 ** draw.uniform(-2, 0), draw.uniform(0, 0.3)
    width, depth = 2 ** draw.randint(1, 6), draw.randint(0, 3)
    outputs = 1 if shape.outputs == 1 else draw.randint(2, shape.outputs + 1)
    rows = 2 * shape.rows + TEST_ROWS
    rotation, _ = np.linalg.qr(draw.normal(size=(shape.features, shape.features)))
    spectrum = np.geomspace(1, condition**-0.5, shape.features)
    features = draw.normal(size=(rows, shape.features)) * spectrum @ rotation.T
    hidden = features / spectrum.mean()
    sizes = [shape.features, *[width] * depth, outputs]
    for place, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        hidden = (np.tanh(hidden) if place else hidden) @ draw.normal(
            size=(fan_in, fan_out)
        )
        hidden = hidden / fan_in**0.5
    taught = (hidden - hidden.mean(0)) / hidden.std(0)
    taught = taught + noise * draw.normal(size=taught.shape)
    targets = taught[:, 0]
    if shape.kind == "classification":
        targets = taught.argmax(1)
        flipped = draw.uniform(size=rows) < label_noise
        targets[flipped] = draw.randint(outputs, size=int(flipped.sum()))
    about = {"condition": condition, "scale": scale, "teacher": float(depth)}
    return "synthetic", _arrays(scale * features, targets, shape), about


@functools.cache
def _functions(shape: Shape) -> tuple[Callable[..., Any], ...]:
    """Functions `init`, `loss` and `evaluate`: one set per shape."""
    sizes = [shape.features, *[shape.width] * shape.depth, shape.outputs]

    def init(key: jax.Array) -> tuple[list[dict[str, jax.Array]], tuple[()]]:
        layers = []
        for place, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            own = jax.random.fold_in(key, place)
            if shape.init == "normal":
                weight = jax.random.normal(own, (fan_in, fan_out)) / fan_in**0.5
                bias = jnp.zeros(fan_out)
            else:
                both = jax.random.uniform(own, (fan_in + 1, fan_out), minval=-1.0)
                weight, bias = both[1:] / fan_in**0.5, both[0] / fan_in**0.5
            layers.append({"weight": weight, "bias": bias})
        return layers, ()

    return init, *synthetic.network(shape.kind)


def swapped(task: Task) -> Task:
    """The task with training and validation rows in each other's place."""
    return dataclasses.replace(task, train=task.valid, valid=task.train)
