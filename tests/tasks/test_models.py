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

from lrjax.tasks import models
from lrjax.tasks.images import cross_entropy
from lrjax.tasks.models import attention
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
@pytest.mark.parametrize("name", SMALL)
def test_training_step_as_in_pytorch(name, padding):
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
    params = init(jax.random.key(0), images)["params"]
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
    held = model.init(jax.random.key(0), images, train=False)

    def logits(key, train):
        out = model.apply(
            held,
            images,
            train=train,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(key)},
        )
        return np.asarray(out[0])

    assert (logits(0, False) == logits(1, False)).all()
    assert (logits(0, True) == logits(0, True)).all()
    assert (logits(0, True) != logits(1, True)).any()


def test_fused_attention_sees_the_tokens_of_the_image_alone(monkeypatch):
    monkeypatch.setattr(attention, "_FUSED", "xla")  # cuDNN's kernel needs a GPU
    monkeypatch.setattr(attention, "_fused", attention._kernel)
    plain = models.VisionTransformer(4, 24, 2, 3, 10)  # 5 tokens, 16 if fused
    images = jnp.asarray(weights.images(4, 8), jnp.float32)
    held = plain.init(jax.random.key(0), images, train=False)["params"]
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
