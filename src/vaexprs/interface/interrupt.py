"""Deferred Ctrl-C: training stops after the current step, so that files are written completely."""

from __future__ import annotations

import signal
import threading
import warnings
from typing import Any


class Interrupt:
    """Turn Ctrl-C between `begin` and `end` into a request to stop; a second Ctrl-C interrupts at once.

    Attributes
    ----------
    asked
        Whether Ctrl-C was pressed.
    """

    def __init__(self) -> None:
        self.asked = False
        self._previous: Any = None

    def begin(self) -> None:
        """Start to catch Ctrl-C; no effect outside the main thread, which alone receives signals."""
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._ask)

    def _ask(self, *_: Any) -> None:
        self.asked = True
        self.end()  # before the warning: Ctrl-C may be pressed again while it is printed
        warnings.warn(
            "Training was interrupted; the model trained so far is kept. Ctrl-C once more stops at once.",
            UserWarning,
            stacklevel=2,
        )

    def end(self) -> None:
        """Restore the previous handler of Ctrl-C."""
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None
