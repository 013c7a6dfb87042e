"""What a paper takes from a report: charts and picture grids as PNG and SVG, tables as Markdown, CSV and LaTeX."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.files import atomic, write_atomic
from pipeline.results.examples import Case
from pipeline.results.figures import DPI, NOTHING, Chart, plain, style
from pipeline.results.table import markdown

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "Δ": r"$\Delta$", "×": r"$\times$",
    "…": r"\dots{}", "−": "$-$", "–": "--", "·": r"$\cdot$",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """name: file name and id in the page. about: what it is, in a few words. rows: texts in the header's order."""

    name: str
    about: str
    caption: str
    header: list[str]
    rows: list[list[str]]

    @property
    def texts(self) -> dict[str, str]:
        """File suffix -> the whole table."""
        return {"md": f"{markdown(self.header, self.rows)}\n\n{self.caption}\n", "csv": self.csv, "tex": self.latex}

    @property
    def csv(self) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.header, *self.rows])
        return text.getvalue()

    @property
    def latex(self) -> str:
        """A booktabs table environment."""
        lines = [" & ".join(map(escape_latex, line)) + r" \\" for line in [self.header, *self.rows]]
        body = [r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
        begin = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{l{'r' * (len(self.header) - 1)}}}"]
        end = [r"\end{tabular}", rf"\caption{{{escape_latex(self.caption)}}}", rf"\label{{tab:{self.name}}}"]
        return "\n".join([*begin, *body, *end, r"\end{table}", ""])


def escape_latex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)


def write_files(folder: Path, charts: Sequence[Chart], tables: Sequence[Table], grids: dict[str, list[Case]]) -> None:
    """Write everything into ``folder``; files of the same names are replaced."""
    for chart in charts:
        chart.save(folder)
    for name, cases in grids.items():
        save_grid(folder, name, [case for case in cases if case.key])
    for table in tables:
        for suffix, text in table.texts.items():
            write_atomic(folder / f"{table.name}.{suffix}", text)


def save_grid(folder: Path, name: str, cases: Sequence[Case]) -> None:
    """Pictures of the cases, one case a line, a column a row of the table."""
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
