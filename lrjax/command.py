r"""Train, compare and tune ways to control the learning rate.

  python main.py --config=quickstart --workdir=runs/quickstart
  python main.py --config=libsvm:iris --workdir=runs/iris \
      --config.methods=adam,prodigy --config.seeds=20
  python main.py tune --config=libsvm:wine --workdir=runs/tuned \
      --config.methods=adam
  python main.py select --config=libsvm:vowel --workdir=runs/vowel
  python main.py plan --config=study:libsvm --workdir=runs/study
  python main.py plan --of=tune --config=libsvm:wine --config.methods=adam
  python main.py --launcher=dask --config=study:libsvm --workdir=runs/study
  python main.py report --workdir=runs/iris
  python main.py report --from=tensorboard:logs
  python main.py watch runs/iris
  python main.py methods
  python main.py config

Set any field of a config with --config.NAME=VALUE. Results are appended to tables in
--workdir; blocks of runs that are already there are not trained again.
"""

from __future__ import annotations

import sys
from typing import Any

from absl import flags, logging
from ml_collections import ConfigDict, FrozenConfigDict, config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from lrjax import arguments
from lrjax.launch import LAUNCHERS, flagfiles, process
from lrjax.messages import UsageError
from lrjax.track import TRACKERS


class _ConfigFile(ConfigFileFlagParser):
    """Runs a config file; unfreezes its config, so that flags can override fields."""

    def parse(self, path: str) -> Any:
        config = super().parse(path)
        if isinstance(config, FrozenConfigDict):
            config = ConfigDict(config)
        arguments.check_loaded(path, config)
        config.lock()
        return config


_ARGV = [*sys.argv]  # which ml_collections searches for --config.NAME, once rewritten
try:
    flagfiles.check(sys.argv)
    _CONFIG = config_flags.DEFINE_config_file(
        "config",
        None,
        "Config file, with an optional argument: configs/libsvm.py:iris",
        sys_argv=_ARGV,
    )
    flags.FLAGS["config"].parser = _ConfigFile("config", lock_config=False)
except UsageError as error:
    process.fail(str(error))
except (flags.Error, UnicodeDecodeError) as error:
    # Defining the flag already reads --flagfile.
    process.fail("--flagfile: " + str(error).removeprefix("ERROR:: "))
_MODE_NAMES = ("train", "plan", "tune", "select", "advise")
_MODE_NAMES += ("report", "watch", "compact", "methods", "config", "race")
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    [*_MODE_NAMES],
    "train, or compare: train the runs of the config and rank the methods. "
    "plan: estimate runs, blocks, time, memory and disk; trains and writes nothing. "
    "tune: tune the methods, train each with its best hyperparameters, and rank them. "
    "select: find the best method and learning rate for each task. "
    "advise: say what to train an expensive task with, for a share of one full run. "
    "report: write WORKDIR/report/index.html; needs no config. "
    "watch: serve a page that follows WORKDIR while it trains; needs no config. "
    "compact: merge the curves of --config.curve_parts in WORKDIR; needs no config. "
    "methods: list the methods and their hyperparameters. "
    "config: list the fields of a config with defaults and meanings; with --config, "
    "show its values. "
    "race: select for a training of one's own that --command runs; needs no config.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory of the result tables; --mode=report takes several, separated by commas.",
)
_FROM = flags.DEFINE_multi_string(
    "from",
    [],
    "With --mode=report: runs that others trained, beside those in --workdir or alone: "
    "csv:FILE, wandb:EXPORT.csv, wandb:FOLDER, tensorboard:FOLDER, race:FOLDER or "
    "optuna:sqlite:///FILE#STUDY; several by commas or by repeating (docs/report.md).",
)
_PORT = flags.DEFINE_integer(
    "port",
    0,
    "Port of the page of --mode=watch, on this machine alone; 0: any that is free.",
    lower_bound=0,
    upper_bound=65535,
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Directory with data files, searched before the cache and the network. "
    "Default: $LRJAX_DATA_DIR.",
)
_OFFERED = {name: known.trains for name, known in LAUNCHERS.items() if known.trains}
_LAUNCHER = flags.DEFINE_string(
    "launcher",
    "local",
    "Where --mode=train, tune, select and advise train. "
    + " ".join(f"{name}: {trains}." for name, trains in _OFFERED.items())
    + " Others are those of installed packages, and import paths (docs/own.md).",
)
_DETERMINISTIC = flags.DEFINE_bool(
    "deterministic",
    False,
    "Use only deterministic GPU kernels, which may be slower; docs/reliability.md has "
    "the limits. CPU runs are always deterministic.",
)
_MULTIHOST = flags.DEFINE_bool(
    "multihost",
    False,
    "With --mode=train: this process is one of several, on a TPU pod or on several "
    "machines; each trains its share, the first writes the tables (docs/tpu.md).",
)

