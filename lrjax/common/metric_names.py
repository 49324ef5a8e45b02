"""Properties of a metric by its name; needs no JAX."""

from __future__ import annotations

_SHARES = {"accuracy", "acc", "f1", "precision", "recall", "top1", "top5", "iou"}
_HIGHER = _SHARES | {
    *("auc", "auroc", "auprc", "ap", "map", "r2", "bleu", "dice", "miou", "psnr"),
    *("return", "returns", "reward", "rewards", "rew", "score", "mcc", "kappa"),
}
_LOWER = {
    *("loss", "error", "err", "perplexity", "ppl", "nll", "mse", "rmse", "mae"),
    *("wer", "cer", "bpc", "bpb", "fid", "regret", "crossentropy", "logloss"),
    *("mape", "smape", "rmsle", "brier"),
}
_DETAILS = {"macro", "micro", "weighted", "mean", "avg", "top1", "top5", "total"}


def higher_is_better(metric: str) -> bool | None:
    """Whether higher values of a metric are better, by its name; None if unknown.

    Example:
      >>> [higher_is_better(m) for m in ("f1_macro", "word_error", "loss_scale")]
      [True, False, None]
      >>> higher_is_better("neg_mean_squared_error")  # as scikit-learn calls scores
      True
    """
    word = _deciding(metric)
    if word not in _HIGHER | _LOWER:
        return None
    return (word in _HIGHER) != _negated(metric)


def is_share(metric: str) -> bool:
    """Whether a metric is a share of rows, from 0 to 1.

    Example:
      >>> is_share("valid_accuracy"), is_share("reward")
      (True, False)
    """
    return _deciding(metric) in _SHARES and not _negated(metric)


def _negated(metric: str) -> bool:
    """Whether a name says that the value has the opposite sign: 'neg_log_loss'."""
    words = metric.lower().split("_")
    return words[0] == "negative" or not {"neg", "minus"}.isdisjoint(words)


def _deciding(metric: str) -> str:
    """The last word of a metric's name that is not a detail, such as 'macro'."""
    words = [word for word in metric.lower().split("_") if not word.isdigit()]
    telling = [word for word in words if word not in _DETAILS] or words
    last = telling[-1] if telling else ""
    return last if last in _HIGHER else last.rstrip("0123456789")
