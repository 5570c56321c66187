"""`vaexprs compare`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vaexprs.cli.console import plain
from vaexprs.cli.options import (
    READABLE,
    CovariateKey,
    Csv,
    DonorKey,
    Json,
    LabelKey,
    Layer,
    Obs,
    Overwrite,
    Quiet,
    Seed,
    Transpose,
    cells_at,
)
from vaexprs.cli.output import check_table_options, claim, numbers_cell, output_table, page_of
from vaexprs.interface.verdicts import LEVELS, UNKNOWN


def compare(
    generated: Annotated[
        list[Path], typer.Argument(help=f"Generated cells, one file per generator: {READABLE}.")
    ],
    real: Annotated[Path, typer.Option(help="Real cells, preferably held out from training.")],
    train: Annotated[Path | None, typer.Option(help="Training cells of the generators.")] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a generator, in the order of the files (repeatable; default: file names)."
        ),
    ] = None,
    controls: Annotated[
        bool,
        typer.Option(
            "--controls", help="Also evaluate real cells and cells with independent genes; requires --train."
        ),
    ] = False,
    label_key: LabelKey = None,
    donor_key: DonorKey = None,
    covariate_key: CovariateKey = None,
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
    out: Annotated[
        Path | None, typer.Option(help="Output file: .html for a page, .csv or .json for the table.")
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Compare several generators with the same real cells, in one table or on one page."""
    page = page_of(out)
    check_table_options(as_json, as_csv, None if page else out, overwrite)
    if page is not None:
        claim(page, overwrite=overwrite)
    files = _named(generated, name)
    if controls and train is None:
        raise ValueError("--controls requires training cells. Give them as --train, or leave out --controls.")
    from vaexprs.io.read import check_readable

    for path in (*generated, real, train):
        if path is not None:
            check_readable(path)
    from vaexprs.metrics import compare as comparison
    from vaexprs.metrics import evaluate as evaluation

    table = comparison.compare(
        files,
        cells_at(real, transpose, obs, [label_key, donor_key, covariate_key]),
        train=cells_at(train, transpose, obs, [label_key, donor_key, covariate_key]),
        label_key=label_key,
        donor_key=donor_key,
        covariate_keys=covariate_key or None,
        layer=layer,
        seed=seed,
        only=only or None,
        resamples=evaluation.RESAMPLES if resamples is None else resamples,
        controls=controls,
        progress=not quiet,
    )
    if not (quiet or as_json or as_csv):
        _show(table)
    output_table(table, as_json, as_csv, None if page else out, quiet=quiet, overwrite=overwrite)
    if page is not None:
        from vaexprs.report.comparison import write_comparison

        settings: dict[str, Any] = {each: str(path) for each, path in files.items()}
        settings |= {"--real": real, "--train": train, "--label-key": label_key, "--donor-key": donor_key}
        settings |= {
            "--covariate-key": ", ".join(covariate_key or []) or None,
            "--layer": layer,
            "--seed": seed,
        }
        settings |= {"--only": ", ".join(only or []) or None, "--resamples": resamples}
        write_comparison(table, page, settings=settings, overwrite=overwrite)
        if not (quiet or as_json or as_csv):
            Console().print(f"page -> {plain(str(page))}", soft_wrap=True, highlight=False)


def _named(files: list[Path], names: list[str] | None) -> Mapping[str, Path]:
    """Return the files by the name of their generator, by default the file name without its suffix."""
    if names and len(names) != len(files):
        raise ValueError(
            f"--name must be given once for each of the {len(files)} files, got {len(names)} "
            f"name{'' if len(names) == 1 else 's'}."
        )
    given = names or [path.stem for path in files]
    double = next((each for each in given if given.count(each) > 1), None)
    if double is not None:
        advice = "Choose other names." if names else "Name each file with --name."
        raise ValueError(f"The names of generators must be unique, got {double!r} more than once. {advice}")
    return dict(zip(given, files, strict=True))


def _show(table: Any) -> None:
    from vaexprs.metrics.compare import view

    shown = view(table)
    console = Console(soft_wrap=True, highlight=False)
    grid = Table("", *map(plain, shown["generators"]), "real vs real", box=None, header_style="bold")
    for column in grid.columns:
        column.overflow = "fold"  # in a narrow terminal, names are wrapped instead of cut
    for column in grid.columns[1:]:
        column.justify = "right"
    for row in shown["questions"]:
        marks = [
            LEVELS[entry["kind"]].in_terminal("" if LEVELS[entry["kind"]] is UNKNOWN else entry["word"])
            for entry in row["entries"]
        ]
        grid.add_row(f"[bold]{row['question']}[/]", *marks, "")
    grid.add_section()
    for row in shown["metrics"]:
        floor, low, high = numbers_cell(row["floor"], row["low"], row["high"])
        values = [
            LEVELS[entry["kind"]].in_terminal(numbers_cell(entry["value"])[0]) for entry in row["entries"]
        ]
        grid.add_row(plain(row["title"]), *values, f"{floor} ({low} to {high})")
    console.print(grid)
    n_labels = len(shown["labels"])
    if n_labels:
        console.print(f"[dim]The full table has the metrics of {n_labels} labels: --csv, --json or --out.[/]")
    console.print()
    for control, what in shown["controls"].items():
        console.print(f"[dim]{plain(control)}: {what}.[/]")
    for note, names in shown["notes"]:
        console.print(f"[dim]{plain(', '.join(names) + ': ' if names else '')}{plain(note)}[/]")
