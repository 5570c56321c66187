"""`vaexprs interpolate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaexprs.cli.console import print_written
from vaexprs.cli.options import (
    WRITABLE,
    Covariate,
    LibrarySize,
    Overwrite,
    Quiet,
    Seed,
    levels,
)
from vaexprs.cli.output import claim


def interpolate(
    model: Annotated[Path, typer.Argument(help="Folder with a saved model.")],
    start: Annotated[str, typer.Option("--from", help="First label of the path.")],
    end: Annotated[str, typer.Option("--to", help="Last label of the path.")],
    out: Annotated[Path, typer.Option(help=WRITABLE)],
    n: Annotated[int, typer.Option("-n", "--num-samples", help="Number of cells.")] = 1_100,
    steps: Annotated[int, typer.Option(help="Number of positions on the path, including both ends.")] = 11,
    covariate: Covariate = None,
    library_size: LibrarySize = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Generate cells along a path in latent space from one label to another."""
    from vaexprs.io.write import write

    claim(out, overwrite=overwrite, cells=True)
    covariates = levels(covariate, "--covariate", "donor=101")
    from vaexprs.generation.interpolate import interpolate as interpolate_cells
    from vaexprs.model.load import load_vae

    cells = interpolate_cells(
        load_vae(model),
        start,
        end,
        n,
        steps=steps,
        covariates=covariates,
        library_size=library_size,
        seed=seed,
        progress=not quiet,
    )
    write(cells, out, overwrite=overwrite)
    if not quiet:
        print_written(cells, out)
