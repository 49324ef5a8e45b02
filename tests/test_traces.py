"""Traced programs on disk: the same numbers without tracing, and never another's."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrjax
from lrjax import config as config_lib
from lrjax import methods
from lrjax.common import spans
from lrjax.core import Method, UsageError
from lrjax.engine import programs
from lrjax.launch import blocks as blocks_lib
from lrjax.launch import traces

TABLE = "table:{folder}/own.csv?target=y&hidden=8"
# Another task of arrays and one of drawn rows add no other kind of program to these.
SLOW = (TABLE, "synthetic/regression-3", "synthetic/classification-5")
KINDS = (
    *("libsvm/iris", "own"),
    *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr(traces, "_folder", [])
    traces.keep_in(tmp_path)
    return tmp_path


def planned(task, names=("adam", "prodigy"), **fields):
    config = config_lib.base()
    config.update({"tasks": ("libsvm/iris",), "steps": 12, "eval_every": 4, "seeds": 2})
    config.update({"methods": names} | fields)
    settings = config_lib.check(config)
    if not isinstance(task, str):
        return blocks_lib.plan(settings, [task])[0]
    settings = dataclasses.replace(settings, tasks=(task,))
    return blocks_lib.plan(settings, blocks_lib.make_tasks(settings, None))[0]


def squared(outputs, targets):
    return (outputs[:, 0] - targets) ** 2


def own_task(loss=squared, metrics=None):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(60, 3)).astype(np.float32)
    return lrjax.Task.from_functions(
        lambda key: jax.random.normal(key, (3, 1)),
        lambda params, inputs: inputs @ params,
        loss,
        train=(x, x.sum(1)),
        **({"metrics": metrics} if metrics else {}),
    )


def trained(block, keep=traces.recalled):
    seeds, inputs = block.inputs()
    compiled = programs.compile_program(block.program, seeds, inputs, keep)
    steps = block.example.steps
    *_, last = programs.train(compiled, block.program, seeds, inputs, steps)
    return last.values, last.state


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_the_same_traced_kept_and_recalled(kind, kept, monkeypatch):
    (kept / "own.csv").write_text(
        "a,b,y\n" + "".join(f"{i % 7},{i % 5},{'pq'[i % 2]}\n" for i in range(60))
    )
    task = own_task() if kind == "own" else kind.format(folder=kept)
    block = planned(task)
    plain = trained(block, lambda program, segment, arguments: segment)
    first = trained(block)
    (path,) = kept.glob("*.trace")
    # `segment` is replaced after the name was found: it is not called again.
    monkeypatch.setattr(programs, "segment", None)
    again = trained(planned(task))
    assert_equal(plain, first)
    assert_equal(plain, again)
    assert list(kept.glob("*.trace")) == [path]


@pytest.mark.parametrize("method", ["adam", "soap"])
def test_lapack_is_made_ready_where_it_is_called(method, kept):
    first = trained(planned("libsvm/iris", [method]))
    (path,) = kept.glob("*.trace")
    exported, _ = traces._read(path)
    assert exported.platforms == (("cpu",) if method == "soap" else ())  # QR
    assert_equal(first, trained(planned("libsvm/iris", [method])))


def test_what_a_block_starts_with_is_compiled_with_its_program():
    block = planned(own_task())
    shapes = jax.eval_shape(block.inputs)
    compiled = programs.compile_program(block.program, *shapes)
    heard = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **about: heard.append((name, about.get("fun_name")))
    )
    compiled.init(*block.inputs())
    assert not [fun for name, fun in heard if name == spans.LOWERED]
    jax.jit(lambda x: x * 3.5 + 17)(np.ones(3))  # the listener hears of what is traced
    assert [fun for name, fun in heard if name == spans.LOWERED]


def name_of(block):
    """The name of a block's trace."""
    names = []

    def keep(program, segment, arguments):
        names.append(traces._name(program, arguments))
        raise StopIteration

    seeds, inputs = block.inputs()
    with pytest.raises(StopIteration):
        programs.compile_program(block.program, seeds, inputs, keep)
    return names[0]


