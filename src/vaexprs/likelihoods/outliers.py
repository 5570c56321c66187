"""Outlying counts, in Keras operations.

They are those that are more probable under the contamination of the model
(1 - e) NB + e h with h(x) proportional to (1 + x / 5)^-2.
"""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from vaexprs.likelihoods.log_prob import sum_over_genes

# log(e / s) with e = 1e-5 and the sum s of (1 + x / 5)^-2 over all counts: the log probability of a zero
LOG_CONTAMINATION = math.log(1e-5 / 5.533)
# A cell may have this number of outliers, or this fraction of its detected genes, whichever is more. A cell
# with more outliers is not contaminated but of a kind that the model has not learned yet.
MAX_OUTLIERS = 3.0
MAX_OUTLIER_SHARE = 0.01


def outlier_limit(x: Any) -> Any:
    """Return the log probability of counts under the contamination."""
    return LOG_CONTAMINATION - 2 * ops.log1p(x / 5.0)


def most_outliers(detected: Any) -> Any:
    """Return the largest number of outliers of cells with these numbers of detected genes, (n_cells,)."""
    return ops.maximum(MAX_OUTLIER_SHARE * detected, MAX_OUTLIERS)


def outliers(x: Any, log_prob: Any) -> tuple[Any, Any]:
    """Return lower limits of log probabilities and which counts are outliers, (n_cells, n_genes) each."""
    limit = outlier_limit(x)
    below = log_prob < limit
    found = sum_over_genes(ops.cast(below, log_prob.dtype))
    detected = sum_over_genes(ops.cast(x > 0, log_prob.dtype))
    return limit, ops.logical_and(below, (found <= most_outliers(detected))[:, None])
