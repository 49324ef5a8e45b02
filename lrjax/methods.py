"""METHODS: every way to control the learning rate, by name.

A method is an optimiser, a schedule and defaults. Numbers are traced, so a grid over
any of them needs one compiled program; everything else (names, flags, None) is compiled
in. Defaults are those of the `sound` protocol: the authors' own, used as the authors
advise. `protocol.py` has the values that `study` changes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrjax import optim, own, plugins
from lrjax.core import (
    Domain,
    Method,
    Range,
    Space,
    UsageError,
    cut,
)
from lrjax.identity import is_number, plain
from lrjax.optim import builders, schedules
from lrjax.optim.learned import pinned


def _defaults(optimiser: builders.Optimiser) -> dict[str, Any]:
    """Return an optimiser's hyperparameters with their defaults."""
    parameters = inspect.signature(optimiser).parameters.values()
    of_run = ("horizon", "warmup_steps")  # set from the run and the schedule
    per_leaf = ("weight_decay_mask", "learning_rate_factors")  # depend on the model
    return {p.name: p.default for p in parameters if p.name not in of_run + per_leaf}


def _falls(hparams: Mapping[str, Any]) -> bool:
    """Whether the rate falls towards the horizon; averaging iterates needs no decay."""
    averages = hparams.get("averaging", False)
    return not averages and hparams["schedule"] not in schedules.ANYTIME


# Functions that make optimisers -> their names in a snippet.
_NAMES = {
    function: f"{holder}.{name}"
    for holder, module in (("builders", builders), ("optim", optim))
    for name, function in vars(module).items()
    if callable(function)
}


def _scheduled(
    optimiser: builders.Optimiser,
    schedule: str = "constant",
    warmup_fraction: float = 0.0,
    averages: bool = False,
    **changed: Any,
) -> dict[str, Any]:
    """Return fields of a method whose rate follows a schedule.

    Args:
      optimiser: takes a schedule as its `learning_rate`.
      schedule: default schedule.
      warmup_fraction: default warm-up, as a fraction of the horizon.
      averages: whether it is evaluated at an average of its iterates.
      changed: other defaults that differ from the optimiser's own.
    """
    followed = {"schedule": schedule, "warmup_fraction": warmup_fraction}
    return {
        "build": builders.scheduled(optimiser),
        "defaults": _defaults(optimiser) | changed | followed,
        "horizon_bound": (lambda hparams: False) if averages else _falls,
        "code": f"builders.scheduled({_NAMES[optimiser]})",
    }


def _unscheduled(optimiser: builders.Optimiser, **changed: Any) -> dict[str, Any]:
    """Return fields of a method that takes no schedule."""
    return {
        "build": builders.unscheduled(optimiser),
        "defaults": _defaults(optimiser) | changed,
        "code": f"builders.unscheduled({_NAMES[optimiser]})",
    }


def _built(build: builders.Optimiser, **changed: Any) -> dict[str, Any]:
    """Return fields of a method with its own builder, `build(horizon, **hparams)`."""
    return {
        "build": build,
        "defaults": _defaults(build) | changed,
        "code": _NAMES[build],
    }


def _learned(horizon: Any, policy: Any, **hparams: Any) -> builders.Transformation:
    """Build `optim.learned`; raise UsageError for an invalid file of weights."""
    try:
        return optim.learned(horizon, policy=policy, **hparams)
    except ValueError as error:
        raise UsageError(str(error)) from None


def pinned_policy(policy: str) -> str:
    """Return a policy's name with a digest of its weights (`optim.learned.pinned`).

    Raises:
      UsageError: if the file cannot be read, or does not hold a policy.
    """
    try:
        return pinned(policy)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _space(**ranges: Range) -> Space:
    return Space(ranges)


