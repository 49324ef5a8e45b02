"""The page in a browser: it asks for nothing, fails nowhere, and can be read."""

import json
import re

import browser
import fabricated
import pandas as pd
import pytest

from lrjax import reports

pytestmark = pytest.mark.skipif(
    browser.PATH is None, reason=f"none of {', '.join(browser.NAMES)} is installed"
)
TASKS = (*fabricated.LIBSVM[:2], "svmlight:/home/somebody/a/long/path/to/some/data.svm")
WIDTHS = {"desktop": 1280, "tablet": 700, "phone": 400, "small": 360}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a report with every analysis."""
    workdir = tmp_path_factory.mktemp("study")
    methods = ("adam", "momentum", "prodigy", "cocob", "adamw_cosine")
    fabricated.write(
        workdir,
        TASKS,
        methods,
        4,
        rates={"adam": (1e-4, 1e-3, 1e-2)},
        diverged=[(TASKS[0], "momentum", s) for s in range(3)],
        missing=[(TASKS[1], method, s) for method in ("cocob",) for s in range(4)],
        trials=fabricated.trials(TASKS, "adam"),
    )
    published = workdir / "published.csv"
    published.write_text(f"task,method,metric,mean\n{TASKS[0]},prodigy,valid_loss,0.3")
    answers = [fabricated.answer(task) for task in TASKS]
    (workdir / "selection.json").write_text(json.dumps(answers))
    options = reports.Options(bootstrap=50, compare=str(published))
    reports.write([workdir], workdir / "report", options)
    return workdir / "report"


@pytest.fixture(scope="module")
def page():
    with browser.page() as opened:
        yield opened


@pytest.fixture
def opened(page, folder):
    page.open(f"file://{folder}/index.html")
    return page


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_it_asks_for_nothing_and_fails_nowhere(page, folder, width, dark):
    page.open(f"file://{folder}/index.html", width, dark)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    for figure in range(page.evaluate("document.querySelectorAll('.figure').length")):
        where = page.evaluate(
            f"(b => [b.x + b.width / 2, b.y + b.height / 2])((f => {{"
            f"f.scrollIntoView({{block: 'center'}}); return f.getBoundingClientRect()"
            f"}})(document.querySelectorAll('.figure')[{figure}]))"
        )
        page.move(*where)
    page.evaluate("document.querySelectorAll('#chips button').forEach(b => b.click())")
    asked = [
        e["request"]["url"] for n, e in page.events if n[8:] == "requestWillBeSent"
    ]
    asked = [url for url in asked if not url.startswith("data:")]
    assert asked == [f"file://{folder}/index.html"]
    said = [
        e
        for n, e in page.events
        if n.startswith(("Runtime.exc", "Log.", "Runtime.cons"))
    ]
    assert not said
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_it_may_not_load_anything(opened):
    """The page's own policy stops what tests did not think of."""
    blocked = opened.call(
        "Runtime.evaluate",
        expression="new Promise(done => {const i = new Image();"
        "i.onload = () => done('loaded'); i.onerror = () => done('blocked');"
        "i.src = 'figures/gap.png'})",
        awaitPromise=True,
    )
    assert blocked["result"]["value"] == "blocked"


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_all_figures_are_drawn(page, folder, width):
    page.open(f"file://{folder}/index.html", width)
    found = page.evaluate(
        "[...document.querySelectorAll('main > section')].map(s => [s.id,"
        "(g => g && [g.getBoundingClientRect().width, g.getBoundingClientRect().height,"
        "g.getBBox().width, g.querySelectorAll('path, use').length])"
        "(s.querySelector('.figure svg'))])"
    )
    drawn = {name: figure for name, figure in found if figure}
    assert len(drawn) == len(list((folder / "figures").glob("*.svg")))
    for wide, high, inner, shapes in drawn.values():
        assert wide > 250
        assert high > 100
        assert inner > 150
        assert shapes > 5
    # Every piece that a figure refers to is on the page.
    broken = page.evaluate(
        "[...document.querySelectorAll('use')].map(u => u.getAttribute('href'))"
        ".filter(h => !document.getElementById(h.slice(1)))"
    )
    assert not broken


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_no_figure_is_cut(page, folder, width):
    """Plots fit; only what is one wide piece is scrolled, in itself."""
    page.open(f"file://{folder}/index.html", width)
    found = page.evaluate("""
      [...document.querySelectorAll(".figure .scroll")].map(e => {
        const box = e.getBoundingClientRect();
        const svg = e.querySelector("svg").getBoundingClientRect();
        return [e.closest("section").id, box.left, box.right,
                e.scrollWidth - e.clientWidth, svg.width];
      })""")
    assert len(found) > 20
    for name, left, right, more, wide in found:
        assert left >= 0, name
        assert right <= width, name
        if name not in ("gap", "pairs", "against", "critical_difference"):
            assert more <= 1, name
        assert wide > 250, name
    inside = page.evaluate("""
      [...document.querySelectorAll(".figure svg:not(.swatch)")].flatMap(svg => {
        const box = svg.getBoundingClientRect();
        return [...svg.querySelectorAll("text")].map(t => t.getBoundingClientRect())
          .filter(t => t.left < box.left - 3 || t.right > box.right + 3
            || t.top < box.top - 3 || t.bottom > box.bottom + 3)
          .map(t => [svg.closest("section").id, t.width]);
      })""")
    assert not inside


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_cells_of_heat_maps_can_be_read(page, folder, dark):
    """A cell's colour is what its tint makes of the page behind it."""
    page.open(f"file://{folder}/index.html", dark=dark)
    found = page.evaluate("""
      (() => {
        const numbers = text => text.match(/[\\d.]+/g).map(Number);
        const channel = c => (c /= 255) <= .03928 ? c / 12.92
          : ((c + .055) / 1.055) ** 2.4;
        const light = ([r, g, b]) =>
          .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b);
        const ground = numbers(getComputedStyle(
          document.querySelector("main > section")).backgroundColor);
        return ["gap", "pairs", "against"].flatMap(id => {
          const svg = document.querySelector(`#${id} .figure svg`);
          const cells = [...svg.querySelectorAll("path")].filter(
            p => getComputedStyle(p).fill !== "none" && p.getBBox().width > 20
              && p.getBBox().height > 10);
          return [...svg.querySelectorAll("text")].flatMap(text => {
            const b = text.getBoundingClientRect();
            const [x, y] = [b.x + b.width / 2, b.y + b.height / 2];
            const cell = cells.find(c => (r => x > r.left && x < r.right && y > r.top
              && y < r.bottom)(c.getBoundingClientRect()));
            if (!cell) return [];
            const style = getComputedStyle(cell);
            const part = style.opacity * style.fillOpacity;
            const tint = numbers(style.fill).slice(0, 3);
            const shown = tint.map((c, i) => part * c + (1 - part) * ground[i]);
            const pair = [light(numbers(getComputedStyle(text).fill)), light(shown)];
            const [low, high] = pair.sort((a, b) => a - b);
            return [[id, text.textContent, (high + .05) / (low + .05), light(shown)]];
          });
        });
      })()""")
    assert len({name for name, *_ in found}) == 3
    assert len(found) > 40
    assert not [cell for cell in found if cell[2] < 4.5]
    brightest = max(cell[3] for cell in found)
    assert (brightest < 0.3) is dark


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_everything_can_be_read(page, folder, dark):
    page.open(f"file://{folder}/index.html", dark=dark)
    found = page.evaluate(browser.CONTRAST)
    assert len(found) > 200
    assert not [text for text in found if text[0] < 4.5]
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) < 150) is dark


