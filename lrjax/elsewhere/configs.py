"""Settings as trackers keep them: nested, or beside what lrjax's own logs add."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lrjax.elsewhere import names

# Fields that hold all settings of a run
WHOLE = {"hparams", "hyperparameters", "config", "params"}
_OWN = {"kind", "steps"}  # what lrjax writes of each run, beside names and settings
_OWN_MORE = {"entry", "metric", "horizon", "diverged_at"}


def flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without nesting where it says nothing, and without lrjax's own words.

    Example:
      >>> flat({"optimizer": {"name": "adam", "lr": 0.1}, "model": {"width": 8}})
      {'optimizer': 'adam', 'lr': 0.1, 'model.width': 8}
    """
    dotted = dict(_dotted(fields))
    short = short_names(dotted)
    found = {short[key]: value for key, value in dotted.items()}
    if found.keys() >= {"task", "protocol", "method", *_OWN}:
        found = {k: v for k, v in found.items() if k not in _OWN | _OWN_MORE}
    return found


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Names for keys such as 'optimizer.name', 'optimizer.lr' and 'config.lr'.

    A key keeps its name if another has the shorter one.
    """
    keys = list(keys)
    short: dict[str, str] = {}
    for key in keys:
        head, _, rest = key.partition(".")
        name = key
        if rest and head in WHOLE:
            name = rest
        elif rest and names.find("method", [head]):
            name = head if rest in ("name", "type") else rest
        short[key] = key if name in (*keys, *short.values()) else name
    return short


def _dotted(fields: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Keys and values, those of nested fields with dots."""
    for key, value in fields.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{k}", v) for k, v in _dotted(value))
        else:
            yield key, value
