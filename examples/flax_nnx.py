"""Find the learning rate of a Flax NNX model, and the range that is as good.

python examples/flax_nnx.py
"""

import numpy as np
from flax import nnx
from sklearn.datasets import load_diabetes

import lrjax


class Network(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(10, 32, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.last = nnx.Linear(32, 1, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(nnx.relu(self.first(x))))


x, y = load_diabetes(return_X_y=True)  # 442 patients; columns of norm 1
x, y = (21 * x).astype(np.float32), (y / 100 - 1.5).astype(np.float32)

# The class, not a module: each seed has initial parameters of its own.
task = lrjax.Task.from_nnx(
    Network, "squared_error", train=(x, y), batch_size=32, metrics=[lrjax.metrics.r2()]
)
found = lrjax.find_rate(task, "adam", epochs=20, seeds=5)
print(found)
print(found.table)
found.plot("rates.png")  # the loss over the rate
