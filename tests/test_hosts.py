"""Several hosts, here processes over loopback, give the tables of one process."""

import concurrent.futures
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lrjax import results
from lrjax.messages import STOPPING

ROOT = Path(__file__).parent.parent
ASKED = (
    "--config=configs/libsvm.py:iris",
    "--config.methods=adam,prodigy",
    "--config.seeds=7",  # two blocks of each method
    "--config.epochs=10",
)
# Trains for some seconds, and saves after each segment.
LONG = ("--config.epochs=20000", "--config.seeds=6", "--config.checkpoint_minutes=0")
PROGRAM = ("main.py", "--multihost", *ASKED)
# Saves and restores on each host, and prints what came back, and which of the keys that
# all hosts share were set meanwhile.
SAVING = """
import pathlib, sys
import jax, jax.numpy as jnp, numpy as np
from orbax.checkpoint._src.futures import signaling_client
from lrjax.launch import checkpoint, hosts
hosts.start()
client = type(signaling_client.get_signaling_client())
assert client is signaling_client.JaxDistributedSignalingClient, client
keys, set_key = [], client.key_value_set
def noting(self, key, *rest, **named):
    keys.append(key)
    set_key(self, key, *rest, **named)
client.key_value_set = noting
home = pathlib.Path(sys.argv[1].partition("=")[2], str(jax.process_index()))
own = 1.0 + jax.process_index()
state = {"a": np.arange(5.0) * own, "b": jnp.full(3, own, jnp.bfloat16),
         "key": jax.random.key(7), "none": jnp.zeros((0, 2)), "n": 3}
for step in range(1, 4):
    checkpoint.save(home / "block", step, state, {"seconds": own})
step, found, facts = checkpoint.restore(home / "block", state)
assert (step, facts) == (3, {"seconds": own}), (step, facts)
for tree in (state, found):
    tree["key"] = jax.random.key_data(tree["key"])
for name in state:
    wanted, got = (np.asarray(tree[name]) for tree in (state, found))
    assert wanted.dtype == got.dtype, (name, wanted, got)
    assert np.array_equal(wanted, got), (name, wanted, got)
print("set:", *keys, file=sys.stderr)
"""


