"""Tables of long studies, kept in results/ so that others need not train again."""

from __future__ import annotations

import json
import lzma
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

TABLES = ("config.json", "runs.jsonl", "trials.jsonl", "curves.jsonl")
CURVE_ROWS = 10  # of a run


def keep(kept: Path, folders: Mapping[str, Path], curve_rows: int = CURVE_ROWS) -> None:
    """Compress tables, curves thinned.

    Args:
      kept: a folder in results/.
      folders: name below `kept` -> working directory.
      curve_rows: rows of each run's curve.
    """
    for name, folder in folders.items():
        (kept / name).mkdir(parents=True, exist_ok=True)
        for table in TABLES:
            if not (folder / table).exists():
                continue
            lines = (folder / table).read_text().splitlines(keepends=True)
            if table == "curves.jsonl":
                lines = _thinned(lines, curve_rows)
            packed = lzma.compress("".join(lines).encode(), preset=9)
            (kept / name / f"{table}.xz").write_bytes(packed)
    size = sum(path.stat().st_size for path in kept.rglob("*") if path.is_file())
    print(f"{kept}: {size / 2**20:.1f} MiB")


def _thinned(lines: Sequence[str], rows_of_a_run: int) -> list[str]:
    """Some rows of each run's curve, evenly spaced, with its last."""
    runs: dict[str, list[str]] = {}
    for line in lines:
        runs.setdefault(json.loads(line)["run_id"], []).append(line)
    found = []
    for rows in runs.values():
        places = np.linspace(0, len(rows) - 1, min(rows_of_a_run, len(rows)))
        found += [rows[i] for i in sorted({round(p) for p in places})]
    return found


def unpack(kept: Path, folders: Mapping[str, Path]) -> None:
    """Write kept tables into working directories that do not exist yet.

    Args:
      kept, folders: as for `keep`.

    Raises:
      SystemExit: if one exists.
    """
    for name, folder in folders.items():
        if folder.exists():
            sys.exit(f"{folder} exists: remove it, or name others")
        folder.mkdir(parents=True)
        for path in (kept / name).glob("*.xz"):
            (folder / path.stem).write_bytes(lzma.decompress(path.read_bytes()))
