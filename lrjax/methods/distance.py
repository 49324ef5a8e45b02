"""Methods of later papers that estimate a distance, a curvature or their own steps."""

from __future__ import annotations

from lrjax import optim
from lrjax.core import Method
from lrjax.methods.forms import (
    D0,
    FACTOR,
    FREE,
    scheduled,
    space,
)

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
)
