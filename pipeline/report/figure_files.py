"""Writes a report's charts and picture grids as PNG and SVG, and its tables as Markdown, CSV and LaTeX."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.files import atomic
from pipeline.own_files import write_listed
from pipeline.report.charts import DPI, NOTHING, Chart, plain, style
from pipeline.report.examples import Case
from pipeline.report.table_formats import Table


def write_files(folder: Path, charts: Sequence[Chart], tables: Sequence[Table], grids: dict[str, list[Case]]) -> None:
    """Writes all files into ``folder``, and replaces those that an earlier call wrote.

    Raises:
        ForeignFileError: a file of the same name was not written by this program, or was edited since; none is written.
    """
    with TemporaryDirectory() as aside:
        for chart in named_apart(charts):
            chart.save(Path(aside))
        for name, cases in grids.items():
            save_grid(Path(aside), name, [case for case in cases if case.key])
        made = {path.name: path.read_bytes() for path in sorted(Path(aside).iterdir())}
    made |= {f"{table.name}.{suffix}": text.encode() for table in tables for suffix, text in table.texts.items()}
    write_listed(folder, made)


def named_apart(charts: Sequence[Chart]) -> list[Chart]:
    """The charts, numbered where file names are the same: labels may differ in no letter that a file name keeps."""
    named: dict[str, Chart] = {}
    for chart in charts:
        names = (chart.name, *(f"{chart.name}-{number}" for number in range(2, len(charts) + 2)))
        name = next(name for name in names if name not in named)
        named[name] = replace(chart, name=name)
    return [*named.values()]


def save_grid(folder: Path, name: str, cases: Sequence[Case]) -> None:
    """Writes a grid of pictures: one line per example image; columns for image, ground truth and each row."""
    from matplotlib.figure import Figure

    if not cases:
        return
    titles = [picture.title for picture in cases[0].pictures]
    with style("black", name):
        figure = Figure(figsize=(1.5 * len(titles), 1.35 * len(cases) + 0.2), layout="constrained")
        for i, case in enumerate(cases):
            for j, picture in enumerate(case.pictures):
                axes = figure.add_subplot(len(cases), len(titles), i * len(titles) + j + 1)
                axes.imshow(picture.flat)
                axes.set(xticks=[], yticks=[], ylabel=case.place.split(",")[0] if j == 0 else "")
                if i == 0:
                    axes.set_title(plain(picture.title), fontsize=8)
        for kind in ("png", "svg"):
            with atomic(folder / f"{name}.{kind}") as file:
                figure.savefig(file, format=kind, dpi=DPI, metadata=NOTHING if kind == "svg" else {"Software": None})
