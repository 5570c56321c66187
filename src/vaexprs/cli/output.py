"""Output files, tables and verdicts of several commands."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from vaexprs.cli.console import plain
from vaexprs.interface import verdicts

OUTPUTS = ExitStack()  # claims on the output paths of the running command; `main` releases them


def claim(*paths: Path, overwrite: bool, cells: bool = False) -> None:
    """Check that each output path can be written, and exclude other processes from it until the command ends.

    Parameters
    ----------
    paths
        Output paths.
    overwrite
        Whether existing output may be replaced.
    cells
        Whether the suffix must be that of a file format for cells.
    """
    from vaexprs.io.atomic import check_output, claimed
    from vaexprs.io.write import check_new_cells

    for path in paths:
        (check_new_cells if cells else check_output)(path, overwrite=overwrite)
        OUTPUTS.enter_context(claimed(path))
        check_output(path, overwrite=overwrite)  # claiming restores output that a killed process set aside


def check_table_options(as_json: bool, as_csv: bool, out: Path | None, overwrite: bool) -> None:
    """Check that at most one table format is requested and that the output can be written."""
    if as_json and as_csv:
        raise ValueError("--json and --csv cannot be combined. Choose one of them.")
    if out is not None:
        if out.suffix not in (".csv", ".json"):
            raise ValueError(f"--out must be a .csv or .json file, got {out.name!r}.")
        claim(out, overwrite=overwrite)


def page_of(out: Path | None) -> Path | None:
    """Return the path of the page, or None if the output is a table."""
    if out is None or out.suffix in (".csv", ".json"):
        return None
    if out.suffix.lower() != ".html":
        raise ValueError(f"--out must be a .html, .csv or .json file, got {out.name!r}.")
    return out


def output_table(
    table: Any, as_json: bool, as_csv: bool, out: Path | None, *, quiet: bool, overwrite: bool
) -> None:
    """Print a table in the requested format, and write it to `out` if given."""
    from vaexprs.io.atomic import written_whole
    from vaexprs.io.tables.fields import guarded

    safe = table.map(lambda value: guarded([value])[0] if isinstance(value, str) else value)
    texts = {
        ".json": table.to_json(orient="records", indent=1, double_precision=15) + "\n",
        ".csv": safe.to_csv(index=False),
    }
    if as_json or as_csv:
        typer.echo(texts[".json" if as_json else ".csv"], nl=False)
    if out is not None:
        with written_whole(out, overwrite=overwrite) as temporary:
            temporary.write_text(texts[out.suffix], encoding="utf-8")
        if not (quiet or as_json or as_csv):
            Console().print(f"table -> {plain(str(out))}", soft_wrap=True, highlight=False)


# Rich rejects an empty style, so a level without a colour has the default colour
VERDICTS = {verdict: level.color or "default" for verdict, level in verdicts.VERDICTS.items()}


def print_answer(console: Console, answers: Iterable[Any], notes: Iterable[str]) -> None:
    """Print the answers with their verdicts, then the notes."""
    for each in answers:
        level = verdicts.LIGHTS[each.light]
        mark = level.in_terminal("" if level is verdicts.UNKNOWN else level.word)
        console.print(f"{mark} [bold]{each.question}[/] {plain(each.sentence)}")
    for note in notes:
        console.print(f"[dim]{plain(note)}[/]")


def numbers_cell(*values: float) -> list[str]:
    """Return numbers formatted for a table."""
    return [f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}" for value in values]
