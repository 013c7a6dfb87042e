"""Fixes the padding of TensorFlow's convolutions before a student is traced.

They pad by what the image's size asks for ("same", timm's ``Conv2dSame``), and with a free size every further one makes
the expressions that torch.export carries along several times as long: EfficientNet-Lite0 was not traced in minutes. Of
an input that the stride divides the padding is a constant, (k − 1) · dilation + 1 − stride over both sides, and an
exported student takes such sizes alone: multiples of its largest stride.
"""

import copy

import torch.nn.functional as F
from torch import Tensor, nn


class FixedSame(nn.Module):
    """A convolution with TensorFlow's padding, for inputs (B, C, H, W) of which its stride divides H and W.

    Args:
        conv: the convolution; its own ``padding`` is not used.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.sides = [side for axis in (1, 0) for side in both_sides(conv, axis)]  # left, right, top, bottom

    def forward(self, x: Tensor) -> Tensor:
        own = self.conv
        padded = F.pad(x, self.sides)
        return F.conv2d(padded, own.weight, own.bias, own.stride, 0, own.dilation, own.groups)


def both_sides(conv: nn.Conv2d, axis: int) -> tuple[int, int]:
    """Cells of padding before and after, along height (0) or width (1); the odd one comes after."""
    total = max(0, (conv.kernel_size[axis] - 1) * conv.dilation[axis] + 1 - conv.stride[axis])
    return total // 2, total - total // 2


def with_fixed_padding(net: nn.Module) -> nn.Module:
    """A copy of ``net`` with these convolutions replaced; ``net`` itself if it has none."""
    if not any(is_same(layer) for layer in net.modules()):
        return net
    changed = copy.deepcopy(net)
    for parent in list(changed.modules()):
        for name, layer in list(parent.named_children()):
            if is_same(layer):
                setattr(parent, name, FixedSame(layer))  # type: ignore[arg-type]  # is_same: a Conv2d
    return changed


def is_same(layer: nn.Module) -> bool:
    """Whether a layer is timm's convolution with TensorFlow's padding; by name, for timm may not be installed."""
    return isinstance(layer, nn.Conv2d) and type(layer).__name__ == "Conv2dSame"
