"""Probes, the tasks that priors are learned from, and how selections are judged."""

import dataclasses
import itertools
import math
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import priors, selection, selection_tables
from benchmarks.across_tasks import made_tasks, row_sets
from lrjax.core import Task
from lrjax.engine import order, train
from lrjax.hpo import points, prior, probes
from lrjax.tasks import fingerprint, make_task

# Probes


def stacked_probe(task):
    """Noise and norm of the gradients, all batches at once."""
    key = jax.random.key(2**32 - 2)
    params, state = task.init(jax.random.fold_in(key, 0))
    rows = np.random.RandomState(0).permutation(task.num_examples)
    size = min(task.batch_size, max(1, task.num_examples // 8))
    gradient = jax.jit(jax.grad(lambda p, b: task.loss(p, state, key, b)[0]))
    grads = []
    for at in rows[: 8 * size].reshape(-1, size):
        batch = {k: jnp.asarray(np.asarray(v)[at]) for k, v in task.train.items()}
        batch["mask"] = jnp.ones(size, jnp.float32)
        leaves = jax.tree.leaves(gradient(params, batch))
        grads.append(np.concatenate([np.ravel(x) for x in leaves]))
    grads = np.array(grads, float)
    square = (grads.mean(0) ** 2).sum()
    return {
        "log_noise": np.log(grads.var(0).sum() / square),
        "log_gradient": 0.5 * np.log(square),
    }


def assert_as_stacked(task, found):
    for name, value in stacked_probe(task).items():
        assert found.features[name] == pytest.approx(value, rel=1e-3, abs=1e-4)


def quadratic(rows=64):
    """Loss w'Dw/2 plus noise that is linear in w."""
    scales = jnp.array([1.0, 4.0])
    noise = np.random.RandomState(3).normal(size=(rows, 2)).astype(np.float32)

    def loss(params, state, key, batch):
        mean = (batch["noise"] * batch["mask"][:, None]).sum(0) / batch["mask"].sum()
        w = params["w"]
        return 0.5 * (scales * w**2).sum() + mean @ w, (state, {})

    part = {"noise": jnp.asarray(noise)}
    start = jnp.array([1.0, 1.0])
    return Task(
        "quadratic", part, part, part, lambda key: ({"w": start}, ()), loss,
        lambda p, s, b: {}, batch_size=8, metric="loss",
    )  # fmt: skip


def test_probes_of_a_quadratic_are_its_closed_form():
    task = quadratic()
    found = probes.probe(task)
    rows = np.random.RandomState(0).permutation(64).reshape(8, 8)
    scales = np.array([1.0, 4.0])
    means = np.asarray(task.train["noise"], float)[rows].mean(1)
    grads = scales + means
    trace, square = grads.var(0).sum(), (grads.mean(0) ** 2).sum()
    features = found.features
    assert features["log_noise"] == pytest.approx(np.log(trace / square), rel=1e-4)
    assert features["log_gradient"] == pytest.approx(0.5 * np.log(square), rel=1e-4)
    start = 2.5 + means[0].sum()
    assert features["loss"] == pytest.approx(start, rel=1e-5)
    for rate in (0.01, 0.1, 1.0):
        w = np.ones(2)
        for mean in means[:5]:
            w = w - rate * (scales * w + mean)
        end = 0.5 * (scales * w**2).sum() + means[0] @ w
        expected = np.clip(end / start, 0, 10)
        assert features[f"sgd_{rate:g}"] == pytest.approx(expected, rel=1e-4)
    # Adam's first steps are as long as its rate, whatever the gradient.
    assert features["adam_0.001"] == pytest.approx(
        1 - 0.005 * grads[0].sum() / start, rel=2e-3
    )
    assert found.steps == probes.COST == 6 * probes.STEPS + 8
    assert features["log_rows"] == pytest.approx(math.log(64))
    assert features["log_params"] == pytest.approx(math.log(2))


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_gradients_one_by_one_say_what_all_at_once_do(kind):
    task = make_task(f"synthetic/{kind}-4")
    assert_as_stacked(task, probes.probe(task))


def test_gradients_without_noise_have_none():
    task = quadratic()
    part = {"noise": jnp.full((64, 2), 0.3, jnp.float32)}
    found = probes.probe(dataclasses.replace(task, train=part)).features
    assert found["log_noise"] < -25


class Network(nn.Module):
    """Dropout, and a state that training updates."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(nn.relu(x)))


def rows_of_three_classes(count):
    draw = np.random.default_rng(0)
    labels = draw.integers(3, size=count).astype(np.int32)
    return (labels[:, None] + draw.normal(size=(count, 4))).astype(np.float32), labels


def test_dropout_and_batch_normalisation_can_be_probed():
    task = Task.from_flax(
        Network(), "cross_entropy", train=rows_of_three_classes(100), batch_size=16
    )
    assert jax.tree.leaves(task.init(jax.random.key(0))[1])  # batch norm's state
    found = probes.probe(task)
    assert_as_stacked(task, found)
    assert found.features == probes.probe(task).features
    assert 0 < found.features["sgd_0.1"] < 10


def test_streamed_rows_say_what_others_do(tmp_path):
    task = make_task("synthetic/classification-1")
    rows = {}
    for name, values in task.train.items():
        np.save(tmp_path / f"{name}.npy", values)
        rows[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    streamed = dataclasses.replace(task, train=rows, streamed=True)
    assert probes.probe(streamed) == probes.probe(task)


@pytest.mark.parametrize("count", [1, 3, 7, 20])
def test_few_rows_are_fewer_or_shorter_batches(count):
    found = probes.probe(quadratic(count))
    batches = min(count, 8)
    assert found.steps == batches + 6 * min(batches, probes.STEPS) <= probes.COST
    assert all(math.isfinite(value) for value in found.features.values())
    if count > 1:
        assert_as_stacked(quadratic(count), found)


# Tasks to learn from

OWN = {name: row_sets.LEARNED[name] for name in ("breast_cancer", "digits", "diabetes")}


@pytest.fixture
def own_sets(monkeypatch):
    """Sets of rows that need no files."""
    monkeypatch.setattr(row_sets, "LEARNED", OWN)
    monkeypatch.setattr(row_sets, "JUDGED", {"wine": row_sets.JUDGED["wine"]})


def test_a_number_is_a_task(own_sets, tmp_path):
    for name in ("c0", "s1"):
        one, again, other = (made_tasks.make(name, n, tmp_path) for n in (3, 3, 4))
        assert fingerprint(one.task) == fingerprint(again.task)
        assert (one.family, one.horizon) == (again.family, again.horizon)
        assert one.about == again.about
        assert fingerprint(one.task) != fingerprint(other.task)
        # All tasks of a shape share the functions that are compiled.
        assert one.task.loss is other.task.loss
        assert one.task.init is other.task.init
        assert one.task.evaluate is other.task.evaluate


def test_tasks_that_judge_are_of_other_rows(own_sets, tmp_path):
    for begin, sets in ((0, OWN), (made_tasks.JUDGED_FROM, {"wine"})):
        families = {
            made_tasks.make("c0", begin + n, tmp_path).family for n in range(12)
        }
        assert "synthetic" in families
        assert families - {"synthetic"}
        assert families - {"synthetic"} <= set(sets)


def test_no_set_is_both_learned_and_judged():
    assert not row_sets.LEARNED.keys() & row_sets.JUDGED.keys()


@pytest.mark.parametrize("name", made_tasks.SHAPES)
def test_shapes_are_as_declared(name, own_sets, tmp_path):
    shape = made_tasks.SHAPES[name]
    for number in range(4):
        task, _, horizon, _ = made_tasks.make(name, number, tmp_path)
        assert horizon in made_tasks.HORIZONS
        assert task.batch_size == shape.batch_size
        sizes = (shape.rows, shape.rows, made_tasks.TEST_ROWS)
        parts = (task.train, task.valid, task.test)
        for part, size in zip(parts, sizes, strict=True):
            assert part["features"].shape == (size, shape.features)
            assert part["features"].dtype == np.float32
            assert np.isfinite(part["features"]).all()
            if shape.kind == "classification":
                labels = np.asarray(part["labels"])
                assert labels.shape == (size,)
                assert 0 <= labels.min() <= labels.max() < shape.outputs
        params, _ = task.init(jax.random.key(0))
        widths = [shape.features, *[shape.width] * shape.depth, shape.outputs]
        assert [x["weight"].shape for x in params] == list(itertools.pairwise(widths))
        batch = {k: v[:8] for k, v in task.train.items()}
        batch["mask"] = jnp.ones(8, jnp.float32)
        mean, _ = task.loss(params, (), None, batch)
        sums = task.evaluate(params, (), batch)
        assert float(sums["loss"]) == pytest.approx(8 * float(mean), rel=1e-5)
        assert ("accuracy" in sums) == (shape.kind == "classification")


@pytest.mark.parametrize("name", ["s0", "c0", "a1", "b0"])
def test_no_row_is_in_two_parts(name, own_sets, monkeypatch, tmp_path):
    shape = made_tasks.SHAPES[name]

    def numbered(features, count, draw):
        return np.repeat(np.arange(len(features))[:, None], count, 1), "numbers"

    monkeypatch.setattr(made_tasks, "_mapped", numbered)
    monkeypatch.setattr(made_tasks, "_scaled", lambda features, draw: (features, "raw"))
    real = 0
    for number in range(10):
        task, family, _, about = made_tasks.make(name, number, tmp_path)
        if family == "synthetic":
            continue
        real += 1
        parts = [
            set(np.asarray(part["features"])[:, 0].astype(int).tolist())
            for part in (task.train, task.valid, task.test)
        ]
        for one, other in itertools.combinations(parts, 2):
            assert not one & other
        assert len(parts[0]) == len(parts[1]) == about["rows"] <= shape.rows
        assert len(parts[2]) >= 0.1 * shape.rows
    assert real > 2


def test_numbers_to_predict_are_standardised(own_sets, tmp_path):
    for name, number in itertools.product(("s0", "r1"), range(6)):
        task = made_tasks.make(name, number, tmp_path).task
        known = np.concatenate([task.train["targets"], task.valid["targets"]])
        assert known.mean() == pytest.approx(0, abs=1e-4)
        assert known.std() == pytest.approx(1, abs=1e-4)


def test_halves_change_places(own_sets, tmp_path):
    task = made_tasks.make("c0", 0, tmp_path).task
    other = made_tasks.swapped(task)
    assert (other.train, other.valid) == (task.valid, task.train)
    assert other.test is task.test


def test_spread_is_of_the_columns_that_vary():
    features = np.array([[0, 0, 0.0, 1], [2, 4, 20.0, 1]])
    assert row_sets.log_spread(features) == pytest.approx(math.log(10 / 2))
    assert row_sets.log_spread(np.ones((3, 2))) == 0


# Priors

KEYS = ("sgd", "sgd 0.01", "adam", "adam 0.1", "cocob", "mechanic", "ldog", "prodigy")


def content(valid, test, keys, rows=200, family="a", **more):
    """The file of a task, from accuracies in percent [runs, contenders]."""
    probed = {"log_rows": math.log(rows), "log_curvature": 1.0, "loss": 1.0, **more}
    shares = {"valid": np.array(valid) / 100, "test": np.array(test) / 100}
    return {
        **{f"{part}_accuracy": values for part, values in shares.items()},
        **{f"{part}_loss": 2 * (1 - values) for part, values in shares.items()},
        "contenders": np.array(keys),
        "family": np.array(family),
        "horizon": np.array(900),
        "batch_size": np.array(16),
        "probe_names": np.array(list(probed)),
        "probe_values": np.array(list(probed.values())),
    }


def table_of(valid, test, keys=None, kind=points.SHARE, **about):
    keys = keys or KEYS[: np.shape(test)[1]]
    return priors._table("made-0", content(valid, test, keys, **about), kind)


def made_up(seed, keys=KEYS, rows=200, family="a", constant=1.0, factor=0.0):
    """A table whose runs have a known variance."""
    draw = np.random.default_rng(seed)
    true = 80 - 4 * draw.uniform(size=len(keys))
    variance = constant + factor * 1e4 * 0.8 * 0.2 / rows
    noise = variance**0.5 * draw.normal(size=(6, len(keys)))
    shared = np.repeat(draw.normal(size=(2, 1)), 3, 0)  # by a choice of rows
    test = true + 1e-3 * draw.normal(size=(6, len(keys)))
    return content(true + noise + shared, test, keys, rows, family, loss=draw.uniform())


def test_regret_is_of_mean_points():
    lost = math.nan
    found = priors.regret(np.array([[90, 80, lost, lost], [92, 88, 70, lost]]))
    # What is lost, or further than 10 behind the best mean, is 10 behind it.
    assert found.tolist() == pytest.approx([0, -6.5, -10, -10])
    # Nobody is whole: runs are clipped by the best one.
    found = priors.regret(np.array([[90, lost, lost], [lost, 85, lost]]))
    assert found.tolist() == pytest.approx([0, -2.5, -5])


def test_regret_keeps_the_order_within_ten_points():
    draw = np.random.default_rng(0)
    test = 85 + draw.uniform(-4, 4, size=(1, 20)) + draw.uniform(size=(6, 20))
    found = priors.regret(test)
    assert found.max() == 0
    assert (np.argsort(found) == np.argsort(test.mean(0))).all()
    assert np.ptp(found) == pytest.approx(np.ptp(test.mean(0)))


def test_a_table_is_read_in_points_of_its_kind():
    share = table_of([[50, 60], [70, 80]], [[90, 80], [90, math.nan]])
    assert share.valid.tolist() == [[50, 60], [70, 80]]
    assert share.truth.tolist() == [0, -10]
    assert share.level == pytest.approx(0.9)
    assert share.rows == pytest.approx(200)
    assert "log_curvature" not in share.features
    assert share.features["log_updates"] == pytest.approx(math.log(900))
    ratio = table_of([[50, 60]], [[50, 75]], kind=points.RATIO)
    assert np.diff(ratio.test[0])[0] == pytest.approx(50 * math.log(2))


@pytest.mark.parametrize(("constant", "factor"), [(1.5, 0.0), (0.5, 0.6)])
def test_the_noise_of_runs_is_found(constant, factor):
    keys = [f"sgd {i}" for i in range(40)]
    tables = [
        priors._table(
            f"{i}",
            made_up(i, keys, (60, 200, 1000)[i % 3], "a", constant, factor),
            points.SHARE,
        )
        for i in range(90)
    ]
    found = priors.noise_of(tables)
    assert found[0] == pytest.approx(constant, rel=0.15)
    assert found[1] == pytest.approx(factor, rel=0.1, abs=0.05)


def test_the_noise_of_losses_is_a_constant():
    tables = [
        priors._table(f"{i}", made_up(i, rows=200), points.RATIO) for i in range(40)
    ]
    constant, factor = priors.noise_of(tables)
    # A point of accuracy of 20 that are missed is 5 % of the loss: two points and half.
    assert constant == pytest.approx(2.6**2, rel=0.3)
    assert factor == 0.0


def test_measuring_is_the_variance_of_means_of_clipped_runs():
    one = table_of(np.ones((2, 2)), [[90, 50], [92, 70]])
    other = table_of(np.ones((2, 2)), [[90, 84], [90, 88]])
    # Means of two runs with variances 2 and 0, and with 0 and 8.
    assert priors.measuring([one]).tolist() == pytest.approx([1, 0])
    assert priors.measuring([one, other]).tolist() == pytest.approx([0.5, 2])
    lost = table_of(np.ones((2, 2)), [[90, 89], [90, math.nan]])
    assert priors.measuring([lost]).tolist() == pytest.approx([0, 81 / 4])


def test_covariances_are_without_the_noise_of_measuring():
    draw = np.random.default_rng(0)
    left = draw.normal(size=(4000, 3)) @ np.diag([1.0, 2.0, 3.0])
    noisy = left + draw.normal(size=left.shape)
    found = priors.covariance(noisy, np.ones(3))
    np.testing.assert_allclose(found, np.diag([1, 4, 9]), atol=0.5)
    # What noise explains is no negative variance.
    found = priors.covariance(noisy, np.full(3, 100.0))
    assert np.linalg.eigvalsh(found).min() > 0


@pytest.fixture
def folder(tmp_path):
    """Tables of twelve tasks of three families."""
    for i in range(12):
        made = made_up(i, family="abc"[i % 3])
        np.savez_compressed(tmp_path / f"c0-{i}.npz", **made)
    return tmp_path


@pytest.mark.parametrize("kind", [points.SHARE, points.RATIO])
def test_what_is_known_is_read_as_it_was_written(kind, folder, monkeypatch):
    out = folder / "made" / "priors.npz"
    out.parent.mkdir()
    arguments = ["priors.py", f"--tables={folder}", f"--out={out}"]
    monkeypatch.setattr(sys, "argv", arguments)
    priors.main()
    tables = priors.read(folder, kind)
    keys = sorted(KEYS)  # contenders are read in one order, whatever files have
    rates = priors.rates_of(keys)
    named = np.array([key.split()[0] for key in keys])
    expected, read = priors.known_from(tables, named, rates), prior.known(kind, out)
    assert len(tables) == len(read.regret) == 12
    assert read.methods.tolist() == named.tolist()
    np.testing.assert_allclose(read.rates, rates, rtol=1e-6)
    by_key = dict(zip(keys, read.rates.tolist(), strict=True))
    assert [by_key[KEYS[i]] for i in (0, 1, 3)] == pytest.approx([0.1, 0.01, 0.1])
    assert all(math.isnan(by_key[key]) for key in KEYS[4:])
    assert read.features == expected.features == tuple(sorted(tables[0].features))
    np.testing.assert_allclose(read.described, expected.described, rtol=1e-6)
    assert read.families.tolist() == [table.family for table in tables]
    np.testing.assert_allclose(read.regret, expected.regret, atol=0.051)
    np.testing.assert_allclose(read.residual, expected.residual, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(read.noise, expected.noise, rtol=1e-6)
    np.testing.assert_allclose(read.usual, expected.usual, rtol=1e-3)
    # A selection can use it.
    candidates = [prior.Candidate(*pair) for pair in zip(named, rates, strict=True)]
    believed = prior.believe(read, candidates, tables[0].features)
    assert np.isfinite(believed.belief.mean).all()
    assert np.linalg.eigvalsh(believed.belief.covariance).min() > 0


def test_tables_are_the_same_from_a_packed_file(folder):
    out = folder.parent / "packed.zip"
    priors.pack(folder, out)
    for kind in (points.SHARE, points.RATIO):
        whole, packed = priors.read(folder, kind), priors.read(out, kind)
        assert [each.name for each in packed] == [each.name for each in whole]
        for ours, theirs in zip(packed, whole, strict=True):
            assert (ours.family, ours.features) == (theirs.family, theirs.features)
            np.testing.assert_allclose(ours.test, theirs.test, atol=0.05)
            np.testing.assert_allclose(ours.valid, theirs.valid, atol=0.05)


@pytest.mark.parametrize("kind", [points.SHARE, points.RATIO])
def test_what_is_shipped_follows_from_the_tables(kind):
    path = Path(__file__).parents[1] / "results" / "selection_known.zip"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    tables, shipped = priors.read(path, kind), prior.known(kind)
    keys = tables[0].contenders
    named = np.array([key.split()[0] for key in keys])
    made = priors.known_from(tables, named, priors.rates_of(keys))
    assert made.families.tolist() == shipped.families.tolist()
    assert made.methods.tolist() == shipped.methods.tolist()
    np.testing.assert_allclose(made.regret, shipped.regret, atol=0.051)
    np.testing.assert_allclose(made.noise, shipped.noise, rtol=1e-3)
    np.testing.assert_allclose(made.described, shipped.described, rtol=1e-4, atol=1e-4)


def test_a_prior_of_a_family_leaves_the_family_out(folder):
    tables = priors.read(folder, points.SHARE)
    named = np.array([key.split()[0] for key in KEYS])
    known = priors.known_from(tables, named, priors.rates_of(KEYS))
    assert known.regret.shape == (12, len(KEYS))
    own = known.families == "a"
    _, novelty = prior.weigh(known.described[~own], known.described[own])
    np.testing.assert_allclose(known.usual[own], novelty)


# Selections, from tables


def known_of(regret):
    count = np.shape(regret)[1]
    return prior.Known(
        kind="share",
        methods=np.array(KEYS[:count]),
        rates=np.full(count, math.nan),
        features=(),
        described=np.zeros((len(regret), 0)),
        families=np.array(["a"] * len(regret)),
        regret=np.array(regret, float),
        residual=np.eye(count),
        noise=(1.0, 0.0),
        usual=np.zeros(len(regret)),
    )


def test_the_highest_score_is_of_the_first_runs():
    # Runs of a table are looked up in the order 0, 3, 1, ...
    valid = np.array(
        [[80, 70, 60], [0, 0, 99], [0, 0, 99], [60, 75, 60], [0, 0, 0], [0, 0, 0]]
    )
    table = table_of(valid, np.full((6, 3), 90.0))
    assert selection.raw_best(table, [0, 1, 2], 1).who == 0
    assert selection.raw_best(table, [2, 1], 1).who == 1
    assert selection.raw_best(table, [0, 1, 2], 2).who == 1
    assert selection.raw_best(table, [0, 1, 2], 3).who == 2
    lost = valid.astype(float)
    lost[0, 0] = math.nan
    table = table_of(lost, np.full((6, 3), 90.0))
    assert selection.raw_best(table, [0, 1, 2], 1).who == 1


def test_a_list_adds_most_to_those_before():
    # The second is best on average, then the one that helps where it fails.
    known = known_of([[0, -1, -9], [-8, -1, -9], [-8, -9, 0], [-8, -1, -8]])
    assert selection.greedy(known, 3) == [1, 2, 0]
    assert selection.greedy(known, 1) == [1]
    assert selection.greedy(known, 9) == [1, 2, 0]


def test_an_oracle_knows_two_runs():
    # One run of each half: (a, c) and (a, d) choose 0; (b, c) and (b, d) choose 1.
    test = [[90, 80], [70, 84], [84, 84], [84, 84]]
    table = table_of(np.zeros((4, 2)), test)
    assert table.truth.tolist() == pytest.approx([-0.25, 0])
    assert selection.oracle(table) == pytest.approx(0.125)


@pytest.mark.parametrize("kind", [points.SHARE, points.RATIO])
@pytest.mark.parametrize("budget", [2, 4, 8, 16])
def test_the_earlier_race_finds_who_is_best_everywhere(kind, budget):
    keys = [*selection._ENTERED, "sgd"]
    best = 1  # who enters second
    draw = np.random.default_rng(0)
    valid = draw.uniform(40, 60, size=(6, len(keys)))
    valid[:, best] = 90
    made = content(valid, valid, keys)
    for name in ("valid_accuracy", "valid_loss"):
        made[f"rung_{name}"] = np.stack([made[name]] * 2)
    table = priors._table("made-0", made, kind)
    assert selection.earlier_race(table, budget).who == best
    # With runs that are lost, it is no longer.
    for name in ("valid_accuracy", "valid_loss"):
        made[name] = made[name].copy()
        made[name][:, best] = math.nan
        made[f"rung_{name}"][..., best] = math.nan
    table = priors._table("made-0", made, kind)
    assert selection.earlier_race(table, budget).who != best


def test_intervals_are_over_groups():
    values = np.array([0.0] * 50 + [1.0] * 50)
    alike = selection.interval(values, np.repeat(["a", "b"], 50))
    assert alike == (0.0, 1.0)
    low, high = selection.interval(values, np.arange(100))
    assert 0.35 < low < 0.45 < 0.55 < high < 0.65


# Training of the tables


@pytest.mark.slow
def test_a_population_trains_each_contender_as_a_plain_loop(own_sets, tmp_path):
    task = made_tasks.make("c0", 3, tmp_path).task
    population = selection_tables.Population(task, rests=False)
    steps = 20
    values = population.train(task, steps, horizon=steps)
    keys = [each.key for each in population.contenders]
    assert len(keys) == len(set(keys))
    assert values["valid_loss"].shape == (len(selection_tables.SEEDS), len(keys))
    draw = jax.jit(order.batches, static_argnums=(2, 3, 4, 5))
    gradient = jax.jit(jax.grad(task.loss, has_aux=True))
    tx = optax.sgd(0.1)
    for place, seed in enumerate(selection_tables.SEEDS):
        started = train.seed_run(task.init, jax.random.key(seed))
        params, opt_state = started.params, tx.init(started.params)
        for step in range(steps):
            rows, mask = draw(
                started.order, jnp.int32(step), 1, task.batch_size, 128, False
            )
            batch = {k: v[rows[0]] for k, v in task.train.items()}
            batch["mask"] = mask[0].astype(jnp.float32)
            grads, _ = gradient(params, (), None, batch)
            updates, opt_state = tx.update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
        for part in ("valid", "test"):
            whole = dict(getattr(task, part))
            whole["mask"] = jnp.ones(len(whole["labels"]), jnp.float32)
            sums = task.evaluate(params, (), whole)
            for name in ("loss", "accuracy"):
                found = values[f"{part}_{name}"][place, keys.index("sgd")]
                expected = float(sums[name] / sums["count"])
                assert found == pytest.approx(expected, rel=1e-4)
