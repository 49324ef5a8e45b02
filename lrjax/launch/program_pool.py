"""Compiled programs, made ahead of use in threads and shared by blocks.

All blocks that train are compiled here: runs, trials of tuning and races, and blocks on
workers of a cluster.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax

from lrjax import machine
from lrjax.console import wait_for
from lrjax.core import Task
from lrjax.engine import programs, train
from lrjax.engine.sharding import Layout
from lrjax.launch import traces
from lrjax.launch.blocks import Block

_KEPT = 16  # programs that no announced block needs, kept for later blocks

_Key = tuple[Any, int]


class ProgramPool:
    """Programs of blocks on some devices, each compiled once.

    A program is kept while an announced block has not fetched it; beyond these the most
    recently used ones are kept. Use as a context manager, or for the process's life.

    Attributes:
      compiled: number of programs compiled or loaded from the persistent cache.
      seconds: compile time so far, summed over threads.
    """

    def __init__(self, devices: Sequence[machine.Device], layout: Layout | None = None):
        """Create a pool.

        Args:
          devices: to compile for.
          layout: sharding of blocks over all devices; None if they are not sharded.
        """
        self._devices, self._layout = devices, layout
        self._threads = concurrent.futures.ThreadPoolExecutor(machine.usable_cores())
        self._lock = threading.Lock()
        # Least recently used first.
        self._futures: dict[_Key, concurrent.futures.Future[programs.Compiled]] = {}
        self._announced: collections.Counter[_Key] = collections.Counter()
        # Holds the original task too, so that its id is not reused.
        self._tasks: dict[tuple[int, int], tuple[Task, Task]] = {}
        self.compiled, self.seconds = 0, 0.0

    def close(self) -> None:
        """End the threads; pending compilations are dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def announce(self, jobs: Sequence[Iterable[Block]], judged: bool = False) -> int:
        """Start to compile the programs of blocks, in the order of use.

        Args:
          jobs: blocks of each device; each will call `get` once.
          judged: whether their runs will be measured on the test part.

        Returns:
          the number of different programs.
        """
        turns = [list(blocks) for blocks in jobs]
        keys = set[_Key]()
        for turn in range(max(map(len, turns), default=0)):
            for device, blocks in enumerate(turns):
                if turn < len(blocks):
                    key = (blocks[turn].key, device)
                    keys.add(key)
                    with self._lock:
                        self._announced[key] += 1
                        self._future(blocks[turn], device, judged)
        return len(keys)

    def peek(
        self, block: Block, device: int, stopping: Callable[[], int]
    ) -> programs.Compiled:
        """Wait for the programs of an announced block that will call `get` later."""
        with self._lock:
            future = self._future(block, device)
        wait_for(future, stopping)
        return future.result()

    def get(
        self, block: Block, device: int, stopping: Callable[[], int]
    ) -> programs.Compiled:
        """Wait for the programs of a block.

        Raises:
          Interrupted: if `stopping` returns a signal first.
        """
        key = (block.key, device)
        with self._lock:
            future = self._future(block, device)
        wait_for(future, stopping)
        with self._lock:
            self._announced[key] -= 1
            self._announced = +self._announced
            if future.exception():
                self._futures.pop(key, None)  # so that it is compiled again
            self._forget()
        return future.result()

    def placed(self, program: train.Program, device: int) -> train.Program:
        """The program with its task's data on a device, or on all that share blocks."""
        task = program.task
        with self._lock:
            key = (id(task), device)
            if key not in self._tasks:
                place = (
                    self._layout.replicated if self._layout else self._devices[device]
                )
                self._tasks[key] = (task, moved_to(task, place))
            there = self._tasks[key][1]
        if there is task:
            return program
        return dataclasses.replace(program, task=there, layout=self._layout)

    def _future(
        self, block: Block, device: int, judged: bool = False
    ) -> concurrent.futures.Future[programs.Compiled]:
        """The pending program of a block, marked as used last; needs the lock."""
        key = (block.key, device)
        future = self._futures.pop(key, None)
        if future is None:
            future = self._threads.submit(self._compile, block, device, judged)
        self._futures[key] = future
        return future

    def _forget(self) -> None:
        """Drop the least recently used programs; needs the lock."""
        idle = [key for key in self._futures if key not in self._announced]
        for key in idle[: max(len(idle) - _KEPT, 0)]:
            del self._futures[key]

    def _compile(self, block: Block, device: int, judged: bool) -> programs.Compiled:
        """Compile the programs of a block for a device."""
        began = time.perf_counter()
        with jax.default_device(self._devices[device]):
            seeds, inputs = jax.eval_shape(block.inputs)
            program = self.placed(block.program, device)
            compiled = programs.compile_program(
                program, seeds, inputs, traces.recalled, judged
            )
        with self._lock:
            self.compiled += 1
            self.seconds += time.perf_counter() - began
        return compiled


def moved_to(task: Task, place: machine.Device | jax.sharding.Sharding) -> Task:
    """The task with its data on a device or sharding; itself if it is there already.

    Parts that are the same object stay so, and streamed data stays on the host.
    """
    parts = (task.train, task.valid, task.test)
    moved: dict[int, Any] = {id(task.train): task.train} if task.streamed else {}
    arrays = jax.tree.leaves([part for part in parts if id(part) not in moved])
    # Arrays of NumPy, which a user's task may hold, are nowhere yet.
    if all(isinstance(x, jax.Array) and x.devices() == {place} for x in arrays):
        return task
    for part in parts:
        if id(part) not in moved:
            moved[id(part)] = jax.device_put(part, place)
    return dataclasses.replace(
        task,
        train=moved[id(task.train)],
        valid=moved[id(task.valid)],
        test=moved[id(task.test)],
    )
