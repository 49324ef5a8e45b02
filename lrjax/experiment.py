"""From settings to tables: runs, blocks of runs, training, rows on disk.

A block is seeds x hyperparameter lanes that share one compiled program. Its shape
follows from the settings by the rule in `_chunks`, never from what is already done or
from the machine, because the last bits of a result depend on it. Blocks whose runs are
all in the tables are skipped; others are trained whole, and only missing rows written.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from lrjax import methods, protocol, results, tasks, train
from lrjax.config import Settings
from lrjax.core import Run, Task

_MAX_SEEDS, _MAX_HPARAMS = 32, 64  # lanes of a block along each axis
_MAX_FLOATS = 2**26  # of parameters, gradients and optimiser state of a block


@dataclasses.dataclass(frozen=True)
class Block:
    """Runs that are trained by one call of one compiled program.

    Attributes:
      program: what is compiled.
      runs: [seeds][hparams]; the same run may stand in several lanes as padding.
      lanes: traced hyperparameters, one dictionary per lane.
    """

    program: train.Program
    runs: tuple[tuple[Run, ...], ...]
    lanes: tuple[Mapping[str, float], ...]

    @functools.cached_property
    def ids(self) -> list[list[str]]:
        """Identity of each run, [seeds][hparams]."""
        return [[results.run_id(run) for run in row] for row in self.runs]

    @property
    def example(self) -> Run:
        """One of the runs; all share task, method, steps and horizon."""
        return self.runs[0][0]

    @property
    def key(self) -> tuple[Any, ...]:
        """What decides the compiled program."""
        p, run = self.program, self.example
        names = tuple(self.lanes[0])
        shape = (p.num_seeds, p.num_hparams, p.eval_every, p.fresh_batches)
        return (run.task, run.method, p.static, names, *shape)

    def inputs(self) -> tuple[train.Seeds, train.Inputs]:
        """What tells the block's runs apart, on the device."""
        numbers = jnp.asarray([row[0].seed for row in self.runs], jnp.uint32)
        keys = jax.vmap(jax.random.key)(numbers)
        seeds = train.seed_runs(self.program.task.init, keys)
        return seeds, train.inputs(
            self.program, seeds, self.lanes, self.example.horizon
        )


def make_tasks(settings: Settings, data_dir: str | None) -> list[Task]:
    """Loads every task's data and places it on the device.

    Raises:
      UsageError: if one cannot be had.
    """
    return [
        tasks.make_task(
            name,
            settings.protocol,
            data_dir,
            settings.batch_size,
            settings.precision,
        )
        for name in settings.tasks
    ]


def plan(settings: Settings, loaded: Sequence[Task]) -> list[Block]:
    """All blocks, in the order of the settings' tasks and methods."""
    blocks = []
    for name, task in zip(settings.tasks, loaded, strict=True):
        data = tasks.fingerprint(task)
        for method in settings.methods:
            blocks += _blocks(settings, name, task, data, method)
    return blocks


