"""Logistic regression on LIBSVM's data sets, on digits, and on any svmlight file.

There are two protocols. `study` repeats the study's code: every column is divided by
its L2 norm over all rows, training, validation and test use the same rows, and a
sigmoid stands between the linear layer and the softmax. `sound` splits the rows
60/20/20 by class, the same way for every run, standardises the columns by the training
part's mean and standard deviation, and uses a plain softmax. Both draw the initial
weights and biases uniformly from +-1/sqrt(features) (as torch.nn.Linear does) and have
batches of 64.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.common import files
from lrjax.core import (
    ACCURACY,
    NONNEGATIVE_LOSS,
    Task,
    UsageError,
    counted,
)
from lrjax.tasks import bundled, data
from lrjax.tasks import options as options_lib
from lrjax.tasks.data import DataError
from lrjax.tasks.models import logistic
from lrjax.tasks.options import Factory, TaskOptions

URL = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass/"
BATCH_SIZE = 64
SPLIT_SEED = 0


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set as described on LIBSVM's page.

    Attributes:
      rows, features, classes: the sizes that a file must have.
      remote: name of the file on LIBSVM's site; '' for a set bundled in scikit-learn.
      others: further file names of the set.
    """

    rows: int
    features: int
    classes: int
    remote: str = ""
    others: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """File names without the ending .bz2."""
        return (self.remote.removesuffix(".bz2"), *self.others)


SETS = {
    "iris": DataSet(150, 4, 3),
    "wine": DataSet(178, 13, 3),
    "vowel": DataSet(528, 10, 11, "vowel.scale"),
    "vehicle": DataSet(846, 18, 4, "vehicle.scale"),
    "dna": DataSet(2000, 180, 3, "dna.scale"),
    "letter": DataSet(15000, 16, 26, "letter.scale"),
    "pendigits": DataSet(7494, 16, 10, "pendigits"),
    # The study read Sensorless.scale. The unscaled file gives other results under
    # `study`, and the same up to rounding under `sound`.
    "sensorless": DataSet(58509, 48, 11, "Sensorless.scale", ("Sensorless",)),
    "aloi": DataSet(108000, 128, 1000, "aloi.bz2"),
    "glass": DataSet(214, 9, 6, "glass.scale"),
    "usps": DataSet(7291, 256, 10, "usps.bz2"),
}


def make(name: str, options: TaskOptions) -> Task:
    """Make `libsvm/<name>`; see `SETS` and `tasks.make_task`."""
    if SETS[name].remote:
        features, labels = _load(name, options.protocol, options.data_dir)
    else:
        features, labels = _bundled(name)
    return logistic_task(f"libsvm/{name}", features, labels, options)


def make_digits(options: TaskOptions) -> Task:
    """Make `digits/logistic`: scikit-learn's 1,797 images of 8 x 8 pixels."""
    return logistic_task("digits/logistic", *bundled.load("digits"), options)


def make_file(path: str, options: TaskOptions) -> Task:
    """Make `svmlight:<path>` with the features and classes of the file."""
    features, labels = data.read_svmlight(path and files.expanded(path))
    return logistic_task(f"svmlight:{path}", features, labels, options)


def logistic_task(
    name: str,
    features: np.ndarray,
    labels: np.ndarray,
    options: TaskOptions | None = None,
) -> Task:
    """Make a task of logistic regression from arrays.

    Args:
      name: the task's name.
      features: [rows, columns].
      labels: [rows], any whole numbers; classes are numbered in their order.
      options: `protocol`, `batch_size` (64 if None) and `precision` are used.

    Raises:
      DataError: for labels that are not whole numbers, fewer than two classes, too few
        rows to split, or features that are not finite in the precision.
    """
    options = options or TaskOptions()
    options_lib.check(options)
    study, precision = options.protocol == "study", options.precision
    classes, targets = _classes(labels, name)
    if study:
        rows = np.arange(len(targets))
        parts = Parts(rows, rows, rows)
    else:
        parts = split(targets)
        if not len(parts.valid):
            raise DataError(f"{name}: no class has the 3 rows that a split needs")
    features = scaled(name, features, parts.train, options)

    def place(rows: np.ndarray) -> dict[str, jax.Array]:
        """A part with these rows, on the device."""
        return jax.device_put(
            {"features": features[rows], "labels": targets[rows].astype(np.int32)}
        )

    train = place(parts.train)
    model = {
        "squash": study,
        "compute": jnp.bfloat16 if precision == "bfloat16" else None,
    }
    return Task(
        name=name,
        train=train,
        valid=train if study else place(parts.valid),
        test=train if study else place(parts.test),
        init=functools.partial(
            logistic.init,
            num_features=features.shape[1],
            num_classes=len(classes),
            dtype=features.dtype,
        ),
        loss=functools.partial(logistic.loss, **model),
        evaluate=functools.partial(logistic.evaluate, **model),
        batch_size=options.batch_size or BATCH_SIZE,
        num_classes=len(classes),
        metrics=(ACCURACY, NONNEGATIVE_LOSS),
        exchangeable=not study,
    )


def scaled(
    name: str, features: np.ndarray, rows: np.ndarray, options: TaskOptions
) -> np.ndarray:
    """Scale columns as the protocol does, in the type of the precision.

    Args:
      name: the task's name, for errors.
      features: [rows, columns].
      rows: numbers of the training rows.
      options: `protocol` and `precision` are used.

    Raises:
      DataError: if the result is not finite.
    """
    study, precision = options.protocol == "study", options.precision
    features = unit_columns(features) if study else standardise(features, rows)
    with np.errstate(over="ignore"):
        features = features.astype(np.float64 if precision == "float64" else np.float32)
    if not np.isfinite(features).all():
        column = int(np.argmin(np.isfinite(features).all(axis=0)))
        raise DataError(f"{name}: column {column + 1} spreads too far for {precision}")
    return features


