"""The machine's limits beside a benchmark: rates it reaches, the least that MWAD and PDR must move and multiply."""

import time
from collections.abc import Callable

import torch

from pipeline.devices import wait_for
from sward.contracts import StudentOutput

CLASSES = 2


def seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    work()
    return clock() - began


def clock_of(device: str, cpu_time: bool) -> Callable[[], float]:
    """Seconds that have passed once the device has done what it was told."""
    if cpu_time:
        return time.process_time
    if device == "cpu":
        return time.perf_counter

    def after_waiting() -> float:
        wait_for(torch.device(device))
        return time.perf_counter()

    return after_waiting


def least(output: StudentOutput, channels: dict[str, int], window: int) -> dict[str, dict[str, float]]:
    """Module -> bytes and flops of one step, forward and backward."""
    work = {"mwad": {"bytes": 0.0, "flops": 0.0}}
    batch, size = len(output.penultimate), 4 * output.features["s4"].shape[-1]
    for level, f_s in output.features.items():
        side_t, C = size // int(level[1:]), f_s.shape[1]
        side = min(side_t, f_s.shape[-1])
        n, T = batch * side**2, min(window, side) ** 2
        projected = 2 * batch * side_t**2 * channels[level] * C + 2 * 8 * n * C * C  # phi; Q and V, backward for one
        work["mwad"]["flops"] += projected + 2 * 8 * n * T * C
        work["mwad"]["bytes"] += 4 * (batch * side_t**2 * channels[level] + 3 * f_s.numel())
    n = output.penultimate.numel()
    work["pdr"] = {"bytes": 4.0 * 3 * n, "flops": 2.0 * n * (3 * CLASSES + 2)}
    return work


def machine(device: torch.device, clock: Callable[[], float]) -> dict[str, float]:
    """Rates that this machine reaches: bytes per second of a copy (read and write), flops of a large product."""
    a, b = torch.randn(2048, 2048, device=device), torch.randn(2**25, device=device)
    c, d = torch.empty_like(a), torch.empty_like(b)
    product = min(seconds(lambda: torch.mm(a, a, out=c), clock) for _ in range(9))
    copy = min(seconds(lambda: d.copy_(b), clock) for _ in range(9))
    return {"flops_per_s": 2 * 2048**3 / product, "bytes_per_s": 2 * b.nbytes / copy}


def floor(work: dict[str, float], rates: dict[str, float]) -> dict[str, float]:
    ms = {f"{what}_ms": 1e3 * work[what] / rates[f"{what}_per_s"] for what in ("flops", "bytes")}
    return work | ms | {"floor_ms": max(ms.values())}
