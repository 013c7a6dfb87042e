"""Runs the documentation's notebooks and writes them again, with what they printed and drew.

    python -m pipeline.maintenance.notebooks

What a cell writes to stderr (progress, notes) is left out, and so are times: a file changes only with its content.
"""

import sys
import tempfile
from pathlib import Path

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path("docs/notebooks")
SECONDS = 600  # for the kernel's start, and for each cell; a whole notebook takes less than 60 on one free core


def run(path: Path) -> NotebookNode:
    """The notebook with new outputs: all cells in their order, in a kernel of its own that works in an empty folder.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised an exception; shows it with the cell.
    """
    notebook = nbformat.read(path, as_version=4)
    metadata = notebook.metadata
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as sockets:
        # files of this user's, not ports that others could reach
        kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{sockets}/kernel")
        settings = {"timeout": SECONDS, "startup_timeout": SECONDS, "record_timing": False, "coalesce_streams": True}
        client = NotebookClient(notebook, km=kernel, resources={"metadata": {"path": folder}}, **settings)
        client.execute(cleanup_kc=True)  # ends the kernel, which is ours
    notebook.metadata = metadata
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def main(names: list[str]) -> None:
    """Writes the notebooks of ``names``, or all of them."""
    for path in [FOLDER / name for name in names] or sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(run(path), path)
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
