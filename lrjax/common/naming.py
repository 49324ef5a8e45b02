"""Names of folders from any names, and names of files with settings."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

_LONGEST = 200  # bytes in a folder's name


def settings_of(name: str, known: Iterable[str]) -> tuple[str, str]:
    """Divide 'FILE?NAME=VALUE&NAME=VALUE' into the file and its settings.

    The settings begin at the first question mark before one that is known, since values
    may have some, and else at the last one, since names of files may, too.

    Example:
      >>> settings_of("a.csv?target=is it?", ["target"])
      ('a.csv', 'target=is it?')
    """
    if begin := re.search(rf"\?(?=(?:{'|'.join(known)})=)", name):
        return name[: begin.start()], name[begin.end() :]
    file, mark, settings = name.rpartition("?")
    return (file, settings) if mark else (name, "")


def folders(names: Iterable[str]) -> dict[str, str]:
    """Map names to names of folders: valid, inside of their parent, and unique.

    A slash or another character that no folder may have becomes a dash. A name that is
    then invalid, too long or taken (capitals do not count, since some file systems
    ignore them) gets digits of its hash. Names that need no change come first.
    """
    chosen: dict[str, str] = {}
    taken: set[str] = set()
    plain = {name: re.sub(r"[/\\\x00-\x1f\ud800-\udfff]", "-", name) for name in names}
    for name in sorted(plain, key=lambda name: (name != plain[name], name)):
        folder = plain[name]
        too_long = len(folder.encode()) > _LONGEST
        start, digits = folder.strip(". "), 8
        if not start or too_long or folder.casefold() in taken:
            exact = name.encode("utf-8", "surrogatepass")
            hashed = hashlib.sha256(exact).hexdigest()
            folder = f"{start[: _LONGEST // 4]}-{hashed[:digits]}"
            while folder.casefold() in taken:
                digits += 1
                folder = f"{start[: _LONGEST // 4]}-{hashed[:digits]}"
        taken.add(folder.casefold())
        chosen[name] = folder
    return chosen
