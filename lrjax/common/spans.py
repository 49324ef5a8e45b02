"""Time of a command: the work of each thread, as a table and a trace.

Nothing is noted before `record` is called.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax

LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"  # once a program is traced
# Events of JAX's monitoring -> the work that they measure.
_OF_JAX = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    LOWERED: "trace",
    "/jax/core/compile/backend_compile_duration": "compile",
}
ORDER = ("import", "data", "plan", "trace", "compile", "train", "report")


class Span(NamedTuple):
    """Work of a thread.

    Attributes:
      work: a name, such as those of `ORDER`.
      what: what it was done for; may be empty.
      start, stop: seconds, on the clock of `time.perf_counter`.
      thread: name of the thread.
    """

    work: str
    what: str
    start: float
    stop: float
    thread: str


_spans: list[Span] = []
_began: list[float] = []  # when recording began; empty before


def record(since: float) -> None:
    """Note what the process does from now on, and that it imported modules so far.

    Args:
      since: when it started, on the clock of `time.perf_counter`.
    """
    _began[:] = [since]
    _spans[:] = [Span("import", "", since, time.perf_counter(), _thread())]
    jax.monitoring.register_event_duration_secs_listener(_of_jax)


def _of_jax(event: str, duration_secs: float, **about: Any) -> None:
    """Note what JAX says it has just done."""
    if event in _OF_JAX:
        what, stop = str(about.get("fun_name", "")), time.perf_counter()
        start = stop - duration_secs
        _spans.append(Span(_OF_JAX[event], what, start, stop, _thread()))


def _thread() -> str:
    return threading.current_thread().name


@contextlib.contextmanager
def span(work: str, what: str = "") -> Iterator[None]:
    """Note how long the inside of a `with` takes; as a decorator, how long calls take.

    Args:
      work, what: as in `Span`.
    """
    if not _began:
        yield
        return
    start = time.perf_counter()
    try:
        yield
    finally:
        _spans.append(Span(work, what, start, time.perf_counter(), _thread()))


def table() -> str:
    """Say how long each kind of work took, as lines of text.

    A moment of a thread counts for the innermost of its spans.
    """
    now = time.perf_counter()
    parts = _innermost(_spans)
    threads = collections.defaultdict[str, float](float)
    whole = collections.defaultdict[str, list[tuple[float, float]]](list)
    for part in parts:
        threads[part.work] += part.stop - part.start
        whole[part.work].append((part.start, part.stop))
    total = now - _began[0]
    known = _length([ends for every in whole.values() for ends in every])
    others = sorted(set(threads) - set(ORDER))
    rows = [
        (work, _length(whole[work]), threads[work])
        for work in (*ORDER, *others)
        if work in threads
    ]
    lines = [f"{'work':<10}{'seconds':>9}{'of threads':>12}"]
    lines += [f"{work:<10}{spent:>9.2f}{sums:>12.2f}" for work, spent, sums in rows]
    lines.append(f"{'other':<10}{total - known:>9.2f}")
    lines.append(f"{'in all':<10}{total:>9.2f}")
    return "\n".join(lines)


def trace() -> str:
    """Write what was noted in the format of Chrome's traces, which Perfetto opens."""
    threads = dict.fromkeys(span.thread for span in _spans)
    numbers = {name: i for i, name in enumerate(threads)}
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": i, "args": {"name": name}}
        for name, i in numbers.items()
    ]
    events += [
        {
            "ph": "X",
            "name": f"{span.work} {span.what}".strip(),
            "cat": span.work,
            "pid": 1,
            "tid": numbers[span.thread],
            "ts": round((span.start - _began[0]) * 1e6, 1),
            "dur": round((span.stop - span.start) * 1e6, 1),
        }
        for span in sorted(_spans, key=lambda span: (span.start, -span.stop))
    ]
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}) + "\n"


def _innermost(spans: Sequence[Span]) -> list[Span]:
    """Cut spans of each thread into parts that do not overlap: the innermost ones.

    A span is inside of another if it begins later, or at once and ends earlier.
    """
    parts = []
    by_thread = collections.defaultdict[str, list[Span]](list)
    for item in spans:
        by_thread[item.thread].append(item)
    for own in by_thread.values():
        own.sort(key=lambda span: (span.start, -span.stop))
        times = sorted({time for span in own for time in (span.start, span.stop)})
        open_spans: list[Span] = []
        coming = iter(own)
        following = next(coming, None)
        for start, stop in itertools.pairwise(times):
            while following and following.start <= start:
                open_spans.append(following)
                following = next(coming, None)
            open_spans = [span for span in open_spans if span.stop > start]
            if open_spans:
                parts.append(open_spans[-1]._replace(start=start, stop=stop))
    return parts


def _length(ends: Sequence[tuple[float, float]]) -> float:
    """Length of a union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, stop in sorted(ends):
        total += max(stop - max(start, reached), 0.0)
        reached = max(reached, stop)
    return total
