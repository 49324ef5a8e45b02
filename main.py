r"""Trains, compares and tunes ways to control the learning rate.

  python main.py --config=configs/quickstart.py --workdir=runs/quickstart
  python main.py --config=configs/libsvm.py:iris --workdir=runs/iris \
      --config.methods=adam,prodigy --config.seeds=20
  python main.py --mode=tune --config=configs/libsvm.py:wine --workdir=runs/tuned \
      --config.methods=adam
  python main.py --mode=select --config=configs/libsvm.py:vowel --workdir=runs/vowel
  python main.py --mode=plan --config=configs/study.py:libsvm --workdir=runs/study
  python main.py --launcher=dask --config=configs/study.py:libsvm --workdir=runs/study
  python main.py --mode=report --workdir=runs/iris
  python main.py --mode=methods
  python main.py --mode=config

Everything in a config can be set as --config.NAME=VALUE. Results are appended to
tables in --workdir; what is there already is not trained again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

if __name__ == "__main__":  # the imports that follow take a while

    def _leave(signum: int, _: object) -> None:
        with contextlib.suppress(OSError):
            os.write(2, b"stopped; the same command goes on from here\n")
        os._exit(128 + signum)  # an import might make an error of its own of it

    for _signum in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(_signum) is not signal.SIG_IGN:  # a shell's wish
            signal.signal(_signum, _leave)
    # A stream that was closed is silent: its number must not become a table's.
    for _fd, _name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        if getattr(sys, _name) is None:
            _null = os.open(os.devnull, os.O_RDWR)
            if _null != _fd:
                os.dup2(_null, _fd)
                os.close(_null)
            setattr(sys, _name, open(_fd, "w" if _fd else "r", closefd=False))  # noqa: SIM115

import errno
import itertools
import traceback
import warnings
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, FrozenConfigDict, config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from lrjax.launch import LAUNCHERS

_GRACE = 2.0  # seconds from a signal to the end at the latest


def _fail(message: str) -> NoReturn:
    _tell("error: " + " ".join(message.split()))
    sys.exit(2)


def _tell(text: str) -> None:
    # A log on a full disk; a signal in the middle of printing.
    with contextlib.suppress(OSError, RuntimeError):
        print(text, file=sys.stderr, flush=True)


class _ConfigFile(ConfigFileFlagParser):
    """Runs a config file; a config that it froze can be overridden like any other."""

    def parse(self, path: str) -> Any:
        config = super().parse(path)
        if isinstance(config, FrozenConfigDict):
            config = ConfigDict(config)
        if isinstance(config, ConfigDict):
            config.lock()
        return config


try:
    _CONFIG = config_flags.DEFINE_config_file(
        "config", None, "Config file, perhaps with an argument: configs/libsvm.py:iris"
    )
    flags.FLAGS["config"].parser = _ConfigFile("config", lock_config=False)
except (flags.Error, UnicodeDecodeError) as error:
    # It reads --flagfile already here.
    _fail("--flagfile: " + str(error).removeprefix("ERROR:: "))
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "plan", "tune", "select", "report", "methods", "config"],
    "train: train what the config asks for and rank it. "
    "plan: say what that would take (runs, blocks, time, memory, disk); trains and "
    "writes nothing. "
    "tune: find hyperparameters for its methods, train the best and rank them. "
    "select: find the method and rate that are best for each of its tasks. "
    "report: write WORKDIR/report/index.html; needs no config. "
    "methods: list the methods with their hyperparameters. "
    "config: list the fields of a config with defaults and meanings; with --config "
    "its values.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory of the result tables; --mode=report takes several with commas between.",
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Directory with data files, searched before the cache and the network. "
    "Default: $LRJAX_DATA_DIR.",
)
_OFFERED = {name: known.trains for name, known in LAUNCHERS.items() if known.trains}
_LAUNCHER = flags.DEFINE_enum(
    "launcher",
    "local",
    list(_OFFERED),
    "Who trains with --mode=train, tune and select. "
    + " ".join(f"{name}: {trains}." for name, trains in _OFFERED.items()),
)
_DETERMINISTIC = flags.DEFINE_bool(
    "deterministic",
    False,
    "On GPUs take only kernels that give the same bits each time, slower ones perhaps; "
    "docs/reliability.md says what remains. CPUs do so anyway.",
)
_MULTIHOST = flags.DEFINE_bool(
    "multihost",
    False,
    "With --mode=train: this process is one of several, on a TPU pod or on several "
    "machines; each trains its share, the first one writes the tables (docs/tpu.md).",
)


def main(argv: list[str]) -> None:
    """Does what --mode says, and says in one line why it cannot."""
    from lrjax.core import Interrupted, UsageError

    try:
        _run(argv)
        sys.stdout.flush()
    except UsageError as error:
        _fail(str(error))
    except Interrupted as stop:
        _stop(stop.signum)
    except BrokenPipeError:  # nobody reads any more, as after | head
        os._exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            _report()
        _tell(f"error: cannot write: {error.strerror}")
        os._exit(2)  # leaving as usual would try again
    except Exception:
        _report()


def _run(argv: list[str]) -> None:
    from lrjax import cli
    from lrjax.core import UsageError

    if len(argv) > 1:
        raise UsageError(f"unexpected argument '{argv[1]}'; flags start with --")
    if _MODE.value == "methods":
        cli.methods()
        return
    if not flags.FLAGS["config"].present:
        raise UsageError("--config is missing: try --config=configs/quickstart.py")
    if _MODE.value == "config":
        _check_config()
        cli.config(_CONFIG.value)
        return
    if not _WORKDIR.value:
        raise UsageError("--workdir is missing: say where results shall go")
    _check_config()
    if _MODE.value == "report":
        cli.report(_CONFIG.value, _WORKDIR.value)
        return
    if _MULTIHOST.value and _MODE.value != "train":
        raise UsageError(f"--multihost is for --mode=train, not {_MODE.value}")
    if _DETERMINISTIC.value:
        cli.make_deterministic()
    overrides = config_flags.get_override_values(flags.FLAGS["config"])
    launcher = "hosts" if _MULTIHOST.value else _LAUNCHER.value
    if _MULTIHOST.value and _LAUNCHER.value != "local":
        raise UsageError(
            f"--multihost and --launcher={_LAUNCHER.value}: choose one of them"
        )
    config, workdir = _CONFIG.value, _WORKDIR.value
    cli.run(_MODE.value, launcher, config, workdir, _DATA_DIR.value, overrides)


def _check_config() -> None:
    """Refuses a --config that gave no config; such flags parse nevertheless."""
    from lrjax.core import UsageError

    path = config_flags.get_config_filename(flags.FLAGS["config"])
    file, config = path.split(":")[0], _CONFIG.value
    if not os.path.isfile(file):
        raise UsageError(f"--config: there is no file '{file}'")
    if not isinstance(config, ConfigDict):
        # Where reading failed, what stands in for the config holds the reason.
        reason = getattr(config, "_error", "get_config() returns no ConfigDict")
        raise UsageError(f"--config: {file}: {reason}")


def _parse(argv: list[str]) -> list[str]:
    """Parses flags and runs the config file; what is wrong is said in one line."""
    from lrjax import cli

    logging.set_verbosity(logging.FATAL)  # hides what is said below, in other words
    try:
        cli.check_config_file(argv)
        return flags.FLAGS(_with_config(argv))
    except SystemExit as end:  # absl leaves with 1 once it has shown its help
        sys.exit(0 if {"--help", "--helpshort", "--helpfull"} & {*argv} else end.code)
    except Exception as error:
        message = cli.explain(error, argv)
        if message is None:
            _report()
        _fail(message)


def _with_config(argv: list[str]) -> list[str]:
    """The command line, with a config where --mode=report or config has none."""
    words = [word for arg in argv for word in arg.lstrip("-").split("=", 1)]
    names = {arg.lstrip("-").partition("=")[0] for arg in argv if arg[:1] == "-"}
    modes = {("mode", "report"), ("mode", "config")}
    if modes.isdisjoint(itertools.pairwise(words)) or "config" in names:
        return argv
    file = os.path.join(os.path.dirname(__file__), "configs", "report.py")
    return [argv[0], f"--config={file}", *argv[1:]]


def _report() -> NoReturn:
    """Shows the exception at hand, which is a fault of this program."""
    _tell(traceback.format_exc().rstrip())
    _tell(
        "error: this is a fault of lrjax, not of your command. Please report it with "
        "the lines above, the command, the config file and WORKDIR/config.json"
    )
    sys.exit(1)


def _interruptible(argv: list[str]) -> None:
    """`main`, which SIGINT and SIGTERM end with what it has to clean up done."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _on_signal)
    main(argv)


