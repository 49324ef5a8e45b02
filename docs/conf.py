"""How Sphinx builds the documentation; `make docs` calls it (build.py)."""

import hashlib
import importlib.util
import json
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]
# The notebooks' processes import this checkout.
_PATHS = (str(ROOT), os.environ.get("PYTHONPATH"))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, _PATHS))

(release,) = re.findall(
    r'^__version__ = "(.+)"', (ROOT / "lrjax/__init__.py").read_text(), re.M
)
project = "lrjax"
author = "The lrjax authors"
copyright = author
version = release

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml"]
html_math_renderer = "mathml"
templates_path = ["_templates"]
html_static_path = ["_static"]
html_theme = "furo"
html_title = f"lrjax {release}"
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_sidebars = {
    "**": [
        *("sidebar/brand.html", "sidebar/search.html", "sidebar/versions.html"),
        *("sidebar/scroll-start.html", "sidebar/navigation.html"),
        "sidebar/scroll-end.html",
    ]
}
highlight_language = "none"  # of blocks that name none, which are commands and tables

myst_heading_anchors = 4
smartquotes_action = "D"  # dashes alone: quotes are often code

# The API reference.
default_role = "py:obj"  # `name` in a docstring links to what it names, if it can
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 70
napoleon_numpy_docstring = False
napoleon_use_param = False  # else `a, b: text` becomes a line for each
napoleon_custom_sections = [("Attributes", "params_style")]
napoleon_use_rtype = False

# Notebooks are executed again when they change, or lrjax does.
TORCH = ("torch", "prodigyopt", "schedulefree")
HAS_TORCH = all(importlib.util.find_spec(name) for name in TORCH)


def _digest() -> str:
    """A hash of lrjax's code and of what else its numbers depend on."""
    code = hashlib.sha256()
    for path in sorted((ROOT / "lrjax").rglob("*")):
        if path.suffix in (".py", ".npz", ".json"):
            code.update(path.read_bytes())
    return code.hexdigest()[:16]


nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "build/docs/notebooks" / _digest())
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_excludepatterns = [] if HAS_TORCH else ["tutorials/torch.ipynb"]
nb_execution_show_tb = True
nb_output_stderr = "remove"  # progress; a test sees that there are no warnings

_NOT_SHOWN = (
    "```{note}\nThis page was built on a machine without "
    f"{', '.join(TORCH[:-1])} and {TORCH[-1]}. So its code was not run here, and its "
    "outputs are not shown.\n```"
)
_OUTSIDE = {  # files outside of this folder -> the pages that show them
    "../CHANGELOG.md": "changelog.md",
    "../CONTRIBUTING.md": "contributing.md",
    "../benchmarks/RESULTS.md": "measurements.md",
    "../examples": "examples.md",
}


def _read(app: object, name: str, source: list[str]) -> None:
    """Turn links to files outside of this folder into links to pages that show them."""
    for file, page in _OUTSIDE.items():
        source[0] = source[0].replace(f"]({file})", f"]({page})")
    link = r"\]\((\.\./)?\.\./examples/(\w+)\.py\)"
    source[0] = re.sub(link, r"](\1examples.md#\2)", source[0])
    if name == "tutorials/torch" and not HAS_TORCH:
        notebook = json.loads(source[0])
        cell = {"cell_type": "markdown", "metadata": {}, "source": _NOT_SHOWN}
        notebook["cells"].insert(1, {**cell, "id": "not-shown"})
        source[0] = json.dumps(notebook)


def setup(app: object) -> None:
    """Connect what Sphinx has no setting for."""
    app.connect("source-read", _read)
