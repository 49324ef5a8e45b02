"""Saves and restores a block's state, and refuses torn or foreign checkpoints.

Orbax writes the arrays, but silently restores a file with a flipped bit. So a manifest
is written last, with the SHA-256 of every file and everything that must agree. A
checkpoint without a manifest is incomplete and is ignored.

Orbax names arrays by their keys joined by dots, so two arrays of a tree may share a
name. It gets a flat dictionary of numbered arrays instead, and the manifest maps
numbers to places in the tree.
"""

from __future__ import annotations

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

from lrjax.common import files
from lrjax.core import (
    NUMERICS_VERSION,
    PyTree,
    UsageError,
    cut,
    shown,
)

P = ParamSpec("P")
R = TypeVar("R")

FOLDER, PARAMS = "checkpoints", "params"  # below the working directory
_MANIFEST, _STATE = "manifest.json", "state"
_ARRAYS = "arrays.npz"  # the state, as one of several hosts writes it
_LARGEST_MANIFEST = 2**30  # bytes
_KEPT = 2  # checkpoints per block: the newest may turn out damaged
_SPARED = 2**20  # bytes of a disk that are left to the tables
# Orbax numbers its operations per process: two concurrent saves can deadlock.
_ONE_AT_A_TIME = threading.RLock()


def _with_lock(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function hold the process's checkpoint lock while it runs."""

    @functools.wraps(function)
    def locked(*args: P.args, **kwargs: P.kwargs) -> R:
        with _ONE_AT_A_TIME:
            return function(*args, **kwargs)

    return locked


def folder_of(home: Path, block: str) -> Path:
    """Directory of the checkpoints of a block, by the block's name."""
    return home / FOLDER / block


@_with_lock
def save(folder: Path, step: int, state: PyTree, facts: Mapping[str, float]) -> None:
    """Save a state as `<folder>/<step>`; keep it and the checkpoint before it.

    Args:
      folder: directory of one block.
      step: updates done.
      state: any tree of arrays and numbers; fetched before this returns.
      facts: numbers to store with it; returned by `restore`.

    Raises:
      OSError: if it cannot be written; earlier checkpoints are kept.
    """
    target = folder.absolute() / str(step)
    try:
        files.remove_folder(target)
        files.make_folder(target, below=target.parents[2])
        paths_and_leaves = jax.tree.leaves_with_path(state)
        leaves = [_described(path, leaf) for path, leaf in paths_and_leaves]
        plain = _numbered([_to_plain(leaf) for _, leaf in paths_and_leaves])
        _check_room(target, sum(x.nbytes for x in plain.values()))
        if plain:
            _write(target / _STATE, plain)
        content = {
            "block": folder.name,
            "step": step,
            "facts": dict(facts),
            "leaves": leaves,
            "versions": _versions(),
            "files": {name: _sha256(target / name) for name in _files(target)},
        }
        manifest = json.dumps(content | {"sha256": _digest(content)})
        files.replace(target / _MANIFEST, manifest)
    except Exception as error:  # Orbax raises many types when a disk is full
        files.remove_folder(target)
        raise OSError(_reason(error)) from error
    steps = _steps(folder)
    earlier = [saved for saved in steps if saved < step]
    # Checkpoints of later steps were refused when training resumed: remove them.
    for old in {*steps} - {step, *earlier[1 - _KEPT :]}:
        files.remove_folder(folder / str(old))


@_with_lock
def restore(
    folder: Path, like: PyTree
) -> tuple[int, PyTree, Mapping[str, float]] | None:
    """Restore the newest valid checkpoint in a folder.

    Warns of each checkpoint that is refused, with the reason.

    Args:
      folder: directory of one block.
      like: shapes and types of the state, as returned by `jax.eval_shape`. Leaves
        that are NumPy arrays or Python numbers are restored as NumPy arrays.

    Returns:
      Updates done, the state, and the facts saved with it; None without a valid
      checkpoint.
    """
    for step in reversed(_steps(folder)):
        path = folder.absolute() / str(step)
        try:
            manifest = _verified(path)
            _compare(manifest["leaves"], like)
            return step, _read(path / _STATE, like), manifest["facts"]
        except jax.errors.JaxRuntimeError:
            raise  # a fault of the device, such as its memory, not of the checkpoint
        except Exception as error:  # Orbax raises many types for unreadable files
            warnings.warn(
                f"checkpoint {path} is not used: {_reason(error)}", stacklevel=2
            )
    return None


@_with_lock
def discard(folder: Path) -> None:
    """Remove a block's checkpoints."""
    files.remove_folder(folder)


def save_params(
    folder: Path,
    params: PyTree,
    model_state: PyTree,
    ids_by_position: Mapping[tuple[int, int], str],
) -> None:
    """Write each run's parameters to <run_id>.safetensors, names joined by '/'.

    Args:
      folder: created if necessary.
      params: parameters of a block, leaves [seeds, hparams, ...].
      model_state: other arrays of the model, such as batch-norm statistics; their names
        start with 'state/'.
      ids_by_position: position in the block -> identity of the run.

    Raises:
      UsageError: if files cannot be written, or as `check_params`.
    """
    from safetensors.numpy import save

    arrays = {k: np.asarray(v) for k, v in _names(params, model_state).items()}
    files.make_folder(folder, below=folder.parent)
    for (s, h), run_id in ids_by_position.items():
        of_run = {name: np.array(x[s, h], order="C") for name, x in arrays.items()}
        files.replace(folder / f"{run_id}.safetensors", save(of_run))


def check_params(task: str, params: PyTree, model_state: PyTree) -> None:
    """Check before training that `save_params` can save a task's parameters.

    Args:
      task: name, for messages.
      params, model_state: shapes and types, as returned by `jax.eval_shape`.

    Raises:
      UsageError: if two arrays would share a name, if an array's name is a directory of
        another's, or if the format cannot hold a name or type.
    """
    import safetensors
    from safetensors.numpy import save

    try:
        named = _names(params, model_state)
    except UsageError as error:
        raise UsageError(f"config.save_params: '{task}': {error}") from error
    for name, leaf in named.items():
        try:  # ask the library itself what it supports
            safetensors.deserialize(save({name: np.empty(0, leaf.dtype)}))
        except Exception as error:  # it raises many types
            raise UsageError(
                f"config.save_params: '{task}': safetensors cannot hold {shown(name)} "
                f"of type {leaf.dtype}"
            ) from error


def _names(params: PyTree, model_state: PyTree) -> dict[str, Any]:
    """Map names to arrays as they are saved; refuse ambiguous names."""
    named: dict[str, Any] = {}
    for prefix, tree in (("", params), ("state/", model_state)):
        for path, leaf in jax.tree.leaves_with_path(tree):
            name = prefix + jax.tree_util.keystr(path, simple=True, separator="/")
            if name in named:
                raise UsageError(f"two arrays would share the name {shown(name)}")
            named[name] = leaf
    for name in named:
        for at in (i for i, letter in enumerate(name) if letter == "/"):
            if name[:at] in named:
                raise UsageError(
                    f"{shown(name[:at])} is an array, but the name {shown(name)} leads "
                    "through it"
                )
    return named


# Conversion of leaves to arrays that Orbax accepts, and back.


def _shaped(leaf: Any) -> Any:
    """A leaf with shape and dtype: Python numbers become NumPy's."""
    return leaf if hasattr(leaf, "dtype") else np.asarray(leaf)


def _is_key(dtype: Any) -> bool:
    """Whether a dtype is that of JAX's random keys."""
    return jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _is_exotic(dtype: Any) -> bool:
    """Whether numbers of a type (int4, float8, ...) are saved as bytes."""
    return dtype.kind not in "biufc" and dtype != jnp.bfloat16


def _described(path: Any, leaf: Any) -> list[Any]:
    """A leaf's path in the tree, shape and type; the path tells key 1 from '1'."""
    leaf = _shaped(leaf)
    known = (np.number, np.bool_, jax.dtypes.prng_key)
    name = jax.tree_util.keystr(path)
    if not any(jnp.issubdtype(leaf.dtype, kind) for kind in known):
        raise ValueError(f"{cut(name)} must hold numbers, not {cut(str(leaf.dtype))}")
    return [name, list(leaf.shape), str(leaf.dtype)]


def _numbered(leaves: Sequence[Any]) -> dict[str, Any]:
    """Leaves by their index, without those of size zero, which Orbax refuses."""
    return {str(i): leaf for i, leaf in enumerate(leaves) if math.prod(leaf.shape)}


def _to_plain(leaf: Any) -> Any:
    """Convert a leaf to an array that Orbax accepts."""
    leaf = _shaped(leaf)
    if _is_key(leaf.dtype):
        return jax.random.key_data(leaf)
    if _is_exotic(leaf.dtype):
        return np.asarray(leaf)[..., None].view(np.uint8)
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def _plain_like(leaf: Any) -> Any:
    """Shape and type of a leaf as saved by `_to_plain`."""
    leaf = _shaped(leaf)
    if _is_key(leaf.dtype):
        abstract = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        return jax.eval_shape(jax.random.key_data, abstract)
    if _is_exotic(leaf.dtype):
        return np.empty((*leaf.shape, leaf.dtype.itemsize), np.uint8)
    return leaf


def _from_plain(saved: Any, like: Any) -> Any:
    """Convert a saved array back: to NumPy's if `like` is, or with several hosts."""
    like = _shaped(like)
    if _is_key(like.dtype):
        return jax.random.wrap_key_data(jnp.asarray(saved), impl=_impl(like))
    if _is_exotic(like.dtype):
        saved = np.asarray(saved).view(like.dtype)[..., 0]
    if isinstance(like, np.ndarray | np.generic):
        return np.asarray(saved)
    if isinstance(saved, jax.Array) or jax.process_count() > 1:
        return saved
    return jax.device_put(saved, getattr(like, "sharding", None))


def _impl(key: Any) -> Any:
    """The implementation of a random key.

    `jax.random.key_impl` takes keys and tracers only, so a key that is given by its
    shape and dtype is traced.
    """
    implementations: list[Any] = []
    jax.eval_shape(
        lambda k: implementations.append(jax.random.key_impl(k)),
        jax.ShapeDtypeStruct(key.shape, key.dtype),
    )
    return implementations[0]


def _write(path: Path, plain: Mapping[str, Any]) -> None:
    """Write arrays by Orbax; with several hosts as one .npz file.

    Orbax refuses device arrays that only one host has, and writes NumPy arrays on host
    0 alone, while each host saves its own blocks. Nor can it write below a folder whose
    name is not UTF-8.
    """
    if jax.process_count() == 1 and str(path).isprintable():
        import orbax.checkpoint as ocp

        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path, dict(plain))
        return
    files.make_folder(path, below=path.parent)
    with files.replacing(path / _ARRAYS) as file:
        np.savez(file, **jax.device_get(dict(plain)))


