"""The machine's limits beside a benchmark: rates it reaches, the least that MWAD and PDR must move and multiply.

Two limits for each module. The floor assumes the rate of a large product and of a copy. The bare operations are those
that the module cannot do without, as torch computes them at the module's own shapes: small products do not reach the
rate of large ones, and passes over rows of 16 channels not that of a copy.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

from pipeline.devices import wait_for
from sward.contracts import StudentOutput
from sward.cpu_products import products_in
from sward.mwad.fused_attention_terms import GROUP

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


def bare(output: StudentOutput, channels: dict[str, int], window: int, clock: Callable[[], float]) -> dict[str, float]:
    """Module -> milliseconds of its bare operations, the fastest of nine times: MWAD's products, PDR's passes."""
    work = {"mwad": list(products(output, channels, window)), "pdr": list(passes(output.penultimate))}
    found = {}
    for name, parts in work.items():
        with products_in("float32", output.penultimate.device) if name == "mwad" else nullcontext():
            found[name] = 1e3 * sum(min(seconds(each, clock) for _ in range(9)) * count for each, count in parts)
    return found


def products(
    output: StudentOutput, channels: dict[str, int], window: int
) -> Iterator[tuple[Callable[[], object], int]]:
    """The matrix products of MWAD, forward and backward, and how often a step has each; windows in groups as there."""
    size = 4 * output.features["s4"].shape[-1]
    for level, f_s in output.features.items():
        side_t, (B, C, side, _), device = size // int(level[1:]), f_s.shape, f_s.device
        new = partial(torch.randn, device=device)
        n, T = B * side**2, min(window, side) ** 2
        f_t, phi, out_t = new(B, channels[level], side_t**2), new(channels[level], C), new(B, side_t**2, C)
        yield partial(torch.matmul, f_t.mT, phi, out=out_t), 1
        x, theta, y = new(n, C), new(C, C), new(n, C)
        yield partial(torch.mm, x, theta, out=y), 6  # Q and V of both networks; gradients of the student's tokens
        yield partial(torch.mm, x.mT, y, out=new(C, C)), 2  # gradients of its weights
        group = min(n // T, max(1, GROUP // T**2))
        Q, A, V = new(group, T, C), new(group, T, T), new(group, T, C)
        times = n // T // group
        yield partial(torch.bmm, Q, V.mT, out=A), 3 * times  # scores of both networks, gradient of the attention
        yield partial(torch.bmm, A, V, out=Q), 3 * times  # contexts of both, gradient of the queries
        yield partial(torch.bmm, A.mT, V, out=Q), 2 * times  # gradients of keys and values


def passes(f_BCHW: Tensor) -> Iterator[tuple[Callable[[], object], int]]:
    """The passes of PDR over the map: lengths, class sums; then classes' gradients along it, its scaling, their sum."""
    f_BCn = f_BCHW.detach().flatten(2)
    B, C, n = f_BCn.shape
    weights, along, sums = (
        torch.rand(*shape, device=f_BCn.device) for shape in ((B, CLASSES, n), (B, 1, n), (CLASSES, C))
    )
    grad = torch.empty_like(f_BCn)
    yield partial(torch.linalg.vector_norm, f_BCn, dim=1), 1
    yield partial(torch.matmul, weights, f_BCn.mT), 1
    yield partial(torch.matmul, sums, f_BCn), 1
    yield partial(torch.mul, f_BCn, along, out=grad), 1
    yield partial(grad.baddbmm_, sums.mT.expand(B, -1, -1), weights, beta=-1), 1


def machine(device: torch.device, clock: Callable[[], float]) -> dict[str, float]:
    """Rates that this machine reaches: bytes per second of a copy (read and write), flops of a large product."""
    a, b = torch.randn(2048, 2048, device=device), torch.randn(2**25, device=device)
    c, d = torch.empty_like(a), torch.empty_like(b)
    with products_in("float32", device):
        product = min(seconds(lambda: torch.mm(a, a, out=c), clock) for _ in range(9))
    copy = min(seconds(lambda: d.copy_(b), clock) for _ in range(9))
    return {"flops_per_s": 2 * 2048**3 / product, "bytes_per_s": 2 * b.nbytes / copy}


def floor(work: dict[str, float], rates: dict[str, float]) -> dict[str, float]:
    ms = {f"{what}_ms": 1e3 * work[what] / rates[f"{what}_per_s"] for what in ("flops", "bytes")}
    return work | ms | {"floor_ms": max(ms.values())}
