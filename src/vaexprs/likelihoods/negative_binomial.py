"""Negative binomial likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import keras
import numpy as np
from keras import ops

from vaexprs.likelihoods.count_base import CountHead, CountLikelihood, mean_and_dispersion
from vaexprs.likelihoods.log_prob import negative_binomial_log_prob, sum_over_genes

# Outlying counts, under the contaminated model (1 - e) NB + e h with h(x) proportional to (1 + x / 5)^-2:
# e and the sum of (1 + x / 5)^-2 over all counts.
CONTAMINATION = 1e-5
TOTAL_TAIL = 5.533
# A cell may have this number of outliers, or this fraction of its detected genes, whichever is more. A cell
# with more outliers is not contaminated but of a kind that the model has not learned yet.
MAX_OUTLIERS = 3
MAX_OUTLIER_SHARE = 0.01


@final
class NegativeBinomial(CountLikelihood):
    r"""Counts with mean :math:`\mu` and variance :math:`\mu + \mu^2/\theta_g`, one dispersion per gene.

    Training is robust to single outlying counts, which otherwise determine the dispersion of a gene: the
    probability of a count is at least :math:`\epsilon h(x)`, with :math:`\epsilon = 10^{-5}` and a
    heavy-tailed distribution :math:`h(x) \propto (1 + x/5)^{-2}`, as in a contaminated distribution (Huber
    1964, doi:10.1214/aoms/1177703732). Only isolated counts are treated so: at most three in a cell, or 1% of
    its detected genes.
    """

    name = "nb"
    robust = True
    uses_positions = True

    def head(
        self, n_genes: int, n_cells: int, level_cells: Sequence[int] = (), *, n_basis: int = 0
    ) -> keras.layers.Layer:
        return CountHead(
            n_genes, n_cells, level_cells, n_basis=n_basis, dispersed=True, inflated=False, name="output"
        )

    def parameters(self, output: Any, n_groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        return output["proportion"], output["dispersion"], None

    def log_prob(self, x: Any, output: Any) -> Any:
        mean = self.mean(x, output["proportion"])
        return sum_over_genes(negative_binomial_log_prob(x, mean, output["dispersion"]))

    def robust_log_prob(self, x: Any, output: Any, nonzero: Any = None) -> Any:
        mean, dispersion = self.mean(x, output["proportion"]), output["dispersion"]
        if nonzero is not None:
            from vaexprs.likelihoods.sparse_negative_binomial import log_prob

            return log_prob(_outliers, x, mean, dispersion, nonzero)
        values = negative_binomial_log_prob(x, mean, dispersion)
        floor, outlying = _outliers(x, values)
        return sum_over_genes(ops.where(outlying, floor, values))

    def without_outliers(self, x: np.ndarray, output: Any) -> np.ndarray:
        mean = self.mean(x, output["proportion"])
        outlying = _outliers(x, negative_binomial_log_prob(x, mean, output["dispersion"]))[1]
        return np.where(np.asarray(outlying), np.asarray(mean), x)

    def sample(self, output: Any, library: Any, uniform: np.ndarray) -> np.ndarray:
        from vaexprs.likelihoods.count_sampling import count_quantiles

        return count_quantiles(uniform, *mean_and_dispersion(output, library))


def _outliers(x: Any, log_prob: Any) -> tuple[Any, Any]:
    """Return lower limits of log probabilities and which counts are outliers, (n_cells, n_genes) each."""
    floor = float(np.log(CONTAMINATION / TOTAL_TAIL)) - 2 * ops.log1p(x / 5.0)
    below = log_prob < floor
    found = sum_over_genes(ops.cast(below, log_prob.dtype))
    detected = sum_over_genes(ops.cast(x > 0, log_prob.dtype))
    isolated = found <= ops.maximum(MAX_OUTLIER_SHARE * detected, float(MAX_OUTLIERS))
    return floor, ops.logical_and(below, isolated[:, None])
