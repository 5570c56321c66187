"""`vaexprs power`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vaexprs.cli.console import plain
from vaexprs.cli.options import (
    Csv,
    Direction,
    FoldSd,
    Genes,
    Json,
    MinMean,
    Overwrite,
    Quiet,
    Seed,
    effects_of,
)
from vaexprs.cli.output import check_table_options, claim, numbers_cell, output_table, page_of


def power(
    model: Annotated[Path, typer.Argument(help="Folder with a model fitted with --donor-key.")],
    donors: Annotated[list[int], typer.Option(help="Donors of each of two groups (repeatable).")],
    cells: Annotated[list[int], typer.Option(help="Cells of the label from each donor (repeatable).")],
    label: Annotated[
        str | None, typer.Option(help="Label whose cells are compared; required if there are several.")
    ] = None,
    depth: Annotated[
        list[float] | None, typer.Option(help="Factor of the library sizes (repeatable; default: 1).")
    ] = None,
    log2_fold_change: Annotated[
        list[float] | None, typer.Option(help="Log2 fold change of altered genes (repeatable; default: 1).")
    ] = None,
    genes: Genes = None,
    sd: FoldSd = None,
    direction: Direction = None,
    min_mean: MinMean = None,
    test: Annotated[
        str, typer.Option(help="t-test or pydeseq2 (of pseudobulks), or wilcoxon (of cells).")
    ] = "t-test",
    replicates: Annotated[int, typer.Option(help="Number of simulated studies of each design.")] = 10,
    fdr: Annotated[float, typer.Option(help="False discovery rate.")] = 0.05,
    jobs: Annotated[
        int | None,
        typer.Option(help="Simulated studies that are computed at the same time (default: number of cores)."),
    ] = None,
    as_json: Json = False,
    as_csv: Csv = False,
    out: Annotated[
        Path | None, typer.Option(help="Output file: .html for a page, .csv or .json for the table.")
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Estimate the power of planned studies by simulation, for all combinations of the given numbers."""
    page = page_of(out)
    check_table_options(as_json, as_csv, None if page else out, overwrite)
    if page is not None:
        claim(page, overwrite=overwrite)
    grid: dict[str, Any] = {"donors": donors, "cells": cells}
    if depth:
        grid["depth"] = depth
    if log2_fold_change:
        grid["log2_fold_change"] = log2_fold_change
    effects = effects_of(genes=genes, sd=sd, direction=direction, min_mean=min_mean)
    from vaexprs.model.load import load_vae
    from vaexprs.studies import power as studies

    result = studies.power(
        load_vae(model),
        grid,
        effects,
        label=label,
        test=test,
        replicates=replicates,
        fdr=fdr,
        seed=seed,
        jobs=jobs,
        progress=not quiet,
    )
    if not (quiet or as_json or as_csv):
        _show(result)
    output_table(result.table, as_json, as_csv, None if page else out, quiet=quiet, overwrite=overwrite)
    if page is not None:
        from vaexprs.report.power import write_power

        write_power(result, page, settings={"model": model, "--replicates": replicates}, overwrite=overwrite)
        if not (quiet or as_json or as_csv):
            Console().print(f"page -> {plain(str(page))}", soft_wrap=True, highlight=False)


def _show(result: Any) -> None:
    console = Console(soft_wrap=True, highlight=False)
    numbers = ["donors", "cells", "depth", "log2 fold change"]
    grid = Table(*numbers, "power", "95% interval", "false discoveries", box=None, header_style="bold")
    for column in grid.columns:
        column.justify = "right"
    for row in result.table.to_dict("records"):
        power, low, high, false = numbers_cell(row["power"], row["power_low"], row["power_high"], row["fdr"])
        design = numbers_cell(row["donors"], row["cells"], row["depth"], row["log2_fold_change"])
        grid.add_row(*design, power, low if low == high else f"{low} to {high}", false)
    console.print(grid)
    console.print()
    for sentence in result.sentences:
        console.print(plain(sentence))
