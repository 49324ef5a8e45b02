"""The transformations that the common tests run, each with what they need to know."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from lrjax import optim


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One transformation.

    Attributes:
      name: for reports; nothing depends on it.
      build: from hyperparameters to the transformation.
      hparams: a value, away from the default, for every hyperparameter that may be
        traced.
      tuned: hyperparameters with which it minimises the test functions, where its
        defaults do not.
      schedule: whether the learning rate may be a schedule of the update count.
    """

    name: str
    build: Callable[..., Any]
    hparams: Mapping[str, float]
    tuned: Mapping[str, float] = dataclasses.field(default_factory=dict)
    schedule: bool = True


def _mechanic(learning_rate=1.0, **hparams):
    return optim.mechanic(optim.adamw(learning_rate, weight_decay=0.0), **hparams)


def _averaged(gamma=8.0, **hparams):
    return optim.polynomial_averaging(optim.dog(**hparams), gamma)


def _plateau(learning_rate=0.05, **hparams):
    return optim.reduce_on_plateau(optim.sgd(learning_rate, momentum=0.9), **hparams)


def _greedy(**hparams):
    return optim.greedy_lr(optim.adamw(1.0, weight_decay=0.0), **hparams)


_DADAPT = {"learning_rate": 0.5, "weight_decay": 0.01, "d0": 1e-4, "growth_rate": 1.5}
_ADAM = {"b1": 0.8, "b2": 0.99, "eps": 1e-6}

