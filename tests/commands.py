"""Run commands of the command line in the process of the tests: starting Python with Keras and JAX takes seconds."""

import contextlib
import io
import os
import signal
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

from vaexprs import cli


@dataclass(frozen=True)
class Done:
    """What a command left, by the names of `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


def run(*words, cwd=None, **environment):
    """Run `vaexprs WORDS` in folder `cwd` with more environment variables, and restore the process after it."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    kept = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    argv, unraisable = sys.argv, sys.unraisablehook
    with (
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("default")  # as outside of pytest, which turns some warnings on
        warnings.simplefilter("ignore", ImportWarning)
        warnings.simplefilter("ignore", ResourceWarning)
        os.environ |= {"COLUMNS": "200", **environment}
        sys.argv = ["vaexprs", *map(str, words)]
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code
        finally:
            sys.argv, sys.unraisablehook = argv, unraisable
            for number, handler in handlers.items():
                signal.signal(number, handler)
            os.environ.clear()
            os.environ |= kept
    if isinstance(code, str):  # sys.exit("message")
        code, message = 1, f"{code}\n"
        err.write(message)
    return Done(code or 0, *(stream.buffer.getvalue().decode() for stream in (out, err)))
