"""Jobs that are shell commands: what they get, what is read, what may go wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from program import invoke

import lrjax
from lrjax.race import Race, command
from lrjax.race.log import NAME

ROOT = Path(__file__).parents[2]
PYTHON = sys.executable
# A training: its loss follows from the rate; a line of progress comes first.
TRAIN = """
import json, math, sys
method, rate, stop, checkpoint = sys.argv[1:]
print("starting", method, flush=True)
print(json.dumps({"step": int(stop) // 2, "loss": 9.0}))
print(json.dumps({"step": int(stop), "loss": abs(math.log10(float(rate)) + 2)}))
print("done")
"""


@pytest.fixture(name="script")
def _script(tmp_path):
    """A command for a script of Python, with the usual fields."""

    def make(code):
        path = tmp_path / "train it.py"
        path.write_text(code)
        words = f"{PYTHON} '{path}' {{method}} {{learning_rate}} {{stop}}"
        return f"{words} {{checkpoint}}"

    return make


@pytest.fixture(name="race")
def _race(tmp_path):
    folder = tmp_path / "a race"
    return Race(["adam", "momentum"], budget=4, horizon=10, folder=folder)


def events(race, kind):
    lines = (race.folder / NAME).read_text().splitlines()
    return [e for e in map(json.loads, lines) if e["event"] == kind]


def test_every_job_is_run_and_its_last_line_of_json_told(race, script, capsys):
    answer = command.run(race, script(TRAIN))
    assert answer.hyperparameters["learning_rate"] == 0.01
    assert answer.score == 0
    assert [e["values"]["loss"] for e in events(race, "reached")][::2] == [9.0] * 4
    output = (race.folder / "jobs" / "0000" / "output.txt").read_text()
    assert output.startswith("starting ")
    assert output.endswith("done\n")
    assert "job 0: loss" in capsys.readouterr().err


def test_the_program_runs_it_and_goes_on(tmp_path, script):
    arguments = [
        *(PYTHON, "-m", "lrjax", "race", f"--workdir={tmp_path / 'race'}"),
        *("--methods=adam,momentum", "--horizon=10", "--budget=4"),
        f"--command={script(TRAIN)}",
    ]
    outputs = []
    for _ in range(2):
        done = subprocess.run(
            arguments, cwd=ROOT, capture_output=True, text=True, check=True
        )
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]
    assert "cost  4 full runs (budget 4)" in outputs[0]
    assert "job " not in done.stderr  # nothing is trained again


def test_rates_are_those_of_the_call_where_they_want_tuning(tmp_path, script):
    done = invoke(
        *("--mode=race", f"--workdir={tmp_path / 'race'}", "--rates=0.02,1e-3"),
        *("--methods=momentum,prodigy,adam", "--horizon=10", "--budget=9"),
        f"--command={script(TRAIN)}",
    )
    assert done.code == 0, done.err
    race = Race.open(tmp_path / "race")
    assert {
        (c.method, c.hyperparameters["learning_rate"]) for c in race.contenders
    } >= {
        *(("adam", 0.02), ("adam", 1e-3), ("momentum", 0.02), ("momentum", 1e-3)),
        ("prodigy", 1.0),
    }
    known = {"learning_rate": [0.02, 1e-3]}
    python = {"adam": known, "momentum": known, "prodigy": None}
    same = Race(python, budget=9, horizon=10, folder=tmp_path / "race")
    assert str(same.answer()) == "\n".join(done.out)
    other = invoke("--config=quickstart", "--workdir=x", "--rates=0.1")
    assert other.err[-1].endswith(
        "--rates is for --mode=race, not train; give --config.grid.learning_rate"
    )


GIVEN = ("--command=x", "--horizon=9", "--methods=adam")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--horizon=9", "--methods=adam"], "--command is missing"),
        (["--command=x", "--methods=adam"], "--horizon is missing"),
        (["--command=x", "--horizon=9"], "--methods is missing"),
        (["--command=x", "--horizon=9", "--methods=adm"], "did you mean 'adam'"),
        (["--command={lr}", "--horizon=9", "--methods=adam"], "unknown field '{lr}'"),
        ([*GIVEN, "--rates=0.1,x"], "--rates: 'x' is not a number"),
        ([*GIVEN, "--rates="], "--rates is empty: give numbers, or leave it out"),
        ([*GIVEN, "--rates=0.1,-1"], "learning_rate must be above 0, not -1"),
        (
            ["--command=x", "--horizon=9", "--methods=dog,cocob", "--rates=1"],
            "--rates: no rate of dog, cocob wants tuning",
        ),
        (["--higher_is_better=no"], "--higher_is_better='no': must be True or False"),
    ],
)
def test_bad_flags_are_refused(tmp_path, arguments, message):
    done = subprocess.run(
        [PYTHON, "-m", "lrjax", "race", f"--workdir={tmp_path / 'race'}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_values_are_quoted_for_the_shell(tmp_path):
    own = {"mine": {"name": ["a b", "$(touch x)", "'"]}}
    race = Race(own, budget=3, horizon=9, folder=tmp_path / "r")
    code = "import json, sys; print(json.dumps({'loss': 1.0, 'n': len(sys.argv[1])}))"
    command.run(
        race, f'{PYTHON} -c "{code.replace("{", "{{").replace("}", "}}")}" {{name}}'
    )
    found = [e["values"]["n"] for e in events(race, "told")]
    assert sorted(found) == [1, 3, 10]


def test_a_result_may_be_in_a_file(race, script):
    code = TRAIN + "\nimport pathlib; p = pathlib.Path(checkpoint + '.json')"
    code += "\np.write_text(json.dumps({'loss': float(rate)}, indent=2))"
    answer = command.run(race, script(code), result="{checkpoint}.json")
    assert answer.score == min(
        c.rate for c in race.contenders if c.label == answer.label
    )


def test_a_command_that_fails_at_first_stops_and_is_tried_again(race, script):
    broken = script("raise SystemExit('no such optimiser')")
    with pytest.raises(
        lrjax.UsageError, match=r"exit code 1 before.*no such optimiser"
    ):
        command.run(race, broken)
    assert not events(race, "failed")
    assert command.run(race, script(TRAIN)).over


def test_a_command_that_fails_later_counts_as_lost(race, script):
    code = "import sys\nif sys.argv[1] == 'momentum' or float(sys.argv[2]) > 0.5: 1 / 0"
    first = race.ask()
    first.tell(loss=5.0)
    answer = command.run(race, script(code + TRAIN))
    assert {e["reason"] for e in events(race, "failed")} == {"exit code 1"}
    assert answer.over
    assert answer.lost


def test_null_means_diverged(race, script):
    with pytest.raises(lrjax.UsageError, match="all of 4 jobs were lost"):
        command.run(race, script("print('{\"loss\": null}')"))
    assert len(events(race, "told")) == 4


@pytest.mark.parametrize("printed", ["", "hello", "[1]", '{"accuracy": 1}', "{"])
def test_a_missing_result_is_said(race, script, printed):
    with pytest.raises(
        lrjax.UsageError, match=r"without a result.*must be JSON such as"
    ):
        command.run(race, script(f"print({printed!r})"))
    assert not events(race, "told")


@pytest.mark.parametrize(
    "printed",
    ["{{}}", '{{"accuracy": 93}}', '{{"accuracy": true}}', '{{"accuracy": "0.93"}}'],
)
def test_a_result_that_cannot_be_taken_is_not_taken_again(tmp_path, printed):
    race = Race(
        "adam", budget=1, horizon=10, folder=tmp_path / "race", metric="accuracy"
    )
    with pytest.raises(lrjax.UsageError, match="job 0: "):
        command.run(race, f"echo '{printed}'")
    mended = command.run(race, """echo '{{"accuracy": 0.93}}'""")
    assert mended.score == 0.93


@pytest.mark.parametrize(
    "fault", ["true", "mkdir {folder}/result", "echo > {folder}/result"]
)
def test_a_result_file_that_cannot_be_read_is_not_read_again(tmp_path, fault):
    race = Race("adam", budget=1, horizon=10, folder=tmp_path / "race")
    result = "{folder}/result"
    with pytest.raises(lrjax.UsageError, match="result"):
        command.run(race, fault, result)
    mended = """rm -rf {folder}/result; echo '{{"loss": 0.5}}' > {folder}/result"""
    assert command.run(race, mended, result).score == 0.5


@pytest.mark.parametrize(("value", "why"), [("true", "true"), ('"0.3"', '"0.3"')])
def test_a_metric_that_is_no_number_is_named(race, value, why):
    with pytest.raises(lrjax.UsageError, match=f"loss must be a number.*not {why}"):
        command.run(race, f"""echo '{{{{"loss": {value}}}}}'""")


def test_a_saved_step_is_where_it_goes_on(race, script):
    saving = "import sys; open(sys.argv[4], 'w').close()"
    saving += '\nprint(\'{"step": 4, "saved": true}\', flush=True)'
    with pytest.raises(lrjax.UsageError, match="exit code 3"):
        command.run(race, script(saving + "\nsys.exit(3)"))
    with race.ask() as job:
        assert (job.start, job.stop) == (4, 10)


SLEEPS = """
import os, time
open({pid!r} + ".n", "w").write(str(os.getpid()))
os.rename({pid!r} + ".n", {pid!r})
time.sleep(600)
"""


def _running(tmp_path, script, code=SLEEPS, after=""):
    """Start a race whose first command writes its number to a file `pid` and waits.

    Returns:
      the race's process, and the number of the command's.
    """
    pid = tmp_path / "pid"
    code = code.format(pid=str(pid))
    arguments = [
        *(PYTHON, "-m", "lrjax", "race", f"--workdir={tmp_path / 'race'}"),
        *("--methods=adam", "--horizon=10", f"--command={script(code)}{after}"),
    ]
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE)
    for _ in range(600):
        if pid.exists():
            return process, int(pid.read_text())
        time.sleep(0.1)
    process.kill()
    process.communicate()
    raise AssertionError("the command did not start")


def _check_it_ends(pid):
    """Check that a process that was killed is gone soon."""
    for _ in range(600):
        if not _lives(pid):
            return
        time.sleep(0.1)
    raise AssertionError(f"process {pid} lives on")


def _lives(pid):
    """Whether a process runs, and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # it ends while it is read
        return False
    return state != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_race_stops_its_command(tmp_path, script, number):
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("the signal is ignored here, as in the background of a shell")
    process, pid = _running(tmp_path, script)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert b"Traceback" not in err
    _check_it_ends(pid)
    with Race.open(tmp_path / "race").ask(wait=False) as job:
        assert job.number == 0


IGNORES = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open({pid!r} + ".n", "w").write(str(os.getpid()))
os.rename({pid!r} + ".n", {pid!r})
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
def test_a_command_that_ignores_its_end_is_killed(tmp_path, script, monkeypatch):
    process, pid = _running(tmp_path, script, IGNORES, after="; true")
    process.send_signal(signal.SIGTERM)
    assert b"once more to end at once" in process.stderr.readline() * 2 + (
        process.stderr.readline()
    )
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    _check_it_ends(pid)


SAVES = """
import os, signal, sys, time
def save(*_):
    open(sys.argv[4], "w").close()
    print('{{"step": 7, "saved": true}}', flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
open({pid!r} + ".n", "w").write(str(os.getpid()))
os.rename({pid!r} + ".n", {pid!r})
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
def test_what_a_stopped_command_saves_is_noted(tmp_path, script):
    process, _ = _running(tmp_path, script, SAVES)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    with Race.open(tmp_path / "race").ask(wait=False) as job:
        assert (job.number, job.start) == (0, 7)


WAITS = """
import os, sys, time
open({pid!r} + ".n", "w").write(str(os.getpid()))
os.rename({pid!r} + ".n", {pid!r})
while not os.path.exists({pid!r} + ".go"):
    time.sleep(0.02)
print('{{"loss": 0.25}}', flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
def test_what_a_command_ends_with_after_a_kill_is_not_lost(tmp_path, script):
    process, pid = _running(tmp_path, script, WAITS)
    process.kill()
    process.communicate(timeout=60)
    Path(f"{tmp_path / 'pid'}.go").touch()
    while _lives(pid) or not (tmp_path / "race/jobs/0000/exit_code").exists():
        time.sleep(0.05)
    race = Race.open(tmp_path / "race")
    command.run(race, script(TRAIN))
    told = {e["job"]: e["values"]["loss"] for e in events(race, "told")}
    assert told[0] == 0.25


def test_a_command_that_was_stopped_from_outside_is_no_failure(race, script):
    first = race.ask()
    first.tell(loss=5.0)
    with pytest.raises(lrjax.UsageError, match=r"stopped by a signal.*tries it again"):
        command.run(race, script("import os, signal; os.kill(os.getpid(), 9)"))
    assert not events(race, "failed")


def test_a_stale_result_is_not_told(race, script, tmp_path):
    path = tmp_path / "result.json"
    path.write_text('{"loss": 0.1}')
    with pytest.raises(lrjax.UsageError, match=r"has not written .*result\.json"):
        command.run(race, script(TRAIN), result=str(path))
    assert not events(race, "told")


@pytest.mark.parametrize(
    "printed",
    [
        ' {"loss": 0.5}',
        'INFO: {"loss": 0.5}',
        '50 %\r   \r{"loss": 0.5}',
        '{"loss": 0.5, "self": 1, "n": 1' + "0" * 400 + "}",
        '{"step": 3, "saved": true}\n{"loss": 0.5}',  # and nothing is at checkpoint
        '{"loss": 0.5}\n\xff\xfe' + "x" * 3_000_000,
    ],
    ids=range(6),
)
def test_odd_output_is_read(race, script, printed):
    code = f"import sys; sys.stdout.buffer.write({printed!r}.encode('latin-1'))"
    command.run(race, script(code))
    assert {e["values"]["loss"] for e in events(race, "told")} == {0.5}


def test_a_daemon_that_keeps_stdout_open_is_not_waited_for(race, script):
    code = "import os, time\nif os.fork() == 0: time.sleep(60); os._exit(0)\n"
    began = time.monotonic()
    command.run(race, script(code + "print('{\"loss\": 1}')"))
    assert time.monotonic() - began < 50


def test_fields_take_no_format_and_cannot_be_hidden(tmp_path):
    race = Race(["adam"], budget=3, horizon=9, folder=tmp_path / "a")
    with pytest.raises(lrjax.UsageError, match="without a format"):
        command.run(race, "echo {learning_rate:.3f}")
    race = Race({"mine": {"seed": [1, 2]}}, budget=2, horizon=9, folder=tmp_path / "b")
    with pytest.raises(lrjax.UsageError, match="its hyperparameter seed"):
        command.run(race, "echo {method}")


def test_stdin_is_empty(race, script):
    code = "import sys; print('{\"loss\": %d}' % len(sys.stdin.read()))"
    assert command.run(race, script(code)).score == 0


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
def test_a_killed_race_leaves_the_job_to_its_command_while_that_runs(tmp_path, script):
    process, pid = _running(tmp_path, script)
    process.kill()
    process.communicate(timeout=60)
    race = Race.open(tmp_path / "race")
    with race.ask(wait=False) as job:
        assert job.number == 1  # job 0 is still being trained
    os.kill(pid, signal.SIGKILL)
    for _ in range(600):  # until its shell has ended, too
        with race.ask(wait=False) as job:
            if job.number == 0:
                return
        time.sleep(0.1)
    raise AssertionError("job 0 stays taken")
