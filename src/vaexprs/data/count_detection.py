"""Detect which matrix holds counts, and recover counts from log-normalised values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp

from vaexprs.data.matrix import Matrix, as_float, stored

# names of layers and assays with counts, the most reliable first
COUNT_NAMES = ("counts", "raw_counts", "rawcounts", "count", "umi_counts", "umis", "umi", "raw")
X_LAYER = "X"  # name for X itself, without detection of counts
X_LAYER_HINT = "To use X unchanged, pass layer='X' (--layer X)."
BASES = (np.e, 2.0, 10.0)  # bases of the logarithm
MAX_LOWEST = 10  # maximum lowest nonzero count of a cell that is tried
MIN_ONES = 0.05  # minimum fraction of ones among recovered counts: ones are rare in data that are not counts
MAX_COUNTS = 2**31  # recovered counts must be below this
SAMPLE = 100  # number of cells that are tested before all cells
TOLERANCE = 0.02  # maximum distance of a recovered count from a whole number ...
TOLERANCE_PER_COUNT = 4e-6  # ... plus this much per count, because logarithms are stored in float32 ...
MAX_TOLERANCE = 0.25  # ... up to this distance


def holds_counts(x: Any) -> bool:
    """Return whether the first stored values of a matrix are nonnegative whole numbers."""
    if getattr(x, "format", "") == "csc" and hasattr(x, "group"):  # on disk, where reading rows is slow
        values = np.asarray(x.group["data"][:100_000])
    else:
        values = stored(x[:200])[:100_000]
    if values.dtype.kind not in "iuf":
        return True  # non-numeric: rejected later with a proper message
    return bool(np.all(values >= 0) and np.all(values == np.round(values)))


def count_layers(names: Iterable[str]) -> list[str]:
    """Return the names that usually denote counts, the most reliable first."""
    known = {str(name).lower(): str(name) for name in reversed(list(names))}
    return [known[name] for name in COUNT_NAMES if name in known]


def other_counts(layers: Mapping[str, Any]) -> list[str]:
    """Return the layers that hold whole numbers above 1 although their names are not those of counts."""
    usual = set(count_layers(layers))
    found = []
    for name, x in layers.items():
        if name not in usual and holds_counts(x) and stored(np.asarray(_start(x))).max(initial=0) > 1:
            found.append(str(name))
    return found


def _start(x: Any) -> Any:
    part = x[:200]
    return part.toarray() if sp.issparse(part) else part


def chosen(sources: Mapping[str, Any]) -> tuple[str, Any, str]:
    """Return the name and values of the matrix with counts, and a warning unless it is the first matrix.

    If no matrix holds counts, they are recovered from log-normalised values. If that fails too, the first
    matrix is returned unchanged and without a warning.

    Parameters
    ----------
    sources
        Mapping of names to matrices, in memory or on disk, the preferred one first.

    Returns
    -------
    Name, values and text of the warning (empty if there is none).
    """
    first = next(iter(sources))
    hint = X_LAYER_HINT.replace(X_LAYER, first)
    for name, x in sources.items():
        if holds_counts(x):
            warning = f"{first} contains no counts; the counts in {name} are used. {hint}"
            return name, x, "" if name == first else warning
    for name, x in sources.items():
        counts = recovered(x[:])
        if counts is not None:
            warning = (
                f"{name} contains logarithms of normalised counts; the raw counts were recovered and are "
                f"used. {hint}"
            )
            return name, counts, warning
    return first, sources[first], ""


def recovered(x: Matrix) -> Matrix | None:
    """Recover counts from log-normalised values, as float32; None if the values were not made from counts.

    Values are ``log_b(1 + s * count)`` with one scale ``s`` per cell, such as 10,000 / total. Within a cell,
    ``b**x - 1`` divided by its smallest value is ``count / lowest count``, and the smallest lowest count that
    makes all of them whole is used, so that counts are recovered up to a common factor per cell. Rounded
    decimals, such as RPKM rounded to 0.001, are whole multiples too, but have the same scale (other than 1)
    in all cells or contain few ones; they are not treated as counts.

    Parameters
    ----------
    x
        Values, (n_cells, n_genes).
    """
    values = as_float(x)
    # no copy of CSR input; zeros stay zero
    csr = values if sp.issparse(values) else sp.csr_matrix(values)
    if csr.nnz and csr.data.min() == 0:
        csr = csr.copy()
        csr.eliminate_zeros()
    if not csr.nnz or not np.isfinite(csr.data).all() or csr.data.min() < 0 or csr.data.max() > 80:
        return None
    filled = np.flatnonzero(np.diff(csr.indptr))
    sample = csr[filled[np.linspace(0, len(filled) - 1, min(SAMPLE, len(filled))).astype(int)]]
    for base in BASES:
        if _counts(sample, base) is not None:
            found = _counts(csr, base)
            if found is not None:
                if np.mean(found == 1) < MIN_ONES or found.max() >= MAX_COUNTS:
                    return None
                whole = sp.csr_matrix((found.astype(np.float32), csr.indices, csr.indptr), shape=csr.shape)
                return whole if sp.issparse(values) else whole.toarray()
    return None


def _counts(x: sp.csr_matrix, base: float) -> np.ndarray | None:
    """Return the recovered counts of the stored values, or None if any is not a count."""
    sizes = np.diff(x.indptr)
    sizes = sizes[sizes > 0]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    cell = np.repeat(np.arange(len(sizes)), sizes)
    values = np.expm1(x.data.astype(np.float64) * np.log(base))
    lowest = np.minimum.reduceat(values, starts)
    counts, scales = np.zeros(len(values)), np.zeros(len(sizes))
    unsolved = np.ones(len(sizes), bool)  # cells whose lowest count is not known yet
    for number in range(1, MAX_LOWEST + 1):
        selected = unsolved[cell]
        cells, observed = cell[selected], values[selected]
        if not len(cells):
            break
        guess = np.round(observed * number / lowest[cells])
        # scale by least squares over the cell, because the lowest value alone is inexact
        dividend, divisor = (
            np.bincount(cells, weights, len(sizes)) for weights in (observed * guess, guess * guess)
        )
        scale = np.divide(dividend, divisor, out=np.ones(len(sizes)), where=divisor > 0)
        tolerance = np.minimum(TOLERANCE + TOLERANCE_PER_COUNT * guess, MAX_TOLERANCE)
        off = np.abs(observed / scale[cells] - guess) > tolerance
        solved = unsolved & (np.bincount(cells, off, len(sizes)) == 0)
        accepted = solved[cells]
        counts[np.flatnonzero(selected)[accepted]] = guess[accepted]
        scales[solved] = scale[solved]
        unsolved &= ~solved
    if unsolved.any():
        return None
    one_scale = np.allclose(scales, scales[0], rtol=1e-4, atol=0) and not np.isclose(scales[0], 1, rtol=1e-4)
    return None if len(scales) > 1 and one_scale else counts
