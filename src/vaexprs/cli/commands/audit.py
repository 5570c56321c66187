"""`vaexprs audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vaexprs.cli.console import plain
from vaexprs.cli.options import (
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

MAX_EXPOSED_SHOWN = 10  # exposed cells that are printed


def audit(
    generated: Generated,
    train: Annotated[Path, typer.Option(help="Training cells of the model.")],
    holdout: Annotated[Path, typer.Option(help="Held-out cells: real cells that were not used in training.")],
    label_key: LabelKey = None,
    donor_key: DonorKey = None,
    layer: Layer = None,
    transpose: Transpose = None,
    obs: Obs = None,
    as_json: Json = False,
    as_csv: Csv = False,
    out: TableOut = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Audit generated cells for copies of training cells and for membership inference."""
    check_table_options(as_json, as_csv, out, overwrite)
    from vaexprs.privacy import audit as privacy_audit

    table = privacy_audit.audit_privacy(
        generated,
        cells_at(train, transpose, obs, [label_key, donor_key]),
        cells_at(holdout, transpose, obs, [label_key, donor_key]),
        donor_key=donor_key,
        label_key=label_key,
        layer=layer,
        seed=seed,
    )
    if not (quiet or as_json or as_csv):
        _show_audit(table)
    output_table(table, as_json, as_csv, out, quiet=quiet, overwrite=overwrite)


def _show_audit(table: Any) -> None:
    from vaexprs.privacy import answers as audit_answers

    console = Console(soft_wrap=True, highlight=False)
    shown = Table("metric", "value", "95% interval", "verdict", box=None, header_style="bold")
    shown.columns[1].justify = "right"
    for row in table.itertuples():
        value, low, high = numbers_cell(row.value, row.low, row.high)
        shown.add_row(
            plain(audit_answers.AUDITS[row.metric].title),
            value,
            f"{low} to {high}",
            f"[{VERDICTS[row.verdict]}]{row.verdict}[/]",
        )
    console.print(shown)
    exposed = table.attrs["exposed_cells"]
    for cell in exposed[:MAX_EXPOSED_SHOWN]:
        label = f" ({cell['label']})" if cell["label"] else ""
        name = plain(cell["cell"] + label)
        console.print(f"  exposed: {name}, at {cell['ratio']:.2g} of its distance to real cells")
    if len(exposed) > MAX_EXPOSED_SHOWN:
        console.print(f"  and {len(exposed) - MAX_EXPOSED_SHOWN:,} more")
    console.print()
    print_answer(console, [audit_answers.answer(table)], table.attrs["notes"])
