"""What saves memory: batches in parts, and activations that are computed again."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lrjax import methods, tasks
from lrjax.core import UsageError
from lrjax.engine import train
from lrjax.tasks import models


def program_of(task, one_by_one=False, method="sgd"):
    static, traced = methods.split(
        methods.METHODS[method], methods.METHODS[method].defaults
    )
    program = train.single(
        task, methods.METHODS[method], static, 1, 1, 1, one_by_one=one_by_one
    )
    return program, traced


def stepped(
    task, rows, method="sgd", **choices
) -> tuple[train.RunState, Any, jax.Array, train.Gradient, train.RunState]:
    """A run's first state, a batch of the first rows, its key, and what a step gave."""
    program, hparams = program_of(task, method=method, **choices)
    params, model_state = task.init(jax.random.key(0))
    state = train.init_run(program, params, model_state, hparams, 10.0)
    index = np.r_[np.arange(rows), np.zeros(task.batch_size - rows, int)]
    batch = {k: v[index] for k, v in task.train.items()}
    batch["mask"] = jnp.asarray(np.arange(task.batch_size) < rows, jnp.float32)
    key = jax.random.key(1)

    @jax.jit
    def step(state):
        gradient = train.gradient_run(
            program, state.params, state.model_state, batch, key
        )
        return gradient, train.apply_run(
            program, state, gradient, batch, key, jnp.int32(0), hparams, 10.0
        )

    return state, batch, key, *step(state)


def close(a, b, rtol=1e-5, atol=1e-7):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


@pytest.mark.parametrize("method", ["sgd", "armijo_sgd"])  # a search asks for losses
@pytest.mark.parametrize("rows", [64, 9, 2])  # with two rows some parts are empty
def test_parts_of_a_batch_give_what_the_batch_gives(rows, method):
    whole = stepped(tasks.make_task("digits/logistic"), rows, method)
    parts = stepped(
        tasks.make_task("digits/logistic", tasks.TaskOptions(micro_batches=4)),
        rows,
        method,
    )
    for a, b in zip(whole[3:], parts[3:], strict=True):
        close((a[0], a[2]), (b[0], b[2]), rtol=2e-5, atol=1e-6)


@functools.cache
def digits(**choices):
    return tasks.make_task("digits/wrn", tasks.TaskOptions(batch_size=16, **choices))


@pytest.mark.slow
@pytest.mark.parametrize(
    "unrolled", [True, pytest.param(False, marks=pytest.mark.slow)]
)
def test_batch_norm_sees_one_part_after_the_other(unrolled):
    task = digits(micro_batches=4)
    state, batch, key, found, _ = stepped(task, 10, one_by_one=unrolled)
    function = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    total = 0.0, jax.tree.map(jnp.zeros_like, state.params)
    model_state = state.model_state
    for part in range(4):
        piece = {k: v[part::4] for k, v in batch.items()}
        noise = jax.random.fold_in(key, part)
        (loss, (model_state, _)), grads = function(
            state.params, model_state, noise, piece
        )
        weight = piece["mask"].sum() / 10
        total = jax.tree.map(lambda t, x, w=weight: t + w * x, total, (loss, grads))
    close(found, (total[0], model_state, total[1]), rtol=1e-3, atol=1e-5)


def test_losses_over_other_things_than_rows_weigh_by_those():
    task = tasks.make_task("digits/logistic", tasks.TaskOptions(micro_batches=4))
    counts = jnp.arange(64.0)

    def loss(params, state, key, batch):
        """A mean over as many things as a row's number says."""
        count = jnp.sum(batch["number"])
        mean = jnp.sum(batch["number"] * batch["features"][:, 20]) / count
        return mean + 0 * params["bias"].sum(), (state, {"count": count})

    task = dataclasses.replace(
        task, loss=loss, train={**task.train, "number": jnp.resize(counts, (1079,))}
    )
    found = stepped(task, 64)[3].loss
    expected = jnp.average(task.train["features"][:64, 20], weights=counts)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_parts_are_of_a_runs_identity_and_equal():
    assert tasks.make_task("digits/logistic").options == ()
    cut = tasks.make_task("digits/logistic", tasks.TaskOptions(micro_batches=4))
    assert cut.options == (("micro_batches", 4),)
    for number in (0, 3, 128):
        with pytest.raises(UsageError, match=f"micro_batches={number}.*64 rows"):
            tasks.make_task("digits/logistic", tasks.TaskOptions(micro_batches=number))


