"""Learning curves of a classifier with and without generated cells."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from vaexprs.comparison.axes import Axes
from vaexprs.comparison.cell_sets import CellSet
from vaexprs.metrics import functions as metrics
from vaexprs.metrics.baseline import CONFIDENCE, verdict_of
from vaexprs.metrics.plan import EvaluationPlan, concatenate_rows, label_sizes
from vaexprs.metrics.registry import ALL, METRICS
from vaexprs.preprocessing.splits import random_rows

REPEATS = 4  # number of random splits of the real cells
SIZES = (5, 10, 20, 50, 100, 200, 500)  # numbers of real training cells of the label
MAX_CURVES = 12  # maximum number of labels, the rarest first
MAX_OTHERS = 1_000  # maximum number of training cells of the other labels
METHODS = ("generated", "oversampling", "SMOTE")
UTILITY = ("f1_generated_added", "f1_oversampling_added", "f1_smote_added", "cells_needed")
# offset of the seeds of the splits, above those of the comparisons
SPLIT_SEEDS = 1_000_000


def learning_curve(plan: EvaluationPlan, train: CellSet, seed: int) -> pd.DataFrame:
    """Return the F1 of each label in new cells as a function of the classifier's training cells.

    The real cells are repeatedly split at random into test cells and a half that shows the effect of more
    real cells. Everything else is learned from the training cells: n cells of the label as they are
    (method "real"), or all of them with cells added by one of `METHODS`, up to the median size of the other
    labels, at least twice the label's size.

    Returns
    -------
    DataFrame
        With columns label, method, n (real training cells of the label), added, f1, and the ends low and
        high of the 95% interval of f1 over the repeats.
    """
    from joblib import Parallel, delayed
    from threadpoolctl import threadpool_limits

    axes = Axes.of([train.values], seed)  # as available to a user who has the training cells only
    pcs = Coordinates(
        *(axes.of_cells(cells.values) for cells in (train, plan.real.cells, plan.generated.cells))
    )
    labels = plan.pool.labels[len(plan.real.labels) :]
    sizes = label_sizes(labels)
    by_size = sorted((n, label) for label, n in sizes.items() if label in plan.labels and n >= 2)
    tasks = [(label, i) for _, label in by_size[:MAX_CURVES] for i in range(REPEATS)]
    entropy = [np.random.SeedSequence(seed, spawn_key=(SPLIT_SEEDS, i)) for i in range(REPEATS)]
    with threadpool_limits(1):
        results = Parallel(n_jobs=-1, prefer="threads")(
            delayed(_scores)(plan, pcs, labels, label, entropy[i]) for label, i in tasks
        )
    points = [point for part in results for point in part]
    return _with_intervals(pd.DataFrame(points, columns=["label", "method", "n", "added", "f1"]))


class Coordinates(NamedTuple):
    """Cells on the principal axes of the training cells, (n_cells, n_axes) each."""

    train: np.ndarray
    real: np.ndarray
    generated: np.ndarray


def _scores(
    plan: EvaluationPlan,
    pcs: Coordinates,
    labels: np.ndarray,
    label: str,
    entropy: np.random.SeedSequence,
) -> list[tuple[str, str, int, int, float]]:
    """Return the points of one label's curve for one split of the real cells."""
    rng = np.random.default_rng(entropy)
    parts = random_rows(rng, plan.real.labels, label_sizes(plan.real.labels))
    tested = concatenate_rows(rows[: -(-len(rows) // 2)] for rows in parts.values())
    more_real = parts[label][-(-len(parts[label]) // 2) :]
    others = rng.permutation(np.flatnonzero(labels != label))[:MAX_OTHERS]
    own = np.flatnonzero(labels == label)
    x_test, y_test = pcs.real[tested], plan.real.labels[tested]

    def score(x: np.ndarray) -> float:
        """Return the F1 with `x` as the label's training cells."""
        y = np.concatenate([labels[others], np.full(len(x), label, object)]).astype(str)
        return metrics.f1(np.concatenate([pcs.train[others], x]), y, x_test, y_test.astype(str), label)

    real = np.concatenate([pcs.train[rng.permutation(own)], pcs.real[more_real]])
    sizes = sorted({n for n in SIZES if n <= len(real)} | {len(own), len(real)})
    points = [(label, "real", n, 0, score(real[:n])) for n in sizes]
    median = int(np.median([n for name, n in label_sizes(labels[others]).items()]))
    generated = pcs.generated[rng.permutation(np.flatnonzero(plan.generated.labels == label))]
    m = min(max(median - len(own), len(own)), len(generated))
    for method in METHODS:
        added = generated[:m] if method == "generated" else _resampled(method, pcs.train[own], m, rng)
        points.append((label, method, len(own), m, score(np.concatenate([pcs.train[own], added]))))
    return points


def _resampled(method: str, x: np.ndarray, m: int, rng: np.random.Generator) -> np.ndarray:
    """Return `m` cells resampled from `x` with imbalanced-learn."""
    from imblearn.over_sampling import SMOTE, RandomOverSampler

    arguments: dict[str, Any] = {
        "sampling_strategy": {1: len(x) + m},
        "random_state": int(rng.integers(2**31)),
    }
    if method == "SMOTE":
        sampler: Any = SMOTE(k_neighbors=min(5, len(x) - 1), **arguments)
    else:
        sampler = RandomOverSampler(**arguments)
    # imbalanced-learn needs a second class: two distant points
    others = np.full((2, x.shape[1]), 1e6, x.dtype)
    resampled, _ = sampler.fit_resample(np.concatenate([x, others]), np.repeat([1, 0], [len(x), 2]))
    return np.asarray(resampled[len(x) + 2 :])


def _with_intervals(points: pd.DataFrame) -> pd.DataFrame:
    from scipy.stats import t

    frame = (
        points.groupby(["label", "method", "n", "added"], sort=False)["f1"].agg(["mean", "sem"]).reset_index()
    )
    half_width = t.ppf((1 + CONFIDENCE) / 2, REPEATS - 1) * frame.pop("sem").fillna(0)
    return frame.rename(columns={"mean": "f1"}).assign(
        low=lambda f: (f["f1"] - half_width).clip(0, 1), high=lambda f: (f["f1"] + half_width).clip(0, 1)
    )


def utility_rows(curve: pd.DataFrame, wanted: set[str]) -> list[tuple[Any, ...]]:
    """Return the rows of the evaluation table that come from learning curves."""
    rows: list[tuple[Any, ...]] = []
    for key, part in curve.groupby("label", sort=False):
        label = str(key)
        real = part[part["method"] == "real"].sort_values("n")
        added = part[part["method"] != "real"].set_index("method")
        n, f1 = int(added["n"].iloc[0]), added["f1"].to_dict()
        alone = real.loc[real["n"] == n, ["f1", "low", "high"]].to_numpy(float)[0]
        baseline = (float(alone[0]), float(alone[1]), float(alone[2]))
        for method in METHODS:
            rows.append(_row(f"f1_{method.lower()}_added", label, float(f1[method]), baseline))
        rows.append(_row("cells_needed", label, _cells_needed(real, float(f1["generated"])), (n, n, n)))
    for name in UTILITY[:-1]:
        value, *baseline_mean = np.mean([row[2:6] for row in rows if row[0] == name], axis=0).tolist()
        rows.append(_row(name, ALL, value, tuple(baseline_mean)))
    return [row for row in rows if row[0] in wanted]


def _row(name: str, label: str, value: float, baseline: tuple[float, float, float]) -> tuple[Any, ...]:
    return name, label, value, *baseline, verdict_of(METRICS[name], value, *baseline[1:])


def _cells_needed(real: pd.DataFrame, f1: float) -> float:
    """Return the number of real cells at which the monotone curve reaches an F1, at most the largest number.

    The logarithm of the number is interpolated linearly in F1.
    """
    n, reached = real["n"].to_numpy(float), np.maximum.accumulate(real["f1"].to_numpy(float))
    first = int(np.searchsorted(reached, f1))
    if first == len(n):
        return float(n[-1])
    if first == 0 or f1 == reached[first]:
        return float(n[first])
    share = (f1 - reached[first - 1]) / max(reached[first] - reached[first - 1], 1e-12)
    return float(np.exp((1 - share) * np.log(n[first - 1]) + share * np.log(n[first])))
