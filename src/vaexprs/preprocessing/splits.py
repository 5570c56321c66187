"""Training and validation splits, stratified and matched subsets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anndata as ad
import numpy as np

from vaexprs.interface.validation import check_integer, check_real
from vaexprs.preprocessing.conditions import column_of_levels


def split(
    adata: ad.AnnData,
    fraction: float = 0.2,
    *,
    label_key: str | None = None,
    by: str | None = None,
    seed: int = 0,
) -> tuple[ad.AnnData, ad.AnnData]:
    """Split cells into training cells and held-out cells for evaluation.

    Parameters
    ----------
    adata
        The cells.
    fraction
        Fraction of the cells to hold out, above 0 and below 1; with `by`, of its levels.
    label_key
        Column of `obs` with the label: each label is split in proportion, and keeps at least one training
        cell.
    by
        Column of `obs`, such as the donor, whose levels are held out as a whole.
    seed
        Seed of the random choice.

    Returns
    -------
    tuple
        Copies of the training cells and of the held-out cells, in their order in `adata`.

    Raises
    ------
    TypeError
        If `adata` is not an AnnData.
    ValueError
        If `fraction` is out of range, `label_key` and `by` are combined, a column is missing, or a part would
        have no cells.

    Examples
    --------
    >>> import vaexprs as vx
    >>> train, held_out = vx.split(vx.demo_cells(), label_key="cell_type")
    >>> train.n_obs, held_out.n_obs
    (560, 140)
    """
    if not isinstance(adata, ad.AnnData):
        raise TypeError(
            f"adata must be an AnnData, got {type(adata).__name__}. Read other data with vx.read(...)."
        )
    fraction = check_real("fraction", fraction, 0, below=1)
    seed = check_integer("seed", seed, 0)
    if by is not None and label_key is not None:
        raise ValueError("by cannot be combined with label_key. Leave one of them out.")
    if by is not None:
        rows = split_levels(column_of_levels(adata.obs, by, "by").to_numpy(str), fraction, seed)
    else:
        labels = None
        if label_key is not None:
            labels = column_of_levels(adata.obs, label_key, "label_key").to_numpy(str)
        rows = split_rows(labels, adata.n_obs, fraction, seed)
    if not all(map(len, rows)):
        raise ValueError(
            f"Both parts must contain cells, got {len(rows[0]):,} for training and {len(rows[1]):,} held "
            f"out with fraction={fraction:g}. Try another fraction, or a column with more levels (by=)."
        )
    train, held_out = (adata[part] for part in rows)
    return _copied(train), _copied(held_out)


def _copied(cells: Any) -> ad.AnnData:
    """Return cells in memory: cells of a file that is open in backed mode cannot be copied without a path."""
    return cells.to_memory() if cells.isbacked else cells.copy()


def split_rows(
    labels: np.ndarray | None, n: int, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split rows into training and validation, stratified by label.

    Parameters
    ----------
    labels
        Label of each row, (n,); None for a single label.
    n
        Number of rows.
    fraction
        Fraction of the rows for validation, at least 0 and less than 1. Each label keeps at least one row
        for training.
    seed
        Seed of the shuffle.

    Returns
    -------
    tuple
        Sorted row numbers for training and for validation. Validation gets ``round(n * fraction)`` rows, or
        fewer if labels are too small.
    """
    rng = np.random.default_rng(seed)
    codes = np.zeros(n, int) if labels is None else np.unique(labels, return_inverse=True)[1]
    sizes = np.bincount(codes)
    share = np.minimum(apportion(sizes / n, round(n * fraction)), sizes - 1)
    order = rng.permutation(n)
    held = np.concatenate([order[codes[order] == k][:m] for k, m in enumerate(share)])
    return np.setdiff1d(np.arange(n), held), np.sort(held)


def split_levels(column: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split rows into training and held-out rows by whole levels of a column, such as donors.

    Parameters
    ----------
    column
        Level of each row, (n,).
    fraction
        Fraction of the levels to hold out, rounded, but at least one level.
    seed
        Seed of the random choice of levels.
    """
    levels = np.random.default_rng(seed).permutation(np.unique(column))
    held = np.isin(column, levels[: max(1, round(fraction * len(levels)))])
    return np.flatnonzero(~held), np.flatnonzero(held)


def apportion(weights: np.ndarray, n: int) -> np.ndarray:
    """Return whole numbers proportional to `weights` with sum `n` (largest remainder method)."""
    exact = np.asarray(weights, float) / np.sum(weights) * n
    counts = np.floor(exact).astype(int)
    rest = np.argsort(counts - exact, kind="stable")[: n - counts.sum()]
    counts[rest] += 1
    return counts


def random_rows(
    rng: np.random.Generator, column: np.ndarray, most: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Sample up to `most[label]` rows of each label, in random order.

    Parameters
    ----------
    rng
        Source of randomness.
    column
        Label of each cell, (n_cells,).
    most
        Maximum number of rows of each label.
    """
    order = rng.permutation(len(column))
    shuffled = column[order]
    return {label: order[shuffled == label][:n] for label, n in most.items()}


def stratified(column: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Sample at most `most` rows, sorted, in proportion to the labels but with some of every label.

    Parameters
    ----------
    column
        Label of each cell, (n_cells,).
    most
        Maximum number of rows.
    rng
        Source of randomness.
    """
    if len(column) <= most:
        return np.arange(len(column))
    names, sizes = np.unique(column.astype(str), return_counts=True)
    sure = np.minimum(sizes, max(1, most // (4 * len(names))))
    sure = sure if sure.sum() <= most else np.zeros_like(sizes)
    share = sure + apportion(sizes - sure, most - int(sure.sum()))
    wanted = {str(name): int(n) for name, n in zip(names, share, strict=True)}
    return np.sort(np.concatenate(list(random_rows(rng, column.astype(str), wanted).values())))


def matched_rows(rng: np.random.Generator, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sample equal numbers of rows of each label from two sets, as many as both have.

    Parameters
    ----------
    rng
        Source of randomness.
    a, b
        Label of each cell, (n_cells,).
    """
    labels = sorted(set(a) & set(b))
    most = {label: int(min((a == label).sum(), (b == label).sum())) for label in labels}
    none = np.empty(0, int)
    rows_a, rows_b = (np.concatenate([none, *random_rows(rng, x, most).values()]) for x in (a, b))
    return rows_a, rows_b
