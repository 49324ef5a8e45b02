"""What all tests share: one folder of compiled programs for the session."""

import os
import tempfile


def pytest_configure(config):
    """Points lrjax and JAX to a new cache, which processes started by tests share."""
    if hasattr(config, "workerinput"):  # a pytest-xdist worker has the session's
        return
    folder = tempfile.TemporaryDirectory(prefix="lrjax-tests-")
    config.add_cleanup(folder.cleanup)
    os.environ["LRJAX_CACHE"] = folder.name
    # For the tests' own process, before JAX is imported; where main.py puts them too.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(folder.name, "xla")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    # Tests compile much and run little.
    quick = "--xla_backend_optimization_level=0"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}".strip()
