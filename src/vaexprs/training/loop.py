"""The training loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from vaexprs.nn.batches import CellBatches
from vaexprs.nn.vae import VAE
from vaexprs.preprocessing.prepare import Preprocessing
from vaexprs.training.callbacks import (
    EpochCounter,
    ProgressBar,
    StopOnDivergence,
    StopOnInterrupt,
    as_callbacks,
)
from vaexprs.training.checkpoint import Checkpoint, State, restore
from vaexprs.training.schedule import Schedule


def train(
    model: VAE,
    prepared: Preprocessing,
    schedule: Schedule,
    *,
    seed: int,
    fit_arguments: Mapping[str, Any],
    share: tuple[int, int] = (0, 1),
    checkpoint: Checkpoint | None = None,
) -> dict[str, list[float]]:
    """Train a model and return the history.

    If training diverges it stops: the model gets the last good weights and a message in `diverged`, and the
    history ends at these weights.

    Parameters
    ----------
    model
        Compiled.
    prepared
        With its training cells, and validation cells if there are any.
    schedule
        See `schedule_for`.
    seed
        Seed of the order of the cells.
    fit_arguments
        Arguments of ``keras.Model.fit`` given by the user.
    share
        Number of this process, from 0, and number of processes.
    checkpoint
        Holds the state to start from, and saves the state.

    Raises
    ------
    ValueError
        If training diverges before there are good weights, or `sample_weight` has the wrong shape.
    """
    arguments = dict(fit_arguments)
    shuffle = bool(arguments.pop("shuffle", True))
    weight = arguments.pop("sample_weight", None)
    val_batch_size = arguments.pop("validation_batch_size", None)
    callbacks = as_callbacks(arguments.pop("callbacks", None))
    verbose = arguments.pop("verbose", "auto")
    alone = keras.backend.backend() == "jax" and keras.distribution.distribution() is None
    sparse = alone and model.likelihood.sparse and model.compute_dtype == "float32"
    batches = _training_batches(prepared, schedule.batch_size, shuffle, seed, weight, share, sparse)
    val_batches = _validation_batches(prepared, val_batch_size or schedule.batch_size, seed)
    start = State() if checkpoint is None else checkpoint.start
    if start.epoch >= schedule.epochs:
        assert checkpoint is not None
        return _restore_finished(model, batches, start)
    if verbose == "auto":
        if share[0] == 0:
            done = start.epoch * schedule.steps + start.step
            callbacks.append(ProgressBar(schedule, done, len(prepared.genes)))
        verbose = 0
    model.steps_done = start.step
    batches.passed_over = start.epoch, start.step
    if start.epoch or start.step:
        arguments["initial_epoch"] = start.epoch
    divergence = StopOnDivergence(batches)
    history = model.fit(
        batches,
        epochs=schedule.epochs,
        validation_data=val_batches,
        callbacks=[
            EpochCounter(batches, checkpoint),
            *callbacks,
            *([] if checkpoint is None else [checkpoint]),
            StopOnInterrupt(),
            divergence,
        ],
        verbose=verbose,
        shuffle=False,  # CellBatches shuffles
        **arguments,
    ).history
    before = {name: list(values) for name, values in start.history.items()}
    history = {name: before.get(name, []) + [float(v) for v in values] for name, values in history.items()}
    return divergence.restore_good_weights(history) if divergence.epoch_found else history


def _training_batches(
    prepared: Preprocessing,
    batch_size: int,
    shuffle: bool,
    seed: int,
    sample_weight: Any,
    share: tuple[int, int],
    sparse: bool,
) -> CellBatches:
    cells = prepared.train
    assert cells is not None
    if sample_weight is not None:
        sample_weight = np.asarray(sample_weight, np.float32)
        if sample_weight.shape != (len(cells),):
            raise ValueError(f"sample_weight must have shape ({len(cells)},), got {sample_weight.shape}.")
    return CellBatches(
        cells.x,
        prepared.codes_train,
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
        sample_weight=sample_weight,
        share=share,
        sparse=sparse,
    )


def _validation_batches(prepared: Preprocessing, batch_size: int, seed: int) -> CellBatches | None:
    if prepared.val is None:
        return None
    return CellBatches(prepared.val.x, prepared.y_val, batch_size=batch_size, shuffle=False, seed=seed)


def _restore_finished(model: VAE, batches: CellBatches, state: State) -> dict[str, list[float]]:
    """Set the model to the saved state of a completed fit, and return its history."""

    class Restore(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            restore(self.model, state)

    # a fit without steps: Keras builds the optimizer at the start and applies the averaged weights at the end
    model.steps_done = len(batches)
    batches.passed_over = 1, 0
    model.fit(batches, epochs=1, verbose=0, shuffle=False, callbacks=[Restore()])
    return {name: list(values) for name, values in state.history.items()}