def start(count, workdir, *flags, each=lambda host: (), program=PROGRAM, place=()):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    place = dict(place) | {"JAX_PLATFORMS": "cpu", "JAX_COORDINATOR_ADDRESS": address}
    command = (sys.executable, *program, f"--workdir={workdir}", *flags)
    return [
        subprocess.Popen(
            [*command, *each(host)],
            cwd=ROOT,
            env=os.environ
            | place
            | {"JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(host)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for host in range(count)
    ]


def ends(hosts):
    """Exit codes, and what was said to stderr."""
    try:
        # All are read at once: a host whose pipe is full would stop.
        with concurrent.futures.ThreadPoolExecutor(len(hosts)) as pool:
            said = list(pool.map(lambda host: host.communicate(timeout=300)[1], hosts))
    finally:
        for host in hosts:
            host.kill()
    return [host.returncode for host in hosts], said


def one(workdir, *flags, place=()):
    command = (sys.executable, "main.py", *ASKED, *flags, f"--workdir={workdir}")
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | dict(place),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def numbers(workdir):
    """The rows of both tables but for times, in one order; each run once."""
    tables = {}
    for name in (results.RUNS, results.CURVES):
        rows = results.read_rows(workdir, name)  # refuses doubles
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
        tables[name] = sorted(map(json.dumps, rows))
    assert tables[results.RUNS]
    return tables


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder that one process wrote."""
    folder = tmp_path_factory.mktemp("whole")
    one(folder, "--config.save_params")
    return folder


def check(workdir, whole):
    assert numbers(workdir) == numbers(whole)
    assert not (workdir / "hosts").exists()
    params = {p.name: p.read_bytes() for p in (workdir / "params").iterdir()}
    assert params == {p.name: p.read_bytes() for p in (whole / "params").iterdir()}


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_hosts_give_the_numbers_of_one_process(tmp_path, whole, count):
    codes, said = ends(start(count, tmp_path, "--config.save_params"))
    assert codes == [0] * count, said
    shares = [int(text.split(" runs to train")[0].split("\n")[-1]) for text in said]
    assert sum(shares) == 14
    assert all(shares)
    check(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "shard"),
    [
        *(("libsvm/iris", shard) for shard in ("runs", "batch", "params")),
        ("bookwiki/roberta_tiny", "params"),
    ],
)
def test_hosts_of_four_devices_each(tmp_path, task, shard):
    devices = "--xla_force_host_platform_device_count=4"
    place = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {devices}"}
    place["NPROC"] = "16"  # threads of XLA; with fewer than devices it may wait forever
    flags = (f"--config.tasks={task}", f"--config.shard={shard}", "--config.steps=3")
    flags += ("--config.eval_every=2", "--config.seeds=2", "--config.batch_size=8")
    codes, said = ends(start(2, tmp_path / "hosts", *flags, place=place))
    assert codes == [0, 0], said
    text = one(tmp_path / "one", *flags, place=place)
    assert shard == "runs" or "each block on all 4 devices" in text
    if shard == "runs":
        assert numbers(tmp_path / "hosts") == numbers(tmp_path / "one")
        return
    # Among several processes CPUs add up in another order (Gloo's).
    for name in (results.RUNS, results.CURVES):
        tables = (
            results.read_rows(tmp_path / where, name) for where in ("hosts", "one")
        )
        found, wanted = (sorted(rows, key=in_order) for rows in tables)
        for ours, one_s in zip(found, wanted, strict=True):
            for key, value in one_s.items():
                if key == "seconds":
                    continue
                is_float = isinstance(value, float)
                assert ours[key] == (pytest.approx(value, 1e-4) if is_float else value)


def in_order(row):
    return row["run_id"], row.get("step", 0)


@pytest.mark.slow
def test_what_one_process_did_is_skipped_and_the_other_way_round(tmp_path, whole):
    one(tmp_path, "--config.save_params", "--config.methods=adam")
    codes, said = ends(start(2, tmp_path, "--config.save_params"))
    assert codes == [0, 0], said
    check(tmp_path, whole)
    before = (tmp_path / results.RUNS).read_bytes()
    one(tmp_path, "--config.save_params")
    assert (tmp_path / results.RUNS).read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("signum", [*STOPPING, signal.SIGKILL])
def test_killed_hosts_go_on_and_so_do_fewer(tmp_path, signum):
    hosts = start(3, tmp_path / "killed", *LONG)
    until = time.monotonic() + 120
    pattern = "checkpoints/*/*/manifest.json"
    while not list((tmp_path / "killed").glob(pattern)):
        assert time.monotonic() < until
        time.sleep(0.02)
    for host in hosts:
        host.send_signal(signum)
    codes, said = ends(hosts)
    assert codes == [-signum if signum == signal.SIGKILL else 128 + signum] * 3, said
    assert not (tmp_path / "killed" / results.RUNS).exists()
    kept = list((tmp_path / "killed").glob(pattern))
    codes, said = ends(start(2, tmp_path / "killed", *LONG))
    assert codes == [0, 0], said
    assert kept
    one(tmp_path / "whole", *LONG)
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")


def test_hosts_that_save_at_once_share_no_keys(tmp_path):
    codes, said = ends(start(2, tmp_path, program=("-c", SAVING)))
    assert codes == [0, 0], said
    for text in said:
        assert "set:" in text.splitlines()
    assert len(list(tmp_path.glob("*/block/3/manifest.json"))) == 2


@pytest.mark.slow
def test_what_one_host_cannot_do_ends_all_in_one_line(tmp_path):
    def differ(host):
        return [f"--config.epochs={10 + host}"]

    codes, said = ends(start(2, tmp_path / "a", each=differ))
    assert codes == [2, 2], said
    for text in said:
        assert "error: --multihost: host 1 would train other blocks" in text
    (tmp_path / "b").mkdir()
    with results.Tables(tmp_path / "b"):
        codes, said = ends(start(2, tmp_path / "b"))
    assert codes == [2, 2], said
    for text in said:
        assert "is in use by another process" in text


@pytest.mark.parametrize(
    ("flags", "place", "message"),
    [
        ((), {}, "--multihost: JAX does not find the other hosts"),
        ((), {"JAX_PROCESS_ID": "1", "JAX_NUM_PROCESSES": "2"}, "JAX_COORDINATOR"),
        (("--mode=tune",), {}, "--multihost is for --mode=train, not tune"),
    ],
)
def test_bad_input(tmp_path, flags, place, message):
    command = (sys.executable, "main.py", "--multihost", *ASKED, *flags)
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'none'}"],
        cwd=ROOT,
        env=os.environ | place | {"JAX_PLATFORMS": "cpu", "LRJAX_HOSTS_WAIT": "1"},
        capture_output=True,
        text=True,
    )
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "none").exists()
