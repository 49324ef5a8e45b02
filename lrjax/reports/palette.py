"""Colours, line styles and markers of methods, and names short enough for a figure.

A method has the same colour on every page, in every figure and after every run: the
colour follows from its name alone. Entries that share a colour (relatives, or settings
of one method) differ in line style and marker, which also serve readers who cannot see
the colours.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from lrjax.core import printable

# Paul Tol's 'muted' scheme, safe for colour-blind readers and in print: colour on a
# white page -> colour on a dark page.
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
STYLES = (
    "-",
    (0, (5, 1.5)),
    (0, (1.2, 1.2)),
    (0, (5, 1.2, 1.2, 1.2)),
    (0, (9, 1.5)),
    (0, (5, 1.2, 1.2, 1.2, 1.2, 1.2)),
    (0, (9, 1.5, 1.2, 1.5)),
)
_EARLY = 4  # styles of the first relatives of a colour; later ones have the others
_SHAPES = ("o", "s", "^", "D", "v", "P", "X", "<")
SIGNS = tuple((shape, filled) for filled in (True, False) for shape in _SHAPES)
# Methods by colour, in the order of COLOURS: relatives share one.
_FAMILIES = (
    ("adam", "hypergradient_adam", "momo_adam", "learned", "iam_adam", "adopt"),
    ("sgd", "hypergradient_sgd", "polyak_sgd", "armijo_sgd", "dec_sps", "ngn", "lion"),
    (
        *("prodigy", "schedule_free_prodigy", "schedule_free_radam", "sps_smooth"),
        *("prodigy_plus_schedule_free", "adog", "kt"),
    ),
    ("cocob", "mechanic", "storm_plus", "l4_adam", "l4_momentum", "adamg", "soap"),
    (
        *("adamw_cosine", "schedule_free_adamw", "smac", "salsa", "ultimate_adam"),
        *("cautious_adamw", "schedule_free_plus"),
    ),
    ("momentum", "momo", "schedule_free_sgd", "ali_g", "iam", "multirate_sgd", "lars"),
    (
        *("dadapt_adam", "dadapt_sgd", "dadapt_adagrad", "dadapt_lion", "dadapt_adan"),
        *("adan", "lamb"),
    ),
    ("dowg", "cdowg", "dog", "ldog", "osgm", "muon", "ademamix"),
    (
        *("cawr", "cawr_tuned", "reduce_on_plateau", "greedy_lr", "abel"),
        *("autolrs_sgd", "autolrs_adam"),
    ),
    ("nadamw_cosine", "radam", "cdat", "adgd", "barzilai_borwein", "trac"),
)
_PLACES = {
    name: (colour, turn)
    for colour, family in enumerate(_FAMILIES)
    for turn, name in enumerate(family)
}
# Suffixes of a method's name: settings, rates of a race, directory, number.
_SETTING = re.compile(r" [\w.]+=.*| \(.*| @ .*| #\d+$", re.DOTALL)
LONGEST = 34  # characters of a name in a figure


def method_of(entry: str) -> str:
    """The method behind an entry: of 'smac:adam learning_rate=0.1' it is 'adam'."""
    return _SETTING.sub("", entry, count=1).rsplit(":", 1)[-1] or entry


class Appearance(NamedTuple):
    """Style of an entry in figures.

    Attributes:
      colour: index into `COLOURS`.
      style: index of the line style into `STYLES`.
      sign: index of the marker into `SIGNS`.
    """

    colour: int
    style: int
    sign: int


def _choose(method: str, variant: int) -> Appearance:
    """The appearance of a method, or another one of the same colour."""
    number = zlib.crc32(method.encode("utf-8", "surrogatepass"))
    anywhere = (number % len(COLOURS), number // len(COLOURS) % _EARLY)
    colour, turn = _PLACES.get(method, anywhere)
    style = colour + turn + variant + variant // len(SIGNS)
    late = len(STYLES) - _EARLY
    style = style % _EARLY if turn < _EARLY else _EARLY + style % late
    return Appearance(colour, style, (colour + variant) % len(SIGNS))


@dataclasses.dataclass(frozen=True)
class Palette:
    """Appearances and short names of all entries of a page.

    Attributes:
      entries: names, in the order of the legend.
      aliases: other name -> the entry whose appearance it has.
      tasks: names of tasks, to be shortened as well.
    """

    entries: tuple[str, ...]
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tasks: tuple[str, ...] = ()

    def number(self, entry: str) -> int:
        """Index of the entry in the list."""
        return self.entries.index(self.aliases.get(entry, entry))

    def colour(self, entry: str) -> str:
        """The entry's colour on white."""
        return list(COLOURS)[self._appearance(entry).colour]

    def style(self, entry: str) -> Any:
        """The entry's line style."""
        return STYLES[self._appearance(entry).style]

    def sign(self, entry: str) -> dict[str, Any]:
        """The entry's marker, as arguments of Matplotlib."""
        shape, filled = SIGNS[self._appearance(entry).sign]
        return {
            "marker": shape,
            "markerfacecolor": self.colour(entry) if filled else "#ffffff",
            "markeredgecolor": self.colour(entry),
        }

    def brief(self, name: object) -> str:
        """A name for a figure, shortened to a unique text if it is long."""
        text = str(name)
        return self.names.get(text) or shorten([text])[text]

    def _appearance(self, entry: str) -> Appearance:
        """The appearance of an entry, an alias, or any other method."""
        entry = self.aliases.get(entry, entry)
        return self._appearances.get(entry) or _choose(method_of(entry), 0)

    @functools.cached_property
    def names(self) -> dict[str, str]:
        """Name of an entry or task -> its short name in figures."""
        return shorten(self.entries) | shorten(self.tasks)

    @functools.cached_property
    def _appearances(self) -> dict[str, Appearance]:
        """Entry -> appearance, all different while there are lines and markers left."""
        chosen: dict[str, Appearance] = {}
        # Bare names of methods come first, those that lrjax knows before others.
        ordered = sorted(
            set(self.entries),
            key=lambda e: (e != method_of(e), method_of(e) not in _PLACES, e),
        )
        for entry in ordered:
            method, variant = method_of(entry), 0
            appearance = _choose(method, variant)
            while appearance in chosen.values() and variant < len(SIGNS) * len(STYLES):
                variant += 1
                appearance = _choose(method, variant)
            chosen[entry] = appearance
        return chosen


