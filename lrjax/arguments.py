"""The command line: shipped configs by name, and what is wrong with a bad one."""

from __future__ import annotations

import itertools
import os
import re
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from lrjax import plugins
from lrjax.common import files
from lrjax.messages import UsageError, cut, nearest, shown, unknown

_LONGEST = 400  # characters of an error's message; it may quote a value of any length
_LARGEST = 2**20  # bytes of a config file
CONFIG_MODULE = "config_config"  # ml_collections' name for a config file's module
# In an installed package inside of it, in a checkout beside it.
_INSIDE = Path(__file__).parent / "configs"
_CONFIGS = _INSIDE if _INSIDE.is_dir() else Path(__file__).parent.parent / "configs"
_ALSO = {"compare": "train"}  # another name of a mode
_METHODS = ("config.methods", "config.select.methods")
_NAMES = ("config.tasks", *_METHODS)
_QUOTED = re.compile(r":\s*(['\"]).*\1")  # a file within a task's name
_HPARAMS = "config.hparams."
# What absl says of a flag's value, after the flag -> what the flag takes.
_FLAG = re.compile(
    r"flag (--\w+)=(.*): (invalid literal for int|\('Non-bool)", re.DOTALL
)
_ONE_OF = re.compile(r"flag --(\w+)=(.*): value should be one of <(.*)>", re.DOTALL)
_TAKES = {"i": "a whole number", "(": "True or False"}


def program(path: str) -> str:
    """Return what a user types to run the program at a path."""
    name = os.path.basename(path)
    named = {"main.py": "python main.py", "__main__.py": "python -m lrjax"}
    return named.get(name, name)


def rewritten(argv: Sequence[str], modes: Sequence[str]) -> list[str]:
    """Write the flags of a command line as absl and ml_collections read them.

    A mode in front of the flags becomes --mode ('compare' is 'train'), and a directory
    after 'watch' becomes --workdir; `--config` is added where --mode=report
    or config has none; `~` in its file and the name of a shipped config
    (`--config=libsvm:wine`) become paths; lists of names with colons, such as import
    paths, are quoted, and so are names of methods with dots in those of fields.

    Args:
      argv: the command line.
      modes: names of the modes.
    """
    if len(argv) > 1 and argv[1] in (*modes, *_ALSO):
        rest = list(argv[2:])
        if argv[1] == "watch" and rest and rest[0][:1] != "-":
            rest[0] = f"--workdir={rest[0]}"
        argv = [argv[0], f"--mode={argv[1]}", *rest]
    argv = [_rewritten(arg) for arg in argv]
    words = [word for arg in argv for word in arg.lstrip("-").split("=", 1)]
    names = {arg.lstrip("-").partition("=")[0] for arg in argv if arg[:1] == "-"}
    alone = {("mode", mode) for mode in ("report", "compact", "config")}
    if alone.isdisjoint(itertools.pairwise(words)) or "config" in names:
        return argv
    return [argv[0], f"--config={_CONFIGS / 'report.py'}", *argv[1:]]


def _rewritten(arg: str) -> str:
    """Rewrite one flag; see `rewritten`."""
    flag, equals, value = arg.partition("=")
    name = flag.lstrip("-")
    method, _, hparam = name.removeprefix(_HPARAMS).rpartition(".")
    if name.startswith(_HPARAMS) and not method.isidentifier() and "[" not in method:
        return f"--{_HPARAMS[:-1]}[{method!r}].{hparam}{equals}{value}"
    if not equals or flag[:1] != "-":
        return arg
    if name == "mode":
        return f"{flag}={_ALSO.get(value, value)}"
    if name == "config":
        file, colon, argument = os.path.expanduser(value).partition(":")
        named = re.fullmatch(r"(?:configs/)?(\w+)(?:\.py)?", file)
        shipped = _CONFIGS / f"{named[1]}.py" if named else Path()
        if named and not Path(file).exists() and shipped.exists():
            file = str(shipped)
        return f"{flag}={file}{colon}{argument}"
    unquoted = value.lstrip()[:1] not in "'\"(["
    if name in _NAMES and unquoted and re.search(r":|\S\s+\S", value):
        if _QUOTED.search(value):
            raise UsageError(
                f"{name}={value}: leave out the quotes inside; spaces need none"
            )
        return f"{flag}={_divided(name, value)!r}"
    return arg


