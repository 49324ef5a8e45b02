"""A race asks for the same runs and answers the same, however it is driven."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lrjax
from benchmarks import race_methods
from lrjax import config as config_lib
from lrjax import methods as methods_lib
from lrjax.hpo import contenders as select_contenders
from lrjax.race import TORCH_METHODS, Race, contenders
from lrjax.race import race as race_lib
from lrjax.race.log import NAME

ROOT = Path(__file__).parents[2]
METHODS = ("adam", "adamw_cosine", "prodigy")


def loss(method, hyperparameters, seed):
    """A loss that follows from a job alone; the best is AdamW's at 0.01."""
    rate = hyperparameters.get("learning_rate", 1.0)
    away = abs(math.log10(rate) + 2)
    if away > 1.5:
        return math.nan
    base = {"adam": 1.0, "adamw_cosine": 0.8}.get(method, 1.2)
    return base + 0.3 * away + 0.01 * ((7 * seed + len(method)) % 5)


def finish(race, most=1000):
    """Do jobs, `most` at most; return their (number, label, seed)."""
    done = []
    for job in race:
        if len(done) == most:
            break
        job.tell(loss=loss(job.method, job.hyperparameters, job.seed))
        done.append((job.number, job.label, job.seed))
    return done


def in_python(code, *arguments):
    """A process of its own that has run some code, and what it printed."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.fixture(name="race")
def _race(tmp_path):
    return Race(METHODS, budget=8, horizon=100, folder=tmp_path / "race")


@pytest.fixture(scope="module", name="whole")
def _whole(tmp_path_factory):
    """Folder of a finished race, and its answer."""
    folder = tmp_path_factory.mktemp("whole") / "race"
    race = Race(METHODS, budget=8, horizon=100, folder=folder)
    finish(race)
    return folder, str(race.answer())


def test_it_finds_the_best_within_its_budget(race):
    done = finish(race)
    answer = race.answer()
    assert len(done) == 8 == answer.runs
    assert answer.over
    assert answer.method == "adamw_cosine"
    assert answer.hyperparameters["learning_rate"] == 0.01
    assert 0 < answer.best <= 1
    assert str(answer).startswith("adamw_cosine (learning_rate=0.01)\n")
    assert answer.score == pytest.approx(np.mean(answer.values))


def test_neither_jax_nor_optax_nor_pandas_is_needed(tmp_path):
    code = f"""
import sys, lrjax
race = lrjax.Race(["adam", "prodigy"], budget=4, horizon=9, folder={str(tmp_path)!r})
for job in race:
    job.report(3, loss=2.0)
    job.tell(loss=float(job.seed))
