"""The pages: commands parse, links resolve, notebooks run, and the site builds."""

import contextlib
import functools
import html.parser
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path
from unittest import mock

import browser
import pytest
from absl.testing import flagsaver
from test_doctests import for_users

from lrjax import cli, command, tasks
from lrjax import config as config_lib
from lrjax.arguments import CONFIG_MODULE

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
COMMANDS = DOCS / "commands.md"
NOTEBOOKS = sorted(DOCS.glob("tutorials/*.ipynb"))
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(ROOT / "SECURITY.md", *sorted((ROOT / "benchmarks").rglob("*.md"))),
    *(*sorted(DOCS.glob("*.md")), *NOTEBOOKS),
]
PROGRAMS = [
    *sorted((ROOT / "configs").glob("*.py")),
    *sorted((ROOT / "examples").glob("*.py")),
    *(ROOT / "lrjax/command.py", ROOT / "lrjax/cli.py"),
]


def relative(path):
    return str(path.relative_to(ROOT))


@functools.cache
def text_of(path):
    """The Markdown of a page; of a notebook, with its code in blocks."""
    if path.suffix != ".ipynb":
        return path.read_text()
    fence = {"markdown": "{}", "code": "```python\n{}\n```"}
    cells = json.loads(path.read_text())["cells"]
    texts = [fence[c["cell_type"]].format("".join(c["source"])) for c in cells]
    return "\n\n".join(texts)


def prose(text):
    """Markdown without its blocks of code, in which brackets are no links."""
    text = re.sub(r"^(```+).*?^\1", "", text, flags=re.M | re.S)
    return re.sub(r"^    .*$", "", text, flags=re.M)


# Commands


START = r"(?:\$ |PYTHONPATH=\S+ )?(?:\.venv/bin/)?"
PROGRAM = re.compile(START + r"(?:python (?:-m lrjax|main\.py)|lrjax)( .*)")
SCRIPT = re.compile(
    START + r"python (?:-m (benchmarks[\w.]*)|(benchmarks/\S+\.py))(.*)"
)
MADE = re.compile(r"make ([a-z]\w*)")
# What stands for a value: variables of shell loops, and words in capitals.
VARIABLES = {
    "mnist/$task": "mnist/mlp",
    "$task": "digits/wrn",
    "$epochs": "20",
    "$options": "--config.epochs=1",
    "=METHODS": "=adam",  # those of a table beside the command
}


def code_of(path):
    """The lines of code of a page, or all of a program, as (number, line)."""
    text = text_of(path)
    if path.suffix == ".py":
        yield from enumerate(text.replace("\\\\\n", "\\\n").splitlines(), 1)
        return
    fence = ""
    for number, line in enumerate(text.splitlines(), 1):
        mark = re.match(r" *(```+)", line)
        if mark and (not fence or mark[1] == fence):
            fence = "" if fence else mark[1]
        elif fence or line.startswith("    "):
            yield number, line


def lines_of(path):
    """The lines of code of a page or program, continued ones joined."""
    joined = ""
    for number, line in code_of(path):
        joined += re.sub(r" +# .*$", "", line).strip()
        if joined.endswith("\\"):
            joined = joined[:-1]
            continue
        yield number, joined
        joined = ""


