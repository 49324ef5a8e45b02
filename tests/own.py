"""Tasks as users write them: models of all kinds on small arrays of their own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lrjax.core import Task

ROWS, CLASSES, BATCH = 96, 3, 16


class CNN(nn.Module):
    """Two convolutions of linen's own."""

    @nn.compact
    def __call__(self, x, train=False, mask=None):
        x = nn.relu(nn.Conv(8, (3, 3))(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Conv(16, (3, 3))(x))
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class CNN1D(nn.Module):
    """Convolutions along one axis."""

    @nn.compact
    def __call__(self, x, train=False, mask=None):
        x = nn.relu(nn.Conv(8, (5,))(x.reshape(len(x), -1, 1)))
        return nn.Dense(CLASSES)(x.mean(1))


class Patches(nn.Module):
    """A convolution as patches, which JAX cuts out by one, and a matrix product."""

    @nn.compact
    def __call__(self, x, train=False, mask=None):
        x = jax.lax.conv_general_dilated_patches(
            x, (3, 3), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return nn.Dense(CLASSES)(nn.relu(nn.Dense(8)(x)).mean((1, 2)))


class Shifted(nn.Module):
    """A convolution as shifted copies and a matrix product: there is none in it."""

    @nn.compact
    def __call__(self, x, train=False, mask=None):
        shifts = [jnp.roll(x, (i, j), (1, 2)) for i in range(3) for j in range(3)]
        x = nn.relu(nn.Dense(8)(jnp.concatenate(shifts, -1)))
        return nn.Dense(CLASSES)(nn.max_pool(x, (2, 2), (2, 2)).mean((1, 2)))


class NormalisedCNN(nn.Module):
    """With Flax's batch norm and dropout."""

    @nn.compact
    def __call__(self, x, train=False, mask=None):
        x = nn.Conv(8, (3, 3))(x)
        if mask is not None:
            mask = mask[:, None, None, None] > 0
        norm = nn.BatchNorm(use_running_average=not train, momentum=0.9)
        x = nn.relu(norm(x, mask=mask))
        x = nn.Dropout(0.2, deterministic=not train)(x.mean((1, 2)))
        return nn.Dense(CLASSES)(x)


class LoopedCNN(nn.Module):
    """The same convolution again and again, in a scan."""

    @nn.compact
    def __call__(self, x, train=False, mask=None):
        def body(conv, x, _):
            return nn.relu(conv(x)), None

        x = nn.Dense(4)(x)
        loop = nn.scan(
            body, variable_broadcast="params", split_rngs={"params": False}, length=3
        )
        x, _ = loop(nn.Conv(4, (3, 3)), x, None)
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class Pooled(nn.Module):
    """Pooling alone, which is no convolution."""

    @nn.compact
    def __call__(self, x, train=False, mask=None):
        with jax.numpy_dtype_promotion("standard"):  # Flax divides by a whole number
            x = nn.avg_pool(x, (2, 2), (2, 2))
        return nn.Dense(CLASSES)(nn.max_pool(x, (2, 2), (2, 2)).reshape(len(x), -1))


class MLP(nn.Module):
    """One hidden layer."""

    @nn.compact
    def __call__(self, x, train=False, mask=None):
        return nn.Dense(CLASSES)(nn.relu(nn.Dense(16)(x.reshape(len(x), -1))))


class Linear(nn.Module):
    """No hidden layer."""

    @nn.compact
    def __call__(self, x, train=False, mask=None):
        return nn.Dense(CLASSES)(x.reshape(len(x), -1))


class Recurrent(nn.Module):
    """A recurrent network over an image's rows."""

    cell: type[nn.RNNCellBase]

    @nn.compact
    def __call__(self, x, train=False, mask=None):
        return nn.Dense(CLASSES)(nn.RNN(self.cell(8))(x[..., 0])[:, -1])


class _Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.tanh(nn.Dense(8)(x)), None


class ScannedLayers(nn.Module):
    """Layers with weights of their own, in one scan."""

    @nn.compact
    def __call__(self, x, train=False, mask=None):
        layers = nn.scan(
            _Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        x, _ = layers()(nn.Dense(8)(x.reshape(len(x), -1)), None)
        return nn.Dense(CLASSES)(x)


class Transformer(nn.Module):
    """Attention over an image's rows, with dropout."""

    @nn.compact
    def __call__(self, x, train=False, mask=None):
        x = nn.Dense(8)(x[..., 0])
        attention = nn.MultiHeadDotProductAttention(2, dropout_rate=0.1)
        x = x + attention(nn.LayerNorm()(x), deterministic=not train)
        x = x + nn.Dense(8)(nn.gelu(nn.Dense(16)(nn.LayerNorm()(x))))
        return nn.Dense(CLASSES)(x.mean(1))


# name -> module, and the kind of model that it is
MODELS = {
    "cnn": (CNN(), "convolutions"),
    "cnn 1d": (CNN1D(), "convolutions"),
    "patches": (Patches(), "convolutions"),
    "cnn with norm and dropout": (NormalisedCNN(), "convolutions"),
    "cnn in a scan": (LoopedCNN(), "convolutions"),
    "shifted copies": (Shifted(), "network"),
    "pooled": (Pooled(), "linear"),
    "mlp": (MLP(), "network"),
    "linear": (Linear(), "linear"),
    "gru": (Recurrent(nn.GRUCell), "network"),
    "lstm": (Recurrent(nn.LSTMCell), "network"),
    "optimised lstm": (Recurrent(nn.OptimizedLSTMCell), "network"),
    "scanned layers": (ScannedLayers(), "network"),
    "transformer": (Transformer(), "network"),
}


def data(rows=ROWS, size=8):
    """Parts of noisy stripes, and which way they go."""
    draw = np.random.default_rng(0)
    labels = draw.integers(CLASSES, size=3 * rows).astype(np.int32)
    at = np.indices((size, size))
    ways = np.stack([at[0] % 2, at[1] % 2, (at[0] + at[1]) % 2])
    images = ways[labels][..., None] + draw.normal(0, 0.5, (3 * rows, size, size, 1))
    images = images.astype(np.float32)
    return [
        {"images": jnp.asarray(images[i::3]), "labels": jnp.asarray(labels[i::3])}
        for i in range(3)
    ]


def sums(logits, batch):
    """What `Task.evaluate` returns."""
    labels, mask = batch["labels"], batch["mask"]
    losses = -jnp.take_along_axis(nn.log_softmax(logits), labels[:, None], 1)[:, 0]
    right = logits.argmax(1) == labels
    return {
        "loss": losses @ mask,
        "accuracy": mask.sum(where=right),
        "count": mask.sum(),
    }


@functools.cache
def task(name, batch_size=BATCH, size=8):
    """The task of one of `MODELS`."""
    model, _ = MODELS[name]
    parts = data(size=size)

    def init(key):
        variables = model.init(key, parts[0]["images"][:1])
        return variables["params"], variables.get("batch_stats", {})

    def loss(params, state, key, batch):
        logits, new = model.apply(
            {"params": params, "batch_stats": state},
            batch["images"],
            train=True,
            mask=batch["mask"],
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        found = sums(logits, batch)
        return found["loss"] / found["count"], (new.get("batch_stats", state), {})

    def evaluate(params, state, batch):
        variables = {"params": params, "batch_stats": state}
        return sums(model.apply(variables, batch["images"]), batch)

    return Task(f"own/{name}", *parts, init, loss, evaluate, batch_size, CLASSES)


def nnx_task():
    """The same with a model of Flax's other interface."""
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.hidden = nnx.Linear(64, 16, rngs=rngs)
            self.out = nnx.Linear(16, CLASSES, rngs=rngs)

        def __call__(self, x):
            return self.out(nnx.relu(self.hidden(x.reshape(len(x), -1))))

    graph = nnx.split(nnx.eval_shape(lambda: Model(nnx.Rngs(0))))[0]

    def init(key):
        return nnx.to_pure_dict(nnx.state(Model(nnx.Rngs(key)), nnx.Param)), ()

    def logits(params, batch):
        model = nnx.merge(graph, nnx.State(params))
        return model(batch["images"])

    def loss(params, state, key, batch):
        found = sums(logits(params, batch), batch)
        return found["loss"] / found["count"], (state, {})

    def evaluate(params, state, batch):
        return sums(logits(params, batch), batch)

    return Task("own/nnx", *data(), init, loss, evaluate, BATCH, CLASSES)
