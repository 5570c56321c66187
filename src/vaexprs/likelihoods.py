"""What the values of a gene are drawn from, given the latent state of the cell.

A likelihood says how its values are scaled for the network, which last layer gives its parameters, how
probable values are under them and how values are drawn. It is one class and one line of `LIKELIHOODS`;
nothing else in the package asks which one it has.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias, final

import keras
import numpy as np
import scipy.sparse as sp
from keras import ops
from scipy.special import ndtri

from vaexprs._checks import check_choice
from vaexprs.matrices import MOST_COUNT, Matrix, limits
from vaexprs.ondisk import DiskMatrix, row_blocks
from vaexprs.preprocessing import POWERS, Summary

# Adam moves a weight by about the learning rate whatever its gradient. Log dispersions have a long way to
# go and one weight a gene: counted in units of this size they arrive with everything else.
DISPERSION_STEP = 20.0
LOG_DISPERSION_LIMITS = (-7.0, 9.0)
EFFECT_STEP = 5.0  # the same for what a condition adds to a gene
# Prior variance of these additions: so much times the share of the cells that have the condition, of at most
# EFFECT_CELLS cells. A rare type borrows from what the latent vector has learned of all cells.
EFFECT_VARIANCE = 50.0
EFFECT_CELLS = 2_000
TOLD_DISPERSION = 5.0  # of all genes, where they cannot be learned in private
SMALLEST = 1e-30  # that the largest value of a Gaussian may be
LOG_SD_LIMITS = (-6.0, 3.0)  # of a Gaussian, in units of the gene's spread


def log_rising(a: Any, x: Any) -> Any:
    r"""Return :math:`\log\Gamma(a + x) - \log\Gamma(a)` for a > 0, x >= 0, without cancellation.

    Four steps of the recurrence, then the difference of two Stirling series (Abramowitz & Stegun 1964,
    6.1.15 and 6.1.40): float32 keeps its digits where both gamma functions are large.
    """
    b = a + 4.0
    recurrence = ops.log((a + x) * (a + x + 1) * (a + x + 2) * (a + x + 3)) - ops.log(
        a * (a + 1) * (a + 2) * (a + 3)
    )
    stirling = (b - 0.5) * ops.log1p(x / b) + x * ops.log(b + x) - x
    return stirling + _stirling_tail(b + x) - _stirling_tail(b) - recurrence


def _stirling_tail(z: Any) -> Any:
    inverse = 1.0 / z
    square = inverse * inverse
    return inverse * (1 / 12 - square * (1 / 360 - square / 1260))


def poisson_log_prob(x: Any, mean: Any) -> Any:
    r"""Return :math:`x \log\mu - \mu - \log x!`."""
    return x * ops.log(mean) - mean - log_rising(ops.ones_like(mean), x)


def negative_binomial_log_prob(x: Any, mean: Any, dispersion: Any) -> Any:
    r"""Return the log probability of counts with variance :math:`\mu + \mu^2 / \theta`.

    .. math:: \log\frac{\Gamma(x+\theta)}{\Gamma(\theta)\,x!}
              + x\log\frac{\mu}{\theta} - (x + \theta)\log(1 + \mu/\theta)

    The two rising factorials as in `log_rising`, with logarithms put together where they can be: most of
    the time of a training step outside its matrix products is spent here.
    """
    a, ratio = dispersion, mean / dispersion
    b, shifted, steps = a + 4.0, x + (a + 4.0), x + 5.0
    recurrence = ops.log(
        24.0
        * ((a + x) * (a + x + 1) / (a * (a + 1) * (1 + x) * (2 + x)))
        * ((a + x + 2) * (a + x + 3) / ((a + 2) * (a + 3) * (3 + x) * (4 + x)))
    )
    stirling = (shifted - 0.5) * ops.log1p(x / b) - (steps - 0.5) * ops.log1p(x / 5.0)
    tails = _stirling_tail(shifted) - _stirling_tail(b) - _stirling_tail(steps) + _stirling_tail(5.0)
    powers = x * ops.log(ratio * b / 5.0) - (x + a) * ops.log1p(ratio)
    return stirling + tails - recurrence + powers


def sum_over_genes(values: Any) -> Any:
    """Return the sum of each row, (n_cells,).

    As a matrix product: XLA would make the values inside the loop that sums them up, one at a time, which
    on a processor takes twice as long as making them first.
    """
    return ops.squeeze(ops.matmul(values, ops.ones((values.shape[-1], 1), values.dtype)), -1)


def of_each_gene(n: Any, own: Any, condition: Any, effect: Any) -> Any:
    """Return the sum of a gene's own value and what the conditions of each of n cells add, (n, n_genes).

    One matrix product, with a column of ones for the gene's own: the gradient is one as well then. For a
    value that is added to each row XLA sums up columns, which is slow on a processor.

    Parameters
    ----------
    n
        Number of cells.
    own
        (n_genes,).
    condition, effect
        (n, width) and (width, n_genes), or None.
    """
    ones, own = ops.ones((n, 1), own.dtype), own[None]
    if effect is None:
        return ops.matmul(ones, own)
    return ops.matmul(ops.concatenate([condition, ones], axis=1), ops.concatenate([effect, own], axis=0))


@keras.saving.register_keras_serializable("vaexprs")
class RowL2(keras.regularizers.Regularizer):
    """Sum of squares of a weight, each row with a strength of its own."""

    def __init__(self, strengths: Sequence[float]) -> None:
        self.strengths = [float(strength) for strength in strengths]

    def __call__(self, weight: Any) -> Any:
        return ops.sum(ops.convert_to_tensor(self.strengths, weight.dtype) * ops.sum(weight**2, axis=1))

    def get_config(self) -> dict[str, Any]:
        return {"strengths": self.strengths}


class Head(keras.layers.Layer):
    """Last layer of a decoder: hidden units to what a likelihood takes.

    Where there are conditions it is called with their one-hot codes as well, ``head(hidden, condition)``.
    What a level of a condition adds to a gene has a normal prior around zero with variance
    ``50 * n_level_cells / min(n_cells, 2000)``: the rarer the level, the more of it has to come from the
    hidden units, which all cells teach. The log dispersion of a gene is a sum of the gene's own and a
    deviation of each level, with a normal prior of standard deviation `deviation_sd`.

    Parameters
    ----------
    n_genes
        Number of genes.
    n_cells
        Number of training cells: what the priors are weighed against.
    level_cells
        Number of training cells with each level, in the order of the one-hot codes.
    """

    deviation_sd: ClassVar[float]

    def __init__(self, n_genes: int, n_cells: int, level_cells: Sequence[int] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n_genes = n_genes
        self.n_cells = n_cells
        self.level_cells = [int(n) for n in level_cells]

    def _add_effect(self, name: str) -> Any:
        """Return the weights of what each level adds to a gene, in units of EFFECT_STEP; None without any."""
        if not self.level_cells:
            return None
        share = np.maximum(self.level_cells, 1) / min(self.n_cells, EFFECT_CELLS)
        prior = RowL2((0.5 * EFFECT_STEP**2 / (EFFECT_VARIANCE * share) / self.n_cells).tolist())
        shape = (len(self.level_cells), self.n_genes)
        return self.add_weight(name=name, shape=shape, initializer="zeros", regularizer=prior)

    @staticmethod
    def _linear(hidden: Any, condition: Any, kernel: Any, bias: Any, effect: Any) -> Any:
        scaled = None if effect is None else EFFECT_STEP * condition
        return ops.matmul(hidden, kernel) + of_each_gene(ops.shape(hidden)[0], bias, scaled, effect)

    def _add_log_dispersion(self) -> None:
        # in units of DISPERSION_STEP, see there
        self.log_dispersion = self.add_weight(
            name="log_dispersion", shape=(self.n_genes,), initializer="zeros"
        )
        self.deviation = None
        if self.level_cells:
            strength = 0.5 * (DISPERSION_STEP / self.deviation_sd) ** 2 / self.n_cells
            self.deviation = self.add_weight(
                name="deviation",
                shape=(len(self.level_cells), self.n_genes),
                initializer="zeros",
                regularizer=keras.regularizers.L2(strength),
            )

    def _log_dispersion(self, condition: Any, like: Any, limits: tuple[float, float]) -> Any:
        """Return the log dispersion of each cell and gene, in the shape of `like`."""
        value = of_each_gene(ops.shape(like)[0], self.log_dispersion, condition, self.deviation)
        return ops.clip(value * DISPERSION_STEP, *limits)

    def get_config(self) -> dict[str, Any]:
        own = {"n_genes": self.n_genes, "n_cells": self.n_cells, "level_cells": self.level_cells}
        return {**super().get_config(), **own}


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


@keras.saving.register_keras_serializable("vaexprs")
class GaussianHead(Head):
    """Hidden units to mean and standard deviation of each gene, and its logit of zero.

    The mean is ``centre + spread * (slopes . hidden + intercept)`` with the centre and spread of the
    gene's observed (non-zero) values, so that genes of any range are learned at one speed, and stays within
    the range of the observed values.
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
        log_sd = self._log_dispersion(condition, standardised, LOG_SD_LIMITS)
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


