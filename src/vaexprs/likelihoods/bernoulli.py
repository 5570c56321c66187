"""Bernoulli likelihood of min-max scaled values, as in the R package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import keras
import numpy as np
from keras import ops

from vaexprs.data.backed import BackedMatrix
from vaexprs.data.matrix import Matrix
from vaexprs.likelihoods.base import Likelihood
from vaexprs.likelihoods.log_prob import sum_over_genes
from vaexprs.preprocessing.summary import Summary


@final
class Bernoulli(Likelihood):
    """Cross-entropy of min-max scaled values; generated values are the decoder's means.

    Compatible with the R package, whose users end `decoder_layers` with one unit per gene.
    """

    name = "bernoulli"
    counts = False
    latent_dim = 2
    last_layer_is_output = True
    scaling_in_network = False

    @classmethod
    def fits_last_layer(cls, layer: Any, n_genes: int) -> bool:
        units = getattr(layer, "units", None)
        if units == n_genes:
            return True
        if getattr(getattr(layer, "activation", None), "__name__", "") == "sigmoid":
            got = "no" if units is None else f"{units:,}"
            raise ValueError(
                f"The last of decoder_layers, a sigmoid layer with {got} units, must have one unit for each "
                f"of the {n_genes:,} genes. If all decoder_layers are hidden layers, set likelihood=."
            )
        return False

    def check(self, summary: Summary, cells: Any) -> None:
        pass

    def scaling(self, x: Matrix | BackedMatrix, unit: float = 1.0) -> str:
        return "minmax"

    def head(
        self, n_genes: int, n_cells: int, level_cells: Sequence[int] = (), *, n_basis: int = 0
    ) -> keras.layers.Layer:
        return keras.layers.Dense(n_genes, activation="sigmoid", name="output")

    def log_prob(self, x: Any, output: Any) -> Any:
        p = ops.clip(output, 1e-7, 1 - 1e-7)
        return sum_over_genes(x * ops.log(p) + (1 - x) * ops.log1p(-p))

    def sample(self, output: Any, library: Any, uniform: np.ndarray) -> np.ndarray:
        return np.asarray(output)
