"""Text, numbers and bytes in pickled dictionaries, read without unpickling.

A pickle is a program, and unpickling runs whatever functions it names. Here its
instructions are only listed (`pickletools.genops`), and those few that a dictionary of
lists, bytes and uint8 arrays needs are followed. Names in it stay names: nothing is
imported or called on its behalf, and whatever else it asks for is refused.
"""

from __future__ import annotations

import pickletools
from typing import Any, NamedTuple

import numpy as np

from lrjax.tasks.data import DataError


class _Name(NamedTuple):
    """A function or class that a pickle names."""

    module: str
    name: str


class _Array:
    """An array, empty until its state comes."""

    value: np.ndarray | None = None


class _RefusedError(Exception):
    """What a pickle asks for is none of the few things that are done."""


_ENCODE = _Name("_codecs", "encode")
_ARRAY, _DTYPE = _Name("numpy", "ndarray"), _Name("numpy", "dtype")
_RECONSTRUCT = {
    _Name(module, "_reconstruct")
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")
}
_UINT8 = "uint8"  # stands for the dtype, the only one
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "BINUNICODE", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES"),
}
_SMALL_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_pickled(content: bytes, where: object) -> dict[str, Any]:
    """The dictionary in a pickle of protocol 2 or 3, its keys as text.

    Args:
      content: of the file. It may hold lists, tuples, dictionaries, integers, text,
        bytes and NumPy arrays of uint8.
      where: for messages.

    Raises:
      DataError: if it is damaged or holds or asks for anything else.
    """
    try:
        found = _follow(content)
        if not isinstance(found, dict):
            raise _RefusedError("it holds no dictionary")
        return {_text(key): _plain(value) for key, value in found.items()}
    except _RefusedError as refused:
        raise DataError(f"{where}: a pickle that is not read: {refused}") from refused
    except Exception as error:  # what it asks for does not fit what came before
        raise DataError(f"{where}: not a whole pickle") from error


def _text(value: Any) -> str:
    """Python 2 has text as bytes."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if not isinstance(value, str):
        raise _RefusedError("a key is no text")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, _Array):
        if value.value is None:
            raise _RefusedError("an array has no content")
        return value.value
    return value


def _follow(content: bytes) -> Any:
    """Follows a pickle's instructions to its STOP; gives what is left on the stack."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    spare = len(content)  # bytes that text may still be turned into

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def put(key: Any, value: Any) -> None:
        _text(key)
        stack[-1][key] = value

    for opcode, arg, position in pickletools.genops(content):
        name = opcode.name
        if name == "STOP":
            (result,) = stack
            return result
        if name in _LITERALS:
            stack.append(arg)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "GLOBAL":
            stack.append(_Name(*str(arg).split(" ", 1)))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[arg] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[arg])
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name in _SMALL_TUPLES:
            start = len(stack) - _SMALL_TUPLES[name]
            stack[start:] = [tuple(stack[start:])]
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name in ("APPEND", "APPENDS"):
            items = since_mark() if name == "APPENDS" else [stack.pop()]
            _of_type(stack[-1], list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            _of_type(stack[-1], dict)
            for key, value in zip(items[::2], items[1::2], strict=True):
                put(key, value)
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_made(function, arguments, spare))
            if function == _ENCODE:
                spare -= len(stack[-1])
        elif name == "BUILD":
            state = stack.pop()
            _build(stack[-1], state)
        elif name != "PROTO":
            raise _RefusedError(f"instruction {name} at byte {position}")
    raise EOFError


def _of_type(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError
    return value


def _made(function: Any, arguments: Any, spare: int) -> Any:
    """What a call would give, for the three that are known."""
    if type(arguments) is not tuple:
        raise TypeError
    if function == _ENCODE:  # how Python 3 writes bytes in protocol 2
        text, encoding = arguments
        if encoding != "latin1" or type(text) is not str or len(text) > spare:
            raise _RefusedError("text in another encoding, or the same too often")
        return text.encode("latin-1")
    if function in _RECONSTRUCT and arguments[0] == _ARRAY:
        return _Array()
    if function == _DTYPE:
        if _text(arguments[0]) != "u1":
            raise _RefusedError("an array of other numbers than uint8")
        return _UINT8
    if isinstance(function, _Name):
        called = ascii(f"{function.module}.{function.name}"[:100])
        raise _RefusedError(f"it calls {called}")
    raise TypeError


def _build(made: Any, state: Any) -> None:
    """Gives an array its content; the state of uint8 says nothing new."""
    if made is _UINT8:
        return
    _, shape, dtype, by_columns, content = state
    if dtype is not _UINT8 or by_columns is not False:
        raise _RefusedError(
            "an array of other numbers than uint8, or stored by columns"
        )
    if isinstance(content, str):  # Python 2's bytes
        content = content.encode("latin-1")
    if not all(type(n) is int and n >= 0 for n in shape):
        raise TypeError
    array = np.frombuffer(_of_type(content, bytes), np.uint8)
    _of_type(made, _Array).value = array.reshape(shape)
