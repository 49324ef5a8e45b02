"""Blocks on a Dask cluster: the local launcher's bits, whoever dies or joins."""

import contextlib
import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import distributed
import jax
import psutil
import pytest
from distributed.cli import dask_worker as dask_worker_command

from lrjax import config as config_lib
from lrjax import results
from lrjax.core import UsageError
from lrjax.hpo import race, targets, trials, tune
from lrjax.hpo import search as search_lib
from lrjax.launch import (
    blocks,
    dask_client,
    dask_worker,
    experiment,
)
from lrjax.launch import local as local_lib
from lrjax.launch import slurm as slurm_lib
from lrjax.launch.units import Unit
from lrjax.messages import STOPPING

ROOT = Path(__file__).parent.parent


def settings(epochs=40_000, tuner="", budget=0, seeds=2, **changes):
    """Two blocks that are checkpointed all the time; or a tuning, or a selection."""
    config = config_lib.base()
    config.tasks, config.methods = ("libsvm/iris",), ("adam",)
    config.seeds, config.epochs = 10, epochs
    config.eval_every = 10_000  # so several segments
    config.checkpoint_minutes = 0.0
    if tuner:
        config.methods, config.seeds = ("sgd",), 1
        config.tune.tuner, config.tune.trials = tuner, 9
    if budget:
        config.methods, config.eval_every = ("adamw_cosine", "sgd"), None
        config.select.budget, config.select.seeds = budget, seeds
    for name, value in changes.items():
        config.cluster[name] = value
    return config_lib.check(config)


def rows_of(folder, *more):
    """Rows of both tables and more without measured times, in a fixed order."""
    found = []
    for name in (results.RUNS, results.CURVES, *more):
        rows = map(json.loads, (folder / name).read_text().splitlines())
        each = [json.dumps(row | {"seconds": None}) for row in rows]
        assert len(set(each)) == len(each)
        found.append(sorted(each))
    return found


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    experiment.run(settings(), folder)
    return rows_of(folder)


@pytest.fixture(scope="module")
def workers():
    with distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        memory_limit=0,
        dashboard_address="127.0.0.1:0",
        silence_logs=50,
    ) as made:
        yield made


