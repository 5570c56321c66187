"""Sample cells from mixtures in the latent space, or decode latent vectors, block by block."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from typing import Any

import keras
import numpy as np
import pandas as pd

from vaexprs.data.matrix import Matrix, stacked
from vaexprs.generation.scaling import scaled_codes, scaled_mixture
from vaexprs.interface.parallel import in_order
from vaexprs.interface.progress import progress_bar
from vaexprs.latent.donors import DonorEffects
from vaexprs.likelihoods.count_base import CountLikelihood, with_proportions
from vaexprs.mixture.em import Mixture
from vaexprs.model.vae_fit import VAEFit
from vaexprs.nn.batches import as_inputs

# Number of cells in a block. Each block has its own seed and is decoded as a matrix with this number of rows,
# so that generated cells do not depend on the batch size.
BLOCK = 256
MIN_BLOCKS_WITH_PROGRESS = 10


@dataclass(frozen=True)
class Plan:
    """Specification of the cells to sample; together with the fit it determines all values.

    Parameters
    ----------
    rows
        The distinct requested conditions, as values of `obs` by column.
    which
        Index of each cell's condition in `rows`, (n_cells,).
    library_size
        Expected total count of each cell; None to sample it from the latent density.
    seed
        The seed of all cells.
    first
        Number of the first block, in a part of a larger plan.
    donors
        Coefficients of new donors by name, as `DonorEffects.draw` returns them. Rows name their donor in the
        column of the fit's donors.
    factors
        Log factors of the proportions, (n_factors, n_genes), that are not normalised: they change the
        expected counts of their genes only.
    factor_of
        Number of the log factors of each row; -1 for none. Empty without factors.
    scale
        Factors of the effects of covariates and donors, by key; see `scaled_mixture`.
    depth
        Factor of the library sizes.
    continuous
        Values of each continuous covariate, (n_cells,).
    """

    rows: list[dict[str, Any]]
    which: np.ndarray
    library_size: float | None
    seed: int
    first: int = 0
    donors: Mapping[str, np.ndarray] = field(default_factory=dict)
    factors: np.ndarray | None = None
    factor_of: Sequence[int] = ()
    scale: Mapping[str, float] = field(default_factory=dict)
    depth: float = 1.0
    continuous: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def n_blocks(self) -> int:
        """Number of blocks of cells."""
        return -(-len(self.which) // BLOCK)

    def parts(self, blocks: int) -> Iterator[Plan]:
        """Yield consecutive parts of the plan, with at most `blocks` blocks each."""
        for first in range(0, self.n_blocks, blocks):
            cells = slice(first * BLOCK, (first + blocks) * BLOCK)
            continuous = {key: values[cells] for key, values in self.continuous.items()}
            yield replace(self, which=self.which[cells], first=self.first + first, continuous=continuous)

    def obs(self, levels: Mapping[str, Sequence[str]]) -> pd.DataFrame:
        """Return the annotation of the cells.

        Parameters
        ----------
        levels
            Levels of the columns that are categorical, by column.
        """
        columns = {key: np.array([row[key] for row in self.rows])[self.which] for key in self.rows[0]}
        return pd.DataFrame(
            {
                key: pd.Categorical(values, categories=pd.Index(levels[key])) if key in levels else values
                for key, values in columns.items()
            }
            | dict(self.continuous),
            index=pd.Index([f"generated_{i + 1}" for i in range(len(self.which))]),
        )


class CellSampler:
    """Samples the values of cells under given conditions.

    Decoder outputs that depend on the condition only are computed once.

    Parameters
    ----------
    fit
        The fit.
    codes
        Code of each condition, (n_conditions, width), with zeros as basis of continuous covariates; None if
        the fit has no conditions.
    mixtures
        Latent density of each condition, for `block`.
    effects
        Effects of the donor and of altered genes in each condition; empty without such effects.
    slopes
        Slopes of its mean on the basis of continuous covariates, (n_conditions, n_basis, n_dims), for
        `block`; None without continuous covariates.
    """

    def __init__(
        self,
        fit: VAEFit,
        codes: np.ndarray | None,
        mixtures: Sequence[Mixture] = (),
        effects: Sequence[_Effects] = (),
        slopes: np.ndarray | None = None,
    ) -> None:
        common = fit.likelihood.common
        self.fit, self.codes, self.mixtures = fit, codes, mixtures
        self.effects, self.slopes = effects, slopes
        self._decode = _compiled(fit.folded_decoder, common)
        self._common = self._condition_outputs(_compiled(fit.folded_decoder, ())) if common else {}

    @classmethod
    def of(cls, fit: VAEFit, plan: Plan, *, donors: bool = True) -> CellSampler:
        """Return the sampler for the conditions of a plan; its rows name no donors without `donors`."""
        conditions = fit.preprocessing.conditions
        codes = conditions.expand(conditions.columns(pd.DataFrame(plan.rows))) if conditions.width else None
        levels = [{key: row[key] for key in conditions.keys} for row in plan.rows]
        slopes = None
        if plan.continuous:
            slopes = np.stack([fit.density.slopes(combination) for combination in levels])
        if plan.scale and codes is not None:
            codes = scaled_codes(fit, codes, plan.scale)
        # few combinations have many rows if there are donors
        distinct = {tuple(combination.items()): combination for combination in levels}
        density = {key: scaled_mixture(fit, combination, plan.scale) for key, combination in distinct.items()}
        mixtures = [density[tuple(combination.items())] for combination in levels]
        if (fit.donors is None or not donors) and plan.factors is None:
            return cls(fit, codes, mixtures, (), slopes)
        effects = [_Effects.of(fit, plan, i) for i in range(len(plan.rows))]
        mixtures = [effect.moved(mixture) for effect, mixture in zip(effects, mixtures, strict=True)]
        return cls(fit, codes, mixtures, effects, slopes)

    def _condition_outputs(self, decode: Callable[[Any], Any]) -> dict[str, np.ndarray]:
        """Return the decoder outputs that depend on the levels only, with a row for each condition."""
        n = 1 if self.codes is None else len(self.codes)
        z = np.zeros((n, self.fit.latent_dim))
        blocks = [slice(first, first + BLOCK) for first in range(0, n, BLOCK)]
        outputs = [
            _decode(decode, z[rows], None if self.codes is None else self.codes[rows]) for rows in blocks
        ]
        named = [output for output in outputs if isinstance(output, dict)]
        names = [name for name in self.fit.likelihood.common if named and name in named[0]]
        return {name: np.concatenate([output[name] for output in named]) for name in names}

    def block(self, plan: Plan, number: int) -> Matrix:
        """Sample the values of a block of cells of a plan, (n_cells, n_genes); CSR for counts."""
        which = plan.which[number * BLOCK : (number + 1) * BLOCK]
        rng = np.random.default_rng(np.random.SeedSequence(plan.seed, spawn_key=(plan.first + number,)))
        present, groups = _groups(which)
        latent = np.empty((len(which), self.mixtures[0].means.shape[1]))
        for i, rows in zip(present, groups, strict=True):
            latent[rows] = self.mixtures[i].sample(len(rows), rng)
        basis = None
        if self.slopes is not None:
            cells = slice(number * BLOCK, (number + 1) * BLOCK)
            values = {key: column[cells] for key, column in plan.continuous.items()}
            basis = self.fit.preprocessing.conditions.basis(values)
            latent += np.einsum("nb,nbd->nd", basis, self.slopes[which])
        if not self.fit.likelihood.counts:
            return self.values(latent, None, which, rng, basis)
        library = np.exp(latent[:, -1]) if plan.library_size is None else plan.library_size
        return self.values(latent[:, :-1], plan.depth * library, which, rng, basis)

    def expected(self, number: int, n: int, basis: np.ndarray | None = None) -> np.ndarray:
        """Return the expected counts of a condition without effects, (n_genes,), from n latent vectors.

        `basis` holds the basis columns of continuous covariates, (n_basis,); by default they are 0.
        """
        likelihood = self.fit.likelihood
        assert isinstance(likelihood, CountLikelihood)
        latent = self.mixtures[number].sample(n, np.random.default_rng(0))
        code = None if self.codes is None else self.codes[number].copy()
        if basis is not None and code is not None and self.slopes is not None:
            latent += basis @ self.slopes[number]
            code[len(code) - len(basis) :] = basis
        library = np.exp(latent[:, -1])
        total = np.zeros(len(self.fit.genes))
        for first in range(0, n, BLOCK):
            rows = slice(first, first + BLOCK)
            codes = None if code is None else np.tile(code, (len(latent[rows]), 1))
            output = _decode(self._decode, latent[rows, :-1], codes)
            if isinstance(output, dict):
                output = {"dispersion": np.inf} | output
            total += likelihood.moments(output, library[rows, None])[0].sum(axis=0)
        return total / n

    def values(
        self,
        z: np.ndarray,
        library: Any,
        which: np.ndarray,
        rng: np.random.Generator,
        basis: np.ndarray | None = None,
    ) -> Matrix:
        """Sample values of at most BLOCK cells, (n_cells, n_genes), in the user's units; CSR for counts.

        Parameters
        ----------
        z
            Latent vectors, (n_cells, latent_dim).
        library
            Library size of each cell, (n_cells,), or one for all cells; None unless the values are counts.
        which
            Index of each cell's condition, (n_cells,).
        rng
            Random generator.
        basis
            Basis columns of continuous covariates, (n_cells, n_basis); None without any.
        """
        present, groups = _groups(which)
        if library is not None:
            library = np.broadcast_to(library, len(z))[:, None]
        codes = None if self.codes is None else self.codes[which]
        if codes is not None and basis is not None:
            codes = np.concatenate([codes[:, : codes.shape[1] - basis.shape[1]], basis], axis=1)
        output = _decode(self._decode, z, codes)
        if self._common:
            output = output | {name: part[present] for name, part in self._common.items()}
        if self.effects:
            output = self._with_effects(output, present, groups)
        likelihood, shape = self.fit.likelihood, (len(z), len(self.fit.genes))
        values = likelihood.draw(output, library, shape, groups, rng)
        if likelihood.counts:
            return values
        return self.fit.preprocessing.scaling.inverse(values).astype(np.float32)

    def _with_effects(self, output: Any, present: np.ndarray, groups: list[np.ndarray]) -> Any:
        """Return the decoder's output with the effects of each condition."""
        proportion = np.array(output["proportion"] if isinstance(output, dict) else output)
        ratios = []
        for i, rows in zip(present, groups, strict=True):
            effects = self.effects[i]
            proportion[rows] = effects.on_proportions(proportion[rows])
            ratios.append(effects.dispersion_ratio)
        output = with_proportions(output, proportion)
        if isinstance(output, dict) and ratios[0] is not None:
            output["dispersion"] = output["dispersion"] * np.stack(ratios)
        return output


