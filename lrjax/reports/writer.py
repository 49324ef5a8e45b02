"""Collects the figures and tables of a report, and writes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lrjax.common import files, sheets
from lrjax.reports import drawing, page


@dataclasses.dataclass(frozen=True)
class ReportWriter:
    """Collects the files of a report, so that they can be written at its end.

    Attributes:
      plt: as given by `drawing.style`.
      names: name of an entry or task -> its short name in figures.
      kinds: files that are made of figures, 'svg' among them.
      contents: path below the report's folder -> content of the file.
    """

    plt: Any
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    contents: dict[str, bytes] = dataclasses.field(default_factory=dict)
    kinds: tuple[str, ...] = ("png", "svg")

    def section(
        self,
        name: str,
        title: str,
        finding: str,
        how_to_read: str,
        table: pd.DataFrame | None = None,
        drawn: tuple[Any, list[Any]] | None = None,
        data: bool = False,
    ) -> page.Section:
        """Add the files of a section; return the section for the page.

        Args:
          name, title, finding, how_to_read, table: as in `page.Section`.
          drawn: the figure, and the axes that show values under the mouse.
          data: whether the table holds the points of the figure instead of results;
            then it is only written as CSV and not shown.
        """
        paths, picture = [], None
        if drawn:
            figure, axes = drawn
            picture, contents = drawing.picture(
                figure, name, axes, self.names, self.kinds
            )
            for kind, content in contents.items():
                paths.append(self._add(f"figures/{name}.{kind}", content))
        if table is not None:
            paths.append(self.data(name, table))
        if table is not None and not data:
            text = files.encoded(page.latex(table, title))
            paths.append(self._add(f"tables/{name}.tex", text))
        shown = None if data else table
        return page.Section(
            name, title, finding, how_to_read, picture, shown, tuple(paths)
        )

    def data(self, name: str, table: pd.DataFrame) -> str:
        """Add a CSV file; return its path below the folder.

        Args:
          name: name of the file, without ending.
          table: the rows to write.
        """
        plain = table.map(lambda v: " ".join(v) if isinstance(v, tuple) else v)
        return self._add(f"tables/{name}.csv", sheets.csv(plain))

    def write(self, folder: Path, index: str) -> None:
        """Write all files and the page that shows them.

        Args:
          folder: directory of the report.
          index: the page.

        Raises:
          UsageError: if a file cannot be written.
        """
        for path, content in {**self.contents, "index.html": index}.items():
            files.make_folder((folder / path).parent, folder)
            files.replace(folder / path, content)

    def _add(self, path: str, content: bytes) -> str:
        """Add a file; return its path."""
        self.contents[path] = content
        return path
