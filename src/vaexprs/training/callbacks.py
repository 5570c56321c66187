"""Keras callbacks: progress, interruption, and recovery from divergence."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from vaexprs.interface.interrupt import Interrupt
from vaexprs.interface.progress import progress_bar
from vaexprs.nn.batches import CellBatches
from vaexprs.training.checkpoint import Checkpoint
from vaexprs.training.schedule import Schedule

STEPS_A_COPY = 16  # of training, at least, between two copies of the weights: one takes part of a step
# a fit is said to take long because of its genes: more than so many, judged after so many seconds
MANY_GENES, SECONDS_TO_JUDGE, MANY_MINUTES = 5_000, 20, 3
TRY_SMALLER = (
    "Try a smaller learning rate, optimizer=keras.optimizers.Adam(1e-4), and look for genes with enormous "
    "values."
)


def as_callbacks(given: Any) -> list[keras.callbacks.Callback]:
    """Return the user's callbacks as a list."""
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]


class ProgressBar(keras.callbacks.Callback):
    """Shows one bar over all steps, with the loss; it says how many were done in an earlier fit.

    Where many genes make it long, it says once how to take fewer.
    """

    def __init__(self, schedule: Schedule, done: int, n_genes: int) -> None:
        super().__init__()
        self._schedule = schedule
        self._done = done
        self._n_genes = n_genes
        self._advised = n_genes <= MANY_GENES
        self._epoch = 0
        self._bar: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        what = f"fitting, going on after step {self._done:,}" if self._done else "fitting"
        self._bar = progress_bar(self._schedule.epochs * self._schedule.steps, what, "step")
        self._bar.update(self._done)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        done = self._epoch * self._schedule.steps + min(batch + 1, self._schedule.steps)
        self._bar.update(done - self._bar.n)
        if not self._advised and self._bar.format_dict["elapsed"] > SECONDS_TO_JUDGE:
            self._advise()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        shown = {name: f"{value:.5g}" for name, value in (logs or {}).items() if name in ("loss", "val_loss")}
        self._bar.set_postfix({"epoch": f"{epoch + 1}/{self._schedule.epochs}", **shown}, refresh=False)

    def _advise(self) -> None:
        self._advised = True
        state = self._bar.format_dict
        minutes = state["elapsed"] / (state["n"] - self._done) * (state["total"] - state["n"]) / 60
        if minutes > MANY_MINUTES:
            self._bar.write(
                f"With {self._n_genes:,} genes this takes about {minutes:.0f} more minutes. n_top_genes=2000 "
                "(--n-top-genes 2000) fits the most variable ones in fewer.",
                file=sys.stderr,
            )

    def on_train_end(self, logs: Any = None) -> None:
        self._bar.close()


class EpochCounter(keras.callbacks.Callback):
    """Tells the batches which epoch it is, and goes on from an epoch's end before other callbacks begin."""

    def __init__(self, batches: CellBatches, checkpoint: Checkpoint | None) -> None:
        super().__init__()
        self._batches, self._checkpoint = batches, checkpoint

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._batches.epoch = epoch
        # what a schedule sets at the beginning of an epoch is in a state from the middle of it
        if self._checkpoint is not None and not self._checkpoint.start.step:
            self._checkpoint.begin()


class StopOnInterrupt(keras.callbacks.Callback):
    """Let Ctrl-C end training after the current steps."""

    def __init__(self) -> None:
        super().__init__()
        self._interrupt = Interrupt()

    def on_train_begin(self, logs: Any = None) -> None:
        self._interrupt.begin()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # here only: where a signal comes in, Keras may be between taking the state and putting it back
        if self._interrupt.asked:
            self.model.stop_training = self.model.interrupted = True

    def on_train_end(self, logs: Any = None) -> None:
        self._interrupt.end()


class StopOnDivergence(keras.callbacks.Callback):
    """Ends training once the loss is no finite number, and puts the last good weights back.

    A copy of the weights (of their averages, where the optimizer has such) is made at the end of an epoch,
    but not more often than every `STEPS_A_COPY` steps. It is good if its loss is lower than that of the
    weights that training began with: a loss may be absurd before it is infinite.

    Parameters
    ----------
    batches
        Of the training cells.

    Attributes
    ----------
    found
        In which epoch the loss or a weight was not finite, counted from 1; 0 if there was none.
    """

    def __init__(self, batches: CellBatches) -> None:
        super().__init__()
        self.found = 0
        self._batches = batches
        self._start: list[np.ndarray] = []
        self._epoch = 0
        self._steps = STEPS_A_COPY  # since the last copy
        self._copy: list[np.ndarray] = []
        self._kept = 0  # epoch of it, counted from 1
        self._since = 0  # epochs that ended after it

    def on_train_begin(self, logs: Any = None) -> None:
        self._start = _copied(_weights(self.model))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        self._steps += self.params.get("steps") or 0
        if not self._copy and int(self.model.optimizer.iterations):  # an earlier fit goes on
            self._copy, self._kept = _copied(_to_keep(self.model)), epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if logs and not np.isfinite(logs["loss"]):  # the mean of the epoch so far: once is for good
            self.found = self._epoch + 1
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._since += 1
        if self.found or self._steps < STEPS_A_COPY:
            return
        copy = _copied(_to_keep(self.model))
        if _finite(copy):
            self._copy, self._kept, self._steps, self._since = copy, epoch + 1, 0, 0

    def on_train_end(self, logs: Any = None) -> None:
        # after Keras has put averages in the weights' place; the last step may have been the bad one
        if not self.found and not _finite([np.asarray(each.value) for each in _weights(self.model)]):
            self.found = self._epoch + 1

    def concluded(self, history: dict[str, list[float]]) -> dict[str, list[float]]:
        """Put the last good weights back, and return the history of the epochs that they have seen.

        Raises
        ------
        ValueError
            If there are no weights to go back to.
        """
        what = f"Training diverged: loss or weights were no finite numbers in epoch {self.found:,}"
        if not self._copy or not self._loss(self._copy) < self._loss(self._start):
            raise ValueError(f"{what}, and there are no good ones from before. {TRY_SMALLER}")
        self._put(self._copy)
        n = len(history["loss"]) - self._since
        self.model.diverged = (
            f"{what}, so it was stopped; the weights after epoch {self._kept:,} (loss "
            f"{history['loss'][n - 1]:.1f}) are kept. {TRY_SMALLER}"
        )
        return {name: values[:n] for name, values in history.items()}

    def _put(self, values: Sequence[np.ndarray]) -> None:
        for variable, value in zip(_weights(self.model), values, strict=True):
            variable.assign(value)

    def _loss(self, values: Sequence[np.ndarray]) -> float:
        """Return the loss of a batch with some weights."""
        self._put(values)
        return float(self.model.evaluate(self._batches, steps=1, verbose=0, return_dict=True)["loss"])


def _copied(variables: Sequence[Any]) -> list[np.ndarray]:
    return [np.array(variable.value) for variable in variables]


def _weights(model: keras.Model) -> list[Any]:
    return [*model.trainable_variables, *model.non_trainable_variables]


def _to_keep(model: keras.Model) -> list[Any]:
    """Return the variables that hold what `_weights` shall hold in the end."""
    averages = getattr(model.optimizer, "_model_variables_moving_average", [])
    return [*(averages or model.trainable_variables), *model.non_trainable_variables]


def _finite(arrays: Sequence[np.ndarray]) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays)
