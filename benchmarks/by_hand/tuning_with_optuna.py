"""The same by Optuna around a loop in JAX, Flax and Optax."""

import jax
import jax.numpy as jnp
import optax
import optuna
from data import load
from flax import linen as nn

(x, y), (xv, yv) = jax.tree.map(jnp.asarray, load())
model = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(2)])
epochs, size = 10, 64


def loss_of(params, x, y):
    logits = model.apply(params, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


@jax.jit
def train(learning_rate, key):
    params = model.init(key, x[:1])
    tx = optax.adam(learning_rate)

    def epoch(carry, key):
        order = jax.random.permutation(key, len(x))[: len(x) // size * size]

        def step(carry, rows):
            params, state = carry
            grads = jax.grad(loss_of)(params, x[rows], y[rows])
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, carry, order.reshape(-1, size))

    keys = jax.random.split(key, epochs)
    (params, _), _ = jax.lax.scan(epoch, (params, tx.init(params)), keys)
    return loss_of(params, xv, yv)


def objective(trial):
    rate = trial.suggest_float("learning_rate", 1e-4, 1.0, log=True)
    return float(train(rate, jax.random.key(0)))


optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
study.optimize(objective, n_trials=20)
print(study.best_params, study.best_value)
