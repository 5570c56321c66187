"""Metrics computed from the cells of all labels together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vaexprs.metrics import functions as metrics
from vaexprs.metrics.plan import EvaluationPlan, Side, concatenate_rows, sizes_by_group
from vaexprs.metrics.registry import ALL, MIN_CELLS, Sample

MAX_MARKERS = 50  # number of genes per type; at most a tenth of the genes
PSEUDOBULK_TARGET = 1e6  # library size to which pseudobulks of counts are normalised
# values of metrics by (metric, label)
MetricValues = dict[tuple[str, str], float]


class GenesOfPair(NamedTuple):
    """Gene statistics of one label on both sides, and the number of cells per side."""

    a: metrics.GeneStatistics
    b: metrics.GeneStatistics
    n: int

    @classmethod
    def of(cls, a: Sample, b: Sample) -> GenesOfPair:
        """Return the statistics of two samples of equal size."""
        return cls(a.genes, b.genes, len(a.values))


class GenesOfLabel(NamedTuple):
    """Gene statistics of all cells of a label, and of two disjoint halves of them."""

    whole: GenesOfPair
    halves: tuple[GenesOfPair, GenesOfPair]

    @classmethod
    def of(cls, a: Sample, b: Sample) -> GenesOfLabel:
        """Return the statistics of two samples of one label."""
        first, second = (GenesOfPair.of(a.half(i), b.half(i)) for i in (0, 1))
        return cls(GenesOfPair.of(a, b), (first, second))


def mixing_values(a: Sample, b: Sample, labels: Sequence[str], wanted: set[str]) -> MetricValues:
    """Return the mean LISI of all cells and of the cells of each label."""
    if "lisi" not in wanted:
        return {}
    mixing, label_of_cell = metrics.mixing(a.pcs, b.pcs), np.concatenate([a.labels, b.labels])
    values = {("lisi", ALL): float(mixing.mean())}
    for label in labels:
        rows = label_of_cell == label
        if rows.any():
            values["lisi", label] = float(mixing[rows].mean())
    return values


def recall_values(a: Sample, b: Sample, labels: Sequence[str], wanted: set[str]) -> MetricValues:
    """Return the recall of each label by a classifier trained on one side and tested on the other."""
    if len(labels) < 2:
        return {}
    values: MetricValues = {}
    for name, trained, tested in (
        ("recall_real_to_generated", b, a),
        ("recall_generated_to_real", a, b),
    ):
        if name in wanted:
            recalls = metrics.recalls(trained.pcs, trained.labels, tested.pcs, tested.labels)
            recalls = {label: recalls[label] for label in labels if label in recalls}
            values |= {(name, label): value for label, value in recalls.items()}
            values[name, ALL] = float(np.mean(list(recalls.values())))
    return values


def marker_values(genes: Mapping[str, GenesOfPair], wanted: set[str]) -> MetricValues:
    """Return the agreement of marker genes and of log fold changes of each label against the others."""
    if len(genes) < 2 or not wanted & {"marker_overlap", "fold_change_slope"}:
        return {}
    sizes = np.array([pair.n for pair in genes.values()])
    a = metrics.contrasts([pair.a for pair in genes.values()], sizes)
    b = metrics.contrasts([pair.b for pair in genes.values()], sizes)
    n_markers = max(1, min(MAX_MARKERS, len(a[0].t) // 10))
    values: MetricValues = {}
    for name, function in (
        ("marker_overlap", metrics.marker_overlap),
        ("fold_change_slope", metrics.change_slope),
    ):
        if name in wanted:
            of_labels = [function(x, y, n_markers) for x, y in zip(a, b, strict=True)]
            values |= {(name, label): value for label, value in zip(genes, of_labels, strict=True)}
            values[name, ALL] = float(np.mean(of_labels))
    return values


def pseudobulk_values(
    plan: EvaluationPlan, sides: tuple[Side, Side], rows: tuple[Mapping[str, np.ndarray], ...]
) -> MetricValues:
    """Return the correlation of each donor's pseudobulk, minus the mean over donors, between two sides.

    Parameters
    ----------
    plan
        The plan of the evaluation.
    sides
        The cells of both sides.
    rows
        Rows of each stratum on both sides.
    """
    donors = [donor for donor, n in sizes_by_group(plan.sizes, plan.of_donor).items() if n >= MIN_CELLS]
    if len(donors) < 2:
        return {}
    profiles = []
    for side, rows_of in zip(sides, rows, strict=True):
        sums = []
        for donor in donors:
            chosen = concatenate_rows(rows_of[name] for name in plan.sizes if plan.of_donor[name] == donor)
            total = np.asarray(side.cells.raw[chosen].sum(axis=0), np.float64).ravel()
            if side.cells.counts:
                sums.append(np.log1p(PSEUDOBULK_TARGET * total / max(total.sum(), 1)))
            else:
                sums.append(total / len(chosen))
        profiles.append(np.stack(sums) - np.mean(sums, axis=0))
    of_donors = [metrics.correlation(x, y) for x, y in zip(*profiles, strict=True)]
    values: MetricValues = {
        ("pseudobulk_r", donor): value for donor, value in zip(donors, of_donors, strict=True)
    }
    values["pseudobulk_r", ALL] = float(np.mean(of_donors))
    return values
