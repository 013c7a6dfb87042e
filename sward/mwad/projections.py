"""Projections of one teacher-student pair, phi, Theta_t and Theta_s (Eq. 1 and 8), and their initial values.

Only the distillation loss could train phi and Theta_t, and it can fall by making the target trivial. By default both
are therefore fixed: phi holds the principal axes of the standardised teacher features, Theta_t a random rotation.
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
from sward.levels import own_name
from sward.mwad.config import MWADConfig
from sward.mwad.monitors import normalised_entropy
from sward.mwad.windows import Windows
from sward.task import pixel_cross_entropy

CALIBRATION_WINDOWS = 256  # windows on which the gain is fitted; 256 x 64 attention rows give the mean entropy to < 1 %


class Projections(nn.Module):
    """Parameters and buffers of one pair.

    Their names are data: initial values are seeded from them, and checkpoints store them.

    Attributes:
        phi: 1x1 convolution C_t -> C_s on the teacher's features.
        theta_t: 1x1 convolution C_s -> 3 d of the teacher side; rows of Q, K, V in this order.
        theta_s: 1x1 convolution C_s -> 3 d of the student side; rows of Q, K, V in this order.
        classifier: 1x1 convolution d -> classes on V_t; exists with ``teacher_proj: aux`` only.
        mean: (C_t,) buffer, subtracted from the teacher's features.
        std: (C_t,) buffer, by which they are then divided.
        gain: () buffer, factor that the rows of Q and K already contain.
        width: d, the width of Q, K and V.
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
        self.config, self.level, self.drawn_as = config, level, own_name(level)
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
        """Applies phi to the standardised teacher features, Eq. 1: (B, C_t, H, W) -> (B, C_s, H, W)."""
        f = (f_BCHW - self.mean[:, None, None]) / self.std[:, None, None] if self.config.standardise else f_BCHW
        return F.conv2d(f, self.phi.weight.to(f.dtype), _as(self.phi.bias, f))

    def classify(self, V_t: Tensor, windows: Windows, labels: Tensor | None) -> Tensor:
        """Computes the cross-entropy of classifying V_t, which trains phi and Theta_t with ``teacher_proj: aux``.

        Args:
            V_t: (B, N, T, d) values of the teacher.
            windows: windows on the common grid.
            labels: (B, h, w) int64 class labels or ``IGNORE``, on any grid.

        Returns:
            Scalar, mean over the tokens with a label; 0 if there are none.

        Raises:
            ValueError: ``labels`` is None.
        """
        if labels is None:
            raise ValueError("teacher_proj 'aux' classifies V_t, but labels is None: give labels")
        y_BHW = labels_on_grid(labels, (windows.height, windows.width))
        y_n = windows.split(y_BHW[:, None], fill=IGNORE).flatten()
        logits = F.linear(V_t, self.classifier.weight.flatten(1), self.classifier.bias).flatten(0, 2)
        summed = pixel_cross_entropy(logits, y_n, reduction="sum")
        return sum_over_ranks(summed) / sum_over_ranks((y_n != IGNORE).sum()).clamp_min(1)

    @torch.no_grad()
    def reset(self, seed: int) -> None:
        """Sets initial values, a function of seed, level and configuration; discards what ``prepare`` has fitted.

        The level's name counts without its teacher's: each of several teachers starts as if it were alone.
        """
        self.mean.zero_()
        self.std.fill_(1.0)
        phi_init = "orthogonal" if self.config.phi_init == "pca" else self.config.phi_init
        _initialise(self.phi, phi_init, 1, seed, self.drawn_as, "phi")
        _initialise(self.theta_t, self.config.theta_init, 3, seed, self.drawn_as, "theta_t")
        _initialise(self.theta_s, self.config.theta_init, 3, seed, self.drawn_as, "theta_s")
        if self.config.teacher_proj == "aux":
            _initialise(self.classifier, "default", 1, seed, self.drawn_as, "classifier")
        self.gain.fill_(1.0)
        if self.config.gain != "auto":
            self._apply_gain(self.config.gain)

    @torch.no_grad()
    def prepare(self, f_BCHW: Tensor, statistics: tuple[Tensor, Tensor] | None, side: int) -> None:
        """Fits standardisation, principal axes and gain to a batch of teacher features.

        Args:
            f_BCHW: (B, C_t, H, W) teacher features.
            statistics: (mean, std) of the whole training set, each (C_t,); None takes them from the batch.
            side: window side M, in cells.

        Raises:
            ValueError: the features are constant, or no gain reaches the target entropy.
        """
        f_BCHW = f_BCHW.to(self.mean.dtype)
        if self.config.standardise:
            mean, std = statistics or (f_BCHW.mean((0, 2, 3)), f_BCHW.std((0, 2, 3)))
            self.mean.copy_(mean)
            # a constant channel keeps std 1: division by its tiny std would amplify rounding noise to a signal
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
    """Computes the leading principal axes of features (n, C), scaled so that the projections' mean variance is one.

    Args:
        f_nC: features, one row per token.
        rows: number of axes.
        level: teacher level, for the message.

    Returns:
        (rows, C). Signs are fixed: the largest entry by magnitude is positive. Rows beyond C are zero.

    Raises:
        ValueError: the features are constant or NaN.
    """
    f_nC = f_nC - f_nC.mean(0)
    covariance = (f_nC.T @ f_nC / len(f_nC)).double().cpu()  # eigh on the CPU gives the same axes on every device
    values, vectors = torch.linalg.eigh(covariance)
    values, axes = values.flip(0)[:rows], vectors.flip(1)[:, :rows].T
    if not values.sum() > 0:
        raise ValueError(f"{level}: the calibration batch's teacher features are constant (or NaN); run `sward verify`")
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    axes = axes * largest.sign() * torch.sqrt(rows / values.sum())
    return F.pad(axes, (0, 0, 0, rows - len(axes))).to(f_nC.device, f_nC.dtype)


def fit_gain(scores_nTT: Tensor, entropy: float, level: str) -> float:
    """Finds the factor g on Q and on K that gives the attention a mean normalised entropy of ``entropy``.

    Scores grow by g squared. The search is a bisection over g in [1e-3, 1e3].

    Args:
        scores_nTT: attention scores of n windows at g = 1.
        entropy: target, as a share of the maximum entropy.
        level: teacher level, for the message.

    Raises:
        ValueError: no g in that range reaches the target (e.g. constant features).
    """

    def reached(exponent: float) -> float:
        return float(normalised_entropy((scores_nTT * 10 ** (2 * exponent)).log_softmax(-1)))

    low, high = -3.0, 3.0
    if not reached(low) > entropy > reached(high):
        raise ValueError(
            f"{level}: no gain gives a normalised entropy of {entropy} (the calibration batch allows "
            f"{reached(high):.3f} to {reached(low):.3f}); set mwad.gain to a number, or mwad.entropy within this range"
        )
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if reached(middle) > entropy else (low, middle)
    return float(10**low)


def _initialise(conv: nn.Conv2d, how: str, blocks: int, seed: int, level: str, name: str) -> None:
    """Draws a convolution's initial values on the CPU: orthogonal blocks with zero bias, or PyTorch's default.

    The seed is derived from ``level`` and ``name``: renaming a level or a layer changes its initial weights.
    """
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