def test_paper_is_white_in_dark_mode_too(opened):
    scheme = {"name": "prefers-color-scheme", "value": "dark"}
    opened.call("Emulation.setEmulatedMedia", media="print", features=[scheme])
    ground = opened.evaluate(
        "getComputedStyle(document.querySelector('section')).backgroundColor"
    )
    assert ground == "rgb(255, 255, 255)"


def test_no_two_texts_of_a_figure_overlap(opened):
    """Names and numbers beside axes; cells' texts are in cells."""
    overlaps = opened.evaluate("""
      [...document.querySelectorAll(".figure svg")].flatMap(svg => {
        const boxes = [...svg.querySelectorAll("text")]
          .filter(t => !(t.getAttribute("transform") || "").includes("rotate(-35"))
          .map(t => [t.getBoundingClientRect(), t.textContent]);
        return boxes.flatMap(([a, s], i) => boxes.slice(i + 1)
          .filter(([b]) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1.5
            && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4)
          .map(([b, t]) => [svg.closest("section").id, s, t]));
      })""")
    assert not overlaps


def test_every_figure_has_a_text_alternative(opened, folder):
    found = opened.evaluate(
        "[...document.querySelectorAll('.figure svg:not(.swatch)')].map(s => "
        "[s.closest('section').id, s.role, s.ariaLabel, document.getElementById("
        "s.getAttribute('aria-describedby')).textContent.length])"
    )
    assert {name for name, *_ in found} == {
        path.stem for path in (folder / "figures").glob("*.svg")
    }
    for _, role, words, explained in found:
        assert role == "img"
        assert len(words) > 10
        assert explained > 50
    table = pd.read_csv(folder / "tables" / "curves.csv")
    table = table[table["task"] == TASKS[0]].groupby("entry")["median"].last()
    words = next(words for name, _, words, _ in found if name == "curves")
    title, axes, values = words.split("; ")
    assert title == f"Learning curves: {TASKS[0]}"
    assert axes == "validation accuracy over epoch"
    told = [text.rsplit(" ", 1) for text in values.split(": ", 1)[1].split(", ")]
    assert {name for name, _ in told} == set(table.index)
    for name, value in told:
        assert float(value) == pytest.approx(table[name], rel=1e-3)


