"""The program as people start it: its answers, its exit codes, what it leaves."""

import contextlib
import errno
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from unittest import mock

import program
import pytest
from absl.testing import flagsaver
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from configs import quickstart
from lrjax import cli, command, tasks
from lrjax import config as config_lib
from lrjax.arguments import CONFIG_MODULE, rewritten
from lrjax.common import fields
from lrjax.core import UsageError
from lrjax.launch import process as process_lib
from lrjax.messages import STOPPING
from lrjax.methods import METHODS

ROOT = Path(__file__).parent.parent
IRIS = f"--config={ROOT}/configs/libsvm.py:iris"


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "main.py", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
    )


def test_trains_ranks_and_goes_on_where_it_was(tmp_path):
    arguments = (
        IRIS,
        f"--workdir={tmp_path}/run",
        "--config.methods=adam,sgd",
        "--config.seeds=(3,5)",
        "--config.epochs=3",
    )
    first = run(*arguments)
    assert first.returncode == 0, first.stderr
    text = (tmp_path / "run" / "runs.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert {(r["method"], r["seed"]) for r in rows} == {
        (m, s) for m in ("adam", "sgd") for s in (3, 5)
    }
    assert "adam" in first.stdout
    assert (tmp_path / "run" / "curves.png").stat().st_size > 10_000
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["config"]["seeds"] == [3, 5]
    assert config["overrides"]["epochs"] == 3
    again = program.invoke(*arguments)
    assert again.code == 0
    assert "4 of 4 are done" in "\n".join(again.err)
    assert again.out == first.stdout.splitlines()
    assert not (tmp_path / "run" / "report").exists()
    reported = program.invoke(*arguments, "--config.report.after")
    assert reported.out[: len(again.out)] == again.out
    assert (tmp_path / "run" / "report" / "index.html").exists()


def test_fields_without_effect_are_named(tmp_path):
    config = quickstart.get_config()
    given = {"report.metric": "valid_loss", "tune.trials": 3}
    with pytest.warns(UserWarning, match="changes nothing") as said:
        cli.run("plan", "local", config, "", None, given)
    lines = [str(each.message) for each in said]
    assert lines == [
        "config.report.metric changes nothing: no report follows without "
        "config.report.after",
        "config.tune.trials changes nothing: --of=tune plans a tuning",
    ]
    with (
        pytest.warns(UserWarning, match=r"config\.tune\.trials changes nothing"),
        pytest.raises(UsageError, match="holds no results"),
    ):
        cli.report(config, str(tmp_path), (), given)


