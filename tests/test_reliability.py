"""The promises of docs/reliability.md, kept by the whole program."""

import ast
import contextlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import libsvm
from lrjax import config as config_lib
from lrjax import results, tasks
from lrjax.core import UsageError
from lrjax.launch import experiment

ROOT = Path(__file__).parent.parent
SMALL = (
    "--config=configs/libsvm.py:iris",
    "--config.methods=sgd,prodigy",
    "--config.seeds=2",
    "--config.epochs=300",
    "--config.checkpoint_minutes=0",  # after each segment
    "--config.save_params",
)


def settings_of(**changes):
    """What SMALL asks for."""
    config = libsvm.get_config("iris")
    config.methods, config.seeds, config.epochs = ("sgd", "prodigy"), 2, 300
    config.checkpoint_minutes, config.save_params = 0.0, True
    config.update(changes)
    return config_lib.check(config)


def start(workdir, *flags, script=("main.py",), **options):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *script, *SMALL, f"--workdir={workdir}", *flags],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process):
    """Exit code, and the lines on stderr."""
    _, said = process.communicate(timeout=300)
    return process.returncode, said.splitlines()


def numbers(workdir, torn=False):
    """All rows but for what time it took, by run (and step)."""
    found = {}
    for name in (results.RUNS, results.CURVES):
        path = Path(workdir, name)
        lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
        assert torn or lines[-1] == b"", "the last line is torn"
        for line in lines[:-1]:
            row = json.loads(line)
            row.pop("seconds", None)
            key = (name, row["run_id"], row.get("step"))
            assert key not in found, "a row comes twice"
            found[key] = row
    return found


def kept(workdir):
    """The parameters that were kept, file by file."""
    return {p.name: p.read_bytes() for p in Path(workdir, "params").iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder that nothing was interrupted in."""
    folder = tmp_path_factory.mktemp("whole")
    experiment.run(settings_of(), folder)
    return folder


# Killed at any moment


POINTS = (
    *(("config", 1), ("curves", 1), ("curves", 5), ("curves", 8)),
    *(("runs", 1), ("runs", 2), ("between", 1), ("params", 1), ("params", 3)),
    *(("saving", 1), ("saving", 4), ("saved", 2)),
    *(("manifest", 1), ("manifest", 5), ("dropping", 2), ("discard", 1)),
)


@pytest.mark.slow
@pytest.mark.parametrize(("point", "number"), POINTS)
def test_killed_at_a_chosen_point_it_goes_on_to_the_same_numbers(
    tmp_path, whole, point, number
):
    script = ("tests/killer.py", point, str(number))
    code, said = finish(start(tmp_path, script=script))
    assert code == -signal.SIGKILL, said
    assert numbers(tmp_path, torn=True).items() <= numbers(whole).items()
    code, said = finish(start(tmp_path))
    assert code == 0, said
    assert numbers(tmp_path) == numbers(whole)
    assert kept(tmp_path) == kept(whole)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.slow
def test_killed_at_20_random_moments_it_goes_on_to_the_same_numbers(tmp_path, whole):
    chance = random.Random(0)
    began = time.monotonic()
    assert finish(start(tmp_path / "timed"))[0] == 0
    most = time.monotonic() - began
    kills = completed = 0
    while kills < 20:
        workdir = tmp_path / str(completed)
        process = start(workdir)
        # Most of a short process is imports: half of the kills come after them.
        until = time.monotonic() + chance.uniform(0, most)
        if chance.random() < 0.5:
            for line in process.stderr:
                if "runs to train" in line:
                    break
            until = time.monotonic() + chance.uniform(0, most / 3)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0, until - time.monotonic()))
        process.kill()
        code, said = finish(process)
        if code == -signal.SIGKILL:
            kills += 1
            assert numbers(workdir, torn=True).items() <= numbers(whole).items()
        else:
            assert code == 0, said
            assert numbers(workdir) == numbers(whole)
            completed += 1
    workdir = tmp_path / str(completed)
    assert finish(start(workdir))[0] == 0
    assert numbers(workdir) == numbers(whole)
    assert kept(workdir) == kept(whole)


# Disks and folders


@contextlib.contextmanager
def files_no_larger_than(count):
    """Any file that would grow beyond `count` bytes fails to, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [0, 100, 3000, 20_000, 100_000])
def test_a_full_disk_ends_it_and_loses_nothing(tmp_path, whole, count):
    with files_no_larger_than(count), pytest.raises(UsageError) as error:
        experiment.run(settings_of(), tmp_path)
    assert re.search(r"cannot write .*: File too large", str(error.value))
    assert numbers(tmp_path).items() <= numbers(whole).items()
    assert not list(tmp_path.rglob("*.tmp"))
    if count < 1000:
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    experiment.run(settings_of(), tmp_path)
    assert numbers(tmp_path) == numbers(whole)
    assert kept(tmp_path) == kept(whole)