print(race.answer())
print(*sys.modules, file=sys.stderr)
"""
    done = in_python(code)
    assert "best of the" in done.stdout
    loaded = {name.split(".")[0] for name in done.stderr.split()}
    assert not loaded & {"jax", "jaxlib", "optax", "flax", "pandas", "scipy"}
    assert "numpy" in loaded


def test_the_file_of_methods_is_what_the_registry_says():
    assert json.loads(race_methods.FILE.read_text()) == race_methods.described()


def test_contenders_are_those_of_a_selection():
    found = contenders.of(None)
    chosen = [methods_lib.METHODS[name] for name in contenders.shipped()]
    config = config_lib.base()
    config.tasks, config.methods = ("libsvm/iris",), ("adam",)
    base = config_lib.check(config)
    expected = select_contenders.contenders(chosen, "own", base)

    def rounded(values):
        """Values as in float32, which a selection has; policies without their hash."""
        return {
            k: float(f"{v:.6g}") if isinstance(v, float) else str(v).split("@")[0]
            for k, v in dict(values).items()
        }

    assert [(c.method, rounded(c.hyperparameters)) for c in found] == [
        (c.method.name, rounded(c.hparams)) for c in expected
    ]
    assert [c.candidate for c in found if c.rate == c.rate] == [
        c
        for c in (select_contenders.candidate(c, base) for c in expected)
        if c.rate == c.rate
    ]


@pytest.mark.parametrize("stop", range(9))
def test_stopped_after_any_job_it_goes_on(whole, tmp_path, stop):
    first = Race(METHODS, budget=8, horizon=100, folder=tmp_path)
    finish(first, stop)
    finish(Race.open(tmp_path))
    assert str(Race.open(tmp_path).answer()) == whole[1]


@given(share=st.floats(0, 1))
@settings(max_examples=25)
def test_a_record_torn_anywhere_resumes_to_the_same(whole, tmp_path_factory, share):
    folder = tmp_path_factory.mktemp("torn")
    content = (whole[0] / NAME).read_bytes()
    (folder / NAME).write_bytes(content[: int(share * len(content))])
    race = Race(METHODS, budget=8, horizon=100, folder=folder)
    finish(race)
    assert str(race.answer()) == whole[1]


def _work(race, seconds):
    """A worker: trains jobs until the race is over."""
    for job in race:
        threading.Event().wait(seconds)
        job.tell(loss=loss(job.method, job.hyperparameters, job.seed))


@pytest.mark.parametrize("shared", [True, False])
def test_several_workers_do_each_job_once_and_answer_the_same(whole, tmp_path, shared):
    race = Race(METHODS, budget=8, horizon=100, folder=tmp_path)
    races = [race if shared else Race.open(tmp_path) for _ in range(4)]
    threads = [threading.Thread(target=_work, args=(race, 0.01)) for race in races]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = [json.loads(line) for line in (tmp_path / NAME).read_text().splitlines()]
    told = [event["job"] for event in events if event["event"] == "told"]
    assert sorted(told) == list(range(8))
    assert str(Race.open(tmp_path).answer()) == whole[1]


_HANG = """
import sys, lrjax
job = lrjax.Race.open(sys.argv[1]).ask()
job.checkpoint.write_text("state")
job.saved(40)
print("saved", flush=True)
sys.stdin.read()
"""


def test_a_killed_workers_job_goes_on_from_what_it_saved(race):
    command = [sys.executable, "-c", _HANG, str(race.folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as worker:
        assert worker.stdout.readline() == b"saved\n"
        _check_it_is_held(race)
        worker.kill()
    again = race.ask(wait=False)
    assert (again.number, again.start, again.stop) == (0, 40, 100)
    assert again.checkpoint.read_text() == "state"
    again.checkpoint.unlink()
    again.give_back()
    with race.ask() as job:
        assert job.start == 0


def _check_it_is_held(race):
    """Check that job 0 is another's."""
    with race.ask(wait=False) as job:
        assert job.number == 1


def test_ask_says_when_waiting_would_never_end(race):
    jobs = []
    while job := race.ask(wait=False):
        jobs.append(job)
    assert len(jobs) > 1
    with pytest.raises(lrjax.UsageError, match="tell job 0, 1"):
        race.ask()
    for job in jobs:
        job.tell(loss=1.0)
    with race.ask() as job:
        assert job.number == len(jobs)


def test_a_job_that_is_not_told_is_an_error_and_comes_again(race):
    with pytest.raises(lrjax.UsageError, match=r"job 0 was not told: call job\.tell"):
        for _ in race:
            pass
    with race.ask() as job:
        assert job.number == 0


def test_an_exception_in_the_loop_gives_the_job_back(race):
    def fail():
        for _ in race:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with race.ask(wait=False) as job:
        assert job.number == 0


def test_lost_runs_are_lost_and_all_lost_is_an_error(tmp_path):
    race = Race(["sgd"], budget=3, horizon=9, folder=tmp_path)
    for job in race:
        if job.number == 1:
            job.failed("out of memory")
        else:
            job.tell(loss=math.inf)
    with pytest.raises(lrjax.UsageError, match=r"all of 3 jobs were lost \(job 0: d"):
        race.answer()


def test_a_lost_contender_does_not_win(race):
    for job in race:
        if job.method == "adamw_cosine":
            job.failed()
        else:
            job.tell(loss=loss(job.method, job.hyperparameters, job.seed))
    answer = race.answer()
    assert answer.method != "adamw_cosine"
    assert answer.lost
    assert "  lost  " in str(answer)


def test_higher_is_better_follows_from_the_name_or_is_said(tmp_path):
    for name, metric, higher in (("a", "accuracy", None), ("b", "wibble", True)):
        race = Race(
            METHODS,
            budget=6,
            horizon=9,
            folder=tmp_path / name,
            metric=metric,
            higher_is_better=higher,
        )
        for job in race:
            job.tell(**{metric: 0.9 if job.method == "prodigy" else 0.5})
        assert race.answer().method == "prodigy"
    with pytest.raises(lrjax.UsageError, match="Say higher_is_better=True"):
        Race(METHODS, horizon=9, folder=tmp_path / "c", metric="wibble")


