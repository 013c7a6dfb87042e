"""CIRKD's trained parts on the student's side: the projection head, and v2's self-attention block."""

# B batch, C channels, d = C // 2, H W height and width

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sward.methods.base import BatchNorm, apply, conv


class Projection(nn.Module):
    """1x1 convolution ``first`` (no bias), ``norm``, ReLU, 1x1 convolution ``second`` (no bias); C_s -> C_t -> C_t."""

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.first, self.second = conv(student, teacher, bias=False), conv(teacher, teacher, bias=False)
        self.norm = BatchNorm(teacher)

    def forward(self, f_BCHW: Tensor) -> Tensor:
        return apply(self.second, F.relu(self.norm(apply(self.first, f_BCHW))))


class SelfAttention(nn.Module):
    """join([f; attention]), attention = softmax(q^T k / sqrt(d)) v over all positions; C -> C.

    ``query``, ``key``, ``value``: 1x1 convolutions C -> d; ``join``: C + d -> C, all with bias.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        d = max(1, channels // 2)
        self.query, self.key, self.value = conv(channels, d), conv(channels, d), conv(channels, d)
        self.join = conv(channels + d, channels)

    def forward(self, f_BCHW: Tensor) -> Tensor:
        q, k, v = (apply(layer, f_BCHW).flatten(2).mT for layer in (self.query, self.key, self.value))
        found = F.scaled_dot_product_attention(q, k, v).mT.unflatten(2, f_BCHW.shape[-2:])
        return apply(self.join, torch.cat([f_BCHW, found], dim=1))
