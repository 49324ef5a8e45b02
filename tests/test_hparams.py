"""Hyperparameters in the frames that `results.load` gives."""

import copy
import json
import pickle

import pandas as pd
import pytest

from lrjax import results

SETTINGS = (
    {"learning_rate": 10.0, "schedule": "constant"},
    {"learning_rate": 1e-05, "schedule": "cosine"},
    {"learning_rate": 0.1, "nesterov": True},
    {"learning_rate": None},
    {},
)


@pytest.fixture
def settings_frame(tmp_path):
    """Runs with all kinds of hyperparameters, each by two seeds."""
    rows = [
        {
            "run_id": f"{i}{seed}",
            "task": "t",
            "protocol": "sound",
            "method": "adam",
            "hparams": hparams,
            "seed": seed,
            "status": "done",
            "valid_loss": float(i),
        }
        for i, hparams in enumerate(SETTINGS)
        for seed in (0, 1)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / results.RUNS).write_text(text)
    (tmp_path / results.CURVES).write_text('{"run_id": "00", "step": 1}\n')
    return results.load(tmp_path)[0]


def test_frames_can_be_grouped_by_hyperparameters(settings_frame):
    means = settings_frame.groupby("hparams")["valid_loss"].agg(["mean", "size"])
    assert set(means["size"]) == {2}
    for i, hparams in enumerate(SETTINGS):
        assert means.loc[[results.Hparams(hparams)], "mean"].tolist() == [i]
    both = settings_frame.groupby(["method", "hparams", "seed"]).size()
    assert len(both) == 2 * len(SETTINGS)
    assert settings_frame["hparams"].nunique() == len(SETTINGS)
    assert len(settings_frame.drop_duplicates("hparams")) == len(SETTINGS)
    wide = settings_frame.pivot_table(
        index="hparams", columns="seed", values="valid_loss"
    )
    assert wide.shape == (len(SETTINGS), 2)
    # Numbers by size, not by how they are written.
    rates = [h["learning_rate"] for h in means.index if h.get("learning_rate")]
    assert rates == [1e-05, 0.1, 10.0]


def test_hyperparameters_stay_dictionaries(settings_frame):
    found = settings_frame["hparams"].tolist()[::2]
    assert found == list(SETTINGS)
    assert all(isinstance(hparams, dict) for hparams in found)
    assert [json.loads(json.dumps(h)) for h in found] == list(SETTINGS)
    assert pickle.loads(pickle.dumps(found)) == copy.deepcopy(found) == found
    assert found[0] | {"b1": 0.5} == SETTINGS[0] | {"b1": 0.5}
    rates = pd.json_normalize(settings_frame["hparams"])["learning_rate"]
    assert rates.tolist()[:3:2] == [10.0, 1e-05]


def test_equal_hyperparameters_have_equal_hashes():
    a, b = results.Hparams(x=1, y=[2.0]), results.Hparams(y=[2], x=1.0)
    assert a == b
    assert hash(a) == hash(b)


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.update(b1=0.5),
        lambda h: h.__setitem__("b1", 0.5),
        lambda h: h.__delitem__("learning_rate"),
        lambda h: h.pop("learning_rate"),
        lambda h: h.popitem(),
        lambda h: h.setdefault("b1", 0.5),
        lambda h: h.__ior__({"b1": 0.5}),
        lambda h: h.clear(),
    ],
)
def test_what_was_grouped_by_does_not_change(change):
    hparams = results.Hparams(learning_rate=0.1)
    with pytest.raises(TypeError, match="change a copy"):
        change(hparams)
    assert hparams == {"learning_rate": 0.1}
    change(dict(hparams))
