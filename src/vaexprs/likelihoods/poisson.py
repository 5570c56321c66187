"""Poisson likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import keras
import numpy as np

from vaexprs.likelihoods.count_base import CountHead, CountLikelihood
from vaexprs.likelihoods.log_prob import poisson_log_prob, sum_over_genes


@final
class Poisson(CountLikelihood):
    """Counts with variance equal to their mean."""

    name = "poisson"

    def head(
        self, n_genes: int, n_cells: int, level_cells: Sequence[int] = (), *, n_basis: int = 0
    ) -> keras.layers.Layer:
        return CountHead(
            n_genes, n_cells, level_cells, n_basis=n_basis, dispersed=False, inflated=False, name="output"
        )

    def parameters(self, output: Any, n_groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        return output, np.full((n_groups, output.shape[1]), np.inf), None

    def log_prob(self, x: Any, output: Any) -> Any:
        return sum_over_genes(poisson_log_prob(x, self.mean(x, output)))

    def sample(self, output: Any, library: Any, uniform: np.ndarray) -> np.ndarray:
        from vaexprs.likelihoods.count_sampling import count_quantiles

        mean = library * np.asarray(output, np.float64)
        return count_quantiles(uniform, mean, np.full_like(mean, np.inf))
