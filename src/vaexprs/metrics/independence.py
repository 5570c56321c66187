"""Tests of whether generated cells are independent of each other and of the real cells."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vaexprs.comparison.axes import Axes
from vaexprs.comparison.cell_sets import CellSet, equal_rows

BLOCKS = 8  # number of consecutive parts into which the cells of a label are divided
MIN_OF_BLOCK = 12  # minimum number of cells of a part
ORDER_AXES = 20  # number of principal axes whose means are compared
PERMUTATIONS = 1_000
MAX_ORDERED = 5_000  # maximum number of cells whose order is tested
MAX_RATIO = 0.8  # variance between parts, relative to independent cells, above which nothing is reported
MAX_P = 0.002  # maximum probability of a report for independent cells
TOLERATED_COPIES = 0.002  # fraction of copies beyond that of real cells that is not yet "off"


class Copies(NamedTuple):
    """Fraction of generated cells with the values of another cell, and the same for real cells."""

    generated: float
    real: float


def count_copies(generated: CellSet, pool: CellSet) -> Copies:
    """Return the fractions of cells that have the values of another generated or real cell.

    Parameters
    ----------
    generated, pool
        The generated cells, and all real cells. Cells with fewer than 20 detected genes are not counted.
    """
    return Copies(
        float(equal_rows(generated, [generated, pool]).mean()), float(equal_rows(pool, [pool]).mean())
    )


def are_too_even(cells: CellSet, labels: np.ndarray, seed: int) -> bool:
    """Return whether consecutive parts of a set agree more than those of independent cells.

    The cells of each label are divided into consecutive parts, in their order. The variance between the means
    of the parts on principal axes is compared with that after permutations of the order. Random numbers that
    are spread evenly over batches of cells make it too small. Cells that are sorted make it large, which is
    not reported.

    Parameters
    ----------
    cells
        The cells, in the order in which they were generated.
    labels
        Label of each cell, (n_cells,).
    seed
        Seed of the permutations.
    """
    first = np.arange(min(len(cells), MAX_ORDERED))
    cells, labels = cells.take(first), labels[first]
    parts = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    parts = [rows for rows in parts if len(rows) >= BLOCKS * MIN_OF_BLOCK]
    if not parts:
        return False
    coordinates = Axes.of([cells.values], seed, ORDER_AXES).of_cells(cells.values)
    centred = [coordinates[rows] - coordinates[rows].mean(axis=0) for rows in parts]
    expected = BLOCKS * sum(float(x.var(axis=0).sum()) for x in centred)
    if expected == 0:
        return False
    rng = np.random.default_rng(seed)

    def between(samples: list[np.ndarray]) -> float:
        """Return the mean square of the means of the parts, relative to its expectation."""
        total = 0.0
        for x in samples:
            starts = np.linspace(0, len(x), BLOCKS + 1).astype(int)
            means = np.add.reduceat(x, starts[:-1], axis=0) / np.diff(starts)[:, None]
            # sampled without replacement, the mean square of a mean is (1 - 1 / BLOCKS) variance / size
            total += float((means**2 * np.diff(starts)[:, None]).sum()) / (1 - 1 / BLOCKS)
        return total / expected

    observed = between(centred)
    if observed > MAX_RATIO:
        return False
    permuted = [between([rng.permutation(x) for x in centred]) for _ in range(PERMUTATIONS)]
    return (1 + sum(value <= observed for value in permuted)) / (1 + PERMUTATIONS) <= MAX_P
