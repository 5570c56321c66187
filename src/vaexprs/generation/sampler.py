"""Cells are drawn from mixtures of the latent space, or from latent vectors, block by block."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, TypeVar

import keras
import numpy as np
import pandas as pd
from scipy.special import ndtri

from vaexprs.data.matrix import Matrix, stacked
from vaexprs.interface.progress import progress_bar
from vaexprs.mixture.em import Mixture
from vaexprs.model.vae_fit import VAEFit
from vaexprs.nn.batches import as_inputs
from vaexprs.nn.compilation import keep_compiled

# Cells are drawn in blocks of this size, each with a seed of its own, and decoded in matrices of this many
# rows: the same cells come out whatever the batch size.
BLOCK = 256
SLOW = 10  # blocks from which on a progress bar is shown


@dataclass(frozen=True)
class Plan:
    """Which cells are to be drawn; with the fit it decides every value.

    Parameters
    ----------
    rows
        The distinct conditions asked for: what `obs` says of the cells of each.
    which
        For each cell which of them it has, (n_cells,).
    library_size
        Counts a cell to aim at; None to draw it with the state of the cell.
    stratified
        Whether random numbers are spread evenly.
    seed
        The seed of all cells.
    first
        Number of the first block: a part of a plan has the numbers it has in the whole.
    """

    rows: list[dict[str, Any]]
    which: np.ndarray
    library_size: float | None
    stratified: bool
    seed: int
    first: int = 0

    @property
    def n_blocks(self) -> int:
        """Number of blocks of cells."""
        return -(-len(self.which) // BLOCK)

    def parts(self, blocks: int) -> Iterator[Plan]:
        """Yield plans of so many blocks each."""
        for first in range(0, self.n_blocks, blocks):
            which = self.which[first * BLOCK : (first + blocks) * BLOCK]
            yield replace(self, which=which, first=self.first + first)

    def obs(self, levels: Mapping[str, Sequence[str]]) -> pd.DataFrame:
        """Return what is known of the cells; columns with levels, given by their name, are categorical."""
        columns = {key: np.array([row[key] for row in self.rows])[self.which] for key in self.rows[0]}
        return pd.DataFrame(
            {
                key: pd.Categorical(values, categories=pd.Index(levels[key])) if key in levels else values
                for key, values in columns.items()
            },
            index=pd.Index([f"generated_{i + 1}" for i in range(len(self.which))]),
        )


class Drawer:
    """Draws cells of some conditions: what those of a condition have in common is computed once.

    Parameters
    ----------
    fit
        The fit.
    codes
        Code of each condition, (n_conditions, width); None where the fit has no conditions.
    mixtures
        Where the latent vectors of each condition are drawn from, for `block`.
    """

    def __init__(self, fit: VAEFit, codes: np.ndarray | None, mixtures: Sequence[Mixture] = ()) -> None:
        keep_compiled()
        common = fit.likelihood.common
        self.fit, self.codes, self.mixtures = fit, codes, mixtures
        self._decode = _compiled(fit.decoder, common)
        self._common = self._of_conditions(_compiled(fit.decoder, ())) if common else {}

    @classmethod
    def of(cls, fit: VAEFit, plan: Plan) -> Drawer:
        """Return what draws the cells of a plan."""
        conditions = fit.preprocessing.conditions
        codes = conditions.one_hot(pd.DataFrame(plan.rows)) if conditions.width else None
        return cls(fit, codes, [fit.density.mixture(levels) for levels in plan.rows])

    def _of_conditions(self, decode: Callable[[Any], Any]) -> dict[str, np.ndarray]:
        """Return the parts of the decoder's output that conditions alone decide, a row for each condition."""
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
        """Return the values of a block of the cells of a plan; CSR for counts."""
        from vaexprs.likelihoods.count_sampling import evenly_spread

        mine = plan.which[number * BLOCK : (number + 1) * BLOCK]
        rng = np.random.default_rng(np.random.SeedSequence(plan.seed, spawn_key=(plan.first + number,)))
        present, groups = _groups(mine)
        dims = self.mixtures[0].means.shape[1]
        uniform = evenly_spread(rng, len(mine), 1 + dims, groups if plan.stratified else ())
        latent = _latent([self.mixtures[i] for i in present], groups, uniform)
        if not self.fit.likelihood.counts:
            return self.values(latent, None, mine, rng, stratified=plan.stratified)
        library = np.exp(latent[:, -1]) if plan.library_size is None else plan.library_size
        return self.values(latent[:, :-1], library, mine, rng, stratified=plan.stratified)

    def values(
        self, z: np.ndarray, library: Any, which: np.ndarray, rng: np.random.Generator, *, stratified: bool
    ) -> Matrix:
        """Return values of at most BLOCK cells, (n_cells, n_genes), in the user's units; CSR for counts.

        Parameters
        ----------
        z
            Latent vectors, (n_cells, latent_dim).
        library
            Library size of each cell, (n_cells,), or of all; None unless the values are counts.
        which
            Condition of each cell, (n_cells,).
        rng
            Source of randomness.
        stratified
            Whether the random numbers of the cells of a condition are spread evenly.
        """
        present, groups = _groups(which)
        if library is not None:
            library = np.broadcast_to(library, len(z))[:, None]
        output = _decode(self._decode, z, None if self.codes is None else self.codes[which])
        if self._common:
            output = output | {name: part[present] for name, part in self._common.items()}
        likelihood, shape = self.fit.likelihood, (len(z), len(self.fit.genes))
        values = likelihood.draw(output, library, shape, groups, stratified, rng)
        if likelihood.counts:
            return values
        return self.fit.preprocessing.scaling.inverse(values).astype(np.float32)


