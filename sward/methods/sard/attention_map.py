"""SARD's structure map: how much each position of the teacher's map matters, a function of the map alone."""

# B batch, C channels, H W height and width, r radius, k 2 r + 1

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sward.contracts import Config


class StructureConfig(Config):
    """Mixture of edges, corners and density; all three weights 0 give uniform weighting (W = 1 / (H W))."""

    beta_e: float = Field(default=2.0, ge=0, description="Weight of E, edges.")
    beta_c: float = Field(default=1.0, ge=0, description="Weight of C, corners.")
    beta_d: float = Field(default=1.0, ge=0, description="Weight of D, density.")
    radius: int = Field(default=7, ge=1, description="r: D looks at (2 r + 1)^2 positions, fewer at the border.")
    scale: Literal["minmax", "mean", "literal"] = Field(
        default="minmax",
        description="E, C, D per image to [0, 1], to mean 1, or as printed, where D is lost against squared gradients.",
    )


@torch.no_grad()
def structure_map(f_BCHW: Tensor, config: StructureConfig) -> Tensor:
    """Weights W (B, H, W), non-negative, summing to 1 over each image; uniform if nothing has structure."""
    E, C = edges_and_corners(f_BCHW)
    parts = [(config.beta_e, E), (config.beta_c, C)]
    if config.beta_d > 0:
        parts.append((config.beta_d, density(f_BCHW, config.radius)))
    S = torch.stack([beta * _scaled(part, config.scale) for beta, part in parts]).sum(0)
    total = S.sum((1, 2), keepdim=True)
    return torch.where(total > 0, S / torch.where(total > 0, total, 1.0), 1 / S[0].numel())


def edges_and_corners(f_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Edges E = l1 - l2 and corners C = sqrt(l1 l2), each (B, H, W), of the structure tensor summed over channels.

    l1 >= l2 are its eigenvalues. Gradients are Sobel's, unnormalised, the border repeated (zeros outside would be edges
    of their own).
    """
    smooth, slope = f_BCHW.new_tensor([1.0, 2.0, 1.0]), f_BCHW.new_tensor([-1.0, 0.0, 1.0])
    kernels = torch.stack([torch.outer(smooth, slope), torch.outer(slope, smooth)])[:, None]
    padded = F.pad(f_BCHW, (1, 1, 1, 1), mode="replicate")
    gradient = F.conv2d(padded.flatten(0, 1)[:, None], kernels).unflatten(0, f_BCHW.shape[:2])
    gx, gy = gradient.unbind(2)
    Jxx, Jyy, Jxy = gx.square().sum(1), gy.square().sum(1), (gx * gy).sum(1)
    E = ((Jxx - Jyy).square() + 4 * Jxy.square()).sqrt()  # closed forms of a symmetric 2 x 2 matrix
    return E, (Jxx * Jyy - Jxy.square()).clamp_min(0).sqrt()


def density(f_BCHW: Tensor, r: int) -> Tensor:
    """Density D (B, H, W): mean over the window's positions j of |f(j) - mu|_2, mu the window's mean.

    Computed row by row, as distances of one row's means to the rows in reach, so memory is B W (k W) and not (H W)^2.
    """
    f_BCHW = f_BCHW - f_BCHW.mean((2, 3), keepdim=True)  # distances stay; their matmul form loses fewer digits
    H, W = f_BCHW.shape[-2:]
    mu = torch.stack([_window_mean(f_BCHW, y, r) for y in range(H)], 2)
    x = torch.arange(W, device=f_BCHW.device)
    near_WW = ((x[:, None] - x).abs() <= r).to(f_BCHW.dtype)
    rows = []
    for y in range(H):
        reach = f_BCHW[:, :, max(0, y - r) : y + r + 1]
        distance = torch.cdist(mu[:, :, y].mT, reach.flatten(2).mT).unflatten(2, reach.shape[-2:])
        rows.append((distance * near_WW[:, None]).sum((2, 3)) / (near_WW.sum(1) * reach.shape[2]))
    return torch.stack(rows, 1)


def _window_mean(f_BCHW: Tensor, y: int, r: int) -> Tensor:
    """mu of row y, (B, C, W)."""
    column = f_BCHW[:, :, max(0, y - r) : y + r + 1].mean(2)
    return F.avg_pool1d(column, 2 * r + 1, stride=1, padding=r, count_include_pad=False)


def _scaled(part_BHW: Tensor, scale: str) -> Tensor:
    if scale == "literal":
        return part_BHW
    low = part_BHW.amin((1, 2), keepdim=True) if scale == "minmax" else torch.zeros_like(part_BHW[:, :1, :1])
    top = (part_BHW.amax if scale == "minmax" else part_BHW.mean)((1, 2), keepdim=True)
    return (part_BHW - low) / torch.where(top > low, top - low, 1.0)
