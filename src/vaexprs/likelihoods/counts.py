"""Likelihoods of counts: Poisson, negative binomial and zero-inflated negative binomial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import keras
import numpy as np
from keras import ops

from vaexprs.data.backed import BackedMatrix
from vaexprs.data.matrix import MAX_COUNT, Matrix
from vaexprs.likelihoods.base import DISPERSION_STEP, EFFECT_STEP, Head, Likelihood, above, sigmoid
from vaexprs.likelihoods.log_prob import negative_binomial_log_prob, poisson_log_prob, sum_over_genes
from vaexprs.preprocessing.summary import Summary

LOG_DISPERSION_LIMITS = (-7.0, 9.0)
RELEASED_DISPERSION = 5.0  # of all genes, where they cannot be learned in private


@keras.saving.register_keras_serializable("vaexprs")
class CountHead(Head):
    """Hidden units to the parameters of counts.

    The proportions are a softmax over genes. Their intercept starts at the observed proportions and their
    slopes near zero, so that training starts from one mean expression profile.

    Parameters
    ----------
    n_genes, n_cells, level_cells
        See `Head`.
    dispersed
        Whether there is an inverse dispersion for each gene (and condition).
    inflated
        Whether there is a logit of excess zeros for each gene and cell.

    Returns
    -------
    ``proportion``, (n_cells, n_genes), alone, or a dict of it with ``dispersion`` and ``zero_logit``.
    """

    deviation_sd = 3.0  # dispersions of types differ widely; this only keeps few cells from the limits

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

    def call(self, hidden: Any, condition: Any = None) -> Any:
        logits = self._linear(hidden, condition, self.kernel, self.bias, self.effect)
        proportion = ops.softmax(logits, axis=-1)
        if not self.dispersed:
            return proportion
        dispersion = ops.exp(self._log_dispersion(condition, proportion, LOG_DISPERSION_LIMITS))
        output = {"proportion": proportion, "dispersion": dispersion}
        if self.inflated:
            output["zero_logit"] = self._linear(
                hidden, condition, self.zero_kernel, self.zero_bias, self.zero_effect
            )
        return output

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dispersed": self.dispersed, "inflated": self.inflated}


class CountLikelihood(Likelihood):
    """Counts with mean ``library size * proportion``."""

    counts = True
    common = ("dispersion",)

    def draw(
        self,
        output: Any,
        library: Any,
        shape: tuple[int, int],
        groups: Sequence[np.ndarray],
        stratified: bool,
        rng: np.random.Generator,
    ) -> Matrix:
        from vaexprs.likelihoods.count_sampling import draw_counts

        parts = output if isinstance(output, dict) else {"proportion": output}
        dispersion, zero_logit = parts.get("dispersion"), parts.get("zero_logit")
        return draw_counts(rng, parts["proportion"], library, dispersion, zero_logit, groups, stratified)

    def check(self, summary: Summary, cells: Any) -> None:
        least = summary.low.min()
        if least < 0:
            raise ValueError(
                f"Counts must not be negative under likelihood {self.name!r}, got {float(least):g}. "
                "For scaled or centred values use likelihood='gaussian'."
            )
        if summary.fractions:
            raise ValueError(
                f"Counts must be whole numbers under likelihood {self.name!r}, got {summary.fractions:,} "
                "fractions. Name the layer with the counts (layer='counts') or use likelihood='gaussian'."
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
                f"without any ({str(cells[summary.empty[0]])!r}). Leave them out: "
                "scanpy.pp.filter_cells(adata, min_counts=1)."
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
        if head.dispersed:  # of so fine a thing as dispersions nothing but noise would be learned
            head.log_dispersion.assign(np.full(head.n_genes, np.log(RELEASED_DISPERSION) / DISPERSION_STEP))
            head.log_dispersion.trainable = False
            if head.deviation is not None:
                head.deviation.trainable = False

    def stuck_genes(self, head: keras.layers.Layer) -> np.ndarray:
        if not head.dispersed:
            return np.zeros(1, bool)
        return np.asarray(head.log_dispersion) * DISPERSION_STEP <= LOG_DISPERSION_LIMITS[0]

    @staticmethod
    def _mean(x: Any, proportion: Any) -> Any:
        return ops.sum(x, axis=-1, keepdims=True) * proportion + 1e-8


@final
class Poisson(CountLikelihood):
    """Counts with variance equal to their mean."""

    name = "poisson"

    def head(self, n_genes: int, n_cells: int, level_cells: Sequence[int] = ()) -> keras.layers.Layer:
        return CountHead(n_genes, n_cells, level_cells, dispersed=False, inflated=False, name="output")

    def log_prob(self, x: Any, output: Any) -> Any:
        return sum_over_genes(poisson_log_prob(x, self._mean(x, output)))

    def sample(self, output: Any, library: Any, uniform: np.ndarray) -> np.ndarray:
        from vaexprs.likelihoods.count_sampling import count_quantiles

        mean = library * np.asarray(output, np.float64)
        return count_quantiles(uniform, mean, np.full_like(mean, np.inf))

    def relative_noise(self, output: Any, library: Any) -> np.ndarray:
        return 1 / np.ravel(library)


@final
class NegativeBinomial(CountLikelihood):
    r"""Counts with mean :math:`\mu` and variance :math:`\mu + \mu^2/\theta_g`, a dispersion a gene."""

    name = "nb"

    def head(self, n_genes: int, n_cells: int, level_cells: Sequence[int] = ()) -> keras.layers.Layer:
        return CountHead(n_genes, n_cells, level_cells, dispersed=True, inflated=False, name="output")

    def log_prob(self, x: Any, output: Any) -> Any:
        mean = self._mean(x, output["proportion"])
        return sum_over_genes(negative_binomial_log_prob(x, mean, output["dispersion"]))

    def sample(self, output: Any, library: Any, uniform: np.ndarray) -> np.ndarray:
        from vaexprs.likelihoods.count_sampling import count_quantiles

        return count_quantiles(uniform, *_mean_and_dispersion(output, library))

    def relative_noise(self, output: Any, library: Any) -> np.ndarray:
        return _noise_of_totals(*_mean_and_dispersion(output, library), kept=1.0)


@final
class ZeroInflatedNegativeBinomial(CountLikelihood):
    """Negative binomial counts that are zero with an extra probability for each gene and cell."""

    name = "zinb"

    def head(self, n_genes: int, n_cells: int, level_cells: Sequence[int] = ()) -> keras.layers.Layer:
        return CountHead(n_genes, n_cells, level_cells, dispersed=True, inflated=True, name="output")

    def log_prob(self, x: Any, output: Any) -> Any:
        mean, logit = self._mean(x, output["proportion"]), output["zero_logit"]
        drawn = negative_binomial_log_prob(x, mean, output["dispersion"]) - ops.softplus(logit)
        excess = logit - ops.softplus(logit)
        return sum_over_genes(ops.where(x == 0, ops.logaddexp(drawn, excess), drawn))

    def sample(self, output: Any, library: Any, uniform: np.ndarray) -> np.ndarray:
        from vaexprs.likelihoods.count_sampling import count_quantiles

        excess = sigmoid(output["zero_logit"])
        counts = count_quantiles(above(uniform, excess), *_mean_and_dispersion(output, library))
        return np.where(uniform < excess, 0, counts)

    def relative_noise(self, output: Any, library: Any) -> np.ndarray:
        kept = 1 - sigmoid(output["zero_logit"])
        return _noise_of_totals(*_mean_and_dispersion(output, library), kept=kept)


def _mean_and_dispersion(output: Any, library: Any) -> tuple[np.ndarray, np.ndarray]:
    mean = library * np.asarray(output["proportion"], np.float64)
    return mean, np.asarray(output["dispersion"], np.float64)


def _noise_of_totals(mean: np.ndarray, dispersion: np.ndarray, kept: Any) -> np.ndarray:
    """Return the relative variance of totals of counts of which a fraction is kept, the rest zero."""
    variance = kept * (mean + mean**2 / dispersion) + kept * (1 - kept) * mean**2
    return variance.sum(axis=1) / (kept * mean).sum(axis=1) ** 2
