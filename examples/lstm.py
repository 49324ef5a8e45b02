"""An LSTM in plain JAX on sequences of different lengths: forecast the next value.

python examples/lstm.py
"""

import jax
import jax.numpy as jnp
import numpy as np

import lrjax

draw = np.random.default_rng(0)
speed, decay = draw.uniform(0.2, 1, (800, 1)), draw.uniform(0.95, 1, (800, 1))
times = np.arange(41)  # 800 swings that die away, each seen for 10 to 40 steps
waves = (np.sin(speed * times) * decay**times).astype(np.float32)
lengths = draw.integers(10, 41, 800)  # what comes after that is padding


def init(key):
    gates, out = (jax.random.normal(k, (17, 64)) / 4 for k in jax.random.split(key))
    return {"gates": gates, "out": out[:16, 0]}  # 16 units


def lstm(params, waves):  # [rows, 40] -> forecasts [rows, 40]
    def step(carry, x):
        cell, hidden = carry
        gates = jnp.concatenate([x[:, None], hidden], axis=1) @ params["gates"]
        keep, write, read, new = jnp.split(gates, 4, axis=1)
        cell = jax.nn.sigmoid(keep + 1) * cell + jax.nn.sigmoid(write) * jnp.tanh(new)
        hidden = jax.nn.sigmoid(read) * jnp.tanh(cell)
        return (cell, hidden), hidden @ params["out"]

    start = jnp.zeros((len(waves), 16)), jnp.zeros((len(waves), 16))
    return jax.lax.scan(step, start, waves.T)[1].T


data = {"waves": waves[:, :-1], "lengths": lengths}, waves[:, 1:]
task = lrjax.Task.from_functions(init, lstm, "squared_error", data, lengths="lengths")
print(lrjax.compare(task, ["adam", "prodigy", "dog"], seeds=5, epochs=20))
