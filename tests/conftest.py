"""What all tests share: one folder of compiled programs, and strict types."""

import gc
import importlib.metadata
import os
import tempfile

import hypothesis
import pytest

# A machine may be busy: how long an example takes is no reason to fail.
hypothesis.settings.register_profile("lrjax", deadline=None)
hypothesis.settings.load_profile("lrjax")


def pytest_configure(config):
    """Point lrjax and JAX to a new cache, and make both refuse mixed types."""
    if not hasattr(config, "workerinput"):  # a pytest-xdist worker has the session's
        _point_to_a_new_cache(config)
    _be_strict()


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Look for no garbage among thousands of tests and modules, which all stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep the tests of a file in one worker, mostly: they share what is compiled."""
    from xdist.scheduler import WorkStealingScheduling

    asked = config.getvalue("dist")  # `load` is what `-n` alone means
    return WorkStealingScheduling(config, log) if asked == "load" else None


def _point_to_a_new_cache(config):
    """Set environment variables, which processes started by tests share."""
    folder = tempfile.TemporaryDirectory(prefix="lrjax-tests-")
    config.add_cleanup(folder.cleanup)
    os.environ["LRJAX_CACHE"] = folder.name
    # For the tests' own process, before JAX is imported; where main.py puts them too.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(folder.name, "xla")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    # Tests compile much and run little: XLA's other way to fuse takes half the time,
    # and so does a program that LLVM gets whole instead of in 32 parts; without LLVM's
    # expensive passes it is a few percent less.
    # From jaxlib 0.11 on there is one way, and XLA aborts at a flag it does not know.
    quick = "--xla_backend_optimization_level=0"
    version = importlib.metadata.version("jaxlib").split(".")
    if (int(version[0]), int(version[1])) < (0, 11):
        quick += " --xla_cpu_use_fusion_emitters=false"
        quick += " --xla_cpu_parallel_codegen_split_count=1"
        quick += " --xla_llvm_disable_expensive_passes=true"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}".strip()
    # OpenBLAS's threads wait for each other by spinning, and each worker has its own:
    # with as many as cores, selections took twice as long.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    # Each worker and each process started by a test would compile all modules again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def _be_strict():
    """Make JAX refuse to promote types in silence, in lrjax's own runs too.

    lrjax sets JAX's settings itself; what it ships is `standard`, for tasks of users.
    """
    import jax

    from lrjax.common import numerics

    numerics.SETTINGS["jax_numpy_dtype_promotion"] = "strict"
    jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def registries():
    """Registries of parts, which forget at the end what a test registered."""
    from lrjax import core, launch, methods, tasks, track
    from lrjax.hpo import tuners
    from lrjax.reports import analyses

    known = (methods.METHODS, tasks.TASKS, core.METRICS, tuners.PLAIN)
    known += (launch.LAUNCHERS, track.TRACKERS)
    kept = [(registry, dict(registry)) for registry in known]
    sections = list(analyses.ANALYSES)
    yield
    for registry, before in kept:
        registry.clear()
        registry.update(before)
    analyses.ANALYSES[:] = sections


@pytest.fixture
def one_figure(monkeypatch):
    """Put a report's first figure in the place of all, each time in files that differ.

    For tests of files, tables and words: drawing takes most of a report's time.
    """
    from lrjax.reports import drawing

    picture, drawn, count = drawing.picture, [], [0]

    def first(*arguments):
        if not drawn:
            drawn.append(picture(*arguments))
        count[0] += 1
        shown, files = drawn[0]
        mark = f"<!-- {count[0]} -->".encode()
        return shown, {kind: content + mark for kind, content in files.items()}

    monkeypatch.setattr(drawing, "picture", first)
