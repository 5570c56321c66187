"""Training with differential privacy: stochastic gradient descent with clipped gradients and noise.

Of each unit that a step draws, the gradient of the mean loss of its cells is shortened to at most one length;
the noise of the step is added to their sum (DP-SGD, Abadi et al. 2016, doi:10.1145/2976749.2978318). Clipping
and noise are those of the library JAX Privacy; Keras' optimizer does the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from vaexprs.data.backed import BackedMatrix
from vaexprs.data.matrix import Matrix, densify
from vaexprs.differential_privacy.accounting import Guarantee
from vaexprs.differential_privacy.mechanisms import Units
from vaexprs.interface.errors import require
from vaexprs.interface.interrupt import Interrupt
from vaexprs.interface.progress import progress_bar
from vaexprs.nn.vae import VAE
from vaexprs.preprocessing.conditions import LevelCodes

CLIP = 1.0
CELL_BYTES = 32 * 2**20  # of cells that are handed over together, ...
MAX_UNITS = 256
GRADIENT_BYTES = 2 * 2**20  # ... and of gradients of single units that are there together: they fit a cache


def train_privately(
    model: VAE,
    x: Matrix | BackedMatrix,
    codes: LevelCodes | None,
    units: Units,
    told: Guarantee,
    rng: np.random.Generator,
    *,
    shown: bool,
) -> int:
    """Train a compiled model and return the number of steps taken: fewer than planned after Ctrl-C.

    Parameters
    ----------
    model
        Compiled; its weights must not know of the cells more than what was released.
    x
        Prepared cells, (n_cells, n_genes).
    codes
        One-hot conditions of the cells.
    units
        Whom the cells are of.
    told
        The plan: rate, steps and noise.
    rng
        Source of the choice of units and all noise.
    shown
        Whether to show a progress bar.
    """
    import jax

    privatizer = require("jax_privacy.noise_addition", "'vaexprs[privacy]'", "A fit with privacy")
    noised = privatizer.gaussian_privatizer(stddev=told.training * CLIP, prng_key=_key(rng))
    model.optimizer.build(model.trainable_variables)
    weights = [variable.value for variable in model.trainable_variables]
    state = [variable.value for variable in model.optimizer.variables]
    expected = told.rate * units.n
    at_once = _power_of_two(CELL_BYTES / (4 * told.cells_per_unit * x.shape[1]))
    together = min(at_once, _power_of_two(GRADIENT_BYTES / (4 * model.count_params())))
    gradient = clipped_gradient(model, CLIP, together)

    @jax.jit
    def add(total: Any, weights: Any, cells: Any, code: Any, part: Any, padding: Any, key: Any) -> Any:
        more = gradient(weights, cells, code, part, key, is_padding_example=padding)
        return jax.tree.map(jax.numpy.add, total, more)

    @jax.jit
    def apply(total: Any, noise: Any, weights: Any, state: Any) -> Any:
        noisy, noise = noised.update(total, noise)
        mean = [part / expected for part in noisy]
        weights, state = model.optimizer.stateless_apply(state, mean, weights)
        return noise, weights, state

    nothing = [jax.numpy.zeros_like(weight) for weight in weights]
    noise, taken = noised.init(weights), 0
    batches = _Batches(x, codes, units, told.cells_per_unit, at_once, rng)
    interrupt = Interrupt()
    interrupt.begin()
    try:
        with progress_bar(told.steps, "fitting with privacy", "step", shown=shown) as bar:
            for _ in range(told.steps):
                total = nothing
                for batch in batches.of(_drawn(units.n, told.rate, rng)):
                    total = add(total, weights, *batch, _key(rng))
                noise, weights, state = apply(total, noise, weights, state)
                taken += 1
                bar.update()
                if interrupt.asked:
                    break
    finally:
        interrupt.end()
    for variable, value in zip(model.trainable_variables, weights, strict=True):
        variable.assign(value)
    for variable, value in zip(model.optimizer.variables, state, strict=True):
        variable.assign(value)
    model.optimizer.finalize_variable_values(model.trainable_variables)
    model.interrupted = taken < told.steps
    return taken


def _power_of_two(most: float) -> int:
    """Return the largest power of two up to `most`, from 1 to MAX_UNITS."""
    return int(2 ** np.floor(np.log2(np.clip(most, 1, MAX_UNITS))))


def clipped_gradient(model: VAE, clip: float, together: int | None = None) -> Any:
    """Return the function that sums the clipped gradients of units.

    It takes the weights, the cells of each unit, (n_units, n_cells, n_genes), their one-hot conditions, the
    weight of each cell in its unit, (n_units, n_cells), and a key. Each unit draws noise of its own for the
    latent vectors: in Keras' own layer all would draw the same.
    """
    import jax

    clipping = require("jax_privacy.clipping", "'vaexprs[privacy]'", "A fit with privacy")
    noisy = model.with_noise_as_input()
    rest = [variable.value for variable in noisy.non_trainable_variables]
    places = {variable.path: i for i, variable in enumerate(model.trainable_variables)}
    order = [places[variable.path] for variable in noisy.trainable_variables]

    def loss(weights: Any, cells: Any, code: Any, part: Any, key: Any) -> Any:
        noise = jax.random.normal(key, (cells.shape[0], model.latent_dim))
        inputs = [cells, code, noise] if len(model.inputs) == 2 else [cells, noise]
        output, _, penalties = noisy.stateless_call(
            [weights[i] for i in order], rest, inputs, training=True, return_losses=True
        )
        return jax.numpy.sum(part * model.losses_of(cells, output)[2]) + sum(penalties)

    return clipping.clipped_grad(
        loss,
        l2_clip_norm=clip,
        batch_argnums=(1, 2, 3),
        keep_batch_dim=False,
        prng_argnum=4,
        microbatch_size=together,
    )


class _Batches:
    """The cells of units that were drawn, so many units at a time, padded."""

    def __init__(
        self,
        x: Matrix | BackedMatrix,
        codes: LevelCodes | None,
        units: Units,
        cells: int,
        at_once: int,
        rng: np.random.Generator,
    ) -> None:
        self._x, self._codes = x, codes
        self._cells, self._at_once, self._rng = cells, at_once, rng
        self._order = np.argsort(units.of, kind="stable")
        self._ends = np.cumsum(np.bincount(units.of, minlength=units.n))

    def of(self, drawn: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
        """Yield cells, conditions, weights of the cells, and which units are padding."""
        for first in range(0, len(drawn), self._at_once):
            some = drawn[first : first + self._at_once]
            places = np.full((self._at_once, self._cells), -1)
            for place, unit in zip(places, some, strict=False):
                rows = self._order[self._ends[unit - 1] if unit else 0 : self._ends[unit]]
                if len(rows) > self._cells:
                    rows = self._rng.choice(rows, self._cells, replace=False)
                place[: len(rows)] = rows
            yield self._filled(places)

    def _filled(self, places: np.ndarray) -> tuple[np.ndarray, ...]:
        there = places >= 0
        rows, back = np.unique(places[there], return_inverse=True)  # a file is read in the order of its rows
        part = there / np.maximum(there.sum(axis=1, keepdims=True), 1)
        cells = np.zeros((*places.shape, self._x.shape[1]), np.float32)
        cells[there] = densify(self._x.take(rows) if isinstance(self._x, BackedMatrix) else self._x[rows])[
            back
        ]
        width = 1 if self._codes is None else self._codes.conditions.width
        codes = np.zeros((*places.shape, width), np.float32)
        if self._codes is not None:
            codes[there] = self._codes[rows][back]
        return cells, codes, part.astype(np.float32), np.asarray(~there.any(axis=1))


def _drawn(n: int, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Return units, each drawn with this probability by itself."""
    return np.flatnonzero(rng.random(n) < rate)


def _key(rng: np.random.Generator) -> Any:
    """Return a key of JAX's with 64 random bits: of a whole number as a seed it would take 32."""
    import jax

    bits = jax.numpy.asarray(rng.integers(0, 2**32, 2, dtype=np.uint32))
    return jax.random.wrap_key_data(bits, impl="threefry2x32")
