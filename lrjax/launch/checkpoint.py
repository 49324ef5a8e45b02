"""Saves and restores a block's state, and refuses what is torn or foreign.

Orbax writes the arrays; it restores a file with a flipped bit without a word, so a
manifest with the SHA-256 of every file and all that must agree is written after it. A
checkpoint without a manifest was cut short and counts for nothing.

Orbax names arrays by their keys, joined by dots, so two of a tree may share a name. It
gets a flat dictionary of numbered ones instead, and the manifest says which is which.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from lrjax.core import (
    NUMERICS_VERSION,
    PyTree,
    UsageError,
    cut,
    shown,
)

P = ParamSpec("P")
R = TypeVar("R")

_MANIFEST, _STATE = "manifest.json", "state"
_KEPT = 2  # the newest may turn out damaged
_SPARED = 2**20  # bytes of a disk that are left to the tables
# Orbax numbers its operations per process: two saves at once can wait for each other.
_ONE_AT_A_TIME = threading.RLock()


def _alone(function: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(function)
    def locked(*args: P.args, **kwargs: P.kwargs) -> R:
        with _ONE_AT_A_TIME:
            return function(*args, **kwargs)

    return locked


@_alone
def save(folder: Path, step: int, state: PyTree, facts: Mapping[str, float]) -> None:
    """Saves a state as `<folder>/<step>`, and drops all but it and the one before.

    Args:
      folder: of one block.
      step: updates done.
      state: any tree of arrays and numbers; fetched before this returns.
      facts: numbers to keep beside it; returned by `restore`.

    Raises:
      OSError: if it cannot be written; what was there before stays.
    """
    target = folder.absolute() / str(step)
    try:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        named = jax.tree.leaves_with_path(state)
        leaves = [_described(path, leaf) for path, leaf in named]
        plain = _numbered([_to_plain(leaf) for _, leaf in named])
        _check_room(target, sum(x.nbytes for x in plain.values()))
        if jax.process_count() > 1:  # Orbax takes no array of one host alone
            plain = jax.device_get(plain)
        if plain:  # it refuses an empty tree
            with _checkpointer() as checkpointer:
                checkpointer.save(target / _STATE, plain)
        content = {
            "block": folder.name,
            "step": step,
            "facts": dict(facts),
            "leaves": leaves,
            "versions": _versions(),
            "files": {name: _sha256(target / name) for name in _files(target)},
        }
        temporary = target / (_MANIFEST + ".tmp")
        with open(temporary, "w") as file:
            json.dump(content | {"sha256": _digest(content)}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target / _MANIFEST)
    except Exception as error:  # Orbax has many kinds for a disk that is full
        shutil.rmtree(target, ignore_errors=True)
        raise OSError(_reason(error)) from error
    found = _steps(folder)
    earlier = [each for each in found if each < step]
    # One of a later step is one that was refused.
    for old in {*found} - {step, *earlier[1 - _KEPT :]}:
        shutil.rmtree(folder / str(old), ignore_errors=True)


@_alone
def restore(
    folder: Path, like: PyTree
) -> tuple[int, PyTree, Mapping[str, float]] | None:
    """The newest good checkpoint in a folder.

    Each one that is refused is named in a warning that says what is wrong with it.

    Args:
      folder: of one block.
      like: shapes and types of the state, as from `jax.eval_shape`; where it has arrays
        or numbers of NumPy or Python, NumPy's arrays come back.

    Returns:
      updates done, the state and the facts saved with it; None if there is no good one.
    """
    for step in reversed(_steps(folder)):
        path = folder.absolute() / str(step)
        try:
            manifest = _verified(path)
            _compare(manifest["leaves"], like)
            return step, _read(path / _STATE, like), manifest["facts"]
        except jax.errors.JaxRuntimeError:
            raise  # of the device, its memory perhaps; no fault of the checkpoint
        except Exception as error:  # Orbax has many kinds for what it cannot read
            warnings.warn(
                f"checkpoint {path} is not used: {_reason(error)}", stacklevel=2
            )
    return None


@_alone
def discard(folder: Path) -> None:
    """Removes a block's checkpoints, and the folder of all blocks once it is empty."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()


