"""The state of a fit on disk, from which it goes on as if it had never stopped."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from vaexprs.interface.errors import reason, warn
from vaexprs.interface.validation import listed
from vaexprs.io.atomic import written_whole
from vaexprs.io.untrusted.archives import read_arrays

FORMAT = 1


@dataclass(frozen=True)
class State:
    """Where a fit was when its state was written.

    Parameters
    ----------
    epoch, step
        What comes next: the step of the epoch, both counted from 0.
    history
        The figures of the epochs before.
    arrays
        Values of the variables of the model, the optimizer and the metrics, in order.
    """

    epoch: int = 0
    step: int = 0
    history: Mapping[str, list[float]] = field(default_factory=dict)
    arrays: tuple[np.ndarray, ...] = ()


class Checkpoint(keras.callbacks.Callback):
    """Writes the state of a fit every so often, and puts an earlier state into the model at the start.

    Parameters
    ----------
    path
        The file; it is replaced as a whole.
    steps, minutes
        How often: after so many steps or, if None, minutes.
    about
        What must be the same in the fit that goes on: words and numbers by name.
    start
        The state to begin from.
    writes
        Whether this process is the one that writes.
    """

    def __init__(
        self,
        path: Path,
        *,
        steps: int | None,
        minutes: float,
        about: Mapping[str, Any],
        start: State,
        writes: bool = True,
    ) -> None:
        super().__init__()
        self.path, self.steps, self.minutes, self.about = path, steps, minutes, dict(about)
        self.start = start
        self.writes = writes
        self._history = {name: list(values) for name, values in start.history.items()}
        self._epoch = start.epoch
        self._since = 0
        self._written = time.monotonic()
        self._last_step = -1

    def begin(self) -> None:
        """Put the state to begin from into the model, once."""
        if self.start.arrays:
            restore(self.model, self.start)
            self.start = State()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        self.begin()
        self._last_step = -1

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._since += batch - self._last_step
        self._last_step = batch
        in_epoch = self.params.get("steps") or 0
        if self._due() and batch + 1 < in_epoch:
            self._write(self._epoch, batch + 1)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._last_step + 1 < (self.params.get("steps") or 0):  # interrupted
            self._write(epoch, self._last_step + 1)
            return
        for name, value in (logs or {}).items():
            self._history.setdefault(name, []).append(float(value))
        if self._due() or epoch + 1 == self.params.get("epochs") or self.model.stop_training:
            self._write(epoch + 1, 0)

    def _due(self) -> bool:
        if self.steps is not None:
            return self._since >= self.steps
        return time.monotonic() - self._written >= 60 * self.minutes

    def _write(self, epoch: int, step: int) -> None:
        self._since, self._written = 0, time.monotonic()
        if not self.writes:
            return
        told = {
            "format": FORMAT,
            "about": self.about,
            "epoch": epoch,
            "step": step,
            "history": self._history,
        }
        values = [np.asarray(variable.value) for variable in _variables(self.model)]
        if any(np.isnan(value).any() for value in values):
            return  # training has diverged: an earlier state is worth more
        arrays = {f"variable_{i}": value for i, value in enumerate(values)}
        try:
            with written_whole(self.path, overwrite=True) as beside, beside.open("wb") as file:
                np.savez(file, about=np.array(json.dumps(told)), **arrays)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:  # hours of training are not to end for that: there may be room the next time
            warn(f"{error} Training goes on; the earlier checkpoint, if there is one, is kept.")


def restore(model: keras.Model, state: State) -> None:
    """Put a state into a model that has been built and compiled."""
    for variable, value in zip(_variables(model), state.arrays, strict=True):
        variable.assign(value)
    if not state.step:  # the figures are those of the epoch before
        model.reset_metrics()


def _variables(model: keras.Model) -> list[Any]:
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()  # while it trains, the values are not in the variables
    return [
        *model.trainable_variables,
        *model.non_trainable_variables,
        *model.optimizer.variables,
        *model.metrics_variables,
    ]


def read_state(path: Path, about: Mapping[str, Any]) -> State:
    """Return the state that a checkpoint holds; that of the beginning where there is none.

    Raises
    ------
    ValueError
        If it cannot be read, or belongs to a fit of other data or with other settings.
    """
    if not path.exists():
        return State()
    try:
        held = read_arrays(path)
        told = json.loads(str(held["about"]))
        arrays = tuple(held[f"variable_{i}"] for i in range(len(held) - 1))
        if told["format"] != FORMAT:
            raise ValueError(f"it has format {told['format']}, this vaexprs reads {FORMAT}.")
        state = State(int(told["epoch"]), int(told["step"]), told["history"], arrays)
        before = dict(told["about"])
    except Exception as error:  # zipfile and zlib each have their own
        raise ValueError(
            f"The checkpoint {str(path)!r} cannot be read: {reason(error)} Delete it and begin anew."
        ) from error
    now = json.loads(json.dumps(about))
    other = [name for name in now if before.get(name) != now[name]]
    if other:
        raise ValueError(
            f"The checkpoint {str(path)!r} belongs to another fit: {listed(other)} differ "
            f"({other[0]}: {before.get(other[0])!r} there, {now[other[0]]!r} here). Give the same data and "
            "settings, or delete it and begin anew."
        )
    return state
