"""`vaexprs split`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaexprs.cli.console import print_written
from vaexprs.cli.options import READABLE, Obs, Overwrite, Quiet, Seed, Transpose
from vaexprs.cli.output import claim


def split(
    data: Annotated[Path, typer.Argument(help=f"Cells: {READABLE}.")],
    train: Annotated[Path, typer.Option(help="Output file for the training cells, e.g. train.h5ad.")],
    holdout: Annotated[Path, typer.Option(help="Output file for the held-out cells, e.g. holdout.h5ad.")],
    fraction: Annotated[
        float, typer.Option(help="Fraction of the cells to hold out; with --by, of its levels.")
    ] = 0.2,
    label_key: Annotated[
        str | None, typer.Option(help="Column of obs with the cell type; each type is split in proportion.")
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="Column of obs, e.g. donor; all cells of a level stay together.")
    ] = None,
    transpose: Transpose = None,
    obs: Obs = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Split cells into training cells and held-out cells for evaluation."""
    from vaexprs.io.read import read
    from vaexprs.io.write import write
    from vaexprs.preprocessing.splits import split as split_cells

    claim(train, holdout, overwrite=overwrite, cells=True)
    cells = read(data, transpose=transpose, obs=obs)
    parts = split_cells(cells, fraction, label_key=label_key, by=by, seed=seed)
    for path, part in zip((train, holdout), parts, strict=True):
        write(part, path, overwrite=overwrite)
        if not quiet:
            print_written(part, path)
