"""`vaexprs transform`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaexprs.cli.options import (
    READABLE,
    WRITABLE,
    CountsLayer,
    Obs,
    Overwrite,
    Quiet,
    Seed,
    Transpose,
    cells_at,
    claim,
    levels,
    say_written,
)
from vaexprs.cli.output import report_kept_cells


def transform(
    model: Annotated[Path, typer.Argument(help="Folder with a saved model.")],
    data: Annotated[Path, typer.Argument(help=f"The cells: {READABLE}.")],
    to: Annotated[list[str], typer.Option(help="The condition to give them: 'stim=ctrl' (repeatable).")],
    out: Annotated[Path, typer.Option(help=WRITABLE)],
    layer: CountsLayer = None,
    transpose: Transpose = None,
    obs: Obs = None,
    library_size: Annotated[
        float | None, typer.Option(help="Counts a cell to aim at; by default each cell's own.")
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Give cells as they might have been under another condition."""
    claim(out, overwrite=overwrite, cells=True)
    wanted = levels(to, "--to", "stim=ctrl")
    from vaexprs.generation.transform import transform as transformed
    from vaexprs.model.load import load_vae

    with report_kept_cells():
        cells = transformed(
            load_vae(model),
            cells_at(data, transpose, obs),
            wanted,
            layer=layer,
            library_size=library_size,
            seed=seed,
            progress=not quiet,
            out=out,
            overwrite=overwrite,
        )
    if not quiet:
        say_written(cells, out)
