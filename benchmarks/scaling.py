r"""How the time of a population grows, and how far it is from a floor.

  python benchmarks/scaling.py [--quick] [--json=FILE]

Logistic regression with Adam, batches of 64, training and validation part measured
after every epoch, on data of the shapes of iris, letter and sensorless; then letter's
shape with other numbers of examples and of classes. The floor is what the machine needs
for the arithmetic alone: multiplications and additions of the matrix products,
exponentials, and bytes of the optimiser's arrays, counted from the shapes, at the rates
that this program measures on all cores first. Takes five minutes on two cores, with
--quick one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import sides  # noqa: E402

EPOCHS = 100  # of a full run; fewer are timed and times multiplied
RUNS = {1: (1, 1), 10: (10, 1), 32: (1, 32), 320: (10, 32), 1024: (32, 32)}
RUNS |= {4096: (128, 32)}  # seeds, rates
SECONDS = 1.5  # of training to aim for
ARRAYS = 7  # of the parameters' size that an update with Adam must read or write


@dataclasses.dataclass(frozen=True)
class Shape:
    """Rows to train on, rows to validate with, features, classes."""

    train: int
    valid: int
    features: int
    classes: int


SHAPES = {
    "iris": Shape(90, 30, 4, 3),
    "letter": Shape(9_000, 3_000, 16, 26),
    "sensorless": Shape(35_106, 11_702, 48, 11),
}


def make_task(shape: Shape) -> Any:
    """Random data of that shape, a little to be learned in it."""
    from lrjax.tasks import TaskOptions, libsvm

    rows = (shape.train + shape.valid) * 5 // 4
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(rows) % shape.classes)
    centres = rng.normal(size=(shape.classes, shape.features))
    features = centres[labels] + rng.normal(size=(rows, shape.features))
    name = f"{shape.train}x{shape.features}x{shape.classes}"
    options = TaskOptions(batch_size=sides.BATCH_SIZE)
    return libsvm.logistic_task(name, features, labels, options)


def rate_of(job: Callable[[], Any], amount: float) -> float:
    """The best of several turns, per second."""
    import jax

    jax.block_until_ready(job())
    best = np.inf
    for _ in range(7):
        began = time.perf_counter()
        jax.block_until_ready(job())
        best = min(best, time.perf_counter() - began)
    return amount / best


def peaks() -> dict[str, float]:
    """Floating-point operations, exponentials and bytes per second on all cores."""
    import jax
    import jax.numpy as jnp

    from lrjax import machine

    size, turns = 2048, 64
    matrix = jnp.ones((size, size))
    product = jax.jit(lambda x: x @ x)
    # A block's logits and its optimiser's state fit the cache; so do these.
    many = jnp.linspace(-1, 1, 2**17)

    def repeated(function: Callable[[Any], Any]) -> Callable[[], None]:
        """So many turns on every core at once."""
        loop = jax.jit(
            lambda x: jax.lax.fori_loop(0, turns, lambda _, y: function(y), x)
        )

        def run() -> None:
            threads = [
                threading.Thread(target=lambda: jax.block_until_ready(loop(many)))
                for _ in range(cores)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        return run

    cores = machine.usable_cores()
    elements = cores * turns * many.size
    exponentials = repeated(lambda x: jnp.exp(-x))
    copies = repeated(lambda x: x * 0.5 + 1)
    return {
        "flop": rate_of(lambda: product(matrix), 2 * size**3),
        "exp": rate_of(exponentials, elements),
        "byte": rate_of(copies, 2 * 4 * elements),
    }


def floor(shape: Shape, peak: dict[str, float]) -> float:
    """Seconds that a run of `EPOCHS` epochs takes at least, on all cores."""
    rows = shape.train + shape.valid  # that are measured each epoch
    steps = -(-shape.train // sides.BATCH_SIZE)
    size = (shape.features + 1) * shape.classes
    # Two products a step, for scores and for the gradient; one for a measurement.
    flop = 2 * size * (2 * shape.train + rows)
    exp = shape.classes * (shape.train + rows)
    byte = 4 * ARRAYS * size * steps
    each = flop / peak["flop"] + exp / peak["exp"] + byte / peak["byte"]
    return EPOCHS * each


def measure(shape: Shape, runs: int, turns: int) -> float:
    """Seconds per run of `EPOCHS` epochs, the median over turns."""
    seeds, rates = RUNS[runs]
    task = make_task(shape)
    epochs = 1
    while True:
        side = sides.Lrjax(task, seeds, sides.spread(rates), epochs)
        side.run()
        began = time.perf_counter()
        side.run()
        spent = time.perf_counter() - began
        if spent > SECONDS / 2 or epochs == EPOCHS:
            break
        epochs = min(EPOCHS, max(epochs + 1, int(epochs * SECONDS / spent)))
    times = []
    for _ in range(turns):
        began = time.perf_counter()
        side.run()
        times.append(time.perf_counter() - began)
    return float(np.median(times)) * EPOCHS / epochs / runs


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer runs and turns")
    parser.add_argument("--json", type=Path, help="where to write all numbers")
    args = parser.parse_args()
    turns = 1 if args.quick else 3
    counts = [n for n in RUNS if not args.quick or n in (1, 320)]
    peak = peaks()
    print(
        f"peaks: {peak['flop'] / 1e9:.0f} GFLOP/s, {peak['exp'] / 1e9:.2f} G "
        f"exponentials/s, {peak['byte'] / 1e9:.1f} GB/s\n"
    )
    result: dict[str, Any] = {"peaks": peak, "rows": []}

    def line(name: str, shape: Shape, runs: int) -> list[str]:
        seconds, least = measure(shape, runs, turns), floor(shape, peak)
        result["rows"].append(
            {"name": name, "runs": runs, "seconds": seconds, "floor": least}
        )
        return [
            f"{runs}",
            f"{seconds * 1e3:.3g} ms",
            f"{least * 1e3:.3g} ms",
            f"{seconds / least:.1f}",
        ]

    head = ["runs", "per run of 100 epochs", "floor", "times the floor"]
    rows = []
    for name, shape in SHAPES.items():
        for runs in counts:
            rows.append([name, *line(name, shape, runs)])
            print(rows[-1], file=sys.stderr)
    print(table(["shape", *head], rows), flush=True)
    letter, rows = SHAPES["letter"], []
    for train in (300, 3_000, 30_000):
        shape = dataclasses.replace(letter, train=train, valid=train // 3)
        rows.append([f"{train} examples", *line("examples", shape, 320)])
    for classes in (2, 8, 100):
        shape = dataclasses.replace(letter, classes=classes)
        rows.append([f"{classes} classes", *line("classes", shape, 320)])
    print("\nletter's shape but for\n\n" + table(["", *head], rows))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
