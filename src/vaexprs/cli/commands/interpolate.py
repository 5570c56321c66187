"""`vaexprs interpolate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaexprs.cli.options import (
    WRITABLE,
    Covariate,
    LibrarySize,
    Overwrite,
    Quiet,
    Seed,
    claim,
    levels,
    say_written,
)


def interpolate(
    model: Annotated[Path, typer.Argument(help="Folder with a saved model.")],
    start: Annotated[str, typer.Option("--from", help="Label at the beginning of the way.")],
    end: Annotated[str, typer.Option("--to", help="Label at its end.")],
    out: Annotated[Path, typer.Option(help=WRITABLE)],
    n: Annotated[int, typer.Option("-n", "--num-samples", help="Number of cells.")] = 1_100,
    steps: Annotated[int, typer.Option(help="Positions on the way, with both ends.")] = 11,
    covariate: Covariate = None,
    library_size: LibrarySize = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Generate cells on the way from one label to another."""
    from vaexprs.io.write import write

    claim(out, overwrite=overwrite, cells=True)
    wanted = levels(covariate, "--covariate", "donor=101")
    from vaexprs.generation.interpolate import interpolate as on_the_way
    from vaexprs.model.load import load_vae

    cells = on_the_way(
        load_vae(model),
        start,
        end,
        n,
        steps=steps,
        covariates=wanted,
        library_size=library_size,
        seed=seed,
        progress=not quiet,
    )
    write(cells, out, overwrite=overwrite)
    if not quiet:
        say_written(cells, out)