def test_per_cent_are_refused(tmp_path):
    race = Race(METHODS, horizon=9, folder=tmp_path, metric="accuracy")
    job = race.ask()
    with pytest.raises(lrjax.UsageError, match=r"from 0 to 1, not 93.*per cent"):
        job.tell(accuracy=93)
    job.tell(accuracy=np.float32(0.93), loss=0.1)
    with pytest.raises(lrjax.UsageError, match="job 0 is over"):
        job.tell(accuracy=0.93)


def test_ones_own_method_enters_with_every_value(tmp_path):
    named = {"mine": {"lr": [0.1, 0.01], "beta": 0.9}, "prodigy": None}
    race = Race(named, budget=4, horizon=9, folder=tmp_path)
    labels = [label for _, label, _ in finish(race)]
    mine = ["mine (lr=0.1, beta=0.9)", "mine (lr=0.01, beta=0.9)"]
    assert labels[:3] == ["prodigy", *mine]


def test_a_bake_off_trains_all_and_fits_a_rate(tmp_path):
    race = Race(["adam"], budget=12, horizon=9, folder=tmp_path)
    for job in race:
        away = math.log10(job.learning_rate) + 2.4
        job.tell(loss=math.exp(0.5 * away**2))
    answer = race.answer()
    assert answer.how == "bakeoff"
    fitted = [c.rate for c in race.contenders][6:]
    assert np.log10(fitted) == pytest.approx([-2.4], abs=0.15)
    assert answer.hyperparameters["learning_rate"] == fitted[0]


def test_with_a_budget_of_one_the_prior_is_asked(tmp_path):
    race = Race(budget=1, horizon=9, folder=tmp_path)
    assert race.answer().runs == 0
    assert len(finish(race)) == 1
    assert race.answer().how == "prior"


def test_another_race_in_the_folder_is_refused(race):
    usual = {"budget": 8, "horizon": 100, "folder": race.folder}
    for methods, changed, said in (
        (METHODS, {"budget": 9}, "(budget is 8 there, 9 here): choose"),
        (
            METHODS,
            {"metric": "rmse", "horizon": 9},
            "(horizon is 100 there, 9 here; metric is 'loss' there, 'rmse' here)",
        ),
        ((*METHODS, "dog"), {}, "(methods: dog only here)"),
        (METHODS[:2], {}, "(methods: prodigy only there)"),
    ):
        with pytest.raises(lrjax.UsageError, match=re.escape(said)):
            Race(methods, **usual | changed)
    with pytest.raises(lrjax.UsageError, match="has no race"):
        Race.open(race.folder / "nothing")


def test_another_versions_race_is_refused(race):
    path = race.folder / NAME
    path.write_text(path.read_text().replace('"prior": "', '"prior": "0'))
    with pytest.raises(lrjax.UsageError, match="another version of lrjax"):
        Race.open(race.folder)


def test_fits_are_of_rates_that_differ_alone(tmp_path):
    own = {"mine": {"learning_rate": [0.1, 0.01, 0.001], "b": [1, 2]}}
    race = Race(own, budget=12, horizon=9, folder=tmp_path)
    for job in race:
        away = math.log10(job.learning_rate) + 2.3
        job.tell(loss=math.exp(0.05 * away**2 + 0.001 * job.hyperparameters["b"]))
    fitted = race.contenders[6:]
    assert [c.hyperparameters["b"] for c in fitted] == [1, 2]
    rates = [math.log10(c.rate) for c in fitted]
    assert rates == pytest.approx([-2.3, -2.3], abs=0.15)


def test_one_rate_with_many_settings_is_no_line_to_fit(tmp_path):
    own = {"mine": {"learning_rate": 0.1, "decay": [0, 0.1, 0.2, 0.3]}}
    race = Race(own, budget=8, horizon=9, folder=tmp_path)
    for job in race:
        job.tell(loss=[1, 2, 0.5, 3][job.number % 4])
    assert race.answer().hyperparameters["decay"] == 0.2


def test_an_answer_on_the_way_counts_all_that_was_told(tmp_path):
    race = Race(["adam"], budget=12, horizon=9, folder=tmp_path)
    for count in range(1, 6):
        job = race.ask()
        if count == 1:
            job.failed()
        else:
            job.tell(loss=float(count))
    answer = race.answer()
    assert (answer.runs, answer.over, answer.score) == (5, False, 2.0)
    assert answer.lost == {0: "diverged"}
    assert "the race is not over" in str(answer)
    lost = next(line for line in str(answer).splitlines() if line.startswith("  lost"))
    assert lost == f"  lost  {answer.who[0]}, job 0: diverged"
    assert answer.who[0].startswith("adam (learning_rate=")


