"""`vaexprs augment`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaexprs.cli.console import print_written
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
    numbers,
)
from vaexprs.cli.output import claim


def augment(
    data: Annotated[Path, typer.Argument(help=f"Real cells: {READABLE}.")],
    label_key: Annotated[str, typer.Option(help="Column of obs with the cell type.")],
    out: Annotated[Path, typer.Option(help=WRITABLE)],
    to: Annotated[
        list[str] | None,
        typer.Option(
            help="Cells per type: 'balanced' (as many as the largest type has), a number, or the number of "
            "one type, e.g. 'B cells=500' (repeatable; other types keep their cells).",
            show_default="balanced",
        ),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Folder with a saved model of these cell types (default: fit one).")
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
    """Add generated cells to each cell type up to a target number."""
    from vaexprs.io.write import write

    target = _target(to)
    if model is not None and (covariate_key or n_top_genes is not None or epochs is not None):
        raise ValueError(
            "--model cannot be combined with --covariate-key, --n-top-genes or --epochs, which fit a model."
        )
    claim(out, overwrite=overwrite, cells=True)
    from vaexprs.generation.augment import augment as augment_cells
    from vaexprs.model.load import load_vae

    options = {"n_top_genes": n_top_genes, "epochs": epochs}
    cells = augment_cells(
        cells_at(data, transpose, obs, [label_key, covariate_key]),
        label_key,
        target,
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
        print_written(cells, out)


def _target(texts: list[str] | None) -> str | int | dict[str, int]:
    """Return the number of cells of all types, or numbers by type."""
    if not texts:
        return "balanced"
    if len(texts) == 1 and "=" not in texts[0]:
        return int(texts[0]) if texts[0].isdecimal() else texts[0]
    return numbers(texts, "--to", "B cells=500")
