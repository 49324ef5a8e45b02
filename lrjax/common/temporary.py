"""A temporary directory that lives as long as results that are read from it."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path


class Temporary:
    """A temporary directory that is removed with the last object that holds it.

    Attributes:
      path: the directory.
    """

    def __init__(self):
        self.path = Path(tempfile.mkdtemp(prefix="lrjax-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
