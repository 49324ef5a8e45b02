"""Find the right optimiser for a model and arrays of your own.

python examples/own_task.py
"""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from sklearn.datasets import load_breast_cancer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this repository

import lrjax
from lrjax.core import Task

x, y = load_breast_cancer(return_X_y=True)
order = np.random.default_rng(0).permutation(len(x))
x, y = ((x - x.mean(0)) / x.std(0))[order].astype(np.float32), y[order].astype(np.int32)
parts = [slice(0, 340), slice(340, 450), slice(450, None)]
train, valid, test = ({"x": jnp.array(x[p]), "labels": jnp.array(y[p])} for p in parts)
model = nn.Sequential([nn.Dense(32), nn.relu, nn.Dense(2)])


def evaluate(params, state, batch):  # sums over the rows with mask 1
    labels, mask = batch["labels"], batch["mask"]
    logits = model.apply(params, batch["x"])
    own = jnp.take_along_axis(nn.log_softmax(logits), labels[:, None], 1)[:, 0]
    right = logits.argmax(1) == labels
    return {"loss": -own @ mask, "accuracy": right @ mask, "count": mask.sum()}


def loss(params, state, key, batch):  # the mean; the key is for dropout and such
    sums = evaluate(params, state, batch)
    return sums["loss"] / sums["count"], (state, {})


task = Task("cancer", train, valid, test, lambda key: (model.init(key, x[:1]), ()),
            loss, evaluate, batch_size=32, num_classes=2)  # fmt: skip
lrjax.check_task(task)
print(lrjax.select(task, ["adam", "prodigy", "schedule_free_adamw"], 8, epochs=20))
