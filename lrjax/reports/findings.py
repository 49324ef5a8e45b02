"""Findings of a report in sentences, and notes on how they were computed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lrjax import results
from lrjax.analysis import scores as scores_lib
from lrjax.analysis import stats
from lrjax.common import files
from lrjax.core import counted
from lrjax.elsewhere import Source
from lrjax.reports.page import interval
from lrjax.reports.study import Study, config

_SEARCHES = ("race:", "optuna:")  # sources whose runs a search has asked for


def findings(
    study: Study, workdirs: Sequence[str | Path], others: Sequence[Source] = ()
) -> list[tuple[str, str]]:
    """(word, sentence) pairs that sum up the tables."""
    runs, overall = study.runs, study.overall
    seeds = runs.groupby(["task", "entry"]).size()
    judged = sorted(set(study.metrics.map(scores_lib.metric_label)))
    many = f"{seeds.min()}" + (
        f" to {seeds.max()}" if seeds.min() < seeds.max() else ""
    )
    entries, tasks = len(study.palette.entries), len(study.tasks)
    methods = counted(runs["method"].nunique(), "method")
    if entries > runs["method"].nunique():
        methods += f" in {entries} settings"
    sentences = [
        (
            "What",
            f"{counted(len(study.all_runs), 'run')}: {methods} on "
            f"{counted(tasks, 'task')}, {many} "
            f"{'run' if seeds.max() == 1 else 'runs'} of each, judged by "
            f"{' and '.join(judged)}."
            + (
                f" Each method is shown by the best of its settings, "
                f"{study.all_runs['entry'].nunique()} in all."
                if study.all_runs["entry"].nunique() > entries
                else ""
            ),
        )
    ]
    if (runs["status"] == "diverged").all():
        sentences.append(("Best", "none: every run diverged."))
    else:
        best = overall.iloc[0]
        second, leaders = "", study.leaders
        if len(leaders) > 1:
            second = f", level with {named(leaders[1:])}"
        elif len(overall) > 1:
            second = f", before {overall.index[1]} with {overall['rank'].iloc[1]:.2f}"
        rank = f"{best['rank']:.2f}{interval(best['rank_low'], best['rank_high'])}"
        rank += f" by {study.basis}" if study.basis else ""
        sentences.append(
            ("Best", f"{overall.index[0]}, with a mean rank of {rank}{second}.")
        )
        sentences.append(("Where", _where(study)))
        sentences.append(("How sure", _sure(study)))
    sentences.append(("Diverged", _diverged(study)))
    if unequal := scores_lib.shorter(runs):
        more = f"; and {len(unequal) - 6} more" if len(unequal) > 6 else ""
        text = f"not all trained for as long as others: {'; '.join(unequal[:6])}{more}."
        sentences.append(("Length", text))
    if namesakes := scores_lib.namesakes(study.all_runs):
        text = f"{', '.join(namesakes)}: trained with another batch size, precision or "
        text += "the like, which tables lack; runs are told apart by their order."
        sentences.append(("One name", text))
    if study.without_curve:
        sentences.append(("Left out", _left_out(study)))
    cost = spent(study.all_runs, "s of training")
    tuned = study.tuning[study.tuning > 0]
    if len(tuned):
        most = counted(tuned.max(), "full run", form=".3g")
        cost += f"; choosing settings took up to {most} a task"
    sentences.append(("Cost", cost + "."))
    sentences.append(("Missing", _missing(study, workdirs, others)))
    for source in others:
        how = "".join(f"; {note}" for note in source.notes)
        count = counted(len(source.runs), "run")
        sentences.append(("From", f"{source.name}: {count}{how}."))
    return sentences


def named(entries: Sequence[str]) -> str:
    """Entries that are level, in words: 'a', 'a and b', 'a and 2 others'.

    Args:
      entries: one or more.
    """
    first, *others = entries
    if not others:
        return first
    return f"{first} and {others[0] if len(others) == 1 else f'{len(others)} others'}"


def spent(runs: pd.DataFrame, unit: str = "s") -> str:
    """Time and examples of runs, as far as they are known, in words.

    Args:
      runs: with columns `seconds` and `examples`; NaN where that is unknown.
      unit: what follows the number of seconds.
    """
    parts = []
    if runs["seconds"].notna().any():
        parts.append(f"{runs['seconds'].sum():.3g} {unit}")
    if runs["examples"].notna().any():
        parts.append(f"{runs['examples'].sum() / 1e6:.3g} million examples")
    partly = runs[["seconds", "examples"]].isna().any(axis=None)
    text = " and ".join(parts) or "an unknown time"
    return f"{text}, as far as is known" if parts and partly else text


def _where(study: Study) -> str:
    """Sentence on which entry has the best mean on each task."""
    winners: dict[str, list[str]] = {}
    for task, gap in study.gaps.items():
        top = gap.index[gap == 0]
        if not len(top):
            continue
        if len(top) > 2:
            first, others = study.palette.entries[0], f"{len(top)} alike"
            name = f"{first} and {len(top) - 1} others" if first in set(top) else others
        else:
            name = " and ".join(sorted(top, key=study.palette.number))
        winners.setdefault(name, []).append(str(task))
    parts = sorted(winners.items(), key=lambda item: (-len(item[1]), item[1]))
    mean = "best mean over all runs: " if study.basis else "best mean: "
    return mean + "; ".join(f"{e} on {', '.join(t)}" for e, t in parts) + "."


def _sure(study: Study) -> str:
    """Sentence on how certain the best entry's lead is."""
    overall, tasks = study.overall, len(study.comparison.tasks)
    if len(overall) < 2:
        return "one entry alone cannot be compared."
    if study.comparison.runs < stats.FEWEST:
        few = counted(study.comparison.runs, "run").replace("1 ", "one ") + " of each"
        few = f"ranks compare {study.basis}" if study.basis else few
        return f"{few}: there are no intervals, and ranks may be luck."
    first = str(overall.index[0])
    clear = overall["rank_low"].iloc[1:] > overall["rank_high"].iloc[0]
    text = (
        f"the mean ranks of {int(clear.sum())} of {counted(len(overall) - 1, 'other')} "
        f"lie beyond the interval of {first} over seeds"
    )
    difference = stats.critical_difference(len(overall), tasks)
    if np.isfinite(difference):
        rank = overall["rank"]
        apart = int((rank - rank.iloc[0] > difference).sum())
        tells = f"with {counted(tasks, 'task')} as the only repetition"
        text += f"; {tells}, {apart} can be told apart (critical difference)"
    else:
        text += "; one task says nothing about others"
    return text + "."


