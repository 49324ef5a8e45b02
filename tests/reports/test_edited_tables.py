"""Tables that people have edited: read as meant, or one line with the field."""

import dataclasses
import json
import re

import fabricated
import numpy as np
import pandas as pd
import pytest

from lrjax import results
from lrjax.analysis import curves as curves_lib
from lrjax.analysis import scores
from lrjax.core import UsageError
from lrjax.reports import (
    drawing,
    export,
    findings,
    published,
    selected,
    study,
    terminal,
)

TASKS = ("libsvm/iris", "t")
ABSENT = object()
ODD = (None, [], ["a"], {}, {"a": [1]}, "x", "", "1", True, -1, 10**400, "NaN", "1e999")
ODD = (ABSENT, *ODD)
NUMBERS = ("steps", "horizon", "diverged_at", "valid_loss", "test_accuracy", "seconds")


def text_of(row):
    """A line of JSON in which words for numbers that JSON has not are bare."""
    return re.sub(r'"(NaN|1e999)"', r"\1", json.dumps(row)) + "\n"


def edited(row, name, value):
    row = {**row, name: value}
    return {k: v for k, v in row.items() if v is not ABSENT}


def look(folder):
    """All that reads the tables but for drawing."""
    runs, curves = study.read([folder])
    joined = curves_lib.join(scores.judge(runs), curves)
    terminal.ranking(results.load(folder)[0])
    return runs, joined


def refusal(read, folder):
    """What is said of a folder in one line; '' where it is read."""
    try:
        read(folder)
    except UsageError as error:
        said = str(error)
    else:
        return ""
    assert said.isprintable()
    assert len(said) < 300
    return said


@pytest.fixture(scope="module")
def rows():
    return fabricated.runs_and_curves(TASKS, ("adam", "sgd"), 2, 2)


def put(folder, runs, curves):
    (folder / "runs.jsonl").write_text("".join(map(text_of, runs)))
    (folder / "curves.jsonl").write_text("".join(map(text_of, curves)))


RUN = fabricated.one("a", "t", "adam", 0, 2, None, False)[0]


@pytest.mark.parametrize("name", [*RUN, "source", "entry", "metric", "mine"])
def test_any_value_in_any_field_of_a_run(name, rows, tmp_path):
    runs, curves = rows
    for value in ODD:
        put(tmp_path, [*runs[:3], edited(runs[3], name, value), *runs[4:]], curves)
        said = refusal(look, tmp_path)
        assert not said or re.search(f"runs.jsonl.* '?{name}'?|valid JSON", said)


@pytest.mark.parametrize("name", ["run_id", "step", "epoch", "valid_loss", "mine"])
def test_any_value_in_any_field_of_a_curve(name, rows, tmp_path):
    runs, curves = rows
    for value in ODD:
        put(tmp_path, runs, [*curves[:3], edited(curves[3], name, value), *curves[4:]])
        said = refusal(look, tmp_path)
        assert not said or re.search(r"curves\.jsonl: line 4 (is dam|repeats)", said)


MUST = [
    (name, value) for name in NUMBERS for value in ("1", True, [1], 10**400, "1e999")
]
MUST += [("steps", ABSENT), ("task", ABSENT), ("status", None), ("source", ["a"])]
MUST += [("examples", "many"), ("run_id", ""), ("run_id", 5), ("seed", True)]
MUST += [("seed", -1), ("seed", 1.5), ("seed", "NaN"), ("method", ""), ("task", ["t"])]
MUST += [
    ("hparams", {"a": {"b": 1}}),
    ("hparams", {"a": [1]}),
    ("hparams", {"a": "NaN"}),
]
MUST += [
    ("steps", 0),
    ("steps", -1),
    ("hparams", []),
    ("hparams", {"a": 10**400}),
    ("valid_loss", "NaN"),
]


@pytest.mark.parametrize(("name", "value"), MUST)
def test_what_cannot_be_meant_is_refused(name, value, rows, tmp_path):
    runs, curves = rows
    put(tmp_path, [*runs[:3], edited(runs[3], name, value), *runs[4:]], curves)
    with pytest.raises(UsageError, match=r"runs\.jsonl: line 4 is damaged: "):
        look(tmp_path)


