"""lrjax.optim on several devices, here four of one CPU and 16 threads for them.

python examples/optim_devices.py
"""

import os

import jax
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

from lrjax import optim

os.environ.update(NPROC="16", XLA_FLAGS="--xla_force_host_platform_device_count=4")
pieces = jax.NamedSharding(jax.sharding.Mesh(jax.devices(), "first"), jax.P("first"))
model = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(16)])  # 16 can be cut by four
params = model.init(jax.random.key(0), np.zeros((1, 64)))
params = jax.device_put(optax.tree.cast(params, "bfloat16"), pieces)
tx = optim.prodigy()
opt_state = jax.jit(tx.init)(params)  # in such pieces, too, and of float32


@jax.jit
def step(params, opt_state, x, y):
    def loss_fn(params):
        logits = model.apply(params, x.astype("bfloat16") / 16).astype("float32")
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss


x, y = (jax.device_put(v[:1796], pieces) for v in load_digits(return_X_y=True))
for _ in range(500):
    params, opt_state, loss = step(params, opt_state, x, y)
print(f"loss {loss:.3f}", jax.tree.map(lambda p: (p.dtype, p.sharding.spec), params))
