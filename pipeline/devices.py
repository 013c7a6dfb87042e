"""Resolves `device: auto` in the same way for both stages, names devices, counts CPU cores, waits for a device."""

import os
import platform

import torch


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
    """Number of CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def wait_for(device: torch.device) -> None:
    """Wait until all work queued on a GPU is done; do nothing for the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
