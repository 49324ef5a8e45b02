"""One setting has one identity, however it is written, and is checked as it is used."""

import dataclasses
import fractions
import math
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import quickstart
from lrjax import (
    config,
    hyperparameters,
    identity,
    methods,
    protocol,
    tasks,
)
from lrjax.common import numerics
from lrjax.core import (
    Domain,
    Metric,
    Run,
    Task,
    UsageError,
)
from lrjax.hpo import contenders, targets, tuners
from lrjax.identity import (
    is_number,
    plain,
    run_id,
    used,
)
from lrjax.launch import blocks
from lrjax.methods import METHODS

RUN = Run(
    task="libsvm/iris",
    protocol="sound",
    method="sgd",
    hparams=(("learning_rate", 0.1), ("weight_decay", 0.0)),
    seed=3,
    steps=200,
    horizon=200,
    batch_size=64,
    precision="float32",
    eval_every=2,
    data="0123456789abcdef",
    options=(("label_smoothing", 0.1),),
)
NUMBERS = [
    (method.name, name, default)
    for method in METHODS.values()
    for name, default in method.defaults.items()
    if is_number(default)
]
WHOLE = [
    (method.name, name)
    for method in METHODS.values()
    for name, domain in method.domains.items()
    if domain.whole
]
# Numbers that are in every domain but those of decays, or in all.
NORMAL = st.floats(1e-37, 1e37) | st.floats(-1e37, -1e-37) | st.just(0.0)


def spellings(value):
    """One number in the types that people have it in; whole ones as int, too."""
    made = [value, np.float64(value), np.array(value, np.float64), [value][0]]
    if value == used(value, np.float32):
        made += [np.float32(value), jnp.float32(value), np.array(value, np.float32)]
    if math.isfinite(value) and value == int(value) and abs(value) < 2**31:
        made += [int(value), float(value), np.int32(value), np.int64(value)]
        made += [fractions.Fraction(int(value))]
    if value == 0:
        made += [-0.0, np.float32(-0.0)]
    return made


def wanted(**changes):
    return checked(plain_config(), changes)


def plain_config():
    made = quickstart.get_config()
    made.tasks, made.seeds, made.epochs = ("libsvm/iris",), 1, 2
    return made


def checked(made, changes):
    """Settings of a config, which keeps the changes."""
    for name, value in changes.items():
        *path, last = name.split("__")
        part = made
        for step in path:
            part = part[step]
        part[last] = value
    return config.check(made)


def ids(**changes):
    """Identities of all runs that a config makes."""
    asked = wanted(**changes)
    found = blocks.plan(asked, TASKS[asked.precision])
    return [run for block in found for row in block.ids for run in row]


@pytest.fixture(autouse=True, scope="module")
def _loaded():
    asked = wanted()
    TASKS["auto"] = blocks.make_tasks(asked, None)


TASKS: dict = {}


# What a value is


@given(NORMAL)
@settings(max_examples=200)
def test_a_number_as_it_is_used_rounds_to_the_same_number(value):
    found = used(value, np.float32)
    assert np.float32(found) == np.float32(value)
    assert used(found, np.float32) == used(np.float32(value), np.float32) == found
    assert used(value, np.float64) == value
    assert digits(found) <= digits(float(np.float32(value)))


def digits(value):
    """Significant digits of a number as Python writes it."""
    return len(Decimal(repr(value)).normalize().as_tuple().digits)


@pytest.mark.parametrize(
    ("value", "single", "double"),
    [
        (np.float32(0.1), 0.1, 0.10000000149011612),
        (0.1, 0.1, 0.1),
        (-0.0, 0.0, 0.0),
        (1e-320, 0.0, 0.0),
        (1e-40, 0.0, 1e-40),
        (0.999999999999, 1.0, 0.999999999999),
        (1e39, math.inf, 1e39),
        (10**400, math.inf, math.inf),
        (-(10**400), -math.inf, -math.inf),
        (True, True, True),
        (np.True_, True, True),
        ("cosine", "cosine", "cosine"),
        (None, None, None),
    ],
)
def test_values_as_they_are_used(value, single, double):
    assert repr(used(value, np.float32)) == repr(single)
    assert repr(used(value, np.float64)) == repr(double)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.arange(3), (0, 1, 2)),
        (range(3), (0, 1, 2)),
        ([0, [np.int8(1), 2.5]], (0, (1, 2.5))),
        (np.str_("a"), "a"),
        (np.array(2.5), 2.5),
        (jnp.arange(2), (0, 1)),
        (jnp.bfloat16(0.5), 0.5),
        (np.longdouble(0.5), 0.5),
    ],
)
def test_values_become_pythons_own(given, expected):
    assert repr(plain(given)) == repr(expected)


