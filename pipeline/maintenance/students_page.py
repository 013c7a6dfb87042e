"""Writes the page of shortlisted students: parameters, multiply-accumulates and latency of configs/students/.

python -m pipeline.maintenance.students_page     # measures all on this machine, then writes the page

The measurements are kept in results/benchmarks/students.json, from which `reference_pages` writes the page again.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from pipeline.config import read_yaml
from pipeline.export.graph import to_onnx, trace
from pipeline.export.onnx_student import OnnxStudent
from pipeline.export.speed import flops, machine, measure
from pipeline.files import read_json, write_atomic, write_json
from pipeline.maintenance.reference_pages import text
from sward.students import StudentConfig, build_student

FOLDER, MEASURED, PAGE = (
    Path("configs/students"),
    Path("results/benchmarks/students.json"),
    "docs/reference/students.md",
)
SIZE, CLASSES = (256, 256), 2
CARD = {"classes": ["background", "object"], "size": SIZE, "mean": [0.0] * 3, "std": [1.0] * 3}
INTRO = """# Shortlisted students

Pairs of decoder and encoder from segmentation-models-pytorch that are small enough for phones and cameras, as named
configurations. A training config takes one by its path: `student: configs/students/linknet-mobilenetv4-small.yaml`.
`tests/students/test_shortlist.py` trains each with SWARD and plain and compares its ONNX file with torch.
"""


def shortlist() -> dict[str, Any]:
    """Name -> configuration of every file in configs/students, in order of the names."""
    adapter: TypeAdapter[Any] = TypeAdapter(StudentConfig)
    return {file.stem: adapter.validate_python(read_yaml(file)) for file in sorted(FOLDER.glob("*.yaml"))}


def measured(config: Any) -> dict[str, float]:
    """Parameters, GMAC and median latencies in milliseconds of one student, for one image in one thread."""
    student = build_student(config, CLASSES, 0).eval()
    image = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "student.onnx")
        file.write_bytes(to_onnx(trace(student, SIZE), CARD))
        exported = OnnxStudent(file, threads=1, gpu=False)
        found = {"torch": measure("torch", "1", lambda: student(image)).milliseconds}
        found["onnx"] = measure("onnxruntime", "1", lambda: exported(image)).milliseconds
    return found | {"parameters": parameters(student), "gmac": flops(student, SIZE) / 2e9}


def parameters(student: torch.nn.Module) -> int:
    return sum(p.numel() for p in student.parameters())


def page() -> str:
    """The page as Markdown, from the saved measurements."""
    found, students = read_json(MEASURED), shortlist()
    order = sorted(found["students"], key=lambda name: found["students"][name]["gmac"])
    rows = [row(name, students[name], found["students"][name]) for name in order]
    head = [
        "| student | decoder, encoder | parameters (M) | GMAC | torch (ms) | ONNX (ms) |",
        "|---|---|--:|--:|--:|--:|",
    ]
    note = (
        f"One image of {SIZE[0]}×{SIZE[1]}, {CLASSES} classes. GMAC counts convolutions and matrix products. "
        f"Latency is the median in one thread of a shared machine ({found['machine']}); `python -m "
        "pipeline.maintenance.students_page` measures on yours and writes this page."
    )
    return "\n".join([INTRO, *head, *rows, "", note, ""])


def row(name: str, config: Any, found: dict[str, float]) -> str:
    """One student's line of the table."""
    link = f"[`{name}`](../../{FOLDER}/{name}.yaml)"
    costs = f"{found['parameters'] / 1e6:.2f} | {found['gmac']:.2f} | {found['torch']:.1f} | {found['onnx']:.1f}"
    return f"| {link} | {config.architecture}, {config.encoder} | {costs} |"


def main() -> None:
    """Measures every student and writes results and page."""
    torch.set_num_threads(1)
    results = {name: measured(config) for name, config in shortlist().items()}
    write_json(MEASURED, {"machine": machine(), "torch": torch.__version__, "size": list(SIZE), "students": results})
    write_atomic(Path(PAGE), text(PAGE))
    print(PAGE)


if __name__ == "__main__":
    main()
