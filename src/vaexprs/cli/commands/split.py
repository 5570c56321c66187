"""`vaexprs split`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaexprs.cli.options import READABLE, Obs, Overwrite, Quiet, Seed, Transpose, claim, say_written


def split(
    data: Annotated[Path, typer.Argument(help=f"Cells: {READABLE}.")],
    train: Annotated[Path, typer.Option(help="File for the cells to fit.")],
    holdout: Annotated[Path, typer.Option(help="File for those that the model does not see.")],
    fraction: Annotated[float, typer.Option(help="Of the cells, or levels of --by, to hold out.")] = 0.2,
    label_key: Annotated[
        str | None, typer.Option(help="Column of obs with the cell types: each is split in proportion.")
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="Column of obs, such as the donor: each level goes to one side whole.")
    ] = None,
    transpose: Transpose = None,
    obs: Obs = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Hold some cells out, to judge by them what a model of the others generates."""
    from vaexprs.io.read import read
    from vaexprs.io.write import write
    from vaexprs.preprocessing.conditions import column_of_levels
    from vaexprs.preprocessing.splits import split_levels, split_rows

    claim(train, holdout, overwrite=overwrite, cells=True)
    if not 0 < fraction < 1:
        raise ValueError(f"--fraction must be between 0 and 1, got {fraction:g}.")
    if by is not None and label_key is not None:
        raise ValueError("Say --label-key or --by, one of the two.")
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
            f"Both sides must have cells, got {len(rows[0]):,} to fit and {len(rows[1]):,} held out. Choose "
            "another --fraction, or a column with more levels for --by."
        )
    for path, part in zip((train, holdout), rows, strict=True):
        write(cells[part].copy(), path, overwrite=overwrite)
        if not quiet:
            say_written(cells[part], path)
