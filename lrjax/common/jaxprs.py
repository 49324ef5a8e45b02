"""Find the equations of a jaxpr that its results depend on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple


class Step(NamedTuple):
    """An equation, and how often it is executed: the lengths of the scans around it."""

    eqn: Any
    turns: int


def live(jaxpr: Any) -> list[Step]:
    """List the equations that a jaxpr's results depend on, inner jaxprs included.

    Includes all branches of a `cond`; a `while` counts as one turn.
    """
    return _live(jaxpr, [True] * len(jaxpr.outvars), 1)[0]


def _live(
    jaxpr: Any, used: Sequence[bool], turns: int
) -> tuple[list[Step], list[bool]]:
    """List the equations that the used results depend on, and mark the arguments used.

    Args:
      jaxpr: an open jaxpr.
      used: whether each result is used.
      turns: how often the jaxpr is executed.

    Returns:
      the equations, last first, and whether each argument is used.
    """
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
    """Apply `_live` to the jaxprs inside of an equation."""
    name, count = eqn.primitive.name, len(eqn.invars)
    jaxprs = list(_jaxprs(eqn.params))
    steps: list[Step] = []
    needed = [not jaxprs] * count
    first = [True] * (name == "cond")  # the branch's index
    if name == "scan":
        turns *= eqn.params["length"]
        wanted = _carried(eqn, jaxprs[0], wanted)
    for inner in jaxprs:
        used = wanted
        if name == "while" or len(inner.outvars) != len(used):
            used = [True] * len(inner.outvars)
        more, arguments = _live(inner, used, turns)
        steps += more
        arguments = [*first, *arguments]
        # If the arguments do not correspond to the jaxpr's, assume all are used.
        if len(arguments) != count:
            arguments = [True] * count
        needed = [a or b for a, b in _pairs(needed, arguments)]
    return steps, needed


def _carried(eqn: Any, body: Any, wanted: list[bool]) -> list[bool]:
    """Mark the results of a scan's body that the wanted results use in any turn."""
    # Arrays that are scanned over have one axis more outside of the body than inside.
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
    """Yield the jaxprs among an equation's parameters, under any parameter name."""
    for value in params.values():
        for item in value if isinstance(value, list | tuple) else (value,):
            jaxpr = getattr(item, "jaxpr", item)  # a closed jaxpr holds an open one
            if hasattr(jaxpr, "eqns"):
                yield jaxpr


def _var(atom: Any) -> bool:
    """Whether an equation's argument is a variable, not a literal."""
    return not hasattr(atom, "val")
