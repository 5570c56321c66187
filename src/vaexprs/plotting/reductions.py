"""Dimension reductions of `plot_aug`."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import anndata as ad
import numpy as np

MAX_EXACT = 4_096  # number of cells up to which UMAP compares all pairs of cells
PCS = 50  # number of principal components before MDS, t-SNE, UMAP and diffusion maps
# (values, seed, arguments) -> embedding (n_cells, n_components) and names of the first two axes
Reduction = Callable[[np.ndarray, int, dict[str, Any]], tuple[np.ndarray, tuple[str, str]]]


def _pca(x: np.ndarray, seed: int, kwargs: dict[str, Any]) -> tuple[np.ndarray, tuple[str, str]]:
    from sklearn.decomposition import PCA

    pca = PCA(**({"n_components": 2, "random_state": seed} | kwargs))
    z = pca.fit_transform(x)
    share = 100 * pca.explained_variance_ratio_
    return z, (f"PC1 ({share[0]:.1f}%)", f"PC2 ({share[1]:.1f}%)")


def _mds(x: np.ndarray, seed: int, kwargs: dict[str, Any]) -> tuple[np.ndarray, tuple[str, str]]:
    from sklearn.manifold import ClassicalMDS

    return ClassicalMDS(**({"n_components": 2} | kwargs)).fit_transform(_few_pcs(x, seed)), ("MDS1", "MDS2")


def _tsne(x: np.ndarray, seed: int, kwargs: dict[str, Any]) -> tuple[np.ndarray, tuple[str, str]]:
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(x) - 1) / 3)
    tsne = TSNE(**({"random_state": seed, "init": "pca", "perplexity": perplexity} | kwargs))
    return tsne.fit_transform(_few_pcs(x, seed)), ("TSNE1", "TSNE2")


def _umap(x: np.ndarray, seed: int, kwargs: dict[str, Any]) -> tuple[np.ndarray, tuple[str, str]]:
    from umap import UMAP

    settings = {"random_state": seed, "n_neighbors": min(15, len(x) - 1), "n_jobs": 1} | kwargs
    x, n = _few_pcs(x, seed), settings["n_neighbors"]
    if n < len(x) <= MAX_EXACT and not {"metric", "precomputed_knn"} & set(kwargs):
        settings |= {
            "precomputed_knn": _neighbors(x, n),
            "force_approximation_algorithm": True,  # otherwise UMAP searches again if there are few cells
        }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*NNDescent")  # only needed to add cells to an embedding
        return UMAP(**settings).fit_transform(x), ("UMAP1", "UMAP2")


def _neighbors(x: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return indices and distances of the nearest neighbours of each cell, itself first, (n_cells, n) each.

    The same neighbours that UMAP finds among few cells, without the compilation of UMAP's search.
    """
    from sklearn.neighbors import NearestNeighbors

    distances, rows = NearestNeighbors(n_neighbors=n).fit(x).kneighbors(x)
    return rows.astype(np.int32), distances.astype(np.float32)


def _nmf(x: np.ndarray, seed: int, kwargs: dict[str, Any]) -> tuple[np.ndarray, tuple[str, str]]:
    from sklearn.decomposition import NMF
    from sklearn.exceptions import ConvergenceWarning

    if (x < 0).any():
        raise ValueError("NMF requires non-negative values, got negative ones. Use 'PCA'.")
    settings = {"n_components": 2, "init": "nndsvda", "random_state": seed, "max_iter": 500} | kwargs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return NMF(**settings).fit_transform(x), ("NMF1", "NMF2")


def _diffusion_map(x: np.ndarray, seed: int, kwargs: dict[str, Any]) -> tuple[np.ndarray, tuple[str, str]]:
    import scanpy as sc

    cells = ad.AnnData(_few_pcs(x, seed))
    of_neighbors = {k: v for k, v in kwargs.items() if k in inspect.signature(sc.pp.neighbors).parameters}
    settings = {"n_neighbors": min(15, len(x) - 1), "use_rep": "X", "random_state": seed} | of_neighbors
    sc.pp.neighbors(cells, **settings)
    rest = {k: v for k, v in kwargs.items() if k not in of_neighbors}
    sc.tl.diffmap(cells, **({"n_comps": min(15, len(x) - 2), "random_state": seed} | rest))
    return np.asarray(cells.obsm["X_diffmap"])[:, 1:], ("DC1", "DC2")  # the first component is constant


def _few_pcs(x: np.ndarray, seed: int) -> np.ndarray:
    """Return up to 50 principal components, which reduce the cost and noise of distances."""
    most = min(PCS, len(x) - 1, x.shape[1])
    return x if most < 2 else _pca(x, seed, {"n_components": most})[0]


REDUCTIONS: dict[str, Reduction] = {
    "PCA": _pca,
    "MDS": _mds,
    "TSNE": _tsne,
    "UMAP": _umap,
    "NMF": _nmf,
    "DiffusionMap": _diffusion_map,
}