@pytest.mark.parametrize(
    "given",
    [
        np.datetime64("2020-01-01"),
        np.timedelta64(1, "s"),
        np.void(b"ab"),
        np.array([(1, 2.0)], [("a", int), ("b", float)]),
    ],
)
def test_what_is_no_number_stays_as_it_is(given):
    assert plain(given) is given


# Who a run is


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5, 3.0, 1e-3, math.inf])
@pytest.mark.parametrize("part", ["hparams", "options"])
def test_a_run_is_known_by_its_value_and_not_by_its_spelling(value, part):
    found = {
        run_id(dataclasses.replace(RUN, **{part: (("momentum", spelling),)}))
        for spelling in spellings(value)
    }
    assert len(found) == 1


@pytest.mark.parametrize("field", ["seed", "steps", "horizon", "batch_size"])
def test_numpys_whole_numbers_are_whole_numbers(field):
    value = np.int64(getattr(RUN, field))
    assert run_id(dataclasses.replace(RUN, **{field: value})) == run_id(RUN)


def test_what_differs_in_use_differs():
    def of(value, precision="float32"):
        pair = (("learning_rate", value),)
        return run_id(dataclasses.replace(RUN, hparams=pair, precision=precision))

    single = np.float32(0.1)
    assert of(0.1) == of(single) != of(np.nextafter(single, np.float32(1)))
    assert of(0.1, "float64") != of(single, "float64")
    assert len({of(v) for v in (0, 1, True, False, None, "0", math.inf)}) == 7
    assert identity.run_id is run_id


@pytest.mark.parametrize(("method", "name", "default"), NUMBERS)
def test_a_config_makes_one_run_of_every_spelling_of_a_default(method, name, default):
    found = METHODS[method]
    spelled = [
        hyperparameters.normal(found, dict(found.defaults) | {name: each}, "auto")
        for each in spellings(default)
        if not any(found.defaults[n] is None for n in found.required)
    ]
    assert len({tuple(values.items()) for values in spelled}) <= 1
    assert all(type(v[name]) is type(default) for v in spelled)
    runs = [dataclasses.replace(RUN, hparams=tuple(v.items())) for v in spelled]
    assert len(set(map(run_id, runs))) <= 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"hparams__sgd__weight_decay": 0}, {}),
        ({"hparams__sgd__learning_rate": np.float32(0.1)}, {}),
        ({"grid__weight_decay": (0, 0.0, -0.0, np.float32(0))}, {}),
        (
            {"grid__learning_rate": np.logspace(-2, 0, 3)},
            LOGSPACE := {
                "grid__learning_rate": (0.01, 0.1, 1),
            },
        ),
        ({"grid__learning_rate": [np.float32(0.01), 0.1, 1.0]}, LOGSPACE),
        ({"seeds": np.arange(2)}, {"seeds": range(2)}),
        ({"seeds": np.int64(2)}, {"seeds": (0, 1)}),
        (
            {"methods": ("cawr",), "hparams__cawr__T_0": 30.0},
            CAWR := {
                "methods": ("cawr",),
                "hparams__cawr__T_0": 30,
            },
        ),
        ({"methods": ["cawr"], "hparams__cawr__T_0": np.float32(30)}, CAWR),
        ({"methods": ("cawr",), "grid__T_0": np.array([30])}, CAWR),
        ({"epochs": np.int64(2)}, {}),
    ],
)
def test_configs_that_mean_the_same_make_the_same_runs(one, other):
    both = [ids(**({"methods": ("sgd",)} | changes)) for changes in (one, other)]
    assert both[0] == both[1]
    assert len(set(both[0])) == len(both[0])


@pytest.mark.parametrize("value", [True, np.True_, (True,), (np.True_,), 2.5, (0, 0)])
def test_seeds_are_whole_numbers(value):
    with pytest.raises(UsageError, match=r"config\.seeds"):
        wanted(seeds=value)


