"""What the environment brings: streams, encodings, signals, names of files, caches."""

import contextlib
import errno
import importlib
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import program
import pytest
from absl import flags

import lrjax
from configs import quickstart
from lrjax import cli, results, tasks
from lrjax import config as config_lib
from lrjax.common import files
from lrjax.core import UsageError
from lrjax.launch import flagfiles, hosts, local, startup
from lrjax.launch.session import Session
from lrjax.messages import STOPPING
from lrjax.optim.learned import SHIPPED, pinned
from lrjax.tasks import data

ROOT = Path(__file__).parent.parent
MODES = ("help", *flags.FLAGS["mode"].parser.enum_values)
ODD = b"w\xff\xe6\x95\xb8 [x]*$a$\n'"  # neither valid UTF-8 nor a line


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with an odd name, with data in a file that has one as well."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path_factory.mktemp("x")) + b"/" + ODD))
    folder.mkdir()
    rows = (f"{i % 3} 1:{i % 3 + 0.1 * (i % 7):.3f} 2:{i % 5}\n" for i in range(60))
    (folder / "數據_$1_$2.svm").write_text("".join(rows))
    done = start(command("train", folder), stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    return folder


def command(mode, folder, *more):
    """A command line of each mode that takes a second or two."""
    if mode == "help":
        return [sys.executable, "main.py", "--help"]
    return [
        *(sys.executable, "main.py", f"--mode={mode}", f"--workdir={folder / 'run'}"),
        f"--config={ROOT}/configs/libsvm.py",
        f"--config.tasks=svmlight:{folder / '數據_$1_$2.svm'}",
        *("--config.methods=sgd", "--config.seeds=1", "--config.epochs=2"),
        *("--config.tune.tuner=random", "--config.tune.trials=1"),
        *("--config.select.budget=1", "--config.report.bootstrap=10", *more),
    ]


def start(arguments, redirection="", environment=(), **streams):
    """Run a command through a shell that redirects its streams."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *map(os.fsencode, arguments)],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **dict(environment)},
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, **streams},
    )


# Streams

# name -> redirection, environment, exit code
STREAMS = {
    "stdin closed": ("<&-", {}, 0),
    "stdout closed": (">&-", {}, 0),
    "stderr closed": ("2>&-", {}, 0),
    "all closed": ("<&- >&- 2>&-", {}, 0),
    "stdout full": (">/dev/full", {}, 2),
    "stderr full": ("2>/dev/full", {}, 0),
    "stdout without reader": ("", {}, 128 + signal.SIGPIPE),
    "stderr without reader": ("", {}, 0),
    "ascii": ("", {"PYTHONIOENCODING": "ascii"}, 0),
    "latin-1": ("", {"PYTHONIOENCODING": "latin-1"}, 0),
    "C": ("", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, 0),
}
QUICK = {
    *(("help", "stdout without reader"), ("report", "C"), ("train", "all closed")),
}


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow)
        for pair in ((mode, name) for mode in MODES for name in STREAMS)
    ],
)
def test_streams_stop_no_mode(mode, name, folder, tmp_path):
    redirection, environment, code = STREAMS[name]
    os.symlink(folder / "數據_$1_$2.svm", tmp_path / "數據_$1_$2.svm")
    target = folder if mode in ("report", "compact") else tmp_path
    reader, writer = os.pipe()
    os.close(reader)
    done = start(
        command(mode, target),
        redirection,
        environment,
        **{"stderr": subprocess.PIPE}
        | ({name.split()[0]: writer} if "reader" in name else {}),
    )
    os.close(writer)
    said = (done.stderr or b"").decode(errors="replace")
    assert done.returncode == code, said
    assert "Traceback" not in said
    assert "Error" not in said
    if mode in ("train", "tune"):  # whoever listens
        rows = results.read_rows(tmp_path / "run", results.RUNS)
        assert len(rows) == 1
        assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_messages_go_on_without_stderr_in_python(folder, tmp_path):
    """As in a program of the user's with closed streams."""
    code = (
        "import sys, lrjax\n"
        "assert sys.stderr is None\n"
        "answer = lrjax.select('libsvm/iris', ['sgd'], budget=1, epochs=2)\n"
        "print(answer.method)"
    )
    done = start([sys.executable, "-c", code], "2>&-")
    assert (done.returncode, done.stdout) == (0, b"sgd\n")


# Signals

REST = [kind for kind in STOPPING if kind != signal.SIGHUP]  # tested elsewhere, too


# Runs a command with a signal that whoever started the tests may have ignored.
HEEDING = """
import os, signal, sys
signal.signal(int(sys.argv[1]), signal.SIG_DFL)
os.execv(sys.argv[2], sys.argv[2:])
"""


def has_checkpoint(folder):
    """Whether a checkpoint is whole; folders may vanish meanwhile."""
    found = (name for _, _, names in os.walk(folder) for name in names)
    return any(name.startswith("manifest") for name in found)


@pytest.mark.parametrize(
    "kind", [signal.SIGHUP, *(pytest.param(k, marks=pytest.mark.slow) for k in REST)]
)
def test_a_signal_in_training_leaves_a_checkpoint_and_its_code(kind, folder, tmp_path):
    """Also below a folder whose name is not UTF-8."""
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    place.mkdir()
    os.symlink(folder / "數據_$1_$2.svm", place / "數據_$1_$2.svm")
    flags = ("--config.epochs=3000000", "--config.checkpoint_minutes=0")
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            HEEDING,
            str(int(kind)),
            *command("train", place, *flags),
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    try:
        while process.poll() is None and not has_checkpoint(place):
            time.sleep(0.05)
        process.send_signal(kind)
        said = process.communicate(timeout=120)[1].decode(errors="replace")
    finally:
        process.kill()
    assert process.wait() == 128 + kind, said
    assert said.endswith("Stopped. Run the same command again to resume.\n")
    assert has_checkpoint(place)
    warned = [line for line in said.splitlines() if "warning" in line]
    assert all("changes nothing" in line for line in warned)  # fields of other modes


# Names of files


HOME = "/home/of/somebody"


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("~", HOME),
        ("~/runs", f"{HOME}/runs"),
        ("./~/runs", "~/runs"),
        ("a~/b", "a~/b"),
        ("/a/~", "/a/~"),
        ("~root/x", os.path.expanduser("~root/x")),
        ("-x", "-x"),
        ("[a]*?$b", "[a]*?$b"),
        ("c:/x", "c:/x"),
        ("svmlight:/x", "svmlight:/x"),
        (Path("~/runs"), f"{HOME}/runs"),
    ],
)
def test_paths_mean_what_they_say(path, meant, monkeypatch):
    monkeypatch.setenv("HOME", HOME)
    assert files.expanded(path) == Path(meant)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("~nobody-of-this-name/x", "'~nobody-of-this-name' has no home directory"),
        ("gs://bucket/runs", "is an address: lrjax reads and writes local folders"),
        ("http://x", "is an address"),
        ("a\0b", "null character"),
    ],
)
def test_paths_that_cannot_be_meant_are_refused_everywhere(path, message, tmp_path):
    """In each flag and field that is a path, before anything is made."""
    config = config_lib.base()
    config.tasks, config.methods = ("libsvm/iris",), ("sgd",)
    settings = config_lib.check(config)
    with pytest.raises(UsageError, match=message):
        Session(settings, path)
    with pytest.raises(UsageError, match=message):
        Session(settings, tmp_path, path)
    for mode in ("train", "plan", "tune", "select"):
        for places in ((path, None), (str(tmp_path / "new"), path)):
            with pytest.raises(UsageError, match=message):
                cli.run(mode, "local", config, *places, {})
    with pytest.raises(UsageError, match=message):
        cli.report(config, path)
    for name in ("folder", "compare"):
        config = config_lib.base()
        config.report[name] = path
        with pytest.raises(UsageError, match=f"config.report.{name}: .*{message}"):
            config_lib.check_report(config.report)
    assert not list(tmp_path.iterdir())


class OpenedError(Exception):
    """Ends a session that trains nothing."""


def test_the_home_directory_is_inserted_everywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text((ROOT / "configs" / "libsvm.py").read_text())
    arguments = ("--config=~/mine.py:iris", "--config.methods=sgd", "--data_dir=~")
    answer = program.invoke("--mode=plan", "--workdir=~/runs", *arguments)
    assert answer.code == 0, answer.err
    config = config_lib.base()
    for name in ("folder", "compare"):
        config.report[name] = f"~/{name}"
        found = getattr(config_lib.check_report(config.report), name)
        assert found == str(tmp_path / name)
    monkeypatch.setenv("LRJAX_CACHE", "~/cache")
    assert data.cache_dir() == tmp_path / "cache"
    settings = config_lib.check(quickstart.get_config())
    for launch in (local.launch, hosts.launch):
        with (
            contextlib.suppress(OpenedError),
            launch(settings, "~/runs", "~") as launcher,
        ):
            session = launcher.session
            assert session.home == tmp_path / "runs"
            assert session.workdir.is_relative_to(tmp_path / "runs")
            assert session.data_dir == str(tmp_path)
            raise OpenedError
    assert not (tmp_path / "~").exists()


def test_the_home_directory_is_inserted_in_names_of_data(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LRJAX_DATA_DIR", "~/data")
    (tmp_path / "a.svm").write_text("".join(f"{i % 2} 1:{i}\n" for i in range(40)))
    rows = "".join(f"{i},{i % 2}\n" for i in range(40))
    (tmp_path / "a.csv").write_text(f"a,b\n{rows}")
    for name in ("svmlight:~/a.svm", "table:~/a.csv?target=b"):
        assert tasks.make_task(name).name == name
    (tmp_path / "data").mkdir()
    assert data.root(None) == tmp_path / "data"
    assert data.root("~/else") == tmp_path / "else"
    shutil.copy(SHIPPED, tmp_path / "policy.npz")
    assert pinned("~/policy.npz").startswith("~/policy.npz@")


@pytest.mark.slow
def test_the_home_directory_is_inserted_in_python(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    places = {"workdir": "~/python", "data_dir": "~"}
    answer = lrjax.compare("libsvm/iris", ["sgd"], seeds=1, epochs=1, **places)
    assert answer.workdir == tmp_path / "python"
    assert answer.report("~/page") == tmp_path / "page" / "index.html"
    assert (tmp_path / "page" / "index.html").exists()
    assert not (tmp_path / "~").exists()


# Caches


def allow(path, mode):
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o1777])
def test_a_folder_of_the_users_own_is_made(mode, tmp_path):
    allow(tmp_path / "above", mode)
    path = files.make_private_folder(tmp_path / "above" / "new" / "xla")
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert files.make_private_folder(path) == path


