"""Data of every form become the same parts."""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from flax import linen as nn

import lrjax
from lrjax.core import UsageError
from lrjax.tasks import given

ROWS = 40
X = np.arange(ROWS * 3, dtype=np.float32).reshape(ROWS, 3)
Y = np.arange(ROWS) % 3


class Tensor:
    """As PyTorch's: an array that is on a device and has a gradient."""

    def __init__(self, array):
        self.array = array

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        return self.array


class Columns:
    """As a `datasets.Dataset`."""

    column_names = ("x", "label")

    def __len__(self):
        return ROWS

    def with_format(self, kind):
        assert kind == "numpy"
        return self

    def iter(self, rows):
        for first in range(0, ROWS, min(rows, 30)):
            at = slice(first, first + 30)
            yield {"x": X[at], "label": Y[at]}


class Loader:
    """As a PyTorch `DataLoader`: lists of tensors, the last batch short."""

    def __iter__(self):
        for first in range(0, ROWS, 16):
            rows = slice(first, first + 16)
            yield [Tensor(X[rows]), Tensor(Y[rows])]


class Streams:
    """As a `tf.data.Dataset`."""

    def __iter__(self):
        raise AssertionError

    def as_numpy_iterator(self):
        return iter([(X[:7], Y[:7]), (X[7:], Y[7:])])


