"""`vaexprs generate`."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from vaexprs.cli.options import (
    WRITABLE,
    Covariate,
    LibrarySize,
    Overwrite,
    Quiet,
    Seed,
    claim,
    levels,
    pair,
    say_written,
)
from vaexprs.cli.output import report_kept_cells
from vaexprs.interface.errors import reason
from vaexprs.interface.validation import check_file


def generate(
    model: Annotated[Path, typer.Argument(help="Folder with a saved model.")],
    out: Annotated[Path, typer.Option(help=WRITABLE)],
    n: Annotated[int | None, typer.Option("-n", "--num-samples", help="Number of cells.")] = None,
    label: Annotated[str | None, typer.Option(help="The one label all cells shall have.")] = None,
    labels: Annotated[
        list[str] | None, typer.Option(help="Number of cells of a label: 'NK=200' (repeatable).")
    ] = None,
    labels_json: Annotated[Path | None, typer.Option(help='File with numbers: {"NK": 200, ...}.')] = None,
    covariate: Covariate = None,
    conditions: Annotated[
        Path | None,
        typer.Option(
            help="CSV with a row for each wish: columns of conditions, and 'n' for numbers of cells."
        ),
    ] = None,
    library_size: LibrarySize = None,
    batch_size: Annotated[int | None, typer.Option(help="Cells decoded and not yet drawn, at most.")] = None,
    independent: Annotated[
        bool, typer.Option(help="Draw cells independently rather than spread evenly.")
    ] = False,
    dask: Annotated[
        str | None,
        typer.Option(help="Scheduler of a Dask cluster to draw on: tcp://HOST:8786, or a scheduler file."),
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Generate cells from a saved model."""
    asked = _asked_labels(label, labels, labels_json)
    wished = None if conditions is None else _read_conditions(conditions)
    claim(out, overwrite=overwrite, cells=True)
    wanted = levels(covariate, "--covariate", "donor=101")
    from vaexprs.generation.dask import connected
    from vaexprs.generation.generate import gen_exprs
    from vaexprs.model.load import load_vae

    fitted = load_vae(model)
    cluster = nullcontext() if dask is None else connected(dask)
    with report_kept_cells(), cluster as client:
        cells = gen_exprs(
            fitted,
            n,
            batch_size,
            use_generator=batch_size is not None,
            labels=asked,
            covariates=wanted,
            conditions=wished,
            library_size=library_size,
            stratified=not independent,
            seed=seed,
            progress=not quiet,
            out=out,
            overwrite=overwrite,
            client=client,
        )
    if not quiet:
        say_written(cells.adata, out)


def _asked_labels(
    label: str | None, labels: list[str] | None, labels_json: Path | None
) -> str | dict[str, int] | None:
    if sum(option is not None for option in (label, labels or None, labels_json)) > 1:
        raise ValueError("Say --label, --labels or --labels-json, one of the three.")
    if labels:
        pairs = dict(pair(text, "--labels", "NK=200") for text in labels)
        for name, number in pairs.items():
            if not number.isdecimal():
                raise ValueError(
                    f"--labels must give a number of cells, as in 'NK=200', got '{name}={number}'."
                )
        return {name: int(number) for name, number in pairs.items()}
    if labels_json is not None:
        check_file(labels_json)
        try:
            numbers = json.loads(labels_json.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{str(labels_json)!r} is not JSON: {error}") from error
        if not isinstance(numbers, dict):
            raise ValueError(f'{str(labels_json)!r} must hold numbers by label, as in {{"NK": 200}}.')
        return numbers
    return label


def _read_conditions(path: Path) -> Any:
    import pandas as pd

    from vaexprs.io.tables import opened

    check_file(path)
    try:
        # levels are words: 1 is not to become 1.0 where another row has none
        with opened(path) as file:
            table = pd.read_csv(file, dtype=str, keep_default_na=False).replace("", None)
    except ValueError as error:
        raise ValueError(
            f"{str(path)!r} must be a CSV with names of conditions in its first row, and cannot be read as "
            f"such: {reason(error).rstrip('.')}."
        ) from error
    if "n" in table:
        numbers = table["n"].fillna("").str.strip()
        wrong = numbers[~numbers.str.fullmatch("[0-9]+")]
        if len(wrong):
            raise ValueError(
                f"Column 'n' of {str(path)!r} must hold numbers of cells, got {wrong.iloc[0]!r} in row "
                f"{wrong.index[0] + 1}."
            )
        table["n"] = numbers.astype(int)
    return table
