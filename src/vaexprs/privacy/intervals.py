"""Accuracy of attacks, and confidence intervals of accuracies and ratios."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vaexprs.privacy.attack import TINY

BOOTSTRAPS = 1_000  # number of bootstrap samples
CONFIDENCE = 0.95
FALSE_POSITIVES = 0.01  # false positive rate of `true_positive_rate`


def attack_auc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Return the probability that a member has a higher score than a non-member; ties count one half."""
    from scipy.stats import rankdata

    n, m = len(inside), len(outside)
    ranks = rankdata(np.concatenate([inside, outside]))[:n].sum()
    return float((ranks - n * (n + 1) / 2) / (n * m))


def true_positive_rate(inside: np.ndarray, outside: np.ndarray) -> float:
    """Return the fraction of members above the score exceeded by 1% of non-members."""
    limit = np.sort(outside)[len(outside) - 1 - int(FALSE_POSITIVES * len(outside))]
    return float((inside > limit).mean())


def bootstrap_interval(
    statistic: Callable[[np.ndarray, np.ndarray], float], x: np.ndarray, y: np.ndarray, seed: int
) -> tuple[float, float]:
    """Return the 95% percentile bootstrap interval of a statistic of two samples."""
    from scipy.stats import bootstrap

    found = bootstrap(
        (x, y),
        statistic,
        vectorized=False,
        n_resamples=BOOTSTRAPS,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def ratio_interval(x: np.ndarray, y: np.ndarray, ratio: float) -> tuple[float, float]:
    """Return Welch's 95% interval for a ratio of typical distances, from the logarithms of `x` and `y`."""
    from scipy.stats import ttest_ind

    if ratio == 0:
        return 0.0, 0.0
    if min(len(x), len(y)) < 2:
        return 0.0, float("inf")
    interval = ttest_ind(np.log(x + TINY), np.log(y + TINY), equal_var=False).confidence_interval(CONFIDENCE)
    centre = np.log(ratio + TINY) - (interval.low + interval.high) / 2
    return float(np.exp(interval.low + centre)), float(np.exp(interval.high + centre))


def newcombe_interval(auc: float, n: int, m: int) -> tuple[float, float]:
    """Return Newcombe's 95% interval of an AUC, valid for few cases and for an AUC of 0 or 1."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    z, mean = norm.ppf((1 + CONFIDENCE) / 2), (n + m) / 2

    def beyond(theta: float) -> float:
        inner = 1 + (mean - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return float((theta - auc) ** 2 - z**2 * theta * (1 - theta) * inner / (n * m))

    low = 0.0 if auc <= 0 else float(brentq(beyond, TINY * auc, min(auc, 1 - TINY)))
    high = 1.0 if auc >= 1 else float(brentq(beyond, max(auc, TINY), 1 - TINY * (1 - auc)))
    return low, high