def _on_signal(signum: int, frame: Any) -> NoReturn:
    # What is at work may swallow the exit.
    signal.signal(signal.SIGALRM, lambda *_: os._exit(128 + signum))
    signal.setitimer(signal.ITIMER_REAL, _GRACE)
    _stop(signum)


def _stop(signum: int) -> NoReturn:
    _tell("stopped; the same command goes on from here")
    sys.exit(128 + signum)


def _show_unraised(fault: Any) -> None:
    """What came up where nothing can be raised: callbacks, threads of libraries."""
    error = fault.exc_value
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        os._exit(error.code)  # a signal came while garbage was collected, for one
    # Orbax's, after a checkpoint that could not be written, which is said elsewhere.
    if str(error) != "Event loop is closed":
        sys.__unraisablehook__(fault)


def _show(message: Warning | str, category: type[Warning], *rest: Any) -> str:
    """A warning in one line; whose code it came from matters to developers alone."""
    if category is UserWarning:
        return f"warning: {' '.join(str(message).split())}\n"
    return _format_warning(message, category, *rest)


_format_warning = warnings.formatwarning

if __name__ == "__main__":
    warnings.formatwarning = _show
    for stream in (sys.stdout, sys.stderr):  # names of files may be no text at all
        stream.reconfigure(errors="backslashreplace")  # pyright: ignore
    sys.unraisablehook = _show_unraised
    try:
        app.run(_interruptible, flags_parser=_parse)
    except SystemExit as end:
        if isinstance(end.code, int) and end.code > 128:
            os._exit(end.code)  # and not wait for threads that compile
        raise
