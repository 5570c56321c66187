"""Functions of metrics, baselines and tests of independence, against known values and other libraries."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy import stats
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.neighbors import NearestCentroid

from vaexprs.comparison.cell_sets import CellSet, equal_rows
from vaexprs.metrics import functions as metrics
from vaexprs.metrics.baseline import FAMILY_ERROR, Judged, excess, is_far, judge, verdict_of
from vaexprs.metrics.independence import are_too_even, count_copies
from vaexprs.metrics.registry import METRICS

# scales: plain, log, share, and plain with the variance of an AUC
PLAIN, LOG, SHARE, AUC = (
    METRICS[name] for name in ("fold_change_slope", "gene_means", "atypical_cells", "forest_auc_genes")
)


def gaussians(shift=0.0, n=800, d=5, seed=0):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, n, d))
    a[:, 0] += shift
    return a, b


def small(n_a=9, n_b=7, d=3, seed=5):
    rng = np.random.default_rng(seed)
    return rng.normal(0.6, 1.3, (n_a, d)), rng.normal(size=(n_b, d))


def squared(x, y):
    return ((x[:, None] - y[None]) ** 2).sum(axis=2)


def latin_hypercube(rng, n, d):
    """Return normal values, one in each of n intervals of equal probability of each column."""
    strata = rng.permuted(np.tile(np.arange(n), (d, 1)), axis=1).T
    return stats.norm.ppf((strata + rng.random((n, d))) / n)


# ---- functions of two samples


@pytest.mark.parametrize("scale", [None, 0.7, 5.0])
def test_mmd_is_a_mean_over_pairs_of_different_cells(scale):
    a, b = small()
    width = scale or np.median(squared(b, b)[np.triu_indices(7, 1)])

    def kernel(d):
        return np.mean([np.exp(-d / (2 * factor * width)) for factor in (0.25, 0.5, 1, 2, 4)], axis=0)

    expected = (
        kernel(squared(a, a)[~np.eye(9, dtype=bool)]).mean()
        + kernel(squared(b, b)[~np.eye(7, dtype=bool)]).mean()
        - 2 * kernel(squared(a, b)).mean()
    )
    assert metrics.mmd(a, b, scale) == pytest.approx(expected)


def test_mmd_of_two_gaussians_is_the_analytic_value():
    d, shift, scale = 3, 1.5, 2.0
    found = [metrics.mmd(*gaussians(shift, 100, d, seed), scale=scale) for seed in range(400)]
    # E exp(-|x - y|^2 / 2s) = (s / (s + 2))^(d/2) exp(-|m|^2 / (2 (s + 2))) for unit normals m apart
    widths = scale * np.array(metrics.BANDWIDTHS)
    known = np.mean((widths / (widths + 2)) ** (d / 2) * 2 * (1 - np.exp(-(shift**2) / (2 * (widths + 2)))))
    assert np.mean(found) == pytest.approx(known, abs=3 * np.std(found) / np.sqrt(400))
    assert np.std(found) / np.sqrt(400) < 0.02 * known


def test_mmd_of_samples_of_one_distribution_has_mean_zero():
    found = [metrics.mmd(*gaussians(n=100, seed=seed)) for seed in range(60)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(60)
    assert min(found) < 0 < max(found)


def test_mmd_uses_the_first_500_rows():
    a, b = gaussians(n=600)
    assert metrics.mmd(a, b) == metrics.mmd(a[:500], b[:500])
    assert metrics.mmd(a, b) != metrics.mmd(a[100:], b[100:])


def test_median_squared_distance_is_over_pairs_and_1_for_identical_cells():
    _, b = small()
    expected = np.median(squared(b, b)[np.triu_indices(7, 1)])
    assert metrics.median_squared_distance(b) == pytest.approx(expected)
    assert metrics.median_squared_distance(np.ones((4, 2))) == 1


def test_gene_statistics_of_a_small_table_of_one_cell_and_of_float32():
    found = metrics.gene_statistics(np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]]))
    assert found.mean.tolist() == [2, 1]
    assert found.variance.tolist() == [4, 0]
    assert found.zero_fraction.tolist() == pytest.approx([1 / 3, 0])
    one = metrics.gene_statistics(np.array([[0.0, 3.0]]))
    assert [part.tolist() for part in one] == [[0, 3], [0, 0], [1, 0]]
    x = np.random.default_rng(0).normal(1000, 1, (5000, 2)).astype(np.float32)
    found = metrics.gene_statistics(x)
    np.testing.assert_allclose(found.mean, x.astype(float).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.variance, x.astype(float).var(axis=0, ddof=1), rtol=1e-9)


def test_centred_within_subtracts_the_mean_of_each_group():
    rng = np.random.default_rng(0)
    x, groups = rng.normal(3, 2, (50, 4)), rng.choice(["a", "b", "c"], 50)
    frame = pd.DataFrame(x)
    expected = frame - frame.groupby(groups).transform("mean")
    before = x.copy()
    np.testing.assert_allclose(metrics.centred_within(x, groups), expected, atol=1e-6)
    assert (x == before).all()


@pytest.mark.parametrize("seed", [0, 3])
def test_forest_votes_are_those_of_a_hundred_trees(seed):
    a, b = small(40, 30, 2)
    x, y = np.concatenate([a, b]), np.repeat([1, 0], [40, 30])
    x_test = np.concatenate(small(10, 10, 2, seed=6))
    expected = RandomForestClassifier(100, random_state=seed).fit(x, y).predict_proba(x_test)[:, 1]
    np.testing.assert_allclose(metrics.forest_votes(x, y, x_test, seed), expected)


def test_auc_is_the_fraction_of_pairs_in_the_right_order():
    rng = np.random.default_rng(0)
    votes, truth = rng.integers(0, 6, 60) / 6, rng.integers(0, 2, 60)
    pairs = np.subtract.outer(votes[truth == 1], votes[truth == 0])
    assert (pairs == 0).any()
    assert metrics.auc(votes, truth) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert metrics.auc(np.array([0.1, 0.9]), np.array([0, 1])) == 1
    assert np.isnan(metrics.auc(votes, np.ones(60, int)))


def test_a_forest_has_the_auc_of_the_best_classifier_of_two_gaussians():
    rng = np.random.default_rng(0)
    y, y_test = np.repeat([1, 0], 600), np.repeat([1, 0], 600)
    x, x_test = rng.normal(size=(2, 1200, 2))
    for part, truth in ((x, y), (x_test, y_test)):
        part[:, 0] += 1.5 * truth
    found = metrics.auc(metrics.forest_votes(x, y, x_test, 0), y_test)
    assert found == pytest.approx(stats.norm.cdf(1.5 / np.sqrt(2)), abs=0.05)


# ---- means of genes


def test_mean_difference_is_the_root_mean_square_of_the_largest_welch_t():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.2, 2, (40, 500)), rng.normal(0, 1, (90, 500))
    t = stats.ttest_ind(a, b, equal_var=False).statistic
    expected = np.sqrt(np.sort(t**2)[-10:].mean())  # 2% of 500 genes
    variances = a.var(axis=0, ddof=1), b.var(axis=0, ddof=1)
    assert metrics.mean_difference(a, b, *variances) == pytest.approx(expected)
    few = [x[:, :20] for x in (a, b)]
    expected = np.sqrt(np.sort(t[:20] ** 2)[-5:].mean())  # at least five genes
    assert metrics.mean_difference(*few, *(v[:20] for v in variances)) == pytest.approx(expected)
    constant = np.ones((50, 3))
    assert np.isnan(metrics.mean_difference(constant, constant, np.zeros(3), np.zeros(3)))


def test_mean_difference_leaves_out_genes_detected_in_fewer_than_ten_cells():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 60, 6))
    a[:, 5] = b[:, 5] = 0
    a[:9, 5] = 1
    without = mean_difference_of(a[:, :5], b[:, :5])
    assert mean_difference_of(a, b) == pytest.approx(without)
    b[0, 5] = 1
    assert mean_difference_of(a, b) != pytest.approx(without)


def mean_difference_of(a, b):
    return metrics.mean_difference(a, b, a.var(axis=0), b.var(axis=0))


def expected_mean_difference():
    """Return sqrt(E[z^2 | |z| > q]) for a standard normal z, with P(|z| > q) = 2%."""
    q = stats.norm.isf(0.01)
    return np.sqrt(1 + q * stats.norm.pdf(q) / 0.01)


@pytest.mark.parametrize("n", [100, 300, 1500])
def test_mean_difference_of_one_distribution_does_not_depend_on_the_number_of_cells(n):
    rng = np.random.default_rng(n)
    found = [mean_difference_of(*rng.normal(size=(2, n, 1000))) for _ in range(6)]
    assert np.mean(found) == pytest.approx(expected_mean_difference(), rel=0.05)
    assert 2 < np.mean(found) < 3


def test_mean_difference_is_larger_for_shifted_genes_and_smaller_for_evenly_spread_cells():
    rng, n, genes = np.random.default_rng(0), 300, 1000
    same = [mean_difference_of(*rng.normal(size=(2, n, genes))) for _ in range(10)]
    a, b = rng.normal(size=(2, n, genes))
    a[:, :50] += 0.3  # 5% of the genes
    assert mean_difference_of(a, b) > max(same) + 0.5
    even = [mean_difference_of(latin_hypercube(rng, n, genes), rng.normal(size=(n, genes))) for _ in range(4)]
    assert max(even) < min(same) - 0.2
    # the mean of one side hardly varies, so half of the variance remains
    assert np.mean(even) == pytest.approx(expected_mean_difference() / np.sqrt(2), rel=0.06)


# ---- variation


def test_spread_ratio_is_the_median_over_expressed_genes_that_vary():
    mean = np.array([0.05, 0.06, 1, 2, 3, 0.01])
    real, generated = np.array([1.0, 4, 4, 0, 1, 1]), np.array([100.0, 4, 1, 50, 9, 100])
    assert metrics.spread_ratio(mean, generated, real) == pytest.approx(1)  # median of 1, 1/2 and 3
    assert np.isnan(metrics.spread_ratio(np.full(6, 0.05), generated, real))
    rng = np.random.default_rng(2)
    x = rng.gamma(2, 1, (500, 30))
    shrunken = x.mean(axis=0) + 0.7 * (x - x.mean(axis=0))
    variances = shrunken.var(axis=0), x.var(axis=0)
    assert metrics.spread_ratio(x.mean(axis=0), *variances) == pytest.approx(0.7)


@pytest.mark.parametrize("theta", [0.5, 2.0, np.inf])
def test_excess_variance_recovers_the_dispersion_of_negative_binomial_counts(theta):
    """Library sizes vary, and the labels have different means: neither adds to it."""
    rng, n, genes = np.random.default_rng(0), 4000, 60
    labels = np.repeat(["a", "b"], n // 2)
    size = rng.lognormal(0, 0.5, n)
    rate = np.outer(size, np.linspace(1, 6, genes))
    rate[labels == "b"] *= rng.uniform(0.5, 3, genes)
    counts = rng.poisson(rate if np.isinf(theta) else rate * rng.gamma(theta, 1 / theta, rate.shape))
    found = metrics.excess_variance(counts / size[:, None], size, labels)
    assert np.median(found) == pytest.approx(1 / theta, rel=0.03, abs=0.003)
    assert found.mean() == pytest.approx(1 / theta, rel=0.03, abs=0.003)


def test_excess_variance_is_weighted_by_cells_and_squared_means():
    rng = np.random.default_rng(1)
    labels, library = np.repeat(["a", "b", "c"], [20, 60, 2]), rng.uniform(0.5, 2, 82)
    scaled = rng.gamma(2, 1, (82, 3)) * np.where(labels == "b", 4, 1)[:, None]
    scaled[:, 2] = 0
    top, bottom = np.zeros(3), np.zeros(3)
    for label, n in (("a", 20), ("b", 60)):  # "c" has too few cells for a variance
        x, inverse = scaled[labels == label], (1 / library[labels == label]).mean()
        mean = x.mean(axis=0)
        top += n * (x.var(axis=0, ddof=1) - mean * inverse)
        bottom += n * mean**2
    found = metrics.excess_variance(scaled, library, labels)
    np.testing.assert_allclose(found[:2], (top / np.where(bottom > 0, bottom, 1))[:2])
    assert np.isnan(found[2])


def test_sd_ratio():
    x = np.random.default_rng(0).normal(size=100)
    assert metrics.sd_ratio(3 * x + 5, x) == pytest.approx(3)
    assert np.isnan(metrics.sd_ratio(np.ones(5), x))
    assert np.isnan(metrics.sd_ratio(x, np.ones(5)))


def test_largest_variance_ratio_is_at_least_1_and_symmetric():
    rng = np.random.default_rng(0)
    b = rng.normal(size=(200, 4))
    a = (b - b.mean(axis=0)) * [1, 0.5, 1.5, 0]  # a column without variance is left out
    assert metrics.largest_variance_ratio(a, b) == pytest.approx(4)
    assert metrics.largest_variance_ratio(b, a) == pytest.approx(4)
    assert metrics.largest_variance_ratio(b, b + 3) == pytest.approx(1)
    assert np.isnan(metrics.largest_variance_ratio(np.ones((5, 2)), b[:, :2]))


# ---- fold changes, sub-populations, classifiers


def test_slope_is_through_the_origin():
    assert metrics.slope(np.array([1.0, 4]), np.array([2.0, 1])) == pytest.approx(6 / 5)
    assert metrics.slope(np.array([0.3]), np.array([0.1])) == pytest.approx(3)
    assert np.isnan(metrics.slope(np.ones(2), np.zeros(2)))
    x, y = small(1, 1, 40)
    expected = np.linalg.lstsq(y.T, x[0], rcond=None)[0][0]
    assert metrics.slope(x[0], y[0]) == pytest.approx(expected)


def test_contrast_is_the_mean_of_members_minus_that_of_the_others():
    x, member = np.array([[1.0, 0], [3, 4], [5, 5], [0, 0]]), np.array([True, True, False, False])
    assert metrics.contrast(x, member).tolist() == [-0.5, -0.5]
    assert metrics.contrast(x, ~member).tolist() == [0.5, 0.5]
    big = np.full((100_000, 1), 16_777_216, np.float32)  # the sum is rounded in float32
    big[::2] += 2
    assert metrics.contrast(big, np.arange(100_000) % 2 == 0)[0] == 2


def test_a_slope_of_attenuated_fold_changes_is_the_factor():
    rng, member = np.random.default_rng(0), np.arange(2000) % 2 == 0
    changes = []
    for factor in (0.5, 1):
        x = rng.normal(size=(2000, 50))
        x[member, :10] += 2 * factor
        changes.append(metrics.contrast(x, member)[:10])
    assert metrics.slope(*changes) == pytest.approx(0.5, abs=0.03)


def test_f1_is_that_of_the_fitted_model():
    rng = np.random.default_rng(7)
    y = rng.choice(["a", "b", "c"], 150)
    x = rng.normal(size=(150, 3)) + 1.5 * (y == "b")[:, None]
    train = np.arange(150) < 90
    predicted = LogisticRegression(max_iter=500).fit(x[train], y[train]).predict(x[~train])
    parts = x[train], y[train], x[~train], y[~train]
    for label in "ab":
        expected = f1_score(y[~train] == label, predicted == label)
        assert 0 < metrics.f1(*parts, label, LogisticRegression(max_iter=500)) == pytest.approx(expected)
    assert metrics.f1(*parts, "nobody", LogisticRegression()) == 0


def test_balanced_classifiers_find_a_rare_label():
    rng = np.random.default_rng(5)
    y = np.repeat(["a", "b"], [500, 10])
    x = rng.normal(size=(510, 2)) + 1.5 * (y == "b")[:, None]
    test = rng.normal(size=(1000, 2)) + 1.5
    assert (LogisticRegression().fit(x, y).predict(test) == "b").mean() < 0.5
    for model in metrics.balanced_classifiers():
        assert (model.fit(x, y).predict(test) == "b").mean() > 0.7, model


def test_lda_is_that_of_scikit_learn():
    rng = np.random.default_rng(6)
    y = rng.choice(["a", "b", "c"], 3000)
    x = rng.normal(size=(3000, 2)) @ np.array([[2, 1], [0, 0.3]]) + (y == "b")[:, None] * [1, 0]
    exact = LinearDiscriminantAnalysis(priors=np.full(3, 1 / 3)).fit(x, y).predict(x)
    assert (metrics.UniformLda().fit(x, y).predict(x) == exact).mean() > 0.95
    nearest = NearestCentroid().fit(x, y).predict(x)
    assert (metrics.UniformLda(spherical=True).fit(x, y).predict(x) == nearest).all()
    assert (nearest == exact).mean() < 0.9


# ---- baseline and verdict


def test_the_baseline_is_students_prediction_interval():
    baseline = np.array([0.9, 1.0, 1.3, 0.7])
    low, high = stats.t.interval(0.95, 3, baseline.mean(), baseline.std(ddof=1) * np.sqrt(1 + 1 / 4))
    found = judge(PLAIN, np.array([1.0, 1.2]), baseline, 50)
    assert found[:4] == pytest.approx((1.1, 0.975, low, high))
    assert found.distance == 0
    at_the_end = judge(PLAIN, np.array([high]), baseline, 50)
    assert at_the_end.p == pytest.approx(0.05)
    assert at_the_end.distance == pytest.approx(0, abs=1e-12)
    outside = judge(PLAIN, np.array([low - 0.2]), baseline, 50)
    assert outside.distance == pytest.approx(0.2)
    assert outside.p < 0.05


def test_the_baseline_on_a_log_scale():
    found = judge(LOG, np.array([1.0, 4.0]), np.array([0.5, 1.0, 2.0]), 50)
    half_width = stats.t.ppf(0.975, 2) * np.log(2) * np.sqrt(4 / 3)
    assert found[:4] == pytest.approx((2, 1, np.exp(-half_width), np.exp(half_width)))
    far = judge(LOG, np.array([100.0]), np.array([0.9, 1.0, 1.1]), 50)
    assert far.distance == pytest.approx(np.log(100 / far.high))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert judge(LOG, np.zeros(3), np.array([0.5, 1.0, 2.0]), 50).value == 0


def test_p_values_of_the_baselines_own_distribution_are_uniform():
    rng, sizes = np.random.default_rng(0), (5, 40)
    for k in sizes:
        p = [judge(PLAIN, rng.normal(size=1), rng.normal(size=k), 50).p for _ in range(1500)]
        assert stats.kstest(p, "uniform").pvalue > 0.001


def test_the_baseline_has_fewer_degrees_of_freedom_for_dependent_splits():
    baseline = np.random.default_rng(0).normal(size=40)
    found = judge(PLAIN, np.ones(1), baseline, 50, splits=5)
    sd = baseline.std(ddof=1) * np.sqrt(1 + 1 / 5)
    assert found[2:4] == pytest.approx(stats.t.interval(0.95, 4, baseline.mean(), sd))
    assert judge(PLAIN, np.ones(1), baseline, 50, splits=99) == judge(PLAIN, np.ones(1), baseline, 50)
    for splits in (1, 2):  # of few donors
        assert np.isfinite(judge(PLAIN, np.ones(1), baseline, 50, splits)).all()


def test_shares_vary_at_least_as_those_of_n_cells():
    n, k = 40, 10
    found = judge(SHARE, np.array([0.25]), np.zeros(k), n)
    sd = np.sqrt(3 / (8 * n) * (1 + 1 / k))  # known from theory, so a normal distribution
    half_width = stats.norm.ppf(0.975) * sd
    assert found.low == 0
    assert found.high == pytest.approx(np.sin(half_width) ** 2, rel=1e-4)
    assert found.p == pytest.approx(2 * stats.norm.sf(np.arcsin(0.5) / sd), rel=1e-3)
    # the variance of the arcsine root of n fractions is 1/4n, so 3/8n with a baseline of twice as many cells
    simulated = np.random.default_rng(0).binomial(n, 0.3, 20_000) / n
    assert np.arcsin(np.sqrt(simulated)).var() == pytest.approx(1 / (4 * n), rel=0.06)


def test_shares_that_vary_more_have_the_variance_of_the_baseline():
    baseline = np.array([0.1, 0.5, 0.9, 0.4])
    scaled = np.arcsin(np.sqrt(baseline))
    low, high = stats.t.interval(0.95, 3, scaled.mean(), scaled.std(ddof=1) * np.sqrt(1 + 1 / 4))
    found = judge(SHARE, np.array([0.5]), baseline, 40)
    assert found.low == pytest.approx(np.sin(max(low, 0)) ** 2)
    assert found.high == pytest.approx(np.sin(min(high, np.pi / 2)) ** 2)


def test_an_auc_of_real_cells_has_the_variance_of_mann_and_whitney():
    n = 30
    rng = np.random.default_rng(0)
    u = [stats.mannwhitneyu(*rng.normal(size=(2, n))).statistic / n**2 for _ in range(2000)]
    assert np.var(u) == pytest.approx(1 / (6 * n), rel=0.12)
    baseline = np.array([0.52, 0.5, 0.53, 0.51])  # varies less than that
    found = judge(AUC, np.array([0.6, 0.7]), baseline, n)
    half_width = stats.t.ppf(0.975, 3 + 20) * np.sqrt(1 / (6 * n))
    assert found[:4] == pytest.approx((0.65, 0.5, 0.5 - half_width, 0.5 + half_width), rel=1e-5)
    # several comparisons of other cells are worth more cells
    found = judge(AUC, np.array([0.6, 0.7]), baseline, n, distinct=(60, 90))
    half_width = stats.t.ppf(0.975, 23) * np.sqrt((1 / 60 + 1 / 90) / 12)
    assert found[2:4] == pytest.approx((0.5 - half_width, 0.5 + half_width), rel=1e-5)
    assert judge(AUC, np.array([0.6]), baseline, 1)[2:4] == (0, 1)  # limits of an AUC


def test_an_auc_that_varies_more_has_a_larger_variance():
    n, baseline = 30, np.array([0.2, 0.8, 0.4, 0.6])
    found = judge(AUC, np.array([0.6]), baseline, n)
    variance = (3 * baseline.var(ddof=1) + 20 / (6 * n)) / 23
    half_width = stats.t.ppf(0.975, 23) * np.sqrt(variance)
    assert variance > 1 / (6 * n)
    assert found[2:4] == pytest.approx((0.5 - half_width, 0.5 + half_width), rel=1e-5)
    # between donors an AUC of 0.5 is not expected
    donors = judge(AUC, np.array([0.6]), baseline + 0.1, n, splits=4)
    sd = baseline.std(ddof=1) * np.sqrt(1 + 1 / 4)
    assert donors[1:4] == pytest.approx((0.6, *np.clip(stats.t.interval(0.95, 3, 0.6, sd), 0, 1)))


def test_a_constant_baseline():
    baseline = np.ones(5)
    same, other = (judge(PLAIN, np.array([value]), baseline, 50) for value in (1.0, 1.5))
    assert (same.p, same.low, same.high, same.distance) == (1, 1, 1, 0)
    assert (other.p, other.distance) == (0, 0.5)


@pytest.mark.parametrize(
    ("distance", "p", "n", "rows", "verdict"),
    [
        (0, 0.5, 50, 10, "within"),
        (0, 0.5, 10, 10, "within"),
        (0, 0.5, 9, 10, "not judged"),
        (0.04, 1e-9, 50, 10, "close"),  # significant, but smaller than the margin
        (0.04, 1e-9, 9, 10, "not judged"),
        (0.06, 1.1 * FAMILY_ERROR / 10, 50, 10, "close"),  # not significant among ten rows
        (0.06, 0.9 * FAMILY_ERROR / 10, 50, 10, "off"),
        (0.06, 0.9 * FAMILY_ERROR / 10, 50, 12, "close"),
        (0.06, 0.9 * FAMILY_ERROR / 10, 9, 10, "off"),
        (0.06, 1.1 * FAMILY_ERROR / 10, 9, 10, "not judged"),
    ],
)
def test_verdicts(distance, p, n, rows, verdict):
    assert PLAIN.close == 0.05
    assert verdict_of(PLAIN, Judged(1.2, 1, 0.9, 1.1, p, distance), n, rows) == verdict


def test_verdicts_are_two_sided():
    baseline = np.random.default_rng(0).normal(1, 0.02, 40)
    for value in (0.5, 1.5):
        assert verdict_of(PLAIN, judge(PLAIN, np.array([value]), baseline, 50), 50, 40) == "off"
    assert verdict_of(PLAIN, judge(PLAIN, np.array([1.0]), baseline, 50), 50, 40) == "within"


def test_a_value_is_far_by_its_distance_from_the_interval():
    assert excess(PLAIN, 1.0, 0.9, 1.1) == 0
    assert excess(PLAIN, 1.3, 0.9, 1.1) == pytest.approx(0.2 / PLAIN.far)
    assert excess(PLAIN, 0.7, 0.9, 1.1) == pytest.approx(0.2 / PLAIN.far)
    assert excess(LOG, 4.0, 1.0, 2.0) == pytest.approx(np.log(2) / LOG.far)
    edge = 1.1 + PLAIN.far
    assert [is_far(PLAIN, value, 0.9, 1.1) for value in (edge - 0.01, edge + 0.01)] == [False, True]
    assert is_far(PLAIN, 0.9 - PLAIN.far - 0.01, 0.9, 1.1)


# ---- independence


def cell_set(x, names=None, counts=True):
    names = [str(i) for i in range(x.shape[0])] if names is None else names
    raw = sp.csr_matrix(x, dtype=np.float32) if counts else np.asarray(x, np.float32)
    return CellSet(raw, raw, pd.DataFrame(index=names), pd.Index(np.arange(x.shape[1]).astype(str)), counts)


@pytest.mark.parametrize("counts", [True, False])
def test_equal_rows_are_those_with_the_values_of_another_cell(counts):
    rng = np.random.default_rng(0)
    x = 1 + rng.poisson(3, (6, 30))
    x[3] = x[1]  # twice in the same set
    other = 1 + rng.poisson(3, (5, 30))
    other[4] = x[5]
    made, real = cell_set(x, counts=counts), cell_set(other, counts=counts)
    assert equal_rows(made, [made]).tolist() == [False, True, False, True, False, False]
    assert equal_rows(made, [real]).tolist() == [False] * 5 + [True]
    assert equal_rows(made, [made, real]).tolist() == [False, True, False, True, False, True]
    assert equal_rows(real, [real]).sum() == 0
    assert equal_rows(real, [made]).tolist() == [False] * 4 + [True]


def test_equal_rows_ignore_cells_with_few_detected_genes_and_stored_zeros():
    x = np.zeros((3, 40))
    x[:2, :19] = 1
    made = cell_set(x)
    assert not equal_rows(made, [made]).any()
    x[:2, :20] = 1
    made = cell_set(x)
    assert equal_rows(made, [made]).tolist() == [True, True, False]
    stored = made.raw.copy()
    rows = sp.csr_matrix((np.r_[stored.data, 0], np.r_[stored.indices, 30], np.r_[0, 20, 40, 41]), (3, 40))
    other = CellSet(rows, rows, made.obs, made.genes, True)
    assert rows.nnz == made.raw.nnz + 1
    assert equal_rows(other, [made]).tolist() == [True, True, False]
    dense = cell_set(np.where(x > 0, x, -0.0), counts=False)
    assert equal_rows(dense, [cell_set(x, counts=False)]).tolist() == [True, True, False]


def test_copies_are_counted_among_generated_and_real_cells():
    rng = np.random.default_rng(0)
    made, real = 1 + rng.poisson(3, (10, 30)), 1 + rng.poisson(3, (20, 30))
    assert count_copies(cell_set(made), cell_set(real)) == (0, 0)
    made[0], made[1], real[7] = real[5], made[2], real[8]
    assert count_copies(cell_set(made), cell_set(real)) == (0.3, 0.1)


def factor_cells(z, seed=0, genes=60):
    """Return cells that are a linear function of `z`, (n_cells, n_latent), plus noise."""
    rng = np.random.default_rng(seed)
    x = z @ rng.normal(size=(z.shape[1], genes)) + 0.3 * rng.normal(size=(len(z), genes))
    return cell_set(x, counts=False)


def even_blocks(rng, n, d, block=256):
    return np.concatenate([latin_hypercube(rng, min(block, n - i), d) for i in range(0, n, block)])


@pytest.mark.parametrize("n", [2048, 1500])
def test_evenly_spread_random_numbers_are_found(n):
    """With 20 even dimensions; fewer are found less often, as 20 axes are compared."""
    found = 0
    for seed in range(5):
        cells = factor_cells(even_blocks(np.random.default_rng(seed), n, 20), seed)
        found += are_too_even(cells, np.full(n, "a", object), seed)
    assert found == 5


def test_evenly_spread_random_numbers_of_each_label_are_found():
    rng = np.random.default_rng(0)
    cells = factor_cells(np.concatenate([even_blocks(rng, 512, 20, block=64) + 3 * k for k in range(3)]))
    assert are_too_even(cells, np.repeat(["a", "b", "c"], 512).astype(object), 0)


def test_independent_cells_are_seldom_found_too_even():
    """At most one of 40; the nominal rate is 1 in 500."""
    found = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        labels = rng.choice(["a", "b"], 400).astype(object)
        found += are_too_even(factor_cells(rng.normal(size=(400, 8)), seed), labels, seed)
    assert found <= 1


def test_sorted_and_few_cells_are_not_found_too_even():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(800, 8))
    assert not are_too_even(factor_cells(z[np.argsort(z[:, 0])]), np.full(800, "a", object), 0)
    even = factor_cells(even_blocks(rng, 2048, 20)).take(rng.permutation(2048))  # order lost
    assert not are_too_even(even, np.full(2048, "a", object), 0)
    few = factor_cells(even_blocks(rng, 90, 20, block=11))  # fewer than 8 parts of 12 cells
    assert not are_too_even(few, np.full(90, "a", object), 0)


def test_a_baseline_over_orders_of_magnitude_is_no_evidence():
    """A value inside an interval from 0 to a million is not within the range of real cells."""
    metric = METRICS["gene_means"]
    assert metric.scale == "log"
    for high, verdict in ((1e6, "not judged"), (2.0, "within")):
        assert (
            verdict_of(metric, Judged(1.0, 1.0, 1e-6 if high > 2 else 0.5, high, 0.9, 0.0), 50, 40) == verdict
        )
    assert verdict_of(metric, Judged(1e9, 1.0, 1e-6, 1e6, 1e-9, 5.0), 50, 40) == "off"
