"""Tasks of images: what they hold, what padding does, and training end to end."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrjax import config, results, tasks
from lrjax import protocol as protocol_lib
from lrjax.launch import experiment
from lrjax.tasks import diffusion, image_data, images


@functools.cache
def digits(precision="float32"):
    return tasks.make_task(
        "digits/wrn", tasks.TaskOptions(batch_size=16, precision=precision)
    )


def batch(task, rows, padding):
    """The first rows of a part, and padding of nonsense."""
    index = np.r_[np.arange(rows), np.full(padding, 700)]
    mask = jnp.asarray(np.arange(rows + padding) < rows, jnp.float32)
    return {k: v[index] for k, v in task.train.items()} | {"mask": mask}


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    task = digits()
    assert task.train["images"].dtype == np.uint8
    parts = [task.train, task.valid, task.test]
    assert [len(p["labels"]) for p in parts] == [1079, 359, 359]
    images = np.concatenate([p["images"] for p in parts])[..., 0]
    labels = np.concatenate([p["labels"] for p in parts])
    bunch = load_digits()
    ours = np.c_[labels, images.reshape(len(images), -1)]
    theirs = np.c_[bunch.target, bunch.data]
    assert (np.unique(ours, axis=0) == np.unique(theirs, axis=0)).all()


@pytest.mark.slow
def test_padding_counts_for_nothing():
    task = digits()
    params, state = task.init(jax.random.key(0))
    step = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    key = jax.random.key(1)
    short = step(params, state, key, batch(task, 10, 0))
    padded = step(params, state, key, batch(task, 10, 6))
    for a, b in zip(jax.tree.leaves(short), jax.tree.leaves(padded), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    judge = jax.jit(task.evaluate)
    short, padded = (judge(params, state, batch(task, 10, n)) for n in (0, 6))
    for name in ("loss", "accuracy", "count"):
        np.testing.assert_allclose(short[name], padded[name], rtol=1e-6)


@pytest.mark.slow
def test_bfloat16_keeps_parameters_and_statistics_in_float32():
    task = digits("bfloat16")
    params, state = task.init(jax.random.key(0))
    (loss, (new, _)), grads = jax.jit(jax.value_and_grad(task.loss, has_aux=True))(
        params, state, jax.random.key(1), batch(task, 16, 0)
    )
    for leaf in jax.tree.leaves((params, state, loss, new, grads)):
        assert leaf.dtype == jnp.float32
    exact = digits().loss(params, state, jax.random.key(1), batch(task, 16, 0))[0]
    assert 0 < abs(loss - exact) < 0.05 * exact


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["sound", "study"])
def test_digits_train_end_to_end(protocol, tmp_path):
    asked = config.base()
    asked.tasks, asked.methods = ("digits/wrn",), ("adam",)
    asked.seeds, asked.steps, asked.protocol = 1, 3, protocol
    settings = dataclasses.replace(config.check(asked), batch_size=16)
    experiment.run(settings, tmp_path)
    runs, _ = results.load(tmp_path)
    row = runs.iloc[0]
    assert (row.task, row.status, row.steps) == ("digits/wrn", "done", 3)
    assert np.isfinite([row.train_loss, row.valid_loss, row.test_loss]).all()


def archive(folder, name, rows, size, channels=3, classes=10):
    """A small set of noise, in NumPy archives."""
    for seed, part in enumerate(("train", "valid", "test")):
        if part == "valid" and name != "dtd":
            continue
        random = np.random.RandomState(seed)
        image = random.randint(0, 256, (rows, size, size, channels)).astype(np.uint8)
        np.savez(
            folder / f"{name}_{part}.npz", image=image, label=np.arange(rows) % classes
        )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LRJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path


SMALL = pytest.mark.filterwarnings("ignore:.*do not compare")


@SMALL
def test_a_fifth_of_each_class_validates(folder):
    archive(folder, "fashion_mnist", 100, 28, 1)
    task = tasks.make_task("fashion_mnist/cnn", tasks.TaskOptions(data_dir=str(folder)))
    assert task.train["images"].dtype == np.uint8
    counts = [np.bincount(p["labels"]) for p in (task.train, task.valid, task.test)]
    assert [set(c) for c in counts] == [{8}, {2}, {10}]
    ours = np.concatenate([task.train["images"], task.valid["images"]])
    theirs = np.load(folder / "fashion_mnist_train.npz")["image"]
    flat = [x.reshape(100, -1) for x in (ours, theirs)]
    np.testing.assert_array_equal(*(np.unique(x, axis=0) for x in flat))


@SMALL
@pytest.mark.parametrize("protocol", ["sound", "study"])
def test_who_is_augmented(folder, protocol):
    archive(folder, "cifar10", 100, 32)
    clean = {
        part: np.load(folder / f"cifar10_{part}.npz")["image"]
        for part in ("train", "test")
    }
    task = tasks.make_task(
        "cifar10/wrn16_2", tasks.TaskOptions(protocol=protocol, data_dir=str(folder))
    )
    assert len(task.train["labels"]) == (64 if protocol == "study" else 80)
    known = {image.tobytes() for image in clean["train"]}
    assert all(np.asarray(i).tobytes() in known for i in task.train["images"])
    tested = [np.asarray(image).tobytes() for image in task.test["images"]]
    untouched = sum(image.tobytes() in tested for image in clean["test"])
    assert untouched == 100 if protocol == "sound" else untouched < 20


@SMALL
def test_pixels_of_a_step_follow_from_its_key_alone(folder):
    archive(folder, "cifar10", 40, 32)
    recipe = images.RECIPES["cifar10/wrn16_2"]
    task = tasks.make_task("cifar10/wrn16_2", tasks.TaskOptions(data_dir=str(folder)))
    view = jax.jit(recipe.view)
    keys = jax.random.split(jax.random.key(0), 3)
    one = [view(key, task.train) for key in keys]
    many = jax.vmap(recipe.view, (0, None))(keys, task.train)
    np.testing.assert_array_equal(np.stack(one), many)
    assert (one[0] != one[1]).any()


@SMALL
@pytest.mark.parametrize(
    "protocol", ["sound", pytest.param("study", marks=pytest.mark.slow)]
)
def test_images_of_any_size_become_224(folder, protocol):
    archive(folder, "dtd", 12, 40, classes=47)
    task = tasks.make_task(
        "dtd/vit_ti16",
        tasks.TaskOptions(protocol=protocol, data_dir=str(folder), batch_size=4),
    )
    view = images.RECIPES["dtd/vit_ti16"].view
    seen = jax.jit(functools.partial(view, None))(task.valid)
    assert seen.shape == (12, 224, 224, 3)
    assert 0 <= seen.min() <= seen.max() <= 1
    changed = jax.jit(view)(jax.random.key(0), task.train)
    assert changed.shape == (12, 224, 224, 3)
    # In the study's way validation images were changed when the task was made.
    assert task.valid["images"].shape[1] == (40 if protocol == "sound" else 224)


def test_rows_that_pad_a_part_of_images_of_any_size_are_finite():
    view = images.RECIPES["dtd/vit_ti16"].view
    padding = {
        "images": jnp.zeros((1, 8, 8, 3), jnp.uint8),
        "sizes": jnp.zeros((1, 2), jnp.int32),
    }
    seen = jax.jit(functools.partial(view, None))(padding)
    assert np.isfinite(np.asarray(seen)).all()


def test_the_studys_tuned_values():
    study = protocol_lib.find("study")
    rate = study.overrides("smac", "cifar10/wrn16_2")["learning_rate"]
    assert rate == 0.0193164317787
    tuned = study.overrides("cawr_tuned", "cifar100/densenet_bc")
    assert tuned["learning_rate"] < tuned["eta_min"]
    for method in ("dadapt_adam", "prodigy"):
        assert study.overrides(method, "dtd/vit_ti16")["b2"] == 0.99
        assert "b2" not in study.overrides(method, "cifar10/wrn16_2")


RATES = {"mlp": 0.003, "lstm": 0.01, "cnn": 0.01, "wrn": 0.01, "densenet": 0.01}
RATES |= {"vit": 0.003, "diffusion": 0.003}


def test_baselines_are_calibrated_by_kind_of_model():
    for task in (*images.FACTORIES, *diffusion.FACTORIES):
        data, _, model = task.partition("/")
        expected = {"learning_rate": RATES[model.split("_")[0].rstrip("0123456789")]}
        if model.startswith("vit") and data in ("cifar10", "dtd"):
            expected = {}
        for method in ("adamw_cosine", "nadamw_cosine"):
            changed = protocol_lib.SOUND.overrides(method, task)
            assert changed == expected, task
            assert not protocol_lib.STUDY.overrides(method, task)


def test_lengths():
    """Those of the study, and for small tasks on 48,000 images minutes at most."""
    length = protocol_lib.SOUND.length
    for task in ("digits/mlp", "digits/diffusion", "mnist/cnn", "fashion_mnist/cnn"):
        assert length(task) == (100, "epochs")
    assert length("fashion_mnist/mlp") == length("mnist/mlp") == (3, "epochs")
    assert length("fashion_mnist/wrn") == (300, "steps")
    assert length("fashion_mnist/wrn16_4") == (100, "epochs")


# Models that have a task for each kind of network


@pytest.mark.parametrize(
    "name",
    [
        "digits/mlp_bn",
        pytest.param("digits/lstm", marks=pytest.mark.slow),
        pytest.param("digits/vit", marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_model_ignores_padding(name):
    task = tasks.make_task(name, tasks.TaskOptions(batch_size=16))
    params, state = task.init(jax.random.key(0))
    step = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    found = []
    for other in (700, 900):
        rows = np.r_[np.arange(10), np.full(6, other)]
        part = {k: v[rows] for k, v in task.train.items()}
        part["mask"] = jnp.asarray(np.arange(16) < 10, jnp.float32)
        found.append(step(params, state, jax.random.key(1), part))
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least"), [("mlp", 0.93), ("mlp_bn", 0.95), ("lstm", 0.9), ("vit", 0.8)]
)
def test_small_networks_learn_digits(name, least):
    import lrjax

    found = lrjax.compare(f"digits/{name}", ["adamw_cosine"], seeds=1, epochs=20)
    assert found.runs["valid_accuracy"].iloc[0] > least


def test_sizes_in_the_table_of_the_page():
    page = (Path(__file__).parents[2] / "docs" / "vision.md").read_text()
    for name, recipe in images.RECIPES.items():
        shape = (2, recipe.size, recipe.size, len(recipe.mean))
        part = image_data.Part(np.zeros(shape, np.uint8), np.arange(2))
        parts = dict.fromkeys(("train", "valid", "test"), part)
        task = images.recipe_task(name, parts, tasks.TaskOptions())
        params, _ = jax.eval_shape(task.init, jax.random.key(0))
        count = sum(x.size for x in jax.tree.leaves(params))
        assert any(
            f"`{name}`" in row and f" {count:,} " in row for row in page.splitlines()
        ), (name, count)
