"""The page in a browser: it follows, it holds still for readers, and can be read."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import browser
import fabricated
import pytest
from test_follow import started

from lrjax import reports
from lrjax.watch import pace, server

pytestmark = pytest.mark.skipif(
    browser.PATH is None, reason=f"none of {', '.join(browser.NAMES)} is installed"
)
ROOT = Path(__file__).parent.parent.parent
METHODS = ("adam", "momentum", "prodigy")
TASKS = ("libsvm/iris", "svmlight:/home/somebody/a/long/path/to/some/data.svm")
PATIENCE = 60.0  # seconds


@pytest.fixture(scope="module")
def page():
    with browser.page() as opened:
        yield opened


def append(path, rows):
    """Append rows to a table."""
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


class Training:
    """Writes the tables of a training, as much of it as it is told."""

    def __init__(self, workdir, tasks=TASKS, methods=METHODS, seeds=4, **options):
        self.workdir = workdir
        self.runs, self.curves = fabricated.runs_and_curves(
            tasks, methods, seeds, **options
        )

    def begin(self):
        append(self.workdir / "started.jsonl", map(started, self.runs))
        self.told(0.0)

    def measure(self, since, until):
        """Write the measurements of these epochs."""
        rows = [row for row in self.curves if since < row["epoch"] <= until]
        append(self.workdir / "curves.jsonl", rows)
        self.told(until / 20)

    def end(self):
        append(self.workdir / "runs.jsonl", self.runs)
        self.told(1.0, "ended")

    def told(self, share, state="training"):
        """Replace progress.json."""
        note = {"mode": "train", "state": state, "what": "", "began": 1.0, "pid": 1}
        note |= {"runs": 24, "runs_done": 24 * (share == 1), "updates": 1000}
        note |= {"updates_done": 1000 * share, "written": time.time()}
        new = self.workdir / "progress.new"
        new.write_text(json.dumps(note))
        new.replace(self.workdir / "progress.json")


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """A server of a directory that does not exist yet, in a hurry."""
    monkeypatch.setattr(pace, "_SHARE", 1.0)
    with server.start(tmp_path / "study") as served:
        yield served
        served.shutdown()


def address(served):
    return f"http://127.0.0.1:{served.server_port}/"


def wait(page, expression, wanted=True):
    """Wait until an expression has a value."""
    end = time.monotonic() + PATIENCE
    while (found := page.evaluate(expression)) != wanted:
        assert time.monotonic() < end, (expression, found)
        time.sleep(0.1)


def text(page, part):
    return page.evaluate(f"document.getElementById('part-{part}')?.innerText")


def has(part, words):
    """Whether a part has words."""
    return f"!!document.getElementById('part-{part}')?.innerText.includes({words!r})"


def label(task):
    """The text alternative of a task's first figure."""
    return f"document.querySelector('#part-{task} svg[role=img]')?.ariaLabel"


def press(page, key, code):
    """Press a key."""
    about = {"key": key, "code": key, "windowsVirtualKeyCode": code}
    if key == " ":
        about |= {"text": " ", "code": "Space"}
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, **about)


def test_it_follows_from_before_the_first_file_to_the_last(page, watched):
    training = Training(watched.folder)
    page.open(address(watched))
    wait(page, has("progress", "does not exist yet"))
    training.begin()
    wait(page, has("progress", "0 of 24 runs done, 0 % of all updates"))
    wait(page, has("task-0", "programs compile first"))
    assert text(page, "report") == ""
    training.measure(0, 8)
    wait(page, f"!!{label('task-0')}")
    first = page.evaluate(label("task-0"))
    assert "validation accuracy over epoch; last value: adam 0." in first
    training.measure(8, 14)
    wait(page, f"{label('task-0')} !== {first!r}")
    wait(page, has("progress", "70 % of all updates"))
    # Only the table of contents says what there is; nothing has ended.
    wait(page, has("runs", "No run has ended yet."))
    training.measure(14, 20)
    training.end()
    wait(page, has("progress", "Ended, 24 of 24 runs done"))
    wait(page, has("report", "Open the report"))
    wait(page, has("runs", "has the best mean rank so far"))
    assert text(page, "said") == "Ended"
    wait(page, has("task-1", "runs that have ended"))
    asked = [
        e["request"]["url"] for n, e in page.events if n.endswith("requestWillBeSent")
    ]
    assert {url for url in asked if not url.startswith("data:")} == {
        address(watched),
        f"{address(watched)}events",
    }
    said = [e for n, e in page.events if n.startswith(("Runtime.exc", "Log."))]
    assert not said


@pytest.mark.slow
def test_then_it_is_the_report(page, watched):
    training = Training(watched.folder)
    training.begin()
    training.measure(0, 20)
    training.end()
    page.open(address(watched))
    wait(page, has("report", "Open the report"))
    page.events.clear()
    page.evaluate("document.querySelector('#report button').click()")
    page._read(lambda m: m.get("method") == "Page.loadEventFired")
    assert page.evaluate("location.pathname") == "/report/"
    assert page.evaluate("document.querySelectorAll('.figure').length") > 5
    assert (watched.folder / "report" / "index.html").exists()


