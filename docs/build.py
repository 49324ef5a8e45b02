"""Build the documentation into site/VERSION and, if it is the newest, site/latest.

  python docs/build.py

Warnings are errors. Every page has a list of the versions in site/, which versions.js
names; so a version that was built before stays, and older pages list newer ones.
"""

import importlib
import json
import shutil
import sys
from pathlib import Path

from packaging.version import Version
from sphinx.cmd.build import main as sphinx

DOCS = Path(__file__).parent
SITE = DOCS.parent / "site"
BUILD = DOCS.parent / "build/docs"

# What a server shows at the site's root.
_ROOT_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>lrjax</title>
<meta http-equiv="refresh" content="0; url=latest/index.html">
<p><a href="latest/index.html">Documentation of lrjax</a></p></html>
"""


def versions(site: Path) -> list[str]:
    """The versions that a site has, newest first."""
    found = [each.name for each in site.iterdir() if (each / "index.html").exists()]
    return sorted({*found} - {"latest"}, key=Version, reverse=True)


def list_versions(site: Path) -> None:
    """Write what the pages of a site read, and the page at its root."""
    names = json.dumps(["latest", *versions(site)])
    (site / "versions.js").write_text(f"const versions = {names};\n")
    (site / "index.html").write_text(_ROOT_PAGE)


def put(folder: Path) -> None:
    """Replace a folder by what was built."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(BUILD / "html", folder)


def main() -> int:
    """Build; return Sphinx's exit code."""
    sys.path.insert(0, str(DOCS))
    release = importlib.import_module("conf").release
    options = ["-W", "--keep-going", "-q", "-b", "html"]
    options += ["-d", str(BUILD / "doctrees")]
    code = sphinx([*options, str(DOCS), str(BUILD / "html")])
    if code:
        return code
    put(SITE / release)
    if versions(SITE)[0] == release:
        put(SITE / "latest")
    list_versions(SITE)
    print(f"documentation: {SITE / 'latest' / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
