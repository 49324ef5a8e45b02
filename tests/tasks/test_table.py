"""Tables are encoded as scikit-learn does, and are refused in one line."""

import functools
import gzip
import io
import re

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from sklearn import datasets
from sklearn import metrics as sklearn
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import lrjax
from lrjax import tasks
from lrjax.core import UsageError
from lrjax.tasks import given, libsvm, table
from lrjax.tasks.options import TaskOptions

ROWS = 120
DRAW = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "age": DRAW.normal(40, 10, ROWS),
        "rooms": DRAW.integers(1, 9, ROWS),
        "town": DRAW.choice(["Aix", "Bonn", "Cork"], ROWS),
        "garden": DRAW.random(ROWS) < 0.5,
        "kind": DRAW.choice(["flat", "house"], ROWS),
    }
)
FRAME["price"] = 1e5 + 1e3 * FRAME["age"] + DRAW.normal(0, 10, ROWS)
GAPS = FRAME.copy()
GAPS.loc[:20, "age"] = np.nan
GAPS.loc[10:40, "town"] = None


def written(frame, folder, ending=".csv"):
    path = folder / f"table{ending}"
    if ending == ".parquet":
        frame.to_parquet(path)
    elif ending == ".npz":
        np.savez(path, **{name: frame[name].to_numpy() for name in frame})
    elif ending.endswith(".gz"):
        path.write_bytes(gzip.compress(frame.to_csv(index=False).encode()))
    else:
        separator = {".tsv": "\t", ".csv": ","}[ending]
        frame.to_csv(path, index=False, sep=separator)
    return path


def task_of(path, query, **options):
    return tasks.make_task(f"table:{path}?{query}", TaskOptions(**options))


def whole(task, name):
    """All rows of a task, sorted."""
    parts = [np.asarray(getattr(task, p)[name]) for p in ("train", "valid", "test")]
    return np.sort(np.concatenate(parts).ravel())


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".csv.gz", ".parquet"])
def test_every_format_gives_the_same_task(ending, tmp_path):
    first = task_of(written(FRAME, tmp_path), "target=kind")
    same = task_of(written(FRAME, tmp_path, ending), "target=kind")
    for name, array in first.train.items():
        np.testing.assert_allclose(array, same.train[name], rtol=1e-6)


def test_archives_have_a_column_per_array_and_column(tmp_path):
    x, y = DRAW.normal(size=(ROWS, 2, 2)), DRAW.integers(3, size=ROWS)
    np.savez(tmp_path / "a.npz", x=x, y=y, more=x[:, 0, 0])
    found = table.read(str(tmp_path / "a.npz"))
    assert list(found) == ["more", "x[0]", "x[1]", "x[2]", "x[3]", "y"]
    np.testing.assert_array_equal(found["x[2]"], x[:, 1, 0])
    assert task_of(tmp_path / "a.npz", "target=y").num_classes == 3


def test_columns_are_encoded_as_scikit_learn_does(tmp_path):
    path = written(GAPS, tmp_path)
    with pytest.warns(UserWarning, match="41 rows of 120 with missing .* in age, town"):
        task = task_of(path, "target=kind&drop=price")
    labels = (FRAME["kind"] == "house").to_numpy(int)
    train = libsvm.split(labels).train
    numbers = SimpleImputer(add_indicator=True)
    texts = make_pipeline(
        SimpleImputer(strategy="constant", fill_value="~missing"),
        OneHotEncoder(sparse_output=False, handle_unknown="ignore"),
    )
    encoder = make_pipeline(
        make_column_transformer(
            (numbers, ["age"]),
            ("passthrough", ["rooms"]),
            (texts, ["town"]),
            (OneHotEncoder(sparse_output=False), ["garden"]),
        ),
        StandardScaler(),
    )
    rows = pd.read_csv(path).astype({"town": object})
    rows["town"] = rows["town"].where(rows["town"].notna(), np.nan)
    expected = encoder.fit(rows.iloc[train]).transform(rows)
    np.testing.assert_allclose(
        task.train["features"], expected[train], rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        task.test["features"],
        expected[libsvm.split(labels).test],
        rtol=1e-4,
        atol=1e-5,
    )


