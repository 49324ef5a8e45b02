"""What figures look like: by what Matplotlib drew, and by pixels."""

import dataclasses
import io
import itertools
import json
import math
import os
import subprocess
import sys
import types
import warnings
from pathlib import Path

import fabricated
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb

from configs import quickstart
from lrjax import reports
from lrjax.analysis import scores
from lrjax.core import LOSS, UsageError
from lrjax.methods import METHODS
from lrjax.reports import (
    drawing,
    figures,
    page,
    palette,
    rate_figure,
    searches,
)
from lrjax.reports.palette import Palette, shorten

ROOT = Path(__file__).parent.parent.parent
TEN = tuple(quickstart.get_config().methods)
STRANGE = ("price_$1_to_$2", "$x^{2$", "a_b%&<b>", "數據/資料", "\\alpha{", "~#^")


def dress(looked, entry):
    return looked.colour(entry), str(looked.style(entry)), str(looked.sign(entry))


# Colours


@given(st.lists(st.sampled_from(list(METHODS)), unique=True, min_size=1))
@settings(max_examples=50)
def test_a_method_looks_the_same_on_every_page(names):
    everything, page_of = Palette(tuple(METHODS)), Palette(tuple(names))
    for name in names:
        assert (
            dress(page_of, name) == dress(everything, name) == dress(Palette(()), name)
        )


def test_no_two_methods_look_alike_even_without_colours():
    everything = Palette(tuple(METHODS))
    without = set()
    for name in METHODS:
        sign = everything.sign(name)
        filled = sign["markerfacecolor"] != drawing.PAPER
        without.add((str(everything.style(name)), sign["marker"], filled))
    assert len(without) == len(METHODS)


def test_every_method_has_its_place_among_relatives():
    named = [name for family in palette._FAMILIES for name in family]
    assert sorted(named) == sorted(METHODS)
    # A seventh of a colour would have the line of the first.
    assert max(map(len, palette._FAMILIES)) <= len(palette.STYLES)


def test_the_first_figure_that_people_see_has_a_colour_for_each_method():
    assert len({Palette(TEN).colour(name) for name in TEN}) == len(TEN) == 10


@given(st.lists(st.text(min_size=1), unique=True, min_size=1, max_size=16))
@settings(max_examples=20)
def test_methods_of_ones_own_have_a_colour_by_name(names):
    some = Palette(tuple(names))
    more = Palette((*METHODS, *reversed(names)))
    assert [some.colour(n) for n in names] == [more.colour(n) for n in names]
    assert len({dress(some, n) for n in names}) == len(names)
    assert len({dress(more, n) for n in names}) == len(names)


def test_settings_of_a_method_share_its_colour():
    named = [f"adam learning_rate={10.0**-i}" for i in range(12)]
    named += ["adam", "smac:adam", "smac.1:adam", "adam #2", "adam @ runs/b"]
    named += ["adam (learning_rate=0.1)", "race:adam b1=0.5"]
    for order in (named, named[::-1], named[3:9]):
        looked = Palette(tuple(order))
        assert {looked.colour(n) for n in order} == {Palette(("adam",)).colour("adam")}
        assert len({dress(looked, n) for n in order}) == len(order)
    assert dress(Palette(tuple(named)), "adam") == dress(Palette(("adam",)), "adam")


def pixels(figure):
    """Red, green and blue of each, from 0 to 1."""
    content = io.BytesIO()
    figure.savefig(content, format="rgba", dpi=200)
    return np.frombuffer(content.getvalue(), np.uint8).reshape(-1, 4)[:, :3] / 255


def seen(figure, names):
    """The names whose colours are there, and the others."""
    for legend in [*figure.legends, *(axis.get_legend() for axis in figure.axes)]:
        if legend:
            legend.remove()
    shown = pixels(figure)
    count = {
        name: (np.abs(shown - np.array(to_rgb(Palette(()).colour(name)))).max(1) < 0.05)
        for name in names
    }
    return {name for name, near in count.items() if near.sum() > 15}


