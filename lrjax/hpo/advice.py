"""The advice on an expensive task: three recipes, why, and code to train with each."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrjax import reports, results
from lrjax.core import Metric, counted, printable
from lrjax.hpo import ladders as ladders_lib
from lrjax.hpo import method_code, probes
from lrjax.hpo.lineup import weighed
from lrjax.hpo.recipes import CALIBRATED
from lrjax.identity import finite
from lrjax.reports.advised import ANSWER as ANSWER
from lrjax.reports.study import SHORT

if TYPE_CHECKING:
    import pandas as pd

    from lrjax.hpo.adviser import Case
    from lrjax.hpo.recipes import Recipe as Chosen


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A method to train with in full.

    Attributes:
      label: method, and learning rate where it needs one.
      method, hparams: the method, with every hyperparameter.
      rate: its learning rate; NaN for methods that need none.
      best: probability that it is the best of the recipes; NaN where such probabilities
        were not right on tasks kept apart (docs/advise.md), or there is no other.
      near: probability that it is at most half a point worse than the best of all
        methods that were asked for, at their best rates; NaN likewise.
      snippet: Python that trains with it outside of lrjax.
    """

    label: str
    method: str
    hparams: Mapping[str, Any]
    rate: float
    best: float
    near: float
    snippet: str


@dataclasses.dataclass(frozen=True)
class Ladder:
    """Short runs of a method at several rates.

    Attributes:
      method: its name.
      rates: learning rates, ascending.
      values: the metric on the validation part at each; NaN where a run was lost.
      best: the best rate of such short runs; NaN if all were lost.
      full: the rate believed to be best in a full run, after the short runs.
      decades: standard deviation of the logarithm of `full`, to base 10.
    """

    method: str
    rates: tuple[float, ...]
    values: tuple[float, ...]
    best: float
    full: float
    decades: float


@dataclasses.dataclass(frozen=True)
class Advice:
    """Recipes for an expensive task; print it.

    Attributes:
      task: its name.
      recipes: at most three, the one of which most is expected first.
      ladders: the short runs, method by method; () if the share paid for none.
      updates: of each short run; 0 if there were none.
      horizon: updates of a full run.
      spend: the share of a full run that could be spent.
      cost: the share that was.
      metric: name of the metric, measured on the validation part.
      scale: the metric itself: its direction, unit, digits and bounds.
      described: the task's features; None if it was not looked at.
      similar: families of known tasks that are most alike, and their shares.
      novelty: distance to known tasks, from 0 (many are like it) to 1 (none is, or
        nobody looked).
      unlike: whether nearly all known tasks are more alike to others than this one.
      rated: whether any method that may be advised needs a rate.
      workdir: directory of the tables.
    """

    task: str
    recipes: tuple[Recipe, ...]
    ladders: tuple[Ladder, ...]
    updates: int
    horizon: int
    spend: float
    cost: float
    metric: str
    scale: Metric
    described: Mapping[str, float] | None
    similar: tuple[tuple[str, float], ...]
    novelty: float
    unlike: bool
    rated: bool
    workdir: Path = dataclasses.field(compare=False)
    # Holds a temporary directory for as long as its tables are in use.
    _kept: Any = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def runs(self) -> pd.DataFrame:
        """A row per short run, as `lrjax.results.load` returns them."""
        return self._tables()[0]

    @property
    def curves(self) -> pd.DataFrame:
        """A row per short run and measurement."""
        return self._tables()[1]

    def _tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        import pandas as pd

        if not self.ladders:
            return pd.DataFrame(), pd.DataFrame()
        runs, curves = results.load(self.workdir)
        own = runs["method"].str.startswith(SHORT) & (runs["task"] == self.task)
        runs = runs[own]
        return runs, curves[curves["run_id"].isin(runs["run_id"])]

    def report(self, folder: str | os.PathLike[str] | None = None) -> Path:
        """Write a page with the recipes and the short runs.

        Args:
          folder: directory of the report; `report` in the working directory, or in the
            current directory for advice without a `workdir`.

        Returns:
          path of the page.

        Raises:
          UsageError: if it cannot be written.
        """
        return reports.write_page(self.workdir, folder, temporary=bool(self._kept))

    def __str__(self) -> str:
        horizon = counted(self.horizon, "update", form="d")
        count = counted(len(self.recipes), "recipe")
        lines = [printable(f"{self.task}: {count} for a full run of {horizon}")]
        for number, recipe in enumerate(self.recipes, 1):
            lines.append(printable(f"  {number}  {recipe.label}{_chances(recipe)}"))
        lines.append("")
        for text in (self._order(), self._known(), *map(self._ladder, self.ladders)):
            lines.append(textwrap.fill(text, 88, subsequent_indent="    "))
        lines.append(f"  cost  {self._cost()}")
        for number, recipe in enumerate(self.recipes, 1):
            code = textwrap.indent(recipe.snippet, "    ")
            lines += ["", f"  To train with recipe {number}, {recipe.label}:", "", code]
        return "\n".join(lines)

    def _order(self) -> str:
        """Meaning of the order of the recipes."""
        first = "  order  of the first most is expected"
        if self.unlike:
            return (
                "  order  by what known tasks say of rates and the short runs; no "
                "probabilities, since nothing like this task is known"
            )
        if len(self.recipes) == 1:
            return "  order  no other was asked for"
        if math.isnan(self.recipes[0].near):
            return (
                f"{first}; no probabilities, since those for this kind of metric were "
                "not right on tasks kept apart"
            )
        return (
            f"{first}, on average, which need not be the likeliest to be best; a point "
            f"is a hundredth of the range of {self.metric}"
        )

    def _known(self) -> str:
        """Lines on similar known tasks."""
        if self.described is None:
            return (
                "  known tasks  all count alike: the share does not pay for looking at "
                "the task"
            )
        text = f"  known tasks  distance {self.novelty:.2f} (0: many alike, 1: none)"
        text += f", most like {weighed(self.similar)}"
        if self.unlike:
            names = {recipe.method for recipe in self.recipes}
            text += "; this task is unlike all of them, so "
            if names == {CALIBRATED}:
                text += "the advice is what works on most: NadamW with a cosine"
            elif CALIBRATED in names:
                text += (
                    "the advice is what works on most, NadamW with a cosine, beside "
                    "your own method"
                )
            else:
                text += "trust the choice among methods little"
        return text

    def _ladder(self, ladder: Ladder) -> str:
        """Lines on a method's short runs."""
        values = ", ".join(
            f"{rate:g}: {'lost' if math.isnan(value) else self.scale.shown(value)}"
            for rate, value in zip(ladder.rates, ladder.values, strict=True)
        )
        text = (
            f"  short runs  {ladder.method}, one seed, {self.updates} updates, "
            f"validation {self.scale.label} by rate: {values}; "
        )
        if math.isnan(ladder.best):
            return text + "all were lost, so the method is left out"
        measured = [value for value in ladder.values if not math.isnan(value)]
        if len({*measured}) == 1 < len(measured):
            text += "which says nothing of rates; "
        else:
            at = ladder.values.index(max(measured, key=lambda v: self.scale.sign * v))
            if at in (0, len(ladder.rates) - 1):
                text += "the best stands at the end, and better ones may lie beyond; "
            text += f"best near {ladder.best:.2g}; "
        return text + (
            f"advised for a full run {ladder.full:.2g}, give or take a factor of "
            f"{10**ladder.decades:.1f}"
        )

    def _cost(self) -> str:
        """Line on what was spent."""
        text = f"{100 * self.cost:.2g} % of a full run ({100 * self.spend:g} % allowed)"
        if self.ladders:
            return text
        if not self.rated:
            return f"{text}; no method here needs a rate, so there are no short runs"
        looked = probes.COST if self.described is None else self.cost * self.horizon
        least = ladders_lib.least(looked, self.horizon)
        more = f"spend={least:.2g} would" if least <= 1 else "nor would a whole one"
        return f"{text}, which pays for no short runs; {more}"


