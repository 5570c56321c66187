"""What every likelihood and its output layer provide."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from vaexprs.data.backed import BackedMatrix
from vaexprs.data.matrix import Matrix
from vaexprs.preprocessing.summary import Summary

# Adam moves a weight by about the learning rate whatever its gradient. Log dispersions have a long way to
# go and one weight a gene: counted in units of this size they arrive with everything else.
DISPERSION_STEP = 20.0
EFFECT_STEP = 5.0  # the same for what a condition adds to a gene
# Prior variance of these additions: so much times the share of the cells that have the condition, of at most
# EFFECT_CELLS cells. A rare type borrows from what the latent vector has learned of all cells.
EFFECT_VARIANCE = 50.0
EFFECT_CELLS = 2_000


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
    def scaling(self, x: Matrix | BackedMatrix, unit: float = 1.0) -> str:
        """Return which scaling (see `preprocessing.Scaling`) prepares these values for the network."""

    @abstractmethod
    def head(self, n_genes: int, n_cells: int, level_cells: Sequence[int] = ()) -> keras.layers.Layer:
        """Return the decoder's last layer."""

    def start(self, head: keras.layers.Layer, x: Matrix | BackedMatrix, summary: Summary) -> None:  # noqa: B027
        """Set the starting weights of the head from the prepared cells and the summary of their values."""

    def start_released(  # noqa: B027
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
        from vaexprs.likelihoods.count_sampling import evenly_spread

        return self.sample(output, library, evenly_spread(rng, *shape, groups if stratified else ()))

    def relative_noise(self, output: Any, library: Any) -> np.ndarray:
        r"""Return the variance of the total of drawn counts over its squared mean, (n_cells,).

        Totals of counts drawn for a library size spread around it; 0 where there are none.
        """
        return np.zeros(len(library))


def above(uniform: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """Return uniform numbers above the probability of zero as uniform numbers again."""
    return np.clip((uniform - zero) / np.maximum(1 - zero, 1e-12), 0, 1)


def sigmoid(logit: Any) -> np.ndarray:
    """Return 1 / (1 + exp(-x))."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(logit, np.float64)))
