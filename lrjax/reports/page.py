"""Renders one self-contained HTML page: figures, and tables below them."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lrjax.core import counted, printable
from lrjax.reports import drawing, web
from lrjax.reports.drawing import Picture
from lrjax.reports.palette import Palette

_MOST_ROWS = 150
HIDE = "Entries: press to hide or show"
# Pixels per point of a figure, at most and at least; width of a phone in pixels.
_ZOOM, _LEAST, _PHONE = 1.3, 0.85, 335


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of the page: a figure, sentences on it, and the table behind it.

    Attributes:
      name: name of the files, and anchor on the page.
      title: the heading.
      finding: the result in a sentence, plain text.
      how_to_read: what the figure and the table show, plain text.
      picture: the figure; None without one.
      table: the table below it; None without one.
      files: linked files, as paths below the page's folder.
    """

    name: str
    title: str
    finding: str
    how_to_read: str
    picture: Picture | None = None
    table: pd.DataFrame | None = None
    files: tuple[str, ...] = ()


def render(
    title: str,
    findings: Sequence[tuple[str, str]],
    sections: Sequence[Section],
    notes: Sequence[tuple[str, str]],
    palette: Palette,
) -> str:
    """The page as HTML.

    Args:
      title: title of the page.
      findings: (word, sentence) pairs at the top.
      sections: in order.
      notes: (heading, text) pairs at the end.
      palette: appearances of the entries in the figures.
    """
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        # Nothing may be loaded from the network.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:\">",
        '<link rel="icon" href="data:,">',
        f"<title>{text(title)}</title>",
        f"<style>{web.style()}</style></head><body>",
        f"<header><h1>{text(title)}</h1></header>",
        f'<div id="chips" role="group" aria-label="{HIDE}">{chips(palette)}</div>'
        if palette.entries
        else "",
        "<main>",
        '<section id="findings"><h2>Findings</h2><dl>',
        *(f"<dt>{text(w)}</dt><dd>{text(s)}</dd>" for w, s in findings),
        "</dl>",
        "<nav>",
        *(f'<a href="#{s.name}">{text(s.title)}</a>' for s in sections),
        "</nav></section>",
        *map(section, sections),
        '<section id="notes"><h2>How this was computed</h2>',
        *(f"<h3>{text(h)}</h3><p>{text(t)}</p>" for h, t in notes),
        "</section></main>",
        '<div id="tip" role="status" hidden></div>',
        f"<script>{web.SCRIPT}</script></body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def chips(palette: Palette, entries: Sequence[str] | None = None) -> str:
    """Buttons that hide or show an entry in all figures, as HTML.

    Args:
      palette: appearances of the entries.
      entries: those that get a button; None for all.
    """
    buttons = "".join(
        f'<button type="button" aria-pressed="true" data-entry="{palette.number(e)}">'
        f"{drawing.swatch(drawing.key(palette, e))}<span>{text(e)}</span></button>"
        for e in (palette.entries if entries is None else entries)
    )
    return f'{buttons}<button type="button" id="all" hidden>show all</button>'


def section(shown: Section) -> str:
    """A section as HTML."""
    links = "".join(
        f'<a href="{text(f)}">{text(f.rsplit("/", 1)[-1])}</a>' for f in shown.files
    )
    parts = [
        f'<section id="{shown.name}"><h2>{text(shown.title)}</h2>',
        f'<p class="finding">{text(shown.finding)}</p>' if shown.finding else "",
    ]
    if shown.picture:
        parts.append(figure(shown.picture, shown.name, shown.title))
    parts.append(
        f'<p class="how-to-read" id="{shown.name}-how">{text(shown.how_to_read)}</p>'
    )
    if shown.table is not None and len(shown.table):
        parts.append(folded(shown.table, shown.title))
    parts.append(f'<p class="files">{links}</p></section>')
    return "".join(parts)


def folded(rows: pd.DataFrame, title: str) -> str:
    """A table that a click or a key unfolds, as HTML.

    Args:
      rows: the table; its first rows are shown.
      title: what it shows, for those who only hear it.
    """
    return (
        f"<details><summary>Table: {counted(len(rows), 'row')}</summary>"
        f'<div class="scroll" tabindex="0" role="region" '
        f'aria-label="{text(title)}: table">{table(rows)}</div></details>'
    )


