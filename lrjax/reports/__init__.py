"""What people look at: a page of findings, and a ranking in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from lrjax import results
from lrjax.common.reading import reading
from lrjax.core import UsageError
from lrjax.reports import (
    analyses,
    drawing,
    export,
    findings,
    page,
    published,
    selected,
)
from lrjax.reports import study as study_lib
from lrjax.reports.desk import Desk
from lrjax.reports.look import Look, shorten
from lrjax.reports.study import Options as Options
from lrjax.reports.terminal import learning_curves as learning_curves
from lrjax.reports.terminal import races as races
from lrjax.reports.terminal import ranking as ranking
from lrjax.reports.terminal import tuning as tuning


def write(workdirs: Sequence[str | Path], folder: Path, options: Options) -> list[str]:
    """Writes index.html, every figure as PNG and SVG, every table as CSV and LaTeX.

    The same tables and options give the same bytes.

    Args:
      workdirs: whose tables to read.
      folder: to write to; made if need be.
      options: what the user chose.

    Returns:
      the findings, a line each.

    Raises:
      UsageError: if there is nothing to report, or an option does not fit.
    """
    drawing.import_matplotlib()
    known = published.read(options.compare) if options.compare else None
    raced = selected.read(workdirs)
    ran = any((Path(workdir) / results.RUNS).exists() for workdir in workdirs)
    # A race may end before any run is whole.
    study = study_lib.read_study(workdirs, options) if ran or not raced else None
    beside = None if known is None or not study else published.match(study, known)
    sections: list[page.Section | None] = []
    found = [("Selected", f"{selected.sentence(each)}.") for each in raced]
    notes = [("Races", "No run is whole: the races ended before. See selection.csv.")]
    try:
        for name in ("figures", "tables"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        with drawing.style() as plt:
            raced_on = shorten(answer["task"] for answer in raced)
            desk = Desk(folder, plt, study.look.names if study else raced_on)
            if raced:
                sections.append(selected.section(raced, desk))
            if study:
                bar = tqdm(
                    analyses.ANALYSES, disable=None, leave=False, unit=" analyses"
                )
                sections += [analysis(study, desk) for analysis in bar]
            if study and known is not None and beside is not None:
                sections.append(published.section(study, desk, beside, len(known)))
        if study:
            for name in options.export:
                (folder / name).mkdir(exist_ok=True)
                with reading(f"report.export={name}", "cannot be written"):
                    write_tables = getattr(export, name)
                    write_tables(study.all_runs, study.all_curves, folder / name)
            found = findings.findings(study, workdirs) + found
            notes = findings.notes(study, workdirs)
        text = page.render(
            "Learning-rate control: " + ", ".join(map(str, workdirs)),
            found,
            [section for section in sections if section],
            notes,
            study.look if study else Look(()),
        )
        (folder / "index.html").write_text(text)
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error.strerror}") from error
    return [f"{word}: {sentence}" for word, sentence in found]
