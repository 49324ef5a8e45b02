r"""Trains, compares and tunes ways to control the learning rate.

  python main.py --config=configs/quickstart.py --workdir=runs/quickstart
  python main.py --config=configs/libsvm.py:iris --workdir=runs/iris \
      --config.methods=adam,prodigy --config.seeds=20
  python main.py --mode=report --workdir=runs/iris
  python main.py --mode=methods

Everything in a config can be set as --config.NAME=VALUE. Results are appended to
tables in --workdir; what is there already is not trained again.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import traceback
import warnings
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags


def _fail(message: str) -> NoReturn:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


try:
    _CONFIG = config_flags.DEFINE_config_file(
        "config", None, "Config file, perhaps with an argument: configs/libsvm.py:iris"
    )
except (flags.Error, UnicodeDecodeError) as error:
    # It reads --flagfile already here.
    _fail("--flagfile: " + str(error).removeprefix("ERROR:: "))
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "report", "methods"],
    "train: train what the config asks for and rank it. "
    "report: write WORKDIR/report/index.html; needs no config. "
    "methods: list the methods with their hyperparameters.",
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
_DETERMINISTIC = flags.DEFINE_bool(
    "deterministic",
    False,
    "On GPUs take only kernels that give the same bits each time, slower ones perhaps; "
    "docs/reliability.md says what remains. CPUs do so anyway.",
)


def main(argv: list[str]) -> None:
    """Does what --mode says."""
    from lrjax import cli
    from lrjax.core import Interrupted, UsageError

    try:
        if len(argv) > 1:
            raise UsageError(f"unexpected argument '{argv[1]}'; flags start with --")
        if _MODE.value == "methods":
            cli.methods()
            return
        if not flags.FLAGS["config"].present:
            raise UsageError("--config is missing: try --config=configs/quickstart.py")
        if not _WORKDIR.value:
            raise UsageError("--workdir is missing: say where results shall go")
        _check_config()
        if _MODE.value == "report":
            cli.report(_CONFIG.value, _WORKDIR.value)
            return
        if _DETERMINISTIC.value:
            cli.make_deterministic()
        overrides = config_flags.get_override_values(flags.FLAGS["config"])
        cli.train(_CONFIG.value, _WORKDIR.value, _DATA_DIR.value, overrides)
    except UsageError as error:
        _fail(str(error))
    except (Interrupted, KeyboardInterrupt) as stop:
        _stop(getattr(stop, "signum", signal.SIGINT))
    except BrokenPipeError:  # nobody reads any more, as after | head
        os._exit(128 + signal.SIGPIPE)
    except Exception:
        _report()


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
    logging.set_verbosity(logging.ERROR)  # hides what is said below, in other words
    try:
        return flags.FLAGS(_with_config(argv))
    except Exception as error:
        from lrjax import cli

        message = cli.explain(error, argv)
        if message is None:
            _report()
        _fail(message)


def _with_config(argv: list[str]) -> list[str]:
    """The command line, with a config where --mode=report has none."""
    words = [word for arg in argv for word in arg.lstrip("-").split("=", 1)]
    if ("mode", "report") not in itertools.pairwise(words) or "config" in words:
        return argv
    file = os.path.join(os.path.dirname(__file__), "configs", "report.py")
    return [argv[0], f"--config={file}", *argv[1:]]


def _report() -> NoReturn:
    """Shows the exception at hand, which is a fault of this program."""
    traceback.print_exc()
    print(
        "error: this is a fault of lrjax, not of your command. Please report it with "
        "the lines above, the command, the config file and WORKDIR/config.json",
        file=sys.stderr,
    )
    sys.exit(1)


def _stop(signum: int, frame: Any = None) -> NoReturn:
    print("stopped; the same command goes on from here", file=sys.stderr)
    sys.exit(128 + signum)


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
    signal.signal(signal.SIGTERM, _stop)
    try:
        app.run(main, flags_parser=_parse)
    except KeyboardInterrupt:
        _stop(signal.SIGINT)