@pytest.mark.parametrize("count", [3, 9, 100])
def test_curves_that_lie_on_each_other_are_all_seen(count):
    epochs = np.arange(1.0, count + 1)
    value = np.exp(-epochs / count)
    curve = {"epoch": epochs, "median": value, "low": value, "high": value}
    curve["diverged"] = False
    bands = pd.concat(pd.DataFrame(curve | {"entry": name}) for name in TEN)
    with drawing.style() as plt:
        figure, _ = figures.curves(
            plt, Palette(TEN), {"task": bands}, {"task": "valid_loss"}
        )
        assert seen(figure, TEN) == set(TEN)


def test_contenders_that_are_level_are_all_seen():
    names = TEN[:8]
    judged = [fabricated.judged(name, -0.5, behind=[-0.5]) for name in names]
    with drawing.style() as plt:
        level = {"task": "t", "winner": names[3], "judged": judged}
        figure, _ = searches.beliefs(plt, [level])
        assert seen(figure, names) == set(names)


# Names


@given(
    st.lists(st.text("ab/:.é數", max_size=60), max_size=8),
    st.integers(8, 40),
)
def test_short_names_are_short_and_differ(names, width):
    found = shorten(names, width)
    assert set(found) == set(names)
    assert len(set(found.values())) == len(found)
    for name, short in found.items():
        assert len(short) <= width
        assert short == name or len(name) > width


@pytest.mark.parametrize("where", range(9, 80, 7))
def test_files_in_two_folders_are_told_apart(where):
    path = "svmlight:" + "/folder" * 10
    names = [path[:where] + f"/{x}/" + path[where:] + "/data.svm" for x in "ab"]
    a, b = shorten(names, 26).values()
    assert a != b
    assert "#" not in a + b  # by what differs
    assert a.startswith("svml")
    assert a.endswith(".svm")


def test_the_ranking_tells_tasks_apart(tmp_path):
    names = [f"svmlight:/a/long/path/to/{x}/data.svm" for x in ("first", "second")]
    for metric in ("accuracy", "loss"):
        runs, _ = fabricated.runs_and_curves(names, ("sgd", "adam"), 3, metric=metric)
        text = reports.ranking(pd.DataFrame(runs))
        heads = text.splitlines()[2]
        assert "first/data.svm" in heads
        assert "second/data.svm" in heads
        for name in names:  # whole below
            assert any(line.endswith(name) for line in text.splitlines())


# Tuning


def trials(costs, budgets, **changes):
    return [
        {
            "trial": i,
            "task": "libsvm/iris",
            "method": "adam",
            "hparams": {"learning_rate": 10.0 ** -(i % 4), "b1": 0.9},
            "budget": budget,
            "cost": 99.0 if cost is None else cost,
            "status": "crashed" if cost is None else "done",
            "unit": "epochs",
            "tuner": "smac",
            "seed": 0,
            "tuning": "x",
        }
        | changes
        for i, (cost, budget) in enumerate(zip(costs, budgets, strict=True))
    ]


SEARCHES = {
    "the last trial is the best": ([3.0, 2.0, 1.5, 1.0], [1, 1, 3, 9]),
    "the only whole trial is the last": ([0.3, 0.2, 0.1, 1.0], [1, 1, 3, 9]),
    "the first whole trial is the best": ([3.0, 1.0, 2.0, 2.5], [1, 9, 9, 9]),
    "the last trials diverge": ([3.0, 1.0, None, None], [1, 9, 9, 9]),
    "costs below zero": ([-1.0, -3.0, -2.0, 0.5], [9, 9, 9, 9]),
    "none is whole": ([3.0, 2.0, None], [1, 1, 9]),
    "one trial": ([0.7], [5]),
}


def stars(axis):
    lines = [line for line in axis.get_lines() if line.get_marker() == "*"]
    return [(float(x), float(y)) for line in lines for x, y in line.get_xydata()]