def _blocks(
    settings: Settings, name: str, task: Task, data: str, method_name: str
) -> Iterator[Block]:
    method = methods.find(method_name)
    choices = protocol.find(settings.protocol)
    steps = settings.steps or settings.epochs * task.steps_per_epoch
    every = settings.eval_every or task.steps_per_epoch
    fresh = method_name in choices.fresh_batches
    params = jax.eval_shape(lambda: task.init(jax.random.key(0))[0])
    size = 3 * sum(math.prod(x.shape) for x in jax.tree.leaves(params))
    limit = max(1, _MAX_FLOATS // (size + methods.state_size(method, params)))
    # Lanes with other static values, or with other names traced, are other programs.
    groups: dict[Any, list[tuple[dict[str, Any], dict[str, float]]]] = {}
    for hparams in settings.lanes(method_name, name):
        static, traced = methods.split(method, hparams)
        groups.setdefault((static, tuple(traced)), []).append((hparams, traced))
    for (static, _), lanes in groups.items():
        for seeds in _chunks(settings.seeds, min(_MAX_SEEDS, limit)):
            most = min(_MAX_HPARAMS, max(1, limit // len(seeds)))
            for chunk in _chunks(lanes, most):
                runs = tuple(
                    tuple(
                        Run(
                            task=name,
                            protocol=choices.name,
                            method=method_name,
                            hparams=tuple(sorted(hparams.items())),
                            seed=seed,
                            steps=steps,
                            horizon=steps,
                            batch_size=task.batch_size,
                            precision=settings.precision,
                            eval_every=every,
                            data=data,
                            fresh_batches=fresh,
                        )
                        for hparams, _ in chunk
                    )
                    for seed in seeds
                )
                program = train.Program(
                    task=task,
                    method=method,
                    static=static,
                    eval_every=every,
                    num_seeds=len(seeds),
                    num_hparams=len(chunk),
                    fresh_batches=fresh,
                    dtype=jnp.float64
                    if settings.precision == "float64"
                    else jnp.float32,
                )
                yield Block(program, runs, tuple(traced for _, traced in chunk))


def _chunks(items: Sequence[Any], most: int) -> Iterator[list[Any]]:
    """Splits into the fewest chunks of at most `most`, all of the same length.

    The last is filled up with its last item, so that all share one program.
    """
    count = -(-len(items) // most)
    length = -(-len(items) // count)
    for start in range(0, len(items), length):
        chunk = list(items[start : start + length])
        yield chunk + chunk[-1:] * (length - len(chunk))


def run(
    settings: Settings,
    workdir: str | os.PathLike[str],
    data_dir: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> None:
    """Trains every run of the settings that the tables do not have yet.

    Args:
      settings: what to train.
      workdir: where the tables are.
      data_dir: where data files are looked for first.
      overrides: what the command line changed of the config; for the record.

    Raises:
      UsageError: if data or workdir are of no use; before any training.
    """
    blocks = plan(settings, make_tasks(settings, data_dir))
    with results.Tables(workdir) as tables:
        tables.write_config(dataclasses.asdict(settings), dict(overrides or {}))
        wanted = {i for block in blocks for row in block.ids for i in row}
        missing = wanted - tables.runs
        todo = [b for b in blocks if any(i in missing for row in b.ids for i in row)]
        devices = jax.devices()
        say = functools.partial(print, file=sys.stderr, flush=True)
        say(
            f"{len(missing)} runs to train in {len(todo)} blocks on "
            f"{devices[0].platform} ({devices[0].device_kind}); "
            f"{len(wanted) - len(missing)} of {len(wanted)} are done"
        )
        updates = sum(b.example.steps * len(_lanes(b)) for b in todo)
        bar = tqdm(
            total=updates, unit=" updates", unit_scale=True, disable=None, leave=False
        )
        with bar, _compiling(todo) as compiled:
            for number, (block, programs) in enumerate(
                zip(todo, compiled, strict=True), 1
            ):
                example = block.example
                bar.set_description(f"{example.task} {example.method}")
                summary = _train_block(block, programs, tables, bar.update)
                if bar.disable:
                    say(f"[{number}/{len(todo)}] {summary}")
        say(f"results are in {Path(workdir)}")


@contextlib.contextmanager
def _compiling(blocks: Sequence[Block]) -> Iterator[Iterator[train.Compiled]]:
    """Compiles ahead of training, in threads, once for blocks that share a program.

    Gives an iterator over the blocks' compiled programs.
    """
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    futures: dict[Any, concurrent.futures.Future[train.Compiled]] = {}
    for block in blocks:
        if block.key not in futures:
            futures[block.key] = pool.submit(_compile, block)
    last = {block.key: i for i, block in enumerate(blocks)}

    def programs() -> Iterator[train.Compiled]:
        for i, block in enumerate(blocks):
            compiled = futures[block.key].result()
            if last[block.key] == i:
                del futures[block.key]  # so that its memory can go
            yield compiled

    try:
        yield programs()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _compile(block: Block) -> train.Compiled:
    return train.compile_program(block.program, *block.inputs())


def _train_block(
    block: Block,
    compiled: train.Compiled,
    tables: results.Tables,
    progress: Callable[[int], Any],
) -> str:
    """Trains a block and writes its rows; returns a line that sums it up."""
    program, example = block.program, block.example
    lanes = _lanes(block)
    training = train.train(compiled, program, *block.inputs(), example.steps)
    seconds, before = 0.0, 0
    last: dict[str, np.ndarray] = {}
    while True:
        try:
            measured = next(training)
        except StopIteration as end:
            state = end.value
            break
        seconds += measured.seconds
        rows = []
        for i, step in enumerate(measured.steps):
            values = {k: v[i] for k, v in measured.values.items()}
            for (s, h), run_id in lanes.items():
                died = int(values["diverged_at"][s, h])
                if died and died <= step - _since_last(program, int(step)):
                    continue  # its end is in the table already
                rows.append(_curve_row(program, run_id, int(step), values, s, h))
        tables.append_curves(rows)
        last = {k: v[-1] for k, v in measured.values.items()}
        progress((int(measured.steps[-1]) - before) * len(lanes))
        before = int(measured.steps[-1])
    progress((example.steps - before) * len(lanes))
    task = program.task
    if task.test is task.train:
        test = {k.removeprefix("train_"): v for k, v in last.items()}
    else:
        test = train.judge(program, state, task.test)
    each = seconds / len(lanes)
    rows = [
        _run_row(block, run_id, s, h, last, test, each)
        for (s, h), run_id in lanes.items()
    ]
    tables.append_runs(rows)
    diverged = sum(row["status"] == "diverged" for row in rows)
    scores = [row["valid_accuracy"] for row in rows if row["status"] == "done"]
    score = f", validation accuracy {np.mean(scores):.4f}" if scores else ""
    dead = f", {diverged} diverged" if diverged else ""
    return f"{example.task} {example.method}: {len(rows)} runs{score}{dead}"


def _since_last(program: train.Program, step: int) -> int:
    """Updates between a measurement and the one before it."""
    return step % program.eval_every or program.eval_every


def _lanes(block: Block) -> dict[tuple[int, int], str]:
    """Position of each distinct run in the block -> its identity."""
    first: dict[str, tuple[int, int]] = {}
    for s, row in enumerate(block.ids):
        for h, run_id in enumerate(row):
            first.setdefault(run_id, (s, h))
    return {position: run_id for run_id, position in first.items()}


def _number(value: Any) -> float:
    """A float with the fewest digits that give back the same float32 (or float64)."""
    value = np.asarray(value)
    return float(value) if value.dtype == np.float64 else float(f"{float(value):.9g}")


def _curve_row(
    program: train.Program,
    run_id: str,
    step: int,
    values: Mapping[str, np.ndarray],
    s: int,
    h: int,
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "run_id": run_id,
        "step": step,
        "epoch": round(step / program.task.steps_per_epoch, 6),
    }
    return row | _scores(program, values, s, h)


def _scores(
    program: train.Program, values: Mapping[str, np.ndarray], s: int, h: int
) -> dict[str, float]:
    """Means over the parts; those of a diverged run are no numbers."""
    values = dict(values)
    if program.task.valid is program.task.train:
        values |= {
            k.replace("train_", "valid_"): v
            for k, v in values.items()
            if k.startswith("train_")
        }
    names = ["train_loss", "valid_loss", "valid_accuracy", "learning_rate"]
    if program.task.valid is program.task.train:
        names.append("last_batch_loss")
    dead = values["diverged_at"][s, h] > 0
    return {
        name: math.nan if dead else _number(values[name][s, h])
        for name in names
        if name in values
    }


def _run_row(
    block: Block,
    run_id: str,
    s: int,
    h: int,
    last: Mapping[str, np.ndarray],
    test: Mapping[str, np.ndarray],
    seconds: float,
) -> dict[str, Any]:
    run, program = block.runs[s][h], block.program
    diverged_at = int(last["diverged_at"][s, h])
    scores = _scores(program, last, s, h)
    judged = {
        f"test_{k}": math.nan if diverged_at else _number(v[s, h])
        for k, v in test.items()
        if k in ("loss", "accuracy")
    }
    rate = scores.pop("learning_rate")
    return {
        "run_id": run_id,
        "task": run.task,
        "protocol": run.protocol,
        "method": run.method,
        "hparams": dict(run.hparams),
        "seed": run.seed,
        "steps": run.steps,
        "horizon": run.horizon,
        "status": "diverged" if diverged_at else "done",
        "diverged_at": diverged_at or None,
        **scores,
        **judged,
        "learning_rate": rate,
        "seconds": round(seconds, 6),
        "examples": _examples(program.task, run),
        "block": f"{program.num_seeds}x{program.num_hparams}",
    }


def _examples(task: Task, run: Run) -> int:
    """Rows that a run's updates saw."""
    n, batch = task.num_examples, run.batch_size
    if run.fresh_batches:
        return run.steps * min(batch, n)
    epochs, rest = divmod(run.steps, task.steps_per_epoch)
    return epochs * n + min(rest * batch, n)