CASES = (
    Case(
        "sgd",
        lambda momentum=0.9, **hparams: optim.sgd(momentum=momentum, **hparams),
        {"learning_rate": 0.1, "momentum": 0.8, "weight_decay": 0.01},
        {"learning_rate": 1e-3},
    ),
    Case(
        "sgd_nesterov",
        lambda momentum=0.9, **hparams: optim.sgd(
            momentum=momentum, nesterov=True, **hparams
        ),
        {"learning_rate": 0.1, "momentum": 0.8, "weight_decay": 0.01},
        {"learning_rate": 1e-3},
    ),
    Case(
        "adamw",
        optim.adamw,
        _ADAM | {"learning_rate": 0.1, "weight_decay": 0.1},
        {"learning_rate": 0.01, "weight_decay": 0.0},
    ),
    Case(
        "nadamw",
        optim.nadamw,
        _ADAM | {"learning_rate": 0.1, "weight_decay": 0.1},
        {"learning_rate": 0.01, "weight_decay": 0.0},
    ),
    Case("dadapt_adam", optim.dadapt_adam, _ADAM | _DADAPT),
    Case(
        "dadapt_adam_options",
        lambda **hparams: optim.dadapt_adam(
            decouple=True, use_bias_correction=True, **hparams
        ),
        _ADAM | _DADAPT,
    ),
    Case(
        "dadapt_sgd",
        optim.dadapt_sgd,
        _DADAPT | {"momentum": 0.8},
        {"learning_rate": 0.01},
    ),
    Case(
        "dadapt_adagrad",
        optim.dadapt_adagrad,
        _DADAPT | {"momentum": 0.8, "eps": 1e-4},
    ),
    Case(
        "dadapt_lion",
        optim.dadapt_lion,
        {
            "learning_rate": 0.5,
            "b1": 0.8,
            "b2": 0.95,
            "weight_decay": 0.1,
            "d0": 1e-4,
        },
        {"learning_rate": 0.03},
    ),
    Case(
        "prodigy",
        optim.prodigy,
        _ADAM | _DADAPT | {"b3": 0.98, "d_coef": 2.0, "safeguard_warmup": 1.0},
    ),
    Case(
        "prodigy_options",
        lambda **hparams: optim.prodigy(
            decouple=False, use_bias_correction=True, **hparams
        ),
        _DADAPT | {"b1": 0.0, "b2": 0.99},
    ),
    Case(
        "cocob",
        optim.cocob,
        {"learning_rate": 0.5, "alpha": 10.0, "eps": 1e-4, "weight_decay": 0.01},
    ),
    Case(
        "dog",
        optim.dog,
        {
            "learning_rate": 0.5,
            "reps_rel": 1e-3,
            "eps": 1e-4,
            "weight_decay": 0.01,
        },
    ),
    Case("dog_init_eta", optim.dog, {"init_eta": 1e-2, "learning_rate": 0.5}),
    Case("dog_averaged", _averaged, {"gamma": 4.0, "reps_rel": 1e-3}),
    Case(
        "ldog",
        optim.ldog,
        {
            "learning_rate": 0.5,
            "reps_rel": 1e-3,
            "eps": 1e-4,
            "weight_decay": 0.01,
        },
    ),
    Case("dowg", optim.dowg, {"learning_rate": 0.5, "eps": 1e-3}),
    Case("cdowg", optim.cdowg, {"learning_rate": 0.5, "eps": 1e-3}),
    Case(
        "schedule_free_sgd",
        optim.schedule_free_sgd,
        {
            "learning_rate": 0.5,
            "momentum": 0.8,
            "weight_decay": 0.01,
            "warmup_steps": 3.0,
            "r": 1.0,
            "weight_lr_power": 1.0,
        },
        {"learning_rate": 2e-3},
    ),
    Case(
        "schedule_free_adamw",
        optim.schedule_free_adamw,
        _ADAM
        | {
            "learning_rate": 0.5,
            "weight_decay": 0.01,
            "warmup_steps": 3.0,
            "r": 1.0,
            "weight_lr_power": 1.0,
        },
        {"learning_rate": 0.05},
    ),
    Case(
        "schedule_free_radam",
        optim.schedule_free_radam,
        _ADAM
        | {
            "learning_rate": 0.5,
            "weight_decay": 0.01,
            "r": 1.0,
            "weight_lr_power": 1.0,
            "silent_sgd_phase": 0.0,
        },
        {"learning_rate": 0.05},
    ),
    Case(
        "schedule_free_prodigy",
        optim.schedule_free_prodigy,
        {
            "learning_rate": 0.5,
            "momentum": 0.8,
            "b2": 0.99,
            "b3": 0.98,
            "eps": 1e-6,
            "weight_decay": 0.01,
            "d0": 1e-4,
            "d_coef": 2.0,
            "growth_rate": 1.5,
            "safeguard_warmup": 1.0,
            "r": 1.0,
            "weight_lr_power": 1.0,
        },
        {"learning_rate": 0.3},
    ),
    Case(
        "hypergradient_sgd",
        lambda learning_rate=1e-4, **hparams: optim.hypergradient_sgd(
            learning_rate, **hparams
        ),
        {
            "learning_rate": 1e-2,
            "momentum": 0.5,
            "weight_decay": 0.01,
            "hypergrad_lr": 1e-4,
        },
        {"learning_rate": 1e-3, "hypergrad_lr": 1e-9},
        schedule=False,
    ),
    Case(
        "hypergradient_adam",
        optim.hypergradient_adam,
        _ADAM | {"learning_rate": 1e-2, "weight_decay": 0.01, "hypergrad_lr": 1e-4},
        {"learning_rate": 0.01, "hypergrad_lr": 1e-6},
        schedule=False,
    ),
    Case(
        "momo",
        optim.momo,
        {
            "learning_rate": 0.5,
            "beta": 0.8,
            "lower_bound": -0.1,
            "weight_decay": 0.01,
        },
    ),
    Case(
        "momo_options",
        lambda **hparams: optim.momo(
            adapt_lower_bound=True, bias_correction=True, **hparams
        ),
        {
            "learning_rate": 0.5,
            "beta": 0.8,
            "lower_bound": -0.1,
            "weight_decay": 0.01,
        },
    ),
    Case(
        "momo_adam",
        optim.momo_adam,
        _ADAM | {"learning_rate": 0.5, "lower_bound": -0.1, "weight_decay": 0.01},
        {"learning_rate": 0.1},
    ),
    Case(
        "momo_adam_options",
        lambda **hparams: optim.momo_adam(
            adapt_lower_bound=True, divide=False, **hparams
        ),
        _ADAM | {"learning_rate": 0.5, "lower_bound": -0.1, "weight_decay": 0.01},
        {"learning_rate": 0.1},
    ),
    Case(
        "mechanic",
        _mechanic,
        {"learning_rate": 0.5, "s_decay": 0.1, "s_init": 1e-4, "eps": 1e-6},
    ),
    Case(
        "storm_plus",
        optim.storm_plus,
        {
            "learning_rate": 0.5,
            "c": 10.0,
            "weight_decay": 0.01,
            "eps": 1e-4,
            "init_accumulator": 2.0,
        },
    ),
    Case(
        "polyak_sgd",
        optim.polyak_sgd,
        {"learning_rate": 0.5, "c": 1.0, "lower_bound": -0.1, "eps": 1e-3},
    ),
    Case(
        "armijo_sgd",
        optim.armijo_sgd,
        {
            "learning_rate": 0.5,
            "c": 0.5,
            "initial_step": 0.1,
            "decrease_factor": 0.7,
            "increase_factor": 1.5,
            "max_backtracks": 20.0,
        },
    ),
    Case(
        "reduce_on_plateau",
        _plateau,
        {
            "learning_rate": 0.5,
            "factor": 0.5,
            "patience": 0.0,
            "rtol": 0.5,
            "atol": 0.1,
            "cooldown": 1.0,
            "min_scale": 0.3,
            "accumulation_size": 2.0,
        },
        {"learning_rate": 1e-3},
    ),
    Case(
        "greedy_lr",
        _greedy,
        {
            "learning_rate": 0.05,
            "factor": 0.5,
            "patience": 0.0,
            "rtol": 0.01,
            "atol": 0.1,
            "cooldown": 1.0,
            "warmup": 1.0,
            "min_lr": 0.01,
            "max_lr": 0.4,
            "eps": 1e-3,
            "reset_start": 1.0,
        },
        {"learning_rate": 0.01, "max_lr": 0.02},
        schedule=False,
    ),
)
