"""A study that is followed is known as well as one that is read at once."""

import itertools
import json
import os

import fabricated
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrjax.tables import parts
from lrjax.watch import clock, follow
from lrjax.watch.follow import Study
from lrjax.watch.sections import Parts

TASKS, METHODS = ("libsvm/iris", "libsvm/wine"), ("adam", "momentum", "cocob")
HOSTILE = "<img src=x onerror=alert(1)>\"'&\x1b[2J\u202e"


def started(run):
    """The row of a run that begins."""
    names = ("run_id", "task", "protocol", "method", "hparams", "seed", "steps")
    return {name: run[name] for name in names} | {"horizon": 9, "kind": "run"}


def tables(tasks=TASKS, methods=METHODS, seeds=3, **options):
    """Table -> its lines, as a training writes them."""
    runs, curves = fabricated.runs_and_curves(tasks, methods, seeds, **options)
    rows = {
        "started.jsonl": map(started, runs),
        "runs.jsonl": runs,
        "curves.jsonl": curves,
        "trials.jsonl": fabricated.trials(tasks[:1], "adam", 5),
    }
    return {
        name: "".join(json.dumps(row) + "\n" for row in of_table).encode()
        for name, of_table in rows.items()
    }


def write(folder, contents):
    for name, content in contents.items():
        with (folder / name).open("ab") as file:
            file.write(content)


def progress(**changes):
    """What progress.json says in the middle of a training."""
    fields = {"mode": "train", "state": "training", "what": "adam", "pid": 1}
    fields |= {"runs": 18, "runs_done": 6, "updates": 1000, "updates_done": 400}
    return fields | {"updates_before": 0, "began": 100.0, "written": 200.0} | changes


def known(study):
    """All that is known."""
    runs = study.runs().sort_values("run_id").reset_index(drop=True)
    has = [r for r in runs["run_id"] if study.has_curve(r)]
    steps, values, columns = study.points(has)
    return runs, steps, values, columns, study.trials, sorted(study.faults)


def same(one, other):
    (runs, steps, values, *rest), (runs2, steps2, values2, *rest2) = one, other
    pd.testing.assert_frame_equal(runs, runs2, check_like=True)
    assert np.array_equal(steps, steps2)
    assert np.array_equal(values, values2, equal_nan=True)
    assert rest == rest2


@given(st.lists(st.floats(0, 1), max_size=4), st.booleans(), st.data())
@settings(max_examples=15)
def test_any_split_of_appends_is_like_reading_at_once(
    tmp_path_factory, cuts, damage, data
):
    contents = tables(seeds=2, epochs=70, diverged=[(TASKS[0], "adam", 0)])
    if damage:
        for name in contents:
            lines = contents[name].splitlines(keepends=True)
            place = data.draw(st.integers(0, len(lines)))
            bad = data.draw(
                st.sampled_from([b"{\n", b"\xff\n", b"\n", b"[1]\n", b"NaN\n"])
            )
            contents[name] = b"".join([*lines[:place], bad, *lines[place:]])
    whole, split = (tmp_path_factory.mktemp(name) for name in ("whole", "split"))
    write(whole, contents)
    at_once, by_pieces = Study(whole), Study(split)
    at_once.look()
    for begin, end in itertools.pairwise([0.0, *sorted(cuts), 1.0]):
        for name, content in contents.items():
            size = len(content)
            write(split, {name: content[int(begin * size) : int(end * size)]})
        by_pieces.look()
    same(known(at_once), known(by_pieces))
    assert by_pieces.generation == 1
    assert bool(at_once.faults) is damage


def test_only_what_was_appended_is_read(tmp_path, monkeypatch):
    contents = tables()
    write(tmp_path, contents)
    study = Study(tmp_path)
    study.look()
    read = []
    monkeypatch.setattr(
        follow.Tail, "pieces", lambda tail: read.append(tail.path.name) or iter(())
    )
    study.look()
    assert not read
    write(tmp_path, {"curves.jsonl": b"{}\n"})
    study.look()
    assert read == ["curves.jsonl"]


def test_runs_that_train_have_their_curves(tmp_path):
    contents = tables()
    write(tmp_path, {n: contents[n] for n in ("started.jsonl", "curves.jsonl")})
    study = Study(tmp_path)
    study.look()
    runs = study.runs()
    assert set(runs["status"]) == {follow.TRAINING}
    assert all(map(study.has_curve, runs["run_id"]))
    assert study.changed_tasks == set(TASKS)
    study.changed_tasks.clear()
    first = contents["runs.jsonl"].splitlines(keepends=True)[0]
    write(tmp_path, {"runs.jsonl": first})
    study.look()
    assert sorted(study.runs()["status"]).count("done") == 1
    assert study.changed_tasks == {TASKS[0]}


