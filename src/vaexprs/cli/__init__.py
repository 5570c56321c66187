"""The command line: a verb of the package each, and the demo and the doctor."""

from __future__ import annotations

import signal
import sys
import warnings
from typing import Annotated, Any

import typer
from rich.console import Console

from vaexprs.cli import judging, making, trying
from vaexprs.cli.options import INTERRUPTED, Stopped, plain

TERMINATED = 143  # and shells for SIGTERM, which a scheduler sends before it kills

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Fit (conditional) variational autoencoders to gene expression and generate new cells from them.",
)
for verb in (
    trying.demo,
    making.fit,
    making.split,
    making.generate,
    making.augment,
    making.transform,
    making.interpolate,
    judging.plot,
    judging.evaluate,
    judging.audit,
    judging.report,
    trying.doctor,
):
    app.command()(verb)


def main() -> None:
    """Run the command line; the user's mistakes end in one clear line and exit status 2."""
    errors = Console(stderr=True)

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        errors.print(f"[yellow]Warning:[/] {plain(str(message))}", soft_wrap=True, highlight=False)

    warnings.showwarning = show
    signal.signal(signal.SIGTERM, _end)  # what is half-written is put away, as after Ctrl-C
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError) as error:
        text = str(error)
        if isinstance(error, FileExistsError):
            text = text.replace("say overwrite", "say --overwrite")
        errors.print(f"[red]Error:[/] {plain(text)}", soft_wrap=True, highlight=False)
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
    from vaexprs.processes import give_up

    give_up(status)


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
