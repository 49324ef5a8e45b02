"""How reports are written: whole, in lrjax's own style, and through no link."""

import contextlib
import csv
import errno
import html.parser
import io
import json
import os
import random
import re
import stat
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import fabricated
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrjax import reports
from lrjax.common import sheets
from lrjax.core import UsageError
from lrjax.reports import export, page
from lrjax.reports.palette import shorten

ROOT = Path(__file__).parent.parent.parent
OPTIONS = reports.Options(bootstrap=10)


@pytest.fixture
def workdir(tmp_path):
    """A folder with tables."""
    (tmp_path / "run").mkdir()
    fabricated.write(tmp_path / "run", ("a",), ("sgd", "adam"), 2)
    return tmp_path / "run"


def contents(folder):
    found = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder): p.read_bytes() for p in found}


# Settings of Matplotlib

HOSTILE = {
    "dark": "figure.facecolor: black\naxes.facecolor: 123456\nlines.linewidth: 9\n",
    "latex": "text.usetex: True\nmathtext.fontset: cm\n",
    "fonts": "font.family: No Such Font\nfont.size: 40\nsvg.fonttype: path\n",
    "output": "savefig.dpi: 30\nsavefig.bbox: tight\nsavefig.transparent: True\n"
    "savefig.facecolor: red\nsavefig.format: pdf\n",
    "interactive": "interactive: True\nbackend: no.such\nsvg.hashsalt: x\n",
    "damaged": "no such key: 1\nfigure.dpi: many\n\n:::\naxes.grid\n",
    "not text": b"# M\xfcnchen\nfont.size: 40\n",
    "pipe": None,
}
# Some figures of a page, and one beside the tables: all are made in one style.
DRAW = (
    "import os, sys; from pathlib import Path; from lrjax import reports, results\n"
    "from lrjax.reports import analyses; del analyses.ANALYSES[3:]\n"
    "run, out = map(Path, sys.argv[1:])\n"
    "reports.write([run], out, reports.Options(bootstrap=10))\n"
    "out = out / 'curves.png'\n"
    "reports.learning_curves(*results.load(run), out)"
)


