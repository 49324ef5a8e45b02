"""The same by hand: a loop over optimisers and seeds in JAX, Flax and Optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from data import load
from flax import linen as nn

(x, y), (xv, yv) = jax.tree.map(jnp.asarray, load())
model = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(2)])
epochs, size = 30, 64
steps = epochs * (len(x) // size)
methods = {
    "adam": optax.adam(1e-3),
    "adamw_cosine": optax.adamw(optax.cosine_decay_schedule(1e-3, steps)),
    "prodigy": optax.contrib.prodigy(1.0),
}


def loss_of(params, x, y):
    logits = model.apply(params, x)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    return loss, (logits.argmax(1) == y).mean()


def train(tx, seed):
    params = model.init(jax.random.key(seed), x[:1])
    state = tx.init(params)

    @jax.jit
    def epoch(params, state, key):
        order = jax.random.permutation(key, len(x))[: len(x) // size * size]

        def step(carry, rows):
            params, state = carry
            grads, _ = jax.grad(loss_of, has_aux=True)(params, x[rows], y[rows])
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        carry, _ = jax.lax.scan(step, (params, state), order.reshape(-1, size))
        return carry

    for number in range(epochs):
        key = jax.random.fold_in(jax.random.key(seed), number)
        params, state = epoch(params, state, key)
    return loss_of(params, xv, yv)


for name, tx in methods.items():
    found = np.array([train(tx, seed) for seed in range(10)])
    mean, error = found.mean(0), found.std(0, ddof=1) / np.sqrt(len(found))
    print(f"{name:14} accuracy {mean[1]:.3f} +- {2 * error[1]:.3f} loss {mean[0]:.3f}")
