"""Measures a student's cost: FLOPs, and latency on this machine.

FLOPs are counted by torch's own counter: convolutions and matrix products only, a multiplication and its addition as
two. (Many papers print multiply-accumulates, half that number, and call them FLOPs.)
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

WARM, SECONDS, LEAST, MOST = 3, 2.0, 10, 200  # warm-up calls; then calls are timed for 2 s, but 10 to 200 of them


@dataclass(frozen=True)
class Speed:
    """Latency of one engine at batch size 1.

    Attributes:
        engine: runtime, and the file it ran.
        threads: number of CPU threads, or the GPU's name.
        milliseconds: median latency.
        slow: 95th percentile of latency, in milliseconds.
    """

    engine: str
    threads: str
    milliseconds: float
    slow: float

    @property
    def throughput(self) -> float:
        """Images per second of a single caller."""
        return 1000 / self.milliseconds


def flops(student: Student, size: tuple[int, int]) -> int:
    """FLOPs of one image of ``size`` (height, width)."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        student(torch.zeros(1, 3, *size))
    return counter.get_total_flops()


def speeds(student: Student, files: list[Path], size: tuple[int, int]) -> list[Speed]:
    """Latency of torch and of every .onnx file with one and two threads, and of torch on a GPU if there is one."""
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
    """Latency of torch on the first GPU, without copying the image to it."""
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
    """Times single calls; returns their median and 95th percentile."""
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
    """Describes this machine: processor, visible cores, operating system."""
    named = [line.split(":")[1] for line in cpu_lines() if line.startswith("model name")]
    return f"{(named or [platform.machine()])[0].strip()}, {os.cpu_count()} cores seen, {platform.system()}"


def cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []
