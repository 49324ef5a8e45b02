"""Methods that take their step sizes from the loss of the batch."""

from __future__ import annotations

from lrjax import optim
from lrjax.core import Method, Range
from lrjax.methods.forms import (
    STATISTICS,
    scheduled,
    space,
    unscheduled,
)

_FITS = "For models that can fit their data, so that a loss comes near lower_bound."
_L4 = "Rolinek and Martius 2018; martius-lab/l4-optimizer (TensorFlow)"
_L4_ADVICE = "The rate is the fraction of the way to the reachable loss; loss above 0."
_IAM = "Gower et al. 2025 (IAM)"
_IAM_ADVICE = "The rate is a cap: choose it high. Loss above lower_bound."

METHODS = (
    Method(
        name="ali_g",
        **scheduled(optim.ali_g, learning_rate=0.1, momentum=0.9),
        family=STATISTICS,
        source="Berrada, Zisserman and Kumar 2020; oval-group/ali-g",
        advice="The rate is a cap and wants tuning. " + _FITS,
        space=space(learning_rate=Range(1e-3, 100.0)),
        needs_rate=True,
    ),
    Method(
        name="sps_smooth",
        **unscheduled(optim.sps_smooth),
        family=STATISTICS,
        source="Loizou et al. 2021; IssamLaradji/sps",
        advice=_FITS,
        space=space(learning_rate=Range(1e-3, 10.0), c=Range(0.1, 1.0)),
    ),
    Method(
        name="dec_sps",
        **unscheduled(optim.dec_sps),
        family=STATISTICS,
        source="Orvieto, Lacoste-Julien and Loizou 2022; aorvieto/DecSPS",
        advice="Where a model cannot fit its data: steps only shrink.",
        space=space(c=Range(0.1, 10.0), learning_rate=Range(1e-2, 100.0)),
    ),
    Method(
        name="ngn",
        **scheduled(optim.ngn),
        family=STATISTICS,
        source="Orvieto and Xiao 2024; aorvieto/NGN",
        advice="The rate is a cap: choose it high. Loss above lower_bound.",
        space=space(learning_rate=Range(1e-2, 100.0)),
        needs_rate=True,
    ),
    Method(
        name="l4_adam",
        **scheduled(optim.l4_adam),
        family=STATISTICS,
        source=_L4,
        advice=_L4_ADVICE,
        space=space(learning_rate=Range(1e-2, 0.5)),
        adam_like=True,
    ),
    Method(
        name="l4_momentum",
        **scheduled(optim.l4_momentum),
        family=STATISTICS,
        source=_L4,
        advice=_L4_ADVICE,
        space=space(learning_rate=Range(1e-2, 0.5)),
    ),
    Method(
        name="iam",
        **scheduled(optim.iam),
        family=STATISTICS,
        source=_IAM,
        advice=_IAM_ADVICE,
        space=space(learning_rate=Range(1e-3, 100.0)),
        needs_rate=True,
    ),
    Method(
        name="iam_adam",
        **scheduled(optim.iam_adam),
        family=STATISTICS,
        source=_IAM,
        advice=_IAM_ADVICE,
        space=space(learning_rate=Range(1e-4, 10.0)),
        needs_rate=True,
        adam_like=True,
    ),
)
