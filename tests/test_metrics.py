"""Figures against distributions whose answers are known."""

import numpy as np
import pytest
from scipy.stats import norm

from vaexprs import metrics

RNG = np.random.default_rng(0)


def gaussians(shift=0.0, scale=1.0, n=800, d=5, seed=0):
    rng = np.random.default_rng(seed)
    b = rng.normal(size=(n, d))
    a = scale * rng.normal(size=(n, d))
    a[:, 0] += shift
    return a, b


def test_mmd_of_two_gaussians_is_what_the_integral_says():
    d, shift, scale = 3, 1.5, 2.0
    found = [metrics.mmd(*gaussians(shift, 1, 1500, d, seed), scale=scale) for seed in range(4)]
    # E exp(-|x - y|^2 / 2s) = (s / (s + 2))^(d/2) exp(-|m|^2 / (2 (s + 2))) for unit normals m apart
    widths = scale * np.array(metrics.BANDWIDTHS)
    known = np.mean((widths / (widths + 2)) ** (d / 2) * 2 * (1 - np.exp(-(shift**2) / (2 * (widths + 2)))))
    assert np.mean(found) == pytest.approx(known, rel=0.05)


def test_mmd_of_samples_of_one_distribution_is_zero_in_the_mean():
    found = [metrics.mmd(*gaussians(n=200, seed=seed)) for seed in range(40)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(40)
    assert min(found) < 0 < max(found)


@pytest.mark.parametrize("power", [1, 2])
def test_wasserstein_of_shifted_copies_is_the_shift(power):
    _, b = gaussians(n=300)
    assert metrics.wasserstein(b + 0.5 * np.eye(5)[0], b, power) == pytest.approx(0.5, abs=1e-5)
    assert metrics.wasserstein(b, b[::-1], power) == pytest.approx(0, abs=1e-5)


def test_wasserstein_2_of_two_gaussians():
    a, b = gaussians(shift=3, scale=2, n=2000, d=1)
    assert metrics.wasserstein(a, b, 2) == pytest.approx(np.hypot(3, 1), rel=0.05)


@pytest.mark.parametrize("auc", [metrics.forest_auc, metrics.logistic_auc])
def test_classifiers_at_chance_and_at_a_known_distance(auc):
    same = [auc(*gaussians(n=200, seed=seed)) for seed in range(8)]
    assert np.mean(same) == pytest.approx(0.5, abs=0.03)
    known = norm.cdf(1.5 / np.sqrt(2))
    assert auc(*gaussians(shift=1.5, n=600)) == pytest.approx(known, abs=0.04)
    assert auc(*gaussians(shift=9, n=100)) > 0.999


def test_a_linear_classifier_does_not_see_a_spread_and_a_forest_does():
    a, b = gaussians(scale=0.5, n=500)
    assert metrics.forest_auc(a, b) > 0.8
    assert metrics.logistic_auc(a, b) == pytest.approx(0.5, abs=0.06)


def test_neighbours_of_mixed_and_of_separate_samples():
    n = 300
    mixed = metrics.nearest_same(*gaussians(n=n))
    assert mixed == pytest.approx((n - 1) / (2 * n - 1), abs=0.02)
    assert metrics.nearest_same(*gaussians(shift=20, n=n)) == 1
    assert metrics.mixing(*gaussians(n=n)).mean() > 0.85
    assert metrics.mixing(*gaussians(shift=20, n=n)).mean() == pytest.approx(0, abs=1e-6)


def test_mixing_has_the_judged_cells_first():
    a, b = gaussians(n=100)
    a[:50] += 30  # half of the judged cells are alone
    index = metrics.mixing(a, b)
    assert index.shape == (200,)
    assert index[:50].max() < 0.3 < index[100:].mean()


def test_gene_statistics_of_a_small_table():
    found = metrics.gene_statistics(np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]]))
    assert found.mean.tolist() == [2, 1]
    assert found.variance.tolist() == [4, 0]
    assert found.zero_fraction.tolist() == pytest.approx([1 / 3, 0])


def test_correlation_leaves_out_what_is_not_finite():
    assert metrics.correlation(np.array([1, 2, 3, np.nan]), np.array([2.0, 4, 6, 9])) == pytest.approx(1)
    assert np.isnan(metrics.correlation(np.ones(5), np.arange(5.0)))


