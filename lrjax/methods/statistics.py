"""Methods that follow the losses, the gradients or what they have learned of them."""

from __future__ import annotations

from typing import Any

from lrjax import optim
from lrjax.core import Method, Range, Space, UsageError
from lrjax.methods.forms import (
    RATE,
    SGD_RATE,
    STATISTICS,
    built,
    defaults,
    scheduled,
    space,
    unscheduled,
)
from lrjax.optim import builders

_HYPERGRADIENT = "Baydin et al. 2018; gbaydin/hypergradient-descent"
_HYPERGRADIENT_ADVICE = "The rate of the rate wants tuning on a logarithmic scale."
_MOMO = "Schaipp et al. 2024; fabian-sp/MoMo"
_MOMO_ADVICE = "A larger rate than usual is safe: it is a cap. Loss above lower_bound."


def _learned(horizon: Any, policy: Any, **hparams: Any) -> builders.Transformation:
    """Build `optim.learned`; raise UsageError for an invalid file of weights."""
    try:
        return optim.learned(horizon, policy=policy, **hparams)
    except ValueError as error:
        raise UsageError(str(error)) from None


METHODS = (
    Method(
        name="hypergradient_sgd",
        **unscheduled(optim.hypergradient_sgd, learning_rate=0.1),
        family=STATISTICS,
        source=_HYPERGRADIENT,
        advice=_HYPERGRADIENT_ADVICE,
        space=space(learning_rate=Range(1e-4, 1.0), hypergrad_lr=Range(1e-8, 1e-1)),
        needs_rate=True,
    ),
    Method(
        name="hypergradient_adam",
        **unscheduled(optim.hypergradient_adam),
        family=STATISTICS,
        source=_HYPERGRADIENT,
        advice=_HYPERGRADIENT_ADVICE,
        space=space(learning_rate=Range(1e-5, 1e-1), hypergrad_lr=Range(1e-10, 1e-2)),
        needs_rate=True,
        adam_like=True,
    ),
    Method(
        name="momo",
        **scheduled(optim.momo),
        family=STATISTICS,
        source=_MOMO,
        advice=_MOMO_ADVICE,
        space=SGD_RATE,
        needs_rate=True,
    ),
    Method(
        name="momo_adam",
        **scheduled(optim.momo_adam),
        family=STATISTICS,
        source=_MOMO,
        advice=_MOMO_ADVICE,
        space=space(learning_rate=Range(1e-4, 10.0)),
        needs_rate=True,
        adam_like=True,
    ),
    Method(
        name="reduce_on_plateau",
        **built(builders.plateau_adamw),
        family=STATISTICS,
        source="PyTorch's ReduceLROnPlateau",
        advice="Start from the largest rate that does not diverge.",
        space=space(learning_rate=RATE, factor=Range(0.05, 0.8)),
        needs_rate=True,
        adam_like=True,
    ),
    Method(
        name="greedy_lr",
        **unscheduled(builders.greedy_adamw),
        family=STATISTICS,
        source="Subramanian et al. 2025; GreedyLR of huggingface/transformers",
        advice="Lower the factor for a faster response, raise window_size with the "
        "noise.",
        space=space(learning_rate=RATE, factor=Range(0.5, 0.99, log=False)),
        static=frozenset({"window_size"}),
        needs_rate=True,
        adam_like=True,
    ),
    Method(
        name="learned",
        build=_learned,
        defaults=defaults(optim.learned),
        code="optim.learned",
        family=STATISTICS,
        source="our own, by the evolution strategies of Salimans et al. 2017",
        advice="Nothing to set; `learning_rate` scales what the network chooses.",
        space=Space({"learning_rate": Range(1e-3, 1e-1)}),
    ),
    Method(
        name="polyak_sgd",
        **scheduled(optim.polyak_sgd),
        family=STATISTICS,
        source="Loizou et al. 2021 (SPS_max)",
        advice="The rate is a cap. For models that can fit their data, so that a "
        "loss comes near lower_bound.",
        space=space(learning_rate=Range(1e-2, 100.0), c=Range(0.1, 1.0)),
    ),
    Method(
        name="armijo_sgd",
        **scheduled(optim.armijo_sgd),
        family=STATISTICS,
        source="Vaswani et al. 2019; IssamLaradji/sls",
        advice="For models that can fit their data. Some forward passes more a step.",
        space=space(c=Range(1e-3, 0.5), learning_rate=Range(1.0, 100.0)),
    ),
)
