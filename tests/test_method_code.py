"""What is printed to train with a method does what lrjax does."""

import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lrjax import optim
from lrjax import own as lrjax_own
from lrjax.core import Method
from lrjax.hpo import method_code
from lrjax.methods import METHODS

ROOT = Path(__file__).parent.parent
IN_OPTAX = {"sgd", "momentum", "adam", "smac", "adamw_cosine", "nadamw_cosine"}
HORIZON = 30


def defaults(method):
    """A method's hyperparameters, with values where it has no defaults."""
    given = {"learning_rate": 0.01, "T_0": 10.0, "t_mult": 2.0, "eta_min": 1e-3}
    return dict(method.defaults) | {name: given[name] for name in method.required}


def problem(steps):
    """Parameters, loss and batches of a small regression."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(steps, 8, 3)).astype(np.float32)
    batches = [{"x": b, "y": b @ np.array([1.0, -2.0, 0.5], np.float32)} for b in x]
    params = {"w": jnp.zeros(3) + 0.1, "b": jnp.zeros(())}

    def loss_fn(params, batch):
        return jnp.mean((batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2)

    return params, loss_fn, batches


def by_lrjax(method, hparams, steps):
    """Parameters to evaluate after training without the printed text."""
    params, loss_fn, batches = problem(steps)
    tx = optax.with_extra_args_support(method.build(HORIZON, **hparams))

    @jax.jit
    def step(params, state, batch):
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        extra = {
            "value": loss,
            "value_fn": lambda p: loss_fn(p, batch),
            "grad_fn": lambda p: jax.grad(loss_fn)(p, batch),
        }
        updates, state = tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for batch in batches:
        params, state = step(params, state, batch)
    return optim.eval_params(state, params)


def check(method, hparams, steps):
    """Run what is printed, and compare."""
    text = method_code.snippet(method, hparams, HORIZON)
    assert ("lrjax" not in text) == (method.name in IN_OPTAX)
    names = ("params", "loss_fn", "batches")
    scope = dict(zip(names, problem(steps), strict=True))
    with jax.numpy_dtype_promotion("standard"):  # Optax takes powers by a count
        exec(text, scope)
    expected = by_lrjax(method, hparams, steps)
    for found, wanted in zip(
        jax.tree.leaves(scope["params"]), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_snippet_trains_as_lrjax_does(name):
    check(METHODS[name], defaults(METHODS[name]), HORIZON)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("prodigy", {"growth_rate": float("inf")}),  # has no literal
        ("cawr", {"idle_first_step": True, "end_with_cycle": False}),
        ("dog", {"averaging": False, "schedule": "cosine"}),
    ],
)
def test_whatever_is_set_is_written_out(name, changes):
    check(METHODS[name], defaults(METHODS[name]) | changes, 4)


def test_optax_without_the_schedule_is_not_plain_optax():
    adam = METHODS["adam"]
    text = method_code.snippet(adam, dict(adam.defaults) | {"schedule": "rex"}, 9)
    assert "builders.scheduled(optim.adamw)" in text


def test_the_copied_folder_needs_nothing_else(tmp_path):
    shutil.copytree(ROOT / "lrjax" / "optim", tmp_path / "lrjax" / "optim")
    (tmp_path / "lrjax" / "__init__.py").touch()
    head = (
        "import jax.numpy as jnp\nparams = jnp.ones(3)\nbatches = [1.0] * 5\n"
        "def loss_fn(p, b): return b * (p ** 2).sum()\n"
    )
    text = ""
    for name in ("schedule_free_prodigy", "learned"):
        method = METHODS[name]
        text += head + method_code.snippet(method, defaults(method), 5)
        text += "print(loss < 3)\n"
    (tmp_path / "winner.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "winner.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "True\nTrue\n", done.stderr


def test_a_method_without_a_function_of_its_name_says_which_makes_it():
    for name in METHODS:
        if not hasattr(optim, name):
            with pytest.raises(AttributeError, match=r"the method is optim\.") as error:
                getattr(optim, name)
            function = str(error.value).split("optim.")[-1].split()[0]
            code = METHODS[name].code
            wrapped = f"builders.{function}_"  # around another
            built = code == "builders.cawr" or code.startswith(wrapped)
            assert f"optim.{function})" in code or built
    with pytest.raises(AttributeError, match=r"no attribute 'prodgy'$"):
        optim.prodgy  # noqa: B018


def plain(rate=0.1):
    return optax.sgd(rate)


def long(horizon, rate=0.1):
    return optax.sgd(optax.linear_schedule(rate, 0.0, horizon))


def test_a_method_of_ones_own_is_called_by_its_name():
    calls = {
        "plain(rate=0.2)": lrjax_own.method_of(plain, name="mine"),
        "long(horizon=7, rate=0.2)": lrjax_own.method_of(long, name="mine"),
        "mine.build(7, rate=0.2)": Method("mine", long, {"rate": 0.1}, "", ""),
    }
    for call, method in calls.items():
        text = method_code.snippet(method, {"rate": 0.2}, 7)
        said, *imports, _, made = text.partition("\nopt_state")[0].splitlines()[:5]
        assert said == "# mine is your own method"
        assert imports == ["import jax", "import optax"]
        assert made == f"tx = {call}"
        loop = text.splitlines()[5:]
        assert any("tx.update" in line for line in loop)
        names = {"plain": plain, "long": long, "mine": method}
        assert callable(eval(call, names).update)