def _read(path: Path, like: PyTree) -> PyTree:
    """Read the tree that was saved at a path."""
    leaves, structure = jax.tree.flatten(like)
    plain_like = [_plain_like(leaf) for leaf in leaves]
    numbered = _numbered(plain_like)
    saved: dict[str, Any] = {}
    if (path / _ARRAYS).exists():
        with (
            files.open_own(path / _ARRAYS) as file,
            np.load(file, allow_pickle=False) as archive,
        ):
            # NumPy's format has no name for bfloat16, whose bytes come back.
            saved = {
                name: archive[name].view(leaf.dtype) for name, leaf in numbered.items()
            }
    elif numbered:
        with _checkpointer() as checkpointer:
            saved = checkpointer.restore(path, _restore_request(numbered))
    plain = [
        saved[str(i)] if str(i) in numbered else np.zeros(leaf.shape, leaf.dtype)
        for i, leaf in enumerate(plain_like)
    ]
    return structure.unflatten(map(_from_plain, plain, leaves))


def _checkpointer() -> Any:
    """Orbax's checkpointer; with several hosts each restores by itself."""
    import orbax.checkpoint as ocp  # it takes long, and few runs need it

    if jax.process_count() == 1:
        return ocp.StandardCheckpointer()
    own = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"host{own}"
    )
    return ocp.StandardCheckpointer(multiprocessing_options=options)


