"""The command line: one command per public function, plus `demo` and `doctor`."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from functools import partial
from typing import Annotated, Any

import typer
from rich.console import Console

from vaexprs.cli.commands import (
    audit,
    augment,
    compare,
    demo,
    doctor,
    evaluate,
    fit,
    generate,
    info,
    interpolate,
    plot,
    power,
    report,
    simulate,
    split,
    transform,
)
from vaexprs.cli.console import (
    INTERRUPTED,
    Stopped,
    catch_interrupts,
    ignore_interrupts,
    is_ending,
    plain,
)
from vaexprs.cli.messages import options_of, with_options
from vaexprs.cli.output import OUTPUTS
from vaexprs.interface.errors import memory_errors

TERMINATED = 143  # exit status that shells report for SIGTERM, which schedulers send before they kill a job
UNCHANGED = "{}. Existing files were not modified."

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    help="Fit (conditional) variational autoencoders to gene expression and generate new cells from them.",
)
app.command()(demo.demo)
app.command()(fit.fit)
app.command()(info.info)
app.command()(split.split)
app.command()(generate.generate)
app.command()(augment.augment)
app.command()(transform.transform)
app.command()(interpolate.interpolate)
app.command()(simulate.simulate)
app.command()(power.power)
app.command()(plot.plot)
app.command()(evaluate.evaluate)
app.command()(compare.compare)
app.command()(audit.audit)
app.command()(report.report)
app.command()(doctor.doctor)

_click_group = partial(typer.main.get_command, app)


def main() -> None:
    """Run the command line; report user errors in one line and exit with status 2."""
    errors = Console(stderr=True)

    def said(message: object) -> str:
        return with_options(str(message), options_of(_click_group(), sys.argv[1:]))

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, (DeprecationWarning, PendingDeprecationWarning)):
            return  # these are addressed to programmers
        errors.print(f"[yellow]Warning:[/] {plain(said(message))}", soft_wrap=True, highlight=False)

    warnings.showwarning = show
    catch_interrupts()
    signal.signal(signal.SIGTERM, _terminate)  # partly written files are removed, as after Ctrl-C
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":  # JAX's own default; child processes inherit it
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # XLA errors are reported as exceptions, without its log
    try:
        with OUTPUTS, memory_errors():
            app(prog_name="vaexprs")
    except (KeyboardInterrupt, ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        if is_ending(error):  # also errors that a library raises in place of the interrupt
            errors.print(UNCHANGED.format("Interrupted"))
            sys.exit(INTERRUPTED)
        text = said(error)
        try:
            errors.print(f"[red]Error:[/] {plain(text)}", soft_wrap=True, highlight=False)
        except MemoryError:  # rich imports further modules
            sys.stderr.write(f"Error: {text}\n")
        _give_up(2)
        sys.exit(2)
    except SystemExit as end:
        if end.code == INTERRUPTED and not isinstance(end, Stopped):
            errors.print(UNCHANGED.format("Interrupted"))
        elif end.code == TERMINATED:
            errors.print(UNCHANGED.format("Terminated"))
            _give_up(TERMINATED)
        raise
    finally:
        ignore_interrupts()


def _give_up(status: int) -> None:
    """End this process at once if it trains together with others."""
    # not imported here: without it there are no other processes, and memory may be exhausted
    multiprocess = sys.modules.get("vaexprs.training.multiprocess")
    if multiprocess is not None:
        multiprocess.give_up(status)


def _terminate(*_: Any) -> None:
    raise SystemExit(TERMINATED)


def _show_version(requested: bool) -> None:
    if requested:
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
