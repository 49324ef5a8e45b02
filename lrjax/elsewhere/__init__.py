"""Runs that others trained: read from the files that their tools write."""

from __future__ import annotations

import importlib
import os
import re
import urllib.parse
from collections.abc import Iterable

from lrjax.common import naming
from lrjax.core import UsageError, unknown
from lrjax.elsewhere import names
from lrjax.elsewhere.columns import Choices
from lrjax.elsewhere.records import Source as Source
from lrjax.elsewhere.records import gather

# format -> its module, whose `read(place, choices)` gives runs and choices, and a place
FORMATS = {
    "csv": ("lrjax.elsewhere.csv_table", "FILE"),
    "wandb": ("lrjax.elsewhere.wandb_runs", "EXPORT.csv or FOLDER"),
    "tensorboard": ("lrjax.elsewhere.tensorboard_events", "FOLDER"),
    "optuna": ("lrjax.elsewhere.optuna_trials", "sqlite:///FILE#STUDY"),
    "race": ("lrjax.elsewhere.race_jobs", "FOLDER"),
}
_LISTS = ("higher", "lower", "ignore")
_OPTIONS = (*names.ROLES, *_LISTS)


def is_source(text: str) -> bool:
    """Whether a text is a source from elsewhere, such as csv:FILE, and no folder."""
    kind, colon, _ = text.partition(":")
    return bool(colon) and kind in FORMATS and not os.path.isdir(text)


def listed(text: str) -> list[str]:
    """Split sources that are separated by commas; commas in paths stay.

    Example:
      >>> listed("csv:a,b.csv,wandb:runs?lower=x")
      ['csv:a,b.csv', 'wandb:runs?lower=x']
    """
    return re.split(rf",(?=(?:{'|'.join(FORMATS)}):)", text)


def read(source: str) -> Source:
    """Read the runs of a source.

    Args:
      source: FORMAT:PLACE, and perhaps ?NAME=VALUE&NAME=VALUE with roles of columns
        (`names.ROLES`), `higher`, `lower` and `ignore`.

    Raises:
      UsageError: if it cannot be read, or has no run that can be compared.
    """
    kind, place, query = _parts(source)
    choices = _choices(source, query)
    module = importlib.import_module(FORMATS[kind][0])
    name = f"{kind}:{_without_password(place)}"
    return gather(name, *module.read(place, choices))


def read_all(sources: Iterable[str]) -> list[Source]:
    """Read some sources; one that is named twice, by whatever path, is read once."""
    each: dict[tuple[str, ...], str] = {}
    for source in sources:
        kind, place, query = _parts(source)
        each.setdefault((kind, os.path.realpath(place), query), source)
    return [read(source) for source in each.values()]


def _parts(source: str) -> tuple[str, str, str]:
    """Format, place and options of a source.

    Raises:
      UsageError: if it has no known format, or no place.
    """
    kind, colon, rest = source.partition(":")
    if kind not in FORMATS:
        error = unknown("format of --from", kind, FORMATS)
        if colon:
            raise error
        if re.search(r"\.csv(\.gz|\.xz|\.bz2)?(\?|$)", source):
            raise UsageError(f"--from={source}: did you mean csv:{source}?")
        forms = ", ".join(f"{name}:{place}" for name, (_, place) in FORMATS.items())
        raise UsageError(f"--from={source}: it must be one of {forms}")
    place, query = naming.settings_of(rest, _OPTIONS)
    if os.path.lexists(rest):
        place, query = rest, ""
    if not place:
        raise UsageError(
            f"--from={source}: it needs a place: {kind}:{FORMATS[kind][1]}"
        )
    return kind, place, query


def _choices(source: str, query: str) -> Choices:
    """The user's choices, after the question mark."""
    roles: dict[str, str] = {}
    lists: dict[str, tuple[str, ...]] = {}
    for key, value in urllib.parse.parse_qsl(query, keep_blank_values=True):
        if key not in _OPTIONS:
            error = unknown("option", key, _OPTIONS)
            raise UsageError(f"{source}: {error}; there are {', '.join(_OPTIONS)}")
        if key in _LISTS:
            lists[key] = (*lists.get(key, ()), *value.split(","))
        else:
            roles[key] = value
    return Choices(roles, **lists)


def _without_password(place: str) -> str:
    """A place as it may be shown."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", place)