def figure(picture: Picture, name: str, title: str) -> str:
    """A figure as HTML, its panels in rows of as many as fit.

    Each panel has a text alternative, and refers to the explanation whose id is
    'NAME-how'.

    Args:
      picture: the figure.
      name: name of its section.
      title: the heading of its section.
    """
    width = picture.panels[0].width
    # A figure too wide for a phone even at the least size is scrolled at full size.
    scrolled = _LEAST * width > _PHONE
    least = width if scrolled else _LEAST * width
    panels = "".join(
        f'<div><div class="scroll"{" tabindex=0" * scrolled}>'
        f'<div style="min-width:{least:.0f}px"><svg viewBox="{panel.view}" role="img" '
        f'aria-label="{text(": ".join(filter(None, (title, panel.text))))}" '
        f'aria-describedby="{name}-how">{panel.svg}</svg></div></div>'
        f"{_keys(panel.keys)}</div>"
        for panel in picture.panels
    )
    return (
        f'<figure><div class="figure" data-axes="{text(picture.axes)}" '
        f'style="--wide:{_ZOOM * width:.0f}px">{panels}</div>'
        f"{_keys(picture.keys)}</figure>"
    )


def _keys(keys: Sequence[tuple[str, str]]) -> str:
    """A legend as HTML, from (swatch, name) pairs."""
    items = "".join(f"<li>{swatch}<span>{text(n)}</span></li>" for swatch, n in keys)
    return f'<ul class="keys">{items}</ul>' if items else ""


def table(rows: pd.DataFrame) -> str:
    """The first rows of a table as HTML."""
    shown = rows.head(_MOST_ROWS)
    columns = [column(shown.iloc[:, i]) for i in range(shown.shape[1])]
    kinds = [' class="n"' if _is_numeric(rows[c]) else "" for c in rows.columns]
    head = "".join(
        f"<th{kind}>{text(name)}</th>"
        for name, kind in zip(rows.columns, kinds, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(f"<td{k}>{text(v)}</td>" for v, k in zip(row, kinds, strict=True))
        + "</tr>"
        for row in zip(*columns, strict=True)
    )
    more = len(rows) - len(shown)
    rest = (
        f"<caption>{counted(more, 'more row')} "
        f"{'is' if more == 1 else 'are'} in the CSV file.</caption>"
        if more
        else ""
    )
    return f"<table>{rest}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _is_numeric(values: pd.Series) -> bool:
    """Whether a column holds numbers."""
    return values.dtype.kind in "iuf"


def column(values: pd.Series) -> list[str]:
    """The texts of a column; numbers share their number of decimals.

    The largest number gets four digits. If that would hide the smallest, every number
    gets four digits of its own.
    """
    if values.dtype.kind in "iu":
        return [f"{value:,}" for value in values]
    sizes = values.abs() if values.dtype.kind == "f" else pd.Series(dtype=float)
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    if not len(sizes) or sizes.max() >= 1e5:
        return [short(value) for value in values]
    decimals = max(0, 3 - math.floor(math.log10(sizes.max())))
    if decimals > 6 or sizes.min() < 10.0**-decimals:
        return [short(value) for value in values]
    return [f"{v:,.{decimals}f}" if np.isfinite(v) else short(v) for v in values]


def short(value: object) -> str:
    """A value as text, floats in four digits; '' for NaN."""
    if isinstance(value, float):
        if value != value:
            return ""
        return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.3g}"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return str(value)


def interval(low: float, high: float) -> str:
    """An interval in brackets, with a space before it; '' for NaN."""
    return f" ({low:.2f} to {high:.2f})" if low == low else ""


def latex(table: pd.DataFrame, caption: str) -> str:
    """A table in LaTeX (booktabs), numbers as returned by `column`."""
    aligned = "".join("r" if _is_numeric(table[c]) else "l" for c in table)
    columns = [column(table.iloc[:, i]) for i in range(table.shape[1])]
    rows = [list(map(str, table.columns)), *zip(*columns, strict=True)]
    lines = [" & ".join(map(_tex, row)) + r" \\" for row in rows]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_tex(caption)}}}",
            rf"\begin{{tabular}}{{{aligned}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _tex(text: str) -> str:
    """Text escaped for LaTeX."""
    text = printable(text).replace("\\", r"\textbackslash ")
    for sign in "&%$#_{}":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("~", r"\textasciitilde ").replace("^", r"\textasciicircum ")


def text(value: object) -> str:
    """A value escaped for HTML, without control characters."""
    return html.escape(printable(str(value)))
