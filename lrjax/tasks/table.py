"""Tables of a user's: `table:PATH?target=COLUMN` for CSV, Parquet and NPZ files.

Further settings follow after `&`: `kind=classification` or `regression`, `drop=COLUMN`
for each column to leave out, `hidden=64x64` for hidden layers, `norm=batch` for batch
normalisation of these. Names of columns are quoted as in a URL where they contain `&`,
`=`, `?`, `%` or a comma ('%26' is '&').

`columns.py` says how columns become numbers. The rows are split 60/20/20, the same way
for every run, by class if there are classes; under `study` all parts are all rows, as
for svmlight files.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import io
import math
import re
import urllib.parse
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax import metrics
from lrjax.common import files, naming
from lrjax.core import (
    NONNEGATIVE_LOSS,
    Metric,
    Task,
    counted,
    cut,
    listed,
    unknown,
)
from lrjax.tasks import adapters, bundled, data, given, libraries, libsvm, losses, npz
from lrjax.tasks import columns as columns_lib
from lrjax.tasks import sums as sums_lib
from lrjax.tasks.data import DataError, reading
from lrjax.tasks.libraries import Model
from lrjax.tasks.models import logistic, mlp
from lrjax.tasks.options import Factory, TaskOptions

if TYPE_CHECKING:
    import pandas as pd

PREFIX = "table:"
ENDINGS = (".csv", ".tsv", ".parquet", ".npz")
_SETTINGS = ("target", "kind", "drop", "hidden", "norm", "metric")
_PACKED = (".gz", ".bz2", ".xz")  # of CSV files; data.read_bytes unpacks them
_CLASSES = 100  # most of them in a column of whole numbers
_WIDEST = 2**16  # units of a hidden layer
_DECIMAL = r"[-+]?(\d+|\d*,\d+)([eE][-+]?\d+)?"  # as in files with semicolons
# Metrics of classes that a name may ask for, and the sum that each is made of.
_SUMS = {
    metrics.f1(): "confusion",
    metrics.balanced_accuracy(): "confusion",
    metrics.auc(): "scores",
}
# Names that pandas gives an index without one, in CSV and Parquet.
_INDEX = re.compile(r"Unnamed: \d+(\.\d+)*|__index_level_\d+__|")
# Options of pandas that take no words such as NA for missing values.
_EMPTY_ALONE = {"keep_default_na": False, "na_values": [""]}
# Largest span of targets, and 1 over the smallest, whose squares can be summed.
_SPAN = {"float32": 1e15, "float64": 1e100}


@dataclasses.dataclass(frozen=True)
class Query:
    """A task's name, taken apart.

    Attributes:
      path: the file.
      target: column of the targets; '' if it is not named.
      kind: 'classification', 'regression', or '' to follow from the targets.
      drop: columns that are left out.
      hidden: units of the hidden layers.
      norm: whether they have batch normalisation.
      metric: what runs are ranked by; '' for accuracy, or RMSE.
    """

    path: str
    target: str = ""
    kind: str = ""
    drop: tuple[str, ...] = ()
    hidden: tuple[int, ...] = ()
    norm: bool = False
    metric: str = ""


# Tables of scikit-learn; the path is the name of `bundled.load`.
_HIDDEN = (64, 64)
RECIPES = {
    "breast_cancer/logistic": Query("breast_cancer", kind="classification"),
    "breast_cancer/mlp": Query("breast_cancer", kind="classification", hidden=_HIDDEN),
    "breast_cancer/mlp_bn": Query(
        "breast_cancer", kind="classification", hidden=_HIDDEN, norm=True
    ),
    "diabetes/linear": Query("diabetes", kind="regression"),
    "diabetes/mlp": Query("diabetes", kind="regression", hidden=_HIDDEN),
    "diabetes/mlp_bn": Query("diabetes", kind="regression", hidden=_HIDDEN, norm=True),
    "iris/mlp": Query("iris", kind="classification", hidden=_HIDDEN),
    "wine/mlp": Query("wine", kind="classification", hidden=_HIDDEN),
}


def parse(name: str) -> Query:
    """Read the name of a table's task.

    Raises:
      DataError: for unknown settings and values.

    Example:
      >>> parse("table:houses.csv?target=price&hidden=64x64").hidden
      (64, 64)
    """
    path, text = naming.settings_of(name.removeprefix(PREFIX), _SETTINGS)
    found: dict[str, list[str]] = {}
    for setting in filter(None, text.split("&")):
        key, _, value = setting.partition("=")
        if key not in _SETTINGS:
            raise DataError(str(unknown("setting of a table", key, _SETTINGS)))
        found.setdefault(key, []).append(urllib.parse.unquote(value))
    drop = tuple(found.pop("drop", ()))
    twice = [key for key, values in found.items() if len(values) > 1]
    if twice:
        raise DataError(f"{cut(name)}: {twice[0]} is given twice")
    target, kind, hidden, norm, metric = (
        found.get(key, [""])[0]
        for key in ("target", "kind", "hidden", "norm", "metric")
    )
    if kind and kind not in _KINDS:
        raise DataError(f"{cut(name)}: kind must be {' or '.join(_KINDS)}")
    if not re.fullmatch(r"(\d{1,6}(x\d{1,6})*)?", hidden):
        raise DataError(
            f"{cut(name)}: hidden must be whole numbers, such as hidden=64x64"
        )
    units = tuple(int(each) for each in re.findall(r"\d+", hidden))
    if units and not 1 <= min(units) <= max(units) <= _WIDEST:
        raise DataError(f"{cut(name)}: hidden layers have 1 to {_WIDEST:,} units")
    if norm not in ("", "batch"):
        raise DataError(f"{cut(name)}: norm must be batch")
    if norm and not units:
        raise DataError(
            f"{cut(name)}: norm=batch is for hidden layers: add hidden=64x64"
        )
    return Query(path, target, kind, drop, units, bool(norm), metric)


def make(name: str, options: TaskOptions) -> Task:
    """Make the task of a table.

    Args:
      name: the task's name.
      options: `protocol`, `batch_size` and `precision` are used.

    Raises:
      DataError: if the file is missing, damaged or too large, a column cannot be used,
        or there are too few rows.
    """
    query = parse(name)
    frame = read(str(files.expanded(query.path)))
    where = query.path
    names = [str(column) for column in frame.columns]
    if not query.target:
        raise DataError(
            f"{where}: which column is the target? Add ?target=COLUMN, one of "
            f"{listed(names, 200)}"
        )
    for column in (query.target, *query.drop):
        if column not in names:
            raise DataError(f"{where}: {unknown('column', column, names)}")
    target = frame[query.target]
    absent = target.isna().to_numpy()
    if absent.any():
        warnings.warn(
            f"{name}: {counted(int(absent.sum()), 'row')} without a target left out",
            stacklevel=2,
        )
        frame, target = frame[~absent], target[~absent]
    if not len(frame):
        raise DataError(f"{where}: column '{cut(query.target)}' has no values")
    columns = frame.drop(columns=[query.target, *query.drop])
    columns = columns.drop(columns=_indices(columns, name))
    if not len(columns.columns):
        raise DataError(f"{where}: there is no column beside the target")
    kind = _kind_of(target, query, where)
    return _KINDS[kind](name, query, columns, target, options)


def _indices(columns: pd.DataFrame, name: str) -> list[str]:
    """Columns without a name that are empty, or number the rows; a warning of these.

    Where rows are sorted, their numbers tell the targets.
    """
    unnamed = [c for c in columns if _INDEX.fullmatch(c)]
    empty = [c for c in unnamed if columns[c].isna().all()]
    numbers = [c for c in unnamed if columns[c].dtype.kind in "iu"]
    numbers = [c for c in numbers if columns[c].is_unique and columns[c].min() >= 0]
    if numbers:
        warnings.warn(
            f"{name}: left out, since it only numbers the rows: column "
            f"'{cut(numbers[0])}', an index that pandas has written",
            stacklevel=3,
        )
    return empty + numbers


def make_bundled(name: str, options: TaskOptions) -> Task:
    """Make a task of `RECIPES`; see `make`."""
    import pandas as pd

    query = RECIPES[name]
    features, targets = bundled.load(query.path)
    columns, target = pd.DataFrame(features), pd.Series(targets)
    columns.columns = columns.columns.astype(str)
    return _KINDS[query.kind](name, query, columns, target, options)


# Reading


def read(path: str) -> pd.DataFrame:
    """Read a table; columns are named by texts.

    Raises:
      DataError: if it is missing, damaged, of an unknown kind or too large.
    """
    suffixes = [suffix.lower() for suffix in Path(path).suffixes[-2:]]
    if suffixes and suffixes[-1] in _PACKED:
        suffixes.pop()
    ending = suffixes[-1] if suffixes else ""
    if ending not in ENDINGS:
        raise DataError(
            f"{path}: tables are {', '.join(ENDINGS)}; for svmlight's format give "
            f"svmlight:{cut(path)}"
        )
    if ending == ".npz":
        frame = _npz(path)
    else:
        content = data.read_bytes(path)
        with reading(path):
            if ending == ".parquet":
                frame = _parquet(content, path)
            else:
                frame = _csv(content, ending, path)
    _check_size(len(frame), len(frame.columns), path)
    frame.columns = [str(column) for column in frame.columns]
    _check_once(frame.columns, path)
    if not len(frame):
        raise DataError(f"{path}: holds no rows")
    return frame


def _check_size(rows: int, columns: int, path: str) -> None:
    if rows * columns > data.MAX_ELEMENTS:
        raise DataError(
            f"{path}: {rows:,} rows x {columns:,} columns are more than "
            f"{data.MAX_ELEMENTS:,} values"
        )


def _check_once(names: Iterable[str], path: str) -> None:
    for name, count in collections.Counter(names).items():
        if count > 1:
            raise DataError(f"{path}: column '{cut(name)}' comes twice")


def _csv(content: bytes, ending: str, path: str) -> pd.DataFrame:
    """Read CSV, with commas or, if the first line has none, semicolons or tabs."""
    import pandas as pd

    header = content[: content.find(b"\n") % (len(content) + 1)]
    separators = "\t" if ending == ".tsv" else ",;\t"
    separator = next((s for s in separators if s.encode() in header), separators[0])

    def parsed(**options: Any) -> pd.DataFrame:
        file = io.BytesIO(content)
        return pd.read_csv(file, sep=separator, low_memory=False, **options)

    first = parsed(header=None, nrows=1, dtype=str, **_EMPTY_ALONE)
    _check_once(first.iloc[0].dropna(), path)  # pandas would call the second 'a.1'
    frame, options = parsed(), {}
    if not isinstance(frame.index, pd.RangeIndex):  # lines are longer than the first
        if frame.index.nlevels == 1 and frame.iloc[:, -1].isna().all():
            options = {"index_col": False}  # they end with a separator
            frame = parsed(**options)
        elif not _names_rows(frame.index):
            raise DataError(
                f"{path}: lines have {frame.shape[1] + frame.index.nlevels} values, "
                f"but the first names {counted(frame.shape[1], 'column')}"
            )
    if separator != ",":
        frame = frame.apply(_with_decimal_points)
    absent = [name for name in frame if frame[name].isna().any()]
    if words := [name for name in absent if columns_lib.is_of_words(frame[name])]:
        kept = parsed(**options, **_EMPTY_ALONE)
        for name in words:
            frame[name] = kept[name].array
    return frame


def _names_rows(index: pd.Index) -> bool:
    """Whether values without a column are names of rows, as R writes them.

    Pandas takes the first value of lines that have one more than there are columns.
    """
    counts = np.array_equal(index, np.arange(1, len(index) + 1))
    return counts or (index.is_unique and index.inferred_type == "string")


def _with_decimal_points(column: pd.Series) -> pd.Series:
    """A column with numbers in place of texts such as '0,5', if it has no others."""
    if not columns_lib.is_text(column) or column.dtype.kind == "b":
        return column
    texts = column.dropna().astype(str).str.strip()
    if not len(texts) or not texts.str.fullmatch(_DECIMAL).all():
        return column
    return texts.str.replace(",", ".").astype(float).reindex(column.index)


def _parquet(content: bytes, path: str) -> pd.DataFrame:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(io.BytesIO(content)) as file:
        # A few bytes may stand for many equal values.
        _check_size(file.metadata.num_rows, file.metadata.num_columns, path)
        return file.read(use_threads=False).to_pandas(ignore_metadata=True)


def _npz(path: str) -> pd.DataFrame:
    """Read the arrays of an archive; one with several columns becomes NAME[0], ..."""
    import pandas as pd

    names = sorted(npz.names(Path(path)))
    headers = npz.headers(Path(path), names, data.MAX_BYTES)
    for name, header in headers.items():
        if not header.shape:
            raise DataError(f"{path}: '{cut(name)}' is not a column but one value")
    rows = {name: header.shape[0] for name, header in headers.items()}
    if 0 in rows.values():
        raise DataError(f"{path}: holds no rows")
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{name} {count:,}" for name, count in rows.items())
        raise DataError(f"{path}: arrays have different numbers of rows: {cut(counts)}")
    values = sum(math.prod(header.shape) for header in headers.values())
    _check_size(values, 1, path)
    columns: dict[str, np.ndarray] = {}
    for name, array in npz.read(Path(path), names, data.MAX_BYTES).items():
        if array.ndim == 1:
            columns[name] = array
        else:
            flat = array.reshape(len(array), -1)
            columns |= {f"{name}[{i}]": flat[:, i] for i in range(flat.shape[1])}
    return pd.DataFrame(columns)


# Targets


def _kind_of(target: pd.Series, query: Query, where: str) -> str:
    """Tell classification from regression by the targets."""
    column = cut(query.target)
    columns_lib.check(target, column, where)
    if columns_lib.is_text(target):
        if query.kind == "regression":
            raise DataError(f"{where}: target '{column}' is not of numbers")
        columns_lib.warn_of_classes(target, column, where)
        return "classification"
    values = target.to_numpy(float)
    if not np.isfinite(values).all():
        raise DataError(f"{where}: target '{column}' has values that are not finite")
    whole = (values == np.round(values)).all()
    if query.kind == "classification" and not whole:
        raise DataError(
            f"{where}: target '{column}' has fractions, which are no classes"
        )
    distinct = len(np.unique(values))
    few = whole and distinct <= min(_CLASSES, len(values) / 10)
    return query.kind or ("classification" if few else "regression")


def _classification(
    name: str,
    query: Query,
    columns: pd.DataFrame,
    target: pd.Series,
    options: TaskOptions,
) -> Task:
    """Logistic regression, or a network where there are hidden layers."""
    values = target.astype(str) if columns_lib.is_text(target) else target
    labels = np.unique(values.to_numpy(), return_inverse=True)[1]
    study = options.protocol == "study"
    rows = np.arange(len(labels)) if study else libsvm.split(labels).train
    features = columns_lib.encode(columns, rows, name)
    task = libsvm.logistic_task(name, features, labels, options)
    task = dataclasses.replace(task, metrics=_ranked(query, task.metrics, _SUMS))
    more = _SUMS.get(task.metrics[0])
    if more == "scores" and task.num_classes > 2:
        raise DataError(
            f"{name}: metric=auc is for two classes, and there are {task.num_classes}"
        )
    if query.hidden:
        model = _model(query, features.shape[1], task.num_classes, options)
        wanted = ("accuracy", more) if more else ("accuracy",)
        functions = _functions(model, "cross_entropy", wanted)
        return _renamed(dataclasses.replace(task, **functions))
    if more:
        task = dataclasses.replace(task, evaluate=_summing(task.evaluate, more))
    return task


def _ranked(
    query: Query, usual: Sequence[Metric], more: Iterable[Metric] = ()
) -> tuple[Metric, ...]:
    """The metrics of a task, the first as its name says.

    Args:
      query: names it.
      usual: those of every table of its kind.
      more: those that a name may ask for beside these.

    Raises:
      DataError: if its kind has no such metric.
    """
    known = {metric.name: metric for metric in (*usual, *more)}
    if query.metric and query.metric not in known:
        raise DataError(f"{query.path}: {unknown('metric', query.metric, known)}")
    first = known[query.metric] if query.metric else usual[0]
    return (first, *(metric for metric in usual if metric is not first))


def _summing(evaluate: Any, name: str) -> Callable[..., dict[str, jax.Array]]:
    """`logistic.evaluate` with another sum.

    Args:
      evaluate: a `functools.partial` of it.
      name: of a sum in `sums.known`.
    """
    function, squash = sums_lib.known()[name], evaluate.keywords["squash"]

    def summing(params: Any, state: Any, batch: Any) -> dict[str, jax.Array]:
        scores = logistic.logits(
            params, batch["features"], evaluate.keywords["compute"]
        ).T
        scores = jax.nn.sigmoid(scores) if squash else scores
        more = function(scores, batch["labels"], batch["mask"])
        return {**evaluate(params, state, batch), name: more}

    return summing


def _regression(
    name: str,
    query: Query,
    columns: pd.DataFrame,
    target: pd.Series,
    options: TaskOptions,
) -> Task:
    """Least squares of the standardised targets, linear or with hidden layers."""
    study, values = options.protocol == "study", target.to_numpy(float)
    rows = np.arange(len(values))
    held = [rows] * 3 if study else given.held(len(values), (given.SHARE,) * 2)
    train = held[0]
    encoded = columns_lib.encode(columns, train, name)
    features = libsvm.scaled(name, encoded, train, options)
    span, most = np.ptp(values[train]), _SPAN[features.dtype.name]
    if not span:
        raise DataError(f"{name}: all targets of the training part are equal")
    if not 1 / most <= span <= most:
        raise DataError(
            f"{name}: the targets span {span:.0e}, whose square {features.dtype.name} "
            "cannot sum: give them in another unit"
        )
    centre, spread = values[train].mean(), values[train].std()
    scaled = ((values - centre) / spread).astype(features.dtype)
    parts = [
        jax.device_put({"inputs": features[at], "targets": scaled[at]})
        for at in held[: 1 if study else 3]
    ]
    model = _model(query, features.shape[1], 1, options)
    # In the unit of the targets.
    factors = {"squared_error": spread**2, "absolute_error": spread, "moments": 1.0}
    functions = _functions(model, "squared_error", factors)
    return Task(
        name=name,
        train=parts[0],
        valid=parts[-2 if len(parts) > 1 else 0],
        test=parts[-1],
        batch_size=options.batch_size or libsvm.BATCH_SIZE,
        metrics=_ranked(query, _ERRORS),
        exchangeable=not study,
        **functions,
    )


_ERRORS = (metrics.rmse(), metrics.r2(), metrics.mae(), NONNEGATIVE_LOSS)
_KINDS = {"classification": _classification, "regression": _regression}


def _model(query: Query, inputs: int, outputs: int, options: TaskOptions) -> Model:
    """The network of a table.

    Args:
      query: its hidden layers.
      inputs, outputs: numbers of units.
      options: `precision` is used.
    """
    dtype = np.float64 if options.precision == "float64" else np.float32
    compute = jnp.bfloat16 if options.precision == "bfloat16" else None
    if query.norm:
        from lrjax.tasks import models

        network = models.Perceptron(
            outputs, query.hidden, norm=True, dtype=compute, param_dtype=dtype
        )
        return libraries.linen(network, None, np.zeros((1, inputs), dtype))
    sizes = (inputs, *query.hidden, outputs)

    def init(key: jax.Array) -> tuple[Any, tuple[()]]:
        return mlp.init(key, sizes, dtype), ()

    def apply(params: Any, state: Any, inputs: Any, key: Any) -> tuple[Any, Any]:
        del key  # nothing here is random
        return mlp.apply(params, inputs, compute), state

    return Model(init, apply, "table")


def _functions(model: Model, loss: str, wanted: Any) -> dict[str, Any]:
    """`init`, `loss` and `evaluate` of a network.

    Args:
      model: the network.
      loss: name of the loss.
      wanted: names of the sums that the metrics need; as a dictionary, their factors.
    """
    factors = wanted if isinstance(wanted, Mapping) else dict.fromkeys(wanted, 1.0)
    known = sums_lib.known()
    made = adapters.Functions(
        model,
        losses.find(loss),
        sums={
            name: functools.partial(_times, factor, known[name])
            for name, factor in factors.items()
        },
    )
    return {"init": made.init, "loss": made.loss, "evaluate": made.evaluate}


def _times(
    factor: float, function: sums_lib.Sum, outputs: Any, targets: Any, mask: jax.Array
) -> jax.Array:
    return factor * function(outputs, targets, mask)


def _renamed(task: Task) -> Task:
    """Call features 'inputs', as `adapters.Functions` does."""
    parts = {}
    for part in ("train", "valid", "test"):
        own = getattr(task, part)
        parts[part] = {"inputs": own["features"], "labels": own["labels"]}
    if task.valid is task.train:
        parts = dict.fromkeys(parts, parts["train"])
    return dataclasses.replace(task, **parts)


FACTORIES = {name: Factory(functools.partial(make_bundled, name)) for name in RECIPES}
