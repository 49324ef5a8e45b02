"""Layer norm and batch norm in float32 against float64, also far from zero."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrjax.tasks.models.batch_norm import BatchNorm
from lrjax.tasks.models.layer_norm import LayerNorm

MODELS = Path(__file__).parents[2] / "lrjax"
MEANS = (0, 10, 100, -1000)


def close(found, exact, mean):
    """To what rounding the mean to float32 leaves; PyTorch's layer norm is as good."""
    np.testing.assert_allclose(found, exact, rtol=3e-6, atol=2e-6 + 1.2e-7 * abs(mean))


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("eps", [1e-12, 1e-5])
def test_layer_norm(mean, eps):
    x = np.float32(mean + np.random.RandomState(0).randn(4, 7, 128))
    module = LayerNorm(eps)
    found, _ = jax.jit(lambda x: module.init_with_output(jax.random.key(0), x))(x)
    exact = x.astype(np.float64)
    exact = exact - exact.mean(-1, keepdims=True)
    close(found, exact / np.sqrt(np.square(exact).mean(-1, keepdims=True) + eps), mean)


def rows_like(kind, random):
    """Images [rows, height, width, channels] with deviations of about one."""
    x = random.randn(16, 8, 8, 5)
    if kind == "one row unlike the others":
        x[0] += 30
    if kind == "every fourth pixel unlike the others":
        x[:, ::4, ::4] += 30
    return x[:, 0, 0] if kind == "no pixels" else x


KINDS = (
    *("alike", "no pixels", "one row unlike the others"),
    "every fourth pixel unlike the others",
)


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padded", [False, True])
def test_batch_norm_in_its_first_step(mean, kind, padded):
    x = np.float32(mean + rows_like(kind, np.random.RandomState(0)))
    mask = np.ones(len(x), np.float32)
    if padded:
        mask[11:] = 0
        x[11:] = -5000
    module = BatchNorm(momentum=1.0)

    @jax.jit
    def run(x, mask):
        variables = module.init(jax.random.key(0), x, train=True)
        return module.apply(variables, x, True, mask, mutable=["batch_stats"])

    found, state = run(x, mask if padded else jnp.ones_like(mask))
    real = x[: 11 if padded else None].astype(np.float64)
    axes = tuple(range(x.ndim - 1))
    exact = (real - real.mean(axes)) / np.sqrt(real.var(axes) + 1e-5)
    close(found[: len(real)], exact, mean)
    stats = state["batch_stats"]
    np.testing.assert_allclose(stats["mean"], real.mean(axes), rtol=2e-7, atol=3e-6)
    np.testing.assert_allclose(stats["var"], real.var(axes, ddof=1), rtol=1e-5)


def test_nothing_else_normalises():
    wrong = {"LayerNorm", "BatchNorm", "GroupNorm", "RMSNorm", "InstanceNorm"}
    for path in MODELS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("nn."):
                assert ast.unparse(node.func)[3:] not in wrong, path
