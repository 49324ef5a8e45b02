"""The LIBSVM and digits tasks: shapes, protocols, splits, and clear refusals."""

import bz2
import lzma
import os
import subprocess
import sys
import urllib.error
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import datasets as sklearn_datasets
from sklearn.datasets import load_digits, load_svmlight_file
from sklearn.preprocessing import StandardScaler, normalize

from lrjax.core import UsageError
from lrjax.tasks import (
    TASKS,
    DataError,
    TaskOptions,
    bundled,
    data,
    fingerprint,
    libsvm,
    make_task,
)

REAL = os.environ.get("LRJAX_DATA_DIR")
BUNDLED = ["libsvm/iris", "libsvm/wine", "digits/logistic"]
SHAPES = {  # rows, features, classes, as on LIBSVM's page
    "iris": (150, 4, 3),
    "wine": (178, 13, 3),
    "vowel": (528, 10, 11),
    "vehicle": (846, 18, 4),
    "dna": (2000, 180, 3),
    "letter": (15000, 16, 26),
    "pendigits": (7494, 16, 10),
    "sensorless": (58509, 48, 11),
    "aloi": (108000, 128, 1000),
    "glass": (214, 9, 6),
    "usps": (7291, 256, 10),
}


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No data directory, an empty cache and no network."""

    def unreachable(url, timeout):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.delenv("LRJAX_DATA_DIR", raising=False)
    monkeypatch.setenv("LRJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(data._INTERNET, "open", unreachable)


def real_file(name):
    path = Path(REAL or "", name)
    if not REAL or not path.exists():
        pytest.skip(f"LRJAX_DATA_DIR has no {name}")
    return path


def rows_of(part):
    return np.asarray(part["features"], np.float64), np.asarray(part["labels"])


def write(path, rows, features, classes, first_label=1):
    """Write a small dense svmlight file of the given shape."""
    rng = np.random.default_rng(0)
    lines = []
    for row in range(rows):
        values = " ".join(f"{j + 1}:{rng.normal():.3f}" for j in range(features))
        lines.append(f"{row % classes + first_label} {values}\n")
    path.write_text("".join(lines))


def test_the_table_lists_libsvms_sets():
    table = {n: (s.rows, s.features, s.classes) for n, s in libsvm.SETS.items()}
    assert table == SHAPES
    assert {f"libsvm/{name}" for name in SHAPES} <= set(TASKS)


@pytest.mark.parametrize("name", ["wine", "iris"])
def test_bundled_copies_equal_libsvms_files(name):
    features, labels = libsvm._bundled(name)
    text = lzma.decompress(real_file(f"{name}.scale.xz").read_bytes())
    expected, expected_labels = data.parse_svmlight(text, name)
    np.testing.assert_allclose(features, expected, atol=1e-6)
    np.testing.assert_array_equal(labels + 1, expected_labels)


def test_iris_has_the_values_of_uci():
    features, _ = libsvm._bundled("iris")
    lengths = np.array([4.3, 2.0, 1.0, 0.1]), np.array([7.9, 4.4, 6.9, 2.5])
    centimetres = (features + 1) / 2 * (lengths[1] - lengths[0]) + lengths[0]
    np.testing.assert_allclose(centimetres[34], [4.9, 3.1, 1.5, 0.1])
    np.testing.assert_allclose(centimetres[37], [4.9, 3.1, 1.5, 0.1])


@pytest.mark.parametrize("protocol", ["study", "sound"])
@pytest.mark.parametrize("name", sorted(set(SHAPES) - {"sensorless", "aloi"}))
def test_real_sets_have_their_shapes(name, protocol):
    if libsvm.SETS[name].remote:
        real_file(f"{libsvm.SETS[name].names[0]}.xz")
    task = make_task(f"libsvm/{name}", TaskOptions(protocol=protocol, data_dir=REAL))
    rows, features, classes = SHAPES[name]
    assert task.name == f"libsvm/{name}"
    assert (task.num_classes, task.batch_size) == (classes, 64)
    parts = [rows_of(part) for part in (task.train, task.valid, task.test)]
    for x, y in parts:
        assert x.shape[1] == features
        assert y.dtype == np.int32
        assert np.isfinite(x).all()
        np.testing.assert_array_equal(np.unique(y), np.arange(classes))
    sizes = [len(y) for _, y in parts]
    if protocol == "study":
        assert sizes == [rows] * 3
    else:
        held = round(0.2 * rows)
        assert sizes == [rows - 2 * held, held, held]


@pytest.mark.parametrize("name", BUNDLED)
def test_study_has_unit_columns_and_one_part(name):
    task = make_task(name, TaskOptions(protocol="study"))
    assert task.train is task.valid is task.test
    x, y = rows_of(task.train)
    norms = np.linalg.norm(x, axis=0)
    np.testing.assert_allclose(norms[norms > 0], 1, rtol=1e-6)
    if name == "digits/logistic":
        features, labels = load_digits(return_X_y=True)
        assert (norms == 0).sum() == 3  # corners that are never inked
        np.testing.assert_allclose(x, normalize(features, axis=0), atol=1e-7)
        np.testing.assert_array_equal(y, labels)


@pytest.mark.parametrize("name", BUNDLED)
def test_sound_standardises_by_the_training_part(name):
    task = make_task(name)
    x, _ = rows_of(task.train)
    varying = x.std(axis=0) > 0
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-7)
    np.testing.assert_allclose(x.std(axis=0)[varying], 1, rtol=1e-6)
    assert not np.asarray(task.test["features"])[:, ~varying].any()


def test_scaling_agrees_with_sklearn_and_survives_extremes():
    rng = np.random.default_rng(0)
    features = rng.normal(3, 2, (50, 6))
    features[:, 4], features[:, 5] = 0, 0.1
    np.testing.assert_allclose(
        libsvm.unit_columns(features), normalize(features, axis=0), rtol=1e-13
    )
    rows = np.arange(30)
    expected = StandardScaler().fit(features[rows, :4]).transform(features[:, :4])
    found = libsvm.standardise(features, rows)
    np.testing.assert_allclose(found[:, :4], expected, atol=1e-12)
    assert not found[:, 4:].any()
    for scale in (1e-300, 1e300):
        np.testing.assert_allclose(
            libsvm.unit_columns(features * scale),
            libsvm.unit_columns(features),
            rtol=1e-12,
        )
        np.testing.assert_allclose(
            libsvm.standardise(features * scale, rows), found, atol=1e-9
        )


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.randoms())
@settings(max_examples=60)
def test_splits_are_disjoint_covering_and_stratified(counts, random):
    targets = [c for c, count in enumerate(counts) for _ in range(count)]
    random.shuffle(targets)
    targets = np.array(targets)
    parts = libsvm.split(targets)
    together = np.concatenate(parts)
    np.testing.assert_array_equal(np.sort(together), np.arange(len(targets)))
    for part in parts:
        assert (np.diff(part) > 0).all()
    train, valid, test = (np.bincount(targets[p], minlength=len(counts)) for p in parts)
    np.testing.assert_array_equal(valid, test)
    counts = np.array(counts)
    assert not valid[counts < 3].any()
    assert (train > 0).all()
    assert (valid[counts >= 3] > 0).all()
    assert (np.abs(valid - 0.2 * counts) < 1)[counts >= 3].all()
    if (counts >= 5).all():
        assert valid.sum() == round(0.2 * counts.sum())
    np.testing.assert_array_equal(np.concatenate(libsvm.split(targets)), together)


def test_the_split_stays_what_it_was():
    parts = libsvm.split(np.repeat([0, 1, 2], [5, 4, 2]))
    assert [part.tolist() for part in parts] == [[0, 1, 3, 5, 8, 9, 10], [4, 6], [2, 7]]


@pytest.mark.parametrize("protocol", ["study", "sound"])
@pytest.mark.parametrize("name", BUNDLED)
def test_the_first_loss_is_near_chance(name, protocol):
    task = make_task(name, TaskOptions(protocol=protocol))
    batch = {**task.train, "mask": jnp.ones(task.num_examples)}

    @jax.jit
    def first(key):
        params, state = task.init(key)
        loss, _ = task.loss(params, state, key, batch)
        return loss, task.evaluate(params, state, batch)

    losses = []
    for seed in range(5):
        loss, sums = first(jax.random.key(seed))
        np.testing.assert_allclose(sums["loss"] / sums["count"], loss, rtol=1e-4)
        losses.append(float(loss))
    assert len(set(losses)) == 5
    spread = 0.05 if protocol == "study" else 0.5
    assert abs(np.mean(losses) - np.log(task.num_classes)) < spread


def test_a_batch_may_be_larger_than_the_data():
    task = make_task("libsvm/iris", TaskOptions(protocol="study", batch_size=1000))
    assert (task.batch_size, task.steps_per_epoch) == (1000, 1)
    rows = jnp.arange(1000) % 150
    batch = {name: array[rows] for name, array in task.train.items()}
    batch["mask"] = (jnp.arange(1000) < 150).astype(jnp.float32)
    params, state = task.init(jax.random.key(0))
    whole = {**task.train, "mask": jnp.ones(150)}
    found = task.loss(params, state, None, batch)[0]
    np.testing.assert_allclose(
        found, task.loss(params, state, None, whole)[0], rtol=1e-6
    )


def test_training_learns():
    task = make_task("libsvm/wine")
    params, state = task.init(jax.random.key(0))
    batch = {**task.train, "mask": jnp.ones(task.num_examples)}
    grad = jax.jit(jax.grad(lambda p: task.loss(p, state, None, batch)[0]))
    for _ in range(50):
        params = jax.tree.map(lambda p, g: p - 0.5 * g, params, grad(params))
    valid = {**task.valid, "mask": jnp.ones(len(task.valid["labels"]))}
    sums = task.evaluate(params, state, valid)
    assert sums["accuracy"] / sums["count"] > 0.9


def test_precision_decides_types():
    with pytest.raises(DataError, match="JAX_ENABLE_X64"):
        make_task("libsvm/iris", TaskOptions(precision="float64"))
    with jax.enable_x64(True):
        task = make_task("libsvm/iris", TaskOptions(precision="float64"))
        assert task.train["features"].dtype == np.float64
        assert task.train["labels"].dtype == np.int32
        params, _ = task.init(jax.random.key(0))
        assert params["weight"].dtype == np.float64
    task = make_task("libsvm/iris", TaskOptions(precision="bfloat16"))
    params, state = task.init(jax.random.key(0))
    assert task.train["features"].dtype == params["weight"].dtype == np.float32
    batch = {**task.train, "mask": jnp.ones(task.num_examples)}
    assert task.loss(params, state, None, batch)[0].dtype == np.float32


def test_fingerprints_tell_data_apart():
    tasks = [
        make_task(n, TaskOptions(protocol=p))
        for n in BUNDLED
        for p in ("study", "sound")
    ]
    prints = [fingerprint(task) for task in tasks]
    assert len(set(prints)) == len(prints)
    assert all(len(p) == 16 and int(p, 16) >= 0 for p in prints)
    assert (
        fingerprint(make_task(BUNDLED[0], TaskOptions(protocol="study"))) == prints[0]
    )


@pytest.mark.parametrize("suffix", ["", ".bz2"])
def test_any_svmlight_file_is_a_task(tmp_path, suffix):
    plain = tmp_path / "mine"
    write(plain, 60, 3, 4, first_label=-2)
    path = tmp_path / f"mine{suffix}"
    if suffix:
        path.write_bytes(bz2.compress(plain.read_bytes()))
    task = make_task(f"svmlight:{path}", TaskOptions(protocol="study", batch_size=16))
    assert task.name == f"svmlight:{path}"
    assert (task.num_examples, task.num_classes, task.batch_size) == (60, 4, 16)
    features, labels = load_svmlight_file(str(plain))
    x, y = rows_of(task.train)
    np.testing.assert_allclose(x, normalize(features, axis=0).toarray(), atol=1e-7)
    np.testing.assert_array_equal(y, labels + 2)


def test_gaps_between_labels_close(tmp_path):
    path = tmp_path / "mine"
    path.write_text(
        "".join(f"{label} 1:{i}\n" for i, label in enumerate([7, 1, 3] * 5))
    )
    task = make_task(f"svmlight:{path}", TaskOptions(protocol="study"))
    np.testing.assert_array_equal(task.train["labels"], [2, 0, 1] * 5)


@pytest.mark.parametrize(
    ("text", "protocol", "complaint"),
    [
        ("1 1:2\n1 1:3\n", "study", "one class only"),
        ("1.5 1:2\n2 1:3\n", "study", "not whole numbers"),
        ("1 1:2\n2 1:3\n", "sound", "no class has the 3 rows"),
        ("1 1:2\n2 2:3\n1 1:1", "sound", "no class has the 3 rows"),
        ("1 1=2\n", "sound", "line 1"),
        ("", "sound", "holds no rows"),
    ],
)
def test_files_that_make_no_task_are_refused(tmp_path, text, protocol, complaint):
    path = tmp_path / "mine"
    path.write_text(text)
    with pytest.raises(DataError, match=complaint) as error:
        make_task(f"svmlight:{path}", TaskOptions(protocol=protocol))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_column_that_leaves_float32_is_refused(tmp_path):
    path = tmp_path / "mine"
    targets = np.repeat([0, 1], 10)
    held_out = libsvm.split(targets).valid[0]
    values = np.arange(20.0)
    values[held_out] = 1e300
    path.write_text(
        "".join(f"{y} 1:{v}\n" for y, v in zip(targets, values, strict=True))
    )
    with pytest.raises(DataError, match="column 1 spreads too far for float32"):
        make_task(f"svmlight:{path}")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            {"name": "libsvm/irsi"},
            "unknown task 'libsvm/irsi'; did you mean 'libsvm/iris'",
        ),
        ({"name": "iris"}, "did you mean 'libsvm/iris'"),
        ({"name": ""}, "unknown task ''"),
        ({"protocol": "studdy"}, "unknown protocol 'studdy': there are study, sound"),
        ({"precision": "float16"}, "unknown precision 'float16'"),
        ({"batch_size": 0}, "batch size 0 is below 1"),
        ({"name": "svmlight:/absent/file"}, "/absent/file: no such file"),
        ({"name": "svmlight:"}, "no data file is named"),
    ],
)
def test_bad_options_are_refused(options, complaint):
    with pytest.raises(UsageError, match=complaint) as error:
        make_task(options.pop("name", "libsvm/iris"), TaskOptions(**options))
    assert "\n" not in str(error.value)


def test_a_set_that_cannot_be_had_says_where_to_put_it(tmp_path):
    with pytest.raises(DataError) as error:
        make_task("libsvm/aloi", TaskOptions(data_dir=str(tmp_path)))
    message = str(error.value)
    assert "\n" not in message
    for part in ("libsvm/aloi", "aloi.bz2", "no network", str(tmp_path / "cache")):
        assert part in message
    assert message.endswith(f"put it into {tmp_path}")
    with pytest.raises(DataError, match=r"there is no data directory .*absent"):
        make_task("libsvm/aloi", TaskOptions(data_dir=str(tmp_path / "absent")))
    with pytest.raises(UsageError, match="a: File name too long"):
        make_task("libsvm/aloi", TaskOptions(data_dir="a" * 300))


@pytest.mark.parametrize("shape", [(213, 9, 6), (214, 8, 6), (214, 10, 6), (214, 9, 7)])
def test_a_file_of_another_shape_is_refused(tmp_path, shape):
    write(tmp_path / "glass.scale", *shape)
    with pytest.raises(DataError) as error:
        make_task("libsvm/glass", TaskOptions(data_dir=str(tmp_path)))
    rows, features, classes = shape
    assert str(error.value).endswith(
        f"glass.scale: {rows} rows, {features} features and {classes} classes "
        "instead of 214, 9 and 6"
    )


def test_a_part_of_sensorless_is_not_taken_for_the_whole(tmp_path):
    path = real_file("Sensorless.subset2200.xz")
    with pytest.raises(DataError, match=r"Sensorless\.scale or Sensorless"):
        make_task("libsvm/sensorless", TaskOptions(data_dir=REAL))
    (tmp_path / "Sensorless.xz").write_bytes(path.read_bytes())
    with (
        pytest.warns(UserWarning, match=r"stands in for Sensorless\.scale"),
        pytest.raises(DataError, match="2200 rows, 48 features and 11 classes"),
    ):
        make_task(
            "libsvm/sensorless", TaskOptions(protocol="study", data_dir=str(tmp_path))
        )


@pytest.mark.parametrize("folder", ["", "libsvm"])
@pytest.mark.parametrize("variable", [True, False])
def test_the_data_directory_is_searched(monkeypatch, tmp_path, folder, variable):
    (tmp_path / folder).mkdir(exist_ok=True)
    write(tmp_path / folder / "glass.scale", 214, 9, 6)
    if variable:
        monkeypatch.setenv("LRJAX_DATA_DIR", str(tmp_path))
    data_dir = None if variable else str(tmp_path)
    assert (
        make_task(
            "libsvm/glass", TaskOptions(protocol="study", data_dir=data_dir)
        ).num_examples
        == 214
    )
    assert not list(tmp_path.rglob("*.sha256"))  # nothing is written there


def test_a_download_is_cached_with_a_checksum(monkeypatch, tmp_path):
    source = tmp_path / "source"
    write(source, 214, 9, 6)

    class Answer:
        headers = {}  # noqa: RUF012

        def __init__(self, url):
            self.geturl = lambda: url
            self.file = open(source, "rb")  # noqa: SIM115
            self.read1 = self.file.read1

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

    asked = []

    def answer(url, timeout):
        asked.append(url)
        return Answer(url)

    monkeypatch.setattr(data._INTERNET, "open", answer)
    first = fingerprint(make_task("libsvm/glass"))
    assert first == fingerprint(make_task("libsvm/glass"))
    assert asked == [libsvm.URL + "glass.scale"]
    cached = tmp_path / "cache" / "libsvm" / "glass.scale"
    assert sorted(p.name for p in cached.parent.iterdir()) == [
        "glass.scale",
        "glass.scale.sha256",
    ]
    cached.write_bytes(cached.read_bytes().replace(b"1:0", b"1:1"))
    with pytest.raises(DataError, match="sha256"):
        make_task("libsvm/glass")
    for path in cached.parent.iterdir():
        path.unlink()
    write(source, 214, 9, 5)  # not the set: must not be kept
    with pytest.raises(DataError, match="5 classes instead of 214, 9 and 6"):
        make_task("libsvm/glass")
    assert not list(cached.parent.iterdir())


def test_names_need_no_heavy_imports():
    code = "import sys, lrjax.tasks; print('sklearn' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(libsvm.__file__).parents[2],
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", [*bundled._FILES, "diabetes"])
def test_bundled_sets_are_those_of_scikit_learn(name, monkeypatch):
    options = {"scaled": False} if name == "diabetes" else {}
    wanted = getattr(sklearn_datasets, f"load_{name}")(return_X_y=True, **options)
    with monkeypatch.context() as alone:
        alone.setitem(sys.modules, "sklearn.datasets", None)  # our own reading
        found = bundled.load(name)
    # A scikit-learn that has its files elsewhere is asked.
    monkeypatch.setitem(bundled._FILES, name, "gone.csv")
    monkeypatch.setattr(bundled, "_FEATURES", "gone.csv.gz")
    for arrays in (found, bundled.load(name)):
        for array, other in zip(arrays, wanted, strict=True):
            np.testing.assert_array_equal(array, other)
            assert array.dtype == other.dtype