def test_a_status_that_nobody_knows_is_refused(rows, tmp_path):
    runs, curves = rows
    put(tmp_path, [*runs[:3], runs[3] | {"status": "finished"}, *runs[4:]], curves)
    with pytest.raises(UsageError, match="status 'finished' is none of done, "):
        look(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("step", value) for value in (True, "1", 1.5, -1, None, "NaN", 10**400)),
        *(("valid_loss", value) for value in ("1", True, [1], "NaN", "1e999")),
        *(("run_id", value) for value in ("", 5, None)),
    ],
)
def test_curves_that_cannot_be_meant_are_refused(name, value, rows, tmp_path):
    runs, curves = rows
    put(tmp_path, runs, [*curves[:3], edited(curves[3], name, value), *curves[4:]])
    with pytest.raises(UsageError, match=r"curves\.jsonl: line 4 is damaged: "):
        look(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        *({"budget": value} for value in ("1", True, 0, -1, None, [1], "NaN", 10**400)),
        *({"cost": value} for value in ("1", True, [1], "1e999")),
        *({"task": value} for value in (None, 5, ABSENT)),
        *({"hparams": {"a": [1]}}, {"tuner": ["smac"]}, {"seed": "x"}, {"seed": []}),
    ],
)
def test_edited_trials_are_refused(changes, tmp_path):
    (row,) = fabricated.trials(("t",), "adam", 5)[:1]
    (tmp_path / "trials.jsonl").write_text(text_of(row))
    assert len(study._read_trials([tmp_path], {"adam"})) == 1
    ((name, value),) = changes.items()
    (tmp_path / "trials.jsonl").write_text(text_of(edited(row, name, value)))
    with pytest.raises(
        UsageError, match=r"trials\.jsonl: line 1 is damaged: "
    ) as refused:
        study._read_trials([tmp_path], {"adam"})
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


ANSWER = fabricated.answer()
UNREAD = {"method", "hparams", "why", "metric", "similar", "unlike", "surprised"}
UNREAD |= {"described", "probed", "seeds", "snippet", "left_out"}  # by the report
# Refused, rather than drawn or told: texts as numbers, and numbers as texts.
MUST_BE = {
    **dict.fromkeys(("task", "how", "label", "runner_up"), (None, 5, ["a"], ABSENT)),
    **dict.fromkeys(("score", "best", "near", "cost"), ("1", True, [1], {}, ABSENT)),
    **dict.fromkeys(("budget", "runner_up_better"), ("x", True, [1], ABSENT)),
    "horizon": (1.5, -1, "1", None, True, ABSENT),
    "interval": (None, [1.0], [1, 2, 3], ["1", 2], ABSENT),
    "scale": (None, {}, {"name": "accuracy"}, "accuracy", ABSENT),
    "values": (None, 1, ABSENT),
    "judged": (None, 1, "x", ["x"], [{"label": "sgd"}], ABSENT),
}


def tell(folder):
    (found,) = selected.read([folder])
    assert selected.sentence(found)
    assert isinstance(found["horizon"] + found["runs"], int)
    return found


def draw(folder):
    with drawing.style() as plt:
        drawing.picture(selected.draw(plt, [tell(folder)])[0], "selection")


def test_every_field_of_an_answer_is_read_or_known_not_to_be():
    assert set(ANSWER) == {*MUST_BE, *UNREAD}


@pytest.mark.parametrize("name", ANSWER)
def test_any_value_in_any_field_of_an_answer(name, tmp_path):
    for value in ODD:
        text = text_of([edited(ANSWER, name, value)])
        (tmp_path / "selection.json").write_text(text)
        said = refusal(tell, tmp_path)
        assert not said or "selection.json is damaged: " in said
        assert not (said and name in UNREAD) or "valid JSON" in said


@pytest.mark.slow
@pytest.mark.parametrize("name", ANSWER["judged"][0])
def test_any_value_in_any_field_of_a_contender(name, tmp_path):
    first, *others = ANSWER["judged"]
    for value in ODD:
        text = text_of([ANSWER | {"judged": [edited(first, name, value), *others]}])
        (tmp_path / "selection.json").write_text(text)
        said = refusal(draw, tmp_path)
        assert not said or "selection.json is damaged: " in said


