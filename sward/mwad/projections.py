"""The projections of one teacher-student pair: phi, Theta_t, Theta_s (Eq. 1 and 8), and how they start.

Nothing but the distillation loss would train phi and Theta_t, and it can fall by making the target trivial.
So by default both are fixed: phi the principal axes of the standardised teacher features, Theta a random
rotation.
"""

# B batch, C channels, H W height and width, n tokens, d width of Q, K, V

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from sward import seeds
from sward.align import labels_on_grid
from sward.contracts import IGNORE
from sward.distributed.collectives import sum_over_ranks
from sward.mwad.config import MWADConfig
from sward.mwad.monitors import normalised_entropy
from sward.mwad.windows import Windows

CALIBRATION_WINDOWS = 256  # attention maps on which the gain is fitted; 256 x 64 rows fix the mean entropy to < 1 %


class Projections(nn.Module):
    """State of one pair (names as in ``state_dict``).

    phi: 1x1 convolution, C_t -> C_s. theta_t, theta_s: 1x1 convolutions C_s -> 3 d, the rows of Q, K, V in
    this order.
    classifier: 1x1 convolution d -> classes on V_t, only with ``teacher_proj: aux``.
    mean, std: (C_t,) buffers, the standardisation of the teacher. gain: () buffer, already in the rows of Q
    and K.
    """

    phi: nn.Conv2d
    theta_t: nn.Conv2d
    theta_s: nn.Conv2d
    classifier: nn.Conv2d
    mean: Tensor
    std: Tensor
    gain: Tensor

    def __init__(self, teacher: int, student: int, config: MWADConfig, num_classes: int | None, level: str) -> None:
        super().__init__()
        self.config, self.level = config, level
        self.width = min(student, config.max_width or student)
        self.phi = skip_init(nn.Conv2d, teacher, student, 1, bias=config.bias)
        self.theta_t = skip_init(nn.Conv2d, student, 3 * self.width, 1, bias=config.bias)
        self.theta_s = skip_init(nn.Conv2d, student, 3 * self.width, 1, bias=config.bias)
        self.register_buffer("mean", torch.zeros(teacher))
        self.register_buffer("std", torch.ones(teacher))
        self.register_buffer("gain", torch.ones(()))
        if config.teacher_proj == "aux":
            self.classifier = skip_init(nn.Conv2d, self.width, num_classes, 1)
        if config.teacher_proj == "frozen":
            self.phi.requires_grad_(False)
            self.theta_t.requires_grad_(False)

    def teacher(self, f_BCHW: Tensor) -> Tensor:
        """phi of the standardised teacher features, Eq. 1; (B, C_s, H, W)."""
        f = (f_BCHW - self.mean[:, None, None]) / self.std[:, None, None] if self.config.standardise else f_BCHW
        return F.conv2d(f, self.phi.weight.to(f.dtype), _as(self.phi.bias, f))

    def classify(self, V_t: Tensor, windows: Windows, labels: Tensor | None) -> Tensor:
        """Cross-entropy of the labels from V_t: what trains phi and the values with ``teacher_proj: aux``."""
        if labels is None:
            raise ValueError("teacher_proj 'aux' classifies V_t: give labels")
        y_BHW = labels_on_grid(labels, (windows.height, windows.width))
        y_n = windows.split(y_BHW[:, None], fill=IGNORE).flatten()
        logits = F.linear(V_t, self.classifier.weight.flatten(1), self.classifier.bias).flatten(0, 2)
        summed = F.cross_entropy(logits, y_n, ignore_index=IGNORE, reduction="sum")
        return sum_over_ranks(summed) / sum_over_ranks((y_n != IGNORE).sum()).clamp_min(1)

    @torch.no_grad()
    def reset(self, seed: int) -> None:
        """Initial values, a function of seed, level and configuration; discards what was prepared."""
        self.mean.zero_()
        self.std.fill_(1.0)
        phi_init = "orthogonal" if self.config.phi_init == "pca" else self.config.phi_init
        _initialise(self.phi, phi_init, 1, seed, self.level, "phi")
        _initialise(self.theta_t, self.config.theta_init, 3, seed, self.level, "theta_t")
        _initialise(self.theta_s, self.config.theta_init, 3, seed, self.level, "theta_s")
        if self.config.teacher_proj == "aux":
            _initialise(self.classifier, "default", 1, seed, self.level, "classifier")
        self.gain.fill_(1.0)
        if self.config.gain != "auto":
            self._apply_gain(self.config.gain)

    @torch.no_grad()
    def prepare(self, f_BCHW: Tensor, statistics: tuple[Tensor, Tensor] | None, side: int) -> None:
        """Standardisation, principal axes, gain from a batch of teacher features; ``side``: window side M."""
        f_BCHW = f_BCHW.to(self.mean.dtype)
        if self.config.standardise:
            mean, std = statistics or (f_BCHW.mean((0, 2, 3)), f_BCHW.std((0, 2, 3)))
            self.mean.copy_(mean)
            # a constant channel would turn its rounding noise into a signal
            self.std.copy_(torch.where(std > 1e-6 * std.max(), std, 1.0))
        if self.config.phi_init == "pca":
            f = (f_BCHW - self.mean[:, None, None]) / self.std[:, None, None]
            axes = principal_axes(f.transpose(0, 1).flatten(1).T, self.phi.out_channels, self.level)
            self.phi.weight.copy_(axes[:, :, None, None])
        if self.config.gain == "auto":
            self._apply_gain(self._fit_gain(self.teacher(f_BCHW), side))

    def _fit_gain(self, f_BCHW: Tensor, side: int) -> float:
        H, W = (size // side * side for size in f_BCHW.shape[-2:])
        tokens = Windows(H, W, side).split(f_BCHW[:, :, :H, :W]).flatten(0, 1)
        tokens = tokens[:: math.ceil(len(tokens) / CALIBRATION_WINDOWS)]
        Q, K, _ = F.linear(tokens, self.theta_t.weight.flatten(1), self.theta_t.bias).chunk(3, dim=-1)
        return fit_gain(Q @ K.mT / math.sqrt(self.width), self.config.entropy, self.level)

    def _apply_gain(self, gain: float) -> None:
        self.gain.fill_(gain)
        for theta in (self.theta_t, self.theta_s):
            for parameter in (theta.weight, theta.bias):
                if parameter is not None:
                    parameter[: 2 * self.width] *= gain


def principal_axes(f_nC: Tensor, rows: int, level: str) -> Tensor:
    """The ``rows`` leading principal axes, (rows, C), scaled so that the projections' mean variance is one.

    Signs are fixed (largest entry positive). Rows beyond C are zero. Raises ValueError for constant features.
    """
    f_nC = f_nC - f_nC.mean(0)
    covariance = (f_nC.T @ f_nC / len(f_nC)).double().cpu()  # eigh on the CPU: the same axes on every device
    values, vectors = torch.linalg.eigh(covariance)
    values, axes = values.flip(0)[:rows], vectors.flip(1)[:, :rows].T
    if not values.sum() > 0:
        raise ValueError(f"{level}: the calibration batch's teacher features are constant (or NaN); check the store")
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    axes = axes * largest.sign() * torch.sqrt(rows / values.sum())
    return F.pad(axes, (0, 0, 0, rows - len(axes))).to(f_nC.device, f_nC.dtype)


def fit_gain(scores_nTT: Tensor, entropy: float, level: str) -> float:
    """The factor g on Q and on K (scores grow by g squared) whose mean normalised entropy is ``entropy``.

    Bisection over g in [1e-3, 1e3]; raises ValueError where no such gain reaches it (constant features).
    """

    def reached(exponent: float) -> float:
        return float(normalised_entropy((scores_nTT * 10 ** (2 * exponent)).log_softmax(-1)))

    low, high = -3.0, 3.0
    if not reached(low) > entropy > reached(high):
        raise ValueError(
            f"{level}: no gain gives a normalised entropy of {entropy} (between {reached(high):.3f} and "
            f"{reached(low):.3f} is possible on the calibration batch); set mwad.gain to a number"
        )
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if reached(middle) > entropy else (low, middle)
    return float(10**low)


def _initialise(conv: nn.Conv2d, how: str, blocks: int, seed: int, level: str, name: str) -> None:
    """Orthogonal blocks with zero bias, or PyTorch's default of a convolution; drawn on the CPU."""
    generator = torch.Generator().manual_seed(seeds.torch_seed(seed, "mwad", level, name))
    out, fan_in = conv.weight.shape[:2]
    weight = torch.empty(blocks, out // blocks, fan_in)
    for block in weight:
        if how == "orthogonal":
            nn.init.orthogonal_(block, generator=generator)
        else:
            nn.init.kaiming_uniform_(block, a=math.sqrt(5), generator=generator)
    conv.weight.copy_(weight.view(out, fan_in, 1, 1))
    if conv.bias is not None:
        bound = 0.0 if how == "orthogonal" else 1 / math.sqrt(fan_in)
        conv.bias.copy_(torch.empty(out).uniform_(-bound, bound, generator=generator))


def _as(bias: Tensor | None, like: Tensor) -> Tensor | None:
    return None if bias is None else bias.to(like.dtype)
