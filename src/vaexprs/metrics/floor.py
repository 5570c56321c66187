"""The real-vs-real baseline of each metric and the verdict it gives."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from vaexprs.metrics.registry import METRICS, Metric, Sample, Shared

CONFIDENCE = 0.95


def pair_figures(
    a: Sample, b: Sample, shared: Shared, wanted: Collection[str], counts: bool
) -> dict[str, float]:
    """Return the figures of two samples, the judged one first, by name.

    Parameters
    ----------
    a, b
        The samples.
    shared
        What all comparisons have in common.
    wanted
        Names of the metrics; those that need more cells, or counts where there are none, are left out.
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


def pair_figures_and_gaps(
    a: Sample, b: Sample, shared: Shared, wanted: Collection[str], counts: bool, floor: bool
) -> tuple[dict[str, float], dict[str, float]]:
    """Return `pair_figures` and, where the comparison is one of the floor's, `half_differences`."""
    gaps = half_differences(a, b, shared, wanted, counts) if floor else {}
    return pair_figures(a, b, shared, wanted, counts), gaps


def half_differences(
    a: Sample, b: Sample, shared: Shared, wanted: Collection[str], counts: bool
) -> dict[str, float]:
    """Return the differences of figures between two disjoint halves of both samples, on the figures' scale.

    Those of the metrics with `by_noise`; the arguments are those of `pair_figures`.
    """
    names = [name for name in wanted if METRICS[name].by_noise]
    first, second = (
        pair_figures(a.half(i), b.half(i), shared, names, counts) if names else {} for i in (0, 1)
    )
    return {name: difference(METRICS[name], first[name], second[name]) for name in first if name in second}


def difference(metric: Metric, first: float, second: float) -> float:
    """Return the difference of two values of a figure on its scale."""
    first_scaled, second_scaled = SCALES[metric.scale][0](np.array([first, second]))
    return float(first_scaled - second_scaled)


def floor_of(
    metric: Metric, values: np.ndarray, differences: np.ndarray | None = None
) -> tuple[float, float, float]:
    """Return the mean of a figure for real against real, and the interval in which one more falls.

    Student's prediction interval ``mean +- t(0.975, n - 1) sd sqrt(1 + 1/n)`` on the figure's scale, cut to
    its limits.

    Parameters
    ----------
    metric
        The figure.
    values
        Its values for real against real, (n_resamples,), at least two.
    differences
        Differences of the figure between two disjoint halves of the cells of each comparison,
        (n_resamples,). Where they are given half of their mean square is the variance with half of the
        cells, and ``sd^2`` that times the metric's `by_noise`.
    """
    from scipy.stats import t

    forward, back = SCALES[metric.scale]
    with np.errstate(all="ignore"):
        scaled = forward(values)
    n = len(values)
    sd = scaled.std(ddof=1) if differences is None else np.sqrt(metric.by_noise * np.mean(differences**2) / 2)
    reach = t.ppf((1 + CONFIDENCE) / 2, n - 1) * sd * np.sqrt(1 + 1 / n)
    centre = scaled.mean()
    low, high = np.clip(back(np.array([centre - reach, centre + reach])), *metric.limits)
    return float(back(centre)), float(low), float(high)


NIL = 1e-12  # stands for 0 where logs are taken
SCALES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "plain": (lambda x: x, lambda x: x),
    "log": (lambda x: np.log(np.maximum(x, NIL)), lambda x: np.where(x > np.log(2 * NIL), np.exp(x), 0.0)),
    "fisher": (lambda x: np.arctanh(np.clip(x, -1 + 1e-9, 1 - 1e-9)), np.tanh),
}


def verdict_of(metric: Metric, value: float, low: float, high: float) -> str:
    """Return "within" where a value is in the floor's interval or better, "close" or "off"."""
    below, above = max(low - value, 0.0), max(value - high, 0.0)
    beyond = {"low": above, "high": below, "near": below + above}[metric.better]
    if beyond == 0:
        return "within"
    reach = metric.close * abs(high if above else low) if metric.relative else metric.close
    return "close" if beyond <= reach else "off"
