"""Tasks of a user's own model train as loops written by hand in its library do."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn

import lrjax
from lrjax import metrics
from lrjax.core import UsageError

ROWS, FEATURES, CLASSES, BATCH, STEPS = 60, 5, 3, 12, 4
DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(ROWS, FEATURES)).astype(np.float32)
Y = DRAW.integers(CLASSES, size=ROWS)
SPLIT = {"train": (X[:48], Y[:48]), "valid": (X[48:], Y[48:])}
REGRESSION = {
    "train": (X[:48], X[:48, 0] + 3),
    "valid": (X[48:], X[48:, 0] + 3),
}
KEY = jax.random.key(3)
cross_entropy = optax.softmax_cross_entropy_with_integer_labels


@pytest.fixture(autouse=True)
def types_as_users_have_them():
    """Layers of other libraries need promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def batches(task):
    """Full batches of the training part."""
    for step in range(STEPS):
        rows = slice(step * BATCH, (step + 1) * BATCH)
        batch = {name: array[rows] for name, array in task.train.items()}
        yield jax.random.fold_in(KEY, step), batch | {"mask": jnp.ones(BATCH)}


def trained(task, tx):
    """Losses, and parameters and state after some steps, as lrjax does them."""
    params, state = jax.jit(task.init)(KEY)
    opt_state = tx.init(params)

    @jax.jit
    def step(params, state, opt_state, key, batch):
        (loss, (state, _)), grads = jax.value_and_grad(task.loss, has_aux=True)(
            params, state, key, batch
        )
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), state, opt_state, loss

    found = []
    for key, batch in batches(task):
        params, state, opt_state, loss = step(params, state, opt_state, key, batch)
        found.append(loss)
    return np.array(found), params, state


def valid_sums(task, params, state):
    batch = {**task.valid, "mask": jnp.ones(len(task.valid["inputs"]))}
    return jax.jit(task.evaluate)(params, state, batch)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)


# Steps


class Linen(nn.Module):
    """Batch norm and dropout."""

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.Dense(8)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return nn.Dense(CLASSES)(nn.Dropout(0.2, deterministic=not train)(x))


@pytest.mark.slow
def test_linen_steps_are_those_of_a_loop_by_hand():
    model, tx = Linen(), optax.adam(0.01)
    task = lrjax.Task.from_flax(model, cross_entropy, **SPLIT, batch_size=BATCH)
    lrjax.check_task(task)
    variables = model.init(KEY, X[:1], train=False)
    params, stats = variables["params"], variables["batch_stats"]
    opt_state, losses = tx.init(params), []

    @jax.jit
    def step(params, stats, opt_state, key, x, y):
        def loss_of(params):
            logits, new = model.apply(
                {"params": params, "batch_stats": stats},
                x,
                train=True,
                rngs={"dropout": key},
                mutable=["batch_stats"],
            )
            return cross_entropy(logits, y).mean(), new["batch_stats"]

        (loss, new), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), new, opt_state, loss

    for key, batch in batches(task):
        x, y = batch["inputs"], batch["labels"]
        params, stats, opt_state, loss = step(params, stats, opt_state, key, x, y)
        losses.append(loss)
    found, own, state = trained(task, tx)
    close(found, losses)
    jax.tree.map(close, own, params)
    jax.tree.map(close, state, {"batch_stats": stats})
    variables = {"params": params, "batch_stats": stats}
    logits = model.apply(variables, X[48:], train=False)
    sums = valid_sums(task, own, state)
    close(sums["loss"], cross_entropy(logits, Y[48:]).sum())
    assert sums["accuracy"] == (logits.argmax(1) == Y[48:]).sum()


class Nnx(nnx.Module):
    """Batch norm, many layers in a list, and dropout."""

    def __init__(self, rngs, rate=0.0):
        self.first = nnx.Linear(FEATURES, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(8, 8, rngs=rngs) for _ in range(11)])
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.last = nnx.Linear(8, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.first(x)))
        for layer in self.layers:
            x = x + nnx.tanh(layer(x))
        return self.last(self.dropout(x))


