"""Tuning as a whole: continuing changes no bit, a cut tuning goes on, right rows."""

import json
import math
import signal

import jax
import pytest

from lrjax import blocks, experiment, programs, results
from lrjax import config as config_lib
from lrjax.core import Interrupted, UsageError
from lrjax.hpo import trials, tune


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


def test_continuing_changes_no_bit(finished, tmp_path):
    changed = settings_of(methods=("adamw_cosine",), tune__continuing=False)
    tune.run(changed, tmp_path)
    assert same(tmp_path, finished)
    budgets = [row["budget"] for row in rows_of(finished, results.TRIALS)]
    assert len(set(budgets)) > 1


@pytest.mark.parametrize("kept", [1, 4, 8, 9])
def test_a_tuning_that_was_cut_goes_on_with_the_same_trials(finished, tmp_path, kept):
    cut(finished, tmp_path / "cut", kept)
    tune.run(settings_of(methods=("adamw_cosine",)), tmp_path / "cut")
    assert same(tmp_path / "cut", finished)


def test_a_stage_that_was_cut_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "MAX_ROUNDS", 4)  # more than one segment a trial
    settings = settings_of(
        epochs=300, seeds=1, checkpoint_minutes=0.0, tune__tuner="random"
    )
    tune.run(settings, tmp_path / "whole")
    save = experiment.save

    def last_save(*arguments):
        save(*arguments)
        raise Interrupted(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "save", last_save)
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
    widths, chosen = [], tune.width_of

    def width_of(*arguments):
        widths.append(chosen(*arguments))
        return widths[-1]

    monkeypatch.setattr(tune, "width_of", width_of)
    tune.run(settings, tmp_path / "whole")
    assert widths == [4, 1]  # eight trials, then two
    cut(tmp_path / "whole", tmp_path / "cut", 7)
    tune.run(settings, tmp_path / "cut")
    assert widths[2:] == widths[:2]
    assert same(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="on a CPU alone")
def test_convolutions_are_tuned_one_by_one_on_a_cpu(tmp_path, monkeypatch):
    seen, compile_program = [], programs.compile_program

    def compiled(program, *rest):
        seen.append(program)
        return compile_program(program, *rest)

    monkeypatch.setattr(programs, "compile_program", compiled)
    settings = settings_of(
        tasks=("digits/wrn",), steps=2, tune__unit="steps", tune__tuner="random"
    )
    (target,) = tune.targets(settings, blocks.make_tasks(settings, None))
    search = tune.Search(target, tune.make_tuner(target, tmp_path))
    search.ask()
    with results.Tables(tmp_path) as tables:
        arguments = (tables, settings, lambda: 0, lambda _: None)
        with trials.Trainer(*arguments) as trainer:
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


def test_smac_tunes_under_both_protocols(tmp_path):
    for protocol in ("sound", "study"):
        settings = settings_of(
            protocol=protocol, tune__tuner="smac", tune__min_budget=3, seeds=1
        )
        tune.run(settings, tmp_path / protocol)
        trials = rows_of(tmp_path / protocol, results.TRIALS)
        assert len(trials) >= 9
        assert {row["budget"] for row in trials} == {3, 9}
        (row,) = rows_of(tmp_path / protocol, results.RUNS)
        assert row["method"] == "smac:adam"
        first = trials[0]["hparams"]["learning_rate"]
        assert (first == 1e-3) == (protocol == "sound")
        assert (tmp_path / protocol / "smac").is_dir()


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
    "is no number to tune": {"tune__space__schedule": (0, 1)},
    "is for --mode=train": {"grid__learning_rate": (0.1, 0.2)},
    "seed of the trials": {"seeds": (tune.TRIAL_SEED,)},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_gets_one_line_before_anything_is_written(message, tmp_path):
    with pytest.raises(UsageError, match=message) as caught:
        tune.run(settings_of(**BAD[message]), tmp_path / "new")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new" / results.TRIALS).exists()


def test_an_empty_space_is_refused(monkeypatch, tmp_path):
    import dataclasses

    from lrjax.core import Space
    from lrjax.methods import METHODS

    bare = dataclasses.replace(METHODS["adam"], space=Space())
    monkeypatch.setitem(METHODS, "adam", bare)
    with pytest.raises(UsageError, match="its space is empty"):
        tune.run(settings_of(), tmp_path)


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
    for target in tune.targets(settings, blocks.make_tasks(settings, None)):
        tune.make_tuner(target, tmp_path)
    assert len(set(asked)) == 2
    for folder in asked:
        assert folder.parent == tmp_path / "smac"
        assert len(folder.name) < 100