def test_what_validation_alone_has_changes_nothing(tmp_path):
    held = given.held(ROWS, (0.2, 0.2))
    changed = FRAME.copy()
    changed.loc[held[1], "age"] = 1e6
    changed.loc[held[2], "town"] = "Delft"
    first = task_of(written(FRAME, tmp_path), "target=price")
    second = task_of(written(changed, tmp_path), "target=price")
    for name, array in first.train.items():
        np.testing.assert_array_equal(array, second.train[name])
    assert np.abs(second.valid["inputs"]).max() > 1000


@pytest.mark.parametrize("hidden", ["", "&hidden=8x4"])
def test_metrics_of_a_regression_are_in_the_targets_unit(hidden, tmp_path):
    task = task_of(written(FRAME, tmp_path), f"target=price{hidden}")
    assert [m.name for m in task.metrics] == ["rmse", "r2", "mae", "loss"]
    params, state = jax.jit(task.init)(jax.random.key(0))
    assert len(params) == (3 if hidden else 1)
    _, valid, _ = given.held(ROWS, (0.2, 0.2))
    batch = {k: jnp.asarray(v) for k, v in task.valid.items()}
    sums = task.evaluate(params, state, batch | {"mask": jnp.ones(len(valid))})
    prices = FRAME["price"].to_numpy()
    train = given.held(ROWS, (0.2, 0.2))[0]
    x = np.asarray(task.valid["inputs"])
    for layer in params[:-1]:
        x = np.maximum(x @ layer["weight"] + layer["bias"], 0)
    x = x @ params[-1]["weight"] + params[-1]["bias"]
    predicted = prices[train].mean() + prices[train].std() * np.asarray(x)[:, 0]
    found = {m.name: float(m.value(sums)) for m in task.metrics}
    truth = prices[valid]
    expected = {
        "rmse": sklearn.root_mean_squared_error(truth, predicted),
        "mae": sklearn.mean_absolute_error(truth, predicted),
        "r2": sklearn.r2_score(truth, predicted),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4)


@pytest.mark.parametrize("hidden", ["", "&hidden=4"])
@pytest.mark.parametrize("protocol", ["sound", "study"])
@pytest.mark.parametrize(
    ("target", "metric", "truth"),
    [
        ("rooms", "f1", functools.partial(sklearn.f1_score, average="macro")),
        ("rooms", "balanced_accuracy", sklearn.balanced_accuracy_score),
        ("kind", "auc", sklearn.roc_auc_score),
        ("rooms", "accuracy", sklearn.accuracy_score),
    ],
)
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_classes_are_ranked_by_the_metric_that_is_named(
    target, metric, truth, protocol, hidden, tmp_path
):
    path = written(FRAME, tmp_path)
    plain = task_of(path, f"target={target}{hidden}", protocol=protocol)
    query = f"target={target}{hidden}&metric={metric}"
    task = task_of(path, query, protocol=protocol)
    assert task.metrics[0].name == metric
    assert {m.name for m in task.metrics} == {metric, "accuracy", "loss"}
    params, state = jax.jit(task.init)(jax.random.key(0))
    size = len(task.valid["labels"])
    mask = jnp.ones(size).at[::3].set(0)
    sums = task.evaluate(params, state, {**task.valid, "mask": mask})
    usual = plain.evaluate(params, state, {**plain.valid, "mask": mask})
    for name, value in usual.items():  # the same training, bit by bit
        np.testing.assert_array_equal(sums[name], value)
    labels = np.asarray(task.valid["labels"])
    if hidden:
        layers, x = [*params], np.asarray(task.valid["inputs"], float)
        x = np.maximum(x @ layers[0]["weight"] + layers[0]["bias"], 0)
        scores = x @ layers[1]["weight"] + layers[1]["bias"]
    else:
        x = np.asarray(task.valid["features"], float)
        scores = x @ np.asarray(params["weight"]).T + np.asarray(params["bias"])
        scores = 1 / (1 + np.exp(-scores)) if protocol == "study" else scores
    said = scores.argmax(1)
    if metric == "auc":  # of a thousand bins
        said = np.floor(1000 / (1 + np.exp(scores[:, 0] - scores[:, 1])))
    counts = np.asarray(mask) > 0
    expected = truth(labels[counts], said[counts])
    found = float(task.metrics[0].value(sums))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (
            "target=rooms&metric=f2",
            "unknown metric 'f2': it is one of accuracy, loss, f1",
        ),
        ("target=rooms&metric=auc", "metric=auc is for two classes, and there are 8"),
        ("target=price&metric=accuracy", "unknown metric 'accuracy'"),
    ],
)
def test_a_metric_that_does_not_fit_is_one_line(query, said, tmp_path):
    with pytest.raises(UsageError, match=said):
        task_of(written(FRAME, tmp_path), query)