def draw(workdir, out, cwd, **environment):
    done = subprocess.run(
        [sys.executable, "-c", DRAW, str(workdir), str(out)],
        cwd=cwd,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return {p: c for p, c in contents(out).items() if p.suffix in (".png", ".svg")}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """A folder with tables, and the figures that belong to them."""
    folder = tmp_path_factory.mktemp("expected")
    (folder / "run").mkdir()
    fabricated.write(folder / "run", ("a_$b$",), ("sgd", "adam"), 2)
    return folder / "run", draw(folder / "run", folder / "out", folder)


@pytest.mark.parametrize(
    "names",
    [
        ("dark", "not text"),
        pytest.param(("pipe", "latex"), marks=pytest.mark.slow),
        *(pytest.param((n, n), marks=pytest.mark.slow) for n in HOSTILE),
    ],
    ids="-".join,
)
def test_the_users_settings_change_no_figure(names, expected, tmp_path):
    """Of Matplotlib: in the current folder, and where variables point to."""
    places = {"cwd": tmp_path / "cwd", "settings": tmp_path / "settings"}
    for place, name in zip(places.values(), names, strict=True):
        place.mkdir()
        text = HOSTILE[name]
        if text is None:
            os.mkfifo(place / "matplotlibrc")
        else:
            data = text if isinstance(text, bytes) else text.encode()
            (place / "matplotlibrc").write_bytes(data)
    workdir, figures = expected
    drawn = draw(
        workdir,
        tmp_path / "out",
        places["cwd"],
        MPLBACKEND="module://matplotlib_inline.backend_inline",
        MATPLOTLIBRC=str(places["settings"]),
    )
    assert drawn == figures
    # A file in the current folder comes first: the other needs a try of its own.
    again = draw(
        workdir,
        tmp_path / "again",
        tmp_path,
        MPLCONFIGDIR=str(places["settings"]),
    )
    assert again == figures


def test_the_users_own_figures_keep_the_users_settings(workdir):
    """In a program that has set them, and opened a figure, before."""
    matplotlib = pytest.importorskip("matplotlib")
    figure_lib = pytest.importorskip("matplotlib.figure")
    changed = {"lines.linewidth": 9.0, "text.usetex": True, "svg.hashsalt": "mine"}
    with matplotlib.rc_context(changed):
        before, backend = dict(matplotlib.rcParams), matplotlib.rcParams._get("backend")
        figure = figure_lib.Figure()
        (line,) = figure.subplots().plot([1, 2])
        reports.write([workdir], workdir / "report", OPTIONS)
        assert dict(matplotlib.rcParams) == before
        assert matplotlib.rcParams._get("backend") is backend
        assert line.get_linewidth() == 9.0


# Disks and links


def full_after(count, monkeypatch):
    """Let the disk be full once files were flushed to it `count` times."""
    left, flush = [count], os.fsync

    def fsync(handle):
        left[0] -= stat.S_ISREG(os.fstat(handle).st_mode)
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return left


FORMATS = ("csv", "parquet", "tensorboard")
ALL = reports.Options(bootstrap=10, export=FORMATS)


@pytest.mark.usefixtures("one_figure")
@pytest.mark.parametrize(
    "room", [-3, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 1, 5, 10, 30))]
)
def test_a_full_disk_leaves_the_old_report(room, workdir, monkeypatch):
    """Files beside a report stay as well; -3: all but the last files fit."""
    (workdir / "report" / "figures").mkdir(parents=True)
    (workdir / "report" / "figures" / "mine.txt").write_text("of the user's")
    reports.write([workdir], workdir / "report", ALL)
    before = contents(workdir / "report")
    fabricated.write(workdir, ("a", "b"), ("sgd", "adam"), 3)
    with monkeypatch.context() as patch:
        left = full_after(10**6, patch)
        reports.write([workdir], workdir / "other", ALL)
    count = 10**6 - left[0]
    assert count >= len(contents(workdir / "other")) > 31
    with monkeypatch.context() as patch:
        full_after(room % count, patch)
        with pytest.raises(
            UsageError, match=r"(/report/\w[\w/.]*|port=\w+.*): No space left"
        ):
            reports.write([workdir], workdir / "report", ALL)
    assert contents(workdir / "report") == before
    reports.write([workdir], workdir / "report", ALL)
    after = contents(workdir / "report")
    assert all(after[path] != before[path] for path in map(Path, NEW))
    assert after[Path("figures/mine.txt")] == b"of the user's"


NEW = ("index.html", "figures/curves.svg", "csv/runs.csv", "parquet/runs.parquet")


