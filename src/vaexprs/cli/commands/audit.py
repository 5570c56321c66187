"""`vaexprs audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

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
    plain,
)
from vaexprs.cli.output import VERDICTS, check_table_options, numbers_cell, output_table, print_answer

SHOWN_CELLS = 10  # of the exposed ones


def audit(
    generated: Generated,
    train: Annotated[Path, typer.Option(help="The cells the model was fitted to.")],
    holdout: Annotated[Path, typer.Option(help="Real cells that the model has not seen.")],
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
    """Look for copies of the training cells, and attack their membership."""
    check_table_options(as_json, as_csv, out, overwrite)
    from vaexprs.privacy import audit as privacy_audit

    table = privacy_audit.audit_privacy(
        generated,
        cells_at(train, transpose, obs),
        cells_at(holdout, transpose, obs),
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
    shown = Table("figure", "value", "95% interval", "verdict", box=None, header_style="bold")
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
    for cell in exposed[:SHOWN_CELLS]:
        of_label = f" ({cell['label']})" if cell["label"] else ""
        named = plain(cell["cell"] + of_label)
        console.print(f"  exposed: {named}, at {cell['ratio']:.2g} of its distance to real cells")
    if len(exposed) > SHOWN_CELLS:
        console.print(f"  and {len(exposed) - SHOWN_CELLS:,} more")
    console.print()
    print_answer(console, [audit_answers.answer(table)], table.attrs["notes"])
