"""The examples run as they are written, from anywhere, and their answers make sense."""

import functools
import itertools
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NEEDED = {  # packages that lrjax itself does not need
    "torch_race": ("torch", "prodigyopt", "schedulefree"),
    "hf_trainer": ("torch", "accelerate", "prodigyopt", "schedulefree"),
}


@functools.cache
def environment():
    """The environment of a user, who has lrjax installed and no PYTHONPATH.

    XLA optimises programs here, as in no other test. Only where another lrjax than this
    checkout's is installed, or none, as in a second worktree, is this one named.
    """
    of_tests = ("PYTHONPATH", "XLA_FLAGS")
    clean = {k: v for k, v in os.environ.items() if k not in of_tests}
    code = "import lrjax; print(lrjax.__file__)"
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=folder,
            env=clean,
            capture_output=True,
            text=True,
        )
    installed = done.returncode == 0 and Path(done.stdout.strip()).resolve()
    here = (ROOT / "lrjax" / "__init__.py").resolve()
    return clean if installed == here else {**clean, "PYTHONPATH": str(ROOT)}


def numbers(pattern, text):
    """The numbers of a pattern's only match in a text."""
    (found,) = re.findall(pattern, text)
    return [float(number) for number in ([found] if isinstance(found, str) else found)]


def ranking(text, *metrics):
    """The rows of a printed ranking: methods, and the mean of each metric."""
    value = r" +(-?[\d.]+)(?: \[[^]]*\]|, -?[\d.]+)"  # with an interval, or both values
    row = re.compile(r"(\S.*?) +([\d.]+)" + value * len(metrics))
    lines = re.split(r"^method +" + " +".join(metrics) + r"\n", text, flags=re.M)
    found = map(row.fullmatch, lines[1].splitlines())
    rows = list(itertools.takewhile(bool, found))
    ranks = [float(row[2]) for row in rows]
    assert ranks == sorted(ranks)
    return {row[1]: [float(v) for v in row.groups()[2:]] for row in rows}


def raced(text, methods):
    """Check the answer of a race among methods; return the winner."""
    winner = re.search(r"^\S+: (\w+)", text, re.MULTILINE)[1]
    assert winner in methods
    (cost, budget) = numbers(r"cost  ([\d.]+) full runs.* \(budget (\d+)\)", text)
    assert 0 < cost <= budget
    assert "To train with it" in text
    return winner


def flax_linen(text):
    rows = ranking(text, "accuracy", "loss")
    assert set(rows) == {"momentum", "adamw_cosine", "prodigy"}
    assert next(iter(rows.values()))[0] > 95
    for method, (accuracy, _) in rows.items():  # validation as test, within noise
        mean, spread = numbers(rf"\n{method} +(0\.\d+) +(0\.\d+)\n", f"{text}\n")
        assert accuracy / 100 == pytest.approx(mean, abs=0.05)
        assert spread < 0.1


def flax_nnx(text):
    rate = numbers(r"adam on Network: learning rate (\S+)\n", text)[0]
    low, high = numbers(r"tried; (\S+) to (\S+) are as good", text)
    assert low <= rate <= high
    rows = re.findall(r"^\d+ +(\S+) +(\S+) +(\S+) +(\S+) +\S+$", text, re.MULTILINE)
    table = {float(row[0]): [float(value) for value in row[1:]] for row in rows}
    assert len(table) == 21
    assert min(table, key=table.get) == rate
    mean, _, above = table[rate]
    assert mean < above < table[min(table)][0]  # much too small a rate is told apart
    assert Path("rates.png").read_bytes().startswith(b"\x89PNG")


def equinox_model(text):
    rows = re.findall(r"^\d+ +(\S+) +(\S+) +(\d+) +(\S+)$", text, re.MULTILINE)
    trials = [[float(value) for value in row] for row in rows]
    assert len(trials) == 16
    full = [trial for trial in trials if trial[2] == 10]
    best = min(full, key=lambda trial: trial[3])
    told = numbers(r"best: {'learning_rate': (\S+), 'momentum': (\S+)}", text)
    assert told == pytest.approx(best[:2], abs=1e-4)
    ((accuracy, loss),) = ranking(text, "accuracy", "loss").values()
    assert accuracy > 90
    assert loss == pytest.approx(best[3], rel=0.5)  # fresh seeds confirm the trial


def lstm(text):
    rows = ranking(text, "loss")
    assert set(rows) == {"adam", "prodigy", "dog"}
    assert next(iter(rows.values()))[0] < 0.05  # 0.12 for the last value