_FIXED, _SCHEDULE, _FREE, _STATISTICS = (
    "fixed",
    "schedule",
    "learning-rate-free",
    "statistics",
)
_RATE = Range(1e-5, 1.0)
_ADAM_RATE = _space(learning_rate=_RATE)
_SGD_RATE = _space(learning_rate=Range(1e-4, 10.0))
_D0 = Range(1e-8, 1e-2)
_FACTOR = Range(0.1, 10.0)  # multiplies a rate that the method estimates itself
_DADAPT = "Defazio and Mishchenko 2023; dadaptation 3.2"
_DADAPT_ADVICE = "Use the schedule that you would use with the plain optimiser."
_PRODIGY_ADVICE = (
    "Use no schedule, or cosine without restarts; with a warm-up set safeguard_warmup. "
    "If d stays at d0, raise d0."
)
_DOG = "Ivgi, Hinder and Carmon 2023; formll/dog 1.0.3"
_DOG_ADVICE = (
    "No schedule; keep the averaging. With batch normalisation set reps_rel to 1e-4; "
    "raise it if the distance does not grow."
)
_FREE_ADVICE = "No schedule: the average replaces it. Warm up over 5 %, tune the rate."
_SCHEDULE_FREE = "Defazio et al. 2024; schedulefree 1.4.1"
_HYPERGRADIENT = "Baydin et al. 2018; gbaydin/hypergradient-descent"
_HYPERGRADIENT_ADVICE = "The rate of the rate wants tuning on a logarithmic scale."
_MOMO = "Schaipp et al. 2024; fabian-sp/MoMo"
_MOMO_ADVICE = "A larger rate than usual is safe: it is a cap. Loss above lower_bound."

_DECAY = Domain(0.0, 1.0)
# Counts are exact in float32 up to here.
_COUNT, _FROM_1 = (Domain(least, 2.0**24, whole=True) for least in (0.0, 1.0))
# Valid values of a hyperparameter in any method; those not listed: 0 or more.
_DOMAINS = {
    **dict.fromkeys(("b1", "b2", "b3", "momentum", "beta"), _DECAY),
    "warmup_fraction": Domain(0.0, 1.0, closed=True),
    "growth_rate": Domain(1.0, math.inf, closed=True),
    **dict.fromkeys(("T_0", "t_mult", "observations", "actions"), _FROM_1),
    **dict.fromkeys(("patience", "cooldown"), _COUNT),
    "window_size": Domain(1.0, 1e5, whole=True),  # size of the state
    "max_backtracks": Domain(1.0, 1e4, whole=True),  # forward passes
}
_CAWR: dict[str, Any] = {
    "family": _SCHEDULE,
    "source": "Loshchilov and Hutter 2017 (SGDR); PyTorch",
    "space": _space(
        learning_rate=_RATE,
        T_0=Range(1, 50, integer=True),
        t_mult=Range(1, 5, log=False, integer=True),
        eta_min=Range(1e-8, 5e-3),
    ),
    "needs_rate": True,
    "horizon_bound": lambda hparams: True,
}


def _registered(method: Method) -> Method:
    """Return the method with the domains of its hyperparameters."""
    domains = {n: _DOMAINS[n] for n in method.defaults if n in _DOMAINS}
    return dataclasses.replace(method, domains=domains)