def _divided(name: str, value: str) -> tuple[str, ...]:
    """Split a list of names at its commas.

    Raises:
      UsageError: if a comma divides the settings of a table.
    """
    names = tuple(each.strip() for each in value.split(","))
    for before, each in itertools.pairwise(names):
        settings = "?" in before and before.startswith("table:")
        named = ":" in each or each in plugins.offered("task")
        if settings and not named and ("/" not in each or "&" in each):
            raise UsageError(
                f"{name}={value}: a comma ends the name of a task, and {shown(each)} "
                "is none: in a column's name write %2C, and &drop= before each column"
            )
    return names


def unexpected(word: str, argv: Sequence[str], modes: Sequence[str]) -> UsageError:
    """Make the error for a word that is no flag.

    Args:
      word: the word.
      argv: the command line, whose first word may be a misspelt mode.
      modes: names of the modes.
    """
    valid = (*modes, *_ALSO)
    near = nearest(word, valid) if word in argv[1:2] else None
    if word in valid:
        hint = "a mode stands in front of all flags"
    else:
        hint = f"did you mean '{near}'?" if near else "flags start with --"
    return UsageError(f"unexpected argument '{word}'; {hint}")


def import_methods(argv: Sequence[str]) -> None:
    """Import methods of packages that flags name, so that configs have their fields.

    Args:
      argv: the command line.

    Raises:
      UsageError: if one cannot be imported.
    """
    named = []
    for arg in argv:
        flag, _, value = arg.partition("=")
        name = flag.lstrip("-")
        if name in _METHODS:
            named += re.findall(r"[^\s,'\"()\[\]]+", value)
        elif name.startswith(_HPARAMS):
            named.append(name.removeprefix(_HPARAMS).rpartition(".")[0])
    own = [n for n in named if plugins.is_path(n) or n in plugins.offered("method")]
    if own:
        from lrjax import methods  # it imports JAX

        for name in own:
            methods.find(name)


def check_loaded(path: str, config: Any) -> None:
    """Check that the file of `--config` made a config with lrjax's fields.

    ml_collections itself accepts a file that is not there or returns something else.

    Args:
      path: the flag's value, a config file with an optional argument.
      config: what ml_collections made of the file.

    Raises:
      UsageError: if the file does not exist, or does not return a ConfigDict that
        began as `lrjax.config.base()`.
    """
    file = path.split(":")[0]
    if not os.path.isfile(file):
        raise UsageError(f"--config: file '{file}' does not exist{_meant(file)}")
    if absent := getattr(config, "_error", None):  # a file that get_config() opens
        raise UsageError(f"--config: {file}: {absent}")
    if not isinstance(config, ConfigDict):
        raise UsageError(
            f"--config: {file}: get_config() returns no ConfigDict but "
            f"{shown(config)}: begin it with config = lrjax.config.base() and return "
            "config"
        )
    from lrjax import config as config_lib  # it imports JAX

    try:
        config_lib.check_names(config)
    except UsageError as error:
        raise UsageError(f"--config: {file}: {error}") from None


def _meant(file: str) -> str:
    """A hint for a file that does not exist; '' if it is in a folder of one's own."""
    named = re.fullmatch(r"(?:configs/)?(\w+)(?:\.py)?", file)
    if not named:
        return ""
    shipped = sorted(path.stem for path in _CONFIGS.glob("*.py"))
    near = nearest(named[1], shipped)
    if near:
        return f"; did you mean '{near}', a config of lrjax's own?"
    return f"; lrjax's own are {', '.join(shipped)}"


def check_config_file(argv: Sequence[str]) -> None:
    """Refuse a config file that might never end, such as a pipe or a device.

    Args:
      argv: the command line.

    Raises:
      UsageError: if --config names something other than a regular file, or a large one.
    """
    if not (name := _config_file(argv)):
        return
    file = files.expanded(name)
    if os.path.exists(file) and not os.path.isfile(file):
        raise UsageError(f"--config: {file} is not a regular file")
    if os.path.isfile(file) and os.path.getsize(file) > _LARGEST:
        raise UsageError(f"--config: {file} has more than {_LARGEST:,} bytes")


