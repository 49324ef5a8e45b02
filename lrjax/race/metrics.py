"""Properties of a metric, by its name."""

from __future__ import annotations

import math

from lrjax.common import metric_names
from lrjax.hpo.points import Scale
from lrjax.messages import UsageError, shown


def scale_of(metric: str, higher_is_better: bool | None = None) -> Scale:
    """Direction and bounds of a metric, by its name.

    Args:
      metric: 'loss', 'valid_accuracy', ...
      higher_is_better: the direction; None if the name says it.

    Raises:
      UsageError: if the name does not say it.

    Example:
      >>> scale_of("valid_accuracy").sign, scale_of("eval_loss").sign
      (1, -1)
    """
    if higher_is_better is None:
        higher_is_better = metric_names.higher_is_better(str(metric))
    if higher_is_better is None:
        raise UsageError(
            f"is more of metric {shown(metric)} better? Say higher_is_better=True or "
            "False"
        )
    if higher_is_better and metric_names.is_share(str(metric)):
        return Scale(1, 0.0, 1.0)
    return Scale(1 if higher_is_better else -1, -math.inf, math.inf)