@dataclass(frozen=True)
class _Effects:
    """Effects of a donor and of altered genes on the cells of a condition.

    Parameters
    ----------
    factor
        Log factors of the proportions that are not normalised, (n_genes,), or None.
    donors
        Effects of all donors, or None.
    donor
        Number of a training donor, or coefficients of a new one.
    groups
        Groups whose mean effects are used: one, or all if the combination of levels has no training cells.
    scale
        Factor of the donor's effects; depth is kept.
    """

    factor: np.ndarray | None
    donors: DonorEffects | None
    donor: int | np.ndarray
    groups: list[int]
    scale: float = 1.0

    @classmethod
    def of(cls, fit: VAEFit, plan: Plan, number: int) -> _Effects:
        """Return the effects in the given condition of a plan."""
        row, donors = plan.rows[number], fit.donors
        of_row = plan.factor_of[number] if plan.factors is not None else -1
        factor = None if plan.factors is None or of_row < 0 else plan.factors[of_row]
        if donors is None:
            return cls(factor, None, -1, [])
        levels = {key: row[key] for key in fit.preprocessing.conditions.keys}
        seen = fit.density.seen
        groups = [seen.index(levels)] if levels in seen else list(range(len(seen)))
        name = row[donors.key]
        donor = plan.donors[name] if name in plan.donors else donors.names.index(name)
        return cls(factor, donors, donor, groups, plan.scale.get(donors.key, 1.0))

    def moved(self, mixture: Mixture) -> Mixture:
        """Return the latent density of the donor's cells."""
        if self.donors is None:
            return mixture
        shift = np.mean([self.donors.shift(self.donor, group) for group in self.groups], axis=0)
        shift[:-1] *= self.scale
        return Mixture(mixture.weights, mixture.means + shift, mixture.covariances, mixture.model)

    def on_proportions(self, proportion: np.ndarray) -> np.ndarray:
        """Return proportions, (n_cells, n_genes), with the effects; the donor's effects keep their sum."""
        if self._donor_factor is not None:
            proportion = proportion * self._donor_factor
            proportion /= proportion.sum(axis=1, keepdims=True)
        return proportion if self.factor is None else proportion * np.exp(self.factor)

    @cached_property
    def _donor_factor(self) -> np.ndarray | None:
        if self.donors is None:
            return None
        offsets = [self.donors.offset(self.donor, group) for group in self.groups]
        return np.exp(self.scale * np.mean(offsets, axis=0, dtype=np.float32))

    @property
    def dispersion_ratio(self) -> np.ndarray | None:
        """Factor of the inverse dispersions, (n_genes,); None without donors."""
        if self.donors is None:
            return None
        return np.asarray(self.donors.dispersion_ratio[self.groups].mean(axis=0))


