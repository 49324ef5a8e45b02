"""Vision models against PyTorch's definitions, from tests/golden/make_models.py."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrjax import machine
from lrjax.tasks import models
from lrjax.tasks.images import cross_entropy
from lrjax.tasks.models import attention, mlp
from tests.golden import weights

GOLDEN = Path(__file__).parent.parent / "golden" / "models.npz"

# name -> model, image size
MODELS = {
    "wrn16_2": (models.WideResNet(depth=16, width=2, num_classes=10, dropout=0.3), 32),
    "densenet_bc": (models.DenseNet((6, 12, 24, 16), 12, 0.5, 100), 32),
    "vit_ti16": (models.VisionTransformer(16, 192, 12, 3, 47), 224),
    "wrn10_2": (models.WideResNet(depth=10, width=2, num_classes=10), 8),
    "densenet_small": (models.DenseNet((2, 3), 6, 0.5, 10), 9),
    "vit_small": (models.VisionTransformer(4, 24, 2, 3, 10), 8),
    "small_cnn": (models.SmallCNN(10), 9),
}
FULL = ["wrn16_2", "densenet_bc", "vit_ti16"]
SMALL = [name for name in MODELS if name not in FULL]

# Names of leaves in PyTorch and here.
LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


@functools.cache
def golden():
    with np.load(GOLDEN, allow_pickle=False) as file:
        arrays = dict(file)
    return arrays, json.loads(str(arrays["cases"]))


def torch_name(path) -> str:
    *modules, leaf = (key.key for key in path)
    return ".".join([*modules, LEAVES.get(leaf, leaf)])


def to_torch(x: np.ndarray, leaf: str) -> np.ndarray:
    """A kernel [..., in, out] as PyTorch's [out, in, ...]."""
    axes = (x.ndim - 1, x.ndim - 2, *range(x.ndim - 2))
    return x.transpose(axes) if leaf == "kernel" else x


def from_torch(x: np.ndarray, leaf: str) -> np.ndarray:
    axes = (*range(2, x.ndim), 1, 0)
    return x.transpose(axes) if leaf == "kernel" else x


@functools.cache
def variables(name: str):
    """Variables by name, as PyTorch got them, in float32."""
    model, size = MODELS[name]
    images = jnp.zeros((1, size, size, 3))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))

    def fill(path, x):
        leaf = path[-1].key
        shape = to_torch(np.empty(x.shape), leaf).shape
        value = weights.weight(torch_name(path), shape)
        return jnp.asarray(from_torch(value, leaf), jnp.float32)

    return {k: jax.tree_util.tree_map_with_path(fill, v) for k, v in shapes.items()}


@pytest.mark.parametrize("name", MODELS)
def test_parameters(name):
    count = sum(x.size for x in jax.tree.leaves(variables(name)["params"]))
    assert count == golden()[1][name]["parameters"]


def test_the_studys_parameter_counts():
    counts = [golden()[1][name]["parameters"] for name in FULL]
    assert counts == [691_674, 1_035_268, 5_533_487]


@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_layers_as_in_pytorch(name):
    arrays, cases = golden()
    model, size = MODELS[name]
    expected = arrays[f"{name}/eval"]
    images = jnp.asarray(weights.images(len(expected), size), jnp.float32)

    @jax.jit
    def apply(variables, images):
        return model.apply(
            variables, images, train=False, capture_intermediates=True, mutable=True
        )

    logits, state = apply(variables(name), images)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(logits / scale, expected / scale, atol=1e-5)

    found = {}
    for path, x in jax.tree_util.tree_leaves_with_path(state["intermediates"]):
        found[".".join(k.key for k in path[:-2])] = list(x.shape[1:])
    layers = cases[name]["layers"]
    assert {k: v for k, v in found.items() if k in layers} == layers