def test_folds_are_counted_and_known(tmp_path):
    answers = []
    for folds in (1, 4):
        race = Race(
            METHODS, budget=8, horizon=9, folder=tmp_path / str(folds), folds=folds
        )
        for job in race:
            assert job.fold == job.seed % folds
            shift = 0.3 * (job.fold == 1)  # these rows are easier
            job.tell(loss=loss(job.method, job.hyperparameters, 0) * (1 - shift))
        answers.append(race.answer())
    # Told of folds, it does not take easier rows for a better contender.
    assert answers[1].judged[0].now_sd != answers[0].judged[0].now_sd


def test_few_rows_make_a_noisy_accuracy(tmp_path):
    spreads = []
    for rows in (20, 100_000):
        race = Race(
            METHODS,
            budget=6,
            horizon=9,
            folder=tmp_path / str(rows),
            metric="accuracy",
            valid_rows=rows,
        )
        for job in race:
            job.tell(accuracy=1 / (2 + loss("adam", {"learning_rate": 0.01}, job.seed)))
        spreads.append(race.answer().judged[0].now_sd)
    assert spreads[0] > spreads[1]


def test_the_first_of_two_results_counts(race):
    job = race.ask()
    job.tell(loss=3.0)
    with race._log.alone():
        race._log.append("told", job=0, values={"loss": 1.0}, seconds=1.0)
    for each in (race, Race.open(race.folder)):
        assert [done.values for done in each.done()] == [{"loss": 3.0}]


def test_each_named_method_enters_once(tmp_path):
    named = ["cocob", "storm_plus", "armijo_sgd"]
    race = Race(named, budget=4, horizon=9, folder=tmp_path)
    assert {m for _, m, _ in finish(race)} >= set(named)


@pytest.mark.parametrize("text", ["0.3", b"0.3", np.str_("0.3"), np.array("0.3")])
def test_text_is_no_number(race, text):
    job = race.ask()
    with pytest.raises(lrjax.UsageError, match="loss must be a number, not"):
        job.tell(loss=text)
    with pytest.raises(lrjax.UsageError, match="loss must be a number, not"):
        job.report(1, loss=text)
    for number in (np.float32(0.5), np.array(0.5), jnp.array(0.5), 1):
        job.report(1, loss=number)
    job.give_back()


def test_infinity_comes_back_as_it_was(race, tmp_path):
    jobs = [race.ask() for _ in range(3)]
    prodigy = next(job for job in jobs if job.method == "prodigy")
    assert prodigy.hyperparameters["growth_rate"] == math.inf
    for job in jobs:
        job.give_back()
    odd = Race(
        {"mine": {"x": [-math.inf, "inf"]}}, budget=2, horizon=9, folder=tmp_path / "o"
    )
    assert {job.hyperparameters["x"]: job.tell(loss=1.0) for job in odd}.keys() == {
        -math.inf,
        "inf",
    }


def test_what_is_known_is_of_methods_as_they_usually_are():
    usual, changed, mine = contenders.of(
        {"prodigy": {"d_coef": 2.0}, "mine": {}, "cocob": None}
    )
    assert usual.candidate.usual
    assert not changed.candidate.usual
    assert changed.candidate.method == "prodigy"
    assert mine.candidate == (
        "your mine",
        pytest.approx(math.nan, nan_ok=True),
        False,
        "",
    )


def test_nothing_is_saved_without_a_checkpoint(race):
    with race.ask() as job:
        with pytest.raises(lrjax.UsageError, match=r"there is no .*checkpoint"):
            job.saved(3)
        job.checkpoint.touch()
        for step in (-1, 101, 2.5, True):
            with pytest.raises(lrjax.UsageError, match="from 0 to 100"):
                job.saved(step)
            with pytest.raises(lrjax.UsageError, match="from 0 to 100"):
                job.report(step, loss=1.0)
        job.saved(np.int64(3))


def test_the_runner_up_has_the_next_best_chances(race):
    finish(race)
    answer = race.answer()
    chances = sorted((each.best, each.label) for each in answer.judged)
    assert answer.runner_up == chances[-2][1]
    assert answer.best == chances[-1][0]


