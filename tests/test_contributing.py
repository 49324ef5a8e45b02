"""CONTRIBUTING.md names every file that an addition touches: toys prove it.

A copy of the repository gets a toy of each kind, added by editing only the files in the
kind's row of the table. Then commands of a user and tests of the repository use them.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from lrjax.hpo import tuners

ROOT = Path(__file__).parent.parent
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "runs", "shared", "*.png")


def rows():
    """Kind -> the files that an addition of that kind touches, and the pages and tests.

    Files are paths in which `yours` stands for the addition's own name.
    """
    page = (ROOT / "CONTRIBUTING.md").read_text()
    table = re.search(r"^\| new \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", page, re.MULTILINE)
    assert table
    lines = [line.strip("|").split("|") for line in table[1].splitlines()]
    return {
        kind.strip(): re.findall(r"`([^`]+)`", code + pages)
        for kind, code, pages, _ in lines
    }


class Edit(NamedTuple):
    """New lines in a file that exists, next to the first match of a pattern."""

    pattern: str
    lines: str
    before: bool = False


METHOD = '''"""Steps of one size along the signs of the gradient."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base


class ToyState(NamedTuple):
    """State of `toy`."""

    count: jax.Array
    learning_rate: jax.Array


def toy(learning_rate: base.ScalarOrSchedule = 0.01):
    """Signs of the gradient, times the rate."""

    def init(params):
        count, dtype = jnp.zeros((), jnp.int32), base.scalar_dtype(params)
        return ToyState(count, base.rate_at(learning_rate, count, dtype))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        dtype = state.learning_rate.dtype
        rate = base.rate_at(learning_rate, state.count, dtype)
        steps = jax.tree.map(lambda g: -rate * jnp.sign(g), updates)
        return base.cast_like(steps, updates), ToyState(state.count + 1, rate)

    return optax.GradientTransformationExtraArgs(init, update)
'''
REGISTERED = """\
    Method(
        name="toy",
        **scheduled(optim.toy),
        family=FIXED,
        source="nobody",
        space=ADAM_RATE,
    ),
"""
PAGE = """
**`toy`**. `x ← x - η sign(g)`. Options: `learning_rate` (0.01).
"""
TASK = '''"""A line between points of a plane."""

import dataclasses

import numpy as np

from lrjax import metrics
from lrjax.tasks.libsvm import logistic_task
from lrjax.tasks.options import Factory


def make(options):
    """Makes the task."""
    x = np.random.default_rng(0).normal(size=(60, 2))
    task = logistic_task("toy/plane", x, (x[:, 0] > x[:, 1]) * 1, options)
    return dataclasses.replace(task, metrics=(metrics.toy(), "accuracy"))


FACTORIES = {"toy/plane": Factory(make)}
'''
CONFIG = '''"""The toy task, in a second."""

from lrjax import config as config_lib


def get_config():
    """Two seeds of a few steps."""
    config = config_lib.base()
    config.tasks, config.methods = ("toy/plane",), ("toy",)
    config.seeds, config.steps, config.eval_every = 2, 6, 3
    config.tune.trials = 1
    return config
'''
METRIC = '''

@_made_once
def toy() -> Metric:
    """Share of the rows that are wrong.

    Example:
      >>> float(toy().value({"accuracy": jnp.array(3.0), "count": jnp.array(4.0)}))
      0.25
    """

    def value(totals: Sums) -> jax.Array:
        return 1 - totals["accuracy"] / totals["count"]

    return Metric("toy", value, False, "%", 1, 0.0, 1.0)
'''
TUNER = '''\
class Toy(_OneStage):
    """The middle of the space."""

    def __init__(self, problem: Problem):
        ranges = problem.space.ranges
        super().__init__(problem, [{n: place(r, 0.5) for n, r in ranges.items()}])


'''
LAUNCHER = '''"""This process, by another name."""

import contextlib

from lrjax.launch.local import Local
from lrjax.launch.session import Session


class Toy(Local):
    """Trains as `Local` does."""

    where = "a toy"


@contextlib.contextmanager
def launch(settings, workdir, data_dir=None, overrides=None):
    """Opens a session."""
    with Session(settings, workdir, data_dir, overrides) as session:
        toy = Toy(session)
        try:
            yield toy
        finally:
            toy.close()
'''
ANALYSIS = '''\
def _toy(study, writer):
    """How many entries there are."""
    finding = f"{len(study.overall)} entries play."
    return writer.section("toy", "Toys at play", finding, "A count.", study.overall)


