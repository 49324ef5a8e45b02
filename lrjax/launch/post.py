"""Bytes between hosts: from all of them to host 0 in pieces, and from host 0 to all.

Host 0 asks one host after the other for one piece at a time, through the key-value
store of JAX's coordination service, so that no host holds more than a piece. JAX has no
public name for this store (Orbax uses it, too); if it is missing, pieces are gathered
in rounds by all hosts, which then hold one of each host.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from lrjax import console
from lrjax.core import UsageError

_POLL = 1000  # milliseconds between looks at signals
_PIECE = 2**20  # bytes of a message that is sent at once
_NEEDED = ("key_value_set_bytes", "blocking_key_value_get_bytes", "key_value_delete")
_MORE, _END = b"+", b"."
_ORDER = itertools.count()  # all hosts make the same calls in the same order

Signalled = Callable[[], int]


def to_first(
    pieces: Iterable[bytes], take: Callable[[bytes], Any], signalled: Signalled
) -> str:
    """Send pieces to host 0; all hosts call this at the same time.

    Args:
      pieces: those of this host.
      take: called on host 0 with its own pieces, then with those of the others in
        order. After a UsageError no more are sent.
      signalled: returns the signal that came, 0 if none did.

    Returns:
      the text of that error; empty if there was none, and on other hosts.

    Raises:
      Interrupted: on a signal.
    """
    client, count = _client(), jax.process_count()
    number, problem = jax.process_index(), ""
    if client:
        name = f"lrjax/{next(_ORDER)}"
        if number:
            _answer(client, f"{name}/{number}", pieces, signalled)
            return ""
        others = (
            piece
            for host in range(1, count)
            for piece in _asked(client, f"{name}/{host}", signalled, lambda: problem)
        )
        arriving = itertools.chain(pieces, others)
    else:
        arriving = _in_rounds(pieces, signalled)
    for piece in arriving:
        if number or problem:
            continue
        try:
            take(piece)
        except UsageError as error:
            problem = str(error)
    return problem


def from_first(content: bytes, signalled: Signalled) -> bytes:
    """Send a message of host 0 to all; all hosts call this at the same time.

    Args:
      content: the message; ignored on other hosts.
      signalled: returns the signal that came, 0 if none did.

    Returns:
      the message of host 0.

    Raises:
      Interrupted: on a signal.
    """
    client, count = _client(), jax.process_count()
    parts = [content[i : i + _PIECE] for i in range(0, len(content), _PIECE)]
    if not client:
        number = jax.process_index()
        found = list(_in_rounds([] if number else parts, signalled))
        return b"".join(found)
    name = f"lrjax/{next(_ORDER)}"
    if jax.process_index():
        return b"".join(
            _asked(client, f"{name}/{jax.process_index()}", signalled, lambda: "")
        )
    for host in range(1, count):
        _answer(client, f"{name}/{host}", parts, signalled)
    return content


def _client() -> Any:
    """The key-value store; None if this version of JAX has none."""
    try:
        from jax._src import distributed

        client = distributed.global_state.client
    except (ImportError, AttributeError):
        return None
    return client if all(hasattr(client, name) for name in _NEEDED) else None


def _answer(
    client: Any, name: str, pieces: Iterable[bytes], signalled: Signalled
) -> None:
    """Send pieces under a name, each when it is asked for, until no more are wanted."""
    marked = itertools.chain((_MORE + piece for piece in pieces), [_END])
    for n, piece in enumerate(marked):
        if _fetch(client, f"{name}/ask/{n}", signalled) == _END:
            return
        client.key_value_set_bytes(f"{name}/piece/{n}", zlib.compress(piece, 1))


def _asked(
    client: Any, name: str, signalled: Signalled, problem: Callable[[], str]
) -> Iterator[bytes]:
    """Ask for the pieces under a name, one at a time, until there is a problem."""
    for n in itertools.count():
        client.key_value_set_bytes(f"{name}/ask/{n}", _END if problem() else _MORE)
        if problem():
            return
        piece = zlib.decompress(_fetch(client, f"{name}/piece/{n}", signalled))
        if piece == _END:
            return
        yield piece[len(_MORE) :]


def _fetch(client: Any, key: str, signalled: Signalled) -> bytes:
    """Wait for a value and remove it from the store."""
    while True:
        console.stop_if(signalled)
        try:
            value = client.blocking_key_value_get_bytes(key, _POLL)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
        else:
            client.key_value_delete(key)
            return value


def _in_rounds(pieces: Iterable[bytes], signalled: Signalled) -> Iterator[bytes]:
    """Yield the pieces of all hosts on all hosts, one of each host per round."""
    mine = itertools.chain((_MORE + piece for piece in pieces), itertools.repeat(_END))
    for piece in mine:
        console.stop_if(signalled)
        found = _gathered(zlib.compress(piece, 1))
        if all(each == _END for each in found):
            return
        yield from (each[len(_MORE) :] for each in found if each != _END)


def _gathered(packed: bytes) -> list[bytes]:
    """Gather the compressed bytes of all hosts, in the order of hosts."""
    size = np.asarray([len(packed)], np.int32)
    sizes = np.asarray(multihost_utils.process_allgather(size)).ravel()
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(packed)] = np.frombuffer(packed, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [
        zlib.decompress(row[:size].tobytes())
        for row, size in zip(rows.reshape(len(sizes), -1), sizes.tolist(), strict=True)
    ]
