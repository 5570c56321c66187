"""Choose the number of latent dimensions and the splines of continuous covariates from the cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.sparse.linalg import eigsh
from sklearn.decomposition import PCA

from vaexprs.data.backed import BackedMatrix
from vaexprs.data.matrix import Matrix, densify, log_normalised
from vaexprs.interface.errors import warn
from vaexprs.latent.density import groups_of
from vaexprs.preprocessing.conditions import Conditions
from vaexprs.preprocessing.prepare import Cells
from vaexprs.preprocessing.splines import Spline, choose_degrees

MAX_CELLS = 5_000  # maximum number of cells to analyse; of more a seeded random subset is used
MAX_GENES = 2_000  # maximum number of genes to analyse; of more the most variable ones are used
PERMUTATIONS = 3
# With fewer dimensions generated cells were not closer to real ones where less than ten components exceeded
# the noise.
MIN_DIM = 10
MAX_DIM = 64
COMPONENTS = 10  # number of principal components by which an effect on many genes is found


@dataclass(frozen=True)
class Capacity:
    """Number of latent dimensions and the analysis that it follows from.

    Parameters
    ----------
    latent_dim
        Number of latent dimensions.
    components
        Number of principal components of the cells that exceed the noise.
    threshold
        Variance that the first component of noise reaches, in units of the mean variance of a gene.
    """

    latent_dim: int
    components: int
    threshold: float

    @property
    def reason(self) -> str:
        """The choice in words."""
        found = f"{self.components} principal component{'' if self.components == 1 else 's'} above noise"
        if self.components < MIN_DIM:
            return f"{found}, at least {MIN_DIM}"
        return f"{found}, at most {MAX_DIM}" if self.components > MAX_DIM else found


def choose_capacity(cells: Cells, conditions: Conditions, counts: bool, seed: int) -> Capacity:
    """Choose the number of latent dimensions by parallel analysis.

    The values of each gene (for counts, log-normalized) are centred within each combination of conditions and
    scaled to unit variance. A principal component counts if its variance exceeds the largest variance of a
    component of permuted values: the values of each gene are permuted among the cells of a combination, which
    removes all correlation between genes (Horn 1965, doi:10.1007/BF02289447; Buja & Eyuboglu 1992,
    doi:10.1207/s15327906mbr2704_2).

    Parameters
    ----------
    cells
        Prepared training cells.
    conditions
        Levels of label and covariates.
    counts
        Whether the values are counts.
    seed
        Seed of the subset of cells and of the permutations.
    """
    rng = np.random.default_rng(seed)
    rows = np.arange(len(cells))
    if len(cells) > MAX_CELLS:
        rows = np.sort(rng.choice(len(cells), MAX_CELLS, replace=False))
    chosen = cells.take(rows)
    groups = list(groups_of(chosen.obs, conditions).values())
    values = residuals(chosen.x, groups, counts)
    if not values.size:
        return Capacity(MIN_DIM, 0, 0.0)
    threshold = max(_first_variance(_permuted(values, groups, rng)) for _ in range(PERMUTATIONS))
    components = int((_variances(values) > threshold).sum())
    return Capacity(int(np.clip(components, MIN_DIM, MAX_DIM)), components, threshold)


def residuals(x: Matrix, groups: list[np.ndarray], counts: bool) -> np.ndarray:
    """Return the most variable genes, centred within groups, with unit variance, (n_cells, n_selected)."""
    values = log_normalised(x) if counts else x
    if sp.issparse(values):
        values = values.tocsc()

    def centred(genes: np.ndarray) -> np.ndarray:
        block = densify(values[:, genes]).astype(np.float32)
        for rows in groups:
            block[rows] -= block[rows].mean(axis=0)
        return block

    parts = np.array_split(np.arange(x.shape[1]), -(-x.shape[1] // MAX_GENES))
    sd = np.concatenate([centred(genes).std(axis=0) for genes in parts])
    genes = np.argsort(-sd, kind="stable")[:MAX_GENES]
    genes = np.sort(genes[sd[genes] > 1e-6])
    return centred(genes) / sd[genes]


def _permuted(values: np.ndarray, groups: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    permuted = np.empty_like(values)
    for rows in groups:
        block = values[rows]
        permuted[rows] = rng.permuted(block, axis=0, out=block)
    return permuted


def _gram(values: np.ndarray) -> np.ndarray:
    """Return the smaller of the two matrices whose eigenvalues are the variances of the components."""
    n, genes = values.shape
    product = values @ values.T if n < genes else values.T @ values
    return np.asarray(product / n)


def _variances(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.eigvalsh(_gram(values)))


def _first_variance(values: np.ndarray) -> float:
    gram = _gram(values)
    if len(gram) < 3:
        return float(np.linalg.eigvalsh(gram)[-1])
    start = np.random.default_rng(0).standard_normal(len(gram))  # SciPy's default start is not reproducible
    return float(eigsh(gram, k=1, v0=start, return_eigenvectors=False)[0])


def with_continuous(
    conditions: Conditions,
    numbers: Mapping[str, np.ndarray],
    obs: pd.DataFrame,
    x: Matrix | BackedMatrix,
    counts: bool,
    seed: int,
) -> Conditions:
    """Return the conditions with a spline for each continuous covariate.

    The degrees of freedom are chosen from at most 2,000 genes of at most 5,000 cells (for counts,
    log-normalized), centred within each combination of levels and scaled to unit variance, and their
    principal components.

    Parameters
    ----------
    conditions
        Levels of label and categorical covariates.
    numbers
        Values of each continuous covariate, (n_cells,).
    obs
        Label and covariates of each cell.
    x
        Values of the cells, (n_cells, n_genes).
    counts
        Whether they are counts.
    seed
        Seed of the choice of cells and of the components.
    """
    if not numbers:
        return conditions
    for key, values in numbers.items():
        _check_varies(key, values, obs, conditions)
    rows = np.arange(len(obs))
    if len(rows) > MAX_CELLS:
        rows = np.sort(np.random.default_rng(seed).choice(len(obs), MAX_CELLS, replace=False))
    groups = list(groups_of(obs.iloc[rows], conditions).values())
    scores = residuals(x.take(rows) if isinstance(x, BackedMatrix) else x[rows], groups, counts)
    if min(scores.shape) > COMPONENTS:
        components = PCA(COMPONENTS, svd_solver="randomized", random_state=seed).fit_transform(scores)
        scores = np.concatenate([scores, components], axis=1)
    continuous = {}
    for key, values in numbers.items():
        degrees = choose_degrees(values[rows], scores, groups) if scores.size else 1
        continuous[key] = Spline.fit(values, degrees)
    return replace(conditions, continuous=continuous)


def _check_varies(key: str, values: np.ndarray, obs: pd.DataFrame, conditions: Conditions) -> None:
    """Warn if a covariate has a single value in each combination of levels."""
    groups = groups_of(obs, conditions).values()
    if all(np.ptp(values[rows]) == 0 for rows in groups):
        warn(
            f"{key!r} has one value within each combination of {', '.join(conditions.keys)}, so its effect "
            "cannot be separated from theirs. Leave out the covariate that determines it."
        )
