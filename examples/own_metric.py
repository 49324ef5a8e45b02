"""Rank by a metric of your own: how far a classifier's confidence is off.

python examples/own_metric.py
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from sklearn.datasets import load_digits

import lrjax


def count(logits, labels, mask):  # [3, 10]: rows, confidence and hits by confidence
    sure = jax.nn.softmax(logits).max(1)
    hits = logits.argmax(1) == labels
    values = jnp.stack([jnp.ones_like(sure), sure, hits]) * mask  # 0 for padding
    return jnp.zeros((3, 10)).at[:, (sure * 9.99).astype(int)].add(values)


def error(sums):  # of all rows of a part, not a mean over batches
    rows, sure, hits = sums["calibration"]
    return jnp.abs(sure - hits).sum() / rows.sum()


measure = lrjax.Metric("calibration_error", error, False, "%", 1, least=0, greatest=1)
x, y = load_digits(return_X_y=True)
task = lrjax.Task.from_flax(
    nn.Sequential([nn.Dense(32), nn.relu, nn.Dense(10)]),
    "cross_entropy",
    train=((x / 16).astype(np.float32), y),
    name="digits",
    metrics=[measure, "accuracy"],
    sums={"calibration": count},
)
study = lrjax.compare(task, ["adam", "adamw_cosine", "prodigy"], epochs=60)
print(study)
print(study.runs.groupby("method")["valid_accuracy"].mean())
