"""`vaexprs doctor`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from rich.console import Console

from vaexprs.cli.console import plain
from vaexprs.interface.verdicts import LEVELS, UNKNOWN


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check the installation: versions, devices, missing packages, and how to fix problems."""
    from vaexprs.cli import diagnostics

    versions, findings = diagnostics.examine()
    if as_json:
        typer.echo(json.dumps(diagnostics.as_json(versions, findings), indent=1))
    else:
        _show_findings(versions, findings, works=diagnostics.works(findings))
    if not diagnostics.works(findings):
        raise typer.Exit(1)


def _show_findings(versions: dict[str, str], findings: Iterable[Any], *, works: bool) -> None:
    """Print the versions, one line per finding with its advice, and whether the package works."""
    console = Console(soft_wrap=True, highlight=False)
    console.print(", ".join(f"{name} {number}" for name, number in versions.items()))
    for each in findings:
        console.print(
            f"{LEVELS.get(each.state, UNKNOWN).in_terminal()} {plain(f'{each.part}: {each.message}')}"
        )
        if each.advice:
            console.print(f"  [bold]{plain(each.advice)}[/]")
    console.print("Fitting and generating work." if works else "[red]Fitting and generating do not work.[/]")
