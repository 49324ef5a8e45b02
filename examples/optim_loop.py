"""lrjax.optim in a training loop of your own: a mask, accumulation, averaged weights.

python examples/optim_loop.py
"""

import jax
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

from lrjax import optim

x, y = load_digits(return_X_y=True)
model = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(10)])
params = average = model.init(jax.random.key(0), x[:1])
matrices = jax.tree.map(lambda leaf: leaf.ndim > 1, params)  # biases do not decay
tx = optim.prodigy(weight_decay=0.01, weight_decay_mask=matrices)
tx = optax.MultiSteps(tx, every_k_schedule=4)  # an update for four batches of 16
opt_state = tx.init(params)


def loss_fn(params, x, y):
    logits = model.apply(params, x / 16)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


@jax.jit
def step(params, average, opt_state, x, y):
    updates, opt_state = tx.update(jax.grad(loss_fn)(params, x, y), opt_state, params)
    params = optax.apply_updates(params, updates)
    return params, optax.incremental_update(params, average, 0.01), opt_state


for rows in np.random.default_rng(0).integers(1500, size=(2000, 16)):
    params, average, opt_state = step(params, average, opt_state, x[rows], y[rows])
last, averaged = (loss_fn(p, x[1500:], y[1500:]) for p in (params, average))
print(f"test loss {last:.3f} with the last weights, {averaged:.3f} with their average")
print(f"step size at the end {optim.effective_learning_rate(opt_state):.4f}")
