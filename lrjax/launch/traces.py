"""Traced programs kept on disk, so that later processes need not trace them again.

JAX's own cache keeps machine code, which it finds by the traced program. To trace ten
methods takes longer than to load what was compiled from them, so what was traced is
kept beside it: as StableHLO (`jax.export`), under a hash of all that decides it. What
is kept is code, like JAX's cache, and lies in the same private folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import platform
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export

import lrjax
from lrjax import machine, methods
from lrjax.common import files, versions
from lrjax.core import Method, UsageError
from lrjax.engine import evaluation, programs, train
from lrjax.engine.train import BlockState, Inputs, Program

_MOST_BYTES = 2**28  # of a trace
_PACKAGES = ("jax", "jaxlib", "optax", "flax", "numpy")
_ANY_PLATFORM = jax.export.DisabledSafetyCheck.platform()
_LAPACK = re.compile(rb"lapack_[sdcz]")  # routines, by type of number
_MARK = b"lrjax trace 1\n"

_folder: list[Path] = []  # at most one


def keep_in(folder: Path) -> None:
    """Keep traces in a private folder from now on."""
    _folder[:] = [folder]


def recalled(
    program: Program,
    segment: programs.Segment,
    arguments: tuple[BlockState, Inputs, Any, Any, int, int],
) -> programs.Segment:
    """Return a function that does as a segment, from its trace on disk if there is one.

    Numbers are the same either way, as a new trace is used in the same form.

    Args:
      program: what is traced.
      segment: `programs.segment` for the program.
      arguments: its arguments, or their shapes and types.

    Returns:
      the segment itself where traces are not kept, or its trace cannot be.
    """
    if not _folder or program.layout or program.one_by_one or program.task.streamed:
        return segment
    try:
        import flatbuffers  # noqa: F401 # pyright: ignore  # jax.export needs it
    except ImportError:
        return segment
    path = _folder[0] / f"{_name(program, arguments)}.trace"
    found = _read(path) or _written(path, segment, arguments)
    return segment if found is None else _calling(*found)


def _calling(exported: jax.export.Exported, names: Sequence[str]) -> programs.Segment:
    """Make a segment of its trace.

    Args:
      exported: the trace, of flat lists of arrays.
      names: names of the measurements.
    """

    def segment(state: BlockState, *others: Any) -> Any:
        leaves, structure = jax.tree.flatten(state)
        results = exported.call(*leaves, *jax.tree.leaves(others))
        state = jax.tree.unflatten(structure, results[: len(leaves)])
        return state, dict(zip(names, results[len(leaves) :], strict=True))

    return segment


def _read(path: Path) -> tuple[jax.export.Exported, list[str]] | None:
    """Read a trace; None if there is none, or a damaged one."""
    with contextlib.suppress(OSError, ValueError, zlib.error):
        content = files.read_own(path, _MOST_BYTES)
        mark, digest, content = content.split(b"\n", 2)
        if mark + b"\n" == _MARK and digest == _digest(content):
            names, content = zlib.decompress(content).split(b"\n", 1)
            found = jax.export.deserialize(bytearray(content))
            return _without_lapack(found), names.decode().split(",")
    return None


def _without_lapack(exported: jax.export.Exported) -> jax.export.Exported:
    """Leave out platforms, for which JAX gets LAPACK ready, where nothing calls it.

    To do so it imports scipy.linalg, which takes 0.1 s.
    """
    if _LAPACK.search(exported.mlir_module_serialized):
        return exported
    return dataclasses.replace(exported, platforms=())


def _written(
    path: Path, segment: programs.Segment, arguments: tuple[Any, ...]
) -> tuple[jax.export.Exported, list[str]] | None:
    """Trace a segment and keep that; None if it cannot be kept."""
    leaves, structure = jax.tree.flatten(arguments)
    names: list[str] = []

    def flat(*leaves: Any) -> list[Any]:
        """Train the segment on flat lists."""
        state, table = segment(*jax.tree.unflatten(structure, leaves))
        names[:] = sorted(table)
        return [*jax.tree.leaves(state), *(table[name] for name in names)]

    try:
        whole = jax.export.export(jax.jit(flat), disabled_checks=[_ANY_PLATFORM])
        exported = whole(*leaves)
        content = exported.serialize()
    except (NotImplementedError, ValueError):  # callbacks, kernels of one version
        return None
    content = zlib.compress(",".join(names).encode() + b"\n" + bytes(content), 1)
    with contextlib.suppress(UsageError):  # a full disk costs time alone
        files.replace(path, _MARK + _digest(content) + b"\n" + content)
    return _without_lapack(exported), names


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _name(program: Program, arguments: tuple[Any, ...]) -> str:
    """Hash all that decides a trace.

    Code of lrjax and of the packages that it calls; the task's functions and the
    methods of a user, which are traced for one run; names and static values of other
    methods; shapes and types.
    """
    task = program.task
    groups = [
        (group.method.name, group.static, sorted(traced), group.num_hparams)
        for group, traced in zip(program.groups, arguments[1].hparams, strict=True)
    ]
    choices = (
        *(machine.kind(), str(jax.numpy.result_type(float))),
        programs.MAX_ROUNDS,
        *(program.eval_every, program.num_seeds, program.fresh_batches),
        *(str(jax.numpy.dtype(program.dtype)), program.sums_losses),
        *(task.batch_size, task.measured_rows, task.valid is task.train),
    )
    shapes = jax.tree.map(lambda x: (jax.numpy.shape(x), str(_type(x))), arguments)
    digest = hashlib.sha256(repr((_code(), groups, choices, shapes)).encode())
    for text in _traced(program, arguments):
        digest.update(text.encode())
    return digest.hexdigest()[:32]


def _type(leaf: Any) -> Any:
    return getattr(leaf, "dtype", type(leaf))


def _traced(program: Program, arguments: tuple[Any, ...]) -> list[str]:
    """Traces of the functions of the task and of a user's methods, for one run.

    Text of the programs: of an update's gradient, of what is measured on a slice of
    rows, and of a step of each method that is not lrjax's own.

    Args:
      program, arguments: as for `recalled`.
    """
    state, inputs, data, valid, *_ = arguments
    task, first = program.task, state[0]
    batch = {name: _cut(array, 1, (task.batch_size,)) for name, array in data.items()}
    batch["mask"] = jax.ShapeDtypeStruct((task.batch_size,), program.dtype)
    noise = _cut(inputs.noise, 1)
    parts = evaluation.parts_to_measure(task, data, valid or data)
    slices = [evaluation.slice_shapes(program, part) for part in parts.values()]

    def gradient(*arguments: Any) -> Any:
        return train.gradient_run(program, *arguments)

    def measured(*arguments: Any) -> Any:
        sums = task.evaluate(*arguments)
        return {m.name: evaluation.value(m, sums) for m in task.metrics}

    params, model_state = _cut((first.params, first.model_state), 2)
    lowered = [
        jax.jit(gradient).lower(params, model_state, batch, noise),
        *(jax.jit(measured).lower(params, model_state, each) for each in slices),
    ]
    for part, runs, hparams in zip(program.parts, state, inputs.hparams, strict=True):
        if not _is_ours(part.group.method):

            def step(*arguments: Any, part: Program = part) -> Any:
                return train.step_run(part, *arguments)

            run, lane = _cut(runs, 2), _cut(hparams, 1)
            lowered.append(
                jax.jit(step).lower(run, batch, noise, 0, lane, inputs.horizon)
            )
    return [program.as_text() for program in lowered]


def _is_ours(method: Method) -> bool:
    """Whether lrjax's own code says all that a method does."""
    if method.name not in methods.SHIPPED:
        return False
    return method is methods.METHODS.get(method.name)


def _cut(tree: Any, axes: int, instead: tuple[int, ...] = ()) -> Any:
    """Shapes and types of arrays with other first axes.

    Args:
      tree: arrays.
      axes: number of axes to leave out.
      instead: axes in their place.
    """

    def of(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*instead, *x.shape[axes:]), x.dtype)

    return jax.tree.map(of, tree)


@functools.cache
def _code() -> str:
    """A hash of lrjax's code, and the versions of the packages that it calls."""
    root = Path(lrjax.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.read_bytes())
    found = [platform.python_version(), *versions.installed(_PACKAGES).values()]
    return f"{digest.hexdigest()} {' '.join(found)}"
