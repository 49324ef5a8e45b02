"""`python -m lrjax`, the same program as the command `lrjax` and `python main.py`."""

from __future__ import annotations

import sys

from lrjax import __version__, showing
from lrjax.extras import MissingPackage
from lrjax.launch import process


def start() -> None:
    """Run the command line, and exit with its code."""
    process.begin()  # before the imports below
    if sys.argv[1:] == ["--version"]:
        print(f"lrjax {__version__}")
        return
    showing.start(sys.argv[1:])
    try:
        from lrjax import command
    except MissingPackage as error:
        process.fail(str(error))

    process.run(command.main, command.parse)


if __name__ == "__main__":
    start()
