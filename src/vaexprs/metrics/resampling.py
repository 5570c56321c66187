"""Comparisons of generated with real cells, and of real with real cells."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vaexprs.interface.progress import progress_bar
from vaexprs.metrics.across_labels import (
    MetricValues,
    contrast_values,
    covariate_values,
    folds,
    forest_values,
    strongest_genes,
)
from vaexprs.metrics.functions import contrast
from vaexprs.metrics.plan import EvaluationPlan, Side, concatenate_rows
from vaexprs.metrics.reference import Columns, Sample, features, learn
from vaexprs.metrics.registry import ALL, METRICS
from vaexprs.preprocessing.splits import random_rows

MAX_TIMES = 4  # maximum number of cells that are sampled from, times the cells per side
MAX_EXPRESSED = 500  # number of genes with the highest mean count whose dispersion is compared
ATYPICAL = 0.95  # quantile of the deviance of a label's real cells above which a cell is atypical
MIN_SLOW, MAX_SLOW = 4, 6  # number of comparisons in which slow metrics are computed, more for fewer cells
SLOW_TIMES_CELLS = 1_500  # product of that number and the cells per side
# offsets of the seeds of the choice of cells, above those of the comparisons
HALF_SEED = 2_000_000


@dataclass(frozen=True)
class Cells:
    """Cells that both sides of the comparisons are sampled from.

    Parameters
    ----------
    generated, second, pool
        Features of the cells; `second` is None without a second generated set.
    strata
        Stratum of each cell of "generated", "second" and "pool".
    is_real
        Whether a cell of the pool is one of the real cells, not a training cell.
    donors
        Donor of each cell of the pool.
    strongest
        Genes with the largest fold changes of each label in the pool.
    """

    generated: Sample
    second: Sample | None
    pool: Sample
    strata: Mapping[str, np.ndarray]
    is_real: np.ndarray
    donors: np.ndarray
    strongest: Mapping[str, np.ndarray]


class Rows(NamedTuple):
    """Rows of one comparison by stratum: of the evaluated side, and of the reference in the pool.

    Parameters
    ----------
    generated
        Whether `a` are rows of the generated cells; otherwise of the pool.
    a, b
        Rows by stratum.
    second
        Rows of the second generated set.
    slow
        Whether slow metrics are computed.
    seed
        Seed of the classifiers.
    """

    generated: bool
    a: Mapping[str, np.ndarray]
    b: Mapping[str, np.ndarray]
    second: Mapping[str, np.ndarray]
    slow: bool
    seed: int


class Compared(NamedTuple):
    """Values of the metrics in all comparisons of generated with real cells, and of real with real cells."""

    generated: list[MetricValues]
    real: list[MetricValues]


def compare_sets(
    plan: EvaluationPlan, wanted: set[str], resamples: int, seed: int, progress: bool
) -> Compared:
    """Return the values of the metrics in `resamples` comparisons of each kind."""
    from joblib import Parallel, delayed
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        cells = _cells(plan, seed)
        drawn = [_rows(plan, cells, i, made, seed) for i in range(resamples) for made in (True, False)]
        tasks = [task for task in drawn if task is not None]
        # Random forests hold the GIL, so comparisons run in processes; joblib maps their arrays once.
        n_jobs = -1 if len(cells.pool) > 200 else 1
        results: dict[bool, list[MetricValues]] = {True: [], False: []}
        with progress_bar(len(tasks), "comparing", "part", shown=progress) as bar:
            parts = Parallel(n_jobs=n_jobs, return_as="generator", max_nbytes="256K")(
                delayed(_values)(plan.labels, plan.covariates, cells, task, sizes, wanted)
                for task, sizes in ((task, _sizes(plan, task)) for task in tasks)
            )
            for task, values in zip(tasks, parts, strict=True):
                results[task.generated].append(values)
                bar.update()
    return Compared(results[True], results[False])


def _cells(plan: EvaluationPlan, seed: int) -> Cells:
    """Return the features of the cells; references are learned from each half of the pool."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(HALF_SEED,)))
    rows = _limited(plan.pool, plan.sizes, rng, len(plan.real.labels))
    pool, is_real = plan.pool.take(rows), rows < len(plan.real.labels)
    made = plan.generated.take(_limited(plan.generated, plan.sizes, rng))
    second = None if plan.second is None else plan.second.take(_limited(plan.second, plan.sizes, rng))
    columns = _columns(plan, pool)
    half = folds(pool.labels, 2, rng)
    # the reference that applies to half h is learned from the other half
    references = [
        learn(pool.cells.take(other), pool.labels[other], pool.levels[other], columns, seed)
        for other in (np.flatnonzero(half == 1), np.flatnonzero(half == 0))
    ]

    def of(side: Side, halves: np.ndarray) -> Sample:
        return features(side.cells, side.labels, side.levels, halves, references, columns)

    sample = of(pool, half)
    cutoffs = {
        str(label): float(np.quantile(sample.deviance[sample.labels == label], ATYPICAL))
        for label in np.unique(sample.labels)
    }
    sample = sample.with_atypical(cutoffs)
    return Cells(
        of(made, folds(made.labels, 2, rng)).with_atypical(cutoffs),
        None if second is None else of(second, folds(second.labels, 2, rng)).with_atypical(cutoffs),
        sample,
        {"generated": made.strata, "pool": pool.strata}
        | ({} if second is None else {"second": second.strata}),
        is_real,
        pool.donors,
        {
            label: strongest_genes(contrast(sample.values, sample.labels == label))
            for label in plan.labels
            if not (sample.labels == label).all()
        },
    )