def test_tunings_and_trials_do_not_depend_on_spelling():
    def target(**changes):
        asked = wanted(methods=("sgd",), tune__tuner="random", **changes)
        return targets.targets(asked, TASKS["auto"])[0]

    here = target(tune__space__learning_rate=(0.001, 1.0, "log"))
    there = target(
        tune__space__learning_rate=[np.float32(0.001), 1, "log"],
        hparams__sgd__weight_decay=0,
    )
    assert here.identity() == there.identity()
    exact = tuners.Trial(1, {"learning_rate": 0.123456789}, 1)
    rounded = tuners.Trial(1, {"learning_rate": np.float32(0.123456789)}, 1)
    assert here.hparams(exact) == here.hparams(rounded)
    assert here.trial_run(exact) == here.trial_run(rounded)
    assert here.hparams(exact)["learning_rate"] == 0.12345679


def test_contenders_of_a_race_do_not_depend_on_spelling():
    def entries(**changes):
        asked = wanted(methods=("sgd",), **changes)
        found = contenders.contenders([METHODS["sgd"]], "libsvm/iris", asked)
        return [entry.hparams for entry in found]

    assert entries() == entries(hparams__sgd__weight_decay=0)
    own = dataclasses.replace(
        METHODS["sgd"], defaults=METHODS["sgd"].defaults | {"weight_decay": 0}
    )
    (first, *_) = contenders.contenders([own], "libsvm/iris", wanted())
    assert first.hparams == entries()[0]


def test_numpys_numbers_are_traced_like_pythons():
    values = METHODS["sgd"].defaults | {
        "momentum": np.float32(0.5),
        "nesterov": np.True_,
    }
    static, traced = methods.split(METHODS["sgd"], values)
    assert traced["momentum"] == 0.5
    assert dict(static) == {"nesterov": True, "schedule": "constant"}


def own_task(scale=1.0, activation=jnp.tanh, weights=(0.5, 1.0), **changes):
    """A task whose model has the same parameters whatever it does with them."""
    held = jnp.asarray(weights)

    def init(key):
        return {"w": scale * jax.random.normal(key, (2,))}, ()

    def loss(params, state, key, batch):
        drawn = jax.random.normal(jax.random.fold_in(numerics.key(7), 1)) + 0 * key_of(
            key
        )
        errors = activation(batch["x"] @ (held * params["w"])) - batch["y"]
        return jnp.mean(batch["mask"] * errors**2) + 0 * drawn, (state, {})

    def key_of(key):
        return jax.random.normal(key)

    def evaluate(params, state, batch):
        value = loss(params, state, numerics.key(0), batch)[0]
        return {"loss": value * batch["mask"].sum(), "count": batch["mask"].sum()}

    part = {"x": np.ones((8, 2), np.float32), "y": np.ones(8, np.float32)}
    fields = {"name": "own", "train": part, "valid": part, "test": part}
    fields |= {"init": init, "loss": loss, "evaluate": evaluate, "batch_size": 4}
    fields |= {"metrics": "loss"} | changes
    return tasks.with_model(Task(**fields)).options


def share(power):
    """A metric of one's own."""
    return Metric("share", lambda sums: (sums["loss"] / sums["count"]) ** power, False)


def test_a_model_of_ones_own_is_part_of_the_identity():
    assert own_task() == own_task()
    others = [
        own_task(scale=2.0),
        own_task(activation=jax.nn.relu),
        own_task(weights=(0.5, 2.0)),
        own_task(max_norm=1.0),
        own_task(metrics=share(1)),
        own_task(metrics=share(2)),
    ]
    assert own_task(metrics=share(2)) == others[-1]
    assert len({own_task(), *others}) == 7
    (pair,) = own_task()
    runs = [dataclasses.replace(RUN, options=each) for each in ((pair,), others[0])]
    assert len(set(map(run_id, runs))) == 2


@pytest.mark.slow
def test_a_model_is_known_in_another_process():
    code = "from tests.test_identity import own_task, jax; print(own_task()[0][1])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [own_task()[0][1]]


def trained(transformation, params, gradients):
    """Parameters after some steps of a compiled loop, as bytes."""

    def step(carry, targets):
        params, state = carry
        grads = jax.grad(lambda p: gradients(p, targets))(params)
        changes, state = transformation.update(grads, state, params)
        return (optax.apply_updates(params, changes), state), None

    targets = jax.random.normal(jax.random.key(1), (40, 8))
    carry = params, transformation.init(params)
    (params, _), _ = jax.lax.scan(step, carry, targets)
    return params


