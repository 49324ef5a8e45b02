import collections
import copy
import dataclasses
import functools
import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_collections import config_dict

from configs import libsvm, quickstart, study
from lrjax import config as config_lib
from lrjax import hyperparameters, protocol
from lrjax.common import fields
from lrjax.core import UsageError
from lrjax.launch import blocks
from lrjax.methods import METHODS


def checked(**changes):
    """Settings of the quickstart with fields changed; dots as double underscores."""
    config = quickstart.get_config()
    for name, value in changes.items():
        *path, last = name.split("__")
        part = config
        for step in path:
            part = part[step]
        part[last] = value
    return config_lib.check(config)


def test_quickstart_is_what_its_docstring_says():
    settings = checked()
    assert len(settings.tasks) * len(settings.methods) * len(settings.seeds) == 300
    assert settings.protocol == "sound"
    assert settings.length("libsvm/iris") == (100, "epochs")


def test_libsvm_takes_data_sets_as_its_argument():
    assert libsvm.get_config("iris, wine").tasks == ("libsvm/iris", "libsvm/wine")
    assert len(libsvm.get_config().tasks) == 9


@pytest.mark.parametrize(
    ("given", "seeds"), [(3, (0, 1, 2)), ((3, 5), (3, 5)), ((0,), (0,))]
)
def test_seeds_are_a_number_or_a_list(given, seeds):
    assert checked(seeds=given).seeds == seeds


def test_names_may_be_separated_by_commas():
    assert checked(methods=("adam, prodigy",)).methods == ("adam", "prodigy")


def test_lanes_are_the_product_of_the_grid():
    settings = checked(
        grid__learning_rate=(0.1, 1.0), grid__momentum=(0.0, 0.5, 0.9), methods=("sgd",)
    )
    lanes = settings.hparams_grid("sgd", "libsvm/iris")
    pairs = [(lane["learning_rate"], lane["momentum"]) for lane in lanes]
    assert pairs == [(r, m) for r in (0.1, 1.0) for m in (None, 0.5, 0.9)]


def test_a_method_without_the_grids_hyperparameter_runs_once():
    settings = checked(grid__momentum=(0.0, 0.9))
    assert len(settings.hparams_grid("momentum", "libsvm/iris")) == 2
    assert len(settings.hparams_grid("adam", "libsvm/iris")) == 1


def test_grid_beats_hparams_beats_protocol_beats_defaults():
    task = "libsvm/iris"
    only = {"tasks": (task,), "methods": ("smac",), "protocol": "study"}
    study = checked(**only)
    rate = study.hparams_grid("smac", task)[0]["learning_rate"]
    assert np.float32(rate) == np.float32(0.9988558724108)
    assert study.hparams_grid("smac", task)[0]["b2"] == 0.99
    told = checked(**only, hparams__smac__learning_rate=0.5)
    assert told.hparams_grid("smac", task)[0]["learning_rate"] == 0.5
    both = checked(
        **only, hparams__smac__learning_rate=0.5, grid__learning_rate=(0.25,)
    )
    assert both.hparams_grid("smac", task)[0]["learning_rate"] == 0.25
    assert METHODS["adam"].defaults["b2"] == 0.999


def counting(monkeypatch, name):
    """What a method was built with, from here on: one dictionary for each time."""
    built, method = [], METHODS[name]

    def build(horizon, **hparams):
        built.append(hparams)
        return method.build(horizon, **hparams)

    monkeypatch.setitem(METHODS, name, dataclasses.replace(method, build=build))
    return built


def test_each_setting_is_looked_at_once(monkeypatch):
    built = counting(monkeypatch, "momentum")
    rates = tuple(0.001 * k for k in range(1, 601))  # more than one trace takes
    asked = {
        "tasks": ("libsvm/iris", "libsvm/wine", "digits/logistic"),
        "methods": ("momentum",),
        "grid__learning_rate": rates,
    }
    settings = checked(**asked)
    assert len(built) == len(rates)
    assert len({lane["learning_rate"] for lane in built}) == len(rates)
    assert len(settings.hparams_grid("momentum", "libsvm/iris")) == len(rates)
    checked(**asked)  # as each further config of a study does
    assert len(built) == len(rates)
    checked(**asked, precision="float64")  # in which numbers may be others
    assert len(built) == 2 * len(rates)


