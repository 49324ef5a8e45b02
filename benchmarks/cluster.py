r"""What handing a block to a Dask worker costs, and what failures cost a long study.

  python benchmarks/cluster.py

First: many tiny blocks on one worker of a local cluster, all compiled; the time from
first to last less what training took, per block. Then a simulation, not a measurement:
a study of 10,000 runs in blocks of ten on 1, 10 and 100 workers that fail at a stated
rate, with and without checkpoints.
"""

from __future__ import annotations

import heapq
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

BLOCKS, WARM = 60, 5
RUNS, RUNS_PER_BLOCK = 10_000, 10
MINUTES = 30.0  # of a block, in the median; from half to double of it
FAILURES = (0.0, 0.01, 0.1)  # of a worker, per hour
RESTART = 2.0  # minutes until a worker that failed is back
CHECKPOINT = 10.0  # minutes


def overhead() -> float:
    """Seconds per block beside training, the client's appending to tables included."""
    import distributed

    from lrjax import config as config_lib
    from lrjax.launch import dask_client
    from lrjax.launch.units import Unit

    config = config_lib.base()
    config.tasks, config.methods = ("libsvm/iris",), ("sgd",)
    config.seeds, config.epochs = 5 * (BLOCKS + WARM), 10
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=":0", silence_logs=50
        ) as made,
        tempfile.TemporaryDirectory() as folder,
    ):
        config.cluster.address = made.scheduler_address
        settings = config_lib.check(config)
        with dask_client.launch(settings, folder) as launcher:
            units = [Unit(block) for block in launcher.blocks(settings)]

            def train(some: list[Unit]) -> float:
                outcomes = launcher.train(some, lambda unit, updates: None)
                return sum(outcome.seconds for outcome in outcomes)

            train(units[:WARM])
            began = time.perf_counter()
            spent = train(units[WARM:])
            return (time.perf_counter() - began - spent) / len(units[WARM:])


def simulate(
    workers: int, rate: float, every: float, rng: np.random.Generator
) -> tuple[float, float]:
    """Hours from start to end, and hours of work that were lost.

    Args:
      workers: each takes the next block when it is free.
      rate: failures of one worker per hour.
      every: minutes between checkpoints.
      rng: draws lengths of blocks and failures.
    """
    left = list(MINUTES * 2 ** rng.uniform(-1, 1, RUNS // RUNS_PER_BLOCK))
    free = [(0.0, i) for i in range(workers)]  # when, and who
    end = lost = 0.0
    # A block that comes back at some time can be taken by whoever is free after it.
    back: list[tuple[float, float]] = []
    while left or back:
        now, worker = heapq.heappop(free)
        if left:
            need = left.pop()
        else:
            ready, need = heapq.heappop(back)
            now = max(now, ready)
        fails = rng.exponential(60 / rate) if rate else np.inf
        if fails < need:
            kept = every * (fails // every) if every < np.inf else 0.0
            lost += fails - kept
            heapq.heappush(back, (now + fails, need - kept))
            heapq.heappush(free, (now + fails + RESTART, worker))
        else:
            end = max(end, now + need)
            heapq.heappush(free, (now + need, worker))
    return end / 60, lost / 60


def main() -> None:
    """Measure, simulate, print."""
    print(f"Dask: {1e3 * overhead():.1f} ms per block beside training\n", flush=True)
    print("| workers | failures per hour | checkpoints | makespan in h | lost in h |")
    print("|---|---|---|---|---|")
    for workers in (1, 10, 100):
        for rate in FAILURES:
            for every in (CHECKPOINT, np.inf):
                found = np.mean(
                    [
                        simulate(workers, rate, every, np.random.default_rng(seed))
                        for seed in range(20)
                    ],
                    axis=0,
                )
                name = f"{every:.0f} min" if every < np.inf else "none"
                cells = f"{found[0]:.1f} | {found[1]:.1f}"
                print(f"| {workers} | {rate:g} | {name} | {cells} |")


if __name__ == "__main__":
    main()
