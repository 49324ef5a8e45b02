"""The style of all figures, and their output as PNG, SVG and part of a page.

The same tables give the same bytes: no dates, no random names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import html
import importlib.util
import io
import json
import logging
import os
import re
import sys
import threading
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrjax.common import files
from lrjax.core import printable
from lrjax.reports.palette import COLOURS, STYLES, Palette

INK, SOFT, GRID, FAINT = "#1c1d20", "#63676e", "#e2e4e8", "#c3c6cb"
PAPER = "#ffffff"
# Name of a CSS variable -> colour on a white page, on a dark page.
_SHADES = {
    "ink": (INK, "#e9eaed"),
    "soft": (SOFT, "#a4a9b2"),
    "grid": (GRID, "#34373d"),
    "faint": (FAINT, "#565b64"),
    "card": (PAPER, "#202328"),
    "page": ("#f6f7f9", "#191b1f"),
}
_DPI = 150

_DECIMALS = re.compile(r"-?\d+\.\d{3,}")
# The ids that `mark` gives: axes, kind, entry.
_MARK = re.compile(r'<g id="mark-(\d+)-(line|band|point|sign)-(\d+)">')
_SIGNS = 5  # markers on a line
_TICKS = 3  # labels that a log axis has at least: with two it reads as linear
_SPOKEN = 16  # entries in a figure's text alternative


@dataclasses.dataclass(frozen=True)
class Panel:
    """Axes of a figure, as part of a page.

    Attributes:
      svg: the content of an `<svg>` element, with CSS variables for colours.
      view: its viewBox.
      text: what it shows in words, for those who cannot see it.
      width: in points.
      keys: (swatch, name) pairs of its own legend.
    """

    svg: str
    view: str
    text: str
    width: float
    keys: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Picture:
    """A written figure, as part of a page.

    Attributes:
      panels: in order; a page puts as many in a row as fit.
      keys: (swatch, name) pairs of the legend.
      axes: positions, limits and names of the axes as JSON, for values under the mouse.
    """

    panels: tuple[Panel, ...]
    keys: tuple[tuple[str, str], ...]
    axes: str


@contextlib.contextmanager
def style(laid_out: bool = True) -> Iterator[Any]:
    """Matplotlib in lrjax's style; the context has `subplots`.

    Figures are files: no backend is needed, and the user's own figures, settings and
    backend stay as they are.

    Args:
      laid_out: whether there is room for all that is beside axes. A page shows each
        panel by itself and needs none, so that drawing takes half of the time.
    """
    mpl = import_matplotlib()
    parameters: dict[Any, Any] = {
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
        "text.parse_math": False,  # names may hold dollar signs
        "figure.constrained_layout.use": laid_out,
        "figure.constrained_layout.h_pad": 0.06,
        "figure.constrained_layout.w_pad": 0.06,
    }
    with mpl.rc_context(), _quiet(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update(parameters)
        # The box in place of a character that the font lacks says enough.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield types.SimpleNamespace(subplots=_subplots)


def import_matplotlib() -> Any:
    """Import Matplotlib, whatever the user's MPLBACKEND and matplotlibrc are.

    Notebooks pass their own MPLBACKEND on to programs that they start, where it may not
    be installed. Call this before importing rliable, which imports Matplotlib.
    """
    with _importing:
        return _import_matplotlib()


_importing = threading.Lock()  # it is also imported ahead, in a thread


def _import_matplotlib() -> Any:
    """Import for `import_matplotlib`, in one thread at a time."""
    if "matplotlib" in sys.modules:  # only the first import reads them, and may fail
        return importlib.import_module("matplotlib")  # waits for another thread's
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        with _quiet():
            if any(map(_blocks, _settings_files())):
                matplotlib = _import_without_settings()
            else:
                try:
                    import matplotlib
                except Exception:  # a matplotlibrc may hold anything
                    matplotlib = _import_without_settings()
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend:  # for the user's own figures
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = backend
    return matplotlib


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back Matplotlib's words on settings and folders that it cannot use."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _settings_files() -> Iterator[str]:
    """Paths where Matplotlib looks for the user's settings."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    folders = [os.environ.get("MPLCONFIGDIR"), os.path.join(home, "matplotlib")]
    named = os.environ.get("MATPLOTLIBRC")
    yield "matplotlibrc"
    yield from (named,) if named else ()
    for folder in filter(None, (named, *folders)):
        yield os.path.join(folder, "matplotlibrc")