def test_lists_methods():
    done = run("--mode=methods")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(done.stdout.split())
    for name, method in METHODS.items():
        assert f"{name} {method.family} " in text
        assert f"{method.source} {method.advice}".strip() in text
        assert all(f"  {hparam} " in done.stdout for hparam in method.defaults)
        assert method.advice  # a line for each
    # Each family in one piece.
    rows = [line.split() for line in lines if line and line[0] != " "]
    shown = [METHODS[row[0]].family for row in rows if row[0] in METHODS]
    assert len(shown) == len(METHODS)
    assert len(list(itertools.groupby(shown))) == len(set(shown))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([IRIS], "--workdir is missing"),
        (["--mode=report", "--workdir=,"], "--workdir=, names no directory"),
        (["--mode=report", "--workdir={tmp}/new"], "new holds no results"),
        (
            ["--mode=report", "--workdir={tmp}", "--config.report.smoth=1"],
            "mean 'report.smooth'",
        ),
        (["--workdir={tmp}/new"], "--config is missing: try --config=quickstart"),
        (
            ["--config.tasks=libsvm/iris", "--workdir={tmp}/new"],
            "--config is missing, of which --config.tasks sets a field",
        ),
        ([IRIS, "--workdir={tmp}/new", "--of=tune"], "--of is for --mode=plan"),
        ([IRIS, "--workdir={tmp}/new", "--seeds=3"], "did you mean --config.seeds?"),
        (
            [IRIS, "--lr=3"],
            "unknown flag --lr; did you mean --config.grid.learning_rate",
        ),
        ([IRIS, "--workdr=x"], "Did you mean: workdir"),
        (
            [IRIS, "--workdir={tmp}/new", "--config.tasks=my houses.csv"],
            "for a table give table:my houses.csv?target=COLUMN",
        ),
        (
            [
                IRIS,
                "--workdir={tmp}/new",
                "--config.tasks=table:a.csv?target=y&drop=b,c",
            ],
            "a comma ends the name of a task, and 'c' is none",
        ),
        ([IRIS, "--workdir={tmp}/new", "--config.methods=adm"], "mean 'adam'"),
        ([IRIS, "--workdir={tmp}/new", "--config.mthods=adam"], "methods"),
        ([IRIS, "--workdir={tmp}/new", "--config.hparams.sgd.b1=0.9"], "b1"),
        ([IRIS, "--workdir={tmp}/new", "--config.epochs=few"], "few"),
        ([IRIS, "--workdir={tmp}/new", "--mode=trian"], "trian"),
        ([IRIS, "--workdir={tmp}/new", "--wokdir=x"], "wokdir"),
        ([IRIS, "--workdir={tmp}/new", "stray"], "'stray'; flags start with --"),
        (["trian", "--workdir={tmp}/new"], "'trian'; did you mean 'train'?"),
        (["--workdir={tmp}/new", "tune"], "a mode stands in front of all flags"),
        (["--config=libsvn:iris", "--workdir={tmp}/new"], "did you mean 'libsvm'"),
        (
            ["--config=libsvn", "--workdir={tmp}/new", "--config.epochs=3"],
            "did you mean 'libsvm'",
        ),
        (["watch", "{tmp}", "--port=abc"], "--port='abc': must be a whole number"),
        (["--config=zzz", "--workdir={tmp}/new"], "lrjax's own are bookwiki, cifar10"),
        (
            [IRIS, "--workdir={tmp}/new", "--config.tasks=table:'a b.csv'?target=y"],
            "config.tasks=table:'a b.csv'?target=y: leave out the quotes inside",
        ),
        ([IRIS, "--workdir={tmp}/new", "--methods=adam"], "give --config.methods"),
        (["--config=configs/absent.py", "--workdir={tmp}/new"], "absent.py"),
        (
            [f"--config={ROOT}/configs/libsvm.py:irsi", "--workdir={tmp}/new"],
            "did you mean 'libsvm/iris'?",
        ),
        (
            [
                f"--config={ROOT}/configs/libsvm.py",
                "--config.tasks=svmlight:{tmp}/absent",
                "--workdir={tmp}/new",
            ],
            "absent",
        ),
        ([IRIS, "--workdir={tmp}/file"], "cannot write to workdir"),
    ],
)
def test_mistakes_get_one_line_and_code_2(tmp_path, arguments, message):
    (tmp_path / "file").write_text("precious")
    code, _, lines = program.invoke(*(a.format(tmp=tmp_path) for a in arguments))
    assert message in check_refused(code, lines)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "precious"


# Inside of this process, and up to where data would be loaded


def invoke(*arguments, run=lambda mode, launcher, config, *_: config_lib.check(config)):
    """Exit code, and the lines on stderr."""
    argv, said = ["main.py", *map(str, arguments)], io.StringIO()
    sys.modules.pop(CONFIG_MODULE, None)  # of the call before
    with (
        warnings.catch_warnings(action="ignore"),
        flagsaver.flagsaver(),
        mock.patch.object(sys, "argv", argv),
        mock.patch.object(cli, "run", run),
        contextlib.redirect_stderr(said),
    ):
        try:
            command.main(command.parse(argv))
        except SystemExit as end:
            return end.code, said.getvalue().splitlines()
    return 0, said.getvalue().splitlines()


def check_refused(code, said):
    assert code == 2, said
    assert len(said) == 1
    assert said[0].startswith("error: ")
    assert "Traceback" not in said[0]
    return said[0]


QUICKSTART = f"--config={ROOT / 'configs' / 'quickstart.py'}"
FIELDS = [name for name, _ in fields.leaves(quickstart.get_config())]
FIELDS += ["grid", "hparams", "hparams.adam"]
WORDS = ["", "0", "-1", "1.5", "nan", "inf", "1e999", "1e400", "9" * 30, "9" * 5000]
WORDS += ["True", "None", "()", "(1,", "(1, 2)", "[[1]]", "{}", "{1: 2}", "((" * 300]
WORDS += [
    "adam",
    "adam,sgd",
    ",",
    "'",
    "a b",
    "__import__('os')",
    "\x00",
    "\udcff",
    "é",
]
VALUES = st.sampled_from(WORDS) | st.text(max_size=6)
NAMES = st.sampled_from(FIELDS) | st.tuples(
    st.sampled_from(FIELDS), st.sampled_from(["x", ".x", "[0]", '["x"]', ".", " "])
).map("".join)


