"""Batch size and number of epochs, chosen from the numbers of cells and genes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

# Gradient steps of a fit whose number of epochs is not given, for n cells: STEPS * sqrt(n), at least
# MIN_STEPS. More over-fit few cells (generated ones get easier to tell from real ones), fewer leave
# structure of many cells unlearned.
STEPS = 27
MIN_STEPS = 300
BATCH_SIZE = 128
MIN_BATCH_SIZE = 64
FEW_EPOCHS = 10  # up to which their number is rounded rather than rounded up: each takes long
# Steps that run as one compiled program, with batches of so many bytes together. XLA asks for memory for
# each program anew: with many genes to get its pages took as long as the step itself.
STEPS_AT_ONCE = 16
BYTES_AT_ONCE = 64 * 2**20
BATCH_HOOKS = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")


@dataclass(frozen=True)
class Schedule:
    """How many cells a step has, how many steps an epoch, how many epochs, and how many steps run at once."""

    batch_size: int
    steps: int
    epochs: int
    steps_at_once: int


def schedule_for(
    n_cells: int,
    n_genes: int,
    epochs: int | None,
    batch_size: int | None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Schedule:
    """Return the schedule of a fit; None stands for the default.

    A callback that looks at each batch gets each batch: then no steps are put together.
    """
    size = min(batch_size or _batch_size(n_cells), n_cells)
    wanted = max(STEPS * np.sqrt(n_cells), MIN_STEPS)
    steps = -(-n_cells // size)
    together = int(np.clip(BYTES_AT_ONCE // (4 * size * n_genes), 1, min(STEPS_AT_ONCE, steps)))
    if any(_looks_at_batches(callback) for callback in callbacks):
        together = 1
    exact = wanted * size / n_cells
    rounded = int(np.ceil(exact)) if exact > FEW_EPOCHS else max(1, round(exact))
    return Schedule(size, steps, epochs or rounded, together)


def _batch_size(n: int) -> int:
    """Return the size of batches about equal: a last one of few cells would throw the weights about."""
    if n >= BATCH_SIZE**2:  # then it is one of many, and cells on disk want a size with many divisors
        return BATCH_SIZE
    batches = -(-n // int(np.clip(n // 4, MIN_BATCH_SIZE, BATCH_SIZE)))
    return -(-n // batches)


def _looks_at_batches(callback: keras.callbacks.Callback) -> bool:
    base = keras.callbacks.Callback
    return any(getattr(type(callback), hook, None) is not getattr(base, hook) for hook in BATCH_HOOKS)
