"""Reports for people: a page of findings, and a ranking in the terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lrjax import console, results
from lrjax.common import files
from lrjax.common.reading import reading
from lrjax.core import printable
from lrjax.elsewhere import Source
from lrjax.reports import (
    advised,
    analyses,
    drawing,
    export,
    findings,
    page,
    published,
    selected,
)
from lrjax.reports import study as study_lib
from lrjax.reports.palette import Palette, shorten
from lrjax.reports.study import Options as Options
from lrjax.reports.terminal import learning_curves as learning_curves
from lrjax.reports.terminal import races as races
from lrjax.reports.terminal import ranking as ranking
from lrjax.reports.terminal import shown as shown
from lrjax.reports.terminal import tuning as tuning
from lrjax.reports.writer import ReportWriter


def write(
    workdirs: Sequence[str | Path],
    folder: Path,
    options: Options,
    below: Path | None = None,
    others: Sequence[Source] = (),
) -> list[str]:
    """Write index.html, every figure as PNG and SVG, every table as CSV and LaTeX.

    The same tables and options give the same bytes. Nothing is written before all is
    drawn, and no file of an older report is replaced before all are on the disk.

    Args:
      workdirs: directories with tables; may be empty if there are `others`.
      folder: directory of the report; made if it does not exist.
      options: the user's choices.
      below: `folder`, or one above it: no folder below it may be a link. None for
        `folder`, which may then be a link itself.
      others: runs from elsewhere.

    Returns:
      The findings, a line each.

    Raises:
      UsageError: if there is nothing to report, an option does not fit, or a file
        cannot be written.
    """
    workdirs = [files.expanded(workdir) for workdir in workdirs]
    below = below or folder
    drawing.import_matplotlib()
    published_means = published.read(options.compare) if options.compare else None
    raced, given = selected.read(workdirs), advised.read(workdirs)
    ran = any(map(study_lib.has_full_runs if given else _has_runs, workdirs))
    # A selection may believe what known tasks say, and train nothing; so may advice.
    compared = ran or others or not (raced or given)
    with_runs = [w for w in workdirs if _has_runs(w) or not has_results(w)]
    study = study_lib.read_study(with_runs, options, others) if compared else None
    beside = None
    if published_means is not None and study:
        beside = published.match(study, published_means)
    sections: list[page.Section | None] = []
    sentences = [("Selected", f"{selected.sentence(answer)}.") for answer in raced]
    sentences += [("Advised", f"{advised.sentence(answer)}.") for answer in given]
    notes = [("Selection", "Nothing was trained: known tasks alone chose the winners.")]
    if given and not raced:
        notes = [("Comparison", "There are no full runs to compare.")]
    with drawing.style() as plt:
        raced_on = shorten(answer["task"] for answer in [*raced, *given])
        writer = ReportWriter(plt, study.palette.names if study else raced_on)
        if raced:
            sections.append(selected.section(raced, writer))
        if given:
            sections.append(advised.section(given, writer))
        if study:
            bar = console.bar(analyses.find_all(), unit=" analyses")
            sections += [analysis(study, writer) for analysis in bar]
        if study and published_means is not None and beside is not None:
            sections.append(
                published.section(study, writer, beside, len(published_means))
            )
    if study:
        sentences = findings.findings(study, with_runs, others) + sentences
        notes = findings.notes(study, with_runs)
    text = page.render(
        "Learning-rate control: "
        + ", ".join([*map(str, workdirs), *(source.name for source in others)]),
        sentences,
        [section for section in sections if section],
        notes,
        study.palette if study else Palette(()),
    )
    with files.replacing_all(folder, below) as place:
        if study:
            for name in options.export:
                files.make_folder(place / name, place)
                with reading(f"report.export={name}", "cannot be written"):
                    write_tables = getattr(export, name)
                    write_tables(study.all_runs, study.all_curves, place / name)
        writer.write(place, text)
    return [printable(f"{word}: {sentence}") for word, sentence in sentences]


def has_results(workdir: Path) -> bool:
    """Whether a directory has a table of runs, a selection or advice."""
    names = (results.RUNS, results.CURVES, selected.ANSWER, advised.ANSWER)
    return any(os.path.lexists(workdir / name) for name in names)


def _has_runs(workdir: Path) -> bool:
    """Whether a directory has a table of runs."""
    return (workdir / results.RUNS).exists()


def write_page(
    workdir: Path, folder: str | os.PathLike[str] | None, temporary: bool
) -> Path:
    """Write the report of one directory, with the usual options.

    Args:
      workdir: directory with tables.
      folder: directory of the report; None: `report` in `workdir`.
      temporary: whether `workdir` will be removed: then None is `report` in the current
        directory.

    Returns:
      path of the page.

    Raises:
      UsageError: as `write`.
    """
    if folder is None:
        folder = "report" if temporary else workdir / "report"
    folder = files.expanded(folder)
    write([workdir], folder, Options())
    return folder / "index.html"
