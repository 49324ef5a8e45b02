"""How a task is trained follows from what its loss does."""

import dataclasses
import functools
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import own
import pytest

from lrjax import machine, tasks
from lrjax.common import jaxprs
from lrjax.engine import evaluation, strategy
from lrjax.tasks import (
    causal_text,
    checkpoints,
    diffusion,
    finetune,
    image_data,
    images,
    libsvm,
    synthetic,
    table,
    text,
)
from lrjax.tasks.image_data import Part
from lrjax.tasks.models import roberta

ROOT = Path(__file__).parent.parent


@functools.cache
def without_data(name, batch_size=None):
    """A registered task on made-up rows of the right shapes."""
    draw, options = np.random.default_rng(0), tasks.TaskOptions(batch_size=batch_size)
    if name in images.RECIPES:
        recipe = images.RECIPES[name]
        entry = image_data.SETS[recipe.data]
        shape = entry.shape or (300, 250, 3)
        pixels = np.zeros((2, *shape), np.uint8)
        sizes = None if entry.shape else np.full((2, 2), 250, np.int32)
        part = Part(pixels, np.arange(2, dtype=np.int32), sizes)
        parts = dict.fromkeys(("train", "valid", "test"), part)
        return images.recipe_task(name, parts, options)
    if name in diffusion.RECIPES:
        shape = image_data.SETS[diffusion.RECIPES[name].data].shape
        parts = dict.fromkeys(
            ("train", "valid", "test"), np.zeros((2, *shape), np.uint8)
        )
        return diffusion.recipe_task(name, parts, options)
    if name in text.RECIPES:
        recipe = text.RECIPES[name]
        rows = np.zeros((2, recipe.length), np.uint16)
        parts = {"train": rows, "valid": rows}
        return text.recipe_task(name, parts, recipe.vocab_size, 4, options)
    if name in causal_text.RECIPES:
        length = causal_text.RECIPES[name].length
        model = causal_text.make_model(name, length, options)
        parts = dict.fromkeys(("train", "valid", "test"), np.zeros((2, length), "u2"))
        return causal_text.causal_task(name, parts, model, options)
    if name in finetune.FACTORIES:  # the embedded checkpoint in place of a large one
        checkpoint = checkpoints.read(checkpoints.EMBEDDED)
        model = finetune.make_model(checkpoint, 48, 8, options)
        weights = roberta.load_weights(checkpoint.weights, model)
        part = {"tokens": np.zeros((2, 48), "u2"), "labels": np.arange(2, dtype="i4")}
        parts = dict.fromkeys(("train", "valid", "test"), part)
        return finetune.classification_task(name, parts, model, weights, options, "")
    if name.startswith("libsvm/"):
        entry = libsvm.SETS[name.removeprefix("libsvm/")]
        labels = np.arange(5 * entry.classes) % entry.classes
        features = draw.normal(size=(len(labels), entry.features))
        return libsvm.logistic_task(name, features, labels, options)
    return tasks.make_task(name, options)


def kind(name):
    """What tasks were trained as when somebody wrote it down for each."""
    if name in text.RECIPES:
        return "products"
    if name in causal_text.RECIPES and name != "text/gpt_micro":
        return "products"
    if name in causal_text.RECIPES or name in finetune.FACTORIES:
        return "network"
    model = name.split("/")[1].split("_")[0]
    if model in ("vit", "mlp", "lstm", "noisy"):  # a convolution cuts a ViT's patches
        return "network"
    if name in diffusion.RECIPES:
        return "convolutions" if name.startswith("fashion") else "network"
    return "convolutions" if name in images.FACTORIES else "linear"


