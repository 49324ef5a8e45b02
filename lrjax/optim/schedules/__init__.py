"""Learning-rate schedules in closed form, traceable in every number.

Each function takes the peak `learning_rate` first and returns a `Schedule`: a
function from the number of updates made so far (0 at the first update; a number or an
array) to the learning rate, of the same shape. Unlike in Optax's schedules, all
arguments may be traced, as integers or floats, so one compiled program runs many
schedules under `jax.vmap`.

Conventions:
- Lengths (`horizon`, `warmup_steps`, `T_0`, `step_size`, ...) are in updates and
  need not be whole. A length of zero is safe: no NaN, neither in the value nor in
  its gradients.
- `horizon` is the number of updates that a schedule is laid out for. As in Optax
  and in PyTorch's closed forms, the final value is that of `step == horizon`; the
  last of `horizon` updates, `step == horizon - 1`, is one step short of it.
  `one_cycle` alone follows PyTorch in reaching it at `horizon - 1`.
- From its end on, a schedule holds its last value. Those without a horizon
  (`step`, `exponential`, `inverse_sqrt`, `inverse_power`, `cosine_warm_restarts`) have
  no end.
- Numbers that are known, not traced, and out of bounds (a negative length, NaN) raise
  a ValueError of one line.
- Results are float32, or float64 under `jax_enable_x64`, whatever the inputs'
  types. In float32 steps are exact up to 2**24.
"""

from __future__ import annotations

from lrjax.optim.schedules.decays import (
    constant,
    exponential,
    inverse_power,
    inverse_sqrt,
    linear,
    polynomial,
    rex,
    step,
)
from lrjax.optim.schedules.named import ANYTIME as ANYTIME
from lrjax.optim.schedules.named import SCHEDULES as SCHEDULES
from lrjax.optim.schedules.named import by_name
from lrjax.optim.schedules.parts import Schedule as Schedule
from lrjax.optim.schedules.refinement import refined
from lrjax.optim.schedules.stages import power, warmup, warmup_stable_decay
from lrjax.optim.schedules.waves import (
    cosine,
    cosine_warm_restarts,
    fit_first_cycle,
    one_cycle,
)

__all__ = [
    "by_name",
    "constant",
    "cosine",
    "cosine_warm_restarts",
    "exponential",
    "fit_first_cycle",
    "inverse_power",
    "inverse_sqrt",
    "linear",
    "one_cycle",
    "polynomial",
    "power",
    "refined",
    "rex",
    "step",
    "warmup",
    "warmup_stable_decay",
]