def _blocks(path: str) -> bool:
    """Whether reading a path might never end: a pipe or a device."""
    return os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))


def _import_without_settings() -> Any:
    """Import Matplotlib where it takes its own defaults for the user's settings."""
    for name in [n for n in sys.modules if n.partition(".")[0] == "matplotlib"]:
        del sys.modules[name]  # left by an import that failed
    found = importlib.util.find_spec("matplotlib")
    assert found is not None
    assert found.origin is not None
    with contextlib.chdir(os.path.join(os.path.dirname(found.origin), "mpl-data")):
        import matplotlib
    return matplotlib


def _subplots(
    rows: int = 1,
    columns: int = 1,
    figsize: tuple[float, float] = (3, 3),
    **options: Any,
) -> tuple[Any, Any]:
    """A figure without a window, and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=figsize, dpi=_DPI)  # the dpi that texts are measured at
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **options)


def panels(
    plt: Any, count: int, width: float = 3.4, height: float = 2.5, columns: int = 3
) -> tuple[Any, list[Any]]:
    """A figure of `count` panels in rows, and the axes of the panels.

    Args:
      plt: as given by `style`.
      count: number of panels.
      width, height: size of a panel, in inches; wider with one or two columns.
      columns: largest number of panels in a row; four panels are two rows of two.
    """
    columns = 2 if count == 4 else min(columns, count)
    rows = -(-count // columns)
    width = width * (1.35 if columns == 1 else 1.2 if columns == 2 else 1)
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False
    )
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return figure, list(axes.flat[:count])


def line(
    axis: Any, place: int, palette: Palette, entry: str, x: Any, y: Any, **options: Any
) -> None:
    """Draw a line in the colour and style of its entry, with markers.

    Lines that coincide stay visible: dashed lines are drawn over solid ones, and each
    entry has its markers at other places.

    Args:
      axis: Matplotlib's axes, with their final scales.
      place: index of these axes in the list that `picture` gets.
      palette: appearances of the entries.
      entry: name of the entry.
      x, y: values [points]; NaN for a gap.
      options: more arguments of Matplotlib's plot.
    """
    colour, number = palette.colour(entry), palette.number(entry)
    order = 2 + 0.1 * STYLES.index(palette.style(entry))
    shown = {"linestyle": palette.style(entry), "zorder": order} | options
    (drawn,) = axis.plot(x, y, color=colour, **shown)
    mark(drawn, place, "line", palette, entry)
    if options.get("drawstyle") == "steps-post":
        x, y = np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1]
    x, y = signs_at(axis, x, y, (number + 0.5) / len(palette.entries))
    dots = {"linestyle": "none", "markersize": 3.6, "markeredgewidth": 0.9}
    (signs,) = axis.plot(x, y, **dots | palette.sign(entry) | {"zorder": 2.9})
    mark(signs, place, "sign", palette, entry)


def signs_at(axis: Any, x: Any, y: Any, part: float) -> tuple[Any, Any]:
    """Positions of the markers on a line.

    Args:
      axis: Matplotlib's axes, with their final scales.
      x, y: the line's points.
      part: offset of the markers, from 0 to 1 of the distance between two of them.
    """
    points = np.column_stack([x, y]).astype(float)
    scaled = axis.transScale.transform(points)
    # A log axis places what is not above 0 a thousand decades below 1.
    shown = (np.isfinite(scaled) & (scaled > -999)).all(1)
    points, scaled = points[shown], scaled[shown]
    if not len(points):
        return [], []
    count = min(_SIGNS, len(points))
    at = (np.arange(count) + part) * (len(points) - 1) / count
    places = [np.interp(at, np.arange(len(points)), side) for side in scaled.T]
    positions = axis.transScale.inverted().transform(np.column_stack(places))
    # Rounding must not move a marker beyond the ends of its line.
    return np.clip(positions, points.min(0), points.max(0)).T


def key(palette: Palette, entry: str, **options: Any) -> Any:
    """The handle of an entry in a legend; options as for Matplotlib's Line2D."""
    from matplotlib.lines import Line2D

    drawn = {"color": palette.colour(entry), "linestyle": palette.style(entry)}
    drawn |= {"linewidth": 1.8, "markersize": 4.2, "markeredgewidth": 1.0}
    return Line2D([], [], **drawn | palette.sign(entry) | options)