FORMS = {
    "numpy": lambda: (X, Y),
    "jax": lambda: (jnp.asarray(X), jnp.asarray(Y)),
    "lists": lambda: (X.tolist(), Y.tolist()),
    "pandas": lambda: (pd.DataFrame(X), pd.Series(Y)),
    "columns of several types": lambda: (
        pd.DataFrame(X).astype({0: object}),
        pd.Series(Y).astype(object),
    ),
    "tensors": lambda: (Tensor(X), Tensor(Y)),
    "dictionary": lambda: {"x": X, "y": Y},
    "dataset": Columns,
    "loader": Loader,
    "tf.data": Streams,
    "batches": lambda: ((X[i : i + 9], Y[i : i + 9]) for i in range(0, ROWS, 9)),
    "dictionaries": lambda: iter([{"a": X[:5], "y": Y[:5]}, {"a": X[5:], "y": Y[5:]}]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_parts(form):
    found = given.parts(FORMS[form]())
    expected = given.parts((X, Y))
    for part in ("train", "valid", "test"):
        own = getattr(found, part)
        assert list(own) == ["inputs", "targets"]
        for name, array in getattr(expected, part).items():
            assert isinstance(own[name], jax.Array)
            np.testing.assert_array_equal(own[name], array)
            assert own[name].dtype == (jnp.int32 if name == "targets" else jnp.float32)


def test_a_split_is_of_all_rows_and_always_the_same():
    rows = [
        np.asarray(part["inputs"][:, 0]) for part in given.parts((X, Y), 0.25, 0.1)[:3]
    ]
    assert [len(each) for each in rows] == [26, 10, 4]
    np.testing.assert_array_equal(np.sort(np.concatenate(rows)), X[:, 0])
    again = given.parts((X, Y), 0.25, 0.1)
    np.testing.assert_array_equal(rows[1], again.valid["inputs"][:, 0])


def test_parts_that_are_not_given():
    both = given.parts((X, Y))
    assert [len(p["inputs"]) for p in both[:3]] == [24, 8, 8]
    shared = given.parts((X[:30], Y[:30]), (X[30:], Y[30:]))
    assert shared.test is shared.valid
    assert len(shared.train["inputs"]) == 30
    drawn = given.parts((X, Y), 0.25, 0)
    assert drawn.test is drawn.valid
    assert len(drawn.train["inputs"]) == 30
    own = given.parts((X, Y), 0.25, (X[:3], Y[:3]))
    assert [len(p["inputs"]) for p in own[:3]] == [30, 10, 3]


@pytest.mark.parametrize(
    "tree",
    [
        X,
        (X, X + 1),
        {"tokens": X, "mask": X > 2},
        {"a": (X, {"b": X + 2}), "c": X},
        ((X,), X),
    ],
)
def test_trees_come_back_as_they_were(tree):
    flat = given.parts((tree, {"first": Y, "second": (Y, Y)})).train
    assert all(isinstance(array, jax.Array) for array in flat.values())
    assert "mask" not in flat
    for side, whole in (("inputs", tree), ("targets", {"first": Y, "second": (Y, Y)})):
        found = given.tree({k: np.asarray(v) for k, v in flat.items()}, side)
        assert jax.tree.structure(found) == jax.tree.structure(whole)


class Named(nn.Module):
    """Arguments by name."""

    @nn.compact
    def __call__(self, tokens, mask, train=False):
        return nn.Dense(3)(tokens * mask)


class Whole(nn.Module):
    """A dictionary."""

    @nn.compact
    def __call__(self, batch):
        return nn.Dense(3)(batch["tokens"] * batch["mask"])


class Positions(nn.Module):
    """Arguments by position."""

    @nn.compact
    def __call__(self, first, second):
        return nn.Dense(3)(first * second)


def test_inputs_go_to_a_model_by_name_by_position_or_whole():
    mask = (X % 2).astype(np.float32)
    named = {"tokens": X, "mask": mask}
    results = []
    for model, train in (
        (Named(), (named, Y)),
        (Whole(), (named, Y)),
        (Positions(), ((X, mask), Y)),
        (Named(), {**named, "label": Y}),
        (Named(), {**named, "more": X, "kind": Y}),
    ):
        options = {"targets": "kind", "inputs": list(named)} if len(train) > 3 else {}
        task = lrjax.Task.from_flax(model, "cross_entropy", train=train, **options)
        params, state = task.init(jax.random.key(0))
        batch = task.valid | {"mask": jnp.ones(8)}
        results.append(float(task.evaluate(params, state, batch)["loss"]))
    assert len(set(results)) == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_in_files_are_streamed(dtype, tmp_path):
    np.save(tmp_path / "x.npy", X.astype(dtype))
    np.save(tmp_path / "y.npy", Y.astype(np.int32))
    x, y = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xy")
    with pytest.raises(UsageError, match="cannot be split without a copy"):
        given.parts((x, y))
    if dtype == np.float64:
        with pytest.raises(UsageError, match="float64 in its file: write it as float3"):
            given.parts((x[:30], y[:30]), (x[30:], y[30:]))
        return
    task = lrjax.Task.from_flax(
        nn.Dense(3), "cross_entropy", (x[:30], y[:30]), (x[30:], y[30:]), batch_size=8
    )
    assert task.streamed
    assert isinstance(task.train["inputs"], np.memmap)
    assert isinstance(task.valid["inputs"], jax.Array)
    lrjax.check_task(task)
    assert not given.parts((x, y), (x, y), streamed=False).streamed


WRONG = {
    "an array": (lambda: X, r"must be \(inputs, targets\), not ndarray alone"),
    "a table": (lambda: pd.DataFrame(X), "not DataFrame alone"),
    "three": (lambda: (X, X, Y), "not 3 things"),
    "a number": (lambda: 3, "an iterator of batches, not 3"),
    "a path": (lambda: "data.csv", "not str alone"),
    "rows": (lambda: (X, Y[:9]), "inputs 40, targets 9"),
    "no rows": (lambda: (X[:0], Y[:0]), "train has no rows"),
    "few rows": (lambda: (X[:2], Y[:2]), "2 rows cannot be split"),
    "scalar": (lambda: (X, 3.0), "not an array with a row per example"),
    "text": (lambda: (X, np.array(["a"] * ROWS)), "holds text"),
    "missing": (
        lambda: (pd.DataFrame(np.where(np.eye(ROWS, 3), None, X)), Y),
        "has 3 missing values: fill them",
    ),
    "a column of dates": (
        lambda: (pd.DataFrame(X).assign(day=pd.Timestamp(0)), Y),
        "holds Timestamp, not numbers",
    ),
    "ragged": (lambda: ([[1, 2], [3]] * 20, Y), "rows of different lengths"),
    "dates": (lambda: (X, np.array(["2020-01-01"] * ROWS, "M8[D]")), "holds dates"),
    "keys": (lambda: (jax.random.split(jax.random.key(0), ROWS), Y), "random keys"),
    "large": (lambda: (X, Y + 2**40), "beyond 32 bits"),
    "no target": (lambda: {"a": X, "b": Y}, "which of a, b are the targets"),
    "one entry": (lambda: {"y": Y}, "no inputs beside 'y'"),
    "names": (lambda: {"a/b": X, "c": X, "y": Y}, "must be a name without /"),
    "environment": (
        lambda: types.SimpleNamespace(step=max, reset=max),
        "reinforcement learning does not fit",
    ),
    "parts": (
        lambda: types.SimpleNamespace(with_format=0, column_names={"train": []}),
        r"give one, such as data\['train'\]",
    ),
    "single rows": (lambda: iter(zip(X, Y, strict=True)), "yields single rows"),
    "tensors alone": (lambda: iter([X]), "yields ndarray, and a batch must be"),
    "used up": (lambda: iter(()), "yields no batches"),
    "without end": (lambda: iter(lambda: (X, Y), None), "or never end"),
    "lengths": (
        lambda: iter([(X, Y), (X[:, :2], Y)]),
        r"batch 2: inputs has rows of float32 \[2\], those of the first .* \[3\]",
    ),
    "types": (lambda: iter([(X, Y), (X > 2, Y)]), r"batch 2: inputs has rows of bool"),
    "entries": (
        lambda: iter([{"a": X, "y": Y}, {"b": X, "c": X, "y": Y}]),
        "batch 2 has the entries inputs/b, inputs/c, targets, the first inputs,",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_other_data_are_refused_in_one_line(what):
    make, said = WRONG[what]
    with pytest.raises(UsageError, match=said) as error:
        given.parts(make(), most=2**16)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("train")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"inputs": 3}, "unknown entry '3'"),
        ({"targets": 3}, "unknown entry '3'"),
        ({"max_bytes": "1G"}, "max_bytes '1G' must be a number"),
    ],
)
def test_options_of_other_types_are_refused_in_one_line(options, words):
    with pytest.raises(UsageError, match=words):
        lrjax.Task.from_flax(nn.Dense(3), "huber", {"x": X, "y": Y}, **options)


