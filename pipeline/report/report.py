"""`sward report`: writes one self-contained HTML page about a comparison or runs; the page loads no other file."""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.drawing.masks import palette
from pipeline.own_files import require_own_page, write_page
from pipeline.report.charts import swatch
from pipeline.report.contents import ReportContents, collect
from pipeline.report.figure_files import write_files
from pipeline.report.selection import ReportInput, read_subject
from pipeline.results.captions import commit_names

PAGE = Path(__file__).parent / "page"
SECTIONS = {
    "result": "Result",
    "examples": "Examples",
    "activation": "Grad-CAM",
    "curves": "Curves",
    "signal": "Signal",
    "images": "Per image",
    "classes": "Per class",
    "space": "Feature space",
    "cost": "Cost",
    "store": "Store",
    "reproduce": "Reproduce",
}


def write_report(folders: Sequence[str | Path], out: str | Path, figures: str | Path | None = None) -> Path:
    """Writes the page about one comparison, or about runs, finished or not.

    Args:
        folders: folder of a comparison; or run folders, or folders that contain run folders.
        out: HTML file to write.
        figures: folder for charts and pictures (PNG, SVG) and tables (Markdown, CSV, LaTeX); None: do not write them.

    Returns:
        ``out``.

    Raises:
        ForeignFileError: ``out``, or a file in ``figures``, exists and was not written by this program.
        RunError: a folder is none of these, or the runs come from different stores.
    """
    require_own_page(Path(out))
    subject = read_subject(folders)
    material = collect(subject)
    page = environment().get_template("report.html").render(content(subject, material))
    if figures is not None:
        write_files(Path(figures), material.charts, material.tables, material.grids)
    write_page(Path(out), page)
    return Path(out)


def environment() -> Environment:
    """Template environment that escapes all values put into the page, except charts, style and script."""
    loader = FileSystemLoader(PAGE)
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters["commit_names"] = commit_names
    return made


def content(subject: ReportInput, material: ReportContents) -> dict[str, Any]:
    """Values for the template of the page."""
    return {
        "comparison": subject.comparison,
        "material": material,
        "labels": list(subject.every),
        "swatches": [swatch(i) for i in range(len(subject.every))],
        "sections": {id: title for id, title in SECTIONS.items() if present(id, material)},
        "class_keys": class_keys(subject.comparison["classes"]),
        "commands": subject.commands,
        "config": subject.config,
        "versions": versions(subject),
        "style": Markup((PAGE / "style.css").read_text()),
        "script": Markup((PAGE / "script.js").read_text()),
    }


def present(section: str, material: ReportContents) -> bool:
    """False if a section is left out because it is empty; a section that lacks its store stays and says so."""
    optional = {
        "signal": material.signals,
        "images": material.images,
        "activation": material.activations,
        "classes": material.confusions,
        "space": material.spaces,
    }
    return bool(optional.get(section, True))


def class_keys(classes: Sequence[str]) -> dict[str, str]:
    """Class -> its colour in masks as #rrggbb, without class 0, which is not tinted."""
    colours = palette(len(classes)).tolist() if classes else []
    return {name: "#" + bytes(colour).hex() for name, colour in list(zip(classes, colours, strict=True))[1:]}


def versions(subject: ReportInput) -> dict[str, str]:
    """Versions of packages: of those that trained the runs, then of those that made this page."""
    here = {name: version(name) for name in ("zarr", "pillow", "matplotlib", "scikit-learn")}
    return subject.comparison["versions"] | {"Python": platform.python_version()} | here
