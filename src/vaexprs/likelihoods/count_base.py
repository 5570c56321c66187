"""Base class and output layer of the likelihoods of counts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from vaexprs.data.backed import BackedMatrix
from vaexprs.data.matrix import MAX_COUNT, Matrix
from vaexprs.likelihoods.base import DISPERSION_STEP, EFFECT_STEP, Head, Likelihood, sigmoid
from vaexprs.preprocessing.summary import Summary

LOG_DISPERSION_LIMITS = (-7.0, 9.0)
MIN_MEAN = 1e-8  # added to the means of counts
RELEASED_DISPERSION = 5.0  # fixed dispersion of all genes in fits with differential privacy


@keras.saving.register_keras_serializable("vaexprs")
class CountHead(Head):
    """Map hidden units to the parameters of a count distribution.

    The proportions are a softmax over genes. Their intercepts start at the observed proportions and their
    slopes near zero, so that training starts from the mean expression profile.

    Parameters
    ----------
    n_genes, n_cells, level_cells
        See `Head`.
    dispersed
        Whether to learn an inverse dispersion for each gene (and condition).
    inflated
        Whether to learn a logit of excess zeros for each gene and cell.

    Returns
    -------
    ``proportion``, (n_cells, n_genes), or a dict of ``proportion``, ``dispersion`` and, if `inflated`,
    ``zero_logit``, if `dispersed`.
    """

    # Dispersions differ widely between cell types: the weak prior only keeps rare types off the limits.
    deviation_sd = 3.0

    def __init__(
        self,
        n_genes: int,
        n_cells: int,
        level_cells: Sequence[int] = (),
        *,
        dispersed: bool,
        inflated: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(n_genes, n_cells, level_cells, **kwargs)
        self.dispersed = dispersed
        self.inflated = inflated

    def build(
        self, hidden_shape: tuple[int | None, ...], condition_shape: tuple[int | None, ...] | None = None
    ) -> None:
        slopes = (hidden_shape[-1], self.n_genes)
        small = keras.initializers.RandomNormal(stddev=0.01)
        self.kernel = self.add_weight(name="kernel", shape=slopes, initializer=small)
        self.bias = self.add_weight(name="bias", shape=(self.n_genes,), initializer="zeros")
        self.effect = self._add_effect("effect")
        if self.dispersed:
            self._add_log_dispersion()
        if self.inflated:
            self.zero_kernel = self.add_weight(name="zero_kernel", shape=slopes, initializer="zeros")
            self.zero_bias = self.add_weight(
                name="zero_bias", shape=(self.n_genes,), initializer=keras.initializers.Constant(-3.0)
            )
            self.zero_effect = self._add_effect("zero_effect")
        self.built = True

    def predictors(self, hidden: Any, condition: Any = None) -> dict[str, Any]:
        """Return ``logits`` of proportions, ``log_dispersion`` and ``zero_logit``, before any limits."""
        values = {"logits": self._linear(hidden, condition, self.kernel, self.bias, self.effect)}
        if self.dispersed:
            values["log_dispersion"] = self._log_dispersion(condition, values["logits"])
        if self.inflated:
            values["zero_logit"] = self._linear(
                hidden, condition, self.zero_kernel, self.zero_bias, self.zero_effect
            )
        return values

    def call(self, hidden: Any, condition: Any = None) -> Any:
        values = self.predictors(hidden, condition)
        proportion = ops.softmax(values.pop("logits"), axis=-1)
        if not self.dispersed:
            return proportion
        dispersion = ops.exp(ops.clip(values.pop("log_dispersion"), *LOG_DISPERSION_LIMITS))
        return {"proportion": proportion, "dispersion": dispersion, **values}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dispersed": self.dispersed, "inflated": self.inflated}


class CountLikelihood(Likelihood):
    """Counts with mean ``library size * proportion``, of the negative binomial family.

    A count likelihood outside this family needs its own `head` and `draw`.
    """

    counts = True
    supports_privacy = True
    common = ("dispersion",)

    @abstractmethod
    def parameters(self, output: Any, n_groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return the parameters of the counts of a block of cells.

        Parameters
        ----------
        output
            The decoder's output as NumPy arrays, with one row of dispersions per group.
        n_groups
            Number of groups.

        Returns
        -------
        tuple
            Proportions, (n_cells, n_genes); inverse dispersions, (n_groups, n_genes), infinite for a Poisson
            distribution; and logits of excess zeros, (n_cells, n_genes), or None without zero inflation.
        """

    def draw(
        self,
        output: Any,
        library: Any,
        shape: tuple[int, int],
        groups: Sequence[np.ndarray],
        rng: np.random.Generator,
    ) -> Matrix:
        from vaexprs.likelihoods.count_sampling import draw_counts

        proportion, dispersion, zero_logit = self.parameters(output, len(groups))
        return draw_counts(rng, proportion, library, dispersion, zero_logit, groups)

    def moments(self, output: Any, library: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        r"""Return the moments of each count, (n_cells, n_genes) each.

        These are the mean, and a and b of the variance :math:`a + b / \theta` with inverse dispersion
        :math:`\theta`.

        Parameters
        ----------
        output
            The decoder's output as NumPy arrays, with one row of dispersions per cell.
        library
            Library size of each cell, (n_cells, 1).
        """
        proportion, _, zero_logit = self.parameters(output, len(library))
        mean = library * proportion
        if zero_logit is None:
            return mean, mean, mean**2
        kept = 1 - sigmoid(zero_logit)
        return kept * mean, kept * (mean + (1 - kept) * mean**2), kept * mean**2

    def check(self, summary: Summary, cells: Any) -> None:
        least = summary.low.min()
        if least < 0:
            raise ValueError(
                f"Counts must be non-negative under likelihood {self.name!r}, got {float(least):g}. "
                "For scaled or centred values use likelihood='gaussian'."
            )
        if summary.fractions:
            raise ValueError(
                f"Counts must be whole numbers under likelihood {self.name!r}, got {summary.fractions:,} "
                "fractions. Select the layer with the counts (layer='counts') or use likelihood='gaussian'."
            )
        most = summary.high.max()
        if most > MAX_COUNT:
            raise ValueError(
                f"Counts must be at most {MAX_COUNT:,} under likelihood {self.name!r}, got {float(most):g}. "
                "For values that are not counts use likelihood='gaussian'."
            )
        if summary.n_empty:
            raise ValueError(
                f"Every cell must have counts under likelihood {self.name!r}, got {summary.n_empty:,} "
                f"without any ({str(cells[summary.empty[0]])!r}). Leave out cells without counts in these "
                f"{len(summary.low):,} genes, or use more genes."
            )

    def scaling(self, x: Matrix | BackedMatrix, unit: float = 1.0) -> str:
        return "none"

    def start(self, head: keras.layers.Layer, x: Matrix | BackedMatrix, summary: Summary) -> None:
        total = summary.total + 0.1
        head.bias.assign(np.log(total / total.sum()))

    def start_released(
        self, head: keras.layers.Layer, log_proportions: np.ndarray, effects: np.ndarray
    ) -> None:
        head.bias.assign(log_proportions)
        if head.effect is not None:
            head.effect.assign(effects / EFFECT_STEP)
        if head.dispersed:  # with privacy noise dispersions cannot be estimated
            head.log_dispersion.assign(np.full(head.n_genes, np.log(RELEASED_DISPERSION) / DISPERSION_STEP))
            head.log_dispersion.trainable = False
            if head.deviation is not None:
                head.deviation.trainable = False

    def stuck_genes(self, head: keras.layers.Layer) -> np.ndarray:
        if not head.dispersed:
            return np.zeros(1, bool)
        return np.asarray(head.log_dispersion) * DISPERSION_STEP <= LOG_DISPERSION_LIMITS[0]

    @staticmethod
    def mean(x: Any, proportion: Any) -> Any:
        """Return the mean of each count, (n_cells, n_genes), as a Keras tensor with positive values."""
        return ops.sum(x, axis=-1, keepdims=True) * proportion + MIN_MEAN


def with_proportions(output: Any, proportion: np.ndarray) -> Any:
    """Return a decoder's output with other proportions, (n_cells, n_genes)."""
    return output | {"proportion": proportion} if isinstance(output, dict) else proportion


def mean_and_dispersion(output: Any, library: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return means for these library sizes, (n_cells, n_genes), and inverse dispersions, in float64."""
    mean = library * np.asarray(output["proportion"], np.float64)
    return mean, np.asarray(output["dispersion"], np.float64)
