"""What is wrong with a task is said in words; sound ones pass."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import own
import pytest

from lrjax import check_task
from lrjax.core import Task, UsageError
from lrjax.tasks import make_task

SOUND = make_task("libsvm/iris")


def changed(**fields):
    return dataclasses.replace(SOUND, **fields)


def part(**arrays):
    return {**SOUND.train, **arrays}


def noisy(params, state, key, batch):
    value, rest = SOUND.loss(params, state, key, batch)
    return value + jax.random.normal(jax.random.key(7)) ** 2, rest


def host_noise(params, state, key, batch):
    value, rest = SOUND.loss(params, state, key, batch)
    return value + np.random.random(), rest


def unmasked(params, state, key, batch):
    return SOUND.loss(
        params, state, key, {**batch, "mask": jnp.ones_like(batch["mask"])}
    )


def means(params, state, batch):
    sums = SOUND.evaluate(params, state, batch)
    return {**sums, "loss": sums["loss"] / sums["count"]}


def padded(params, state, batch):
    full = {**batch, "mask": jnp.ones_like(batch["mask"])}
    return {**SOUND.evaluate(params, state, full), "count": batch["mask"].sum()}


def nan_start(params, state, key, batch):
    value, rest = SOUND.loss(params, state, key, batch)
    return value * jnp.nan, rest


def vector(params, state, key, batch):
    return batch["mask"], (state, {})


def branching(params, state, key, batch):
    value, rest = SOUND.loss(params, state, key, batch)
    return (value if value > 0 else -value), rest


def batch_means(params, state, batch):
    """A mean over all rows of a batch, whose masked rows count as zeros."""
    sums = SOUND.evaluate(params, state, batch)
    return {**sums, "loss": sums["loss"] / len(batch["mask"])}


def lacking(params, state, batch):
    return {"loss": SOUND.evaluate(params, state, batch)["loss"]}


LABELS = np.asarray(SOUND.train["labels"])
BROKEN = [
    (changed(train={}), "train must be a dictionary"),
    (changed(train=part(labels=LABELS[:-1])), "different numbers of rows"),
    (changed(train=part(labels=LABELS + 1)), "go from 1 to 3"),
    (changed(train=part(labels=LABELS.astype(np.float32))), "whole numbers"),
    (changed(train=part(features=SOUND.train["features"] * np.nan)), "not finite"),
    (changed(train=part(mask=LABELS)), "rename it"),
    (
        changed(valid=part(features=SOUND.train["features"][:, :2])),
        "differs from train",
    ),
    (changed(batch_size=1000), "larger than train, 90 rows"),
    (changed(batch_size=0), "from 1 up"),
    (changed(init=lambda key: {"w": jnp.zeros(3)}), "must return"),
    (changed(init=lambda key: ({"w": jnp.full(3, jnp.inf)}, ())), "not finite"),
    (
        changed(init=lambda key: ({"w": jnp.asarray(np.random.random(3))}, ())),
        r"init\(key\) is not deterministic",
    ),
    (changed(loss=nan_start), "it must be finite"),
    (changed(loss=vector), "one floating-point number"),
    (changed(loss=branching), "fails under jit"),
    (changed(loss=noisy), "does not use its key"),
    (changed(loss=host_noise), "loss is not deterministic for a key"),
    (changed(loss=unmasked), "mask 0"),
    (changed(evaluate=means), "does not add up"),
    (changed(evaluate=batch_means), "'loss' of evaluate does not add up"),
    (changed(evaluate=padded), "padding"),
    (changed(evaluate=lacking), "does not return 'count'"),
]


@pytest.mark.parametrize(("task", "words"), BROKEN, ids=[words for _, words in BROKEN])
def test_what_is_wrong_is_said(task, words):
    with pytest.raises(UsageError, match=words) as caught:
        check_task(task)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["libsvm/iris", "synthetic/regression-4"])
def test_sound_tasks_pass(name):
    check_task(make_task(name))


def test_a_model_that_begins_at_zero_passes():
    rows = np.random.default_rng(0).normal(size=(200, 64)).astype(np.float32)
    task = Task.from_functions(
        lambda key: jnp.zeros((64, 64)),
        lambda params, inputs: inputs @ params,
        lambda outputs, targets: jnp.mean((outputs - targets) ** 2, axis=-1),
        train=(rows, rows[::-1].copy()),
        batch_size=64,
    )
    check_task(task)


def test_dropout_from_the_key_passes():
    def loss(params, state, key, batch):
        kept = jax.random.bernoulli(key, 0.5, batch["features"].shape)
        dropped = {**batch, "features": jnp.where(kept, batch["features"], 0)}
        return SOUND.loss(params, state, key, dropped)

    check_task(changed(loss=loss))


OWN = [
    pytest.param(name, marks=[] if name == "scanned layers" else pytest.mark.slow)
    for name in own.MODELS
]


@pytest.mark.parametrize("name", OWN)
def test_models_of_all_kinds_pass(name):
    check_task(own.task(name))


def test_a_model_of_flax_nnx_passes():
    check_task(own.nnx_task())


@pytest.mark.parametrize("where", ["parameters", "state"])
def test_random_keys_in_a_model_are_refused_in_a_line(where):
    """As nnx.Dropout keeps them."""
    task = own.task("mlp")

    def init(key):
        params, state = task.init(key)
        keys = {"key": key}
        return ((params, keys), state) if where == "parameters" else (params, keys)

    with pytest.raises(UsageError, match="returns random keys") as caught:
        check_task(dataclasses.replace(task, init=init))
    assert "\n" not in str(caught.value)


def test_numbers_that_are_drawn_and_not_used_do_not_count():
    def idle(params, state, key, batch):
        jax.random.normal(jax.random.key(7), (3,))
        return SOUND.loss(params, state, key, batch)

    check_task(changed(loss=idle))


@pytest.mark.parametrize("where", ["jit", "scan", "cond", "vmap"])
def test_numbers_from_another_key_are_found_wherever_they_are_drawn(where):
    def draw(x):
        return x + jax.random.normal(jax.random.key(7)) ** 2

    def drawn(x):
        if where == "jit":
            return jax.jit(draw)(x)
        if where == "scan":
            return jax.lax.scan(lambda x, _: (draw(x), None), x, length=2)[0]
        if where == "cond":
            return jax.lax.cond(x > 0, draw, lambda x: x, x)
        return jax.vmap(draw)(x[None])[0]

    def loss(params, state, key, batch):
        value, rest = SOUND.loss(params, state, key, batch)
        return drawn(value), rest

    with pytest.raises(UsageError, match="draws random numbers but does not use"):
        check_task(changed(loss=loss))


def test_seeds_must_not_start_alike():
    with pytest.raises(UsageError, match="all seeds start from the same parameters"):
        check_task(changed(init=lambda key: SOUND.init(jax.random.key(7))))
    start = SOUND.init(jax.random.key(7))
    check_task(changed(init=lambda key: start))  # as of a model that was trained


def test_other_things_are_no_tasks():
    with pytest.raises(UsageError, match=r"is not a lrjax.core.Task"):
        check_task({"train": 1})
    assert isinstance(SOUND, Task)


# Doubts


def doubtful(**changes):
    """A sound task, changed."""
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(60, 3)).astype(np.float32), draw.integers(3, size=60)
    parts = {"x": x, "labels": y.astype(np.int32)}

    def evaluate(params, state, batch):
        logits, mask = batch["x"] @ params["w"] * changes.get("scale", 1), batch["mask"]
        own = jnp.take_along_axis(
            jax.nn.log_softmax(logits), batch["labels"][:, None], 1
        )
        return {"loss": -own[:, 0] @ mask, "count": mask.sum()}

    def loss(params, state, key, batch):
        sums = evaluate(params, state, batch)
        return sums["loss"] / sums["count"], (state, {})

    def init(key):
        params = {"w": jax.random.normal(key, (3, 3))}
        return params | changes.get("more", {}), ()

    train, valid = (
        {k: v[at] for k, v in parts.items()} for at in (slice(40), slice(40, None))
    )
    train |= {k: v for k, v in changes.items() if k in train}
    valid = changes.get("valid", valid)
    return Task("odd", train, valid, valid, init, loss, evaluate, 8, 3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"more": {"unused": jnp.ones(2)}}, r"no gradient reaches .*\['unused'\]"),
        (
            {"x": 5e4 + np.random.default_rng(0).normal(size=(40, 3)), "scale": 1e-5},
            r"the numbers of train\['x'\] are far from 1 \(mean 5e\+04, deviation 0",
        ),
        ({"labels": np.arange(40) % 2}, "1 class of valid, such as 2, do not occur"),
        (
            {"valid": {k: np.array(v[:20]) for k, v in doubtful().train.items()}},
            "20 of 20 rows of valid are in train, too",
        ),
    ],
)
def test_what_is_odd_is_a_warning(changes, said):
    for name, kind in (("x", np.float32), ("labels", np.int32)):
        if name in changes:
            changes[name] = changes[name].astype(kind)
    with pytest.warns(UserWarning, match=f"task 'odd': {said}") as given:
        check_task(doubtful(**changes))
    assert len(given) == 1
    assert given[0].filename == __file__


def test_a_sound_task_gives_no_warning():
    check_task(doubtful())
