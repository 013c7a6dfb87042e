"""Intervals, corrections and ranks agree with statsmodels and scipy, and mean what they say."""

import numpy as np
import pytest
from scipy.stats import friedmanchisquare

from pipeline.results.statistics import Estimate, clustered, holm, ranking


def example(seed=0, sequences=12, seeds=2, folds=3):
    """Differences with an effect of a sequence and one of a training run."""
    rng = np.random.default_rng(seed)
    values, groups, runs = [], [], []
    of_sequence, of_run = rng.normal(0, 2, sequences), rng.normal(0, 1, (seeds, folds))
    for s in range(seeds):
        for g in range(sequences):
            for _ in range(int(rng.integers(2, 9))):
                values.append(1 + of_sequence[g] + of_run[s, g % folds] + rng.normal())
                groups.append(f"q{g}")
                runs.append(f"{s}/{g % folds}")
    return np.array(values), groups, runs


def variance(values, groups):
    """Variance of the mean, clustered by ``groups`` (one or two columns), by statsmodels; no small-sample factor."""
    import statsmodels.api as sm

    settings = {"groups": groups, "use_correction": False}
    return sm.OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds=settings).bse[0] ** 2


@pytest.mark.parametrize("seed", range(4))
def test_the_standard_error_is_that_of_statsmodels(seed):
    values, groups, runs = example(seed)
    a, b = (np.unique(names, return_inverse=True)[1] for names in (groups, runs))
    both = np.unique(1000 * a + b, return_inverse=True)[1]
    ways = [(variance(values, codes), int(codes.max()) + 1) for codes in (a, b, both)]
    two_way = variance(values, np.stack([a, b], axis=1))
    assert two_way == pytest.approx(ways[0][0] + ways[1][0] - ways[2][0], rel=1e-9)
    one, other, joint = (v * n / (n - 1) for v, n in ways)
    found = clustered(values, groups, runs)
    assert found.mean == pytest.approx(values.mean(), rel=1e-12)
    assert found.se**2 == pytest.approx(max(one + other - joint, one, other), rel=1e-9)
    assert found.df == 5


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    held = 0
    for seed in range(200):
        low, high = clustered(*example(seed)).interval()
        held += low <= 1 <= high
    assert held >= 170


def test_p_and_interval_agree():
    estimate = clustered(*example(1))
    low, high = estimate.interval()
    assert (estimate.p < 0.05) == (low > 0 or high < 0)


def test_one_sequence_or_one_run_allows_no_interval():
    assert clustered([1.0, 2.0], ["a", "a"], ["0", "1"]) is None
    assert clustered([1.0, 2.0], ["a", "b"], ["0", "0"]) is None


def test_holm_is_that_of_statsmodels():
    from statsmodels.stats.multitest import multipletests

    p = [0.01, 0.04, 0.03, 0.5, 0.005]
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1], rtol=1e-12)
    assert holm([]) == []


def test_equivalence_is_two_one_sided_tests():
    from scipy.stats import t

    estimate = Estimate(0.5, 0.6, 9, 0.1)
    p_low, p_high = t.sf((0.5 + 2) / 0.6, 9), t.sf((2 - 0.5) / 0.6, 9)
    assert estimate.within(2) == (max(p_low, p_high) < 0.05)
    assert not estimate.within(0.5)


def test_ranks_are_friedmans_and_the_critical_difference_is_nemenyis():
    table = np.random.default_rng(0).normal(size=(4, 10)) + np.arange(4)[:, None]
    found = ranking(table)
    assert found.p == pytest.approx(friedmanchisquare(*table).pvalue)
    assert found.critical == pytest.approx(2.569 * np.sqrt(4 * 5 / 60), rel=1e-3)  # q of Demsar's table 5, k = 4
    assert found.ranks[3] < found.ranks[0]
    assert ranking(table[:2]) is None


def test_more_seeds_shrink_the_noise_of_training_alone():
    estimate = Estimate(1.0, 1.0, 9, 0.6)
    assert estimate.with_seeds(2, 2).se == pytest.approx(1)
    assert estimate.with_seeds(2, 8).se == pytest.approx(np.sqrt(0.64 + 0.36 / 4))
    assert estimate.detectable() == pytest.approx(2.262 + 0.883, rel=1e-3)
