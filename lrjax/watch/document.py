"""The document of the page: places for its parts, and the script that fills them."""

from __future__ import annotations

import base64
import hashlib

from lrjax.reports import page, web

_STYLE = """
progress{width:100%;height:.8rem;accent-color:var(--c0)}
#part-progress p{margin:.2rem 0}
#part-nav{display:contents}
.aloud{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
#faults ul{margin:.4rem 0;padding-left:1.2rem;color:var(--soft);font-size:.86rem}
#lost{color:var(--soft)}
#report button{font:inherit;font-size:.9rem;color:inherit;background:var(--card);
border:1px solid var(--faint);border-radius:8px;padding:.3rem .8rem;cursor:pointer}
a:focus-visible,button:focus-visible,summary:focus-visible,
[tabindex]:focus-visible{outline:2px solid var(--c0);outline-offset:2px}
#chips:empty{display:none}
html{overflow-anchor:none}
"""

# What is replaced keeps its focus, what is open in it, and where it is scrolled to; and
# what one reads does not move.
_SCRIPT = r"""
const places = () => [...document.querySelectorAll("[data-part]")];
const place = name => document.getElementById("part-" + name);
function put(name, html) {
  let part = name === "chips" ? document.getElementById("chips") : place(name);
  if (!part) {
    part = document.createElement("div");
    part.id = "part-" + name;
    part.dataset.part = "";
    document.getElementById("tasks").append(part);
  }
  const inside = all => [...part.querySelectorAll(all)];
  // The figure may get another panel: an element is found again by its kind.
  const again = element => {
    const kind = e => e.tagName + "." + e.getAttribute("class");
    const alike = () => inside("*").filter(e => kind(e) === kind(element));
    const at = element === part ? -1 : alike().indexOf(element);
    return () => at < 0 ? element : alike()[at];
  };
  const box = e => e.getBoundingClientRect(), active = document.activeElement;
  const focused = part.contains(active) ? again(active) : null;
  const seen = focused && box(active).bottom > 0 && box(active).top < innerHeight;
  const blocks = document.querySelectorAll("main :is(h2, figure, p, details)");
  const first = seen ? active : [...blocks].find(e => box(e).bottom > 80);
  const read = first && again(first), top = first && box(first).top;
  const open = inside("details").map(d => d.open);
  const slides = () => [part, ...inside("details .scroll")];
  const slid = slides().map(s => s.scrollLeft);
  part.innerHTML = html;
  inside("details").forEach((d, i) => { d.open = open[i] ?? false; });
  slides().forEach((s, i) => { s.scrollLeft = slid[i] ?? 0; });
  focused?.()?.focus({preventScroll: true});
  const moved = read?.() ? box(read()).top - top : 0;
  if (moved) scrollBy({top: moved, behavior: "instant"});
  hidden.forEach(n => show(n, false));
}
function take(event) {
  const {anew, parts} = JSON.parse(event.data);
  if (anew) {
    hidden.clear();  // numbers of entries are others now
    if (!("chips" in parts)) document.getElementById("chips").innerHTML = "";
    places().filter(p => !(p.id.slice(5) in parts)).forEach(p => { p.innerHTML = ""; });
    document.querySelectorAll("#tasks > :empty").forEach(p => p.remove());
  }
  for (const [name, html] of Object.entries(parts)) put(name, html);
}
let source = null;
const lost = document.getElementById("lost");
function connect() {
  source?.close();
  source = null;
  if (document.hidden) return;  // nothing is read or drawn for a page nobody sees
  source = new EventSource("events");
  source.onmessage = take;
  source.onopen = () => { lost.textContent = ""; };
  source.onerror = () => {
    lost.textContent = "Not connected: lrjax watch has ended, or is starting again. "
      + "What is below may be old.";
    if (source?.readyState === EventSource.CLOSED) setTimeout(connect, 3000);
  };
}
document.addEventListener("visibilitychange", connect);
connect();
"""


def render(workdir: str) -> str:
    """The document, whose parts come later.

    Args:
      workdir: what is watched, for the heading.
    """

    def part(name: str, html: str = "") -> str:
        return f'<div id="part-{name}" data-part>{html}</div>'

    title = f"Learning-rate control: {workdir}"
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{page.text(title)}</title>
<style>{web.style()}{_STYLE}</style></head><body>
<header><h1>{page.text(title)}</h1></header>
<div id="chips" role="group" aria-label="{page.HIDE}"></div>
<main>
<section id="now"><h2>Now</h2>{part("progress", "<p>Reading the tables</p>")}
<p id="lost" role="status"></p>
<div class="aloud" role="status" aria-live="polite">{part("said")}</div>
<div id="faults">{part("faults")}</div>
<form id="report" method="post" action="report">{part("report")}</form>
<nav aria-label="Parts of this page">{part("nav")}</nav></section>
{part("selection")}{part("runs")}{part("tuning")}
<div id="tasks"></div>
</main>
<div id="tip" role="status" hidden></div>
<script>{_script()}</script></body></html>
"""


def _script() -> str:
    """The script: that of the report, and what follows a training."""
    return web.SCRIPT + _SCRIPT


def policy() -> str:
    """Content security policy: to run its own script and ask its own server."""
    digest = base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    )
