"""Parts of one's own by name: of a package's entry point, or 'module:name'.

A package that is installed can offer methods, tasks, metrics, tuners, launchers,
analyses and trackers by entry points in the groups of `GROUPS`; without installation,
any of them is named by its import path, as in --config.methods=my_package.methods:own.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterable, MutableMapping
from typing import TYPE_CHECKING, Any, TypeVar

from lrjax.messages import UsageError, cut, nearest, raised, shown, unknown

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

# kind of part -> group of entry points
GROUPS = {
    kind: f"lrjax.{plural}"
    for kind, plural in (
        ("method", "methods"),
        ("task", "tasks"),
        ("metric", "metrics"),
        ("tuner", "tuners"),
        ("launcher", "launchers"),
        ("analysis", "analyses"),
        ("tracker", "trackers"),
    )
}
_SLIP = 0.8  # least similarity of a name in place of which a path was written
_FILE = re.compile(r"(?:\./)?(?P<module>\w[\w/]*)\.py(?::(?P<name>\w+))?")
_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")

T = TypeVar("T")


def is_path(name: str) -> bool:
    """Whether a name is an import path, 'package.module:name'."""
    return bool(_PATH.fullmatch(name))


@functools.cache
def offered(kind: str) -> dict[str, EntryPoint]:
    """Find the entry points of installed packages, by name; nothing is imported."""
    import importlib.metadata  # which --help need not wait for

    points = importlib.metadata.entry_points(group=GROUPS[kind])
    return {point.name: point for point in points}


def find(
    kind: str,
    name: str,
    known: MutableMapping[str, T],
    accept: Callable[[str, Any], T],
    known_names: Iterable[str] | None = None,
) -> T:
    """Find a registered part; import and register it if another package has it.

    Args:
      kind: a key of `GROUPS`.
      name: the name to find.
      known: the registry, which gets what is imported.
      accept: `accept(name, imported)` checks what was imported and returns what to
        register; raises UsageError.
      known_names: names to suggest in place of those of `known`.

    Raises:
      UsageError: if the name is no text, is unknown, or cannot be imported.
    """
    if not isinstance(name, str):
        raise UsageError(f"{kind} must be a name, not {shown(name)}")
    if name in known:
        return known[name]
    if file := _FILE.fullmatch(name):
        module, part = file["module"].replace("/", "."), file["name"] or "NAME"
        raise UsageError(
            f"unknown {kind} '{cut(name)}': a part of your own is named by its module, "
            f"without .py: {module}:{part}"
        )
    names = [*(known if known_names is None else known_names), *offered(kind)]
    if name in offered(kind):
        point = offered(kind)[name]
        found = _imported(kind, name, point.load)
    elif not is_path(name):
        raise unknown(kind, name, names)
    elif not _is_there(name) and (meant := _misspelt(name, names)):
        raise unknown(kind, name, meant)
    else:
        found = _imported(kind, name, functools.partial(at, name))
    return known.setdefault(name, accept(name, found))


def register(
    kind: str, name: str, part: T, known: MutableMapping[str, T], shipped: Iterable[str]
) -> None:
    """Register a part of one's own; one's own earlier one of that name is replaced.

    Args:
      kind: a key of `GROUPS`.
      name: name of the part.
      part: what to register.
      known: the registry.
      shipped: names of lrjax's own parts, which are not replaced.

    Raises:
      UsageError: if the name is not one line of text, or lrjax's own.
    """
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise UsageError(f"{kind}: its name must be a line of text, not {shown(name)}")
    check_free(kind, name, shipped)
    known[name] = part


def check_free(kind: str, name: str, shipped: Iterable[str]) -> None:
    """Refuse a name of one of lrjax's own parts for a part of a user.

    Raises:
      UsageError: if the name is among `shipped`.
    """
    if name in shipped:
        raise UsageError(f"{kind} '{cut(name)}' is lrjax's own: choose another name")


def _misspelt(path: str, names: Iterable[str]) -> list[str]:
    """The name that a path may mean, as 'libsvm:iris' is 'libsvm/iris'; [] for none."""
    lowered = {name.lower(): name for name in names}
    near = difflib.get_close_matches(path.lower(), lowered, n=1, cutoff=_SLIP)
    return [lowered[each] for each in near]


def _is_there(path: str) -> bool:
    """Whether the first package that a path names can be found; imports nothing."""
    _search_here()
    first, *_ = path.partition(":")[0].split(".")
    try:  # modules without a spec are those of a script, and made by hand
        return first in sys.modules or importlib.util.find_spec(first) is not None
    except (ImportError, ValueError):
        return False


def _search_here() -> None:
    """Let modules be imported from the current directory, too."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def at(path: str) -> Any:
    """Import what a path names; the current directory is searched, too."""
    module, _, name = path.partition(":")
    _search_here()
    found = importlib.import_module(module)
    for part in name.split("."):
        if not hasattr(found, part):
            near = nearest(part, (n for n in dir(found) if not n.startswith("_")))
            hint = f"; did you mean '{near}'?" if near else ""
            raise AttributeError(f"{module} has no '{part}'{hint}")
        found = getattr(found, part)
    return found


def _imported(kind: str, name: str, load: Callable[[], Any]) -> Any:
    """Import a part; report what fails in one line."""
    try:
        return load()
    except UsageError:
        raise
    except (Exception, SystemExit) as error:  # a module of users may raise anything
        raise UsageError(
            f"{kind} '{cut(name)}' cannot be imported: {raised(error)}"
        ) from error
