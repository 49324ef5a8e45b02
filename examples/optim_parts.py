"""Fine-tune with lrjax.optim: one layer is frozen, others have an optimiser each.

python examples/optim_parts.py
"""

import jax
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

from lrjax import optim

x, y = load_digits(return_X_y=True)
model = nn.Sequential([nn.Dense(128), nn.relu, nn.Dense(64), nn.relu, nn.Dense(10)])
start = model.init(jax.random.key(0), x[:1])
labels = {"params": {"layers_0": "frozen", "layers_2": "body", "layers_4": "head"}}
parts = {"frozen": optax.set_to_zero(), "body": optim.adamw(1e-3), "head": optim.dog()}
tx = optax.partition(parts, labels)


@jax.jit
def step(params, opt_state, x, y):
    def loss_fn(params):
        logits = model.apply(params, x / 16)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss


params, opt_state = start, tx.init(start)
for rows in np.random.default_rng(0).integers(len(x), size=(500, 64)):
    params, opt_state, loss = step(params, opt_state, x[rows], y[rows])
moved = jax.tree.map(lambda new, old: abs(new - old).max().item(), params, start)
print({name: leaves["kernel"] for name, leaves in moved["params"].items()})
print(f"loss {loss:.4f}, step sizes {optim.effective_learning_rate(opt_state)}")
