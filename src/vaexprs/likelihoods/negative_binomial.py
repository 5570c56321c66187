"""Negative binomial likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import keras
import numpy as np
from keras import ops

from vaexprs.data.sparse_batch import SparseBatch
from vaexprs.likelihoods.count_base import CountHead, CountLikelihood, mean_and_dispersion
from vaexprs.likelihoods.log_prob import negative_binomial_log_prob, sum_over_genes
from vaexprs.likelihoods.outliers import outliers


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
    sparse = True

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

    def robust_log_prob(self, x: Any, output: Any) -> Any:
        values = negative_binomial_log_prob(x, self.mean(x, output["proportion"]), output["dispersion"])
        limit, outlying = outliers(x, values)
        return sum_over_genes(ops.where(outlying, limit, values))

    def sparse_log_prob(self, cells: SparseBatch, predictors: Any) -> Any:
        from vaexprs.likelihoods.sparse_negative_binomial import log_prob

        return log_prob(cells, predictors["logits"], predictors["log_dispersion"])

    def without_outliers(self, x: Any, output: Any) -> Any:
        mean = self.mean(x, output["proportion"])
        outlying = outliers(x, negative_binomial_log_prob(x, mean, output["dispersion"]))[1]
        return ops.where(outlying, mean, x)

    def sample(self, output: Any, library: Any, uniform: np.ndarray) -> np.ndarray:
        from vaexprs.likelihoods.count_sampling import count_quantiles

        return count_quantiles(uniform, *mean_and_dispersion(output, library))
