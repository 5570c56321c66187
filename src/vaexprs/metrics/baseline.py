"""Real-vs-real baseline of a metric, and the verdict that follows from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vaexprs.metrics.registry import Metric

CONFIDENCE = 0.95
FAMILY_ERROR = 0.03  # probability that any row of a table of real cells is "off"
FEW = 10  # cells per side below which a value can be "off", but never "within"
MAX_RATIO = 1e3  # ratio of the ends of a baseline interval above which a value inside is not "within"
LOG_ZERO = 1e-12  # replaces smaller values before taking logs
KNOWN_DF = 1e6  # degrees of freedom of a standard deviation that is known from theory
PRIOR_DF = 20.0  # degrees of freedom of the theoretical standard deviation, where there is one
NOT_JUDGED = "not judged"
SCALES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "plain": (lambda x: x, lambda x: x),
    "log": (
        lambda x: np.log(np.maximum(x, LOG_ZERO)),
        lambda x: np.where(x > np.log(2 * LOG_ZERO), np.exp(x), 0.0),
    ),
    "share": (
        lambda x: np.arcsin(np.sqrt(np.clip(x, 0, 1))),
        lambda x: np.sin(np.clip(x, 0, np.pi / 2)) ** 2,
    ),
}


class Judged(NamedTuple):
    """Value of a metric with its baseline.

    Parameters
    ----------
    value
        Mean over comparisons of generated with real cells.
    mean, low, high
        Mean of the baseline and the ends of its 95% prediction interval.
    p
        Two-sided probability of a value this far from the baseline for real cells.
    distance
        Distance of the value from the interval, on the metric's scale; 0 inside.
    """

    value: float
    mean: float
    low: float
    high: float
    p: float
    distance: float


def judge(
    metric: Metric,
    values: np.ndarray,
    baseline: np.ndarray,
    n: int,
    splits: int | None = None,
    distinct: tuple[int, int] | None = None,
) -> Judged:
    """Compare the values of a metric with those of real-vs-real comparisons.

    The baseline is Student's prediction interval ``mean +- t(0.975, df) sd sqrt(1 + 1/k)`` on the metric's
    scale, clipped to its limits: one more real-vs-real value falls inside with probability 0.95.

    The standard deviation is at least that of the sampling noise, where theory gives it: for a fraction of
    cells, and for the AUC of a classifier on cells that it was not trained on. For real cells its mean is 0.5
    and its variance ``(1 / n_a + 1 / n_b) / 12`` (Mann & Whitney 1947, doi:10.1214/aoms/1177730491), or the
    observed one where that is larger.

    Parameters
    ----------
    metric
        The metric.
    values
        Its values for generated and real cells, (n_resamples,).
    baseline
        Its real-vs-real values, (k,), at least two.
    n
        Number of cells per side.
    splits
        Number of independent comparisons that the baseline is worth, if that is less than k.
    distinct
        Numbers of different generated and real cells in all values together, at least n; default n each.
    """
    from scipy.stats import t

    forward, back = SCALES[metric.scale]
    with np.errstate(all="ignore"):
        value, scaled = float(forward(values).mean()), forward(baseline)
    k = float(max(min(len(baseline), splits or len(baseline)), 2))
    centre = float(scaled.mean())
    variance, df = float(scaled.var(ddof=1)), k - 1.0
    if metric.scale == "share" and variance <= (theory := 3 / (8 * n)):
        # sampling noise of n generated cells, and of at least twice as many real ones: a known variance
        variance, df = theory, KNOWN_DF
    if metric.slow and splits is None:
        # the baseline has n cells per side, the mean of the values may have more
        theory = 1 / (6 * n)
        inflation = max((df * variance / theory + PRIOR_DF) / (df + PRIOR_DF), 1.0)
        variance = inflation * sum(1 / (12 * m) for m in distinct or (n, n))
        centre, df, k = 0.5, df + PRIOR_DF, KNOWN_DF
    sd = np.sqrt(variance * (1 + 1 / k))
    half_width = t.ppf((1 + CONFIDENCE) / 2, df) * sd
    ends = np.clip(back(np.array([centre - half_width, centre + half_width])), *metric.limits)
    distance = max(abs(value - centre) - half_width, 0.0)
    p = 2 * float(t.sf(abs(value - centre) / sd, df)) if sd > 0 else float(value == centre)
    return Judged(
        float(back(np.array(value))),
        float(back(np.array(centre))),
        float(ends[0]),
        float(ends[1]),
        p,
        distance,
    )


def verdict_of(metric: Metric, judged: Judged, n: int, rows: int) -> str:
    """Return the verdict on a value.

    "within": inside the baseline interval. "off": outside by more than the metric's margin, and farther than
    real cells would be by chance in any row of the table (Bonferroni). "close": outside, but not "off".
    "not judged": not "off", with too few cells per side to say more, or a baseline that varies by orders of
    magnitude.

    Parameters
    ----------
    metric
        The metric.
    judged
        Its value and baseline.
    n
        Number of cells per side.
    rows
        Number of rows of the table among which the family error of this row is divided.
    """
    if judged.distance > metric.close and judged.p * rows < FAMILY_ERROR:
        return "off"
    if n < FEW or (metric.scale == "log" and judged.high > MAX_RATIO * max(judged.low, LOG_ZERO)):
        return NOT_JUDGED
    return "close" if judged.distance > 0 else "within"


def excess(metric: Metric, value: float, low: float, high: float) -> float:
    """Return the distance of a value from the baseline interval, relative to one that is large."""
    forward, _ = SCALES[metric.scale]
    scaled, ends = float(forward(np.array(value))), forward(np.array([low, high]))
    return max(float(ends[0]) - scaled, scaled - float(ends[1]), 0.0) / metric.far


def is_far(metric: Metric, value: float, low: float, high: float) -> bool:
    """Return whether a value is so far from the baseline interval that the difference is large."""
    return excess(metric, value, low, high) >= 1
