"""MWAD terms of one pair by the Triton kernels of ``sward.mwad.kernels``, for a frozen teacher side. Eq. 1-13.

The terms equal those of ``sward.mwad.attention_terms`` up to rounding. Pixels are projected as they lie in the maps and
the kernels gather the windows, so neither windows nor attention are written to memory. On a CPU the kernels run only in
Triton's interpreter (the environment variable TRITON_INTERPRET=1), which is for tests.
"""

# B batch, C channels, n pixels of an image, W windows of the batch, T tokens of a window, D width of Q, K, V

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sward.align import resize
from sward.mwad.fused_attention_terms import fused_terms, named_terms, phi_map
from sward.mwad.project import project
from sward.mwad.projections import Projections
from sward.mwad.tokens import chosen_rows, window_tokens
from sward.mwad.windows import Windows

MOST_TOKENS = 256  # a window's keys are one block of a kernel: 16 x 16 cells
PRECISE = "ieee" if torch.version.hip else "tf32x3"  # products of float32 on tensor cores, with float32's error
SCORES = 4096  # scores of a block of queries, which stay in registers


def triton_terms(
    stage: Projections,
    f_t: Tensor,
    f_s: Tensor,
    windows: Windows,
    visible: Tensor | None,
    valid: Tensor | None,
    chosen: Tensor | None = None,
) -> dict[str, Tensor]:
    """``fused_terms`` by kernels. Windows above 16 x 16 cells, and float64, are computed by ``fused_terms`` itself.

    Raises:
        ValueError: Triton is missing, or the tensors are on a CPU outside its interpreter.
    """
    if windows.side**2 > MOST_TOKENS or f_s.dtype != torch.float32:
        return fused_terms(stage, f_t, f_s, windows, visible, valid, chosen)
    require_triton(f_s.device)
    config = stage.config
    rows = chosen_rows(windows, f_s.device, chosen)
    gathered = any(windows.padding) and config.bias and valid is None  # padding then has values: the biases

    def tokens_of(f: Tensor) -> Tensor:
        if gathered:
            return window_tokens(f, windows, rows, config.antialias).unflatten(0, (len(f), -1)).flatten(1, 2)
        return resize(f, (windows.height, windows.width), config.antialias).flatten(2).mT

    with torch.no_grad():
        teacher = project(stage.theta_t, tokens_of(phi_map(stage, f_t)))
    student = project(stage.theta_s, tokens_of(f_s))
    table = torch.arange(len(rows[1]), device=f_s.device) if gathered else rows[1]
    wanted = ("value" in config.terms, "context" in config.terms)
    masks = (x if x is None or chosen is None else x.index_select(0, chosen) for x in (visible, valid))
    sums = KernelSums.apply(*student, *teacher, table.unflatten(0, (-1, windows.side**2)), *masks,
                            config.value_eps, *wanted)  # fmt: skip
    return named_terms(stage, sums, len(f_s), windows, visible, valid, chosen)


def require_triton(device: torch.device) -> None:
    """Raises ValueError where the kernels cannot run."""
    if find_spec("triton") is None:
        raise ValueError("mwad.kernels is triton, but Triton is not installed; install it, or set mwad.kernels: eager")
    from triton import knobs

    if device.type == "cpu" and not knobs.runtime.interpret:
        raise ValueError(
            "mwad.kernels is triton, which runs on GPUs, but the features are on the CPU; set mwad.kernels: eager (or, "
            "for tests, the environment variable TRITON_INTERPRET=1)"
        )


class KernelSums(torch.autograd.Function):
    """``RelationSums`` by kernels: (3,) sums of KL, 1 - cosine and squared context distance.

    ``apply(Q_s, K_s, V_s, Q_t, K_t, V_t, table, visible, valid, eps, value, context)`` takes Q, K and V (B, n, D) of
    all pixels, table (N, T) int64 with the pixel of each token (n: padding, whose values are 0), and the rest as
    ``RelationSums``. Gradients go to Q_s, K_s and V_s.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        from sward.mwad.kernels import sums_kernel

        tensors, (table, visible, valid, *rest) = [x.contiguous() for x in inputs[:6]], inputs[6:]
        visible, valid = (None if x is None else x.to(torch.uint8).contiguous() for x in (visible, valid))
        ctx.save_for_backward(*tensors, table, visible, valid)
        ctx.rest = rest
        out = tensors[0].new_empty(len(tensors[0]) * len(table), 3)
        _launch(sums_kernel, tensors, (table, visible, valid), [out], rest)
        return out.sum(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from sward.mwad.kernels import gradients_kernel

        *tensors, table, visible, valid = ctx.saved_tensors
        whole = table.numel() >= tensors[0].shape[1]  # else some pixels are in no window, and have no gradient
        grads = [(torch.empty_like if whole else torch.zeros_like)(x) for x in tensors[:3]]
        _launch(gradients_kernel, tensors, (table, visible, valid), [grad.contiguous(), *grads], ctx.rest)
        return *grads, *(None,) * 9


def _launch(kernel: Any, tensors: list[Tensor], index: tuple[Any, ...], results: list[Tensor], rest: list[Any]) -> None:
    """Starts one program per window of the batch."""
    (table, visible, valid), (eps, value, context) = index, rest
    B, n, D = tensors[0].shape
    N, T = table.shape
    keys = _power_of_two(T)
    rounded = torch.get_float32_matmul_precision() != "highest"
    block = min(keys, max(16, SCORES // keys))
    kernel[(B * N,)](
        *tensors, table, table if visible is None else visible, table if valid is None else valid, *results,
        n, N, T, D, eps, visible is not None, valid is not None, value, context, "tf32" if rounded else PRECISE,
        block, keys, min(32, _power_of_two(D)), num_warps=8 if block * keys >= SCORES else 4,
    )  # fmt: skip


def _power_of_two(n: int) -> int:
    """The smallest one from ``n`` on, at least 16, the least side of a kernel's matrix product."""
    return max(16, 1 << (n - 1).bit_length())
