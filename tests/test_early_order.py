"""Early orders whose agreement with the last one is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from lrjax.analysis import early_order, scores

EPOCHS = 100
FINAL = (0.1, 0.2, 0.3, 0.4, 0.5)  # losses of five rates at the end
SWAPPED = (0.1, 0.3, 0.2, 0.4, 0.5)  # one of ten pairs the other way round
AT = {  # epochs -> losses by then
    1: FINAL[::-1],
    3: (0.7,) * 5,
    11: (0.2, 0.1, 0.3, 0.5, 0.4),
    33: SWAPPED,
    100: FINAL,
}


def made(seeds=3, task="libsvm/iris", method="adam", ends=None, steps=EPOCHS, at=None):
    """Tables of five rates with curves of a few rows."""
    runs, curves = [], []
    for number, end in enumerate(ends or FINAL):
        for seed in range(seeds):
            run = f"{task} {method} {number} {seed} {steps}"
            died = not np.isfinite(end)
            runs.append(
                {
                    "run_id": run,
                    "task": task,
                    "protocol": "sound",
                    "method": method,
                    "hparams": {"learning_rate": float(number)},
                    "seed": seed,
                    "steps": steps,
                    "status": "diverged" if died else "done",
                    "valid_loss": np.nan if died else end,
                }
            )
            for epoch, losses in (AT if at is None else at).items():
                loss = np.nan if died and epoch > 50 else losses[number]
                row = {"run_id": run, "step": epoch, "valid_loss": loss}
                curves.append(row | {"epoch": float(epoch)})
    return pd.DataFrame(runs), pd.DataFrame(curves)


def judged(runs):
    return scores.judge(scores.arrange(runs))


def measured(*tables, reps=50):
    runs = pd.concat([runs for runs, _ in tables], ignore_index=True)
    curves = pd.concat([rows for _, rows in tables], ignore_index=True)
    return early_order.measure(early_order.early_scores(judged(runs), curves), reps)


def test_tau_of_repeated_values_is_scipys():
    generator = np.random.default_rng(0)
    for size in (4, 9):
        x, y = generator.integers(0, 5, (2, size)).astype(float)
        x[0] = -np.inf  # diverged
        weights = generator.multinomial(size, np.full(size, 1 / size), 20)
        for found, counts in zip(
            early_order.weighted_tau(x, y, weights), weights, strict=True
        ):
            expected = scipy_stats.kendalltau(
                np.repeat(x, counts), np.repeat(y, counts)
            )
            known = np.nan_to_num(expected.statistic)
            np.testing.assert_allclose(found, known, atol=1e-12)
    assert early_order.weighted_tau(np.ones(4), np.arange(4), np.ones((1, 4))) == 0


@pytest.mark.parametrize("seeds", [1, 3])
def test_known_orders(seeds):
    tasks, families = measured(made(seeds))
    assert set(tasks["group"]) == {early_order.ALL}  # one method's settings are all
    assert set(tasks["how"]) == {"cut"}
    table = tasks.set_index("part")
    np.testing.assert_allclose(table["tau"], [-1, 0, 0.6, 0.8, 1], atol=1e-12)
    # What looked best: the worst; all alike; the second; the best.
    np.testing.assert_allclose(table["regret"], [0.4, 0.2, 0.1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(families["tau"], tasks["tau"])
    assert (tasks["tau_low"] <= tasks["tau"] + 1e-12).all()
    assert table.loc[1.0, "tau_low"] == 1
    assert table.loc[0.33, "tau_low"] < 0.8
    assert table["regret_low"].isna().all() == (seeds == 1)


def test_a_run_is_not_judged_before_its_first_value():
    """Its rows of other columns do not say that it had diverged."""
    runs, curves = made(2, at={33: FINAL, 100: FINAL})
    curves.loc[curves["step"] == 33, "valid_loss"] = np.nan
    found = early_order.early_scores(judged(runs), curves)
    assert [scored.part for scored in found] == [1.0]


def test_seeds_that_disagree_bound_tau_at_full_length():
    """Of three seeds one has the reverse order; the others' median is the other's."""
    runs, curves = made(3, at={100: FINAL})
    odd = runs["seed"] == 2
    runs.loc[odd, "valid_loss"] = 0.6 - runs.loc[odd, "valid_loss"]
    last = curves["run_id"].isin(runs.loc[odd, "run_id"])
    curves.loc[last, "valid_loss"] = 0.6 - curves.loc[last, "valid_loss"]
    tasks, _ = measured((runs, curves))
    # Against the mean of two opposite orders, all are equal: 0. The odd one: -1.
    assert tasks["tau"].tolist() == [pytest.approx(-1 / 3)]


def test_diverged_runs_are_worst_and_their_loss_is_bounded():
    ends = (0.1, 0.2, 0.3, 0.4, np.inf)
    tasks, _ = measured(made(ends=ends))
    table = tasks.set_index("part")
    assert table.loc[1.0, "tau"] == 1
    # After one epoch the one that will diverge looks best: as bad as the worst.
    np.testing.assert_allclose(table.loc[0.01, "regret"], 0.3)


def test_shorter_runs_are_another_thing_than_cut_curves():
    full = made()
    short = made(ends=SWAPPED, steps=33, at={})
    tasks, families = measured(full, short)
    seen = tasks.set_index(["how", "part"])["tau"]
    assert seen["short", 0.33] == pytest.approx(0.8)
    assert ("short", 1.0) not in seen
    assert seen["cut", 0.01] == -1
    assert set(families["how"]) == {"cut", "short"}


def test_methods_have_groups_and_kinds_of_model_their_means():
    worse = {epoch: losses[::-1] for epoch, losses in AT.items()}
    tasks, families = measured(
        made(task="libsvm/iris"),
        made(task="libsvm/iris", method="sgd", ends=FINAL, at=worse),
        made(task="svmlight:/data/a b", at=AT),
        made(task="cifar10/wrn16_2"),
    )
    iris = tasks[(tasks["task"] == "libsvm/iris") & (tasks["part"] == 1.0)]
    assert iris.set_index("group")["tau"].to_dict() == pytest.approx(
        {"adam": 1, "sgd": -1, early_order.ALL: 0}
    )
    whole = families[families["group"] == early_order.ALL].set_index(["family", "part"])
    assert whole.loc[("logistic", 1.0), "tau"] == pytest.approx(0.5)
    assert whole.loc[("logistic", 1.0), "tasks"] == 2
    assert whole.loc[("wrn", 0.33), "tau"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("metric", "alike"), [("test_loss", True), ("valid_weighted_loss", False)]
)
def test_regrets_in_two_metrics_have_no_mean(metric, alike):
    iris, wine = made(task="libsvm/iris"), made(task="libsvm/wine")
    runs, curves = (pd.concat(tables) for tables in zip(iris, wine, strict=True))
    groups = early_order.early_scores(judged(runs), curves)
    other = {"libsvm/iris": metric, "libsvm/wine": "valid_loss"}
    groups = [dataclasses.replace(g, metric=other[g.task]) for g in groups]
    _, families = early_order.measure(groups, reps=10)
    assert families["regret"].notna().all() == alike


def test_what_is_too_little_is_left_out():
    runs, curves = made()
    few = runs["hparams"].map(lambda h: h["learning_rate"] < 3)
    assert not early_order.early_scores(judged(runs[few]), curves)
    # A run that is missing takes its entry along, a seed that most lack goes first.
    gone = runs.drop(index=0)
    assert {s.early.shape for s in early_order.early_scores(judged(gone), curves)} == {
        (4, 3)
    }
    rare = (runs["seed"] == 2) & (runs["hparams"].map(lambda h: h["learning_rate"] > 1))
    assert {
        s.early.shape for s in early_order.early_scores(judged(runs[~rare]), curves)
    } == {(5, 2)}
    empty = early_order.measure([])
    assert [len(table) for table in empty] == [0, 0]
    assert not len(early_order.trusted(empty[1]))


def test_trust_begins_where_it_lasts():
    low = [0.7, 0.5, 0.65, 0.9]
    families = pd.DataFrame(
        {
            "family": "logistic",
            "group": early_order.ALL,
            "how": "cut",
            "part": [0.03, 0.11, 0.33, 1.0],
            "tau": 0.95,
            "tau_low": low,
            "regret": [0.4, 0.3, 0.2, 0.1],
        }
    )
    (row,) = early_order.trusted(families).to_dict("records")
    assert (row["part"], row["regret"], row["regret_below"]) == (0.33, 0.2, 0.3)
    (row,) = early_order.trusted(families, 0.95).to_dict("records")
    assert np.isnan(row["part"])
    assert row["regret_below"] == 0.1
    (row,) = early_order.trusted(families, 0.4).to_dict("records")
    assert row["part"] == 0.03
    assert np.isnan(row["regret_below"])


def test_families():
    for task, kind in (
        ("libsvm/iris", "logistic"),
        ("libsvm/iris (study)", "logistic"),
        ("svmlight:/a/b.xz", "logistic"),
        ("digits/logistic", "logistic"),
        ("digits/wrn", "wrn"),
        ("cifar10/wrn16_8", "wrn"),
        ("cifar100/densenet_bc", "densenet"),
        ("dtd/vit_ti16", "vit"),
        ("bookwiki/roberta_tiny_pre_ln", "roberta"),
        ("text/gpt_tiny", "gpt"),
        ("finetune/roberta_tiny", "finetune"),
        ("finetune:a/b.csv?text=t&target=y", "finetune"),
        ("synthetic/classification-7", "classification"),
        ("mine", "mine"),
        ("mine (sound)", "mine"),
        ("my race", "my race"),
        ("my race (2)", "my race (2)"),
        ("run_2", "run_2"),
        ("my data/my race", "my data/my race"),
        ("7", "7"),
    ):
        assert early_order.family(task) == kind