@pytest.mark.usefixtures("one_figure")
def test_an_error_while_drawing_leaves_the_old_report_untouched(workdir, monkeypatch):
    reports.write([workdir], workdir / "report", OPTIONS)
    before = contents(workdir / "report")
    fabricated.write(workdir, ("a", "b"), ("sgd", "adam"), 3)
    monkeypatch.setattr(page, "render", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        reports.write([workdir], workdir / "report", OPTIONS)
    assert contents(workdir / "report") == before


def moves(monkeypatch, note):
    """Call a function after each file that takes its place in a report."""
    replace = os.replace

    def noting(source, target):
        replace(source, target)
        if ".tmp" not in str(target):
            note(target)

    monkeypatch.setattr(os, "replace", noting)


@pytest.mark.usefixtures("one_figure")
def test_the_page_comes_last(workdir, monkeypatch):
    written = []
    moves(monkeypatch, written.append)
    reports.write([workdir], workdir / "report", ALL)
    assert written[-1] == workdir / "report" / "index.html"
    assert len(set(written)) == len(written) == len(contents(workdir / "report"))


@pytest.mark.usefixtures("one_figure")
@pytest.mark.parametrize("name", ["index.html", "figures/curves.png", "csv/runs.csv"])
def test_a_link_in_place_of_a_file_is_replaced(name, workdir, tmp_path):
    other = tmp_path / "other"
    other.write_text("of somebody else")
    link = workdir / "report" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(other)
    reports.write([workdir], workdir / "report", ALL, workdir)
    assert other.read_text() == "of somebody else"
    assert link.is_file()
    assert not link.is_symlink()


@pytest.mark.usefixtures("one_figure")
@pytest.mark.parametrize(
    "name", ["", "figures", "tables", *FORMATS, "tensorboard/a", "tensorboard/a/adam"]
)
def test_a_link_in_place_of_a_folder_is_refused(name, workdir, tmp_path):
    (tmp_path / "other").mkdir()
    link = workdir / "report" / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(tmp_path / "other")
    with pytest.raises(UsageError, match=r"cannot write .*link, which lrjax does not"):
        reports.write([workdir], workdir / "report", ALL, workdir)
    assert not list((tmp_path / "other").iterdir())


@pytest.mark.usefixtures("one_figure")
def test_a_folder_that_the_user_chose_may_be_a_link(workdir, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "site")
    reports.write([workdir], tmp_path / "link", OPTIONS)
    assert (tmp_path / "site" / "index.html").exists()
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("draw", ["learning_curves", "tuning", "races"])
def test_figures_beside_the_tables_follow_no_link(draw, workdir, tmp_path):
    names = {"learning_curves": "curves.png", "tuning": "costs.png"}
    other = tmp_path / "other"
    other.write_text("of somebody else")
    link = workdir / names.get(draw, "selection.svg")
    link.symlink_to(other)
    if draw == "learning_curves":
        reports.learning_curves(*reports.results.load(workdir), link)
    elif draw == "tuning":
        trial = {"task": "a", "method": "sgd", "tuner": "random", "seed": 0}
        trial |= {"budget": 1, "cost": 1.0, "status": "done", "unit": "epochs"}
        reports.tuning([{**trial, "hparams": {"learning_rate": 0.1}}], workdir)
    else:
        reports.races([answer("a", "sgd")], workdir)
    assert other.read_text() == "of somebody else"
    assert not link.is_symlink()


def answer(task, label):
    """An answer of a selection in which every text is the contender's label."""
    texts = dict.fromkeys(("method", "why", "runner_up", "snippet"), label)
    judged = [fabricated.judged(label, values=[0.5], behind=[0.0])]
    return fabricated.answer(task, label, **texts, judged=judged)


# Names

NAMES = {
    "markup": "svmlight:/<script>alert(1)</script>\"'&amp;]]>--><!--",
    "closing": "</svg></title></style><img src=x onerror=alert(1)>",
    "controls": "a\x00\x01\x1b[31m\r\n\tb\x7f\u202eevil\u2028",
    "surrogates": "a\udcff\ud800b",
    "formula": '=HYPERLINK("http://x")',
    "latex": "\\input{/etc/passwd}$^_%&#~{}",
    "long": "x" * 5000,
    "other": "數據\U0001f600 العربية",
}


class Tags(html.parser.HTMLParser):
    """Names and attributes of all elements of a page."""

    def __init__(self, text):
        super().__init__()
        self.names, self.attributes = set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.mark.slow
def test_a_name_is_a_name_in_every_file(expected, tmp_path):
    names = tuple(NAMES.values())
    runs, curves = fabricated.runs_and_curves(names, ("sgd", *names), 2)
    fabricated.lines(tmp_path / "runs.jsonl", runs)
    fabricated.lines(tmp_path / "curves.jsonl", curves)
    answers = json.dumps([answer(name, name) for name in names])
    (tmp_path / "selection.json").write_text(answers)
    record = {
        "git_revision": names[0],
        "versions": dict(zip(names, names, strict=True)),
    }
    (tmp_path / "config.json").write_text(json.dumps(record))
    lines = reports.write([tmp_path], tmp_path / "report", ALL)
    assert all(line.isprintable() for line in lines)
    text = (tmp_path / "report" / "index.html").read_text()
    assert all(c.isprintable() or c == "\n" for c in text)
    reports.write([expected[0]], tmp_path / "usual", OPTIONS)
    usual = Tags((tmp_path / "usual" / "index.html").read_text())
    found = Tags(text)
    assert found.names <= usual.names | {"title"}
    assert found.attributes <= usual.attributes | {"tabindex"}  # of wide tables
    for path in (tmp_path / "report").rglob("*.svg"):
        ElementTree.parse(path)
    for path in (tmp_path / "report").rglob("*.tex"):
        assert "\\input{" not in path.read_text()
        assert all(c.isprintable() or c == "\n" for c in path.read_text())
    for path in (tmp_path / "report").rglob("*.csv"):
        rows = list(csv.reader(io.StringIO(path.read_text(), newline="")))
        assert len({len(row) for row in rows}) == 1
        for cell in (cell for row in rows for cell in row):
            with contextlib.suppress(ValueError):
                float(cell)
                continue
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    events = list((tmp_path / "report" / "tensorboard").rglob("events*"))
    assert len(events) == len(runs)
    assert len(list(tmp_path.rglob("events*"))) == len(runs)


@given(
    st.lists(st.text(st.characters(), max_size=40), min_size=1, max_size=8), st.data()
)
@settings(max_examples=200)
def test_short_names_are_printable_and_differ(names, data):
    width = data.draw(st.integers(8, 40))
    short = shorten(names, width)
    assert set(short) == set(names)
    assert len(set(short.values())) == len(short)
    for name, text in short.items():
        assert text.isprintable()
        assert len(text) <= width
        if name.isprintable() and len(name) <= width:
            assert text == name


@given(st.lists(st.text(st.characters(), max_size=20), min_size=1, max_size=8))
@settings(max_examples=200)
def test_folders_of_names_are_distinct_and_safe(names):
    made = export.folders(names)
    assert set(made) == set(names)
    assert len({folder.casefold() for folder in made.values()}) == len(made)
    for folder in made.values():
        assert not set("/\\\0") & set(folder)
        assert folder.strip(". ")
        assert len(folder.encode()) < 256


def test_folders_of_names_that_look_like_hashed_ones():
    taken = export.folders(["a-b", "a/b"])["a/b"]
    made = export.folders(["a-b", "a/b", taken, taken.upper()])
    assert len({folder.casefold() for folder in made.values()}) == 4


# Cells


def test_texts_like_formulas_are_quoted_and_numbers_are_not():
    cells = [
        "=1+1",
        "+a",
        "-a",
        "@a",
        "\tx",
        "\nx",
        "\uff1d1",
        "\rx",
        "a=1",
        "",
        "-",
        "x",
    ]
    numbers = ["-1.5", "+3", "-inf", "-1e-3"]
    table = pd.DataFrame({"=text": cells + numbers, "n": -1.5})
    table["mixed"] = pd.Series([1, None, -2, "=x", *[0.1] * 12], dtype=object)
    rows = list(csv.reader(io.StringIO(sheets.csv(table).decode(), newline="")))
    assert rows[0] == ["'=text", "n", "mixed"]
    changed = [f"'{cell}" for cell in cells[:7]] + ["\\rx", "a=1", "", "'-", "x"]
    assert [row[0] for row in rows[1:]] == changed + numbers
    assert {row[1] for row in rows[1:]} == {"-1.5"}
    assert [row[2] for row in rows[1:6]] == ["1", "", "-2", "'=x", "0.1"]


def test_tables_of_numbers_are_as_pandas_writes_them():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(20, 3)), columns=list("abc"))
    table = table.assign(i=range(20), flag=True, text='x,"y"\nz', none=None)
    assert sheets.csv(table).decode() == table.to_csv(index=False)
    empty = table[:0]
    assert sheets.csv(empty).decode() == empty.to_csv(index=False)


