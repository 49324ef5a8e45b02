"""Optax transformations that control their own learning rate.

All take parameters in a tree of floating-point or complex arrays of any shapes and keep
scalars in float32 or wider. A number that is not called static in its docstring may be
traced. `learning_rate` may be a schedule of the update count, unless the method adapts
the rate itself. Each optimiser is one function with its checks, `init` and `update`,
even where that takes more than 60 lines, so that it can be read beside its official
code.
"""

from typing import TYPE_CHECKING, Any

from lrjax.optim import schedules as schedules
from lrjax.optim.abel import abel
from lrjax.optim.adamg import adamg
from lrjax.optim.adan import adan
from lrjax.optim.ademamix import ademamix
from lrjax.optim.adgd import adgd
from lrjax.optim.adog import adog
from lrjax.optim.adopt import adopt
from lrjax.optim.autolrs import autolrs
from lrjax.optim.barzilai_borwein import barzilai_borwein
from lrjax.optim.base import scale_by_learning_rate
from lrjax.optim.baselines import adamw, nadamw, sgd
from lrjax.optim.cautious import cautious, cautious_adamw
from lrjax.optim.cdat import cdat
from lrjax.optim.cocob import cocob
from lrjax.optim.cooldown import cooldown
from lrjax.optim.dadapt import (
    dadapt_adagrad,
    dadapt_adam,
    dadapt_lion,
    dadapt_sgd,
)
from lrjax.optim.dadapt_adan import dadapt_adan
from lrjax.optim.dog import (
    cdowg,
    dog,
    dowg,
    ldog,
    polynomial_averaging,
)
from lrjax.optim.hypergradient import hypergradient_adam, hypergradient_sgd
from lrjax.optim.iam import iam, iam_adam
from lrjax.optim.kt import kt
from lrjax.optim.l4 import l4_adam, l4_momentum
from lrjax.optim.learned import learned
from lrjax.optim.line_search import armijo_sgd, polyak_sgd
from lrjax.optim.lion import lion
from lrjax.optim.mechanic import mechanic
from lrjax.optim.momo import momo, momo_adam
from lrjax.optim.multirate import multirate_sgd
from lrjax.optim.muon import muon
from lrjax.optim.osgm import osgm
from lrjax.optim.plateau import greedy_lr, reduce_on_plateau
from lrjax.optim.polyak import ali_g, dec_sps, ngn, sps_smooth
from lrjax.optim.prodigy import prodigy
from lrjax.optim.prodigy_plus import prodigy_plus_schedule_free
from lrjax.optim.radam import radam
from lrjax.optim.readings import (
    effective_learning_rate,
    eval_params,
    evaluates_elsewhere,
)
from lrjax.optim.salsa import salsa
from lrjax.optim.schedule_free import (
    schedule_free_adamw,
    schedule_free_prodigy,
    schedule_free_radam,
    schedule_free_sgd,
)
from lrjax.optim.schedule_free_plus import schedule_free_plus
from lrjax.optim.soap import soap
from lrjax.optim.storm_plus import storm_plus
from lrjax.optim.trac import trac
from lrjax.optim.trust_ratio import lamb, lars
from lrjax.optim.ultimate import ultimate_adam
from lrjax.optim.width import mup, width_factors

# Methods of the command line whose optimiser has another name.
_BUILT = {
    "momentum": "sgd with a schedule",
    **dict.fromkeys(
        ("adam", "adamw_cosine", "cawr", "cawr_tuned", "smac"), "adamw with a schedule"
    ),
    "nadamw_cosine": "nadamw with a schedule",
    "autolrs_sgd": "autolrs around sgd",
    "autolrs_adam": "autolrs around adamw",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        built = _BUILT.get(name)
        hint = f": the method is optim.{built}" if built else ""
        raise AttributeError(f"module 'lrjax.optim' has no attribute '{name}'{hint}")


__all__ = [
    "abel",
    "adamg",
    "adamw",
    "adan",
    "ademamix",
    "adgd",
    "adog",
    "adopt",
    "ali_g",
    "armijo_sgd",
    "autolrs",
    "barzilai_borwein",
    "cautious",
    "cautious_adamw",
    "cdat",
    "cdowg",
    "cocob",
    "cooldown",
    "dadapt_adagrad",
    "dadapt_adam",
    "dadapt_adan",
    "dadapt_lion",
    "dadapt_sgd",
    "dec_sps",
    "dog",
    "dowg",
    "effective_learning_rate",
    "eval_params",
    "evaluates_elsewhere",
    "greedy_lr",
    "hypergradient_adam",
    "hypergradient_sgd",
    "iam",
    "iam_adam",
    "kt",
    "l4_adam",
    "l4_momentum",
    "lamb",
    "lars",
    "ldog",
    "learned",
    "lion",
    "mechanic",
    "momo",
    "momo_adam",
    "multirate_sgd",
    "muon",
    "mup",
    "nadamw",
    "ngn",
    "osgm",
    "polyak_sgd",
    "polynomial_averaging",
    "prodigy",
    "prodigy_plus_schedule_free",
    "radam",
    "reduce_on_plateau",
    "salsa",
    "scale_by_learning_rate",
    "schedule_free_adamw",
    "schedule_free_plus",
    "schedule_free_prodigy",
    "schedule_free_radam",
    "schedule_free_sgd",
    "sgd",
    "soap",
    "sps_smooth",
    "storm_plus",
    "trac",
    "ultimate_adam",
    "width_factors",
]
