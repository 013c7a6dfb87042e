"""Shifted windows over a feature map, paper Sec. 3.1.2 (Eq. 4-7).

A map is rolled by an offset, padded with zeros on the right and at the bottom, and cut into M x M windows,
whose tokens are what attention relates. The same ``Windows`` must split teacher and student, or tokens do not
correspond.
"""

# B batch, C channels, H W height and width, N windows, M window side, T = M * M tokens of a window

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sward import seeds

Shift = Literal["none", "deterministic", "stochastic"]


def draw_offset(shift: Shift, side: int, seed: int, step: int, level: str) -> tuple[int, int]:
    """Offset (dx, dy) in {0..side-1}, Eq. 6: a function of its arguments, the same for the whole batch.

    deterministic: Swin's fixed ``side // 2`` on both axes. stochastic: dx, dy independent and uniform.
    """
    if shift == "none":
        return 0, 0
    if shift == "deterministic":
        return side // 2, side // 2
    dx, dy = seeds.integers(2, side, seed, "offsets", step, level)
    return int(dx), int(dy)


@dataclass(frozen=True)
class Windows:
    """How a (height, width) map is cut: window side M and the offset (dx along W, dy along H).

    pad_first: pad before rolling, which moves the padding into the map; the paper's order rolls first.
    """

    height: int
    width: int
    side: int
    dx: int = 0
    dy: int = 0
    pad_first: bool = False

    @property
    def padding(self) -> tuple[int, int]:
        """Columns added on the right, rows added at the bottom."""
        return -self.width % self.side, -self.height % self.side

    def split(self, f_BCHW: Tensor, fill: float = 0.0) -> Tensor:
        """The windows' tokens, (B, N, T, C); windows and tokens in row order. Padding holds ``fill``."""
        f = f_BCHW
        f = self._roll(self._pad(f, fill)) if self.pad_first else self._pad(self._roll(f), fill)
        B, C, H, W = f.shape
        M = self.side
        f = f.view(B, C, H // M, M, W // M, M).permute(0, 2, 4, 3, 5, 1)
        return f.reshape(B, -1, M * M, C)

    def rows(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The same cut as a reordering of pixels.

        Returns:
            token_of: (H * W,) int64, the token that each pixel becomes, counted over windows and within them.
            pixel_of: (N * T,) int64, the pixel of each token; H * W for padding.
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
        """What attention may see and which tokens count; None where nothing is masked.

        Args:
            padding: padded tokens are no keys and count in no mean.
            seam: tokens that the roll brought together from opposite borders do not see each other (Swin).
            device: where the masks are made.

        Returns:
            visible: (N, T, T) bool, may query token t look at key token u.
            valid: (N, T) bool, is the token one of the map.
        """
        padding = padding and any(self.padding)
        seam = seam and bool(self.dx or self.dy)
        if not (padding or seam):
            return None, None
        region_NT = self._regions(device)
        valid = region_NT >= 0
        visible = None
        if seam:  # padding comes from neither border
            same = region_NT[:, :, None] == region_NT[:, None, :]
            visible = same | ~valid[:, None, :] | ~valid[:, :, None]
        if not padding:
            return visible, None
        keys = valid[:, None, :].expand(-1, self.side**2, -1)
        return (keys if visible is None else visible & keys), valid

    def _regions(self, device: torch.device) -> Tensor:
        """(N, T) int64: which side of the seam a token comes from (0..3), -1 for padding."""
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
