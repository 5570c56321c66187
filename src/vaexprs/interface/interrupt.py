"""Ctrl-C ends a training step, not a file that is being written."""

from __future__ import annotations

import signal
import threading
import warnings
from typing import Any


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