@pytest.mark.parametrize("name", MUST_BE)
def test_what_an_answer_cannot_mean_is_refused(name, tmp_path):
    for value in MUST_BE[name]:
        text = text_of([edited(ANSWER, name, value)])
        (tmp_path / "selection.json").write_text(text)
        with pytest.raises(UsageError, match=r"selection\.json is damaged: "):
            selected.read([tmp_path])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task,method,metric,mean\nt,a,l,1,2\n", "line 2 has 5 values for 4 columns"),
        ("task,method,metric,mean\nt,a,l\n", "row 1 has no mean"),
        ("task,method,metric,mean,mean\nt,a,l,1,2\n", "has the column 'mean' twice"),
        ("task,task,metric,mean\nt,a,l,1\n", "has no column 'method'"),
        ("task,method,metric,mean\nt,a,l,inf\n", "row 1: 'inf' is no mean"),
        (
            "task,method,metric,mean,std_error\nt,a,l,1,x\n",
            "row 1: 'x' is no std_error",
        ),
        ("task,method,metric,mean,std_error\nt,a,l,1,-1\n", "'-1' is no std_error"),
        ('task,method,metric,mean\n"t,a,l,1\n', "published.csv: "),
        ("task;method;metric;mean\nt;a;l;1\n", "has no column 'task'"),
    ],
)
def test_published_tables_that_cannot_be_meant(text, message, tmp_path):
    path = tmp_path / "published.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=re.escape(message)) as refused:
        published.read(str(path))
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("ending", ["zip", "gz", "bz2", "xz"])
def test_published_tables_may_be_packed(ending, tmp_path):
    path = tmp_path / f"published.csv.{ending}"
    text = {"task": ["t"], "method": ["NA"], "metric": ["loss"], "mean": [0.5]}
    wanted = pd.DataFrame({**text, "method": ["a"]})
    wanted.to_csv(path, index=False)
    found = published.read(str(path))
    assert found.drop(columns="std_error").equals(wanted)
    content = path.read_bytes()
    for damage in (content[: len(content) // 2], content[:10], b"x" * 99, b""):
        path.write_bytes(damage)
        with pytest.raises(UsageError, match=r"published\.csv") as refused:
            published.read(str(path))
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("scheme", ["http", "https", "s3", "ftp", "file", "memory"])
def test_published_tables_are_not_fetched(scheme, tmp_path):
    address = f"{scheme}://localhost/{tmp_path}/published.csv"
    with pytest.raises(UsageError, match="an address; download it"):
        published.read(address)


def test_limits_of_published_tables(tmp_path):
    path = tmp_path / "published.csv"
    path.write_text("x," * 2000)
    with pytest.raises(UsageError, match="has 2,001 columns"):
        published.read(str(path))
    path.write_bytes(b"task,method,metric,mean\n" + b"a,b,c,1\n" * 2**17)
    with pytest.raises(UsageError, match="holds more than 1,048,576 bytes"):
        published.read(str(path))


def test_a_metric_that_is_a_name_has_no_counterpart(rows, tmp_path):
    put(tmp_path, *rows)
    options = study.Options(bootstrap=10)
    found = study.read_study([tmp_path], options)
    table = pd.DataFrame(
        {"task": "t", "method": "adam", "metric": ["status", "hparams", "valid_loss"]}
    ).assign(mean=1.0, std_error=np.nan)
    assert list(published.match(found, table)["metric"]) == ["valid_loss"]


# Folders of an export


@pytest.mark.parametrize(
    "names",
    [
        ["svmlight:/d/a-b.svm", "svmlight:/d/a/b.svm"],
        ["..", ".", "", "...", "../..", "/", "//", "/etc", "a/../../b", "-", "--"],
        ["a", "A", "ä", "Ä", "a\\b", "a/b", "a-b", "a\0b", "a\nb"],
        ["x" * 500, "x" * 501, "\u4e2d" * 300],
        ["a b", "a b ", "a b."],
    ],
)
def test_folders_of_an_export_are_distinct_and_stay_inside(names, tmp_path):
    made = export.folders(names)
    assert set(made) == set(names)
    assert len({folder.casefold() for folder in made.values()}) == len(names)
    for folder in made.values():
        path = tmp_path / folder
        path.mkdir()
        assert path.resolve().parent == tmp_path.resolve()
    assert export.folders(["libsvm/wine", "adam"]) == {
        "libsvm/wine": "libsvm-wine",
        "adam": "adam",
    }


def test_tasks_whose_names_run_together_have_event_files_of_their_own(tmp_path):
    names = ["svmlight:/d/a-b.svm", "svmlight:/d/a/b.svm", ".."]
    runs = pd.DataFrame(
        {"run_id": list("abc"), "task": names, "entry": "..", "seed": 0}
    )
    curves = pd.DataFrame({"run_id": list("abc"), "step": 1, "valid_loss": 0.1})
    folder = tmp_path / "out" / "tensorboard"
    export.tensorboard(runs, curves, folder)
    assert len(list(folder.rglob("events*"))) == 3
    assert len(list(tmp_path.rglob("events*"))) == 3


def test_options_that_a_config_file_left_out():
    for name in ("baseline", "compare", "smooth", "bootstrap"):
        with pytest.raises(UsageError, match=f"report.{name}=None: must be "):
            dataclasses.replace(study.Options(), **{name: None})


@pytest.mark.parametrize("value", ODD[1:])
def test_any_value_in_any_field_of_the_config(value, rows, tmp_path):
    put(tmp_path, *rows)
    found = study.read_study([tmp_path], study.Options(bootstrap=10))
    for content in (
        value,
        *({name: value} for name in ("config", "versions", "git_revision")),
        *({"config": {name: value}} for name in ("tasks", "methods")),
        {"config": {"tasks": [value]}, "versions": {"jax": value}},
    ):
        (tmp_path / "config.json").write_text(text_of(content))
        assert findings.notes(found, [tmp_path])
        named = "tasks asked for" in findings._missing(found, [tmp_path])
        assert not named or isinstance(value, str | list)
