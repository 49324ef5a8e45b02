"""Adam's learning rate by 20 trials of random search, by lrjax."""

from data import load
from flax import linen as nn

import lrjax

train, valid = load()
model = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(2)])
task = lrjax.Task.from_flax(
    model, "cross_entropy", train=train, valid=valid, batch_size=64
)
space = {"learning_rate": (1e-4, 1.0, "log")}
tuned = lrjax.tune(
    task, "adam", trials=20, space=space, tuner="random", seeds=1, epochs=10
)
print(tuned.best, tuned.trials["cost"].min())
