"""Layers as a loop: the same numbers as one after the other, compiled once."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrjax import tasks
from lrjax.tasks import models


def network(layers=3, **options):
    return models.Roberta(
        vocab_size=13,
        hidden_size=8,
        num_layers=layers,
        num_heads=2,
        intermediate_size=16,
        max_positions=12,
        **options,
    )


def loss(model, params, train):
    ids = jnp.array([[2, 3, 4, 5, 6], [7, 8, 9, 1, 1]])
    rngs = {"dropout": jax.random.key(5)} if train else {}
    logits = model.apply({"params": params}, ids, ids != 1, train, rngs=rngs)
    return jnp.mean(jnp.square(logits))


def drawn(model):
    """Parameters that are not tiny, so that an error would show."""
    ids = jnp.full((1, 3), 2)
    params = model.init(jax.random.key(0), ids, ids, train=False)["params"]
    leaves, structure = jax.tree.flatten(params)
    new = [
        x + 0.3 * jax.random.normal(jax.random.key(i), x.shape, x.dtype)
        for i, x in enumerate(leaves)
    ]
    return params, jax.tree.unflatten(structure, new)


@pytest.mark.parametrize(
    ("train", "remat", "pre_norm", "attention_dropout"),
    [
        *(
            pytest.param(*case, marks=pytest.mark.slow if case[1] else ())
            for case in itertools.product(
                [True], [False, True], [False, True], [0.0, 0.2]
            )
        ),
        (False, False, False, 0.2),
    ],
)
def test_numbers_equal_those_of_the_unrolled_form(
    train, remat, pre_norm, attention_dropout
):
    options = {
        "remat": remat,
        "pre_norm": pre_norm,
        "attention_dropout": attention_dropout,
        "param_dtype": "float64",
    }
    with jax.enable_x64(True):
        unrolled, scanned = network(**options), network(scan_layers=True, **options)
        first, params = drawn(unrolled)
        again = drawn(scanned)[0]
        jax.tree.map(np.testing.assert_array_equal, *jax.device_get((first, again)))
        found = [
            jax.device_get(
                jax.value_and_grad(lambda p, m=model: loss(m, p, train))(params)
            )
            for model in (unrolled, scanned)
        ]
        still = float(loss(unrolled, params, False))
    if train:  # not equal because nothing depends on the noise
        assert abs(still - found[0][0]) > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-9, 1e-12), *found)


def test_what_is_compiled_does_not_grow_with_the_number_of_layers():
    def matmuls(layers):
        model = network(layers, scan_layers=True)
        params = jax.eval_shape(lambda: drawn(model)[1])
        grads = jax.jit(jax.grad(lambda p: loss(model, p, True)))
        return grads.lower(params).as_text().count("dot_general")

    assert matmuls(2) == matmuls(5) > 0


def test_the_option_reaches_the_model_and_the_identity_of_its_runs(monkeypatch):
    options = tasks.TaskOptions(scan_layers=True)
    model = tasks.text.make_model("bookwiki/roberta_tiny", options)
    assert model.scan_layers
    assert not tasks.text.make_model(
        "bookwiki/roberta_tiny", tasks.TaskOptions()
    ).scan_layers
    small = tasks.make_task("libsvm/iris")
    factory = tasks.Factory(lambda options: small, frozenset({"scan_layers"}))
    monkeypatch.setitem(tasks.TASKS, "small", factory)
    assert tasks.make_task("small", options).options == (("scan_layers", True),)
    assert tasks.make_task("small").options == ()
