"""Reads pickled dictionaries of text, numbers, bytes and arrays without unpickling.

A pickle is a program, and unpickling runs whatever functions it names. Here its
instructions are only listed (`pickletools.genops`), and the few that a dictionary of
lists, bytes and uint8 arrays needs are interpreted. Nothing that the pickle names is
imported or called, and every other instruction is refused.
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
    """An array; None until the pickle sets its content."""

    value: np.ndarray | None = None


class _RefusedError(Exception):
    """The pickle needs something that is not supported."""


_ENCODE = _Name("_codecs", "encode")
_ARRAY, _DTYPE = _Name("numpy", "ndarray"), _Name("numpy", "dtype")
_RECONSTRUCT = {
    _Name(module, "_reconstruct")
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")
}
_MOST = 2**22  # instructions; CIFAR-100's training part has fewer than 2^20
_UINT8 = "uint8"  # stands for the dtype object; no other is supported
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    "BININT",
    "BININT1",
    "BININT2",
    "BINUNICODE",
    "BINSTRING",
    "SHORT_BINSTRING",
    "BINBYTES",
    "SHORT_BINBYTES",
}
_SMALL_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_pickled(content: bytes, where: object) -> dict[str, Any]:
    """Read the dictionary in a pickle of protocol 2 or 3; keys become text.

    Args:
      content: the pickle, which may hold lists, tuples, dictionaries, integers, text,
        bytes and NumPy arrays of uint8.
      where: path of the file, for messages.

    Raises:
      DataError: if it is damaged, or needs anything else.
    """
    try:
        result = _follow(content)
        if not isinstance(result, dict):
            raise _RefusedError("it does not hold a dictionary")
        return {_text(key): _plain(value) for key, value in result.items()}
    except _RefusedError as refused:
        raise DataError(f"{where}: a pickle that is not read: {refused}") from refused
    except Exception as error:  # instructions do not fit the stack: damaged
        raise DataError(f"{where}: not a whole pickle") from error


def _text(value: Any) -> str:
    """Convert a key to text; Python 2 pickles text as bytes."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if not isinstance(value, str):
        raise _RefusedError("a key is no text")
    return value


def _plain(value: Any) -> Any:
    """The NumPy array of an `_Array`; other values as they are."""
    if isinstance(value, _Array):
        if value.value is None:
            raise _RefusedError("an array has no content")
        return value.value
    return value


def _follow(content: bytes) -> Any:
    """Interpret a pickle up to its STOP; return the object left on the stack."""
    # Above 60 lines: all instructions that are supported, in one place.
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    spare = len(content)  # limit on the bytes that _codecs.encode may still make

    def since_mark() -> list[Any]:
        """Pop the items above the last mark."""
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def put(key: Any, value: Any) -> None:
        _text(key)
        stack[-1][key] = value

    for number, (opcode, arg, position) in enumerate(pickletools.genops(content)):
        if number >= _MOST:  # each may take a hundred bytes of memory
            raise _RefusedError(f"it has more than {_MOST:,} instructions")
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
            module, function_name = str(arg).split(" ", 1)
            stack.append(_Name(module, function_name))
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
            stack.append(_call(function, arguments, spare))
            if function == _ENCODE:
                spare -= len(stack[-1])
        elif name == "BUILD":
            state = stack.pop()
            _build(stack[-1], state)
        elif name != "PROTO":
            raise _RefusedError(f"instruction {name} at byte {position}")
    raise EOFError


def _of_type(value: Any, kind: type) -> Any:
    """Return the value, or raise TypeError if it is not exactly of this type."""
    if type(value) is not kind:
        raise TypeError
    return value


def _call(function: Any, arguments: Any, spare: int) -> Any:
    """Result of a call, for the three functions that are supported."""
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


def _build(target: Any, state: Any) -> None:
    """Set an array's content; the state of the dtype uint8 is ignored."""
    if target is _UINT8:
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
    _of_type(target, _Array).value = array.reshape(shape)