@pytest.fixture
def unprivileged(tmp_path_factory):
    """A folder of somebody whom permissions hold back; the superuser they do not."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        if os.geteuid() == 0:
            nobody = 65534
            os.chown(path, nobody, nobody)
            os.seteuid(nobody)
            yield path
            os.seteuid(0)
        else:
            yield path
        for each in [path, *path.rglob("*")]:
            each.chmod(0o700)


def test_a_read_only_folder_is_refused(unprivileged):
    unprivileged.chmod(0o500)
    for path in (unprivileged, unprivileged / "below"):
        with pytest.raises(UsageError, match=r"cannot write to workdir .*: Permission"):
            results.Tables(path).__enter__()
    assert not list(unprivileged.iterdir())


@pytest.mark.parametrize("name", [results.RUNS, results.CURVES, "config.json"])
def test_a_read_only_table_is_refused(unprivileged, name):
    with results.Tables(unprivileged) as tables:
        tables.write_config({}, {})
        tables.append(results.RUNS, [{"run_id": "a"}])
        tables.append(results.CURVES, [{"run_id": "a", "step": 1}])
    before = {path: path.read_bytes() for path in unprivileged.iterdir()}
    (unprivileged / name).chmod(0o400)
    if name == "config.json":
        with results.Tables(unprivileged) as tables:
            tables.write_config({}, {})  # a file is replaced, whatever its own mode
        return
    with pytest.raises(UsageError, match=f"cannot write .*{name}: Permission"):
        results.Tables(unprivileged).__enter__()  # before any training
    assert {path: path.read_bytes() for path in unprivileged.iterdir()} == before


@pytest.mark.parametrize("name", [results.RUNS, results.CURVES, "config.json"])
def test_a_table_that_cannot_be_read_is_refused(unprivileged, name):
    with results.Tables(unprivileged) as tables:
        tables.write_config({}, {})
        tables.append(results.RUNS, [{"run_id": "a"}])
        tables.append(results.CURVES, [{"run_id": "a", "step": 1}])
    (unprivileged / name).chmod(0)
    with pytest.raises(UsageError, match=f"{name}"):
        results.Tables(unprivileged).__enter__()


def test_a_second_process_is_told_and_changes_nothing(tmp_path):
    with results.Tables(tmp_path) as tables:
        tables.write_config({}, {})
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        code, said = finish(start(tmp_path))
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert code == 2
    assert said == [f"error: workdir {tmp_path} is in use by another process"]


# The page


def test_tests_that_pages_name_are_there():
    for page in (ROOT / "docs").glob("*.md"):
        for path in re.findall(r"`(tests/[\w/]+(?:\.py|/))`", page.read_text()):
            assert (ROOT / path).exists(), f"{page}: {path}"


# Divergence

RATES = tuple(10.0**k for k in range(-12, 31, 3))


def curves_of(workdir):
    """Curves by seed and learning rate."""
    runs, curves = results.load(workdir)
    found = {}
    for row in runs.itertuples():
        curve = curves[curves["run_id"] == row.run_id].drop(columns="run_id")
        found[row.seed, row.hparams["learning_rate"]] = (
            curve.to_json(orient="values"),
            row.status,
        )
    return found


def test_wild_neighbours_change_no_bit(tmp_path):
    tame = tuple(rate if rate < 1 else 2e-30 * rate for rate in RATES)
    # Decay lets the parameters of the wild ones grow beyond all bounds.
    decay = {"sgd": {"weight_decay": 1e-3}}
    for name, rates in (("wild", RATES), ("tame", tame)):
        settings = settings_of(
            methods=("sgd",), grid={"learning_rate": rates}, hparams=decay, epochs=20
        )
        experiment.run(settings, tmp_path / name)
    wild, calm = curves_of(tmp_path / "wild"), curves_of(tmp_path / "tame")
    assert len(wild) == 2 * len(RATES)
    shared = wild.keys() & calm.keys()
    assert len(shared) == 2 * sum(rate < 1 for rate in RATES)
    assert all(wild[run] == calm[run] for run in shared)
    assert {status for _, status in calm.values()} == {"done"}
    ends = {rate: status for (_, rate), (_, status) in wild.items()}
    assert ends[1e-12] == ends[1e-3] == "done"
    assert ends[1e30] == "diverged"


def test_a_block_of_dead_runs_stops_early(tmp_path):
    settings = settings_of(
        methods=("sgd",),
        hparams={"sgd": {"weight_decay": 1e30, "learning_rate": 1e30}},
        epochs=10**8,  # would take days
    )
    experiment.run(settings, tmp_path)
    runs, curves = results.load(tmp_path)
    assert list(runs["status"]) == ["diverged"] * 2
    assert len(curves) == 2


# The same bytes


def test_the_same_config_gives_the_same_bytes_in_a_process_of_its_own(tmp_path, whole):
    code, said = finish(start(tmp_path, "--deterministic"))
    assert code == 0, said
    assert numbers(tmp_path) == numbers(whole)
    assert kept(tmp_path) == kept(whole)


def test_deterministic_comes_before_the_backend_starts():
    code = (
        "import sys\n"
        "from lrjax import command\n"
        "from jax._src import xla_bridge\n"
        "command.parse(sys.argv)\n"
        "from lrjax import cli\n"
        "assert not xla_bridge.backends_are_initialized()\n"
        "cli.make_deterministic()\n"
        "import jax; jax.numpy.ones(3).block_until_ready()\n"  # or flags are refused
        "import os; print(os.environ['XLA_FLAGS'])"
    )
    environment = {**os.environ, "XLA_FLAGS": "--xla_cpu_enable_fast_math=false"}
    environment["JAX_PLATFORMS"] = "cpu"
    done = subprocess.run(
        [sys.executable, "-c", code, *SMALL],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    flags = done.stdout.split()
    assert "--xla_cpu_enable_fast_math=false" in flags
    assert "--xla_gpu_deterministic_ops=true" in flags


# Safety


FILES = [*sorted((ROOT / "lrjax").rglob("*.py")), ROOT / "main.py"]
DANGEROUS_MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
DANGEROUS_MODULES |= {"yaml", "telnetlib", "ftplib"}
LIBRARIES = {"CDLL", "PyDLL", "LoadLibrary"}  # of ctypes; None is the process itself
DANGEROUS_CALLS = {"eval", "exec", "compile", "__import__", "input"}
DANGEROUS_METHODS = {"system", "popen", "unpack_archive", "read_pickle"}
DANGEROUS_METHODS |= {"extract", "extractall", "getoutput", "getstatusoutput"}


def dangers(tree):
    """What of a module could run what stands in a file or comes over the net."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            yield from {"ctypes"} & set(names)
        else:
            names = []
        yield from {name.split(".")[0] for name in names} & DANGEROUS_MODULES
        if not isinstance(node, ast.Call):
            continue
        named = {keyword.arg: keyword.value for keyword in node.keywords}
        if isinstance(node.func, ast.Name) and node.func.id in DANGEROUS_CALLS:
            yield node.func.id
        if isinstance(node.func, ast.Attribute):
            name = node.func.attr
            if name in DANGEROUS_METHODS:
                yield name
            if name in LIBRARIES and [ast.unparse(x) for x in node.args] != ["None"]:
                yield name
            owner = ast.unparse(node.func.value)
            if owner in ("np", "numpy") and name == "load":
                pickled = named.get("allow_pickle")
                if not (isinstance(pickled, ast.Constant) and pickled.value is False):
                    yield "np.load without allow_pickle=False"
        if "shell" in named:
            yield "shell="


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_unpickled_evaluated_or_given_to_a_shell(path):
    assert not list(dangers(ast.parse(path.read_text())))


@pytest.mark.parametrize(
    "code",
    [
        *("import pickle", "from pickle import loads", "eval(x)", "exec(x)"),
        *("os.system(x)", "subprocess.run(x, shell=True)", "np.load(x)"),
        *("ctypes.CDLL(x)", "ctypes.cdll.LoadLibrary(x)", "from ctypes import CDLL"),
        *("np.load(x, allow_pickle=True)", "a.extractall(x)", "a.extract(x)"),
    ],
)
def test_dangers_are_seen(code):
    assert list(dangers(ast.parse(code)))


# The documentation


def test_the_lines_that_load_parameters_do_so(whole, monkeypatch):
    text = (ROOT / "docs" / "reliability.md").read_text()
    (lines,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    task = tasks.make_task("libsvm/iris")
    runs, _ = results.load(whole)
    monkeypatch.chdir(whole)
    for row in runs.itertuples():
        scope = {"features": task.test["features"]}
        exec(lines.replace("RUN_ID", row.run_id), scope)
        right = np.argmax(scope["logits"], -1) == task.test["labels"]
        assert np.mean(right) == pytest.approx(row.test_accuracy)
        assert jax.tree.structure(scope["params"]) == jax.tree.structure(
            task.init(jax.random.key(0))[0]
        )
