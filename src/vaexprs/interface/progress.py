"""Progress bars: one that moves where somebody looks on, a line now and then in a log."""

from __future__ import annotations

import sys
from typing import Any, TextIO

SECONDS_A_LINE = 60.0
LINE = "{desc}: {percentage:3.0f}% of {total_fmt} {unit}s, {elapsed} gone, {remaining} to go{postfix}"


def progress_bar(total: int, desc: str, unit: str, *, shown: bool = True) -> Any:
    """Return a bar of tqdm over so many units.

    In a notebook and in a terminal it moves. Where standard error is a file or a pipe (nohup, SLURM,
    continuous integration) it writes a line when it begins, each minute, and when it ends.

    Parameters
    ----------
    total
        Number of units.
    desc
        What is done, in a word.
    unit
        What is counted, in the singular.
    shown
        Whether anything is shown.
    """
    from tqdm.auto import tqdm

    if not shown or sys.stderr.isatty() or _in_notebook():
        return tqdm(total=total, desc=desc, unit=unit, disable=not shown)
    return tqdm(
        total=total,
        desc=desc,
        unit=unit,
        file=_Lines(sys.stderr),
        bar_format=LINE,
        mininterval=SECONDS_A_LINE,
        maxinterval=SECONDS_A_LINE,
    )


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config


class _Lines:
    """A text stream on which each state of a bar is a line of its own rather than written over the last."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        if text.strip():
            self._stream.write(text.strip() + "\n")

    def flush(self) -> None:
        self._stream.flush()