# Larger forms of models that are tried in a smaller one, or as another task's.
LARGE = {
    *("bookwiki/roberta_small", "bookwiki/roberta_small_pre_ln"),
    *("bookwiki/roberta_base", "bookwiki/roberta_base_pre_ln"),
    *("cifar100/densenet_bc", "text/gpt_small"),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow if n in LARGE else ())
        for n in tasks.TASKS
    ],
)
def test_shipped_tasks_are_trained_as_they_always_were(name):
    task = without_data(name)
    assert strategy.kind_of(task) == kind(name)
    small = name in table.FACTORIES or name in synthetic.FACTORIES
    assert tasks.trains_network(name) == (kind(name) != "linear" and not small)
    alone = {"convolutions", "products"} if machine.kind() == "cpu" else {}
    assert strategy.one_by_one(task) == (kind(name) in alone)
    expected = {
        "linear": max(2**17 // (3 * max(task.num_classes, 1)), 64),
        "products": max(task.batch_size // 3, 1),
    }
    with machine.compiling_for("cpu"):
        assert evaluation.rows_at_once(task, 3) == expected.get(kind(name), 256 // 3)
    with machine.compiling_for("gpu"):
        # The largest arrays of a row: 16 channels, of WRN-16-2 32, of 32 x 32 pixels.
        largest = {"cifar10/wrn16_2": 2**15, "digits/wrn": 16 * 64}.get(name)
        found = evaluation.rows_at_once(task, 3)
        if largest:
            assert found == min(2**26 // largest, 8192) // 3
        else:
            assert found <= expected.get(kind(name), 8192 // 3)


@pytest.mark.parametrize("name", ["libsvm/aloi", "cifar10/wrn16_2", "mnist/cnn"])
@pytest.mark.parametrize("batch_size", [1, 2048])
def test_the_kind_does_not_hang_on_the_batch(name, batch_size):
    assert strategy.kind_of(without_data(name, batch_size)) == kind(name)


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("made", synthetic.KINDS)
def test_made_up_tasks_are_linear_or_networks(made, number):
    task = synthetic.make(f"synthetic/{made}-{number}")
    assert strategy.kind_of(task) == ("network" if number else "linear")


@pytest.mark.parametrize("name", own.MODELS)
def test_tasks_of_ones_own(name):
    task, (_, expected) = own.task(name), own.MODELS[name]
    assert strategy.kind_of(task) == expected
    on_cpu = machine.kind() == "cpu"
    assert strategy.one_by_one(task) == (expected == "convolutions" and on_cpu)


def test_large_matrix_products_are_told_from_small_ones():
    for width, found in ((64, "network"), (2**10, "products")):
        weights = jnp.zeros((width, 2 * width))
        task = dataclasses.replace(
            own.task("mlp"),
            init=lambda key, w=weights: (w, ()),
            loss=lambda p, s, k, b, w=weights: (
                jnp.mean((jnp.ones((16, len(w))) @ p) @ p.T),
                (s, {}),
            ),
        )
        assert strategy.kind_of(task) == found


def work(function, *args):
    return strategy.work_in(jax.make_jaxpr(function)(*args).jaxpr)


MATRIX, IMAGES, KERNEL = (
    jnp.ones((4, 4)),
    jnp.ones((2, 8, 8, 3)),
    jnp.ones((3, 3, 3, 5)),
)


def convolve(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@jax.custom_vjp
def own_gradient(x):
    return x @ MATRIX


own_gradient.defvjp(lambda x: (own_gradient(x), None), lambda _, g: (g,))

AROUND = {
    "jit": jax.jit,
    "remat": jax.checkpoint,
    "vmap": lambda f: lambda x: jax.vmap(f)(x[None])[0],
    "custom_vjp": lambda f: own_gradient,
    "cond": lambda f: lambda x: jax.lax.cond(x[0, 0] > 0, f, lambda x: x, x),
    "while": lambda f: lambda x: jax.lax.while_loop(lambda x: x[0, 0] < 9, f, x),
    "scan": lambda f: lambda x: jax.lax.scan(lambda x, _: (f(x), None), x, length=1)[0],
    "map": lambda f: lambda x: jax.lax.map(f, x[None])[0],
    "fori_loop": lambda f: lambda x: jax.lax.fori_loop(0, 1, lambda _, x: f(x), x),
}


@pytest.mark.parametrize("name", AROUND)
def test_work_is_found_wherever_it_stands(name):
    found = work(AROUND[name](lambda x: x @ MATRIX), MATRIX)
    assert (found.products, found.multiplied, found.largest) == (1, 64, 64)
    assert found.loops == (name in ("while", "scan", "map", "fori_loop"))


def test_what_is_in_a_scan_counts_for_each_turn():
    def loop(x):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, jnp.ones((5, 4, 4)))[0]

    assert work(loop, MATRIX) == strategy.Work(5, 320, 64, 0, True, 80)


def test_multiplications_of_a_convolution():
    # 2 images of 8 x 8 pixels and 5 channels, each from 3 x 3 pixels of 3 channels.
    assert work(convolve, IMAGES, KERNEL).convolved == 2 * 64 * 5 * 27
    grouped = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=3,
    )
    assert work(grouped, IMAGES, jnp.ones((3, 3, 1, 3))).convolved == 2 * 64 * 3 * 9


def test_what_nothing_depends_on_does_not_count():
    def idle(x, kernel):
        convolve(x, kernel)
        return x.sum()

    assert work(idle, IMAGES, KERNEL) == strategy.Work(0, 0, 0, 0, False, 1)
    assert work(jax.jit(idle), IMAGES, KERNEL).convolved == 0

    def carried(x):
        """The first result of a turn needs the second one of the turn before."""

        def turn(carry, _):
            a, b, c = carry
            return (a + b, b @ MATRIX, jnp.sin(c)), None

        return jax.lax.scan(turn, (x, x, x), length=3)[0][0]

    steps = jaxprs.live(jax.make_jaxpr(carried)(MATRIX).jaxpr)
    names = {step.eqn.primitive.name: step.turns for step in steps}
    assert names["dot_general"] == 3
    assert "sin" not in names


def test_the_answer_is_the_same_in_another_process():
    code = (
        "import sys; sys.path += ['.', 'tests']\n"
        "import own; from lrjax.engine import strategy\n"
        "print([strategy.work_of(own.task(n)) for n in ('cnn', 'lstm', 'transformer')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    here = [strategy.work_of(own.task(n)) for n in ("cnn", "lstm", "transformer")]
    assert done.stdout.strip() == str(here), done.stderr
