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
    from vaexprs.preprocessing.conditions import column_of_levels
    from vaexprs.preprocessing.splits import split_levels, split_rows

    claim(train, holdout, overwrite=overwrite, cells=True)
    if not 0 < fraction < 1:
        raise ValueError(f"--fraction must be between 0 and 1, got {fraction:g}.")
    if by is not None and label_key is not None:
        raise ValueError("--label-key and --by cannot be combined. Choose one of them.")
    cells = read(data, transpose=transpose, obs=obs)
    if by is not None:
        rows = split_levels(column_of_levels(cells.obs, by, "--by").to_numpy(str), fraction, seed)
    else:
        labels = (
            None if label_key is None else column_of_levels(cells.obs, label_key, "--label-key").to_numpy(str)
        )
        rows = split_rows(labels, cells.n_obs, fraction, seed)
    if not all(map(len, rows)):
        raise ValueError(
            f"Both parts must contain cells, got {len(rows[0]):,} for training and {len(rows[1]):,} held "
            "out. Try another --fraction, or a column with more levels for --by."
        )
    for path, part in zip((train, holdout), rows, strict=True):
        write(cells[part].copy(), path, overwrite=overwrite)
        if not quiet:
            print_written(cells[part], path)