METHODS: dict[str, Method] = {
    method.name: _registered(method)
    for method in (
        Method(
            name="sgd",
            **_scheduled(optim.sgd, learning_rate=0.1),
            family=_FIXED,
            source="Robbins and Monro 1951; PyTorch",
            space=_SGD_RATE,
            none={"momentum": 0.0},  # the same steps, with a state
            needs_rate=True,
        ),
        Method(
            name="momentum",
            **_scheduled(optim.sgd, learning_rate=0.1, momentum=0.9),
            family=_FIXED,
            source="Polyak 1964; PyTorch",
            space=_ADAM_RATE,
            needs_rate=True,
        ),
        Method(
            name="adam",
            **_scheduled(optim.adamw, weight_decay=0.0),
            family=_FIXED,
            source="Kingma and Ba 2015; PyTorch",
            space=_ADAM_RATE,
            needs_rate=True,
            adam_like=True,
        ),
        Method(
            name="smac",
            **_scheduled(optim.adamw, learning_rate=None, weight_decay=0.0),
            family=_FIXED,
            source="the study's tuned rates for Adam",
            advice="Only where the study published a tuned rate, under `study`.",
            space=_ADAM_RATE,
            required=frozenset({"learning_rate"}),
            needs_rate=True,
        ),
        Method(
            name="adamw_cosine",
            **_scheduled(optim.adamw, schedule="cosine", warmup_fraction=0.05),
            family=_SCHEDULE,
            source="Loshchilov and Hutter 2019; PyTorch",
            advice="Tune the rate: it is the peak after a warm-up of 5 %.",
            space=_ADAM_RATE,
            needs_rate=True,
            adam_like=True,
        ),
        Method(
            name="nadamw_cosine",
            **_scheduled(
                optim.nadamw, schedule="cosine", warmup_fraction=0.05, weight_decay=1e-2
            ),
            family=_SCHEDULE,
            source="Dozat 2016; Dahl et al. 2023 (AlgoPerf's baseline)",
            advice="Tune the rate: it is the peak after a warm-up of 5 %.",
            space=_ADAM_RATE,
            needs_rate=True,
            adam_like=True,
        ),
        Method(
            name="cawr",
            **_CAWR,
            **_built(builders.cawr),
            advice="Let a cycle end where training ends.",
            adam_like=True,
        ),
        Method(
            name="cawr_tuned",
            **_built(
                builders.cawr, learning_rate=None, T_0=None, t_mult=None, eta_min=None
            ),
            **_CAWR,
            advice="Only where the study published tuned values, under `study`.",
            required=frozenset({"learning_rate", "T_0", "t_mult", "eta_min"}),
        ),
        Method(
            name="dadapt_adam",
            **_scheduled(optim.dadapt_adam, schedule="cosine", decouple=True),
            family=_FREE,
            source=_DADAPT,
            advice=_DADAPT_ADVICE,
            space=_space(d0=_D0, learning_rate=_FACTOR),
            adam_like=True,
        ),
        Method(
            name="dadapt_sgd",
            **_scheduled(optim.dadapt_sgd, schedule="cosine"),
            family=_FREE,
            source=_DADAPT,
            advice=_DADAPT_ADVICE,
            space=_space(d0=_D0, learning_rate=Range(1e-3, 10.0)),
        ),
        Method(
            name="dadapt_adagrad",
            **_scheduled(optim.dadapt_adagrad, schedule="cosine"),
            family=_FREE,
            source=_DADAPT,
            advice=_DADAPT_ADVICE,
            space=_space(d0=_D0, learning_rate=_FACTOR),
        ),
        Method(
            name="dadapt_lion",
            **_scheduled(optim.dadapt_lion, schedule="cosine"),
            family=_FREE,
            source=_DADAPT,
            advice=_DADAPT_ADVICE
            + " Experimental, say its authors. On data that can be "
            "separated the default rate of 1 lets the parameters grow until they "
            "diverge: try 0.1.",
            space=_space(d0=_D0, learning_rate=_FACTOR),
        ),
        Method(
            name="prodigy",
            **_scheduled(optim.prodigy, schedule="cosine"),
            family=_FREE,
            source="Mishchenko and Defazio 2024; prodigyopt 1.1.2",
            advice=_PRODIGY_ADVICE,
            space=_space(d0=_D0, d_coef=_FACTOR),
            adam_like=True,
        ),
        Method(
            name="cocob",
            **_scheduled(optim.cocob),
            family=_FREE,
            source="Orabona and Tommasi 2017; parameterfree 0.0.1",
            advice="No schedule; alpha 100 is meant for all problems.",
            space=_space(alpha=Range(10.0, 1000.0)),
        ),
        Method(
            name="dog",
            **_scheduled(builders.averaged_dog, averaging=True, gamma=8.0),
            family=_FREE,
            source=_DOG,
            advice=_DOG_ADVICE,
            space=_space(reps_rel=Range(1e-8, 1e-2)),
        ),
        Method(
            name="ldog",
            **_scheduled(builders.averaged_ldog, averaging=True, gamma=8.0),
            family=_FREE,
            source=_DOG,
            advice=_DOG_ADVICE,
            space=_space(reps_rel=Range(1e-8, 1e-2)),
        ),
        Method(
            name="dowg",
            **_scheduled(optim.dowg),
            family=_FREE,
            source="Khaled, Mishchenko and Jin 2023; rka97/dowg",
            advice="No schedule.",
            space=_space(eps=Range(1e-8, 1e-2)),
        ),
        Method(
            name="cdowg",
            **_scheduled(optim.cdowg),
            family=_FREE,
            source="Khaled, Mishchenko and Jin 2023; rka97/dowg",
            advice="No schedule.",
            space=_space(eps=Range(1e-10, 1e-4)),
        ),
        Method(
            name="schedule_free_sgd",
            **_scheduled(optim.schedule_free_sgd, warmup_fraction=0.05, averages=True),
            family=_FREE,
            source=_SCHEDULE_FREE,
            advice=_FREE_ADVICE,
            space=_space(learning_rate=Range(1e-2, 100.0)),
            needs_rate=True,
        ),
        Method(
            name="schedule_free_adamw",
            **_scheduled(
                optim.schedule_free_adamw, warmup_fraction=0.05, averages=True
            ),
            family=_FREE,
            source=_SCHEDULE_FREE,
            advice=_FREE_ADVICE + " 1 to 10 times AdamW's rate.",
            space=_space(learning_rate=Range(1e-4, 1.0)),
            needs_rate=True,
            adam_like=True,
        ),
        Method(
            name="schedule_free_radam",
            **_scheduled(optim.schedule_free_radam, averages=True),
            family=_FREE,
            source=_SCHEDULE_FREE,
            advice="No schedule and no warm-up: RAdam has its own. Tune the rate.",
            space=_space(learning_rate=Range(1e-4, 1.0)),
            needs_rate=True,
            adam_like=True,
        ),
        Method(
            name="schedule_free_prodigy",
            **_scheduled(optim.schedule_free_prodigy, averages=True),
            family=_FREE,
            source="schedulefree 1.4.1's wrapper around prodigyopt 1.1.2",
            advice="No schedule: the average replaces it.",
            space=_space(d0=_D0, d_coef=_FACTOR),
            adam_like=True,
        ),
        Method(
            name="hypergradient_sgd",
            **_unscheduled(optim.hypergradient_sgd, learning_rate=0.1),
            family=_STATISTICS,
            source=_HYPERGRADIENT,
            advice=_HYPERGRADIENT_ADVICE,
            space=_space(
                learning_rate=Range(1e-4, 1.0), hypergrad_lr=Range(1e-8, 1e-1)
            ),
            needs_rate=True,
        ),
        Method(
            name="hypergradient_adam",
            **_unscheduled(optim.hypergradient_adam),
            family=_STATISTICS,
            source=_HYPERGRADIENT,
            advice=_HYPERGRADIENT_ADVICE,
            space=_space(
                learning_rate=Range(1e-5, 1e-1), hypergrad_lr=Range(1e-10, 1e-2)
            ),
            needs_rate=True,
            adam_like=True,
        ),
        Method(
            name="momo",
            **_scheduled(optim.momo),
            family=_STATISTICS,
            source=_MOMO,
            advice=_MOMO_ADVICE,
            space=_SGD_RATE,
            needs_rate=True,
        ),
        Method(
            name="momo_adam",
            **_scheduled(optim.momo_adam),
            family=_STATISTICS,
            source=_MOMO,
            advice=_MOMO_ADVICE,
            space=_space(learning_rate=Range(1e-4, 10.0)),
            needs_rate=True,
            adam_like=True,
        ),
        Method(
            name="reduce_on_plateau",
            **_built(builders.plateau_adamw),
            family=_STATISTICS,
            source="PyTorch's ReduceLROnPlateau",
            advice="Start from the largest rate that does not diverge.",
            space=_space(learning_rate=_RATE, factor=Range(0.05, 0.8)),
            needs_rate=True,
            adam_like=True,
        ),
        Method(
            name="greedy_lr",
            **_unscheduled(builders.greedy_adamw),
            family=_STATISTICS,
            source="Subramanian et al. 2025; GreedyLR of huggingface/transformers",
            advice="Lower the factor for a faster response, raise window_size with the "
            "noise.",
            space=_space(learning_rate=_RATE, factor=Range(0.5, 0.99, log=False)),
            static=frozenset({"window_size"}),
            needs_rate=True,
            adam_like=True,
        ),
        Method(
            name="learned",
            build=_learned,
            defaults=_defaults(optim.learned),
            code="optim.learned",
            family=_STATISTICS,
            source="our own, by the evolution strategies of Salimans et al. 2017",
            advice="Nothing to set; `learning_rate` scales what the network chooses.",
            space=Space({"learning_rate": Range(1e-3, 1e-1)}),
        ),
        Method(
            name="polyak_sgd",
            **_scheduled(optim.polyak_sgd),
            family=_STATISTICS,
            source="Loizou et al. 2021 (SPS_max)",
            advice="The rate is a cap. For models that can fit their data, so that a "
            "loss comes near lower_bound.",
            space=_space(learning_rate=Range(1e-2, 100.0), c=Range(0.1, 1.0)),
        ),
        Method(
            name="armijo_sgd",
            **_scheduled(optim.armijo_sgd),
            family=_STATISTICS,
            source="Vaswani et al. 2019; IssamLaradji/sls",
            advice="For models that can fit their data. Some forward passes more a "
            "step.",
            space=_space(c=Range(1e-3, 0.5), learning_rate=Range(1.0, 100.0)),
        ),
        Method(
            name="mechanic",
            **_scheduled(
                builders.mechanic_adamw, schedule="cosine", warmup_fraction=0.05
            ),
            family=_FREE,
            source="Cutkosky, Defazio and Mehta 2023; optimizedlearning/mechanic "
            "(PyTorch)",
            advice="Give it the schedule of the base optimiser, at a peak of 1.",
            space=_space(s_init=Range(1e-10, 1e-4), s_decay=Range(1e-4, 1.0)),
            adam_like=True,
        ),
        Method(
            name="storm_plus",
            **_scheduled(optim.storm_plus),
            family=_FREE,
            source="Levy, Kavis and Cevher 2021",
            advice="Two gradients a step.",
            space=_space(c=Range(1e-2, 100.0)),
        ),
    )
}
SHIPPED = frozenset(METHODS)  # names that only lrjax's own methods have
_fingerprints: dict[Any, str] = {}  # build of a user's method -> hash of its steps


