"""Selection of highly variable genes."""

from __future__ import annotations

from dataclasses import replace

import anndata as ad
import numpy as np

from vaexprs.data.backed import BackedCells
from vaexprs.data.matrix import as_float
from vaexprs.preprocessing.summary import INPUT_TARGET, Summary

LOOKED_AT = 20_000  # cells that variable genes are chosen by, in runs of so many ...
RUN = 100  # ... cells that follow each other
MAX_LOG = 50.0  # the logarithm of a count, or of a normalised one, is not larger


def with_variable_genes(cells: ad.AnnData | BackedCells, n: int, seed: int) -> ad.AnnData | BackedCells:
    """Return cells with their `n` most variable genes, in the order they had.

    Scanpy's `highly_variable_genes` chooses, by default as Seurat does (Satija et al. 2015,
    doi:10.1038/nbt.3192), from the logarithms of counts per 10,000; values that are not counts are taken as
    they are, unless they are too large to be logarithms. Of many cells it looks at 20,000, in runs from
    random places.

    Raises
    ------
    ValueError
        If no gene varies, as in one cell, or none can be compared.
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
            f"n_top_genes chooses genes that vary, but none does among {x.shape[0]:,} cells. Leave it out."
        )
    with np.errstate(all="ignore"):  # of genes that hardly vary
        if summary.whole:
            sc.pp.normalize_total(some_cells, target_sum=INPUT_TARGET)
        if summary.whole or (summary.low.min() >= 0 and summary.high.max() > MAX_LOG):
            sc.pp.log1p(some_cells)
        try:
            sc.pp.highly_variable_genes(some_cells, n_top_genes=n)
            columns = np.flatnonzero(some_cells.var["highly_variable"])
        except (IndexError, ValueError):  # not one gene has a dispersion that can be compared
            columns = np.arange(0)
    if not len(columns):
        raise ValueError(
            f"n_top_genes needs genes with values that can be compared, which the {x.shape[0]:,} cells "
            "do not have: too few of them are not zero, or vary. Leave it out."
        )
    if isinstance(cells, BackedCells):
        return replace(cells, X=cells.X.mapped(columns, None), var_names=cells.var_names[columns])
    return cells[:, columns].copy()


def _some_runs(n: int, seed: int) -> np.ndarray:
    """Return sorted rows, all or those of runs from random places."""
    if n <= LOOKED_AT:
        return np.arange(n)
    runs = np.random.default_rng(seed).choice(n // RUN, LOOKED_AT // RUN, replace=False)
    return np.sort((runs[:, None] * RUN + np.arange(RUN)).ravel())
