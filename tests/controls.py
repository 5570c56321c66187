"""Known-bad cells: real cells spoiled on purpose, each in one way that an evaluation must notice.

Each function takes real cells (as if generated), spare real cells to take replacements from, the column of
`obs` with the label and a random generator, and returns new cells. Counts stay whole numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import anndata as ad
import numpy as np
import scipy.sparse as sp

MIN_CELLS = 10  # types with fewer cells are left out of all roles
Spoil = Callable[[ad.AnnData, ad.AnnData, str, np.random.Generator], ad.AnnData]


class Labels(NamedTuple):
    """Label of each cell, and the largest and the rarest label."""

    of_cells: np.ndarray
    largest: str
    rarest: str


def dense(cells: ad.AnnData) -> np.ndarray:
    return np.asarray(cells.X.toarray() if sp.issparse(cells.X) else cells.X, np.float64)


def log_normalised(x: np.ndarray) -> np.ndarray:
    return np.log1p(1e4 * x / np.maximum(x.sum(axis=1, keepdims=True), 1))


def labels_of(cells: ad.AnnData, key: str) -> Labels:
    column = cells.obs[key].astype(str).to_numpy()
    names, sizes = np.unique(column, return_counts=True)
    return Labels(column, str(names[sizes.argmax()]), str(names[sizes.argmin()]))


def with_values(cells: ad.AnnData, x: np.ndarray) -> ad.AnnData:
    return ad.AnnData(sp.csr_matrix(x, dtype=np.float32), obs=cells.obs.copy(), var=cells.var[[]].copy())


def some(n: int, share: float, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(n)[: round(share * n)]


def unchanged(cells, spare, key, rng):
    return with_values(cells, dense(cells))


def labels_swapped(cells, spare, key, rng):
    """A tenth of the cells have another label."""
    column, (names, _) = labels_of(cells, key).of_cells.copy(), np.unique(cells.obs[key], return_counts=True)
    for i in some(cells.n_obs, 0.1, rng):
        column[i] = rng.choice([name for name in names if name != column[i]])
    new = with_values(cells, dense(cells))
    new.obs[key] = column
    return new


def subcluster_missing(cells, spare, key, rng):
    """One of three k-means clusters of the largest type is missing."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    labels = labels_of(cells, key)
    rows = np.flatnonzero(labels.of_cells == labels.largest)
    own = log_normalised(dense(spare)[labels_of(spare, key).of_cells == labels.largest])
    pca = PCA(min(10, len(own) - 1), random_state=0).fit(own)
    means = KMeans(3, n_init=5, random_state=0).fit(pca.transform(own))
    found = means.predict(pca.transform(log_normalised(dense(cells)[rows])))
    sizes = np.bincount(found, minlength=3)
    missing = np.argsort(sizes)[1]  # neither the largest nor the smallest
    kept = np.setdiff1d(np.arange(cells.n_obs), rows[found == missing])
    return with_values(cells[kept], dense(cells)[kept])


def zeros_to_ones(cells, spare, key, rng):
    """Two percent of the zeros are ones."""
    x = dense(cells)
    return with_values(cells, np.where((x == 0) & (rng.random(x.shape) < 0.02), 1, x))


def zeros_inflated(cells, spare, key, rng):
    """Five percent of the counts are zeros."""
    x = dense(cells)
    return with_values(cells, np.where(rng.random(x.shape) < 0.05, 0, x))


def doublets(cells, spare, key, rng):
    """A tenth of the cells are sums of two cells."""
    x, other = dense(cells), dense(spare)
    rows = some(len(x), 0.1, rng)
    x[rows] += other[rng.permutation(len(other))[: len(rows)]] if len(other) >= len(rows) else 0
    return with_values(cells, x)


def junk(cells, spare, key, rng):
    """One cell in twenty has counts of all genes alike, half of them ambient."""
    x = dense(cells)
    ambient = 0.5 * x.sum(axis=0) / x.sum() + 0.5 / x.shape[1]
    for i in some(len(x), 0.05, rng):
        x[i] = rng.multinomial(int(x[i].sum()), ambient)
    return with_values(cells, x)


def rarest_from_its_mean(cells, spare, key, rng):
    """The cells of the rarest type are Poisson draws of its mean."""
    x, labels = dense(cells), labels_of(cells, key)
    rows = labels.of_cells == labels.rarest
    x[rows] = rng.poisson(np.broadcast_to(x[rows].mean(axis=0), x[rows].shape))
    return with_values(cells, x)


def rarest_replaced(cells, spare, key, rng):
    """The cells of the rarest type are cells of the largest type."""
    x, labels = dense(cells), labels_of(cells, key)
    rows = np.flatnonzero(labels.of_cells == labels.rarest)
    other = dense(spare)[labels_of(spare, key).of_cells == labels.largest]
    rows, other = rows[: len(other)], other[: len(rows)]
    x[rows] = other
    return with_values(cells, x)


def genes_scaled(cells, spare, key, rng):
    """One gene in twenty has twice or half of its counts."""
    x = dense(cells)
    genes = some(x.shape[1], 0.05, rng)
    double, half = np.array_split(genes, 2)
    x[:, double] *= 2
    x[:, half] = rng.binomial(x[:, half].astype(int), 0.5)
    return with_values(cells, x)


def genes_copied(cells, spare, key, rng):
    """One gene in twenty has the counts of another gene."""
    x = dense(cells)
    genes, others = some(x.shape[1], 0.05, rng), some(x.shape[1], 0.05, rng)
    x[:, genes] = dense(cells)[:, others]
    return with_values(cells, x)