def _diverged(study: Study) -> str:
    """Sentence on which runs diverged."""
    runs = study.all_runs
    diverged = runs[runs["status"] == "diverged"]
    if not len(diverged):
        return "none."
    counts = diverged.groupby(["entry", "task"]).size()
    total = runs.groupby(["entry", "task"]).size()
    counts = counts.sort_index().sort_values(ascending=False, kind="stable")
    parts = [f"{e} on {t} ({n} of {total[e, t]})" for (e, t), n in counts.items()]
    more = f" and {len(parts) - 6} more" if len(parts) > 6 else ""
    return (
        f"{len(diverged)} of {counted(len(runs), 'run')}: {', '.join(parts[:6])}{more}."
    )


def _left_out(study: Study) -> str:
    """Sentence on analyses that lack their data, and on what is drawn instead."""
    tasks: dict[tuple[str, str], list[str]] = {}
    for task, instead in study.without_curve.items():
        key = (scores_lib.metric_label(study.curve_metrics[task]), instead)
        tasks.setdefault(key, []).append(task)
    absent = [f"of {label} on {', '.join(on)}" for (label, _), on in tasks.items()]
    drawn = [
        f"; learning curves show {scores_lib.metric_label(instead)} on {', '.join(on)}"
        for (_, instead), on in tasks.items()
        if instead
    ]
    return (
        f"curves {' and '.join(absent)}, with what is made of them (score against "
        f"cost, time to a target, how early the order shows): only last values are "
        f"known{''.join(drawn)}."
    )


