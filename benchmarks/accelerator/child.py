"""The process of one side of a part: computes the items that are open."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.accelerator import store
from benchmarks.accelerator.core import NotRunError, Part

_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h


def end_with_parent() -> None:
    """Ask Linux to end this process with its parent: two cannot share a device."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)


def work(part: Part, side: str, folder: Path, parent: int | None = None) -> None:
    """Compute every open item of a part, and keep what comes of it.

    Args:
      part: what to compute.
      side: one of the part's.
      folder: where items are kept.
      parent: number of the process to stop with; None for none.
    """
    kept = store.Store(folder, part.name, side)
    for item in part.items:
        if not kept.is_open(item):
            continue
        if parent is not None and os.getppid() != parent:
            return
        kept.begin(item)
        try:
            place = kept.place(item)
            kept.save(item, part.compute(item, place))
        except NotRunError as error:
            kept.give_up(item, store.NOT_RUN, str(error))
        except ImportError as error:
            kept.give_up(item, store.NOT_RUN, f"needs {error.name or error}")
        except Exception as error:  # out of memory, XLA's errors: a result
            words = " ".join(str(error).split())[:300]
            kept.give_up(item, store.FAILED, f"{type(error).__name__}: {words}")


def look() -> dict[str, object]:
    """Device and versions, of a process that may use it."""
    import importlib.metadata

    import jax

    device = jax.devices()[0]
    names = ("jax", "jaxlib", "flax", "optax", "numpy")
    for library in ("cudnn-cu12", "cudnn-cu13", "cuda-runtime-cu12", "cuda-runtime"):
        names += (f"nvidia-{library}",)
    versions = {}
    for name in (*names, "libtpu"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "kind": jax.default_backend(),
        "device": device.device_kind,
        "count": len(jax.devices()),
        "platform": str(getattr(device.client, "platform_version", "")).split("\n")[0],
        "python": sys.version.split()[0],
        "versions": versions,
    }


def main() -> None:
    """Work on one side of a part, or look at the device."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--look", action="store_true")
    parser.add_argument("--part")
    parser.add_argument("--side")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--miniature", action="store_true")
    parser.add_argument("--parent", type=int)
    args = parser.parse_args()
    end_with_parent()
    if args.look:
        print(json.dumps(look()))
        return
    from benchmarks.accelerator import parts

    found = parts.load(args.part, args.miniature)
    if isinstance(found, str):  # what it needs is not installed
        print(found, file=sys.stderr)
        sys.exit(3)
    work(found, args.side, args.folder, args.parent)


if __name__ == "__main__":
    main()
