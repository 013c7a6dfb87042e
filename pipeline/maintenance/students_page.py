"""Writes the page of shortlisted students: parameters, multiply-accumulates and latency of configs/students/.

python -m pipeline.maintenance.students_page     # counts all again, then writes the page

The counts are kept in results/benchmarks/students.json. Latencies are those that tests/benchmarks/latency.py measured,
in results/benchmarks/students-latency.json; a student that is not in there is shown as not measured.
"""

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pipeline.config import read_yaml
from pipeline.export.speed import flops
from pipeline.files import read_json, write_atomic, write_json
from sward.students import StudentConfig, build_student

ROOT = Path(__file__).resolve().parents[2]
FOLDER, PAGE = "configs/students", "docs/reference/students.md"
COUNTED = ROOT / "results/benchmarks/students.json"
MEASURED = ROOT / "results/benchmarks/students-latency.json"
SIZE, CLASSES = (256, 256), 2
UNKNOWN = "not measured"
INTRO = """# Shortlisted students

Pairs of decoder and encoder from segmentation-models-pytorch that are small enough for phones and cameras, as named
configurations. A training config takes one by its path: `student: configs/students/linknet-mobilenetv4-small.yaml`.
"""
HEAD = """
| student | decoder, encoder | parameters (M) | GMAC | torch (ms) | ONNX (ms) |
|---|---|--:|--:|--:|--:|
"""
COMMAND = "`python tests/benchmarks/latency.py` measures on your machine."


def shortlist() -> dict[str, Any]:
    """Name -> configuration of every file in configs/students, in order of the names."""
    adapter: TypeAdapter[Any] = TypeAdapter(StudentConfig)
    return {file.stem: adapter.validate_python(read_yaml(file)) for file in sorted((ROOT / FOLDER).glob("*.yaml"))}


def counted(config: Any) -> dict[str, float]:
    """Parameters, and GMAC of one image (convolutions and matrix products), counted anew."""
    student = build_student(config, CLASSES, 0).eval()
    parameters = sum(p.numel() for p in student.parameters())
    return {"parameters": parameters, "gmac": round(flops(student, SIZE) / 2e9, 4)}


def page() -> str:
    """The page as Markdown, from the saved counts and latencies, smallest first."""
    counts, students = read_json(COUNTED)["students"], shortlist()
    measured = read_json(MEASURED) if MEASURED.exists() else {}
    order = sorted(students, key=lambda name: float(counts[name]["gmac"]))
    rows = [row(name, students[name], counts[name], measured.get("students", {}).get(name, {})) for name in order]
    return INTRO + HEAD + "\n".join([*rows, "", note(measured), ""])


def row(name: str, config: Any, counts: dict[str, float], times: dict[str, float]) -> str:
    """One student's line of the table."""
    costs = [f"{counts['parameters'] / 1e6:.2f}", f"{counts['gmac']:.2f}"]
    costs += [f"{times[engine]:.1f}" if engine in times else UNKNOWN for engine in ("torch", "onnxruntime")]
    return f"| `{name}` | {config.architecture}, {config.encoder} | {' | '.join(costs)} |"


def note(measured: dict[str, Any]) -> str:
    """What the columns count, and on which machine the latencies were measured."""
    said = f"One image of {SIZE[0]}×{SIZE[1]}, {CLASSES} classes. GMAC: convolutions and matrix products."
    if not measured:
        return f"{said} {COMMAND}"
    versions = ", ".join(f"{package} {version}" for package, version in measured["versions"].items())
    return (
        f"{said} Latency: median of single calls in float32, one thread, {measured['machine']}; {versions}; load of "
        f"the machine when it began {measured['load']:.1f}. {COMMAND}"
    )


def main() -> None:
    """Counts every student and writes counts and page."""
    from pipeline.maintenance.reference_pages import text

    counts = {name: counted(config) for name, config in shortlist().items()}
    write_json(COUNTED, {"size": list(SIZE), "classes": CLASSES, "students": counts})
    write_atomic(ROOT / PAGE, text(PAGE))
    print(PAGE)


if __name__ == "__main__":
    main()
