"""Selection of highly variable genes."""

from __future__ import annotations

from dataclasses import replace

import anndata as ad
import numpy as np

from vaexprs.data.backed import BackedCells
from vaexprs.data.matrix import TARGET_SUM, as_float
from vaexprs.preprocessing.summary import Summary

SELECTION_CELLS = 20_000  # maximum number of cells used to select variable genes
RUN = 100  # consecutive cells per run: these cells are read in runs
MAX_LOG = 50.0  # upper bound of log counts; larger values cannot be logarithms


def with_variable_genes(cells: ad.AnnData | BackedCells, n: int, seed: int) -> ad.AnnData | BackedCells:
    """Return cells with their `n` most variable genes, in the original order.

    Genes are selected by Scanpy's `highly_variable_genes` with its default, the Seurat method (Satija et al.
    2015, doi:10.1038/nbt.3192). Counts are normalised to 10,000 per cell and log-transformed first. Other
    values are used as they are, or log-transformed if they are too large to be logarithms. With more than
    20,000 cells, 20,000 are used, in runs of consecutive cells at random positions.

    Raises
    ------
    ValueError
        If no gene varies (for example with a single cell), or no gene has a dispersion.
    """
    import scanpy as sc

    if n >= cells.n_vars:
        return cells
    rows = _some_runs(cells.n_obs, seed)
    x = cells.X.take(rows) if isinstance(cells, BackedCells) else as_float(cells.X[rows])
    some_cells = ad.AnnData(x.copy())
    summary = Summary.of(x)
    if not (summary.low < summary.high).any():
        raise ValueError(
            f"n_top_genes needs genes that vary between cells, got none in {x.shape[0]:,} cells. "
            "Leave n_top_genes out."
        )
    with np.errstate(all="ignore"):  # from genes that hardly vary
        if summary.whole:
            sc.pp.normalize_total(some_cells, target_sum=TARGET_SUM)
        if summary.whole or (summary.low.min() >= 0 and summary.high.max() > MAX_LOG):
            sc.pp.log1p(some_cells)
        try:
            sc.pp.highly_variable_genes(some_cells, n_top_genes=n)
            columns = np.flatnonzero(some_cells.var["highly_variable"])
        except (IndexError, ValueError):  # no gene has a finite dispersion
            columns = np.arange(0)
    if not len(columns):
        raise ValueError(
            f"n_top_genes needs genes with a finite dispersion, got none in {x.shape[0]:,} cells: too few "
            "values are non-zero or vary. Leave n_top_genes out."
        )
    if isinstance(cells, BackedCells):
        return replace(cells, X=cells.X.mapped(columns, None), var_names=cells.var_names[columns])
    return cells[:, columns].copy()


def _some_runs(n: int, seed: int) -> np.ndarray:
    """Return sorted rows: all, or those of runs at random positions."""
    if n <= SELECTION_CELLS:
        return np.arange(n)
    runs = np.random.default_rng(seed).choice(n // RUN, SELECTION_CELLS // RUN, replace=False)
    return np.sort((runs[:, None] * RUN + np.arange(RUN)).ravel())
