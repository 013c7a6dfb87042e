"""The documentation's notebooks run from top to bottom, and are committed with outputs of such a run."""

import re
from pathlib import Path

import nbformat
import pytest

from pipeline.maintenance.notebooks import FOLDER, main, run

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / FOLDER).glob("*.ipynb"))
LINK = re.compile(r"\]\(([^()\s#]+)[^()\s]*\)")
LARGEST = 500_000  # bytes of a file
SHORTER = {
    "both-stages": ("steps=120", "steps=20"),
    "own-loop": ("steps=100", "steps=20"),
    "read-a-store": ("views.count=2", "views.count=1"),
}  # notebook -> text of its cells, and what is run in its place; a quarter of a minute each on one core


def cells(path, kind):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def printed(notebook):
    return "".join(out.text for cell in notebook.cells for out in cell.get("outputs", []) if "text" in out)


def test_there_are_three():
    assert [path.stem for path in NOTEBOOKS] == ["both-stages", "own-loop", "read-a-store"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_as_it_ran_from_top_to_bottom(path):
    """Every cell once, in order, without an error, a path of the machine or more bytes than a person wants to load."""
    assert [cell.execution_count for cell in cells(path, "code")] == [*range(1, len(cells(path, "code")) + 1)]
    outputs = [output for cell in cells(path, "code") for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not re.search(r"/(tmp|root|home|work)/", printed(nbformat.read(path, as_version=4)))
    assert path.stat().st_size < LARGEST


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_of_a_notebook_lead_to_files(path):
    links = [link for cell in cells(path, "markdown") for link in LINK.findall(cell.source)]
    assert links
    assert not [link for link in links if "://" not in link and not (path.parent / link).is_file()]


def test_the_script_writes_a_notebook_with_its_outputs_and_without_noise(tmp_path, monkeypatch, capsys):
    (tmp_path / FOLDER).mkdir(parents=True)
    code = "import os, sys\nprint('noise', file=sys.stderr)\nprint(os.listdir())"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbformat.write(notebook, tmp_path / FOLDER / "a.ipynb")
    monkeypatch.chdir(tmp_path)
    main([])
    (cell,) = cells(tmp_path / FOLDER / "a.ipynb", "code")
    assert [output.text for output in cell.outputs] == ["[]\n"]
    assert (cell.execution_count, capsys.readouterr().out) == (1, f"{FOLDER / 'a.ipynb'}\n")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    """All cells of the committed file on the embedded default, in an empty folder, with fewer steps or views."""
    full, short = SHORTER[path.stem]
    assert full in path.read_text()
    shortened = tmp_path / path.name
    shortened.write_text(path.read_text().replace(full, short))
    done = run(shortened)
    assert [cell.execution_count for cell in done.cells if cell.cell_type == "code"] == [
        cell.execution_count for cell in cells(path, "code")
    ]
    assert printed(done)
