"""Where the time went: sums, and a trace that Perfetto reads."""

import json
import threading

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from program import invoke

from lrjax.common import spans
from lrjax.common.spans import Span
from lrjax.engine import evaluation, xla_options


@st.composite
def nested(draw):
    """Spans as `with` makes them: in a thread they are nested or apart."""

    def inside(thread, start, stop, depth):
        ends = sorted(draw(st.lists(st.integers(start, stop), max_size=4)))
        for low, high in zip(ends[::2], ends[1::2], strict=False):
            work = draw(st.sampled_from(spans.ORDER))
            yield Span(work, "", low, high, thread)
            if depth:
                yield from inside(thread, low, high, depth - 1)

    found = []
    for thread in ("a", "b"):
        found += inside(thread, 0, 40, 2)
    return draw(st.permutations(found))


@given(nested())
def test_each_moment_of_a_thread_counts_once_for_the_innermost_span(found):
    parts = spans._innermost(found)
    for thread in ("a", "b"):
        own = [span for span in found if span.thread == thread]
        for moment in range(40):
            middle = moment + 0.5
            over = [span for span in own if span.start < middle < span.stop]
            cut = [
                part
                for part in parts
                if part.thread == thread and part.start < middle < part.stop
            ]
            assert len(cut) == bool(over)
            if over:  # the innermost is the shortest; of equals, any
                least = min(span.stop - span.start for span in over)
                works = {s.work for s in over if s.stop - s.start == least}
                assert cut[0].work in works


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30))))
def test_the_length_of_a_union_counts_no_moment_twice(ends):
    ends = [tuple(sorted(pair)) for pair in ends]
    moments = {m for low, high in ends for m in range(low, high)}
    assert spans._length(ends) == len(moments)


@pytest.fixture
def recording(monkeypatch):
    monkeypatch.setattr(spans, "_spans", [])
    monkeypatch.setattr(spans, "_began", [])


def test_nothing_is_noted_before_recording(recording):
    with spans.span("data"):
        pass
    assert not spans._spans


def test_what_jax_compiles_is_noted(recording):
    spans.record(since=0.0)
    with spans.span("train", "something"):
        jax.jit(lambda x: jnp.sin(x) * 3)(jnp.arange(3.0))
    works = {span.work for span in spans._spans}
    assert works == {"import", "trace", "compile", "train"}
    events = json.loads(spans.trace())["traceEvents"]
    (train,) = [e for e in events if e["name"] == "train something"]
    inner = [e for e in events if e.get("cat") in ("trace", "compile")]
    for event in inner:
        assert event["tid"] == train["tid"]
        assert train["ts"] <= event["ts"]
        assert event["ts"] + event["dur"] <= train["ts"] + train["dur"] + 0.2


@pytest.mark.parametrize("mode", ["train", "tune", "select"])
def test_a_command_says_where_its_time_went(mode, recording, tmp_path):
    answer = invoke(
        f"--mode={mode}",
        "--config=configs/libsvm.py:iris",
        f"--workdir={tmp_path}",
        "--config.methods=sgd,adam",
        "--config.steps=20",
        "--config.seeds=2",
        "--config.tune.trials=3",
        "--config.tune.tuner=random",
        "--config.tune.max_budget=20",
        "--config.tune.min_budget=20",
        "--config.tune.unit=steps",
        "--config.select.budget=2",
        "--config.profile=True",
    )
    assert answer.code == 0, answer.err
    start = answer.out.index(next(x for x in answer.out if x.startswith("work ")))
    rows = {line.split()[0]: line.split()[1:] for line in answer.out[start + 1 : -2]}
    wanted = {"import", "data", "trace", "compile", "train"}
    assert rows.keys() >= (wanted if mode == "select" else wanted | {"report"})
    total = float(answer.out[-2].split()[-1])
    assert all(0 <= float(cells[0]) <= total for cells in rows.values())
    trace = json.loads((tmp_path / "profile.json").read_text())
    events = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    assert {e["cat"] for e in events} >= wanted


@pytest.mark.parametrize("mode", ["train", "select"])
def test_what_runs_are_judged_by_is_compiled_beside_what_trains_them(
    mode, recording, tmp_path, monkeypatch
):
    """While XLA has the program that trains, as long as that takes."""
    prepared, compile_ahead = threading.Event(), evaluation.compile_ahead
    compile_loop = xla_options.compile_loop

    def noted(*arguments):
        compile_ahead(*arguments)
        prepared.set()

    def slow(*arguments):
        if threading.current_thread() is not threading.main_thread():
            assert prepared.wait(60)
        return compile_loop(*arguments)

    monkeypatch.setattr(evaluation, "compile_ahead", noted)
    monkeypatch.setattr(xla_options, "compile_loop", slow)
    answer = invoke(
        f"--mode={mode}",
        "--config=configs/libsvm.py:iris",
        f"--workdir={tmp_path}",
        "--config.methods=sgd,adam",
        "--config.steps=21",
        "--config.seeds=2",
        "--config.select.budget=2",
        "--config.profile=True",
    )
    assert answer.code == 0, answer.err
    events = json.loads((tmp_path / "profile.json").read_text())["traceEvents"]
    training = {e["tid"] for e in events if e.get("cat") == "train"}
    late = {e["name"] for e in events if e["ph"] == "X" and e["tid"] in training}
    assert not [name for name in late if "evaluate" in name and "compile" in name]
