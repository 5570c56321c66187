"""Choice of the cells that are compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from vaexprs.comparison.cell_sets import CellSet
from vaexprs.interface.validation import listed
from vaexprs.metrics.registry import ALL, MIN_CELLS, Shared

MAX_CELLS = 1_000  # maximum number of cells per side for metrics of all cells
MAX_OF_LABEL = 300  # maximum number of cells per side for metrics of one label


class Side(NamedTuple):
    """Set of cells to sample from, with the label and the stratum of each cell."""

    cells: CellSet
    labels: np.ndarray
    strata: np.ndarray


@dataclass(frozen=True)
class EvaluationPlan:
    """Cells, strata and sample sizes of an evaluation.

    Parameters
    ----------
    generated, real, pool
        The cells; `pool` is all real cells, including the training cells.
    sizes
        Number of cells per side for each stratum (label, or label and donor).
    labels
        Labels with metrics of their own.
    of_label
        Label of each stratum.
    of_donor
        Donor of each stratum; empty without donors.
    shared
        Settings common to all comparisons.
    """

    generated: Side
    real: Side
    pool: Side
    sizes: Mapping[str, int]
    labels: list[str]
    of_label: Mapping[str, str]
    of_donor: Mapping[str, str]
    shared: Shared

    def sizes_of(self, label: str) -> dict[str, int]:
        """Return the number of cells per side for each stratum, for metrics of a label or of `ALL` cells."""
        if label == ALL:
            return limit_sizes(self.sizes, dict.fromkeys(self.sizes, ALL), MAX_CELLS)
        return {name: n for name, n in self.sizes.items() if self.of_label[name] == label}


def plan_evaluation(
    generated: CellSet,
    real: CellSet,
    train: CellSet | None,
    label_key: str | None,
    donor_key: str | None,
    seed: int,
    notes: list[str],
) -> EvaluationPlan:
    """Return the plan of an evaluation; remarks for the user are appended to `notes`.

    Raises
    ------
    ValueError
        If too few generated and real cells have the same labels.
    """
    pool = real if train is None else real.joined(train)
    cells = {"generated": generated, "real": real, "pool": pool}
    strata = {name: part.column(label_key, donor_key) for name, part in cells.items()}
    of_label = dict(zip(strata["pool"], pool.column(label_key), strict=True))
    of_donor = dict(zip(strata["pool"], pool.column(donor_key), strict=True))
    available = {name: label_sizes(column) for name, column in strata.items()}
    # a real-vs-real comparison needs two disjoint samples of this size from the pool
    sizes = {
        name: min(available["generated"].get(name, 0), n, available["pool"][name] // 2)
        for name, n in available["real"].items()
    }
    sizes = {name: n for name, n in sizes.items() if n}
    if sum(sizes.values()) < MIN_CELLS:
        labels = listed([str(label) for label in label_sizes(real.column(label_key))])
        raise ValueError(
            f"There must be at least {MIN_CELLS} generated cells and {2 * MIN_CELLS} real ones of the "
            f"same labels, got {sum(sizes.values())} per side; the labels of the real cells are {labels}. "
            f"{'Hold out more cells' if train is not None else 'Give more real cells'}."
        )
    _note_composition(sizes, of_label, available, label_key, train is not None, notes)
    sizes = limit_sizes(sizes, of_label, MAX_OF_LABEL if label_key is not None else MAX_CELLS)
    sides = {name: Side(part, part.column(label_key), strata[name]) for name, part in cells.items()}
    totals = sizes_by_group(sizes, of_label) if label_key is not None else {}
    variance = sum(_gene_variances(cells[name].values) for name in ("generated", "pool"))
    return EvaluationPlan(
        sides["generated"],
        sides["real"],
        sides["pool"],
        sizes,
        sorted(label for label, n in totals.items() if n >= MIN_CELLS),
        of_label,
        of_donor if donor_key is not None else {},
        Shared(np.argsort(-variance, kind="stable"), seed),
    )


def _note_composition(
    sizes: Mapping[str, int],
    of_label: Mapping[str, str],
    available: Mapping[str, Mapping[str, int]],
    label_key: str | None,
    with_train: bool,
    notes: list[str],
) -> None:
    n = sum(sizes.values())
    source = "the real and training cells" if with_train else "two halves of the real cells"
    notes.append(
        f"Each side of a comparison has up to {n:,} cells, with the same number of each label; the baseline "
        f"(real vs real) comes from {source}."
    )
    if label_key is None:
        return
    real, generated = (sizes_by_group(available[name], of_label) for name in ("real", "generated"))
    total = sizes_by_group(sizes, of_label)
    few = [label for label in real if total.get(label, 0) < MIN_CELLS and generated.get(label, 0)]
    absent = [label for label in real if not generated.get(label, 0)]
    unknown = [name.replace("\t", " of ") for name in available["generated"] if name not in of_label]
    if few:
        notes.append(f"Labels with too few cells for metrics of their own: {listed(sorted(few))}.")
    if absent:
        notes.append(f"Labels without generated cells, not compared: {listed(sorted(absent))}.")
    if unknown:
        notes.append(
            f"Labels of generated cells without real cells, not compared: {listed(sorted(unknown))}."
        )


def label_sizes(column: np.ndarray) -> dict[str, int]:
    """Return the number of cells of each label."""
    names, numbers = np.unique(column.astype(str), return_counts=True)
    return {str(name): int(n) for name, n in zip(names, numbers, strict=True)}


def sizes_by_group(sizes: Mapping[str, int], groups: Mapping[str, str]) -> dict[str, int]:
    """Return the sizes of strata summed by group; strata without a group are left out."""
    total: dict[str, int] = {}
    for name, n in sizes.items():
        if name in groups:
            total[groups[name]] = total.get(groups[name], 0) + n
    return total


def limit_sizes(sizes: Mapping[str, int], groups: Mapping[str, str], limit: int) -> dict[str, int]:
    """Return sizes scaled down so that each group has about `limit` cells, at least 1 per stratum."""
    total = sizes_by_group(sizes, groups)
    return {name: max(1, int(n * min(1, limit / total[groups[name]]))) for name, n in sizes.items()}


def concatenate_rows(rows: Iterable[np.ndarray]) -> np.ndarray:
    """Return arrays of row numbers as one array of integers, empty if there are none."""
    return np.concatenate([*rows, np.empty(0, int)]).astype(int)


def _gene_variances(values: Any) -> np.ndarray:
    from sklearn.utils.sparsefuncs import mean_variance_axis

    if isinstance(values, np.ndarray):
        return values.var(axis=0, dtype=np.float64)
    return np.asarray(mean_variance_axis(values, axis=0)[1], np.float64)
