"""Helpers for dense and sparse matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp

# float32 array or CSR matrix of shape (n_cells, n_genes); SciPy has no static types for it
Matrix: TypeAlias = Any
MAX_COUNT = 2**31 - 1  # maximum of a generated count (int32)
MAX_FLOAT32 = 2**24  # up to here float32 has every whole number


def stacked(parts: Sequence[Matrix]) -> Matrix:
    """Stack matrices vertically; the result is sparse if all of them are."""
    if len(parts) == 1:
        return parts[0]
    if all(sp.issparse(part) for part in parts):
        return sp.vstack(parts, format="csr")
    return np.concatenate([densify(part) for part in parts])


def stacked_values(parts: Sequence[Matrix]) -> Matrix:
    """Stack blocks of generated values as floats, the type that scanpy and R expect in X.

    R has no sparse matrices of integers, and joining integers with float32 makes float64. The type is
    float32, or float64 if a count is larger than `MAX_FLOAT32`.
    """
    if any(part.dtype.kind == "i" for part in parts):
        largest = max(int(stored(part).max(initial=0)) for part in parts)
        kind = np.float32 if largest <= MAX_FLOAT32 else np.float64
        parts = [part.astype(kind) for part in parts]
    return stacked(parts)


def as_float(x: Any) -> Matrix:
    """Return a matrix as float32: sparse as CSR, everything else as a C-contiguous array."""
    with np.errstate(over="ignore"):  # too large values become infinite and are reported later
        return _as_float(x)


def _as_float(x: Any) -> Matrix:
    if sp.issparse(x):
        csr = sp.csr_matrix(x, dtype=np.float32)
        if not csr.has_canonical_format:
            csr = csr.copy()  # sum_duplicates() works in place and the arrays may belong to the user
            csr.sum_duplicates()
        return csr
    return np.ascontiguousarray(np.asarray(x), dtype=np.float32)


def densify(x: Matrix) -> np.ndarray:
    """Return a matrix as a dense array."""
    return x.toarray() if sp.issparse(x) else x


def compressed(x: Matrix) -> sp.csr_matrix:
    """Return a matrix, which may be changed, as CSR without duplicate entries and explicit zeros."""
    x = sp.csr_matrix(x)
    x.sum_duplicates()
    x.eliminate_zeros()
    return x


def stored(x: Any) -> np.ndarray:
    """Return the explicitly stored values of a sparse matrix, or all values of a dense one, flattened."""
    return np.asarray(x.data if sp.issparse(x) else x).ravel()


def are_counts(x: Any) -> bool:
    """Return whether all values of a matrix are non-negative whole numbers; NaN is not."""
    values = stored(x)
    return bool((values >= 0).all() and (values == np.round(values)).all())


def limits(x: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest value of each gene, (n_genes,) each."""
    both = x.min(axis=0), x.max(axis=0)
    low, high = (np.asarray(densify(v), np.float64).ravel() for v in both)
    return low, high


def falls(values: np.ndarray) -> bool:
    """Return whether any value is smaller than its predecessor (differences could overflow)."""
    return bool((values[1:] < values[:-1]).any())


def check_compressed(x: Any) -> None:
    """Check that all indices of a CSR or CSC matrix are within its shape.

    SciPy's own check misses a decreasing `indptr` if the last value is 0 or if differences overflow.

    Raises
    ------
    ValueError
        If an index is out of bounds or `indptr` decreases.
    """
    if falls(x.indptr):
        raise ValueError("indptr of a sparse matrix must not decrease")
    x.check_format(full_check=True)


TARGET_SUM = 1e4  # total counts per cell after normalisation, as in scanpy.pp.normalize_total(target_sum=1e4)


def log_normalised(x: Matrix) -> Matrix:
    """Return log(1 + counts per 10,000), (n_cells, n_genes); a sparse matrix stays sparse."""
    total = np.maximum(np.asarray(x.sum(axis=1), np.float32).ravel(), 1)
    if sp.issparse(x):
        return sp.csr_matrix(sp.diags(TARGET_SUM / total) @ x, dtype=np.float32).log1p()
    return np.log1p(TARGET_SUM * x / total[:, None])
