"""Made-up tasks: as asked for, the same each time, of few programs."""

import numpy as np
import pytest

from lrjax.core import UsageError
from lrjax.tasks import fingerprint, make_task, synthetic


@pytest.mark.parametrize("condition", [1.0, 100.0])
def test_the_condition_number_is_as_asked(condition):
    task = synthetic.from_spec(synthetic.Spec("regression", condition=condition))
    rows = np.concatenate([p["features"] for p in (task.train, task.valid, task.test)])
    values = np.linalg.eigvalsh(np.cov(rows.T))
    # Of a sample the ratio is up to 1.8 times as large (Marchenko and Pastur 1967).
    assert 0.7 * condition < values[-1] / values[0] < 1.9 * condition


def test_labels_and_their_noise_are_as_asked():
    clean = synthetic.Spec("classification", num_classes=3, noise=0.0, seed=5)
    noisy = synthetic.Spec(
        "classification", num_classes=3, noise=0.0, label_noise=0.6, seed=5
    )
    a, b = (np.asarray(synthetic.from_spec(s).train["labels"]) for s in (clean, noisy))
    assert set(a) == {0, 1, 2}
    # A third of the labels drawn anew are right by chance.
    assert (a != b).mean() == pytest.approx(0.6 * 2 / 3, abs=0.12)


def test_tasks_follow_from_their_number_alone():
    one, again, other = (
        fingerprint(make_task(f"synthetic/classification-{n}")) for n in (7, 7, 8)
    )
    assert one == again != other
    with pytest.raises(UsageError, match="are called"):
        make_task("synthetic/iris")


@pytest.mark.parametrize("kind", synthetic.KINDS)
def test_more_test_rows_change_nothing_else(kind):
    few, many = (synthetic.make(f"synthetic/{kind}-7", test_rows=n) for n in (256, 999))
    assert {len(part) for part in many.test.values()} == {999}
    for part, first in ((few.test, many.test), (few.train, many.train)):
        for name, rows in part.items():
            np.testing.assert_array_equal(rows, first[name][:256])
    spreads = [
        np.asarray(many.test["features"][a:b]).std() for a, b in ((0, 256), (256, 999))
    ]
    assert spreads[0] == pytest.approx(spreads[1], rel=0.1)


def test_tasks_of_a_kind_and_depth_share_their_functions():
    made = [make_task(f"synthetic/classification-{n}") for n in (3, 6, 9)]
    assert len({(t.init, t.loss, t.evaluate) for t in made}) == 1
