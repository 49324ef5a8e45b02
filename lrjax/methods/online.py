"""Methods that learn or derive their steps from sums over the whole run."""

from __future__ import annotations

from lrjax import optim
from lrjax.core import Method, Range
from lrjax.methods.forms import (
    FREE,
    scheduled,
    space,
)
from lrjax.optim import builders

METHODS = (
    Method(
        name="mechanic",
        **scheduled(builders.mechanic_adamw, schedule="cosine", warmup_fraction=0.05),
        family=FREE,
        source="Cutkosky, Defazio and Mehta 2023; optimizedlearning/mechanic (PyTorch)",
        advice="Give it the schedule of the base optimiser, at a peak of 1.",
        space=space(s_init=Range(1e-10, 1e-4), s_decay=Range(1e-4, 1.0)),
        adam_like=True,
    ),
    Method(
        name="storm_plus",
        **scheduled(optim.storm_plus),
        family=FREE,
        source="Levy, Kavis and Cevher 2021",
        advice="Two gradients a step.",
        space=space(c=Range(1e-2, 100.0)),
    ),
)
