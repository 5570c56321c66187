"""Selection of genes: highly variable ones, or those of a list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd

from vaexprs.data.backed import BackedCells
from vaexprs.data.matrix import TARGET_SUM, as_float
from vaexprs.interface.errors import warn
from vaexprs.interface.validation import listed
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
    return _take_genes(cells, columns)


def check_genes(genes: object) -> list[str] | None:
    """Return a list of gene names, or None if none was given.

    Raises
    ------
    TypeError
        If `genes` is not a list of strings.
    ValueError
        If it is empty or names a gene twice.
    """
    if genes is None:
        return None
    if not isinstance(genes, (list, tuple, np.ndarray, pd.Index, pd.Series)):
        raise TypeError(
            f"genes must be a list of gene names, got {type(genes).__name__}. Try ['CD3D', 'LYZ']."
        )
    names = list(genes)
    odd = [name for name in names if not isinstance(name, str)]
    if odd:
        raise TypeError(f"genes must be a list of gene names, got {odd[0]!r} in it.")
    if not names:
        raise ValueError("genes must name at least one gene, got none.")
    twice = pd.Index(names)[pd.Index(names).duplicated()].unique()
    if len(twice):
        raise ValueError(f"genes must name each gene once, got {listed(list(twice))} more than once.")
    return names


def with_genes(cells: ad.AnnData | BackedCells, genes: Sequence[str]) -> ad.AnnData | BackedCells:
    """Return cells with the listed genes, in the order of the cells; a warning names the unknown ones.

    Raises
    ------
    ValueError
        If the cells have none of the genes.
    """
    known = cells.var_names.isin(genes)
    if not known.any():
        raise ValueError(
            f"genes must name genes of the cells ({listed(list(cells.var_names))}), got "
            f"{listed(list(genes))}, none of which they have. Check the kind of the names, such as symbols "
            "or Ensembl numbers."
        )
    unknown = pd.Index(genes).difference(cells.var_names, sort=False)
    if len(unknown):
        warn(
            f"{len(unknown):,} of the {len(genes):,} listed genes are not in the cells and are left out: "
            f"{listed(list(unknown))}."
        )
    return _take_genes(cells, np.flatnonzero(known))


def _take_genes(cells: ad.AnnData | BackedCells, columns: np.ndarray) -> ad.AnnData | BackedCells:
    if isinstance(cells, BackedCells):
        return replace(cells, X=cells.X.mapped(columns, None), var_names=cells.var_names[columns])
    # not a subset of the AnnData, which would drop categories without cells
    return ad.AnnData(cells.X[:, columns], obs=cells.obs, var=cells.var.iloc[columns])


def _some_runs(n: int, seed: int) -> np.ndarray:
    """Return sorted rows: all, or those of runs at random positions."""
    if n <= SELECTION_CELLS:
        return np.arange(n)
    runs = np.random.default_rng(seed).choice(n // RUN, SELECTION_CELLS // RUN, replace=False)
    return np.sort((runs[:, None] * RUN + np.arange(RUN)).ravel())
