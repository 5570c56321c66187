"""Progress bars: animated in a terminal or notebook, one line per minute in a log."""

from __future__ import annotations

import sys
from typing import Any, TextIO

SECONDS_PER_LINE = 60.0
LINE = "{desc}: {percentage:3.0f}% of {total_fmt} {unit}s, {elapsed} elapsed, {remaining} left{postfix}"


def progress_bar(total: int, desc: str, unit: str, *, done: int = 0, shown: bool = True) -> Any:
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
    """
    from tqdm.auto import tqdm

    if not shown or sys.stderr.isatty() or _in_notebook():
        return tqdm(total=total, initial=done, desc=desc, unit=unit, disable=not shown)
    return tqdm(
        total=total,
        initial=done,
        desc=desc,
        unit=unit,
        file=_Lines(sys.stderr),
        bar_format=LINE,
        mininterval=SECONDS_PER_LINE,
        maxinterval=SECONDS_PER_LINE,
    )


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
