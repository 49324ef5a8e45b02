"""What a metric's name says of it."""

from __future__ import annotations

import math

from lrjax.hpo.points import Scale
from lrjax.messages import UsageError, shown

_SHARES = ("accuracy", "acc", "auc", "auroc", "f1", "precision", "recall", "iou")
_HIGHER = (*_SHARES, "bleu", "map", "psnr", "r2", "return", "reward", "score")
_LOWER = ("error", "loss", "mae", "mse", "nll", "perplexity", "ppl", "rmse", "wer")


def scale_of(metric: str, higher_is_better: bool | None = None) -> Scale:
    """Direction and bounds of a metric, by its name.

    Args:
      metric: 'loss', 'valid_accuracy', ...; its last known word decides.
      higher_is_better: the direction; None if the name says it.

    Raises:
      UsageError: if the name does not say it.

    Example:
      >>> scale_of("valid_accuracy").sign, scale_of("eval_loss").sign
      (1, -1)
    """
    words = str(metric).lower().split("_")
    if higher_is_better is None:
        known = [word for word in words if word in _HIGHER + _LOWER]
        if not known:
            raise UsageError(
                f"is more of metric {shown(metric)} better? Say higher_is_better=True "
                "or False"
            )
        higher_is_better = known[-1] in _HIGHER
    if higher_is_better and any(word in _SHARES for word in words):
        return Scale(1, 0.0, 1.0)
    return Scale(1 if higher_is_better else -1, -math.inf, math.inf)
