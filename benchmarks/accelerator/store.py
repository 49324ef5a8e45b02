"""What is kept of each item, in a folder: numbers, or why there are none.

A file is written under another name and moved, so that it is whole or not there.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

FAILED, NOT_RUN = "failed", "not run"


@dataclasses.dataclass(frozen=True)
class Store:
    """The items of one side of a part.

    Attributes:
      folder: of all parts.
      part, side: names.
    """

    folder: Path
    part: str
    side: str

    def place(self, item: str) -> Path:
        """A folder for the item's own files."""
        return self._at(item, "").with_suffix(".files")

    def numbers(self, item: str) -> dict[str, np.ndarray] | None:
        """What was computed; None if it was not."""
        path = self._at(item, ".npz")
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as file:
            return dict(file)

    def save(self, item: str, numbers: Mapping[str, Any]) -> None:
        """Keep what was computed."""
        path = self._at(item, ".npz")
        with (unfinished := path.with_suffix(".unfinished")).open("wb") as file:
            np.savez_compressed(file, **{k: np.asarray(v) for k, v in numbers.items()})
        os.replace(unfinished, path)
        self.end(item)

    def reason(self, item: str) -> dict[str, str] | None:
        """Why there are no numbers: `FAILED` or `NOT_RUN` -> words; None if open."""
        path = self._at(item, ".json")
        return json.loads(path.read_text()) if path.exists() else None

    def give_up(self, item: str, kind: str, words: str) -> None:
        """Keep why there are no numbers."""
        path = self._at(item, ".json")
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps({kind: words}))
        os.replace(unfinished, path)
        self.end(item)

    def forget(self, item: str) -> None:
        """Open an item again that was given up."""
        self._at(item, ".json").unlink(missing_ok=True)

    def begin(self, item: str) -> None:
        """Mark the item that is being computed."""
        self._at(item, ".begun").touch()

    def end(self, item: str) -> None:
        """Remove the mark."""
        self._at(item, ".begun").unlink(missing_ok=True)

    def begun(self, item: str) -> bool:
        """Whether the item was being computed when its process ended."""
        return self._at(item, ".begun").exists()

    def is_open(self, item: str) -> bool:
        """Whether an item has neither numbers nor a reason."""
        done = self._at(item, ".npz").exists()
        return not done and not self._at(item, ".json").exists()

    def _at(self, item: str, ending: str) -> Path:
        parent = self.folder / self.part / self.side
        parent.mkdir(parents=True, exist_ok=True)
        return parent / f"{item.replace('/', '~')}{ending}"
