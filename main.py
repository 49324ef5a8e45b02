r"""Trains, compares and tunes ways to control the learning rate.

  python main.py --config=configs/quickstart.py --workdir=runs/quickstart
  python main.py --config=configs/libsvm.py:iris --workdir=runs/iris \
      --config.methods=adam,prodigy --config.seeds=20
  python main.py --mode=methods

Everything in a config can be set as --config.NAME=VALUE. Results are appended to
tables in --workdir; what is there already is not trained again.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from absl import app, flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, perhaps with an argument: configs/libsvm.py:iris"
)
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "methods"],
    "train: train what the config asks for and rank it. "
    "methods: list the methods with their hyperparameters.",
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the result tables.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Directory with data files, searched before the cache and the network. "
    "Default: $LRJAX_DATA_DIR.",
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
        if _CONFIG.value is None:
            raise UsageError("--config is missing: try --config=configs/quickstart.py")
        if not _WORKDIR.value:
            raise UsageError("--workdir is missing: say where results shall go")
        file = config_flags.get_config_filename(flags.FLAGS["config"]).split(":")[0]
        if not os.path.isfile(file):
            raise UsageError(f"--config: there is no file {file}")
        overrides = config_flags.get_override_values(flags.FLAGS["config"])
        cli.train(_CONFIG.value, _WORKDIR.value, _DATA_DIR.value, overrides)
    except UsageError as error:
        _fail(str(error))
    except (Interrupted, KeyboardInterrupt) as stop:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(128 + getattr(stop, "signum", signal.SIGINT))


def _parse(argv: list[str]) -> list[str]:
    """Parses flags; what is wrong with them is said in one line."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, LookupError, AttributeError, OSError) as error:
        _fail(str(error.args[0] if error.args else error))
    except (TypeError, ValueError) as error:
        # Raised by a config's get_config, or by a value of the wrong type.
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
