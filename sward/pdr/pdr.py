"""Prototype Discriminative Regularization (PDR), paper Sec. 3.2, Eq. 16-18.

The labels group the student's pixel features of one batch by class. Separation penalises pairs of class means that
are closer than a margin. Compactness penalises the variance of the features within each class.

    mu_k = mean of the n_k features of class k; K classes are present
    separation (Eq. 16) = mean over pairs i < j of max(0, m - |mu_i - mu_j|)
    tr(Sigma_k) (Eq. 17) = sum over the features f of class k of |f - mu_k|^2 / (n_k - 1)
    compactness (Eq. 18) = mean over classes of two or more pixels of tr(Sigma_k)

All statistics are those of the step's batch (of all processes that share it); earlier batches are not remembered. The
objective applies the weights lambda_1 and lambda_2 of Eq. 19.

    pdr = PDR(PDRConfig(), num_classes=2)
    terms = pdr(student_features, labels)  # {"separation": ..., "compactness": ...}
"""

# B batch, C channels, H W of the features, h w of the labels, n pixels, K classes

import math
from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sward.align import labels_on_grid
from sward.contracts import IGNORE
from sward.distributed.collectives import sum_over_ranks
from sward.pdr.class_sums import UnitSums
from sward.presets import PresetConfig


class PDRConfig(PresetConfig):
    """Settings of PDR. Letters from (N) on mark choices that the paper leaves open, as in MWADConfig."""

    paper: ClassVar[dict[str, Any]] = {"normalise": False}

    margin: float = Field(default=1.3, gt=0, description="Margin m of Eq. 16: closer class means are penalised.")
    features: str = Field(
        default="deepest",
        pattern=r"^(deepest|penultimate|s\d+)$",
        description="(N) Student features that are regularised: the deepest encoder level, the classifier's input "
        "(penultimate), or a named level (s16 works better than s32 for small images).",
    )
    normalise: bool = Field(
        default=True,
        description="(O) Scale each pixel's vector to length 1; otherwise margin and term sizes depend on C.",
    )
    label_grid: Literal["nearest", "pure"] = Field(
        default="nearest",
        description="(R) Labels on the features' grid: nearest pixel, or pure (mixed cells are ignored).",
    )
    eps: float = Field(default=1e-12, gt=0, le=1e-6, description="(S) Lower bound of squared distances under the root.")