def test_what_is_refused_is_refused_again(monkeypatch):
    built = counting(monkeypatch, "prodigy")
    asked = {
        "methods": ("prodigy",),
        "tasks": ("libsvm/iris", "libsvm/wine"),
        "grid__d0": (1e-6, 0.0, 1e-5),
    }
    said = []
    for _ in range(2):
        with pytest.raises(UsageError, match=r"^prodigy: d0 must be") as error:
            checked(**asked)
        said.append(str(error.value))
    assert said[0] == said[1]
    assert [lane["d0"] for lane in built] == [1e-6, 0.0, 0.0]


def test_values_that_only_a_method_knows_need_no_hash(monkeypatch):
    built = []

    def build(horizon, table):
        built.append(table)
        return METHODS["sgd"].build(horizon, **METHODS["sgd"].defaults)

    own = dataclasses.replace(
        METHODS["sgd"], build=build, defaults={"table": {"a": 1}}, domains={}
    )
    assert hyperparameters.complete(own, {"table": {"a": 2}}, "auto")
    assert built == [{"a": 2}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("adm",)}, "unknown method 'adm'; did you mean 'adam'?"),
        ({"methods": ()}, "config.methods is empty"),
        ({"tasks": (" , ",)}, "config.tasks is empty"),
        ({"protocol": "sond"}, "unknown protocol 'sond'; did you mean 'sound'?"),
        ({"precision": "float16"}, "unknown precision 'float16'"),
        ({"seeds": 0}, "at least one seed"),
        ({"seeds": -3}, "at least one seed"),
        ({"seeds": ()}, "at least one seed"),
        ({"seeds": (1, 1)}, "a seed comes twice"),
        ({"seeds": (1, -1)}, "-1 is not between"),
        ({"seeds": (2**32,)}, "is not between"),
        ({"seeds": 10**12}, "more than 1000000 seeds"),
        ({"seeds": "many"}, "give a number or a tuple"),
        ({"seeds": True}, "give a number or a tuple"),
        ({"seeds": 2.5}, "give a number or a tuple"),
        ({"epochs": 0}, "config.epochs=0: must be a whole number from 1 up"),
        ({"epochs": 2**31}, "config.epochs=2147483648: must be below 2**31"),
        ({"steps": -1}, "config.steps=-1"),
        ({"steps": 2**31}, "config.steps"),
        ({"batch_size": 0}, "config.batch_size=0"),
        ({"eval_every": 0}, "config.eval_every=0"),
        ({"micro_batches": 0}, "config.micro_batches=0: must be a whole number"),
        ({"label_smoothing": 1.0}, "config.label_smoothing=1.0: must be in [0, 1)"),
        ({"label_smoothing": -0.1}, "config.label_smoothing=-0.1: must be in [0, 1)"),
        ({"checkpoint_minutes": -1.0}, "config.checkpoint_minutes=-1.0"),
        ({"checkpoint_minutes": math.nan}, "config.checkpoint_minutes=nan"),
        ({"hparams__adam__learning_rate": -0.1}, "adam.learning_rate=-0.1: must be in"),
        ({"hparams__adam__learning_rate": "high"}, "must be a number"),
        ({"hparams__adam__learning_rate": math.inf}, "must be in [0, inf)"),
        ({"hparams__adam__learning_rate": math.nan}, "must be in [0, inf)"),
        ({"hparams__adam__learning_rate": 10**400}, "must be in [0, inf)"),
        ({"hparams__adam__b1": 1.0}, "adam.b1=1.0: must be in [0, 1)"),
        ({"hparams__adam__schedule": "cosin"}, "unknown schedule 'cosin'; did you"),
        ({"grid__schedule": ([1],)}, "unknown schedule '(1,)'"),
        ({"hparams__prodigy__decouple": 1}, "must be True or False"),
        ({"hparams__cawr__T_0": 0}, "cawr.T_0=0: must be a whole number from 1"),
        ({"hparams__cawr__t_mult": 0.5}, "cawr.t_mult=0.5: must be a whole number"),
        ({"hparams__prodigy__growth_rate": 0.9}, "must be in [1, inf]"),
        ({"grid__alpha": (1.0,), "methods": ("adam", "sgd")}, "none of the methods"),
        ({"grid__learning_rate": (0.1, -1.0)}, "learning_rate=-1.0"),
        ({"grid__learning_rate": (0.1, None)}, "learning_rate=None: must be a number"),
        ({"grid__nesterov": (None,), "methods": ("sgd",)}, "must be True or False"),
        ({"methods": ("smac",)}, "method 'smac' needs learning_rate"),
        (
            {"methods": ("cawr_tuned",), "protocol": "study", "tasks": ("x",)},
            "method 'cawr_tuned' needs",
        ),
    ],
)
def test_bad_settings_are_named_in_one_line(changes, message):
    with pytest.raises(UsageError) as error:
        checked(**changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_infinite_growth_rate_is_a_setting():
    lanes = checked(hparams__prodigy__growth_rate=math.inf).hparams_grid("prodigy", "x")
    assert lanes[0]["growth_rate"] == math.inf


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)
)


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(
    seeds=st.one_of(scalars, st.lists(scalars, max_size=3).map(tuple)),
    values=st.dictionaries(
        st.sampled_from(sorted(METHODS["prodigy"].defaults)), scalars, max_size=3
    ),
    grid=st.dictionaries(
        st.sampled_from(sorted(METHODS["prodigy"].defaults)),
        st.lists(scalars, max_size=2).map(tuple),
        max_size=2,
    ),
    methods=st.lists(
        st.one_of(st.text(max_size=5), st.sampled_from(sorted(METHODS))), max_size=2
    ).map(tuple),
)
def test_any_config_gives_settings_or_a_usage_error(seeds, values, grid, methods):
    config = quickstart.get_config()
    config.seeds = seeds
    config.methods = methods
    for name, value in values.items():
        config.hparams.prodigy[name] = value
    for name, value in grid.items():
        config.grid[name] = value
    try:
        found = config_lib.check(config)
    except UsageError:
        return
    assert found.seeds
    assert found.methods