@pytest.mark.parametrize("share", [0, -0.1, 1, 1.5, np.nan])
def test_shares_lie_between_0_and_1(share):
    with pytest.raises(UsageError, match=r"valid .* must be a share of the rows"):
        given.parts((X, Y), share)


def test_a_loader_that_shuffles_is_named():
    loader = Loader()
    loader.sampler = type("RandomSampler", (), {})()
    with pytest.warns(UserWarning, match="shuffle=False"):
        given.parts(loader)


# The libraries themselves, where they are installed


def test_a_dataset_of_hugging_faces():
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"x": X.tolist(), "label": Y.tolist()})
    found = given.parts(data)
    np.testing.assert_array_equal(
        found.train["inputs"], given.parts((X, Y)).train["inputs"]
    )
    with pytest.raises(UsageError, match="holds several parts"):
        given.parts(datasets.DatasetDict({"train": data}))


def test_a_loader_of_pytorchs():
    data = pytest.importorskip("torch.utils.data", exc_type=ImportError)
    torch = sys.modules["torch"]
    pairs = data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    found = given.parts(data.DataLoader(pairs, batch_size=16))
    np.testing.assert_array_equal(
        found.train["inputs"], given.parts((X, Y)).train["inputs"]
    )
    with pytest.warns(UserWarning, match="shuffle=False"):
        given.parts(data.DataLoader(pairs, batch_size=16, shuffle=True))
    with pytest.raises(UsageError, match="single rows"):
        given.parts(pairs)


def test_batches_of_grains():
    grain = pytest.importorskip("grain")
    rows = [{"x": x, "y": y} for x, y in zip(X, Y, strict=True)]
    found = given.parts(grain.MapDataset.source(rows).batch(16))
    np.testing.assert_array_equal(
        found.train["inputs"], given.parts((X, Y)).train["inputs"]
    )
    with pytest.raises(UsageError, match="single rows"):
        given.parts(grain.MapDataset.source(rows))


def test_text_is_said_to_be_text_and_ragged_rows_to_be_ragged():
    x = np.zeros((6, 2), np.float32)
    ragged = np.empty(6, object)
    ragged[:] = [[0] * n for n in range(6)]
    for targets, said in (
        (np.array(["a", "b"] * 3), r"targets holds text, not numbers.*np\.unique"),
        (np.array(["a", None] * 3, object), "targets holds text, not numbers"),
        (ragged, "targets holds rows of different lengths"),
    ):
        with pytest.raises(UsageError, match=said):
            lrjax.Task.from_flax(nn.Dense(2), "cross_entropy", train=(x, targets))