@pytest.mark.parametrize("mode", ["tune", "select"])
def test_only_training_cuts_batches_over_devices(mode, tmp_path):
    flags = [f"--mode={mode}", f"--workdir={tmp_path}", "--config.shard=batch"]
    said = check_refused(*invoke(QUICKSTART, *flags, run=cli.run))
    assert said == "error: config.shard=batch needs --mode=train"


@given(st.lists(st.tuples(NAMES, VALUES), min_size=1, max_size=3))
@settings(max_examples=150)
def test_any_override_is_taken_or_refused_in_one_line(overrides):
    flags = [f"--config.{name}={value}" for name, value in overrides]
    code, said = invoke(QUICKSTART, "--workdir=/nowhere/at/all", *flags)
    if code:
        check_refused(code, said)
    else:
        assert not said
    assert not Path("/nowhere").exists()


@given(
    st.lists(
        st.text(max_size=8)
        | st.sampled_from(["--", "-", "--config", "--mode", "--=", "--mode=tran"])
        | st.sampled_from(
            ["workdir", "mode", "data_dir", "config", "deterministic"]
        ).flatmap(lambda name: VALUES.map(lambda value: f"--{name}={value}")),
        max_size=3,
    ).filter(lambda flags: not any("help" in flag for flag in flags))
)
@settings(max_examples=150)
def test_any_flag_is_taken_or_refused_in_one_line(flags):
    code, said = invoke(*flags)
    if code:
        check_refused(code, said)
    assert not Path("/nowhere").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "grid.learning_rat=1",
            "'grid.learning_rat'; did you mean 'grid.learning_rate'",
        ),
        ("hparams.adm.b1=0", "'hparams.adm.b1'; did you mean 'hparams.adam.b1'?"),
        ("epoch=1", "unknown config field 'epoch'; did you mean 'epochs'?"),
        ("grid.lr=1", "'grid.lr'; did you mean 'grid.learning_rate'?"),
        ("lr=1", "set hparams.METHOD.learning_rate, or grid.learning_rate to"),
        ("weight_decay=1", "for the hyperparameter weight_decay set"),
        ("tune.space.warmup=1", "did you mean 'tune.space.warmup_fraction'?"),
        ("methods=adamw", "unknown method 'adamw'; did you mean 'adamw_cosine'?"),
        ("tune.space.b1=(0.5,0.9,0.99)", "is a range, not a list of values"),
        ("hparams=1", "is not a dict"),
        ("save_params=maybe", "config.save_params='maybe': must be True or False"),
        ("checkpoint_minutes=-1", "config.checkpoint_minutes=-1.0: must be 0 or more"),
        ("select.how=rac", "unknown config.select.how 'rac'; did you mean 'race'?"),
        ("select.budget=0", "config.select.budget=0: must be above 0"),
        ("select.seconds=0", "config.select.seconds=0.0: must be above 0"),
    ],
)
def test_wrong_overrides_are_named(override, message):
    code, said = invoke(QUICKSTART, "--workdir=x", f"--config.{override}")
    assert message in check_refused(code, said)


def typed(config, prefix=""):
    """Names of a config's fields that are no parts, with the type of each."""
    for name in config:
        kind = config.get_type(name)
        if issubclass(kind, ConfigDict):
            yield from typed(config[name], f"{prefix}{name}.")
        else:
            yield prefix + name, kind


TYPED = dict(typed(quickstart.get_config()))
NAMED = {int: "a whole number", float: "a number", bool: "True or False"}


def test_fields_of_each_type_are_tried():
    assert set(TYPED.values()) == {*NAMED, str, tuple, object}
    assert TYPED["epochs"] is TYPED["tune.max_budget"] is int  # None by default