'''
# kind -> file -> its content, or edits of it
TOYS = {
    "method": {
        "lrjax/optim/toy.py": METHOD,
        "lrjax/optim/__init__.py": (
            Edit(
                r"^from lrjax\.optim\.storm_plus .*",
                "from lrjax.optim.toy import toy\n",
            ),
            Edit(r"^__all__ = \[", '    "toy",\n'),
        ),
        "lrjax/reports/palette.py": (Edit(r"^    \(\"nadamw_cosine\",", ' "toy",'),),
        "lrjax/methods/everyday.py": (Edit(r"^METHODS = \(", REGISTERED),),
        "docs/methods.md": (
            Edit(
                r"^\|-.*",
                "| `toy` | fixed | 0 | nobody | none | "
                "safe in bfloat16: 1.00, 1.00 | play |\n",
            ),
            Edit(r"\n^## Schedules", PAGE, before=True),
        ),
    },
    "task": {
        "lrjax/tasks/toy.py": TASK,
        "lrjax/tasks/__init__.py": (
            Edit(r"^from lrjax\.tasks import \(", "    toy,\n"),
            Edit(r"^TASKS: .* = \{", "    **toy.FACTORIES,\n"),
        ),
        "configs/toy.py": CONFIG,
        "tests/test_every_mode.py": (
            Edit(r"^MINIATURES = \{", '    "toy": Miniature("toy/plane", "toy"),\n'),
        ),
    },
    "metric": {
        "lrjax/metrics.py": (Edit(r"\Z", METRIC),),
        "tests/test_metrics.py": (
            Edit(
                r"^    expected = \{",
                "        metrics.toy(): sk.zero_one_loss(labels, found),\n",
            ),
        ),
    },
    "tuner": {
        "lrjax/hpo/tuners.py": (
            Edit(r"^# .*\nPLAIN", TUNER, before=True),
            Edit(r"^PLAIN: .* = \{", '    "toy": Toy,\n'),
        ),
        "docs/tuning.md": (Edit(r"^\| `tuner` .*`asha`", ", `toy`"),),
    },
    "launcher": {
        "lrjax/launch/toy.py": LAUNCHER,
        "lrjax/launch/__init__.py": (
            Edit(
                r"^LAUNCHERS: .* = \{",
                '    "toy": Registered("lrjax.launch.toy", "a toy"),\n',
            ),
        ),
    },
    "analysis": {
        "lrjax/reports/analyses.py": (
            Edit(r"^ANALYSES: ", ANALYSIS, before=True),
            Edit(r"^ANALYSES: .* = \[", "    _toy,\n"),
        ),
        "docs/report.md": (
            Edit(r"^\| part .*\n\|-.*", "| Toys at play | How many entries play |\n"),
        ),
    },
}


# Tests that fail where an addition lacks a page or a test of its own.
GUARDS = [
    "tests/test_doctests.py::test_examples_run[lrjax.metrics]",
    "tests/test_contributing.py::test_the_page_on_tuning_names_every_tuner",
    "tests/test_every_mode.py::test_every_mode_is_here",  # reads the miniatures
    "tests/test_imports.py::test_every_module_has_its_place",
    *(
        f"tests/test_imports.py::test_{name}[lrjax/{package}/toy.py]"
        for name in ("imports_run_one_way", "heavy_imports_wait")
        for package in ("launch", "optim", "tasks")
    ),
    *(
        f"tests/test_metrics.py::test_{name}"
        for name in (
            "formulas_are_scikit_learns",
            "every_maker_is_known",
        )
    ),
    "tests/optim/test_leaves.py::test_every_optimiser_is_here",
    *(
        f"tests/optim/test_methods_page.py::test_{name}"
        for name in (
            "the_table_has_every_method_and_no_other",
            "family_memory_and_source[toy]",
            "the_word_on_bfloat16_follows_from_its_figures[toy]",
            "a_paragraph_has_the_formula_and_the_page_every_option[toy]",
            "every_option_of_the_function_is_named[toy]",
        )
    ),
    "tests/reports/test_palette.py::test_every_method_has_its_place_among_relatives",
]


def write(folder, path, change):
    """Make a new file, or edit one that exists."""
    file = folder / path
    if isinstance(change, str):
        assert not file.exists()
        file.write_text(change)
        return
    text = file.read_text()
    for pattern, lines, before in change:
        match = re.search(pattern, text, re.MULTILINE)
        assert match, (path, pattern)
        # New lines follow those that the pattern matches.
        ended = match.end() + (text[match.end() :][:1] == "\n")
        place = match.start() if before else ended
        text = text[:place] + lines + text[place:]
    file.write_text(text)


def run(folder, *arguments):
    """Run Python in a folder; return its output and messages."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (arguments, done.stdout[-3000:] + done.stderr[-3000:])
    return done.stdout, done.stderr


def test_the_page_on_tuning_names_every_tuner():
    (row,) = re.findall(r"^\| `tuner` .*", (ROOT / "docs/tuning.md").read_text(), re.M)
    assert set(tuners.SHIPPED) <= set(re.findall(r"`(\w+)`", row))


@pytest.mark.slow  # some 27 s of a core; .ci/run runs it
def test_toys_of_all_kinds_touch_the_named_files_alone(tmp_path, subtests):
    assert set(TOYS) == set(rows())
    folder = tmp_path / "repository"
    shutil.copytree(ROOT, folder, ignore=LEFT_OUT)
    for kind, named in rows().items():
        files = [path.replace("yours", "toy") for path in named]
        assert sorted(files) == sorted(TOYS[kind]), kind
        for path in files:
            write(folder, path, TOYS[kind][path])

    methods, _ = run(folder, "main.py", "--mode=methods")
    tuned, messages = run(
        folder,
        *("main.py", "--mode=tune", "--launcher=toy", "--config=configs/toy.py"),
        *("--config.tune.tuner=toy", "--workdir=runs"),
    )
    run(folder, "main.py", "--mode=report", "--workdir=runs")
    run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", *GUARDS)
    lines = (folder / "runs" / "runs.jsonl").read_text().splitlines()
    ended = [json.loads(line) for line in lines]
    trial = json.loads((folder / "runs" / "trials.jsonl").read_text())
    shown = {
        "method": re.search(r"^toy ", methods, re.MULTILINE)
        and {row["method"] for row in ended} == {"toy:toy"},
        "task": len(ended) == 2 and {row["task"] for row in ended} == {"toy/plane"},
        "metric": all(0 <= row["test_toy"] <= 1 for row in ended)
        and "Validation toy (%)" in tuned,
        "tuner": trial["tuner"] == "toy" and trial["hparams"],
        "launcher": "on a toy;" in tuned + messages,
        "analysis": "1 entries play" in (folder / "runs/report/index.html").read_text(),
    }
    for kind in TOYS:
        with subtests.test(kind=kind):
            assert shown[kind], (tuned, messages)
