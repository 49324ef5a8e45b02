"""The page of `--mode=config`: every field of a config, its value and its meaning."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from ml_collections import config_dict

from lrjax import config as config_lib
from lrjax.common import fields
from lrjax.methods import METHODS

# Columns of the page, and least columns of a name, a value and a meaning.
_PAGE, _NAME, _VALUE, _MEANING = 88, 18, 10, 24


def show(config: config_dict.ConfigDict) -> str:
    """Format a page with the value and the meaning of every field of a config.

    Args:
      config: from `base`; values need not pass `check`.

    Returns:
      Lines of at most 88 columns; where a value is not the default, both are shown.

    Raises:
      UsageError: if the config's fields are not those of `base`.
    """
    config_lib.check_names(config)
    values, defaults = (
        dict(fields.leaves(config)),
        dict(fields.leaves(config_lib.base())),
    )
    lines = [
        "Fields of a config: name, value, meaning. Set one as --config.NAME=VALUE."
    ]
    for heading, meanings in _sections(values):
        lines += ["", *textwrap.wrap(heading, _PAGE)]
        width = max([_NAME, *map(len, meanings)])
        for name, meaning in meanings.items():
            if name in defaults and values[name] != defaults[name]:
                meaning = f"{meaning} Default: {defaults[name]!r}.".strip()
            lines += _row(f"{name:<{width}}  {values[name]!r:<{_VALUE}}  ", meaning)
    return "\n".join(lines)


def _sections(leaves: Iterable[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield a heading and the meanings of its fields, those outside of blocks first.

    Args:
      leaves: names of all fields, with dots.
    """
    schema = config_lib.schema()
    yield "", {k: v.help for k, v in schema.items() if _is_single(v)}
    of_hyperparameters = dict(schema)
    for name, part in schema.items():
        if isinstance(part, fields.Block):
            inner = fields.declared(part.declaration)
            singles = {k: v.help for k, v in inner.items() if _is_single(v)}
            yield f"{name}: {part.help}", {f"{name}.{k}": singles[k] for k in singles}
            of_hyperparameters |= {f"{name}.{k}": v for k, v in inner.items()}
    for name, declared in of_hyperparameters.items():
        if isinstance(declared, fields.Field) and not _is_single(declared):
            inside = [leaf for leaf in leaves if leaf.startswith(f"{name}.")]
            meanings = {leaf: _method_default(leaf) for leaf in inside}
            yield f"{name}: {declared.help}", meanings


def _is_single(declared: fields.Field | fields.Block) -> bool:
    """Whether a field holds one value, not a block of hyperparameters."""
    return isinstance(declared, fields.Field) and not callable(declared.default)


def _method_default(name: str) -> str:
    """Name the method's default of a field `hparams.METHOD.NAME`; '' for others."""
    start, _, path = name.partition(".")
    if start != "hparams":
        return ""
    method, _, hparam = path.rpartition(".")
    return f"Method's default: {METHODS[method].defaults[hparam]!r}."


def _row(head: str, meaning: str) -> list[str]:
    """Wrap name and value of a field, and its meaning beside or below them."""
    indent = " " * (_NAME + _VALUE + 4)
    if len(head) <= _PAGE - _MEANING:
        beside = " " * len(head)
        lines = textwrap.wrap(
            meaning, _PAGE, initial_indent=head, subsequent_indent=beside
        )
        return lines or [head.rstrip()]
    return [
        *textwrap.wrap(head, _PAGE, subsequent_indent="    "),
        *textwrap.wrap(meaning, _PAGE, initial_indent=indent, subsequent_indent=indent),
    ]
