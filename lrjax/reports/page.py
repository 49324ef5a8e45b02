"""Renders one self-contained HTML page: figures, and tables below them."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lrjax.core import counted, printable
from lrjax.reports import drawing
from lrjax.reports.drawing import Picture
from lrjax.reports.palette import Palette

_MOST_ROWS = 150
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
        f"<title>{_text(title)}</title>",
        f"<style>:root{{color-scheme:light dark;{drawing.variables(dark=False)}}}",
        # Dark colours on screens alone: printed pages stay white.
        "@media screen and (prefers-color-scheme:dark)"
        f"{{:root{{{drawing.variables(dark=True)}}}}}",
        f"{_STYLE}</style></head><body>",
        f"<header><h1>{_text(title)}</h1></header>",
        _chips(palette),
        "<main>",
        '<section id="findings"><h2>Findings</h2><dl>',
        *(f"<dt>{_text(w)}</dt><dd>{_text(s)}</dd>" for w, s in findings),
        "</dl>",
        "<nav>",
        *(f'<a href="#{s.name}">{_text(s.title)}</a>' for s in sections),
        "</nav></section>",
        *(_section(section) for section in sections),
        '<section id="notes"><h2>How this was computed</h2>',
        *(f"<h3>{_text(h)}</h3><p>{_text(t)}</p>" for h, t in notes),
        "</section></main>",
        '<div id="tip" role="status" hidden></div>',
        f"<script>{_SCRIPT}</script></body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _chips(palette: Palette) -> str:
    """Buttons that hide or show an entry in all figures."""
    if not palette.entries:
        return ""
    chips = "".join(
        f'<button type="button" aria-pressed="true" data-entry="{palette.number(e)}">'
        f"{drawing.swatch(drawing.key(palette, e))}<span>{_text(e)}</span></button>"
        for e in palette.entries
    )
    return (
        '<div id="chips" aria-label="Entries: press to hide or show">'
        f'{chips}<button type="button" id="all" hidden>show all</button></div>'
    )


def _section(section: Section) -> str:
    """A section as HTML."""
    links = "".join(
        f'<a href="{_text(f)}">{_text(f.rsplit("/", 1)[-1])}</a>' for f in section.files
    )
    parts = [
        f'<section id="{section.name}"><h2>{_text(section.title)}</h2>',
        f'<p class="finding">{_text(section.finding)}</p>' if section.finding else "",
    ]
    if section.picture:
        parts.append(_figure(section.picture))
    parts.append(f'<p class="how-to-read">{_text(section.how_to_read)}</p>')
    if section.table is not None and len(section.table):
        parts.append(
            f"<details><summary>Table: {counted(len(section.table), 'row')}</summary>"
            f'<div class="scroll">{_table(section.table)}</div></details>'
        )
    parts.append(f'<p class="files">{links}</p></section>')
    return "".join(parts)


def _figure(picture: Picture) -> str:
    """A figure as HTML, its panels in rows of as many as fit."""
    width = picture.panels[0].width
    # A figure too wide for a phone even at the least size is scrolled at full size.
    scrolled = _LEAST * width > _PHONE
    least = width if scrolled else _LEAST * width
    panels = "".join(
        f'<div><div class="scroll"{" tabindex=0" * scrolled}>'
        f'<div style="min-width:{least:.0f}px">{panel.svg}</div></div>'
        f"{_keys(panel.keys)}</div>"
        for panel in picture.panels
    )
    return (
        f'<figure><div class="figure" data-axes="{_text(picture.axes)}" '
        f'style="--wide:{_ZOOM * width:.0f}px">{panels}</div>'
        f"{_keys(picture.keys)}</figure>"
    )


def _keys(keys: Sequence[tuple[str, str]]) -> str:
    """A legend as HTML, from (swatch, name) pairs."""
    items = "".join(f"<li>{swatch}<span>{_text(n)}</span></li>" for swatch, n in keys)
    return f'<ul class="keys">{items}</ul>' if items else ""


def _table(table: pd.DataFrame) -> str:
    """The first rows of a table as HTML."""
    shown = table.head(_MOST_ROWS)
    columns = [column(shown.iloc[:, i]) for i in range(shown.shape[1])]
    kinds = [' class="n"' if _is_numeric(table[c]) else "" for c in table.columns]
    head = "".join(
        f"<th{kind}>{_text(name)}</th>"
        for name, kind in zip(table.columns, kinds, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(f"<td{k}>{_text(v)}</td>" for v, k in zip(row, kinds, strict=True))
        + "</tr>"
        for row in zip(*columns, strict=True)
    )
    more = len(table) - len(shown)
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


def _text(value: object) -> str:
    """A value escaped for HTML, without control characters."""
    return html.escape(printable(str(value)))


_STYLE = """
*{box-sizing:border-box}
html{scroll-padding-top:4.5rem}
body{margin:0;overflow-wrap:anywhere;background:var(--page);color:var(--ink);line-height:1.5;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
header,main{max-width:1060px;margin:0 auto;padding:0 1rem}
h1{font-size:1.5rem;margin:1.4rem 0 .6rem}
h2{font-size:1.15rem;margin:0 0 .4rem}h3{font-size:.95rem;margin:1rem 0 .2rem}
section{background:var(--card);border-radius:10px;padding:1.1rem 1.2rem;
margin:0 0 1rem;box-shadow:0 1px 2px #0001}
dl{margin:.2rem 0 .8rem;display:grid;grid-template-columns:max-content 1fr;
gap:.35rem 1rem}
dt{font-weight:600}dd{margin:0}
nav{display:flex;flex-wrap:wrap;gap:.2rem .9rem;font-size:.85rem}
a{color:inherit;text-decoration-color:var(--faint);text-underline-offset:2px}
.finding{margin:.2rem 0 .6rem;max-width:46rem}
.how-to-read,.files,#notes p{color:var(--soft);font-size:.86rem;margin:.5rem 0;
max-width:50rem}
.files{display:flex;flex-wrap:wrap;gap:.1rem .8rem}
figure{margin:.4rem 0}
.scroll{overflow-x:auto;scrollbar-width:thin;background:
linear-gradient(90deg,var(--card) 40%,transparent) left/30px 100% no-repeat local,
linear-gradient(270deg,var(--card) 40%,transparent) right/30px 100% no-repeat local,
linear-gradient(90deg,#8885,transparent) left/12px 100% no-repeat scroll,
linear-gradient(270deg,#8885,transparent) right/12px 100% no-repeat scroll var(--card)}
.figure{display:grid;justify-content:center;gap:.6rem 0;
grid-template-columns:repeat(auto-fit,min(100%,var(--wide)))}
.figure svg{display:block;width:100%;height:auto;font-family:inherit}
.keys{list-style:none;margin:.3rem 0;padding:0;display:flex;flex-wrap:wrap;
justify-content:center;gap:.1rem .9rem;font-size:.8rem}
.keys li{display:flex;align-items:center;gap:.35rem;overflow-wrap:anywhere}
.figure svg.swatch,svg.swatch{width:28px;height:12px;flex:none;fill:none}
details{font-size:.84rem}summary{cursor:pointer;color:var(--soft)}
table{border-collapse:collapse;margin:.5rem 0;font-variant-numeric:tabular-nums}
caption{caption-side:bottom;text-align:left;color:var(--soft);padding-top:.4rem}
th,td{padding:.16rem .6rem;text-align:left;white-space:nowrap;
border-bottom:1px solid var(--grid)}
.n{text-align:right}
#chips{position:sticky;top:0;z-index:2;background:var(--page);padding:.5rem 1rem;
display:flex;gap:.35rem;overflow-x:auto;border-bottom:1px solid var(--grid);
margin-bottom:1rem}
@media(min-width:1100px){#chips{flex-wrap:wrap;
padding:.5rem max(1rem,calc((100vw - 1060px)/2 + 1rem))}}
#chips button{font:inherit;font-size:.82rem;color:inherit;background:var(--card);
border:1px solid var(--grid);border-radius:99px;padding:.15rem .6rem;cursor:pointer;
display:flex;align-items:center;gap:.4rem;white-space:nowrap}
#chips button[hidden]{display:none}
#chips [aria-pressed=false]{opacity:.42}
#chips [aria-pressed=false] span{text-decoration:line-through}
.m{transition:opacity .12s}.m.off{display:none}.m.dim{opacity:.1}
#tip{position:fixed;z-index:3;pointer-events:none;background:var(--card);
color:var(--ink);border:1px solid var(--faint);border-radius:6px;font-size:.78rem;
padding:.35rem .55rem;box-shadow:0 3px 12px #0003;font-variant-numeric:tabular-nums}
#tip[hidden]{display:none}
#tip div{display:flex;gap:.5rem;align-items:center;justify-content:space-between}
#tip .swatch{margin-right:.35rem;display:inline-block;vertical-align:middle}
#tip .near{font-weight:700}
@media(max-width:640px){dl{grid-template-columns:1fr;gap:.1rem}dd{margin:0 0 .5rem}
header,main{padding:0 .5rem}section{padding:.9rem .8rem}}
@media print{#chips{display:none}section{box-shadow:none;break-inside:avoid}}
""".strip()

# Values under the mouse come from the drawing itself: the corners of a path are the
# data, and `data-axes` maps positions in the drawing to values.
_SCRIPT = r"""
"use strict";
const chips = [...document.querySelectorAll("#chips [data-entry]")];
const all = document.getElementById("all"), tip = document.getElementById("tip");
const hidden = new Set();
const marks = n => document.querySelectorAll(".m.e" + n);
function show(n, on) {
  hidden[on ? "delete" : "add"](n);
  marks(n).forEach(m => m.classList.toggle("off", !on));
  chips.filter(c => c.dataset.entry === n)
    .forEach(c => c.setAttribute("aria-pressed", on));
  all.hidden = !hidden.size;
}
function light(n) {
  document.querySelectorAll(".m").forEach(m =>
    m.classList.toggle("dim", n !== null && m.dataset.entry !== n));
}
for (const chip of chips) {
  const n = chip.dataset.entry;
  chip.onclick = () => { show(n, hidden.has(n)); light(null); };
  chip.onmouseenter = () => { if (!hidden.has(n)) light(n); };
  chip.onmouseleave = () => light(null);
}
if (all) all.onclick = () => [...hidden].forEach(n => show(n, true));

function corners(mark) {
  if (mark.corners) return mark.corners;
  const found = [];
  for (const use of mark.querySelectorAll("use"))
    found.push([+use.getAttribute("x"), +use.getAttribute("y")]);
  const path = found.length ? null : mark.querySelector("path");
  if (path) for (const p of path.getAttribute("d").matchAll(/[ML] (\S+) (\S+)/g))
    found.push([+p[1], +p[2]]);
  return mark.corners = found;
}
function value(at, box0, box1, limits, log) {
  const part = (at - box0) / (box1 - box0), [a, b] = limits;
  return log ? a * Math.pow(b / a, part) : a + part * (b - a);
}
const text = v => Math.abs(v) >= 1e5 ? v.toExponential(2) : String(+v.toPrecision(3));
function row(parts, near) {
  const line = document.createElement("div");
  for (const part of parts) line.append(part);
  if (near) line.className = "near";
  return line;
}
function hover(event, figure, axes) {
  const svg = event.target.closest(".scroll")?.querySelector("svg");
  tip.hidden = true;
  if (!svg) return;
  const at = new DOMPoint(event.clientX, event.clientY)
    .matrixTransform(svg.getScreenCTM().inverse());
  const number = axes.findIndex(({box: b}) =>
    at.x >= b[0] - 3 && at.x <= b[1] + 3 && at.y <= b[2] + 3 && at.y >= b[3] - 3);
  if (number < 0) return;
  const axis = axes[number], [x0, x1, y0, y1] = axis.box;
  const marks = [...svg.querySelectorAll(`.m[data-axis="${number}"]:not(.off)`)];
  const point = (kind, far) => {
    let best = null, least = far;
    for (const m of marks.filter(m => m.classList.contains(kind)))
      for (const c of corners(m)) {
        const d = Math.hypot(c[0] - at.x, c[1] - at.y);
        if (d < least) [least, best] = [d, {m, c}];
      }
    return best;
  };
  const X = c => text(value(c[0], x0, x1, axis.x, axis.log[0]));
  const Y = c => text(value(c[1], y0, y1, axis.y, axis.log[1]));
  const name = m => {
    const label = document.createElement("span");
    const chip = chips.find(c => c.dataset.entry === m.dataset.entry);
    // What was tuned and never ran has none.
    if (chip) label.append(chip.querySelector("svg").cloneNode(true), chip.textContent);
    return label;
  };
  const lines = [];
  const dot = point("point", 9);
  if (dot) {
    lines.push(row([name(dot.m)], true), row([axis.names[0] + " " + X(dot.c)]));
  } else {
    const near = point("line", 60);
    if (!near) return;
    lines.push(row([`${axis.names[0]} ${X(near.c)}`]));
    const found = [];
    for (const m of marks.filter(m => m.classList.contains("line"))) {
      let best = null;
      const off = c => Math.abs(c[0] - near.c[0]);
      for (const c of corners(m)) if (!best || off(c) < off(best)) best = c;
      if (best && Math.abs(best[0] - near.c[0]) < 3) found.push([best, m]);
    }
    found.sort((a, b) => a[0][1] - b[0][1]);
    for (const [c, m] of found) lines.push(row([name(m), Y(c)], m === near.m));
  }
  tip.replaceChildren(...lines);
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = event.clientX + 16 + box.width > innerWidth
    ? event.clientX - box.width - 12 : event.clientX + 16;
  tip.style.left = Math.max(4, left) + "px";
  tip.style.top = Math.max(4, Math.min(event.clientY + 12,
    innerHeight - box.height - 4)) + "px";
}
for (const figure of document.querySelectorAll(".figure")) {
  const axes = JSON.parse(figure.dataset.axes);
  if (!axes.length) continue;
  figure.addEventListener("pointermove", event => hover(event, figure, axes));
  figure.addEventListener("pointerleave", () => { tip.hidden = true; });
}
""".strip()
