"""Compute the metrics for one comparison of generated with real cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from vaexprs.comparison.axes import Axes
from vaexprs.data.matrix import densify
from vaexprs.interface.progress import progress_bar
from vaexprs.metrics import functions as metrics
from vaexprs.metrics.floor import difference, pair_figures_and_gaps
from vaexprs.metrics.plan import MAX_CELLS, Plan, Side, join_sets, rows_by, thin_rows
from vaexprs.metrics.registry import ALL, METRICS, MIN_CELLS, Sample
from vaexprs.preprocessing.splits import random_rows

MARKERS = 50
# what one comparison gives: (metric, label) -> value
Figures = dict[tuple[str, str], float]


@dataclass(frozen=True)
class Comparison:
    """Two sides of a comparison, the judged one first.

    Parameters
    ----------
    sides
        The cells that both are drawn from.
    rows
        Rows of each stratum, the same number on both sides.
    most
        How many of them the figures of all cells look at.
    """

    sides: tuple[Side, Side]
    rows: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]
    most: Mapping[str, int]
    seed: int

    @cached_property
    def axes(self) -> Axes:
        """Principal axes of both sides together: cells lie otherwise on axes that were not made from them."""
        return Axes.of([side.cells.values[rows] for side, rows in self._chosen(self.most)], self.seed)

    def samples(self, most: Mapping[str, int]) -> tuple[Sample, Sample]:
        """Return so many cells of each stratum of both sides, dense."""
        a, b = (self._sample(side, rows) for side, rows in self._chosen(most))
        return a, b

    def _chosen(self, most: Mapping[str, int]) -> list[tuple[Side, np.ndarray]]:
        return [
            (side, join_sets(rows[name][:n] for name, n in most.items()))
            for side, rows in zip(self.sides, self.rows, strict=True)
        ]

    def _sample(self, side: Side, rows: np.ndarray) -> Sample:
        values = densify(side.cells.values[rows])
        return Sample(densify(side.cells.raw[rows]), values, self.axes.of_cells(values), side.labels[rows])


def _comparison(plan: Plan, i: int, seed: int) -> Comparison:
    """Return generated against real cells for i = 0, and for others two sides of real cells."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(i,)))
    of_all = thin_rows(plan.most, dict.fromkeys(plan.most, ALL), MAX_CELLS)
    if i == 0:
        sides = plan.generated, plan.real
        a, b = (random_rows(rng, side.strata, plan.most) for side in sides)
        return Comparison(sides, (a, b), of_all, seed)
    both = random_rows(rng, plan.pool.strata, {name: 2 * n for name, n in plan.most.items()})
    halves = (
        {name: rows[: plan.most[name]] for name, rows in both.items()},
        {name: rows[plan.most[name] :] for name, rows in both.items()},
    )
    return Comparison((plan.pool, plan.pool), halves, of_all, seed)


class Compared(NamedTuple):
    """What one comparison gives.

    Parameters
    ----------
    figures
        The figures by metric and label.
    gaps
        For real against real, differences of the figures with `by_noise` between halves of both sides.
    """

    figures: Figures
    gaps: Figures


def compare_sets(plan: Plan, wanted: set[str], resamples: int, seed: int, progress: bool) -> list[Compared]:
    """Compare generated with real cells, then real with real ones."""
    from joblib import Parallel, delayed
    from threadpoolctl import threadpool_limits

    comparisons = [_comparison(plan, i, seed) for i in range(resamples + 1)]
    counts = plan.real.cells.counts
    tasks = [(i, label) for i in range(resamples + 1) for label in [ALL, *plan.labels]]
    found = [Compared({}, {}) for _ in comparisons]
    parts: list[dict[str, Parts]] = [{} for _ in comparisons]

    def drawn() -> Iterator[tuple[Sample, Sample, bool]]:
        for i, label in tasks:
            a, b = comparisons[i].samples(plan.of(label, comparisons[i].most))
            if label == ALL:
                found[i].figures.update(_mixing_figures(a, b, plan.labels) if "lisi" in wanted else {})
                found[i].figures.update(_recall_figures(a, b, plan.labels, wanted))
            else:
                parts[i][label] = Parts.of(a, b)
            yield a, b, i > 0

    # processes where trees are grown, which hold Python's lock; they import no more than `scorecard`
    n_jobs = -1 if any(name.startswith("forest") for name in wanted) else 1
    with threadpool_limits(1), progress_bar(len(tasks), "comparing", "part", shown=progress) as bar:
        work = Parallel(n_jobs=n_jobs, return_as="generator")(
            delayed(pair_figures_and_gaps)(a, b, plan.shared, wanted, counts, floor)
            for a, b, floor in drawn()
        )
        for (i, label), both in zip(tasks, work, strict=True):
            for table, values in zip(found[i], both, strict=True):
                table.update({(name, label): value for name, value in values.items()})
            bar.update()
    for comparison, (figures, gaps), statistics in zip(comparisons, found, parts, strict=True):
        figures.update(_marker_figures({label: part.whole for label, part in statistics.items()}, wanted))
        first, second = (
            _marker_figures({label: part.halves[k] for label, part in statistics.items()}, wanted)
            for k in (0, 1)
        )
        by_noise = [key for key in first if METRICS[key[0]].by_noise]
        gaps.update({key: difference(METRICS[key[0]], first[key], second[key]) for key in by_noise})
        if plan.of_donor and "pseudobulk_r" in wanted:
            figures.update(_pseudobulk_figures(plan, comparison))
    return found


