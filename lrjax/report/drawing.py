"""The look of all figures, and how they become PNG, SVG and part of a page.

The same tables give the same bytes: no dates, no random names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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
INK, SOFT, GRID, FAINT = "#1c1d20", "#63676e", "#e2e4e8", "#c3c6cb"
_ON_DARK = {INK: "#e9eaed", SOFT: "#a4a9b2", GRID: "#34373d", FAINT: "#565b64"}
_DPI = 150

# Names of what a page needs to find again in an SVG: axes, kind, entry.
_DECIMALS = re.compile(r"-?\d+\.\d{3,}")
_MARK = re.compile(r'<g id="mark-(\d+)-(line|band|point)-(\d+)">')


@dataclasses.dataclass(frozen=True)
class Look:
    """One colour and line style for each entry, in all figures.

    Attributes:
      entries: in the order in which they are listed; the first get the clearest
        colours.
      aliases: other names -> the entry whose colour they have.
    """

    entries: tuple[str, ...]
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def number(self, entry: str) -> int:
        """Place of the entry in the list."""
        return self.entries.index(self.aliases.get(entry, entry))

    def colour(self, entry: str) -> str:
        """The entry's colour on white."""
        return list(COLOURS)[self.number(entry) % len(COLOURS)]

    def style(self, entry: str) -> Any:
        """The entry's line style."""
        return STYLES[self.number(entry) // len(COLOURS) % len(STYLES)]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure that has been written, as part of a page.

    Attributes:
      svg: an `<svg>` element whose colours are CSS variables.
      axes: where the axes lie and what they show, as JSON, for values under the mouse.
      width: in points.
    """

    svg: str
    axes: str
    width: float


@contextlib.contextmanager
def style() -> Iterator[Any]:
    """Matplotlib with lrjax's look; gives `matplotlib.pyplot`."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    look: dict[Any, Any] = {
        "font.family": "DejaVu Sans",
        "font.size": 8.5,
        "axes.titlesize": 9.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": 8.5,
        "axes.labelcolor": SOFT,
        "axes.edgecolor": FAINT,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.7,
        "text.color": INK,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "xtick.labelcolor": SOFT,
        "ytick.labelcolor": SOFT,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "xtick.minor.size": 0,
        "ytick.minor.size": 0,
        "legend.frameon": False,
        "lines.linewidth": 1.5,
        "lines.solid_capstyle": "round",
        "svg.fonttype": "none",
        "text.parse_math": False,  # names are names, whatever is in them
        "figure.constrained_layout.use": True,
        "figure.constrained_layout.h_pad": 0.06,
        "figure.constrained_layout.w_pad": 0.06,
    }
    with mpl.rc_context(look):
        yield plt
        plt.close("all")


def brief(name: object) -> str:
    """A name for a figure: of a long one the start and the end."""
    text = str(name)
    return text if len(text) <= 34 else f"{text[:15]}…{text[-18:]}"


def panels(
    plt: Any, count: int, width: float = 3.4, height: float = 2.5, columns: int = 3
) -> tuple[Any, list[Any]]:
    """A figure of so many panels in rows, and its axes."""
    columns = 2 if count == 4 else min(columns, count)
    rows = -(-count // columns)
    # One panel alone is wider; there is room.
    width = width * (1.6 if columns == 1 else 1.25 if columns == 2 else 1)
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False
    )
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return figure, list(axes.flat[:count])


def legend(figure: Any, look: Look, entries: Sequence[str]) -> None:
    """One legend for all panels, below them; the figure grows by its height."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=look.colour(e), linestyle=look.style(e), linewidth=2.2)
        for e in entries
    ]
    names = [brief(entry) for entry in entries]
    longest = max(map(len, names))
    columns = max(1, int(figure.get_figwidth() * 72 / (5.2 * longest + 45)))
    rows = -(-len(entries) // columns)
    figure.set_figheight(figure.get_figheight() + 0.17 * rows)
    figure.legend(
        handles, names, loc="outside lower center", ncols=min(columns, len(entries))
    )


def mark(artist: Any, axis: int, kind: str, number: int) -> None:
    """Names a line, band or point so that a page can find it.

    Args:
      artist: of Matplotlib.
      axis: place of its axes in `save`'s list.
      kind: 'line', 'band' or 'point'.
      number: of its entry in the `Look`.
    """
    artist.set_gid(f"mark-{axis}-{kind}-{number}")


def save(figure: Any, folder: Path, name: str, axes: Sequence[Any] = ()) -> Picture:
    """Writes NAME.png and NAME.svg.

    Args:
      figure: of Matplotlib.
      folder: that exists.
      name: of the files.
      axes: whose values a page shows under the mouse.
    """
    import matplotlib as mpl

    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # it is laid out; each format would do so again
    figure.savefig(folder / f"{name}.png", dpi=_DPI, metadata={"Software": None})
    text = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", metadata=nothing)
    (folder / f"{name}.svg").write_text(text.getvalue())
    places = [_place(figure, axis) for axis in axes]
    svg = _inline(text.getvalue())
    return Picture(svg, json.dumps(places), figure.get_figwidth() * 72)


def _place(figure: Any, axis: Any) -> dict[str, Any]:
    """Corners of axes in the SVG's coordinates, and their limits."""
    box = axis.get_position()
    width, height = figure.get_figwidth() * 72, figure.get_figheight() * 72
    corners = (box.x0 * width, box.x1 * width)
    corners += ((1 - box.y0) * height, (1 - box.y1) * height)
    return {
        "box": [round(c, 2) for c in corners],
        "x": [float(f"{v:.7g}") for v in axis.get_xlim()],
        "y": [float(f"{v:.7g}") for v in axis.get_ylim()],
        "log": [axis.get_xscale() == "log", axis.get_yscale() == "log"],
        "names": [axis.get_xlabel(), axis.get_ylabel() or axis.get_title(loc="left")],
    }


def _shorter(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}"


def _inline(svg: str) -> str:
    """An SVG as an element of a page that may be light or dark."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'<svg width="[^"]*" height="[^"]*"', "<svg", svg)
    # A page scales figures; a hundredth of a point is finer than any screen.
    svg = re.sub(r"<[^>]*>", lambda tag: _DECIMALS.sub(_shorter, tag[0]), svg)
    svg = _MARK.sub(r'<g class="m \2 e\3" data-axis="\1" data-entry="\3">', svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    # The page lies behind the figure.
    svg = svg.replace("fill: #ffffff", "fill: none", 1)
    for number, colour in enumerate(COLOURS):
        svg = svg.replace(colour, f"var(--c{number})")
    for shade, light in zip(("ink", "soft", "grid", "faint"), _ON_DARK, strict=True):
        svg = svg.replace(light, f"var(--{shade})")
    return re.sub(r">\s+<", "><", svg).strip()


def variables(dark: bool) -> str:
    """CSS variables of all colours."""
    pairs = [(f"c{i}", c) for i, c in enumerate(COLOURS.items())]
    pairs += zip(("ink", "soft", "grid", "faint"), _ON_DARK.items(), strict=True)
    pairs += [("page", ("#f6f7f9", "#191b1f")), ("card", ("#ffffff", "#202328"))]
    return "".join(f"--{name}:{colours[dark]};" for name, colours in pairs)
