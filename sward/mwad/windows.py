"""Cuts a feature map into shifted windows, paper Sec. 3.1.2 (Eq. 4-7).

A map is rolled by an offset, padded with zeros on the right and at the bottom, and cut into M x M windows. Attention
relates the tokens (cells) of one window. Teacher and student must be split by the same ``Windows``; otherwise their
tokens do not correspond.
"""

# B batch, C channels, H W height and width, N windows, M window side, T = M * M tokens of a window

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sward import seeds

Shift = Literal["none", "deterministic", "stochastic"]


def draw_offset(shift: Shift, side: int, seed: int, step: int, level: str) -> tuple[int, int]:
    """Draws the offset (dx, dy) of all windows of a batch, Eq. 6: a function of its arguments.

    Args:
        shift: 'none' gives (0, 0). 'deterministic' gives Swin's fixed ``side // 2`` on both axes. 'stochastic' draws
            dx and dy independently and uniformly.
        side: window side M, in cells.
        seed: the run's seed.
        step: number of the training step.
        level: teacher level; different levels have different offsets.

    Returns:
        dx along W and dy along H, in cells, each in {0..side-1}.
    """
    if shift == "none":
        return 0, 0
    if shift == "deterministic":
        return side // 2, side // 2
    dx, dy = seeds.integers(2, side, seed, "offsets", step, level)
    return int(dx), int(dy)


def draw_windows(share: float, count: int, seed: int, step: int, level: str) -> Tensor | None:
    """Draws the windows that a step compares, the same in every image of the batch: a function of its arguments.

    Args:
        share: of the windows, in (0, 1].
        count: N, number of windows of an image.
        seed: the run's seed.
        step: number of the training step.
        level: teacher level.

    Returns:
        (n,) int64, ascending, n = max(1, round(share N)), each subset of that size as likely; None if it is all.
    """
    n = max(1, round(share * count))
    if n == count:
        return None
    return torch.from_numpy(np.sort(seeds.permutation(count, seed, "windows", step, level)[:n]))


@dataclass(frozen=True)
class Windows:
    """Division of a map into windows.

    Attributes:
        height: height of the map, in cells.
        width: width of the map, in cells.
        side: window side M, in cells.
        dx: offset along the width, in cells.
        dy: offset along the height, in cells.
        pad_first: pad before rolling, which moves the padding into the map; the paper rolls first.
    """

    height: int
    width: int
    side: int
    dx: int = 0
    dy: int = 0
    pad_first: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for an offset outside the map: the seam would lie elsewhere than the masks say."""
        if not (0 <= self.dx < max(self.width, 1) and 0 <= self.dy < max(self.height, 1)):
            raise ValueError(
                f"found the window offset (dx, dy) = {self.dx, self.dy} for a map of {self.height}x{self.width} cells, "
                f"expected dx in 0..{self.width - 1} and dy in 0..{self.height - 1}: give offsets modulo the map's size"
            )

    @property
    def padding(self) -> tuple[int, int]:
        """Returns (columns added on the right, rows added at the bottom)."""
        return -self.width % self.side, -self.height % self.side

    @property
    def count(self) -> int:
        """N, number of windows of a map."""
        right, bottom = self.padding
        return (self.height + bottom) // self.side * ((self.width + right) // self.side)

    def split(self, f_BCHW: Tensor, fill: float = 0.0) -> Tensor:
        """Cuts a map (B, C, H, W) into tokens (B, N, T, C).

        Windows, and tokens within them, are in row-major order. Padded tokens have the value ``fill``.
        """
        f = f_BCHW
        f = self._roll(self._pad(f, fill)) if self.pad_first else self._pad(self._roll(f), fill)
        B, C, H, W = f.shape
        M = self.side
        f = f.view(B, C, H // M, M, W // M, M).permute(0, 2, 4, 3, 5, 1)
        return f.reshape(B, -1, M * M, C)

    def rows(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns the division of ``split`` as a reordering of pixel indices.

        Returns:
            token_of: (H * W,) int64, index of each pixel's token; tokens are numbered window by window.
            pixel_of: (N * T,) int64, index of each token's pixel; H * W for padding.
        """
        M, (right, bottom) = self.side, self.padding
        H, W = self.height + bottom, self.width + right
        rolled_H, rolled_W = (H, W) if self.pad_first else (self.height, self.width)
        y = (torch.arange(self.height, device=device) - self.dy) % rolled_H
        x = (torch.arange(self.width, device=device) - self.dx) % rolled_W
        window = (y // M * (W // M))[:, None] + x // M
        token_of = (window * M**2 + (y % M * M)[:, None] + x % M).flatten()
        pixel_of = token_of.new_full((H * W,), self.height * self.width)
        pixel_of[token_of] = torch.arange(len(token_of), device=device)
        return token_of, pixel_of

    def masks(self, padding: bool, seam: bool, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
        """Makes the masks of attention and of means; each is None if it masks nothing.

        Args:
            padding: exclude padded tokens from the keys and from all means.
            seam: mask attention between tokens that the roll brings together from opposite borders (Swin).
            device: device of the masks.

        Returns:
            visible: (N, T, T) bool, [n, t, u] is True if query token t attends to key token u.
            valid: (N, T) bool, True for tokens of the map, False for padding.
        """
        padding = padding and any(self.padding)
        seam = seam and bool(self.dx or self.dy)
        if not (padding or seam):
            return None, None
        region_NT = self._regions(device)
        valid = region_NT >= 0
        visible = None
        if seam:  # padding comes from neither border, so the seam does not separate it
            same = region_NT[:, :, None] == region_NT[:, None, :]
            visible = same | ~valid[:, None, :] | ~valid[:, :, None]
        if not padding:
            return visible, None
        keys = valid[:, None, :].expand(-1, self.side**2, -1)
        return (keys if visible is None else visible & keys), valid

    def _regions(self, device: torch.device) -> Tensor:
        """Returns each token's region, by sides of the roll's two seams: (N, T) int64 in 0..3; -1 for padding."""
        wrapped_y = torch.arange(self.height, device=device) < self.dy
        wrapped_x = torch.arange(self.width, device=device) < self.dx
        region_HW = 2 * wrapped_y[:, None].long() + wrapped_x[None, :].long()
        return self.split(region_HW[None, None], fill=-1)[0, :, :, 0]

    def _roll(self, f_BCHW: Tensor) -> Tensor:
        if not (self.dx or self.dy):
            return f_BCHW
        return torch.roll(f_BCHW, (-self.dy, -self.dx), (2, 3))  # Eq. 7

    def _pad(self, f_BCHW: Tensor, fill: float) -> Tensor:
        right, bottom = self.padding
        return F.pad(f_BCHW, (0, right, 0, bottom), value=fill) if right or bottom else f_BCHW
