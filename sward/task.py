"""Task loss of a segmentation student: cross-entropy, Dice and focal terms of one weighted sum.

All three ignore label 255 and are those of the whole batch, also where processes share it. Dice and focal equal
segmentation-models-pytorch's ``DiceLoss(mode="multiclass")`` and ``FocalLoss(mode="multiclass")``.
"""

# B batch, K classes, h w of the logits, H W of the labels

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from sward.contracts import IGNORE, Config
from sward.distributed.collectives import sum_over_ranks


class TaskConfig(Config):
    """Weights of the terms of the task loss."""

    ce: float = Field(1.0, ge=0, description="Weight of the cross-entropy.")
    dice: float = Field(0.0, ge=0, description="Weight of the soft Dice loss, mean over the classes of the batch.")
    focal: float = Field(0.0, ge=0, description="Weight of the focal loss (Lin et al., ICCV 2017).")
    gamma: float = Field(2.0, ge=0, description="Exponent of the focal loss.")
    class_weights: tuple[float, ...] | None = Field(
        None, description="Weight of each class in the cross-entropy, in the card's order; null: all 1."
    )

    @model_validator(mode="after")
    def _something_is_learned(self) -> "TaskConfig":
        if self.ce + self.dice + self.focal == 0:
            raise ValueError("ce, dice and focal are all 0: the student would learn no task; give one of them a weight")
        if self.class_weights and (min(self.class_weights) < 0 or sum(self.class_weights) == 0):
            raise ValueError(f"class_weights are {self.class_weights}; expected weights >= 0, not all of them 0")
        return self


def task_loss(config: TaskConfig, logits: Tensor, labels: Tensor) -> Tensor:
    """Weighted sum of the terms, scalar in float32 or wider; 0 where every pixel is ignored.

    Args:
        config: weights.
        logits: (B, K, h, w), upsampled bilinearly to the labels' size (corners not aligned; CIRKD's code aligns them).
        labels: (B, H, W) int64, ``IGNORE`` where no pixel counts.

    Raises:
        ValueError: the class weights are not one for each class.
    """
    logits = at_labels_size(logits, labels)
    terms = {"ce": lambda: cross_entropy(logits, labels, config.class_weights)}
    terms |= {"dice": lambda: dice(logits, labels), "focal": lambda: focal(logits, labels, config.gamma)}
    parts = [weight * term() for name, term in terms.items() if (weight := getattr(config, name))]
    return torch.stack(parts).sum() if len(parts) > 1 else parts[0]


def at_labels_size(logits: Tensor, labels: Tensor) -> Tensor:
    """(B, K, H, W) in float32 or wider."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if logits.shape[-2:] == labels.shape[-2:]:
        return logits
    return F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)


def cross_entropy(logits: Tensor, labels: Tensor, class_weights: tuple[float, ...] | None = None) -> Tensor:
    """Mean cross-entropy over the pixels that are not ``IGNORE``, weighted by class as torch does; 0 where all are.

    Args:
        logits: (B, K, h, w), of any size.
        labels: (B, H, W) int64.
        class_weights: one for each class; None: all 1.
    """
    logits = at_labels_size(logits, labels)
    if class_weights is None:
        total = pixel_cross_entropy(logits, labels, reduction="sum")
        return sum_over_ranks(total) / sum_over_ranks((labels != IGNORE).sum()).clamp_min(1)
    if len(class_weights) != logits.shape[1]:
        raise ValueError(
            f"task.class_weights has {len(class_weights)} weights, found {logits.shape[1]} classes; give one each"
        )
    weight_K = logits.new_tensor(class_weights)
    total = pixel_cross_entropy(logits, labels, weight_K, "sum")
    mass = weight_K[labels[labels != IGNORE]].sum()
    return sum_over_ranks(total) / sum_over_ranks(mass).clamp_min(torch.finfo(weight_K.dtype).tiny)


def pixel_cross_entropy(
    logits: Tensor, labels: Tensor, weight_K: Tensor | None = None, reduction: Literal["sum", "none"] = "none"
) -> Tensor:
    """Cross-entropy of every pixel, (B, H, W) or (n,), 0 where the label is ``IGNORE``; or its sum.

    With torch's deterministic algorithms the label's log probability is selected by comparison, because torch's own
    loss has no repeatable kernel on CUDA.

    Args:
        logits: (B, K, H, W) or (n, K).
        labels: (B, H, W) or (n,) int64.
        weight_K: weight of each class; None: all 1.
        reduction: 'none' or 'sum'.
    """
    if not torch.are_deterministic_algorithms_enabled():
        return F.cross_entropy(logits, labels, weight_K, ignore_index=IGNORE, reduction=reduction)
    classes = torch.arange(logits.shape[1], device=logits.device).view(-1, *[1] * (labels.ndim - 1))
    loss = -logits.log_softmax(1)
    if weight_K is not None:
        loss = loss * weight_K.view(classes.shape)
    chosen = torch.where(labels.unsqueeze(1) == classes, loss, 0.0)
    return chosen.sum() if reduction == "sum" else chosen.sum(1)


def dice(logits: Tensor, labels: Tensor, eps: float = 1e-7) -> Tensor:
    """Mean over classes of 1 - 2 sum(p y) / (sum(p) + sum(y)), sums over the batch's counted pixels; in [0, 1].

    A class that no label of the batch has counts 0, as in segmentation-models-pytorch.

    Args:
        logits: (B, K, H, W) at the labels' size.
        labels: (B, H, W) int64.
        eps: lower bound of the denominator.
    """
    counted = (labels != IGNORE)[:, None]
    p = logits.softmax(1) * counted
    y = F.one_hot(labels.where(counted[:, 0], 0), logits.shape[1]).movedim(-1, 1).to(p.dtype) * counted
    hits_K, mass_K, truth_K = ((p * y).sum((0, 2, 3)), (p + y).sum((0, 2, 3)), y.sum((0, 2, 3)))
    hits_K, mass_K, truth_K = sum_over_ranks(torch.stack([hits_K, mass_K, truth_K])).unbind()
    return ((1 - 2 * hits_K / mass_K.clamp_min(eps)) * (truth_K > 0)).mean()


def focal(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Mean over counted pixels and classes of (1 - p_t)^gamma BCE, one-against-all on sigmoid scores.

    Args:
        logits: (B, K, H, W) at the labels' size.
        labels: (B, H, W) int64.
        gamma: exponent; 0 is binary cross-entropy.
    """
    counted = labels != IGNORE
    y = F.one_hot(labels.where(counted, 0), logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    bce = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
    per_pixel = ((1 - torch.exp(-bce)) ** gamma * bce).sum(1)
    return sum_over_ranks((per_pixel * counted).sum()) / sum_over_ranks(counted.sum()).clamp_min(1)
