"""Trained layers of CIRKD on the student's side: the projection head and v2's self-attention block."""

# B batch, C channels, d = C // 2, H W height and width

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sward.methods.base import BatchNorm, apply, conv


class Projection(nn.Module):
    """Projects C_s channels to C_t: 1x1 convolution ``first``, ``norm``, ReLU, 1x1 convolution ``second``; no bias."""

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.first, self.second = conv(student, teacher, bias=False), conv(teacher, teacher, bias=False)
        self.norm = BatchNorm(teacher)

    def forward(self, f_BCHW: Tensor) -> Tensor:
        return apply(self.second, F.relu(self.norm(apply(self.first, f_BCHW))))


class SelfAttention(nn.Module):
    """Adds what a position attends to: relu(bn(join([f; a]))), a = relu(bn(out(softmax(q^T k / sqrt(d)) v))).

    1x1 convolutions without bias: ``query``, ``key``, ``value`` C -> d; ``out`` d -> C; ``join`` 2 C -> C. Both batch
    norms, ``norm_out`` and ``norm_join``, use the batch's statistics. No formula states the width of ``out``: here C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        d = max(1, channels // 2)
        self.query, self.key, self.value = (conv(channels, d, bias=False) for _ in range(3))
        self.out, self.norm_out = conv(d, channels, bias=False), BatchNorm(channels)
        self.join, self.norm_join = conv(2 * channels, channels, bias=False), BatchNorm(channels)

    def forward(self, f_BCHW: Tensor) -> Tensor:
        q, k, v = (apply(layer, f_BCHW).flatten(2).mT for layer in (self.query, self.key, self.value))
        found = F.scaled_dot_product_attention(q, k, v).mT.unflatten(2, f_BCHW.shape[-2:])
        a = F.relu(self.norm_out(apply(self.out, found)))
        return F.relu(self.norm_join(apply(self.join, torch.cat([f_BCHW, a], dim=1))))