ODD = [
    *(None, 7, -1, 0.5, math.nan, True, "x", "x" * 10**5, b"x", "a\nb"),
    *([], ["a", 1], (None,), range(3), [[[]]], np.float32(0.5), np.arange(3)),
    *({"a": 1}, config_dict.ConfigDict({"a": {"b": 1}}), object(), max),
]
# Of the many fields for hyperparameters these stand for all.
FIELDS = [
    field
    for field, _ in fields.leaves(config_lib.base())
    if field.split(".")[0] not in ("grid", "hparams")
    and not field.startswith("tune.space")
] + [
    *("grid.learning_rate", "grid.schedule", "hparams.adam.learning_rate"),
    *("hparams.adam", "hparams", "grid", "tune.space.learning_rate", "tune", "report"),
    *("hparams.learned.policy", "hparams.greedy_lr.window_size", "grid.T_0"),
]


@pytest.mark.parametrize("field", FIELDS)
def test_any_value_of_any_field_is_taken_or_refused_in_one_line(field):
    config = quickstart.get_config()
    config.methods = ("adam", "learned", "greedy_lr", "cawr")
    found = config_dict.ConfigDict(config)  # takes values as they are
    *path, last = field.split(".")
    part = found
    for step in path:
        part = part[step]
    for value in ODD:
        with part.ignore_type():
            part[last] = value
        try:
            config_lib.check(found)
        except UsageError as error:
            said = str(error)
            assert "\n" not in said
            assert len(said) < 400


# Random configs, block by block

# name -> fields, and valid values beside which odd ones are drawn
GROUPS = {
    "lengths": [
        "curve_parts",
        "epochs",
        "steps",
        "batch_size",
        "eval_every",
        "micro_batches",
    ],
    "names": ["tasks", "methods", "protocol", "precision", "shard"],
    "flags": [
        *("remat", "scan_layers", "stream", "profile"),
        *("save_params", "skip_missing", "label_smoothing"),
    ],
    "seeds": ["seeds", "tune.seeds", "select.seeds", "checkpoint_minutes"],
    **{
        block: [field for field in FIELDS if field.startswith(f"{block}.")]
        for block in (
            "tune",
            "select",
            "advise",
            "cluster",
            "report",
            "text",
            "hparams",
            "grid",
        )
    },
}
VALID = [
    *(1, 2, 3, 100, 0.1, 0.5, 1.0, True, False, None, "", (), (1, 2), (0.1, 0.5)),
    *("adam", ("adam", "sgd"), "libsvm/iris", "sound", "study", "float32", "smac"),
    *("race", "bakeoff"),
    *(
        "epochs",
        "steps",
        "truncate",
        "runs",
        "batch",
        "csv",
        "local",
        (0.001, 0.1, "log"),
    ),
    *("tcp://h:1", "8GB", np.int32(2), np.float32(0.25), np.arange(1, 3), range(2)),
]
anything = st.one_of(
    st.sampled_from(VALID),
    st.sampled_from(ODD),
    scalars,
    st.text(max_size=20),
    st.lists(scalars, max_size=3),
    st.lists(st.sampled_from(VALID), max_size=3).map(tuple),
    st.dictionaries(st.text(max_size=3), scalars, max_size=2),
    st.integers(-(10**400), 10**400),
)


