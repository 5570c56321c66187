"""Training and validation splits, stratified and matched subsets."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


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
