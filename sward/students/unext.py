"""UNeXt (Valanarasu and Patel, MICCAI 2022, arXiv 2203.04967), the full model: 1.47 M parameters.

Three convolutional stages are followed by two stages of tokenised MLPs. Before each linear layer, groups of channels
are shifted along one axis, so that a token sees its neighbours without attention. The decoder mirrors the encoder and
adds its features. If paper and published code differ, this file follows the code, because the published counts are
the code's: the first shift is along the height, the second along the width, and there is no dropout.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sward.contracts import Config, Student, StudentOutput
from sward.students.inputs import require_multiple

# B batch, C channels, H W height and width of a feature map
WIDTHS = (16, 32, 128, 160, 256)  # channels at strides 2, 4, 8, 16, 32
SHIFTS = 5  # channel groups, shifted by -2, -1, 0, 1, 2 cells


def shift(f_BCHW: Tensor, dim: int) -> Tensor:
    """Shifts five groups of channels by -2..2 cells along ``dim`` (2 height, 3 width), with zeros at the borders."""
    reach, size = SHIFTS // 2, f_BCHW.shape[dim]
    margins = (0, 0, reach, reach) if dim == 2 else (reach, reach)
    groups = F.pad(f_BCHW, margins).chunk(SHIFTS, dim=1)
    moved = [group.narrow(dim, reach - step, size) for step, group in enumerate(groups, -reach)]
    return torch.cat(moved, dim=1)


def on_channels(layer: nn.Module, f_BCHW: Tensor) -> Tensor:
    """Applies a linear layer or layer norm to the channels of every cell; keeps the map's memory format."""
    tokens = layer(f_BCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return tokens if f_BCHW.is_contiguous(memory_format=torch.channels_last) else tokens.contiguous()


class ShiftedMLP(nn.Module):
    """Shifted MLP with residual, f + MLP(norm(f)).

    The MLP is: shift in height, linear, depthwise 3x3, GELU, shift in width, linear.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.linear1 = nn.Linear(channels, channels)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.activation = nn.GELU()
        self.linear2 = nn.Linear(channels, channels)
        self.apply(initialise)

    def forward(self, f_BCHW: Tensor) -> Tensor:
        """Maps (B, C, H, W) to the same shape."""
        hidden = on_channels(self.linear1, shift(on_channels(self.norm, f_BCHW), dim=2))
        hidden = self.activation(self.depthwise(hidden))
        return f_BCHW + on_channels(self.linear2, shift(hidden, dim=3))


class TokenStage(nn.Module):
    """Token stage: embeds overlapping 3x3 patches at stride 2, then applies one shifted MLP."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(channels_out)
        self.apply(initialise)
        self.mlp = ShiftedMLP(channels_out)
        self.norm_out = nn.LayerNorm(channels_out)

    def forward(self, f_BCHW: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C', H/2, W/2)."""
        return on_channels(self.norm_out, self.mlp(on_channels(self.norm, self.patches(f_BCHW))))


def initialise(module: nn.Module) -> None:
    """Initialises the token stages as published: linear N(0, 0.02²), convolutions N(0, 2 / fan-out), biases 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def conv_bn(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.BatchNorm2d(channels_out))


def double(f_BCHW: Tensor) -> Tensor:
    """Bilinear upsampling by 2, then ReLU."""
    return F.relu(F.interpolate(f_BCHW, scale_factor=(2, 2), mode="bilinear", align_corners=False))


class UNeXt(Student):
    """UNeXt network. Its levels s4..s32 pair with the four stages of a Hiera trunk.

    The stride-2 stage (16 channels) has no partner in such a trunk and is not returned.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        c2, c4, c8, c16, c32 = WIDTHS
        self.num_classes = num_classes
        self.channels = {"s4": c4, "s8": c8, "s16": c16, "s32": c32}
        self.strides = {"s4": 4, "s8": 8, "s16": 16, "s32": 32}
        self.encoder = nn.ModuleList([conv_bn(3, c2), conv_bn(c2, c4), conv_bn(c4, c8)])
        self.tokens16, self.tokens32 = TokenStage(c8, c16), TokenStage(c16, c32)
        self.decoder = nn.ModuleList([conv_bn(c32, c16), conv_bn(c16, c8), conv_bn(c8, c4), conv_bn(c4, c2)])
        self.mlp16, self.norm16 = ShiftedMLP(c16), nn.LayerNorm(c16)
        self.mlp8, self.norm8 = ShiftedMLP(c8), nn.LayerNorm(c8)
        self.last = nn.Conv2d(c2, c2, 3, padding=1)
        self.classifier = nn.Conv2d(c2, num_classes, 1)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Computes the features of images (B, 3, H, W) at strides 2, 4, 8, 16, 32, each (B, C, h, w)."""
        features = []
        for stage in self.encoder:
            images = F.relu(F.max_pool2d(stage(images), 2))
            features.append(images)
        features.append(self.tokens16(features[-1]))
        features.append(self.tokens32(features[-1]))
        return features

    def decode(self, features: list[Tensor]) -> Tensor:
        """Computes the input of the classifier, (B, 16, H, W), from the features of ``encode``."""
        f2, f4, f8, f16, f32 = features
        up16, up8, up4, up2 = self.decoder
        # torch.add in place of +: ptflops counts only torch.add, which the published figure includes
        f = on_channels(self.norm16, self.mlp16(torch.add(double(up16(f32)), f16)))
        f = on_channels(self.norm8, self.mlp8(torch.add(double(up8(f)), f8)))
        f = torch.add(double(up4(f)), f4)
        f = torch.add(double(up2(f)), f2)
        return double(self.last(f))

    def forward(self, images: Tensor) -> StudentOutput:
        """Maps images (B, 3, H, W) to logits (B, K, H, W) and the penultimate map (B, 16, H, W).

        Level s<n> is (B, C, H/n, W/n).

        Raises:
            ValueError: H or W is not a multiple of 32.
        """
        require_multiple(images, 32, "UNeXt")
        features = self.encode(images)
        penultimate = self.decode(features)
        levels = dict(zip(self.channels, features[1:], strict=True))
        return StudentOutput(self.classifier(penultimate), levels, penultimate)


class UNeXtConfig(Config):
    """UNeXt: 1.4719 M parameters and 2.313 GMAC (ptflops) at 512x512 with two classes."""

    kind: Literal["unext"] = Field("unext", description="Student architecture.")

    def build(self, num_classes: int) -> UNeXt:
        """Builds the network with ``num_classes`` output channels, initialised from torch's current generator."""
        return UNeXt(num_classes)