def explain(error: BaseException, argv: Sequence[str]) -> str | None:
    """Describe an error in flags or in the config file in one line.

    Args:
      error: raised while flags were parsed, which also runs the config file.
      argv: the command line.

    Returns:
      the line, or None if the error is a fault of lrjax.
    """
    message = _explain(error, argv)
    return None if message is None else cut(message, _LONGEST)


def _explain(error: BaseException, argv: Sequence[str]) -> str | None:
    """Describe an error as `explain` does, at any length."""
    file = _config_file(argv)
    chain = list(_causes(error))
    for cause in reversed(chain):  # ml_collections wraps errors of the same type
        if isinstance(cause, UsageError):
            return str(cause)
    for cause in chain:
        frames = list(traceback.walk_tb(cause.__traceback__))
        modules = [frame.f_globals.get("__name__", "") for frame, _ in frames]
        if isinstance(cause, SyntaxError) and cause.filename in (file, None):
            line = f"line {cause.lineno}: " if cause.lineno else ""
            return f"{file}: {line}{cause.msg}"
        if CONFIG_MODULE in modules:
            if modules[-1].startswith("lrjax"):
                return None
            line = [line for _, line in frames][modules.index(CONFIG_MODULE)]
            message = cut(str(cause), _LONGEST // 2)
            return f"{file}: line {line}: {type(cause).__name__}: {message}"
    root = chain[-1]
    if isinstance(root, MemoryError | RecursionError):
        return f"{file}: nested too deeply for Python"
    if "parsing config file" in str(error) or getattr(root, "name", "") == "get_config":
        return f"{file}: {root}"
    names = [arg.lstrip("-").split("=")[0] for arg in argv if arg.startswith("-")]
    fields = [n.removeprefix("config.") for n in names if n.startswith("config.")]
    from lrjax import config as config_lib  # it imports JAX

    if found := _FLAG.match(str(error)):
        return f"{found[1]}={shown(found[2])}: must be {_TAKES[found[3][0]]}"
    if found := _ONE_OF.match(str(error)):
        return str(unknown(found[1], found[2], found[3].split("|")))
    named = config_lib.unknown_field(fields) or _mistyped(error)
    return str(named or _meant_field(error) or error)


def _meant_field(error: BaseException) -> UsageError | None:
    """Return the error for an unknown flag that is a config's field; else None."""
    if not isinstance(error, flags.UnrecognizedFlagError):
        return None
    from lrjax import config as config_lib

    flag = error.flagname
    if flag.startswith("config."):
        return UsageError(
            f"--config is missing, of which --{flag} sets a field: try --config=libsvm"
        )
    if not config_lib.unknown_field([flag]):
        return UsageError(f"unknown flag --{flag}; did you mean --config.{flag}?")
    hparam = config_lib.hyperparameter_meant(flag)
    if not hparam or "Did you mean" in str(error):
        return None
    return UsageError(
        f"unknown flag --{flag}; did you mean --config.grid.{hparam}, which is for "
        f"all methods, or --config.hparams.METHOD.{hparam}?"
    )


def _mistyped(error: BaseException) -> UsageError | None:
    """Return the error for a flag with a value of the wrong type; None for others."""
    field, equals, rest = str(error).removeprefix("flag --config.").partition("=")
    reason = f": {error.__cause__ or error.__context__}"
    if not (str(error).startswith("flag --config.") and equals):
        return None
    from lrjax import config as config_lib

    return config_lib.mistyped(field, rest.removesuffix(reason))


def _config_file(argv: Sequence[str]) -> str:
    """Return the config file that a command line names, '' if it names none."""
    file = ""
    for arg, following in itertools.pairwise([*argv, ""]):
        name, equals, value = arg.partition("=")
        if name in ("-config", "--config"):
            file = value if equals else following
    return file.split(":")[0]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception, its cause, the cause of that, and so on."""
    while error is not None:
        yield error
        hidden = error.__suppress_context__
        error = error.__cause__ or (None if hidden else error.__context__)
