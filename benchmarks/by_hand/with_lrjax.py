"""Three optimisers, ten seeds, 30 epochs: a ranking, by lrjax."""

from data import load
from flax import linen as nn

import lrjax

train, valid = load()
model = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(2)])
task = lrjax.Task.from_flax(
    model, "cross_entropy", train=train, valid=valid, batch_size=64
)
methods = ["adam", "adamw_cosine", "prodigy"]
print(lrjax.compare(task, methods, seeds=10, epochs=30))