_LOG = flags.DEFINE_list(
    "log",
    [],
    "Where --mode=train, tune, select and advise send rows as they are measured, "
    f"separated by commas: {', '.join(TRACKERS)}, or import paths of one's own "
    "(docs/tracking.md).",
)
_OF = flags.DEFINE_enum(
    "of",
    "train",
    ["train", "tune"],
    "With --mode=plan: which mode to plan. A tuning is planned from its start.",
)
_COMMAND = flags.DEFINE_string(
    "command",
    "",
    "With --mode=race: the shell command of a full run, with {method}, "
    "{learning_rate}, {stop}, {seed} and others to fill in (docs/race.md).",
)
_METHODS = flags.DEFINE_list(
    "methods",
    None,
    "With --mode=race: names of the methods that the command knows, separated by "
    "commas; --mode=methods lists them.",
)
_RATES = flags.DEFINE_list(
    "rates",
    None,
    "With --mode=race: learning rates to try, separated by commas, of methods whose "
    "rate wants tuning; by default one per decade.",
)
_BUDGET = flags.DEFINE_integer("budget", 8, "With --mode=race: most full runs.")
_HORIZON = flags.DEFINE_integer(
    "horizon", None, "With --mode=race: steps of a full run."
)
_FOLDS = flags.DEFINE_integer(
    "folds", 1, "With --mode=race: how many divisions of the rows {fold} counts."
)
_VALID_ROWS = flags.DEFINE_integer(
    "valid_rows", 1000, "With --mode=race: validation rows; few make noisy accuracies."
)
_METRIC = flags.DEFINE_string(
    "metric", "loss", "With --mode=race: the value to rank by, on validation rows."
)
_HIGHER_IS_BETTER = flags.DEFINE_bool(
    "higher_is_better",
    None,
    "With --mode=race: the metric's direction, where its name does not say it.",
)
_RESULT = flags.DEFINE_string(
    "result",
    "",
    "With --mode=race: a file of JSON that has the result, filled in like --command; "
    "by default the last line of its output that is JSON.",
)


_OF_RACE = ("command", "methods", "rates", "budget", "horizon", "folds", "valid_rows")
_OF_RACE += ("metric", "higher_is_better", "result")
# Flags of a race -> what other modes have in their place.
_ELSEWHERE = {"methods": "config.methods", "rates": "config.grid.learning_rate"}
# Flags -> the modes that they are for; others are for all modes.
_ONLY = {
    "from": ("report",),
    "log": ("train", "tune", "select", "advise"),
    "multihost": ("train",),
    "of": ("plan",),
    "port": ("watch",),
    **dict.fromkeys(_OF_RACE, ("race",)),
}


def _check_flags(rest: list[str]) -> None:
    """Refuse words that are no flags, and flags of other modes.

    Args:
      rest: the command line without its flags.

    Raises:
      UsageError: if there are any.
    """
    if len(rest) > 1:
        raise arguments.unexpected(rest[1], _ARGV, _MODE_NAMES)
    for name, modes in _ONLY.items():
        if flags.FLAGS[name].present and _MODE.value not in modes:
            named = " and ".join(filter(None, (", ".join(modes[:-1]), modes[-1])))
            other = _ELSEWHERE.get(name)
            hint = f"; give --{other}" if other else ""
            raise UsageError(f"--{name} is for --mode={named}, not {_MODE.value}{hint}")


