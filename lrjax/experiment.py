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
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from lrjax import checkpoint, methods, protocol, results, rows, tasks, train
from lrjax.config import Settings
from lrjax.core import Interrupted, Run, Task

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

    @functools.cached_property
    def lanes_of(self) -> dict[tuple[int, int], str]:
        """Position of each distinct run in the block -> its identity."""
        first: dict[str, tuple[int, int]] = {}
        for s, row in enumerate(self.ids):
            for h, run_id in enumerate(row):
                first.setdefault(run_id, (s, h))
        return {position: run_id for run_id, position in first.items()}

    @property
    def name(self) -> str:
        """16 hexadecimal digits that follow from the runs and where they stand."""
        return results.digest(self.ids)

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
    epoch = task.steps_per_epoch
    steps = settings.steps or settings.epochs * epoch
    # The order of a whole round is held at once, so none is longer than it need be.
    every = min(settings.eval_every or epoch, max(steps, epoch))
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
      Interrupted: on SIGINT and SIGTERM, once the block at hand is saved.
    """
    blocks = plan(settings, make_tasks(settings, data_dir))
    with results.Tables(workdir) as tables, _signals() as signalled:
        tables.write_config(dataclasses.asdict(settings), dict(overrides or {}))
        wanted = {i for block in blocks for row in block.ids for i in row}
        missing = wanted - tables.runs
        todo = [b for b in blocks if any(i in missing for row in b.ids for i in row)]
        say = functools.partial(print, file=sys.stderr, flush=True)
        device = jax.devices()[0]
        say(
            f"{len(missing)} runs to train in {len(todo)} blocks on "
            f"{device.platform} ({device.device_kind}); "
            f"{len(wanted) - len(missing)} of {len(wanted)} are done"
        )
        updates = sum(b.example.steps * len(b.lanes_of) for b in todo)
        bar = tqdm(
            total=updates, unit=" updates", unit_scale=True, disable=None, leave=False
        )
        with bar, _compiling(todo, signalled) as compiled:
            for number, block in enumerate(todo, 1):
                bar.set_description(f"{block.example.task} {block.example.method}")
                programs = next(compiled)
                summary = _train_block(
                    block, programs, tables, settings, bar.update, signalled
                )
                if bar.disable:
                    say(f"[{number}/{len(todo)}] {summary}")
        say(f"results are in {Path(workdir)}")


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], int]]:
    """Notes SIGINT and SIGTERM instead of dying of them; the second one is obeyed.

    Gives a function that returns the signal that came, 0 if none did.
    """
    came = [0]
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0  # only the main thread may handle signals
        return

    def note(signum: int, frame: Any) -> None:
        came[0] = signum
        for each, handler in before.items():
            signal.signal(each, handler)

    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    for each in before:
        signal.signal(each, note)
    try:
        yield lambda: came[0]
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextlib.contextmanager
def _compiling(
    blocks: Sequence[Block], signalled: Callable[[], int]
) -> Iterator[Iterator[train.Compiled]]:
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
            future = futures[block.key]
            while not concurrent.futures.wait([future], timeout=0.2).done:
                _stop_if(signalled)
            _stop_if(signalled)
            compiled = future.result()
            if last[block.key] == i:
                del futures[block.key]  # so that its memory can go
            yield compiled

    try:
        yield programs()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _compile(block: Block) -> train.Compiled:
    return train.compile_program(block.program, *block.inputs())


def _stop_if(signalled: Callable[[], int]) -> None:
    if signalled():
        raise Interrupted(signalled())


def _train_block(
    block: Block,
    compiled: train.Compiled,
    tables: results.Tables,
    settings: Settings,
    progress: Callable[[int], Any],
    signalled: Callable[[], int],
) -> str:
    """Trains a block and writes its rows; returns a line that sums it up.

    Goes on from the block's last good checkpoint, and leaves one from time to time
    and when a signal comes.
    """
    program, example, lanes = block.program, block.example, block.lanes_of
    folder = tables.workdir / "checkpoints" / block.name
    start, state, facts = checkpoint.restore(folder, compiled.state) or (0, None, {})
    seconds = facts.get("seconds", 0.0)
    progress(start * len(lanes))
    saved = time.monotonic()

    def pause() -> bool:
        due = time.monotonic() - saved >= 60 * settings.checkpoint_minutes
        return due or signalled() > 0

    last: dict[str, np.ndarray] = {}
    for measured in train.train(
        compiled, program, *block.inputs(), example.steps, start, state, pause
    ):
        seconds += measured.seconds
        tables.append_curves(rows.curve_rows(program, lanes, measured))
        last = {k: v[-1] for k, v in measured.values.items()}
        step = int(measured.steps[-1])
        progress((step - start) * len(lanes))
        start, state = step, measured.state
        if state is not None and step < example.steps and pause():
            _save(folder, step, state, seconds)
            saved = time.monotonic()
            _stop_if(signalled)
    progress((example.steps - start) * len(lanes))
    assert state is not None
    task = program.task
    if task.test is task.train:
        test = {k.removeprefix("train_"): v for k, v in last.items()}
    else:
        test = train.judge(program, state, task.test)
    if settings.save_params:
        _save_params(tables.workdir / "params", state, lanes)
    ended = [
        rows.run_row(
            block.runs[s][h],
            run_id,
            program,
            (s, h),
            last,
            test,
            seconds / len(lanes),
        )
        for (s, h), run_id in lanes.items()
    ]
    tables.append_runs(ended)
    checkpoint.discard(folder)
    diverged = sum(row["status"] == "diverged" for row in ended)
    scores = [row["valid_accuracy"] for row in ended if row["status"] == "done"]
    score = f", validation accuracy {np.mean(scores):.4f}" if scores else ""
    dead = f", {diverged} diverged" if diverged else ""
    return f"{example.task} {example.method}: {len(ended)} runs{score}{dead}"


def _save(folder: Path, step: int, state: train.RunState, seconds: float) -> None:
    """Saves a checkpoint; without one a run only takes longer, so training goes on."""
    try:
        checkpoint.save(folder, step, state, {"seconds": seconds})
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        warnings.warn(f"cannot save checkpoint {folder}: {reason}", stacklevel=2)


def _save_params(
    folder: Path, state: train.RunState, lanes: Mapping[tuple[int, int], str]
) -> None:
    """Keeps each run's parameters as <run_id>.safetensors, names joined by '/'."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    leaves, _ = jax.tree.flatten_with_path(train.final_params(state))
    arrays = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in leaves
    }
    for (s, h), run_id in lanes.items():
        temporary = folder / f"{run_id}.tmp"
        one = {name: np.ascontiguousarray(x[s, h]) for name, x in arrays.items()}
        save_file(one, temporary)
        os.replace(temporary, folder / f"{run_id}.safetensors")