@pytest.mark.parametrize("name", SEARCHES)
def test_the_best_trial_is_marked_and_the_axis_reaches_the_cost(name):
    costs, budgets = SEARCHES[name]
    rows = trials(costs, budgets)
    table = searches.trajectories(searches.trials_table(rows))
    total = sum(budgets) / max(budgets)
    whole = [c for c, b in zip(costs, budgets, strict=True) if b == max(budgets)]
    finite = [c for c in whole if c is not None]
    with drawing.style() as plt:
        figure, (axis, *_) = searches.incumbents(plt, Palette(("smac:adam",)), table)
        figure.draw_without_rendering()
        left, right = axis.get_xlim()
        assert left <= 0
        assert right >= total
        (line,) = [e for e in axis.get_lines() if e.get_drawstyle() == "steps-post"]
        spent, best = line.get_xydata()[-1]
        assert spent == pytest.approx(total)
        if not finite:
            assert math.isnan(best)
            assert not stars(axis)
            return
        assert best == min(finite)
        ((x, y),) = stars(axis)
        place = max(i for i, c in enumerate(costs) if c == min(finite))
        assert (x, y) == (pytest.approx(sum(budgets[: place + 1]) / max(budgets)), best)
        low, high = axis.get_ylim()
        assert all(low <= c <= high for c in costs if c is not None)


def test_each_tuning_has_its_line_and_its_star():
    rows = trials([3.0, 1.0], [1, 9]) + trials([4.0, 2.0], [1, 9], seed=1, tuning="y")
    rows += trials([2.0, 1.5], [9, 9], method="sgd", tuning="z")
    table = searches.trajectories(searches.trials_table(rows))
    assert sorted(set(table["method"])) == ["smac.1:adam", "smac:adam", "smac:sgd"]
    looked = Palette(tuple(sorted(set(table["method"]))))
    with drawing.style() as plt:
        figure, (axis, *_) = searches.incumbents(plt, looked, table)
        assert sorted(y for _, y in stars(axis)) == [1.0, 1.5, 2.0]
        assert len(figure.legends[0].get_texts()) == 3
        _, axes = searches.costs(plt, looked, table)
        assert [len(stars(axis)) for axis in axes] == [1, 1, 1]
        points = [line.get_xydata() for line in axes[2].get_lines()]
        rates = {float(x) for point in points for x, _ in point}
        assert rates == {1.0, 0.1}


@pytest.mark.parametrize("costs", [[1.0, None], [1.0, 0.5]])
def test_a_legend_shows_nothing_that_is_not_drawn(costs):
    """A tuning has a line and a star only if a trial reached the full budget."""
    rows = [row | {"max_budget": 27} for row in trials(costs, [3, 9])]
    rows += trials([2.0, 1.5], [9, 27], method="sgd", tuning="z")
    rows = rows if costs[1] else rows[:2]
    looked = Palette(("smac:adam", "smac:sgd"))
    table = searches.trajectories(searches.trials_table(rows))
    with drawing.style() as plt:
        figure, _ = searches.incumbents(plt, looked, table)
        styles = [h.get_linestyle() for h in figure.legends[0].legend_handles]
        assert styles[0] == "None"
        assert all(style != "None" for style in styles[1:])
        figure, _ = searches.costs(plt, looked, table)
        names = [text.get_text() for text in figure.legends[0].get_texts()]
        assert ("best at the full budget" in names) == (len(rows) > 2)


@pytest.mark.parametrize("side", ["x", "y"])
def test_a_log_axis_has_three_labels_at_least(side):
    ends = 10.0 ** np.linspace(-4.2, 4.3, 18)
    pairs = [*itertools.combinations(ends, 2), (0.9, 1.1), (0.313, 1.2398)]
    with drawing.style() as plt:
        _, (axis,) = drawing.panels(plt, 1)
        getattr(axis, f"set_{side}scale")("log")
        for low, high in pairs:
            getattr(axis, f"set_{side}lim")(low, high)
            drawing.log_ticks(getattr(axis, f"{side}axis"))
            places = getattr(axis, f"get_{side}ticks")()
            texts = getattr(axis, f"get_{side}ticklabels")()
            shown = [
                text.get_text()
                for place, text in zip(places, texts, strict=True)
                if low <= place <= high
            ]
            assert len(set(shown)) == len(shown) >= 3, (low, high, shown)