ABSENT = [(m.name, n, v) for m in METHODS.values() for n, v in m.none.items()]


@pytest.mark.parametrize("flag", [False, True])
@pytest.mark.parametrize(("method", "name", "number"), ABSENT)
def test_none_and_its_number_train_the_same_bits(method, name, number, flag):
    found = METHODS[method]
    assert found.defaults[name] is None
    given = dict(found.defaults) | {"nesterov": flag, "weight_decay": 0.01}
    start = {"w": jax.random.normal(jax.random.key(0), (8, 8)), "b": jnp.zeros(8)}

    def loss(params, x):
        return (
            jnp.tanh(x @ params["w"] + params["b"]).var() + jnp.abs(params["b"]).sum()
        )

    @jax.jit
    def run(rate, value):  # numbers are traced, None is not
        hparams = given | {"learning_rate": rate, name: value}
        return trained(found.build(40.0, **hparams), start, loss)

    for rate in (0.03, 1.0):
        without, zero = run(rate, None), run(rate, number)
        for one, other in zip(*map(jax.tree.leaves, (without, zero)), strict=True):
            assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.mark.parametrize(("method", "name", "number"), ABSENT)
def test_none_and_its_number_are_one_setting(method, name, number):
    found = METHODS[method]
    for value in (number, int(number), np.float32(number), -number):
        assert hyperparameters.normal(found, {name: value}, "auto") == {name: None}
    asked = {"methods": (method,), f"grid__{name}": (None, number, 0.5)}
    lanes = wanted(**asked).hparams_grid(method, "libsvm/iris")
    assert [lane[name] for lane in lanes] == [None, 0.5]


def test_none_where_it_is_another_setting_stays_apart():
    # The momentum of `momentum` is a number by default, and keeps its identity.
    found = hyperparameters.normal(METHODS["momentum"], {"momentum": 0}, "auto")
    assert found == {"momentum": 0.0}
    # No decay is none; the root of b2 is another one.
    assert hyperparameters.normal(METHODS["prodigy"], {"b3": 0}, "auto") == {"b3": 0.0}


# Checked as it is used


@pytest.mark.parametrize(("method", "name"), WHOLE)
@pytest.mark.parametrize(
    "value", [10**26, 3e9, 3 * 10**9, 1.5, 0, -1, math.nan, math.inf, "3", None, True]
)
def test_whole_numbers_are_whole_and_within_bounds(method, name, value):
    found = METHODS[method]
    optional = value is None and found.defaults[name] is None
    if optional or (is_number(value) and value in found.domains[name]):
        normal = hyperparameters.normal(found, {name: value}, "float32")
        assert normal[name] == value
        return
    with pytest.raises(UsageError) as error:
        hyperparameters.normal(found, {name: value}, "float32")
    assert str(error.value).startswith(f"{method}.{name}={value!r}: must be a ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("method", "name"), WHOLE)
def test_bounds_of_whole_numbers_can_be_built_and_are_exact(method, name):
    found = METHODS[method]
    params = {"w": jax.ShapeDtypeStruct((3,), np.float32)}
    for value in (found.domains[name].low, found.domains[name].high):
        given = dict(found.defaults) | dict.fromkeys(found.required, 1)
        values = hyperparameters.normal(found, given | {name: value}, "float32")
        assert type(values[name]) is int
        assert float(np.float32(value)) == value
        jax.eval_shape(found.build(100, **values).init, params)


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda m: m.name)
def test_methods_declare_their_whole_numbers(method):
    whole = {name for name, domain in method.domains.items() if domain.whole}
    assert whole >= {n for n, v in method.defaults.items() if type(v) is int}
    assert whole >= {n for n, found in method.space.ranges.items() if found.integer}
    assert whole <= set(method.defaults)


