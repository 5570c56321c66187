"""What several commands take and say."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from vaexprs.io.formats import FORMATS, WRITERS

Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
LibrarySize = Annotated[
    float | None, typer.Option(help="Counts a generated cell to aim at; by default like the real ones.")
]
CountsLayer = Annotated[
    str | None, typer.Option(help="Layer with the counts, X for X; by default they are looked for.")
]
WRITABLE = f"File to write: {', '.join(WRITERS)} (.mtx writes a 10x folder)."
READABLE = f"{', '.join(each.suffixes[0] for each in FORMATS)} or a 10x folder"
CovariateKey = Annotated[
    list[str] | None, typer.Option(help="Column of obs with donor, batch, treatment ... (repeatable).")
]
Covariate = Annotated[list[str] | None, typer.Option(help="Level of a covariate: 'donor=101' (repeatable).")]
NTopGenes = Annotated[
    int | None, typer.Option(help="Take only so many of the genes, the most variable; by default all.")
]
Epochs = Annotated[int | None, typer.Option(help="Passes over the cells; by default from their number.")]
Transpose = Annotated[
    bool | None,
    typer.Option(
        "--transpose/--no-transpose",
        help="Whether tables of real cells have genes in rows; by default told by the names.",
        show_default=False,
    ),
]
Obs = Annotated[
    Path | None,
    typer.Option(help="CSV with columns of the cells, such as their types; its first column names them."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there under the name.")]


INTERRUPTED = 130  # the status that Typer gives for Ctrl-C


class Stopped(SystemExit):
    """Ends a command that Ctrl-C stopped and that has said so itself."""

    code = INTERRUPTED


def plain(text: str) -> str:
    """Return a text for the console: what looks like markup is shown, and so are control characters.

    Names come from files of strangers, and a terminal would do what an escape sequence in them says.
    """
    return escape("".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text))


OUTPUTS = ExitStack()  # what the command has claimed; `main` lets go of it


def claim(*paths: Path, overwrite: bool, cells: bool = False) -> None:
    """Check that something may be written to each path, and keep other processes from it until the end.

    Parameters
    ----------
    paths
        Where results will be.
    overwrite
        Whether what is there may be replaced.
    cells
        Whether they must end in the suffix of a format of cells.
    """
    from vaexprs.io.atomic import check_output, claimed
    from vaexprs.io.write import check_new_cells

    for path in paths:
        (check_new_cells if cells else check_output)(path, overwrite=overwrite)
        OUTPUTS.enter_context(claimed(path))
        check_output(path, overwrite=overwrite)  # a killed process may have left it set aside


def say_written(cells: Any, out: Path) -> None:
    """Say how many cells went where."""
    Console().print(f"{cells.n_obs:,} cells x {cells.n_vars:,} genes -> {plain(str(out))}")


def pair(text: str, option: str, example: str) -> tuple[str, str]:
    """Return the two sides of ``name=value``.

    Raises
    ------
    ValueError
        If it does not look like that; the message names the option and shows an example.
    """
    name, equals, value = text.rpartition("=")
    if not equals or not name or not value:
        raise ValueError(f"{option} must look like '{example}', got {text!r}.")
    return name, value


def levels(texts: list[str] | None, option: str, example: str) -> dict[str, str] | None:
    """Return levels by name of a repeatable option; None where it was not given."""
    return dict(pair(text, option, example) for text in texts) if texts else None


def cells_at(path: Path | None, transpose: bool | None, obs: Path | None = None) -> Any:
    """Return a path, or the cells where there is more to be said of how to read them."""
    if path is None or (transpose is None and obs is None):
        return path
    from vaexprs.io.read import read

    return read(path, transpose=transpose, obs=obs)


Generated = Annotated[Path, typer.Argument(help=f"Generated cells: {READABLE}.")]
LabelKey = Annotated[
    str | None, typer.Option(help="Column of obs with the label; by default that of the generated cells.")
]
DonorKey = Annotated[str | None, typer.Option(help="Column of obs with the donor.")]
Layer = Annotated[
    str | None,
    typer.Option(help="Layer of the real cells with the counts, X for X; by default they are looked for."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the table as JSON, a list of rows.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print the table as CSV.")]
TableOut = Annotated[Path | None, typer.Option(help="File for the table: .csv or .json.")]
