"""Settings of the documentation site: `make docs` builds it, with warnings as errors."""

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # autodoc imports this checkout

project = "SWARD"
copyright = "the SWARD authors, Apache-2.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]  # myst_nb: Markdown and notebooks
html_theme = "furo"
html_title = "SWARD"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"source_directory": "docs/"}
nb_execution_mode = "off"  # pages show the committed outputs; `make notebooks` and the tests run them

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3  # the anchors that GitHub gives, so that links work on both

autodoc_typehints = "signature"  # signatures name the types; docstrings do not repeat them
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "exclude-members": "model_config"}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = ["Terms", "Paper and code", "Differences", "Reads", "Random draws", "Parameters and buffers"]


LONE_STAR = re.compile(r"(?<![\w*`])\*(?=\w)(?![^\n*]*\*)")


def escape_stars(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text: a star before a name, as in ``*size``, begins no emphasis."""
    lines[:] = [LONE_STAR.sub(r"\\*", line) for line in lines]


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", escape_stars)
