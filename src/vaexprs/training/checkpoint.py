"""Checkpoints: the state of training on disk, from which a fit resumes to the same result."""

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
from vaexprs.interface.validation import check_integer, check_real, listed
from vaexprs.io.atomic import check_output, written_whole
from vaexprs.io.untrusted.archives import read_arrays

FORMAT = 1


@dataclass(frozen=True)
class State:
    """State of training at a checkpoint.

    Parameters
    ----------
    epoch, step
        The next step and its epoch, both counted from 0.
    history
        The metrics of the completed epochs.
    arrays
        Values of the variables of the model, the optimizer and the metrics, in order; empty at the beginning.
    """

    epoch: int = 0
    step: int = 0
    history: Mapping[str, list[float]] = field(default_factory=dict)
    arrays: tuple[np.ndarray, ...] = ()


class Checkpoint(keras.callbacks.Callback):
    """Callback that saves the state of training at intervals, and restores an earlier state at the start.

    Parameters
    ----------
    path
        The file, which is replaced atomically.
    steps, minutes
        Interval: number of steps or, if None, minutes.
    identity
        What must be equal when the fit is resumed: JSON values by name.
    start
        The state to start from.
    writes
        Whether this process writes the file.
    """

    def __init__(
        self,
        path: Path,
        *,
        steps: int | None,
        minutes: float,
        identity: Mapping[str, Any],
        start: State,
        writes: bool = True,
    ) -> None:
        super().__init__()
        self.path, self.steps, self.minutes, self.identity = path, steps, minutes, dict(identity)
        self.start = start
        self.writes = writes
        self._history = {name: list(values) for name, values in start.history.items()}
        self._epoch = start.epoch
        self._since = 0
        self._written = time.monotonic()
        self._last_step = -1

    def begin(self) -> None:
        """Restore the state to start from, once."""
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
        if self._last_step + 1 < (self.params.get("steps") or 0):  # the epoch was interrupted
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
        state = {
            "format": FORMAT,
            "about": self.identity,
            "epoch": epoch,
            "step": step,
            "history": self._history,
        }
        values = [np.asarray(variable.value) for variable in _variables(self.model)]
        if any(np.isnan(value).any() for value in values):
            return  # training has diverged: keep the earlier state
        arrays = {f"variable_{i}": value for i, value in enumerate(values)}
        try:
            with written_whole(self.path, overwrite=True) as temporary, temporary.open("wb") as file:
                np.savez(file, about=np.array(json.dumps(state)), **arrays)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:  # not worth ending a long fit: the next checkpoint may succeed
            warn(f"{error} Training goes on; an earlier checkpoint is kept if there is one.")


def restore(model: keras.Model, state: State) -> None:
    """Set the variables of a compiled model to a saved state."""
    for variable, value in zip(_variables(model), state.arrays, strict=True):
        variable.assign(value)
    if not state.step:  # the saved metrics are those of the completed epoch
        model.reset_metrics()


def _variables(model: keras.Model) -> list[Any]:
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()  # during training Keras keeps the values outside the variables
    return [
        *model.trainable_variables,
        *model.non_trainable_variables,
        *model.optimizer.variables,
        *model.metrics_variables,
    ]


def read_state(path: Path, identity: Mapping[str, Any]) -> State:
    """Return the state in a checkpoint file, or the initial state if the file does not exist.

    Raises
    ------
    ValueError
        If the file cannot be read, or belongs to a fit with other data or settings.
    """
    if not path.exists():
        return State()
    try:
        content = read_arrays(path)
        saved = json.loads(str(content["about"]))
        arrays = tuple(content[f"variable_{i}"] for i in range(len(content) - 1))
        if saved["format"] != FORMAT:
            raise ValueError(f"it has format {saved['format']}, this version of vaexprs reads {FORMAT}.")
        state = State(int(saved["epoch"]), int(saved["step"]), saved["history"], arrays)
        before = dict(saved["about"])
    except Exception as error:  # zipfile and zlib raise errors of their own classes
        raise ValueError(
            f"The checkpoint {str(path)!r} cannot be read: {reason(error)} Delete it and fit from the start."
        ) from error
    now = json.loads(json.dumps(identity))
    different = [name for name in now if before.get(name) != now[name]]
    if different:
        first = different[0]
        raise ValueError(
            f"The checkpoint {str(path)!r} belongs to another fit: {listed(different)} differ "
            f"({first}: {before.get(first)!r} in the checkpoint, {now[first]!r} now). Give the same data and "
            "settings, or delete it and fit from the start."
        )
    return state


@dataclass(frozen=True)
class CheckpointOptions:
    """Where and how often the state of training is saved.

    Parameters
    ----------
    path
        The file.
    steps, minutes
        Interval: number of steps or, if None, minutes.
    """

    path: Path
    steps: int | None
    minutes: float

    def open(self, identity: Mapping[str, Any], *, writes: bool) -> Checkpoint:
        """Return the callback that resumes from the file, if it exists, and saves to it.

        Raises
        ------
        ValueError
            If the file cannot be read, or belongs to another fit.
        """
        start = read_state(self.path, identity)
        return Checkpoint(
            self.path, steps=self.steps, minutes=self.minutes, identity=identity, start=start, writes=writes
        )


def checkpoint_options(checkpoint: Any, steps: Any, minutes: Any, resume: bool) -> CheckpointOptions | None:
    """Check the checkpoint arguments of `fit_vae`, and return them; None without a checkpoint.

    Raises
    ------
    TypeError, ValueError
        If an interval is out of range, or `resume` is given without `checkpoint`.
    FileExistsError
        If the file exists and `resume` is false.
    FileNotFoundError
        If its folder does not exist.
    """
    steps = None if steps is None else check_integer("checkpoint_steps", steps, 1)
    minutes = check_real("checkpoint_minutes", minutes, 0)
    if checkpoint is None:
        if resume:
            raise ValueError("resume requires checkpoint, the file to resume from.")
        return None
    path = Path(checkpoint)
    if path.exists() and not resume:
        raise FileExistsError(
            f"{str(path)!r} exists already. Continue from it with resume=True, or delete it to fit from the "
            "start."
        )
    return CheckpointOptions(check_output(path, overwrite=True), steps, minutes)
