"""Tune learning rate and momentum of an Equinox model.

python examples/equinox_model.py

Equinox is optional: `pip install equinox`.
"""

import equinox as eqx
import jax
import numpy as np
from sklearn.datasets import load_digits

import lrjax


class Network(eqx.Module):
    first: eqx.nn.Linear
    last: eqx.nn.Linear
    dropout: eqx.nn.Dropout

    def __init__(self, key):
        keys = jax.random.split(key)
        self.first = eqx.nn.Linear(64, 64, key=keys[0])
        self.last = eqx.nn.Linear(64, 10, key=keys[1])
        self.dropout = eqx.nn.Dropout(0.2)

    def __call__(self, x, *, key=None):  # one row, as usual in Equinox
        return self.last(self.dropout(jax.nn.relu(self.first(x)), key=key))


x, y = load_digits(return_X_y=True)
data = (x / 16).astype(np.float32), y
task = lrjax.Task.from_equinox(Network, "cross_entropy", train=data)  # a model per key

space = {"learning_rate": (1e-3, 1.0, "log"), "momentum": (0.0, 0.99)}
tuned = lrjax.tune(task, "momentum", trials=16, space=space, epochs=10, seeds=5)
print(tuned.trials[["learning_rate", "momentum", "budget", "cost"]])
print("best:", {name: round(tuned.best[name], 4) for name in space})
print(tuned)  # trained anew with these values and five fresh seeds