def commands(pattern):
    """Commands of the pages that a pattern matches, as parameters of a test.

    They are whole lines of code, and code within a line that has a flag.
    """
    found = {}
    for path in (*PAGES, *PROGRAMS):
        inline = re.findall(
            r"`([^`]+ --[^`]+)`", " ".join(prose(text_of(path)).split())
        )
        for number, line in [*lines_of(path), *((0, each) for each in inline)]:
            line = re.sub(r"^[A-Z][^`]*: ", "", line)  # words of a docstring before it
            if match := pattern.fullmatch(line):
                found.setdefault(match[0], (match, f"{relative(path)}:{number}"))
    return [pytest.param(match, id=where) for match, where in found.values()]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The reader's own package that docs/own.md names, beside mine.py."""
    (config,) = re.findall(r"```python\n(.*?)```", text_of(COMMANDS), re.S)
    (tmp_path / "mine.py").write_text(config)
    folder = tmp_path / "my_package"
    folder.mkdir()
    method = "import optax\n\n\ndef parabola(learning_rate=0.1, momentum=0.9):\n"
    (folder / "methods.py").write_text(f"{method}    return optax.sgd(learning_rate)\n")
    (folder / "tasks.py").write_text("def make(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.startswith("my_package")]:
        del sys.modules[name]


def parsed(argv):
    """Exit code and stderr of the program, which checks its config and goes no further.

    Args:
      argv: the command line, beginning with the program.
    """
    said = io.StringIO()
    sys.modules.pop(CONFIG_MODULE, None)  # of the call before

    def check(mode, launcher, config, *_):
        for name in config_lib.check(config).tasks:
            tasks._factory(name)

    def report(config, *_):
        config_lib.check_report(config.report)

    nothing = mock.Mock()
    with (
        warnings.catch_warnings(action="ignore"),
        flagsaver.flagsaver(),
        mock.patch.object(sys, "argv", argv),
        mock.patch.multiple(
            cli,
            run=check,
            report=report,
            compact=nothing,
            methods=nothing,
            config=nothing,
            make_deterministic=nothing,
        ),
        mock.patch.multiple(command, _race=nothing, _watch=nothing),
        contextlib.redirect_stderr(said),
    ):
        try:
            command.main(command.parse(argv))
        except SystemExit as end:
            return end.code, said.getvalue()
    return 0, said.getvalue()


@pytest.mark.parametrize("found", commands(PROGRAM))
def test_a_command_parses(found, package, registries, monkeypatch):
    monkeypatch.chdir(ROOT)
    line = found[1].replace("=mine.py", f"={package.parent}/mine.py")
    for name, value in VARIABLES.items():
        line = line.replace(name, value)
    line = re.split(r" (?:>|\||&&|;|2>) ?", line)[0]
    code, said = parsed(["main.py", *shlex.split(line)])
    assert not code, said


@pytest.mark.parametrize("found", commands(SCRIPT))
def test_a_benchmark_is_there_and_has_the_flags(found):
    module, file, rest = found.groups()
    path = ROOT / (file or module.replace(".", "/"))
    path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    text = path.read_text()
    for flag in re.findall(r"(?<= --)[a-z][\w-]*", rest):
        assert f"--{flag}" in text or f'"{flag}"' in text, flag


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_targets_of_make_exist(path):
    targets = re.findall(r"^([a-z]\w*):", (ROOT / "Makefile").read_text(), re.M)
    code = re.findall(r"`([^`]+)`", text_of(path))
    code += [line for _, line in lines_of(path)]
    named = [m[1] for each in code if (m := MADE.match(each))]
    assert [name for name in named if name not in targets] == []


# Links


def slugs(path):
    """The anchors of a page's headings, as GitHub and MyST make them."""
    if path.suffix == ".rst":
        return set()
    found = {}
    for heading in re.findall(r"^#+ +(.+?)#*$", prose(text_of(path)), re.M):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading.strip()).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
    return {s if not n else f"{s}-{n}" for s, last in found.items()
            for n in range(last + 1)}  # fmt: skip


