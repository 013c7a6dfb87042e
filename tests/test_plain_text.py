"""Names from other people are shown, not obeyed: by a terminal, a spreadsheet, LaTeX or a Markdown table."""

import csv
import io

import pytest

from pipeline import console
from pipeline.plain_text import no_formula, one_line, printable
from pipeline.report.table_formats import Table, escape_latex
from pipeline.results.results_table import markdown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("benign (1).png", "benign (1).png"),
        ("Läsion – 病变 ±", "Läsion – 病变 ±"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[2Jcleared", "\\x1b[2Jcleared"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("over\rwritten", "over\\x0dwritten"),
        ("back\b\b", "back\\x08\\x08"),
        ("\x9b31mred", "\\x9b31mred"),
        ("gpj\u202eexe", "gpj\\u202eexe"),
        ("\u2066hidden\u2069", "\\u2066hidden\\u2069"),
        ("\0", "\\x00"),
        ("\udcff.png", "\\udcff.png"),
    ],
)
def test_a_terminal_shows_names_and_obeys_none(text, shown, capsys):
    assert printable(text) == shown
    console.say(text)
    assert capsys.readouterr().out == shown + "\n"


FORMULAS = [
    "=1+1",
    '=HYPERLINK("x")',
    "@SUM(A1)",
    "+cmd|' /C calc'!A0",
    "-2+3+cmd|' /C calc'!A0",
    "\t=1",
    "\r=1",
    " =1",
    "--1",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_spreadsheet_computes_no_name(text):
    table = Table("t", "", "", ["", text], [[text, "1"]])
    cells = [cell for line in csv.reader(io.StringIO(table.csv)) for cell in line]
    assert not [cell for cell in cells if cell[:1] in "=+-@\t\r" and cell]
    assert no_formula(text).startswith("'")


@pytest.mark.parametrize(
    "text", ["", "SWARD", "-1.25", "+0.50", "+1.20 … -0.31", "91.20 ± 0.40", "1,234", "–", "0.98×", "−3.00"]
)
def test_numbers_stay_numbers(text):
    assert no_formula(text) == text


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "a \n\n b", "a\u2028b", "a\tb", "a\x85b"])
def test_a_cell_is_one_line(text):
    assert one_line(text) == "a b"
    assert escape_latex(text) == "a b"
    assert markdown(["", "x"], [[text, "1"]]).splitlines()[2].startswith("| a b")


def test_latex_and_markdown_spell_out_escapes():
    assert escape_latex("\x1b[31m_") == r"\textbackslash{}x1b[31m\_"
    assert "\\x1b[31m" in markdown(["", "x"], [["\x1b[31m", "1"]])


def test_an_error_about_a_hostile_name_is_one_that_can_be_read(capsys):
    from pipeline.cli import main

    assert main(["inspect", "no\x1b[2Jstore"]) == 1
    assert "no\\x1b[2Jstore" in capsys.readouterr().err