def test_without_started_runs_have_names_when_they_end(tmp_path):
    contents = tables()
    write(tmp_path, {"curves.jsonl": contents["curves.jsonl"]})
    study = Study(tmp_path)
    study.look()
    assert study.nameless == len(TASKS) * len(METHODS) * 3
    write(tmp_path, {"runs.jsonl": contents["runs.jsonl"]})
    study.look()
    assert study.nameless == 0
    assert set(study.runs()["task"]) == set(TASKS)


@pytest.mark.parametrize("table", ["started.jsonl", "runs.jsonl", "curves.jsonl"])
def test_a_table_that_is_replaced_is_read_anew(tmp_path, table):
    write(tmp_path, tables())
    study = Study(tmp_path)
    study.look()
    for name, content in tables(tasks=("other",)).items():
        (tmp_path / name).unlink()
        write(tmp_path, {name: content})
    study.look()
    assert study.generation == 2
    assert set(study.runs()["task"]) == {"other"}
    (tmp_path / table).unlink()
    study.look()
    assert study.generation == 3


def test_a_training_that_is_killed_and_goes_on_is_the_same_study(tmp_path):
    """It cuts off what is torn, and repeats what it had not heard of."""
    contents = tables()
    whole = contents["curves.jsonl"]
    middle = whole.index(b"\n", len(whole) // 2) + 1
    write(tmp_path, contents | {"curves.jsonl": whole[: middle + 20]})
    study = Study(tmp_path)
    study.look()
    with (tmp_path / "curves.jsonl").open("r+b") as file:
        file.truncate(middle)
    study.look()
    lines = whole[:middle].splitlines(keepends=True)
    write(tmp_path, {"curves.jsonl": b"".join(lines[-5:]) + whole[middle:]})
    write(tmp_path, {"started.jsonl": contents["started.jsonl"]})
    study.look()
    other = tmp_path / "other"
    other.mkdir()
    write(other, contents)
    at_once = Study(other)
    at_once.look()
    same(known(study), known(at_once))
    assert study.generation == 1


def test_curves_of_blocks_are_read_while_they_train_and_once_published(tmp_path):
    contents = tables()
    curves = contents.pop("curves.jsonl").splitlines(keepends=True)
    write(tmp_path, contents)
    block = parts.table_of(tmp_path, "block")
    block.parent.mkdir(parents=True)
    study = Study(tmp_path)
    study.look()
    block.write_bytes(b"".join(curves[:40]))
    study.look()
    before = known(study)[1]
    with block.open("ab") as file:
        file.write(b"".join(curves[40:]))
    study.look()
    assert known(study)[1].size > before.size
    parts.publish(block, tmp_path)
    block.unlink()
    for _ in range(3):
        study.look()
    block.parent.rmdir()
    for _ in range(3):
        study.look()
    assert study.generation == 1
    late = Study(tmp_path)
    late.look()
    same(known(study), known(late))
    assert not study.faults


def test_metrics_that_come_later_change_what_is_read(tmp_path):
    runs, curves = fabricated.runs_and_curves(("t",), ("adam",), 2)
    for row in (*runs, *curves):
        row["valid_mine"] = row["valid_loss"]
    fabricated.lines(tmp_path / "runs.jsonl", runs)
    fabricated.lines(tmp_path / "curves.jsonl", curves)
    study = Study(tmp_path)
    study.look()
    assert "valid_mine" not in study.points([runs[0]["run_id"]])[2]
    metric = {"name": "mine", "higher_is_better": False, "unit": "", "digits": 3}
    metric |= {"least": None, "greatest": None}
    (tmp_path / "config.json").write_text(json.dumps({"metrics": {"t": [metric]}}))
    study.look()
    _steps, values, columns = study.points([runs[0]["run_id"]])
    assert np.isfinite(values[..., columns.index("valid_mine")]).any()
    assert study.generation == 1
    html = Parts(study)
    html.refresh()
    assert "validation mine" in html.draw("task-0")


# Whatever is there


def everything(workdir):
    """All parts of a page of a directory, as HTML."""
    study = Study(workdir)
    study.look()
    shown = Parts(study)
    shown.refresh()
    drawn = {name: shown.draw(name) for name in list(shown.due)}
    return drawn | shown.quick()


@pytest.mark.parametrize("there", [False, True], ids=["missing", "empty"])
def test_a_directory_without_anything_is_waited_for(tmp_path, there):
    workdir = tmp_path / HOSTILE.replace("/", "")
    if there:
        workdir.mkdir()
    html = everything(workdir)
    words = "Nothing was measured yet" if there else "does not exist yet"
    assert words in html["progress"]
    assert "<img" not in "".join(html.values())


def test_names_are_shown_as_text(tmp_path):
    contents = tables(tasks=(HOSTILE,), methods=(HOSTILE, "adam"))
    write(tmp_path, contents)
    note = progress(what=HOSTILE, state=HOSTILE)
    (tmp_path / "progress.json").write_text(json.dumps(note))
    answer = fabricated.answer(HOSTILE, HOSTILE)
    (tmp_path / "selection.json").write_text(json.dumps([answer]))
    html = everything(tmp_path)
    text = "".join(html.values())
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert "<img" not in text
    assert not {"\x1b", "\u202e"} & set(text)
    assert "cannot be drawn" not in text


ODD = [
    b"\x00" * 100 + b"\n",
    b'{"run_id": 1, "step": 2}\n',
    b'{"run_id": "a", "step": -1}\n',
    b'{"run_id": "a", "step": 1e400}\n',
    b'{"run_id": "a", "step": 9223372036854775807, "valid_loss": null}\n',
    b'{"run_id": "a", "step": 1, "valid_loss": NaN}\n',
    b'{"run_id": "a", "step": 1, "valid_loss": 1e308}\n',
    b'{"run_id": "a", "step": 1, "valid_loss": "<b>"}\n',
    b"[" * 10**5 + b"\n",
    b'{"run_id": "b", "task": "t", "status": "done"}\n',
    b'{"run_id": "b", "task": "t", "status": "odd", "method": "m"}\n',
    b'{"run_id": "b", "task": "t", "status": "done", "method": "m"}\n',
    b'{"task": {}, "hparams": []}\n',
]


def spoil(folder, odd, contents):
    """Put an odd line into all files, after sound ones."""
    names = ("started.jsonl", "runs.jsonl", "curves.jsonl", "trials.jsonl")
    for name in (*names, "races.jsonl"):
        write(folder, {name: contents.get(name, b"") + odd})
    for name in ("config.json", "progress.json", "selection.json"):
        (folder / name).write_bytes(odd)


@pytest.mark.parametrize("number", range(len(ODD)))
def test_an_odd_line_does_no_harm(tmp_path, number):
    spoil(tmp_path, ODD[number], {})
    assert everything(tmp_path)["progress"]


def test_odd_lines_hide_no_others(tmp_path):
    contents = tables(seeds=1)
    spoil(tmp_path, b"".join(ODD), contents)
    html = everything(tmp_path)
    assert "<svg" in html["task-0"]
    assert "cannot be drawn" not in html["task-0"]
    assert "damaged lines" in html["faults"]


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_other_things_in_the_place_of_files_are_named(tmp_path, kind):
    names = ("started.jsonl", "runs.jsonl", "curves.jsonl", "progress.json")
    for name in (*names, "config.json", "selection.json", "races.jsonl"):
        path = tmp_path / name
        if kind == "link":
            path.symlink_to("/dev/zero")
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.mkdir()
    html = everything(tmp_path)
    assert "cannot read" in html["faults"]


def test_a_grid_is_drawn_by_the_best_of_each_method(tmp_path):
    rates = {"adam": [10.0**-i for i in range(1, 10)]}
    rates["momentum"] = [10.0**-i for i in range(1, 11)]
    contents = tables(tasks=("t",), methods=tuple(rates), rates=rates)
    write(tmp_path, contents)
    html = everything(tmp_path)
    assert "2 of 19 settings are drawn" in html["task-0"]
    assert "adam learning_rate=0.001" in html["chips"]  # the best by construction


@pytest.mark.parametrize(
    ("seeds", "basis"), [(2, ""), (3, ", by the first 2 runs of each")]
)
def test_who_leads_is_said_as_in_the_report(seeds, basis, tmp_path):
    """Entries may be level, and those that train have fewer runs than others."""
    runs, curves = fabricated.runs_and_curves(
        ("t",), ("adam", "sgd"), seeds, missing=[("t", "sgd", 2)]
    )
    for run in runs:  # each wins once
        won = run["seed"] == (run["method"] == "sgd")
        run |= {"valid_accuracy": 0.9 if won else 0.8}
    fabricated.lines(tmp_path / "runs.jsonl", runs)
    fabricated.lines(tmp_path / "curves.jsonl", curves)
    sentence = f"adam and sgd have the best mean rank so far, 1.50 of 2{basis}."
    assert sentence in everything(tmp_path)["runs"]


@pytest.mark.parametrize("lost", [1, 2])
def test_half_of_the_runs_lost_leave_no_mean(lost, tmp_path):
    runs, curves = fabricated.runs_and_curves(
        ("t",), ("adam",), 4, diverged=[("t", "adam", seed) for seed in range(lost)]
    )
    fabricated.lines(tmp_path / "runs.jsonl", runs)
    fabricated.lines(tmp_path / "curves.jsonl", curves)
    mean = np.mean([run["valid_accuracy"] for run in runs[lost:]])
    assert (f">{mean:.4f}<" in everything(tmp_path)["task-0"]) == (lost < 2)


def test_tasks_that_get_other_names_are_shown_by_these(tmp_path):
    """As those that are trained under a second protocol."""
    contents = tables(tasks=("t",), seeds=1)
    write(tmp_path, contents)
    study = Study(tmp_path)
    study.look()
    shown = Parts(study)
    shown.refresh()
    before = shown.generation
    other = contents["runs.jsonl"].replace(b"sound", b"study")
    write(tmp_path, {"runs.jsonl": other.replace(b'"run_id": "', b'"run_id": "x')})
    study.look()
    shown.refresh()
    assert shown.generation == before + 1
    tasks = [name for name in shown.due if name.startswith("task-")]
    titles = {shown.draw(name).split("</h2>")[0].split("<h2>")[1] for name in tasks}
    assert titles == {"t (sound)", "t (study)"}


def test_contenders_are_listed_while_they_are_measured(tmp_path):
    rows = [
        {
            **{"race": "r", "contender": contender, "run": run, "task": "t"},
            **{"method": "adam", "hparams": {"learning_rate": rate}, "steps": 5},
            **{"status": status, "valid_loss": loss, "seed": 0},
        }
        for contender, run, rate, status, loss in [
            (0, 0, 0.1, "done", 0.5),
            (0, 1, 0.1, "done", 0.25),
            (1, 0, 10.0, "diverged", None),
            (2, 0, 0.01, "done", 0.125),
        ]
    ]
    fabricated.lines(tmp_path / "races.jsonl", rows)
    html = everything(tmp_path)["selection"]
    assert "3 contenders trained so far, in 4 runs." in html
    order = [html.index(f"learning_rate={rate})") for rate in ("0.01", "0.1", "10")]
    assert order == sorted(order)
    assert "0.375" in html  # the mean of the first
    (tmp_path / "selection.json").write_text(json.dumps([fabricated.answer("t")]))
    html = everything(tmp_path)["selection"]
    assert "the best with probability 0.62" in html
    assert "3 contenders trained" in html


# Time


@pytest.mark.parametrize("number", [10**400, 1e300, float("nan"), "7", None])
def test_numbers_of_progress_that_cannot_be_are_none(number, tmp_path):
    (tmp_path / "progress.json").write_text(json.dumps(progress(updates=number)))
    study = follow.Study(tmp_path)
    study.look()
    assert study.progress is None


def test_what_an_earlier_command_did_is_no_speed():
    told = clock.Clock()
    for second in range(11):
        done = 10 * second + (500 if second > 5 else 0)  # known runs are found
        note = progress(
            written=float(second),
            updates=1000,
            updates_done=done,
            updates_before=500 if second > 5 else 0,
        )
        told.note(note)
    assert told.left(note) == pytest.approx((1000 - 600) / 10)


def test_time_left_follows_from_the_last_minute():
    told = clock.Clock()
    note = progress(written=0.0, updates_done=0)
    told.note(note)
    assert told.left(note) is None  # nothing has been seen yet
    for second in range(1, 101):
        # Slow while programs compile, then ten updates a second.
        done = max(0, second - 30) * 10
        note = progress(written=float(second), updates_done=done)
        told.note(note)
        if 5 < second <= 30:
            assert told.left(note) is None
    assert told.left(note) == pytest.approx((1000 - 700) / 10)
    words = clock.sentence(note, told.left(note), 100.0)
    assert words.endswith("70 % of all updates, about 30 s left")
    again = progress(written=110.0, updates_done=100)  # it was started anew
    told.note(again)
    assert told.left(again) is None
    assert "estimating" in clock.sentence(again, None, 110.0)


def test_silence_is_said():
    words = clock.sentence(progress(written=0.0), 5.0, 600.0)
    assert "no news for 10 min" in words
    ended = clock.sentence(progress(written=0.0, state="ended"), 5.0, 600.0)
    assert ended.startswith("Ended, 6 of 18 runs done")
    assert "news" not in ended


def test_what_is_read_aloud_changes_ten_times():
    said = [clock.announced(progress(updates_done=done)) for done in range(1001)]
    assert len(set(said)) == 11
    assert clock.announced(progress(state="ended")) == "Ended"
