"""What JAX is told before it starts."""

import ctypes
import os
import subprocess
import sys

import pytest

_BYTES = 2**28
# Faults of pages while a block is written to for the second time.
_PROGRAM = """
import ctypes, resource, threading
from lrjax.launch import startup

startup.keep_freed_memory(["bookwiki/roberta_tiny", {task!r}])
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def write():
    global faults
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = libc.malloc({size})
        ctypes.memset(block, 1, {size})
        libc.free(block)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

thread = threading.Thread(target=write)
thread.start()
thread.join()
print(faults)
"""


def _faults(task, **environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    clean.pop("GLIBC_TUNABLES", None)
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(task=task, size=_BYTES)],
        env=clean | {"JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc"
)
def test_freed_blocks_are_kept_for_models_with_a_call_for_each_step():
    pages = _BYTES // os.sysconf("SC_PAGE_SIZE")
    assert _faults("cifar10/wrn16_2") < pages / 10
    assert _faults("libsvm/iris") >= pages / 10
    assert _faults("cifar10/wrn16_2", MALLOC_ARENA_MAX="8") >= pages / 10
    assert _faults("cifar10/wrn16_2", JAX_PLATFORMS="cuda") >= pages / 10
