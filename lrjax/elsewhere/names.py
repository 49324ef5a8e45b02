"""Usual meaning of names of columns: roles, parts of the data, metrics."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lrjax import metrics as metrics_lib
from lrjax.common import metric_names
from lrjax.core import ACCURACY, LOSS, METRICS, Metric

# role -> names of columns that have it, as `plain` writes them; the first found counts
ROLES: dict[str, tuple[str, ...]] = {
    "run": ("run", "run_id", "run_name", "name", "id", "trial", "trial_id"),
    "task": ("task", "dataset", "problem", "benchmark", "env", "env_id", "environment"),
    "method": ("method", "optimizer", "optimiser", "optim", "opt", "algorithm", "algo"),
    "seed": ("seed", "random_seed", "random_state"),
    "step": ("global_step", "trainer_global_step", "step", "iteration", "iter"),
    "epoch": ("epoch",),
    "learning_rate": ("learning_rate", "lr", "base_lr", "initial_lr"),
    "status": ("status", "state"),
    "seconds": (
        *("seconds", "runtime", "duration", "elapsed"),
        *("time_s", "time_sec", "time_seconds", "wall_time_s", "elapsed_s"),
    ),
    "examples": ("examples", "num_examples", "samples"),
    "protocol": ("protocol",),
}
# Columns that describe a run, but are no settings of its training.
_ABOUT = {
    *("name", "id", "notes", "user", "tags", "group", "job_type", "hostname", "host"),
    *("sweep", "commit", "url", "path"),
    *("output_dir", "logging_dir", "log_dir", "save_dir", "run_name", "index"),
    *("best_epoch", "best_step", "total_flos"),
}
_TIMES = {
    *("time", "date", "datetime", "walltime", "wall_time", "training_time"),
    *("timestamp", "created", "updated", "end_time"),
}
# Words of names that are settings, even where each run has another value.
_TUNED = {
    *("lr", "learning", "decay", "wd", "momentum", "dropout", "batch", "warmup"),
    *("beta", "beta1", "beta2", "b1", "b2", "eps", "epsilon", "alpha", "gamma"),
    *("lambda", "l1", "l2", "clip", "clipping", "smoothing", "layers", "units"),
    *("hidden", "width", "depth", "dim", "temperature"),
}
_PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(
        ("valid", "val", "validation", "eval", "evaluation", "dev"), "valid"
    ),
    **dict.fromkeys(("test", "testing"), "test"),
}
_SHORT = {"acc": "accuracy", "ppl": "perplexity"}
_STATUSES = {
    **dict.fromkeys(
        ("done", "finished", "complete", "completed", "success", "ok"), "done"
    ),
    **dict.fromkeys(("diverged", "nan"), "diverged"),
}
# In names of runs and folders: `seed3`, `adam_seed=3`, `adam_s3`
_SEED = re.compile(
    r"(?:^|[_\-. ])(?:(?:random_)?seed[_\-=. ]?|(?<=[_\-. ])s)(\d+)(?=[_\-. ]|$)",
    re.IGNORECASE,
)
# Of settings, those of several words that may follow a value: `opt=adam_base_lr=0.1`
_SEVERAL = "learning_rate|base_lr|initial_lr|weight_decay|batch_size|warmup_steps"
# An optimiser before a setting's name is split off: `adam_lr=0.1` is the rate of Adam,
# while `encoder_lr=0.1` is a setting of that name
_OPTIMISER = re.compile(
    r"(?:.*_)?(?:sgd|adam|adamw|adamax|nadam|nadamw|radam|amsgrad|adabelief|adafactor"
    r"|adagrad|adadelta|rmsprop|lion|lamb|lars|lbfgs|muon|novograd|prodigy|shampoo|soap"
    r"|sophia|yogi)(?=_)",
    re.IGNORECASE,
)
# A value ends at a space, comma or bracket, or where another setting or word begins.
_SETTING = re.compile(
    r"(\w+)(?:=|: )"
    r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?(?=[_\-][a-z]|[\s,;()\[\]]|$)"
    rf"|[^\s,;=()\[\]]+?(?=[_\-](?:{_SEVERAL}|[^\W_]+)=|[\s,;()\[\]]|$))",
    re.IGNORECASE,
)
_VERSION = re.compile(r"version_(\d+)")  # Lightning's folders, each another run
# Names of folders and files that say nothing.
_GENERIC = {
    *("metrics", "results", "progress", "history", "log", "logs", "runs", "tb"),
    *("tensorboard", "lightning_logs", "csv_logs"),
}


def plain(name: str) -> str:
    """Write a name in small letters, digits and underscores alone.

    Example:
      >>> plain("Train/Learning Rate")
      'train_learning_rate'
    """
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def role(name: str, among: Sequence[str]) -> int | None:
    """The place of a column in the list of a role's names; None if it is not there."""
    words = plain(name)
    part, rest = split(name)
    for written in (words, rest if part else words):
        if written in among:
            return among.index(written)
    return None


