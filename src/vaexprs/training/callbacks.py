"""Keras callbacks: progress, interruption, and recovery from divergence."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from vaexprs.interface.interrupt import Interrupt
from vaexprs.interface.progress import StepTimer, in_words, progress_bar, skip_start
from vaexprs.nn.batches import CellBatches
from vaexprs.training.checkpoint import Checkpoint
from vaexprs.training.schedule import Schedule

STEPS_A_COPY = 16  # minimum number of steps between two copies of the weights
MIN_ESTIMATE = 60  # minimum number of seconds left for which an estimate is printed
# n_top_genes is suggested if there are more genes than this and more seconds left than this
MANY_GENES, MANY_SECONDS = 5_000, 180
TRY_SMALLER = (
    "Try a smaller learning rate, optimizer=keras.optimizers.Adam(1e-4), and check for genes with extreme "
    "values."
)


def as_callbacks(given: Any) -> list[keras.callbacks.Callback]:
    """Return the user's callbacks as a list."""
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]


class ProgressBar(keras.callbacks.Callback):
    """Progress bar over all steps, with the loss and the number of steps done before a fit was resumed.

    Prints an estimate of the time that is left once some steps have been measured, if it is long, and
    suggests `n_top_genes` if many genes make the fit slow.
    """

    def __init__(self, schedule: Schedule, done: int, n_genes: int) -> None:
        super().__init__()
        self._schedule = schedule
        self._done = done
        self._n_genes = n_genes
        self._estimated = False
        self._epoch = 0
        self._bar: Any = None
        self._timer: StepTimer | None = None

    @property
    def _total(self) -> int:
        return self._schedule.epochs * self._schedule.steps

    def on_train_begin(self, logs: Any = None) -> None:
        label = f"fitting, resumed after step {self._done:,}" if self._done else "fitting"
        self._bar = progress_bar(self._total, label, "step", done=self._done)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        done, now = (
            self._epoch * self._schedule.steps + min(batch + 1, self._schedule.steps),
            time.monotonic(),
        )
        if done <= self._done:  # a step before the fit was resumed, which is only counted
            return
        if self._timer is None:
            self._timer = StepTimer(done, now)
            skip_start(self._bar, done)
            return
        self._bar.update(done - self._bar.n)
        seconds = None if self._estimated else self._timer.add(done, now)
        if seconds is not None:
            self._estimated = True
            self._print_estimate(self._total - done, seconds)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        shown = {name: f"{value:.5g}" for name, value in (logs or {}).items() if name in ("loss", "val_loss")}
        self._bar.set_postfix({"epoch": f"{epoch + 1}/{self._schedule.epochs}", **shown}, refresh=False)

    def _print_estimate(self, steps: int, seconds: float) -> None:
        """Print the time that is left, for a number of steps of so many seconds."""
        left = steps * seconds
        if left < MIN_ESTIMATE:
            return
        text = f"The fit takes about {in_words(left)} more ({steps:,} of {self._total:,} steps are left)."
        if self._n_genes > MANY_GENES and left > MANY_SECONDS:
            text += (
                f" With fewer than {self._n_genes:,} genes it is faster: n_top_genes=2000 "
                "(--n-top-genes 2000) fits the most variable ones."
            )
        self._bar.write(text, file=sys.stderr)

    def on_train_end(self, logs: Any = None) -> None:
        self._bar.close()


class EpochCounter(keras.callbacks.Callback):
    """Sets the epoch of the batches, and restores a checkpoint of an epoch's end before other callbacks."""

    def __init__(self, batches: CellBatches, checkpoint: Checkpoint | None) -> None:
        super().__init__()
        self._batches, self._checkpoint = batches, checkpoint

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._batches.epoch = epoch
        # A state from within an epoch already has what a learning rate schedule sets at its start, so it is
        # restored later, by the checkpoint itself.
        if self._checkpoint is not None and not self._checkpoint.start.step:
            self._checkpoint.begin()


