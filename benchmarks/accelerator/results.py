"""Rows of what is kept, and whether that is for this code, device and versions."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.accelerator import store
from benchmarks.accelerator.core import Part, Row

ROOT = Path(__file__).resolve().parents[2]
_CODE = (
    *("lrjax/**/*.py", "lrjax/**/*.npz", "benchmarks/accelerator/*.py"),
    *("benchmarks/noise.py", "benchmarks/steps.py", "tests/golden/problems.py"),
    *("tests/golden/*.npz", "tests/optim/cases.py"),
)
_FILE = "results.jsonl"


def code() -> str:
    """A hash of all files that decide a number."""
    digest = hashlib.sha256()
    for path in sorted({path for glob in _CODE for path in ROOT.glob(glob)}):
        digest.update(str(path.relative_to(ROOT)).encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def slug(device: str) -> str:
    """A device's name as that of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") or "device"


def stamp(about: Mapping[str, Any]) -> dict[str, Any]:
    """What numbers are for."""
    names = ("code", "device", "count", "platform", "driver", "python", "versions")
    return {name: about[name] for name in (*names, "miniature")}


def folder_for(out: Path, about: Mapping[str, Any]) -> tuple[Path, list[str]]:
    """The folder of these numbers, and what has changed since the last call."""
    new, path = stamp(about), out / "stamp.json"
    old = json.loads(path.read_text()) if path.exists() else new
    changed = [name for name in new if new[name] != old.get(name)]
    path.write_text(json.dumps(new, indent=1) + "\n")
    digest = hashlib.sha256(json.dumps(new, sort_keys=True).encode()).hexdigest()[:8]
    folder = out / digest
    folder.mkdir(exist_ok=True)
    return folder, changed


def rows_of(part: Part, folder: Path) -> list[Row]:
    """The rows of a part: judged, or why there are none."""
    rows: list[Row] = []
    sides = {side: store.Store(folder, part.name, side) for side in part.sides}
    for item in part.items:
        about = {"part": part.name, "item": item, "proves": part.proves}
        found = {side: kept.numbers(item) for side, kept in sides.items()}
        numbers = {side: value for side, value in found.items() if value is not None}
        if len(numbers) == len(sides):
            rows += [about | row for row in part.judge(item, numbers)]
            continue
        given: dict[tuple[str, str], list[str]] = {}  # reason -> sides
        for side, kept in sides.items():
            for reason in (kept.reason(item) or {}).items():
                given.setdefault(reason, []).append(side)
        for (kind, words), where in given.items():
            every = len(where) == len(sides)
            told = words if every else f"{words} ({', '.join(where)})"
            rows.append(about | {kind: told})
        if not given:
            rows.append(about | {"open": "no time; call again"})
    return rows


def write(out: Path, rows: Iterable[Row]) -> None:
    """Write all rows as JSON lines; numbers that are not finite become words."""
    text = "".join(json.dumps(_plain(row), allow_nan=False) + "\n" for row in rows)
    replace(out / _FILE, text)


def replace(path: Path, text: str) -> None:
    """Write a file whole."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text)
    os.replace(unfinished, path)


def _plain(row: Row) -> Row:
    def plain(value: Any) -> Any:
        finite = not isinstance(value, float) or math.isfinite(value)
        return value if finite else str(value)

    return {name: plain(value) for name, value in row.items()}


def status(rows: Sequence[Row]) -> int:
    """1 if a number is wrong, or a part that proves something died; else 0."""
    wrong = any(row.get("ok") is False for row in rows)
    died = any("failed" in row and row["proves"] for row in rows)
    return int(wrong or died)