def test_every_field_is_in_a_group():
    grouped = {name for names in GROUPS.values() for name in names}
    assert set(FIELDS) - grouped == {"hparams", "grid", "tune", "report"}


def refusal(values):
    """What is said of fields set as by a config file; '' if they are accepted."""
    config = quickstart.get_config()
    config.methods = ("adam", "learned", "greedy_lr", "cawr")
    for field, value in values.items():
        *path, last = field.split(".")
        part = functools.reduce(lambda part, step: part[step], path, config)
        try:
            part[last] = copy.deepcopy(value)  # ConfigDicts are kept, not copied
        except (TypeError, ValueError, KeyError, OverflowError):  # of ml_collections
            return "a value of another type"
    try:
        config_lib.check(config)
    except UsageError as error:
        return str(error)
    return ""


def check_group(group, cases):
    counts = collections.Counter()

    @settings(
        max_examples=cases,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.dictionaries(st.sampled_from(GROUPS[group]), anything, max_size=3))
    def each(values):
        said = refusal(values)
        assert said.isprintable()
        assert len(said) < 400
        counts[not said] += 1

    each()
    assert counts[True] + counts[False] >= cases
    assert counts[True]
    assert counts[False]


@pytest.mark.parametrize("group", GROUPS)
def test_random_values_of_a_group_are_taken_or_refused_in_one_line(group):
    check_group(group, 40)


@pytest.mark.parametrize("field", ["seeds", "hparams.adam.learning_rate", "grid.x"])
def test_a_config_that_holds_itself_is_refused_in_one_line(field):
    config = quickstart.get_config()
    *path, last = field.split(".")
    part = functools.reduce(lambda part, step: part[step], path, config)
    with part.unlocked(), part.ignore_type():
        part[last] = part
    with pytest.raises(UsageError, match=r"^config.[a-z_.]+: nested too deeply"):
        config_lib.check(config)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_many_random_values_of_a_group_are_taken_or_refused_in_one_line(group):
    check_group(group, 2000)


@pytest.mark.parametrize(
    ("field", "value", "kept"),
    [
        ("seeds", range(3), (0, 1, 2)),
        ("seeds", np.arange(2), (0, 1)),
        ("steps", np.int64(5), 5),
        ("checkpoint_minutes", np.float32(0.5), 0.5),
        ("remat", np.True_, True),
        ("tasks", np.array(["libsvm/iris"]), ("libsvm/iris",)),
    ],
)
def test_a_config_takes_numpys_values(field, value, kept):
    for freeze in (lambda config: config, config_dict.FrozenConfigDict):
        config = quickstart.get_config()
        config[field] = value
        assert getattr(config_lib.check(freeze(config)), field) == kept


@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5), np.array(0.5)])
def test_numpys_hyperparameters_are_pythons_own_in_the_record(value):
    config = quickstart.get_config()
    config.hparams.adam.learning_rate = value
    config.grid.eps = (value,)
    found = config_lib.check(config)
    record = json.dumps([dict(found.hparams), dict(found.grid)])
    assert json.loads(record) == [{"adam": {"learning_rate": 0.5}}, {"eps": [0.5]}]


@pytest.mark.parametrize(
    ("name", "given", "reason"),
    [
        ("report.metric", {"mode": "train"}, "without config.report.after"),
        ("report.metric", {"mode": "train", "after": True}, ""),
        ("report.after", {"mode": "tune", "after": True}, ""),
        ("report.after", {"mode": "select", "after": True}, "report, not select"),
        ("report.smooth", {"mode": "plan", "planned": "train", "after": True}, ""),
        ("report.smooth", {"mode": "report"}, ""),
        ("methods", {"mode": "report"}, "a report reads config.report alone"),
        ("tune.trials", {"mode": "train"}, "it is for --mode=tune, not train"),
        ("tune.trials", {"mode": "tune"}, ""),
        ("tune.trials", {"mode": "plan", "planned": "train"}, "--of=tune plans"),
        ("tune.trials", {"mode": "plan", "planned": "tune"}, ""),
        ("select.budget", {"mode": "advise"}, "it is for --mode=select, not advise"),
        ("select.history", {"mode": "advise"}, ""),
        ("select.methods", {"mode": "tune"}, "--mode=select and advise, not tune"),
        ("advise.spend", {"mode": "select"}, "it is for --mode=advise, not select"),
        ("seeds", {"mode": "select"}, "it is for --mode=train and tune, not select"),
        ("methods", {"mode": "select"}, ""),
        ("hparams.adam.b1", {"mode": "train"}, ""),
        ("cluster.workers", {"mode": "train", "remote": False}, "--launcher=dask"),
        ("cluster.workers", {"mode": "train", "remote": True}, ""),
    ],
)
def test_a_field_that_a_mode_does_not_read_is_named(name, given, reason):
    lines = config_lib.unused_fields([name], **given)
    assert bool(lines) == bool(reason)
    for line in lines:
        assert line.startswith(f"config.{name} changes nothing: ")
        assert reason in line


