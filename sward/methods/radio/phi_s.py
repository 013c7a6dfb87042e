"""PHI-S: one rotation and one scale after which every channel of the teacher's map has variance 1.

The covariance of a level's cells over the training records decides both. It is counted in one pass over the store,
in float64 and in store order, never taken from a batch.
"""

# C channels, n cells

import torch
from torch import Tensor

from sward.contracts import Batch, FeaturePass
from sward.methods.radio.hadamard import hadamard


class PhiS(FeaturePass):
    """Counts mean and covariance of a teacher level and fits the transform to them.

    ``result``: ``mean`` (C,), ``covariance`` (C, C) with denominator n - 1, ``transform`` (C, C), all float64.
    """

    count: Tensor
    sums: Tensor
    products: Tensor

    def __init__(self, level: str, channels: int) -> None:
        super().__init__()
        self.level, self.needs = level, (level,)
        self.key = {"kind": "radio", "statistic": "phi_s", "level": level, "channels": channels}
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("sums", torch.zeros(channels, dtype=torch.float64))
        self.register_buffer("products", torch.zeros(channels, channels, dtype=torch.float64))

    def add(self, batch: Batch) -> None:
        for f_CHW in batch.features[self.level]:  # record by record: the batch's size changes no bit
            x_Cn = f_CHW.detach().double().flatten(1)
            self.count += x_Cn.shape[1]
            self.sums += x_Cn.sum(1)
            self.products += x_Cn @ x_Cn.mT

    def result(self) -> dict[str, Tensor]:
        n, sums, products = int(self.count), self.sums.cpu(), self.products.cpu()
        if n < 2:
            raise ValueError(f"PHI-S: found {n} cells of {self.level}; a covariance needs two or more")
        mean = sums / n
        covariance = (products - n * torch.outer(mean, mean)) / (n - 1)
        return {"mean": mean, "covariance": covariance, "transform": transform(covariance, self.level)}


def transform(covariance_CC: Tensor, level: str = "the level") -> Tensor:
    """T (C, C) = (1 / a) H U^T of Sigma = U diag(e) U^T, a = sqrt(mean e): T Sigma T^T has the diagonal 1.

    Negative e count as 0. Of every eigenvector the component of largest magnitude (the first of equals) is positive. H
    is ``hadamard(C)`` / sqrt(C). The way back, x = mean + a U H^T x', is by the inverse of T.

    Raises:
        ValueError: no Hadamard matrix of order C, or a constant map (a = 0).
    """
    C = len(covariance_CC)
    H = require_hadamard(C, level)
    e, U = torch.linalg.eigh(covariance_CC.double())
    a = e.clamp_min(0).mean().sqrt()
    if not a > 0:
        raise ValueError(f"PHI-S: found the same vector in all cells of {level}; a constant teacher teaches nothing")
    largest = U.gather(0, U.abs().argmax(0, keepdim=True))
    return H @ (U * largest.sign()).mT / a


def require_hadamard(channels: int, level: str) -> Tensor:
    """``hadamard(channels)`` / sqrt(channels), which is orthogonal. Raises ValueError where none is known."""
    H = hadamard(channels)
    if H is None:
        raise ValueError(
            f"target phi_s: found {channels} channels of {level}, for which no Hadamard matrix is known; expected 1, 2"
            " or a multiple of 4 such as 96, 112, 144 or 256: set target: channel, or another level"
        )
    return H / channels**0.5