class PDR(nn.Module):
    """Separation (Eq. 16) and compactness (Eq. 18) of the classes present in a batch; has no parameters.

    Ignored pixels are left out. K is the number of classes present; separation is 0 for fewer than two. A class of
    one pixel has a mean but no variance, so it takes part in separation only. Compactness is 0 if no class has two
    pixels.

    Args:
        config: settings of PDR.
        num_classes: upper bound (exclusive) of the labels. None determines it from each batch, which waits for the
            device.
    """

    def __init__(self, config: PDRConfig | None = None, num_classes: int | None = None) -> None:
        super().__init__()
        self.config = config or PDRConfig()
        self.num_classes = num_classes

    def forward(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Computes the two terms of one batch.

        Args:
            features: (B, C, H, W) student features, any floating type.
            labels: (B, h, w) int64 in [0, num_classes) or ``IGNORE``, on any grid.

        Returns:
            Unweighted scalars ``separation`` (in [0, margin]) and ``compactness`` (>= 0), float32 or wider.

        Raises:
            ValueError: the labels are of another number of images, or (on the CPU) outside their range. On other
                devices labels outside make the terms NaN, because an error would wait for the device in each step.
        """
        if len(labels) != len(features) or labels.ndim != 3:
            raise ValueError(
                f"found labels {tuple(labels.shape)} for features {tuple(features.shape)}, expected (B, h, w) for "
                "(B, C, H, W): pass the labels of the same images"
            )
        size = (features.shape[-2], features.shape[-1])
        y = labels if labels.shape[1:] == size else labels_on_grid(labels, size, self.config.label_grid == "pure")
        K = self.num_classes or int(torch.where(y == IGNORE, 0, y).max()) + 1
        outside = self._outside(labels)
        if outside is not None:
            y = torch.where((y < 0) | (y >= K), IGNORE, y)
        with torch.autocast(features.device.type, enabled=False):
            geometry = fused_geometry if self.config.normalise else partial(plain_geometry, normalise=False)
            terms = geometry(features, y, K, self.config.margin, self.config.eps)
        if outside is None:
            return terms
        return {name: torch.where(outside.any(), math.nan, term) for name, term in terms.items()}

    def _outside(self, labels: Tensor) -> Tensor | None:
        """Finds labels that are no class: (B, h, w) bool; on the CPU, where looking is cheap, raises ValueError."""
        limit = self.num_classes or torch.iinfo(torch.int64).max
        on_cpu = labels.device.type == "cpu"
        if on_cpu and labels.numel():
            lowest, highest = labels.aminmax()  # one pass settles it where no pixel is ignored
            if lowest >= 0 and highest < limit:
                return None
        outside = (labels != IGNORE) & ((labels < 0) | (labels >= limit))
        if on_cpu and outside.any():
            raise ValueError(
                f"found the labels {labels[outside].unique().tolist()[:5]}, expected classes from 0 on, below "
                f"num_classes ({self.num_classes}), or {IGNORE} (ignored): correct the labels or num_classes"
            )
        return None if on_cpu else outside


def plain_geometry(
    f_BCHW: Tensor, y_BHW: Tensor, K: int, margin: float, eps: float, normalise: bool = True
) -> dict[str, Tensor]:
    """Computes Eq. 16-18 directly from the vectors of all pixels."""
    f_nC = f_BCHW.movedim(1, -1).flatten(0, 2)
    f_nC = f_nC.to(torch.promote_types(f_nC.dtype, torch.float32))
    f_nC = F.normalize(f_nC, dim=-1) if normalise else f_nC
    return class_geometry(f_nC, one_hot(y_BHW, K).to(f_nC.dtype), margin, eps)


def fused_geometry(f_BCHW: Tensor, y_BHW: Tensor, K: int, margin: float, eps: float) -> dict[str, Tensor]:
    """Computes ``plain_geometry`` with ``normalise=True`` from the class sums of unit vectors alone.

    In float32 the absolute error of the compactness is about 1e-6 (squared lengths are 1). Its gradient does not have
    this limit.
    """
    sum_KC, count_K, square_K = map(sum_over_ranks, UnitSums.apply(f_BCHW, y_BHW, K))
    mu_KC = sum_KC / count_K.clamp_min(1)[:, None]
    scatter_K = (square_K - count_K * mu_KC.square().sum(-1)).clamp_min(0)
    return _terms(mu_KC, scatter_K, count_K, margin, eps)


def one_hot(y: Tensor, K: int) -> Tensor:
    """Encodes labels of any shape, n in all, as (n, K) int64; rows of ignored pixels are all zero."""
    return F.one_hot(torch.where(y == IGNORE, K, y).flatten(), K + 1)[:, :K]


def class_geometry(f_nC: Tensor, member_nK: Tensor, margin: float, eps: float) -> dict[str, Tensor]:
    """Computes Eq. 16 and 18 from pixel vectors and their one-hot classes.

    Class sums are matrix products, so that they are summed in a fixed order.
    """
    count_K = sum_over_ranks(member_nK.sum(0))
    mu_KC = sum_over_ranks(member_nK.T @ f_nC) / count_K.clamp_min(1)[:, None]
    square_n = (f_nC - member_nK @ mu_KC).square().sum(-1)  # Eq. 17 in two passes: first means, then deviations
    return _terms(mu_KC, sum_over_ranks(member_nK.T @ square_n), count_K, margin, eps)


def _terms(mu_KC: Tensor, scatter_K: Tensor, count_K: Tensor, margin: float, eps: float) -> dict[str, Tensor]:
    """Computes both terms from class means, ``scatter_K`` (summed squared distances to the mean) and pixel counts."""
    i, j = torch.triu_indices(len(count_K), len(count_K), 1, device=mu_KC.device)
    present_P = (count_K[i] > 0) & (count_K[j] > 0)
    distance_P = (mu_KC[i] - mu_KC[j]).square().sum(-1).clamp_min(eps).sqrt()
    return {
        "separation": _mean_where(F.relu(margin - distance_P), present_P),
        "compactness": _mean_where(scatter_K / (count_K - 1).clamp_min(1), count_K > 1),
    }


def _mean_where(x: Tensor, counted: Tensor) -> Tensor:
    return torch.where(counted, x, 0.0).sum() / counted.sum().clamp_min(1)