def test_links_above_are_followed(tmp_path):
    (tmp_path / "scratch").mkdir()
    os.symlink(tmp_path / "scratch", tmp_path / "cache")
    made = files.make_private_folder(tmp_path / "cache" / "xla")
    assert made == (tmp_path / "scratch" / "xla").resolve()


@pytest.mark.parametrize(
    ("own", "above", "message"),
    [
        (0o770, 0o755, "other users may write to it"),
        (0o707, 0o755, "other users may write to it"),
        (0o1777, 0o755, "other users may write to it"),
        (0o700, 0o777, "other users may write to .*above"),
        (0o700, 0o707, "other users may write to .*above"),
    ],
)
def test_a_folder_that_others_may_write_to_is_refused(own, above, message, tmp_path):
    allow(tmp_path / "above" / "xla", own)
    (tmp_path / "above").chmod(above)
    with pytest.raises(OSError, match=message):
        files.make_private_folder(tmp_path / "above" / "xla")


def test_a_folder_that_somebody_else_made_is_refused(tmp_path, monkeypatch):
    """As in /tmp, where anybody can be first."""
    allow(tmp_path / "above" / "xla", 0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(OSError, match="belongs to another user"):
        files.make_private_folder(tmp_path / "above" / "xla")
    allow(tmp_path / "above", 0o1777)  # its owner may replace what is in it
    (tmp_path / "above" / "xla").rmdir()
    with pytest.raises(OSError, match="belongs to another user"):
        files.make_private_folder(tmp_path / "above" / "xla")


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_folder_that_is_none_is_refused(kind, tmp_path):
    if kind == "link":
        os.symlink(tmp_path, tmp_path / "xla")
    else:
        (tmp_path / "xla").touch()
    with pytest.raises(OSError) as refusal:  # noqa: PT011
        files.make_private_folder(tmp_path / "xla")
    expected = errno.ELOOP if kind == "link" else errno.ENOTDIR
    assert refusal.value.errno == expected


@pytest.mark.parametrize("kind", ["open to all", "link", "file", "circle"])
def test_a_cache_that_is_refused_is_not_used(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("LRJAX_CACHE", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    if kind == "open to all":
        allow(tmp_path / "xla", 0o777)
    elif kind == "link":
        os.symlink(tmp_path, tmp_path / "xla")
    elif kind == "file":
        (tmp_path / "xla").touch()
    else:
        os.symlink(tmp_path / "circle", tmp_path / "circle")
        monkeypatch.setenv("LRJAX_CACHE", str(tmp_path / "circle"))
    told = []
    monkeypatch.setattr(jax.config, "update", lambda *pair: told.append(pair))
    with pytest.warns(UserWarning, match="compiled programs are not kept in") as said:
        startup._use_compilation_cache()
    assert len(said) == 1
    assert "\n" not in str(said[0].message)
    assert not told


def test_the_cache_is_ones_own_unless_jax_is_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.setenv("LRJAX_CACHE", str(tmp_path))
    told = {}
    monkeypatch.setattr(jax.config, "update", told.__setitem__)
    startup._use_compilation_cache()  # the tests set JAX_COMPILATION_CACHE_DIR
    assert "jax_compilation_cache_dir" not in told
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        startup._use_compilation_cache()
    assert told["jax_compilation_cache_dir"] == str((tmp_path / "xla").resolve())


FILLING = """
import resource, sys
from configs import libsvm
from lrjax import config
from lrjax.launch import experiment, startup
if int(sys.argv[2]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
wanted = libsvm.get_config("iris")
wanted.methods, wanted.seeds, wanted.epochs = ("sgd",), 1, 2
settings = config.check(wanted)
startup.prepare(settings)
experiment.run(settings, sys.argv[1])
"""


@pytest.mark.slow
def test_a_cache_without_space_costs_time_alone(tmp_path):
    """The first time programs are cut short, the second time these are found."""
    rows = []
    environment = {k: v for k, v in os.environ.items() if k[:15] != "JAX_COMPILATION"}
    environment |= {
        "LRJAX_CACHE": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    for most, words in ((3000, "Error writing persistent"), (0, "Error reading pers")):
        workdir = tmp_path / str(most)
        done = subprocess.run(
            [sys.executable, "-c", FILLING, str(workdir), str(most)],
            cwd=ROOT,
            env=environment | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert words in done.stderr
        rows.append(results.read_rows(workdir, results.CURVES))
    assert rows[0] == rows[1] != []


# Files of flags


def test_files_of_flags_are_limited(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes(2**20 + 1))
    (tmp_path / "names").write_text(f"# a comment\n  --flagfile={tmp_path / 'pipe'}\n")
    for name in ("pipe", "names"):
        for given in (
            [f"--flagfile={tmp_path / name}"],
            ["-flagfile", tmp_path / name],
        ):
            with pytest.raises(UsageError, match=r"pipe': it is not a regular file"):
                flagfiles.check(map(str, given))
    with pytest.raises(UsageError, match="more than 1,048,576"):
        flagfiles.check([f"--flagfile={tmp_path / 'large'}"])
    for number in range(200):
        following = f"--flagfile={tmp_path / str(number + 1)}\n"
        (tmp_path / str(number)).write_text(following)
    with pytest.raises(UsageError, match="more than 100 files"):
        flagfiles.check([f"--flagfile={tmp_path / '0'}"])
    (tmp_path / "itself").write_text(f"--flagfile={tmp_path / 'itself'}\n--mode=train")
    flagfiles.check([f"--flagfile={tmp_path / 'itself'}"])
    flagfiles.check(["--", f"--flagfile={tmp_path / 'pipe'}"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x = " + b"(" * 10**5 + b")" * 10**5, "too many nested parentheses"),
        (b"x = " + b"-" * 10**5 + b"1", "nested too deeply for Python"),
        (b"x = 1\0", "null bytes"),
        (b"\xff = 1", "mine.py"),
        (b"#" * (2**20 + 1), "more than 1,048,576 bytes"),
    ],
)
def test_config_files_that_are_none(content, message, tmp_path):
    (tmp_path / "mine.py").write_bytes(content)
    answer = program.invoke("--mode=config", f"--config={tmp_path / 'mine.py'}")
    assert answer.code == 2
    assert len(answer.err) == 1
    assert re.search(message, answer.err[0])


def test_streams_are_robust_before_anything_heavy_is_imported():
    """Closed streams and signals must be handled while the slow imports run."""
    code = (
        "import sys, lrjax.launch.flagfiles, lrjax.launch.process; print(*sys.modules)"
    )
    done = start([sys.executable, "-c", code])
    assert not {"jax", "numpy", "absl"} & set(done.stdout.decode().split())
    assert importlib.import_module("lrjax.launch.process")