def _race(workdir: str) -> None:
    """Run a race whose jobs are shell commands, and print its answer."""
    from lrjax import race
    from lrjax.race import command, contenders

    if not _COMMAND.value:
        raise UsageError("--command is missing: set what trains a full run")
    if _HORIZON.value is None:
        raise UsageError("--horizon is missing: set the steps of a full run")
    if not _METHODS.value:
        raise UsageError(
            "--methods is missing: name those that the command knows; --mode=methods "
            "lists all"
        )
    methods = _METHODS.value
    if _RATES.value is not None:
        methods = contenders.at_rates(methods, _RATES.value)
    selecting = race.Race(
        methods,
        budget=_BUDGET.value,
        horizon=_HORIZON.value,
        folder=workdir,
        metric=_METRIC.value,
        higher_is_better=_HIGHER_IS_BETTER.value,
        folds=_FOLDS.value,
        valid_rows=_VALID_ROWS.value,
    )
    print(command.run(selecting, _COMMAND.value, _RESULT.value))


def _watch(workdir: str) -> None:
    """Serve the page of a working directory."""
    from lrjax.watch import server

    server.watch(workdir, _PORT.value)


@process.reporting
def main(argv: list[str]) -> None:
    """Run the mode that --mode names."""
    _check_flags(argv)
    if _MODE.value in ("race", "watch"):
        if not _WORKDIR.value:
            mode = _MODE.value
            raise UsageError(f"--workdir is missing: lrjax {mode} --workdir=FOLDER")
        process.imported()
        (_race if _MODE.value == "race" else _watch)(_WORKDIR.value)
        return
    from lrjax import cli  # here, since it imports JAX, for which --help need not wait

    process.imported()
    if _MODE.value == "methods":
        cli.methods()
        return
    if not flags.FLAGS["config"].present:
        raise UsageError("--config is missing: try --config=quickstart")
    workdir = _WORKDIR.value or ""
    if not workdir and not _FROM.value and _MODE.value not in ("config", "plan"):
        raise UsageError("--workdir is missing: set the directory for the results")
    config = _CONFIG.value
    overrides = config_flags.get_override_values(flags.FLAGS["config"])
    if _MODE.value == "config":
        cli.config(config)
        return
    if _MODE.value == "report":
        cli.report(config, workdir, _FROM.value, overrides)
        return
    if _MODE.value == "compact":
        cli.compact(workdir)
        return
    if _MULTIHOST.value and _LAUNCHER.value != "local":
        raise UsageError(
            f"--multihost and --launcher={_LAUNCHER.value}: choose one of them"
        )
    if _DETERMINISTIC.value:
        cli.make_deterministic()
    if _LAUNCHER.value not in _OFFERED and _LAUNCHER.value in LAUNCHERS:
        raise UsageError(f"--launcher={_LAUNCHER.value}: use --multihost")
    launcher = "hosts" if _MULTIHOST.value else _LAUNCHER.value
    given = (launcher, config, workdir, _DATA_DIR.value, overrides, _LOG.value)
    cli.run(_MODE.value, *given, _OF.value)


def parse(argv: list[str]) -> list[str]:
    """Parse flags and run the config file; report errors in one line.

    Args:
      argv: the command line; a mode may stand in front of its flags ('lrjax tune').

    Returns:
      what is left of the command line without its flags.
    """
    logging.set_verbosity(logging.FATAL)  # its words for the errors reported below
    _show_in_help(argv[0])
    try:
        arguments.check_config_file(argv)
        arguments.import_methods(argv)
        _ARGV[:] = arguments.rewritten(argv, _MODE_NAMES)
        return flags.FLAGS(_ARGV)
    except SystemExit as end:  # absl exits with 1 after showing its help
        sys.exit(0 if {"--help", "--helpshort", "--helpfull"} & {*argv} else end.code)
    except BrokenPipeError:  # by whoever read the help
        raise
    except Exception as error:
        message = arguments.explain(error, argv)
        if message is None:
            process.report_fault()
        process.fail(message)


def _show_in_help(program: str) -> None:
    """Make absl's help show this module's flags and words, with the program's name."""
    for flag in flags.FLAGS.get_flags_for_module(__name__):
        flags.FLAGS.register_key_flag_for_module(program, flag)
    name = arguments.program(program)
    sys.modules["__main__"].__doc__ = (__doc__ or "").replace("python main.py", name)