class StopOnInterrupt(keras.callbacks.Callback):
    """Ends training after the current step on Ctrl-C."""

    def __init__(self) -> None:
        super().__init__()
        self._interrupt = Interrupt()

    def on_train_begin(self, logs: Any = None) -> None:
        self._interrupt.begin()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # not in the signal handler: Keras may be in the middle of updating its state there
        if self._interrupt.asked:
            self.model.stop_training = self.model.interrupted = True

    def on_train_end(self, logs: Any = None) -> None:
        self._interrupt.end()


class StopOnDivergence(keras.callbacks.Callback):
    """Ends training when the loss is not finite, and restores the last good weights.

    The weights (their averages, if the optimizer keeps averages) are copied at the end of an epoch, at most
    every `STEPS_A_COPY` steps. A copy is good if its loss is lower than that of the initial weights: the loss
    may explode before it overflows.

    Parameters
    ----------
    batches
        Batches of the training cells.

    Attributes
    ----------
    epoch_found
        The first epoch with a loss or weights that were not finite, counted from 1; 0 if there is none.
    """

    def __init__(self, batches: CellBatches) -> None:
        super().__init__()
        self.epoch_found = 0
        self._batches = batches
        self._start: list[np.ndarray] = []
        self._epoch = 0
        self._steps = STEPS_A_COPY  # number of steps since the last copy
        self._copy: list[np.ndarray] = []
        self._copy_epoch = 0  # counted from 1
        self._since = 0  # number of epochs completed after the copy

    def on_train_begin(self, logs: Any = None) -> None:
        self._start = _copied(_weights(self.model))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        self._steps += self.params.get("steps") or 0
        if not self._copy and int(self.model.optimizer.iterations):  # resumed
            self._copy, self._copy_epoch = _copied(_to_keep(self.model)), epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if logs and not np.isfinite(logs["loss"]):  # the mean over the epoch so far
            self.epoch_found = self._epoch + 1
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._since += 1
        if self.epoch_found or self._steps < STEPS_A_COPY:
            return
        copy = _copied(_to_keep(self.model))
        if _finite(copy):
            self._copy, self._copy_epoch, self._steps, self._since = copy, epoch + 1, 0, 0

    def on_train_end(self, logs: Any = None) -> None:
        # No loss is computed after the last step, so check the weights; Keras has applied the averages here.
        if not self.epoch_found and not _finite([np.asarray(each.value) for each in _weights(self.model)]):
            self.epoch_found = self._epoch + 1

    def restore_good_weights(self, history: dict[str, list[float]]) -> dict[str, list[float]]:
        """Restore the last good weights, and return the history up to them.

        Raises
        ------
        ValueError
            If there are no good weights.
        """
        problem = f"Training diverged: loss or weights are not finite in epoch {self.epoch_found:,}"
        if not self._copy or not self._loss(self._copy) < self._loss(self._start):
            raise ValueError(f"{problem}, and there are no earlier good weights to restore. {TRY_SMALLER}")
        self._put(self._copy)
        n = len(history["loss"]) - self._since
        self.model.diverged = (
            f"{problem}. The weights after epoch {self._copy_epoch:,} (loss "
            f"{history['loss'][n - 1]:.1f}) are kept. {TRY_SMALLER}"
        )
        return {name: values[:n] for name, values in history.items()}

    def _put(self, values: Sequence[np.ndarray]) -> None:
        for variable, value in zip(_weights(self.model), values, strict=True):
            variable.assign(value)

    def _loss(self, values: Sequence[np.ndarray]) -> float:
        """Return the loss of one batch with the given weights."""
        self._put(values)
        return float(self.model.evaluate(self._batches, steps=1, verbose=0, return_dict=True)["loss"])


def _copied(variables: Sequence[Any]) -> list[np.ndarray]:
    return [np.array(variable.value) for variable in variables]


def _weights(model: keras.Model) -> list[Any]:
    return [*model.trainable_variables, *model.non_trainable_variables]


def _to_keep(model: keras.Model) -> list[Any]:
    """Return the variables that hold the final values of `_weights`: the averages, if there are any."""
    averages = getattr(model.optimizer, "_model_variables_moving_average", [])
    return [*(averages or model.trainable_variables), *model.non_trainable_variables]


def _finite(arrays: Sequence[np.ndarray]) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays)
