"""Which colour, line and sign stand for what, and names short enough for a figure.

A method has the same colour on every page, in every figure and after every run: the
colour follows from its name alone. What shares a colour (relatives, or settings of one
method) is told apart by its line and by the sign on it, which also carry those who see
no colours.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

# Tol's 'muted' scheme, told apart by the colour-blind and in print; beside each colour
# what stands for it on a dark page.
COLOURS = {
    "#332288": "#9a8cf0",
    "#cc6677": "#ee8f9d",
    "#117733": "#57b87d",
    "#ddb34c": "#e8cd7c",
    "#6bb8df": "#8fd3f4",
    "#882255": "#d9639b",
    "#44aa99": "#5fcfbd",
    "#8a8a2b": "#c4c463",
    "#aa4499": "#dd88cf",
    "#737373": "#adadad",
}
STYLES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
_SHAPES = ("o", "s", "^", "D", "v", "P", "X", "<")
SIGNS = tuple((shape, filled) for filled in (True, False) for shape in _SHAPES)
# What has which colour, in the order of COLOURS: relatives share one.
_FAMILIES = (
    ("adam", "hypergradient_adam", "momo_adam", "learned"),
    ("sgd", "hypergradient_sgd", "polyak_sgd", "armijo_sgd"),
    ("prodigy", "schedule_free_prodigy", "schedule_free_radam"),
    ("cocob", "mechanic", "storm_plus"),
    ("adamw_cosine", "schedule_free_adamw", "smac"),
    ("momentum", "momo", "schedule_free_sgd"),
    ("dadapt_adam", "dadapt_sgd", "dadapt_adagrad", "dadapt_lion"),
    ("dowg", "cdowg", "dog", "ldog"),
    ("cawr", "cawr_tuned", "reduce_on_plateau", "greedy_lr"),
    ("nadamw_cosine",),
)
_PLACES = {
    name: (colour, turn)
    for colour, family in enumerate(_FAMILIES)
    for turn, name in enumerate(family)
}
# What follows a method's name: settings, rates of a race, directory, number.
_SETTING = re.compile(r" [\w.]+=.*| \(.*| @ .*| #\d+$", re.DOTALL)
LONGEST = 34  # signs of a name in a figure


def method_of(entry: str) -> str:
    """The method behind an entry: of 'smac:adam learning_rate=0.1' it is 'adam'."""
    return _SETTING.sub("", entry, count=1).rsplit(":", 1)[-1] or entry


class Dress(NamedTuple):
    """What an entry looks like.

    Attributes:
      colour: its place in `COLOURS`.
      style: its line's place in `STYLES`.
      sign: its sign's place in `SIGNS`.
    """

    colour: int
    style: int
    sign: int


def _choose(method: str, variant: int) -> Dress:
    number = zlib.crc32(method.encode())
    anywhere = (number % len(COLOURS), number // len(COLOURS) % len(STYLES))
    colour, turn = _PLACES.get(method, anywhere)
    style = (colour + turn + variant + variant // len(SIGNS)) % len(STYLES)
    return Dress(colour, style, (colour + variant) % len(SIGNS))


@dataclasses.dataclass(frozen=True)
class Look:
    """The dress of each entry, and short names, in all figures of a page.

    Attributes:
      entries: in the order in which they are listed.
      aliases: other names -> the entry whose dress they have.
      tasks: names that figures show beside those of entries.
    """

    entries: tuple[str, ...]
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tasks: tuple[str, ...] = ()

    def number(self, entry: str) -> int:
        """Place of the entry in the list."""
        return self.entries.index(self.aliases.get(entry, entry))

    def colour(self, entry: str) -> str:
        """The entry's colour on white."""
        return list(COLOURS)[self._dress(entry).colour]

    def style(self, entry: str) -> Any:
        """The entry's line style."""
        return STYLES[self._dress(entry).style]

    def sign(self, entry: str) -> dict[str, Any]:
        """The entry's sign, as arguments of Matplotlib."""
        shape, filled = SIGNS[self._dress(entry).sign]
        return {
            "marker": shape,
            "markerfacecolor": self.colour(entry) if filled else "#ffffff",
            "markeredgecolor": self.colour(entry),
        }

    def brief(self, name: object) -> str:
        """A name for a figure: whole, or so cut that no other looks like it."""
        text = str(name)
        return self.names.get(text) or shorten([text])[text]

    def _dress(self, entry: str) -> Dress:
        entry = self.aliases.get(entry, entry)
        return self._dresses.get(entry) or _choose(method_of(entry), 0)

    @functools.cached_property
    def names(self) -> dict[str, str]:
        """Each entry's and task's name -> what figures call it."""
        return shorten(self.entries) | shorten(self.tasks)

    @functools.cached_property
    def _dresses(self) -> dict[str, Dress]:
        """No two alike, as long as there are lines and signs."""
        found: dict[str, Dress] = {}
        # A method by its bare name has its own dress; what lrjax knows comes first.
        ordered = sorted(
            set(self.entries),
            key=lambda e: (e != method_of(e), method_of(e) not in _PLACES, e),
        )
        for entry in ordered:
            method, variant = method_of(entry), 0
            dress = _choose(method, variant)
            while dress in found.values() and variant < len(SIGNS) * len(STYLES):
                variant += 1
                dress = _choose(method, variant)
            found[entry] = dress
        return found


def shorten(names: Iterable[object], width: int = LONGEST) -> dict[str, str]:
    """Names of at most so many signs, no two of them alike.

    Of long ones the start and the end are kept, and where that says too little, what
    tells them apart.

    Args:
      names: what is to be shown together.
      width: at least 8.

    Returns:
      name -> short name; names that are short enough stay as they are.

    Example:
      >>> shorten(["svmlight:/data/of/a/set.svm", "svmlight:/data/of/b/set.svm"], 16)
      {'svmlight:/data/of/a/set.svm': 'svmli…/a/set.svm',
       'svmlight:/data/of/b/set.svm': 'svmli…/b/set.svm'}
    """
    whole = sorted({str(name) for name in names})
    found = {name: name for name in whole if len(name) <= width}
    taken, rest = set(found), [name for name in whole if len(name) > width]
    for cut in (_ends, _difference):
        shown = cut(rest, width)
        texts = list(shown.values())
        alone = {t for t in texts if texts.count(t) == 1} - taken
        clear = {n: t for n, t in shown.items() if t in alone}
        found |= clear
        taken |= set(clear.values())
        rest = [name for name in rest if name not in clear]
    number = 0
    for name in rest:
        while (text := _numbered(name, width, number := number + 1)) in taken:
            pass
        found[name] = text
        taken.add(text)
    return found


def _ends(names: list[str], width: int) -> dict[str, str]:
    head = width // 3
    return {name: f"{name[:head]}…{name[head + 1 - width :]}" for name in names}


def _difference(names: list[str], width: int) -> dict[str, str]:
    """The start, what is around the first difference to a neighbour, and the end."""
    head, tail = width // 5, width // 5
    middle = width - head - tail - 2
    shown = {}
    for i, name in enumerate(names):
        beside = names[max(i - 1, 0) : i] + names[i + 1 : i + 2]
        alike = max((_common(name, other) for other in beside), default=0)
        start = min(max(alike - middle // 3, head), len(name) - tail - middle)
        inner = name[start : start + middle]
        shown[name] = f"{name[:head]}…{inner}…{name[len(name) - tail :]}"
    return shown


def _common(a: str, b: str) -> int:
    """How many signs two names begin with alike."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


def _numbered(name: str, width: int, number: int) -> str:
    end = f"…#{number}"
    return name[: width - len(end)] + end