@pytest.mark.parametrize(("method", "name", "default"), NUMBERS)
def test_numbers_are_checked_in_the_type_that_they_are_used_in(method, name, default):
    found = METHODS[method]
    domain = found.domains.get(name, Domain())
    for value in (1e-320, 1e-39, 1e39, 0.999999999999, 0.9999999999999999):
        for precision, dtype in (("auto", np.float32), ("float64", np.float64)):
            with np.errstate(over="ignore", under="ignore"):
                inside = dtype(value)  # NumPy's own rounding
            lost = abs(inside) < np.finfo(dtype).tiny
            if not lost and (value if domain.whole else float(inside)) in domain:
                values = hyperparameters.normal(found, {name: value}, precision)
                with np.errstate(over="ignore"):
                    assert dtype(values[name]) == inside
                continue
            with pytest.raises(UsageError) as error:
                hyperparameters.normal(found, {name: value}, precision)
            assert str(error.value).startswith(f"{method}.{name}={value!r}: ")
    normal = hyperparameters.normal(found, {name: default}, "auto")
    assert normal[name] == pytest.approx(default, rel=1e-7)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("b1", 0.999999999999, "is 1 in float32, in which it is used; it must be in ["),
        ("learning_rate", 1e-320, "is 0 in float32, in which it is used"),
        ("eps", 1e39, "is inf in float32, in which it is used; it must be in ["),
    ],
)
def test_the_line_says_in_which_type(name, value, said):
    changes = {f"hparams__adam__{name}": value, "methods": ("adam",)}
    with pytest.raises(UsageError) as error:
        wanted(**changes)
    assert str(error.value).startswith(f"adam.{name}={value!r}: {said}")
    if value != 1e-320:
        wanted(**changes, precision="float64")


def test_spaces_are_checked_alike():
    for low in (1e-320, 1e-40):
        with pytest.raises(UsageError, match="is 0 in float32"):
            wanted(methods=("adam",), tune__space__learning_rate=(low, 1.0))
    for bounds in ((1.5, 3), (0, 3), (1, 1e26)):
        with pytest.raises(UsageError, match="must be a whole number"):
            wanted(methods=("cawr",), tune__space__T_0=bounds)
    space = wanted(methods=("cawr",), tune__space__T_0=(1, 30)).tune.space
    assert space["T_0"].integer


def test_what_a_protocol_sets_is_in_every_domain():
    for choices in protocol.PROTOCOLS.values():
        for values in (choices.hparams, *choices.task_hparams.values()):
            for method, changed in values.items():
                found = hyperparameters.normal(METHODS[method], changed, "float32")
                for name, value in changed.items():
                    same = pytest.approx(value, rel=1e-7) if is_number(value) else value
                    assert found[name] == same


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda m: m.name)
def test_what_the_optimisers_refuse_is_refused_in_a_config(method):
    given = dict(method.defaults) | dict.fromkeys(method.required, 1)
    refused = {}
    made = plain_config()  # every change below sets all hyperparameters
    made.methods = (method.name,)
    for name in given:
        for value in (0.0, 1.0, 1.5, 1e6):
            lane = given | {name: value}
            try:
                whole = hyperparameters.normal(method, lane, "float32")
                method.build(100.0, **whole)
            except UsageError:
                continue  # by its domain
            except ValueError as error:
                # A config names the method in place of the function.
                refused[name, value] = getattr(error, "reason", str(error))
            changes = {f"hparams__{method.name}__{k}": v for k, v in lane.items()}
            if (name, value) not in refused:
                assert checked(made, changes)
                continue
            with pytest.raises(UsageError) as error:
                checked(made, changes)
            assert str(error.value) == f"{method.name}: {refused[name, value]}"
    assert bool(refused) == (method.name in STRICT)


# Methods with hyperparameters whose bounds are closer than a config's domains.
STRICT = {
    *("dadapt_adam", "dadapt_sgd", "dadapt_adagrad", "dadapt_lion", "prodigy"),
    *("dog", "ldog", "adog", "dowg", "cdowg", "mechanic", "trac", "storm_plus"),
    "kt",
    *("schedule_free_sgd", "schedule_free_adamw", "schedule_free_radam"),
    *("schedule_free_prodigy", "schedule_free_plus"),
    *("reduce_on_plateau", "greedy_lr"),
    *("polyak_sgd", "armijo_sgd"),
    *("sps_smooth", "dec_sps", "l4_adam", "l4_momentum", "salsa", "abel"),
    *("dadapt_adan", "adgd", "adamg", "barzilai_borwein"),
    *("prodigy_plus_schedule_free", "adopt", "lamb"),
}
