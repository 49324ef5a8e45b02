"""Tuning as a whole: continuing changes no bit, a cut tuning goes on, right rows."""

import dataclasses
import itertools
import json
import math
import signal
import threading
import time

import jax
import numpy as np
import pytest

from lrjax import config as config_lib
from lrjax import machine, protocol, results
from lrjax.core import Interrupted, Range, Space, UsageError
from lrjax.engine import programs
from lrjax.hpo import search as search_lib
from lrjax.hpo import targets, trials, tune, tuners
from lrjax.launch import blocks, local, units
from lrjax.methods import METHODS
from lrjax.reports import drawing, searches
from lrjax.reports.palette import Palette
from lrjax.tasks import TASKS


def settings_of(**changes):
    """A small tuning of Adam on iris; dots are double underscores."""
    config = config_lib.base()
    config.tasks, config.methods = ("libsvm/iris",), ("adam",)
    config.seeds, config.epochs, config.tune.trials = 2, 9, 9
    config.tune.tuner = "asha"  # SMAC takes seconds
    for name, value in changes.items():
        *path, last = name.split("__")
        part = config
        for step in path:
            part = part[step]
        part[last] = value
    return config_lib.check(config)


def rows_of(folder, name):
    """The rows of a table in order of what tells them apart, without times."""
    rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return sorted(
        ({k: v for k, v in row.items() if k != "seconds"} for row in rows),
        key=lambda row: str([row.get(k) for k in ("run_id", "step", "trial")]),
    )


def same(folder, other):
    return all(
        rows_of(folder, name) == rows_of(other, name)
        for name in (results.TRIALS, results.RUNS, results.CURVES)
    )


def cut(finished, folder, kept):
    """A folder with a config and some trials, as if the tuning had been killed."""
    folder.mkdir()
    lines = (finished / results.TRIALS).read_text().splitlines(keepends=True)
    (folder / results.TRIALS).write_text("".join(lines[:kept]))
    (folder / "config.json").write_bytes((finished / "config.json").read_bytes())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    tune.run(settings_of(methods=("adamw_cosine",)), folder)
    return folder


@pytest.mark.parametrize(("tuner", "full_runs"), [("random", 9), ("asha", 16 / 9)])
def test_a_plan_counts_what_a_tuning_trains(tuner, full_runs):
    """Of ASHA's nine trials six have one epoch, two go on to three, one to nine."""
    lines = tune.plan(settings_of(tune__tuner=tuner)).splitlines()
    assert lines[0].startswith(f"{tuner}:adam on libsvm/iris: 9 trials of ")
    rows = [line.split() for line in lines if line.startswith("libsvm/iris")]
    (trials,) = [row for row in rows if row[1:3] == [f"{tuner}:adam", "trials"]]
    (final,) = [row for row in rows if row[2].isdigit()]
    assert trials[3:5] == ["9", "0"]
    assert final[1:4] == [f"{tuner}:adam", "2", "0"]
    runs = int(final[7]) / 2  # updates of a full run
    assert int(trials[8]) == pytest.approx(full_runs * runs)


def test_a_tuning_leaves_code_that_trains_with_the_best(finished, tmp_path):
    wanted = settings_of(methods=("adamw_cosine",))
    cut(finished, tmp_path / "again", None)
    tuned = tune.run(wanted, tmp_path / "again")
    ((name, code),) = tuned.snippets.items()
    assert name == "asha:adamw_cosine on libsvm/iris"
    run = rows_of(finished, results.RUNS)[0]
    assert f"horizon = {run['horizon']}" in code
    assert f"return {run['hparams']['learning_rate']!r} * " in code


@pytest.mark.slow
def test_continuing_changes_no_bit(finished, tmp_path):
    changed = settings_of(methods=("adamw_cosine",), tune__continuing=False)
    tune.run(changed, tmp_path)
    text = (tmp_path / results.TRIALS).read_text()
    counted = (finished / results.TRIALS).read_text()
    assert text.count('"trained": 3') == counted.count('"trained": 2') == 1
    (tmp_path / results.TRIALS).write_text(text.replace('"trained": 3', '"trained": 2'))
    assert same(tmp_path, finished)
    budgets = [row["budget"] for row in rows_of(finished, results.TRIALS)]
    assert len(set(budgets)) > 1


