"""Batch size and number of epochs, chosen from the numbers of cells and genes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

# Default number of gradient steps for n cells: STEPS * sqrt(n), at least MIN_STEPS. More steps overfit small
# data sets (generated cells become easier to distinguish from real ones), fewer underfit large ones.
STEPS = 27
MIN_STEPS = 300
BATCH_SIZE = 128
MIN_BATCH_SIZE = 64
FEW_EPOCHS = 10  # number of epochs up to which it is rounded to the nearest integer, not up
# Maximum number of steps that run as one compiled program, and maximum size in bytes of their batches. XLA
# allocates memory for each program: with many genes that took as long as the step itself.
STEPS_AT_ONCE = 16
BYTES_AT_ONCE = 128 * 2**20
BATCH_HOOKS = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")


@dataclass(frozen=True)
class Schedule:
    """Batch size, steps per epoch, number of epochs, and number of steps per compiled program."""

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
    """Return the schedule of a fit; epochs and batch size of None stand for the defaults.

    If a callback has hooks for batches, each step runs by itself.
    """
    size = min(batch_size or _batch_size(n_cells), n_cells)
    total_steps = max(STEPS * np.sqrt(n_cells), MIN_STEPS)
    steps = -(-n_cells // size)
    steps_at_once = int(np.clip(BYTES_AT_ONCE // (4 * size * n_genes), 1, min(STEPS_AT_ONCE, steps)))
    if any(_has_batch_hooks(callback) for callback in callbacks):
        steps_at_once = 1
    exact = total_steps * size / n_cells
    rounded = int(np.ceil(exact)) if exact > FEW_EPOCHS else max(1, round(exact))
    return Schedule(size, steps, epochs or rounded, steps_at_once)


def _batch_size(n: int) -> int:
    """Return a size that makes batches about equal: a last batch of few cells has a noisy gradient."""
    if n >= BATCH_SIZE**2:
        # the last of many batches matters little, and reading from disk needs a size with many divisors
        return BATCH_SIZE
    batches = -(-n // int(np.clip(n // 4, MIN_BATCH_SIZE, BATCH_SIZE)))
    return -(-n // batches)


def _has_batch_hooks(callback: keras.callbacks.Callback) -> bool:
    base = keras.callbacks.Callback
    return any(getattr(type(callback), hook, None) is not getattr(base, hook) for hook in BATCH_HOOKS)
