"""`vaexprs report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vaexprs.cli.console import plain
from vaexprs.cli.options import (
    DonorKey,
    Generated,
    LabelKey,
    Layer,
    Obs,
    Overwrite,
    Quiet,
    Seed,
    Transpose,
    cells_at,
)
from vaexprs.cli.output import claim


def report(
    model: Annotated[Path, typer.Argument(help="Folder with a saved model.")],
    generated: Generated,
    real: Annotated[Path, typer.Option(help="Real cells, preferably held out from training.")],
    out: Annotated[Path, typer.Option(help="Output file: .html.")],
    train: Annotated[
        Path | None, typer.Option(help="Training cells of the model; needed for the privacy audit.")
    ] = None,
    label_key: LabelKey = None,
    donor_key: DonorKey = None,
    layer: Layer = None,
    transpose: Transpose = None,
    obs: Obs = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Write an HTML report on the fidelity, privacy and reproducibility of generated cells."""
    from vaexprs.io.read import check_readable
    from vaexprs.report import check_suffix

    claim(check_suffix(out), overwrite=overwrite)
    for path in (generated, real, train):
        if path is not None:
            check_readable(path)
    from vaexprs.model.load import load_vae
    from vaexprs.report import write_report

    write_report(
        load_vae(model),
        generated,
        cells_at(real, transpose, obs, [label_key, donor_key]),
        out,
        train=cells_at(train, transpose, obs, [label_key, donor_key]),
        label_key=label_key,
        donor_key=donor_key,
        layer=layer,
        seed=seed,
        overwrite=overwrite,
        progress=not quiet,
    )
    if not quiet:
        Console().print(f"report -> {plain(str(out))}", soft_wrap=True, highlight=False)