def _groups(which: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the conditions that occur in `which`, and the rows of each."""
    present = np.unique(which)
    return present, [np.flatnonzero(which == i) for i in present]


def draw_part(fit: VAEFit, plan: Plan) -> Matrix:
    """Sample the values of all cells of a plan, (n_cells, n_genes), block after block."""
    sampler = CellSampler.of(fit, plan)
    return stacked([sampler.block(plan, number) for number in range(plan.n_blocks)])


def draw_in_threads(sampler: CellSampler, plan: Plan, blocks_at_once: int) -> Iterator[Matrix]:
    """Yield the values of the cells of a plan, block by block, sampled by threads of this process."""
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        submitted = (partial(pool.submit, sampler.block, plan, number) for number in range(plan.n_blocks))
        yield from in_order(submitted, min(blocks_at_once, 2 * workers), Future.result)


@lru_cache(maxsize=4)
def _compiled(decoder: keras.Model, omitted: tuple[str, ...]) -> Callable[[Any], Any]:
    """Return a compiled function from the decoder's inputs to its outputs, without the omitted outputs."""

    def selected(output: Any) -> Any:
        if not isinstance(output, dict):
            return output
        return {name: part for name, part in output.items() if name not in omitted}

    if keras.backend.backend() != "jax":
        return lambda inputs: selected(decoder.predict_on_batch(inputs))
    import jax

    @jax.jit
    def call(trainable: Any, other: Any, inputs: Any) -> Any:
        return selected(decoder.stateless_call(trainable, other, inputs, training=False)[0])

    # the overhead of Keras' predict_on_batch is as long as decoding a block
    return lambda inputs: call(
        [variable.value for variable in decoder.trainable_variables],
        [variable.value for variable in decoder.non_trainable_variables],
        inputs,
    )


def _decode(decode: Callable[[Any], Any], z: np.ndarray, codes: np.ndarray | None) -> Any:
    """Return the decoder's output for a block as arrays; inputs are padded to BLOCK rows."""
    n, short = len(z), BLOCK - len(z)
    padded = [
        np.pad(part.astype(np.float32), ((0, short), (0, 0))) for part in (z, codes) if part is not None
    ]
    output = decode(as_inputs(padded[0], padded[1] if len(padded) == 2 else None))
    return keras.tree.map_structure(lambda part: np.asarray(part)[:n], output)


def with_progress(parts: Iterator[Matrix], n: int, progress: bool) -> Iterator[Matrix]:
    """Yield blocks of cells, with a progress bar if there are many."""
    if not progress or n < MIN_BLOCKS_WITH_PROGRESS * BLOCK:
        yield from parts
        return
    with progress_bar(n, "generating", "cell") as bar:
        for part in parts:
            yield part
            bar.update(part.shape[0])
