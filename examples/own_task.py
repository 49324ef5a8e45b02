"""A task that is no `loss(outputs, targets)`: a variational autoencoder of digits.

python examples/own_task.py
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from sklearn.datasets import load_digits

import lrjax


class Autoencoder(nn.Module):
    @nn.compact
    def __call__(self, x, noise):  # minus the evidence's lower bound, [rows]
        mean, spread = jnp.split(nn.Dense(16)(nn.relu(nn.Dense(64)(x))), 2, axis=1)
        code = mean + jnp.exp(spread) * noise
        pixels = nn.sigmoid(nn.Dense(64)(nn.relu(nn.Dense(64)(code))))
        prior = (jnp.exp(2 * spread) + mean**2 - 1) / 2 - spread
        return (20 * (pixels - x) ** 2).sum(1) + prior.sum(1)


def loss(params, state, key, batch):  # the mean over rows with mask 1, and new state
    noise = jax.random.normal(key, (len(batch["x"]), 8))
    total = model.apply(params, batch["x"], noise) @ batch["mask"]
    return total / batch["mask"].sum(), (state, {})


def evaluate(params, state, batch):  # sums over rows with mask 1
    total = model.apply(params, batch["x"], 0.0) @ batch["mask"]
    return {"loss": total, "count": batch["mask"].sum()}


model, x = Autoencoder(), jnp.asarray(load_digits().data / 16)
parts = [{"x": x[start::3]} for start in range(3)]  # for training, choosing and testing
functions = lambda key: (model.init(key, x[:1], 0.0), ()), loss, evaluate  # no state
task = lrjax.Task("digits/vae", *parts, *functions, batch_size=64)
print(lrjax.compare(task, ["adam", "adamw_cosine", "prodigy"], epochs=60))