def test_a_surprise_is_said(tmp_path):
    race = Race(METHODS, budget=8, horizon=9, folder=tmp_path)
    for job in race:
        job.tell(loss=10.0 ** (3 * (job.number % 2) * (job.number + 1)))
    assert race.answer().surprised
    assert "contradicted known tasks" in str(race.answer())


def test_it_may_be_read_where_it_cannot_be_written(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "copy")
    folder = tmp_path / "copy"
    folder.chmod(0o500)
    (folder / NAME).chmod(0o400)
    try:
        assert str(Race.open(folder).answer()) == whole[1]
    finally:
        folder.chmod(0o700)
    assert "8 of at most 8 runs, over" in repr(Race.open(folder))


def test_the_folder_is_where_it_was_when_the_trainer_moves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    race = Race(METHODS, budget=4, horizon=9, folder="race")
    (tmp_path / "elsewhere").mkdir()
    for job in race:
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert job.checkpoint.is_absolute()
        job.tell(loss=1.0)
    assert race.answer().runs == 4


def test_another_process_that_trains_together_may_not_ask(race, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(lrjax.UsageError, match="process 1 of 2 that train together"):
        race.ask()
    monkeypatch.setenv("RANK", "0")
    race.ask().give_back()


_CHILD = """
import os, sys, lrjax
race = lrjax.Race.open(sys.argv[1])
for job in race:
    if (child := os.fork()) == 0:
        job.tell(loss=1.0)
        os._exit(0)
    os.waitpid(child, 0)
print(race.answer().runs)
"""


def test_a_child_may_tell(race):
    assert in_python(_CHILD, str(race.folder)).stdout == "8\n"


def test_who_is_awaited_is_said(race, capsys, monkeypatch):
    monkeypatch.setattr(race_lib, "_LONGEST_WAIT", 0.05)
    other = Race.open(race.folder)
    jobs = []
    while job := other.ask(wait=False):
        jobs.append(job)
    thread = threading.Thread(target=lambda: race.ask().give_back())
    thread.start()
    while "waiting for job 0 (process " not in capsys.readouterr().err:
        thread.join(0.05)
        assert thread.is_alive()
    for job in jobs:
        job.give_back()
    thread.join()


def test_a_file_that_shrank_is_refused(race):
    job = race.ask()
    path = race.folder / NAME
    path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(lrjax.UsageError, match="changed by another program"):
        job.tell(loss=1.0)
    job.give_back()


@pytest.mark.parametrize(
    "changed",
    [
        lambda settings: settings.pop("budget"),
        lambda settings: settings.update(methods=3),
        lambda settings: settings.update(methods=[["adam"]]),
        lambda settings: settings.update(folds="x"),
        lambda settings: settings.update(metric=None),
    ],
)
def test_damaged_settings_are_named(race, changed):
    path = race.folder / NAME
    event = json.loads(path.read_text())
    changed(event["settings"])
    path.write_text(json.dumps(event) + "\n")
    with pytest.raises(lrjax.UsageError, match=r"line 1 is damaged"):
        Race.open(race.folder)


def test_another_version_of_the_record_is_refused(race):
    path = race.folder / NAME
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(lrjax.UsageError, match="another version of lrjax"):
        Race.open(race.folder)


@pytest.mark.parametrize(
    "line",
    [
        *(b"{}", b"[]", b"\xff", b'{"event": "told", "job": 0, "values": 3}'),
        b'{"event": "told", "job": -1, "values": {}}',
        b'{"event": "told", "job": 0, "values": {"loss": 1' + b"0" * 400 + b"}}",
        b'{"event": "saved", "job": 0}',
        b'{"event": "saved", "job": 0, "step": "x"}',
        b'{"event": "failed", "job": 0}',
        b'{"event": "danced", "job": 0}',
        b'{"event": "settings", "settings": {}}',
    ],
)
def test_a_damaged_line_is_named(race, line):
    with (race.folder / NAME).open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(lrjax.UsageError, match=r"race\.jsonl, line 2 is damaged"):
        race.ask()


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (["adamw_cosin"], "did you mean 'adamw_cosine'"),
        (["my_method"], "one of your own comes with its hyperparameters"),
        ([], "needs methods"),
        ({"adam": {"learning_rat": 0.1}}, "did you mean 'learning_rate'"),
        ({"adam": {"learning_rate": []}}, "has no value to try"),
        ({"adam": 0.1}, "hyperparameters are a mapping"),
        ({"mine": {"x": list(range(3000))}}, "3,000 contenders is too large"),
        ([3], "unknown method '3'"),
        (5, "methods must be names, not 5"),
        ({"adam": {"learning_rate": -1}}, "learning_rate must be above 0, not -1"),
        ({"adam": {"learning_rate": math.inf}}, "learning_rate must be above 0"),
        ({"adam": {"learning_rate": math.nan}}, "must be a number"),
        ({"adam": {"learning_rate": "fast"}}, "must be a number"),
        ({"adam": {"b1": True}}, "must be a number"),
        ({"adam": {"b1": 5}}, r"b1 must be in \[0, 1\), not 5"),
        ({"adam": {"b1": None}}, "b1 must be a number"),
        ({"adam": {"schedule": "cosin"}}, "did you mean 'cosine'"),
        ({"cawr": {"T_0": 1.5}}, "T_0 must be a whole number from 1"),
        ({"prodigy": {"decouple": "no"}}, "decouple must be True or False"),
        ({"prodigy": {"growth_rate": 0.5}}, "growth_rate must be in"),
        ({"mine": {"learning_rate": 10**400}}, "learning_rate is too large"),
        ([["adam"]], "unknown method"),
        (b"adam", "methods must be names"),
        ({"mine": {c: list(range(100)) for c in "abcdef"}}, "is too large"),
    ],
)
def test_bad_methods_are_refused(tmp_path, methods, message):
    with pytest.raises(lrjax.UsageError, match=message):
        Race(methods, horizon=9, folder=tmp_path)
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"budget": 0}, "budget must be a whole number above 0"),
        ({"horizon": 1.5}, "horizon must be"),
        ({"metric": "val loss"}, "metric must be a name"),
        ({"how": "rase"}, "did you mean 'race'"),
        ({"how": "bakeoff"}, "a bakeoff of 13 contenders needs a budget of 13"),
        ({"folder": "gs://bucket/x"}, "gs://bucket"),
        ({"folder": __file__}, "is a file, not the folder of a race"),
        ({"higher_is_better": "False"}, "must be True, False or None"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, changed, message):
    arguments = {"horizon": 9, "folder": tmp_path, **changed}
    with pytest.raises(lrjax.UsageError, match=message):
        Race(METHODS, **arguments)


