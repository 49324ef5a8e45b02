"""Any tree comes back to the bit; what files of parameters cannot hold is said."""

import dataclasses
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import struct, traverse_util
from hypothesis import HealthCheck, given, settings, strategies
from safetensors.flax import load_file

from configs import quickstart
from lrjax import config as config_lib
from lrjax.core import UsageError
from lrjax.launch import blocks, checkpoint
from lrjax.tasks import make_task

KINDS = (
    *("float32", "float16", "bfloat16", "complex64", "bool"),
    *("int8", "uint8", "int16", "uint16", "int32", "uint32", "int4", "uint4"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz", "float4_e2m1fn"),
)


class Pair(NamedTuple):
    """Two parts of a tree."""

    left: object
    right: object


@struct.dataclass
class Moments:
    """Two parts of a tree, as Flax has them."""

    mean: object
    square: object


def array_of(seed, kind, shape):
    """An array of random bits where all bits are numbers, else of random numbers."""
    random = np.random.RandomState(seed)
    dtype = np.dtype(getattr(ml_dtypes, kind, kind))
    if kind in ("bool", "int4", "uint4", "float4_e2m1fn"):
        return jnp.asarray(random.randint(0, 2, shape).astype(dtype))
    raw = random.bytes(int(np.prod(shape)) * dtype.itemsize)
    return jnp.asarray(np.frombuffer(raw, dtype).reshape(shape))


leaves = strategies.one_of(
    strategies.builds(
        array_of,
        strategies.integers(0, 2**16),
        strategies.sampled_from(KINDS),
        strategies.sampled_from([(), (1,), (3,), (2, 3), (0,), (2, 0, 3)]),
    ),
    strategies.sampled_from(
        [
            jax.random.key(3),
            jax.random.split(jax.random.key(4), 2),
            jax.random.key(5, impl="rbg"),
            *(np.float32(-0.0), np.int8(3), np.array([-0.0, np.nan], np.float32)),
            *(1.5, 7, True, None),
        ]
    ),
)
names = strategies.text(strategies.sampled_from("aAbB./0[]'ä\u4e2d \\"), max_size=4)


def branches(child):
    return strategies.one_of(
        strategies.dictionaries(names, child, max_size=3),
        strategies.dictionaries(strategies.integers(-1, 2), child, max_size=3),
        strategies.lists(child, max_size=3),
        strategies.lists(child, max_size=3).map(tuple),
        strategies.builds(Pair, child, child),
        strategies.builds(Moments, child, child),
    )


def bits(leaf):
    if jnp.issubdtype(getattr(leaf, "dtype", float), jax.dtypes.prng_key):
        return str(leaf.dtype), leaf.shape, bits(jax.random.key_data(leaf))
    array = np.asarray(leaf)
    return str(array.dtype), array.shape, array.tobytes()


def check(tree, like, expected):
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder, "block"), 3, tree, {"seconds": 1.0})
        restored = checkpoint.restore(Path(folder, "block"), like)
    assert restored is not None
    step, found, facts = restored
    assert (step, facts) == (3, {"seconds": 1.0})
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert list(map(bits, jax.tree.leaves(found))) == list(
        map(bits, jax.tree.leaves(expected))
    )


@settings(
    max_examples=20,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)
@given(strategies.recursive(leaves, branches, max_leaves=12))
def test_any_tree_comes_back_to_the_bit(tree):
    as_jax = jax.tree.map(lambda x: x if hasattr(x, "dtype") else jnp.asarray(x), tree)
    check(tree, jax.eval_shape(lambda: tree), as_jax)


ones = jnp.ones(2)


@pytest.mark.parametrize(
    "tree",
    [
        {"a.b": ones, "a": {"b": 2 * ones}},
        {"a/b": ones, "a": {"b": 2 * ones}},
        {"a": ones, "A": 2 * ones},
        {"": ones, ".": 2 * ones, "..": 3 * ones, "/": 4 * ones},
        {"a": {"1": ones}, "b": {1: 2 * ones}, "c": [ones, 3 * ones]},
        {"e": jnp.zeros((3, 0)), "n": None, "t": ()},
        {},
        ones,
        [jnp.float32(i) for i in range(300)],
    ],
)
def test_trees_whose_names_run_into_each_other(tree):
    check(tree, jax.eval_shape(lambda: tree), tree)


