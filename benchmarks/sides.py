r"""The two sides of population.py: lrjax, and a PyTorch loop of the same maths.

  python benchmarks/sides.py torch iris --seeds=10 --rates=1 --epochs=100

does one side's whole job from import to result, in a process of its own. Both sides
get the rows of the data and split and standardise them; each imports only what it
needs, when it needs it.
"""

from __future__ import annotations

import argparse
import functools
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

BATCH_SIZE = 64
RATES = np.logspace(-4, 0, 32).tolist()  # of Adam, constant over a run
TASKS = ("iris", "letter-shaped")


def spread(count: int) -> list[float]:
    """Some of `RATES`, evenly from low to high; the middle one for a count of 1."""
    return [RATES[int(len(RATES) * (i + 0.5) / count)] for i in range(count)]


def letter_shaped() -> tuple[np.ndarray, np.ndarray]:
    """25,000 rows, 16 features, 26 classes that overlap; 15,000 train, 5,000 validate.

    That is the size of LIBSVM's letter (15,000 rows) as a training part.
    """
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(25_000) % 26)
    centres = rng.normal(size=(26, 16))
    return centres[labels] + rng.normal(size=(len(labels), 16)), labels


def make_task(name: str) -> Any:
    """The task as lrjax makes it under `sound`."""
    from lrjax import tasks
    from lrjax.tasks import libsvm

    options = tasks.TaskOptions(batch_size=BATCH_SIZE)
    if name == "iris":
        return tasks.make_task("libsvm/iris", options)
    return libsvm.logistic_task(name, *letter_shaped(), options)


class Lrjax:
    """Runs of lrjax: seeds x rates in the blocks that an experiment makes of them."""

    def __init__(
        self, task: Any, seeds: int, rates: Sequence[float], epochs: int
    ) -> None:
        from lrjax import config as config_lib
        from lrjax.engine import programs
        from lrjax.launch import blocks, threads

        config = config_lib.base()
        config.tasks, config.methods = (task.name,), ("adam",)
        config.seeds, config.epochs = seeds, epochs
        config.grid.learning_rate = tuple(rates)
        self._programs, self._threads = programs, threads
        self.blocks = blocks.plan(config_lib.check(config), [task])
        block = self.blocks[0]  # the others share its program
        self._compiled = programs.compile_program(block.program, *block.inputs())

    def run(self) -> np.ndarray:
        """Initialise, train and measure every epoch; return the final scores.

        As an experiment does on a CPU, a block per core at once.

        Returns:
          [seeds of all blocks, rates of a block, 4]: loss and accuracy on the training
          and validation parts.
        """
        found = {}

        def work(number: int, device: int) -> tuple[None, tuple[()]]:
            found[number] = self._run(self.blocks[number])
            return None, ()

        numbers = range(len(self.blocks))
        cores = self._threads.usable_cores()
        idle = threading.Event()
        list(self._threads.train_all([numbers], cores, work, lambda: 0, idle))
        return np.concatenate([found[number] for number in numbers])

    def _run(self, block: Any) -> np.ndarray:
        measured = list(
            self._programs.train(
                self._compiled, block.program, *block.inputs(), block.example.steps
            )
        )
        last = measured[-1].values
        names = ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy")
        return np.stack([last[name][-1] for name in names], axis=-1)

    def initial(self, seed: int) -> dict[str, np.ndarray]:
        """Weight [classes, features] and bias of a seed's runs."""
        params = self.blocks[0].inputs()[0].params
        return {name: np.asarray(value[seed]) for name, value in params.items()}


