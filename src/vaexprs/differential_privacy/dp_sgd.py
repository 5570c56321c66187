"""DP-SGD: stochastic gradient descent with per-unit gradient clipping and Gaussian noise.

Each step samples units, clips the gradient of the mean loss of each unit's cells to a maximum norm, and adds
noise to the sum (Abadi et al. 2016, doi:10.1145/2976749.2978318). Clipping comes from the library JAX
Privacy, the update from the Keras optimizer. Sums and noise are computed in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from vaexprs.data.backed import BackedMatrix
from vaexprs.data.matrix import Matrix, densify
from vaexprs.differential_privacy.accounting import Guarantee
from vaexprs.differential_privacy.mechanisms import Units, add_noise
from vaexprs.differential_privacy.randomness import Randomness
from vaexprs.interface.errors import require
from vaexprs.interface.interrupt import Interrupt
from vaexprs.interface.progress import progress_bar
from vaexprs.nn.vae import VAE
from vaexprs.preprocessing.conditions import LevelCodes

CLIP = 1.0  # maximum norm of the gradient of a unit
CELL_BYTES = 32 * 2**20  # maximum size of a batch of cells
MAX_UNITS = 256  # maximum number of units in a batch
GRADIENT_BYTES = 2 * 2**20  # maximum size of the unclipped gradients computed together, to fit the CPU cache


def train_privately(
    model: VAE,
    x: Matrix | BackedMatrix,
    codes: LevelCodes | None,
    units: Units,
    guarantee: Guarantee,
    randomness: Randomness,
    *,
    shown: bool,
) -> int:
    """Train a compiled model and return the number of steps taken, which Ctrl-C reduces.

    Parameters
    ----------
    model
        Compiled; its weights must depend on the cells only through earlier releases.
    x
        Prepared cells, (n_cells, n_genes).
    codes
        One-hot conditions of the cells; None without conditions.
    units
        Privacy unit of each cell.
    guarantee
        The planned sampling rate, steps and noise multiplier.
    randomness
        Source of the sampled units and of all noise.
    shown
        Whether to show a progress bar.
    """
    import jax

    model.optimizer.build(model.trainable_variables)
    weights = [variable.value for variable in model.trainable_variables]
    state = [variable.value for variable in model.optimizer.variables]
    expected = guarantee.rate * units.n
    batch_units = _power_of_two(CELL_BYTES / (4 * guarantee.cells_per_unit * x.shape[1]))
    microbatch_units = min(batch_units, _power_of_two(GRADIENT_BYTES / (4 * model.count_params())))
    gradient = clipped_gradient(model, CLIP, microbatch_units)
    split = np.cumsum([weight.size for weight in weights])[:-1]

    @jax.jit
    def summed_gradients(
        weights: Any, cells: Any, codes: Any, cell_weights: Any, padding: Any, key: Any
    ) -> Any:
        gradients = gradient(weights, cells, codes, cell_weights, key, is_padding_example=padding)
        return jax.numpy.concatenate([jax.numpy.ravel(part) for part in gradients])

    @jax.jit
    def apply_gradient(mean: Any, weights: Any, state: Any) -> Any:
        parts = jax.numpy.split(mean, split)
        gradients = [part.reshape(weight.shape) for part, weight in zip(parts, weights, strict=True)]
        return model.optimizer.stateless_apply(state, gradients, weights)

    taken = 0
    batches = _Batches(x, codes, units, guarantee.cells_per_unit, batch_units, randomness)
    interrupt = Interrupt()
    interrupt.begin()
    try:
        with progress_bar(guarantee.steps, "fitting with privacy", "step", shown=shown) as bar:
            for _ in range(guarantee.steps):
                total = np.zeros(sum(weight.size for weight in weights))
                for batch in batches.of(_sampled_units(units.n, guarantee.rate, randomness)):
                    total += np.asarray(summed_gradients(weights, *batch, _key(randomness)), np.float64)
                noisy = add_noise(total, guarantee.training * CLIP, randomness)
                weights, state = apply_gradient((noisy / expected).astype(np.float32), weights, state)
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
    model.interrupted = taken < guarantee.steps
    return taken


def _power_of_two(most: float) -> int:
    """Return the largest power of two that is at most `most`, from 1 to MAX_UNITS."""
    return int(2 ** np.floor(np.log2(np.clip(most, 1, MAX_UNITS))))


def clipped_gradient(model: VAE, clip: float, microbatch_size: int | None = None) -> Any:
    """Return a function that computes the sum of the clipped gradients of units.

    Its arguments are the weights, the cells of each unit, (n_units, n_cells, n_genes), their one-hot
    conditions, the weight of each cell in its unit, (n_units, n_cells), and a random key. Latent noise is
    sampled here for each unit, because Keras' layer would sample the same noise for all units.
    """
    import jax

    clipping = require("jax_privacy.clipping", "'vaexprs[privacy]'", "A fit with privacy")
    noisy = model.with_noise_as_input()
    rest = [variable.value for variable in noisy.non_trainable_variables]
    index = {variable.path: i for i, variable in enumerate(model.trainable_variables)}
    order = [index[variable.path] for variable in noisy.trainable_variables]

    def loss(weights: Any, cells: Any, codes: Any, cell_weights: Any, key: Any) -> Any:
        noise = jax.random.normal(key, (cells.shape[0], model.latent_dim))
        inputs = [cells, codes, noise] if len(model.inputs) == 2 else [cells, noise]
        output, _, penalties = noisy.stateless_call(
            [weights[i] for i in order], rest, inputs, training=True, return_losses=True
        )
        return jax.numpy.sum(cell_weights * model.losses_of(cells, output, robust=False)[2]) + sum(penalties)

    return clipping.clipped_grad(
        loss,
        l2_clip_norm=clip,
        batch_argnums=(1, 2, 3),
        keep_batch_dim=False,
        prng_argnum=4,
        microbatch_size=microbatch_size,
    )


class _Batches:
    """Iterates over padded batches with the cells of sampled units."""

    def __init__(
        self,
        x: Matrix | BackedMatrix,
        codes: LevelCodes | None,
        units: Units,
        cells_per_unit: int,
        batch_units: int,
        randomness: Randomness,
    ) -> None:
        self._x, self._codes = x, codes
        self._cells_per_unit, self._batch_units, self._randomness = cells_per_unit, batch_units, randomness
        self._order = np.argsort(units.of, kind="stable")
        self._ends = np.cumsum(np.bincount(units.of, minlength=units.n))

    def of(self, sampled: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
        """Yield cells, conditions, weights of the cells, and which units are padding."""
        for first in range(0, len(sampled), self._batch_units):
            units = sampled[first : first + self._batch_units]
            slots = np.full((self._batch_units, self._cells_per_unit), -1)  # rows of the cells; -1 is padding
            for slot, unit in zip(slots, units, strict=False):
                rows = self._order[self._ends[unit - 1] if unit else 0 : self._ends[unit]]
                if len(rows) > self._cells_per_unit:
                    chosen = np.argsort(self._randomness.bits(len(rows)), kind="stable")
                    rows = rows[chosen[: self._cells_per_unit]]
                slot[: len(rows)] = rows
            yield self._fill(slots)

    def _fill(self, slots: np.ndarray) -> tuple[np.ndarray, ...]:
        filled = slots >= 0
        rows, inverse = np.unique(slots[filled], return_inverse=True)  # rows on disk are read in order
        weights = filled / np.maximum(filled.sum(axis=1, keepdims=True), 1)
        values = densify(self._x.take(rows) if isinstance(self._x, BackedMatrix) else self._x[rows])
        cells = np.zeros((*slots.shape, self._x.shape[1]), np.float32)
        cells[filled] = values[inverse]
        width = 1 if self._codes is None else self._codes.conditions.width
        codes = np.zeros((*slots.shape, width), np.float32)
        if self._codes is not None:
            codes[filled] = self._codes[rows][inverse]
        return cells, codes, weights.astype(np.float32), np.asarray(~filled.any(axis=1))


def _sampled_units(n: int, rate: float, randomness: Randomness) -> np.ndarray:
    """Return the units of a step, each sampled independently with probability `rate`."""
    return np.flatnonzero(randomness.uniform(n) < rate)


def _key(randomness: Randomness) -> Any:
    """Return a JAX key with 64 random bits; from an integer seed JAX uses only 32."""
    import jax

    return jax.random.wrap_key_data(
        jax.numpy.asarray(randomness.bits(1).view(np.uint32)), impl="threefry2x32"
    )
