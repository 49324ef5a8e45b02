"""PyTorch's optimisers take the steps that lrjax's methods take."""

import importlib.machinery
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrjax
from lrjax import methods, optim
from lrjax.optim import schedules
from lrjax.race import contenders, torch_forms

STEPS = 20  # that are compared
RNG = np.random.RandomState(0)
ROWS, LABELS = RNG.normal(size=(32, 5)), RNG.normal(size=(32, 3))
BEGIN = RNG.normal(size=(5, 3))


def ours(method, hyperparameters, horizon):
    """Parameters after each of the first steps, and those to evaluate at the end."""

    def loss(params):
        return jnp.mean((ROWS @ params - LABELS) ** 2)

    with jax.enable_x64(True):
        tx = methods.METHODS[method].build(horizon, **hyperparameters)
        tx = optax.with_extra_args_support(tx)
        params = jnp.asarray(BEGIN)
        state, found = tx.init(params), []
        for _ in range(STEPS):
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = tx.update(
                grads, state, params, value=value, value_fn=loss, grad_fn=jax.grad(loss)
            )
            params = optax.apply_updates(params, updates)
            found.append(np.asarray(params))
        return found, np.asarray(optim.eval_params(state, params))


def theirs(torch, method, hyperparameters, horizon):
    """The same by PyTorch's classes."""
    params = torch.nn.Parameter(torch.tensor(BEGIN))
    optimiser, scheduler = torch_forms.build(method, hyperparameters, [params], horizon)
    rows, labels, found = torch.tensor(ROWS), torch.tensor(LABELS), []
    if hasattr(optimiser, "train"):
        optimiser.train()
    for _ in range(STEPS):
        optimiser.zero_grad()
        ((rows @ params - labels) ** 2).mean().backward()
        optimiser.step()
        scheduler.step()
        found.append(params.detach().numpy().copy())
    if hasattr(optimiser, "eval"):
        optimiser.eval()
    return found, params.detach().numpy()


@pytest.mark.parametrize("horizon", [20, 33, 137])
@pytest.mark.parametrize("changed", [{}, {"warmup_fraction": 0.2}], ids=str)
@pytest.mark.parametrize("method", torch_forms.METHODS)
def test_the_first_twenty_steps_are_ours(method, changed, horizon):
    torch = pytest.importorskip("torch", reason="PyTorch is optional")
    form = torch_forms._FORMS[method]
    pytest.importorskip(form.module, reason=f"{form.package} is optional")
    given = {**contenders.shipped()[method]["defaults"], **changed}
    if changed and method in torch_forms._NEEDS_A_RATE:
        with pytest.raises(lrjax.UsageError, match="divides by the rate"):
            theirs(torch, method, given, horizon)
        return
    expected, evaluated = ours(method, given, horizon)
    found, at = theirs(torch, method, given, horizon)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(at, evaluated, rtol=0, atol=1e-12)
    assert np.abs(expected[-1] - BEGIN).max() > 1e-7


def test_what_pytorch_refuses_is_said_in_a_line():
    torch = pytest.importorskip("torch", reason="PyTorch is optional")
    given = {**contenders.shipped()["sgd"]["defaults"], "nesterov": True}
    params = [torch.nn.Parameter(torch.zeros(1))]
    with pytest.raises(lrjax.UsageError, match=r"sgd: torch\.optim\.SGD: Nesterov"):
        torch_forms.build("sgd", given, params, 10)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("warmup_fraction", [0.0, 0.05, 0.33, 1.0])
@pytest.mark.parametrize("horizon", [1, 20, 137])
def test_factors_are_those_of_schedules(schedule, warmup_fraction, horizon):
    given = {"schedule": schedule, "warmup_fraction": warmup_fraction}
    rate = torch_forms.factors("adam", 0.3, given, horizon)
    with jax.enable_x64(True):
        exact = schedules.by_name(schedule, 1.0, horizon, warmup_fraction * horizon)
        expected = [float(exact(step)) for step in range(horizon + 1)]
    found = [rate(step) for step in range(horizon + 1)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("growth", [1, 2, 3])
@pytest.mark.parametrize("first", [1, 7, 50])
@pytest.mark.parametrize("end_with_cycle", [True, False])
def test_cycles_are_those_of_schedules(growth, first, end_with_cycle):
    horizon = 100
    given = {
        "T_0": first,
        "t_mult": growth,
        "eta_min": 0.001,
        "end_with_cycle": end_with_cycle,
        "idle_first_step": False,
    }
    rate = torch_forms.factors("cawr", 0.1, given, horizon)
    with jax.enable_x64(True):
        length = first
        if end_with_cycle:
            length = schedules.fit_first_cycle(first, growth, horizon)
        exact = schedules.cosine_warm_restarts(0.1, length, growth, 0.001)
        expected = [float(exact(step)) for step in range(horizon)]
    found = [0.1 * rate(step) for step in range(horizon)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "prodigyopt", None)
    with pytest.raises(lrjax.UsageError, match="prodigy needs the package prodigyopt"):
        torch_forms.build("prodigy", {"learning_rate": 1.0}, [], 10)


def test_all_packages_of_a_race_are_looked_for_at_its_first_job(tmp_path, monkeypatch):
    for name in ("torch", "prodigyopt", "schedulefree"):
        monkeypatch.setitem(sys.modules, name, None)
    methods = ["sgd", "adam", "dog", "prodigy", "schedule_free_adamw"]
    with (
        lrjax.Race(methods, horizon=9, folder=tmp_path).ask() as job,
        pytest.raises(lrjax.UsageError) as error,
    ):
        job.torch([])
    assert str(error.value) == (
        "job.torch needs torch (for adam, sgd), prodigyopt (for prodigy), schedulefree "
        '(for schedule_free_adamw): pip install "lrjax[torch]"'
    )
    torch_forms.check_packages(["dog", "mine"])  # which it does not make
    there = types.ModuleType("torch")
    there.__spec__ = importlib.machinery.ModuleSpec("torch", None)
    monkeypatch.setitem(sys.modules, "torch", there)
    torch_forms.check_packages(["sgd", "dog"])


def test_a_method_without_a_form_is_refused():
    for method, said in (
        ("cocob", "no form of 'cocob' in PyTorch"),
        ("mine", "'mine'"),
    ):
        with pytest.raises(
            lrjax.UsageError, match=rf"{said}.*job\.torch makes sgd, .*for others"
        ):
            torch_forms.build(method, {"learning_rate": 1.0}, [], 10)
