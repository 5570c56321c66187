"""Tables and verdicts printed by several commands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from vaexprs.cli.options import Stopped, claim, plain
from vaexprs.interface import verdicts


def check_table_options(as_json: bool, as_csv: bool, out: Path | None, overwrite: bool) -> None:
    """Check that at most one table format is requested and that the output can be written."""
    if as_json and as_csv:
        raise ValueError("Say --json or --csv, one of the two.")
    if out is not None:
        if out.suffix not in (".csv", ".json"):
            raise ValueError(f"The table must be written to a .csv or .json file, got {out.name!r}.")
        claim(out, overwrite=overwrite)


def output_table(
    table: Any, as_json: bool, as_csv: bool, out: Path | None, *, quiet: bool, overwrite: bool
) -> None:
    """Print a table as asked for, and write it."""
    from vaexprs.io.atomic import written_whole
    from vaexprs.io.tables import guarded

    safe = table.map(lambda value: guarded([value])[0] if isinstance(value, str) else value)
    texts = {
        ".json": table.to_json(orient="records", indent=1, double_precision=15) + "\n",
        ".csv": safe.to_csv(index=False),
    }
    if as_json or as_csv:
        typer.echo(texts[".json" if as_json else ".csv"], nl=False)
    if out is not None:
        with written_whole(out, overwrite=overwrite) as beside:
            beside.write_text(texts[out.suffix], encoding="utf-8")
        if not (quiet or as_json or as_csv):
            Console().print(f"table -> {plain(str(out))}", soft_wrap=True, highlight=False)


VERDICTS = {verdict: level.color for verdict, level in verdicts.VERDICTS.items()}


def print_answer(console: Console, answers: Iterable[Any], notes: Iterable[str]) -> None:
    """Print answers with their verdicts, and the notes."""
    for each in answers:
        level = verdicts.LIGHTS[each.light]
        mark = level.in_terminal("" if level is verdicts.UNKNOWN else level.word)
        console.print(f"{mark} [bold]{each.question}[/] {plain(each.sentence)}")
    for note in notes:
        console.print(f"[dim]{plain(note)}[/]")


def numbers_cell(*values: float) -> list[str]:
    """Format numbers for a cell of a table."""
    return [f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}" for value in values]


@contextmanager
def report_kept_cells() -> Iterator[None]:
    """Say what there is after Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if not stop.args:
            raise
        Console(stderr=True).print(f"Interrupted; {plain(str(stop))}", soft_wrap=True, highlight=False)
        raise Stopped from None
