"""`vaexprs plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vaexprs.cli.console import plain
from vaexprs.cli.options import Obs, Overwrite, Quiet, Seed, Transpose, cells_at
from vaexprs.cli.output import claim
from vaexprs.interface.validation import did_you_mean

# static copy of REDUCTIONS for help and completion: importing it loads numba and scikit-learn
METHODS = ["PCA", "MDS", "TSNE", "UMAP", "NMF", "DiffusionMap"]


def plot(
    source: Annotated[Path, typer.Argument(help="Folder with a saved model, or file with generated cells.")],
    out: Annotated[Path, typer.Option(help="Output file: .svg, .png or .pdf (also .dot for a model).")],
    real: Annotated[Path | None, typer.Option(help="Real cells to plot with the generated cells.")] = None,
    method: Annotated[
        str,
        typer.Option(help=f"Embedding method: {', '.join(METHODS)}.", autocompletion=lambda: METHODS),
    ] = "UMAP",
    layer: Annotated[str | None, typer.Option(help="Layer of the real cells to plot (default: X).")] = None,
    transpose: Transpose = None,
    obs: Obs = None,
    label_key: Annotated[
        str | None, typer.Option(help="Column of obs with one panel per value (default: label of the model).")
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option("--label", help="Label to plot (repeatable; default: all).", show_default=False),
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Plot the architecture of a model, or an embedding of real and generated cells."""
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
            raise ValueError("--real is required to plot generated cells. Try --real DATA.h5ad.")
        figure = plot_aug(
            cells,
            _method(method),
            real=cells_at(real, transpose, obs, [label_key]),
            layer=layer,
            label_key=label_key,
            labels=labels,
            seed=seed,
        )
        save_figure(figure, out, overwrite=overwrite)
    if not quiet:
        Console().print(f"figure -> {plain(str(out))}")


def _method(name: str) -> str:
    from vaexprs.plotting.reductions import REDUCTIONS

    known = {method.lower(): method for method in REDUCTIONS}
    if name.lower() not in known:
        raise ValueError(
            f"--method must be one of {', '.join(REDUCTIONS)}, got {name!r}.{did_you_mean(name, REDUCTIONS)}"
        )
    return known[name.lower()]