def _limited(side: Side, sizes: Mapping[str, int], rng: np.random.Generator, first: int = 0) -> np.ndarray:
    """Return random rows of the strata, at most four times as many as `sizes`; those below `first` first."""
    chosen = []
    for name, rows in random_rows(rng, side.strata, dict.fromkeys(sizes, len(side.strata))).items():
        chosen.append(rows[np.argsort(rows >= first, kind="stable")][: MAX_TIMES * sizes[name]])
    return np.sort(concatenate_rows(chosen))


def _columns(plan: EvaluationPlan, pool: Side) -> Columns:
    if not pool.cells.counts:
        return Columns(plan.variable, np.empty(0, int), 1.0)
    totals = np.asarray(pool.cells.raw.sum(axis=0), np.float64).ravel()
    median = float(np.median(np.asarray(pool.cells.raw.sum(axis=1))))
    return Columns(plan.variable, np.argsort(-totals, kind="stable")[:MAX_EXPRESSED], max(median, 1.0))


def _rows(plan: EvaluationPlan, cells: Cells, i: int, generated: bool, seed: int) -> Rows | None:
    """Return the rows of the i-th comparison of a kind; None if the donors of a split have too few cells."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(i, int(generated))))
    slow = MIN_SLOW
    if generated:
        slow = int(np.clip(SLOW_TIMES_CELLS // sum(plan.sizes.values()), MIN_SLOW, MAX_SLOW))
    sizes = plan.sizes
    second: dict[str, np.ndarray] = {}
    if generated:
        a = random_rows(rng, cells.strata["generated"], sizes)
        b = random_rows(rng, np.where(cells.is_real, cells.strata["pool"], ""), sizes)
        if cells.second is not None:
            second = random_rows(rng, cells.strata["second"], sizes)
    elif plan.by_donor:
        donors = rng.permutation(np.unique(cells.donors))
        first = np.isin(cells.donors, donors[: len(donors) // 2])
        a, b = (random_rows(rng, np.where(mask, cells.strata["pool"], ""), sizes) for mask in (first, ~first))
        equal = {name: min(len(a[name]), len(b[name])) for name in sizes}
        a, b = ({name: rows[: equal[name]] for name, rows in side.items()} for side in (a, b))
        if 2 * sum(equal.values()) < sum(sizes.values()):
            return None
    else:
        both = random_rows(rng, cells.strata["pool"], {name: 2 * n for name, n in sizes.items()})
        a = {name: rows[: sizes[name]] for name, rows in both.items()}
        b = {name: rows[sizes[name] :] for name, rows in both.items()}
    return Rows(generated, a, b, second, i < slow, int(rng.integers(2**31)))


def _sizes(plan: EvaluationPlan, task: Rows) -> dict[str, dict[str, int]]:
    """Return the number of cells per side of each stratum, for all cells and for each label."""
    sizes = {label: plan.sizes_of(label) for label in [ALL, *plan.labels]}
    if not plan.by_donor or task.generated:
        return sizes
    return {
        label: {name: min(n, len(task.a[name])) for name, n in parts.items()}
        for label, parts in sizes.items()
    }


def _values(
    labels: Collection[str],
    covariates: Mapping[str, list[str]],
    cells: Cells,
    task: Rows,
    sizes: Mapping[str, Mapping[str, int]],
    wanted: set[str],
) -> MetricValues:
    """Return the metrics of one comparison, for all cells and for each label."""
    source = cells.generated if task.generated else cells.pool
    values: MetricValues = {}
    for label in [ALL, *labels]:
        a, b = (
            side.take(concatenate_rows(rows[name][:n] for name, n in sizes[label].items()))
            for side, rows in ((source, task.a), (cells.pool, task.b))
        )
        for name, metric in METRICS.items():
            if metric.of is None or name not in wanted or not _applies(name, label, a, b):
                continue
            if metric.question == "types" and not labels:
                continue
            values[name, label] = metric.of(a, b)
        if label != ALL:
            continue
        values.update(contrast_values(a, b, list(cells.strongest), cells.strongest, wanted))
        values.update(covariate_values(a, b, covariates, wanted))
        if task.slow and wanted & {"forest_auc_genes", "forest_auc_pcs"}:
            tested = a
            if task.generated and cells.second is not None:
                tested = cells.second.take(
                    concatenate_rows(task.second[name][:n] for name, n in sizes[ALL].items())
                )
            values.update(forest_values(a, b, tested, list(labels), wanted, task.seed))
    return values


def _applies(name: str, label: str, a: Sample, b: Sample) -> bool:
    metric = METRICS[name]
    counts = a.scaled.shape[1] > 0
    return (
        min(len(a), len(b)) >= metric.cells
        and (metric.kind == "any" or (metric.kind == "counts") == counts)
        and (metric.per == "label" or label == ALL)
    )
