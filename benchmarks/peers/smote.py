# /// script
# requires-python = ">=3.11"
# dependencies = ["anndata>=0.12", "numpy>=2", "pandas>=2.2", "scikit-learn>=1.6", "scipy>=1.15"]
# ///
"""SMOTE (Chawla et al. 2002, doi:10.1613/jair.953) for counts.

A cell is interpolated between a training cell and one of its five nearest neighbours of the same label, in
log(1 + counts per 10,000). Its values are scaled to the library size, interpolated on the log scale, and
rounded at random to one of the two nearest counts. Of this, the nearest count and Poisson samples, this had
the lowest AUCs (see ../peers.py), on average over two data sets.
"""

from typing import NamedTuple

import anndata as ad
import numpy as np
from exchange import Generate, Numbers, by_label, main
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

NEIGHBOURS = 5
PCS = 30  # in which neighbours are found


class Cells(NamedTuple):
    """Training cells of one label."""

    logs: np.ndarray  # log(1 + counts per 10,000), (n_cells, n_genes)
    library: np.ndarray  # (n_cells,)
    neighbours: np.ndarray  # (n_cells, n_neighbours)


def one_label(counts: np.ndarray, rng: np.random.Generator) -> Cells:
    library = counts.sum(axis=1)
    logs = np.log1p(1e4 * counts / library[:, None])
    pcs = PCA(min(PCS, *counts.shape), random_state=0).fit_transform(logs) if len(counts) > 1 else logs
    nearest = NearestNeighbors(n_neighbors=min(NEIGHBOURS + 1, len(counts))).fit(pcs)
    # the first is the cell itself, which is also its neighbour if it is the only one of its label
    return Cells(logs, library, nearest.kneighbors(pcs, return_distance=False)[:, int(len(counts) > 1) :])


def sample(cells: Cells, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return counts of n cells, (n, n_genes)."""
    one = rng.integers(len(cells.logs), size=n)
    two = cells.neighbours[one, rng.integers(cells.neighbours.shape[1], size=n)]
    weight = rng.random((n, 1))
    logs = cells.logs[one] + weight * (cells.logs[two] - cells.logs[one])
    sizes = np.log(cells.library)[:, None]
    library = np.exp(sizes[one] + weight * (sizes[two] - sizes[one]))
    rate = np.expm1(logs)
    rate *= library / rate.sum(axis=1, keepdims=True)
    return np.floor(rate + rng.random(rate.shape))


def fit(train: ad.AnnData, key: str, seed: int) -> Generate:
    labels = by_label(train, key, one_label, seed)

    def generate(numbers: Numbers, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return np.concatenate([sample(labels[label], n, rng) for label, n in numbers.items()])

    return generate


if __name__ == "__main__":
    main(__doc__, fit)
