"""Summary statistics of the values of each gene, in one pass over the cells."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from vaexprs.data.backed import BackedCells, row_blocks
from vaexprs.data.matrix import TARGET_SUM, Matrix, limits, stored
from vaexprs.interface.progress import DELAY, progress_bar
from vaexprs.interface.validation import listed

LARGEST = 1e15  # maximum absolute value; sums of squares of larger ones may overflow float32
MAX_NAMED = 5  # maximum number of empty rows that a summary lists


def check_cells(adata: ad.AnnData | BackedCells, name: str) -> None:
    """Check that a matrix of cells can be used for training. Values are checked only if in memory.

    Raises
    ------
    ValueError
        If it is empty, has duplicate gene names, or contains NaN, infinite or implausibly large values.
    """
    if 0 in adata.shape:
        raise ValueError(
            f"{name} must contain at least one cell and one gene, "
            f"got {adata.n_obs} cells x {adata.n_vars} genes."
        )
    missing = int(np.count_nonzero(adata.var_names.isna()))
    if missing:
        raise ValueError(
            f"Every gene must have a name, got {missing:,} without one (NaN). Give them names, or leave them "
            "out: adata[:, adata.var_names.notna()]."
        )
    if not adata.var_names.is_unique:
        twice = adata.var_names[adata.var_names.duplicated()].unique()
        raise ValueError(
            f"Gene names must be unique, got {len(twice):,} duplicates: {listed(list(twice))}. "
            "Try adata.var_names_make_unique()."
        )
    if not isinstance(adata, BackedCells):
        check_finite(stored(adata.X), name)


def check_finite(values: np.ndarray, name: str) -> None:
    """Check that values are finite and not implausibly large.

    Raises
    ------
    ValueError
        If any value is NaN, infinite or larger in size than 1e15.
    """
    for bad, test in (("NaN", np.isnan), ("infinite", np.isinf)):
        n = int(test(values).sum())
        if n:
            raise ValueError(f"{name} must contain finite values, got {n:,} {bad} values.")
    most = max(float(values.max(initial=0)), -float(values.min(initial=0)))
    if most > LARGEST:
        raise ValueError(
            f"{name} must contain values between {-LARGEST:g} and {LARGEST:g}, got one of size {most:g}. "
            "If it encodes a missing value, remove or replace it."
        )


@dataclass(frozen=True)
class Summary:
    """Statistics of a matrix needed before training, computed in one pass over its rows.

    Parameters
    ----------
    cells
        Number of cells.
    low, high, total
        Smallest and largest value of each gene, and their sum, (n_genes,).
    nonzero, fractions
        Number of non-zero values and number of values that are not whole numbers.
    empty, n_empty
        First rows whose values sum to 0, (at most MAX_NAMED,), and the number of such rows.
    logged, logged_squares
        Sums over the cells of ``log(1 + 1e4 x / library size)`` and of its square, (n_genes,).
    """

    cells: int
    low: np.ndarray
    high: np.ndarray
    total: np.ndarray
    nonzero: int
    fractions: int
    empty: np.ndarray
    n_empty: int
    logged: np.ndarray
    logged_squares: np.ndarray

    @classmethod
    def of(cls, x: Matrix) -> Summary:
        """Return the summary of a matrix in memory, (n_cells, n_genes)."""
        values = stored(x)
        library = np.asarray(x.sum(axis=1, dtype=np.float64)).ravel()
        scale = TARGET_SUM / np.maximum(library, 1)
        with np.errstate(invalid="ignore", divide="ignore"):  # negative values: the result is not used
            if sp.issparse(x):
                data = np.log1p(values * np.repeat(scale, np.diff(x.indptr)))
                logged, squares = (sp.csr_matrix((d, x.indices, x.indptr), x.shape) for d in (data, data**2))
            else:
                logged = np.log1p(x * scale[:, None])
                squares = logged**2
        low, high = limits(x)
        empty = np.flatnonzero(library == 0)

        def column_sums(part: Matrix) -> np.ndarray:
            return np.asarray(part.sum(axis=0, dtype=np.float64)).ravel()

        return cls(
            cells=x.shape[0],
            low=low,
            high=high,
            total=column_sums(x),
            nonzero=int(np.count_nonzero(values)),
            fractions=int((values != np.round(values)).sum()),
            empty=empty[:MAX_NAMED],
            n_empty=len(empty),
            logged=column_sums(logged),
            logged_squares=column_sums(squares),
        )

    def joined(self, other: Summary) -> Summary:
        """Return the summary of these cells followed by the others."""
        return Summary(
            cells=self.cells + other.cells,
            low=np.minimum(self.low, other.low),
            high=np.maximum(self.high, other.high),
            total=self.total + other.total,
            nonzero=self.nonzero + other.nonzero,
            fractions=self.fractions + other.fractions,
            empty=np.append(self.empty, self.cells + other.empty)[:MAX_NAMED],
            n_empty=self.n_empty + other.n_empty,
            logged=self.logged + other.logged,
            logged_squares=self.logged_squares + other.logged_squares,
        )

    def digest(self) -> str:
        """Return a SHA-256 fingerprint of the matrix, computed from these statistics."""
        parts = (np.array([self.cells, self.nonzero]), self.low, self.high, self.total, self.logged)
        return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()

    @property
    def whole(self) -> bool:
        """Whether the values are counts: whole and non-negative."""
        return not self.fractions and self.low.min() >= 0

    def constant_genes(self, genes: pd.Index) -> list[str]:
        """Return the names of the genes with the same value in every cell."""
        return list(genes[self.low == self.high])


def summarise(x: Matrix, name: str, *, shown: bool = False) -> Summary:
    """Return the summary of a matrix in memory or on disk, in one sequential pass.

    Parameters
    ----------
    x
        The matrix, (n_cells, n_genes).
    name
        Its name in messages.
    shown
        Whether to show a progress bar if it takes longer than some seconds.

    Raises
    ------
    ValueError
        If it contains NaN, infinite or implausibly large values.
    """
    summary = None
    with progress_bar(x.shape[0], "reading", "cell", shown=shown, delay=DELAY) as bar:
        for block in row_blocks(x):
            check_finite(stored(block), name)
            part = Summary.of(block)
            summary = part if summary is None else summary.joined(part)
            bar.update(block.shape[0])
    assert summary is not None
    return summary
