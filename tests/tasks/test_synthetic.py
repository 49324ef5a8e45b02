"""Made-up tasks: as asked for, the same each time, of few programs."""

import dataclasses

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


def test_the_ill_conditioned_task_is_so():
    features = np.asarray(make_task("synthetic/ill_conditioned").train["features"])
    values = np.linalg.eigvalsh(np.cov(features.T.astype(float)))
    assert 0.8e5 < values[-1] / values[0] < 1.4e5


def test_little_of_noisy_targets_can_be_learned():
    task, spec = (
        make_task("synthetic/noisy_gradients"),
        synthetic.NAMED["synthetic/noisy_gradients"],
    )
    clean = synthetic.from_spec(dataclasses.replace(spec, noise=0.0))
    noisy, taught = (np.asarray(t.test["targets"], float) for t in (task, clean))
    assert np.corrcoef(noisy, taught)[0, 1] ** 2 == pytest.approx(1 / 5, abs=0.02)


def test_named_tasks_have_more_rows():
    for name, spec in synthetic.NAMED.items():
        task = make_task(name)
        rows = {len(a) for p in (task.train, task.valid, task.test) for a in p.values()}
        assert rows == {spec.rows}, name
        assert fingerprint(make_task(f"{name}-0")) == fingerprint(task)
        assert fingerprint(make_task(f"{name}-1")) != fingerprint(task)


def test_tasks_of_a_kind_and_depth_share_their_functions():
    made = [make_task(f"synthetic/classification-{n}") for n in (3, 6, 9)]
    assert len({(t.init, t.loss, t.evaluate) for t in made}) == 1