def table(text):
    raced(text, {"adam", "prodigy", "momentum"})
    assert numbers(r"validation accuracy \(%\)  ([\d.]+)", text)[0] > 95
    assert Path("runs/cancer.csv").read_text().count("\n") == 570


def language_model(text):
    rows = ranking(text, "perplexity", "loss")
    assert set(rows) == {"adamw_cosine", "prodigy"}
    perplexities = [perplexity for perplexity, _ in rows.values()]
    assert perplexities == sorted(perplexities)
    assert perplexities[0] < 15  # 25.0 by the letters' frequencies alone


def own_method(text):
    rates = ("0.001", "0.01", "0.1")
    names = {f"{m} learning_rate={r}" for m in ("lion_parabola", "adamw_cosine")
             for r in rates}  # fmt: skip
    assert set(ranking(text, "accuracy", "loss")) == names
    assert re.search(r"raced: (lion_parabola|adam) \(.*\), accuracy (1\.0|0\.9)", text)


def own_tuner(text):
    rows = re.findall(r"^\d+ +(\S+) +(\S+) +(\S+)$", text, re.MULTILINE)
    rates, _, costs = zip(*(map(float, row) for row in rows), strict=True)
    assert len(costs) == 16
    assert max(rates[12:]) / min(rates[12:]) < max(rates[:4]) / min(rates[:4]) / 2
    assert min(costs[12:]) <= min(costs[:4])


def own_metric(text):
    rows = ranking(text, "calibration_error", "loss")
    assert set(rows) == {"adam", "adamw_cosine", "prodigy"}
    errors = [error for error, _ in rows.values()]
    assert errors == sorted(errors)
    assert all(0 < error < 100 for error in errors)


def own_task(text):
    rows = ranking(text, "loss")
    assert set(rows) == {"adam", "adamw_cosine", "prodigy"}
    assert next(iter(rows.values()))[0] < 50  # 93.9 for the mean image


def optim_loop(text):
    last, averaged = numbers(r"loss (\S+) with the last .*, (\S+) with", text)
    assert averaged < last < 2.3
    assert 0 < numbers(r"step size at the end (\S+)\n", text)[0] < 1


def optim_parts(text):
    names = r"'layers_0': (\S+), 'layers_2': (\S+), 'layers_4': (\S+)}"
    frozen, body, head = numbers(names, text)
    assert frozen == 0 < min(body, head)
    assert numbers(r"loss (\S+),", text)[0] < 0.5
    assert "'body': Array(0.001" in text
    assert "'head': Array(" in text
    assert "frozen" not in text  # it has no step size


def optim_devices(text):
    assert numbers(r"loss (\S+) ", text)[0] < 0.1
    assert text.count("(dtype(bfloat16), P('first',))") == 4


def control(text):
    alone, together = numbers(r"in a loop: return (\S+), as (\S+) above", text)
    assert alone == pytest.approx(together, abs=1e-3)
    assert -1.1 < numbers(r"64 episodes: mean return (\S+)\n", text)[0] < 0  # log(3)


def torch_race(text):
    score = numbers(r"\n  accuracy  (0\.\d+)", text)[0]
    assert score > 0.95
    assert numbers(r"\n  cost  (\d+) full runs \(budget 8\)", text) == [8]


def hf_trainer(text):
    score = numbers(r"\n  loss  (0\.\d+)", text)[0]
    assert score < 0.3  # 0.65 without looking at the words
    assert numbers(r"\n  cost  (\d+) full runs \(budget 4\)", text) == [4]


ANSWERS = {
    function.__name__: function
    for function in (
        *(flax_linen, flax_nnx, equinox_model, lstm, table, language_model),
        *(own_method, own_tuner, own_metric, own_task),
        *(optim_loop, optim_parts, optim_devices, control, torch_race, hf_trainer),
    )
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_says_how_to_run_it(path):
    text = path.read_text()
    assert len(text.splitlines()) < 40
    assert f"python examples/{path.name}\n" in text.split('"""')[1]
    assert "sys.path" not in text


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_its_answer_makes_sense(path, tmp_path, monkeypatch):
    for package in NEEDED.get(path.stem, ()):
        pytest.importorskip(package, reason=f"{package} is optional")
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, str(path)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ANSWERS[path.stem](done.stdout)


def test_every_example_is_checked_and_listed():
    assert set(ANSWERS) == {path.stem for path in EXAMPLES}
    listed = (ROOT / "docs" / "examples.md").read_text()
    assert [name for name in ANSWERS if f"## {name}\n" not in listed] == []
