"""What is said of this machine: the kind of device, and memory in use."""

import subprocess
import sys
from pathlib import Path

import jax
import pytest

from lrjax import machine

PACKAGE = Path(machine.__file__).parent


def test_the_kind_is_that_of_jax_unless_programs_are_for_another():
    here = jax.default_backend()
    assert machine.kind() == here
    assert machine.is_here()
    with machine.compiling_for("tpu"):
        assert machine.kind() == "tpu"
        assert not machine.is_here()
        with machine.compiling_for("gpu"):
            assert machine.kind() == "gpu"
        assert machine.kind() == "tpu"
    with pytest.raises(RuntimeError), machine.compiling_for("gpu"):
        raise RuntimeError
    assert machine.kind() == here
    assert machine.is_here()


def test_nothing_else_asks_jax():
    askers = [p for p in PACKAGE.rglob("*.py") if "default_backend" in p.read_text()]
    assert askers == [Path(machine.__file__)]


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_the_memory_of_children_counts():
    before = machine.resident_memory()
    script = "content = b'x' * 2**28; print(flush=True)\nopen(0).read()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout
        assert child.stdin
        child.stdout.readline()
        assert machine.resident_memory() - before > 2**28
        child.stdin.close()
    assert machine.resident_memory() - before < 2**27