@pytest.mark.slow
def test_what_one_reads_holds_still(page, watched):
    """Focus, what is open, what is hidden and where one is outlive an update."""
    training = Training(watched.folder)
    training.begin()
    training.measure(0, 8)
    page.open(address(watched), 400)
    wait(page, f"!!{label('task-1')}")
    wait(page, "document.querySelectorAll('#chips [data-entry]').length", len(METHODS))
    page.evaluate(
        "document.querySelector('#part-task-1 details').open = true;"
        "document.querySelector('#part-task-1 summary').focus();"
        "document.querySelector('#part-task-1 details .scroll').scrollLeft = 10;"
        "document.querySelector('#chips [data-entry=\"1\"]').click();"
        "document.querySelector('#part-task-1 details').scrollIntoView()"
    )
    place = (
        "Math.round(document.querySelector('#part-task-1 details')"
        ".getBoundingClientRect().top)"
    )
    slid = "document.querySelector('#part-task-1 details .scroll').scrollLeft"
    assert page.evaluate(slid) == 10
    before, seen = page.evaluate(place), page.evaluate(label("task-1"))
    above = page.evaluate(label("task-0"))
    training.measure(8, 15)
    # A task above may grow, too: its table gets columns.
    training.end()
    wait(page, f"{label('task-0')} !== {above!r} && {label('task-1')} !== {seen!r}")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    inside = "document.getElementById('part-task-1').contains(document.activeElement)"
    assert page.evaluate(inside)
    assert page.evaluate("document.querySelector('#part-task-1 details').open")
    assert page.evaluate(slid) == 10
    assert page.evaluate(place) == pytest.approx(before, abs=2)
    drawn = (
        "[...document.querySelectorAll('.m.line.e%d')]"
        ".map(m => m.getBoundingClientRect().width > 0)"
    )
    assert set(page.evaluate(drawn % 1)) == {False}
    assert set(page.evaluate(drawn % 0)) == {True}
    pressed = "document.querySelector('#chips [data-entry=\"1\"]').ariaPressed"
    assert page.evaluate(pressed) == "false"


@pytest.mark.slow
def test_it_shows_another_study_in_the_same_place(page, watched):
    """As after tables were removed and a training begun anew."""
    training = Training(watched.folder)
    training.begin()
    training.measure(0, 8)
    page.open(address(watched))
    wait(page, f"!!{label('task-1')}")
    for path in watched.folder.iterdir():
        path.unlink()
    other = Training(watched.folder, ("other",), ("sgd",), 2)
    other.begin()
    other.measure(0, 5)
    wait(page, f"({label('task-0')} ?? '').includes('last value: sgd')")
    wait(page, "document.querySelectorAll('#tasks > *').length", 1)
    names = "[...document.querySelectorAll('#chips span')].map(s => s.textContent)"
    wait(page, names, ["sgd"])


def test_nothing_is_asked_for_while_nobody_sees_the_page(page, watched):
    training = Training(watched.folder)
    training.begin()
    page.open(address(watched))
    wait(page, has("progress", "0 % of all updates"))
    turn = (
        "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange')); source === null"
    )
    assert page.evaluate(turn % "true") is True
    training.measure(0, 10)
    time.sleep(2.0)
    assert "0 % of all updates" in text(page, "progress")
    assert page.evaluate(turn % "false") is False
    wait(page, has("progress", "50 % of all updates"))


@contextlib.contextmanager
def program(workdir, port=0):
    """The program in a process of its own; gives its address."""
    command = [sys.executable, "main.py", "watch", str(workdir), f"--port={port}"]
    watching = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield re.search(r"http://\S+/", watching.stdout.readline())[0]
    finally:
        watching.kill()
        watching.communicate()