def test_equal_values_and_arrays_are_taken_as_they_should(tmp_path):
    found = contenders.of({"adam": {"learning_rate": np.logspace(-3, -1, 3)}})
    assert [c.rate for c in found] == pytest.approx([0.001, 0.01, 0.1])
    assert len(contenders.of({"mine": {"x": [1, 2, 1, 1.0]}})) == 2
    (one,) = contenders.of({"adam": {"learning_rate": np.float32(0.5)}})
    assert type(one.rate) is float


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_that_ends_leaves_the_job_to_its_parent(race):
    code = f"""
import os, sys, lrjax
race = lrjax.Race.open({str(race.folder)!r})
for job in race:
    if not os.fork():
        sys.exit()  # leaves the loop
    os.wait()
    other = lrjax.Race.open({str(race.folder)!r}).ask(wait=False)
    print(job.number, other.number)
    sys.exit()
"""
    done = in_python(code)
    assert done.stdout == "0 1\n"


def test_a_hyperparameter_may_be_called_float(tmp_path):
    for value in (16, "bf16", [1, 2]):
        folder = tmp_path / str(value)
        race = Race({"mine": {"float": value}}, budget=1, horizon=9, folder=folder)
        assert Race.open(folder).contenders == race.contenders


def test_reasons_may_be_long(tmp_path):
    race = Race("adam", budget=1, horizon=9, folder=tmp_path)
    race.ask().failed("Traceback " * 1000)
    with pytest.raises(lrjax.UsageError, match="the only job was lost") as error:
        race.answer()
    assert len(str(error.value)) < 400


def test_what_the_methods_of_the_registry_take_is_taken():
    for name, method in methods_lib.METHODS.items():
        if name in contenders.shipped():
            changed = {k: v for k, v in method.defaults.items() if v != math.inf}
            (same,) = contenders.of({name: changed})
            assert same.hyperparameters == method.defaults


