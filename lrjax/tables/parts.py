"""Curves in parts: Parquet files of the blocks of runs, for studies of many rows.

People can read a table of JSON lines, but not a hundred million rows of it. With
`config.curve_parts` a block's rows are in a table of its own while it trains,
`curves/BLOCK/curves.jsonl`, and are published as `curves/BLOCK-DIGEST.parquet` when it
has finished, by renaming a complete file. Any process may publish parts. Readers take
the rows of `curves.jsonl` and of all parts; rows that are there twice count once.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrjax.common import files
from lrjax.common.reading import reading
from lrjax.core import UsageError, counted
from lrjax.tables import reader

if TYPE_CHECKING:
    import pandas as pd

FOLDER = "curves"
_ENDING = ".parquet"
_COMPACT = "all"  # name of the part that `compact` makes
_GROUP = 2**20  # rows of a group, which is compressed by itself


def unfinished(workdir: Path) -> list[Path]:
    """List the tables of blocks whose rows are not published yet."""
    return sorted((workdir / FOLDER).glob(f"*/{reader.CURVES}"))


def table_of(workdir: Path, block: str) -> Path:
    """Path of the rows of a block while it trains."""
    return workdir / FOLDER / block / reader.CURVES


def published(workdir: Path) -> list[Path]:
    """List the parts that are published."""
    return sorted((workdir / FOLDER).glob(f"*{_ENDING}"))


def publish(table: Path, workdir: Path) -> None:
    """Write a block's rows as a part; the table itself is left in place.

    Args:
      table: from `unfinished` or `table_of`.
      workdir: directory that gets the part.

    Raises:
      UsageError: if the table is damaged or the part cannot be written.
    """
    if table.exists() and len(frame := reader.read_frame(table)):
        _write(workdir, table.parent.name, frame)


def read(workdir: Path) -> pd.DataFrame:
    """Read the rows of all parts, those of unpublished blocks included.

    Raises:
      UsageError: if a part is damaged.
    """
    frames = list(frames_of(published(workdir)))
    frames += [reader.read_frame(path) for path in unfinished(workdir)]
    return joined(workdir, frames)


def joined(workdir: Path, frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Put curve rows together; rows that are there twice count once.

    Args:
      workdir: for messages.
      frames: rows with `run_id`, `step` and numbers.

    Raises:
      UsageError: if two rows of a run and step differ.
    """
    import pandas as pd

    frames = [frame for frame in frames if len(frame)]
    if not frames:
        return pd.DataFrame(columns=list(reader.KEYS[reader.CURVES]))
    if len(frames) == 1:
        return frames[0]
    frame = pd.concat(frames, ignore_index=True)
    keys = list(reader.KEYS[reader.CURVES])
    if frame.duplicated(keys).any():
        frame = frame.drop_duplicates(ignore_index=True)
    repeated = frame.duplicated(keys)
    if repeated.any():
        run_id, step = frame.loc[repeated.idxmax(), keys]
        raise UsageError(
            f"{workdir}: run {run_id} has two different curve rows of step {step}"
        )
    return frame


def compact(workdir: Path) -> str:
    """Merge all published parts into one.

    Only while no other process trains in the working directory.

    Returns:
      a line that says what was done.

    Raises:
      UsageError: if a part is damaged, or the new one cannot be written.
    """
    found = published(workdir)
    if len(found) < 2:
        return f"{workdir}: {counted(len(found), 'part')}, nothing to merge"
    merged = joined(workdir, list(frames_of(found)))
    target = _write(workdir, _COMPACT, merged)
    for path in found:
        if path != target:
            path.unlink()
    return f"{workdir}: {len(found)} parts with {len(merged):,} rows are one now"


def _write(workdir: Path, name: str, frame: pd.DataFrame) -> Path:
    """Write rows as a part: run_id as text, step as int64, others as float64."""
    import pyarrow
    from pyarrow import parquet

    keys = reader.KEYS[reader.CURVES]
    kinds: dict[str, Any] = {n: np.float64 for n in frame.columns if n not in keys}
    kinds["run_id"] = object  # a text of pandas 3 has another type in the file
    table = pyarrow.Table.from_pandas(frame.astype(kinds), preserve_index=False)
    content = io.BytesIO()
    parquet.write_table(table, content, row_group_size=_GROUP, compression="zstd")
    folder = files.make_folder(workdir / FOLDER, below=workdir)
    path = folder / f"{name}-{_digest(content.getvalue())}{_ENDING}"
    files.replace(path, content.getvalue())
    return path


def _digest(content: bytes) -> str:
    """16 hexadecimal digits that follow from a file's content."""
    return hashlib.sha256(content).hexdigest()[:16]


def frames_of(paths: Sequence[Path]) -> Iterator[pd.DataFrame]:
    """Read parts; refuse those whose content or columns are not those of a part."""
    from pyarrow import BufferReader, parquet, types

    for path in paths:
        with reading(path, "is damaged"):
            try:
                content = files.read_own(path)
            except OSError as error:
                raise UsageError(f"cannot read {path}: {files.words(error)}") from error
            if _digest(content) != path.stem.rpartition("-")[2]:
                raise UsageError(f"{path} is damaged: its name has another digest")
            table = parquet.read_table(BufferReader(content))
            kinds = {field.name: field.type for field in table.schema}
            text = kinds.pop("run_id")
            if not (types.is_string(text) or types.is_large_string(text)):
                raise UsageError(f"{path} is damaged: its run_id is not text")
            if not types.is_int64(kinds.pop("step")):
                raise UsageError(f"{path} is damaged: its step is not a whole number")
            if not all(map(types.is_float64, kinds.values())):
                raise UsageError(f"{path} is damaged: not all its values are numbers")
            yield table.to_pandas()
