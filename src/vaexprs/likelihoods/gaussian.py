"""Gaussian likelihood with an optional probability of exact zeros (hurdle model)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias, final

import keras
import numpy as np
import scipy.sparse as sp
from keras import ops
from scipy.special import ndtri

from vaexprs.data.backed import BackedMatrix, row_blocks
from vaexprs.data.matrix import Matrix, limits
from vaexprs.likelihoods.base import Head, Likelihood, above, sigmoid
from vaexprs.likelihoods.log_prob import sum_over_genes
from vaexprs.preprocessing.scaling import POWERS
from vaexprs.preprocessing.summary import Summary

MIN_LARGEST = 1e-30  # minimum of the largest absolute value; float32 hardly resolves smaller ones
LOG_SD_LIMITS = (-6.0, 3.0)  # limits of the log standard deviation, in units of the gene's spread


@keras.saving.register_keras_serializable("vaexprs")
class GaussianHead(Head):
    """Map hidden units to the mean, standard deviation and (if `zeros`) logit of zero of each gene.

    The mean is ``centre + spread * (slopes . hidden + intercept)`` with the centre and spread of the
    gene's observed non-zero values, so that genes of any range are learned equally fast. It is clipped to the
    range of the observed values.
    """

    deviation_sd = 0.3

    def __init__(
        self, n_genes: int, n_cells: int, level_cells: Sequence[int] = (), *, zeros: bool, **kwargs: Any
    ) -> None:
        super().__init__(n_genes, n_cells, level_cells, **kwargs)
        self.zeros = zeros

    def build(
        self, hidden_shape: tuple[int | None, ...], condition_shape: tuple[int | None, ...] | None = None
    ) -> None:
        genes, slopes = (self.n_genes,), (hidden_shape[-1], self.n_genes)
        small = keras.initializers.RandomNormal(stddev=0.01)
        self.kernel = self.add_weight(name="kernel", shape=slopes, initializer=small)
        self.bias = self.add_weight(name="bias", shape=genes, initializer="zeros")
        self.effect = self._add_effect("effect")
        self._add_log_dispersion()
        self.centre = self.add_weight(name="centre", shape=genes, initializer="zeros", trainable=False)
        self.spread = self.add_weight(name="spread", shape=genes, initializer="ones", trainable=False)
        self.lowest = self.add_weight(name="lowest", shape=genes, initializer="zeros", trainable=False)
        self.highest = self.add_weight(name="highest", shape=genes, initializer="ones", trainable=False)
        if self.zeros:
            self.zero_kernel = self.add_weight(name="zero_kernel", shape=slopes, initializer="zeros")
            self.zero_bias = self.add_weight(name="zero_bias", shape=genes, initializer="zeros")
            self.zero_effect = self._add_effect("zero_effect")
        self.built = True

    def call(self, hidden: Any, condition: Any = None) -> dict[str, Any]:
        standardised = self._linear(hidden, condition, self.kernel, self.bias, self.effect)
        log_sd = ops.clip(self._log_dispersion(condition, standardised), *LOG_SD_LIMITS)
        mean = self.centre + self.spread * standardised
        output = {
            "mean": ops.minimum(ops.maximum(mean, self.lowest), self.highest),
            "sd": self.spread * ops.exp(log_sd),
        }
        if self.zeros:
            output["zero_logit"] = self._linear(
                hidden, condition, self.zero_kernel, self.zero_bias, self.zero_effect
            )
        return output

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "zeros": self.zeros}


@final
class Gaussian(Likelihood):
    r"""Normally distributed values with one standard deviation per gene and optional exact zeros.

    With zeros (a hurdle model): :math:`P(x = 0) = \pi`, and :math:`x \sim N(\mu, \sigma_g^2)` otherwise.
    Non-negative values are modelled untransformed, as square roots or as logarithms, whichever gives the
    non-zero values the highest likelihood under normal distributions (`preprocessing.POWERS`). Small values,
    such as fractions, are first divided by the largest power of ten below their mean, because log(1 + x) is
    linear for x much smaller than 1.

    Parameters
    ----------
    zeros
        Whether zeros are modelled with a separate probability.
    nonnegative
        Whether all values are non-negative; sampled values are then reflected at zero.
    """

    name = "gaussian"
    counts = False

    def __init__(self, zeros: bool = False, nonnegative: bool = False) -> None:
        self.zeros = zeros
        self.nonnegative = nonnegative

    @classmethod
    def for_values(cls, summary: Summary) -> Likelihood:
        zeros = summary.nonzero < summary.cells * len(summary.low)
        return cls(zeros=zeros, nonnegative=bool(summary.low.min() >= 0))

    def options(self) -> dict[str, Any]:
        return {"zeros": self.zeros, "nonnegative": self.nonnegative}

    def check(self, summary: Summary, cells: Any) -> None:
        most = float(max(abs(summary.low).max(), abs(summary.high).max()))
        if 0 < most < MIN_LARGEST:
            raise ValueError(
                f"The largest absolute value must be at least {MIN_LARGEST:g}, got {most:g}, which is too "
                "small for 32-bit floats. Multiply all values by a constant."
            )

    def unit(self, summary: Summary) -> float:
        if self.nonnegative:
            typical = float(summary.total.sum()) / max(1, summary.nonzero)
        else:
            typical = float(np.mean(np.maximum(-summary.low, summary.high)))
        return min(1.0, 10.0 ** math.floor(math.log10(typical))) if typical > 0 else 1.0

    def scaling(self, x: Matrix | BackedMatrix, unit: float = 1.0) -> str:
        if not self.nonnegative:
            return "none"
        moments = {kind: _NO_MOMENTS for kind in POWERS}
        log_slopes = np.zeros(x.shape[1])
        for block in row_blocks(x):
            gene, values = _nonzero(block)
            values /= unit
            log_slopes += np.bincount(gene, np.log1p(values), x.shape[1])
            for kind, (_, function, _) in POWERS.items():
                moments[kind] = _combined_moments(moments[kind], _moments(gene, function(values), x.shape[1]))
        n, mean, sd = moments["none"]
        informative = (n > 2) & (sd > 1e-6 * mean)  # the values of other genes are equal up to rounding
        informative &= np.all([each[2] > 0 for each in moments.values()], axis=0)
        gains = {
            kind: (power - 1) * log_slopes[informative].sum()
            - (n[informative] * np.log(moments[kind][2][informative])).sum()
            for kind, (power, _, _) in POWERS.items()
        }
        return max(gains, key=lambda kind: gains[kind])

    def head(
        self, n_genes: int, n_cells: int, level_cells: Sequence[int] = (), *, n_basis: int = 0
    ) -> keras.layers.Layer:
        return GaussianHead(n_genes, n_cells, level_cells, n_basis=n_basis, zeros=self.zeros, name="output")

    def start(self, head: keras.layers.Layer, x: Matrix | BackedMatrix, summary: Summary) -> None:
        n, mean, sd = _NO_MOMENTS
        low, high = np.full(x.shape[1], np.inf), np.full(x.shape[1], -np.inf)
        for block in row_blocks(x):
            n, mean, sd = _combined_moments((n, mean, sd), _moments(*_nonzero(block), x.shape[1]))
            least, most = limits(block)
            low, high = np.minimum(low, least), np.maximum(high, most)
        if self.zeros:
            head.zero_bias.assign(np.log((x.shape[0] - n + 0.5) / (n + 0.5)))
        typical = float(np.median(sd[sd > 0])) if (sd > 0).any() else 1.0
        head.lowest.assign(low)
        head.highest.assign(high)
        head.centre.assign(mean)
        head.spread.assign(np.maximum(sd, 1e-3 * typical))

    def log_prob(self, x: Any, output: Any) -> Any:
        score = (x - output["mean"]) / output["sd"]
        normal = -0.5 * (score * score + float(np.log(2 * np.pi))) - ops.log(output["sd"])
        if not self.zeros:
            return sum_over_genes(normal)
        logit = output["zero_logit"]
        return sum_over_genes(ops.where(x == 0, logit, normal) - ops.softplus(logit))

    def sample(self, output: Any, library: Any, uniform: np.ndarray) -> np.ndarray:
        zero = sigmoid(output["zero_logit"]) if self.zeros else np.zeros_like(uniform)
        score = ndtri(np.clip(above(uniform, zero), 1e-12, 1 - 1e-12))
        drawn = np.asarray(output["mean"], np.float64) + np.asarray(output["sd"]) * score
        if self.nonnegative:
            drawn = np.abs(drawn)
        return np.where(uniform < zero, 0, drawn)


def _nonzero(x: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return the gene and the value of each non-zero entry."""
    coo = sp.coo_matrix(x)
    keep = coo.data != 0
    return coo.col[keep], coo.data[keep].astype(np.float64)


def _moments(gene: np.ndarray, values: np.ndarray, n_genes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return count, mean and standard deviation of each gene's values, (n_genes,) each."""
    n = np.bincount(gene, minlength=n_genes)
    mean = np.bincount(gene, values, n_genes) / np.maximum(n, 1)
    variance = np.bincount(gene, (values - mean[gene]) ** 2, n_genes) / np.maximum(n, 1)
    return n, mean, np.sqrt(variance)


Moments: TypeAlias = tuple[Any, Any, Any]
_NO_MOMENTS: Moments = (0, 0.0, 0.0)


def _combined_moments(a: Moments, b: Moments) -> Moments:
    """Combine the moments of two sets of values (Chan, Golub & LeVeque 1983, doi:10.2307/2683386)."""
    n = a[0] + b[0]
    share = b[0] / np.maximum(n, 1)
    difference = b[1] - a[1]
    variance = (1 - share) * a[2] ** 2 + share * b[2] ** 2 + share * (1 - share) * difference**2
    return n, a[1] + share * difference, np.sqrt(variance)