def train_step(name: str, rows: int, padding: int):
    """Logits, loss, gradients and statistics of a step with padding of nonsense."""
    model, size = MODELS[name]
    images = jnp.asarray(weights.images(rows, size), jnp.float32)
    images = jnp.concatenate([images, 3 * jnp.ones((padding, *images.shape[1:]))])
    mask = (jnp.arange(rows + padding) < rows).astype(jnp.float32)
    labels = jnp.asarray(weights.labels(rows + padding, model.num_classes))
    held = variables(name)
    others = {k: v for k, v in held.items() if k != "params"}

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def step(params):
        logits, state = model.apply(
            {"params": params, **others}, images, train=True, mask=mask, mutable=True
        )
        losses = cross_entropy(logits, labels) * mask
        return losses.sum() / mask.sum(), (logits, state.get("batch_stats", {}))

    (loss, (logits, stats)), grads = step(held["params"])
    return logits[:rows], loss, grads, stats


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize(
    ("name", "kind"),
    [*((n, "cpu") for n in SMALL), ("wrn10_2", "gpu"), ("densenet_small", "gpu")],
)
def test_training_step_as_in_pytorch(name, kind, padding, monkeypatch):
    monkeypatch.setattr(machine, "kind", lambda: kind)  # the form that it would take
    arrays, cases = golden()
    expected = arrays[f"{name}/train"]
    logits, loss, grads, stats = train_step(name, len(expected), padding)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(logits / scale, expected / scale, atol=1e-5)
    np.testing.assert_allclose(loss, arrays[f"{name}/loss"], rtol=1e-5)
    for path, x in jax.tree_util.tree_leaves_with_path(stats):
        value = arrays[f"{name}/stats/{torch_name(path)}"]
        np.testing.assert_allclose(x, value, rtol=1e-5, atol=1e-5)
    summaries = dict(zip(cases[name]["names"], arrays[f"{name}/grads"], strict=True))
    assert len(summaries) == len(jax.tree.leaves(grads))
    for path, x in jax.tree_util.tree_leaves_with_path(grads):
        key = torch_name(path)
        x = to_torch(np.asarray(x, np.float64), path[-1].key)
        found = [np.linalg.norm(x), (x * weights.normal(key, x.shape)).sum()]
        # Some are 0 but for rounding, as of a shift before a batch norm.
        bound = 2e-5 * max(summaries[key][0], 1e-2)
        np.testing.assert_allclose(found, summaries[key], rtol=0, atol=bound)


@pytest.mark.parametrize("name", SMALL)
def test_starts_as_in_pytorch(name):
    model, size = MODELS[name]
    images = jnp.zeros((1, size, size, 3))
    init = jax.jit(functools.partial(model.init, train=False))
    params = jax.device_get(init(jax.random.key(0), images)["params"])
    starts = golden()[1][name]["starts"]
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        deviation, largest = starts[torch_name(path)]
        if deviation == 0:
            assert float(x.min()) == float(x.max()) == largest
            continue
        # Both deviations are estimates; 5 of theirs.
        assert abs(float(x.std()) / deviation - 1) < 5 / x.size**0.5
        if x.size >= 100:  # a uniform distribution ends at 1.73 deviations
            ends = [float(abs(x).max() / x.std()) < 1.9, largest / deviation < 1.9]
            assert ends[0] == ends[1]


def test_dropout_drops_in_training_alone():
    model, size = models.WideResNet(10, 1, 10, dropout=0.5), 8
    images = jnp.asarray(weights.images(4, size), jnp.float32)
    held = jax.jit(model.init, static_argnames="train")(
        jax.random.key(0), images, train=False
    )

    @functools.partial(jax.jit, static_argnames="train")
    def logits(key, train):
        out = model.apply(
            held,
            images,
            train=train,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(key)},
        )
        return out[0]

    assert (logits(0, False) == logits(1, False)).all()
    assert (logits(0, True) == logits(0, True)).all()
    assert (logits(0, True) != logits(1, True)).any()


def test_fused_attention_sees_the_tokens_of_the_image_alone(monkeypatch):
    monkeypatch.setattr(attention, "_FUSED", "xla")  # cuDNN's kernel needs a GPU
    monkeypatch.setattr(attention, "_fused", attention._kernel)
    plain = models.VisionTransformer(4, 24, 2, 3, 10)  # 5 tokens, 16 if fused
    images = jnp.asarray(weights.images(4, 8), jnp.float32)
    init = jax.jit(plain.init, static_argnames="train")
    held = jax.device_get(init(jax.random.key(0), images, train=False)["params"])
    held = jax.tree.map(lambda x: 5 * x, held)  # so that attention is not uniform

    def value_and_gradients(model):
        def loss(params):
            out = model.apply({"params": params}, images, train=True)
            return jnp.sum(jnp.sin(out))

        return jax.jit(jax.value_and_grad(loss))(held)

    for ours, expected in zip(
        *map(
            jax.tree.leaves, map(value_and_gradients, (plain.clone(fused=True), plain))
        ),
        strict=True,
    ):
        np.testing.assert_allclose(
            ours, expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max())
        )


def test_flax_is_imported_when_a_module_is_named():
    code = "import sys, lrjax.tasks, lrjax.tasks.models; print('flax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
    with pytest.raises(AttributeError, match="Wide"):
        _ = models.Wide


