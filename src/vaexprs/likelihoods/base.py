"""Base classes of the likelihoods and of their output layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from vaexprs.data.backed import BackedMatrix
from vaexprs.data.matrix import Matrix
from vaexprs.data.sparse_batch import SparseBatch
from vaexprs.preprocessing.summary import Summary

# Unit of the log dispersion weights. Adam changes every weight by about the learning rate, whatever its
# gradient. Log dispersions have a wide range and a single weight per gene: in this unit they converge with
# the other weights.
DISPERSION_STEP = 20.0
EFFECT_STEP = 5.0  # unit of the condition effect weights, for the same reason
# Prior variance of a condition effect: EFFECT_VARIANCE * cells with the level / min(all cells, EFFECT_CELLS).
# Effects of rare cell types are shrunk more, so that these rely on the latent vector, learned from all cells.
EFFECT_VARIANCE = 50.0
EFFECT_CELLS = 2_000
SLOPES = (("kernel", "bias"), ("zero_kernel", "zero_bias"))  # weights of heads on hidden units


def of_each_gene(n: Any, own: Any, condition: Any, effect: Any) -> Any:
    """Return the sum of a gene's intercept and the condition effects of each of n cells, (n, n_genes).

    Computed as one matrix product with a column of ones for the intercept, so that its gradient is a matrix
    product too. For an intercept added by broadcasting XLA sums columns, which is slow on a CPU.

    Parameters
    ----------
    n
        Number of cells.
    own
        Intercept of each gene, (n_genes,).
    condition, effect
        One-hot conditions, (n, width), and their effects, (width, n_genes), or None.
    """
    ones, own = ops.ones((n, 1), own.dtype), own[None]
    if effect is None:
        return ops.matmul(ones, own)
    return ops.matmul(ops.concatenate([condition, ones], axis=1), ops.concatenate([effect, own], axis=0))


@keras.saving.register_keras_serializable("vaexprs")
class RowL2(keras.regularizers.Regularizer):
    """L2 penalty of a weight with one strength per row."""

    def __init__(self, strengths: Sequence[float]) -> None:
        self.strengths = [float(strength) for strength in strengths]

    def __call__(self, weight: Any) -> Any:
        return ops.sum(ops.convert_to_tensor(self.strengths, weight.dtype) * ops.sum(weight**2, axis=1))

    def get_config(self) -> dict[str, Any]:
        return {"strengths": self.strengths}


@dataclass(frozen=True)
class Linear:
    """Output of a linear layer that is not computed: the next layer is applied to its weights instead.

    ``(inputs @ kernel + bias) @ next`` takes many more operations than ``inputs @ (kernel @ next)`` if there
    are few inputs, such as latent dimensions.

    Parameters
    ----------
    inputs
        (n_cells, n_inputs).
    kernel, bias
        Weights of the layer, (n_inputs, n_units) and (n_units,).
    """

    inputs: Any
    kernel: Any
    bias: Any

    def folded(self, kernel: Any, bias: Any) -> tuple[Any, Any]:
        """Return kernel and bias of the next layer for the inputs of this layer."""
        both = ops.concatenate([self.kernel, self.bias[None]], axis=0)
        product = ops.matmul(both, kernel)
        return product[:-1], product[-1] + bias


class Head(keras.layers.Layer):
    """Last layer of a decoder: maps hidden units to the parameters of a likelihood.

    A conditional model also passes the one-hot conditions, ``head(hidden, condition)``. The effect of a level
    on a gene has a normal prior with mean zero and variance ``50 * n_level_cells / min(n_cells, 2000)``:
    effects of rare levels are shrunk more. The log dispersion of a gene is the sum of a gene-specific value
    and a deviation for each level, which has a normal prior with standard deviation `deviation_sd`.

    Parameters
    ----------
    n_genes
        Number of genes.
    n_cells
        Number of training cells; scales the priors relative to the mean loss per cell.
    level_cells
        Number of training cells with each level, in the order of the one-hot codes.
    n_basis
        Number of basis columns of continuous covariates.
    """

    deviation_sd: ClassVar[float]

    def __init__(
        self, n_genes: int, n_cells: int, level_cells: Sequence[int] = (), *, n_basis: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.n_genes = n_genes
        self.n_cells = n_cells
        self.level_cells = [int(n) for n in level_cells]
        self.n_basis = n_basis

    def _add_effect(self, name: str) -> Any:
        """Add weights for the effects of conditions on genes, in units of EFFECT_STEP; None without any."""
        cells = [*self.level_cells, *[self.n_cells] * self.n_basis]
        if not cells:
            return None
        share = np.maximum(cells, 1) / min(self.n_cells, EFFECT_CELLS)
        prior = RowL2((0.5 * EFFECT_STEP**2 / (EFFECT_VARIANCE * share) / self.n_cells).tolist())
        shape = (len(cells), self.n_genes)
        return self.add_weight(name=name, shape=shape, initializer="zeros", regularizer=prior)

    @staticmethod
    def _linear(hidden: Any, condition: Any, kernel: Any, bias: Any, effect: Any) -> Any:
        scaled = None if effect is None else EFFECT_STEP * condition
        if not isinstance(hidden, Linear):
            return ops.matmul(hidden, kernel) + of_each_gene(ops.shape(hidden)[0], bias, scaled, effect)
        inputs, (kernel, bias) = hidden.inputs, hidden.folded(kernel, bias)
        if effect is not None:
            inputs = ops.concatenate([inputs, scaled], axis=1)
            kernel = ops.concatenate([kernel, effect], axis=0)
        return of_each_gene(ops.shape(inputs)[0], bias, inputs, kernel)

    def take(self, head: Head, linear: Linear) -> None:
        """Take the weights of a head behind a linear layer, such that this head replaces both."""
        own, given = ({weight.name: weight for weight in layer.weights} for layer in (self, head))
        for name in set(own) - {name for pair in SLOPES for name in pair}:
            own[name].assign(np.array(given[name].value))  # a copy: Keras may free the arrays of a model
        for kernel, bias in SLOPES:
            if kernel in own:
                slopes, intercept = linear.folded(np.asarray(given[kernel]), np.asarray(given[bias]))
                own[kernel].assign(slopes)
                own[bias].assign(intercept)

    def _add_log_dispersion(self) -> None:
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

    def _log_dispersion(self, condition: Any, like: Any) -> Any:
        """Return the log dispersion of each cell and gene before it is limited, with the shape of `like`."""
        if self.n_basis and self.deviation is not None:
            condition = condition[:, : len(self.level_cells)]
        scaled = None if self.deviation is None else DISPERSION_STEP * condition
        return of_each_gene(ops.shape(like)[0], DISPERSION_STEP * self.log_dispersion, scaled, self.deviation)

    def get_config(self) -> dict[str, Any]:
        own = {"n_genes": self.n_genes, "n_cells": self.n_cells, "level_cells": self.level_cells}
        if self.n_basis:  # models without continuous covariates stay readable by earlier versions
            own["n_basis"] = self.n_basis
        return {**super().get_config(), **own}


class Likelihood(ABC):
    """Distribution of the expression values, independent between genes given the decoder's output.

    To add a likelihood, write a final subclass in a module of its own and add it to
    `vaexprs.likelihoods.LIKELIHOODS`.

    Attributes
    ----------
    name
        Value of the argument ``likelihood=``.
    counts
        Whether values are counts. If so, `sample` and `draw` receive library sizes, and the latent density
        has an extra dimension for the log library size.
    supports_privacy
        Whether a fit with differential privacy is possible. It requires `start_released`, and preprocessing
        that does not depend on the range of the values.
    latent_dim
        Default size of the latent vector.
    last_layer_is_output
        Whether the user's last decoder layer is the output itself (as in the R package).
    scaling_in_network
        Whether the encoder begins with a layer that centres and scales the prepared values.
    common
        Parts of the decoder's output that depend on a cell's levels only.
    robust
        Whether `robust_log_prob` and `without_outliers` treat outlying values.
    sparse
        Whether there is a `sparse_log_prob` (in JAX).
    """

    name: ClassVar[str]
    counts: ClassVar[bool]
    supports_privacy: ClassVar[bool] = False
    latent_dim: ClassVar[int] = 10
    last_layer_is_output: ClassVar[bool] = False
    scaling_in_network: ClassVar[bool] = True
    common: ClassVar[tuple[str, ...]] = ()
    robust: ClassVar[bool] = False
    sparse: ClassVar[bool] = False

    @classmethod
    def for_values(cls, summary: Summary) -> Likelihood:
        """Return the likelihood with the options that fit the values."""
        return cls()

    @classmethod
    def fits_last_layer(cls, layer: Any, n_genes: int) -> bool:
        """Return whether the user's last decoder layer implies this likelihood, when none is named.

        Parameters
        ----------
        layer
            Last of `decoder_layers`; None if there are none.
        n_genes
            Number of genes.

        Raises
        ------
        ValueError
            If the layer looks like the output of this likelihood but does not have `n_genes` units.
        """
        return False

    def options(self) -> dict[str, Any]:
        """Return the constructor arguments, to be saved with the model."""
        return {}

    @abstractmethod
    def check(self, summary: Summary, cells: Any) -> None:
        """Raise ValueError if values are outside the support; `cells` are the cell names for the message."""

    def unit(self, summary: Summary) -> float:
        """Return the divisor applied before scaling: a power of ten for small values, otherwise 1."""
        return 1.0

    @abstractmethod
    def scaling(self, x: Matrix | BackedMatrix, unit: float = 1.0) -> str:
        """Return the kind of `preprocessing.Scaling` that prepares these values for the network."""

    @abstractmethod
    def head(
        self, n_genes: int, n_cells: int, level_cells: Sequence[int] = (), *, n_basis: int = 0
    ) -> keras.layers.Layer:
        """Return the decoder's last layer; the arguments are those of `Head`."""

    def start(self, head: keras.layers.Layer, x: Matrix | BackedMatrix, summary: Summary) -> None:  # noqa: B027
        """Initialise the head from the prepared cells and the summary of their values."""

    def start_released(  # noqa: B027
        self, head: keras.layers.Layer, log_proportions: np.ndarray, effects: np.ndarray
    ) -> None:
        """Initialise the head from differentially private releases.

        Parameters
        ----------
        head
            The decoder's last layer.
        log_proportions
            Logarithm of each gene's fraction of all counts, (n_genes,).
        effects
            Effect of each condition on it, (width, n_genes).
        """

    def stuck_genes(self, head: keras.layers.Layer) -> np.ndarray:
        """Return which genes have a learned dispersion at its lower limit, (n_genes,).

        A single False if dispersions are not learned or the lower limit is harmless.
        """
        return np.zeros(1, bool)

    @abstractmethod
    def log_prob(self, x: Any, output: Any) -> Any:
        """Return the log probability of each prepared cell, (n_cells,), under the decoder's output."""

    def robust_log_prob(self, x: Any, output: Any) -> Any:
        """Return `log_prob` with bounded influence of single outlying values, for training."""
        return self.log_prob(x, output)

    def sparse_log_prob(self, cells: SparseBatch, predictors: Any) -> Any:
        """Return `robust_log_prob` of sparse counts, from the `predictors` of the head."""
        raise NotImplementedError

    def without_outliers(self, x: Any, output: Any) -> Any:
        """Return prepared cells, (n_cells, n_genes), with outlying values replaced by their means."""
        return x

    @abstractmethod
    def sample(self, output: Any, library: Any, uniform: np.ndarray) -> np.ndarray:
        """Return prepared values, (n_cells, n_genes), as quantiles at uniform numbers.

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
        rng: np.random.Generator,
    ) -> Matrix:
        """Sample prepared values of a block of cells, (n_cells, n_genes); CSR for counts.

        Parameters
        ----------
        output
            The decoder's output as NumPy arrays; parts in `common` have one row per group.
        library
            Library size of each cell, (n_cells, 1); None unless `counts`.
        shape
            (n_cells, n_genes).
        groups
            Rows of the cells of each condition; together they cover all rows.
        rng
            Source of randomness.
        """
        return self.sample(output, library, rng.random(shape))


def above(uniform: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """Rescale uniform numbers above the probability of zero to [0, 1]; smaller ones become 0."""
    return np.clip((uniform - zero) / np.maximum(1 - zero, 1e-12), 0, 1)


def sigmoid(logit: Any) -> np.ndarray:
    """Return 1 / (1 + exp(-x))."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(logit, np.float64)))
