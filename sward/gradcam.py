"""Grad-CAM (Selvaraju et al., ICCV 2017) of a segmentation student: shows which cells raise a class's score.

A segmentation network has one score per pixel. Following Seg-Grad-CAM (Vinogradova et al., AAAI 2020), the scores of
the pixels predicted as the class are summed. The map has the resolution of the chosen level: one value per cell.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sward.contracts import Student

EPS = 1e-12


def grad_cam(student: Student, inputs: Tensor | dict[str, Tensor], target: int, level: str) -> Tensor:
    """Computes the class activation map of a level's features, in [0, 1]; all 0 if no cell raises the score.

    Args:
        student: network in evaluation mode.
        inputs: the student's input: normalised images (B, 3, H, W), or level -> (B, C, h, w).
        target: index of the class whose score is explained.
        level: name of a level in ``student.channels``.

    Returns:
        (B, h, w) float32 on the level's grid, each map divided by its own maximum.
    """
    with torch.enable_grad():
        output = student(inputs)
        f_BCHW = output.features[level]
        (g_BCHW,) = torch.autograd.grad(class_score(output.logits, target), f_BCHW)
    weights_BC11 = g_BCHW.mean((2, 3), keepdim=True)
    cam_BHW = F.relu((weights_BC11 * f_BCHW).sum(1)).detach().float()
    return cam_BHW / cam_BHW.amax((1, 2), keepdim=True).clamp_min(EPS)


def class_score(z_BKHW: Tensor, target: int) -> Tensor:
    """Sums a class's logits over the pixels predicted as that class; over all pixels if an image has none."""
    found_BHW = z_BKHW.argmax(1) == target
    counted_BHW = found_BHW | ~found_BHW.flatten(1).any(1)[:, None, None]
    return (z_BKHW[:, target] * counted_BHW).sum()
