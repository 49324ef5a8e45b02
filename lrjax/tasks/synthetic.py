"""Small synthetic tasks of random difficulty, for training controllers and priors.

The number in `synthetic/classification-7` or `synthetic/regression-7` seeds the task.
All tasks of the same kind and depth share their functions and array shapes, so that one
compiled program trains hundreds of them; only the data, which is traced, differs.

Features are Gaussian with a covariance of a given condition number, in a random
rotation. Labels come from a random network, the teacher: in classification its largest
output, a share of labels replaced at random; in regression its only output plus noise.
The trained model is another network, with 0 (linear) to 2 hidden layers.

Three kinds have names of their own, and more rows: `synthetic/ill_conditioned`,
`synthetic/noisy_gradients` and `synthetic/noisy_labels`; `synthetic/noisy_labels-3` has
other data of the same kind.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.core import (
    ACCURACY,
    NONNEGATIVE_LOSS,
    Batch,
    Task,
)
from lrjax.tasks.data import DataError
from lrjax.tasks.models.products import product
from lrjax.tasks.options import Factory, TaskOptions

FEATURES, OUTPUTS, WIDTH = 16, 8, 16  # the same for all tasks
ROWS, BATCH_SIZE = 256, 32
KINDS = ("classification", "regression")
PREFIX = "synthetic/"
_NAME = re.compile(r"(synthetic/[a-z_]+)(?:-(\d{1,9}))?")


@dataclasses.dataclass(frozen=True)
class Spec:
    """Properties of a task.

    Attributes:
      kind: one of `KINDS`.
      condition: condition number of the features' covariance.
      noise: standard deviation of the noise on the standardised teacher outputs.
      label_noise: share of labels drawn at random; classification only.
      num_classes: from 2 to `OUTPUTS`; classification only.
      width: hidden units per layer of the teacher.
      depth: hidden layers of the model and of the teacher.
      scale: factor of all features.
      seed: seed of the data.
      rows: rows of each part.
    """

    kind: str
    condition: float = 10.0
    noise: float = 0.1
    label_noise: float = 0.0
    num_classes: int = OUTPUTS
    width: int = WIDTH
    depth: int = 1
    scale: float = 1.0
    seed: int = 0
    rows: int = ROWS


NAMED = {
    # Least squares: the loss along the flattest axis falls 10^5 times slower.
    "synthetic/ill_conditioned": Spec(
        "regression", condition=1e5, noise=0.01, depth=0, rows=2048
    ),
    # Noise has four times the variance of what can be learned, and there are rows
    # enough to learn it.
    "synthetic/noisy_gradients": Spec("regression", noise=2.0, depth=1, rows=2**14),
    "synthetic/noisy_labels": Spec(
        "classification", label_noise=0.4, depth=2, rows=2**14
    ),
}


def spec(kind: str, number: int) -> Spec:
    """Draw the properties of task `number`; its depth is `number` modulo 3."""
    # NumPy freezes the numbers of RandomState for all versions (NEP 19).
    draw = np.random.RandomState(number % 2**32)
    condition, scale = 10 ** draw.uniform(0, 4), 10 ** draw.uniform(-1, 1)
    noise, label_noise = 10 ** draw.uniform(-2, 0), draw.uniform(0, 0.3)
    classes, width = draw.randint(2, OUTPUTS + 1), 2 ** draw.randint(1, 6)
    return Spec(
        kind=kind,
        condition=float(condition),
        noise=float(noise),
        label_noise=float(label_noise),
        num_classes=int(classes),
        width=int(width),
        depth=number % 3,
        scale=float(scale),
        seed=number,
    )


def make(name: str, options: TaskOptions | None = None) -> Task:
    """Make `synthetic/KIND-NUMBER`, or a task of `NAMED`.

    Args:
      name: the task's name.
      options: `batch_size` and `precision` are used; both protocols are the same.

    Raises:
      DataError: if no such task exists.
    """
    options = options or TaskOptions()
    properties = _properties(name)
    task = from_spec(properties, name, options.precision)
    return dataclasses.replace(task, batch_size=options.batch_size or task.batch_size)


def _properties(name: str) -> Spec:
    """Properties of the task of a name.

    Raises:
      DataError: if there is none.
    """
    match = _NAME.fullmatch(name)
    start, number = match.groups() if match else ("", None)
    if start in NAMED:
        return dataclasses.replace(NAMED[start], seed=int(number or 0))
    kind = start.removeprefix(PREFIX)
    if kind in KINDS and number:
        return spec(kind, int(number))
    made = ", ".join(f"{PREFIX}{kind}-NUMBER" for kind in KINDS)
    raise DataError(
        f"unknown task '{name}': synthetic tasks are called {made}, or "
        f"{', '.join(NAMED)}, with -NUMBER for other data"
    )


def from_spec(
    properties: Spec, name: str = "synthetic", precision: str = "float32"
) -> Task:
    """Make a task with given properties.

    Args:
      properties: what to make.
      name: the task's name.
      precision: as in `TaskOptions`.
    """
    dtype = np.float64 if precision == "float64" else np.float32
    generator = np.random.RandomState(properties.seed % 2**32)
    rotation, _ = np.linalg.qr(generator.normal(size=(FEATURES, FEATURES)))
    spectrum = np.geomspace(1, properties.condition**-0.5, FEATURES)
    outputs = properties.num_classes if properties.kind == "classification" else 1

    def draw_features(rows: int) -> np.ndarray:
        """Draw features [rows, FEATURES]: normal, with the spectrum's axes rotated."""
        return generator.normal(size=(rows, FEATURES)) * spectrum @ rotation.T

    def with_labels(features: np.ndarray, outputs_of_teacher: np.ndarray) -> Batch:
        """Features with noisy targets, or noisy labels, of the teacher's outputs.

        Args:
          features: [rows, FEATURES].
          outputs_of_teacher: [rows, outputs].
        """
        noise = properties.noise * generator.normal(size=outputs_of_teacher.shape)
        taught = outputs_of_teacher + noise
        arrays = {"features": (properties.scale * features).astype(dtype)}
        if properties.kind == "regression":
            return arrays | {"targets": taught[:, 0].astype(dtype)}
        labels = taught.argmax(1)
        flipped = generator.uniform(size=len(labels)) < properties.label_noise
        labels[flipped] = generator.randint(outputs, size=int(flipped.sum()))
        return arrays | {"labels": labels.astype(np.int32)}

    rows = properties.rows
    features = draw_features(3 * rows)
    teach = _teacher(generator, properties, outputs)
    taught = teach(features / spectrum.mean())
    mean, deviation = taught.mean(0), taught.std(0)
    arrays = with_labels(features, (taught - mean) / deviation)
    parts = [
        jax.device_put({k: v[i * rows : (i + 1) * rows] for k, v in arrays.items()})
        for i in range(3)
    ]
    init, loss, evaluate = _functions(properties.kind, properties.depth, precision)
    classify = properties.kind == "classification"
    return Task(
        name=name,
        train=parts[0],
        valid=parts[1],
        test=parts[2],
        init=init,
        loss=loss,
        evaluate=evaluate,
        batch_size=BATCH_SIZE,
        num_classes=OUTPUTS if classify else 0,
        metrics=(ACCURACY, NONNEGATIVE_LOSS) if classify else (NONNEGATIVE_LOSS,),
        exchangeable=True,
    )


