"""Af-DCD's projectors: from the hidden student's map, rebuild the teacher's."""

import torch.nn.functional as F
from torch import Tensor, nn

from sward.methods.base import apply, conv


class Projector(nn.Module):
    """conv3x3 ``first``, ReLU, conv3x3 ``second``, C -> C, with bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = conv(channels, channels, kernel=3), conv(channels, channels, kernel=3)

    def forward(self, f_BCHW: Tensor) -> Tensor:
        return apply(self.second, F.relu(apply(self.first, f_BCHW)))


class EnhancedProjector(nn.Module):
    """Mean of two conv3x3, ``from_first`` and ``from_second``, of the maps after one and two blocks.

    Blocks: b1 = ReLU(conv3x3 ``first``), b2 = ReLU(conv3x3 ``second`` of b1); C -> C, with bias.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = conv(channels, channels, kernel=3), conv(channels, channels, kernel=3)
        self.from_first, self.from_second = conv(channels, channels, kernel=3), conv(channels, channels, kernel=3)

    def forward(self, f_BCHW: Tensor) -> Tensor:
        b1 = F.relu(apply(self.first, f_BCHW))
        b2 = F.relu(apply(self.second, b1))
        return (apply(self.from_first, b1) + apply(self.from_second, b2)) / 2