@pytest.mark.slow
def test_what_decides_a_program_changes_its_name(monkeypatch):
    def own_method(scale):
        def build(horizon, learning_rate=0.1):
            return optax.chain(optax.scale(scale), optax.sgd(learning_rate))

        return Method("mine", build, {"learning_rate": 0.1}, "fixed", "own")

    def with_own(scale, task):
        monkeypatch.setitem(methods.METHODS, "mine", own_method(scale))
        return planned(task, ("mine", "adam"))

    def cubed(outputs, targets):
        return jnp.abs(outputs[:, 0] - targets) ** 3

    @jax.custom_vjp
    def odd(outputs):
        return outputs

    odd.defvjp(lambda x: (x, None), lambda _, g: (2 * g,))

    @jax.custom_vjp
    def even(outputs):
        return outputs

    even.defvjp(lambda x: (x, None), lambda _, g: (3 * g,))
    plus = lrjax.Metric("size", lambda s: s["count"], True)
    minus = lrjax.Metric("size", lambda s: -s["count"], True)
    task = own_task()
    blocks = {
        "plain": planned(task),
        "methods": planned(task, ("adam", "dowg")),
        "their order": planned(task, ("prodigy", "adam")),
        "lanes": planned(task, grid={"learning_rate": (0.1, 0.2)}),
        "seeds": planned(task, seeds=3),
        "rounds": planned(task, eval_every=5),
        "batch": planned(dataclasses.replace(task, batch_size=7)),
        "clipping": planned(dataclasses.replace(task, max_norm=1.0)),
        "rows measured": planned(dataclasses.replace(task, measured_rows=9)),
        "pieces": planned(dataclasses.replace(task, batch_size=8, micro_batches=2)),
        "size": planned(dataclasses.replace(task, batch_size=8)),
        "loss": planned(own_task(cubed)),
        "constant": planned(own_task(lambda o, t: (o[:, 0] - t - jnp.ones(())) ** 2)),
        "derivative": planned(own_task(lambda o, t: (odd(o)[:, 0] - t) ** 2)),
        "another": planned(own_task(lambda o, t: (even(o)[:, 0] - t) ** 2)),
        "metric": planned(own_task(metrics=["loss", plus])),
        "its value": planned(own_task(metrics=["loss", minus])),
        "own method": with_own(1.0, task),
        "its code": with_own(2.0, task),
    }
    names = {what: name_of(block) for what, block in blocks.items()}
    seen = {}
    for what, name in names.items():
        assert seen.setdefault(name, what) == what
    assert name_of(planned(own_task())) == names["plain"]
    # Traced values are no part of a program.
    slow = planned(task, hparams={"adam": {"learning_rate": 0.5}}, steps=20)
    assert name_of(slow) == names["plain"]
    single = name_of(planned("libsvm/iris"))
    with jax.enable_x64(True):
        assert name_of(planned("libsvm/iris", precision="float64")) != single
    monkeypatch.setattr(traces, "_code", lambda: "another version")
    assert name_of(planned(task)) not in seen


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A block, what it was trained to, and its trace."""
    folder = tmp_path_factory.mktemp("finished")
    block = planned("libsvm/iris")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(traces, "_folder", [])
        traces.keep_in(folder)
        before = trained(block)
    (path,) = folder.glob("*.trace")
    return block, before, path


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "text", "folder"])
def test_damaged_traces_are_made_again(damage, kept, finished):
    block, before, whole = finished
    path, content = kept / whole.name, whole.read_bytes()
    damaged = {
        "empty": b"",
        "cut": content[:-10],
        "flipped": content[:200] + bytes([content[200] ^ 1]) + content[201:],
        "text": b"lrjax trace 1\nnothing\n",
    }
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes(damaged[damage])
    assert_equal(before, trained(block))
    assert list(kept.iterdir()) == [path]
    assert path.is_dir() or traces._read(path)


def test_links_are_not_followed(kept, finished):
    block, before, elsewhere = finished
    path = kept / elsewhere.name
    path.symlink_to(elsewhere)
    assert_equal(before, trained(block))
    assert not path.is_symlink()
    assert traces._read(path)


def test_programs_that_call_python_are_traced_each_time(kept):
    def loss(outputs, targets):
        shape = jax.ShapeDtypeStruct(targets.shape, targets.dtype)
        told = jax.pure_callback(np.asarray, shape, targets, vmap_method="sequential")
        return (outputs[:, 0] - told) ** 2

    block = planned(own_task(loss))
    assert_equal(trained(block), trained(planned(own_task())))
    assert len(list(kept.glob("*.trace"))) == 1  # of the second


def test_without_flatbuffers_nothing_is_kept(kept, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    trained(planned("libsvm/iris"))
    assert not list(kept.iterdir())


def test_a_full_disk_costs_nothing_but_time(kept, monkeypatch):
    def full(path, content):
        raise UsageError("cannot write")

    monkeypatch.setattr(traces.files, "replace", full)
    trained(planned("libsvm/iris"))
    assert not list(kept.iterdir())
