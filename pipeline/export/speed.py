"""What a student costs: parameters, FLOPs, and latency on this machine.

FLOPs are counted by torch's own counter: convolutions and matrix products alone, a multiplication and its
addition as two. (Many papers print multiply-accumulates, half of that, and call them FLOPs.)
"""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pipeline.export.onnx_student import OnnxStudent
from sward.contracts import Student

WARM, SECONDS, LEAST, MOST = 3, 2.0, 10, 200  # calls before, and how long and how often a row is measured


@dataclass(frozen=True)
class Speed:
    """One image at a time. milliseconds: median. slow: 95th percentile. Throughput is images of one caller a second."""

    engine: str
    threads: str
    milliseconds: float
    slow: float

    @property
    def throughput(self) -> float:
        return 1000 / self.milliseconds


def flops(student: Student, size: tuple[int, int]) -> int:
    """Of one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        student(torch.zeros(1, 3, *size))
    return counter.get_total_flops()


def speeds(student: Student, files: list[Path], size: tuple[int, int]) -> list[Speed]:
    """torch and every .onnx file with one and two threads, and torch on the GPU where there is one."""
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    rows, before = [], torch.get_num_threads()
    for threads in (1, 2)[: os.cpu_count()]:
        torch.set_num_threads(threads)
        rows.append(measure("torch", str(threads), lambda: student(image)))
        for file in files:
            exported = OnnxStudent(file, threads, gpu=False)
            rows.append(measure(f"onnxruntime, {file.name}", str(threads), lambda e=exported: e(image)))  # type: ignore[misc]
    torch.set_num_threads(before)
    return rows + (on_gpu(student, image) if torch.cuda.is_available() else [])


def on_gpu(student: Student, image: Tensor) -> list[Speed]:
    """torch on the first GPU; the copy of the image there is not counted."""
    device = torch.device("cuda")
    moved, there = student.to(device), image.to(device)

    def call() -> None:
        moved(there)
        torch.cuda.synchronize()

    row = measure("torch", torch.cuda.get_device_name(), call)
    student.to("cpu")
    return [row]


@torch.no_grad()
def measure(engine: str, threads: str, call: Callable[[], object]) -> Speed:
    """Median and 95th percentile of single calls."""
    for _ in range(WARM):
        call()
    found: list[float] = []
    while len(found) < LEAST or (sum(found) < SECONDS and len(found) < MOST):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    median, slow = np.percentile(np.array(found) * 1000, [50, 95])
    return Speed(engine, threads, float(median), float(slow))


def machine() -> str:
    """The processor that was measured."""
    named = [line.split(":")[1] for line in cpu_lines() if line.startswith("model name")]
    return f"{(named or [platform.machine()])[0].strip()}, {os.cpu_count()} cores seen, {platform.system()}"


def cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []
