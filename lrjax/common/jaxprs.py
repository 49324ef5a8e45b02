"""What a jaxpr really does: the equations that its results depend on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple


class Step(NamedTuple):
    """An equation, and how often it is done: for each turn of the scans around it."""

    eqn: Any
    turns: int


def live(jaxpr: Any) -> list[Step]:
    """The equations that a jaxpr's results depend on, those of inner jaxprs included.

    All branches of a `cond` count, and a `while` counts as one turn.
    """
    return _live(jaxpr, [True] * len(jaxpr.outvars), 1)[0]


def _live(
    jaxpr: Any, used: Sequence[bool], turns: int
) -> tuple[list[Step], list[bool]]:
    """The equations that some results depend on, and which arguments these need."""
    needed = {v for v, use in _pairs(jaxpr.outvars, used) if use and _var(v)}
    steps: list[Step] = []
    for eqn in reversed(jaxpr.eqns):
        wanted = [v in needed for v in eqn.outvars]
        if any(wanted) or eqn.effects:
            inner, arguments = _inside(eqn, wanted, turns)
            steps += [Step(eqn, turns), *inner]
            pairs = _pairs(eqn.invars, arguments)
            needed |= {v for v, use in pairs if use and _var(v)}
    return steps, [v in needed for v in jaxpr.invars]


def _inside(eqn: Any, wanted: list[bool], turns: int) -> tuple[list[Step], list[bool]]:
    """As `_live`, of the jaxprs inside of an equation."""
    name, count = eqn.primitive.name, len(eqn.invars)
    found = list(_jaxprs(eqn.params))
    steps: list[Step] = []
    needed = [not found] * count
    first = [True] * (name == "cond")  # which says which branch
    if name == "scan":
        turns *= eqn.params["length"]
        wanted = _carried(eqn, found[0], wanted)
    for inner in found:
        used = wanted
        if name == "while" or len(inner.outvars) != len(used):
            used = [True] * len(inner.outvars)
        more, arguments = _live(inner, used, turns)
        steps += more
        arguments = [*first, *arguments]
        # Where the arguments are not the jaxpr's, all are taken to be needed.
        if len(arguments) != count:
            arguments = [True] * count
        needed = [a or b for a, b in _pairs(needed, arguments)]
    return steps, needed


def _carried(eqn: Any, body: Any, wanted: list[bool]) -> list[bool]:
    """The results of a scan's body that its wanted results need in some turn."""
    # What is scanned over has an axis more outside of the body than inside.
    stacked = [a.aval.ndim > b.aval.ndim for a, b in _pairs(eqn.invars, body.invars)]
    carried = [a.aval.ndim == b.aval.ndim for a, b in _pairs(eqn.outvars, body.outvars)]
    count = sum(carried)
    first = len(stacked) - sum(stacked) - count  # constants come before
    used = wanted
    while True:
        arguments = _live(body, used, 1)[1][first : first + count]
        more = [a or b for a, b in _pairs(used[:count], arguments)] + used[count:]
        if more == used:
            return used
        used = more


def _pairs(left: Sequence[Any], right: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(left, right, strict=True)


def _jaxprs(params: Any) -> Iterator[Any]:
    """The jaxprs among an equation's parameters, whatever the primitive calls them."""
    for value in params.values():
        for each in value if isinstance(value, list | tuple) else (value,):
            each = getattr(each, "jaxpr", each)  # of a closed one
            if hasattr(each, "eqns"):
                yield each


def _var(atom: Any) -> bool:
    """Whether an equation's argument is a variable and no literal."""
    return not hasattr(atom, "val")
