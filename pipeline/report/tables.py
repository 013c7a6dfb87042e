"""Tables of a report, and their text as Markdown, CSV and LaTeX."""

import csv
import io
from dataclasses import dataclass

from pipeline.results.table import markdown

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "Δ": r"$\Delta$", "×": r"$\times$",
    "…": r"\dots{}", "−": "$-$", "–": "--", "·": r"$\cdot$",
}  # fmt: skip  # fmt: skip


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
