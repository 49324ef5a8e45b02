"""Reads what XLA made of a program: kernels, what each moves and computes, how long.

The text is that of `Compiled.as_text()`. Times are those of a roofline for each kernel:
the longest of its bytes over the memory's bandwidth, its operations over the peak of
the units that do them, and the least that any kernel takes. No program is faster; on a
device expect 60 to 75 % of the rate that follows.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from benchmarks.chips import Chip

_BYTES = {
    **dict.fromkeys(("pred", "s8", "u8", "f8e4m3fn", "f8e5m2"), 1),
    **dict.fromkeys(("s16", "u16", "bf16", "f16"), 2),
    **dict.fromkeys(("s32", "u32", "f32"), 4),
    **dict.fromkeys(("s64", "u64", "f64"), 8),
}
_HALVES = ("bf16", "f16")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)")
_CALLED = re.compile(
    r"(?:calls|body|condition|to_apply|called_computations|branch_computations)"
    r"=\{?(%[\w.\-]+(?:, %[\w.\-]+)*)"
)
# What costs no time of its own: names of parts, ends of what was started before.
_FREE = {
    *("parameter", "get-tuple-element", "tuple", "constant", "bitcast", "after-all"),
    *("opt-barrier", "partition-id", "replica-id", "iota", "bitcast-convert"),
    *("copy-done", "slice-done", "async-done", "async-update", "all-gather-done"),
    *("all-reduce-done", "collective-permute-done", "send-done", "recv-done"),
    "get-dimension-size",
}
# Operations that read only what is needed of their result, and that read a part.
_THROUGH = {"bitcast", "convert", "copy", "reshape", "transpose"}
_SLICES = {"dynamic-slice", "gather", "slice"}
_CONTROL = {"while", "conditional", "call"}
_INTEGER = {
    *("add", "subtract", "multiply", "xor", "or", "and"),
    *("shift-left", "shift-right-logical"),
}
# Operation -> bytes that a device receives per byte of its result, on n devices.
_COLLECTIVES = {
    "all-gather": lambda n: (n - 1) / n,
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
    "all-to-all": lambda n: (n - 1) / n,
    "ragged-all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0,
    "collective-broadcast": lambda n: 1.0,
}


class Array(NamedTuple):
    """Type, shape and place of an array.

    Attributes:
      dtype: XLA's name, such as 'bf16'.
      shape: its shape.
      near: whether it lies in a TPU's fast memory, which costs no bandwidth.
    """

    dtype: str
    shape: tuple[int, ...]
    near: bool

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes in the device's main memory."""
        return 0 if self.near else self.size * _BYTES[self.dtype]


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name, operation: as in the text.
      results: its arrays; several for a tuple.
      operands: names of instructions of the same computation.
      arguments: the text between the parentheses.
      rest: the text behind them.
    """

    name: str
    operation: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    arguments: str
    rest: str

    @functools.cached_property
    def called(self) -> list[str]:
        """Names of the computations that it consists of."""
        names = (match.group(1).split(",") for match in _CALLED.finditer(self.rest))
        return [name.strip(" %") for group in names for name in group if name.strip()]

    @property
    def target(self) -> str:
        """What a custom call calls; '' for others."""
        found = re.search(r'custom_call_target="([^"]+)"', self.rest)
        return found.group(1) if found else ""

    def sizes(self, name: str) -> list[int]:
        """Numbers of an attribute: 'size=3x3' or 'dims={0,1}'."""
        found = re.search(rf"\b{name}=\{{?([\d,x]*)", self.rest)
        return [int(n) for n in re.split("[,x]", found.group(1)) if n] if found else []


Computation = dict[str, Instruction]


class Kernel(NamedTuple):
    """What a device runs as one.

    Attributes:
      instruction: the instruction.
      times: how often a call of the program runs it.
      bytes: read and written in main memory, each time.
      flops: floating-point operations of its products and convolutions.
      units: what multiplies them, a field of `Chip`: 'halves', 'mixed' or 'floats'.
      integers: operations on 32-bit integers, nearly all of them random numbers.
      received: bytes that come from other devices.
    """

    instruction: Instruction
    times: int
    bytes: float
    flops: float
    units: str
    integers: float
    received: float

    @property
    def name(self) -> str:
        """What it is, for a table."""
        own = self.instruction
        where = re.search(r'op_name="([^"]+)"', own.rest)
        what = own.target or own.operation
        shape = own.results[0] if own.results else None
        result = f"{shape.dtype}{list(shape.shape)}" if shape else ""
        return " ".join(filter(None, (what, result, where.group(1) if where else "")))

    def seconds(self, chip: Chip) -> float:
        """Lower bound of the seconds that it takes, each time."""
        return max(
            self.bytes / chip.bandwidth,
            self.flops / getattr(chip, self.units),
            self.integers / chip.integers,
            chip.least,
        )


class Module:
    """The computations of a compiled program."""

    def __init__(self, text: str, num_devices: int = 1) -> None:
        """Parse the text of a program for `num_devices` devices."""
        self._devices = num_devices
        self._computations: dict[str, Computation] = {}
        self._entry = ""
        name = ""
        for line in text.splitlines():
            if line.startswith(("%", "ENTRY")) and line.rstrip().endswith("{"):
                entry = line.startswith("ENTRY")
                name = line.split()[entry].lstrip("%")
                self._computations[name] = {}
                self._entry = name if entry else self._entry
            elif name and (match := _INSTRUCTION.match(line)):
                instruction = _instruction(*match.groups())
                self._computations[name][instruction.name] = instruction

    def kernels(self) -> list[Kernel]:
        """All kernels, those of loops with the number of rounds if it is known."""
        return list(self._of(self._entry, 1))

    def _of(self, name: str, times: int) -> Iterator[Kernel]:
        """Kernels of a computation that runs `times` times."""
        computation = self._computations[name]
        for item in computation.values():
            if item.operation in _CONTROL:
                again = times * self._rounds(item)
                for called in item.called:
                    yield from self._of(called, again)
            elif item.operation not in _FREE and item.target != "AllocateBuffer":
                yield Kernel(
                    item,
                    times,
                    self._bytes(item, computation),
                    self._flops(item, computation),
                    self._units(item, computation),
                    self._integers(item),
                    self._received(item),
                )

    def _rounds(self, item: Instruction) -> int:
        """How often a loop runs; 1 if that is not known.

        XLA for TPUs does not note it: then the constant below which its counter, which
        begins at 0, must stay.
        """
        if rounds := re.search(r'known_trip_count":\{"n":"(\d+)"', item.rest):
            return int(rounds.group(1))
        condition = re.search(r"condition=%([\w.\-]+)", item.rest)
        body = self._computations.get(condition.group(1), {}) if condition else {}
        last = list(body.values())[-1] if body else None
        if last and last.operation == "compare" and "direction=LT" in last.rest:
            limits = [body[name] for name in last.operands[1:] if name in body]
            if limits and limits[0].operation == "constant":
                return int(limits[0].arguments)
        return 1

    def _operand(self, item: Instruction, number: int, within: Computation) -> Array:
        """An operand's first array; an empty one if it is unknown."""
        name = item.operands[number] if number < len(item.operands) else ""
        results = within[name].results if name in within else ()
        return results[0] if results else Array("pred", (0,), True)

    def _inner(self, item: Instruction) -> Iterator[tuple[Instruction, Computation]]:
        """The instructions of the computations that an instruction calls."""
        for name in item.called:
            computation = self._computations.get(name, {})
            for inner in computation.values():
                yield inner, computation

    def _flops(self, item: Instruction, within: Computation) -> float:
        if item.operation == "dot":
            return self._of_product(item, within, item.sizes("lhs_contracting_dims"))
        if item.operation == "convolution" or "__cudnn$conv" in item.target:
            return self._of_convolution(item, within)
        if "gemm" in item.target or "cublas" in item.target:
            found = re.search(r'"lhs_contracting_dimensions":\["(\d+)"', item.rest)
            axes = [int(found.group(1))] if found else []
            return self._of_product(item, within, axes)
        if "fmha" in item.target:
            batch, tokens, heads, size = (*self._operand(item, 0, within).shape, 1)[:4]
            # Two products forward; backward five, as scores are computed again.
            products = 5 if "Backward" in item.target else 2
            return 2.0 * products * batch * heads * tokens**2 * size
        if item.target == "tpu_custom_call":  # tpu_attention's; we have no others
            rows, columns, tokens = (*self._operand(item, 0, within).shape, 1, 1)[:3]
            products = 5 if len(item.results) > 1 else 2
            return 2.0 * products * rows * columns * tokens**2
        if item.operation == "custom-call":
            return 0.0
        return sum(self._flops(inner, around) for inner, around in self._inner(item))

    def _of_product(
        self, item: Instruction, within: Computation, axes: Sequence[int]
    ) -> float:
        """Operations of a matrix product that sums over axes of its first operand."""
        shape = self._operand(item, 0, within).shape
        if not item.results or any(axis >= len(shape) for axis in axes):
            return 0.0
        return 2.0 * item.results[0].size * math.prod(shape[axis] for axis in axes)

    def _of_convolution(self, item: Instruction, within: Computation) -> float:
        """Operations of a convolution, of a forward or a gradient's one."""
        labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", item.rest)
        if not labels or not item.results:
            return 0.0
        out, kernel = item.results[0], self._operand(item, 1, within)
        if "BackwardFilter" in item.target:  # the result is the kernel
            pairs = zip(labels.group(3), kernel.shape, strict=False)
            return 2.0 * out.size * math.prod(d for label, d in pairs if label != "f")
        pairs = zip(labels.group(2), kernel.shape, strict=False)
        inputs = math.prod(d for label, d in pairs if label == "i")
        window = item.sizes("size")
        spread = item.sizes("lhs_dilate") or [1] * len(window)
        # On an axis that is dilated n times, one of n places is not zero.
        touched = [max(w // s, 1) for w, s in zip(window, spread, strict=False)]
        # TPUs compute products of several axes as windows larger than the image.
        image = dict(
            zip(labels.group(1), self._operand(item, 0, within).shape, strict=False)
        )
        sides = [image.get(str(axis), math.inf) for axis in range(len(touched))]
        touched = [min(pair) for pair in zip(touched, sides, strict=True)]
        return 2.0 * out.size * inputs * math.prod(touched)

    def _units(self, item: Instruction, within: Computation) -> str:
        """Units of a kernel's products: the best that any of them can do with."""
        if item.operation in ("dot", "convolution", "custom-call"):
            operands = (self._operand(item, number, within) for number in (0, 1))
            if any(array.dtype in _HALVES for array in operands):
                return "halves"
            return "floats" if "highest" in item.rest.lower() else "mixed"
        found = {
            self._units(inner, around)
            for inner, around in self._inner(item)
            if inner.operation in ("dot", "convolution", "fusion", "custom-call")
        }
        return next(u for u in ("halves", "floats", "mixed") if u in found | {"mixed"})

    def _integers(self, item: Instruction) -> float:
        total = 0.0
        for inner, _ in self._inner(item):
            if inner.operation in ("fusion", "call"):
                total += self._integers(inner)
            elif inner.operation in _INTEGER and inner.results:
                array = inner.results[0]
                total += array.size if array.dtype in ("u32", "s32") else 0
        return total

    def _bytes(self, item: Instruction, within: Computation) -> float:
        """Bytes of operands and results, of which slices are read or written alone."""
        if item.operation == "dynamic-update-slice":
            return 2.0 * self._operand(item, 1, within).bytes
        if item.operation in ("copy-start", "slice-start"):
            return _copied(item)
        bodies = [self._computations[n] for n in item.called if n in self._computations]
        body = bodies[0] if len(bodies) == 1 else {}
        total = _written(body, item.results)
        seen: set[str] = set()
        for number, name in enumerate(item.operands):
            source = within.get(name)
            if name in seen or source is None or len(source.results) != 1:
                continue
            seen.add(name)
            total += self._read(body, number, source.results[0].bytes)
        return total

    def _read(self, body: Computation, number: int, whole: int) -> float:
        """Bytes of an operand that a fused computation reads."""
        if whole <= 100_000 or not body:
            return float(whole)
        return whole * self._share_of(body, number)

    def _share_of(self, body: Computation, number: int) -> float:
        """Share of an operand that a fused computation reads, at most 1."""
        names = {
            item.name
            for item in body.values()
            if item.operation == "parameter" and item.arguments.strip() == str(number)
        }
        return self._share_read(body, names) if names else 1.0

    def _share_read(self, body: Computation, names: set[str]) -> float:
        """Share of an array that its users in a fused computation read, at most 1."""
        size = sum(array.size for array in body[min(names)].results)
        share = 0.0
        for user in _users(body, names):
            at = [n for n, name in enumerate(user.operands) if name in names]
            if user.operation in _SLICES:
                share += user.results[0].size / size
            elif user.operation == "dynamic-update-slice" and at == [0]:
                continue  # written in part, in place
            elif user.operation in _THROUGH:
                share += self._share_read(body, {user.name})
            elif user.operation == "fusion" and len(user.called) == 1:
                share += self._share_through(body, user, at)
            else:
                return 1.0
        return min(share, 1.0)

    def _share_through(
        self, body: Computation, user: Instruction, at: Sequence[int]
    ) -> float:
        """Share of an array that a fusion within another one reads.

        Args:
          body: the other one.
          user: the inner one.
          at: which of its operands the array is.
        """
        inner = self._computations.get(user.called[0], {})
        copied = [item.operation for item in inner.values()]
        if set(copied) <= {"parameter", *_THROUGH}:  # all of it, as far as it is used
            return self._share_read(body, {user.name})
        return sum(self._share_of(inner, number) for number in at)

    def _received(self, item: Instruction) -> float:
        operation = item.operation.removesuffix("-start")
        if operation == "async":
            return sum(self._received(inner) for inner, _ in self._inner(item))
        share = _COLLECTIVES.get(operation)
        if share is None:
            return 0.0
        # What starts an operation returns its operands, too, in front of the results.
        arrays = item.results
        if item.operation.endswith("-start") and operation != "all-reduce":
            arrays = arrays[len(arrays) // 2 :]
        size = sum(a.size * _BYTES[a.dtype] for a in arrays)
        return share(self._devices) * size


def collective(kernel: Kernel) -> str:
    """The name of a kernel's exchange between devices; '' if it has none."""
    name = kernel.instruction.operation.removesuffix("-start")
    return name if name in _COLLECTIVES else ""


def _instruction(name: str, kind: str, operation: str, tail: str) -> Instruction:
    """Make an instruction of the parts of its line.

    Args:
      name, operation: as in the line.
      kind: its type.
      tail: the line behind the opening parenthesis.
    """
    depths = itertools.accumulate((c == "(") - (c == ")") for c in tail)
    end = next((at for at, depth in enumerate(depths) if depth < 0), len(tail))
    arrays = tuple(
        Array(dtype, tuple(int(n) for n in shape.split(",") if n), "S(1)" in layout)
        for dtype, shape, layout in _ARRAY.findall(kind)
        if dtype in _BYTES
    )
    operands = tuple(re.findall(r"%([\w.\-]+)", tail[:end]))
    return Instruction(name, operation, arrays, operands, tail[:end], tail[end:])


def _copied(item: Instruction) -> float:
    """Bytes that a copy reads and writes in the device's main memory.

    A copy's type names the new array first, a slice's the array that it is cut from.
    """
    if len(item.results) < 2:
        return 2.0 * sum(array.bytes for array in item.results)
    first, second = item.results[:2]
    new, old = (first, second) if item.operation == "copy-start" else (second, first)
    return float(new.bytes + old._replace(shape=new.shape, dtype=new.dtype).bytes)


def _users(body: Computation, names: set[str]) -> list[Instruction]:
    """The instructions of a fused computation that use what has one of these names."""
    return [item for item in body.values() if names & set(item.operands)]


def _written(body: Mapping[str, Instruction], results: Sequence[Array]) -> float:
    """Bytes that a fused computation writes: of arrays that it updates, the updates.

    Args:
      body: the computation; empty if the kernel is not a fusion.
      results: its results.
    """
    root = list(body.values())[-1] if body else None
    roots = [root]
    if root and root.operation == "tuple":
        roots = [body.get(name) for name in root.operands]
    if len(roots) != len(results):
        return float(sum(array.bytes for array in results))
    return float(sum(map(_written_of, [body] * len(roots), roots, results)))


def _written_of(
    body: Mapping[str, Instruction], root: Instruction | None, result: Array
) -> float:
    """Bytes that are written of one result, which `root` computes."""
    while root and root.operation == "bitcast":
        root = body.get(root.operands[0])
    if root and root.operation == "dynamic-update-slice" and len(root.operands) > 1:
        update = body.get(root.operands[1])
        if update and update.results:
            return 0.0 if result.near else float(update.results[0].bytes)
    return float(result.bytes)


def total_seconds(kernels: Sequence[Kernel], chip: Chip) -> float:
    """Lower bound of the seconds of a call: each kernel after the other."""
    return sum(kernel.times * kernel.seconds(chip) for kernel in kernels)