def test_nnx_steps_are_those_of_a_loop_by_hand():
    task = lrjax.Task.from_nnx(Nnx, cross_entropy, **SPLIT, batch_size=BATCH)
    lrjax.check_task(task)
    model, losses = Nnx(nnx.Rngs(KEY)), []
    # The bias before the norm has rounding errors as gradients: eps keeps them small.
    tx = optax.adam(0.01, eps=1e-3)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, x, y):
        loss, grads = nnx.value_and_grad(lambda m: cross_entropy(m(x), y).mean())(model)
        optimizer.update(model, grads)
        return loss

    model.train()
    for _, batch in batches(task):
        losses.append(step(model, optimizer, batch["inputs"], batch["labels"]))
    model.eval()
    found, own, state = trained(task, tx)
    close(found, losses)
    jax.tree.map(close, own, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    close(state["norm"]["mean"], model.norm.mean[...])
    sums = valid_sums(task, own, state)
    close(sums["loss"], cross_entropy(model(X[48:]), Y[48:]).sum())


def test_an_nnx_models_noise_follows_the_steps_key():
    task = lrjax.Task.from_nnx(
        lambda rngs: Nnx(rngs, rate=0.5), "cross_entropy", **SPLIT, batch_size=BATCH
    )
    params, state = jax.jit(task.init)(KEY)
    assert set(state) == {"norm"}
    key, batch = next(batches(task))
    other = jax.random.fold_in(key, 1)
    values = [float(task.loss(params, state, k, batch)[0]) for k in (key, key, other)]
    assert values[0] == values[1] != values[2]
    # Half of the outputs of dropout are zero in training, none in evaluation.
    assert (
        valid_sums(task, params, state)["loss"]
        == valid_sums(task, params, state)["loss"]
    )


eqx = pytest.importorskip("equinox")


class Eqx(eqx.Module):
    """Of one row, with batch norm over the batch and dropout."""

    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    last: eqx.nn.Linear
    offset: jax.Array

    def __init__(self, key):
        a, b = jax.random.split(key)
        self.first = eqx.nn.Linear(FEATURES, 8, key=a)
        self.norm = eqx.nn.BatchNorm(8, axis_name="rows", mode="batch")
        self.dropout = eqx.nn.Dropout(0.2)
        self.last = eqx.nn.Linear(8, CLASSES, key=b)
        self.offset = jnp.arange(CLASSES)  # whole numbers are not trained

    def __call__(self, x, state, *, key=None):
        x, state = self.norm(self.first(x), state)
        x = self.dropout(jax.nn.relu(x), key=key)
        return self.last(x) + self.offset, state


@pytest.mark.slow
def test_equinox_steps_are_those_of_a_loop_by_hand():
    make, tx = eqx.nn.make_with_state(Eqx), optax.adam(0.01)
    task = lrjax.Task.from_equinox(make, cross_entropy, **SPLIT, batch_size=BATCH)
    lrjax.check_task(task)
    model, state = make(KEY)
    opt_state, losses = tx.init(eqx.filter(model, eqx.is_inexact_array)), []

    @eqx.filter_jit
    def step(model, state, opt_state, key, x, y):
        def loss_of(model, state):
            keys = jax.random.split(key, len(x))
            logits, new = jax.vmap(
                lambda x, state, key: model(x, state, key=key),
                in_axes=(0, None, 0),
                out_axes=(0, None),
                axis_name="rows",
            )(x, state, keys)
            return cross_entropy(logits, y).mean(), new

        grad = eqx.filter_value_and_grad(loss_of, has_aux=True)
        (loss, state), grads = grad(model, state)
        updates, opt_state = tx.update(grads, opt_state)
        return eqx.apply_updates(model, updates), state, opt_state, loss

    for key, batch in batches(task):
        model, state, opt_state, loss = step(
            model, state, opt_state, key, batch["inputs"], batch["labels"]
        )
        losses.append(loss)
    found, own, own_state = trained(task, tx)
    close(found, losses)
    assert set(own) == {
        f"{part}.{name}"
        for part in ("first", "norm", "last")
        for name in ("weight", "bias")
    }
    close(own["first.weight"], model.first.weight)
    still = eqx.nn.inference_mode(model)
    logits = jax.vmap(lambda x: still(x, state)[0])(jnp.asarray(X[48:]))
    sums = valid_sums(task, own, own_state)
    close(sums["loss"], cross_entropy(logits, Y[48:]).sum())


def lstm_init(key):
    a, b, c = jax.random.split(key, 3)
    return {
        "in": jax.random.normal(a, (1, 4 * 6)) / 2,
        "own": jax.random.normal(b, (6, 4 * 6)) / 3,
        "out": jax.random.normal(c, (6, CLASSES)) / 2,
    }


def lstm(params, x):
    """Read a row's features one after the other."""

    def step(carry, x):
        cell, hidden = carry
        gates = x[:, None] @ params["in"] + hidden @ params["own"]
        i, f, g, o = jnp.split(gates, 4, axis=1)
        cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        return (cell, jax.nn.sigmoid(o) * jnp.tanh(cell)), None

    start = jnp.zeros((2, len(x), 6))
    return jax.lax.scan(step, (start[0], start[1]), x.T)[0][1] @ params["out"]


def test_steps_of_plain_functions_are_those_of_a_loop_by_hand():
    tx = optax.sgd(0.1, momentum=0.9)
    task = lrjax.Task.from_functions(
        lstm_init, lstm, "cross_entropy", **SPLIT, batch_size=BATCH
    )
    params = lstm_init(KEY)
    opt_state, losses = tx.init(params), []

    @jax.jit
    def step(params, opt_state, x, y):
        def loss_of(params):
            return cross_entropy(lstm(params, x), y).mean()

        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, loss

    for _, batch in batches(task):
        x, y = batch["inputs"], batch["labels"]
        params, opt_state, loss = step(params, opt_state, x, y)
        losses.append(loss)
    found, own, _ = trained(task, tx)
    close(found, losses)
    jax.tree.map(close, own, params)


def test_functions_may_have_a_state_a_key_and_a_mode():
    def apply(params, x, state, key, train):
        noise = jax.random.normal(key, x.shape) if train else 0.0
        assert (key is None) == (not train)
        return (x + noise) @ params, state + 1

    task = lrjax.Task.from_functions(
        lambda key: (jax.random.normal(key, (FEATURES, CLASSES)), jnp.zeros(())),
        apply,
        "cross_entropy",
        **SPLIT,
        batch_size=BATCH,
    )
    lrjax.check_task(task)
    losses, _, state = trained(task, optax.sgd(0.1))
    assert state == STEPS
    assert len(set(losses.tolist())) == STEPS


def test_equinox_models_of_a_batch_and_of_a_row_are_the_same():
    def make(key):
        return eqx.nn.MLP(FEATURES, CLASSES, 8, 1, key=key)

    class Whole(eqx.Module):
        mlp: eqx.nn.MLP

        def __call__(self, x):
            return jax.vmap(self.mlp)(x)

    of_row = lrjax.Task.from_equinox(make, "cross_entropy", **SPLIT, batch_size=BATCH)
    whole = lrjax.Task.from_equinox(
        lambda key: Whole(make(key)), "cross_entropy", **SPLIT, batch_size=BATCH
    )
    close(trained(of_row, optax.sgd(0.1))[0], trained(whole, optax.sgd(0.1))[0])


@pytest.mark.parametrize("library", ["nnx", "equinox"])
def test_a_model_that_is_initialised_begins_there(library):
    if library == "nnx":
        model, make = nnx.Linear(FEATURES, CLASSES, rngs=nnx.Rngs(5)), "from_nnx"
        kernel = model.kernel[...]
    else:
        model = eqx.nn.Linear(FEATURES, CLASSES, key=KEY)
        make, kernel = "from_equinox", model.weight
    with pytest.warns(UserWarning, match="all seeds begin at its parameters") as said:
        task = getattr(lrjax.Task, make)(model, "cross_entropy", **SPLIT)
    assert said[0].filename == __file__
    for seed in range(2):
        params, _ = jax.jit(task.init)(jax.random.key(seed))
        assert any(np.array_equal(leaf, kernel) for leaf in jax.tree.leaves(params))


# Metrics


def dense(outputs):
    return nn.Dense(outputs)


def measured(task, key=KEY):
    """Metrics of the validation part, and the model's outputs there."""
    params, state = jax.jit(task.init)(key)
    sums = valid_sums(task, params, state)
    outputs = dense(params["bias"].size).apply({"params": params}, task.valid["inputs"])
    found = {m.name: float(m.value(sums)) for m in task.metrics}
    return found, np.asarray(outputs, float)


def test_metrics_of_classes_equal_scikit_learns():
    chosen = [metrics.f1(), metrics.balanced_accuracy(), "accuracy"]
    task = lrjax.Task.from_flax(
        dense(CLASSES), "cross_entropy", **SPLIT, metrics=chosen
    )
    found, logits = measured(task)
    labels, taken = Y[48:], logits.argmax(1)
    close(found["f1"], sklearn.f1_score(labels, taken, average="macro"))
    close(found["accuracy"], sklearn.accuracy_score(labels, taken))
    close(found["balanced_accuracy"], sklearn.balanced_accuracy_score(labels, taken))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    close(found["loss"], sklearn.log_loss(labels, shares))


@pytest.mark.parametrize("outputs", [1, 2])
def test_metrics_of_two_classes_equal_scikit_learns(outputs):
    loss = "binary_cross_entropy" if outputs == 1 else "cross_entropy"
    parts = {name: (x, y % 2) for name, (x, y) in SPLIT.items()}
    chosen = ["accuracy", metrics.auc(), metrics.f1("binary")]
    task = lrjax.Task.from_flax(dense(outputs), loss, **parts, metrics=chosen)
    assert task.num_classes == 2
    found, logits = measured(task)
    labels = Y[48:] % 2
    scores = logits[:, 0] if outputs == 1 else logits[:, 1] - logits[:, 0]
    close(found["accuracy"], sklearn.accuracy_score(labels, scores > 0))
    close(found["f1"], sklearn.f1_score(labels, scores > 0))
    assert abs(found["auc"] - sklearn.roc_auc_score(labels, scores)) < 0.01
    close(found["loss"], sklearn.log_loss(labels, 1 / (1 + np.exp(-scores))))


YES = X[:, :CLASSES] > 0  # several labels per row
ONE_HOT = np.eye(CLASSES)[Y]


@pytest.mark.parametrize("kind", [np.float32, np.int32, bool])
@pytest.mark.parametrize("targets", [YES, ONE_HOT], ids=["several labels", "one hot"])
def test_the_type_of_targets_never_changes_a_metric(targets, kind):
    several = targets is YES
    loss = "binary_cross_entropy" if several else "cross_entropy"
    parts = {
        "train": (X[:48], targets[:48].astype(kind)),
        "valid": (X[48:], targets[48:].astype(kind)),
    }
    chosen = ["accuracy", metrics.f1()]
    task = lrjax.Task.from_flax(dense(CLASSES), loss, **parts, metrics=chosen)
    found, logits = measured(task)
    own, taken = targets[48:].ravel(), (logits > 0).ravel()
    if not several:
        own, taken = Y[48:], logits.argmax(1)
    close(found["accuracy"], sklearn.accuracy_score(own, taken))
    close(found["f1"], sklearn.f1_score(own, taken, average="macro"))


def test_a_one_hot_targets_auc_is_that_of_its_second_class():
    parts = {name: (x, np.eye(2)[y % 2]) for name, (x, y) in SPLIT.items()}
    task = lrjax.Task.from_flax(
        dense(2), "cross_entropy", **parts, metrics=metrics.auc()
    )
    found, logits = measured(task)
    truth = sklearn.roc_auc_score(Y[48:] % 2, logits[:, 1] - logits[:, 0])
    assert abs(found["auc"] - truth) < 0.01


@pytest.mark.parametrize(
    ("outputs", "kind"),
    [(1, np.float32), (1, np.uint8), (1, bool), (2, np.uint8), (2, bool)],
)
def test_two_classes_may_be_of_any_type(outputs, kind):
    parts = {name: (x, (y % 2).astype(kind)) for name, (x, y) in SPLIT.items()}
    loss = "binary_cross_entropy" if outputs == 1 else "cross_entropy"
    task = lrjax.Task.from_flax(dense(outputs), loss, **parts)
    lrjax.check_task(task)
    found, logits = measured(task)
    scores = logits[:, 0] if outputs == 1 else logits[:, 1] - logits[:, 0]
    close(found["loss"], sklearn.log_loss(Y[48:] % 2, 1 / (1 + np.exp(-scores))))


def test_metrics_of_regression_equal_scikit_learns():
    chosen = [metrics.r2(), metrics.rmse(), metrics.mae()]
    task = lrjax.Task.from_flax(dense(1), "squared_error", **REGRESSION, metrics=chosen)
    found, outputs = measured(task)
    targets = REGRESSION["valid"][1]
    close(found["r2"], sklearn.r2_score(targets, outputs))
    close(found["rmse"], sklearn.root_mean_squared_error(targets, outputs))
    close(found["mae"], sklearn.mean_absolute_error(targets, outputs))
    close(found["loss"], sklearn.mean_squared_error(targets, outputs))


def test_a_metric_of_ones_own_brings_its_sum():
    hits = metrics.Metric("hits", metrics.mean_of("hits"), True)

    def counted(outputs, targets, mask):
        return mask.sum(where=jnp.abs(outputs[:, 0] - targets) < 1)

    options = {**REGRESSION, "metrics": hits}
    with pytest.raises(UsageError, match=r"reads the sum 'hits'.*sums=\{'hits': "):
        lrjax.Task.from_flax(dense(1), "squared_error", **options)
    task = lrjax.Task.from_flax(
        dense(1), "squared_error", **options, sums={"hits": counted}
    )
    found, outputs = measured(task)
    near = np.abs(outputs[:, 0] - REGRESSION["valid"][1]) < 1
    close(found["hits"], near.mean())


@pytest.mark.parametrize(
    ("loss", "targets", "names"),
    [
        ("cross_entropy", Y, ("loss", "accuracy")),
        (cross_entropy, Y, ("loss", "accuracy")),
        ("cross_entropy", np.eye(CLASSES, dtype=np.float32)[Y], ("loss",)),
        (optax.l2_loss, X[:, :CLASSES], ("loss",)),
        ("squared_error", X[:, :CLASSES], ("loss",)),
        ("huber", X[:, :CLASSES], ("loss",)),
        ("absolute_error", X[:, :CLASSES], ("loss",)),
        (optax.cosine_distance, X[:, :CLASSES], ("loss",)),
    ],
)
def test_metrics_follow_from_loss_and_targets(loss, targets, names):
    task = lrjax.Task.from_flax(dense(CLASSES), loss, train=(X, targets))
    assert task.measured == names
    assert (task.metrics[-1].least == 0) == (loss is not optax.cosine_distance)


def test_a_loss_for_all_rows_is_applied_row_by_row():
    def mean(outputs, targets):
        return cross_entropy(outputs, targets).mean()

    with pytest.warns(UserWarning, match="each row alone") as said:
        task = lrjax.Task.from_flax(dense(CLASSES), mean, **SPLIT, batch_size=BATCH)
    assert said[0].filename == __file__
    same = lrjax.Task.from_flax(
        dense(CLASSES), cross_entropy, **SPLIT, batch_size=BATCH
    )
    tx = optax.adam(0.1)
    close(trained(task, tx)[0], trained(same, tx)[0])


# Sequences


class Tagger(nn.Module):
    """A class for each token."""

    @nn.compact
    def __call__(self, tokens):
        return nn.Dense(CLASSES)(nn.Embed(11, 4)(tokens))


@pytest.mark.parametrize(
    "form", ["lengths", pytest.param("items", marks=pytest.mark.slow)]
)
def test_items_beyond_a_rows_length_do_not_count(form):
    lengths = DRAW.integers(1, 8, size=ROWS)
    tokens, tags = DRAW.integers(11, size=(ROWS, 7)), DRAW.integers(3, size=(ROWS, 7))
    counts = np.arange(7) < lengths[:, None]
    entry = lengths if form == "lengths" else counts
    task = lrjax.Task.from_flax(
        Tagger(),
        "cross_entropy",
        train=({"tokens": tokens, "mask": entry}, np.where(counts, tags, -1)),
        lengths="mask",
        metrics=["accuracy", metrics.f1(), "perplexity"],
    )
    lrjax.check_task(task)
    params, state = jax.jit(task.init)(KEY)
    valid = {k: np.asarray(v) for k, v in task.valid.items()}
    sums = task.evaluate(params, state, task.valid | {"mask": jnp.ones(12)})
    logits = np.asarray(Tagger().apply({"params": params}, valid["inputs/tokens"]))
    real = valid["targets"] >= 0
    labels, logits = valid["targets"][real], logits[real]
    assert sums["count"] == real.sum()
    close(sums["loss"], cross_entropy(logits, labels).sum())
    taken = logits.argmax(-1)
    f1 = metrics.f1().value(sums)
    close(f1, sklearn.f1_score(labels, taken, average="macro"))
    close(sums["accuracy"], (labels == taken).sum())
    batch = task.valid | {"mask": jnp.ones(12)}
    loss, (_, counted) = task.loss(params, state, KEY, batch)
    close(loss, sums["loss"] / sums["count"])
    assert counted["count"] == real.sum()


# Padding


def padded_tasks():
    return {
        "linen": lrjax.Task.from_flax(Linen(), cross_entropy, **SPLIT),
        "nnx": lrjax.Task.from_nnx(Nnx, cross_entropy, **SPLIT),
        "equinox": lrjax.Task.from_equinox(
            eqx.nn.make_with_state(Eqx), cross_entropy, **SPLIT
        ),
        "lstm": lrjax.Task.from_functions(lstm_init, lstm, "cross_entropy", **SPLIT),
        "rows": lrjax.Task.from_flax(
            dense(2),
            "squared_error",
            train=(X, X[:, :2]),
            metrics=[metrics.rmse(), metrics.mae()],
        ),
    }


@pytest.fixture(scope="module")
def compiled():
    """Functions of tasks that are compiled once."""
    with jax.numpy_dtype_promotion("standard"):
        found = {}
        for name, task in padded_tasks().items():
            variables = jax.jit(task.init)(KEY)
            found[name] = (
                task,
                jax.jit(lambda key, batch, t=task, v=variables: t.loss(*v, key, batch)),
                jax.jit(lambda batch, t=task, v=variables: t.evaluate(*v, batch)),
            )
        yield found


@settings(max_examples=15)
@given(data=st.data())
@pytest.mark.parametrize("name", ["linen", "nnx", "equinox", "lstm", "rows"])
def test_padding_never_matters(name, data, compiled):
    task, loss, evaluate = compiled[name]
    mask = data.draw(st.lists(st.booleans(), min_size=8, max_size=8).filter(any))
    fill = data.draw(st.sampled_from([0.0, 1e30, np.nan, -np.inf]))
    mask = np.array(mask, np.float32)
    batch = {k: np.array(v[:8]) for k, v in task.train.items()}
    dirty = {k: v.copy() for k, v in batch.items()}
    for array in dirty.values():
        if array.dtype == np.float32:
            array[mask == 0] = fill
    for function in (lambda b: loss(KEY, b), evaluate):
        clean, other = (
            jax.tree.leaves(function(each | {"mask": jnp.asarray(mask)}))
            for each in (batch, dirty)
        )
        for a, b in zip(clean, other, strict=True):
            np.testing.assert_array_equal(a, b)


# Errors


class Pair(nn.Module):
    """Two outputs."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(CLASSES)(x), x


TOKENS = np.ones((ROWS, 2), int)
WRONG = {
    "several models": (
        lambda: lrjax.Task.from_flax((dense(1), dense(1)), "huber", **SPLIT),
        "several models with an optimiser each do not fit",
    ),
    "a class": (lambda: lrjax.Task.from_flax(Linen, "huber", **SPLIT), "is a class"),
    "nnx in linen": (
        lambda: lrjax.Task.from_flax(Nnx, "huber", **SPLIT),
        "use Task.from_nnx",
    ),
    "linen in nnx": (
        lambda: lrjax.Task.from_nnx(Linen(), "huber", **SPLIT),
        "use Task.from_flax",
    ),
    "linen in equinox": (
        lambda: lrjax.Task.from_equinox(Linen(), "huber", **SPLIT),
        "use Task.from_flax",
    ),
    "no model": (
        lambda: lrjax.Task.from_flax("mlp", "huber", **SPLIT),
        "must be a flax.linen.Module",
    ),
    "another module": (
        lambda: lrjax.Task.from_nnx(lambda rngs: X, "huber", **SPLIT),
        "not an nnx.Module",
    ),
    "unknown loss": (
        lambda: lrjax.Task.from_flax(dense(3), "crossentropy", **SPLIT),
        "did you mean 'cross_entropy'",
    ),
    "several losses": (
        lambda: lrjax.Task.from_flax(dense(3), ["huber", "huber"], **SPLIT),
        "a task has one loss",
    ),
    "a dictionary": (
        lambda: lrjax.Task.from_flax(
            dense(3), lambda o, t: {"main": o.sum(1), "extra": o.sum(1)}, **SPLIT
        ),
        r"returns a dictionary \(.*main.*\)",
    ),
    "a tuple": (
        lambda: lrjax.Task.from_flax(dense(3), lambda o, t: (o.sum(), {}), **SPLIT),
        "returns 2 values",
    ),
    "a model with two outputs": (
        lambda: lrjax.Task.from_flax(Pair(), "cross_entropy", **SPLIT),
        r"outputs \(float32\[3\], float32\[5\]\)",
    ),
    "accuracy of two outputs": (
        lambda: lrjax.Task.from_flax(
            Pair(), lambda o, t: o[0].sum(1), **SPLIT, metrics="accuracy"
        ),
        "the model returns .* not one array",
    ),
    "broadcast": (
        lambda: lrjax.Task.from_flax(dense(1), lambda o, t: (o - t) ** 2, **REGRESSION),
        "compares each row with all others",
    ),
    "wrong shape": (
        lambda: lrjax.Task.from_flax(dense(2), "squared_error", **REGRESSION),
        r"outputs have shape \[2\] per row and targets \[\]",
    ),
    "not floats": (
        lambda: lrjax.Task.from_flax(dense(3), lambda o, t: t, **SPLIT),
        "not floating-point",
    ),
    "a model that fails": (
        lambda: lrjax.Task.from_functions(
            lambda key: jnp.ones((4, 3)), lambda p, x: x @ p, "cross_entropy", **SPLIT
        ),
        r"the model with inputs float32\[5\] per row fails: TypeError",
    ),
    "class numbers as floats": (
        lambda: lrjax.Task.from_flax(
            dense(3), "cross_entropy", train=(X, Y.astype(np.float32))
        ),
        r"make these whole numbers, such as y.astype\(int\)",
    ),
    "class numbers in a column": (
        lambda: lrjax.Task.from_flax(dense(3), "cross_entropy", train=(X, Y[:, None])),
        r"leave out the last axis, such as y\[:, 0\]",
    ),
    "one logit of two classes": (
        lambda: lrjax.Task.from_flax(dense(1), "cross_entropy", train=(X, Y % 2)),
        "one logit for two classes is for binary_cross_entropy",
    ),
    "classes from 1": (
        lambda: lrjax.Task.from_flax(dense(3), "cross_entropy", train=(X, Y + 1)),
        r"train: targets go from 1 to 3, .* 0 to 2 for 3 outputs: np.unique",
    ),
    "a class for padding": (
        lambda: lrjax.Task.from_flax(
            Tagger(), "cross_entropy", train=(TOKENS, Y[:, None] - [0, 1])
        ),
        "train: targets go from -1 to 2, .* lengths= leaves items out",
    ),
    "a class in validation alone": (
        lambda: lrjax.Task.from_flax(
            dense(3), "cross_entropy", train=(X, Y), valid=(X, Y + 1)
        ),
        "valid: targets go from 1 to 3",
    ),
    "signs as classes": (
        lambda: lrjax.Task.from_flax(
            dense(1), "binary_cross_entropy", train=(X, np.sign(X[:, :1]))
        ),
        "targets go from -1.0 to 1.0, and must be from 0 to 1 for a binary",
    ),
    "negative shares": (
        lambda: lrjax.Task.from_flax(
            dense(3), optax.softmax_cross_entropy, train=(X, X[:, :3])
        ),
        "must be from 0 up as shares of classes",
    ),
    "accuracy of estimates": (
        lambda: lrjax.Task.from_flax(
            dense(1), "squared_error", train=(X, Y % 2), metrics="accuracy"
        ),
        "accuracy and the like take an output above 0 for yes",
    ),
    "a masked array": (
        lambda: lrjax.Task.from_flax(
            dense(3), "cross_entropy", train=(np.ma.masked_less(X, 0), Y)
        ),
        r"train: inputs is a masked array: give inputs.filled",
    ),
    "auc of three": (
        lambda: lrjax.Task.from_flax(
            dense(3), "cross_entropy", **SPLIT, metrics=metrics.auc()
        ),
        "auc needs two classes, and the model has 3",
    ),
    "r2 of two": (
        lambda: lrjax.Task.from_flax(
            dense(2), "squared_error", train=(X, X[:, :2]), metrics=metrics.r2()
        ),
        "r2 needs one target per row",
    ),
    "an option": (
        lambda: lrjax.Task.from_flax(dense(3), "cross_entropy", **SPLIT, metrik=3),
        "unknown option 'metrik'; did you mean 'metric",
    ),
    "lengths": (
        lambda: lrjax.Task.from_flax(dense(3), "huber", **SPLIT, lengths="n"),
        "there is no input 'n' among the inputs, which are one array",
    ),
    "lengths of rows": (
        lambda: lrjax.Task.from_flax(
            dense(3), "cross_entropy", train=({"x": X, "n": Y}, Y), lengths="n"
        ),
        "the loss a value per item",
    ),
    "a state that is missing": (
        lambda: lrjax.Task.from_functions(
            lambda key: 1.0, lambda params, x, state: (x, state), "huber", **SPLIT
        ),
        r"init\(key\) must return \(params, state\)",
    ),
    "loss as a sum": (
        lambda: lrjax.Task.from_flax(
            dense(3), "cross_entropy", **SPLIT, sums={"loss": max}
        ),
        "'loss' is that of the loss",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_one_line(what):
    call, said = WRONG[what]
    with pytest.raises(UsageError, match=said) as error:
        call()
    text = str(error.value)
    assert text.startswith("from_")
    assert "\n" not in text
