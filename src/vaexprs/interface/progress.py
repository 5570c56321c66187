"""Progress bars: animated in a terminal or notebook, one line per minute in a log. Estimates of time."""

from __future__ import annotations

import sys
from typing import Any, TextIO

import numpy as np

SECONDS_PER_LINE = 60.0
LINE = "{desc}: {percentage:3.0f}% of {total_fmt} {unit}s, {elapsed} elapsed, {remaining} left{postfix}"
# time is estimated from this many calls that take this many seconds, or from fewer that take longer
MIN_CALLS, MIN_SECONDS, MANY_SECONDS = 3, 3.0, 20.0
DELAY = 10.0  # seconds after which the bar of a step before or after training is shown


def progress_bar(
    total: int, desc: str, unit: str, *, done: int = 0, shown: bool = True, delay: float = 0
) -> Any:
    """Return a tqdm progress bar.

    It is animated in a notebook and in a terminal. If standard error is a file or a pipe (nohup, SLURM,
    continuous integration), it writes a line at the start, each minute, and at the end.

    Parameters
    ----------
    total
        Number of units.
    desc
        Name of the task.
    unit
        Name of a unit, in the singular.
    done
        Number of units done before; the remaining time is estimated from the others.
    shown
        Whether the bar is shown.
    delay
        Seconds after which it is shown.
    """
    from tqdm.auto import tqdm

    if not shown or sys.stderr.isatty() or _in_notebook():
        return tqdm(total=total, initial=done, desc=desc, unit=unit, disable=not shown, delay=delay)
    return tqdm(
        total=total,
        initial=done,
        desc=desc,
        unit=unit,
        delay=delay,
        file=_Lines(sys.stderr),
        bar_format=LINE,
        mininterval=SECONDS_PER_LINE,
        maxinterval=SECONDS_PER_LINE,
    )


def skip_start(bar: Any, done: int) -> None:
    """Count units as done without using their time, which includes compilation, for the time left."""
    bar.n = bar.last_print_n = bar.initial = done
    bar.unpause()


class StepTimer:
    """Time per step of a task, measured on calls of one or more steps each.

    Parameters
    ----------
    done
        Number of steps before the first measured call. The calls before it should include the first one,
        which compiles the steps.
    now
        Time at which they were done, in seconds.
    """

    def __init__(self, done: int, now: float) -> None:
        self._done, self._now = done, now
        self._calls: list[tuple[float, int]] = []

    def add(self, done: int, now: float) -> float | None:
        """Add a call that ended with `done` steps; return the time per step, None if too little is measured.

        The time is the median over the steps: single calls that compile or read from disk do not change it.
        """
        steps = done - self._done
        if steps > 0:
            self._calls.append(((now - self._now) / steps, steps))
        self._done, self._now = done, now
        total = sum(seconds * n for seconds, n in self._calls)
        if total < (MIN_SECONDS if len(self._calls) >= MIN_CALLS else MANY_SECONDS):
            return None
        times, numbers = (np.array(part) for part in zip(*sorted(self._calls), strict=True))
        before = np.cumsum(numbers)
        return float(times[np.searchsorted(before, before[-1] / 2)])


def in_words(seconds: float) -> str:
    """Return a duration as it is estimated: "40 seconds", "14 minutes", "2.5 hours"."""
    if seconds < 90:
        return f"{max(10, round(seconds, -1)):.0f} seconds"
    minutes = seconds / 60
    return f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config


class _Lines:
    """Text stream that writes each state of a progress bar as a new line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        if text.strip():
            self._stream.write(text.strip() + "\n")

    def flush(self) -> None:
        self._stream.flush()