def test_errors_are_ranked_by_the_metric_that_is_named(tmp_path):
    task = task_of(written(FRAME, tmp_path), "target=price&metric=mae")
    assert [m.name for m in task.metrics] == ["mae", "rmse", "r2", "loss"]


@pytest.mark.parametrize(
    "query",
    [
        *("target=kind", "target=price&hidden=4&norm=batch"),
        pytest.param("target=price", marks=pytest.mark.slow),
        pytest.param("target=kind&hidden=4", marks=pytest.mark.slow),
    ],
)
def test_a_tables_task_passes_the_checks(query, tmp_path):
    lrjax.check_task(task_of(written(FRAME, tmp_path), query))


@pytest.mark.parametrize("protocol", ["sound", "study"])
@pytest.mark.parametrize(
    ("query", "classes"),
    [
        ("target=kind", 2),
        ("target=garden", 2),
        ("target=rooms", 8),
        ("target=rooms&kind=regression", 0),
        ("target=price", 0),
        ("target=kind&hidden=4", 2),
        ("target=kind&hidden=4&norm=batch", 2),
    ],
)
def test_the_kind_follows_from_the_target(query, classes, protocol, tmp_path):
    task = task_of(written(FRAME, tmp_path), query, protocol=protocol)
    assert task.num_classes == classes
    assert (task.valid is task.train) == (protocol == "study")
    rows = ROWS * (3 if protocol == "study" else 1)
    assert len(whole(task, "labels" if classes else "targets")) == rows


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_networks_of_tables_keep_float32_parameters(precision, tmp_path):
    path = written(FRAME, tmp_path)
    for query in ("target=kind&hidden=4", "target=kind&hidden=4&norm=batch"):
        task = task_of(path, query, precision=precision, batch_size=16)
        assert task.batch_size == 16
        leaves = jax.tree.leaves(jax.eval_shape(task.init, jax.random.key(0)))
        assert {str(leaf.dtype) for leaf in leaves} == {"float32"}


def test_batch_normalisation_is_that_of_the_formula(tmp_path):
    task = task_of(written(FRAME, tmp_path), "target=price&hidden=8&norm=batch")
    params, state = task.init(jax.random.key(0))
    batch = {k: v[:20] for k, v in task.train.items()} | {"mask": jnp.ones(20)}
    loss, (state, _) = task.loss(params, state, jax.random.key(1), batch)
    values = jax.tree.map(np.asarray, params)
    hidden = np.asarray(batch["inputs"]) @ values["layer1"]["kernel"]
    hidden += values["layer1"]["bias"]
    mean, variance = hidden.mean(0), hidden.var(0)
    x = np.maximum((hidden - mean) / np.sqrt(variance + 1e-5), 0)
    out = x @ values["layer2"]["kernel"] + values["layer2"]["bias"]
    expected = np.square(out[:, 0] - np.asarray(batch["targets"])).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    (running,) = state["batch_stats"].values()
    np.testing.assert_allclose(running["mean"], 0.1 * mean, rtol=1e-4, atol=1e-6)
    # PyTorch's running variance: unbiased, 1 at the start.
    unbiased = 0.9 + 0.1 * variance * 20 / 19
    np.testing.assert_allclose(running["var"], unbiased, rtol=1e-4)


