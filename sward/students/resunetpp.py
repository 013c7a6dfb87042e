"""ResUNet++ (Jha et al., ISM 2019, arXiv 1911.07067) in the authors' PyTorch variant: 4.06 M parameters.

The encoder has residual blocks with squeeze-and-excitation. The bridge is an ASPP of four parallel dilations. In the
decoder, shallow features gate the deep ones before both are joined. The PyTorch variant differs from the paper's
figure in its stem (stride 1) and its three encoder steps; the published counts belong to this variant.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sward.contracts import Config, Student, StudentOutput
from sward.students.inputs import require_multiple

# B batch, C channels, H W height and width of a feature map
WIDTHS = (16, 32, 64, 128)  # channels at strides 1, 2, 4, 8
DILATIONS = (1, 6, 12, 18)
SQUEEZE = 8  # reduction ratio of squeeze-and-excitation


def bn_relu_conv(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    """Batch norm, ReLU and a 3x3 convolution: (B, C, H, W) -> (B, C', H/stride, W/stride)."""
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1)
    return nn.Sequential(nn.BatchNorm2d(channels_in), nn.ReLU(), convolution)


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation: scales each channel by a gate in (0, 1) computed from all channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(channels, channels // SQUEEZE, bias=False),
            nn.ReLU(),
            nn.Linear(channels // SQUEEZE, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, f_BCHW: Tensor) -> Tensor:
        """Scales (B, C, H, W); the shape is kept."""
        return f_BCHW * self.gate(f_BCHW)[:, :, None, None]


class Residual(nn.Module):
    """Residual block: squeeze-and-excitation of the sum of two 3x3 convolutions and a 1x1 skip.

    In the stem, the first convolution has no batch norm and ReLU before it.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1, stem: bool = False) -> None:
        super().__init__()
        first = bn_relu_conv(channels_in, channels_out, stride)
        self.body = nn.Sequential(first[-1] if stem else first, bn_relu_conv(channels_out, channels_out))
        skip = nn.Conv2d(channels_in, channels_out, 1, stride)
        self.skip = nn.Sequential(skip, nn.BatchNorm2d(channels_out))
        self.excite = SqueezeExcite(channels_out)

    def forward(self, f_BCHW: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C', H/stride, W/stride)."""
        return self.excite(self.body(f_BCHW) + self.skip(f_BCHW))


class SummedASPP(nn.Module):
    """Atrous spatial pyramid pooling: sums four dilated 3x3 convolutions, then mixes channels by a 1x1 convolution."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 3, padding=rate, dilation=rate),
                nn.BatchNorm2d(channels_out),
            )
            for rate in DILATIONS
        )
        self.mix = nn.Conv2d(channels_out, channels_out, 1)

    def forward(self, f_BCHW: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C', H, W)."""
        return self.mix(torch.stack([branch(f_BCHW) for branch in self.branches]).sum(0))


class Decoder(nn.Module):
    """Decoder step: gates the deep features (stride 2s), doubles their size and joins them with the shallow ones.

    A residual block follows the join. The gate is computed from deep and shallow features. It multiplies every channel
    and has no sigmoid, as published.
    """

    def __init__(self, channels_shallow: int, channels_deep: int, channels_out: int) -> None:
        super().__init__()
        pool = nn.MaxPool2d(2)
        self.shallow = nn.Sequential(bn_relu_conv(channels_shallow, channels_deep), pool)
        self.deep = bn_relu_conv(channels_deep, channels_deep)
        self.gate = bn_relu_conv(channels_deep, channels_deep)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.join = Residual(channels_shallow + channels_deep, channels_out)

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        """Maps (B, C_shallow, H, W) and (B, C_deep, H/2, W/2) to (B, C_out, H, W)."""
        gated = deep * self.gate(self.shallow(shallow) + self.deep(deep))
        return self.join(torch.cat([self.upsample(gated), shallow], dim=1))


class ResUNetPP(Student):
    """ResUNet++ network. Its levels are the encoder's, s1, s2, s4 and s8.

    A Hiera trunk has only s4 and s8 of these, so pair levels by order.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        c1, c2, c4, c8 = WIDTHS
        self.num_classes = num_classes
        self.channels = {"s1": c1, "s2": c2, "s4": c4, "s8": c8}
        self.strides = {"s1": 1, "s2": 2, "s4": 4, "s8": 8}
        deeper = [Residual(c1, c2, 2), Residual(c2, c4, 2), Residual(c4, c8, 2)]
        self.encoder = nn.ModuleList([Residual(3, c1, stem=True), *deeper])
        self.bridge = SummedASPP(c8, 2 * c8)
        self.up4, self.up2, self.up1 = Decoder(c4, 2 * c8, c8), Decoder(c2, c8, c4), Decoder(c1, c4, c2)
        self.aspp = SummedASPP(c2, c1)
        self.classifier = nn.Conv2d(c1, num_classes, 1)

    def forward(self, images: Tensor) -> StudentOutput:
        """Maps images (B, 3, H, W) to logits (B, K, H, W) and the penultimate map (B, 16, H, W).

        Levels are (B, 16, H, W), (B, 32, H/2, W/2), (B, 64, H/4, W/4) and (B, 128, H/8, W/8).

        Raises:
            ValueError: H or W is not a multiple of 8.
        """
        require_multiple(images, 8, "ResUNet++")
        features = []
        f = images
        for stage in self.encoder:
            f = stage(f)
            features.append(f)
        f1, f2, f4, f8 = features
        f = self.up1(f1, self.up2(f2, self.up4(f4, self.bridge(f8))))
        penultimate = self.aspp(f)
        levels = dict(zip(self.channels, features, strict=True))
        return StudentOutput(self.classifier(penultimate), levels, penultimate)


class ResUNetPPConfig(Config):
    """ResUNet++: 4,062,993 parameters and 63.42 GMAC (ptflops) at 512x512 with one output channel."""

    kind: Literal["resunetpp"] = Field("resunetpp", description="Student architecture.")

    def build(self, num_classes: int) -> ResUNetPP:
        """Builds the network with ``num_classes`` output channels, initialised from torch's current generator."""
        return ResUNetPP(num_classes)