def busy(folder):
    """Wait for a checkpoint, so that a block is half done."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if list(folder.glob("checkpoints/*/*/manifest.json")):
            return
        time.sleep(0.005)
    raise AssertionError("no block was ever half done")


@pytest.mark.slow
def test_a_worker_dies_and_another_joins(workers, local, tmp_path):
    wanted, failed = settings(address=workers.scheduler_address), []

    def train():
        try:
            experiment.run(wanted, tmp_path, launch=dask_client.launch)
        except BaseException as error:
            failed.append(error)

    with distributed.Client(workers) as client:
        (first,) = client.run(os.getpid).values()
        thread = threading.Thread(target=train)
        thread.start()
        busy(tmp_path)
        os.kill(first, signal.SIGKILL)  # its nanny starts another one
        workers.scale(2)
        thread.join()
        assert not failed
        assert first not in client.run(os.getpid).values()
        assert len(client.scheduler_info(n_workers=-1)["workers"]) == 2
    assert rows_of(tmp_path) == local
    assert not (tmp_path / "parts").exists()
    # All is done: nothing is handed out, nothing changes.
    before = (tmp_path / results.RUNS).read_bytes()
    experiment.run(wanted, tmp_path, launch=dask_client.launch)
    assert (tmp_path / results.RUNS).read_bytes() == before


@pytest.mark.filterwarnings("ignore:config.eval_every=10000 exceeds the length")
def test_without_a_shared_folder_rows_come_over_the_net(workers, tmp_path):
    wanted = settings(epochs=9, address=workers.scheduler_address)
    wanted = dataclasses.replace(wanted, eval_every=None)
    experiment.run(wanted, tmp_path / "local")
    with dask_client.launch(wanted, tmp_path / "client") as launcher:
        sent = dask_client._unit_message(Unit(launcher.blocks(wanted)[0]))
        nowhere = str(tmp_path / "nowhere")
        arguments = (sent, wanted, None, nowhere, launcher._expected)
        trained = launcher._client.submit(dask_worker.train, *arguments).result()
    runs = [json.loads(line) | {"seconds": None} for line in trained.runs.splitlines()]
    assert len(runs) == 5
    assert {json.dumps(row) for row in runs} < set(rows_of(tmp_path / "local")[0])
    assert [path.name for path in (tmp_path / "client").rglob("*")] == [".lock"]
    assert not (tmp_path / "nowhere").exists()


def test_names_that_are_not_utf8_reach_the_workers(workers, tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff [x]*\n"))
    folder.mkdir()
    data = Path(os.fsdecode(os.fsencode(folder) + b"/\xfe.svm"))
    data.write_text("".join(f"{i % 3} 1:{i % 7}\n" for i in range(60)))
    wanted = dataclasses.replace(
        settings(epochs=2, address=workers.scheduler_address),
        **{"tasks": (f"svmlight:{data}",), "seeds": (0,), "eval_every": None},
        save_params=True,
    )
    experiment.run(wanted, folder / "local")
    experiment.run(wanted, folder / "cluster", launch=dask_client.launch)
    assert len(results.read_rows(folder / "cluster", results.RUNS)) == 1
    assert rows_of(folder / "cluster") == rows_of(folder / "local")
    assert len(list((folder / "cluster" / "params").iterdir())) == 1


def test_workers_that_differ_are_refused(workers, tmp_path):
    wanted = settings(address=workers.scheduler_address)
    with dask_client.launch(wanted, tmp_path) as launcher:
        sent = dask_client._unit_message(Unit(launcher.blocks(wanted)[0]))

        def train(sent, **other):
            expected = launcher._expected | other
            arguments = (sent, wanted, None, str(tmp_path), expected)
            return launcher._client.submit(dask_worker.train, *arguments).result()

        with pytest.raises(UsageError, match=r"has jax .*, others have 0"):
            train(sent, jax="0")
        with pytest.raises(UsageError, match="other data for libsvm/iris"):
            train(sent._replace(name="0" * 16))


def test_a_client_of_another_version_is_refused(workers, tmp_path, monkeypatch):
    monkeypatch.setattr(dask_client, "NUMERICS_VERSION", -1)
    wanted = settings(address=workers.scheduler_address)
    with pytest.raises(UsageError, match=r"worker tcp:.* has numerics \d+, the client"):
        experiment.run(wanted, tmp_path, launch=dask_client.launch)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_task_without_data_is_an_error_in_one_line(workers, tmp_path):
    config = config_lib.base()
    config.tasks, config.methods = ("svmlight:/nowhere",), ("sgd",)
    config.cluster.address = workers.scheduler_address
    with pytest.raises(UsageError, match="/nowhere"):
        experiment.run(config_lib.check(config), tmp_path, launch=dask_client.launch)


@pytest.mark.filterwarnings("ignore:config.eval_every=10000 exceeds the length")
def test_trials_have_the_local_launchers_bits(workers, tmp_path):
    wanted = settings(epochs=9, tuner="asha", address=workers.scheduler_address)
    tune.run(wanted, tmp_path / "local")
    tune.run(wanted, tmp_path / "cluster", launch=dask_client.launch)
    rows = rows_of(tmp_path / "cluster", results.TRIALS)
    assert [len(table) for table in rows] == [1, 1, 9]
    assert rows == rows_of(tmp_path / "local", results.TRIALS)
    assert {json.loads(row)["budget"] for row in rows[2]} == {1, 3}  # one goes on
    assert not (tmp_path / "cluster" / "parts").exists()


def test_a_worker_trains_trials_in_parts_where_memory_gives_out(tmp_path, monkeypatch):
    wanted = settings(epochs=9, tuner="random")
    (target,) = targets.targets(wanted, blocks.make_tasks(wanted, None))
    search = search_lib.Search(target, tune.make_tuner(target, tmp_path))
    search.ask()
    sent = dask_client._unit_message(
        trials.unit_of(trials.make_packs(search.jobs())[0])
    )
    monkeypatch.setattr(dask_worker, "_address", lambda: "here")  # there is no cluster

    def trained(folder):
        expected = dask_worker.facts(wanted)
        return dask_worker.train(sent, wanted, None, str(folder), expected).trials

    first, lanes, train_unit = trained(tmp_path / "whole"), [], local_lib.train_unit

    def tight(unit, *args):
        lanes.append(unit.block.program.num_hparams)
        if len(lanes) == 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return train_unit(unit, *args)

    monkeypatch.setattr(local_lib, "train_unit", tight)
    again = trained(tmp_path / "tight")
    assert lanes == [4, 2, 2]
    assert again.keys() == first.keys()
    for run_id, found in again.items():
        cost = found.values["valid_loss"]
        assert cost == pytest.approx(first[run_id].values["valid_loss"], rel=1e-4)


def test_a_client_on_another_kind_of_device_lays_out_no_trials(
    workers, tmp_path, monkeypatch
):
    wanted = settings(tuner="asha", address=workers.scheduler_address)
    monkeypatch.setattr(dask_worker.machine, "kind", lambda: "tpu")
    with pytest.raises(UsageError, match="backend is tpu here, and cpu on the cluster"):
        tune.run(wanted, tmp_path, launch=dask_client.launch)
    assert not (tmp_path / results.TRIALS).exists()


def start(workdir, *arguments):
    return subprocess.Popen(
        [
            *(sys.executable, "main.py", "--launcher=dask", f"--workdir={workdir}"),
            *("--config=configs/libsvm.py:iris", *arguments),
        ],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def test_a_scheduler_that_does_not_answer(tmp_path):
    address = "--config.cluster.address=tcp://127.0.0.1:9"
    process = start(tmp_path, address, "--config.cluster.timeout=0.5")
    error = process.communicate()[1]
    assert process.returncode == 2
    (line,) = error.strip().splitlines()
    assert line.startswith("error: no Dask scheduler at config.cluster.address=tcp:")


def test_two_launchers_in_one_folder(tmp_path):
    with results.Tables(tmp_path):
        process = start(tmp_path)
        error = process.communicate()[1]
    assert process.returncode == 2
    assert "in use by another process" in error


@pytest.mark.parametrize(
    ("field", "value"),
    [("address", "here"), ("workers", 0), ("gpus", -1), ("timeout", 0), ("queue", 3)],
)
def test_cluster_options_are_checked(field, value):
    config = config_lib.base()
    config.tasks, config.methods = ("libsvm/iris",), ("sgd",)
    with config.unlocked():
        del config.cluster[field]
        config.cluster[field] = value
    with pytest.raises(UsageError, match=rf"config\.cluster\.{field}="):
        config_lib.check(config)


def listening():
    """Addresses and ports where this process and those it started listen."""
    own = psutil.Process()
    found = set()
    for process in (own, *own.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in process.net_connections("tcp"):
                if each.status == psutil.CONN_LISTEN:
                    found.add(tuple(each.laddr))
    return found


def test_a_cluster_on_this_machine_listens_on_loopback_alone():
    before = listening()
    with dask_client._connected(settings(workers=1).cluster) as client:
        client.wait_for_workers(1)
        found = listening() - before
        assert found
        assert {address for address, _ in found} == {"127.0.0.1"}


@pytest.fixture
def slurm():
    return pytest.importorskip("dask_jobqueue.slurm")


def test_slurm_jobs_are_as_asked(slurm):
    asked = settings(
        cores=8, memory="32GB", gpus=1, walltime="04:00:00", queue="gpu", account="me"
    )
    before = listening()
    with slurm.SLURMCluster(**slurm_lib.options(asked.cluster)) as made:
        script = made.job_script()
        open_to_all = {each for each in listening() - before if each[0] != "127.0.0.1"}
    for line in ("-p gpu", "-A me", "--cpus-per-task=8", "--mem=30G", "-t 04:00:00"):
        assert f"#SBATCH {line}" in script
    assert "#SBATCH --gres=gpu:1" in script
    assert f"PYTHONPATH={ROOT}" in script
    (command,) = [line for line in script.splitlines() if "dask_worker" in line]
    flags = shlex.split(command)[3:]
    options = dask_worker_command.main.make_context("worker", flags).params
    assert options["nthreads"] == 1
    assert options["memory_limit"] == "0"
    assert options["dashboard"] is False
    assert options["dashboard_address"] == "127.0.0.1:0"
    assert len({port for _, port in open_to_all}) == 1  # the scheduler's own


@pytest.mark.parametrize(
    ("walltime", "seconds"),
    [
        *(("30", 1800), ("30:30", 1830), ("04:00:00", 14_400), ("1-0", 86_400)),
        *(("1-12:30", 131_400), ("2-00:00:10", 172_810)),
    ],
)
def test_workers_end_before_their_walltime_and_not_all_at_once(walltime, seconds):
    flags = " ".join(slurm_lib._worker_flags(settings(walltime=walltime).cluster))
    life, spread = map(int, re.findall(r"--lifetime(?:-stagger)? (\d+)s", flags))
    assert 0.8 * seconds < life - spread < life + spread < seconds
    assert seconds - (life + spread) >= min(0.049 * seconds, 600)


@pytest.mark.parametrize("walltime", ["", "0", "4h", "1:2:3:4", "-1", "1-", "٣"])
def test_a_walltime_that_slurm_does_not_know_is_refused(walltime):
    with pytest.raises(UsageError, match=r"^config\.cluster\.walltime="):
        slurm_lib.options(settings(walltime=walltime).cluster)


@pytest.mark.parametrize("value", ["/a b", "it's", 'a"b', "$HOME", "`id`", "a;b\n#c"])
def test_job_scripts_quote_what_they_set(value, slurm, monkeypatch):
    monkeypatch.setenv("LRJAX_CACHE", value)
    monkeypatch.setenv("PYTHONPATH", value)
    monkeypatch.setattr(slurm_lib, "__file__", f"{value}/lrjax/launch/slurm.py")
    lines = slurm_lib.options(settings().cluster)["job_script_prologue"]
    shows = """printf '%s\\0%s' "$LRJAX_CACHE" "$PYTHONPATH\""""
    done = subprocess.run(
        ["bash", "-c", "\n".join([*lines, shows])], capture_output=True, text=True
    )
    assert done.stdout == f"{value}\0{value}:{value}"
    assert not done.stderr