def permuted(x: np.ndarray, labels: np.ndarray, genes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Permute the values of each gene among the cells of a label."""
    x = x.copy()
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        for gene in genes:
            x[rows, gene] = x[rng.permutation(rows), gene]
    return x


def genes_independent(cells, spare, key, rng):
    """Each gene is permuted among the cells of a type."""
    x = dense(cells)
    return with_values(cells, permuted(x, labels_of(cells, key).of_cells, np.arange(x.shape[1]), rng))


def module_shuffled(cells, spare, key, rng):
    """The 30 genes that correlate most within types are permuted among the cells of a type."""
    x, column = dense(cells), labels_of(cells, key).of_cells
    log = log_normalised(dense(spare))
    of_spare = labels_of(spare, key).of_cells
    for label in np.unique(of_spare):
        log[of_spare == label] -= log[of_spare == label].mean(axis=0)
    top = np.argsort(-log.var(axis=0))[:200]
    r = np.abs(np.corrcoef(log[:, top].T))
    module = top[np.argsort(-r[np.argmax(np.sort(r, axis=0)[-30:].sum(axis=0))])[:30]]
    return with_values(cells, permuted(x, column, module, rng))


def types_collapsed(cells, spare, key, rng):
    """The cells of each type are Poisson draws of its mean."""
    x, column = dense(cells), labels_of(cells, key).of_cells
    for label in np.unique(column):
        rows = column == label
        x[rows] = rng.poisson(np.broadcast_to(x[rows].mean(axis=0), x[rows].shape))
    return with_values(cells, x)


def library_smaller(cells, spare, key, rng):
    """The library sizes are 20% smaller."""
    return with_values(cells, rng.binomial(dense(cells).astype(int), 0.8))


def library_larger(cells, spare, key, rng):
    """The library sizes are 20% larger."""
    x = dense(cells)
    return with_values(cells, x + rng.binomial(x.astype(int), 0.2))


def dispersion_doubled(cells, spare, key, rng):
    """The squared coefficient of variation of each gene's rate is doubled (theta is halved)."""
    from vaexprs.metrics.functions import excess_variance

    x, column = dense(cells), labels_of(cells, key).of_cells
    library = x.sum(axis=1) / np.median(x.sum(axis=1))
    excess = np.nan_to_num(excess_variance(x / library[:, None], library, column))
    excess = np.clip(excess, 0.01, 5)
    factor = rng.gamma(1 / excess, excess, x.shape)
    # a Poisson count times a gamma factor: thinned below 1, increased above
    thinned = rng.binomial(x.astype(int), np.minimum(factor, 1))
    return with_values(cells, thinned + rng.poisson(x * np.maximum(factor - 1, 0)))


def dispersion_halved(cells, spare, key, rng):
    """Each cell is half of one cell and half of another of its type: theta is doubled."""
    x, column = dense(cells), labels_of(cells, key).of_cells
    other = x.copy()
    for label in np.unique(column):
        rows = np.flatnonzero(column == label)
        other[rows] = x[np.roll(rng.permutation(rows), 1)]
    return with_values(cells, sum(rng.binomial(part.astype(int), 0.5) for part in (x, other)))


def copied(cells, spare, key, rng):
    """The cells are drawn with replacement from half as many."""
    x, column = dense(cells), labels_of(cells, key).of_cells
    for label in np.unique(column):
        rows = rng.permutation(np.flatnonzero(column == label))
        x[rows] = x[rng.choice(rows[: max(1, len(rows) // 2)], len(rows))]
    return with_values(cells, x)


CONTROLS: dict[str, Spoil] = {
    function.__name__: function
    for function in (
        labels_swapped,
        subcluster_missing,
        zeros_to_ones,
        zeros_inflated,
        doublets,
        junk,
        rarest_from_its_mean,
        rarest_replaced,
        genes_scaled,
        genes_copied,
        genes_independent,
        module_shuffled,
        types_collapsed,
        library_smaller,
        library_larger,
        dispersion_doubled,
        dispersion_halved,
        copied,
    )
}


def evenly_spread_draws(n: int, genes: int, rng: np.random.Generator, *, spread: bool) -> ad.AnnData:
    """Draw cells of two types from a known truth, independently or with evenly spread random numbers."""
    from scipy.stats import nbinom

    truth = np.random.default_rng(0)
    means = truth.gamma(0.5, 2, (2, genes))
    label = np.repeat([0, 1], n // 2)
    uniform = rng.random((n, genes))
    if spread:
        for first in range(0, n, n // 2):
            rows = np.arange(first, first + n // 2)
            strata = rng.permuted(np.tile(np.arange(len(rows))[:, None], genes), axis=0)
            uniform[rows] = (strata + uniform[rows]) / len(rows)
    x = nbinom.ppf(uniform, 2, 2 / (2 + means[label]))
    cells = ad.AnnData(sp.csr_matrix(x, dtype=np.float32))
    cells.obs["cell_type"] = np.array(["first", "second"])[label]
    return cells


def roles(cells: ad.AnnData, key: str, n: int, rng: np.random.Generator) -> list[ad.AnnData]:
    """Return real cells in four roles: as if generated (about n), real (n), training and spare."""
    column = cells.obs[key].astype(str).to_numpy()
    names, sizes = np.unique(column, return_counts=True)
    parts: list[list[np.ndarray]] = [[], [], [], []]
    for name, size in zip(names, sizes, strict=True):
        if size < MIN_CELLS:
            continue
        rows = rng.permutation(np.flatnonzero(column == name))
        k = min(max(1, round(n * size / len(column))), size // 3)
        rest = rows[2 * k :]
        for part, chosen in zip(
            parts, (rows[:k], rows[k : 2 * k], rest[len(rest) // 3 :], rest[: len(rest) // 3]), strict=True
        ):
            part.append(chosen)
    return [cells[np.sort(np.concatenate(part))].copy() for part in parts]