def legend(figure: Any, palette: Palette, entries: Sequence[str]) -> None:
    """Add one legend of entries below all panels; the figure grows by its height."""
    below(figure, [key(palette, e) for e in entries], list(map(palette.brief, entries)))


def below(figure: Any, handles: Sequence[Any], names: Sequence[str]) -> None:
    """Add a legend below all panels; the figure grows by its height."""
    if not names:
        return
    longest = max(map(len, names))
    columns = max(1, int(figure.get_figwidth() * 72 / (5.2 * longest + 45)))
    rows = -(-len(names) // columns)
    figure.set_figheight(figure.get_figheight() + 0.17 * rows)
    figure.legend(
        handles,
        names,
        loc="outside lower center",
        ncols=min(columns, len(names)),
        handlelength=2.8,
    )


def mark(artist: Any, axis: int, kind: str, palette: Palette, entry: str) -> None:
    """Give a line, band or point an id by which a page finds it, and a name.

    Args:
      artist: Matplotlib's artist.
      axis: index of the artist's axes in the list given to `picture`.
      kind: 'line', 'band', 'point', or 'sign' for markers that show no value.
      palette: has the entry.
      entry: what the artist shows.
    """
    artist.set_gid(f"mark-{axis}-{kind}-{palette.number(entry)}")
    if kind in ("line", "point"):
        artist.set_label(entry)


def scale_values(axis: Any, side: str, values: Any, higher_is_better: bool) -> bool:
    """Give an axis of measurements its scale; return whether it is a log scale.

    It is where lower is better and no value is negative. Zeros are then drawn at the
    lower edge.

    Args:
      axis: Matplotlib's axes.
      side: 'x' or 'y'.
      values: all that will be drawn; NaN where runs diverged.
      higher_is_better: direction of the metric.
    """
    values = np.asarray(values, float)
    positive = values[(values > 0) & np.isfinite(values)]
    has_zeros = (values == 0).any()
    set_scale = getattr(axis, f"set_{side}scale")
    if higher_is_better or (values < 0).any() or (has_zeros and not len(positive)):
        set_scale("linear")
        return False
    if not has_zeros:
        set_scale("log")
        return True
    low, high = positive.min(), positive.max()
    zero = low / max(2.0, (high / low) ** 0.1)

    def moved(drawn: Any) -> Any:
        drawn = np.asarray(drawn)
        return np.where(drawn <= 0, zero, drawn)

    set_scale("functionlog", functions=(moved, lambda drawn: drawn))
    return True


def _is_log(side: Any) -> bool:
    """Whether `xaxis` or `yaxis` has a log scale."""
    return side.get_scale() in ("log", "functionlog")


def _zero(side: Any) -> float:
    """Position of zeros on a log axis; 0 if there are none."""
    if side.get_scale() != "functionlog":
        return 0.0
    return float(10 ** side.get_transform().transform([0.0])[0])


def log_ticks(side: Any) -> None:
    """Label a log axis with plain numbers, or with powers if it spans much.

    At least three places are labelled, and the lower edge with 0 if it shows zeros.

    Args:
      side: `xaxis` or `yaxis`, after all data is drawn.
    """
    from matplotlib import ticker

    if not _is_log(side):
        return
    low, high = side.get_view_interval()
    if zero := _zero(side):
        low = zero * (zero / high) ** 0.02
        getattr(side.axes, f"set_{side.axis_name}lim")(low, high)
    side.set_minor_locator(ticker.NullLocator())
    plain = ticker.FuncFormatter(lambda v, _: f"{v:g}")
    choices: list[tuple[bool, Any, Any]] = [  # the first that fits and labels enough
        (high / low > 300, _logs(1), ticker.FuncFormatter(_power)),
        (high / low > 20, _logs(1, 3), plain),
        (high / low < 4, ticker.MaxNLocator(4), plain),
        (True, _logs(1, 2, 5), plain),
        (True, _logs(1, 2, 3, 5, 7), plain),
        (True, ticker.MaxNLocator(5, min_n_ticks=_TICKS), plain),
    ]
    for fits, locator, formatter in choices:
        if not fits:
            continue
        side.set_major_locator(locator)
        side.set_major_formatter(formatter)
        places = [p for p in side.get_majorticklocs() if max(low, 1.5 * zero) <= p]
        if sum(place <= high for place in places) >= _TICKS:
            break
    if zero:
        known = side.get_major_formatter()
        side.set_major_locator(ticker.FixedLocator([zero, *places]))
        side.set_major_formatter(
            ticker.FuncFormatter(lambda v, i: known(v, i) if v > 1.01 * zero else "0")
        )


def _logs(*subs: float) -> Any:
    """A locator of ticks at these multiples of the powers of ten."""
    from matplotlib import ticker

    return ticker.LogLocator(subs=subs)


def _power(value: float, _: Any) -> str:
    """A power such as 10⁻³ in plain text, since figures do not parse markup."""
    exponent = str(round(np.log10(value)))
    return "10" + exponent.translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def write(figure: Any, folder: Path, name: str, kinds: Sequence[str]) -> list[Path]:
    """Write a figure as NAME.KIND for each kind; return the paths.

    Args:
      figure: Matplotlib's figure.
      folder: an existing folder.
      name: name of the files, without extension.
      kinds: 'png' or 'svg'.

    Raises:
      UsageError: if they cannot be written.
    """
    written = []
    for kind, content in render(figure, name, kinds).items():
        written.append(folder / f"{name}.{kind}")
        files.replace(written[-1], content)
    return written


def render(figure: Any, name: str, kinds: Sequence[str]) -> dict[str, bytes]:
    """Draw a figure; return the content of a file for each kind.

    Args:
      figure: Matplotlib's figure.
      name: seed of the names inside of an SVG.
      kinds: 'png' or 'svg'.
    """
    import matplotlib as mpl
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_text(printable(text.get_text()))
    if layout := figure.get_layout_engine():
        with warnings.catch_warnings():  # names can be too long for any layout
            warnings.filterwarnings("ignore", "constrained_layout not applied")
            layout.execute(figure)
        figure.set_layout_engine("none")  # laid out, and not again for each format
    contents = {}
    for kind in kinds:
        content, data = io.BytesIO(), {"Software": None}
        if kind == "svg":
            data = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        with mpl.rc_context({"svg.hashsalt": name}):
            if kind == "png":  # `savefig` would draw once more beforehand
                figure.canvas.print_png(content, metadata=data)
            else:
                figure.savefig(content, format=kind, dpi=_DPI, metadata=data)
        contents[kind] = content.getvalue()
    return contents


def picture(
    figure: Any,
    name: str,
    axes: Sequence[Any] = (),
    names: Mapping[str, str] | None = None,
    kinds: Sequence[str] = ("png", "svg"),
) -> tuple[Picture, dict[str, bytes]]:
    """Draw a figure for a page; return it, and its files by kind.

    Args:
      figure: Matplotlib's figure.
      name: name of the files, without extension.
      axes: axes that show values under the mouse.
      names: name -> short name in figures; a page has the whole names as tooltips.
      kinds: as for `render`, 'svg' among them.
    """
    shown = [axis for axis in figure.axes if axis.get_visible()]
    for number, axis in enumerate(shown):
        axis.set_gid(f"panel-{number}")
    contents = render(figure, name, kinds)
    svg = _titled(contents["svg"].decode(), names or {})
    places = [_place(figure, axis) for axis in axes]
    parts = _panels(svg, figure, shown)
    keys = tuple(k for drawn in figure.legends for k in _keys(drawn))
    return Picture(parts, keys, json.dumps(places)), contents


def _titled(svg: str, names: Mapping[str, str]) -> str:
    """Add the whole names as tooltips to short names in an SVG."""
    for whole, short in names.items():
        if whole != short:
            text = f">{html.escape(short, quote=False)}</text>"
            title = html.escape(printable(whole), quote=False)
            title = f"<title>{title}</title></text>"
            svg = svg.replace(text, text.removesuffix("</text>") + title)
    return svg


def _panels(svg: str, figure: Any, axes: Sequence[Any]) -> tuple[Panel, ...]:
    """Cut an SVG into one per axes, all of the same size."""
    height = figure.get_figheight() * 72
    corners, legends = [], [axis.get_legend() for axis in axes]
    for axis, drawn in zip(axes, legends, strict=True):
        if drawn:
            drawn.set_in_layout(False)  # a page puts it below the panel
        box = axis.get_tightbbox().padded(2).extents * 72 / figure.dpi
        corners.append((box[0], height - box[3], box[2], height - box[1]))
    left, top, right, bottom = np.array(corners).T
    wide, high = max(right - left), max(bottom - top)
    # Panels of a column start at the same x, so that their plots are aligned.
    columns = [axis.get_subplotspec().colspan.start for axis in axes]
    starts = [min(left[np.equal(columns, c)]) for c in columns]
    wide = max(wide, max(right - starts))
    cut = []
    for number, drawn in enumerate(legends):
        inner, svg = _cut(svg, f'<g id="panel-{number}">')
        if drawn:
            _, inner = _cut(inner, '<g id="legend_')
        box = (starts[number], top[number], wide, high)
        view = " ".join(f"{value:.1f}" for value in box)
        keys = tuple(_keys(drawn)) if drawn else ()
        cut.append((inner, view, keys, _in_words(axes[number])))
    shared = re.findall(r"<defs>.*?</defs>", svg, re.DOTALL)
    return tuple(
        Panel(_inline("".join(shared) * (not i) + inner), view, text, float(wide), keys)
        for i, (inner, view, keys, text) in enumerate(cut)
    )


def _in_words(axis: Any) -> str:
    """Describe what axes show: their titles, and the last value of each entry."""
    title, x, y = axis.get_title(loc="left"), axis.get_xlabel(), axis.get_ylabel()
    words = [title, f"{y} over {x}" if x and y else x or y]
    lines = [line for line in axis.get_lines() if line.get_label()[:1] != "_"]
    if lines:
        lines.sort(key=_number)
        values = {line.get_label(): _last(line, rows=not y) for line in lines}
        shown = [f"{name} {value}" for name, value in values.items()][:_SPOKEN]
        more = len(values) - len(shown)
        shown += [f"and {more} more"] * bool(more)
        words.append(f"{'value' if not y else 'last value'}: {', '.join(shown)}")
    return printable("; ".join(filter(None, words)))


def _number(line: Any) -> int:
    """The number of a line's entry; 0 if it has none."""
    return int((line.get_gid() or "0").rpartition("-")[2])


def _last(line: Any, rows: bool) -> str:
    """The last value of a line; of points in a row, the smallest and the largest."""
    values = np.asarray(line.get_xdata() if rows else line.get_ydata(), float)
    values = values[np.isfinite(values)]
    if not len(values):
        return "none"
    if not rows:
        return f"{values[-1]:.4g}"
    low, high = values.min(), values.max()
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def _cut(svg: str, start: str) -> tuple[str, str]:
    """Cut a group out of an SVG; return the group and the rest.

    Args:
      svg: text of the SVG.
      start: the first characters of the group.
    """
    begin = svg.index(start)
    depth = 0
    for tag in re.finditer(r"<g\b[^>]*(?<!/)>|</g>", svg[begin:]):
        depth += -1 if tag[0] == "</g>" else 1
        if not depth:
            end = begin + tag.end()
            return svg[begin:end], svg[:begin] + svg[end:]
    raise ValueError(f"{start} has no end")


def _keys(legend: Any) -> Iterator[tuple[str, str]]:
    """(swatch, name) pairs of a legend."""
    for line, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
        yield swatch(line), text.get_text()


def swatch(line: Any) -> str:
    """A piece of a line with its marker, as an `<svg>` element of a page."""
    parts, colour = [], _paint(line.get_color())
    if line.get_linestyle() != "None":
        dashes = line._dash_pattern[1] or ()  # no public attribute has it
        pattern = " ".join(f"{d:.1f}" for d in dashes)
        parts.append(
            f'<path d="M1 6H27" stroke="{colour}" '
            f'stroke-width="{min(line.get_linewidth(), 3):g}" '
            f'stroke-dasharray="{pattern or "none"}"/>'
        )
    if line.get_marker() not in ("None", None, ""):
        fill, edge = line.get_markerfacecolor(), line.get_markeredgecolor()
        parts.append(
            f'<path transform="translate(14 6)" d="{_outline(line.get_marker())}" '
            f'fill="{_paint(fill)}" stroke="{_paint(edge)}"/>'
        )
    return (
        '<svg class="swatch" viewBox="0 0 28 12" aria-hidden="true">'
        f"{''.join(parts)}</svg>"
    )


def _outline(marker: str) -> str:
    """A marker of Matplotlib as an SVG path, centred at 0 and seven units wide."""
    from matplotlib.markers import MarkerStyle
    from matplotlib.path import Path as Outline
    from matplotlib.transforms import Affine2D

    letters = {Outline.MOVETO: "M", Outline.LINETO: "L", Outline.CURVE4: "C"}
    shape, drawn = MarkerStyle(marker), ""
    path = shape.get_path().transformed(shape.get_transform())
    path = path.transformed(Affine2D().scale(7.0, -7.0))
    for values, code in path.iter_segments(simplify=False):
        corner = " ".join(f"{value:.1f}" for value in values)
        drawn += "Z" if code == Outline.CLOSEPOLY else letters[code] + corner
    return drawn


def _paint(colour: Any) -> str:
    """A colour as a CSS variable, or in hexadecimal digits."""
    from matplotlib.colors import to_hex

    return _variables(to_hex(colour))


def _place(figure: Any, axis: Any) -> dict[str, Any]:
    """Corners of axes in the SVG's coordinates, limits, scales and labels."""
    box = axis.get_position()
    width, height = figure.get_figwidth() * 72, figure.get_figheight() * 72
    corners = (box.x0 * width, box.x1 * width)
    corners += ((1 - box.y0) * height, (1 - box.y1) * height)
    return {
        "box": [round(c, 2) for c in corners],
        "x": [float(f"{v:.7g}") for v in axis.get_xlim()],
        "y": [float(f"{v:.7g}") for v in axis.get_ylim()],
        "log": [_is_log(axis.xaxis), _is_log(axis.yaxis)],
        "zero": [_zero(axis.xaxis), _zero(axis.yaxis)],
        "names": [axis.get_xlabel(), axis.get_ylabel() or axis.get_title(loc="left")],
    }


def _shorter(number: re.Match[str]) -> str:
    """A number with two decimals."""
    return f"{float(number[0]):.2f}"


def _inline(svg: str) -> str:
    """An SVG's elements for a page: classes for ids, CSS variables for colours."""
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = svg.replace("xlink:href", "href")
    svg = _MARK.sub(r'<g class="m \2 e\3" data-axis="\1" data-entry="\3">', svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    # Tags alone: a name between them may contain what looks like a colour.
    svg = re.sub(r"<[^>]*>", lambda tag: _tag(tag[0]), svg)
    return re.sub(r">\s+<", "><", svg).strip()


def _tag(tag: str) -> str:
    """A tag with CSS variables, and numbers cut to a hundredth of a point."""
    return _variables(_DECIMALS.sub(_shorter, tag))


def _variables(text: str) -> str:
    """Replace colours by CSS variables."""
    for number, colour in enumerate(COLOURS):
        text = text.replace(colour, f"var(--c{number})")
    for name, (light, _) in _SHADES.items():
        text = text.replace(light, f"var(--{name})")
    return text


def variables(dark: bool) -> str:
    """Declarations of the CSS variables of all colours."""
    pairs = [(f"c{i}", c) for i, c in enumerate(COLOURS.items())]
    pairs += _SHADES.items()
    return "".join(f"--{name}:{colours[dark]};" for name, colours in pairs)
