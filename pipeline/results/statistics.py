"""Statistics of paired differences: clustered intervals, Holm's correction, equivalence, ranks, power.

The unit is a difference d[s, i] of two rows' metric on image i under seed s. Differences of one sequence resemble each
other, and so do those of one pair of training runs (a fold and a seed), so the variance of their mean is clustered both
ways: V = V(sequences) + V(runs) - V(sequences within runs) (Cameron, Gelbach and Miller, JBES 2011).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean and how far it can be trusted.

    Attributes:
        mean: mean difference.
        se: standard error of the mean, clustered both ways.
        df: degrees of freedom of Student's t, the smaller number of clusters less one.
        se_runs: the part of ``se`` that more seeds make smaller, from clusters of training runs.
    """

    mean: float
    se: float
    df: int
    se_runs: float

    @property
    def p(self) -> float:
        """Two-sided p-value of "no difference"."""
        from scipy.stats import t

        return float(2 * t.sf(abs(self.mean) / self.se, self.df)) if self.se > 0 else float(self.mean == 0)

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """(low, high) that holds the mean with probability ``level``."""
        from scipy.stats import t

        half = float(t.ppf((1 + level) / 2, self.df)) * self.se
        return self.mean - half, self.mean + half

    def within(self, margin: float) -> bool:
        """Whether two one-sided tests at 5 % both refuse a difference of ``margin`` or more: equivalence."""
        low, high = self.interval(0.90)
        return -margin < low and high < margin

    def detectable(self, power: float = 0.8) -> float:
        """Smallest true difference that a two-sided 5 % test would find with probability ``power``."""
        from scipy.stats import t

        return float((t.ppf(0.975, self.df) + t.ppf(power, self.df)) * self.se)

    def with_seeds(self, now: int, wanted: int) -> "Estimate":
        """The estimate that ``wanted`` seeds would give, were their noise as it was in the ``now`` seeds seen."""
        runs = self.se_runs**2
        se = math.sqrt(max(self.se**2 - runs, 0) + runs * now / wanted)
        return Estimate(self.mean, se, self.df, self.se_runs * math.sqrt(now / wanted))


def clustered(values: Sequence[float], sequences: Sequence[str], runs: Sequence[str]) -> Estimate | None:
    """Mean of ``values`` with a standard error clustered by sequence and by training run; None below two of either.

    With the small-sample factor G / (G - 1) of each way. Where the two-way variance is not larger than both one-way
    variances it is replaced by the larger of them.

    Args:
        values: one difference for each (seed, image).
        sequences: cluster of each value, e.g. the video of its image.
        runs: cluster of each value, the training run that gave it.
    """
    d = np.asarray(values, dtype=float)
    a, b = (np.unique(np.asarray(names), return_inverse=True)[1] for names in (sequences, runs))
    counts = int(a.max()) + 1, int(b.max()) + 1
    if min(counts) < 2:
        return None
    both = np.unique(a * counts[1] + b, return_inverse=True)[1]
    one, other, joint = (_variance(d, groups) for groups in (a, b, both))
    variance = max(one + other - joint, one, other)
    return Estimate(float(d.mean()), math.sqrt(variance), min(counts) - 1, math.sqrt(min(other, variance)))


def _variance(d: np.ndarray, groups: np.ndarray) -> float:
    """One-way cluster-robust variance of the mean."""
    count = int(groups.max()) + 1
    sums = np.bincount(groups, d - d.mean(), minlength=count)
    return float((sums**2).sum() / len(d) ** 2 * count / (count - 1)) if count > 1 else 0.0


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979), in the given order; each in [0, 1]."""
    order = np.argsort(p_values, kind="stable")
    steps = np.array([p_values[i] for i in order]) * (len(p_values) - np.arange(len(p_values)))
    corrected = np.minimum(np.maximum.accumulate(steps), 1.0) if len(steps) else steps
    found = np.empty(len(p_values))
    found[order] = corrected
    return [float(p) for p in found]


@dataclass(frozen=True)
class Ranking:
    """Friedman's test of rows over blocks, and Nemenyi's critical difference of mean ranks (Demsar, JMLR 2006).

    Attributes:
        ranks: mean rank of each row over the blocks, 1 is best.
        p: Friedman's p-value of "all rows rank alike".
        critical: rows whose mean ranks differ by less are not distinguishable at 5 %.
        blocks: number of blocks.
    """

    ranks: list[float]
    p: float
    critical: float
    blocks: int


def ranking(table: np.ndarray) -> Ranking | None:
    """Ranks of rows by their values in blocks; None below three rows or two blocks.

    Args:
        table: (rows, blocks), higher is better, e.g. a row's mean Dice on a sequence.
    """
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    k, n = table.shape
    if k < 3 or n < 2:
        return None
    ranks = np.apply_along_axis(rankdata, 0, -table).mean(1)
    critical = float(studentized_range.ppf(LEVEL, k, np.inf)) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n))
    return Ranking([float(r) for r in ranks], float(friedmanchisquare(*table).pvalue), critical, n)
