"""`precision=float64` is float64 throughout, for every task there is."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrjax.tasks import (
    TASKS,
    TaskOptions,
    causal_text,
    checkpoints,
    diffusion,
    finetune,
    image_data,
    images,
    libsvm,
    make_task,
    text,
)
from lrjax.tasks.image_data import Part
from lrjax.tasks.models import attention, roberta


def narrow(jaxpr, at=""):
    """Equations of a program, inner ones included, that give floats below 64 bits."""
    found = []
    for equation in jaxpr.eqns:
        for out in equation.outvars:
            dtype = getattr(out.aval, "dtype", np.dtype(bool))
            if jnp.issubdtype(dtype, jnp.floating) and dtype != np.float64:
                found.append(f"{at}{equation.primitive} -> {out.aval}")
        for value in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr"),
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found += narrow(inner, f"{at}{equation.primitive}/")
    return found


def made(name, protocol, monkeypatch):
    """A task with made-up data of the right kind; one block is as good as twelve."""
    options = TaskOptions(
        protocol=protocol,
        batch_size=2,
        precision="float64",
        label_smoothing=0.1 if name in images.FACTORIES else 0.0,
    )
    random = np.random.RandomState(0)
    if name in text.RECIPES:
        recipe = dataclasses.replace(text.RECIPES[name], num_layers=1)
        monkeypatch.setitem(text.RECIPES, name, recipe)
        rows = random.randint(4, 300, (4, recipe.length)).astype(np.uint16)
        rows[:, 0], rows[:, -1] = 0, 2
        parts = {"train": rows, "valid": rows}
        return text.recipe_task(name, parts, 300, 299, options)
    if name in diffusion.RECIPES:
        shape = image_data.SETS[diffusion.RECIPES[name].data].shape
        pixels = random.randint(0, 17, (4, *shape)).astype(np.uint8)
        parts = dict.fromkeys(("train", "valid", "test"), pixels)
        return diffusion.recipe_task(name, parts, options)
    if name in causal_text.RECIPES:
        recipe = dataclasses.replace(causal_text.RECIPES[name], num_layers=1)
        monkeypatch.setitem(causal_text.RECIPES, name, recipe)
        rows = random.randint(4, 200, (4, recipe.length)).astype(np.uint16)
        model = causal_text.make_model(name, recipe.length, options)
        parts = dict.fromkeys(("train", "valid", "test"), rows)
        return causal_text.causal_task(name, parts, model, options)
    if name in finetune.FACTORIES:
        checkpoint = checkpoints.read(checkpoints.EMBEDDED)
        model = finetune.make_model(checkpoint, 8, 4, options)
        weights = roberta.load_weights(checkpoint.weights, model)
        tokens = random.randint(4, 200, (4, 8)).astype(np.uint16)
        part = {"tokens": tokens, "labels": np.arange(4, dtype=np.int32)}
        parts = dict.fromkeys(("train", "valid", "test"), part)
        return finetune.classification_task(name, parts, model, weights, options, "")
    if name in images.RECIPES:
        recipe = images.RECIPES[name]
        depths = {"depth": 10 if recipe.model == "WideResNet" else 1, "blocks": (1, 2)}
        arguments = {k: depths.get(k, v) for k, v in recipe.options.items()}
        recipe = dataclasses.replace(recipe, options=arguments)
        monkeypatch.setitem(images.RECIPES, name, recipe)
        channels = len(recipe.mean)
        size = 40 if image_data.SETS[recipe.data].shape is None else recipe.size
        pixels = random.randint(0, 256, (40, size, size, channels)).astype(np.uint8)
        part = Part(pixels, np.arange(40) % 4)
        parts = {"train": part, "valid": part, "test": part}
        monkeypatch.setattr(image_data, "load", lambda *_: parts)
    elif name.startswith("libsvm/"):
        table = random.randn(40, 5), np.arange(40) % 4
        monkeypatch.setattr(libsvm, "_load", lambda *_: table)
        monkeypatch.setattr(libsvm, "_bundled", lambda *_: table)
    return make_task(name, options)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize(
    "protocol", ["sound", pytest.param("study", marks=pytest.mark.slow)]
)
def test_no_task_computes_in_less(name, protocol, monkeypatch):
    if protocol == "study" and name in (*images.FACTORIES, *diffusion.RECIPES):
        pytest.skip("the functions are those of sound")
    with jax.enable_x64(True):
        task = made(name, protocol, monkeypatch)
        key = jax.random.key(0)
        params, state = jax.eval_shape(task.init, key)
        batch = {k: jnp.asarray(v[:2]) for k, v in task.train.items()}
        batch["mask"] = jnp.ones(2)
        assert {x.dtype for x in jax.tree.leaves((params, state))} == {jnp.dtype("f8")}

        def step(params, state, key, batch):
            return jax.value_and_grad(task.loss, has_aux=True)(
                params, state, key, batch
            )

        programs = (
            jax.make_jaxpr(task.init)(key),
            jax.make_jaxpr(step)(params, state, key, batch),
            jax.make_jaxpr(task.evaluate)(params, state, batch),
        )
        assert [narrow(program.jaxpr) for program in programs] == [[], [], []]


def test_the_search_for_floats_below_64_bits_finds_them():
    @jax.jit
    def inner(x):
        return x.astype(jnp.float32).sum()

    with jax.enable_x64(True):
        program = jax.make_jaxpr(jax.grad(lambda x: inner(x) ** 2))(jnp.ones(3))
        assert narrow(program.jaxpr)


def softmax_attention(query, key, value, mask):
    """By NumPy, in float64."""
    scores = np.einsum("rthd,rshd->rhts", query, key) / query.shape[-1] ** 0.5
    scores = np.where(mask, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("rhts,rshd->rthd", weights, value)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("dropout", [True, False])
def test_attention_is_exact_in_float64(masked, dropout):
    random = np.random.RandomState(0)
    query, key, value = random.randn(3, 2, 8, 2, 16)
    mask = np.tril(np.ones((8, 8), bool))[None, None] if masked else None
    with jax.enable_x64(True):
        if dropout:
            found = attention.attention_with_dropout(
                query, key, value, mask, lambda weights: weights
            )
        else:
            found = attention.attention(*map(jnp.asarray, (query, key, value)), mask)
        expected = softmax_attention(query, key, value, True if mask is None else mask)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
