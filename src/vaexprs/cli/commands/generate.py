"""`vaexprs generate`."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from vaexprs.cli.console import print_written, report_kept_cells
from vaexprs.cli.options import (
    WRITABLE,
    Covariate,
    LibrarySize,
    Overwrite,
    Quiet,
    Seed,
    levels,
    numbers,
    pair,
    text_table,
)
from vaexprs.cli.output import claim
from vaexprs.interface.validation import check_file


def generate(
    model: Annotated[Path, typer.Argument(help="Folder with a saved model.")],
    out: Annotated[Path, typer.Option(help=WRITABLE)],
    n: Annotated[int | None, typer.Option("-n", "--num-samples", help="Number of cells.")] = None,
    label: Annotated[str | None, typer.Option(help="Label of all generated cells.")] = None,
    labels: Annotated[
        list[str] | None, typer.Option(help="Number of cells of one label, e.g. 'NK=200' (repeatable).")
    ] = None,
    labels_json: Annotated[
        Path | None, typer.Option(help='JSON file with the number of cells per label: {"NK": 200, ...}.')
    ] = None,
    covariate: Covariate = None,
    conditions: Annotated[
        Path | None,
        typer.Option(
            help="CSV file with one combination of label and covariates per row; "
            "column 'n' is its number of cells."
        ),
    ] = None,
    library_size: LibrarySize = None,
    donors: Annotated[
        list[str] | None,
        typer.Option(
            help="Number of new donors (of a model fitted with --donor-key), or of a level of a covariate, "
            "e.g. 'ctrl=8' (repeatable)."
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Maximum number of decoded cells waiting to be sampled.")
    ] = None,
    independent: Annotated[  # accepted for scripts written for version 0.1
        bool, typer.Option("--independent", hidden=True, help="Ignored: cells are always independent draws.")
    ] = False,
    dask: Annotated[
        str | None,
        typer.Option(help="Dask scheduler of the cluster to use: tcp://HOST:8786, or a scheduler file."),
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Generate cells from a saved model."""
    requested = _requested_labels(label, labels, labels_json)
    new_donors = _new_donors(donors)
    table = None if conditions is None else _read_conditions(conditions)
    claim(out, overwrite=overwrite, cells=True)
    covariates = levels(covariate, "--covariate", "donor=101")
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
            labels=requested,
            covariates=covariates,
            conditions=table,
            library_size=library_size,
            donors=new_donors,
            seed=seed,
            progress=not quiet,
            out=out,
            overwrite=overwrite,
            client=client,
        )
    if not quiet:
        print_written(cells.adata, out)


def _new_donors(texts: list[str] | None) -> int | dict[str, int] | None:
    """Return the number of new donors, or numbers by level."""
    if texts and len(texts) == 1 and texts[0].isdecimal():
        return int(texts[0])
    return numbers(texts, "--donors", "ctrl=8") or None


def _requested_labels(
    label: str | None, labels: list[str] | None, labels_json: Path | None
) -> str | dict[str, int] | None:
    """Return the label, or the number of cells per label, from the one of three options that was given."""
    if sum(option is not None for option in (label, labels or None, labels_json)) > 1:
        raise ValueError("--label, --labels and --labels-json cannot be combined. Choose one of them.")
    if labels:
        return dict(_label_count(text) for text in labels)
    return label if labels_json is None else _read_label_counts(labels_json)


def _label_count(text: str) -> tuple[str, int]:
    name, number = pair(text, "--labels", "NK=200")
    if not number.isdecimal():
        raise ValueError(f"--labels must give a number of cells, as in 'NK=200', got {text!r}.")
    return name, int(number)


def _read_label_counts(path: Path) -> dict[str, int]:
    """Read numbers of cells by label from a JSON file."""
    check_file(path)
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not valid JSON: {error}") from error
    if not isinstance(numbers, dict):
        raise ValueError(
            f"{str(path)!r} must contain an object with the number of cells per label, as in "
            f'{{"NK": 200}}, got {type(numbers).__name__}.'
        )
    return numbers


def _read_conditions(path: Path) -> Any:
    """Read a table of conditions: levels as text, and the column 'n' as numbers of cells."""
    table = text_table(path, "the label and covariates")
    if "n" in table:
        numbers = table["n"].fillna("").str.strip()
        invalid = numbers[~numbers.str.fullmatch("[0-9]+")]
        if len(invalid):
            raise ValueError(
                f"Column 'n' of {str(path)!r} must contain numbers of cells, got {invalid.iloc[0]!r} in row "
                f"{invalid.index[0] + 1}."
            )
        table["n"] = numbers.astype(int)
    return table
