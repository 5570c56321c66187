"""Principal axes of several sets of cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vaexprs.data.matrix import Matrix, densify

PCS = 50  # maximum number of principal axes
MAX_CELLS_FOR_AXES = 2_500  # maximum number of cells of each set


@dataclass(frozen=True)
class Axes:
    """Principal axes of equal numbers of cells of several sets.

    Parameters
    ----------
    mean
        Mean of each gene, (n_genes,).
    components
        The axes, (n_axes, n_genes).
    """

    mean: np.ndarray
    components: np.ndarray

    @classmethod
    def of(cls, parts: Sequence[Matrix], seed: int, n_axes: int = PCS) -> Axes:
        """Return up to `n_axes` axes of equal numbers of random cells of each part, (n_cells, n_genes)."""
        from sklearn.decomposition import PCA

        rng = np.random.default_rng(seed)
        n = min(MAX_CELLS_FOR_AXES, *(part.shape[0] for part in parts))
        samples = [densify(part[np.sort(rng.permutation(part.shape[0])[:n])]) for part in parts]
        x = np.concatenate(samples)
        pca = PCA(max(1, min(n_axes, len(x) - 1, x.shape[1])), random_state=seed)
        with np.errstate(invalid="ignore"):  # identical cells have a variance of 0
            pca.fit(x)
        return cls(pca.mean_.astype(np.float32), pca.components_.astype(np.float32))

    def of_cells(self, values: Matrix) -> np.ndarray:
        """Return the coordinates of cells, (n_cells, n_axes)."""
        return np.asarray(values @ self.components.T) - self.mean @ self.components.T
