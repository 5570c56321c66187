"""The training loop: batches, callbacks and what interrupts them."""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from vaexprs.batches import CellBatches
from vaexprs.checkpoints import Checkpoint, State, restore
from vaexprs.networks import VAE
from vaexprs.preprocessing import Preprocessing
from vaexprs.progress import progress_bar

# Gradient steps of a fit whose number of epochs is not given, for n cells: STEPS * sqrt(n), at least
# LEAST_STEPS. More over-fit few cells (generated ones get easier to tell from real ones), fewer leave
# structure of many cells unlearned.
STEPS = 27
LEAST_STEPS = 300
BATCH_SIZE = 128
LEAST_BATCH_SIZE = 64
FEW_EPOCHS = 10  # up to which their number is rounded rather than rounded up: each takes long
# Steps that run as one compiled program, with batches of so many bytes together. XLA asks for memory for
# each program anew: with many genes to get its pages took as long as the step itself.
STEPS_AT_ONCE = 16
BYTES_AT_ONCE = 64 * 2**20
STEPS_A_COPY = 16  # of training, at least, between two copies of the weights: one takes part of a step
# a fit is said to take long because of its genes: more than so many, judged after so many seconds
MANY_GENES, SECONDS_TO_JUDGE, MANY_MINUTES = 5_000, 20, 3
TRY_SMALLER = (
    "Try a smaller learning rate, optimizer=keras.optimizers.Adam(1e-4), and look for genes with enormous "
    "values."
)
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
    wanted = max(STEPS * np.sqrt(n_cells), LEAST_STEPS)
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
    batches = -(-n // int(np.clip(n // 4, LEAST_BATCH_SIZE, BATCH_SIZE)))
    return -(-n // batches)


def _looks_at_batches(callback: keras.callbacks.Callback) -> bool:
    base = keras.callbacks.Callback
    return any(getattr(type(callback), hook, None) is not getattr(base, hook) for hook in BATCH_HOOKS)


def as_callbacks(given: Any) -> list[keras.callbacks.Callback]:
    """Return the user's callbacks as a list."""
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]


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
            callbacks.append(_Progress(schedule, done, len(prepared.genes)))
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
            _Epochs(batches, checkpoint),
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


class _Progress(keras.callbacks.Callback):
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


class _Epochs(keras.callbacks.Callback):
    """Tells the batches which epoch it is, and goes on from an epoch's end before other callbacks begin."""

    def __init__(self, batches: CellBatches, checkpoint: Checkpoint | None) -> None:
        super().__init__()
        self._batches, self._checkpoint = batches, checkpoint

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._batches.epoch = epoch
        # what a schedule sets at the beginning of an epoch is in a state from the middle of it
        if self._checkpoint is not None and not self._checkpoint.start.step:
            self._checkpoint.begin()


class Interrupt:
    """Between `begin` and `end` Ctrl-C asks for an end; a second one interrupts at once.

    Attributes
    ----------
    asked
        Whether it came.
    """

    def __init__(self) -> None:
        self.asked = False
        self._previous: Any = None

    def begin(self) -> None:
        """Wait for Ctrl-C; only the main thread hears of it."""
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._ask)

    def _ask(self, *_: Any) -> None:
        self.asked = True
        self.end()  # first: the next one may come while this is told
        warnings.warn(
            "Training was interrupted; what was learned so far is kept. Ctrl-C once more stops at once.",
            UserWarning,
            stacklevel=2,
        )

    def end(self) -> None:
        """Let Ctrl-C do what it did before."""
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None


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