def save_params(
    folder: Path,
    params: PyTree,
    model_state: PyTree,
    lanes: Mapping[tuple[int, int], str],
) -> None:
    """Keeps each run's parameters as <run_id>.safetensors, names joined by '/'.

    Args:
      folder: made if it is not there.
      params: of a block, leaves [seeds, hparams, ...].
      model_state: what the model has beside them, such as batch-norm statistics; names
        start with 'state/'.
      lanes: position in the block -> identity, for each run.

    Raises:
      UsageError: if they cannot be written, or as `check_params`.
    """
    from safetensors.numpy import save

    arrays = {k: np.asarray(v) for k, v in _names(params, model_state).items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for (s, h), run_id in lanes.items():
            one = {name: np.array(x[s, h], order="C") for name, x in arrays.items()}
            temporary = folder / f"{run_id}.tmp"
            try:
                temporary.write_bytes(save(one))
                os.replace(temporary, folder / f"{run_id}.safetensors")
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}") from error


def check_params(task: str, params: PyTree, model_state: PyTree) -> None:
    """Refuses what `save_params` could not keep, before anything is trained.

    Args:
      task: its name, for messages.
      params, model_state: shapes and types, as from `jax.eval_shape`.

    Raises:
      UsageError: if two arrays would have one name, one's name leads through another's,
        or the format cannot hold a name or type.
    """
    import safetensors
    from safetensors.numpy import save

    try:
        named = _names(params, model_state)
    except UsageError as error:
        raise UsageError(f"config.save_params: '{task}': {error}") from error
    for name, leaf in named.items():
        try:  # the library itself says best what it can do
            safetensors.deserialize(save({name: np.empty(0, leaf.dtype)}))
        except Exception as error:  # it has many kinds
            raise UsageError(
                f"config.save_params: '{task}': safetensors cannot hold {shown(name)} "
                f"of type {leaf.dtype}"
            ) from error


def _names(params: PyTree, model_state: PyTree) -> dict[str, Any]:
    """Arrays by the names that they are kept by; refuses what would share one."""
    named: dict[str, Any] = {}
    for prefix, tree in (("", params), ("state/", model_state)):
        for path, leaf in jax.tree.leaves_with_path(tree):
            name = prefix + jax.tree_util.keystr(path, simple=True, separator="/")
            if name in named:
                raise UsageError(f"two of its arrays would be called {shown(name)}")
            named[name] = leaf
    for name in named:
        for at in (i for i, letter in enumerate(name) if letter == "/"):
            if name[:at] in named:
                raise UsageError(
                    f"{shown(name[:at])} is an array, and the name {shown(name)} leads "
                    "through it"
                )
    return named


# Any leaf as an array that Orbax takes, and back.


def _shaped(leaf: Any) -> Any:
    """A leaf with shape and type; Python's numbers have NumPy's types."""
    return leaf if hasattr(leaf, "dtype") else np.asarray(leaf)


def _is_key(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _is_exotic(dtype: Any) -> bool:
    """Whether a type of numbers (int4, float8, ...) is kept as its bytes."""
    return dtype.kind not in "biufc" and dtype != jnp.bfloat16


def _described(path: Any, leaf: Any) -> list[Any]:
    """A leaf's place in the tree, shape and type; keys tell 1 from '1'."""
    leaf = _shaped(leaf)
    known = (np.number, np.bool_, jax.dtypes.prng_key)
    name = jax.tree_util.keystr(path)
    if not any(jnp.issubdtype(leaf.dtype, kind) for kind in known):
        raise ValueError(f"{cut(name)} holds no numbers, but {cut(str(leaf.dtype))}")
    return [name, list(leaf.shape), str(leaf.dtype)]


def _numbered(leaves: Sequence[Any]) -> dict[str, Any]:
    """Leaves by their numbers, without those of size zero, which Orbax refuses."""
    return {str(i): leaf for i, leaf in enumerate(leaves) if math.prod(leaf.shape)}


def _to_plain(leaf: Any) -> Any:
    leaf = _shaped(leaf)
    if _is_key(leaf.dtype):
        return jax.random.key_data(leaf)
    if _is_exotic(leaf.dtype):
        return np.asarray(leaf)[..., None].view(np.uint8)
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def _plain_like(leaf: Any) -> Any:
    """Shape and type that a leaf is saved as."""
    leaf = _shaped(leaf)
    if _is_key(leaf.dtype):
        abstract = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        return jax.eval_shape(jax.random.key_data, abstract)
    if _is_exotic(leaf.dtype):
        return np.empty((*leaf.shape, leaf.dtype.itemsize), np.uint8)
    return leaf


def _from_plain(found: Any, like: Any) -> Any:
    """A leaf as it was; NumPy's where `like` is or where there are several hosts."""
    like = _shaped(like)
    if _is_key(like.dtype):
        return jax.random.wrap_key_data(jnp.asarray(found), impl=_impl(like))
    if _is_exotic(like.dtype):
        found = np.asarray(found).view(like.dtype)[..., 0]
    if isinstance(like, np.ndarray | np.generic):
        return np.asarray(found)
    if isinstance(found, jax.Array) or jax.process_count() > 1:
        return found
    return jax.device_put(found, getattr(like, "sharding", None))


def _impl(key: Any) -> Any:
    """How the numbers of a key are drawn; `key` may be a shape and type alone."""
    seen: list[Any] = []
    jax.eval_shape(
        lambda k: seen.append(jax.random.key_impl(k)),
        jax.ShapeDtypeStruct(key.shape, key.dtype),
    )
    return seen[0]


def _read(path: Path, like: PyTree) -> PyTree:
    """The tree that was saved at a path."""
    leaves, structure = jax.tree.flatten(like)
    wanted = [_plain_like(leaf) for leaf in leaves]
    numbered = _numbered(wanted)
    found: dict[str, Any] = {}
    if numbered:
        with _checkpointer() as checkpointer:
            found = checkpointer.restore(path, _asked(numbered))
    plain = [
        found[str(i)] if str(i) in numbered else np.zeros(each.shape, each.dtype)
        for i, each in enumerate(wanted)
    ]
    return structure.unflatten(map(_from_plain, plain, leaves))


def _checkpointer() -> ocp.StandardCheckpointer:
    """Orbax's; where there are several hosts each saves blocks of its own."""
    if jax.process_count() == 1:
        return ocp.StandardCheckpointer()
    own = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"host{own}"
    )
    return ocp.StandardCheckpointer(multiprocessing_options=options)