@pytest.mark.parametrize("name", table.RECIPES)
def test_bundled_tables_are_those_of_their_files(name, tmp_path):
    query = table.RECIPES[name]
    load = getattr(datasets, f"load_{query.path}")
    options = {"scaled": False} if query.path == "diabetes" else {}
    features, targets = load(return_X_y=True, **options)
    frame = pd.DataFrame(features).assign(y=targets)
    path = written(frame.rename(columns=str), tmp_path)
    hidden = f"&hidden={'x'.join(map(str, query.hidden))}" if query.hidden else ""
    norm = "&norm=batch" if query.norm else ""
    mine = task_of(path, f"target=y&kind={query.kind}{hidden}{norm}")
    ours = tasks.make_task(name)
    assert tasks.fingerprint(mine) == tasks.fingerprint(ours)
    shapes = [jax.eval_shape(t.init, jax.random.key(0)) for t in (mine, ours)]
    assert shapes[0] == shapes[1]


# One of each kind: a linear model, and a network with batch normalisation.
CHECKED = ("breast_cancer/mlp_bn", "diabetes/linear")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in CHECKED else pytest.mark.slow)
        for n in table.RECIPES
    ],
)
def test_bundled_tables_pass_the_checks(name):
    lrjax.check_task(tasks.make_task(name))


def test_rows_without_a_target_are_left_out(tmp_path):
    frame = FRAME.copy()
    frame.loc[:9, "price"] = np.nan
    path = written(frame, tmp_path)
    with pytest.warns(UserWarning, match="10 rows without a target left out"):
        task = task_of(path, "target=price")
    assert len(whole(task, "targets")) == ROWS - 10


WORDS = ["NA", "None", "null", "nan", "N/A"]


def with_words(word):
    """A target and a column of texts that have a word, and empty cells beside it."""
    texts = [["a", word, "b"][i % 3] for i in range(ROWS)]
    frame = FRAME.assign(words=texts, kind=texts)
    frame.loc[:5, ["words", "kind"]] = None
    return frame.drop(columns="town", errors="ignore")


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("word", WORDS)
def test_among_texts_an_empty_cell_alone_is_missing(word, ending, tmp_path):
    """Numbers keep NA as missing; Parquet says itself what is."""
    frame = with_words(word)
    path = written(frame, tmp_path, ending)
    read = table.read(str(path))
    for name in ("words", "kind"):
        assert read[name].isna().sum() == 6
        assert (read[name] == word).sum() == (frame[name] == word).sum() > 20
    pd.testing.assert_series_equal(read["age"], frame["age"])
    said = rf"6 rows without a target|'{re.escape(word)}' in column 'kind' is a class"
    with pytest.warns(UserWarning, match=said):
        task = task_of(path, "target=kind&drop=words")
    assert set(whole(task, "labels")) == {0, 1, 2}


@pytest.mark.parametrize("separator", [",", ";"])
def test_among_numbers_dates_and_truth_values_words_are_missing(separator, tmp_path):
    path = tmp_path / "a.csv"
    rows = [
        "1.5;True;2020-01-01;yes;$5",
        "NA;NA;NA;NA;NA",
        ";;;;",
        "2.5;False;2020-01-02;no;$6",
    ]
    text = "\n".join(["x;truth;day;words;price", *rows])
    path.write_text(text.replace(";", separator))
    read = table.read(str(path))
    missing = read.isna().sum().to_dict()
    assert missing == {"x": 2, "truth": 2, "day": 2, "words": 1, "price": 2}
    assert read["x"].dtype == float
    assert read["words"].tolist()[:2] == ["yes", "NA"]