def test_a_shuffled_copy_keeps_marginals_and_loses_correlation():
    rng = np.random.default_rng(1)
    b = rng.normal(size=(400, 1)) + 0.5 * rng.normal(size=(400, 20))
    shuffled = rng.permuted(b, axis=0)
    r, slope = metrics.correlation_structure(shuffled, b)
    assert abs(r) < 0.2
    assert abs(slope) < 0.1
    assert metrics.spread_ratio(
        *map(metrics.gene_statistics, (np.abs(shuffled), np.abs(b)))
    ) == pytest.approx(1)
    assert metrics.correlation_structure(b, b) == pytest.approx((1, 1))
    halved = b + 0.9 * rng.normal(size=b.shape)
    assert 0.3 < metrics.correlation_structure(halved, b)[1] < 0.7


def test_an_under_dispersed_copy_has_the_ratio_it_was_made_with():
    rng = np.random.default_rng(2)
    b = rng.gamma(2, 1, size=(500, 30))
    a = b.mean(axis=0) + 0.7 * (b - b.mean(axis=0))
    found, real = metrics.gene_statistics(a), metrics.gene_statistics(b)
    assert metrics.spread_ratio(found, real) == pytest.approx(0.7)
    gap = metrics.trend_gap(
        found.mean, metrics.log_variance(found.variance), real.mean, metrics.log_variance(real.variance)
    )
    assert gap == pytest.approx(-2 * np.log10(0.7), rel=0.05)
    assert metrics.trend_gap(real.mean, real.variance, real.mean, real.variance) == 0


def test_a_trend_or_a_correlation_of_too_little_is_missing():
    one, y = np.ones(5), np.arange(5.0)
    assert np.isnan(metrics.trend_gap(one, y, one, y))
    assert np.isnan(metrics.trend_gap(y, np.full(5, np.nan), y, y))
    assert np.isnan(metrics.correlation_structure(np.ones((9, 1)), np.ones((9, 1)))).all()
    assert np.isnan(metrics.slope(y, 0 * y))


def test_log_variance_of_a_constant_gene_is_missing():
    assert np.isnan(metrics.log_variance(np.array([0.0, 1.0]))).tolist() == [True, False]


def labelled(factor=1.0, seed=0, n=300):
    """Three labels, each with ten genes raised by two; `factor` attenuates that."""
    rng = np.random.default_rng(seed)
    parts = []
    for k in range(3):
        x = rng.normal(size=(n, 100))
        x[:, 10 * k : 10 * (k + 1)] += 2 * factor
        parts.append(metrics.gene_statistics(x))
    return metrics.contrasts(parts, np.full(3, n))


def test_fold_changes_and_markers():
    real = labelled()
    assert real[1].change[10:20].mean() == pytest.approx(2, abs=0.1)
    assert set(np.argsort(-real[1].t)[:10]) == set(range(10, 20))
    weak = labelled(0.5, seed=1)
    assert metrics.change_slope(weak[1], real[1], 10) == pytest.approx(0.5, abs=0.05)
    assert metrics.marker_overlap(weak[1], real[1], 10) == 1
    assert metrics.marker_overlap(weak[0], real[1], 10) < 0.3


def test_welch_t_is_scipys():
    from scipy.stats import ttest_ind

    rng = np.random.default_rng(3)
    x, rest = rng.normal(1, 2, size=(40, 4)), rng.normal(size=(90, 4))
    found = metrics.contrasts(
        [metrics.gene_statistics(v) for v in (x, rest[:50], rest[50:])], np.array([40, 50, 40])
    )
    assert found[0].t == pytest.approx(ttest_ind(x, rest, equal_var=False).statistic)


def test_recall_and_f1_of_separate_and_of_swapped_labels():
    rng = np.random.default_rng(4)
    y = np.repeat(["a", "b"], 100)
    x = rng.normal(size=(200, 2)) + 8 * (y == "b")[:, None]
    assert metrics.recalls(x, y, x, y) == {"a": 1, "b": 1}
    swapped = np.where(y == "a", "b", "a")
    assert metrics.recalls(x, y, x, swapped) == {"a": 0, "b": 0}
    assert metrics.f1(x, y, x, y, "a") == 1