class Likelihood(ABC):
    """A distribution of the values of genes, independent given the decoder's output.

    Attributes
    ----------
    name
        As the user says it.
    counts
        Whether values are counts: the library size is then given to `log_prob` and `sample`, and the
        latent density has a dimension for its logarithm.
    latent_dim
        Default size of the latent vector.
    last_layer_is_output
        Whether the user's last decoder layer is the output itself (R's contract).
    scaling_in_network
        Whether the encoder begins with a layer that centres and scales the prepared values.
    common
        Parts of the decoder's output that depend on a cell's conditions alone.
    """

    name: ClassVar[str]
    counts: ClassVar[bool]
    latent_dim: ClassVar[int] = 10
    last_layer_is_output: ClassVar[bool] = False
    scaling_in_network: ClassVar[bool] = True
    common: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def for_values(cls, summary: Summary) -> Likelihood:
        """Return the likelihood fitted to the kind of values."""
        return cls()

    def options(self) -> dict[str, Any]:
        """Return the arguments that make this likelihood again."""
        return {}

    @abstractmethod
    def check(self, summary: Summary, cells: Any) -> None:
        """Raise ValueError if there are values this likelihood cannot have; `cells` are their names."""

    def unit(self, summary: Summary) -> float:
        """Return what values are divided by before they are scaled: a power of ten where they are small."""
        return 1.0

    @abstractmethod
    def scaling(self, x: Matrix | DiskMatrix, unit: float = 1.0) -> str:
        """Return which scaling (see `preprocessing.Scaling`) prepares these values for the network."""

    @abstractmethod
    def head(self, n_genes: int, n_cells: int, level_cells: Sequence[int] = ()) -> keras.layers.Layer:
        """Return the decoder's last layer."""

    def start(self, head: keras.layers.Layer, x: Matrix | DiskMatrix, summary: Summary) -> None:  # noqa: B027
        """Set the starting weights of the head from the prepared cells and the summary of their values."""

    def start_told(  # noqa: B027
        self, head: keras.layers.Layer, log_proportions: np.ndarray, effects: np.ndarray
    ) -> None:
        """Set the starting weights of the head from what was told of private cells.

        Parameters
        ----------
        head
            The decoder's last layer.
        log_proportions
            Logarithm of the share of the counts that each gene has, (n_genes,).
        effects
            What each condition adds to it, (width, n_genes).
        """

    def stuck_genes(self, head: keras.layers.Layer) -> np.ndarray:
        """Return which genes have a learned dispersion at its lower limit, (n_genes,).

        One False where dispersions are not learned or have no limit that matters.
        """
        return np.zeros(1, bool)

    @abstractmethod
    def log_prob(self, x: Any, output: Any) -> Any:
        """Return the log probability of each prepared cell, (n_cells,), under the decoder's output."""

    @abstractmethod
    def sample(self, output: Any, library: Any, uniform: np.ndarray) -> np.ndarray:
        """Return prepared values, (n_cells, n_genes): the quantiles that uniform numbers stand for.

        Drawing by the inverse of the distribution function leaves it to the caller how uniform numbers of
        different cells depend on each other.

        Parameters
        ----------
        output
            The decoder's output as NumPy arrays.
        library
            Library size of each cell, (n_cells, 1); None unless `counts`.
        uniform
            Numbers in [0, 1), (n_cells, n_genes).
        """

    def draw(
        self,
        output: Any,
        library: Any,
        shape: tuple[int, int],
        groups: Sequence[np.ndarray],
        stratified: bool,
        rng: np.random.Generator,
    ) -> Matrix:
        """Return prepared values of a block of cells, (n_cells, n_genes); CSR for counts.

        Parameters
        ----------
        output
            The decoder's output as NumPy arrays; what is `common` has a row for each group.
        library
            Library size of each cell, (n_cells, 1); None unless `counts`.
        shape
            (n_cells, n_genes).
        groups
            Rows of the cells of each condition; together all rows.
        stratified
            Whether the random numbers of a group are spread evenly in each gene; independent otherwise.
        rng
            Source of randomness.
        """
        from vaexprs.sampling import evenly_spread

        return self.sample(output, library, evenly_spread(rng, *shape, groups if stratified else ()))

    def relative_noise(self, output: Any, library: Any) -> np.ndarray:
        r"""Return the variance of the total of drawn counts over its squared mean, (n_cells,).

        Totals of counts drawn for a library size spread around it; 0 where there are none.
        """
        return np.zeros(len(library))


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
        from vaexprs.sampling import draw_counts

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
        if most > MOST_COUNT:
            raise ValueError(
                f"Counts must be at most {MOST_COUNT:,} under likelihood {self.name!r}, got {float(most):g}. "
                "For values that are not counts use likelihood='gaussian'."
            )
        if summary.n_empty:
            raise ValueError(
                f"Every cell must have counts under likelihood {self.name!r}, got {summary.n_empty:,} "
                f"without any ({str(cells[summary.empty[0]])!r}). Leave them out: "
                "scanpy.pp.filter_cells(adata, min_counts=1)."
            )

    def scaling(self, x: Matrix | DiskMatrix, unit: float = 1.0) -> str:
        return "none"

    def start(self, head: keras.layers.Layer, x: Matrix | DiskMatrix, summary: Summary) -> None:
        total = summary.total + 0.1
        head.bias.assign(np.log(total / total.sum()))

    def start_told(self, head: keras.layers.Layer, log_proportions: np.ndarray, effects: np.ndarray) -> None:
        head.bias.assign(log_proportions)
        if head.effect is not None:
            head.effect.assign(effects / EFFECT_STEP)
        if head.dispersed:  # of so fine a thing as dispersions nothing but noise would be learned
            head.log_dispersion.assign(np.full(head.n_genes, np.log(TOLD_DISPERSION) / DISPERSION_STEP))
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
        from vaexprs.sampling import count_quantiles

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
        from vaexprs.sampling import count_quantiles

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
        from vaexprs.sampling import count_quantiles

        excess = _sigmoid(output["zero_logit"])
        counts = count_quantiles(_above(uniform, excess), *_mean_and_dispersion(output, library))
        return np.where(uniform < excess, 0, counts)

    def relative_noise(self, output: Any, library: Any) -> np.ndarray:
        kept = 1 - _sigmoid(output["zero_logit"])
        return _noise_of_totals(*_mean_and_dispersion(output, library), kept=kept)


