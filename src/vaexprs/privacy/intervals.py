"""Accuracy of attacks, and confidence intervals of accuracies and ratios."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

FALSE_POSITIVES = 0.01  # false positive rate of `true_positive_rate`
TINY = 1e-9  # added to distances and probabilities to avoid 0


class Interval(NamedTuple):
    """Estimate with its confidence interval."""

    value: float
    low: float
    high: float


def attack_auc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Return the probability that a member has a higher score than a non-member; ties count one half."""
    from scipy.stats import rankdata

    n, m = len(inside), len(outside)
    ranks = rankdata(np.concatenate([inside, outside]))[:n].sum()
    return float((ranks - n * (n + 1) / 2) / (n * m))


def true_positive_rate(inside: np.ndarray, outside: np.ndarray) -> float:
    """Return the fraction of members above the score exceeded by 1% of non-members."""
    return float((inside > _threshold(outside)[0]).mean())


def _threshold(outside: np.ndarray) -> tuple[float, int]:
    """Return the score exceeded by 1% of non-members, and the number of non-members above it."""
    above = int(FALSE_POSITIVES * len(outside))
    return float(np.sort(outside)[len(outside) - 1 - above]), above


def true_positive_interval(
    inside: np.ndarray, outside: np.ndarray, confidence: float, effect: tuple[float, float] = (1.0, 1.0)
) -> Interval:
    """Return the fraction of members identified at a false positive rate of 1%, with an interval.

    The interval combines those of Clopper and Pearson (1934, doi:10.1093/biomet/26.4.404) of the true and of
    the false positive rate at a threshold. Its lower end assumes a concave ROC curve: if the false positive
    rate at the threshold may be 3%, the true positive rate at 1% is at least a third of that at the
    threshold. Its upper end is that at a threshold with a false positive rate of at least 1%.

    Parameters
    ----------
    inside, outside
        Scores of members and non-members.
    confidence
        Confidence level.
    effect
        Design effects of members and non-members (`design_effects`), by which their numbers are divided.
    """
    tail = (1 - confidence) / 2
    limit, above = _threshold(outside)
    found = int((inside > limit).sum())
    m = len(outside)
    low = _clopper_pearson(found / effect[0], len(inside) / effect[0], tail)[0]
    # the rate of future non-members above the (above + 1)-th largest of m has a beta distribution
    most = _beta((above + 1) / effect[1], (m - above) / effect[1], 1 - tail)
    # at a threshold whose false positive rate is at least 1%, the true positive rate is at least that at 1%
    while above < m - 1 and _beta((above + 1) / effect[1], (m - above) / effect[1], tail) < FALSE_POSITIVES:
        above += 1
    upper = int((inside > np.sort(outside)[m - 1 - above]).sum())
    high = _clopper_pearson(upper / effect[0], len(inside) / effect[0], tail)[1]
    value = found / len(inside)
    return Interval(value, low * min(1.0, FALSE_POSITIVES / most), max(value, high))


def can_identify(n: int, m: int, confidence: float, limit: float, effect: tuple[float, float]) -> bool:
    """Return whether n members who are all identified among m non-members would exceed a limit."""
    interval = true_positive_interval(np.ones(n), np.zeros(m), confidence, effect)
    return interval.low > limit


def proportion_interval(k: int, n: int, confidence: float) -> Interval:
    """Return a proportion with the interval of Clopper and Pearson."""
    return Interval(k / n, *_clopper_pearson(k, n, (1 - confidence) / 2))


def _clopper_pearson(k: float, n: float, tail: float) -> tuple[float, float]:
    from scipy.stats import beta

    low = 0.0 if k <= 0 else float(beta.ppf(tail, k, n - k + 1))
    return low, 1.0 if k >= n else float(beta.ppf(1 - tail, k + 1, n - k))


def _beta(a: float, b: float, level: float) -> float:
    from scipy.stats import beta

    return float(beta.ppf(level, a, b))


def design_effects(
    inside: np.ndarray, outside: np.ndarray, clusters: tuple[np.ndarray, np.ndarray]
) -> tuple[float, float]:
    """Return by how much clustering inflates the variance of an AUC, for members and non-members.

    The ratio of the variance of the mean placement value with clusters to that with independent cells
    (Obuchowski 1997, doi:10.2307/2533958), at least 1.

    Parameters
    ----------
    inside, outside
        Scores of members and non-members.
    clusters
        Donor of each member and of each non-member.
    """
    placements = _placements(inside, outside), _placements(outside, inside)
    return (
        _design_effect(placements[0], clusters[0]),
        _design_effect(placements[1], clusters[1]),
    )