class Parts(NamedTuple):
    """Row numbers of the three parts of a data set, each in ascending order."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def split(targets: np.ndarray, fraction: float = 0.2) -> Parts:
    """Split rows into training, validation and test, stratified by class.

    Validation and test each get `fraction` of all rows (rounded) and, of every class,
    that fraction to within one row, but at least one row of each class with 3 rows or
    more; classes with 1 or 2 rows are used for training only. The split depends on
    `targets` alone.

    Args:
      targets: class numbers [rows], from 0 without gaps.
      fraction: share of the rows for validation, and the same for test.
    """
    counts = np.bincount(targets)
    # Rounding the cumulative counts keeps the total right for many small classes.
    held = np.diff(np.round(fraction * np.cumsum(counts)), prepend=0).astype(int)
    held = np.where(counts < 3, 0, np.maximum(held, 1))
    # NumPy freezes the numbers of RandomState for all versions (NEP 19).
    shuffled = np.random.RandomState(SPLIT_SEED).permutation(len(targets))
    by_class = shuffled[np.argsort(targets[shuffled], kind="stable")]
    rank = np.arange(len(targets)) - np.repeat(np.cumsum(counts) - counts, counts)
    share = np.repeat(held, counts)
    valid, test = rank < share, (rank >= share) & (rank < 2 * share)
    return Parts(
        train=np.sort(by_class[~valid & ~test]),
        valid=np.sort(by_class[valid]),
        test=np.sort(by_class[test]),
    )


def unit_columns(features: np.ndarray) -> np.ndarray:
    """Divide each column of [rows, columns] by its L2 norm; zero columns stay zero."""
    largest = np.abs(features).max(axis=0)
    # Dividing first keeps squares of very large and very small numbers in range.
    scaled = features / np.where(largest > 0, largest, 1)
    norms = np.sqrt(np.square(scaled).sum(axis=0))
    return scaled / np.where(norms > 0, norms, 1)


def standardise(features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Scale each column of [rows, columns] to mean 0 and variance 1 over some rows.

    Columns that are constant over these rows become 0 everywhere.
    """
    varying = np.ptp(features[rows], axis=0) > 0
    largest = np.where(varying, np.abs(features[rows]).max(axis=0), 1)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.where(varying, features, 0) / largest
        mean, deviation = scaled[rows].mean(axis=0), scaled[rows].std(axis=0)
        return (scaled - mean) / np.where(varying, deviation, 1)


def _classes(labels: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct labels in order, and the class number of each row.

    Args:
      labels: [rows].
      name: the task's name, for messages.

    Raises:
      DataError: if labels are not whole numbers, or all equal.
    """
    if (labels != np.round(labels)).any():
        raise DataError(
            f"{name}: labels are not whole numbers, as class labels must be"
        )
    classes, targets = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise DataError(f"{name}: holds one class only")
    return classes, targets


def _bundled(name: str) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's iris or wine, with columns scaled to [-1, 1] as LIBSVM's are."""
    features, labels = bundled.load(name)
    if name == "iris":
        # Three numbers: scikit-learn has those of Fisher's paper, LIBSVM those of UCI.
        features[34, 3] = 0.1
        features[37, 1:3] = 3.1, 1.5
    low, high = features.min(axis=0), features.max(axis=0)
    return 2 * (features - low) / (high - low) - 1, labels


def _load(
    name: str, protocol: str, data_dir: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Read a data set from the data directory or the cache, or download it."""
    entry = SETS[name]
    root, given = data.root(data_dir), []
    if root:
        given = [folder for folder in (root, root / "libsvm") if os.path.isdir(folder)]
        if not given:
            raise DataError(f"libsvm/{name}: there is no data directory {root}")
    cache = data.cache_dir() / "libsvm"
    path = data.find_file(entry.names, [*given, cache])
    if path is None:
        try:
            check = functools.partial(_read, entry)
            path = data.download(URL + entry.remote, cache, check)
        except UsageError as error:
            searched = ", ".join(str(folder) for folder in [*given, cache])
            raise DataError(
                f"libsvm/{name}: {' or '.join(entry.names)} (plain, .bz2, .xz or .gz) "
                f"is not in {searched}, and cannot be downloaded ({error}); put it "
                f"into {given[0] if given else cache}"
            ) from error
    if protocol == "study" and not path.name.startswith(entry.names[0]):
        warnings.warn(
            f"libsvm/{name}: {path} stands in for {entry.names[0]}, which the study "
            "read; numbers under its protocol will differ",
            stacklevel=2,
        )
    data.check_sha256(path)
    arrays = _read(entry, path)
    if path.parent == cache:
        data.record_sha256(path)
    return arrays


def _read(entry: DataSet, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a file and check that it holds the whole data set."""
    features, labels = data.read_svmlight(path)
    expected = entry.rows, entry.features, entry.classes
    rows, columns = features.shape
    classes = len(np.unique(labels))
    if (rows, columns, classes) != expected:
        raise DataError(
            f"{path}: {counted(rows, 'row', form='d')}, "
            f"{counted(columns, 'feature')} and "
            f"{counted(classes, 'class', 'classes')} "
            f"instead of {expected[0]}, {expected[1]} and {expected[2]}"
        )
    return features, labels


FACTORIES = {
    **{f"libsvm/{name}": Factory(functools.partial(make, name)) for name in SETS},
    "digits/logistic": Factory(make_digits),
}