@pytest.mark.parametrize("side", ["x", "y"])
@pytest.mark.parametrize("least", [1e-7, 0.3])
def test_a_value_of_zero_leaves_a_log_axis_as_it_is(side, least):
    """It is drawn at the edge, labelled 0; what was measured is not changed."""
    values = np.array([3.0, least, 0.0, np.nan])
    with drawing.style() as plt:
        _, (axis,) = drawing.panels(plt, 1)
        assert drawing.scale_values(axis, side, values, higher_is_better=False)
        other = np.arange(4.0)
        (line,) = axis.plot(*((values, other) if side == "x" else (other, values)))
        drawing.log_ticks(getattr(axis, f"{side}axis"))
        drawn = getattr(line, f"get_{side}data")()
        np.testing.assert_array_equal(drawn, values)
        low, high = getattr(axis, f"get_{side}lim")()
        places = axis.transLimits.transform(
            axis.transScale.transform(line.get_xydata())
        )
        top, bottom, zero, lost = places[:, "xy".index(side)]
        assert 0 < zero < 0.08 < bottom - zero
        assert bottom < top < 1
        assert np.isnan(lost)
        assert 0 < low < least / 2 < 3 < high
        texts = getattr(axis, f"get_{side}ticklabels")()
        assert [text.get_text() for text in texts].count("0") == 1
        assert len(texts) >= 4


@pytest.mark.parametrize(
    ("values", "rising", "scale"),
    [
        ([0.1, 2.0], False, "log"),
        ([0.1, 2.0], True, "linear"),
        ([-0.1, 2.0, 0.0], False, "linear"),
        ([0.0, 0.0], False, "linear"),
        ([np.nan], False, "log"),
    ],
)
def test_an_axis_of_values_has_a_log_scale_where_lower_is_better(values, rising, scale):
    with drawing.style() as plt:
        _, (axis,) = drawing.panels(plt, 1)
        assert drawing.scale_values(axis, "y", values, rising) == (scale == "log")
        assert axis.get_yscale() == scale


def test_trials_of_cost_zero_are_drawn_on_a_log_axis():
    table = searches.trajectories(
        searches.trials_table(trials([1.0, 0.0, 0.01], [9] * 3))
    )
    with drawing.style() as plt:
        for draw in (searches.incumbents, searches.costs):
            figure, axes = draw(plt, Palette(("smac:adam",)), table)
            labels = [text.get_text() for text in axes[0].get_yticklabels()]
            assert "0" in labels
            picture, _ = drawing.picture(figure, "a", axes, kinds=("svg",))
            (place,) = json.loads(picture.axes)
            assert place["log"][1]
            assert 0 < place["y"][0] < place["zero"][1] < 0.01
            assert "0" in picture.panels[0].text


# Selections


def answer(task="libsvm/wine", count=12, **changes):
    """What is believed of contenders, each a point behind the one before."""
    labels = [f"adam (learning_rate={10.0**-i})" for i in range(count - 1)] + ["dog"]
    judged = [
        fabricated.judged(label, -float(i), behind=[-i - 0.25]) | changes
        for i, label in enumerate(labels)
    ]
    return {"task": task, "winner": labels[0], "judged": judged}


def rows_of(axis, names):
    """Of each contender: texts, and lines drawn in its row but not the key's."""
    texts = [text.get_text() for text in axis.get_yticklabels()]
    assert texts[: len(names)] == list(names)
    lines = [line for line in axis.get_lines() if len(line.get_xydata())]
    return [
        [line for line in lines if abs(line.get_ydata()[0] - row) < 0.5]
        for row in range(len(texts))
    ]


def test_the_winner_of_a_selection_is_marked():
    with drawing.style() as plt:
        figure, _ = searches.beliefs(plt, [answer()])
        (axis,) = figure.axes
        assert stars(axis) == [(0.0, pytest.approx(-0.1))]
        names = [text.get_text() for text in axis.get_legend().get_texts()]
        assert names == ["known tasks say", "a run", "believed now", "the winner"]
        (first, *others) = rows_of(axis, ["adam (learning_rate=1.0)"])
        assert len(others) == 9  # the last ones are left out
        widest = max(first, key=lambda line: line.get_linewidth())
        assert widest.get_xdata().tolist() == [-1.0, 1.0]


