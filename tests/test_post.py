"""What hosts send to host 0, and host 0 to all, arrives whole and in order."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = """
import hashlib, json, random, sys
import jax
from lrjax.core import UsageError
from lrjax.launch import post

address, number, way = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(address, 3, number)
if way == "rounds":
    post._client = lambda: None  # as with a version of JAX that lacks the store
else:
    assert post._client()
chance = random.Random(number)
sizes = [[0, 1, 100], [], [3_000_000, 0, 70_000, 1]][number]
pieces = [chance.randbytes(size) for size in sizes]
sent = [hashlib.sha256(piece).hexdigest() for piece in pieces]
taken, few = [], []

def refuse(piece):
    few.append(piece)
    if len(few) == 2:
        raise UsageError("the disk is full")

no = lambda: 0
problems = [post.to_first(pieces, taken.append, no)]
problems.append(post.to_first(iter([b"a", b"b", b"c"]), refuse, no))
told = [post.from_first(b"%d" % number * size, no) for size in (0, 1, 3_000_000)]
taken = [hashlib.sha256(piece).hexdigest() for piece in taken]
few = [piece.decode() for piece in few]
told = [[len(each), sorted(set(each.decode()))] for each in told]
print(json.dumps([sent, taken, problems, few, told]))
"""


@pytest.mark.parametrize("way", ["store", "rounds"])
def test_pieces_arrive_whole_and_in_order(way):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, address, str(host), way],
            cwd=ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for host in range(3)
    ]
    said = [host.communicate(timeout=300)[0] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0, 0]
    sent, taken, problems, few, told = zip(
        *(json.loads(text.splitlines()[-1]) for text in said), strict=True
    )
    whole = [digest for each in sent for digest in each]
    if way == "store":
        assert taken[0] == whole  # one host after the other
    else:
        assert sorted(taken[0]) == sorted(whole)
    assert taken[1:] == ([], [])
    assert problems == (["", "the disk is full"], ["", ""], ["", ""])
    assert [len(each) for each in few] == [2, 0, 0]
    assert told == ([[0, []], [1, ["0"]], [3_000_000, ["0"]]],) * 3