class Torch:
    """One run after the other in PyTorch: index batches, Adam, no DataLoader."""

    def __init__(
        self, train: Sequence[np.ndarray], valid: Sequence[np.ndarray], classes: int
    ) -> None:
        import torch

        self.torch = torch
        self._parts = [
            (torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.int64))
            for x, y in (train, valid)
        ]
        self._classes = classes
        self.fused = False

    def run(
        self,
        seed: int,
        rate: float,
        epochs: int,
        initial: dict[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        """Train one run and measure every epoch; return the final scores.

        Args:
          seed: of initialisation and order.
          rate: learning rate.
          epochs: passes over the training part.
          initial: weight and bias to start from instead.

        Returns:
          [4]: loss and accuracy on the training and validation parts.
        """
        torch = self.torch
        loss_fn = torch.nn.functional.cross_entropy
        torch.manual_seed(seed)
        x, y = self._parts[0]
        model = torch.nn.Linear(x.shape[1], self._classes)
        if initial:
            with torch.no_grad():
                model.weight.copy_(torch.tensor(initial["weight"]))
                model.bias.copy_(torch.tensor(initial["bias"]))
        optimiser = torch.optim.Adam(model.parameters(), lr=rate, fused=self.fused)
        curve = []
        for _ in range(epochs):
            for rows in torch.randperm(len(y)).split(BATCH_SIZE):
                optimiser.zero_grad()
                loss_fn(model(x[rows]), y[rows]).backward()
                optimiser.step()
            with torch.no_grad():
                scores = []
                for inputs, labels in self._parts:
                    outputs = model(inputs)
                    right = outputs.argmax(1) == labels
                    scores += [loss_fn(outputs, labels).item()]
                    scores += [right.float().mean().item()]
                curve.append(scores)
        return np.asarray(curve[-1])


class TorchProcesses:
    """PyTorch in one process per core, each training one run after the other.

    Use as a context manager.
    """

    def __init__(self, name: str, epochs: int, setting: dict[str, Any]) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), "torch", name]
        command += ["--serve", f"--epochs={epochs}", "--threads=1"]
        command += ["--fused"] * setting["fused"]
        self.count = os.cpu_count() or 1
        self._processes = [
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(self.count)
        ]

    def __enter__(self) -> TorchProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.stdin.close()  # pyright: ignore
            process.wait()

    def run(self, runs: int) -> None:
        """Train a number of runs in each process, all processes at the same time."""
        for process in self._processes:
            process.stdin.write(f"{runs}\n")  # pyright: ignore
            process.stdin.flush()  # pyright: ignore
        for process in self._processes:
            process.stdout.readline()  # pyright: ignore


def serve(side: Torch, epochs: int) -> None:
    """Train as many runs as each line of the input says, and answer with a line."""
    for line in sys.stdin:
        for seed, rate in enumerate(spread(int(line))):
            side.run(seed, rate, epochs)
        print("done", flush=True)


def torch_alone(name: str) -> Torch:
    """The PyTorch side of a process that has nothing of lrjax."""
    if name == "iris":
        from sklearn.datasets import load_iris

        x, y = load_iris(return_X_y=True)
    else:
        x, y = letter_shaped()
    rows = np.random.default_rng(0).permutation(len(y))
    train, valid, _ = np.split(rows, [len(y) * 6 // 10, len(y) * 8 // 10])
    x = (x - x[train].mean(0)) / x[train].std(0)
    return Torch((x[train], y[train]), (x[valid], y[valid]), int(y.max()) + 1)


def main() -> None:
    """One side's whole job."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("side", choices=("lrjax", "torch"))
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rates", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    parser.add_argument("--fused", action="store_true", help="PyTorch's fused Adam")
    parser.add_argument("--serve", action="store_true", help="runs on demand, PyTorch")
    args = parser.parse_args()
    rates = spread(args.rates)
    if args.side == "lrjax":
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
        scores = Lrjax(make_task(args.task), args.seeds, rates, args.epochs).run()
    else:
        side = torch_alone(args.task)
        side.torch.set_num_threads(args.threads)
        side.fused = args.fused
        if args.serve:
            serve(side, args.epochs)
            return
        run = functools.partial(side.run, epochs=args.epochs)
        scores = np.stack([[run(s, rate) for rate in rates] for s in range(args.seeds)])
    print("mean validation accuracy", scores[..., 3].mean())


if __name__ == "__main__":
    main()
