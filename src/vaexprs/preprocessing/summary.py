"""Summary statistics of the values of each gene, in one pass over the cells."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from vaexprs.data.backed import BackedCells, row_blocks
from vaexprs.data.matrix import Matrix, limits, stored
from vaexprs.interface.validation import listed

INPUT_TARGET = 1e4  # counts per cell after normalisation, as scanpy users know it
LARGEST = 1e15  # value: sums of squares of larger ones may be beyond 32 bits
MAX_NAMED = 5  # rows that a summary remembers of a kind


def check_cells(adata: ad.AnnData | BackedCells, name: str) -> None:
    """Check that a matrix of cells can be learned from; its values where they are in memory.

    Raises
    ------
    ValueError
        If it is empty, holds NaN, infinite or absurdly large values, has duplicate gene names.
    """
    if 0 in adata.shape:
        raise ValueError(
            f"{name} must hold at least one cell and one gene, "
            f"got {adata.n_obs} cells x {adata.n_vars} genes."
        )
    if not adata.var_names.is_unique:
        twice = adata.var_names[adata.var_names.duplicated()].unique()
        raise ValueError(
            f"Gene names must be unique, got {len(twice):,} more than once: {listed(list(twice))}. "
            "Make them so: adata.var_names_make_unique()."
        )
    if not isinstance(adata, BackedCells):
        check_finite(stored(adata.X), name)


def check_finite(values: np.ndarray, name: str) -> None:
    """Check that there is no NaN, nothing infinite and nothing that is absurdly large among some values.

    Raises
    ------
    ValueError
        If there is.
    """
    for bad, test in (("NaN", np.isnan), ("infinite", np.isinf)):
        n = int(test(values).sum())
        if n:
            raise ValueError(f"{name} must hold finite values, got {n:,} {bad} values.")
    most = max(float(values.max(initial=0)), -float(values.min(initial=0)))
    if most > LARGEST:
        raise ValueError(
            f"{name} must hold values between {-LARGEST:g} and {LARGEST:g}, got one of size {most:g}. "
            "Does it stand for a missing value?"
        )


@dataclass(frozen=True)
class Summary:
    """What is to be known of a matrix before training, taken in one pass over its rows.

    Parameters
    ----------
    cells
        Number of cells.
    low, high, total
        Smallest and largest value of each gene, and their sum, (n_genes,).
    nonzero, fractions
        How many values are not 0, and how many are not whole.
    empty
        Rows whose values sum up to 0, the first few: (at most MAX_NAMED,), and `n_empty`, their number.
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
        scale = INPUT_TARGET / np.maximum(library, 1)
        with np.errstate(invalid="ignore", divide="ignore"):  # values may be negative: then nobody asks
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
        """Return the summary of these cells and others that follow them."""
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
        """Return the SHA-256 of these figures: that of two matrices differs, or they are hardly different."""
        parts = (np.array([self.cells, self.nonzero]), self.low, self.high, self.total, self.logged)
        return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()

    @property
    def whole(self) -> bool:
        """Whether the values are counts: whole and not negative."""
        return not self.fractions and self.low.min() >= 0

    def constant_genes(self, genes: pd.Index) -> list[str]:
        """Return the names of the genes with the same value in every cell."""
        return list(genes[self.low == self.high])


def summarise(x: Matrix, name: str) -> Summary:
    """Return the summary of a matrix in memory or on disk, read once from its first row to its last.

    Raises
    ------
    ValueError
        If it holds NaN, infinite or absurdly large values.
    """
    summary = None
    for block in row_blocks(x):
        check_finite(stored(block), name)
        part = Summary.of(block)
        summary = part if summary is None else summary.joined(part)
    assert summary is not None
    return summary
