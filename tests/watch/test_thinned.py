"""Thinned curves follow from their points alone, and show what the report shows."""

import itertools

import fabricated
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrjax.analysis import curves as curves_lib
from lrjax.analysis import scores
from lrjax.watch import thinned
from lrjax.watch.thinned import POINTS, Curves

STEPS = st.one_of(st.integers(0, 300), st.integers(0, 2**40))


def frame(rows):
    names = ["run_id", "step", "value"]
    table = pd.DataFrame(rows, columns=names)
    return table.astype({"step": np.int64, "value": float})


def state(curves, names):
    return [array.tolist() for array in curves.of(names)]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), STEPS), min_size=1, max_size=150),
    st.lists(st.floats(0, 1), min_size=1, max_size=5),
    st.randoms(),
)
@settings(max_examples=60)
def test_neither_order_nor_pieces_matter(points, cuts, random):
    rows = [(run, step, float(hash((run, step)) % 1000)) for run, step in points]
    names = sorted({run for run, _ in points})
    at_once, by_pieces = Curves(["value"]), Curves(["value"])
    at_once.add(frame(rows))
    random.shuffle(rows)
    ends = [0, *sorted(int(cut * len(rows)) for cut in cuts), len(rows)]
    for begin, end in itertools.pairwise(ends):
        by_pieces.add(frame(rows[begin:end]))
    assert np.array_equal(at_once.of(names)[0], by_pieces.of(names)[0])
    assert np.array_equal(at_once.of(names)[1], by_pieces.of(names)[1], equal_nan=True)
    for name in names:
        steps = at_once.of([name])[0][0]
        kept = steps[steps >= 0].tolist()
        mine = {step for run, step in points if run == name}
        assert kept == sorted(kept)
        assert set(kept) <= mine
        assert kept[-1] == max(mine)
        assert len(kept) > POINTS / 4 or len(mine) <= POINTS or max(mine) > 1000


@pytest.mark.parametrize("count", [1, 64, 65, 1000, 12345])
def test_the_last_of_each_stretch_is_kept(count):
    """With a point per step the kept ones are the multiples of a power of two."""
    curves = Curves(["value"])
    step = np.arange(1, count + 1)
    curves.add(pd.DataFrame({"run_id": "a", "step": step, "value": step / 10}))
    steps, values = curves.of(["a"])
    kept = steps[steps >= 0]
    width = 1
    while width * POINTS < count:
        width *= 2
    expected = [*range(width, count + 1, width)]
    assert kept.tolist() == expected + [count] * (count % width > 0)
    shown = values[0, : len(kept), 0]
    np.testing.assert_allclose(shown, kept / 10, rtol=1e-6)


@pytest.mark.parametrize("diverged", [0, 1, 3, 6])
def test_a_finished_study_has_the_lines_of_its_report(diverged):
    lost = [("task", "adam", seed) for seed in range(diverged)]
    runs, rows = fabricated.runs_and_curves(
        ("task",), ("adam", "momentum"), 6, epochs=50, diverged=lost
    )
    judged = scores.judge(scores.arrange(pd.DataFrame(runs)))
    table = pd.DataFrame(rows)
    expected = curves_lib.bands(curves_lib.join(judged, table), "valid_accuracy")
    curves = Curves(["epoch", "valid_accuracy"])
    curves.add(table.assign(step=table["step"] // 10))
    for entry, of_entry in judged.groupby("entry"):
        dead = (of_entry["status"] == "diverged").to_numpy()
        found = thinned.bands(*curves.of(of_entry["run_id"].tolist()), dead)
        theirs = expected[expected["entry"] == entry]
        assert len(found) == len(theirs)
        for name in ("epoch", "median", "low", "high"):
            np.testing.assert_allclose(found[name], theirs[name], rtol=1e-6)
        assert found["diverged"].tolist() == theirs["diverged"].tolist()


def test_runs_that_are_behind_do_not_hold_others_back():
    curves = Curves(["epoch", "value"])
    for run, count in (("a", 20), ("b", 20), ("c", 3)):
        step = np.arange(1, count + 1)
        rows = {"run_id": run, "step": step, "epoch": step, "value": 1.0 * step}
        curves.add(pd.DataFrame(rows))
    table = thinned.bands(*curves.of(["a", "b", "c"]), np.zeros(3, bool))
    assert table["epoch"].tolist() == [*range(1, 21)]
    assert not table["diverged"].any()