def _missing(
    study: Study, workdirs: Sequence[str | Path], others: Sequence[Source] = ()
) -> str:
    """Sentence on missing runs, and on planned tasks and methods without any.

    A race or a search trains what leads more often than the rest: it misses no run.
    """
    parts = []
    planned: dict[str, set[str]] = {"tasks": set(), "methods": set()}
    for workdir in workdirs:
        planned_here = dict(config(workdir).get("config", {}))
        source = study.all_runs["source"] == str(workdir)
        if study.all_runs.loc[source, "method"].str.startswith("race:").all():
            planned_here["methods"] = ()  # a race chooses its own methods
        for name, names in planned.items():
            values = planned_here.get(name)  # of any type, if the file was edited
            if isinstance(values, list | tuple):
                names |= {value for value in values if isinstance(value, str)}
    for name, column in (("tasks", "task"), ("methods", "method")):
        # A method that was tuned as adam ran as smac:adam.
        names = study.all_runs[column].unique()
        present = {*names, *(n.split(":")[-1] for n in names)}
        for protocol in study.all_runs["protocol"].unique():
            present |= {n.removesuffix(f" ({protocol})") for n in names}
        absent = sorted(planned[name] - present)
        if absent:
            parts.append(
                f"{name} asked for without a finished run: {', '.join(absent)}"
            )
    searched = [source.name for source in others if source.name.startswith(_SEARCHES)]
    chosen = study.runs["method"].str.startswith("race:")
    meant = study.runs[~chosen & ~study.runs["source"].isin(searched)]
    wide = meant.pivot(index=["task", "seed"], columns="entry", values="score")
    holes = int(wide.isna().to_numpy().sum())
    if holes:
        have = counted(holes, "run that another entry has", "runs that others have")
        parts.append(have)
    comparison = study.comparison
    if comparison.entries_left_out:
        names = ", ".join(comparison.entries_left_out)
        parts.append(f"too incomplete to compare over tasks: {names}")
    if comparison.tasks_left_out:
        names = ", ".join(comparison.tasks_left_out)
        parts.append(f"tasks left out of comparisons: {names}")
    if comparison.runs_left_out and len(meant):
        parts.append(
            f"{counted(comparison.runs_left_out, 'finished run')} not compared over "
            f"tasks, since not all have as many"
        )
    return "; ".join(parts) + "." if parts else "nothing."


def notes(study: Study, workdirs: Sequence[str | Path]) -> list[tuple[str, str]]:
    """(heading, text) pairs on the rules of comparison and the sources of the runs."""
    notes = [
        (
            "Runs that diverged, are missing or are unequal in number",
            "A diverged run is worse than every finished one: it ranks last, has 0 as "
            "normalised score and reaches no target; means of raw values leave it out "
            "and count it beside. A missing run is never made up. Results of one task "
            "use all its runs. Comparisons use a table without holes: as long as a run "
            "is missing, the entry or the (task, seed) that lacks the largest share of "
            "its runs is left out, and then every task keeps the same number of seeds, "
            f"the smallest ones. Here that is "
            f"{counted(study.comparison.runs, 'run')} of "
            f"{counted(len(study.comparison.entries), 'entry', 'entries')} on "
            f"{counted(len(study.comparison.tasks), 'task')}.",
        ),
        (
            "Intervals",
            f"Of ranks, normalised scores, medians and interquartile means: 95 % "
            f"percentile intervals of a stratified bootstrap (rliable, "
            f"{study.options.bootstrap} draws, fixed seed). Of a metric's mean: "
            f"Student's t interval on a scale on which the metric has no bounds, so "
            f"that it never leaves what the metric can be. With fewer than "
            f"{stats.FEWEST} runs there is none. The same tables give the same page, "
            f"byte for byte. Formulas and sources: docs/report.md.",
        ),
    ]
    cut = [f"{short} is {n}" for n, short in study.palette.names.items() if n != short]
    if cut:
        notes.append(("Names that figures show in short", "; ".join(cut) + "."))
    for workdir in workdirs:
        with files.open_own(Path(workdir) / results.RUNS) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        known = config(workdir)
        versions = known.get("versions", {})
        libraries = ", ".join(f"{k} {v}" for k, v in versions.items())
        count = int((study.all_runs["source"] == str(workdir)).sum())
        text = f"{counted(count, 'run')} from runs.jsonl (sha256 {digest})"
        if known.get("git_revision"):
            text += f", trained at revision {known['git_revision'][:12]}"
        used = f" with {libraries}" if libraries else ""
        notes.append((str(workdir), f"{text}{used}."))
    return notes