def _above(uniform: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """Return uniform numbers above the probability of zero as uniform numbers again."""
    return np.clip((uniform - zero) / np.maximum(1 - zero, 1e-12), 0, 1)


def _mean_and_dispersion(output: Any, library: Any) -> tuple[np.ndarray, np.ndarray]:
    mean = library * np.asarray(output["proportion"], np.float64)
    return mean, np.asarray(output["dispersion"], np.float64)


def _noise_of_totals(mean: np.ndarray, dispersion: np.ndarray, kept: Any) -> np.ndarray:
    """Return the relative variance of totals of counts of which a fraction is kept, the rest zero."""
    variance = kept * (mean + mean**2 / dispersion) + kept * (1 - kept) * mean**2
    return variance.sum(axis=1) / (kept * mean).sum(axis=1) ** 2


def _sigmoid(logit: Any) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(logit, np.float64)))


@final
class Bernoulli(Likelihood):
    """R's contract: cross-entropy on min-max scaled values, and the decoder's means as generated values."""

    name = "bernoulli"
    counts = False
    latent_dim = 2
    last_layer_is_output = True
    scaling_in_network = False

    def check(self, summary: Summary, cells: Any) -> None:
        pass

    def scaling(self, x: Matrix | DiskMatrix, unit: float = 1.0) -> str:
        return "minmax"

    def head(self, n_genes: int, n_cells: int, level_cells: Sequence[int] = ()) -> keras.layers.Layer:
        return keras.layers.Dense(n_genes, activation="sigmoid", name="output")

    def log_prob(self, x: Any, output: Any) -> Any:
        p = ops.clip(output, 1e-7, 1 - 1e-7)
        return sum_over_genes(x * ops.log(p) + (1 - x) * ops.log1p(-p))

    def sample(self, output: Any, library: Any, uniform: np.ndarray) -> np.ndarray:
        return np.asarray(output)


