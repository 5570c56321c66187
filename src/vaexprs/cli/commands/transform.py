"""`vaexprs transform`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaexprs.cli.console import print_written, report_kept_cells
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
    levels,
)
from vaexprs.cli.output import claim


def transform(
    model: Annotated[Path, typer.Argument(help="Folder with a saved model.")],
    data: Annotated[Path, typer.Argument(help=f"Real cells: {READABLE}.")],
    to: Annotated[
        list[str], typer.Option(help="Target condition, e.g. 'stim=ctrl' or 'age=70' (repeatable).")
    ],
    out: Annotated[Path, typer.Option(help=WRITABLE)],
    layer: CountsLayer = None,
    transpose: Transpose = None,
    obs: Obs = None,
    library_size: Annotated[
        float | None,
        typer.Option(help="Library size of the predicted cells, in counts (default: unchanged)."),
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Predict the expression of cells under another condition (counterfactual)."""
    claim(out, overwrite=overwrite, cells=True)
    conditions = levels(to, "--to", "stim=ctrl")
    from vaexprs.generation.transform import transform as transform_cells
    from vaexprs.model.load import load_vae

    with report_kept_cells():
        cells = transform_cells(
            load_vae(model),
            cells_at(data, transpose, obs),
            conditions,
            layer=layer,
            library_size=library_size,
            seed=seed,
            progress=not quiet,
            out=out,
            overwrite=overwrite,
        )
    if not quiet:
        print_written(cells, out)
