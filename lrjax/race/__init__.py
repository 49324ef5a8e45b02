"""`lrjax.Race`: selects the learning-rate control of trainings that lrjax does not run.

Nothing here imports JAX or Optax. `contenders` says who may be trained, `log` keeps
what was measured in a folder, `race` hands out jobs and judges them, `command` runs
jobs as shell commands, and `torch_forms` makes PyTorch's optimisers.
"""

from lrjax.race.answer import Answer
from lrjax.race.job import Job
from lrjax.race.race import Race
from lrjax.race.torch_forms import METHODS as TORCH_METHODS

__all__ = ["TORCH_METHODS", "Answer", "Job", "Race"]