def _restore_request(like: PyTree) -> PyTree:
    """The request to Orbax: with several hosts it restores only NumPy arrays."""
    if jax.process_count() == 1:
        return like
    return jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like)


def _check_room(folder: Path, size: int) -> None:
    """Raise OSError if a disk is nearly full; Orbax would leave threads behind."""
    disk = shutil.disk_usage(folder)
    if disk.total and disk.free < size + _SPARED:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, valid or not, ascending."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal())


def _verified(path: Path) -> dict[str, Any]:
    """Read the manifest of a checkpoint and check it against the files.

    Raises:
      ValueError: if it is incomplete, damaged, or of another block or version.
    """
    if path.is_symlink():
        raise ValueError("it is a symbolic link")
    present = _files(path)
    try:
        manifest = json.loads(files.read_own(path / _MANIFEST, _LARGEST_MANIFEST))
        digest = manifest.pop("sha256")
    except FileNotFoundError:
        raise ValueError("it was cut short: it has no manifest") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise ValueError("its manifest is damaged") from None
    if digest != _digest(manifest):
        raise ValueError("its manifest is damaged")
    for name, version in _versions().items():
        saved = manifest["versions"].get(name)
        if saved != version:
            raise ValueError(f"{name} was {saved}, now it is {version}")
    for name, own in (("block", path.parent.name), ("step", int(path.name))):
        if manifest[name] != own:
            raise ValueError(f"it belongs to {name} {manifest[name]}, not {own}")
    facts = manifest["facts"]
    if not isinstance(facts, dict) or not all(map(math.isfinite, facts.values())):
        raise ValueError("its facts are not finite numbers")
    expected = manifest["files"]
    for name in sorted(expected.keys() ^ set(present)):
        fault = "is missing" if name in expected else "does not belong to it"
        raise ValueError(f"{name} {fault}")
    for name, digest in expected.items():
        if _sha256(path / name) != digest:
            raise ValueError(f"{name} is damaged: its SHA-256 differs")
    return manifest


