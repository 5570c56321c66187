"""Layers of the networks: input normalisation and the reparameterisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from vaexprs.data.backed import BackedMatrix
from vaexprs.data.matrix import TARGET_SUM, Matrix, densify
from vaexprs.likelihoods.base import Head
from vaexprs.preprocessing.summary import Summary

# An Adam step changes the sum of n weighted inputs by up to n times the learning rate. With more genes than
# this the inputs are scaled down in proportion, otherwise training diverges.
INPUT_GENES = 2000
INPUT_LIMIT = 10.0  # limit in standard deviations, as in scanpy.pp.scale(max_value=10)
ROWS_AT_ONCE = 1_024
MAX_LOG_STDDEV = 2.0


@keras.saving.register_keras_serializable("vaexprs")
class Normalize(keras.layers.Layer):
    """First layer of an encoder: standardise prepared values.

    Parameters
    ----------
    counts
        Whether values are counts, which are first transformed to ``log(1 + 1e4 * x / library size)``.
    """

    def __init__(self, counts: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.counts = counts

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        genes = (input_shape[-1],)
        self.centre = self.add_weight(name="centre", shape=genes, initializer="zeros", trainable=False)
        self.spread = self.add_weight(name="spread", shape=genes, initializer="ones", trainable=False)
        self.built = True

    def start(self, x: Matrix | BackedMatrix, summary: Summary) -> None:
        """Set mean and standard deviation of each gene from the training cells.

        Parameters
        ----------
        x
            Prepared cells, (n_cells, n_genes).
        summary
            Summary of the cells' values before preparation.
        """
        n, total, squares = summary.cells, summary.logged, summary.logged_squares
        if not self.counts:
            n, total, squares = x.shape[0], np.zeros(x.shape[1]), np.zeros(x.shape[1])
            for first in range(0, x.shape[0], ROWS_AT_ONCE):
                block = densify(x[first : first + ROWS_AT_ONCE]).astype(np.float64)
                total += block.sum(axis=0)
                squares += (block**2).sum(axis=0)
        mean = total / n
        sd = np.sqrt(np.maximum(squares / n - mean**2, 0))
        self.centre.assign(mean)
        # a lower bound, so that genes that hardly vary are not inflated to unit variance
        self.spread.assign(np.maximum(sd, 0.1 * np.sqrt(np.mean(sd**2)) + 1e-6))

    def call(self, x: Any) -> Any:
        if self.counts:
            library = ops.maximum(ops.sum(x, axis=-1, keepdims=True), 1.0)
            x = ops.log1p(TARGET_SUM * x / library)
        return self._scaled(x, self.centre, self.spread)

    def of_sparse(self, count: Any, gene: Any, library: Any) -> tuple[Any, Any]:
        """Return the normalised value of a zero of each gene, and what counts add to it.

        Parameters
        ----------
        count, gene, library
            Counts, and the gene and the library size of each, (n_counts,).
        """
        of_zero = self._scaled(0.0, self.centre, self.spread)
        logged = ops.log1p(TARGET_SUM * count / ops.maximum(library, 1.0))
        centre, spread, zero = (ops.take(part, gene) for part in (self.centre, self.spread, of_zero))
        return of_zero, self._scaled(logged, centre, spread) - zero

    def _scaled(self, x: Any, centre: Any, spread: Any) -> Any:
        scaled = ops.clip((x - centre) / spread, -INPUT_LIMIT, INPUT_LIMIT)
        return scaled * min(1.0, INPUT_GENES / self.centre.shape[0])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "counts": self.counts}


@keras.saving.register_keras_serializable("vaexprs")
class Sampling(keras.layers.Layer):
    """Reparameterisation ``z_mean + exp(z_log_stddev) * noise`` with noise for each cell and dimension.

    (Kingma & Welling 2013, doi:10.48550/arXiv.1312.6114.) Outside training every batch gets the same noise,
    so that validation losses are comparable between epochs and predictions are reproducible.
    """

    def __init__(self, seed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Sequence[Any], training: bool = False) -> Any:
        mean, log_stddev = inputs
        noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator if training else self.seed)
        return mean + ops.exp(log_stddev) * noise

    def compute_output_shape(self, input_shape: Sequence[Any]) -> Any:
        return input_shape[0]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}


@keras.saving.register_keras_serializable("vaexprs")
def bounded(log_stddev: Any) -> Any:
    """Clip log standard deviations to at most 2, that is 7.4 times the prior's standard deviation.

    In a long fit a single cell can get a very large one, whose square dominates the loss of an epoch.
    """
    return ops.minimum(log_stddev, MAX_LOG_STDDEV)


def join(x: Any, condition: Any, name: str) -> Any:
    """Concatenate the codes of the conditions, if any, to `x`."""
    return x if condition is None else keras.layers.Concatenate(name=name)([x, condition])


def call_layer(layer: keras.layers.Layer, hidden: Any, condition: Any) -> Any:
    """Return the output of a decoder layer; a `Head` also receives the conditions."""
    if condition is None or not isinstance(layer, Head):
        return layer(hidden)
    return layer(hidden, condition)
