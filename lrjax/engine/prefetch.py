"""Work on the host that is done ahead while the device is busy."""

from __future__ import annotations

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def prefetched(make: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """Yield `make(item)` in order; a thread computes the next while one is used."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting: collections.deque[concurrent.futures.Future[T]] = collections.deque()
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
