r"""Trains all contenders of a selection on many tasks, for priors and their judgement.

    python benchmarks/selection_tables.py --tables=DIR --data=DATA
    python benchmarks/selection_tables.py --tables=DIR --data=DATA --judged

One program trains all contenders of a shape of tasks (`made_tasks.SHAPES`) beside each
other: three seeds on the training rows, and three more with training and validation
rows in each other's place. A file per task holds what was measured at the end of full
runs, the task's probes and the seconds; with --judged, whose tasks no prior may know,
also what a race would measure at a ninth and a third of the horizon, where schedules
come to rest. Files that are there are skipped: the command can be killed and given
again, and several can run at a time. DATA is a folder with libsvm/, mnist/ and the
like.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.across_tasks import made_tasks, row_sets
from configs import quickstart
from lrjax import config as config_lib
from lrjax import methods, optim
from lrjax.core import Batch, Method, Task
from lrjax.engine import evaluation, programs, train
from lrjax.hpo import contenders, probes
from lrjax.launch import startup

SEEDS = (0, 1, 2)  # of each half
RUNGS = (1 / 9, 1 / 3)
COOLED = 0.2  # share of a rung's updates in which schedules come to rest
KEPT = ("valid_accuracy", "valid_loss", "test_accuracy", "test_loss")
# Tasks of each shape, in this order, so that a shorter run has some of all.
ROUNDS = (5, 10, 15, 20, 30, 40)
ROUNDS_JUDGED = (3, 6, 9)
SLOW = {"b1", "b2", "d1", "d0"}  # shapes of which a third is made


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--judged", action="store_true")
    parser.add_argument("--shapes", default=",".join(made_tasks.SHAPES))
    args = parser.parse_args()
    startup.prepare(config_lib.check(quickstart.get_config()))
    first = made_tasks.JUDGED_FROM if args.judged else 0
    trained: dict[str, Population] = {}
    begin = 0
    for size in ROUNDS_JUDGED if args.judged else ROUNDS:
        for name in args.shapes.split(","):
            share = 3 if name in SLOW else 1
            for number in range(begin // share, (begin + size) // share):
                path = args.tables / f"{name}-{first + number}.npz"
                claim = path.with_suffix(".partial")
                if path.exists() or claim.exists():
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                claim.touch()
                try:
                    made = made_tasks.make(name, first + number, args.data)
                    if name not in trained:
                        trained[name] = Population(made.task, args.judged)
                    content = measure(made, trained[name])
                    with claim.open("wb") as file:
                        np.savez_compressed(file, **content)
                    claim.rename(path)
                    print(f"{path.name} {made.task.name} {content['seconds']:.1f} s")
                    sys.stdout.flush()
                finally:
                    claim.unlink(missing_ok=True)
        begin += size


def everyone() -> list[contenders.Contender]:
    """All contenders of a task for which nobody published a value."""
    config = config_lib.base()
    config.tasks, config.methods = ("synthetic/classification-0",), ("adam",)
    settings = config_lib.check(config)
    found = contenders.contenders(
        list(methods.METHODS.values()), settings.tasks[0], settings
    )
    return sorted(found, key=lambda c: list(methods.METHODS).index(c.method.name))


def _falls(contender: contenders.Contender) -> bool:
    """Whether a run cut short has to come to rest to be judged."""
    return contender.method.horizon_bound(dict(contender.hparams))


def _cooled(method: Method) -> Method:
    """The method with two more traced hyperparameters, those of `optim.cooldown`."""

    def build(horizon: Any, cooldown_start: Any, cooldown_steps: Any, **hparams: Any):
        inner = optax.with_extra_args_support(method.build(horizon, **hparams))
        return optim.cooldown(inner, cooldown_start, cooldown_steps)

    extra = {"cooldown_start": math.inf, "cooldown_steps": 1.0}
    return dataclasses.replace(
        method, build=build, defaults={**method.defaults, **extra}
    )


class Population:
    """Contenders beside each other, by one program for all tasks of a shape."""

    def __init__(
        self,
        task: Task,
        rests: bool,
        among: Sequence[contenders.Contender] = (),
        seeds: Sequence[int] = SEEDS,
        longest: int = max(made_tasks.HORIZONS),
    ):
        """Compile.

        Args:
          task: one of the shape.
          rests: whether runs can come to rest before the horizon.
          among: the contenders; (): all.
          seeds: of the runs.
          longest: most updates of a run.
        """
        found: dict[Any, list[contenders.Contender]] = {}
        for each in among or everyone():
            static, traced = methods.split(each.method, dict(each.hparams))
            key = (each.method.name, static, tuple(traced))
            found.setdefault(key, []).append(each)
        self.contenders = [each for group in found.values() for each in group]
        self.rests = rests

        def method(each: contenders.Contender) -> Any:
            rested = rests and _falls(each)
            return _cooled(each.method) if rested else each.method

        groups = tuple(
            train.Group(
                method(group[0]),
                methods.split(group[0].method, dict(group[0].hparams))[0],
                len(group),
            )
            for group in found.values()
        )
        self._program = train.Program(
            task=task,
            groups=groups,
            eval_every=longest,
            num_seeds=len(seeds),
        )
        self._seeds = train.seed_runs(task.init, np.asarray(seeds, np.uint32))
        self._train = jax.jit(self._trained)

    def train(
        self, task: Task, steps: int, horizon: int, cooldown: int = 0
    ) -> dict[str, np.ndarray]:
        """Train all on a task; return measurements [seeds, contenders].

        Args:
          task: of the shape.
          steps: updates after which to measure.
          horizon: of the schedules.
          cooldown: updates at the end in which schedules come to rest.
        """
        lanes = []
        for each in self.contenders:
            lane = methods.split(each.method, dict(each.hparams))[1]
            if self.rests and _falls(each):
                start = float(steps - cooldown) if cooldown else math.inf
                lane |= {
                    "cooldown_start": start,
                    "cooldown_steps": float(max(1, cooldown)),
                }
            lanes.append(lane)
        inputs = train.inputs(self._program, self._seeds, lanes, horizon)
        parts = (task.train, task.valid, task.test)
        values = self._train(inputs, jnp.int32(steps), *parts)
        return {k: np.asarray(v) for k, v in values.items()}

    def _trained(
        self,
        inputs: train.Inputs,
        steps: jax.Array,
        train_part: Batch,
        valid_part: Batch,
        test_part: Batch,
    ) -> dict[str, jax.Array]:
        program = self._program
        state = train.init(program, self._seeds, inputs)
        state, table = programs.segment(
            program, state, inputs, train_part, valid_part, jnp.int32(0), steps
        )
        test = evaluation.evaluate_part(
            program.task.evaluate,
            program.task.metrics,
            train.final_params(state),
            train.model_states(state),
            test_part,
            evaluation.rows_at_once(
                program.task, program.num_seeds * program.num_hparams
            ),
            program.dtype,
        )
        last = {name: values[0] for name, values in table.items()}
        return last | {f"test_{name}": values for name, values in test.items()}


def measure(made: made_tasks.Made, population: Population) -> dict[str, Any]:
    """Train a task's contenders on both halves; the content of its file.

    Arrays are [halves x seeds, contenders], NaN where a run was lost; those of the
    rungs have an axis for these before.
    """
    halves = [made.task, made_tasks.swapped(made.task)]
    horizon = made.horizon

    def both(*when: int) -> dict[str, np.ndarray]:
        each = [population.train(task, *when) for task in halves]
        arrays = {}
        for name in [n for n in KEPT if n in each[0]]:
            values = [np.where(e["diverged_at"] > 0, np.nan, e[name]) for e in each]
            arrays[name] = np.concatenate(values).astype(np.float32)
        return arrays

    began = time.perf_counter()
    content: dict[str, Any] = both(horizon, horizon)
    seconds = time.perf_counter() - began
    if population.rests:
        rungs = []
        for share in RUNGS:
            end = max(1, round(share * horizon))
            rungs.append(both(end, horizon, max(1, round(COOLED * end))))
        for name in ("valid_accuracy", "valid_loss"):
            if name in rungs[0]:
                content[f"rung_{name}"] = np.stack([rung[name] for rung in rungs])
    probed = probes.probe(made.task)
    spread = row_sets.log_spread(np.asarray(made.task.train["features"]))
    about = {**made.about, "log_spread": spread, "probe_steps": float(probed.steps)}
    return content | {
        "contenders": np.array([each.key for each in population.contenders]),
        "family": made.family,
        "horizon": made.horizon,
        "batch_size": made.task.batch_size,
        "seconds": seconds,
        **pairs("probe", probed.features),
        **pairs("about", about),
    }


def pairs(name: str, values: Mapping[str, float]) -> dict[str, np.ndarray]:
    """A dictionary of numbers as two arrays."""
    return {
        f"{name}_names": np.array(list(values)),
        f"{name}_values": np.array(list(values.values()), np.float32),
    }


if __name__ == "__main__":
    main()
