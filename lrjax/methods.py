"""METHODS: every way to control the learning rate, by name.

A method is an optimiser, a schedule and defaults. Numbers are traced, so that a grid
over any of them is one compiled program; everything else (names, flags, None) decides
what is compiled. Defaults are those of the `sound` protocol; `protocol.py` has what
`study` changes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax import optim
from lrjax.core import Method, Range, Space, unknown
from lrjax.optim import schedules

_TORCH = "PyTorch's torch.optim"


def _method(
    name: str,
    optimiser: Callable[..., optax.GradientTransformationExtraArgs],
    *,
    family: str,
    source: str,
    space: Mapping[str, Range] | None = None,
    advice: str = "",
    memory: float,
    required: frozenset[str] = frozenset(),
    **changed: Any,
) -> Method:
    """A method whose learning rate follows one of `schedules.SCHEDULES`.

    Its hyperparameters are the optimiser's own, with the optimiser's defaults unless
    in `changed`, and `schedule` and `warmup_fraction` (of the horizon).
    """

    def build(
        horizon: Any,
        learning_rate: Any,
        schedule: str,
        warmup_fraction: Any,
        **hparams: Any,
    ) -> optax.GradientTransformationExtraArgs:
        rate = schedules.by_name(
            schedule, learning_rate, horizon, warmup_fraction * horizon
        )
        return optimiser(learning_rate=rate, **hparams)

    parameters = inspect.signature(optimiser).parameters.values()
    defaults = {p.name: p.default for p in parameters}
    defaults |= {"schedule": "constant", "warmup_fraction": 0.0} | changed
    return Method(
        name=name,
        build=build,
        defaults=defaults,
        family=family,
        source=source,
        space=Space(dict(space or {})),
        advice=advice,
        required=required,
        memory=memory,
    )


def _build_cawr(
    horizon: Any,
    learning_rate: Any,
    T_0: Any,
    t_mult: Any,
    eta_min: Any,
    end_with_cycle: bool,
    idle_first_step: bool,
    **hparams: Any,
) -> optax.GradientTransformationExtraArgs:
    """Adam with cosine annealing and warm restarts.

    With `end_with_cycle` the first cycle is stretched so that a cycle ends where
    training does. With `idle_first_step` the first step changes nothing and update
    k takes the rate of counter k + 1, as in the study's code, whose first
    `optimizer.step()` has no gradients yet.
    """
    if end_with_cycle:
        T_0 = schedules.fit_first_cycle(T_0, t_mult, horizon)
    rate = schedules.cosine_warm_restarts(learning_rate, T_0, t_mult, eta_min)
    if not idle_first_step:
        return optim.adamw(learning_rate=rate, **hparams)
    return _idle_first_step(
        optim.adamw(learning_rate=lambda step: rate(step + 2), **hparams)
    )


class _IdleState(NamedTuple):
    started: jax.Array
    inner: Any


def _idle_first_step(
    inner: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """Lets the first step change nothing, neither parameters nor state."""

    def init(params):
        return _IdleState(jnp.asarray(False), inner.init(params))

    def update(updates, state, params=None, **extra_args):
        changes, new = inner.update(updates, state.inner, params, **extra_args)
        changes = jax.tree.map(lambda c: jnp.where(state.started, c, 0), changes)
        kept = jax.tree.map(
            lambda n, o: jnp.where(state.started, n, o), new, state.inner
        )
        return changes, _IdleState(jnp.asarray(True), kept)

    return optax.GradientTransformationExtraArgs(init, update)


def _cawr(
    name: str,
    advice: str = "",
    required: frozenset[str] = frozenset(),
    **changed: Any,
) -> Method:
    defaults = {
        "learning_rate": 5e-3,
        "T_0": 10,
        "t_mult": 2,
        "eta_min": 0.0,
        "end_with_cycle": True,
        "idle_first_step": False,
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-8,
        "weight_decay": 0.0,
    }
    return Method(
        name=name,
        build=_build_cawr,
        defaults=defaults | changed,
        family="schedule",
        source="Loshchilov and Hutter 2017 (SGDR); " + _TORCH,
        advice=advice,
        space=Space(
            {
                "learning_rate": Range(1e-5, 1.0),
                "T_0": Range(1, 50, integer=True),
                "t_mult": Range(1, 5, log=False, integer=True),
                "eta_min": Range(1e-8, 5e-3),
            }
        ),
        required=required,
        memory=2,
    )


_RATE = {"learning_rate": Range(1e-5, 1.0)}

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        _method(
            "sgd",
            optim.sgd,
            family="fixed",
            source="Robbins and Monro 1951; " + _TORCH,
            space={"learning_rate": Range(1e-4, 10.0)},
            memory=0,
            learning_rate=0.1,
        ),
        _method(
            "momentum",
            optim.sgd,
            family="fixed",
            source="Polyak 1964; " + _TORCH,
            space={"learning_rate": Range(1e-5, 1.0)},
            memory=1,
            learning_rate=0.1,
            momentum=0.9,
        ),
        _method(
            "adam",
            optim.adamw,
            family="fixed",
            source="Kingma and Ba 2015; " + _TORCH,
            space=_RATE,
            memory=2,
            weight_decay=0.0,
        ),
        _method(
            "smac",
            optim.adamw,
            family="fixed",
            source="the study's tuned rates for Adam",
            advice="Only where the study published a tuned rate, under `study`.",
            space=_RATE,
            memory=2,
            required=frozenset({"learning_rate"}),
            learning_rate=None,
            weight_decay=0.0,
        ),
        _method(
            "adamw_cosine",
            optim.adamw,
            family="schedule",
            source="Loshchilov and Hutter 2019; " + _TORCH,
            advice="Tune the rate; it is the peak after a warm-up of 5 %.",
            space=_RATE,
            memory=2,
            schedule="cosine",
            warmup_fraction=0.05,
        ),
        _method(
            "nadamw_cosine",
            optim.nadamw,
            family="schedule",
            source="Dozat 2016; Dahl et al. 2023 (AlgoPerf's baseline)",
            advice="Tune the rate; it is the peak after a warm-up of 5 %.",
            space=_RATE,
            memory=2,
            schedule="cosine",
            warmup_fraction=0.05,
            weight_decay=1e-2,
        ),
        _cawr("cawr"),
        _cawr(
            "cawr_tuned",
            advice="Only where the study published tuned values, under `study`.",
            required=frozenset({"learning_rate", "T_0", "t_mult", "eta_min"}),
            learning_rate=None,
            T_0=None,
            t_mult=None,
            eta_min=None,
        ),
        _method(
            "dadapt_adam",
            optim.dadapt_adam,
            family="learning-rate-free",
            source="Defazio and Mishchenko 2023; dadaptation 3.2",
            advice="Use the schedule that you would use with Adam.",
            space={"d0": Range(1e-8, 1e-2), "learning_rate": Range(0.1, 10.0)},
            memory=3,
            schedule="cosine",
            decouple=True,
        ),
        _method(
            "prodigy",
            optim.prodigy,
            family="learning-rate-free",
            source="Mishchenko and Defazio 2024; prodigyopt 1.1.2",
            advice="Use no schedule, or cosine without restarts; with a warm-up set "
            "safeguard_warmup. If d stays at d0, raise d0.",
            space={"d0": Range(1e-8, 1e-2), "d_coef": Range(0.1, 10.0)},
            memory=4,
            schedule="cosine",
        ),
        _method(
            "cocob",
            optim.cocob,
            family="learning-rate-free",
            source="Orabona and Tommasi 2017; parameterfree 0.0.1",
            advice="No schedule. Alpha 100 is meant for all problems.",
            space={"alpha": Range(10.0, 1000.0)},
            memory=5,
        ),
        _method(
            "dowg",
            optim.dowg,
            family="learning-rate-free",
            source="Khaled, Mishchenko and Jin 2023; rka97/dowg",
            advice="No schedule.",
            space={"eps": Range(1e-8, 1e-2)},
            memory=1,
        ),
    )
}


def find(name: str) -> Method:
    """The method of that name.

    Raises:
      UsageError: if there is none; names the nearest.
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


def split(
    method: Method, hparams: Mapping[str, Any]
) -> tuple[tuple[tuple[str, Any], ...], dict[str, float]]:
    """Parts hyperparameters into what is compiled in and what is traced.

    Returns:
      sorted (name, value) pairs of the static ones, and a dictionary of the traced.
    """
    static, traced = [], {}
    for name, value in sorted(hparams.items()):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and name not in method.static:
            traced[name] = float(value)
        else:
            static.append((name, value))
    return tuple(static), traced