@pytest.mark.parametrize("budget", [4, 30])
def test_the_order_of_names_does_not_matter(tmp_path, budget):
    """Neither for what is asked for, nor for the answer, to the last digit."""
    named = {"prodigy": None, "mine": {"x": [2, 1]}, "adam": None, "a": {"y": 1}}
    found = []
    for i, names in enumerate([[*named], [*named][::-1], sorted(named)]):
        methods = {name: named[name] for name in names}
        race = Race(methods, budget=budget, horizon=9, folder=tmp_path / str(i))
        done = finish(race)
        found.append((done, str(race.answer()), repr(race.answer())))
    assert found[0] == found[1] == found[2]


def test_lrjaxs_methods_come_first_and_in_the_order_of_all():
    names = {"sgd", "prodigy", "momentum", "dog", "cawr", "adam"}
    usual = [each for each in contenders.of(None) if each.method in names]
    assert [*contenders.of(names)] == [*contenders.of(sorted(names))] == usual
    mixed = contenders.of({"b": {"x": [2, 1]}, "a": {}, "prodigy": None})
    assert [c.label for c in mixed] == ["prodigy", "a", "b (x=2)", "b (x=1)"]


def test_a_race_that_was_begun_in_another_order_goes_on(tmp_path):
    """As earlier versions did: the order in the folder is the one that counts."""
    race = Race(METHODS, budget=6, horizon=9, folder=tmp_path / "race")
    first, *rest = (race.folder / NAME).read_text().splitlines(keepends=True)
    settings = json.loads(first)
    assert not rest
    settings["settings"]["methods"].reverse()
    for name in ("old", "again"):
        (tmp_path / name).mkdir()
        (tmp_path / name / NAME).write_text(json.dumps(settings) + "\n")
    old = Race.open(tmp_path / "old")
    again = Race(METHODS, budget=6, horizon=9, folder=tmp_path / "again")
    assert old.contenders == again.contenders == race.contenders[::-1]
    assert finish(old) == finish(again)


def test_a_mean_that_rounds_beyond_its_bound_is_the_bound(tmp_path):
    race = Race("adam", budget=1, horizon=9, folder=tmp_path, metric="accuracy")
    race.ask().tell(accuracy=np.nextafter(np.float32(1), np.float32(2)))
    assert race.answer().score == 1


def test_the_truth_values_of_numpy_are_some(tmp_path):
    settings = {"horizon": 9, "folder": tmp_path, "metric": "x"}
    assert Race("adam", higher_is_better=np.bool_(True), **settings).higher_is_better


def test_every_method_of_pytorch_is_known():
    assert set(TORCH_METHODS) <= set(contenders.shipped())


def test_nothing_in_place_of_the_metric_is_no_divergence(tmp_path):
    race = Race(["adam"], budget=2, horizon=9, folder=tmp_path)
    job = race.ask()
    with pytest.raises(lrjax.UsageError, match="loss must be a number, not None"):
        job.tell(loss=None)
    job.report(3, train_loss=None)  # unknown, and decides nothing
    job.tell(loss=1.0)
    assert not race.answer().lost


@pytest.mark.parametrize(
    ("name", "meant"),
    [("adamw", "adamw_cosine"), ("AdamW", "adamw_cosine"), ("prodigyy", "prodigy")],
)
def test_a_method_of_ones_own_with_nearly_a_known_name_is_warned_of(
    tmp_path, name, meant
):
    with pytest.warns(UserWarning, match=f"nothing is known; for lrjax's .* '{meant}'"):
        Race({name: {"learning_rate": [0.1, 0.2]}}, horizon=9, folder=tmp_path)


@pytest.mark.parametrize("name", ["mine", "radam", "adam2", "sgdm", "lion"])
def test_other_names_of_ones_own_are_not(tmp_path, name):
    with warnings.catch_warnings(action="error"):
        Race({name: {"learning_rate": [0.1, 0.2]}}, horizon=9, folder=tmp_path)


def test_an_answer_says_how_many_contenders_it_leaves_out(tmp_path):
    race = Race({"mine": {"size": [*range(7)]}}, budget=3, horizon=9, folder=tmp_path)
    for job in race:
        job.tell(loss=1.0)
    assert "  and 2 more" in str(race.answer()).splitlines()
    few = Race(
        {"mine": {"size": [*range(5)]}}, budget=3, horizon=9, folder=tmp_path / "b"
    )
    for job in few:
        job.tell(loss=1.0)
    assert " more" not in str(few.answer())
