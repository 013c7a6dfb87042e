"""Linear layers shared by groups of a map's cells, as in CKD's second projector."""

# B batch, C channels, H W height and width, G groups, m cells of one group; y x: of a block, h w: within a block

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sward import seeds

SIDE = 4  # of a block


class GroupLinear(nn.Module):
    """One fully connected layer C_s -> C_t for each group of cells: ``weight`` (G, C_t, C_s), ``bias`` (G, C_t).

    block: cell (y, x) belongs to group (y // 4) ceil(W / 4) + x // 4, so G follows from the map's size and is 0 until
    ``reset`` or a loaded state. residue: it belongs to group 4 (y mod 4) + x mod 4, so G is 16.
    """

    def __init__(self, inputs: int, outputs: int, groups: Literal["block", "residue"]) -> None:
        super().__init__()
        self.by_block = groups == "block"
        self.weight = nn.Parameter(torch.zeros(0, outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(0, outputs))
        if not self.by_block:
            self.reset(0, (SIDE, SIDE))

    @torch.no_grad()
    def reset(self, seed: int, size: tuple[int, int]) -> None:
        """Draw PyTorch's default values, uniform within 1 / sqrt(C_s), from the seed, for maps of this size."""
        groups = math.prod(_blocks(size)) if self.by_block else SIDE**2
        bound = 1 / math.sqrt(self.weight.shape[-1])
        self._make(groups)
        for name, parameter in self.named_parameters():
            generator = torch.Generator().manual_seed(seeds.torch_seed(seed, "ckd linear", name))
            parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))

    def forward(self, f_BCHW: Tensor) -> Tensor:
        """(B, C_s, H, W) -> (B, C_t, H, W). Raises ValueError if the map has another number of blocks."""
        H, W = f_BCHW.shape[-2:]
        rows, columns = _blocks((H, W))
        if self.by_block and rows * columns != len(self.weight):
            raise ValueError(
                f"ckd's linear projector has {len(self.weight)} layers, one for each 4x4 block of a map (0: not "
                f"prepared), and a map of {H} x {W} has {rows * columns}: train on records of one size, or set groups: "
                "residue"
            )
        whole = F.pad(f_BCHW, (0, SIDE * columns - W, 0, SIDE * rows - H))
        cells_BCyhxw = whole.unflatten(3, (columns, SIDE)).unflatten(2, (rows, SIDE))
        order = (2, 4, 0, 3, 5, 1) if self.by_block else (3, 5, 0, 2, 4, 1)  # groups, batch, cells, channels
        moved = cells_BCyhxw.permute(order)
        x_GmC = moved.flatten(2, 4).flatten(0, 1)
        weight, bias = self.weight.to(f_BCHW.dtype), self.bias.to(f_BCHW.dtype)
        y_GmC = torch.baddbmm(bias[:, None], x_GmC, weight.mT)
        back = [order.index(axis) for axis in (0, 1, 2, 3, 4, 5)]
        cells = y_GmC.reshape(*moved.shape[:5], -1).permute(back)
        return cells.flatten(4, 5).flatten(2, 3)[..., :H, :W]

    def _make(self, groups: int) -> None:
        """Parameters for that many groups; the same objects if the number stays, as an optimiser may hold them."""
        if len(self.weight) != groups:
            self.weight = nn.Parameter(self.weight.new_zeros(groups, *self.weight.shape[1:]))
            self.bias = nn.Parameter(self.bias.new_zeros(groups, *self.bias.shape[1:]))

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        if self.by_block and (saved := state.get(prefix + "weight")) is not None:
            self._make(len(saved))  # known only from the data
        super()._load_from_state_dict(state, prefix, *rest)


def _blocks(size: tuple[int, int]) -> tuple[int, int]:
    """Blocks of 4x4 cells down and across; the last ones may be cut."""
    return -(-size[0] // SIDE), -(-size[1] // SIDE)
