"""Sample cells from mixtures in the latent space, or decode latent vectors, block by block."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import keras
import numpy as np
import pandas as pd

from vaexprs.data.matrix import Matrix, stacked
from vaexprs.generation.parallel import in_order
from vaexprs.interface.progress import progress_bar
from vaexprs.mixture.em import Mixture
from vaexprs.model.vae_fit import VAEFit
from vaexprs.nn.batches import as_inputs
from vaexprs.nn.compilation import keep_compiled

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
    continuous
        Values of each continuous covariate, (n_cells,).
    """

    rows: list[dict[str, Any]]
    which: np.ndarray
    library_size: float | None
    seed: int
    first: int = 0
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
    slopes
        Slopes of its mean on the basis of continuous covariates, (n_conditions, n_basis, n_dims), for
        `block`; None without continuous covariates.
    """

    def __init__(
        self,
        fit: VAEFit,
        codes: np.ndarray | None,
        mixtures: Sequence[Mixture] = (),
        slopes: np.ndarray | None = None,
    ) -> None:
        keep_compiled()
        common = fit.likelihood.common
        self.fit, self.codes, self.mixtures, self.slopes = fit, codes, mixtures, slopes
        self._decode = _compiled(fit.decoder, common)
        self._common = self._condition_outputs(_compiled(fit.decoder, ())) if common else {}

    @classmethod
    def of(cls, fit: VAEFit, plan: Plan) -> CellSampler:
        """Return the sampler for the conditions of a plan."""
        conditions = fit.preprocessing.conditions
        codes = conditions.expand(conditions.columns(pd.DataFrame(plan.rows))) if conditions.width else None
        mixtures = [fit.density.mixture(levels) for levels in plan.rows]
        slopes = np.stack([fit.density.slopes(levels) for levels in plan.rows]) if plan.continuous else None
        return cls(fit, codes, mixtures, slopes)

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
        return self.values(latent[:, :-1], library, which, rng, basis)

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
        likelihood, shape = self.fit.likelihood, (len(z), len(self.fit.genes))
        values = likelihood.draw(output, library, shape, groups, rng)
        if likelihood.counts:
            return values
        return self.fit.preprocessing.scaling.inverse(values).astype(np.float32)


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