def test_a_row_has_what_was_expected_measured_and_is_believed():
    judged = [
        fabricated.judged("sgd", 0.0, behind=[0.0, -3.0]),
        fabricated.judged("dog", -4.0, behind=[math.nan, -9.0], expected_sd=3.0),
        fabricated.judged("adam", -40.0),
    ]
    with drawing.style() as plt:
        answers = [{"task": "t", "winner": "sgd", "judged": judged}]
        figure, _ = searches.beliefs(plt, answers)
        (axis,) = figure.axes
        names = [text.get_text() for text in axis.get_legend().get_texts()]
        assert "a run that was lost" in names
        drawn = [
            {line.get_marker(): line.get_xdata().tolist() for line in lines}
            for lines in rows_of(axis, ["sgd", "dog", "adam"])
        ]
        assert drawn[0]["|"] == [0.0, 3.0]  # distances, as in the table of the terminal
        assert drawn[1]["|"] == [9.0]
        assert "x" in drawn[1]
        assert "x" not in drawn[0] | drawn[2]
        assert drawn[1]["o"] == [4.0]
        low, high = axis.get_xlim()
        assert 15 < high < 17  # one that is far behind does not press the others
        assert low < -1
        assert axis.get_ylim() == (2.5, -0.5)  # the winner is on top


def test_contenders_have_the_colour_of_their_method():
    with drawing.style() as plt:
        figure, _ = searches.beliefs(plt, [answer("a"), answer("b", count=3)])
        for axis in figure.axes:
            texts = [text.get_text() for text in axis.get_yticklabels()]
            for text, lines in zip(texts, rows_of(axis, texts), strict=True):
                colours = {line.get_color() for line in lines}
                own = Palette(()).colour(palette.method_of(text))
                assert colours == {own, drawing.FAINT, drawing.INK}


@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_nothing_of_a_selection_covers_anything_else(count):
    answers = [answer(f"task {i}", 2 + 3 * i) for i in range(count)]
    with drawing.style() as plt:
        figure, _ = searches.beliefs(plt, answers)
        figure.draw_without_rendering()
        width, height = figure.get_size_inches() * figure.dpi
        boxes = []
        for axis in figure.axes:
            if axis.get_visible():
                boxes.append(axis.get_tightbbox())
                key = axis.get_legend().get_window_extent()
                assert key.x0 >= axis.get_window_extent().x1
                names = [label.get_window_extent() for label in axis.get_yticklabels()]
                assert not any(a.overlaps(b) for a, b in itertools.pairwise(names))
        for box in boxes:
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert box.x1 <= width
            assert box.y1 <= height
        pairs = itertools.combinations(boxes, 2)
        assert not any(a.overlaps(b) for a, b in pairs)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_a_selection_without_sensible_numbers_is_drawn(value):
    names = ("expected", "expected_sd", "now", "now_sd")
    odd = answer(**dict.fromkeys(names, value), behind=[value])
    with drawing.style() as plt:
        figure, axes = searches.beliefs(plt, [odd])
        drawing.picture(figure, "selection", axes)


def test_a_selection_without_a_run_is_drawn():
    with drawing.style() as plt:
        figure, axes = searches.beliefs(plt, [answer(behind=[])])
        drawing.picture(figure, "selection", axes)
        assert len(stars(figure.axes[0])) == 1
        for lines in rows_of(figure.axes[0], []):
            assert not {"|", "x"} & {line.get_marker() for line in lines}


# Whatever there is


@pytest.mark.parametrize("name", STRANGE)
def test_any_name_can_be_drawn_in_silence(tmp_path, name):
    content = fabricated.answer(
        name, name, method=name, judged=[fabricated.judged(name, values=[0.5])]
    )
    runs, curves = fabricated.runs_and_curves((name,), ("sgd", name), 2)
    level = {"valid_accuracy": 0.5, "valid_loss": 0.3, "learning_rate": 0.3}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reports.races([content], tmp_path)
        reports.tuning(trials([1.0, 2.0], [1, 1], task=name, method=name), tmp_path)
        picture = tmp_path / "curves.png"
        for rows in (pd.DataFrame(curves), pd.DataFrame(curves).assign(**level)):
            reports.learning_curves(pd.DataFrame(runs), rows, picture)
    names = ("selection.png", "incumbent.png", "costs.png", "curves.png")
    for file in names:
        assert (tmp_path / file).read_bytes().startswith(b"\x89PNG")
    svg = (tmp_path / "selection.svg").read_text()
    assert name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in svg


