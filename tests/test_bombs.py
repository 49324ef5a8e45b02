"""Files of kilobytes that unfold to gigabytes take no more memory than the limits."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Read by `tests/bombs.py`: the memory in MiB that its reader's limits allow. What has
# none of its own is to take next to nothing.
LITTLE = 24
ALLOWED = {
    **dict.fromkeys(("tar", "picture", "csv", "zip", "policy", "wanted"), LITTLE),
    **dict.fromkeys(("other", "tokenizer"), LITTLE),
    "entries": 32,  # MAX_LINE of svmlight files
    "line": 128,  # MAX_LINE of texts
    "idx": 256,  # _MAX_FILE
    "pickle": 256 + 256,  # and _MOST instructions of 60 bytes
    "rows": 1024,  # MAX_ELEMENTS of 8 bytes
}


def measured(folder, mib, kinds):
    """Kind -> (MiB, message), read in a process of its own."""
    program = Path(__file__).parent / "bombs.py"
    done = subprocess.run(
        [sys.executable, program, folder, str(mib), *kinds],
        cwd=program.parent.parent,
        env={**os.environ, "PYTHONPATH": str(program.parent.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split(" ", 2) for line in done.stdout.splitlines()]
    assert [kind for kind, *_ in lines] == list(kinds)
    return {kind: (int(size), said) for kind, size, said in lines}


def check(found):
    for kind, (size, said) in found.items():
        print(f"{kind}: {size} MiB, {said}")
        # And 2 MiB for all that is no content.
        assert size <= 2 * ALLOWED[kind] + 2, f"{kind} takes {size} MiB: {said}"
        assert (said == "read") == (kind == "other"), said


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measured as Linux does")
def test_what_is_not_wanted_is_not_unfolded(tmp_path):
    kinds = [kind for kind, most in ALLOWED.items() if most == LITTLE]
    check(measured(tmp_path, 128, kinds))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measured as Linux does")
@pytest.mark.parametrize("kind", ALLOWED)
def test_a_file_takes_no_more_than_twice_its_limit(kind, tmp_path):
    check(measured(tmp_path, 300 if kind == "zip" else 1100, [kind]))
