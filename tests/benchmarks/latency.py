"""How long does a shortlisted student take for one image? In torch, and in onnxruntime by its exported file.

    python tests/benchmarks/latency.py [--only NAME …] [--side 256] [--json OUT]

Milliseconds of a single call in float32 in one thread, median of those of two seconds, for every file of
configs/students. Under two minutes on an idle core; on a busy one the figures say little, so `load` is the machine's
when it began. results/benchmarks/students-latency.json is what `python -m pipeline.maintenance.reference_pages` shows.
"""

import argparse
import json
import os
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from pipeline.export.graph import to_onnx, trace
from pipeline.export.onnx_student import OnnxStudent
from pipeline.export.speed import machine, measure
from pipeline.files import write_json
from pipeline.maintenance.students_page import CLASSES, SIZE, shortlist
from sward.students import build_student

CARD = {"classes": ["background", "object"], "mean": [0.0] * 3, "std": [1.0] * 3}
PACKAGES = ("torch", "onnxruntime", "segmentation-models-pytorch", "timm")


def latencies(config: Any, size: tuple[int, int]) -> dict[str, float]:
    """Milliseconds of one image in each engine, of a student with random weights."""
    student = build_student(config, CLASSES, 0).eval()
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "student.onnx")
        file.write_bytes(to_onnx(trace(student, size), CARD | {"size": size}))
        engines = {"torch": student, "onnxruntime": OnnxStudent(file, threads=1, gpu=False)}
        return {
            name: round(measure(name, "1", lambda net=net: net(image)).milliseconds, 3)  # type: ignore[misc]
            for name, net in engines.items()
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(shortlist()), default=list(shortlist()), metavar="NAME")
    parser.add_argument("--side", type=int, default=SIZE[0], help="Height and width of the image, in pixels.")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    load, students = os.getloadavg()[0], {}
    for name in args.only:
        students[name] = latencies(shortlist()[name], (args.side, args.side))
        print(f"{name}: {students[name]}", flush=True)
    versions = {package: version(package) for package in PACKAGES}
    result = {"size": [args.side] * 2, "machine": machine(), "load": load, "versions": versions, "students": students}
    print(json.dumps(result, indent=1))
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    main()