def test_a_folder_that_is_not_there_is_one_clear_line(tmp_path):
    with pytest.raises(UsageError, match=r"cannot write .*nowhere"):
        reports.tuning(trials([1.0], [1]), tmp_path / "nowhere")


def test_the_users_own_figures_and_settings_are_left_alone():
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mine = plt.figure()
    with mpl.rc_context({"text.usetex": True, "axes.facecolor": "#123456"}):
        before, backend = dict(mpl.rcParams), mpl.get_backend()
        with drawing.style() as pen:
            figure, axis = pen.subplots()
            axis.set_title("$")
            drawing.write(figure, Path(os.devnull).parent, "null", [])
            assert not mpl.rcParams["text.usetex"]
        assert dict(mpl.rcParams) == before
        assert mpl.get_backend() == backend
    assert plt.fignum_exists(mine.number)
    plt.close(mine)


def test_a_backend_that_is_not_there_is_of_no_matter(tmp_path):
    """As a notebook hands its own on to what it starts."""
    fabricated.write(tmp_path, ("a",), ("sgd",), 2)
    code = (
        "import sys; from lrjax import reports\n"
        "from lrjax.reports import analyses; del analyses.ANALYSES[1:]\n"
        "reports.write([sys.argv[1]], reports.Path(sys.argv[1]) / 'out',"
        "reports.Options(bootstrap=10))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"MPLBACKEND": "nonsense", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "index.html").exists()


# Tables


def test_numbers_of_a_column_align():
    assert page.column(pd.Series([1.0, 12.3456, np.nan])) == ["1.00", "12.35", ""]
    assert page.column(pd.Series([0.5, 0.98765])) == ["0.5000", "0.9877"]
    assert page.column(pd.Series([1e-7, 0.5])) == ["1e-07", "0.5"]
    assert page.column(pd.Series([5.0, np.inf])) == ["5.000", "inf"]
    assert page.column(pd.Series([1234567, 5])) == ["1,234,567", "5"]
    assert page.column(pd.Series(["a", "b"])) == ["a", "b"]
    assert page.column(pd.Series([True])) == ["True"]


def test_a_study_of_one_speaks_of_one(tmp_path):
    fabricated.write(tmp_path, ("t",), ("sgd",), 1)
    said = reports.write([tmp_path], tmp_path / "out", reports.Options(bootstrap=20))
    text = (tmp_path / "out" / "index.html").read_text()
    for wrong in ("1 runs", "1 tasks", "1 entries", "1 methods", "1 seeds", "1 rows"):
        assert f" {wrong}" not in text + " ".join(said), wrong


@pytest.mark.parametrize("count", [1, 2, 5])
def test_long_names_of_few_columns_are_whole(count):
    tasks = [f"svmlight:/a/folder/of/my/set {i}.svm" for i in range(count)]
    text = pd.DataFrame("37.5", index=["sgd", "adam"], columns=[*tasks, "mean"])
    with drawing.style() as plt:
        palette = Palette(("sgd", "adam"), tasks=tuple(tasks))
        figure, _ = figures.cells(plt, palette, text.astype(float) / 40, text, apart=1)
        figure.canvas.draw()
        for label in figure.axes[0].get_xticklabels():
            assert label.get_window_extent().x1 <= figure.bbox.x1
            assert label.get_window_extent().y1 <= figure.bbox.y1


def test_rates_are_plain_numbers_on_their_axis():
    """Figures do not parse markup, which Matplotlib's own labels of log axes are."""
    ends = {"low": [0.4, 0.3, 0.5], "high": [0.6, 0.4, 0.7], "mean": [0.5, 0.3, 0.6]}
    table = pd.DataFrame({"learning_rate": [0.01, 0.04, 0.08], **ends})
    found = types.SimpleNamespace(
        **{"table": table, "method": "adam", "task": "libsvm/wine"},
        **{"interval": (0.02, 0.06), "rate": 0.04, "edge": None},
    )
    both = types.SimpleNamespace(by_width={1: found, 2: found})
    figures = (rate_figure.draw(found, None), rate_figure.draw_widths(both, None))
    for figure in figures:
        figure.draw_without_rendering()
        texts = [text.get_text() for text in figure.axes[0].get_xticklabels()]
        assert len(texts) >= 3
        assert all(float(text) > 0 for text in texts)


@pytest.mark.parametrize("rates", [[1e-2, 1e-3, 0.0], [1e-2, 0.0], [0.0, -1.0]])
@pytest.mark.parametrize("part", [0.05, 0.25, 0.5, 0.75])
def test_markers_stand_where_a_log_axis_has_values(rates, part):
    """Rates that end at 0: a marker between 1e-3 and 0 would stretch the axis."""
    with drawing.style() as plt:
        _, axis = plt.subplots()
        axis.set_yscale("log")
        _, placed = drawing.signs_at(axis, np.arange(len(rates)), rates, part)
    shown = [rate for rate in rates if rate > 0]
    assert len(placed) == len(shown)
    assert all(min(shown) <= y <= max(shown) for y in placed)


@pytest.mark.parametrize(
    ("ends", "lost", "top"),
    [
        ((2.0, 1e30), "b", (2.0, 3.0)),  # not flattened by what diverged
        ((2.0, 1e30), "", (1e30, np.inf)),  # what finished is seen
        ((2.0, 1.5), "b", (2.0, 3.0)),
        ((2.0, 1e30), "ab", (1e30, np.inf)),
    ],
)
def test_lines_that_diverge_flatten_no_others(ends, lost, top):
    bands = pd.DataFrame(
        {"entry": e, "epoch": float(i), "median": v, "diverged": i == 2 and e in lost}
        for e, end in zip("ab", ends, strict=True)
        for i, v in enumerate((1.0, 1.2, end))
    )
    bands = bands.assign(low=bands["median"], high=bands["median"])
    with drawing.style(laid_out=False) as plt:
        palette, labels = Palette(("a", "b")), {"t": "valid_loss"}
        _, (axis,) = figures.curves(plt, palette, {"t": bands}, labels)
    low, high = axis.get_ylim()
    assert low < 1.0
    assert top[0] < high < top[1]
    crosses = [line.get_ydata()[0] for line in axis.lines if line.get_marker() == "x"]
    assert len(crosses) == len(lost)
    assert all(low < cross <= high for cross in crosses)


@pytest.mark.parametrize(("column", "edge"), [("loss", 0.98), ("accuracy", 0.02)])
def test_rates_that_diverged_are_crosses_at_the_worse_edge(column, edge):
    rows = [("t", "sgd", rate, 0.5, 0.4, 0.6, rate > 0.1) for rate in (0.01, 0.1, 1.0)]
    names = ["task", "method", "learning_rate", "median", "low", "high", "diverged"]
    table = pd.DataFrame(rows, columns=names)
    others = pd.DataFrame(
        columns=["task", "entry", "learning_rate", "value"], dtype=float
    )
    with drawing.style(laid_out=False) as plt:
        given = Palette(("sgd",)), table, others, {"t": f"valid_{column}"}
        _, (axis,) = figures.grid(plt, *given)
    (cross,) = (line for line in axis.lines if line.get_marker() == "x")
    assert cross.get_xydata().tolist() == [[1.0, edge]]
    assert cross.get_transform() == axis.get_xaxis_transform()


@pytest.mark.parametrize(
    ("unit", "label"),
    [("", "validation loss"), ("kg", "validation loss (kg)"), ("%", "validation loss")],
)
def test_an_axis_of_values_has_their_unit(unit, label):
    """Those in per cent are drawn as shares."""
    metric = dataclasses.replace(LOSS, unit=unit)
    known = scores.known_metrics([{"t": (metric,), "u": (LOSS,)}])
    row = {"entry": "a", "epoch": 1.0, "median": 1.0, "low": 1.0, "high": 1.0}
    bands = pd.DataFrame([row | {"diverged": False}])
    labels = dict.fromkeys("tu", "valid_loss")
    with drawing.style(laid_out=False) as plt:
        given = Palette(("a",)), dict.fromkeys("tu", bands), labels, known
        _, axes = figures.curves(plt, *given)
    assert [axis.get_ylabel() for axis in axes] == [label, "validation loss"]
