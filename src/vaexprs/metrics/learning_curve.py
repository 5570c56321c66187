"""Learning curves of a classifier with and without generated cells."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from vaexprs.comparison.axes import MAX_CELLS_FOR_AXES, Axes
from vaexprs.comparison.cell_sets import CellSet
from vaexprs.data.matrix import Matrix, stacked
from vaexprs.metrics import functions as metrics
from vaexprs.metrics.baseline import CONFIDENCE, NOT_JUDGED
from vaexprs.metrics.plan import EvaluationPlan, concatenate_rows, label_sizes
from vaexprs.metrics.registry import ALL, METRICS
from vaexprs.preprocessing.splits import random_rows, stratified

REPEATS = 8  # number of random splits of the real and the generated cells
CURVE_REPEATS = 4  # number of these splits in which other numbers of real training cells are measured
SIZES = (5, 10, 20, 50, 100, 200, 500)  # numbers of real training cells of the label
MAX_CURVES = 12  # maximum number of labels, the rarest first
MAX_OTHERS = 1_000  # maximum number of training cells of the other labels
MAX_VALIDATED = 2_000  # maximum number of training cells for the choice of the classifier
GAIN = 0.01  # minimum difference of F1 that counts as a benefit or a loss
FOLDS = 5  # number of cross-validation folds
METHODS = ("generated", "oversampling", "SMOTE")
UTILITY = ("f1_generated_added", "f1_oversampling_added", "f1_smote_added", "cells_needed")
MAX_WIDTH = 0.1  # half width of the interval of the difference of F1 above which it is not called small
OPENINGS = {
    "unknown": "Not judged: too few held-out cells to tell whether a classifier improves.",
    "green": "A classifier improves with generated cells added to its training cells.",
    "amber": "A classifier is about as good with generated cells added to its training cells.",
    "red": "A classifier is worse with generated cells added to its training cells.",
}
# offset of the seeds of the splits, above those of the comparisons
SPLIT_SEEDS = 1_000_000


def learning_curve(plan: EvaluationPlan, train: CellSet, seed: int) -> pd.DataFrame:
    """Return the F1 of each label in new cells for growing numbers of training cells, by split.

    One classifier of `vaexprs.metrics.functions.balanced_classifiers`, chosen by cross-validation on the
    training cells, is used throughout, on principal components of all cells. It is trained on n
    cells of the label as they are (method "real"), or on all of them with cells added by one of `METHODS`, up
    to the median size of the other labels, at least twice the label's size.

    Each split takes a random half of the real cells as test cells and at most a random half of the generated
    cells of the label. The other half of the real cells shows the effect of more real cells. For random
    halves, the standard deviation over splits estimates the standard error of the result with all cells
    (delete-half jackknife; Shao & Wu 1989, doi:10.1214/aos/1176347263). Intervals thus include the sampling
    of the test cells and of the added cells; they are conditional on the training cells.

    Returns
    -------
    DataFrame
        With columns label, method, n (real training cells of the label), added, split and f1.
    """
    from joblib import Parallel, delayed
    from threadpoolctl import threadpool_limits

    cells = (train, plan.real.cells, plan.generated.cells)
    pcs = Coordinates(*_coordinates([each.values for each in cells], seed))
    labels = plan.pool.labels[len(plan.real.labels) :]
    sizes = label_sizes(labels)
    by_size = sorted((n, label) for label, n in sizes.items() if label in plan.labels and n >= 2)
    if len(sizes) < 2:
        by_size = []
    tasks = [(label, i) for _, label in by_size[:MAX_CURVES] for i in range(REPEATS)]
    entropy = [np.random.SeedSequence(seed, spawn_key=(SPLIT_SEEDS, i)) for i in range(REPEATS)]
    with threadpool_limits(1):
        model = _best_classifier(pcs.train, labels, seed) if tasks else None
        if model is not None:
            model.fit(pcs.train, labels.astype(str))  # start of all other fits, which saves iterations
        results = Parallel(n_jobs=-1, prefer="threads")(
            delayed(_scores)(plan, pcs, labels, label, i, entropy[i], model) for label, i in tasks
        )
    points = [point for part in results for point in part]
    return pd.DataFrame(points, columns=["label", "method", "n", "added", "split", "f1"])


def _coordinates(values: Sequence[Matrix], seed: int) -> list[np.ndarray]:
    """Return sets of cells on common principal axes, scaled to a mean variance of 1.

    The axes come from the same fraction of every set. Cells to which an axis was not fitted vary less along
    it, so on axes of the training cells only, added cells would be classified apart from training cells.
    """
    rng = np.random.default_rng(seed)
    fraction = min(1.0, MAX_CELLS_FOR_AXES / sum(x.shape[0] for x in values))
    fitted = [x[np.sort(rng.permutation(x.shape[0])[: math.ceil(fraction * x.shape[0])])] for x in values]
    axes = Axes.of([stacked(fitted)], seed)
    pcs = [axes.of_cells(x) for x in values]
    scale = float(np.sqrt(np.concatenate(pcs).var(axis=0).mean())) or 1.0
    return [x / scale for x in pcs]


def _best_classifier(x: np.ndarray, labels: np.ndarray, seed: int) -> Any:
    """Return the untrained classifier with the highest cross-validated macro F1 on the training cells."""
    from sklearn.metrics import f1_score
    from sklearn.model_selection import StratifiedKFold

    rows = stratified(labels, MAX_VALIDATED, np.random.default_rng(seed))
    x, y = x[rows], labels[rows].astype(str)
    n_folds = min(FOLDS, max(label_sizes(y).values()))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        folds = list(StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(x, y))
    folds = [(train, test) for train, test in folds if len(set(y[train])) > 1]
    truth = np.concatenate([y[test] for _, test in folds])

    def score(model: Any) -> float:
        """Return the macro F1 of the predictions of all folds together."""
        predicted = [copy.deepcopy(model).fit(x[train], y[train]).predict(x[test]) for train, test in folds]
        return float(f1_score(truth, np.concatenate(predicted), average="macro", zero_division=0))

    return max(metrics.balanced_classifiers(), key=score)


class Coordinates(NamedTuple):
    """Cells on common principal axes, (n_cells, n_axes) each."""

    train: np.ndarray
    real: np.ndarray
    generated: np.ndarray


def _scores(
    plan: EvaluationPlan,
    pcs: Coordinates,
    labels: np.ndarray,
    label: str,
    split: int,
    entropy: np.random.SeedSequence,
    model: Any,
) -> list[tuple[str, str, int, int, int, float]]:
    """Return the points of one label's curve for one split of the cells."""
    rng = np.random.default_rng(entropy)
    parts = random_rows(rng, plan.real.labels, label_sizes(plan.real.labels))
    tested = concatenate_rows(rows[: -(-len(rows) // 2)] for rows in parts.values())
    more_real = parts[label][-(-len(parts[label]) // 2) :]
    others = np.flatnonzero(labels != label)
    # some of every label, as in the fit that `model` starts from
    others = others[stratified(labels[others], max(MAX_OTHERS, len(label_sizes(labels))), rng)]
    own = np.flatnonzero(labels == label)
    x_test, y_test = pcs.real[tested], plan.real.labels[tested].astype(str)

    y_others = labels[others].astype(str)

    def score(x: np.ndarray) -> float:
        """Return the F1 with `x` as the label's training cells."""
        y = np.concatenate([y_others, np.full(len(x), label)])
        x_train = np.concatenate([pcs.train[others], x])
        return metrics.f1(x_train, y, x_test, y_test, label, copy.deepcopy(model))

    real = np.concatenate([pcs.train[rng.permutation(own)], pcs.real[more_real]])
    sizes = {n for n in SIZES if n < len(real)} | {len(real)} if split < CURVE_REPEATS else set()
    points = [(label, "real", n, 0, split, score(real[:n])) for n in sorted(sizes | {len(own)})]
    median = int(np.median([n for name, n in label_sizes(labels[others]).items()]))
    generated = pcs.generated[rng.permutation(np.flatnonzero(plan.generated.labels == label))]
    m = min(max(median - len(own), len(own)), len(generated) // 2)
    for method in METHODS:
        added = generated[:m] if method == "generated" else _resampled(method, pcs.train[own], m, rng)
        points.append((label, method, len(own), m, split, score(np.concatenate([pcs.train[own], added]))))
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


def half_width(values: np.ndarray) -> float:
    """Return half the width of the 95% t interval of a mean over splits, as in `learning_curve`.

    The standard deviation over splits stands for the standard error, and ``1 / n_splits`` of the variance is
    added for the mean of a finite number of splits.
    """
    from scipy.stats import t

    n = len(values)
    return float(t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(values, ddof=1) * np.sqrt(1 + 1 / n))


def summarise(points: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over splits of `learning_curve`.

    Returns
    -------
    DataFrame
        With columns label, method, n, added, f1, and the ends low and high of the 95% interval of f1.
    """
    groups = points.sort_values("n", kind="stable").groupby(["label", "method", "n", "added"], sort=False)
    frame = groups["f1"].agg(["mean", half_width]).reset_index()
    width = frame.pop("half_width")
    return frame.rename(columns={"mean": "f1"}).assign(
        low=lambda f: (f["f1"] - width).clip(0, 1), high=lambda f: (f["f1"] + width).clip(0, 1)
    )


def utility_rows(points: pd.DataFrame, wanted: set[str]) -> list[tuple[Any, ...]]:
    """Return the rows of the evaluation table that come from `learning_curve`.

    The baseline of generated cells is the best of nothing added, oversampling and SMOTE by its mean over
    splits; that of oversampling and SMOTE is nothing added. Its interval is that of the paired difference, so
    that a value outside differs from the baseline. The row of all labels is computed from means over labels.
    """
    rows: list[tuple[Any, ...]] = []
    if points.empty:
        return rows
    added = points[points["method"] != "real"]
    own = added.groupby("label", sort=False)["n"].first()
    alone = points[(points["method"] == "real") & (points["n"] == points["label"].map(own))]
    f1 = pd.concat([added, alone]).pivot(index=["label", "split"], columns="method", values="f1")
    parts = [(str(label), part) for label, part in f1.groupby("label", sort=False)]
    for label, part in [*parts, (ALL, f1.groupby("split").mean())]:
        means = {str(name): float(values.mean()) for name, values in part.items()}
        best = max(("real", "oversampling", "SMOTE"), key=means.__getitem__)
        for method, other in zip(METHODS, (best, "real", "real"), strict=True):
            width = half_width((part[method] - part[other]).to_numpy())
            baseline = (means[other], max(means[other] - width, 0.0), min(means[other] + width, 1.0))
            rows.append(_row(f"f1_{method.lower()}_added", label, means[method], baseline))
        if label != ALL:
            curve = points[(points["label"] == label) & (points["split"] < CURVE_REPEATS)]
            of_n = curve[curve["method"] == "real"].groupby("n")["f1"].mean().reset_index()
            generated = curve.loc[curve["method"] == "generated", "f1"].mean()
            needed = _cells_needed(of_n, float(generated))
            rows.append(_row("cells_needed", label, needed, (float(own[label]),) * 3))
    return [row for row in rows if row[0] in wanted]


def _row(name: str, label: str, value: float, baseline: tuple[float, float, float]) -> tuple[Any, ...]:
    mean, low, high = baseline
    margin = METRICS[name].close
    verdict = "within" if value >= low else "close" if value >= low - margin else "off"
    if name == "cells_needed":  # it has no interval
        verdict = NOT_JUDGED
    return name, label, value, mean, low, high, verdict


def use_light(rows: pd.DataFrame) -> tuple[str, str]:
    """Return whether generated cells help a classifier, as light and sentence.

    Green: the mean F1 over labels is at least `GAIN` above that of the best alternative, and above the
    interval of the paired difference. Red: the same below. Unknown: neither, and the interval is wider
    than 0.1 on a side. Amber: everything else.

    Parameters
    ----------
    rows
        Rows of `f1_generated_added` of the evaluation table, with that of all labels.
    """
    of_labels, row = rows[rows["label"] != ALL], rows[rows["label"] == ALL].iloc[0]
    gain, light = row["value"] - row["floor"], "amber"
    if gain >= GAIN and row["value"] > row["floor_high"]:
        light = "green"
    elif gain <= -GAIN and row["value"] < row["floor_low"]:
        light = "red"
    width = max(row["floor_high"] - row["floor"], row["floor"] - row["floor_low"])
    if light == "amber" and width > MAX_WIDTH:
        light = "unknown"
    return light, (
        f"{OPENINGS[light]} Mean F1 over {len(of_labels)} {'type' if len(of_labels) == 1 else 'types'}: "
        f"{row['value']:.2f} with generated cells, {row['floor']:.2f} with the best of nothing, repeated and "
        f"SMOTE cells added (difference {gain:+.3f}, "
        f"95% interval {gain - width:+.3f} to {gain + width:+.3f})."
    )


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
