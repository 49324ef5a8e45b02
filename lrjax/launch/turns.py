"""One call of `lrjax.compare` and the like at a time.

A call sets settings of JAX and names tasks and methods for the whole process, so calls
in several threads would train each other's tasks. They wait for each other instead.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from lrjax import methods

P = ParamSpec("P")
R = TypeVar("R")

_TURN = threading.RLock()  # a call may make another one


def in_turn(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function that trains wait until no other such function trains.

    What users' methods compute is found out anew, as they may have changed since the
    last call.
    """

    @functools.wraps(function)
    def alone(*args: P.args, **named: P.kwargs) -> R:
        with _TURN:
            methods.forget_options()
            return function(*args, **named)

    return alone
