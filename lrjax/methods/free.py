"""Methods that need no learning rate, or that replace its schedule by an average."""

from __future__ import annotations

from lrjax import optim
from lrjax.core import Method, Range
from lrjax.methods.forms import (
    D0,
    FACTOR,
    FREE,
    scheduled,
    space,
)
from lrjax.optim import builders

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

METHODS = (
    Method(
        name="dadapt_adam",
        **scheduled(optim.dadapt_adam, schedule="cosine", decouple=True),
        family=FREE,
        source=_DADAPT,
        advice=_DADAPT_ADVICE,
        space=space(d0=D0, learning_rate=FACTOR),
        adam_like=True,
    ),
    Method(
        name="dadapt_sgd",
        **scheduled(optim.dadapt_sgd, schedule="cosine"),
        family=FREE,
        source=_DADAPT,
        advice=_DADAPT_ADVICE,
        space=space(d0=D0, learning_rate=Range(1e-3, 10.0)),
    ),
    Method(
        name="dadapt_adagrad",
        **scheduled(optim.dadapt_adagrad, schedule="cosine"),
        family=FREE,
        source=_DADAPT,
        advice=_DADAPT_ADVICE,
        space=space(d0=D0, learning_rate=FACTOR),
    ),
    Method(
        name="dadapt_lion",
        **scheduled(optim.dadapt_lion, schedule="cosine"),
        family=FREE,
        source=_DADAPT,
        advice=_DADAPT_ADVICE + " Experimental, say its authors. On data that can be "
        "separated the default rate of 1 lets the parameters grow until they "
        "diverge: try 0.1.",
        space=space(d0=D0, learning_rate=FACTOR),
    ),
    Method(
        name="prodigy",
        **scheduled(optim.prodigy, schedule="cosine"),
        family=FREE,
        source="Mishchenko and Defazio 2024; prodigyopt 1.1.2",
        advice=_PRODIGY_ADVICE,
        space=space(d0=D0, d_coef=FACTOR),
        adam_like=True,
    ),
    Method(
        name="cocob",
        **scheduled(optim.cocob),
        family=FREE,
        source="Orabona and Tommasi 2017; parameterfree 0.0.1",
        advice="No schedule; alpha 100 is meant for all problems.",
        space=space(alpha=Range(10.0, 1000.0)),
    ),
    Method(
        name="dog",
        **scheduled(builders.averaged_dog, averaging=True, gamma=8.0),
        family=FREE,
        source=_DOG,
        advice=_DOG_ADVICE,
        space=space(reps_rel=Range(1e-8, 1e-2)),
    ),
    Method(
        name="ldog",
        **scheduled(builders.averaged_ldog, averaging=True, gamma=8.0),
        family=FREE,
        source=_DOG,
        advice=_DOG_ADVICE,
        space=space(reps_rel=Range(1e-8, 1e-2)),
    ),
    Method(
        name="dowg",
        **scheduled(optim.dowg),
        family=FREE,
        source="Khaled, Mishchenko and Jin 2023; rka97/dowg",
        advice="No schedule.",
        space=space(eps=Range(1e-8, 1e-2)),
    ),
    Method(
        name="cdowg",
        **scheduled(optim.cdowg),
        family=FREE,
        source="Khaled, Mishchenko and Jin 2023; rka97/dowg",
        advice="No schedule.",
        space=space(eps=Range(1e-10, 1e-4)),
    ),
    Method(
        name="schedule_free_sgd",
        **scheduled(optim.schedule_free_sgd, warmup_fraction=0.05, averages=True),
        family=FREE,
        source=_SCHEDULE_FREE,
        advice=_FREE_ADVICE,
        space=space(learning_rate=Range(1e-2, 100.0)),
        needs_rate=True,
    ),
    Method(
        name="schedule_free_adamw",
        **scheduled(optim.schedule_free_adamw, warmup_fraction=0.05, averages=True),
        family=FREE,
        source=_SCHEDULE_FREE,
        advice=_FREE_ADVICE + " 1 to 10 times AdamW's rate.",
        space=space(learning_rate=Range(1e-4, 1.0)),
        needs_rate=True,
        adam_like=True,
    ),
    Method(
        name="schedule_free_radam",
        **scheduled(optim.schedule_free_radam, averages=True),
        family=FREE,
        source=_SCHEDULE_FREE,
        advice="No schedule and no warm-up: RAdam has its own. Tune the rate.",
        space=space(learning_rate=Range(1e-4, 1.0)),
        needs_rate=True,
        adam_like=True,
    ),
    Method(
        name="schedule_free_prodigy",
        **scheduled(optim.schedule_free_prodigy, averages=True),
        family=FREE,
        source="schedulefree 1.4.1's wrapper around prodigyopt 1.1.2",
        advice="No schedule: the average replaces it.",
        space=space(d0=D0, d_coef=FACTOR),
        adam_like=True,
    ),
)
