"""Choice of the cells that are compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from vaexprs.comparison.cell_sets import CellSet
from vaexprs.interface.validation import listed
from vaexprs.metrics.baseline import FEW
from vaexprs.metrics.registry import ALL, MAX_GENES, MIN_CELLS, MIN_OF_LABEL

MAX_CELLS = 1_000  # maximum number of cells per side for metrics of all cells
MAX_OF_LABEL = 300  # maximum number of cells per side for metrics of one label
MIN_SHARE = 0.7  # minimum share of cells kept for composition to be matched by covariates too
MIN_DONORS = 4  # minimum number of donors for a baseline of donors against donors


class Side(NamedTuple):
    """Set of cells to sample from.

    Parameters
    ----------
    cells
        The cells.
    labels, strata, donors
        Label, stratum and donor of each cell, (n_cells,).
    levels
        Codes of the levels of the covariates, (n_cells, n_covariates).
    """

    cells: CellSet
    labels: np.ndarray
    strata: np.ndarray
    donors: np.ndarray
    levels: np.ndarray

    def take(self, rows: np.ndarray) -> Side:
        """Return the cells of these rows."""
        return Side(self.cells.take(rows), *(part[rows] for part in self[1:]))


@dataclass(frozen=True)
class EvaluationPlan:
    """Cells, strata and sample sizes of an evaluation.

    Parameters
    ----------
    generated, real, pool
        The cells; `pool` is all real cells, including the training cells, the real ones first.
    second
        A second set of generated cells, drawn independently of the first; None if there is none.
    sizes
        Number of cells per side for each stratum (combination of label, donor and covariates).
    labels
        Labels with metrics of their own.
    too_few
        Labels of generated and real cells with too few real cells for a verdict of their own.
    of_label
        Label of each stratum.
    covariates
        Levels of each covariate, in the order of their codes.
    by_donor
        Whether the sides of a real-vs-real comparison come from different donors.
    judged
        Whether the baseline is comparable: false for held-out donors, with too few donors for `by_donor`.
    independent_splits
        Number of independent real-vs-real comparisons if they are limited by the donors, else None.
    variable
        Columns of the most variable genes, sorted by decreasing variance.
    """

    generated: Side
    second: Side | None
    real: Side
    pool: Side
    sizes: Mapping[str, int]
    labels: list[str]
    too_few: list[str]
    of_label: Mapping[str, str]
    covariates: Mapping[str, list[str]]
    by_donor: bool
    judged: bool
    independent_splits: int | None
    variable: np.ndarray

    def sizes_of(self, label: str) -> dict[str, int]:
        """Return the number of cells per side for each stratum, for metrics of a label or of `ALL` cells."""
        if label == ALL:
            return limit_sizes(self.sizes, dict.fromkeys(self.sizes, ALL), MAX_CELLS)
        return {name: n for name, n in self.sizes.items() if self.of_label[name] == label}


def plan_evaluation(
    sets: Mapping[str, CellSet],
    *,
    label_key: str | None,
    donor_key: str | None,
    covariate_keys: Sequence[str],
    notes: list[str],
) -> EvaluationPlan:
    """Return the plan of an evaluation; remarks for the user are appended to `notes`.

    Parameters
    ----------
    sets
        The sets "generated" and "real", and if given "train" and "second".
    label_key, donor_key, covariate_keys
        Columns of `obs`.
    notes
        List to which remarks are appended.

    Raises
    ------
    ValueError
        If too few generated and real cells have the same labels.
    """
    real, train = sets["real"], sets.get("train")
    cells = {
        "generated": sets["generated"],
        "real": real,
        "pool": real if train is None else real.joined(train),
    }
    if "second" in sets:
        cells["second"] = sets["second"]
    donors = {name: part.column(donor_key) for name, part in cells.items()}
    n_donors = len(set(donors["pool"]))
    other_donors = donor_key is not None and _are_other_donors(donors, len(real), donor_key, notes)
    compared = [key for key in covariate_keys if key != donor_key]
    keys = [*compared, donor_key] if donor_key is not None and not other_donors else compared
    covariates = {key: sorted(set(cells["pool"].column(key))) for key in keys}
    sizes, strata_keys = _matched_sizes(cells, label_key, keys)
    strata = {name: part.column(*strata_keys) for name, part in cells.items()}
    of_label = dict(zip(strata["pool"], cells["pool"].column(label_key), strict=True))
    if sum(sizes.values()) < MIN_CELLS:
        labels = listed([str(label) for label in label_sizes(real.column(label_key))])
        raise ValueError(
            f"There must be at least {MIN_CELLS} generated cells and {2 * MIN_CELLS} real ones of the "
            f"same labels, got {sum(sizes.values())} per side; the labels of the real cells are {labels}. "
            f"{'Hold out more cells' if train is not None else 'Give more real cells'}."
        )
    available = {name: label_sizes(column) for name, column in strata.items()}
    too_few = _note_composition(sizes, of_label, available, label_key, train is not None, notes)
    sizes = limit_sizes(sizes, of_label, MAX_OF_LABEL if label_key is not None else MAX_CELLS)
    sides = {}
    for name, part in cells.items():
        levels = [_codes(part.column(key), covariates[key]) for key in keys]
        codes = np.stack(levels, axis=1) if levels else np.zeros((len(part), 0), int)
        sides[name] = Side(part, part.column(label_key), strata[name], donors[name], codes)
    totals = sizes_by_group(sizes, of_label) if label_key is not None else {}
    variance = sum(_gene_variances(cells[name].values) for name in ("generated", "pool"))
    return EvaluationPlan(
        sides["generated"],
        sides.get("second"),
        sides["real"],
        sides["pool"],
        sizes,
        sorted(label for label, n in totals.items() if n >= MIN_OF_LABEL),
        too_few,
        of_label,
        covariates,
        other_donors and n_donors >= MIN_DONORS,
        not other_donors or n_donors >= MIN_DONORS,
        n_donors - 1 if other_donors else None,
        np.argsort(-variance, kind="stable")[:MAX_GENES],
    )


def _are_other_donors(
    donors: Mapping[str, np.ndarray], n_real: int, donor_key: str, notes: list[str]
) -> bool:
    """Return whether the held-out cells come from other donors than the training or generated cells."""
    real, train = set(donors["real"]), set(donors["pool"][n_real:])
    made = set(donors["generated"])
    other = not (train or made) & real if train else not made & real
    if other:
        found = len(real | train)
        notes.append(
            f"The real cells come from other donors ({donor_key}) than the "
            f"{'training' if train else 'generated'} cells, so the baseline compares real cells of different "
            "donors."
            + (
                ""
                if found >= MIN_DONORS
                else f" It requires at least {MIN_DONORS} donors, got {found}, so nothing was judged."
            )
        )
    return other


def _matched_sizes(
    cells: Mapping[str, CellSet], label_key: str | None, keys: Sequence[str]
) -> tuple[dict[str, int], list[str | None]]:
    """Return the cells per side of each stratum, and the columns of the strata.

    Covariates are matched too where that keeps most cells.
    """

    def sizes_for(columns: Sequence[str | None]) -> dict[str, int]:
        sizes = {name: label_sizes(part.column(*columns)) for name, part in cells.items()}
        # a real-vs-real comparison needs two disjoint samples of this size from the pool
        smallest = {
            name: min(sizes["generated"].get(name, 0), n, sizes["pool"][name] // 2)
            for name, n in sizes["real"].items()
        }
        return {name: n for name, n in smallest.items() if n}

    plain = sizes_for([label_key])
    matched = sizes_for([label_key, *keys]) if keys else plain
    if keys and sum(matched.values()) >= MIN_SHARE * sum(plain.values()):
        return matched, [label_key, *keys]
    return plain, [label_key]


def _codes(column: np.ndarray, levels: Sequence[str]) -> np.ndarray:
    """Return the position of each level among the known ones, -1 for unknown levels."""
    known = {level: i for i, level in enumerate(levels)}
    return np.array([known.get(str(level), -1) for level in column], int)


def _note_composition(
    sizes: Mapping[str, int],
    of_label: Mapping[str, str],
    available: Mapping[str, Mapping[str, int]],
    label_key: str | None,
    with_train: bool,
    notes: list[str],
) -> list[str]:
    """Append notes on the cells that are compared; return labels with too few real cells for a verdict."""
    n = sum(sizes.values())
    source = "the real and training cells" if with_train else "two halves of the real cells"
    notes.append(
        f"Each side of a comparison has up to {n:,} cells, with the same number of each label; the baseline "
        f"(real vs real) comes from {source}."
    )
    if label_key is None:
        return []
    real, generated = (sizes_by_group(available[name], of_label) for name in ("real", "generated"))
    total = sizes_by_group(sizes, of_label)
    few = [label for label in real if total.get(label, 0) < MIN_OF_LABEL and generated.get(label, 0)]
    absent = [label for label in real if not generated.get(label, 0)]
    unknown = [name.replace("\t", " of ") for name in available["generated"] if name not in of_label]
    # labels of the training cells that have no held-out cells
    unknown += [label for label, n in generated.items() if n and not real.get(label, 0)]
    if few:
        notes.append(f"Labels with too few cells for metrics of their own: {listed(sorted(few))}.")
    if absent:
        notes.append(f"Labels without generated cells, not compared: {listed(sorted(absent))}.")
    if unknown:
        notes.append(
            f"Labels of generated cells without real cells, not compared: {listed(sorted(unknown))}."
        )
    return sorted(label for label, n in generated.items() if n and total.get(label, 0) < FEW)


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
