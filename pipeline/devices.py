"""Resolves `device: auto` in the same way for both stages, names devices, counts CPU cores, waits for a device."""

import math
import os
import platform
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")  # where Linux says how much processor time a container may use


def resolve_device(name: str) -> torch.device:
    """The device called ``name``; `auto` is the first GPU, or the CPU if there is no GPU.

    Raises:
        ValueError: this machine has no such device; the message lists those it has.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    known = ["cpu", *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count))]
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    if name not in known:
        raise ValueError(f"device: expected auto or one of {', '.join(known)}, found {name}; set device: auto")
    return torch.device(name)


def device_name(device: torch.device) -> str:
    """Display name of the GPU or processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()


def cores() -> int:
    """Number of CPU cores this process may use: those it may run on, within its container's limit of time."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, container_limit() or allowed)


def container_limit() -> int | None:
    """Cores of `docker run --cpus N` or a pod's limit, rounded up; None without a limit, or outside Linux."""
    version_2, version_1 = CGROUP / "cpu.max", [CGROUP / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period")]
    try:
        quota, period = version_2.read_text().split() if version_2.is_file() else (f.read_text() for f in version_1)
        return math.ceil(int(quota) / int(period)) if int(quota) > 0 else None
    except (OSError, ValueError):  # no such files; "max", which is no number: no limit
        return None


def limit_threads() -> None:
    """Lets torch use no more threads than `cores`: it knows of no container's limit, beyond which threads only wait.

    OMP_NUM_THREADS decides where it is set.
    """
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > cores():
        torch.set_num_threads(cores())


def wait_for(device: torch.device) -> None:
    """Wait until all work queued on a GPU is done; do nothing for the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
