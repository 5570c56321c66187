"""Figures against distributions whose answers are known."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq, linear_sum_assignment
from scipy.stats import entropy, norm, pearsonr, ttest_ind
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from vaexprs.metrics import functions as metrics

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


# ---- each figure by a second way to count it


def small(n_a=9, n_b=7, d=3, seed=5):
    rng = np.random.default_rng(seed)
    return rng.normal(0.6, 1.3, (n_a, d)), rng.normal(size=(n_b, d))


@pytest.mark.parametrize("seed", [0, 3])
def test_forest_auc_is_that_of_the_votes_of_a_hundred_trees(seed):
    a, b = small(40, 30, 2)
    x, y = np.vstack([a, b]), np.array([1] * 40 + [0] * 30)
    forest = RandomForestClassifier(100, oob_score=True, random_state=seed).fit(x, y)
    # counted by pairs
    votes = forest.oob_decision_function_[:, 1]
    pairs = np.subtract.outer(votes[:40], votes[40:])
    assert metrics.forest_auc(a, b, seed) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    if not seed:
        assert metrics.forest_auc(a, b) == metrics.forest_auc(a, b, 0)


@pytest.mark.parametrize(("n_a", "n_b", "folds"), [(30, 40, 5), (3, 20, 3), (20, 4, 4)])
def test_logistic_auc_is_the_mean_over_stratified_folds(n_a, n_b, folds):
    a, b = small(n_a, n_b, 25)
    x, y = np.vstack([a, b]), np.array([1] * n_a + [0] * n_b)
    for seed in (0, 2):
        found = []
        for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(x, y):
            mean, sd = x[train].mean(axis=0), x[train].std(axis=0)
            model = LogisticRegression(C=0.01, max_iter=500).fit((x[train] - mean) / sd, y[train])
            score = model.decision_function((x[test] - mean) / sd)
            pairs = np.subtract.outer(score[y[test] == 1], score[y[test] == 0])
            found.append((pairs > 0).mean())
        assert metrics.logistic_auc(a, b, seed) == pytest.approx(np.mean(found))
    assert metrics.logistic_auc(a, b) == metrics.logistic_auc(a, b, 0)


def squared(x, y):
    return np.array([[((p - q) ** 2).sum() for q in y] for p in x])


def test_median_squared_distance_is_over_pairs_and_one_where_all_are_alike():
    _, b = small()
    assert metrics.median_squared_distance(b) == pytest.approx(
        np.median(squared(b, b)[np.triu_indices(7, 1)])
    )
    assert metrics.median_squared_distance(np.ones((4, 2))) == 1


@pytest.mark.parametrize("scale", [None, 0.7, 5.0])
def test_mmd_is_a_sum_over_pairs_of_different_cells(scale):
    a, b = small()
    width = scale or np.median(squared(b, b)[np.triu_indices(7, 1)])

    def kernel(d):
        return sum(np.exp(-d / (2 * factor * width)) for factor in (0.25, 0.5, 1, 2, 4)) / 5

    expected = (
        np.mean([kernel(d) for d in squared(a, a)[~np.eye(9, dtype=bool)]])
        + np.mean([kernel(d) for d in squared(b, b)[~np.eye(7, dtype=bool)]])
        - 2 * np.mean([kernel(d) for d in squared(a, b).ravel()])
    )
    assert metrics.mmd(a, b, scale) == pytest.approx(expected)


@pytest.mark.parametrize("power", [1, 2, 3])
def test_wasserstein_is_the_cheapest_assignment(power):
    a, b = small(8, 4)
    twice = np.repeat(b, 2, axis=0)  # four cells of weight 1/4 are eight of weight 1/8
    costs = squared(a, twice) ** (power / 2)
    cheapest = costs[linear_sum_assignment(costs)].mean() ** (1 / power)
    assert metrics.wasserstein(a.astype(np.float32), b, power) == pytest.approx(cheapest, rel=1e-6)


@pytest.mark.parametrize(("n_a", "n_b"), [(40, 25), (4, 6)])
def test_nearest_same_counts_fifteen_neighbours_or_all_others(n_a, n_b):
    a, b = small(n_a, n_b)
    x, y = np.vstack([a, b]), np.array([1] * n_a + [0] * n_b)
    distance = squared(x, x)
    np.fill_diagonal(distance, np.inf)
    near = np.argsort(distance, axis=1)[:, : min(15, n_a + n_b - 1)]
    assert metrics.nearest_same(a, b) == pytest.approx((y[near] == y[:, None]).mean())


@pytest.mark.parametrize(("n_a", "n_b"), [(60, 50), (9, 12)])
def test_mixing_is_the_inverse_simpson_index_of_weighted_neighbours(n_a, n_b):
    """Weights fall off with distance so that their entropy is log 30, or a third of the neighbours there are."""
    a, b = small(n_a, n_b)
    x, y = np.vstack([a, b]), np.array([1] * n_a + [0] * n_b)
    k = min(90, len(x) - 1)
    distance = np.sqrt(squared(x, x))
    np.fill_diagonal(distance, np.inf)
    expected = []
    for row in distance:
        near = np.argsort(row)[:k]

        def weights(log_beta, near=near, row=row):
            weight = np.exp(-np.exp(log_beta) * (row[near] - row[near[0]]))
            return weight / weight.sum()

        log_beta = brentq(lambda v, weights=weights: entropy(weights(v)) - np.log(k / 3), -12, 12)
        weight = weights(log_beta)
        expected.append(1 / (weight[y[near] == 1].sum() ** 2 + weight[y[near] == 0].sum() ** 2) - 1)
    np.testing.assert_allclose(metrics.mixing(a, b), expected, atol=1e-3)


def test_gene_statistics_of_one_cell_and_of_float32():
    one = metrics.gene_statistics(np.array([[0.0, 3.0]]))
    assert [part.tolist() for part in one] == [[0, 3], [0, 0], [1, 0]]
    x = np.random.default_rng(0).normal(1000, 1, (5000, 2)).astype(np.float32)
    found = metrics.gene_statistics(x)
    np.testing.assert_allclose(found.mean, x.astype(float).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.variance, x.astype(float).var(axis=0, ddof=1), rtol=1e-9)


def test_correlation_needs_three_pairs_and_two_vectors_that_vary():
    a, b = np.array([1.0, 2, 4, np.inf, 0]), np.array([2.0, 1, 5, 3, np.nan])
    assert metrics.correlation(a, b) == pytest.approx(pearsonr(a[:3], b[:3]).statistic)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what is missing is asked for nowhere
        for x, y in ((a[1:], b[1:]), (np.arange(5.0), np.ones(5)), (np.ones(5), np.arange(5.0))):
            assert np.isnan(metrics.correlation(x, y))
    assert metrics.correlation(np.array([0, 1, 0.5]), np.array([0.1, 1.1, 0.6])) == pytest.approx(1)


def test_ks_is_the_largest_gap_of_the_distribution_functions():
    a, b = (x[:, 0] for x in small(30, 17))
    at = np.r_[a, b][:, None]
    assert metrics.ks(a, b) == pytest.approx(np.abs((a <= at).mean(axis=1) - (b <= at).mean(axis=1)).max())
    assert metrics.ks(a, a) == 0
    assert metrics.ks(a, a + 100) == 1


def test_log_variance_is_to_base_ten():
    assert metrics.log_variance(np.array([100.0, 0.001])).tolist() == pytest.approx([2, -3])


def test_trend_gap_is_the_mean_gap_of_medians_over_twenty_bins():
    rng = np.random.default_rng(0)
    mean_b = np.r_[np.zeros(10), rng.gamma(1, 2, 400)]
    mean_a = mean_b * rng.uniform(0.8, 1.3, 410)
    mean_a[50] = mean_b.max() + 7  # beyond the last of the real ones
    y_a, y_b = rng.normal(np.sqrt(mean_a), 0.3), rng.normal(np.log1p(mean_b), 0.3)
    y_a[20:25], y_b[30:33] = np.nan, np.inf
    edges = np.quantile(mean_b[mean_b > 0], np.linspace(0, 1, 21))
    edges[-1] = mean_a.max()
    tables = []
    for mean, y in ((mean_a, y_a), (mean_b, y_b)):
        frame = pd.DataFrame({"bin": pd.cut(mean, edges, right=False, labels=False), "y": y})
        frame.loc[mean == edges[-1], "bin"] = 19
        tables.append(frame[np.isfinite(y)].groupby("bin")["y"].median())
    assert len(tables[0]) == len(tables[1]) == 20
    expected = (tables[0] - tables[1]).abs().mean()
    assert metrics.trend_gap(mean_a, y_a, mean_b, y_b) == pytest.approx(expected)


def test_trend_gap_of_few_genes():
    """Three genes above the least are enough; two are not; bins without a gene of one sample are left out."""
    mean, y = np.array([0.0, 1, 2, 3]), np.array([9.0, 1, 2, 3])
    assert metrics.trend_gap(mean, y + 0.5, mean, y) == pytest.approx(0.5)
    assert np.isnan(metrics.trend_gap(mean[:3], y[:3], mean[:3], y[:3]))
    some = np.where(mean < 2, np.nan, y)
    assert np.isnan(metrics.trend_gap(mean, some, mean, y))
    assert np.isnan(metrics.trend_gap(mean, y, mean, some))
    alike = np.array([0.0, 1, 1, 1])
    assert np.isnan(metrics.trend_gap(alike, y, alike, y))
    two = np.array([0.0, 1, 1, 1, 2, 2, 2])
    assert metrics.trend_gap(two, np.arange(7.0) + 1, two, np.arange(7.0)) == pytest.approx(1)
    assert np.isnan(metrics.trend_gap(mean - 10, y, mean, y))  # none of the judged genes in a bin
    # every second of 41 means is an edge of a bin: there are two bins, or one
    means = np.r_[0, np.ones(38), 2, 2.5, 3]
    assert metrics.trend_gap(means, means + 1, means, means) == pytest.approx(1)
    means[39:41] = 1
    assert np.isnan(metrics.trend_gap(means, means + 1, means, means))


def test_spread_ratio_is_over_genes_that_are_on_and_vary():
    n = np.full(6, np.nan)
    real = metrics.GeneStatistics(np.array([0.05, 0.06, 1, 2, 3, 0.01]), np.array([1.0, 4, 4, 0, 1, 1]), n)
    judged = metrics.GeneStatistics(n, np.array([100.0, 4, 1, 50, 9, 100]), n)
    assert metrics.spread_ratio(judged, real) == pytest.approx(1)  # of 1, 1/2 and 3
    off = real._replace(mean=np.full(6, 0.05))
    assert np.isnan(metrics.spread_ratio(judged, off))


def test_correlation_structure_is_over_pairs_of_genes_that_vary():
    a, b = small(30, 40, 6)
    a[:, 1] = 2.0
    b[:, 4] = 0
    pairs = [(i, j) for i in range(6) for j in range(i) if not {i, j} & {1, 4}]
    of_a, of_b = (np.array([pearsonr(x[:, i], x[:, j]).statistic for i, j in pairs]) for x in (a, b))
    r, slope = metrics.correlation_structure(a, b)
    assert r == pytest.approx(np.corrcoef(of_a, of_b)[0, 1])
    assert slope == pytest.approx((of_a * of_b).sum() / (of_b**2).sum())
    assert np.isfinite(metrics.correlation_structure(*small(d=3))).all()
    assert np.isnan(metrics.correlation_structure(*small(d=2))).all()


def test_slope_is_through_the_origin():
    assert metrics.slope(np.array([1.0, 4]), np.array([2.0, 1])) == pytest.approx(6 / 5)
    assert metrics.slope(np.array([0.3]), np.array([0.1])) == pytest.approx(3)


def test_contrasts_are_those_of_the_cells_themselves():
    """Labels of 12, 5 and 30 cells, the statistics of their parts against those of all the others together."""
    rng = np.random.default_rng(6)
    cells = [0.1 * rng.normal(shift, 1 + shift, (n, 4)) for shift, n in ((0, 12), (1, 5), (2, 30))]
    found = metrics.contrasts([metrics.gene_statistics(x) for x in cells], np.array([12, 5, 30]))
    for i, own in enumerate(cells):
        rest = np.vstack(cells[:i] + cells[i + 1 :])
        np.testing.assert_allclose(found[i].change, own.mean(axis=0) - rest.mean(axis=0))
        np.testing.assert_allclose(found[i].t, ttest_ind(own, rest, equal_var=False).statistic)


def test_contrasts_without_spread_are_zero_and_not_infinite():
    cells = [np.array([[1.0, 0, 2], [1, 0, 3]]), np.array([[0.0, 0, 5]]), np.array([[0.0, 0, 7]])]
    found = metrics.contrasts([metrics.gene_statistics(x) for x in cells], np.array([2, 1, 1]))
    assert found[0].change.tolist() == [1, 0, -3.5]
    assert found[0].t[:2].tolist() == [0, 0]
    assert found[0].t[2] == pytest.approx(ttest_ind([2, 3], [5, 7], equal_var=False).statistic)
    pair = metrics.contrasts([metrics.gene_statistics(x) for x in cells[1:]], np.array([1, 1]))
    assert [each.t.tolist() for each in pair] == [[0, 0, 0]] * 2
    assert pair[0].change.tolist() == [0, 0, -2]


def test_overlap_and_slope_take_the_most_and_of_equals_the_first():
    real = metrics.Contrast(np.array([3.0, -4, 1, 0.5]), np.array([5.0, 5, 5, -9]))
    judged = metrics.Contrast(np.array([1.0, -1, 9, 9]), np.array([0.0, 2, 3, 1]))
    assert metrics.marker_overlap(judged, real, 2) == 0.5  # of genes 2, 1 and 0, 1
    assert metrics.marker_overlap(judged, real, 3) == pytest.approx(2 / 3)
    assert metrics.change_slope(judged, real, 2) == pytest.approx((3 + 4) / 25)
    assert metrics.change_slope(judged, real, 1) == pytest.approx(1 / 4)


def test_recalls_and_f1_are_counted_from_the_classifiers_words():
    rng = np.random.default_rng(7)
    y = rng.choice(["a", "b", "c"], 150)
    x = rng.normal(size=(150, 3)) * [1, 100, 0.01] + np.array([[0, 50, 0.02]]) * (y == "b")[:, None]
    train, test = np.arange(150) < 90, np.arange(150) >= 90
    mean, sd = x[train].mean(axis=0), x[train].std(axis=0)
    said = (
        LogisticRegression(max_iter=500).fit((x[train] - mean) / sd, y[train]).predict((x[test] - mean) / sd)
    )
    parts = x[train], y[train], x[test], y[test]
    assert metrics.recalls(*parts) == {
        label: pytest.approx((said[y[test] == label] == label).mean()) for label in "abc"
    }
    hits = ((said == "b") & (y[test] == "b")).sum()
    assert metrics.f1(*parts, "b") == pytest.approx(2 * hits / ((said == "b").sum() + (y[test] == "b").sum()))
    assert metrics.f1(*parts, "nobody") == 0
