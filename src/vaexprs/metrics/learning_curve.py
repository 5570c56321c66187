"""How many real cells a classifier needs, with and without generated ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from vaexprs.comparison.axes import Axes
from vaexprs.comparison.cell_sets import CellSet
from vaexprs.metrics import functions as metrics
from vaexprs.metrics.floor import verdict_of
from vaexprs.metrics.plan import Plan, join_sets, label_sizes
from vaexprs.metrics.registry import ALL, METRICS
from vaexprs.preprocessing.splits import random_rows

# the learning curve
REPEATS = 4
SIZES = (5, 10, 20, 50, 100, 200, 500)
MAX_CURVES = 12  # labels, the rarest first
MAX_OTHERS = 1_000  # training cells of the other labels
METHODS = ("generated", "oversampling", "SMOTE")


UTILITY = ("f1_generated_added", "f1_oversampling_added", "f1_smote_added", "cells_needed")


def learning_curve(plan: Plan, train: CellSet, seed: int) -> pd.DataFrame:
    """Return how well each label is found in new cells, by what the classifier was trained on.

    The real cells are split at random into a half that is tested on and one that shows what more real cells
    would have done; that is repeated. All else is learned from the training cells: as they are ("real" with
    n cells of the label), or with cells added to all of them by one of `METHODS`, up to the median size of
    the other labels, at least twice the label's.

    Returns
    -------
    DataFrame
        With columns label, method, n (real training cells of the label), added, f1 and the ends low and high
        of its 95% interval over the repeats.
    """
    from joblib import Parallel, delayed
    from threadpoolctl import threadpool_limits

    axes = Axes.of([train.values], seed)  # as of someone who has the training cells only
    pcs = Coordinates(
        *(axes.of_cells(cells.values) for cells in (train, plan.real.cells, plan.generated.cells))
    )
    labels = plan.pool.labels[len(plan.real.labels) :]
    there = label_sizes(labels)
    known = sorted((n, label) for label, n in there.items() if label in plan.labels and n >= 2)
    tasks = [(label, i) for _, label in known[:MAX_CURVES] for i in range(REPEATS)]
    with threadpool_limits(1):
        found = Parallel(n_jobs=-1, prefer="threads")(
            delayed(_scores)(plan, pcs, labels, label, np.random.SeedSequence(seed, spawn_key=(1_000_000, i)))
            for label, i in tasks
        )
    rows = [row for part in found for row in part]
    frame = pd.DataFrame(rows, columns=["label", "method", "n", "added", "f1"])
    return _with_intervals(frame)


class Coordinates(NamedTuple):
    """Cells on the principal axes of the training cells, (n_cells, n_axes) each."""

    train: np.ndarray
    real: np.ndarray
    generated: np.ndarray


def _scores(
    plan: Plan, pcs: Coordinates, labels: np.ndarray, label: str, entropy: np.random.SeedSequence
) -> list[tuple[str, str, int, int, float]]:
    """Return the points of one label's curve for one split of the real cells."""
    rng = np.random.default_rng(entropy)
    parts = random_rows(rng, plan.real.labels, label_sizes(plan.real.labels))
    tested = join_sets(rows[: -(-len(rows) // 2)] for rows in parts.values())
    more = parts[label][-(-len(parts[label]) // 2) :]
    others = rng.permutation(np.flatnonzero(labels != label))[:MAX_OTHERS]
    own = np.flatnonzero(labels == label)
    x_test, y_test = pcs.real[tested], plan.real.labels[tested]

    def score(x: np.ndarray) -> float:
        """Return the F1 where `x` are the label's training cells."""
        y = np.concatenate([labels[others], np.full(len(x), label, object)]).astype(str)
        return metrics.f1(np.concatenate([pcs.train[others], x]), y, x_test, y_test.astype(str), label)

    growing = np.concatenate([pcs.train[rng.permutation(own)], pcs.real[more]])
    sizes = sorted({n for n in SIZES if n <= len(growing)} | {len(own), len(growing)})
    points = [(label, "real", n, 0, score(growing[:n])) for n in sizes]
    median = int(np.median([n for name, n in label_sizes(labels[others]).items()]))
    made = pcs.generated[rng.permutation(np.flatnonzero(plan.generated.labels == label))]
    m = min(max(median - len(own), len(own)), len(made))
    for method in METHODS:
        added = made[:m] if method == "generated" else _resampled(method, pcs.train[own], m, rng)
        points.append((label, method, len(own), m, score(np.concatenate([pcs.train[own], added]))))
    return points


def _resampled(method: str, x: np.ndarray, m: int, rng: np.random.Generator) -> np.ndarray:
    """Return `m` cells made of the few in `x` by imbalanced-learn."""
    from imblearn.over_sampling import SMOTE, RandomOverSampler

    asked: dict[str, Any] = {
        "sampling_strategy": {1: len(x) + m},
        "random_state": int(rng.integers(2**31)),
    }
    if method == "SMOTE":
        sampler: Any = SMOTE(k_neighbors=min(5, len(x) - 1), **asked)
    else:
        sampler = RandomOverSampler(**asked)
    # it resamples one class among others: two far-away points stand for those
    others = np.full((2, x.shape[1]), 1e6, x.dtype)
    resampled, _ = sampler.fit_resample(np.concatenate([x, others]), np.repeat([1, 0], [len(x), 2]))
    return np.asarray(resampled[len(x) + 2 :])


def _with_intervals(points: pd.DataFrame) -> pd.DataFrame:
    from scipy.stats import t

    frame = (
        points.groupby(["label", "method", "n", "added"], sort=False)["f1"].agg(["mean", "sem"]).reset_index()
    )
    reach = t.ppf(0.975, REPEATS - 1) * frame.pop("sem").fillna(0)
    return frame.rename(columns={"mean": "f1"}).assign(
        low=lambda f: (f["f1"] - reach).clip(0, 1), high=lambda f: (f["f1"] + reach).clip(0, 1)
    )


def utility_rows(curve: pd.DataFrame, wanted: set[str]) -> list[tuple[Any, ...]]:
    """Return the rows of the table that the learning curves give."""
    rows: list[tuple[Any, ...]] = []
    for label, part in curve.groupby("label", sort=False):
        real = part[part["method"] == "real"].sort_values("n")
        added = part[part["method"] != "real"].set_index("method")
        n, f1 = int(added["n"].iloc[0]), added["f1"].to_dict()
        alone = real.loc[real["n"] == n, ["f1", "low", "high"]].to_numpy(float)[0]
        floor = (float(alone[0]), float(alone[1]), float(alone[2]))
        for method in METHODS:
            name = f"f1_{method.lower()}_added"
            value = float(f1[method])
            rows.append((name, label, value, *floor, verdict_of(METRICS[name], value, *floor[1:])))
        needed = _cells_needed(real, float(f1["generated"]))
        rows.append(
            ("cells_needed", label, needed, n, n, n, verdict_of(METRICS["cells_needed"], needed, n, n))
        )
    return [row for row in rows if row[0] in wanted] + _utility_means(rows, wanted)


def _utility_means(rows: Sequence[tuple[Any, ...]], wanted: set[str]) -> list[tuple[Any, ...]]:
    means = []
    for name in UTILITY[:-1]:
        numbers = np.mean([row[2:6] for row in rows if row[0] == name], axis=0)
        if name in wanted:
            means.append(
                (name, ALL, *map(float, numbers), verdict_of(METRICS[name], numbers[0], *numbers[2:]))
            )
    return means


def _cells_needed(real: pd.DataFrame, f1: float) -> float:
    """Return with how many real cells the rising curve reaches an F1; the most there were if it does not."""
    n, reached = real["n"].to_numpy(float), np.maximum.accumulate(real["f1"].to_numpy(float))
    first = int(np.searchsorted(reached, f1))
    if first == len(n):
        return float(n[-1])
    if first == 0 or f1 == reached[first]:
        return float(n[first])
    share = (f1 - reached[first - 1]) / max(reached[first] - reached[first - 1], 1e-12)
    return float(np.exp((1 - share) * np.log(n[first - 1]) + share * np.log(n[first])))
