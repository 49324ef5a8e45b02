"""Trials trained by the workers of a Dask cluster, beside the runs of `lrjax.cluster`.

The client loads the data, asks tuners or judges rungs, lays out packs and writes the
tables. A worker gets a pack's block without its data, which it has itself, and the
states to go on from; it returns measurements and the states that are wanted. Dask gives
the pack of a worker that died to another one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lrjax import cluster, results, worker
from lrjax.blocks import Block
from lrjax.config import Settings
from lrjax.core import UsageError
from lrjax.hpo import trials
from lrjax.units import Begin, Place, Unit, title


@contextlib.contextmanager
def launch(
    settings: Settings, data_dir: str | None, signalled: Callable[[], int]
) -> Iterator[trials.Launcher]:
    """The launcher that trains on the cluster which the settings name.

    Raises:
      UsageError: if there is none, or its workers are not what this machine is. Trials
        are laid out here, and a block's shape, of which last bits depend, is chosen by
        what it trains on.
    """
    with cluster.connect(settings, data_dir, signalled) as session:
        for name, here in worker.facts(settings).items():
            if here != session.expected[name]:
                raise UsageError(
                    f"{name} is {here} here, and {session.expected[name]} on the "
                    "cluster: trials are laid out here; start it on a machine like the "
                    "workers'"
                )
        yield _OnCluster(session)


class _OnCluster:
    def __init__(self, session: cluster.Session):
        self._session = session

    def trainer(
        self,
        tables: results.Tables,
        settings: Settings,
        signalled: Callable[[], int],
        progress: Callable[[float], Any],
    ) -> contextlib.AbstractContextManager[trials.Trains]:
        del settings, signalled  # the session has them
        return contextlib.nullcontext(_Trainer(self._session, tables, progress))

    def train_missing(
        self,
        blocks: Sequence[Block],
        tables: results.Tables,
        settings: Settings,
        signalled: Callable[[], int],
        record: Callable[[], Any],
    ) -> None:
        del settings, signalled
        tickets = [worker.ticket_of(block, worker.wrap(block)) for block in blocks]
        cluster.train_missing(self._session, tickets, tables, record)


class _Sent(NamedTuple):
    """A pack on its way to a worker."""

    name: str
    parcel: worker.Parcel
    begin: Begin


class _Trainer:
    def __init__(
        self,
        session: cluster.Session,
        tables: results.Tables,
        progress: Callable[[float], Any],
    ):
        self._session, self._workdir = session, tables.workdir
        self._progress = progress
        self._trained: list[str] = []  # names of blocks

    def train(self, jobs: Sequence[trials.Job]) -> dict[str, trials.Trained]:
        packs = trials.lay_out(jobs)
        calls = []
        for pack in packs:
            block, begin = trials.unit_of(pack)
            sent = _Sent(block.name, worker.wrap(block), begin)
            calls.append((f"{title(block)} {block.name}", sent))
        trained: dict[str, trials.Trained] = {}
        for i, found in cluster.each(self._session, train_pack, calls, self._workdir):
            trained |= found
            self._trained.append(calls[i][1].name)
            first, begun = packs[i].first, calls[i][1].begin.steps
            updates = (first.run.steps - begun) * packs[i].count
            self._progress(updates / first.target.full_steps)
        return trained

    def forget(self) -> None:
        for name in self._trained:
            worker.drop(self._workdir, name)
        self._trained.clear()


def train_pack(
    sent: _Sent,
    settings: Settings,
    data_dir: str | None,
    workdir: str,
    expected: Mapping[str, Any],
) -> dict[str, trials.Trained]:
    """Trains a pack on a worker; the result of each trial by its run_id."""
    worker.check_alike(settings, expected)
    block = worker.unwrap(sent.parcel, settings, data_dir)
    trained: dict[str, trials.Trained] = {}
    with worker.part(workdir, sent.name, settings) as tables:

        def train_it(unit: Unit, place: Place) -> None:
            folder = tables.workdir / "checkpoints" / unit.block.name
            trained.update(
                trials.train_block(unit, place, folder, settings, lambda updates: None)
            )

        worker.engine().train([[Unit(block, sent.begin)]], train_it)
    return trained