def test_the_sites_own_options_stay(slurm):
    theirs = {
        "job-script-prologue": ["module load cuda"],
        "worker-extra-args": ["--interface ib0"],
        "job-extra-directives": ["--exclusive"],
        "scheduler-options": {"host": "10.0.0.1"},
    }
    with dask.config.set({"jobqueue.slurm": theirs}):
        found = slurm_lib.options(settings(extra=("--constraint=a100",)).cluster)
    assert found["job_script_prologue"][0] == "module load cuda"
    assert found["worker_extra_args"][0] == "--interface ib0"
    assert found["job_extra_directives"] == ["--exclusive", "--constraint=a100"]
    assert found["scheduler_options"]["host"] == "10.0.0.1"
    assert found["scheduler_options"]["dashboard"] is False


@pytest.fixture
def certificates(tmp_path, monkeypatch):
    """A certificate and Dask's variables for it, as docs/cluster.md makes them."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    text = (ROOT / "docs" / "cluster.md").read_text()
    (command,) = re.findall(r"^ +(openssl (?:.*\\\n)*.*)$", text, re.MULTILINE)
    subprocess.run(
        command.replace("/shared/tls", str(tmp_path)),
        shell=True,
        check=True,
        capture_output=True,
    )
    for name, value in re.findall(r"export (DASK_\w+)=(\S+)", text):
        monkeypatch.setenv(name, value.replace("/shared/tls", str(tmp_path)))
    dask.config.refresh()
    yield tmp_path
    monkeypatch.undo()
    dask.config.refresh()


def test_all_is_encrypted_as_the_page_says(certificates, slurm):
    with dask_client._connected(settings(workers=1).cluster) as client:
        client.wait_for_workers(1)
        assert client.submit(sum, [1, 2]).result() == 3
        addresses = [client.scheduler.address, *dask_client._workers(client)]
        assert {each.split("://")[0] for each in addresses} == {"tls"}
        host, port = addresses[0].removeprefix("tls://").split(":")
        stranger = ssl.create_default_context(cafile=certificates / "cert.pem")
        stranger.check_hostname = False
        with (
            socket.create_connection((host, int(port))) as opened,
            stranger.wrap_socket(opened) as encrypted,
            pytest.raises(ssl.SSLError, match="certificate required"),
        ):
            encrypted.recv(1)
    options = slurm_lib.options(settings().cluster)
    with slurm.SLURMCluster(**options) as made:
        assert f"--tls-cert {certificates}" in made.job_script()
        assert made.scheduler_address.startswith("tls://")


def interrupt_and_go_on(workdir, *arguments, signum=signal.SIGINT):
    """Start the program, interrupt it at work as a terminal does, let it finish."""
    process = start(workdir, *arguments)
    busy(workdir)
    os.killpg(process.pid, signum)  # its workers, too
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signum, error
    assert error.endswith("Stopped. Run the same command again to resume.\n")
    assert "Traceback" not in error
    again = start(workdir, *arguments)
    error = again.communicate()[1]
    assert again.returncode == 0, error


@pytest.mark.slow
@pytest.mark.parametrize("signum", STOPPING)
def test_an_interrupted_client_goes_on(local, tmp_path, signum):
    arguments = (
        *("--config.methods=adam", "--config.seeds=10", "--config.epochs=40000"),
        *("--config.eval_every=10000", "--config.checkpoint_minutes=0"),
    )
    interrupt_and_go_on(tmp_path, *arguments, signum=signum)
    assert rows_of(tmp_path) == local


def long_tuning(**changes):
    """SMAC's, whose trials take several rounds each and are saved between."""
    wanted = settings(epochs=600_000, tuner="smac", **changes)
    return dataclasses.replace(wanted, tasks=("libsvm/wine",), methods=("adam",))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    tune.run(long_tuning(), folder)
    return rows_of(folder, results.TRIALS)


