"""Zero-inflated negative binomial likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import keras
import numpy as np
from keras import ops

from vaexprs.likelihoods.base import above, sigmoid
from vaexprs.likelihoods.count_base import CountHead, CountLikelihood, mean_and_dispersion
from vaexprs.likelihoods.log_prob import negative_binomial_log_prob, sum_over_genes


@final
class ZeroInflatedNegativeBinomial(CountLikelihood):
    """Negative binomial counts with an additional probability of zero for each gene and cell."""

    name = "zinb"

    def head(
        self, n_genes: int, n_cells: int, level_cells: Sequence[int] = (), *, n_basis: int = 0
    ) -> keras.layers.Layer:
        return CountHead(
            n_genes, n_cells, level_cells, n_basis=n_basis, dispersed=True, inflated=True, name="output"
        )

    def parameters(self, output: Any, n_groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        return output["proportion"], output["dispersion"], output["zero_logit"]

    def log_prob(self, x: Any, output: Any) -> Any:
        mean, logit = self.mean(x, output["proportion"]), output["zero_logit"]
        drawn = negative_binomial_log_prob(x, mean, output["dispersion"]) - ops.softplus(logit)
        excess = logit - ops.softplus(logit)
        return sum_over_genes(ops.where(x == 0, ops.logaddexp(drawn, excess), drawn))

    def sample(self, output: Any, library: Any, uniform: np.ndarray) -> np.ndarray:
        from vaexprs.likelihoods.count_sampling import count_quantiles

        excess = sigmoid(output["zero_logit"])
        counts = count_quantiles(above(uniform, excess), *mean_and_dispersion(output, library))
        return np.where(uniform < excess, 0, counts)