def _teacher(
    generator: np.random.RandomState, properties: Spec, outputs: int
) -> Callable[[np.ndarray], np.ndarray]:
    """A network with random weights: features [n, FEATURES] -> [n, outputs]."""
    sizes = [FEATURES] + [properties.width] * properties.depth
    weights = [
        generator.normal(size=pair) for pair in itertools.pairwise([*sizes, outputs])
    ]

    def teach(hidden: np.ndarray) -> np.ndarray:
        for weight in weights[:-1]:
            hidden = np.tanh(hidden @ weight / np.sqrt(len(weight)))
        return hidden @ weights[-1]

    return teach


def network(
    kind: str, compute: Any = None
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Functions `loss` and `evaluate` of a network with hidden layers of ReLUs.

    Args:
      kind: one of `KINDS`. Parameters are a list of layers with weight and bias.
      compute: type of the matrix products; None: that of the parameters.

    Returns:
      New functions at each call, since programs are known by them.
    """

    def times(x: jax.Array, weight: jax.Array) -> jax.Array:
        if compute is None:
            return x @ weight
        return product("ri,io->ro", x.astype(compute), weight.astype(compute), x.dtype)

    def forward(params: Sequence[Mapping[str, jax.Array]], x: jax.Array) -> jax.Array:
        """Compute the network: features [rows, FEATURES] -> [rows, outputs]."""
        *hidden, last = params
        for layer in hidden:
            x = jax.nn.relu(times(x, layer["weight"]) + layer["bias"])
        return times(x, last["weight"]) + last["bias"]

    def losses(params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Loss of each row, and whether its prediction is right: two [rows]."""
        out = forward(params, batch["features"])
        if kind == "regression":
            return 0.5 * jnp.square(out[:, 0] - batch["targets"]), jnp.zeros(len(out))
        own = jnp.take_along_axis(out, batch["labels"][:, None], axis=1)[:, 0]
        best = out.argmax(1)
        right = best == batch["labels"].astype(best.dtype)
        return jax.nn.logsumexp(out, axis=1) - own, right

    def loss(params: Any, state: Any, key: jax.Array, batch: Batch):
        del key  # nothing here is random
        mask = batch["mask"]
        mean = jnp.sum(losses(params, batch)[0] * mask) / jnp.maximum(mask.sum(), 1)
        return mean, (state, {})

    def evaluate(params: Any, state: Any, batch: Batch) -> dict[str, jax.Array]:
        del state
        values, right = losses(params, batch)
        mask = batch["mask"]
        sums = {"loss": jnp.sum(values * mask), "count": mask.sum()}
        if kind == "classification":
            sums["accuracy"] = jnp.sum(right.astype(mask.dtype) * mask)
        return sums

    return loss, evaluate


@functools.cache
def _functions(kind: str, depth: int, precision: str) -> tuple[Callable[..., Any], ...]:
    """Functions `init`, `loss` and `evaluate`, cached: one set per kind and depth."""
    dtype = jnp.float64 if precision == "float64" else jnp.float32
    compute = jnp.bfloat16 if precision == "bfloat16" else None
    outputs = OUTPUTS if kind == "classification" else 1
    sizes = [FEATURES, *[WIDTH] * depth, outputs]

    def init(key: jax.Array) -> tuple[list[dict[str, jax.Array]], tuple[()]]:
        """Draw the weights of the layers."""
        layers = []
        for index, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            weight = jax.random.normal(
                jax.random.fold_in(key, index), (fan_in, fan_out), dtype
            )
            bias = jnp.zeros(fan_out, dtype)
            layers.append({"weight": weight / fan_in**0.5, "bias": bias})
        return layers, ()

    return init, *network(kind, compute)


FACTORIES = {name: Factory(functools.partial(make, name)) for name in NAMED}