def test_what_is_set_for_methods_that_do_not_run_is_named():
    settings = checked(hparams__sgd__momentum=0.5, methods=("adam",))
    (line,) = config_lib.unused_hparams(settings, settings.methods)
    assert line.startswith("config.hparams.sgd changes nothing")
    assert not config_lib.unused_hparams(settings, ("adam", "sgd"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 1000}, "batch_size=1000: every batch is the whole"),
        (
            {"eval_every": 1000, "steps": 10},
            "config.eval_every=1000 exceeds the length",
        ),
        ({}, None),
    ],
)
def test_what_cannot_be_as_it_was_asked_for_is_said(changes, said):
    settings = checked(tasks=("libsvm/iris", "libsvm/wine"), **changes)
    with warnings.catch_warnings(record=True, action="always") as caught:
        blocks.load(settings, None)
    found = [str(each.message) for each in caught]
    assert [text.startswith(said) for text in found if said] == [True] * bool(said)
    assert bool(found) == bool(said)
    assert all("libsvm/iris, libsvm/wine" in text for text in found)


def test_tasks_without_data_are_named_in_one_warning(tmp_path):
    absent = [f"svmlight:{tmp_path}/{name}" for name in "abc"]
    settings = checked(tasks=(*absent, "libsvm/iris"), skip_missing=True)
    with pytest.warns(UserWarning, match="left out: ") as caught:
        found, _ = blocks.load(settings, None)
    assert found.tasks == ("libsvm/iris",)
    (warning,) = caught
    texts = [name.removeprefix("svmlight:") for name in absent]
    assert all(text in str(warning.message) for text in texts)


@pytest.mark.parametrize("way", study.METHODS)
@pytest.mark.parametrize("part", ["libsvm", "vision", "text"])
def test_all_methods_of_the_study_have_what_they_need_on_its_tasks(part, way):
    settings = config_lib.check(study.get_config(f"{part}:{way}"))
    assert settings.tasks == study.TASKS[part]
    assert settings.protocol == ("study" if way == "study" else "sound")
    lengths = {"libsvm": (100, "epochs"), "vision": (300, "epochs")}
    expected = lengths.get(part, (23_000, "steps"))
    assert {settings.length(task) for task in settings.tasks} == {expected}


def test_lengths_of_the_config_are_stronger_than_the_protocols():
    assert checked(epochs=7).length("cifar10/wrn16_2") == (7, "epochs")
    assert checked(epochs=7, steps=5).length("cifar10/wrn16_2") == (5, "steps")


@pytest.mark.parametrize("argument", ["libsv", "libsvm:soun", ":", ""])
def test_an_unknown_part_of_the_study_is_refused(argument):
    with pytest.raises(UsageError, match="unknown"):
        study.get_config(argument)


def test_a_third_protocol_is_one_dataclass(monkeypatch):
    cautious = protocol.Protocol(
        name="cautious",
        data="study",
        hparams={"prodigy": {"schedule": "constant"}},
        lengths={"": (7, "epochs")},
    )
    monkeypatch.setitem(protocol.PROTOCOLS, "cautious", cautious)
    wanted = checked(
        tasks=("libsvm/iris",), methods=("prodigy",), protocol="cautious", epochs=None
    )
    (block,) = blocks.plan(wanted, blocks.make_tasks(wanted, None))[:1]
    task, run = block.program.task, block.example
    assert task.valid is task.train  # as `study` has it
    assert run.protocol == "cautious"
    assert run.steps == 7 * task.steps_per_epoch
    assert dict(run.hparams)["schedule"] == "constant"
