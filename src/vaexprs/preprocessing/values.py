"""Checks of values before a fit: too few cells, cells without counts, values that are not counts."""

from __future__ import annotations

from dataclasses import replace

import anndata as ad
import numpy as np

from vaexprs.data.backed import BackedCells, library_sizes
from vaexprs.data.count_detection import holds_counts
from vaexprs.data.matrix import Matrix
from vaexprs.interface.errors import warn
from vaexprs.interface.validation import listed
from vaexprs.preprocessing.summary import Summary

MIN_CELLS = 10  # minimum number of cells to fit
MIN_GENES = 2  # minimum number of genes to fit
FEW_GENES = 2_000  # number of genes up to which there is no warning of many genes
SAME_DEPTH = 1e-3  # maximum relative range of library sizes that count as equal
MAX_LOG = 25.0  # maximum of values that may be logarithms
SAMPLE = 1_000  # number of cells from which values are described


def check_enough_genes(cells: ad.AnnData | BackedCells, name: str) -> None:
    """Check that there are enough genes to fit.

    Raises
    ------
    ValueError
        If there are fewer than 2 genes.
    """
    if cells.n_vars < MIN_GENES:
        raise ValueError(
            f"{name} must have at least {MIN_GENES} genes to fit, got {cells.n_vars} "
            f"({listed(list(cells.var_names))}). If it is annotation of cells, give the counts and pass this "
            "table as obs= of read (--obs)."
        )


def check_enough_cells(cells: ad.AnnData | BackedCells, name: str) -> None:
    """Check that there are enough cells to fit.

    Raises
    ------
    ValueError
        If there are fewer than 10 cells.
    """
    if cells.n_obs < MIN_CELLS:
        hint = " If the genes are in the rows, pass transpose=True." if cells.n_vars > cells.n_obs else ""
        raise ValueError(
            f"{name} must have at least {MIN_CELLS} cells to fit, got {cells.n_obs} cells x {cells.n_vars:,} "
            f"genes.{'' if cells.n_obs < MIN_GENES else hint}"
        )


def without_empty(cells: ad.AnnData | BackedCells, name: str) -> ad.AnnData | BackedCells:
    """Return the cells that have counts, with a warning if others were left out.

    Raises
    ------
    ValueError
        If fewer than 10 cells have counts.
    """
    empty = library_sizes(cells.X) == 0
    if not empty.any():
        return cells
    n = cells.n_obs - int(empty.sum())
    if n < MIN_CELLS:
        raise ValueError(
            f"{name} must have at least {MIN_CELLS} cells with counts in the {cells.n_vars:,} genes of the "
            f"fit, got {n} of {cells.n_obs:,}. Use more genes (n_top_genes), or deeper cells."
        )
    why = f"have no counts in the {cells.n_vars:,} genes of the fit"
    return _leave_out(cells, empty, why, " To keep them use more genes (n_top_genes).")


def with_min_counts(cells: ad.AnnData | BackedCells, name: str, n: int) -> ad.AnnData | BackedCells:
    """Return the cells with at least `n` counts in all genes, with a warning if others were left out.

    Raises
    ------
    ValueError
        If the values are not counts, or fewer than 10 cells are left.
    """
    few = few_counts(cells, name, n)
    if not few.any():
        return cells
    left = cells.n_obs - int(few.sum())
    if left < MIN_CELLS:
        raise ValueError(
            f"min_counts must leave at least {MIN_CELLS} cells, but {left} of {cells.n_obs:,} have {n:,} "
            f"counts (median: {np.median(library_sizes(cells.X)):,.0f}). Try a smaller number."
        )
    return _leave_out(cells, few, f"have fewer than {n:,} counts in all {cells.n_vars:,} genes")


def few_counts(cells: ad.AnnData | BackedCells, name: str, n: int) -> np.ndarray:
    """Return which cells have fewer than `n` counts in all genes, (n_cells,).

    Raises
    ------
    ValueError
        If the values are not counts.
    """
    if not holds_counts(cells.X):
        raise ValueError(
            f"min_counts requires counts, but the values of {name} are not. Name a layer with counts "
            "(layer='counts'), or leave min_counts out."
        )
    return np.asarray(library_sizes(cells.X) < n)


def _leave_out(
    cells: ad.AnnData | BackedCells, dropped: np.ndarray, why: str, hint: str = ""
) -> ad.AnnData | BackedCells:
    """Return the other cells, and warn that these were left out and why."""
    first, rows = np.flatnonzero(dropped), np.flatnonzero(~dropped)
    names = cells.take_names(first) if isinstance(cells, BackedCells) else cells.obs_names[first]
    warn(f"{len(first):,} of {cells.n_obs:,} cells {why} and are left out ({listed(list(names))}).{hint}")
    if isinstance(cells, BackedCells):
        obs = cells.obs.iloc[rows].reset_index(drop=True)
        return replace(cells, X=cells.X.keep(rows), obs=obs, names=cells.take_names(rows))
    return cells[rows].copy()


def warn_of_other_values(x: Matrix, summary: Summary) -> None:
    """Warn that values are fitted as they are, which are not counts, and what they look like."""
    part = x[: min(SAMPLE, x.shape[0])]
    totals = np.asarray(part.sum(axis=1), np.float64).ravel()
    low, high = float(summary.low.min()), float(summary.high.max())
    if low < 0:
        what = f"values from {low:.3g} to {high:.3g}, which look scaled or centred"
    elif len(totals) > 1 and totals.min() > 0 and np.ptp(totals) <= SAME_DEPTH * totals.mean():
        what = f"values that sum to {totals.mean():,.0f} in each cell, such as CPM or TPM"
    elif high <= MAX_LOG:
        what = f"fractions up to {high:.3g}, which look like logarithms"
    else:
        what = f"fractions, {summary.fractions:,} of {summary.nonzero:,} values other than 0"
    warn(
        f"The cells contain no counts but {what}; they are fitted with likelihood 'gaussian'. If there are "
        "counts, give them (layer='counts'); they are fitted better. If not, pass likelihood='gaussian' "
        "(--likelihood gaussian), which leaves out this warning."
    )


def warn_of_many_genes(n_cells: int, n_genes: int) -> None:
    """Warn that a fit of more genes than cells leaks which cells were in training."""
    if n_genes <= max(n_cells, FEW_GENES):
        return
    warn(
        f"{n_genes:,} genes are many for {n_cells:,} cells: generated cells will reveal which cells were "
        "used for training. With 1,000 blood cells the AUC of such an attack was 0.98 with all 16,791 genes, "
        "0.80 with the 2,000 most variable and 0.64 with 500; the generated cells were equally realistic. "
        f"Use n_top_genes={FEW_GENES}, or n_top_genes={n_genes} to fit all genes without this warning."
    )