@pytest.mark.slow
def test_a_worker_dies_while_smac_tunes(workers, tuned, tmp_path):
    wanted = long_tuning(address=workers.scheduler_address)
    failed = []

    def train():
        try:
            tune.run(wanted, tmp_path, launch=dask_client.launch)
        except BaseException as error:
            failed.append(error)

    with distributed.Client(workers) as client:
        before = set(client.run(os.getpid).values())
        thread = threading.Thread(target=train)
        thread.start()
        busy(tmp_path)
        for each in before:
            os.kill(each, signal.SIGKILL)  # nannies start others
        assert not (tmp_path / results.TRIALS).exists()  # it was the first stage
        thread.join()
        assert not failed
        assert not before & set(client.run(os.getpid).values())
    assert rows_of(tmp_path, results.TRIALS) == tuned
    assert not (tmp_path / "parts").exists()


@pytest.mark.slow
def test_an_interrupted_tuning_goes_on(tuned, tmp_path):
    arguments = (
        *("--mode=tune", "--config.tasks=libsvm/wine", "--config.methods=adam"),
        *("--config.seeds=1", "--config.epochs=600000", "--config.eval_every=10000"),
        *("--config.tune.trials=9", "--config.checkpoint_minutes=0"),
    )
    interrupt_and_go_on(tmp_path, *arguments)
    assert rows_of(tmp_path, results.TRIALS) == tuned


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [None, 2], ids=["leaders again", "two of each"])
def test_a_selection_has_the_local_launchers_bits(workers, tmp_path, seeds):
    """On the task's own division of the rows, and on those of later runs."""
    wanted = settings(
        epochs=27, budget=12, seeds=seeds, address=workers.scheduler_address
    )
    options = {"overrides": {"methods": wanted.methods}}
    (local,) = race.run(wanted, tmp_path / "local", **options)
    options["launch"] = dask_client.launch
    (found,) = race.run(wanted, tmp_path / "cluster", **options)
    assert repr(found) == repr(local)
    tables = [rows_of(tmp_path / name, results.RACES) for name in ("local", "cluster")]
    assert tables[0] == tables[1]
    asked = [json.loads(row) for row in tables[0][2]]
    assert len(asked) == 12
    assert {row["fold"] for row in asked} > {0}