@pytest.mark.parametrize("field", [n for n, kind in TYPED.items() if kind in NAMED])
@pytest.mark.parametrize("value", ["two", "a: b", "", "(1,2)"])
def test_a_value_of_another_type_is_refused_by_what_it_must_be(field, value):
    said = check_refused(
        *invoke(QUICKSTART, "--workdir=x", f"--config.{field}={value}")
    )
    assert said == f"error: config.{field}={value!r}: must be {NAMED[TYPED[field]]}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"def get_config(:", "line 1: invalid syntax"),
        (b"\n\nimport nosuch", "line 3: ModuleNotFoundError: No module named 'nosuch'"),
        (
            b"def get_config():\n  return 1 / 0",
            "line 2: ZeroDivisionError: division by",
        ),
        (b"def get_config():\n  return open('/absent')", "No such file"),
        (b"def get_config(x):\n  return x", "missing 1 required positional argument"),
        (b"def get_config():\n  return 5", "get_config() returns no ConfigDict"),
        (b"def get_config():\n  pass", "get_config() returns no ConfigDict"),
        (b"x = 1", "has no attribute 'get_config'"),
        (b"", "has no attribute 'get_config'"),
        (b"\xff\xfe\x00", "config.py: "),
        (b"x = '\x00'", "null bytes"),
        (
            b"import ml_collections as c\nget_config = lambda: c.ConfigDict({'a': 1})",
            "unknown config field 'a'",
        ),
        (
            b"import ml_collections as c\n"
            b"get_config = lambda: c.ConfigDict({'seeds': 1})",
            "config.py: the config has no field 'advise.spend': begin it with "
            "config = lrjax.config.base()",
        ),
        (b"get_config = lambda: {'seeds': 1}", "no ConfigDict but {'seeds': 1}: begin"),
        (
            b"from lrjax import config\nget_config = config.base",
            "config.tasks is empty",
        ),
        (
            b"from lrjax import config\ndef get_config():\n  c = config.base()\n"
            b"  c.epochs = 'x'\n  return c",
            "line 4: TypeError",
        ),
        (
            b"from lrjax import config\ndef get_config():\n  c = config.base()\n"
            b"  c.epoch = 5\n  return c",
            "unknown config field 'epoch'; did you mean 'epochs'?",
        ),
    ],
)
@pytest.mark.parametrize("flags", [(), ("--config.seeds=2",)])
def test_faults_of_a_config_file_are_named(tmp_path, content, message, flags):
    path = tmp_path / "config.py"
    path.write_bytes(content)
    code, said = invoke(f"--config={path}", f"--workdir={tmp_path}/new", *flags)
    assert message in check_refused(code, said)
    assert not (tmp_path / "new").exists()


def test_a_frozen_config_can_be_overridden(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(
        "import ml_collections\nfrom configs import quickstart\n"
        "def get_config():\n"
        "  return ml_collections.FrozenConfigDict(quickstart.get_config())\n"
    )
    found = []
    for override in ("epochs=3", "seeds=(3,5)", "grid.learning_rate=(1,1.0)"):
        code, said = invoke(
            f"--config={path}",
            f"--workdir={tmp_path}/new",
            f"--config.{override}",
            run=lambda mode, launcher, config, *_: found.append(
                config_lib.check(config)
            ),
        )
        assert not code, said
    assert [found[0].epochs, found[1].seeds] == [3, (3, 5)]
    assert len(found[2].hparams_grid("sgd", "libsvm/iris")) == 1


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("my.csv", "unknown task 'my.csv': for a table give table:my.csv?target="),
        ("my.json", "unknown task 'my.json': .json files are not read"),
        ("./data/mine", "give svmlight:./data/mine"),
        ("device", "unknown task 'device'"),
        ("libsvm:wine", "did you mean 'libsvm/wine'?"),
        ("libsvm:./main.py", "give svmlight:./main.py"),
        ("iris", "did you mean 'libsvm/iris'?"),
        ("cifar10/wrn16.2", "did you mean 'cifar10/wrn16_2'?"),
    ],
)
def test_hints_are_of_what_is_near(task, said):
    with pytest.raises(UsageError) as error:
        tasks.make_task(task)
    assert said in str(error.value)
    assert ("did you mean" in str(error.value)) == ("did you mean" in said)


