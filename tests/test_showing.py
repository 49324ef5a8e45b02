"""The second process of a command: the same answer with it, without it and after it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lrjax
from lrjax import reports, showing
from lrjax.messages import UsageError

TRAINS = (
    "--config=quickstart --workdir=x",
    "--config quickstart --workdir x",
    "train --config=quickstart",
    "compare --config=quickstart --config.seeds=2",
    "--mode=train --config=quickstart",
)
DOES_NOT = (
    "",
    "train",
    "--help",
    "--config=quickstart --helpfull",
    "tune --config=quickstart",
    "--mode=select --config=quickstart",
    "report --workdir=x",
    "plan --config=quickstart",
    "config --config=quickstart",
    "--config=quickstart --launcher=dask",
    "--config=quickstart --multihost",
    "--config=quickstart --config.report.after=True",
)
forks = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2,
    reason="a command forks on Linux, where it has two cores",
)
_SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from lrjax import showing
{before}
showing.start(["--config=x"])
assert showing.is_near()
child = showing._child[0].number
"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shown")
    lrjax.compare("libsvm/iris", ["adam", "sgd"], steps=20, seeds=2, workdir=folder)
    return folder


def run(script, *arguments, before=""):
    script = _SCRIPT.format(before=before) + script
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def forked(monkeypatch):
    """Numbers of calls of `os.fork`, which makes no process here."""
    calls = []
    monkeypatch.setattr(showing, "_child", [])
    monkeypatch.setattr(showing, "_has_threads", lambda: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(os, "fork", lambda: calls.append(1) or 1, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    yield calls
    for child in showing._child:
        child.ask.close()
        child.answers.close()


@pytest.mark.parametrize("command", [*TRAINS, *DOES_NOT])
def test_commands_that_train_here_fork(command, forked):
    showing.start(command.split())
    assert bool(forked) == (command in TRAINS) == showing.is_near()


@pytest.mark.parametrize("lacking", ["cores", "linux", "threads", "processes"])
def test_without_a_child_the_command_shows_results_itself(
    lacking, forked, monkeypatch, workdir
):
    def refused():
        raise BlockingIOError

    if lacking == "cores":
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    elif lacking == "linux":
        monkeypatch.setattr(sys, "platform", "darwin")
    elif lacking == "threads":
        monkeypatch.setattr(showing, "_has_threads", lambda: True)
    else:
        monkeypatch.setattr(os, "fork", refused)
    showing.start(["--config=x"])
    assert not forked
    assert not showing.is_near()
    assert list(showing.of(str(workdir))) == list(reports.shown(str(workdir)))


def test_a_process_with_jax_has_threads():
    assert "jax" in sys.modules
    assert showing._has_threads()


@forks
@pytest.mark.parametrize("killed", [False, True])
def test_the_answer_is_the_same(killed, workdir):
    expected = list(reports.shown(str(workdir)))
    picture = Path(expected[1])
    content = picture.read_bytes()
    picture.unlink()
    script = f"if {killed}: os.kill(child, signal.SIGKILL)\n"
    script += "print(*showing.of(sys.argv[1]), sep='\\n')\n"
    script += "print('pandas' in sys.modules)\n"
    done = run(script, workdir)
    assert done.stdout.splitlines() == [*"\n".join(expected).splitlines(), str(killed)]
    assert picture.read_bytes() == content


@forks
def test_errors_are_those_of_the_command(tmp_path):
    (tmp_path / "runs.jsonl").write_text("[]\n")
    with pytest.raises(UsageError) as own:
        list(reports.shown(str(tmp_path)))
    done = run("list(showing.of(sys.argv[1]))", tmp_path)
    assert str(own.value) in done.stderr


_DRAWS_FOR_EVER = """
from lrjax import reports
reports.shown = lambda begun: Path(begun).touch() or time.sleep(600)
"""
_ASKS = """
with showing._child[0].ask as ask:
    ask.write(f'"{sys.argv[1]}"'.encode())
while not Path(sys.argv[1]).exists():
    time.sleep(0.01)
"""


@forks
@pytest.mark.parametrize("stage", ["importing", "drawing"])
def test_the_child_ends_with_the_command(stage, tmp_path):
    """Also where that is killed; and who reads its output need not wait for a child."""
    before, asks = (_DRAWS_FOR_EVER, _ASKS) if stage == "drawing" else ("", "")
    script = f"{asks}print(child, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    done = run(script, tmp_path / "begun", before=before)
    child, end = int(done.stdout), time.monotonic() + 60
    assert done.returncode == -signal.SIGKILL
    while Path(f"/proc/{child}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()