def test_words_are_kept_beside_names_of_rows_and_in_those_of_columns(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x,NA\n" + "".join(f"r{i},NA,{i % 3 or ''}a\n" for i in range(6)))
    assert table.read(str(path)).columns.tolist() == ["x", "NA"]
    path.write_text("x,y,\n" + "NA,1,\nb,,\n,2,\n" * 3)
    read = table.read(str(path))
    assert read["x"].isna().sum() == 3
    assert set(read["x"].dropna()) == {"NA", "b"}
    path.write_text("NA,NA\n1,2\n")
    with pytest.raises(UsageError, match="column 'NA' comes twice"):
        table.read(str(path))


X = np.arange(20.0)
X6 = np.linspace(0, 6, ROWS)
DATES = FRAME.assign(when=pd.date_range("2020-01-01", periods=ROWS))
WRONG = {
    "no target": ("", FRAME, "which column is the target.*one of age, rooms"),
    "unknown target": ("target=prize", FRAME, "did you mean 'price'"),
    "unknown drop": ("target=price&drop=ages", FRAME, "did you mean 'age'"),
    "a setting": ("target=price&hiden=3", FRAME, "did you mean 'hidden'"),
    "twice": ("target=price&target=age", FRAME, "target is given twice"),
    "kind": ("target=price&kind=ranking", FRAME, "classification or regression"),
    "hidden": ("target=price&hidden=big", FRAME, "such as hidden=64x64"),
    "wide": ("target=price&hidden=999999", FRAME, "1 to 65,536 units"),
    "norm": ("target=price&hidden=8&norm=layer", FRAME, "norm must be batch"),
    "norm alone": ("target=price&norm=batch", FRAME, "add hidden=64x64"),
    "dates": ("target=price", DATES, r"'when' holds dates.*&drop=when"),
    "a date as target": ("target=when", DATES, "'when' holds dates"),
    "identifiers": (
        "target=price",
        FRAME.assign(name=[f"n{i}" for i in range(ROWS)]),
        r"as identifiers have: leave it out \(&drop=name\)",
    ),
    "infinite": ("target=price", FRAME.assign(x=np.inf), "'x' has infinite numbers"),
    "texts as numbers": (
        "target=town&kind=regression",
        FRAME,
        "'town' is not of numbers",
    ),
    "fractions as classes": ("target=price&kind=classification", FRAME, "fractions"),
    "constant": ("target=price", FRAME.assign(price=1.5), "are equal"),
    "too large to square": ("target=price", FRAME.assign(price=X6 * 1e36), "span 6e"),
    "too small to square": ("target=price", FRAME.assign(price=X6 / 1e36), "span 6e"),
    "amounts": (
        "target=price",
        FRAME.assign(x=[f"$1,{i:03}" for i in range(ROWS)]),
        r"such as '\$1,\d+': write numbers as 1234.5, or leave it out \(&drop=x\)",
    ),
    "a mark for missing": (
        "target=price",
        FRAME.assign(x=["?", *map(str, range(1, ROWS))]),
        r"'\?' is not a number: empty such cells, or leave it out \(&drop=x\)",
    ),
    "one class": ("target=kind", FRAME.assign(kind="flat"), "one class only"),
    "alone": ("target=price", FRAME[["price"]], "no column beside the target"),
    "nothing": ("target=price", FRAME.assign(price=np.nan), "has no values"),
    "no rows": ("target=price", FRAME[:0], "holds no rows"),
    "few rows": ("target=price", FRAME[:2], "cannot be split"),
}


@pytest.mark.filterwarnings("ignore:.*left out")
@pytest.mark.parametrize("ending", [".csv", ".parquet"])
@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_used_is_one_line(what, ending, tmp_path):
    query, frame, said = WRONG[what]
    path = written(frame, tmp_path, ending)
    with pytest.raises(UsageError, match=said) as error:
        task_of(path, query)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([[1, 2]] * ROWS, "holds values of type"),
        ([b"a"] * ROWS, "holds values of type bytes"),
        ([pd.Timestamp(2020, 1, 1).date()] * ROWS, "holds dates"),
        ([pd.Timedelta(1)] * ROWS, "holds dates or times"),
    ],
)
def test_values_of_other_kinds_are_named(values, said, tmp_path):
    path = written(FRAME.assign(x=values), tmp_path, ".parquet")
    with pytest.raises(UsageError, match=f"'x' {said}.*&drop=x"):
        task_of(path, "target=price")


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".npz"])
@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"PK\x03\x04", b"PAR1PAR1"])
def test_damaged_files_are_one_line(ending, content, tmp_path):
    path = tmp_path / f"a{ending}"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=f"^{path}: ") as error:
        task_of(path, "target=y")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f"a,b,y\n{'1,2,0~' * 7}1,2,3,0\n", "line 9 has 4 values for 3 columns"),
        ("a,a,y\n" + "1,2,0\n" * 9, "column 'a' comes twice"),
        ("a,a.1,y\n" + "1,2,0\n" * 9, None),  # two names
    ],
)
def test_lines_and_names_that_do_not_fit_are_named(content, said, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(content.replace("~", "\n"))
    if said is None:
        table.read(str(path))
        return
    with pytest.raises(UsageError) as error:
        table.read(str(path))
    assert str(error.value) in (f"{path}: {said}", f"{path}: cannot be read: {said}")


def test_lines_that_end_with_a_separator_move_no_column(tmp_path):
    """Pandas takes the first value of longer lines for the name of the row."""
    path, plain = tmp_path / "a.csv", FRAME.to_csv(index=False)
    first, rest = plain.split("\n", 1)
    path.write_text(f"{first}\n" + rest.replace("\n", ",\n"))
    pd.testing.assert_frame_equal(
        table.read(str(path)), pd.read_csv(io.StringIO(plain))
    )


def test_a_column_that_the_first_line_lacks_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x,y\n" + "1.5,2,a\n1.5,3,b\n" * 9)
    with pytest.raises(UsageError, match=r"lines have 3 values.*names 2 columns"):
        table.read(str(path))


@pytest.mark.parametrize("names", ["123456", "abcdef"])
def test_the_names_that_r_gives_to_rows_are_no_column(names, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x,y\n" + "".join(f"{name},1.5,2\n" for name in names))
    assert table.read(str(path)).to_numpy().tolist() == [[1.5, 2]] * len(names)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_an_index_is_no_feature(ending, tmp_path):
    """Here it would tell the classes, as in any sorted table."""
    frame = FRAME.sort_values("kind", ignore_index=True).sample(frac=1, random_state=0)
    path = tmp_path / f"a{ending}"
    (frame.to_csv if ending == ".csv" else frame.to_parquet)(path)
    with pytest.warns(UserWarning, match="only numbers the rows: column "):
        task = task_of(path, "target=kind")
    width = task_of(written(FRAME, tmp_path), "target=kind").train["features"].shape[1]
    assert task.train["features"].shape[1] == width


def test_numbers_with_decimal_commas_are_numbers_beside_semicolons(tmp_path):
    path = tmp_path / "a.csv"
    FRAME.to_csv(path, sep=";", decimal=",", index=False)
    pd.testing.assert_frame_equal(
        table.read(str(path)), pd.read_csv(path, sep=";", decimal=",")
    )


def test_a_text_among_few_numbers_is_said(tmp_path):
    values = ["?", *[str(i % 15) for i in range(1, ROWS)]]
    path = written(FRAME.assign(x=values), tmp_path)
    with pytest.warns(UserWarning, match=r"'x' is text, as '\?' is not a number"):
        task_of(path, "target=price")


@pytest.mark.parametrize("file", ["table.csv", "what?.csv", "a.csv?b.csv"])
@pytest.mark.parametrize("column", ["is it?", "?", "a?b=c?"])
def test_files_and_columns_may_have_question_marks(file, column, tmp_path):
    FRAME.rename(columns={"price": column}).to_csv(tmp_path / file, index=False)
    quoted = column.replace("?", "%3F")
    for query in (f"target={column}", f"target={quoted}&kind=regression"):
        name = f"table:{tmp_path / file}?{query}"
        assert tasks.make_task(name).metric.name == "rmse"


def test_large_tables_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    path = written(FRAME, tmp_path, ".parquet")
    monkeypatch.setattr("lrjax.tasks.data.MAX_ELEMENTS", 100)
    with pytest.raises(UsageError, match="120 rows x 6 columns are more than 100"):
        task_of(path, "target=y")
    np.savez_compressed(tmp_path / "zeros.npz", x=np.zeros((50, 5)), y=np.zeros(50))
    with pytest.raises(UsageError, match="300 rows x 1 columns are more than 100"):
        task_of(tmp_path / "zeros.npz", "target=y")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": X, "y": X[:9]}, "different numbers of rows"),
        ({"x": X[:0, None], "y": X[:0]}, "holds no rows"),
        ({"x": X, "y": np.float32(1)}, "'y' is not a column but one value"),
        ({"x": X, "y": np.array(["a"] * 20)}, "other things than numbers"),
    ],
)
def test_archives_of_other_things_are_one_line(arrays, said, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UsageError, match=said):
        task_of(tmp_path / "a.npz", "target=y")


@pytest.mark.parametrize("name", ["a.xls", "a", "a.svm.gz"])
def test_other_endings_are_refused(name):
    with pytest.raises(UsageError, match=r"tables are \.csv, \.tsv, \.parquet, \.npz"):
        table.read(name)
