"""Comparisons of generated with real cells, and of real with real cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from vaexprs.comparison.axes import Axes
from vaexprs.data.matrix import densify
from vaexprs.interface.progress import progress_bar
from vaexprs.metrics.across_labels import (
    GenesOfLabel,
    MetricValues,
    marker_values,
    mixing_values,
    pseudobulk_values,
    recall_values,
)
from vaexprs.metrics.baseline import pair_values_and_differences, scaled_difference
from vaexprs.metrics.plan import EvaluationPlan, Side, concatenate_rows
from vaexprs.metrics.registry import ALL, METRICS, Sample
from vaexprs.preprocessing.splits import random_rows


@dataclass(frozen=True)
class Comparison:
    """Two sides of a comparison: the evaluated cells first, then the reference.

    Parameters
    ----------
    plan
        The plan of the evaluation.
    sides
        The cells that both sides are sampled from.
    rows
        Rows of each stratum, the same number on both sides.
    seed
        Seed of the principal axes.
    """

    plan: EvaluationPlan
    sides: tuple[Side, Side]
    rows: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]
    seed: int

    @cached_property
    def axes(self) -> Axes:
        """Principal axes of both sides together.

        Both sides contribute, because cells are closer to axes that were computed from them.
        """
        return Axes.of([side.cells.values[rows] for side, rows in self._rows_of(ALL)], self.seed)

    def samples(self, label: str) -> tuple[Sample, Sample]:
        """Return the dense cells of both sides for metrics of a label, or of `ALL` cells."""
        a, b = (self._sample(side, rows) for side, rows in self._rows_of(label))
        return a, b

    def _rows_of(self, label: str) -> list[tuple[Side, np.ndarray]]:
        sizes = self.plan.sizes_of(label)
        return [
            (side, concatenate_rows(rows[name][:n] for name, n in sizes.items()))
            for side, rows in zip(self.sides, self.rows, strict=True)
        ]

    def _sample(self, side: Side, rows: np.ndarray) -> Sample:
        values = densify(side.cells.values[rows])
        return Sample(densify(side.cells.raw[rows]), values, self.axes.of_cells(values), side.labels[rows])


class ComparisonValues(NamedTuple):
    """Results of one comparison.

    Parameters
    ----------
    values
        Metrics of the two sides.
    differences
        For real vs real, differences between halves of both sides, of metrics with `by_noise`.
    """

    values: MetricValues
    differences: MetricValues


def compare_sets(
    plan: EvaluationPlan, wanted: set[str], resamples: int, seed: int, progress: bool
) -> list[ComparisonValues]:
    """Return the results for generated vs real cells, then those of `resamples` real-vs-real comparisons."""
    from joblib import Parallel, delayed
    from threadpoolctl import threadpool_limits

    comparisons = [_generated_vs_real(plan, seed)]
    comparisons += [_real_vs_real(plan, i, seed) for i in range(1, resamples + 1)]
    tasks = [(i, label) for i in range(resamples + 1) for label in [ALL, *plan.labels]]
    results = [ComparisonValues({}, {}) for _ in comparisons]
    genes: list[dict[str, GenesOfLabel]] = [{} for _ in comparisons]

    def samples() -> Iterator[tuple[Sample, Sample, bool]]:
        """Yield the samples of each task; metrics across labels are computed here, in the main process."""
        for i, label in tasks:
            a, b = comparisons[i].samples(label)
            if label == ALL:
                results[i].values.update(mixing_values(a, b, plan.labels, wanted))
                results[i].values.update(recall_values(a, b, plan.labels, wanted))
            else:
                genes[i][label] = GenesOfLabel.of(a, b)
            yield a, b, i > 0

    # Random forests hold the GIL, so they run in processes. Workers import only `vaexprs.metrics.baseline`.
    n_jobs = -1 if any(name.startswith("forest") for name in wanted) else 1
    counts = plan.real.cells.counts
    with threadpool_limits(1), progress_bar(len(tasks), "comparing", "part", shown=progress) as bar:
        pairs = Parallel(n_jobs=n_jobs, return_as="generator")(
            delayed(pair_values_and_differences)(a, b, plan.shared, wanted, counts, is_baseline)
            for a, b, is_baseline in samples()
        )
        for (i, label), pair in zip(tasks, pairs, strict=True):
            for table, values in zip(results[i], pair, strict=True):
                table.update({(name, label): value for name, value in values.items()})
            bar.update()
    for comparison, result, of_labels in zip(comparisons, results, genes, strict=True):
        _add_marker_values(result, of_labels, wanted)
        if plan.of_donor and "pseudobulk_r" in wanted:
            result.values.update(pseudobulk_values(plan, comparison.sides, comparison.rows))
    return results


def _generated_vs_real(plan: EvaluationPlan, seed: int) -> Comparison:
    rng = _generator(seed, 0)
    a, b = (random_rows(rng, side.strata, plan.sizes) for side in (plan.generated, plan.real))
    return Comparison(plan, (plan.generated, plan.real), (a, b), seed)


def _real_vs_real(plan: EvaluationPlan, i: int, seed: int) -> Comparison:
    """Return the i-th comparison of two disjoint random samples of the pool."""
    twice = {name: 2 * n for name, n in plan.sizes.items()}
    rows = random_rows(_generator(seed, i), plan.pool.strata, twice)
    a = {name: chosen[: plan.sizes[name]] for name, chosen in rows.items()}
    b = {name: chosen[plan.sizes[name] :] for name, chosen in rows.items()}
    return Comparison(plan, (plan.pool, plan.pool), (a, b), seed)


def _generator(seed: int, i: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(i,)))


def _add_marker_values(result: ComparisonValues, genes: Mapping[str, GenesOfLabel], wanted: set[str]) -> None:
    whole = {label: of_label.whole for label, of_label in genes.items()}
    result.values.update(marker_values(whole, wanted))
    first, second = (
        marker_values({label: of_label.halves[i] for label, of_label in genes.items()}, wanted)
        for i in (0, 1)
    )
    for key, value in first.items():
        metric = METRICS[key[0]]
        if metric.by_noise:
            result.differences[key] = scaled_difference(metric, value, second[key])
