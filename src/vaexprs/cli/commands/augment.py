"""`vaexprs augment`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaexprs.cli.options import (
    READABLE,
    WRITABLE,
    CountsLayer,
    CovariateKey,
    Epochs,
    LibrarySize,
    NTopGenes,
    Obs,
    Overwrite,
    Quiet,
    Seed,
    Transpose,
    cells_at,
    claim,
    say_written,
)


def augment(
    data: Annotated[Path, typer.Argument(help=f"Real cells: {READABLE}.")],
    label_key: Annotated[str, typer.Option(help="Column of obs with the cell types.")],
    out: Annotated[Path, typer.Option(help=WRITABLE)],
    to: Annotated[
        str, typer.Option(help="Cells each type shall have: 'balanced' (as the largest), or a number.")
    ] = "balanced",
    model: Annotated[
        Path | None, typer.Option(help="Folder with a saved model of such cells; by default one is fitted.")
    ] = None,
    covariate_key: CovariateKey = None,
    layer: CountsLayer = None,
    transpose: Transpose = None,
    obs: Obs = None,
    n_top_genes: NTopGenes = None,
    epochs: Epochs = None,
    library_size: LibrarySize = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Top up the cells of each type with generated ones."""
    from vaexprs.io.write import write

    claim(out, overwrite=overwrite, cells=True)
    from vaexprs.generation.augment import augment as topped_up
    from vaexprs.model.load import load_vae

    options = {"n_top_genes": n_top_genes, "epochs": epochs}
    cells = topped_up(
        cells_at(data, transpose, obs),
        label_key,
        int(to) if to.isdecimal() else to,
        covariate_keys=covariate_key or (),
        fit=None if model is None else load_vae(model),
        layer=layer,
        library_size=library_size,
        seed=seed,
        progress=not quiet,
        **{name: value for name, value in options.items() if value is not None},
    )
    write(cells, out, overwrite=overwrite)
    if not quiet:
        say_written(cells, out)
