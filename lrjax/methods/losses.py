"""Methods that take their step sizes from losses, hypergradients and weight norms."""

from __future__ import annotations

from lrjax import optim
from lrjax.core import Method, Range
from lrjax.methods.forms import (
    RATE,
    STATISTICS,
    built,
    scheduled,
    space,
    unscheduled,
)
from lrjax.optim import builders

_FITS = "For models that can fit their data, so that a loss comes near lower_bound."
_L4 = "Rolinek and Martius 2018; martius-lab/l4-optimizer (TensorFlow)"
_L4_ADVICE = "The rate is the fraction of the way to the reachable loss; loss above 0."
_IAM = "Gower et al. 2025 (IAM)"
_IAM_ADVICE = "The rate is a cap: choose it high. Loss above lower_bound."
_AUTOLRS = "Jin et al. 2021 (AutoLRS); YuchenJin/autolrs"
_AUTOLRS_ADVICE = (
    "Half of the updates search around the rate, to 10 times: keep that below "
    "what diverges."
)

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
    Method(
        name="multirate_sgd",
        **unscheduled(optim.multirate_sgd, learning_rate=0.1),
        family=STATISTICS,
        source="Baydin et al. 2018; Chandra et al. 2022 (SGDPerParam)",
        advice="The rate of the rates wants tuning on a logarithmic scale.",
        space=space(learning_rate=Range(1e-4, 1.0), hypergrad_lr=Range(1e-8, 1e-1)),
        needs_rate=True,
    ),
    Method(
        name="osgm",
        **scheduled(optim.osgm),
        family=STATISTICS,
        source="Gao et al. 2024; Gwzwpxz/osgm (MATLAB)",
        advice="For full batches. Two gradients and a forward pass more a step.",
        space=space(learning_rate=Range(1e-3, 10.0)),
    ),
    Method(
        name="ultimate_adam",
        **unscheduled(optim.ultimate_adam, hyper_hypergrad_lr=1e-8),
        family=STATISTICS,
        source="Chandra et al. 2022; gradient-descent-the-ultimate-optimizer 1.0",
        advice="The higher the tower, the less its first rates matter.",
        space=space(
            learning_rate=Range(1e-5, 1e-1),
            hypergrad_lr=Range(1e-8, 1e-3),
            hyper_hypergrad_lr=Range(1e-12, 1e-6),
        ),
        needs_rate=True,
        adam_like=True,
    ),
    Method(
        name="salsa",
        **unscheduled(optim.salsa),
        family=STATISTICS,
        source="Kenneweg et al. 2024 (SaLSA); TheMody's repository",
        advice="Nothing to tune. Some forward passes more, in some steps.",
        space=space(c=Range(0.1, 0.9), learning_rate=Range(1e-2, 10.0)),
        adam_like=True,
    ),
    Method(
        name="abel",
        **built(builders.abel_sgd),
        family=STATISTICS,
        source="Lewkowycz 2021 (ABEL)",
        advice="Needs weight decay: the rate falls where the weights' norm bounces.",
        space=space(learning_rate=RATE, weight_decay=Range(1e-5, 1e-2)),
        needs_rate=True,
        horizon_bound=lambda hparams: hparams["last_fraction"] < 1,
    ),
    Method(
        name="autolrs_sgd",
        **built(builders.autolrs_sgd),
        family=STATISTICS,
        source=_AUTOLRS,
        advice=_AUTOLRS_ADVICE,
        space=space(learning_rate=Range(1e-4, 0.1)),
        static=frozenset({"candidates"}),
        needs_rate=True,
        horizon_bound=lambda hparams: True,
    ),
    Method(
        name="autolrs_adam",
        **built(builders.autolrs_adamw),
        family=STATISTICS,
        source=_AUTOLRS,
        advice=_AUTOLRS_ADVICE,
        space=space(learning_rate=Range(1e-5, 1e-2)),
        static=frozenset({"candidates"}),
        needs_rate=True,
        adam_like=True,
        horizon_bound=lambda hparams: True,
    ),
)