def _groups(which: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the conditions that some cells have, and the rows of each."""
    present = np.unique(which)
    return present, [np.flatnonzero(which == i) for i in present]


def draw_part(fit: VAEFit, plan: Plan) -> Matrix:
    """Return the values of all cells of a plan, (n_cells, n_genes), one block after the other."""
    drawer = Drawer.of(fit, plan)
    return stacked([drawer.block(plan, number) for number in range(plan.n_blocks)])


def drawn_here(drawer: Drawer, plan: Plan, blocks_at_once: int) -> Iterator[Matrix]:
    """Yield the values of the cells of a plan, block by block, drawn by threads."""
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        submitted = (partial(pool.submit, drawer.block, plan, number) for number in range(plan.n_blocks))
        yield from in_order(submitted, min(blocks_at_once, 2 * workers), Future.result)


def _latent(mixtures: list[Mixture], groups: list[np.ndarray], uniform: np.ndarray) -> np.ndarray:
    """Return latent vectors (and log library sizes) of a block of cells, (n, n_dims).

    `groups` has the rows of each mixture, `uniform` (n, 1 + n_dims) numbers to draw with.
    """
    component, normal = uniform[:, 0], ndtri(np.clip(uniform[:, 1:], 1e-12, 1 - 1e-12))
    latent = np.empty(normal.shape)
    for mixture, rows in zip(mixtures, groups, strict=True):
        latent[rows] = mixture.transform(component[rows], normal[rows])
    return latent


@lru_cache(maxsize=4)
def _compiled(decoder: keras.Model, left_out: tuple[str, ...]) -> Callable[[Any], Any]:
    """Return a function of the decoder's inputs that computes its output without some parts."""

    def asked(output: Any) -> Any:
        if not isinstance(output, dict):
            return output
        return {name: part for name, part in output.items() if name not in left_out}

    if keras.backend.backend() != "jax":
        return lambda inputs: asked(decoder.predict_on_batch(inputs))
    import jax

    @jax.jit
    def call(trainable: Any, other: Any, inputs: Any) -> Any:
        return asked(decoder.stateless_call(trainable, other, inputs, training=False)[0])

    # Keras' own predict_on_batch takes as long again as a block does
    return lambda inputs: call(
        [variable.value for variable in decoder.trainable_variables],
        [variable.value for variable in decoder.non_trainable_variables],
        inputs,
    )


def _decode(decode: Callable[[Any], Any], z: np.ndarray, codes: np.ndarray | None) -> Any:
    """Return the decoder's output for a block, as arrays; always computed for BLOCK rows."""
    n, short = len(z), BLOCK - len(z)
    padded = [
        np.pad(part.astype(np.float32), ((0, short), (0, 0))) for part in (z, codes) if part is not None
    ]
    output = decode(as_inputs(padded[0], padded[1] if len(padded) == 2 else None))
    return keras.tree.map_structure(lambda part: np.asarray(part)[:n], output)


def with_progress(parts: Iterator[Matrix], n: int, progress: bool) -> Iterator[Matrix]:
    """Yield blocks of cells, with a progress bar where there are many."""
    if not progress or n < SLOW * BLOCK:
        yield from parts
        return
    with progress_bar(n, "generating", "cell") as bar:
        for part in parts:
            yield part
            bar.update(part.shape[0])


T = TypeVar("T")


def in_order(submitted: Iterable[Callable[[], T]], window: int, wait: Callable[[T], Any]) -> Iterator[Any]:
    """Yield results in order, with so many calls under way at most.

    Parameters
    ----------
    submitted
        Functions that start a call each and return its future.
    window
        The most calls that are started and not yet taken.
    wait
        What waits for a future and returns its result.
    """
    waiting: deque[T] = deque()
    for submit in submitted:
        if len(waiting) >= window:
            yield wait(waiting.popleft())
        waiting.append(submit())
    while waiting:
        yield wait(waiting.popleft())