@pytest.mark.parametrize("name", ["device", "xyz", "lr"])
def test_what_is_not_near_is_not_suggested(name):
    code, said = invoke(QUICKSTART, "--workdir=x", f"--config.{name}=1")
    assert "did you mean" not in check_refused(code, said)
    code, said = invoke(QUICKSTART, "--workdir=x", f"--config.protocol={name}")
    assert "it is one of sound, study" in check_refused(code, said)


def test_a_config_that_may_have_no_end_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero", tmp_path):
        code, said = invoke("--config", path, f"--workdir={tmp_path}/new")
        assert f"{path} is not a regular file" in check_refused(code, said)


def test_a_device_that_is_not_there_is_said(tmp_path):
    done = run(IRIS, f"--workdir={tmp_path}/new", JAX_PLATFORMS="cuda")
    message = check_refused(done.returncode, done.stderr.splitlines())
    assert "JAX finds no device to work on (with JAX_PLATFORMS=cuda" in message
    assert not (tmp_path / "new").exists()


def test_output_that_cannot_be_written_is_no_fault_of_lrjax():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "main.py", "--mode=methods"]
        for streams in ({"stderr": subprocess.PIPE}, {"stderr": full}):
            done = subprocess.run(command, cwd=ROOT, text=True, stdout=full, **streams)
            assert done.returncode == 2
            if streams["stderr"] == subprocess.PIPE:
                said = check_refused(2, done.stderr.splitlines())
                assert said == "error: cannot write: No space left on device"


