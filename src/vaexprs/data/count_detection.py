"""Detect which matrix holds counts, and recover counts from log-normalised values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp

from vaexprs.data.matrix import Matrix, as_float, stored

# names that layers and assays with counts go by, the surest first
COUNT_NAMES = ("counts", "raw_counts", "rawcounts", "count", "umi_counts", "umis", "umi", "raw")
X_LAYER = "X"  # the name that means X, whatever it holds
X_LAYER_HINT = "To have X as it is, say layer='X' (--layer X)."
BASES = (np.e, 2.0, 10.0)
MAX_LOWEST = 10  # the lowest count of a cell is looked for up to this
MIN_ONES = 0.05  # of the recovered counts: low ones are common among counts, and rare among other values
MAX_COUNTS = 2**31  # of a gene in a cell, which no machine counts to
SAMPLE = 100  # cells that are looked at before all are
CLOSE = 0.02  # how near to a whole number a recovered count must be ...
CLOSE_TO_LARGE = 4e-6  # ... and how much farther for each count: logarithms are of 32 bits ...
MAX_CLOSE = 0.25  # ... but never so far that it could be another number


def holds_counts(x: Any) -> bool:
    """Whether the first values stored in a matrix are whole numbers, and none of them negative."""
    if getattr(x, "format", "") == "csc" and hasattr(x, "group"):  # on disk, where rows are dear
        values = np.asarray(x.group["data"][:100_000])
    else:
        values = stored(x[:200])[:100_000]
    if values.dtype.kind not in "iuf":
        return True  # nothing to look elsewhere for: it is said of them later what they must be
    return bool(np.all(values >= 0) and np.all(values == np.round(values)))


def count_layers(names: Iterable[str]) -> list[str]:
    """Return those of the names that stand for counts, the surest first."""
    known = {str(name).lower(): str(name) for name in reversed(list(names))}
    return [known[name] for name in COUNT_NAMES if name in known]


def chosen(sources: Mapping[str, Any]) -> tuple[str, Any, str]:
    """Return the matrix that holds counts, its name, and a sentence where it is not the first.

    Where none does, counts are recovered from the logarithms of normalised ones; where that fails too, it
    is the first matrix, whatever it holds.

    Parameters
    ----------
    sources
        Matrices by name, in memory or on disk; the first is the one that is meant if all else is equal.
    """
    first = next(iter(sources))
    as_it_is = X_LAYER_HINT.replace(X_LAYER, first)
    for name, x in sources.items():
        if holds_counts(x):
            told = "" if name == first else f"{first} holds no counts; those in {name} are used. {as_it_is}"
            return name, x, told
    for name, x in sources.items():
        counts = recovered(x[:])
        if counts is not None:
            told = (
                f"{name} holds logarithms of normalised counts; the whole counts that they were made of are "
                f"recovered and used. {as_it_is}"
            )
            return name, counts, told
    return first, sources[first], ""


def recovered(x: Matrix) -> Matrix | None:
    """Return the counts that log-normalised values were made of, as float32; None where they were not.

    Values are ``log_b(1 + s * count)``, with ``s`` one number for each cell, such as 10,000 / total. In a
    cell, ``b**x - 1`` over its smallest value is ``count / lowest count``, and the lowest count that makes
    all of them whole is taken: counts come back up to a factor that all of a cell have in common. Decimals,
    such as RPKM rounded to 0.001, are whole multiples too: they have the same s, other than 1, in all
    cells, or few ones; those are left alone.

    Parameters
    ----------
    x
        Values, (n_cells, n_genes).
    """
    values = as_float(x)
    # no copy where it is CSR; what is zero stays zero
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
    """Return the count of each stored value; None where there is one that is none."""
    sizes = np.diff(x.indptr)
    sizes = sizes[sizes > 0]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    cell = np.repeat(np.arange(len(sizes)), sizes)
    values = np.expm1(x.data.astype(np.float64) * np.log(base))
    lowest = np.minimum.reduceat(values, starts)
    counts, scales = np.zeros(len(values)), np.zeros(len(sizes))
    open_ = np.ones(len(sizes), bool)  # cells whose lowest count is not known yet
    for number in range(1, MAX_LOWEST + 1):
        here = open_[cell]
        of, mine = cell[here], values[here]
        if not len(of):
            break
        guess = np.round(mine * number / lowest[of])
        # the lowest value alone is not exact: least squares over the cell
        over, under = (np.bincount(of, weights, len(sizes)) for weights in (mine * guess, guess * guess))
        scale = np.divide(over, under, out=np.ones(len(sizes)), where=under > 0)
        near = np.minimum(CLOSE + CLOSE_TO_LARGE * guess, MAX_CLOSE)
        off = np.abs(mine / scale[of] - guess) > near
        solved = open_ & (np.bincount(of, off, len(sizes)) == 0)
        take = solved[of]
        counts[np.flatnonzero(here)[take]] = guess[take]
        scales[solved] = scale[solved]
        open_ &= ~solved
    if open_.any():
        return None
    one_scale = np.allclose(scales, scales[0], rtol=1e-4, atol=0) and not np.isclose(scales[0], 1, rtol=1e-4)
    return None if len(scales) > 1 and one_scale else counts