def test_numbers_of_numpy_and_python_keep_what_jax_would_round():
    tree = {"double": np.array([0.1, -0.0]), "python": 0.1, "int": 2**40}
    check(tree, tree, tree)


def test_a_tree_with_other_names_but_the_same_shapes_is_refused(tmp_path):
    checkpoint.save(tmp_path, 3, {"a": {"b": ones}}, {})
    for other in ({"a.b": ones}, {"a": ones}, {"a": {"b": ones, "c": ones[:0]}}):
        with pytest.warns(UserWarning, match="it belongs to runs with other shapes"):
            assert (
                checkpoint.restore(tmp_path, jax.eval_shape(lambda o=other: o)) is None
            )


@pytest.mark.parametrize("leaf", ["text", np.array(["x"]), np.array([None]), print])
def test_what_is_no_number_is_refused(leaf, tmp_path):
    with pytest.raises(OSError, match="must hold numbers, not") as refused:
        checkpoint.save(tmp_path / "block", 3, {"x": leaf}, {})
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.rglob("*manifest*"))


def stacked(tree):
    """As a block of one run has it."""
    return jax.tree.map(lambda x: x[None, None], tree)


def test_parameters_files_keep_shapes_and_types(tmp_path):
    params = {
        "scalar": jnp.float32(2.5),
        "none": jnp.zeros((0, 3)),
        "half": jnp.ones((2,), jnp.bfloat16),
        "wave": jnp.ones((2,), jnp.complex64),
        "layer.0/x": {"w": jnp.arange(6.0).reshape(2, 3).T},
    }
    state = {"mean": ones}
    checkpoint.check_params("t", params, state)
    checkpoint.save_params(tmp_path, stacked(params), stacked(state), {(0, 0): "r"})
    found = traverse_util.unflatten_dict(load_file(tmp_path / "r.safetensors"), sep="/")
    assert found["state"].keys() == {"mean"}
    expected = {**params, "layer.0": {"x": params["layer.0/x"]}, "state": state}
    del expected["layer.0/x"]
    assert jax.tree.map(bits, found) == jax.tree.map(bits, expected)


@pytest.mark.parametrize(
    ("params", "state", "words"),
    [
        ({"a/b": ones, "a": {"b": ones}}, (), "share the name 'a/b'"),
        ({"a": [ones], "a/0": ones}, (), "share the name 'a/0'"),
        ({"state": {"m": ones}}, {"m": ones}, "share the name 'state/m'"),
        ({"state/": ones}, ones, "share the name 'state/'"),
        ({"a": ones, "a/b": ones}, (), "leads through it"),
        ({"__metadata__": ones}, (), "cannot hold '__metadata__'"),
        ({"a": ones.astype(jnp.int4)}, (), "of type int4"),
        ({"a": ones}, {"key": jax.random.key(0)}, "of type key<fry>"),
    ],
)
def test_parameters_that_cannot_be_kept_are_refused_before_training(
    params, state, words
):
    with pytest.raises(UsageError, match=r"^config\.save_params: 'mine': ") as refused:
        checkpoint.check_params("mine", params, state)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_plan_refuses_them():
    broken = dataclasses.replace(
        make_task("libsvm/iris"),
        init=lambda key: ({"a": ones, "a/b": ones}, ()),
        loss=lambda params, state, key, batch: (params["a"].sum(), (state, {})),
    )
    config = quickstart.get_config()
    config.update({"tasks": ("libsvm/iris",), "methods": ("sgd",), "seeds": 1})
    assert blocks.plan(config_lib.check(config), [broken])
    config.save_params = True
    with pytest.raises(UsageError, match=r"^config\.save_params: 'libsvm/iris': "):
        blocks.plan(config_lib.check(config), [broken])