def _chances(recipe: Recipe) -> str:
    """A recipe's probabilities in words, if they can be trusted."""
    if math.isnan(recipe.near):
        return ""
    return (
        f": best of these with probability {100 * recipe.best:.0f} %, within half a "
        f"point of the best of all that were asked for with {100 * recipe.near:.0f} %"
    )


def conclude(
    case: Case,
    ladders: Sequence[Ladder],
    chosen: Sequence[Chosen],
    cost: int,
    workdir: Path,
) -> Advice:
    """The advice once the short runs have ended.

    Args:
      case: what was known before.
      ladders: what the short runs said.
      chosen: the recipes.
      cost: updates that were spent.
      workdir: directory of the tables.
    """
    by_name = {
        entry.method: each
        for entry, each in zip(case.entries, case.contenders, strict=True)
    }
    found = []
    for each in chosen:
        contender = by_name[each.method]
        if not math.isnan(each.log_rate):
            contender = contender.at(float(f"{10**each.log_rate:.3g}"))
        hparams = dict(contender.hparams)
        code = method_code.snippet(contender.method, hparams, case.horizon)
        found.append(
            Recipe(
                label=contender.label,
                method=contender.method.name,
                hparams=hparams,
                rate=contender.rate,
                best=each.best if len(chosen) > 1 else math.nan,
                near=each.near if len(chosen) > 1 else math.nan,
                snippet=code,
            )
        )
    metric = case.task.metric
    return Advice(
        task=case.name,
        recipes=tuple(found),
        ladders=tuple(ladders),
        updates=case.ladders.updates if case.ladders else 0,
        horizon=case.horizon,
        spend=case.spend,
        cost=cost / case.horizon,
        metric=metric.name,
        scale=metric,
        described=case.described,
        similar=tuple((each.family, each.share) for each in case.prior.similar),
        novelty=case.prior.novelty,
        unlike=case.prior.unlike,
        rated=any(case.entries[i].log_rates for i in case.left),
        workdir=workdir,
    )


def write(answers: Sequence[Advice], tables: results.Tables) -> None:
    """Write the advice as JSON.

    Raises:
      UsageError: if it cannot be written.
    """
    content = finite([_plain(answer) for answer in answers])
    tables.replace(ANSWER, json.dumps(content, indent=1) + "\n")


def _plain(answer: Advice) -> dict[str, Any]:
    """Advice as a dictionary for JSON."""
    (scale,) = results.describe([answer.scale])
    hidden = ("workdir", "_kept")
    fields = {
        field.name: getattr(answer, field.name)
        for field in dataclasses.fields(answer)
        if field.name not in hidden
    }
    return {
        **fields,
        "scale": scale,
        "recipes": [dataclasses.asdict(each) for each in answer.recipes],
        "ladders": [dataclasses.asdict(each) for each in answer.ladders],
    }