def test_values_under_the_mouse_are_those_of_the_table(opened, folder):
    table = pd.read_csv(folder / "tables" / "curves.csv")
    table = table[table["task"] == TASKS[0]].set_index(["entry", "epoch"])
    x, y, entry = opened.evaluate("""
      (() => {
        const figure = document.querySelector("#curves .figure");
        figure.scrollIntoView({block: "center"});
        const mark = figure.querySelector('.line[data-axis="0"]');
        const [x, y] = corners(mark)[12];
        const at = new DOMPoint(x, y)
          .matrixTransform(figure.querySelector("svg").getScreenCTM());
        const chip = chips().find(c => c.dataset.entry === mark.dataset.entry);
        return [at.x, at.y, chip.textContent];
      })()""")
    opened.move(x, y)
    assert not opened.evaluate("tip.hidden")
    lines = opened.evaluate("[...tip.children].map(e => e.textContent)")
    assert lines[0] == "epoch 13"
    near = opened.evaluate("tip.querySelector('.near').textContent")
    expected = table.loc[(entry, 13.0), "median"]
    assert near.startswith(entry)
    assert float(near.removeprefix(entry)) == pytest.approx(expected, rel=5e-3)
    assert len(lines) == 1 + len(table.xs(13.0, level="epoch"))
    opened.move(5, 5)
    assert opened.evaluate("tip.hidden")


def test_a_click_hides_a_method_everywhere(opened):
    hide = "document.querySelector('#chips [data-entry=\"0\"]').click()"
    count = (
        "[...document.querySelectorAll('.m')].filter("
        "m => (m.dataset.entry === '0') && m.getBoundingClientRect().width).length"
    )
    others = count.replace("===", "!==")
    before, beside = opened.evaluate(count), opened.evaluate(others)
    assert before > 5
    opened.evaluate(hide)
    assert opened.evaluate(count) == 0
    assert opened.evaluate(others) == beside
    pressed = "document.querySelector('#chips button').getAttribute('aria-pressed')"
    assert opened.evaluate(pressed) == "false"
    opened.evaluate("document.getElementById('all').click()")
    assert opened.evaluate(count) == before
