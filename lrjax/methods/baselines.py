"""Optimisers that people compare with AdamW, under the schedules they are used with."""

from __future__ import annotations

from typing import Any

from lrjax import optim
from lrjax.core import Method, Range
from lrjax.methods.forms import (
    ADAM_RATE,
    RATE,
    SCHEDULE,
    built,
    scheduled,
    space,
)
from lrjax.optim import builders

_COSINE: dict[str, Any] = {"schedule": "cosine", "warmup_fraction": 0.05}

METHODS = (
    Method(
        name="lion",
        **scheduled(optim.lion, **_COSINE),
        family=SCHEDULE,
        source="Chen et al. 2023; google/automl",
        advice="A rate 3 to 10 times smaller than AdamW's, a decay as much larger.",
        space=space(learning_rate=Range(1e-6, 1e-1)),
        needs_rate=True,
    ),
    Method(
        name="muon",
        **scheduled(optim.muon, **_COSINE),
        family=SCHEDULE,
        source="Jordan et al. 2024; KellerJordan/Muon",
        advice="For models with hidden matrices; consistent_rms=0.2 with adam_factor=1 "
        "takes AdamW's rates.",
        space=space(learning_rate=Range(1e-4, 1.0), adam_factor=Range(1e-3, 1.0)),
        static=frozenset({"ns_steps"}),
        needs_rate=True,
    ),
    Method(
        name="soap",
        **scheduled(optim.soap, **_COSINE),
        family=SCHEDULE,
        source="Vyas et al. 2024; nikhilvyas/SOAP",
        advice="AdamW's rates; keeps and decomposes a matrix for each axis.",
        space=ADAM_RATE,
        static=frozenset({"max_precond_dim", "precondition_frequency"}),
        needs_rate=True,
    ),
    Method(
        name="adopt",
        **scheduled(optim.adopt, **_COSINE),
        family=SCHEDULE,
        source="Taniguchi et al. 2024; iShohei220/adopt",
        advice="AdamW's rates; decouple=True with weight decay.",
        space=ADAM_RATE,
        needs_rate=True,
    ),
    Method(
        name="ademamix",
        **built(builders.ademamix_warm),
        family=SCHEDULE,
        source="Pagliardini et al. 2024; apple/ml-ademamix",
        advice="AdamW's rates; alpha from 2 to 10, for long runs.",
        space=space(learning_rate=RATE, alpha=Range(1.0, 10.0, log=False)),
        needs_rate=True,
        adam_like=True,
        horizon_bound=lambda hparams: True,
    ),
    Method(
        name="adan",
        **scheduled(optim.adan, **_COSINE),
        family=SCHEDULE,
        source="Xie et al. 2022; sail-sg/Adan",
        advice="A rate 5 to 10 times larger than Adam's.",
        space=ADAM_RATE,
        needs_rate=True,
    ),
    Method(
        name="lars",
        **scheduled(builders.lars_matrices, **_COSINE),
        family=SCHEDULE,
        source="You, Gitman and Ginsburg 2017; NVIDIA's LARC as in timm",
        advice="For large batches; a large rate.",
        space=space(learning_rate=Range(1e-4, 100.0)),
        needs_rate=True,
    ),
    Method(
        name="lamb",
        **scheduled(builders.lamb_matrices, **_COSINE),
        family=SCHEDULE,
        source="You et al. 2020; NVIDIA's FusedLAMB as in timm",
        advice="For large batches; the rate is the part that a tensor moves by.",
        space=ADAM_RATE,
        needs_rate=True,
        adam_like=True,
    ),
    Method(
        name="cautious_adamw",
        **scheduled(optim.cautious_adamw, **_COSINE),
        family=SCHEDULE,
        source="Liang et al. 2024; kyleliang919/C-Optim",
        advice="AdamW's rates, or somewhat larger ones.",
        space=ADAM_RATE,
        needs_rate=True,
        adam_like=True,
    ),
)