NETWORKS = {
    "wrn": lambda **k: models.WideResNet(10, 1, 5, 0.3, **k),
    "densenet": lambda **k: models.DenseNet((1, 1), 4, 0.5, 5, **k),
    "vit": lambda **k: models.VisionTransformer(4, 8, 1, 2, 5, **k),
}


def roberta_loss(remat):
    network = models.Roberta(11, 8, 2, 2, 16, 10, remat=remat)
    ids = jnp.arange(2, 8).reshape(2, 3)

    def loss(params):
        logits = network.apply(
            {"params": params}, ids, ids > 0, True, rngs={"dropout": jax.random.key(2)}
        )
        return jnp.sum(jnp.square(jnp.asarray(logits))), ()

    init = functools.partial(network.init, train=False)
    return loss, jax.eval_shape(init, jax.random.key(1), ids, ids)["params"]


def network_loss(name, remat):
    """A network's loss in training mode, as a function of its parameters, and those."""
    if name == "roberta":
        return roberta_loss(remat)
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    network = NETWORKS[name](remat=remat)
    init = functools.partial(network.init, train=False)
    variables = jax.eval_shape(init, jax.random.key(1), images)
    state = variables.get("batch_stats", {})
    filled = [0.5 + jnp.zeros(x.shape) for x in jax.tree.leaves(state)]
    state = jax.tree.unflatten(jax.tree.structure(state), filled)

    def loss(params):
        logits, new = network.apply(
            {"params": params, "batch_stats": state},
            images,
            train=True,
            mask=jnp.array([1, 1, 1, 0]),
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(2)},
        )
        return jnp.sum(jnp.square(logits)), new

    return loss, variables["params"]


@pytest.mark.parametrize("name", [*NETWORKS, "roberta"])
def test_less_is_kept_for_gradients_where_it_is_computed_again(name):
    sizes = []
    for remat in (True, False):
        loss, params = network_loss(name, remat)
        kept = jax.eval_shape(lambda p, f=loss: jax.vjp(f, p, has_aux=True)[1], params)
        sizes.append(sum(x.size for x in jax.tree.leaves(kept)))
    again, kept = sizes
    assert again < 0.6 * kept


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "wrn",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("densenet", "vit", "roberta")
        ),
    ],
)
def test_computing_activations_again_changes_no_number(name):
    found = []
    for remat in (True, False):
        loss, shapes = network_loss(name, remat)
        leaves, structure = jax.tree.flatten(shapes)
        drawn = [
            jax.random.normal(jax.random.key(i), x.shape) / np.sqrt(x.shape[0])
            for i, x in enumerate(leaves)
        ]
        params = jax.tree.unflatten(structure, drawn)
        found.append(jax.jit(jax.value_and_grad(loss, has_aux=True))(params))
    close(*found, 1e-4, 1e-4)


def test_tasks_whose_model_has_nothing_to_compute_again():
    with pytest.raises(UsageError, match="remat=True: 'digits/logistic'"):
        tasks.make_task("digits/logistic", tasks.TaskOptions(remat=True))
    with pytest.raises(UsageError, match=r"label_smoothing=0\.1: 'libsvm/iris'"):
        tasks.make_task("libsvm/iris", tasks.TaskOptions(label_smoothing=0.1))


def test_smoothed_labels():
    plain, smoothed = digits(), digits(label_smoothing=0.2)
    assert smoothed.options == (("label_smoothing", 0.2),)
    params, state = plain.init(jax.random.key(0))
    batch = {k: v[:16] for k, v in plain.train.items()} | {"mask": jnp.ones(16)}

    @jax.jit
    def of_bias(bias):
        """Losses of both tasks."""
        changed = {**params, "classifier": {**params["classifier"], "bias": bias}}
        key = jax.random.key(1)
        return jnp.stack(
            [t.loss(changed, state, key, batch)[0] for t in (plain, smoothed)]
        )

    # The loss's gradient at the bias is the mean of softmax less target.
    slopes = jax.jacrev(of_bias)(params["classifier"]["bias"])
    hard = jax.nn.one_hot(batch["labels"], 10)
    shift = (optax.smooth_labels(hard, 0.2) - hard).mean(0)
    np.testing.assert_allclose(slopes[1] - slopes[0], -shift, atol=1e-6)
    # Where all logits are alike, all targets cost the same; where one is large, not.
    assert of_bias(100.0 * hard[0])[1] > of_bias(100.0 * hard[0])[0]