def shorten(names: Iterable[object], width: int = LONGEST) -> dict[str, str]:
    """Shorten names to at most `width` characters, no two of them equal.

    A long name keeps its start and its end, and if that is not unique, also the part
    that differs from its neighbours. Characters that would break a line or control a
    terminal are escaped.

    Args:
      names: names that are shown together.
      width: largest number of characters, at least 8.

    Returns:
      Name -> short name; short names without such characters stay as they are.

    Example:
      >>> names = [f"svmlight:/data/of/{letter}/set.svm" for letter in "ab"]
      >>> list(shorten(names, 16).values())
      ['svmli…/a/set.svm', 'svmli…/b/set.svm']
    """
    rest = sorted({str(name) for name in names})
    # Of names that look alike, one without escapes stays as it is.
    chosen = {name: name for name in rest if len(name) <= width and _is_plain(name)}
    taken = set(chosen)
    for cut in (_same, _ends, _difference):
        rest = [name for name in rest if name not in chosen]
        texts = cut([printable(name) for name in rest], width)
        for name, text in zip(rest, texts, strict=True):
            if len(text) <= width and texts.count(text) == 1 and text not in taken:
                chosen[name] = text
        taken = set(chosen.values())
    number = 0
    for name in rest:
        while name not in chosen:
            text = _numbered(printable(name), width, number := number + 1)
            if text not in taken:
                chosen[name] = text
                taken.add(text)
    return chosen


def _is_plain(name: str) -> bool:
    """Whether a name is shown as it is."""
    return printable(name) == name


def _same(names: list[str], _: int) -> list[str]:
    """Whole names."""
    return names


def _ends(names: list[str], width: int) -> list[str]:
    """Start and end of each name."""
    head = width // 3
    return [f"{name[:head]}…{name[head + 1 - width :]}" for name in names]


def _difference(names: list[str], width: int) -> list[str]:
    """Start, surroundings of the first difference to a neighbour, and end of names."""
    head, tail = width // 5, width // 5
    middle = width - head - tail - 2
    shown = []
    for i, name in enumerate(names):
        neighbours = names[max(i - 1, 0) : i] + names[i + 1 : i + 2]
        common = max((_common(name, other) for other in neighbours), default=0)
        start = min(max(common - middle // 3, head), len(name) - tail - middle)
        inner = name[start : start + middle]
        shown.append(f"{name[:head]}…{inner}…{name[len(name) - tail :]}")
    return shown


def _common(a: str, b: str) -> int:
    """Length of the common start of two names."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


def _numbered(name: str, width: int, number: int) -> str:
    """Start of a name, with a number."""
    end = f"…#{number}"
    return name[: width - len(end)] + end