def _files(path: Path) -> list[str]:
    """Names of a checkpoint's files without the manifest, sorted.

    Raises:
      ValueError: if there is a pipe or device, whose reading might never end, or a
        link, which may lead to other people's files.
    """
    names = []
    for entry in path.rglob("*"):
        name = str(entry.relative_to(path))
        if entry.is_symlink():
            raise ValueError(f"{name} is a symbolic link")
        if entry.is_file():
            names.append(name)
        elif not entry.is_dir():
            raise ValueError(f"{name} is not a regular file")
    return sorted(name for name in names if name != _MANIFEST)


def _digest(manifest: Mapping[str, Any]) -> str:
    """The SHA-256 of a manifest's content, which protects the manifest itself."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _reason(error: Exception) -> str:
    """An error's text in one line, cut: some of Orbax's hold a whole specification."""
    cause = error.__cause__
    text = files.words(cause) if isinstance(cause, OSError) else str(error)
    return " ".join(text.split())[:300]


def _compare(saved: Sequence[Sequence[Any]], like: PyTree) -> None:
    """Check that saved leaves have the expected paths, shapes and types."""
    wanted = [_described(path, leaf) for path, leaf in jax.tree.leaves_with_path(like)]
    as_jax = [[name, shape, _in_jax(kind)] for name, shape, kind in saved]
    if wanted not in (list(saved), as_jax):
        raise ValueError("it belongs to runs with other shapes")


def _in_jax(kind: str) -> str:
    """The type that JAX gives to numbers of a type: narrower without x64."""
    if kind not in ("float64", "int64", "uint64", "complex128"):
        return kind
    return str(jax.eval_shape(lambda x: x, np.zeros((), kind)).dtype)


def _versions() -> dict[str, Any]:
    """Versions that must agree with those of a checkpoint."""
    return {"numerics": NUMERICS_VERSION, "jax": jax.__version__}


def _sha256(path: Path) -> str:
    with files.open_own(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