@pytest.mark.usefixtures("one_figure")
def test_a_report_killed_at_any_moment_has_no_torn_file(workdir, monkeypatch):
    """Each file is replaced, so what is there at any moment is whole."""
    moments, rng = [], random.Random(0)

    def note(path):
        if rng.random() < 0.2 or path.name == "index.html":
            found = contents(workdir / "report")
            moments.append({p: c for p, c in found.items() if ".tmp" not in str(p)})

    moves(monkeypatch, note)
    for tasks in (("a",), ("a", "b")):
        old = contents(workdir / "report")
        fabricated.write(workdir, tasks, ("sgd", "adam"), 2)
        moments.clear()
        reports.write([workdir], workdir / "report", OPTIONS)
        new = contents(workdir / "report")
        assert moments[-1] == new
        assert len(moments) > 3
        for moment in moments:
            assert all(c in (old.get(p), new.get(p)) for p, c in moment.items())
            page_text = moment.get(Path("index.html"), b"").decode()
            for name in re.findall(r'href="((?:figures|tables)/[^"]+)"', page_text):
                assert Path(name) in moment


def test_matplotlib_may_be_on_its_way_in_another_thread():
    code = """
import threading
from lrjax.reports import drawing
thread = threading.Thread(target=drawing.import_matplotlib)
thread.start()
while "matplotlib" not in __import__("sys").modules:
    pass
with drawing.style() as plt:
    plt.subplots()
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=300)
