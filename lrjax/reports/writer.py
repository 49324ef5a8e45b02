"""Writes the figures and tables of a report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lrjax.reports import drawing, page


@dataclasses.dataclass(frozen=True)
class ReportWriter:
    """Writes the files of a report.

    Attributes:
      folder: directory of the report, with subdirectories `figures` and `tables`.
      plt: as given by `drawing.style`.
      names: name of an entry or task -> its short name in figures.
    """

    folder: Path
    plt: Any
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)

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
        """Write the files of a section; return the section for the page.

        Args:
          name, title, finding, how_to_read, table: as in `page.Section`.
          drawn: the figure, and the axes that show values under the mouse.
          data: whether the table holds the points of the figure instead of results;
            then it is only written as CSV and not shown.
        """
        files, picture = [], None
        if drawn:
            figure, axes = drawn
            folder = self.folder / "figures"
            picture = drawing.save(figure, folder, name, axes, self.names)
            files += [f"figures/{name}.png", f"figures/{name}.svg"]
        if table is not None:
            files.append(self.data(name, table))
        if table is not None and not data:
            path = f"tables/{name}.tex"
            (self.folder / path).write_text(page.latex(table, title))
            files.append(path)
        shown = None if data else table
        return page.Section(
            name, title, finding, how_to_read, picture, shown, tuple(files)
        )

    def data(self, name: str, table: pd.DataFrame) -> str:
        """Write a CSV file; return its path below the folder.

        Args:
          name: name of the file, without ending.
          table: the rows to write.
        """
        path = f"tables/{name}.csv"
        plain = table.map(lambda v: " ".join(v) if isinstance(v, tuple) else v)
        plain.to_csv(self.folder / path, index=False)
        return path