@final
class Gaussian(Likelihood):
    r"""Normal values with a standard deviation a gene; exact zeros have a probability of their own.

    With zeros (a hurdle model): :math:`P(x = 0) = \pi`, and :math:`x \sim N(\mu, \sigma_g^2)` otherwise.
    Values that are not negative are modelled as they are, as square roots or as logarithms, whichever makes
    the non-zero values of the genes most probable under normal distributions (`preprocessing.POWERS`). Small
    ones, such as fractions, are first divided by the power of ten next below their mean: the logarithm of
    1 + x is a straight line where x is much smaller than 1.

    Parameters
    ----------
    zeros
        Whether zeros have a probability of their own.
    nonnegative
        Whether no value is negative; draws are then reflected at zero.
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
        if 0 < most < SMALLEST:
            raise ValueError(
                f"Some values must be {SMALLEST:g} or larger, got none above {most:g}, which 32 bits hardly "
                "hold. Multiply them all by a constant."
            )

    def unit(self, summary: Summary) -> float:
        if self.nonnegative:
            typical = float(summary.total.sum()) / max(1, summary.nonzero)
        else:
            typical = float(np.mean(np.maximum(-summary.low, summary.high)))
        return min(1.0, 10.0 ** math.floor(math.log10(typical))) if typical > 0 else 1.0

    def scaling(self, x: Matrix | DiskMatrix, unit: float = 1.0) -> str:
        if not self.nonnegative:
            return "none"
        moments = {kind: _NO_MOMENTS for kind in POWERS}
        log_slopes = np.zeros(x.shape[1])
        for block in row_blocks(x):
            gene, values = _nonzero(block)
            values /= unit
            log_slopes += np.bincount(gene, np.log1p(values), x.shape[1])
            for kind, (_, function, _) in POWERS.items():
                moments[kind] = _joined(moments[kind], _moments(gene, function(values), x.shape[1]))
        n, mean, sd = moments["none"]
        told = (n > 2) & (sd > 1e-6 * mean)  # the others' values are all one, but for rounding
        told &= np.all([each[2] > 0 for each in moments.values()], axis=0)
        gains = {
            kind: (power - 1) * log_slopes[told].sum() - (n[told] * np.log(moments[kind][2][told])).sum()
            for kind, (power, _, _) in POWERS.items()
        }
        return max(gains, key=lambda kind: gains[kind])

    def head(self, n_genes: int, n_cells: int, level_cells: Sequence[int] = ()) -> keras.layers.Layer:
        return GaussianHead(n_genes, n_cells, level_cells, zeros=self.zeros, name="output")

    def start(self, head: keras.layers.Layer, x: Matrix | DiskMatrix, summary: Summary) -> None:
        n, mean, sd = _NO_MOMENTS
        low, high = np.full(x.shape[1], np.inf), np.full(x.shape[1], -np.inf)
        for block in row_blocks(x):
            n, mean, sd = _joined((n, mean, sd), _moments(*_nonzero(block), x.shape[1]))
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
        zero = _sigmoid(output["zero_logit"]) if self.zeros else np.zeros_like(uniform)
        score = ndtri(np.clip(_above(uniform, zero), 1e-12, 1 - 1e-12))
        drawn = np.asarray(output["mean"], np.float64) + np.asarray(output["sd"]) * score
        if self.nonnegative:
            drawn = np.abs(drawn)
        return np.where(uniform < zero, 0, drawn)


def _nonzero(x: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return the gene and the value of each entry that is not zero."""
    coo = sp.coo_matrix(x)
    keep = coo.data != 0
    return coo.col[keep], coo.data[keep].astype(np.float64)