class Pair(NamedTuple):
    """What the genes of one label say on both sides, and how many cells each has."""

    a: metrics.GeneStatistics
    b: metrics.GeneStatistics
    n: int


class Parts(NamedTuple):
    """What the genes of one label say in all its cells and in two halves of them."""

    whole: Pair
    halves: tuple[Pair, Pair]

    @classmethod
    def of(cls, a: Sample, b: Sample) -> Parts:
        """Return what the genes of two samples say."""
        first, second = (Pair(a.half(k).genes, b.half(k).genes, len(a.half(k).values)) for k in (0, 1))
        return cls(Pair(a.genes, b.genes, len(a.values)), (first, second))


def _mixing_figures(a: Sample, b: Sample, labels: Sequence[str]) -> Figures:
    mixed, of = metrics.mixing(a.pcs, b.pcs), np.concatenate([a.labels, b.labels])
    found = {("lisi", label): float(mixed[of == label].mean()) for label in labels if (of == label).any()}
    return {("lisi", ALL): float(mixed.mean())} | found


def _recall_figures(a: Sample, b: Sample, labels: Sequence[str], wanted: set[str]) -> Figures:
    if len(labels) < 2:
        return {}
    found: Figures = {}
    for name, fitted, tested in (
        ("recall_real_to_generated", b, a),
        ("recall_generated_to_real", a, b),
    ):
        if name in wanted:
            recalls = metrics.recalls(fitted.pcs, fitted.labels, tested.pcs, tested.labels)
            mine = {label: recalls[label] for label in labels if label in recalls}
            found |= {(name, label): value for label, value in mine.items()}
            found[name, ALL] = float(np.mean(list(mine.values())))
    return found


def _marker_figures(parts: Mapping[str, Pair], wanted: set[str]) -> Figures:
    if len(parts) < 2 or not wanted & {"marker_overlap", "fold_change_slope"}:
        return {}
    sizes = np.array([part.n for part in parts.values()])
    a, b = (
        metrics.contrasts([part.a if side == 0 else part.b for part in parts.values()], sizes)
        for side in (0, 1)
    )
    most = max(1, min(MARKERS, len(a[0].t) // 10))
    found: Figures = {}
    for name, figure in (
        ("marker_overlap", metrics.marker_overlap),
        ("fold_change_slope", metrics.change_slope),
    ):
        if name in wanted:
            values = [figure(x, y, most) for x, y in zip(a, b, strict=True)]
            found |= {(name, label): value for label, value in zip(parts, values, strict=True)}
            found[name, ALL] = float(np.mean(values))
    return found


def _pseudobulk_figures(plan: Plan, comparison: Comparison) -> Figures:
    """Return how well donors' sums, less the mean of all donors, agree; a row for each donor."""
    donors = [donor for donor, n in rows_by(plan.most, plan.of_donor).items() if n >= MIN_CELLS]
    if len(donors) < 2:
        return {}
    profiles = []
    for side, rows in zip(comparison.sides, comparison.rows, strict=True):
        sums = []
        for donor in donors:
            mine = join_sets(rows[name] for name in plan.most if plan.of_donor[name] == donor)
            total = np.asarray(side.cells.raw[mine].sum(axis=0), np.float64).ravel()
            sums.append(
                np.log1p(1e6 * total / max(total.sum(), 1)) if side.cells.counts else total / len(mine)
            )
        profiles.append(np.stack(sums) - np.mean(sums, axis=0))
    values = [metrics.correlation(x, y) for x, y in zip(*profiles, strict=True)]
    found: Figures = {("pseudobulk_r", donor): value for donor, value in zip(donors, values, strict=True)}
    found["pseudobulk_r", ALL] = float(np.mean(values))
    return found
