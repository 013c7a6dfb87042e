"""`sward export --format web`: a page that runs the student in a browser, beside student.onnx.

    OUT/index.html, page.css, page.js   drag a picture or use the camera; shows mask and milliseconds
    OUT/page.json                       preprocessing, classes and their colours
    OUT/ort/                            onnxruntime-web and its licences

The page asks only its own folder for anything. It needs a server (`python -m http.server`), as browsers load no
WebAssembly from files.
"""

from pathlib import Path
from typing import Any

from pipeline.drawing.masks import OPACITY, palette
from pipeline.export.web_runtime import unpack
from pipeline.files import write_atomic, write_json

PAGE = Path(__file__).parent / "page"
READ = ("classes", "size", "mean", "std")


def write_page(folder: Path, name: str, metadata: dict[str, Any], package: Path) -> None:
    """Writes the page of a student whose student.onnx is in ``folder``.

    Args:
        folder: the export's folder.
        name: the page's title.
        metadata: contents of student.json.
        package: onnxruntime-web as a .tgz file.
    """
    for file in PAGE.iterdir():
        write_atomic(folder / file.name, file.read_bytes())
    colours = palette(len(metadata["classes"])).tolist()
    facts = {key: metadata[key] for key in READ} | {"name": name, "colours": colours, "opacity": OPACITY}
    write_json(folder / "page.json", facts)
    unpack(package, folder / "ort")


def how_to_open(folder: Path) -> str:
    """The command that serves the page, and where it then is."""
    return f"page: python -m http.server --directory {folder} 8000, then open http://localhost:8000"
