"""`vaexprs info`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vaexprs.cli.console import plain


def info(
    model: Annotated[Path, typer.Argument(help="Folder with a saved model.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the description as JSON, with the names of all genes.")
    ] = False,
) -> None:
    """Describe a saved model: genes, labels, covariates, privacy guarantee, and how it was made."""
    from vaexprs.model.card import as_text, describe
    from vaexprs.model.load import load_vae

    fit = load_vae(model)
    if as_json:
        typer.echo(json.dumps(describe(fit), indent=1))
    else:
        Console().print(plain(as_text(fit)), soft_wrap=True, highlight=False)
