"""Counts drawn sparse: exactly the distribution they are said to have."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats

from vaexprs.matrices import MOST_COUNT
from vaexprs.sampling import draw_counts

CELLS, BLOCKS = 250, 4_000  # a million draws of each gene
MEANS = (0.003, 0.05, 0.3, 0.9, 4.0, 30.0)
DISPERSIONS = (0.05, 0.5, 3.0, 100.0, np.inf)
GRID = [(mean, theta) for theta in DISPERSIONS for mean in MEANS]


def drawn(grid, *, logit=None, stratified, library=None, seed=0, blocks=BLOCKS):
    """Counts (blocks * CELLS, genes) of one group of cells; a gene for each mean and dispersion."""
    library = np.ones(CELLS) if library is None else library
    mean, theta = (np.array(values, float) for values in zip(*grid, strict=True))
    proportion = np.tile(mean.astype(np.float32), (CELLS, 1))
    logits = None if logit is None else np.full(proportion.shape, logit, np.float32)
    dispersion = None if np.isinf(theta).all() else theta[None]
    rows = [np.arange(CELLS)]
    parts = [
        draw_counts(
            np.random.default_rng((seed, i)), proportion, library, dispersion, logits, rows, stratified
        )
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


@pytest.mark.parametrize("logit", [None, -0.4])
def test_a_million_draws_follow_the_distribution_over_a_grid(logit):
    """Independent draws: chi-square, thirty genes at once (Bonferroni at 0.001)."""
    counts = drawn(GRID, logit=logit, stratified=False)
    excess = 0.0 if logit is None else 1 / (1 + np.exp(-np.float32(logit)))
    for j, (mean, theta) in enumerate(GRID):
        pmf = (1 - excess) * distribution(mean, theta).pmf(np.arange(3_000))
        pmf[0] += excess
        assert chi_square(column(counts, j), pmf) > 0.001 / len(GRID), (mean, theta)


def test_a_million_poisson_draws():
    grid = [(mean, np.inf) for mean in MEANS]
    counts = drawn(grid, stratified=False, seed=1)
    for j, (mean, theta) in enumerate(grid):
        assert chi_square(column(counts, j), distribution(mean, theta).pmf(np.arange(200))) > 0.001 / len(
            grid
        )


@pytest.mark.parametrize("theta", [0.3, 20.0, np.inf])
def test_large_means_by_kolmogorov_smirnov(theta):
    """Around the mean from which on SciPy finds the counts; distribution functions, exact for counts."""
    for mean in (200.0, 499.0, 501.0, 3_000.0):
        counts = column(drawn([(mean, theta)], stratified=False, blocks=400), 0)
        values, numbers = np.unique(counts, return_counts=True)
        distance = np.abs(np.cumsum(numbers) / len(counts) - distribution(mean, theta).cdf(values)).max()
        assert distance * np.sqrt(len(counts)) < 1.95  # P < 0.001 for continuous values, less for counts


@pytest.mark.parametrize("logit", [None, -0.4])
def test_spread_draws_have_the_same_distribution_and_each_block_has_its_share(logit):
    """In each block the number of cells above a count is what is expected, to within one."""
    counts = drawn(GRID, logit=logit, stratified=True, blocks=200)
    excess = 0.0 if logit is None else 1 / (1 + np.exp(-np.float32(logit)))
    for j, (mean, theta) in enumerate(GRID):
        blocks = column(counts, j).reshape(-1, CELLS)
        for k in (0, 1, 5, 40):
            share = (1 - excess) * distribution(mean, theta).sf(k)
            above = (blocks > k).sum(axis=1)
            assert (np.abs(above - CELLS * share) < 1 + 1e-6).all(), (mean, theta, k)
            error = 0.5 / np.sqrt(blocks.size)
            assert above.sum() / blocks.size == pytest.approx(share, abs=5 * error)


def test_every_cell_of_a_spread_block_has_the_distribution_of_its_own_mean():
    """Library sizes from 0.1 to 10: each cell over the blocks, by chi-square; genes and cells uncorrelated."""
    library = np.geomspace(0.1, 10, CELLS)
    grid = [(0.05, 0.5), (0.3, np.inf), (2.0, 3.0), (0.4, 0.2)]
    counts = drawn(grid, library=library, stratified=True, seed=2)
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
        [draw_counts(rng, proportion, np.ones(200), dispersion, None, groups, True) for _ in range(200)]
    )
    values = counts.toarray().reshape(200, 200, 5)
    assert values[:, ::2].var() == pytest.approx(2 + 4 / 0.1, rel=0.1)
    assert values[:, 1::2].var() == pytest.approx(2, rel=0.03)


def test_what_comes_is_a_canonical_csr_matrix_without_stored_zeros():
    counts = drawn(GRID, stratified=True, blocks=1).tocsr()
    one = draw_counts(
        np.random.default_rng(0),
        np.full((7, 30), 0.4, np.float32),
        np.ones(7),
        None,
        None,
        [np.array([5, 0, 3]), np.array([1]), np.array([2, 4, 6])],
        True,
    )
    for matrix in (counts, one):
        assert matrix.dtype == np.int32
        assert matrix.has_sorted_indices
        assert (matrix.data > 0).all()
    again = sp.csr_matrix(one.toarray())
    np.testing.assert_array_equal(one.indices, again.indices)
    np.testing.assert_array_equal(one.indptr, again.indptr)


@pytest.mark.parametrize("dispersion", [9e-4, 1.0, 8e3, np.inf])
@pytest.mark.parametrize("mean", [2.0**24, 1e12, 1e18])
def test_enormous_counts_are_found_at_once_and_fit_into_32_bits(mean, dispersion):
    """SciPy looked for one of them for minutes, and what it found came back negative."""
    n = 1_000
    theta = None if np.isinf(dispersion) else np.full((1, 2), dispersion)
    counts = draw_counts(
        np.random.default_rng(0),
        np.full((n, 2), 0.5, np.float32),
        np.full(n, 2 * mean),
        theta,
        None,
        [np.arange(n)],
        True,
    )
    assert counts.data.min() > 0
    assert counts.data.max() <= MOST_COUNT
    if mean < 1e9 and dispersion >= 1:
        assert counts.toarray().mean() == pytest.approx(mean, rel=0.02)
    if mean > 1e9 and dispersion > 1:
        assert (counts.data == MOST_COUNT).all()
