r"""Episodes per second of DACBench's own SGD environment; runs without lrjax.

`control.py --dacbench=PYTHON` calls it in an environment of its own:

  python benchmarks/dacbench_sgd.py ROWS.npz EPISODES EPOCHS BATCH_SIZE

ROWS.npz has `features`, `labels`, `test_features` and `test_labels`; a quarter of the
former is for validation. The model is logistic regression, an action one epoch, and
all actions are 0.03. For each line that it reads it runs so many episodes and prints
their number per second and the mean of the rewards.
"""

from __future__ import annotations

import sys
import time
from importlib import machinery
from unittest import mock

import numpy as np
import torch

# DACBench names torchvision's image sets when it is imported; none is used here, and a
# torchvision that fits the build of torch is not always at hand.
datasets = mock.MagicMock()
torchvision = mock.MagicMock(
    datasets=datasets, __spec__=machinery.ModuleSpec("torchvision", None)
)
sys.modules |= {"torchvision": torchvision, "torchvision.datasets": datasets}

from dacbench.benchmarks import SGDBenchmark  # noqa: E402
from dacbench.envs.sgd import SGDEnv, SGDInstance  # noqa: E402

RATE = 0.03


def data_set(rows: dict[str, np.ndarray]) -> type:
    """A class that DACBench takes for one of torchvision's."""
    parts = {
        train: [
            (torch.from_numpy(x), int(y))
            for x, y in zip(rows[f"{part}features"], rows[f"{part}labels"], strict=True)
        ]
        for train, part in ((True, ""), (False, "test_"))
    }

    class Rows(torch.utils.data.Dataset):
        def __init__(self, root, train=True, download=False, transform=None):
            self.rows = parts[train]

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, i):
            return self.rows[i]

    return Rows


def main() -> None:
    """Answer each line on stdin with a line."""
    path, episodes, epochs, batch_size = sys.argv[1], *map(int, sys.argv[2:])
    torch.set_num_threads(1)  # the fastest for so small a model
    rows = dict(np.load(path))
    datasets.Rows = data_set(rows)
    width, classes = rows["features"].shape[1], int(rows["labels"].max()) + 1

    def model() -> torch.nn.Module:
        linear = torch.nn.Linear(width, classes)
        return torch.nn.Sequential(linear, torch.nn.LogSoftmax(1))

    config = SGDBenchmark().config
    config.cutoff = epochs
    config.dataset_config = {"Rows": {"train_transform": None, "test_transform": None}}
    config.instance_set = {
        0: SGDInstance(model, "AdamW", {}, "", "Rows", batch_size, 1.0, 0.75, 0)
    }
    env = SGDEnv(config)

    def episode() -> float:
        env.reset()
        over, total = False, 0.0
        while not over:
            _, reward, terminated, truncated, _ = env.step(RATE)
            over, total = terminated or truncated, total + float(reward)
        return total

    episode()
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        rewards = [episode() for _ in range(episodes)]
        rate = episodes / (time.perf_counter() - began)
        print(rate, np.mean(rewards), flush=True)


if __name__ == "__main__":
    main()
