r"""Tuning by populations against the same trials one at a time, here and in PyTorch.

  pip install -r benchmarks/requirements.txt   # PyTorch; optional
  python benchmarks/tuning.py [--data_dir=DIR] [--tasks=vehicle,letter]

50 trials of Adam's rate under `study` by SMAC's Hyperband, 5 to 300 and 20 to 100
epochs. Timed apart: SMAC (ask and tell), training by stages, the same trials one at a
time through lrjax, and one at a time in a PyTorch loop (index batches, fused Adam, one
thread). Each side trains a trial from its start and looks at its last batch's loss.
One turn each after a warm-up, so a ratio may be off by a third on a busy machine.
Compilation is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

BUDGETS = ((5, 300), (20, 100))


def in_torch(target: Any, jobs: list[Any]) -> float:
    """Seconds to train the jobs one after the other in PyTorch."""
    import torch

    torch.set_num_threads(1)
    part = target.task.train
    x = torch.tensor(np.array(part["features"]))
    y = torch.tensor(np.array(part["labels"]), dtype=torch.int64)
    began = time.perf_counter()
    for job in jobs:
        hparams = dict(job.run.hparams)
        torch.manual_seed(0)
        model = torch.nn.Linear(x.shape[1], target.task.num_classes)
        optimiser = torch.optim.Adam(
            model.parameters(),
            lr=hparams["learning_rate"],
            betas=(hparams["b1"], hparams["b2"]),
            fused=True,
        )
        for _ in range(job.run.steps // target.task.steps_per_epoch):
            for rows in torch.randperm(len(y)).split(target.task.batch_size):
                optimiser.zero_grad()
                outputs = torch.sigmoid(model(x[rows]))
                loss = torch.nn.functional.cross_entropy(outputs, y[rows])
                loss.backward()
                optimiser.step()
        loss.item()
    return time.perf_counter() - began


def measure(name: str, low: int, high: int, data_dir: str | None, torch: bool) -> str:
    """One line of the table."""
    from lrjax import config as config_lib
    from lrjax.hpo import search as search_lib
    from lrjax.hpo import targets, trials, tune
    from lrjax.launch import blocks, local

    config = config_lib.base()
    config.tasks, config.methods = (f"libsvm/{name}",), ("adam",)
    config.protocol, config.epochs = "study", high
    config.tune.min_budget = low
    settings = config_lib.check(config)
    loaded = blocks.make_tasks(settings, data_dir)
    (target,) = targets.targets(settings, loaded)
    with (
        tempfile.TemporaryDirectory() as folder,
        local.launch(settings, folder) as launcher,
    ):
        search = search_lib.Search(target, tune.make_tuner(target, Path(folder)))
        trainer = trials.Trainer(launcher, lambda _: None)
        began, training, jobs = time.perf_counter(), 0.0, []
        while search.ask():
            stage = search.jobs()
            if not jobs:  # compiles
                paused = time.perf_counter()
                trainer.train(stage)
                began += time.perf_counter() - paused
            at = time.perf_counter()
            trained = trainer.train(stage)
            training += time.perf_counter() - at
            search.tell(trained)
            jobs += stage
        whole = time.perf_counter() - began
        targets.width_of = lambda *_: 1
        trainer.train(jobs[:1])  # compiles
        at = time.perf_counter()
        for job in jobs:
            trainer.train([job])
        single = time.perf_counter() - at
    line = f"| {name} | {low} to {high} | {whole - training:.1f} s | {training:.2f} s "
    line += f"| {single:.2f} s | {single / training:.1f} "
    if torch:
        other = in_torch(target, jobs)
        line += f"| {other:.1f} s | {other / training:.1f} "
    return line + "|"


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", default=None)
    parser.add_argument("--tasks", default="vehicle,letter")
    args = parser.parse_args()
    torch = importlib.util.find_spec("torch") is not None
    print(
        "| task | epochs | SMAC | by stages | one at a time | ratio | PyTorch | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in args.tasks.split(","):
        for low, high in BUDGETS:
            print(measure(name, low, high, args.data_dir, torch), flush=True)


if __name__ == "__main__":
    main()
