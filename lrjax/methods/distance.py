"""Methods of later papers that estimate a distance, a curvature or their own steps."""

from __future__ import annotations

from lrjax import optim
from lrjax.core import Method, Range
from lrjax.methods.forms import (
    ADAM_RATE,
    D0,
    FACTOR,
    FREE,
    SCHEDULE,
    STATISTICS,
    built,
    scheduled,
    space,
    unscheduled,
)
from lrjax.optim import builders

METHODS = (
    Method(
        name="dadapt_adan",
        **scheduled(optim.dadapt_adan, schedule="cosine"),
        family=FREE,
        source="Defazio and Mishchenko 2023; dadaptation 3.2",
        advice="Use the schedule that you would use with Adan. Experimental, say its "
        "authors.",
        space=space(d0=D0, learning_rate=FACTOR),
    ),
    Method(
        name="adgd",
        **unscheduled(optim.adgd, eps=1e-8),
        family=STATISTICS,
        source="Malitsky and Mishchenko 2020; ymalitsky/adaptive_GD",
        advice="Two gradients a step. Tune amplifier, which bounds the growth of the "
        "rate.",
        space=space(amplifier=Range(1e-3, 1.0), learning_rate=Range(1e-3, 1.0)),
    ),
    Method(
        name="adamg",
        **scheduled(optim.adamg),
        family=FREE,
        source="Pang et al. 2024; pytorch_optimizer 4.1.0",
        advice="Nothing to tune; the rate is a cap that falls with the root of time.",
        space=space(learning_rate=Range(1e-3, 1.0), p=Range(0.02, 2.0)),
        adam_like=True,
    ),
    Method(
        name="barzilai_borwein",
        **built(builders.barzilai_borwein_sgd, smoothing=True),
        family=STATISTICS,
        source="Tan, Ma, Dai and Qian 2016; tanconghui/Stochastic_BB",
        advice="A period of about an epoch. The rate is that of the first two periods; "
        "smooth where the losses are noisy.",
        space=space(
            learning_rate=Range(1e-3, 1.0), periods=Range(10.0, 300.0, integer=True)
        ),
        needs_rate=True,
    ),
    Method(
        name="cdat",
        **scheduled(builders.cdat_adamw, learning_rate=1.0),
        family=STATISTICS,
        source="Roulet et al. 2024",
        advice="About three gradients a step. 1 minimises a quadratic model, 2 is the "
        "edge of stability, for full batches.",
        space=space(learning_rate=Range(0.1, 3.0)),
        adam_like=True,
    ),
    Method(
        name="radam",
        **scheduled(optim.radam, schedule="cosine"),
        family=SCHEDULE,
        source="Liu et al. 2020; PyTorch",
        advice="No warm-up: it has its own. Tune the rate.",
        space=ADAM_RATE,
        needs_rate=True,
        adam_like=True,
    ),
    Method(
        name="prodigy_plus_schedule_free",
        **scheduled(optim.prodigy_plus_schedule_free, averages=True),
        family=FREE,
        source="LoganBooker/prodigy-plus-schedule-free 2.0.1",
        advice="No schedule: the average replaces it. No gradient clipping. d grows by "
        "a fifth a step at most: raise d0 for runs of a few hundred steps.",
        space=space(d0=D0, d_coef=FACTOR),
        adam_like=True,
    ),
    Method(
        name="adog",
        **scheduled(optim.adog, averages=True),
        family=FREE,
        source="Kreisler, Ivgi, Hinder and Carmon 2024; ittaikr/open_lm_fork",
        advice="No schedule: the average replaces it. With batch normalisation set "
        "reps_rel to 1e-4; raise it if the distance does not grow.",
        space=space(reps_rel=Range(1e-8, 1e-2)),
    ),
    Method(
        name="trac",
        **scheduled(builders.trac_adamw),
        family=FREE,
        source="Muppidi, Zhang and Yang 2024; trac-optimizer 0.0.2",
        advice="If nothing moves, raise s_prev to 1e-4: float32 loses the first steps. "
        "Large batches: where the second gradient is against the first step, the "
        "parameters stay at their start.",
        space=space(learning_rate=Range(1e-4, 1.0), s_prev=Range(1e-10, 1e-2)),
        adam_like=True,
    ),
    Method(
        name="schedule_free_plus",
        **scheduled(optim.schedule_free_plus, warmup_fraction=0.05, averages=True),
        family=FREE,
        source="Defazio 2026; facebookresearch/schedule_free",
        advice="No schedule: the average replaces it. Warm up over 5 %. The loss must "
        "stay above 0. Weight decays are larger than AdamW's: 20 rather than 0.1.",
        space=space(learning_rate=FACTOR),
        adam_like=True,
    ),
    Method(
        name="kt",
        **scheduled(optim.kt),
        family=FREE,
        source="Orabona and Pál 2016; parameterfree 0.0.1",
        advice="No schedule. For gradients of norms up to 1; where theirs are larger, "
        "lower the rate, which multiplies them.",
        space=space(learning_rate=Range(1e-3, 1.0), wealth=Range(1e-6, 1.0)),
    ),
)
