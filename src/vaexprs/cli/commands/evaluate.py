"""`vaexprs evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vaexprs.cli.console import plain
from vaexprs.cli.options import (
    CovariateKey,
    Csv,
    DonorKey,
    Generated,
    Json,
    LabelKey,
    Layer,
    Obs,
    Overwrite,
    Quiet,
    Seed,
    TableOut,
    Transpose,
    cells_at,
)
from vaexprs.cli.output import VERDICTS, check_table_options, numbers_cell, output_table, print_answer


def evaluate(
    generated: Generated,
    real: Annotated[Path, typer.Option(help="Real cells, preferably held out from training.")],
    train: Annotated[Path | None, typer.Option(help="Training cells of the model.")] = None,
    label_key: LabelKey = None,
    donor_key: DonorKey = None,
    covariate_key: CovariateKey = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Model of the generated cells: classifiers are tested on a second set drawn from it."
        ),
    ] = None,
    layer: Layer = None,
    transpose: Transpose = None,
    obs: Obs = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Metric to compute, by its name in the table (repeatable; default: all)."),
    ] = None,
    resamples: Annotated[
        int | None,
        typer.Option(help="Number of real-vs-real comparisons per metric, at least 3 (default: 40)."),
    ] = None,
    as_json: Json = False,
    as_csv: Csv = False,
    out: TableOut = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Compare generated with real cells; each metric is shown with its real-vs-real range."""
    check_table_options(as_json, as_csv, out, overwrite)
    from vaexprs.metrics import evaluate as evaluation

    fit = None
    if model is not None:
        from vaexprs.model.load import load_vae

        fit = load_vae(model)
    table = evaluation.evaluate(
        generated,
        cells_at(real, transpose, obs, [label_key, donor_key, covariate_key]),
        train=cells_at(train, transpose, obs, [label_key, donor_key, covariate_key]),
        label_key=label_key,
        donor_key=donor_key,
        covariate_keys=covariate_key or None,
        fit=fit,
        layer=layer,
        seed=seed,
        only=only or None,
        resamples=evaluation.RESAMPLES if resamples is None else resamples,
        progress=not quiet,
    )
    if not (quiet or as_json or as_csv):
        _show_scorecard(table)
    output_table(table, as_json, as_csv, out, quiet=quiet, overwrite=overwrite)


def _show_scorecard(table: Any) -> None:
    from vaexprs.metrics import answers as metric_answers
    from vaexprs.metrics import registry

    console = Console(soft_wrap=True, highlight=False)
    shown = Table("metric", "value", "real vs real", "verdict", box=None, header_style="bold")
    shown.columns[1].justify = "right"
    for row in table[table["label"] == registry.ALL].itertuples():
        value, floor, low, high = numbers_cell(row.value, row.floor, row.floor_low, row.floor_high)
        shown.add_row(
            plain(registry.METRICS[row.metric].title),
            value,
            f"{floor} ({low} to {high})",
            f"[{VERDICTS[row.verdict]}]{row.verdict}[/]",
        )
    console.print(shown)
    labels = table.loc[table["label"] != registry.ALL, "label"].nunique()
    if labels:
        console.print(f"[dim]The full table has the metrics of {labels} labels: --csv, --json or --out.[/]")
    console.print()
    print_answer(console, metric_answers.answers(table), table.attrs["notes"])