def _placements(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the fraction of `y` below each value of `x`; ties count one half."""
    y = np.sort(y)
    return np.asarray((np.searchsorted(y, x, "left") + np.searchsorted(y, x, "right")) / (2 * len(y)))


def _design_effect(values: np.ndarray, clusters: np.ndarray) -> float:
    codes = np.unique(clusters, return_inverse=True)[1]
    n, deviations = int(codes.max()) + 1, values - values.mean()
    single = float((deviations**2).sum())
    if n < 2 or single == 0:
        return 1.0
    sums = np.bincount(codes, deviations)
    return max(1.0, float((sums**2).sum() * n / (n - 1) / single))


def median_ratio(x: np.ndarray, y: np.ndarray, confidence: float) -> Interval:
    """Return the ratio of two medians, with an interval from order statistics.

    The interval of each median is that of the sign test; the two are combined on the logarithmic scale by the
    method of variance estimates recovery (Zou & Donner 2008, doi:10.1002/sim.3095).
    """
    (a, a_low, a_high), (b, b_low, b_high) = (
        np.log(np.asarray(_median(part, confidence)) + TINY) for part in (x, y)
    )
    centre = a - b
    low = centre - np.hypot(a - a_low, b_high - b)
    high = centre + np.hypot(a_high - a, b - b_low)
    ratio = float(np.median(x) / max(np.median(y), TINY))
    if ratio == 0:
        return Interval(0.0, 0.0, 0.0 if a_high <= np.log(TINY) else float(np.exp(high)))
    return Interval(ratio, min(ratio, float(np.exp(low))), max(ratio, float(np.exp(high))))


def _median(x: np.ndarray, confidence: float) -> Interval:
    from scipy.stats import binom

    x, n = np.sort(x), len(x)
    row = min(max(int(binom.ppf((1 - confidence) / 2, n, 0.5)) - 1, 0), (n - 1) // 2)
    return Interval(float(np.median(x)), float(x[row]), float(x[n - 1 - row]))


def ratio_interval(x: np.ndarray, y: np.ndarray, confidence: float) -> Interval:
    """Return the ratio of typical distances with Welch's interval, from the logarithms of `x` and `y`."""
    from scipy.stats import ttest_ind

    ratio = float(np.median(x) / max(np.median(y), TINY))
    if ratio == 0:
        return Interval(0.0, 0.0, 0.0)
    if min(len(x), len(y)) < 2:
        return Interval(ratio, 0.0, float("inf"))
    interval = ttest_ind(np.log(x + TINY), np.log(y + TINY), equal_var=False).confidence_interval(confidence)
    centre = np.log(ratio + TINY) - (interval.low + interval.high) / 2
    return Interval(ratio, float(np.exp(interval.low + centre)), float(np.exp(interval.high + centre)))


def newcombe_interval(auc: float, n: float, m: float, confidence: float) -> tuple[float, float]:
    """Return Newcombe's fifth interval of an AUC, valid for few cases and for an AUC of 0 or 1.

    Source: Newcombe (2006, doi:10.1002/sim.2324). `n` and `m` are the numbers of members and non-members,
    divided by their design effects.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    z, mean = norm.ppf((1 + confidence) / 2), (n + m) / 2

    def beyond(theta: float) -> float:
        inner = 1 + (mean - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return float((theta - auc) ** 2 - z**2 * theta * (1 - theta) * inner / (n * m))

    low = 0.0 if auc <= 0 else float(brentq(beyond, TINY * auc, min(auc, 1 - TINY)))
    high = 1.0 if auc >= 1 else float(brentq(beyond, max(auc, TINY), 1 - TINY * (1 - auc)))
    return low, high


def auc_interval(
    inside: np.ndarray, outside: np.ndarray, confidence: float, effect: tuple[float, float] = (1.0, 1.0)
) -> Interval:
    """Return the AUC of an attack with Newcombe's interval."""
    auc = attack_auc(inside, outside)
    sizes = len(inside) / effect[0], len(outside) / effect[1]
    return Interval(auc, *newcombe_interval(auc, *sizes, confidence))
