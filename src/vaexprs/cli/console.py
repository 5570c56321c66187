"""Text on the console: escaped names, result lines, and the end of an interrupted command."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

INTERRUPTED = 130  # exit status that Typer uses for Ctrl-C


class Stopped(SystemExit):
    """Ends a command that was interrupted by Ctrl-C and has already reported it."""

    code = INTERRUPTED


def catch_interrupts() -> None:
    """Let Ctrl-C interrupt the command once.

    Ctrl-C pressed again while the command ends would interrupt the removal of incomplete files, or print a
    traceback. Ctrl-C that is ignored, as in background jobs, stays ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def ignore_interrupts() -> None:
    """Ignore Ctrl-C while the interpreter ends, if it was caught before."""
    if signal.getsignal(signal.SIGINT) is _interrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def is_ending(error: BaseException | None) -> bool:
    """Return whether an error was caused by Ctrl-C, or raised while the command ends."""
    while error is not None:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _interrupt(*_: Any) -> None:
    if not is_ending(sys.exception()):
        raise KeyboardInterrupt


def plain(text: str) -> str:
    """Return text for the console with markup and control characters escaped.

    Names come from untrusted files, and a terminal would execute the escape sequences in them.
    """
    return escape("".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text))


def print_written(cells: Any, out: Path) -> None:
    """Print the number of cells and genes written to a file."""
    Console().print(f"{cells.n_obs:,} cells x {cells.n_vars:,} genes -> {plain(str(out))}")


@contextmanager
def report_kept_cells() -> Iterator[None]:
    """After Ctrl-C, print which cells were kept, if the interrupt carries a message."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if not stop.args:
            raise
        Console(stderr=True).print(f"Interrupted; {plain(str(stop))}", soft_wrap=True, highlight=False)
        raise Stopped from None
