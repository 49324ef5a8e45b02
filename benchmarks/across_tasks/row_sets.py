"""Real rows to make tasks of: scikit-learn's own sets, LIBSVM's, and images."""

from __future__ import annotations

import functools
import gzip
import io
import lzma
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn import datasets

_MOST_ROWS = 8192  # of the image sets: more than any task takes
_COARSER = 2  # pixels: images are averaged over squares with sides of this length


class Rows(NamedTuple):
    """A set of real rows.

    Attributes:
      features: [rows, columns].
      targets: classes from 0 [rows], or numbers.
    """

    features: np.ndarray
    targets: np.ndarray


def _own(load: Callable[..., tuple[np.ndarray, np.ndarray]]) -> Rows:
    """A set that comes with scikit-learn."""
    features, targets = load(return_X_y=True)
    return _rows(features, targets)


def _rows(features: np.ndarray, targets: np.ndarray) -> Rows:
    """Number the classes from 0; leave numbers as they are."""
    if np.issubdtype(targets.dtype, np.integer) or len(np.unique(targets)) <= 100:
        targets = np.unique(targets, return_inverse=True)[1]
    return Rows(np.asarray(features, np.float64), targets)


def _svmlight(*names: str) -> Callable[[Path], Rows]:
    """A reader of files in svmlight's format, below `libsvm/`."""

    def read(folder: Path) -> Rows:
        paths = [folder / "libsvm" / f"{name}.xz" for name in names]
        content = [io.BytesIO(lzma.decompress(path.read_bytes())) for path in paths]
        parts = datasets.load_svmlight_files(content)
        features = np.concatenate([part.toarray() for part in parts[::2]])
        return _rows(features, np.concatenate(parts[1::2]).astype(int))

    return read


def _idx(name: str) -> Callable[[Path], Rows]:
    """A reader of images in MNIST's format."""

    def read(folder: Path) -> Rows:
        def content(kind: str, skipped: int) -> np.ndarray:
            with gzip.open(folder / name / f"train-{kind}-ubyte.gz") as file:
                return np.frombuffer(file.read()[skipped:], np.uint8)

        images = content("images-idx3", 16).reshape(-1, 28, 28)[:_MOST_ROWS]
        labels = content("labels-idx1", 8)[:_MOST_ROWS]
        return _rows(_coarse(images[..., None]), labels.astype(int))

    return read


def _cifar(folder: Path) -> Rows:
    with np.load(folder / "cifar10" / "cifar10_subset_10k_2k.npz") as file:
        images, labels = file["x_train"], file["y_train"]
    chosen = np.random.RandomState(0).permutation(len(images))[:_MOST_ROWS]
    return _rows(_coarse(images[chosen]), labels[chosen].astype(int))


def _coarse(images: np.ndarray) -> np.ndarray:
    """Average squares of pixels [rows, height, width, channels]; one row each."""
    rows, height, width, channels = images.shape
    squares = images.reshape(
        rows, height // _COARSER, _COARSER, width // _COARSER, _COARSER, channels
    )
    return squares.mean((2, 4)).reshape(rows, -1) / 255


# Priors are learned on the first, and judged on the second.
LEARNED: dict[str, Callable[[Path], Rows]] = {
    "iris": lambda _: _own(datasets.load_iris),
    "breast_cancer": lambda _: _own(datasets.load_breast_cancer),
    "digits": lambda _: _own(datasets.load_digits),
    "diabetes": lambda _: _own(datasets.load_diabetes),
    "vehicle": _svmlight("vehicle.scale"),
    "letter": _svmlight("letter.scale"),
    "pendigits": _svmlight("pendigits", "pendigits.t"),
    "sensorless": _svmlight("Sensorless.subset2200"),
    "fashion": _idx("fashion_mnist"),
    "cifar10": _cifar,
}
JUDGED: dict[str, Callable[[Path], Rows]] = {
    "wine": lambda _: _own(datasets.load_wine),
    "vowel": _svmlight("vowel.scale"),
    "glass": _svmlight("glass.scale"),
    "dna": _svmlight("dna.scale", "dna.scale.t"),
    "usps": _svmlight("usps", "usps.t"),
    "mnist": _idx("mnist"),
}


@functools.cache
def load(name: str, folder: Path) -> Rows:
    """Read a set, of `LEARNED` or `JUDGED`, from a folder with `libsvm/` and others."""
    return ({**LEARNED, **JUDGED})[name](folder)


def log_spread(features: np.ndarray) -> float:
    """Natural logarithm of the largest standard deviation over the median one."""
    deviations = features.std(0)
    deviations = deviations[deviations > 0]
    return math.log(deviations.max() / np.median(deviations)) if len(deviations) else 0