@pytest.mark.parametrize(
    "kept", [4, 9, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 8))]
)
def test_a_tuning_that_was_cut_goes_on_with_the_same_trials(finished, tmp_path, kept):
    cut(finished, tmp_path / "cut", kept)
    tune.run(settings_of(methods=("adamw_cosine",)), tmp_path / "cut")
    assert same(tmp_path / "cut", finished)


@pytest.mark.slow
def test_a_stage_that_was_cut_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "MAX_ROUNDS", 4)  # more than one segment a trial
    settings = settings_of(
        epochs=300, seeds=1, checkpoint_minutes=0.0, tune__tuner="random"
    )
    tune.run(settings, tmp_path / "whole")
    save = units.save

    def last_save(*arguments):
        save(*arguments)
        raise Interrupted(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(units, "save", last_save)
        with pytest.raises(Interrupted):
            tune.run(settings, tmp_path / "cut")
    assert not (tmp_path / "cut" / results.TRIALS).exists()
    starts, training = [], programs.train

    def spied(compiled, program, seeds, inputs, steps, start=0, *rest):
        starts.append(start)
        return training(compiled, program, seeds, inputs, steps, start, *rest)

    monkeypatch.setattr(programs, "train", spied)
    tune.run(settings, tmp_path / "cut")
    assert any(starts)
    assert same(tmp_path / "cut", tmp_path / "whole")


def test_the_width_of_blocks_depends_on_no_trial_that_is_known(tmp_path, monkeypatch):
    settings = settings_of(tune__fidelity="rescale", tune__trials=10)
    widths, chosen = [], targets.width_of

    def width_of(*arguments):
        widths.append(chosen(*arguments))
        return widths[-1]

    monkeypatch.setattr(targets, "width_of", width_of)
    tune.run(settings, tmp_path / "whole")
    assert widths == [4, 1]  # eight trials, then two
    cut(tmp_path / "whole", tmp_path / "cut", 7)
    tune.run(settings, tmp_path / "cut")
    assert [width for width, _ in itertools.groupby(widths[2:])] == widths[:2]
    assert same(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.skipif(machine.kind() != "cpu", reason="on a CPU alone")
def test_convolutions_are_tuned_one_by_one_on_a_cpu(tmp_path, monkeypatch):
    seen, compile_program = [], programs.compile_program

    def compiled(program, *rest):
        seen.append(program)
        return compile_program(program, *rest)

    monkeypatch.setattr(programs, "compile_program", compiled)
    settings = settings_of(
        tasks=("digits/wrn",), steps=2, tune__unit="steps", tune__tuner="random"
    )
    (target,) = targets.targets(settings, blocks.make_tasks(settings, None))
    search = search_lib.Search(target, tune.make_tuner(target, tmp_path))
    search.ask()
    with local.launch(settings, tmp_path) as launcher:
        trainer = trials.Trainer(launcher, lambda _: None)
        jobs = [job._replace(keep=True) for job in search.jobs()[:2]]
        (trained, other) = trainer.train(jobs).values()
    assert all(p.one_by_one and p.num_hparams == 1 for p in seen)
    assert trained.state
    assert other.state
    assert trained.state.steps == other.state.steps == 2
    assert trained.values[target.cost] != other.values[target.cost]


def test_the_best_is_trained_anew_with_fresh_seeds(finished):
    trials, runs = (rows_of(finished, n) for n in (results.TRIALS, results.RUNS))
    top = max(row["budget"] for row in trials)
    best = min((r for r in trials if r["budget"] == top), key=lambda r: r["cost"])
    assert best["incumbent"]
    assert {row["method"] for row in runs} == {"asha:adamw_cosine"}
    assert sorted(row["seed"] for row in runs) == [0, 1]
    assert all(row["hparams"] == best["hparams"] for row in runs)
    assert (finished / "incumbent.png").exists()
    assert (finished / "costs.png").exists()


def test_a_tuning_cut_short_has_spent_what_was_planned(finished, tmp_path):
    settings = settings_of(methods=("adamw_cosine",))
    (target,) = targets.targets(*blocks.load(settings, None))
    search = search_lib.Search(target, tune.make_tuner(target, tmp_path))
    search.ask()
    (stage, planned), *_ = search_lib.planned(search)
    rows = rows_of(finished, results.TRIALS)[: stage.trials]
    assert max(row["budget"] for row in rows) < target.problem.max_budget
    table = searches.trajectories(searches.trials_table(rows))
    assert table["spent"].iloc[-1] == pytest.approx(planned)
    assert table["best"].isna().all()  # none had the full budget


class Halving:
    """Six trials of 1 epoch, two of them to 3, one of these to 9."""

    stages = (tuners.Stage(6, 1, 1), tuners.Stage(2, 3, 2), tuners.Stage(1, 9, 6))

    def __init__(self, problem):
        self.rates = [
            tuners.place(problem.space.ranges["learning_rate"], i / 5) for i in range(6)
        ]
        self.left = list(self.stages)

    def ask(self):
        stage = self.left.pop(0) if self.left else tuners.Stage(0, 0, 0)
        return [
            tuners.Trial(number, {"learning_rate": rate}, stage.budget)
            for number, rate in enumerate(self.rates[: stage.trials])
        ]

    def tell(self, outcomes):
        pass

    def plan(self, first):
        return list(self.stages)


@pytest.mark.parametrize("continuing", [True, False])
def test_a_plan_and_all_tables_count_what_is_trained(tmp_path, monkeypatch, continuing):
    """Promoted trials resume, or start anew."""
    monkeypatch.setitem(tuners.PLAIN, "halving", Halving)
    changes = {"seeds": 1, "tune__tuner": "halving", "tune__continuing": continuing}
    settings = settings_of(**changes)
    (target,) = targets.targets(*blocks.load(settings, None))
    search = search_lib.Search(target, tune.make_tuner(target, tmp_path))
    search.ask()
    planned = sum(cost for _, cost in search_lib.planned(search))
    done = []

    def trainer(launcher, progress):
        return trials.Trainer(launcher, done.append)

    monkeypatch.setattr(tune, "Trainer", trainer)
    tune.run(settings, tmp_path)
    rows = rows_of(tmp_path, results.TRIALS)
    assert sum(done) == pytest.approx(planned)
    assert planned == pytest.approx((16 if continuing else 21) / 9)
    assert f"{planned:.1f}" == tune.plan(settings).splitlines()[5].split()[-1]
    assert sum(row["trained"] for row in rows) == round(9 * planned)
    table = searches.trajectories(searches.trials_table(rows))
    assert table["spent"].iloc[-1] == pytest.approx(planned)
    old = [{k: v for k, v in row.items() if k != "trained"} for row in rows]
    table = searches.trajectories(searches.trials_table(old))
    assert table["spent"].iloc[-1] == pytest.approx(21 / 9)


def test_a_tuner_may_ask_for_less_than_before(tmp_path, monkeypatch):
    """And for the same: what a state has beyond that is of no use."""
    budgets = [1, 3, 2, 2, 9]

    class Down(Halving):
        stages = tuple(tuners.Stage(1, budget, budget) for budget in budgets)

    monkeypatch.setitem(tuners.PLAIN, "down", Down)
    tune.run(settings_of(seeds=1, tune__tuner="down"), tmp_path)
    rows = rows_of(tmp_path, results.TRIALS)
    assert [row["budget"] for row in rows] == budgets
    assert [row["trained"] for row in rows] == [1, 2, 2, 2, 7]
    assert rows[2]["cost"] == rows[3]["cost"]


def test_a_metric_that_rises_is_told_as_a_cost_and_shown_as_it_is(tmp_path, capsys):
    settings = settings_of(tune__tuner="random", tune__cost="valid_accuracy", seeds=1)
    tune.run(settings, tmp_path)
    rows = rows_of(tmp_path, results.TRIALS)
    best = max(-row["cost"] for row in rows)
    assert 0 < best <= 1
    said = capsys.readouterr().err
    assert f"(validation accuracy {100 * best:.1f} % at 9 epochs)" in said
    metrics = results.load_metrics(tmp_path)
    table = searches.trajectories(searches.trials_table(rows, metrics))
    assert table["best"].iloc[-1] == table["value"].max() == best
    assert table["best"].is_monotonic_increasing
    with drawing.style() as plt:
        looked = Palette(("random:adam",))
        for draw in (searches.incumbents, searches.costs):
            _, (axis, *_) = draw(plt, looked, table)
            assert axis.get_ylabel() == "validation accuracy"
            assert axis.get_yscale() == "linear"
            (star,) = [e for e in axis.get_lines() if e.get_marker() == "*"]
            assert star.get_ydata()[0] == best


def test_trials_of_other_settings_are_refused(finished, tmp_path):
    for name in (results.TRIALS, "config.json"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    with pytest.raises(UsageError, match="with other settings"):
        tune.run(settings_of(methods=("adamw_cosine",), tune__trials=10), tmp_path)
    content = (tmp_path / results.TRIALS).read_text()
    changed = content.replace('"config_id": 2', '"config_id": 77')
    (tmp_path / results.TRIALS).write_text(changed)
    with pytest.raises(UsageError, match="not what asha asks for now"):
        tune.run(settings_of(methods=("adamw_cosine",)), tmp_path)


def test_a_diverged_trial_costs_a_finite_penalty(tmp_path):
    settings = settings_of(
        methods=("sgd",),
        tune__tuner="grid",
        tune__space__learning_rate=(1e-2, 1e38, "log"),
    )
    tune.run(settings, tmp_path)
    trials = rows_of(tmp_path, results.TRIALS)
    crashed = [row for row in trials if row["status"] == "crashed"]
    done = [row["cost"] for row in trials if row["status"] == "done"]
    assert crashed
    assert all(row["cost"] == 2 * max(done) for row in crashed)
    assert not any(row["incumbent"] for row in crashed)
    assert all(math.isfinite(row["cost"]) for row in trials)


def own_protocol(monkeypatch, **tuning):
    """A protocol that tunes as `sound` does but for what is given."""
    own = dataclasses.replace(
        protocol.SOUND, name="own", tuning={"": protocol.Tuning(**tuning)}
    )
    monkeypatch.setitem(protocol.PROTOCOLS, "own", own)


def losses_of(settings, row):
    """The loss of every update of a trial, trained once more in one piece."""
    alone = dataclasses.replace(
        settings,
        seeds=(targets.TRIAL_SEED,),
        epochs=row["budget"],
        eval_every=1,
        hparams={row["method"]: row["hparams"]},
    )
    (block,) = blocks.plan(alone, blocks.make_tasks(settings, None))
    seeds, inputs = block.inputs()
    compiled = programs.compile_program(block.program, seeds, inputs)
    steps = block.example.steps
    parts = programs.train(compiled, block.program, seeds, inputs, steps)
    tables = [part.values for part in parts]
    losses = np.concatenate([t["last_batch_loss"][:, 0, 0] for t in tables])
    diverged_at = int(tables[-1]["diverged_at"][-1, 0, 0])
    return losses[: diverged_at - 1 if diverged_at else None].tolist(), steps


@pytest.mark.parametrize(
    "continuing", [True, pytest.param(False, marks=pytest.mark.slow)]
)
def test_trials_can_be_judged_by_the_mean_loss_of_all_updates(
    tmp_path, monkeypatch, continuing
):
    own_protocol(monkeypatch, cost="mean_batch_loss")
    settings = settings_of(protocol="own", tune__continuing=continuing)
    tune.run(settings, tmp_path)
    rows = rows_of(tmp_path, results.TRIALS)
    assert len({row["budget"] for row in rows}) > 1
    for row in rows[::4]:
        losses, steps = losses_of(settings, row)
        assert len(losses) == steps
        assert row["cost"] == pytest.approx(math.fsum(losses) / steps, rel=1e-6)
    assert all("mean_batch_loss" in row for row in rows_of(tmp_path, results.CURVES))


@pytest.mark.parametrize("rule", [100.0, "as measured"])
def test_what_a_diverged_trial_costs_is_the_protocols(tmp_path, monkeypatch, rule):
    own_protocol(monkeypatch, cost="mean_batch_loss", diverged=rule)
    settings = settings_of(
        protocol="own",
        methods=("sgd",),
        tune__tuner="grid",
        tune__trials=4,
        tune__space__learning_rate=(1e-2, 1e38, "log"),
    )
    tune.run(settings, tmp_path)
    rows = rows_of(tmp_path, results.TRIALS)
    crashed = [row for row in rows if row["status"] == "crashed"]
    assert crashed
    for row in crashed:
        losses, steps = losses_of(settings, row)
        measured = math.fsum(losses) / steps
        expected = measured if rule == "as measured" else rule
        assert row["cost"] == pytest.approx(expected, rel=1e-6)
        assert len(losses) < steps
        assert not row["incumbent"]


def test_trials_that_no_run_may_have_count_as_diverged(tmp_path, monkeypatch):
    """The study's space has cycles of length 0, which may fit best by chance."""
    cycles = Space({"T_0": Range(0, 3, log=False, integer=True)})
    own_protocol(monkeypatch, spaces={"cawr": cycles}, diverged=100.0)
    settings = settings_of(protocol="own", methods=("cawr",), tune__tuner="grid")
    tune.run(settings, tmp_path)
    rows = rows_of(tmp_path, results.TRIALS)
    lost = [row for row in rows if row["hparams"]["T_0"] == 0]
    assert lost
    assert {(row["status"], row["cost"]) for row in lost} == {("crashed", 100.0)}
    assert all(row["hparams"]["T_0"] > 0 for row in rows if row["incumbent"])


@pytest.mark.parametrize("task", TASKS)
def test_the_study_counts_what_diverges_as_its_code_does(task):
    tuning = protocol.STUDY.tuning_of(task)
    if task.startswith("bookwiki/"):
        assert (tuning.cost, tuning.diverged) == ("mean_batch_loss", "as measured")
    else:
        assert (tuning.cost, tuning.diverged) == ("last_batch_loss", 100)
    assert protocol.STUDY.sums_losses(task) == task.startswith("bookwiki/")
    assert not protocol.SOUND.sums_losses(task)


@pytest.mark.slow
def test_smac_tunes_under_both_protocols(tmp_path):
    for name in ("sound", "study"):
        settings = settings_of(
            protocol=name, tune__tuner="smac", tune__min_budget=3, seeds=1
        )
        tune.run(settings, tmp_path / name)
        trials = rows_of(tmp_path / name, results.TRIALS)
        assert len(trials) >= 9
        assert {row["budget"] for row in trials} == {3, 9}
        (row,) = rows_of(tmp_path / name, results.RUNS)
        assert row["method"] == "smac:adam"
        first = trials[0]["hparams"]["learning_rate"]
        assert (first == 1e-3) == (name == "sound")
        assert (tmp_path / name / "smac").is_dir()


BAD = {
    "the lower bound is above": {"tune__space__learning_rate": (1.0, 0.1)},
    "cannot start at 0": {"tune__space__learning_rate": (0.0, 0.1, "log")},
    "is above config.tune.max_budget": {
        "tune__min_budget": 5,
        "tune__max_budget": 4,
    },
    "the smallest budget, 20 epochs": {"tune__min_budget": 20},
    "config.tune.trials=0": {"tune__trials": 0},
    "did you mean 'smac'": {"tune__tuner": "smax"},
    "config.tune.eta=1": {"tune__eta": 1},
    "none of the methods adam": {"tune__space__momentum": (0.1, 0.9)},
    "cannot tune a boolean or text": {"tune__space__schedule": (0, 1)},
    "is for --mode=train": {"grid__learning_rate": (0.1, 0.2)},
    "seed of the trials": {"seeds": (targets.TRIAL_SEED,)},
    "tune.space: at d0=0: prodigy: d0 must be": {
        "methods": ("prodigy",),
        "tune__space__d0": (0.0, 0.1, "linear"),
    },
    "tune.space: at factor=1.5: reduce_on_plateau: factor must be": {
        "methods": ("reduce_on_plateau",),
        "tune__space__factor": (0.5, 1.5, "linear"),
    },
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_gets_one_line_before_anything_is_written(message, tmp_path):
    with pytest.raises(UsageError, match=message) as caught:
        tune.run(settings_of(**BAD[message]), tmp_path / "new")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new" / results.TRIALS).exists()


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda m: m.name)
def test_every_space_of_a_method_can_be_built_at_its_corners(method):
    base = dict(method.defaults) | dict.fromkeys(method.required, 1)
    spaces = {id(method.space): method.space}
    for choices in protocol.PROTOCOLS.values():
        for task in (*TASKS, "libsvm/iris"):
            found = choices.tuning_of(task).spaces.get(method.name, method.space)
            spaces[id(found)] = found  # the study's cycles of length 0 among them
    for space in spaces.values():
        targets._check_corners(method, base, space, "auto", space is method.space)


def test_an_empty_space_is_refused(monkeypatch, tmp_path):
    import dataclasses

    from lrjax.core import Space
    from lrjax.methods import METHODS

    bare = dataclasses.replace(METHODS["adam"], space=Space())
    monkeypatch.setitem(METHODS, "adam", bare)
    with pytest.raises(UsageError, match="its space is empty"):
        tune.run(settings_of(), tmp_path)


# In the memory that there is


def exhausted():
    return jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")


def fails_above(most, counts):
    """`local.train_unit` where memory holds blocks of up to `most` lanes."""
    train_unit = local.train_unit

    def tight(unit, *args):
        lanes = unit.block.program.num_seeds * unit.block.program.num_hparams
        counts.append(lanes)
        if lanes > most:
            raise exhausted()
        return train_unit(unit, *args)

    return tight


def random_search(**changes):
    return settings_of(tune__tuner="random", tune__trials=8, **changes)


def trained(settings, folder, signalled, progress):
    """Train the first stage of a tuning."""
    (target,) = targets.targets(settings, blocks.make_tasks(settings, None))
    search = search_lib.Search(target, tune.make_tuner(target, folder))
    search.ask()
    with local.launch(settings, folder) as launcher:
        launcher.session.signalled = signalled
        return list(trials.Trainer(launcher, progress).train(search.jobs()).values())


def test_trials_that_memory_does_not_hold_are_trained_in_halves(
    tmp_path, monkeypatch, capsys
):
    tune.run(random_search(), tmp_path / "whole")
    counts = []
    monkeypatch.setattr(local, "train_unit", fails_above(2, counts))
    tune.run(random_search(), tmp_path / "tight")
    assert "out of memory, continuing with" in capsys.readouterr().err
    assert min(counts) == 2 < max(counts)
    whole, found = (rows_of(tmp_path / f, results.TRIALS) for f in ("whole", "tight"))
    assert [row["hparams"] for row in whole] == [row["hparams"] for row in found]
    assert [row["cost"] for row in whole] == pytest.approx(
        [row["cost"] for row in found], rel=1e-4
    )
    assert not list((tmp_path / "tight" / "checkpoints").glob("*"))


def test_halves_go_on_from_the_states_of_the_whole(tmp_path, monkeypatch):
    """Promoted trials, whose block is halved after they were given their states."""
    tune.run(settings_of(), tmp_path / "whole")
    train_unit = local.train_unit

    def tight(unit, *args):
        if unit.begin.steps and unit.block.program.num_hparams > 1:
            raise exhausted()
        return train_unit(unit, *args)

    monkeypatch.setattr(local, "train_unit", tight)
    tune.run(settings_of(), tmp_path / "tight")
    whole, found = (rows_of(tmp_path / f, results.TRIALS) for f in ("whole", "tight"))
    assert len({row["budget"] for row in found}) > 1
    assert [row["cost"] for row in whole] == pytest.approx(
        [row["cost"] for row in found], rel=1e-4
    )


def test_a_trial_that_no_memory_holds_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "train_unit", fails_above(0, []))
    with pytest.raises(UsageError, match="one run alone needs more memory"):
        tune.run(random_search(), tmp_path)


def test_trials_for_which_there_is_no_memory_are_refused_before_any_is_trained(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(machine, "free_memory", lambda device: 1000.0)
    with pytest.raises(UsageError, match=r"one block needs .* and 1000 B can be used"):
        tune.run(random_search(), tmp_path)
    assert not (tmp_path / results.TRIALS).exists()


@pytest.mark.parametrize(
    ("most", "free", "expected"), [(3, 1e9, 3), (3, 2.5e8, 1), (2, 1e9, 2)]
)
def test_as_many_blocks_of_trials_train_at_once_as_there_is_room_for(
    tmp_path, monkeypatch, most, free, expected
):
    """Four blocks that need 200 MB each."""
    compile_program = programs.compile_program
    monkeypatch.setattr(
        programs,
        "compile_program",
        lambda *args: compile_program(*args)._replace(need=2e8),
    )
    monkeypatch.setattr(machine, "free_memory", lambda device: free)
    monkeypatch.setattr(units, "blocks_at_once", lambda todo, device: most)
    inside, seen, all_in = [], [], threading.Event()
    lock, train_unit = threading.Lock(), local.train_unit

    def counted(unit, *args):
        with lock:
            inside.append(unit)
            seen.append(len(inside))
            if len(inside) >= expected:
                all_in.set()
        all_in.wait(10)
        time.sleep(0.1)
        found = train_unit(unit, *args)
        with lock:
            inside.remove(unit)
        return found

    monkeypatch.setattr(local, "train_unit", counted)
    settings = settings_of(tune__tuner="random", tune__trials=16)
    progress = []
    trained(settings, tmp_path, lambda: 0, progress.append)
    assert len(seen) == 4
    assert max(seen) == expected
    assert sum(progress) == pytest.approx(16)


def test_what_was_done_before_counts_as_progress(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "MAX_ROUNDS", 4)  # more than one segment a trial
    settings = settings_of(
        epochs=300, checkpoint_minutes=0.0, tune__tuner="random", tune__trials=2
    )
    first, second = [], []
    with pytest.raises(Interrupted):
        trained(settings, tmp_path, lambda: 15 * (sum(first) > 0), first.append)
    assert 0 < sum(first) < 2
    trained(settings, tmp_path, lambda: 0, second.append)
    assert second[0] == pytest.approx(sum(first))
    assert sum(second) == pytest.approx(2)


def test_what_fails_to_compile_for_want_of_memory_is_compiled_again(
    tmp_path, monkeypatch
):
    calls, compile_program = [], programs.compile_program

    def tight(*args):
        calls.append(args)
        if len(calls) == 1:
            raise exhausted()
        return compile_program(*args)

    monkeypatch.setattr(programs, "compile_program", tight)
    monkeypatch.setattr(units, "blocks_at_once", lambda todo, device: 2)
    assert len(trained(random_search(), tmp_path, lambda: 0, lambda _: None)) == 8


def test_measurements_are_kept_whole(tmp_path, monkeypatch):
    """In float64 all digits; in float32 as many as give it back."""
    value = 0.1234567890123456
    row = {"valid_loss": np.float64(value), "train_loss": np.float32(value)}

    def measured(*_):
        values = {name: np.full((1, 1, 4), x) for name, x in row.items()}
        yield programs.Measurements(np.array([9]), values, 0.0, {"x": np.zeros((1, 4))})

    monkeypatch.setattr(programs, "train", measured)
    found = trained(random_search(), tmp_path, lambda: 0, lambda _: None)
    assert found[0].values["valid_loss"] == value
    assert np.float32(found[0].values["train_loss"]) == np.float32(value)
    assert found[0].values["train_loss"] == 0.123456791


def test_a_signal_while_trials_are_compiled_is_heard(tmp_path, monkeypatch):
    compiling, go_on = threading.Event(), threading.Event()

    def slow(*_):
        compiling.set()
        go_on.wait(60)
        raise AssertionError("nobody waits for this")

    monkeypatch.setattr(programs, "compile_program", slow)
    monkeypatch.setattr(units, "blocks_at_once", lambda todo, device: 1)
    with pytest.raises(Interrupted):
        trained(
            *(random_search(), tmp_path),
            *(lambda: 15 * compiling.is_set(), lambda _: None),
        )
    go_on.set()


def test_tasks_whose_names_run_together_have_folders_of_their_own(
    tmp_path, monkeypatch
):
    rows = "".join(f"{i % 2} 1:{i}\n" for i in range(20))
    (tmp_path / "a").mkdir()
    paths = [tmp_path / "a" / "b.svm", tmp_path / "a-b.svm"]
    for path in paths:
        path.write_text(rows)
    settings = settings_of(
        tasks=tuple(f"svmlight:{path}" for path in paths), tune__tuner="smac"
    )
    asked = []
    monkeypatch.setattr(tune.smac, "Smac", lambda *args: asked.append(args[1]))
    for target in targets.targets(settings, blocks.make_tasks(settings, None)):
        tune.make_tuner(target, tmp_path)
    assert len(set(asked)) == 2
    for folder in asked:
        assert folder.parent == tmp_path / "smac"
        assert len(folder.name) < 100


def test_a_cost_that_is_small_is_not_said_to_be_zero():
    (target,) = targets.targets(*blocks.load(settings_of(), None))
    assert target.cost_text(2.3e-5) == "validation loss 2.3e-05"
    assert target.cost_text(0.0) == "validation loss 0.000"
    assert target.cost_text(0.4567) == "validation loss 0.457"
