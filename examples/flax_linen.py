"""Which optimiser suits a convolutional network? Flax linen, on pictures of digits.

python examples/flax_linen.py
"""

import numpy as np
from flax import linen as nn
from sklearn.datasets import load_digits

import lrjax


class CNN(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):  # lrjax says whether it trains
        for channels in (16, 32):
            x = nn.relu(nn.Conv(channels, (3, 3), strides=2)(x))
        x = nn.Dropout(0.2, deterministic=not train)(x.reshape(len(x), -1))
        return nn.Dense(10)(x)


images, labels = load_digits(return_X_y=True)  # 1,797 rows of 8 x 8 pixels, 0 to 16
images = images.reshape(-1, 8, 8, 1).astype(np.float32) / 16

task = lrjax.Task.from_flax(CNN(), "cross_entropy", train=(images, labels))
lrjax.check_task(task)  # says in one line what is wrong, if anything is

methods = ["momentum", "adamw_cosine", "prodigy"]
study = lrjax.compare(task, methods, seeds=5, epochs=10)
print(study)
print(study.runs.groupby("method")["test_accuracy"].agg(["mean", "std"]))