def _moments(gene: np.ndarray, values: np.ndarray, n_genes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return number, mean and standard deviation of each gene's values, (n_genes,) each."""
    n = np.bincount(gene, minlength=n_genes)
    mean = np.bincount(gene, values, n_genes) / np.maximum(n, 1)
    variance = np.bincount(gene, (values - mean[gene]) ** 2, n_genes) / np.maximum(n, 1)
    return n, mean, np.sqrt(variance)


Moments: TypeAlias = tuple[Any, Any, Any]
_NO_MOMENTS: Moments = (0, 0.0, 0.0)


def _joined(a: Moments, b: Moments) -> Moments:
    """Return the moments of two sets of values together (Chan, Golub & LeVeque 1983, doi:10.2307/2683386)."""
    n = a[0] + b[0]
    share = b[0] / np.maximum(n, 1)
    apart = b[1] - a[1]
    variance = (1 - share) * a[2] ** 2 + share * b[2] ** 2 + share * (1 - share) * apart**2
    return n, a[1] + share * apart, np.sqrt(variance)


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "nb": NegativeBinomial,
    "zinb": ZeroInflatedNegativeBinomial,
    "poisson": Poisson,
    "gaussian": Gaussian,
}


def likelihood_named(name: str) -> type[Likelihood]:
    """Return the likelihood of this name.

    Raises
    ------
    ValueError
        If there is none; the message lists them.
    """
    return LIKELIHOODS[check_choice("likelihood", name, tuple(LIKELIHOODS))]


def default_likelihood(summary: Summary) -> type[Likelihood]:
    """Return the negative binomial for counts, the Gaussian for anything else."""
    return NegativeBinomial if summary.whole else Gaussian