def test_signals_that_were_ignored_stay_so():
    """By nohup, or in a script's background job: Ctrl-C is for the foreground alone."""
    code = (
        "import os, signal\n"
        "from lrjax import console\n"
        "from lrjax.launch import process\n"
        "from lrjax.messages import STOPPING\n"
        "def work(argv):\n"
        "    for kind in STOPPING:\n"
        "        os.kill(os.getpid(), kind)\n"
        "    with console.signals() as came:\n"
        "        for kind in STOPPING:\n"
        "            os.kill(os.getpid(), kind)\n"
        "        print('goes on', came())\n"
        "for kind in STOPPING:\n"
        "    signal.signal(kind, signal.SIG_IGN)\n"
        "process.begin()\n"
        "process.interruptible(work, [])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "goes on 0\n", done.stderr


@pytest.mark.parametrize(("ending", "code"), [("", 0), ("; raise UsageError('x')", 2)])
def test_what_is_registered_is_called_at_the_end_and_threads_are_waited_for(
    ending, code, tmp_path
):
    lines = (
        "import atexit, threading, time\n"
        "from absl import flags\n"
        "from lrjax.core import UsageError\n"
        "from lrjax.launch import process\n"
        "class Freed:\n"
        "    def __del__(self): print('taken apart')\n"
        "kept = Freed()\n"
        "def main(argv):\n"
        "    atexit.register(lambda: print('called', end=''))\n"
        "    late = lambda: (time.sleep(0.2), open('late', 'w').write('x'))\n"
        f"    threading.Thread(target=late).start(){ending}\n"
        "process.begin()\n"
        "process.run(process.reporting(main), flags.FLAGS)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", lines],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (code, "called"), done.stderr
    assert (tmp_path / "late").read_text() == "x"


@pytest.mark.parametrize("kind", STOPPING)
def test_a_signal_during_the_first_imports_ends_it(kind):
    code = (
        "import os, runpy, signal, sys, time\n"
        f"signal.signal({kind:d}, signal.SIG_DFL)\n"  # background jobs ignore some
        "class Slow:\n"
        "    def find_spec(name, *_):\n"
        "        if name == 'absl':\n"
        f"            os.kill(os.getpid(), {kind:d})\n"
        "            time.sleep(60)\n"
        "sys.meta_path.insert(0, Slow)\n"
        "runpy.run_path('main.py', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 128 + kind
    assert done.stderr == f"{process_lib._STOPPED}\n"


STUBBORN = {
    "caught": (
        "    while True:\n"
        "        try: time.sleep(60)\n"
        "        except SystemExit: pass\n"
    ),
    "in a callback": (
        "    gc.callbacks.append(lambda *_: time.sleep(60))\n"
        "    while True: gc.collect()\n"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("body", STUBBORN.values(), ids=STUBBORN)
def test_a_signal_ends_it_even_where_the_exit_is_swallowed(tmp_path, body, kind):
    code = (
        "import gc, runpy, time\n"
        "from lrjax import cli\n"
        "def stubborn(*_):\n"
        "    print('there', flush=True)\n"
        f"{body}"
        "cli.run = stubborn\n"
        "runpy.run_path('main.py', run_name='__main__')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, IRIS, f"--workdir={tmp_path}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    process.send_signal(kind)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + kind
    assert said == f"{process_lib._STOPPED}\n"


@pytest.mark.parametrize(
    "given",
    ["libsvm:wine", "libsvm.py:wine", "configs/libsvm:wine", "configs/libsvm.py:wine"],
)
def test_shipped_configs_are_found_by_name_where_no_such_file_is(
    given, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path = ROOT / "configs" / "libsvm.py"
    assert rewritten(["lrjax", f"--config={given}"], [])[1] == f"--config={path}:wine"
    (tmp_path / "configs").mkdir()
    own = tmp_path / given.split(":")[0]
    own.write_text("")
    assert rewritten(["lrjax", f"--config={given}"], [])[1] == f"--config={given}"


def test_a_mode_may_stand_in_front_of_the_flags():
    argv = ["lrjax", "report", "--workdir=runs"]
    flags = rewritten(argv, ["report"])[1:]
    assert sorted(flags)[1:] == ["--mode=report", "--workdir=runs"]
    assert sorted(flags)[0].startswith("--config=")
    assert invoke("reprot", "--workdir=runs")[0] == 2
    for argv in (["lrjax", "compare"], ["lrjax", "--mode=compare"]):
        assert rewritten(argv, ["train"]) == ["lrjax", "--mode=train"]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ([sys.executable, "main.py"], "python main.py"),
        ([sys.executable, "-m", "lrjax"], "python -m lrjax"),
        ([str(Path(sys.executable).with_name("lrjax"))], "lrjax"),
    ],
)
def test_every_way_to_call_it_has_the_same_help(command, name):
    if not Path(command[0]).exists():
        pytest.skip("lrjax is not installed: `pip install -e .` makes the command")
    done = subprocess.run(
        [*command, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert f"{name} --config=quickstart" in done.stdout
    assert "--[no]deterministic" in done.stdout


def test_help_is_no_error():
    done = run("--help")
    assert done.returncode == 0
    assert "--workdir" in done.stdout


def test_flagfiles_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for name in ("absent", "bytes"):
        done = run(f"--flagfile={tmp_path / name}")
        assert "--flagfile" in check_refused(done.returncode, done.stderr.splitlines())


def test_what_the_system_refuses_is_no_fault_of_lrjax():
    def refused(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied", "/private/x")

    code, said = invoke(QUICKSTART, "--workdir=x", run=refused)
    assert (code, said) == (2, ["error: /private/x: Permission denied"])


def test_an_internal_error_keeps_its_traceback_and_asks_for_a_report(monkeypatch):
    def broken(*arguments):
        raise RuntimeError("internal")

    def check(code, said):
        assert code == 1
        assert said[0].startswith("Traceback")
        assert "RuntimeError: internal" in said
        assert "fault of lrjax" in said[-1]
        assert "report" in said[-1]

    check(*invoke(QUICKSTART, "--workdir=x", run=broken))
    monkeypatch.setattr(config_lib.methods_lib, "find", broken)
    check(*invoke(QUICKSTART, "--workdir=x"))
    # Called by the config file, but not its fault.
    monkeypatch.setattr(config_lib.config_dict, "placeholder", broken)
    code, said = invoke(QUICKSTART, "--workdir=x")
    assert code == 2  # raised outside of lrjax: no telling
    assert "RuntimeError: internal" in said[0]


@pytest.mark.parametrize("file", ["my data.csv", "bob's.csv", "data (1).csv"])
def test_a_files_name_in_a_task_needs_no_quotes(file):
    found = []
    code, said = invoke(
        QUICKSTART,
        "--workdir=x",
        f"--config.tasks=table:{file}?target=y,libsvm/iris",
        run=lambda mode, launcher, config, *_: found.append(config.tasks),
    )
    assert not code, said
    assert found == [(f"table:{file}?target=y", "libsvm/iris")]
