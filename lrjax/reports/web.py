"""The style and the script of pages; nothing is loaded from elsewhere."""

from __future__ import annotations

from lrjax.reports import drawing


def style() -> str:
    """The style of a page, in light and dark colours."""
    return (
        f":root{{color-scheme:light dark;{drawing.variables(dark=False)}}}\n"
        # Dark colours on screens alone: printed pages stay white.
        "@media screen and (prefers-color-scheme:dark)"
        f"{{:root{{{drawing.variables(dark=True)}}}}}\n{_STYLE}"
    )


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
SCRIPT = r"""
"use strict";
const tip = document.getElementById("tip"), hidden = new Set();
const chips = () => [...document.querySelectorAll("#chips [data-entry]")];
const marks = n => document.querySelectorAll(".m.e" + n);
const chipAt = event => event.target.closest("#chips [data-entry]");
function show(n, on) {
  hidden[on ? "delete" : "add"](n);
  marks(n).forEach(m => m.classList.toggle("off", !on));
  chips().filter(c => c.dataset.entry === n)
    .forEach(c => c.setAttribute("aria-pressed", on));
  const all = document.getElementById("all");  // a page that waits has none
  if (all) all.hidden = !hidden.size;
}
function light(n) {
  document.querySelectorAll(".m").forEach(m =>
    m.classList.toggle("dim", n !== null && m.dataset.entry !== n));
}
document.addEventListener("click", event => {
  const n = chipAt(event)?.dataset.entry;
  if (n) { show(n, hidden.has(n)); light(null); }
  if (event.target.id === "all") [...hidden].forEach(n => show(n, true));
});
for (const name of ["pointerover", "focusin"])
  document.addEventListener(name, event => {
    const n = chipAt(event)?.dataset.entry;
    if (n && !hidden.has(n)) light(n);
  });
for (const name of ["pointerout", "focusout"])
  document.addEventListener(name, event => { if (chipAt(event)) light(null); });

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
function value(at, box0, box1, limits, log, zero) {
  const part = (at - box0) / (box1 - box0), [a, b] = limits;
  const v = log ? a * Math.pow(b / a, part) : a + part * (b - a);
  return zero && v < 1.2 * zero ? 0 : v;  // zero: where a log axis shows zeros
}
const text = v => Math.abs(v) >= 1e5 ? v.toExponential(2) : String(+v.toPrecision(3));
function row(parts, near) {
  const line = document.createElement("div");
  for (const part of parts) line.append(part);
  if (near) line.className = "near";
  return line;
}
const axesOf = new WeakMap();
function hover(event) {
  const figure = event.target.closest?.(".figure");
  const svg = figure && event.target.closest(".scroll")?.querySelector("svg");
  tip.hidden = true;
  if (!svg) return;
  if (!axesOf.has(figure)) axesOf.set(figure, JSON.parse(figure.dataset.axes));
  const axes = axesOf.get(figure);
  const at = new DOMPoint(event.clientX, event.clientY)
    .matrixTransform(svg.getScreenCTM().inverse());
  const number = axes.findIndex(({box: b}) =>
    at.x >= b[0] - 3 && at.x <= b[1] + 3 && at.y >= b[3] - 3 && at.y <= b[2] + 3);
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
  const X = c => text(value(c[0], x0, x1, axis.x, axis.log[0], axis.zero[0]));
  const Y = c => text(value(c[1], y0, y1, axis.y, axis.log[1], axis.zero[1]));
  const name = m => {
    const label = document.createElement("span");
    const chip = chips().find(c => c.dataset.entry === m.dataset.entry);
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
document.addEventListener("pointermove", hover);
document.documentElement.addEventListener("pointerleave", () => { tip.hidden = true; });
""".strip()