# Models that are a formula


def drawn(shapes, spread=0.3):
    """Random values for all variables; variances are positive."""
    draw = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: abs(draw.normal(0, spread, x.shape)).astype(np.float32), shapes
    )


def variables_of(model, size):
    images = jnp.zeros((1, size, size, 1))
    init = functools.partial(model.init, train=False)
    return drawn(jax.eval_shape(init, jax.random.key(0), images))


PIXELS = np.random.default_rng(1).normal(size=(6, 4, 4, 1)).astype(np.float32)


def test_a_perceptron_is_that_of_tables():
    model = models.Perceptron(3, (5, 7))
    filled = variables_of(model, 4)["params"]
    layers = [filled[f"layer{number}"] for number in (1, 2, 3)]
    layers = [{"weight": x["kernel"], "bias": x["bias"]} for x in layers]
    found = model.apply({"params": filled}, PIXELS, train=False)
    expected = mlp.apply(layers, jnp.asarray(PIXELS.reshape(6, -1)))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_perceptron_begins_as_pytorchs():
    params = models.Perceptron(3, (400, 300)).init(
        jax.random.key(0), jnp.zeros((1, 10, 10, 1)), train=False
    )["params"]
    for number, inputs in ((1, 100), (2, 400), (3, 300)):
        for x in params[f"layer{number}"].values():
            assert abs(x).max() <= inputs**-0.5
            if x.size >= 300:
                np.testing.assert_allclose(x.std(), (3 * inputs) ** -0.5, rtol=0.08)


@pytest.mark.parametrize("train", [True, False])
def test_a_perceptron_with_batch_norm_in_numpy(train):
    model = models.Perceptron(3, (5,), norm=True)
    filled = variables_of(model, 4)
    mask = np.array([1, 1, 1, 1, 0, 0], np.float32)
    found, new = model.apply(
        filled, PIXELS, train=train, mask=jnp.asarray(mask), mutable=["batch_stats"]
    )
    (first, last), norm = (filled["params"][f"layer{n}"] for n in (1, 2)), "norm1"
    x = PIXELS.reshape(6, -1) @ first["kernel"] + first["bias"]
    kept = filled["batch_stats"][norm]
    mean, var = kept["mean"], kept["var"]
    if train:
        mean, var = x[:4].mean(0), x[:4].var(0)
        moved = 0.9 * kept["var"] + 0.1 * x[:4].var(0, ddof=1)
        np.testing.assert_allclose(new["batch_stats"][norm]["var"], moved, rtol=1e-5)
    scale = filled["params"][norm]
    x = (x - mean) / np.sqrt(var + 1e-5) * scale["scale"] + scale["bias"]
    expected = np.maximum(x, 0) @ last["kernel"] + last["bias"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_an_lstm_in_numpy():
    model = models.LSTM(3, 5)
    filled = variables_of(model, 4)["params"]
    cell, last = filled["OptimizedLSTMCell_0"], filled["classifier"]
    hidden = memory = np.zeros((6, 5))
    for row in range(4):
        gates = {
            gate: PIXELS[:, row, :, 0] @ cell[f"i{gate}"]["kernel"]
            + hidden @ cell[f"h{gate}"]["kernel"]
            + cell[f"h{gate}"]["bias"]
            for gate in "ifgo"
        }
        write, keep, read = (1 / (1 + np.exp(-gates[gate])) for gate in "ifo")
        memory = keep * memory + write * np.tanh(gates["g"])
        hidden = read * np.tanh(memory)
    found = model.apply({"params": filled}, PIXELS, train=False)
    np.testing.assert_allclose(found, hidden @ last["kernel"] + last["bias"], rtol=1e-5)


def test_an_lstm_begins_as_pytorchs_and_keeps_its_memory_in_float32():
    model = models.LSTM(3, 100, dtype=jnp.bfloat16)
    images = jnp.zeros((1, 8, 8, 1))
    params = model.init(jax.random.key(0), images, train=False)["params"]
    for x in jax.tree.leaves(params):
        assert x.dtype == jnp.float32
        assert abs(x).max() <= 0.1 or x.shape == (100, 3)
        if x.size >= 800:
            np.testing.assert_allclose(x.std(), 0.1 / 3**0.5, rtol=0.1)
    jaxpr = str(
        jax.make_jaxpr(functools.partial(model.apply, train=False))(
            {"params": params}, images
        )
    )
    assert jaxpr.count("scan[") == 1
