"""Which cells are compared with which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from vaexprs.comparison.cell_sets import CellSet
from vaexprs.interface.validation import listed
from vaexprs.metrics.registry import ALL, MIN_CELLS, Shared

MAX_CELLS = 1_000  # of each side that the figures over all cells look at ...
MAX_OF_LABEL = 300  # ... and those of one label


class Side(NamedTuple):
    """One set of cells that samples are drawn from, with the label and the stratum of each cell."""

    cells: CellSet
    labels: np.ndarray
    strata: np.ndarray


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Parameters
    ----------
    generated, real, pool
        The cells; `pool` are all real ones, with the training cells.
    most
        Cells of each stratum (label, or label and donor) of a side.
    labels
        Labels that have figures of their own.
    of_label
        Label of each stratum.
    of_donor
        Donor of each stratum, empty where there is no donor.
    shared
        What all comparisons have in common.
    """

    generated: Side
    real: Side
    pool: Side
    most: Mapping[str, int]
    labels: list[str]
    of_label: Mapping[str, str]
    of_donor: Mapping[str, str]
    shared: Shared

    def of(self, label: str, of_all: Mapping[str, int]) -> dict[str, int]:
        """Return how many cells of each stratum the figures of a label, or of all cells, look at."""
        if label == ALL:
            return dict(of_all)
        return {name: n for name, n in self.most.items() if self.of_label[name] == label}


def plan_evaluation(
    generated: CellSet,
    real: CellSet,
    train: CellSet | None,
    label_key: str | None,
    donor_key: str | None,
    seed: int,
    notes: list[str],
) -> Plan:
    """Return which cells are compared with which."""
    pool = real if train is None else real.joined(train)
    cells = {"generated": generated, "real": real, "pool": pool}
    strata = {name: part.column(label_key, donor_key) for name, part in cells.items()}
    of_label = dict(zip(strata["pool"], pool.column(label_key), strict=True))
    of_donor = dict(zip(strata["pool"], pool.column(donor_key), strict=True))
    sizes = {name: label_sizes(column) for name, column in strata.items()}
    most = {
        name: min(sizes["generated"].get(name, 0), n, sizes["pool"][name] // 2)
        for name, n in sizes["real"].items()
    }
    most = {name: n for name, n in most.items() if n}
    if sum(most.values()) < MIN_CELLS:
        shared = listed([str(label) for label in label_sizes(real.column(label_key))])
        raise ValueError(
            f"There must be at least {MIN_CELLS} generated cells and {2 * MIN_CELLS} real ones of the "
            f"same labels, got {sum(most.values())} on a side; the real cells have {shared}. "
            f"{'Hold more cells out' if train is not None else 'Give more real cells'}."
        )
    _tell_composition(most, of_label, sizes, label_key, train is not None, notes)
    most = thin_rows(most, of_label, MAX_OF_LABEL if label_key is not None else MAX_CELLS)
    sides = {name: Side(part, part.column(label_key), strata[name]) for name, part in cells.items()}
    totals = rows_by(most, of_label) if label_key is not None else {}
    variance = sum(_variances(cells[name].values) for name in ("generated", "pool"))
    return Plan(
        sides["generated"],
        sides["real"],
        sides["pool"],
        most,
        sorted(label for label, n in totals.items() if n >= MIN_CELLS),
        of_label,
        of_donor if donor_key is not None else {},
        Shared(np.argsort(-variance, kind="stable"), seed),
    )


def _tell_composition(
    most: Mapping[str, int],
    of_label: Mapping[str, str],
    sizes: Mapping[str, Mapping[str, int]],
    label_key: str | None,
    with_train: bool,
    notes: list[str],
) -> None:
    n = sum(most.values())
    source = "the real and training cells" if with_train else "two halves of the real cells"
    notes.append(
        f"Each side of a comparison has up to {n:,} cells, the same number of each label; the floor is from "
        f"{source}."
    )
    if label_key is None:
        return
    real, made = (rows_by(sizes[name], of_label) for name in ("real", "generated"))
    total = rows_by(most, of_label)
    few = [label for label in real if total.get(label, 0) < MIN_CELLS and made.get(label, 0)]
    absent = [label for label in real if not made.get(label, 0)]
    if few:
        notes.append(f"Too few cells for figures of their own: {listed(sorted(few))}.")
    if absent:
        notes.append(f"No generated cells, so not compared: {listed(sorted(absent))}.")
    strange = [name.replace("\t", " of ") for name in sizes["generated"] if name not in of_label]
    if strange:
        notes.append(f"Not among the real cells, so not compared: {listed(sorted(strange))}.")


def label_sizes(column: np.ndarray) -> dict[str, int]:
    """Return the number of cells of each label."""
    names, numbers = np.unique(column.astype(str), return_counts=True)
    return {str(name): int(n) for name, n in zip(names, numbers, strict=True)}


def rows_by(sizes: Mapping[str, int], groups: Mapping[str, str]) -> dict[str, int]:
    """Return the sizes summed over the strata of each group; strata without one are left out."""
    total: dict[str, int] = {}
    for name, n in sizes.items():
        if name in groups:
            total[groups[name]] = total.get(groups[name], 0) + n
    return total


def thin_rows(most: Mapping[str, int], groups: Mapping[str, str], limit: int) -> dict[str, int]:
    """Return numbers of the strata with the sum of each group at about `limit`, none below 1."""
    total = rows_by(most, groups)
    return {name: max(1, int(n * min(1, limit / total[groups[name]]))) for name, n in most.items()}


def join_sets(rows: Iterable[np.ndarray]) -> np.ndarray:
    """Return several sets of cells as one."""
    return np.concatenate([*rows, np.empty(0, int)]).astype(int)


def _variances(values: Any) -> np.ndarray:
    from sklearn.utils.sparsefuncs import mean_variance_axis

    if isinstance(values, np.ndarray):
        return values.var(axis=0, dtype=np.float64)
    return np.asarray(mean_variance_axis(values, axis=0)[1], np.float64)
