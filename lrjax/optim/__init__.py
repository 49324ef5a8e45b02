"""Optax transformations that control their own learning rate.

All take parameters in a tree of floating-point or complex arrays of any shapes and keep
scalars in float32 or wider. A number that is not called static in its docstring may be
traced. `learning_rate` may be a schedule of the update count, unless the method adapts
the rate itself. Each optimiser is one function with its checks, `init` and `update`,
even where that takes more than 60 lines, so that it can be read beside its official
code.
"""

from lrjax.optim.adan import adan
from lrjax.optim.ademamix import ademamix
from lrjax.optim.adopt import adopt
from lrjax.optim.base import scale_by_learning_rate
from lrjax.optim.baselines import adamw, nadamw, sgd
from lrjax.optim.cautious import cautious, cautious_adamw
from lrjax.optim.cocob import cocob
from lrjax.optim.cooldown import cooldown
from lrjax.optim.dadapt import (
    dadapt_adagrad,
    dadapt_adam,
    dadapt_lion,
    dadapt_sgd,
)
from lrjax.optim.dog import (
    cdowg,
    dog,
    dowg,
    ldog,
    polynomial_averaging,
)
from lrjax.optim.hypergradient import hypergradient_adam, hypergradient_sgd
from lrjax.optim.learned import learned
from lrjax.optim.line_search import armijo_sgd, polyak_sgd
from lrjax.optim.lion import lion
from lrjax.optim.mechanic import mechanic
from lrjax.optim.momo import momo, momo_adam
from lrjax.optim.muon import muon
from lrjax.optim.plateau import greedy_lr, reduce_on_plateau
from lrjax.optim.prodigy import prodigy
from lrjax.optim.readings import (
    effective_learning_rate,
    eval_params,
    evaluates_elsewhere,
)
from lrjax.optim.schedule_free import (
    schedule_free_adamw,
    schedule_free_prodigy,
    schedule_free_radam,
    schedule_free_sgd,
)
from lrjax.optim.soap import soap
from lrjax.optim.storm_plus import storm_plus
from lrjax.optim.trust_ratio import lamb, lars
from lrjax.optim.width import mup, width_factors

__all__ = [
    "adamw",
    "adan",
    "ademamix",
    "adopt",
    "armijo_sgd",
    "cautious",
    "cautious_adamw",
    "cdowg",
    "cocob",
    "cooldown",
    "dadapt_adagrad",
    "dadapt_adam",
    "dadapt_lion",
    "dadapt_sgd",
    "dog",
    "dowg",
    "effective_learning_rate",
    "eval_params",
    "evaluates_elsewhere",
    "greedy_lr",
    "hypergradient_adam",
    "hypergradient_sgd",
    "lamb",
    "lars",
    "ldog",
    "learned",
    "lion",
    "mechanic",
    "momo",
    "momo_adam",
    "muon",
    "mup",
    "nadamw",
    "polyak_sgd",
    "polynomial_averaging",
    "prodigy",
    "reduce_on_plateau",
    "scale_by_learning_rate",
    "schedule_free_adamw",
    "schedule_free_prodigy",
    "schedule_free_radam",
    "schedule_free_sgd",
    "sgd",
    "soap",
    "storm_plus",
    "width_factors",
]