def find(name: str) -> Method:
    """Return a method by name, or by its import path 'module:name'.

    Raises:
      UsageError: if the name is unknown, or cannot be imported; suggests the nearest.
    """
    return plugins.find("method", name, METHODS, own.accept)


def own_options(method: Method) -> tuple[tuple[str, str], ...]:
    """Return what identifies a method beside its name: nothing for lrjax's own.

    A method of a user may change from one call to the next under the same name, as in
    a notebook, so its runs are also known by what it computes.

    Raises:
      UsageError: if the method cannot take a step.
    """
    if method.name in SHIPPED:
        return ()
    if method.build not in _fingerprints:
        _fingerprints[method.build] = _fingerprint(method)
    return (("method", _fingerprints[method.build]),)


def _fingerprint(method: Method) -> str:
    """Hash the first step that a method takes on two small arrays, as a jaxpr."""
    params = {"a": jnp.zeros((3, 2)), "b": jnp.zeros(3)}
    static, traced = split(method, method.defaults)

    def loss(params: Any) -> jax.Array:
        return jnp.sum(params["a"] ** 2) + jnp.sum(params["b"] ** 2)

    def step(horizon: jax.Array, traced: Mapping[str, Any]) -> Any:
        tx = method.build(horizon, **dict(static), **traced)
        tx = optax.with_extra_args_support(tx)
        value, grads = jax.value_and_grad(loss)(params)
        functions = {"value_fn": loss, "grad_fn": jax.grad(loss)}
        return tx.update(grads, tx.init(params), params, value=value, **functions)

    try:
        program = jax.make_jaxpr(step)(jnp.float32(100), traced)
    except Exception as error:  # the user's code may raise anything
        raise UsageError(
            f"method '{method.name}' fails at its first step: "
            f"{type(error).__name__}: {cut(str(error), 160)}"
        ) from error
    # Jaxprs print functions with their memory addresses; remove these.
    digest = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", str(program)).encode())
    for value in program.consts:
        digest.update(np.asarray(value).tobytes())
    return digest.hexdigest()[:16]


def split(
    method: Method, hparams: Mapping[str, Any]
) -> tuple[tuple[tuple[str, Any], ...], dict[str, float]]:
    """Split hyperparameters into those that are compiled in and those that are traced.

    Args:
      method: names the hyperparameters that are always static.
      hparams: a value for every hyperparameter.

    Returns:
      sorted (name, value) pairs of the static ones, and a dictionary of the others.
    """
    static, traced = [], {}
    for name, value in sorted(hparams.items()):
        value = plain(value)
        if is_number(value) and name not in method.static:
            traced[name] = float(value)
        else:
            static.append((name, value))
    return tuple(static), traced


def state_size(method: Method, params: Any) -> int:
    """Count the numbers in the optimiser's state for parameters of these shapes."""
    needed = dict.fromkeys(method.required, 1.0)
    static, traced = split(method, {**method.defaults, **needed})

    # Numbers are traced as in training: JAX would compile a program for each constant.
    def init(horizon, traced, params):
        return method.build(horizon, **dict(static), **traced).init(params)

    shapes = jax.tree.leaves(jax.eval_shape(init, 1.0, traced, params))
    return sum(math.prod(leaf.shape) for leaf in shapes)
