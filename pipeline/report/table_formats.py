"""Tables of a report, and their form as Markdown, CSV and LaTeX."""

import csv
import io
from dataclasses import dataclass

from pipeline.plain_text import no_formula, one_line
from pipeline.results.results_table import markdown

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "Δ": r"$\Delta$", "×": r"$\times$",
    "…": r"\dots{}", "−": "$-$", "–": "--", "·": r"$\cdot$",
}  # fmt: skip  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table with its texts.

    Attributes:
        name: file name, and id in the page.
        about: short title.
        caption: text below the table.
        header: names of the columns.
        rows: lists of texts, in the order of the header.
        details: names of columns that the page hides until its reader asks for them.
    """

    name: str
    about: str
    caption: str
    header: list[str]
    rows: list[list[str]]
    details: tuple[str, ...] = ()

    @property
    def texts(self) -> dict[str, str]:
        """File suffix -> the table in that format."""
        return {"md": f"{markdown(self.header, self.rows)}\n\n{self.caption}\n", "csv": self.csv, "tex": self.latex}

    @property
    def csv(self) -> str:
        """The table as CSV, without the caption."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            [[no_formula(cell) for cell in line] for line in [self.header, *self.rows]]
        )
        return text.getvalue()

    @property
    def latex(self) -> str:
        """The table as a LaTeX table environment with booktabs rules."""
        lines = [" & ".join(map(escape_latex, line)) + r" \\" for line in [self.header, *self.rows]]
        body = [r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
        begin = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{l{'r' * (len(self.header) - 1)}}}"]
        end = [r"\end{tabular}", rf"\caption{{{escape_latex(self.caption)}}}", rf"\label{{tab:{self.name}}}"]
        return "\n".join([*begin, *body, *end, r"\end{table}", ""])


def escape_latex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in one_line(text))
