"""Options and arguments shared by several commands, and the parsing of their values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vaexprs.interface.errors import reason
from vaexprs.interface.validation import as_keys, check_file
from vaexprs.io.formats import FOLDER, READERS, WRITERS

PLAIN = [suffix for suffix in READERS if suffix != FOLDER and not suffix.endswith(".gz")]
READABLE = f"{', '.join(PLAIN)} (text also .gz) or a 10x folder"
TEXT = ("", ".txt", ".list", ".csv", ".tsv")  # suffixes of files with a gene name per line
WRITTEN = ", ".join(suffix for suffix in WRITERS if suffix in PLAIN)
WRITABLE = f"Output file: {WRITTEN} (text also .gz; .mtx is a 10x folder)."

Generated = Annotated[Path, typer.Argument(help=f"Generated cells: {READABLE}.")]
Obs = Annotated[
    Path | None,
    typer.Option(help="CSV file with cell metadata, e.g. cell types; its first column holds the cell names."),
]
Transpose = Annotated[
    bool | None,
    typer.Option(
        "--transpose/--no-transpose",
        help="Whether tables of real cells have genes in rows (default: inferred from the names).",
        show_default=False,
    ),
]
CountsLayer = Annotated[
    str | None, typer.Option(help="Layer with raw counts, or X (default: detected from the values).")
]
Layer = Annotated[
    str | None,
    typer.Option(help="Layer of the real cells with raw counts, or X (default: detected from the values)."),
]
LabelKey = Annotated[
    str | None, typer.Option(help="Column of obs with the label (default: that of the generated cells).")
]
CovariateKey = Annotated[
    list[str] | None,
    typer.Option(help="Column of obs with a covariate, e.g. donor, batch or treatment (repeatable)."),
]
ContinuousKey = Annotated[
    list[str] | None,
    typer.Option(help="Column of obs with a covariate that is a number, e.g. age or dose (repeatable)."),
]
DonorKey = Annotated[str | None, typer.Option(help="Column of obs with the donor.")]
Covariate = Annotated[
    list[str] | None,
    typer.Option(help="Covariate of the generated cells, e.g. 'donor=101' or 'age=40' (repeatable)."),
]
LibrarySize = Annotated[
    float | None,
    typer.Option(help="Library size of the generated cells, in counts (default: like that of real cells)."),
]
NTopGenes = Annotated[
    int | None, typer.Option(help="Number of highly variable genes to fit (default: all genes).")
]
Epochs = Annotated[
    int | None, typer.Option(help="Number of epochs (default: chosen from the number of cells).")
]
Genes = Annotated[
    str | None,
    typer.Option(
        help="Altered genes: their number, or their fraction below 1 (default: 0.1).", metavar="NUMBER"
    ),
]
FoldSd = Annotated[
    float | None, typer.Option("--sd", help="Standard deviation of the log2 fold changes (default: 0).")
]
Direction = Annotated[
    str | None, typer.Option(help="Direction of the changes: both, up or down (default: both).")
]
MinMean = Annotated[
    float | None, typer.Option(help="Minimum mean count per cell of altered genes (default: 0).")
]
Json = Annotated[bool, typer.Option("--json", help="Print the table as JSON, a list of rows.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print the table as CSV.")]
TableOut = Annotated[Path | None, typer.Option(help="Output file for the table: .csv or .json.")]
Seed = Annotated[int, typer.Option(help="Random seed.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and errors.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing output.")]


def pair(text: str, option: str, example: str) -> tuple[str, str]:
    """Return the two sides of ``name=value``.

    Raises
    ------
    ValueError
        If the text does not have this form; the message names the option and shows an example.
    """
    name, equals, value = text.rpartition("=")
    if not equals or not name or not value:
        raise ValueError(f"{option} must look like '{example}', got {text!r}.")
    return name, value


def numbers(texts: list[str] | None, option: str, example: str) -> dict[str, int]:
    """Return the whole numbers of a repeatable ``name=number`` option by name.

    Raises
    ------
    ValueError
        If a text does not have this form, or a name is given twice.
    """
    found: dict[str, int] = {}
    for text in texts or []:
        name, number = pair(text, option, example)
        if not number.isdecimal():
            raise ValueError(f"{option} must give a whole number, as in '{example}', got {text!r}.")
        if name in found:
            raise ValueError(f"{option} must be given once for each name, got {name!r} twice.")
        found[name] = int(number)
    return found


def effects_of(**given: Any) -> Any:
    """Return `Effects` with the given arguments; those that are None have their defaults.

    Raises
    ------
    ValueError
        If "genes" is neither a whole number nor a fraction below 1.
    """
    from vaexprs.studies.effects import Effects

    arguments = {name: value for name, value in given.items() if value is not None}
    if "genes" in arguments:
        text = arguments["genes"]
        try:
            arguments["genes"] = int(text) if text.isdecimal() else float(text)
        except ValueError:
            raise ValueError(
                f"--genes must be a number of genes or a fraction below 1, got {text!r}. Try 0.1."
            ) from None
    return Effects(**arguments)


def text_table(path: Path, content: str) -> Any:
    """Read a CSV file as text, with None for empty fields; numbers are not converted.

    Parameters
    ----------
    path
        The file.
    content
        Expected columns, for the message.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a CSV file.
    """
    import pandas as pd

    from vaexprs.io.tables.fields import read_texts
    from vaexprs.io.text import opened

    check_file(path)
    try:
        # names are text: pandas would turn 1 into 1.0 if another row has no value
        with opened(path) as file:
            table = pd.read_csv(file, dtype=str, keep_default_na=False)
        texts = table.apply(read_texts)
        return texts.where(texts.notna(), None)
    except ValueError as error:
        raise ValueError(
            f"{str(path)!r} must be a CSV file with {content} in its first row, but cannot be read: "
            f"{reason(error).rstrip('.')}."
        ) from error


def levels(texts: list[str] | None, option: str, example: str) -> dict[str, str] | None:
    """Return the levels of a repeatable ``name=level`` option by name, or None if it was not given."""
    return dict(pair(text, option, example) for text in texts) if texts else None


def cells_at(
    path: Path | None, transpose: bool | None, obs: Path | None = None, keys: Sequence[Any] = ()
) -> Any:
    """Return the path, or the cells read from it if `transpose` or `obs` is given.

    `keys` are columns of `obs` that the command needs, as in `open_cells`.
    """
    if path is None or (transpose is None and obs is None):
        return path
    from vaexprs.io.convert import columns_to_obs
    from vaexprs.io.read import read_cells

    wanted = [each for key in keys for each in as_keys(key) if isinstance(each, str)]
    return columns_to_obs(read_cells(path, transpose=transpose, obs=obs, keys=wanted), wanted)


def gene_list(path: Path) -> list[str]:
    """Return the gene names in a text file, the first field of each line, or those of a data set.

    Raises
    ------
    ValueError
        If the file is neither.
    """
    if path.suffix.lower() not in TEXT:
        from vaexprs.io.read import read

        return list(map(str, read(path).var_names))
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"--genes must be a text file with a gene name per line, but {str(path)!r} is not text: "
            f"{reason(error)}"
        ) from error
    fields = [re.split(r"[,\t]", line)[0].strip().strip('"') for line in lines]
    names = [name for name in fields if name]
    if not names:
        raise ValueError(f"--genes must name at least one gene, got an empty file {str(path)!r}.")
    return names