def _asked(like: PyTree) -> PyTree:
    """What to ask Orbax for: with several hosts it makes NumPy's arrays alone."""
    if jax.process_count() == 1:
        return like
    return jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like)


def _check_room(folder: Path, size: int) -> None:
    """Raises OSError where a disk has too little room; Orbax would leave threads."""
    disk = shutil.disk_usage(folder)
    if disk.total and disk.free < size + _SPARED:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _steps(folder: Path) -> list[int]:
    """Steps of the checkpoints that are there, good or not, ascending."""
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal())


def _verified(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint that is whole and of this block and version."""
    present = _files(path)
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
        digest = manifest.pop("sha256")
    except FileNotFoundError:
        raise ValueError("it was cut short: there is no manifest") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise ValueError("its manifest is damaged") from None
    if digest != _digest(manifest):
        raise ValueError("its manifest is damaged")
    for name, version in _versions().items():
        found = manifest["versions"].get(name)
        if found != version:
            raise ValueError(f"{name} was {found}, now it is {version}")
    for name, own in (("block", path.parent.name), ("step", int(path.name))):
        if manifest[name] != own:
            raise ValueError(f"it is of {name} {manifest[name]}, not {own}")
    facts = manifest["facts"]
    if not isinstance(facts, dict) or not all(map(math.isfinite, facts.values())):
        raise ValueError("its facts are no numbers")
    files = manifest["files"]
    for name in sorted(files.keys() ^ set(present)):
        fault = "is missing" if name in files else "does not belong to it"
        raise ValueError(f"{name} {fault}")
    for name, digest in files.items():
        if _sha256(path / name) != digest:
            raise ValueError(f"{name} is not as it was written")
    return manifest


def _files(path: Path) -> list[str]:
    """Names of a checkpoint's files but for the manifest."""
    found = []
    for each in path.rglob("*"):
        name = str(each.relative_to(path))
        if each.is_file():
            found.append(name)
        elif not each.is_dir():  # reading a pipe or device might never end
            raise ValueError(f"{name} is no regular file")
    return sorted(name for name in found if name != _MANIFEST)


def _digest(manifest: Mapping[str, Any]) -> str:
    """The SHA-256 of a manifest, which may have a flipped bit itself."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _reason(error: Exception) -> str:
    """What an error says, in a line; some of Orbax's hold a whole specification."""
    return " ".join(str(error).split())[:300]


def _compare(saved: Sequence[Sequence[Any]], like: PyTree) -> None:
    """Refuses leaves of other places, shapes or types."""
    wanted = [_described(*each) for each in jax.tree.leaves_with_path(like)]
    as_jax = [[name, shape, _in_jax(kind)] for name, shape, kind in saved]
    if wanted not in (list(saved), as_jax):
        raise ValueError("it is of runs with other shapes")


def _in_jax(kind: str) -> str:
    """The type that JAX gives numbers of a type: without x64 they are narrower."""
    if kind not in ("float64", "int64", "uint64", "complex128"):
        return kind
    return str(jax.eval_shape(lambda x: x, np.zeros((), kind)).dtype)


def _versions() -> dict[str, Any]:
    return {"numerics": NUMERICS_VERSION, "jax": jax.__version__}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
