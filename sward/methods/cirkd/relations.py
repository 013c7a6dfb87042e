"""Loss of CIRKD: KL between the teacher's and the student's rows of similarities, each row a distribution.

Rows are pixels or channels, columns those of another image or of a queue. A similarity matrix has (positions)^2
entries, so only ``ROWS`` rows (``ROWS_CUDA`` on a GPU) of one image (or pair) exist at any time.
"""

# B batch, C channels, n rows, m columns, d length of the vectors compared

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

ROWS = 512  # at 4096 columns a block of 8 MB; whole images were 2.5 times slower on a CPU
ROWS_CUDA = 8192  # at 8192 columns a block of 256 MB: few kernels, each large


def pixels(f_BCHW: Tensor) -> Tensor:
    """Vectors of all positions at length 1, (B, H W, C)."""
    return F.normalize(f_BCHW, dim=1).flatten(2).mT


def channels(f_BCHW: Tensor) -> Tensor:
    """Maps of all channels at length 1, (B, C, H W)."""
    return F.normalize(f_BCHW.flatten(2), dim=2)


def pool(f_BCHW: Tensor, side: int) -> Tensor:
    """Means over ``side`` x ``side`` blocks; a block cut by the border is averaged over the cells it has."""
    return f_BCHW if side == 1 else F.avg_pool2d(f_BCHW, side, ceil_mode=True)


def pair_kl(x_s_Bnd: Tensor, x_t_Bnd: Tensor, tau: float) -> Tensor:
    """KL of the rows of x_a x_b^T / tau, mean over rows and over all ordered pairs (a, b), a = b included.

    Args:
        x_s_Bnd: the student's vectors, of length 1; d may differ from the teacher's.
        x_t_Bnd: the teacher's, without gradient.
        tau: temperature.
    """
    B, n, _ = x_t_Bnd.shape
    every = x_t_Bnd.new_ones(n)
    pairs = [(a, b) for a in range(B) for b in range(B)]
    kl = torch.stack([rows_kl(x_s_Bnd[a], x_s_Bnd[b], x_t_Bnd[a], x_t_Bnd[b], tau, every) for a, b in pairs])
    return kl.sum() / (B * B * n)


def queue_kl(
    x_s_Bnd: Tensor, x_t_Bnd: Tensor, memory_md: Tensor, tau: float, kd_tau: float, counted: Tensor | None = None
) -> Tensor:
    """kd_tau^2 times KL of the rows of x memory^T / (tau kd_tau), mean over the rows that ``counted`` (B, n) keeps."""
    weight_Bn = torch.ones_like(x_t_Bnd[..., 0]) if counted is None else counted.to(x_t_Bnd.dtype)
    images = zip(x_s_Bnd, x_t_Bnd, weight_Bn, strict=True)
    kl = torch.stack([rows_kl(s, memory_md, t, memory_md, tau * kd_tau, w) for s, t, w in images])
    return kd_tau**2 * kl.sum() / weight_Bn.sum().clamp_min(1)


def rows_kl(x_s_nd: Tensor, m_s_md: Tensor, x_t_nd: Tensor, m_t_md: Tensor, tau: float, weight_n: Tensor) -> Tensor:
    """Sum over rows of weight times KL(softmax(x_t m_t^T / tau) || softmax(x_s m_s^T / tau)); keeps no matrix."""
    rows = ROWS_CUDA if x_t_nd.is_cuda else ROWS
    blocks = zip(x_s_nd.split(rows), x_t_nd.split(rows), weight_n.split(rows), strict=True)
    return torch.stack([_RowsKL.apply(x_s, m_s_md, x_t, m_t_md, tau, weight) for x_s, x_t, weight in blocks]).sum()


class _RowsKL(torch.autograd.Function):
    """Computes the gradient, (p_s - p_t) m_s / tau per row, with the value, so that no matrix must be kept."""

    @staticmethod
    def forward(
        ctx: Any, x_s_nd: Tensor, m_s_md: Tensor, x_t_nd: Tensor, m_t_md: Tensor, tau: float, weight_n: Tensor
    ) -> Tensor:
        log_s_nm = (x_s_nd @ m_s_md.mT / tau).log_softmax(-1)
        log_t_nm = (x_t_nd @ m_t_md.mT / tau).log_softmax(-1)
        p_t_nm = log_t_nm.exp()
        kl_n = torch.linalg.vecdot(p_t_nm, log_t_nm.sub_(log_s_nm))
        if any(ctx.needs_input_grad[:2]):
            change_nm = log_s_nm.exp_().sub_(p_t_nm).mul_(weight_n[:, None] / tau)
            ctx.save_for_backward(
                change_nm @ m_s_md if ctx.needs_input_grad[0] else None,
                change_nm.mT @ x_s_nd if ctx.needs_input_grad[1] else None,
            )
        return (weight_n * kl_n).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        found = [None if kept is None else gradient * kept for kept in ctx.saved_tensors]
        return (*found, None, None, None, None)
