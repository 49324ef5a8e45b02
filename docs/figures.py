"""Make the outputs and figures that the pages show anew, with the commands they name.

  python docs/figures.py                  # rewrites pages and figures; some minutes
  python docs/figures.py --check          # changes nothing; 1 if anything is stale
  python docs/figures.py README.md docs/ladder.png   # these alone

A comment in front of a block says where it is from:

  <!-- output of: COMMAND -->         what the command prints; `| NAME`: this part of it
  <!-- numbers of: SOURCE; SOURCE --> prose: each decimal number must be among those of
                                      these commands and pages; only checked

Commands run in an empty folder. What takes hours has a date and its commands in the
text beside it, and no comment.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import math
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

_QUICKSTART = "python main.py --config=configs/quickstart.py --workdir=runs/quickstart"
_REPORT = "python main.py --mode=report --workdir=runs/quickstart"
_LADDER = "python -m benchmarks.ladder"
_STUDY = "python -m benchmarks.study"
_SELECT = (
    "python main.py --mode=select --config=configs/libsvm.py:wine --workdir=runs/wine "
    "--config.methods=adam,prodigy,momentum --config.select.budget=8"
)
_RANKING = r"(Validation .*?)\n\nlearning curves"
_DIGITS = (
    "python main.py --config=configs/small_images.py --config.epochs=20 "
    "--workdir=runs/digits"
)
_SEQUENCES = "python main.py --config=configs/sequences.py --workdir=runs/sequences"
_DIFFUSION = "python main.py --config=configs/diffusion.py --workdir=runs/diffusion"


class Command(NamedTuple):
    """What makes outputs and figures.

    Attributes:
      line: the command.
      shown: what of its output a page shows, as a pattern with one group; `{part}`
        stands for what the comment names.
      needs: packages that lrjax itself does not need.
    """

    line: str
    shown: str = "(.*)"
    needs: tuple[str, ...] = ()


# Names in comments -> commands.
COMMANDS = {
    "make quickstart": Command(_QUICKSTART, _RANKING),
    **{line: Command(line, _RANKING) for line in (_DIGITS, _SEQUENCES, _DIFFUSION)},
    _SELECT: Command(_SELECT, r"(.*?)\n\n  To train with it"),
    **{
        line: Command(line, r"## {part}.*?\n\n(.*?)(?=\n\n##|$)")
        for line in (_LADDER, _STUDY)
    },
    "python examples/torch_race.py": Command(
        "python examples/torch_race.py",
        r"(.*?)\n\n +(?:known tasks|the first runs|cost)",
        ("torch", "prodigyopt", "schedulefree"),
    ),
}


class Figure(NamedTuple):
    """A picture in the pages.

    Attributes:
      lines: the commands that make it, in turn.
      made: the file that they make; of a page its top is pictured.
    """

    lines: tuple[str, ...]
    made: str


FIGURES = {
    "docs/quickstart.png": Figure((_QUICKSTART,), "runs/quickstart/curves.png"),
    "docs/report.png": Figure(
        (_QUICKSTART, _REPORT), "runs/quickstart/report/index.html"
    ),
    "docs/digits.png": Figure((_DIGITS,), "runs/digits/curves.png"),
    "docs/ladder.png": Figure(
        (f"{_LADDER} --figure=docs/ladder.png",), "docs/ladder.png"
    ),
    **{
        f"docs/results_{name}.png": Figure(
            (
                f"{_STUDY} --unpack",
                f"python main.py --mode=report --workdir=runs/{name} "
                f"--config.report.metric={metric}",
            ),
            f"runs/{name}/report/figures/overview.png",
        )
        for name, metric in (("study", "train_loss"), ("sound", "test_loss"))
    },
    "docs/methods.png": Figure(
        ("python -m benchmarks.method_rates --figure=docs/methods.png",),
        "docs/methods.png",
    ),
}

_MARK = re.compile(r"^<!-- (output|numbers) of: (.+?) -->\n+", re.M)
_LINE = "[^\\n]*\\n"
_BLOCK = re.compile(
    rf"```.*?^```$|(?:^(?: {{4}}{_LINE}|\n))+|(?:^\|{_LINE})+", re.M | re.S
)
_NUMBER = re.compile(r"(?<![\w.])-?\d+\.(\d+)(?![\w.])")


class Folder:
    """An empty folder in which each command runs once."""

    def __init__(self, path: Path):
        """Use a path."""
        self.path = path
        (path / "docs").mkdir()
        self.run = functools.cache(self._run)

    def _run(self, line: str) -> str:
        """Run a command; return what it prints.

        Raises:
          SystemExit: if it fails.
        """
        print(line, flush=True)
        program, *arguments = shlex.split(line)
        assert program == "python", line
        if arguments[0].endswith(".py"):
            arguments[0] = str(ROOT / arguments[0])
        known = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(known)},
            stdout=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            sys.exit(f"error: {line}: exit code {done.returncode}")
        return done.stdout


def lacking(command: Command) -> list[str]:
    """Packages that a command needs and that are not here."""
    return [name for name in command.needs if not importlib.util.find_spec(name)]


def output(source: str, run: Callable[[str], str]) -> str:
    """What a page shows of a command, by the name in its comment.

    Args:
      source: a name in `COMMANDS`, perhaps with ' | ' and a part.
      run: runs a command line.

    Raises:
      SystemExit: if the command prints no such thing.
    """
    name, _, part = source.partition(" | ")
    command = COMMANDS[name]
    pattern = command.shown.replace("{part}", re.escape(part))
    found = re.search(pattern, run(command.line).strip(), re.S)
    if not found:
        sys.exit(f"error: {name} prints nothing like {pattern}")
    return found[1].strip("\n")


def laid_out(text: str, block: str) -> str:
    """A text in the form of a block: fenced, indented, or as it is."""
    if block.startswith("```"):
        return f"{block.splitlines()[0]}\n{text}\n```"
    if block.startswith("    "):
        lines = [f"    {line}".rstrip() for line in text.splitlines()]
        return "\n".join(lines) + "\n" * (len(block) - len(block.rstrip("\n")))
    return f"{text}\n"


def unknown_numbers(block: str, texts: list[str]) -> list[str]:
    """Decimal numbers of a block that round none of those of some texts."""
    known = [float(m[0]) for text in texts for m in _NUMBER.finditer(text)]
    return [
        found[0]
        for found in _NUMBER.finditer(block)
        if not any(
            abs(number - float(found[0])) <= 0.5001 * 10.0 ** -len(found[1])
            for number in known
        )
    ]


def renewed(page: Path, run: Callable[[str], str]) -> tuple[str, list[str]]:
    """A page with its blocks made anew.

    Args:
      page: its path.
      run: runs a command line.

    Returns:
      Its text, and what is wrong with numbers in its prose.
    """
    text, wrong = page.read_text(), []
    for mark in reversed([*_MARK.finditer(text)]):
        block = _BLOCK.match(text, mark.end())
        assert block, f"{page}: no block after {mark[0]}"
        if mark[1] == "output":
            lacks = lacking(COMMANDS[mark[2].split(" | ")[0]])
            if lacks:
                print(f"{page.name}: {mark[2]} is left: {', '.join(lacks)} missing")
                continue
            new = laid_out(output(mark[2], run), block[0])
            text = text[: block.start()] + new + text[block.end() :]
            continue
        sources = mark[2].split("; ")
        texts = [(ROOT / s).read_text() for s in sources if s not in COMMANDS]
        texts += [run(COMMANDS[s].line) for s in sources if s in COMMANDS]
        found = unknown_numbers(block[0], texts)
        wrong += [f"{page.name}: {number} is not in {mark[2]}" for number in found]
    return text, wrong


def picture(page: Path, path: Path) -> bool:
    """Picture the top of a page of a report; return whether a browser was found."""
    sys.path.insert(0, str(ROOT / "tests"))
    import browser

    if browser.PATH is None:
        return False
    with browser.page() as tab:
        tab.open(page.as_uri(), width=1080)
        bottom = (
            "document.querySelectorAll('section')[1].getBoundingClientRect().bottom"
        )
        height = tab.evaluate(bottom) + 8
        tab.picture(path)
    Image.open(path).crop((0, 0, 1080, math.ceil(height))).save(path)
    return True


def alike(one: Path, other: Path) -> bool:
    """Whether two pictures show the same, but for edges and a time in words."""
    a, b = (Image.open(path).convert("RGB") for path in (one, other))
    if a.size != b.size:
        return False
    return bool(np.abs(np.asarray(a, int) - np.asarray(b, int)).mean() < 1)


def main() -> int:
    """Renew, or check; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="pages and figures; default: all")
    parser.add_argument("--check", action="store_true", help="change nothing")
    given = parser.parse_args()
    stale = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Folder(Path(temporary))
        for page in PAGES:
            name = str(page.relative_to(ROOT))
            if given.names and name not in given.names:
                continue
            text, wrong = renewed(page, folder.run)
            stale += wrong
            if text != page.read_text():
                stale.append(f"{name} shows another output")
                if not given.check:
                    page.write_text(text)
        for name, figure in FIGURES.items():
            if given.names and name not in given.names:
                continue
            for line in figure.lines:
                folder.run(line)
            made = folder.path / figure.made
            if made.suffix == ".html":
                shot = folder.path / "shot.png"
                if not picture(made, shot):
                    print(f"{name} is left: no Chromium here")
                    continue
                made = shot
            if not alike(made, ROOT / name):
                stale.append(f"{name} shows something else")
                if not given.check:
                    (ROOT / name).write_bytes(made.read_bytes())
    print("\n".join(stale) or "nothing has changed")
    return int(bool(stale) and given.check)


if __name__ == "__main__":
    sys.exit(main())