@pytest.mark.slow
def test_it_finds_a_server_that_was_started_again(page, tmp_path):
    training = Training(tmp_path / "study")
    training.begin()
    training.measure(0, 8)
    with program(training.workdir) as first:
        page.open(first)
        wait(page, f"!!{label('task-0')}")
    wait(page, "lost.textContent.includes('Not connected')")
    with program(training.workdir, urlsplit(first).port) as second:
        assert second == first
        wait(page, "lost.textContent", "")
        training.measure(8, 16)
        wait(page, has("progress", "80 % of all updates"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A server of a directory with all kinds of parts."""
    workdir = tmp_path_factory.mktemp("whole") / "study"
    training = Training(
        workdir,
        methods=(*METHODS, "cocob", "adamw_cosine"),
        rates={"adam": (1e-4, 1e-3, 1e-2)},
        diverged=[(TASKS[0], "momentum", s) for s in range(3)],
    )
    training.begin()
    training.measure(0, 20)
    append(workdir / "runs.jsonl", training.runs[: len(training.runs) * 3 // 4])
    append(workdir / "trials.jsonl", fabricated.trials(TASKS, "adam"))
    answers = [fabricated.answer(task) for task in TASKS]
    (workdir / "selection.json").write_text(json.dumps(answers))
    with server.start(workdir) as served:
        yield served
        served.shutdown()


def open_whole(page, served, width=1280, dark=False):
    """Open the page and wait until all is drawn."""
    page.open(address(served), width, dark)
    for part in ("task-0", "task-1", "runs", "tuning", "selection"):
        wait(page, f"!!{label(part)}")
    wait(page, "document.querySelectorAll('#chips [data-entry]').length > 5")
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")


def test_every_figure_has_a_text_alternative(page, whole):
    open_whole(page, whole)
    found = page.evaluate(
        "[...document.querySelectorAll('.figure svg:not(.swatch)')].map(s => "
        "[s.role, s.ariaLabel, document.getElementById("
        "s.getAttribute('aria-describedby'))?.innerText.length > 50])"
    )
    assert len(found) >= 2 * 3 + 2 + 2 + 2
    for role, words, explained in found:
        assert role == "img"
        assert len(words) > 30
        assert explained
    labels = "\n".join(words for _, words, _ in found)
    for name in ("momentum", "prodigy", "cocob", "adam learning_rate=0.001"):
        assert f"{name} 0." in labels
    # And every table below it says what it is.
    tables = page.evaluate(
        "[...document.querySelectorAll('details .scroll')].map(e => "
        "[e.tabIndex, e.role, e.ariaLabel])"
    )
    assert len(tables) >= 4
    assert all(t[:2] == [0, "region"] and t[2] for t in tables)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_it_can_be_read(page, whole, width, dark):
    open_whole(page, whole, width, dark)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = page.evaluate(browser.CONTRAST)
    assert len(found) > 100
    assert not [words for words in found if words[0] < 4.5]
    cut = page.evaluate("""
      [...document.querySelectorAll(".figure .scroll")].map(e => {
        const box = e.getBoundingClientRect();
        return [e.closest("section").id, box.left, box.right,
                e.scrollWidth - e.clientWidth];
      })""")
    assert len(cut) > 8
    for name, left, right, more in cut:
        assert left >= 0, name
        assert right <= width, name
        assert more <= 1, name
    aloud = page.evaluate(
        "document.querySelector('.aloud').getBoundingClientRect().width"
    )
    assert aloud <= 1


def test_it_works_by_keyboard(page, whole):
    open_whole(page, whole)
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    reached, outlined = [], []
    for _ in range(80):
        press(page, "Tab", 9)
        reached.append(
            page.evaluate(
                "(e => e.dataset.entry ? 'chip' : e.closest('nav, #report')?.tagName"
                " ?? e.tagName)(document.activeElement)"
            )
        )
        outlined.append(
            page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        )
        if reached[-1] == "BODY":
            break
    kinds = list(dict.fromkeys(reached))
    assert kinds[:5] == ["chip", "FORM", "NAV", "SUMMARY", "DIV"]
    assert "none" not in outlined[: reached.index("BODY")]
    page.evaluate("document.querySelector('#chips [data-entry]').focus()")
    number = page.evaluate("document.activeElement.dataset.entry")
    press(page, " ", 32)
    drawn = f"document.querySelectorAll('.m.e{number}:not(.off)').length"
    assert page.evaluate(drawn) == 0
    assert page.evaluate("document.activeElement.ariaPressed") == "false"
    press(page, " ", 32)
    assert page.evaluate(drawn) > 2


@pytest.mark.slow
def test_methods_have_the_colours_and_signs_of_the_report(page, whole, tmp_path):
    looks = (
        "Object.fromEntries([...document.querySelectorAll('#chips [data-entry]')]"
        ".map(c => [c.textContent, c.querySelector('svg').innerHTML]))"
    )
    open_whole(page, whole)
    watched = page.evaluate(looks)
    reports.write([whole.folder], tmp_path / "r", reports.Options(bootstrap=20))
    page.open(f"file://{tmp_path}/r/index.html")
    reported = page.evaluate(looks)
    same = set(watched) & set(reported)
    assert {"momentum", "prodigy", "cocob", "adamw_cosine"} <= same
    assert {n: watched[n] for n in METHODS[1:]} == {n: reported[n] for n in METHODS[1:]}
    # Lines that lie on each other are told apart by dashes and markers.
    assert len(set(watched.values())) == len(watched)


@pytest.mark.slow
def test_a_training_that_is_killed_and_started_again_is_followed(page, watched):
    command = [
        *(sys.executable, "main.py", "--config=libsvm:wine"),
        f"--workdir={watched.folder}",
        *("--config.methods=adam,sgd", "--config.seeds=3", "--config.epochs=3000"),
    ]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}

    def train():
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    page.open(address(watched))
    wait(page, has("progress", "does not exist yet"))
    training = train()
    try:
        wait(page, f"!!{label('task-0')}")
        training.kill()
        training.wait()
        was = watched.folder.joinpath("curves.jsonl").stat().st_size
        training = train()
        wait(page, has("progress", "Ended, 6 of 6 runs done"))
        assert training.wait(PATIENCE) == 0
    finally:
        training.kill()
        training.wait()
    assert watched.folder.joinpath("curves.jsonl").stat().st_size >= was
    wait(page, has("runs", "has the best mean rank so far"))
    assert text(page, "faults") == ""
    assert page.evaluate("document.querySelectorAll('#tasks > *').length") == 1
