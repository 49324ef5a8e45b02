"""Makes listeners of trackers and of users' functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lrjax import track
from lrjax.core import UsageError, cut, raised, shown
from lrjax.launch.live import Measured, Row
from lrjax.track.sender import Sender

_METHODS = ("log", "end", "close")  # of a tracker
OnRows = Callable[[list[dict[str, Any]]], Any]


def of_trackers(names: Sequence[str], workdir: Path) -> list[Sender]:
    """Open trackers, so that what is missing is said before any training.

    Args:
      names: as for `track.find`; one that comes twice is opened once.
      workdir: the working directory.

    Raises:
      UsageError: if a name is unknown, or a tracker cannot be opened.
    """
    opens = {name: track.find(name) for name in names}
    return [_of_tracker(name, _opened(name, opens[name], workdir)) for name in opens]


def of_function(on_rows: OnRows | None) -> list[Sender]:
    """Make a listener of the argument `on_rows`; none of None.

    Raises:
      UsageError: if it is not a function.
    """
    if on_rows is None:
        return []
    if not callable(on_rows):
        raise UsageError(f"on_rows must be a function, not {shown(on_rows)}")

    def take(rows: Sequence[Measured]) -> Iterator[None]:
        on_rows([{**row.run, **row.values} for row in rows])
        yield

    return [Sender("on_rows", take)]


def _opened(name: str, connect: track.Open, workdir: Path) -> track.Tracker:
    """Open a tracker; say in one line what fails."""
    try:
        tracker = connect(workdir)
    except UsageError:
        raise
    except Exception as error:  # of anybody's code
        raise UsageError(
            f"--log={cut(name)} cannot be used: {raised(error, 200)}"
        ) from error
    lacking = [n for n in _METHODS if not callable(getattr(tracker, n, None))]
    if lacking:
        raise UsageError(
            f"--log={cut(name)} cannot be used: it returns {shown(tracker)}, without "
            f"{' and '.join(lacking)} (docs/tracking.md)"
        )
    return tracker


def _of_tracker(name: str, tracker: track.Tracker) -> Sender:
    """Make a listener of a tracker, which gets the rows of a run at a time."""
    from lrjax.track.names import Names  # here, since pandas takes long to import

    names = Names()

    def take(rows: Sequence[Measured]) -> Iterator[None]:
        runs: dict[str, Row] = {row.run["run_id"]: row.run for row in rows}
        curves: dict[str, list[Row]] = {run_id: [] for run_id in runs}
        ends: dict[str, Row] = {}
        for run, values, is_last in rows:
            if is_last:
                ends[run["run_id"]] = values
            else:
                curves[run["run_id"]].append(values)
        for run_id, run in runs.items():
            named = {**run, "entry": names.entry(run)}
            if curves[run_id]:
                tracker.log(named, curves[run_id])
            if run_id in ends:
                tracker.end(named, ends[run_id])
            yield

    return Sender(f"--log={name}", take, names.plan, tracker.close)