def find(role_name: str, columns: Iterable[str], chosen: str = "") -> str | None:
    """The column that has a role.

    Args:
      role_name: a key of `ROLES`.
      columns: names of columns.
      chosen: the column that the user named; '' for a usual name.
    """
    columns = list(columns)
    if chosen:
        return chosen if chosen in columns else None
    if role_name in ("seconds", "examples"):  # of training alone
        columns = [c for c in columns if split(c)[0] in ("", "train")]
    places = {c: role(c, ROLES[role_name]) for c in columns}
    named = [(place, c) for c, place in places.items() if place is not None]
    return min(named, key=lambda pair: pair[0])[1] if named else None


def is_about(name: str) -> bool:
    """Whether a column describes a run, and is no setting of its training."""
    roles = ("run", "step", "epoch")
    timed = is_time(name) or plain(name).endswith("_per_second")
    return timed or plain(name) in _ABOUT or any(find(role, [name]) for role in roles)


def is_time(name: str) -> bool:
    """Whether a column is a date, or a time of unknown unit or of evaluation."""
    rest = split(name)[1]
    return bool({plain(name), rest} & _TIMES) or rest in ROLES["seconds"]


def is_tuned(name: str) -> bool:
    """Whether a column has the name of a usual hyperparameter.

    Example:
      >>> is_tuned("optimizer.weight_decay"), is_tuned("error_rate")
      (True, False)
    """
    return bool(set(plain(name).split("_")) & _TUNED)


@functools.cache
def split(name: str) -> tuple[str, str]:
    """Split a column's name into the part of the data and the metric.

    Returns:
      'train', 'valid', 'test' or '' for none, and the rest as `plain` writes it.

    Example:
      >>> split("eval/acc"), split("Loss/train"), split("episode_return")
      (('valid', 'accuracy'), ('train', 'loss'), ('', 'episode_return'))
    """
    words = plain(name).split("_")
    part = next((_PARTS[word] for word in words if word in _PARTS), "")
    words = [word for word in words if _PARTS.get(word, "none") != part]
    if len(words) > 1:  # `epoch_loss` of Keras, `loss_epoch` of Lightning
        words = [word for word in words if word != "epoch"]
    rest = "_".join(words)
    return part, _SHORT.get(rest, rest)


def describe(metric: str, higher: bool) -> Metric:
    """The metric of a name, with the unit and the bounds that are usual for it."""
    known = METRICS | {
        name: metrics_lib.MAKERS[name]() for name in ("auc", "mae", "rmse", "r2")
    }
    if metric in known and known[metric].higher_is_better == higher:
        return known[metric]
    if higher and metric_names.is_share(metric):
        return dataclasses.replace(ACCURACY, name=metric)
    return dataclasses.replace(LOSS, name=metric, higher_is_better=higher, digits=4)


def status(text: object) -> str | None:
    """Translate a state: 'done', 'diverged' or, else, 'stopped'; None for no state."""
    words = "" if text is None else str(text).strip().lower()
    return _STATUSES.get(words, "stopped") if words else None


def number(value: object) -> float | None:
    """A number, or text that is one, such as 75%, as a float; None for all else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and "_" in value:  # which Python would read
        return None
    percent = isinstance(value, str) and value.rstrip().endswith("%")
    try:
        return float(str(value).rstrip("% ")) / 100 if percent else float(value)
    except (ValueError, OverflowError):
        return None


def setting(value: object) -> Any:
    """A hyperparameter's value: text that is a number or a truth becomes one."""
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    if isinstance(value, str) and (found := number(value)) is not None:
        whole = found.is_integer() and re.fullmatch(r"[+-]?\d+", value.strip())
        return int(value) if whole else found
    return value


def guess(path: Sequence[str]) -> Mapping[str, Any]:
    """Guess task, method, seed and settings from the names of folders.

    The last name is the method, those before are the task; a seed may be a name of its
    own or a part of one. Pairs NAME=VALUE are settings.

    Example:
      >>> dict(guess(["mnist", "adam lr=0.1", "seed3"]))
      {'lr': 0.1, 'seed': 3, 'method': 'adam', 'task': 'mnist'}
      >>> dict(guess(["adam_lr=0.01_s0"]))
      {'seed': 0, 'lr': 0.01, 'method': 'adam'}
    """
    found: dict[str, Any] = {}
    names = []

    def seeded(match: re.Match[str]) -> str:
        found["seed"] = int(match[1])
        return ""

    def pair(match: re.Match[str]) -> str:
        optimiser = _OPTIMISER.match(match[1])
        start = optimiser.end() if optimiser else 0
        key = match[1][start:].lstrip("_")
        roles = (r for r in ("task", "method", "seed") if find(r, [key]))
        found[next(roles, key)] = setting(match[2])
        return match[1][:start]

    for above, name in zip(("", *path), path, strict=False):
        version = _VERSION.fullmatch(name)
        if version and above not in ("", "lightning_logs"):  # of a name of the user's
            found["seed"] = int(version[1])
            continue
        name = _SETTING.sub(pair, _SEED.sub(seeded, name))
        name = re.sub(r"[(\[][\s,;_\-]*[)\]]", "", name)
        name = re.sub(r"([\s,_\-])[\s,_\-]+", r"\1", name).strip(" ,_-")
        if name and name.lower() not in _GENERIC:
            names.append(name)
    if names and "method" not in found:
        found["method"] = names.pop()
    if names:
        found.setdefault("task", "/".join(names))
    return found
