"""lrjax.optim on several devices: bfloat16 parameters and batches, cut in pieces.

python examples/optim_devices.py
"""

import jax
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

from lrjax import optim

jax.config.update("jax_num_cpu_devices", 4)  # makes four of one CPU, to try it there
jax.config.update("jax_cpu_enable_async_dispatch", False)  # or these four may hang
pieces = jax.NamedSharding(jax.sharding.Mesh(jax.devices(), "first"), jax.P("first"))
model = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(16)])  # 16 can be cut by four
params = model.init(jax.random.key(0), np.zeros((1, 64)))
params = jax.device_put(optax.tree.cast(params, "bfloat16"), pieces)
tx = optim.prodigy()
opt_state = jax.jit(tx.init)(params)  # in such pieces, too, and of float32


@jax.jit
def step(params, opt_state, x, y):
    def loss_fn(params):
        logits = model.apply(params, x.astype("bfloat16")).astype("float32")
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss


x, y = load_digits(return_X_y=True)
for rows in np.random.default_rng(0).integers(len(x), size=(500, 64)):
    batch = jax.device_put((x[rows] / 16, y[rows]), pieces)
    params, opt_state, loss = step(params, opt_state, *batch)
print(f"loss {loss:.3f}", jax.tree.map(lambda p: (p.dtype, p.sharding.spec), params))