def links(path):
    """The targets of a page's links and images."""
    text = re.sub(r"`[^`]*`", "``", prose(text_of(path)))
    return re.findall(r"\]\(([^()\s]+)\)", text)


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_links_resolve(path):
    broken = []
    for link in links(path):
        if re.match(r"https?:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        # The site has a page for each file, and of folders for the examples alone.
        folder = path.parent == ROOT or target == ROOT / "examples"
        is_there = target.is_file() or (folder and target.is_dir())
        if not is_there or (anchor and anchor not in slugs(target)):
            broken.append(link)
    assert not broken


STANDS = r"\byours\b|\bNAME\b"  # for a reader's own file, or any


@pytest.mark.parametrize(
    "path", [*PAGES, *sorted((ROOT / "lrjax").rglob("*.py"))], ids=relative
)
def test_files_that_are_named_exist(path):
    pattern = r"\b(?:docs|benchmarks|configs|examples|lrjax|tests)/[\w/]+\.\w+\b"
    named = {n for n in re.findall(pattern, text_of(path)) if not re.search(STANDS, n)}
    endings = (".py", ".md", ".png", ".npz", ".json", ".txt", ".ipynb")
    missing = [n for n in named if n.endswith(endings) and not (ROOT / n).exists()]
    assert not missing


# The API reference


def test_all_that_users_call_is_in_the_reference():
    pages = [page.read_text() for page in DOCS.glob("api/*.rst")]
    names = re.findall(r"^\.\. auto\w+:: (\S+)", "\n".join(pages), re.M)
    assert len(names) == len({*names})
    documented = []
    for name in names:
        module, _, last = name.rpartition(".")
        documented.append(getattr(importlib.import_module(module), last))
    missing = []
    for module, name in for_users():
        found = getattr(importlib.import_module(module), name.split(".")[0])
        if not any(found is each for each in documented):
            missing.append(f"{module}.{name}")
    assert not missing


@pytest.mark.slow  # it trains
def test_python_of_the_start_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", text_of(DOCS / "start.md"), re.S)
    for block in blocks:
        exec(compile(block, "start.md", "exec"), {"__name__": "page"})
    assert "prodigy" in capsys.readouterr().out


# What figures.py renews


@pytest.fixture(scope="module")
def figures():
    spec = importlib.util.spec_from_file_location("figures", DOCS / "figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_marked_blocks_are_made_by_known_commands(figures):
    used = set()
    for page in figures.PAGES:
        text = page.read_text()
        marks = [*figures._MARK.finditer(text)]
        assert len(marks) == len(re.findall("^<!-- (?:output|numbers)", text, re.M))
        for mark in marks:
            assert figures._BLOCK.match(text, mark.end()), mark[0]
            for source in mark[2].split("; "):
                name = source.partition(" | ")[0]
                assert name in figures.COMMANDS or (ROOT / name).exists(), source
                used.add(name)
    assert used >= set(figures.COMMANDS)
    assert all((ROOT / name).exists() for name in figures.FIGURES)


def test_a_stale_block_is_renewed_in_its_form(figures, tmp_path):
    page = tmp_path / "page.md"
    mark = "<!-- output of: python -m benchmarks.ladder | B -->\n\n"
    blocks = ("| a |\n|---|\n| 1 |\n", "    old\n\n    older\n", "```text\nold\n```\n")
    page.write_text("".join(f"{mark}{block}\nText, 1.5.\n\n" for block in blocks))
    printed = "## A\n\n| x |\n\n## B, all\n\n| b |\n\n| c |\n"
    text, wrong = figures.renewed(page, lambda line: printed)
    shown = (
        "| b |\n\n| c |\n",
        "    | b |\n\n    | c |\n",
        "```text\n| b |\n\n| c |\n```\n",
    )
    assert text == "".join(f"{mark}{block}\nText, 1.5.\n\n" for block in shown)
    assert not wrong


def test_numbers_in_prose_must_be_printed(figures, tmp_path):
    page = tmp_path / "page.md"
    mark = "<!-- numbers of: python -m benchmarks.ladder -->\n\n"
    page.write_text(f"{mark}| 1.5 to -0.25, of 3, JAX 0.10.2, 2.7 |\n")
    text, wrong = figures.renewed(page, lambda line: "1.46 -0.25 2.64")
    assert text == page.read_text()
    assert [each.split()[1] for each in wrong] == ["2.7"]


@pytest.mark.slow  # half a minute
def test_tables_of_the_ladder_are_as_printed():
    command = [sys.executable, DOCS / "figures.py", "--check"]
    done = subprocess.run(
        [*command, "docs/results.md", "docs/which.md"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


# Notebooks


@pytest.mark.parametrize("path", NOTEBOOKS, ids=relative)
def test_a_notebook_has_no_outputs(path):
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 3
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert sum(len("".join(c["source"]).splitlines()) for c in code) <= 100


@pytest.mark.slow  # they train
@pytest.mark.parametrize("path", NOTEBOOKS, ids=relative)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="needs requirements-docs.txt")
    nbformat = pytest.importorskip("nbformat", reason="needs requirements-docs.txt")
    if path.stem == "torch":
        for name in ("torch", "prodigyopt", "schedulefree"):
            pytest.importorskip(name, reason=f"{name} is optional")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("XLA_FLAGS")  # as users have it
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=where).execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
    said = [out["text"] for out in outputs if out.get("name") == "stderr"]
    assert not [text for text in said if "Warning" in text]  # the page leaves it out
    pictures = [out for out in outputs if "image/png" in out.get("data", ())]
    code = [c.source for c in notebook.cells if c.cell_type == "code"]
    assert len(pictures) == sum("subplots" in c or ".plot()" in c for c in code) > 0


# The site


class Loaded(html.parser.HTMLParser):
    """Collects what a page loads: scripts, styles, images, fonts and the like."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.found += [given[k] for k in ("src", "data", "poster") if given.get(k)]
        if tag == "link":
            self.found.append(given.get("href", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, without running its notebooks."""
    for name in ("sphinx", "furo", "myst_nb"):
        pytest.importorskip(name, reason="needs requirements-docs.txt")
    folder = tmp_path_factory.mktemp("site")
    options = ["-W", "--keep-going", "-q", "-D", "nb_execution_mode=off"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(DOCS), str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow  # Sphinx takes half a minute
def test_the_site_asks_no_other_host(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    elsewhere = [
        (page.name, address)
        for page in pages
        for address in Loaded(page.read_text()).found
        if re.match(r"(?:https?:)?//", address)
    ]
    assert not elsewhere
    remote = r"""url\(\s*['"]?(?:https?:)?//|@import\s*['"]?(?:https?:)?//"""
    for sheet in site.rglob("*.css"):
        assert not re.search(remote, sheet.read_text()), sheet


@pytest.fixture(scope="module")
def versioned(site, tmp_path_factory):
    """A folder of two versions and the latest, as build.py makes it."""
    spec = importlib.util.spec_from_file_location("docs_build", DOCS / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    folder = tmp_path_factory.mktemp("versions")
    for name in ("latest", "0.9.0", "0.10.0"):
        shutil.copytree(site, folder / name)
    build.list_versions(folder)
    assert build.versions(folder) == ["0.10.0", "0.9.0"]
    return folder


@pytest.mark.slow
@pytest.mark.skipif(browser.PATH is None, reason="no Chromium is installed")
def test_a_reader_can_search_and_change_the_version(versioned):
    with browser.page() as tab:

        def wait(expression):
            """Wait until JavaScript says so."""
            for _ in range(100):
                with contextlib.suppress(AssertionError):  # while a page changes
                    if tab.evaluate(expression):
                        return
                time.sleep(0.1)
            raise AssertionError(expression)

        first = versioned / "latest"
        for name in ("index", "which", "api/optim", "tutorials/tune"):
            tab.open((first / f"{name}.html").as_uri())
            asked = [p["request"]["url"] for n, p in tab.events if n.endswith("BeSent")]
            assert all(url.startswith(("file:", "data:")) for url in asked)
            assert not [n for n, _ in tab.events if n == "Runtime.exceptionThrown"]
        options = "[...document.querySelectorAll('#version option')]"
        shown = tab.evaluate(f"{options}.map(o => o.text + (o.selected ? '*' : ''))")
        assert shown == ["latest*", "0.10.0", "0.9.0"]
        choose = "const s = document.querySelector('#version'); s.value = '0.9.0';"
        tab.evaluate(f"{choose} s.dispatchEvent(new Event('change'))")
        wait("location.pathname.endsWith('/0.9.0/tutorials/tune.html')")
        tab.open((first / "search.html").as_uri() + "?q=schedule_free_adamw")
        wait("document.querySelectorAll('#search-results li').length > 3")
