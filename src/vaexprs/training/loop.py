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
    """Train and return the history.

    Where training diverges it stops; the model then has the last good weights, says so in `diverged`, and the
    history ends with them.

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
        The user's, for ``keras.Model.fit``.
    share
        Which process this is, and of how many.
    checkpoint
        Where to begin, and where to write the state to.

    Raises
    ------
    ValueError
        If training diverges before there are weights to keep, or an argument does not fit.
    """
    arguments = dict(fit_arguments)
    shuffle = bool(arguments.pop("shuffle", True))
    weight = arguments.pop("sample_weight", None)
    val_batch_size = arguments.pop("validation_batch_size", None)
    callbacks = as_callbacks(arguments.pop("callbacks", None))
    verbose = arguments.pop("verbose", "auto")
    cells = prepared.train
    assert cells is not None
    n = len(cells)
    if weight is not None:
        weight = np.asarray(weight, np.float32)
        if weight.shape != (n,):
            raise ValueError(f"sample_weight must have shape ({n},), got {weight.shape}.")
    batches = CellBatches(
        cells.x,
        prepared.codes_train,
        batch_size=schedule.batch_size,
        shuffle=shuffle,
        seed=seed,
        sample_weight=weight,
        share=share,
    )
    val_batches = None
    if prepared.val is not None:
        val_batches = CellBatches(
            prepared.val.x,
            prepared.y_val,
            batch_size=val_batch_size or schedule.batch_size,
            shuffle=False,
            seed=seed,
        )
    start = State() if checkpoint is None else checkpoint.start
    if start.epoch >= schedule.epochs:
        assert checkpoint is not None
        return _finished(model, batches, start)
    if verbose == "auto":
        if share[0] == 0:
            done = start.epoch * schedule.steps + start.step
            callbacks.append(ProgressBar(schedule, done, len(prepared.genes)))
        verbose = 0
    model.steps_done = start.step
    batches.passed_over = start.epoch, start.step
    if start.epoch or start.step:
        arguments["initial_epoch"] = start.epoch
    watch = StopOnDivergence(batches)
    history = model.fit(
        batches,
        epochs=schedule.epochs,
        validation_data=val_batches,
        callbacks=[
            EpochCounter(batches, checkpoint),
            *callbacks,
            *([] if checkpoint is None else [checkpoint]),
            StopOnInterrupt(),
            watch,
        ],
        verbose=verbose,
        shuffle=False,  # CellBatches shuffles
        **arguments,
    ).history
    before = {name: list(values) for name, values in start.history.items()}
    history = {name: before.get(name, []) + [float(v) for v in values] for name, values in history.items()}
    return watch.concluded(history) if watch.found else history


def _finished(model: VAE, batches: CellBatches, state: State) -> dict[str, list[float]]:
    """Put the state of a fit whose last epoch is done into the model."""

    class Put(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            restore(self.model, state)

    # Keras builds the optimizer when it is asked to fit, and ends by putting averaged weights in place
    model.steps_done = len(batches)
    batches.passed_over = 1, 0
    model.fit(batches, epochs=1, verbose=0, shuffle=False, callbacks=[Put()])
    return {name: list(values) for name, values in state.history.items()}
