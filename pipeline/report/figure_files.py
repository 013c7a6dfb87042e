"""Writes a report's charts and picture grids as PNG and SVG, and its tables as Markdown, CSV and LaTeX."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.files import atomic, write_atomic
from pipeline.report.charts import DPI, NOTHING, Chart, plain, style
from pipeline.report.examples import Case
from pipeline.report.table_formats import Table


def write_files(folder: Path, charts: Sequence[Chart], tables: Sequence[Table], grids: dict[str, list[Case]]) -> None:
    """Writes all files into ``folder``; existing files of the same names are replaced."""
    for chart in charts:
        chart.save(folder)
    for name, cases in grids.items():
        save_grid(folder, name, [case for case in cases if case.key])
    for table in tables:
        for suffix, text in table.texts.items():
            write_atomic(folder / f"{table.name}.{suffix}", text)


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
