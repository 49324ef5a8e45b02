"""Run by `test_sharding.py` in a process with eight devices."""

import tempfile
from pathlib import Path

import jax
import numpy as np
import wide

from lrjax.engine.sharding import Layout


def same(found, wanted):
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, err_msg=name)


jax.config.update("jax_enable_x64", True)
devices = tuple(jax.devices())
assert len(devices) == 8
wanted, _ = wide.trained(wide.task(), method="adam")
for count, splits_params in ((2, False), (8, True)):
    layout = Layout(devices[:count], splits_params)
    found, state = wide.trained(wide.task(), layout, method="adam")
    same(found, wanted)
    for leaf in jax.tree.leaves(state[0].params):
        assert len(leaf.devices()) == count
        held = leaf.addressable_shards[0].data.size
        assert held == leaf.size // (count if splits_params else 1)
layout = Layout(devices[:4], splits_params=True)
with tempfile.TemporaryDirectory() as folder:
    options = {"method": "adam", "cut": 5, "folder": Path(folder) / "block"}
    found, state = wide.trained(wide.task(streamed=True), layout, **options)
    same(found, wanted)
    assert not state[0].params["w"].is_fully_replicated
alone, _ = wide.trained(wide.task(), one_by_one=True)
same(wide.trained(wide.task(), layout, one_by_one=True)[0], alone)
