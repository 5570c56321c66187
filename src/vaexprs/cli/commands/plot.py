"""`vaexprs plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vaexprs.cli.options import Obs, Overwrite, Quiet, Seed, Transpose, cells_at, claim, plain
from vaexprs.interface.validation import did_you_mean

# what a shell completes; the room that knows these names is slow to open
METHODS = ["PCA", "MDS", "TSNE", "UMAP", "NMF", "DiffusionMap"]


def plot(
    source: Annotated[Path, typer.Argument(help="A saved model, or generated cells.")],
    out: Annotated[Path, typer.Option(help="Picture to write: .svg, .png or .pdf (.dot for a model).")],
    real: Annotated[Path | None, typer.Option(help="The real cells to show with generated ones.")] = None,
    method: Annotated[
        str,
        typer.Option(help="PCA, MDS, TSNE, UMAP, NMF or DiffusionMap.", autocompletion=lambda: METHODS),
    ] = "UMAP",
    layer: Annotated[str | None, typer.Option(help="Layer of the real cells with the values.")] = None,
    transpose: Transpose = None,
    obs: Obs = None,
    label_key: Annotated[str | None, typer.Option(help="Column of obs for a panel each.")] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Draw the architecture of a model, or real and generated cells together."""
    claim(out, overwrite=overwrite)
    if (source / "meta.json").is_file():
        from vaexprs.model.load import load_vae
        from vaexprs.plotting.model_graph import plot_vae

        plot_vae(load_vae(source)).save(out, overwrite=overwrite)
    else:
        from vaexprs.io.open import open_cells
        from vaexprs.plotting.embedding import has_groups, plot_aug, save_figure

        cells = open_cells(source, name="source")
        if real is None and not has_groups(cells):
            raise ValueError("Give the real cells too: --real DATA.h5ad.")
        figure = plot_aug(
            cells,
            _method(method),
            real=cells_at(real, transpose, obs),
            layer=layer,
            label_key=label_key,
            seed=seed,
        )
        save_figure(figure, out, overwrite=overwrite)
    if not quiet:
        Console().print(f"picture -> {plain(str(out))}")


def _method(name: str) -> str:
    from vaexprs.plotting.reductions import REDUCTIONS

    known = {method.lower(): method for method in REDUCTIONS}
    if name.lower() not in known:
        raise ValueError(
            f"--method must be one of {', '.join(REDUCTIONS)}, got {name!r}.{did_you_mean(name, REDUCTIONS)}"
        )
    return known[name.lower()]
