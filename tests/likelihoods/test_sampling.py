"""Sampling of counts: exact distributions, and independent counts."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats
from scipy.special import expit

from vaexprs.data.matrix import MAX_COUNT
from vaexprs.likelihoods.count_sampling import _enlarged, count_quantiles, draw_counts

CELLS, BLOCKS = 250, 4_000  # a million draws of each gene
MEANS = (0.003, 0.05, 0.3, 0.9, 4.0, 30.0)
DISPERSIONS = (0.05, 0.5, 3.0, 100.0, np.inf)
GRID = [(mean, theta) for theta in DISPERSIONS for mean in MEANS]


def drawn(grid, *, logit=None, library=None, seed=0, blocks=BLOCKS):
    """Counts (blocks * CELLS, genes) of one group of cells; a gene for each mean and dispersion."""
    library = np.ones(CELLS) if library is None else library
    mean, theta = (np.array(values, float) for values in zip(*grid, strict=True))
    proportion = np.tile(mean.astype(np.float32), (CELLS, 1))
    logits = None if logit is None else np.full(proportion.shape, logit, np.float32)
    rows = [np.arange(CELLS)]
    parts = [
        draw_counts(np.random.default_rng((seed, i)), proportion, library, theta[None], logits, rows)
        for i in range(blocks)
    ]
    return sp.vstack(parts, format="csc")


def distribution(mean, theta):
    mean = np.float64(np.float32(mean))
    return stats.poisson(mean) if np.isinf(theta) else stats.nbinom(theta, theta / (theta + mean))


def chi_square(counts, pmf):
    """P value of counts under a pmf on 0, 1, ...; cells of fewer than 20 expected counts are joined."""
    n = len(counts)
    expected = n * np.append(pmf, max(0.0, 1 - pmf.sum()))
    groups = np.minimum(np.cumsum(expected) // 20, (n - 20) // 20).astype(int)
    observed = np.bincount(np.minimum(counts, len(pmf)), minlength=len(expected))
    groups = np.unique(groups, return_inverse=True)[1]
    observed, expected = np.bincount(groups, observed), np.bincount(groups, expected)
    if len(expected) == 1:
        return 1.0
    return stats.chi2(len(expected) - 1).sf(((observed - expected) ** 2 / expected).sum())


def column(counts, j):
    return np.asarray(counts[:, [j]].todense()).ravel()


@pytest.mark.slow
@pytest.mark.parametrize("logit", [None, -0.4])
def test_a_million_draws_follow_the_distribution_over_a_grid(logit):
    """Independent draws: chi-square, thirty genes at once (Bonferroni at 0.001)."""
    counts = drawn(GRID, logit=logit)
    excess = 0.0 if logit is None else 1 / (1 + np.exp(-np.float32(logit)))
    for j, (mean, theta) in enumerate(GRID):
        pmf = (1 - excess) * distribution(mean, theta).pmf(np.arange(3_000))
        pmf[0] += excess
        assert chi_square(column(counts, j), pmf) > 0.001 / len(GRID), (mean, theta)


def test_a_million_poisson_draws():
    grid = [(mean, np.inf) for mean in MEANS]
    counts = drawn(grid, seed=1)
    for j, (mean, theta) in enumerate(grid):
        assert chi_square(column(counts, j), distribution(mean, theta).pmf(np.arange(200))) > 0.001 / len(
            grid
        )


@pytest.mark.slow
@pytest.mark.parametrize("theta", [0.3, 20.0, np.inf])
def test_large_means_by_kolmogorov_smirnov(theta):
    """Around the mean from which on SciPy finds the counts; distribution functions, exact for counts."""
    for mean in (200.0, 499.0, 501.0, 3_000.0):
        counts = column(drawn([(mean, theta)], blocks=400), 0)
        values, numbers = np.unique(counts, return_counts=True)
        distance = np.abs(np.cumsum(numbers) / len(counts) - distribution(mean, theta).cdf(values)).max()
        assert distance * np.sqrt(len(counts)) < 1.95  # P < 0.001 for continuous values, less for counts


@pytest.mark.parametrize("logit", [None, -0.4])
def test_numbers_of_cells_above_a_count_are_binomial(logit):
    """The counts of a block are independent: evenly spread ones would vary less between blocks."""
    blocks = 400
    counts = drawn(GRID, logit=logit, blocks=blocks)
    excess = 0.0 if logit is None else 1 / (1 + np.exp(-np.float32(logit)))
    for j, (mean, theta) in enumerate(GRID):
        block_counts = column(counts, j).reshape(-1, CELLS)
        for k in (0, 5, 40):
            share = (1 - excess) * distribution(mean, theta).sf(k)
            above = (block_counts > k).sum(axis=1)
            pmf = stats.binom(CELLS, share).pmf(np.arange(CELLS + 1))
            assert chi_square(above, pmf) > 0.001 / (3 * len(GRID)), (mean, theta, k)


def test_every_cell_of_a_block_has_the_distribution_of_its_own_mean():
    """Library sizes from 0.1 to 10: each cell over the blocks, by chi-square; genes and cells uncorrelated."""
    library = np.geomspace(0.1, 10, CELLS)
    grid = [(0.05, 0.5), (0.3, np.inf), (2.0, 3.0), (0.4, 0.2)]
    counts = drawn(grid, library=library, seed=2)
    for j, (mean, theta) in enumerate(grid):
        blocks = column(counts, j).reshape(-1, CELLS)
        for i in range(0, CELLS, 10):
            pmf = distribution(np.float32(mean) * library[i], theta).pmf(np.arange(1_000))
            assert chi_square(blocks[:, i], pmf) > 0.001 / 100, (mean, theta, i)
    first, second = (column(counts, j).reshape(-1, CELLS)[:, 100] for j in (0, 2))
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(BLOCKS)


def test_groups_of_rows_have_dispersions_of_their_own():
    rng = np.random.default_rng(0)
    groups = [np.arange(0, 200, 2), np.arange(1, 200, 2)]
    dispersion = np.array([[0.1] * 5, [np.inf] * 5])
    proportion = np.full((200, 5), 2.0, np.float32)
    counts = sp.vstack(
        [draw_counts(rng, proportion, np.ones(200), dispersion, None, groups) for _ in range(200)]
    )
    values = counts.toarray().reshape(200, 200, 5)
    assert values[:, ::2].var() == pytest.approx(2 + 4 / 0.1, rel=0.1)
    assert values[:, 1::2].var() == pytest.approx(2, rel=0.03)


def test_counts_are_a_canonical_csr_matrix_without_stored_zeros():
    counts = drawn(GRID, blocks=1).tocsr()
    one = draw_counts(
        np.random.default_rng(0),
        np.full((7, 30), 0.4, np.float32),
        np.ones(7),
        np.full((3, 30), np.inf),
        None,
        [np.array([5, 0, 3]), np.array([1]), np.array([2, 4, 6])],
    )
    for matrix in (counts, one):
        assert matrix.dtype == np.int32
        assert matrix.has_sorted_indices
        assert (matrix.data > 0).all()
    again = sp.csr_matrix(one.toarray())
    np.testing.assert_array_equal(one.indices, again.indices)
    np.testing.assert_array_equal(one.indptr, again.indptr)


# ---- each number and what becomes of it: small enough to be run without numba's compiler (tests/nightly/mutants.py)

INSIDE = (1e-12, 1 - 1e-12)


def quantile(u, mean, theta):
    """Smallest counts whose distribution function is not below u, by scipy.stats."""
    u, mean, theta = (np.asarray(value, float) for value in np.broadcast_arrays(u, mean, theta))
    u = np.clip(u, *INSIDE)
    finite = np.where(np.isinf(theta), 1.0, theta)
    return np.where(
        np.isinf(theta), stats.poisson.ppf(u, mean), stats.nbinom.ppf(u, finite, finite / (finite + mean))
    )


@pytest.mark.parametrize("theta", [0.02, 1.0, 700.0, np.inf])
def test_quantiles_are_those_of_scipy_from_the_least_to_the_greatest_number(theta):
    u = np.array([0.0, 1e-13, 1e-12, 1e-6, 0.02, 0.3, 0.5, 0.77, 0.999, 1 - 1e-9, np.nextafter(1, 0)])
    mean = np.array([1e-10, 1e-3, 0.4, 0.999, 1.001, 7.0, 260.0, 499.0, 500.0, 501.0, 4e4])
    u, mean = np.meshgrid(u, mean)
    counts = count_quantiles(u, mean, np.full(u.shape, theta))
    assert counts.dtype == np.int64
    expected = quantile(u, mean, theta)
    inner = u < 0.9999
    np.testing.assert_array_equal(counts[inner], expected[inner])
    np.testing.assert_allclose(counts, expected, rtol=0.02)  # rounding decides far out


def test_quantiles_keep_the_shape_and_the_order_of_what_they_are_of():
    rng = np.random.default_rng(0)
    u, mean, theta = rng.random((7, 5)), rng.uniform(0, 1200, (7, 5)), rng.uniform(0.1, 9, (7, 5))
    expected = quantile(u, mean, theta)
    np.testing.assert_array_equal(count_quantiles(*map(np.asfortranarray, (u, mean, theta))), expected)
    np.testing.assert_array_equal(count_quantiles(u.T, mean.T, theta.T), expected.T)


def test_count_is_one_whose_distribution_function_exceeds_the_number():
    """At a probability of zero itself the count is not zero, so that zeros are as probable as they should be."""
    mean = np.array([0.25, 0.5, 2.0])
    zero = np.exp(-mean)
    assert count_quantiles(zero, mean, np.full(3, np.inf)).tolist() == [1, 1, 1]
    assert count_quantiles(np.nextafter(zero, 0), mean, np.full(3, np.inf)).tolist() == [0, 0, 0]


def rate(mean, theta):
    """Return -log P(0) of a count."""
    return mean if np.isinf(theta) else theta * np.log1p(mean / theta)


def next_count(rng, at, library, proportion, theta):
    """Return a count, and the distance from the end of its interval to the next event."""
    mean, small = library * np.float64(proportion), np.float32(library) * proportion
    length = np.float32(1 + 1e-6) * small / np.sqrt(np.float32(1) + small * np.float32(1 / theta))
    assert rate(mean, theta) < length
    if length > 1.5:
        if mean < 500:
            return int(quantile(rng.random(), mean, theta)), at
        return rng.poisson(mean if np.isinf(theta) else mean * rng.standard_gamma(theta) / theta), at
    count, p = 0, mean / (mean + theta)
    while at < length:
        if at < rate(mean, theta):
            if np.isinf(theta):
                count += 1
            elif p > 0.8:
                count += rng.logseries(p)
            else:
                count += int(stats.logser(p).ppf(at / rate(mean, theta)))
        at += rng.standard_exponential()
    return count, at - length


@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize("poisson", [False, True])
def test_draws_are_the_sums_of_the_marks_of_events(logits, poisson):
    """One exponential number for each event, cell by cell and gene by gene."""
    rng = np.random.default_rng(0)
    n, genes = 40, 30
    groups = [rng.permutation(n)[:25]]
    groups.append(np.setdiff1d(np.arange(n), groups[0])[::-1])
    library = rng.uniform(0.2, 5, n)
    mean = np.geomspace(1e-3, 400, genes)
    proportion = (mean * rng.uniform(0.5, 2, (n, genes))).astype(np.float32)
    zero_logit = rng.normal(-1, 2, (n, genes)).astype(np.float32) if logits else None
    dispersion = np.full((2, genes), np.inf) if poisson else np.exp(rng.normal(0, 2, (2, genes)))
    if not poisson:
        dispersion[1, ::4] = np.inf
    drawing, again = np.random.default_rng(5), np.random.default_rng(5)
    got = draw_counts(drawing, proportion, library[:, None], dispersion, zero_logit, groups)
    expected, at = np.zeros((n, genes), np.int64), again.standard_exponential()
    for i in range(n):
        theta = dispersion[0 if i in groups[0] else 1]
        for j in range(genes):
            count, at = next_count(again, at, library[i], proportion[i, j], theta[j])
            if count and not (logits and again.random() < expit(float(zero_logit[i, j]))):
                expected[i, j] = count
    assert (expected > 500).any()
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got.toarray(), expected)
    assert drawing.random() == again.random()


def test_counts_of_large_means_are_independent():
    """Large counts determine their uniform numbers, which are uniform and unrelated between rows."""
    k, genes, mean = 6, 800, 1e6
    proportion = np.full((8, genes), mean, np.float32)
    rows = np.array([7, 0, 3, 1, 6, 4])
    groups = [rows, np.array([2, 5])]
    poisson = np.full((2, genes), np.inf)
    counts = draw_counts(np.random.default_rng(3), proportion, np.ones(8), poisson, None, groups)
    u = stats.poisson(mean).cdf(counts.toarray()[rows])
    for row in u:
        assert stats.kstest(row, "uniform").pvalue > 0.001 / k
    assert (np.abs(np.corrcoef(u) - np.eye(k)) < 4 / np.sqrt(genes)).all()


@pytest.mark.parametrize("theta", [0.4, np.inf])
@pytest.mark.parametrize("inflated", [False, True])
def test_counts_above_zero_are_as_many_as_expected_in_each_cell(theta, inflated):
    """Cells with different depths and excess zeros, each over 1,500 genes."""
    k, genes, mean = 12, 1_500, 0.3
    library = np.linspace(0.3, 1.4, k)
    logit = np.linspace(-1.5, 2, k) if inflated else np.full(k, -np.inf)
    counts = draw_counts(
        np.random.default_rng(2),
        np.full((k, genes), mean, np.float32),
        library,
        np.full((1, genes), theta),
        np.tile(logit[:, None], genes).astype(np.float32) if inflated else None,
        [np.arange(k)],
    ).toarray()
    above = (1 - distribution(mean * library, theta).pmf(0)) / (1 + np.exp(logit))
    error = np.sqrt(above * (1 - above) / genes)
    assert (np.abs((counts > 0).mean(axis=1) - above) < 4 * error).all()
    expected = distribution(mean * library, theta).mean() / (1 + np.exp(logit))
    assert counts.mean() == pytest.approx(expected.mean(), abs=4 * counts.std() / np.sqrt(counts.size))


@pytest.mark.parametrize("mean", [0.009, 0.35])
def test_few_random_numbers_are_needed_for_many_zeros(mean):
    """As many as the sum of Poisson counts, and one more."""
    genes = 20
    rng, same = np.random.default_rng(4), np.random.default_rng(4)
    proportion, poisson = np.full((100, genes), mean, np.float32), np.full((1, genes), np.inf)
    counts = draw_counts(rng, proportion, np.ones(100), poisson, None, [np.arange(100)])
    same.standard_exponential(int(counts.sum()) + 1)
    assert rng.random() == same.random()


def test_cells_that_are_surely_excess_zeros_have_no_counts():
    """Probabilities of an excess zero of exactly 1, in all cells of a gene and in one of them."""
    logit = np.full((50, 2), 90, np.float32)
    logit[1:, 1] = -90
    for mean in (0.3, 400.0, 1e6):
        proportion, poisson = np.full((50, 2), mean, np.float32), np.full((1, 2), np.inf)
        counts = draw_counts(
            np.random.default_rng(0), proportion, np.ones(50), poisson, logit, [np.arange(50)]
        ).toarray()
        assert not counts[:, 0].any()
        assert counts[0, 1] == 0
        assert counts[1:, 1].any()


def test_many_counts_above_zero_are_kept():
    """The space for an eighth of the values is enlarged; the counts of a cell do not depend on later cells."""
    proportion, dispersion = np.full((20, 100), 30, np.float32), np.full((1, 100), 5.0)
    all_cells, few = (
        draw_counts(
            np.random.default_rng(0), proportion[:n], np.ones(n), dispersion, None, [np.arange(n)]
        ).toarray()
        for n in (20, 2)
    )
    assert (all_cells > 0).mean() > 0.99
    np.testing.assert_array_equal(all_cells[:2], few)
    larger = _enlarged(np.arange(5, dtype=np.int32), 7)
    assert larger.dtype == np.int32
    assert larger.size == 10
    assert larger[:5].tolist() == [0, 1, 2, 3, 4]
    assert _enlarged(np.arange(5.0), 70).size == 70


@pytest.mark.parametrize("dispersion", [9e-4, 1.0, 8e3, np.inf])
@pytest.mark.parametrize("mean", [2.0**24, 1e12, 1e18])
def test_enormous_counts_are_found_at_once_and_fit_into_32_bits(mean, dispersion):
    """SciPy looked for one of them for minutes, and what it found came back negative."""
    n = 1_000
    counts = draw_counts(
        np.random.default_rng(0),
        np.full((n, 2), 0.5, np.float32),
        np.full(n, 2 * mean),
        np.full((1, 2), dispersion),
        None,
        [np.arange(n)],
    )
    assert counts.data.min() > 0
    assert counts.data.max() <= MAX_COUNT
    if mean < 1e9 and dispersion >= 1:
        error = np.sqrt((1 / mean + 1 / dispersion) / (2 * n))
        assert counts.toarray().mean() == pytest.approx(mean, rel=4 * error)
    if mean > 1e9 and dispersion > 1:
        assert (counts.data == MAX_COUNT).all()


@pytest.mark.parametrize("theta", [0.5, 40.0, 1e7, 1e8, np.inf])
def test_counts_of_very_large_means_are_as_good_as_continuous(theta):
    """Gamma where the dispersion rules, nearly normal where the Poisson part counts as well; at most MAX_COUNT."""
    u, mean = np.linspace(0.001, 0.999, 60), 1e8
    counts = count_quantiles(u, np.full(60, mean), np.full(60, theta))
    sd = np.sqrt(mean + mean**2 / theta)
    if theta < 1e3:
        np.testing.assert_allclose(counts, stats.gamma(theta, scale=mean / theta).ppf(u), rtol=1e-5, atol=1)
    else:
        skewness = 2 * sd / mean  # at most that of a gamma distribution
        np.testing.assert_allclose(counts, stats.norm(mean, sd).ppf(u), atol=2 * skewness * sd)
    assert count_quantiles(u[-1:], np.array([1e13]), np.array([theta])).tolist() == [MAX_COUNT]


@pytest.mark.parametrize("theta", [3.0, np.inf])
def test_counts_do_not_jump_where_they_are_no_longer_searched(theta):
    u = np.linspace(0.01, 0.99, 20)
    whole, continuous = (
        count_quantiles(u, np.full(20, mean), np.full(20, theta)) for mean in (2.0**24, 2.0**24 + 1)
    )
    assert (np.abs(continuous - whole) <= 5).all()
    np.testing.assert_array_equal(whole, quantile(u, 2.0**24, theta))
