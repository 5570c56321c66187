"""Negative binomial likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import keras
import numpy as np

from vaexprs.likelihoods.count_base import CountHead, CountLikelihood, mean_and_dispersion, noise_of_totals
from vaexprs.likelihoods.log_prob import negative_binomial_log_prob, sum_over_genes


@final
class NegativeBinomial(CountLikelihood):
    r"""Counts with mean :math:`\mu` and variance :math:`\mu + \mu^2/\theta_g`, one dispersion per gene."""

    name = "nb"

    def head(self, n_genes: int, n_cells: int, level_cells: Sequence[int] = ()) -> keras.layers.Layer:
        return CountHead(n_genes, n_cells, level_cells, dispersed=True, inflated=False, name="output")

    def parameters(self, output: Any, n_groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        return output["proportion"], output["dispersion"], None

    def log_prob(self, x: Any, output: Any) -> Any:
        mean = self.mean(x, output["proportion"])
        return sum_over_genes(negative_binomial_log_prob(x, mean, output["dispersion"]))

    def sample(self, output: Any, library: Any, uniform: np.ndarray) -> np.ndarray:
        from vaexprs.likelihoods.count_sampling import count_quantiles

        return count_quantiles(uniform, *mean_and_dispersion(output, library))

    def relative_noise(self, output: Any, library: Any) -> np.ndarray:
        return noise_of_totals(*mean_and_dispersion(output, library), kept=1.0)
