"""The command line: a verb of the package each, and the demo and the doctor."""

from __future__ import annotations

import os
import signal
import sys
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
from vaexprs.interface.errors import memory_errors

TERMINATED = 143  # and shells for SIGTERM, which a scheduler sends before it kills
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
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":  # JAX's own default, which children inherit
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # no log of XLA: what goes wrong is told in our words
    try:
        with OUTPUTS, memory_errors():
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


def _give_up(status: int) -> None:
    processes = sys.modules.get("vaexprs.processes")
    if processes is not None:  # or there are no others; and there may be no memory to load it
        processes.give_up(status)


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
