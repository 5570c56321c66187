"""Real-vs-real baseline of each metric, and the verdict that follows from it."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from vaexprs.metrics.registry import METRICS, Metric, Sample, Shared

CONFIDENCE = 0.95
LOG_ZERO = 1e-12  # replaces smaller values before taking logs
SCALES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "plain": (lambda x: x, lambda x: x),
    "log": (
        lambda x: np.log(np.maximum(x, LOG_ZERO)),
        lambda x: np.where(x > np.log(2 * LOG_ZERO), np.exp(x), 0.0),
    ),
    "fisher": (lambda x: np.arctanh(np.clip(x, -1 + 1e-9, 1 - 1e-9)), np.tanh),
}


def pair_values(
    a: Sample, b: Sample, shared: Shared, wanted: Collection[str], counts: bool
) -> dict[str, float]:
    """Return the metrics of two samples by name.

    Parameters
    ----------
    a, b
        The samples; `a` is the evaluated one, `b` the reference.
    shared
        Settings common to all comparisons.
    wanted
        Names of the metrics; those that need more cells, or counts where the values are not counts, are
        left out.
    counts
        Whether the values are counts.
    """
    return {
        name: metric.of(a, b, shared)
        for name, metric in METRICS.items()
        if metric.of is not None
        and name in wanted
        and len(a.values) >= metric.cells
        and (counts or metric.kind == "any")
        and (metric.per == "label" or len(set(a.labels)) > 1)
    }


def pair_values_and_differences(
    a: Sample, b: Sample, shared: Shared, wanted: Collection[str], counts: bool, is_baseline: bool
) -> tuple[dict[str, float], dict[str, float]]:
    """Return `pair_values` and, for a real-vs-real comparison, `half_differences` (else an empty dict)."""
    differences = half_differences(a, b, shared, wanted, counts) if is_baseline else {}
    return pair_values(a, b, shared, wanted, counts), differences


def half_differences(
    a: Sample, b: Sample, shared: Shared, wanted: Collection[str], counts: bool
) -> dict[str, float]:
    """Return differences of metrics between two disjoint halves of both samples, on the metrics' scales.

    Only metrics with `by_noise` are included; the arguments are those of `pair_values`.
    """
    names = [name for name in wanted if METRICS[name].by_noise]
    first, second = (
        pair_values(a.half(i), b.half(i), shared, names, counts) if names else {} for i in (0, 1)
    )
    return {
        name: scaled_difference(METRICS[name], first[name], second[name]) for name in first if name in second
    }


def scaled_difference(metric: Metric, first: float, second: float) -> float:
    """Return the difference of two values of a metric on its scale."""
    forward, _ = SCALES[metric.scale]
    first_scaled, second_scaled = forward(np.array([first, second]))
    return float(first_scaled - second_scaled)


def baseline_interval(
    metric: Metric, values: np.ndarray, differences: np.ndarray | None = None
) -> tuple[float, float, float]:
    """Return the mean of a metric over real-vs-real comparisons, and the ends of its prediction interval.

    Student's prediction interval ``mean +- t(0.975, n - 1) sd sqrt(1 + 1/n)`` on the metric's scale, clipped
    to its limits: one more real-vs-real value falls inside with probability 0.95.

    Parameters
    ----------
    metric
        The metric.
    values
        Its real-vs-real values, (n_resamples,), at least two.
    differences
        Differences of the metric between two disjoint halves of the cells of each comparison,
        (n_resamples,). If given, half of their mean square estimates the variance with half of the cells,
        and ``sd^2`` is that variance times the metric's `by_noise`.
    """
    from scipy.stats import t

    forward, back = SCALES[metric.scale]
    with np.errstate(all="ignore"):
        scaled = forward(values)
    n = len(values)
    sd = scaled.std(ddof=1) if differences is None else np.sqrt(metric.by_noise * np.mean(differences**2) / 2)
    half_width = t.ppf((1 + CONFIDENCE) / 2, n - 1) * sd * np.sqrt(1 + 1 / n)
    centre = scaled.mean()
    low, high = np.clip(back(np.array([centre - half_width, centre + half_width])), *metric.limits)
    return float(back(centre)), float(low), float(high)


def verdict_of(metric: Metric, value: float, low: float, high: float) -> str:
    """Return "within" if a value is in the baseline interval or better, else "close" or "off"."""
    below, above = max(low - value, 0.0), max(value - high, 0.0)
    distance = {"low": above, "high": below, "near": below + above}[metric.better]
    if distance == 0:
        return "within"
    limit = metric.close * abs(high if above else low) if metric.relative else metric.close
    return "close" if distance <= limit else "off"
