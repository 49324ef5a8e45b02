"""What JAX is told before it starts."""

import ctypes
import os
import subprocess
import sys

import pytest

_BYTES = 2**28
# Faults of pages while a block is written to for the second time.
_PROGRAM = f"""
import ctypes, resource, threading
from lrjax import backend

backend.keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def write():
    global faults
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = libc.malloc({_BYTES})
        ctypes.memset(block, 1, {_BYTES})
        libc.free(block)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

thread = threading.Thread(target=write)
thread.start()
thread.join()
print(faults)
"""


def _faults(**environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    clean.pop("GLIBC_TUNABLES", None)
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc"
)
def test_a_freed_block_is_used_again_unless_the_environment_says_how():
    pages = _BYTES // os.sysconf("SC_PAGE_SIZE")
    assert _faults() < pages / 10
    assert _faults(MALLOC_PERTURB_="0") >= pages / 10
