"""Prototype Discriminative Regularization (PDR), paper Sec. 3.2, Eq. 16-18.

Class means of the student's features are pushed at least a margin apart, and each class is pulled together.
Statistics are those of the step's batch (of all processes that share it); there is no memory of earlier batches. The
weights lambda_1 and lambda_2 of Eq. 19 belong to the objective.

    pdr = PDR(PDRConfig(), num_classes=2)
    terms = pdr(student_features, labels)  # {"separation": ..., "compactness": ...}
"""

# B batch, C channels, H W of the features, h w of the labels, n pixels, K classes

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sward.align import labels_on_grid
from sward.contracts import IGNORE
from sward.distributed.collectives import sum_over_ranks
from sward.pdr_sums import UnitSums
from sward.presets import PresetConfig


class PDRConfig(PresetConfig):
    """Switches of PDR; letters as in MWADConfig's, for what the paper leaves open."""

    paper: ClassVar[dict[str, Any]] = {"normalise": False}

    margin: float = Field(default=1.3, gt=0, description="m of Eq. 16, a distance between class means.")
    features: str = Field(
        default="deepest",
        pattern=r"^(deepest|penultimate|s\d+)$",
        description="(N) Student features: the deepest encoder level, the classifier's input, or a level "
        "(s16: better than s32 for small images).",
    )
    normalise: bool = Field(
        default=True,
        description="(O) Scale each pixel's vector to length 1; else margin and scale depend on C.",
    )
    label_grid: Literal["nearest", "pure"] = Field(
        default="nearest", description="(R) Labels on the features' grid: nearest, or only cells of one label."
    )
    eps: float = Field(default=1e-12, gt=0, le=1e-6, description="(S) Lower bound of squared distances under the root.")


class PDR(nn.Module):
    """Separation (Eq. 16) and compactness (Eq. 18) of the classes present in a batch; no parameters.

    Ignored pixels count nowhere. K is the number of classes present; separation is 0 for fewer than two. A
    class of one pixel has a mean but no variance: it takes part in separation only (with none left,
    compactness is 0).

    Args:
        config: the switches.
        num_classes: labels are below this; None reads it off each batch, at the price of waiting for the
        device.
    """

    def __init__(self, config: PDRConfig | None = None, num_classes: int | None = None) -> None:
        super().__init__()
        self.config = config or PDRConfig()
        self.num_classes = num_classes

    def forward(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Unweighted scalars ``separation`` and ``compactness``, float32 or wider.

        Args:
            features: (B, C, H, W) of the student.
            labels: (B, h, w) int64 in [0, num_classes) or ``IGNORE``, on any grid.
        """
        size = (features.shape[-2], features.shape[-1])
        y = labels if labels.shape[1:] == size else labels_on_grid(labels, size, self.config.label_grid == "pure")
        K = self.num_classes or int(torch.where(y == IGNORE, 0, y).max()) + 1
        with torch.autocast(features.device.type, enabled=False):
            if self.config.normalise:
                return fused_geometry(features, y, K, self.config.margin, self.config.eps)
            return plain_geometry(features, y, K, self.config.margin, self.config.eps, normalise=False)


def plain_geometry(
    f_BCHW: Tensor, y_BHW: Tensor, K: int, margin: float, eps: float, normalise: bool = True
) -> dict[str, Tensor]:
    """Eq. 16 to 18 pixel vector by pixel vector."""
    f_nC = f_BCHW.movedim(1, -1).flatten(0, 2)
    f_nC = f_nC.to(torch.promote_types(f_nC.dtype, torch.float32))
    f_nC = F.normalize(f_nC, dim=-1) if normalise else f_nC
    return class_geometry(f_nC, one_hot(y_BHW, K).to(f_nC.dtype), margin, eps)


def fused_geometry(f_BCHW: Tensor, y_BHW: Tensor, K: int, margin: float, eps: float) -> dict[str, Tensor]:
    """The same with ``normalise``, from the class sums of unit vectors alone.

    In float32 the compactness is exact to about 1e-6 of the squared length, 1; its gradient has no such limit.
    """
    sum_KC, count_K, square_K = map(sum_over_ranks, UnitSums.apply(f_BCHW, y_BHW, K))
    mu_KC = sum_KC / count_K.clamp_min(1)[:, None]
    scatter_K = (square_K - count_K * mu_KC.square().sum(-1)).clamp_min(0)
    return _terms(mu_KC, scatter_K, count_K, margin, eps)


def one_hot(y: Tensor, K: int) -> Tensor:
    """(n, K) for any shape of n labels; all zero for ignored pixels."""
    return F.one_hot(torch.where(y == IGNORE, K, y).flatten(), K + 1)[:, :K]


def class_geometry(f_nC: Tensor, member_nK: Tensor, margin: float, eps: float) -> dict[str, Tensor]:
    """Eq. 16 and 18 from pixel vectors and their one-hot classes (sums by matmul: in a fixed order)."""
    count_K = sum_over_ranks(member_nK.sum(0))
    mu_KC = sum_over_ranks(member_nK.T @ f_nC) / count_K.clamp_min(1)[:, None]
    square_n = (f_nC - member_nK @ mu_KC).square().sum(-1)
    return _terms(mu_KC, sum_over_ranks(member_nK.T @ square_n), count_K, margin, eps)  # Eq. 17, two passes


def _terms(mu_KC: Tensor, scatter_K: Tensor, count_K: Tensor, margin: float, eps: float) -> dict[str, Tensor]:
    """``scatter_K``: summed squared distances to the class means."""
    i, j = torch.triu_indices(len(count_K), len(count_K), 1, device=mu_KC.device)
    present_P = (count_K[i] > 0) & (count_K[j] > 0)
    distance_P = (mu_KC[i] - mu_KC[j]).square().sum(-1).clamp_min(eps).sqrt()
    return {
        "separation": _mean_where(F.relu(margin - distance_P), present_P),
        "compactness": _mean_where(scatter_K / (count_K - 1).clamp_min(1), count_K > 1),
    }


def _mean_where(x: Tensor, counted: Tensor) -> Tensor:
    return torch.where(counted, x, 0.0).sum() / counted.sum().clamp_min(1)
