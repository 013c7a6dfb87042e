"""CanKD: adds to the student's map what it finds in the teacher's by cross-attention, and compares the sum with the
teacher.
"""

# B batch, C channels of the teacher, d = C // 2, n positions of the map, m positions after pooling

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sward.contracts import Batch, Channels
from sward.methods.base import BatchNorm, FeatureConfig, FeatureMethod, apply, conv, initialise, tensors


class CanKDConfig(FeatureConfig):
    """Weight of the distance, and pooling of keys and values."""

    kind: Literal["cankd"] = Field(default="cankd", description="Cross-attention (non-local) distillation.")
    weight: float = Field(default=10.0, gt=0, description="Weight (code: 10, which is the paper's mu of 5).")
    subsample: bool = Field(
        default=True, description="Keys and values after 2x2 max pooling (code: always), a quarter of the memory."
    )

    def build(self, teacher: Channels, student: Channels, num_classes: int, penultimate: int) -> "CanKD":
        """The method for this teacher and student. Raises ValueError where the level is missing."""
        return CanKD(self, teacher, tensors(student, num_classes, penultimate))


class CanKD(FeatureMethod):
    """Lets every position of the student gather from all positions of the teacher, then compares the maps.

    z_s = BN(out(A g)) + y_s with y_s = align(f_s) and A = theta(y_s) phi(f_t)^T / m: divided by the number of keys m,
    without softmax and sqrt(d). BN starts at zero, so at first z_s = y_s. phi and g see the teacher's map, but the
    target itself is untouched, so it cannot collapse.

    Terms:
        cross: mean of (IN(z_s) - IN(f_t))^2 / 2, IN instance normalisation without affine map, eps 1e-5.
    Paper and code:
        WACV 2026. tori-hotaru/CanKD f951e3a (Apache-2.0), formula checked there; written anew.
    Differences:
        The factor 1/2 and the pooling, always on in the code, are the code's; ``subsample: false`` leaves pooling out.
        The paper's other affinities are separate classes there and absent here. The code requires equal sizes, except
        in its "align" variant, which resizes as here.
    Reads:
        One teacher level of at least 2 x 2 positions. The student is resized bilinearly to its grid. Memory: B n m
        numbers for A, n = H W of the teacher's grid, m = floor(H / 2) floor(W / 2), or n without ``subsample``.
    Random draws:
        None.
    Parameters and buffers:
        ``weight`` and ``bias`` each, with C = C_t, d = max(1, C // 2): ``align`` (C, C_s, 1, 1); ``theta``, ``phi``,
        ``g`` (d, C, 1, 1); ``out`` (C, d, 1, 1); ``norm`` (C,), which uses the batch's statistics alone
        (``BatchNorm``): about 2 C^2 in all. No buffers.

    Raises:
        ValueError: at a call with a smaller map.
    """

    per_sample = True

    def __init__(self, config: CanKDConfig, teacher_channels: dict[str, int], student_channels: dict[str, int]) -> None:
        super().__init__(config, teacher_channels, student_channels)
        self.config = config
        C = self.teacher_channels
        d = max(1, C // 2)
        self.align = conv(self.student_channels, C)
        self.theta, self.phi, self.g = conv(C, d), conv(C, d), conv(C, d)
        self.out = conv(d, C)
        self.norm = BatchNorm(C, zero=True)
        self.weights |= {"cross": config.weight}
        initialise(self, seed=0)

    def terms(self, f_s: Tensor, f_t: Tensor, batch: Batch, step: int) -> dict[str, Tensor]:
        H, W = f_t.shape[-2:]
        if min(H, W) < 2:
            raise ValueError(f"cankd needs maps of 2 x 2 or more; {self.teacher_level} is {H} x {W}: use a finer level")
        z_s = self.attended(apply(self.align, f_s), f_t)
        return {"cross": (F.instance_norm(z_s) - F.instance_norm(f_t)).square().mean() / 2}

    def attended(self, y_s: Tensor, f_t: Tensor) -> Tensor:
        """z_s, (B, C, H, W), from the aligned student and the teacher."""
        theta_Bdn = apply(self.theta, y_s).flatten(2)
        phi_Bdm, g_Bdm = (self._pool(apply(layer, f_t)).flatten(2) for layer in (self.phi, self.g))
        A_Bnm = theta_Bdn.mT @ phi_Bdm / phi_Bdm.shape[-1]
        found = (g_Bdm @ A_Bnm.mT).view(len(y_s), -1, *y_s.shape[-2:])
        return self.norm(apply(self.out, found)) + y_s

    def _pool(self, f: Tensor) -> Tensor:
        return torch.max_pool2d(f, 2) if self.config.subsample else f
