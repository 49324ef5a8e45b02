"""Fixed rates and schedules that people use every day."""

from __future__ import annotations

from typing import Any

from lrjax import optim
from lrjax.core import Method, Range
from lrjax.methods.forms import (
    ADAM_RATE,
    FIXED,
    RATE,
    SCHEDULE,
    SGD_RATE,
    built,
    scheduled,
    space,
)
from lrjax.optim import builders

_CAWR: dict[str, Any] = {
    "family": SCHEDULE,
    "source": "Loshchilov and Hutter 2017 (SGDR); PyTorch",
    "space": space(
        learning_rate=RATE,
        T_0=Range(1, 50, integer=True),
        t_mult=Range(1, 5, log=False, integer=True),
        eta_min=Range(1e-8, 5e-3),
    ),
    "needs_rate": True,
    "horizon_bound": lambda hparams: True,
}

METHODS = (
    Method(
        name="sgd",
        **scheduled(optim.sgd, learning_rate=0.1),
        family=FIXED,
        source="Robbins and Monro 1951; PyTorch",
        advice="Tune the rate.",
        space=SGD_RATE,
        none={"momentum": 0.0},  # the same steps, with a state
        needs_rate=True,
    ),
    Method(
        name="momentum",
        **scheduled(optim.sgd, learning_rate=0.1, momentum=0.9),
        family=FIXED,
        source="Polyak 1964; PyTorch",
        advice="Tune the rate.",
        space=ADAM_RATE,
        needs_rate=True,
    ),
    Method(
        name="adam",
        **scheduled(optim.adamw, weight_decay=0.0),
        family=FIXED,
        source="Kingma and Ba 2015; PyTorch",
        advice="Tune the rate.",
        space=ADAM_RATE,
        needs_rate=True,
        adam_like=True,
    ),
    Method(
        name="smac",
        **scheduled(optim.adamw, learning_rate=None, weight_decay=0.0),
        family=FIXED,
        source="the study's tuned rates for Adam",
        advice="Only where the study published a tuned rate, under `study`.",
        space=ADAM_RATE,
        required=frozenset({"learning_rate"}),
        needs_rate=True,
    ),
    Method(
        name="adamw_cosine",
        **scheduled(optim.adamw, schedule="cosine", warmup_fraction=0.05),
        family=SCHEDULE,
        source="Loshchilov and Hutter 2019; PyTorch",
        advice="Tune the rate: it is the peak after a warm-up of 5 %.",
        space=ADAM_RATE,
        needs_rate=True,
        adam_like=True,
    ),
    Method(
        name="nadamw_cosine",
        **scheduled(
            optim.nadamw, schedule="cosine", warmup_fraction=0.05, weight_decay=1e-2
        ),
        family=SCHEDULE,
        source="Dozat 2016; Dahl et al. 2023 (AlgoPerf's baseline)",
        advice="Tune the rate: it is the peak after a warm-up of 5 %.",
        space=ADAM_RATE,
        needs_rate=True,
        adam_like=True,
    ),
    Method(
        name="cawr",
        **_CAWR,
        **built(builders.cawr),
        advice="Let a cycle end where training ends.",
        adam_like=True,
    ),
    Method(
        name="cawr_tuned",
        **built(builders.cawr, learning_rate=None, T_0=None, t_mult=None, eta_min=None),
        **_CAWR,
        advice="Only where the study published tuned values, under `study`.",
        required=frozenset({"learning_rate", "T_0", "t_mult", "eta_min"}),
    ),
)
