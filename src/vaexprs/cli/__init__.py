"""The command line: a verb of the package each, and the demo and the doctor."""

from __future__ import annotations

import _thread
import ctypes
import os
import signal
import sys
import threading
import warnings
from typing import Annotated, Any

import typer
from rich.console import Console

from vaexprs.cli.commands import (
    audit,
    augment,
    demo,
    doctor,
    evaluate,
    fit,
    generate,
    interpolate,
    plot,
    report,
    split,
    transform,
)
from vaexprs.cli.options import INTERRUPTED, OUTPUTS, Stopped, plain
from vaexprs.interface.errors import address_space, memory_told

TERMINATED = 143  # and shells for SIGTERM, which a scheduler sends before it kills

LEAST_MEMORY = 3 * 2**29  # bytes of address space to load all libraries in

DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux

ABORTED = (signal.SIGABRT, signal.SIGSEGV, getattr(signal, "SIGBUS", signal.SIGSEGV))

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Fit (conditional) variational autoencoders to gene expression and generate new cells from them.",
)

for verb in (
    demo.demo,
    fit.fit,
    split.split,
    generate.generate,
    augment.augment,
    transform.transform,
    interpolate.interpolate,
    plot.plot,
    evaluate.evaluate,
    audit.audit,
    report.report,
    doctor.doctor,
):
    app.command()(verb)


def main() -> None:
    """Run the command line; the user's mistakes end in one clear line and exit status 2."""
    errors = Console(stderr=True)

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, (DeprecationWarning, PendingDeprecationWarning)):
            return  # for those who write programs
        errors.print(f"[yellow]Warning:[/] {plain(str(message))}", soft_wrap=True, highlight=False)

    warnings.showwarning = show
    signal.signal(signal.SIGTERM, _end)  # what is half-written is put away, as after Ctrl-C
    sys.unraisablehook = _heed
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":  # JAX's own default, which children inherit
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # no log of XLA: what goes wrong is told in our words
    try:
        limit = address_space()
        if limit is not None:
            _check_memory(limit)
            _watch(limit)
        with OUTPUTS, memory_told():
            app(prog_name="vaexprs")
    except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        text = str(error)
        if isinstance(error, FileExistsError):
            text = text.replace("say overwrite", "say --overwrite")
        try:
            errors.print(f"[red]Error:[/] {plain(text)}", soft_wrap=True, highlight=False)
        except MemoryError:  # rich would load more of itself
            sys.stderr.write(f"Error: {text}\n")
        _give_up(2)
        sys.exit(2)
    except SystemExit as end:
        if end.code == INTERRUPTED and not isinstance(end, Stopped):
            errors.print("Interrupted; nothing was written.")
        elif end.code == TERMINATED:
            errors.print("Terminated; nothing is left half-written.")
            _give_up(TERMINATED)
        raise


def _check_memory(limit: int) -> None:
    """Refuse a limit in which the libraries cannot even be loaded: some hang, others abort the process."""
    if limit < LEAST_MEMORY:
        raise MemoryError(
            f"This shell allows {limit / 2**20:,.0f} MiB of address space (ulimit -v), and vaexprs needs "
            f"{LEAST_MEMORY / 2**20:,.0f} MiB to start. Allow more of it."
        )


def _watch(limit: int) -> None:
    """Go on in a child: where memory is limited libraries may abort the process, and then this one tells."""
    child = os.fork()
    if not child:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
        _reserve()
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child, which gets it too, says what there is to say
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if -status in ABORTED:
        raise MemoryError(
            f"There is not enough memory: this shell allows {limit / 2**20:,.0f} MiB of address space "
            "(ulimit -v). Allow more of it. What was there before is as it was."
        )
    os._exit(status if status >= 0 else 128 - status)  # the child has said what there is to say


def _reserve() -> None:
    """Have the OpenBLAS of NumPy and that of SciPy take their buffers: later they might try without end."""
    import numpy as np
    from scipy.linalg.blas import dgemm

    square = np.zeros((256, 256))  # small ones need no buffer
    dgemm(1.0, square @ square, square)


def _give_up(status: int) -> None:
    processes = sys.modules.get("vaexprs.processes")
    if processes is not None:  # or there are no others; and there may be no memory to load it
        processes.give_up(status)


def _heed(lost: Any) -> None:
    """Interrupt once more where Ctrl-C came in while Python collected garbage, and would be forgotten."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        threading.Timer(0.1, _interrupt).start()
    else:
        sys.__unraisablehook__(lost)


def _interrupt() -> None:
    main_thread = threading.main_thread().ident
    if main_thread is None or not hasattr(signal, "pthread_kill"):  # Windows
        _thread.interrupt_main()
    else:  # which wakes what waits for the system, too
        signal.pthread_kill(main_thread, signal.SIGINT)


def _end(*_: Any) -> None:
    raise SystemExit(TERMINATED)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"vaexprs {version('vaexprs')}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
