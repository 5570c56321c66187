"""plot, evaluate, audit, report: cells are looked at."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vaexprs._checks import did_you_mean
from vaexprs.cli.options import READABLE, Obs, Overwrite, Quiet, Seed, Transpose, cells_at, claim, plain

SHOWN_CELLS = 10  # of the exposed ones
# what a shell completes; the room that knows these names is slow to open
METHODS = ["PCA", "MDS", "TSNE", "UMAP", "NMF", "DiffusionMap"]

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


def plot(
    source: Annotated[Path, typer.Argument(help="A saved model, or generated cells.")],
    out: Annotated[Path, typer.Option(help="Picture to write: .svg, .png or .pdf (.dot for a model).")],
    real: Annotated[Path | None, typer.Option(help="The real cells to show with generated ones.")] = None,
    method: Annotated[
        str,
        typer.Option(help="PCA, MDS, TSNE, UMAP, NMF or DiffusionMap.", autocompletion=lambda: METHODS),
    ] = "UMAP",
    layer: Annotated[str | None, typer.Option(help="Layer of the real cells with the values.")] = None,
    transpose: Transpose = None,
    obs: Obs = None,
    label_key: Annotated[str | None, typer.Option(help="Column of obs for a panel each.")] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Draw the architecture of a model, or real and generated cells together."""
    from vaexprs.io import check_readable

    claim(out, overwrite=overwrite)
    if (source / "meta.json").is_file():
        from vaexprs.plotting import plot_vae
        from vaexprs.result import load_vae

        plot_vae(load_vae(source)).save(out, overwrite=overwrite)
    else:
        from vaexprs.plotting import has_groups, plot_aug, save_figure

        if real is None and not has_groups(check_readable(source)):
            raise ValueError("Give the real cells too: --real DATA.h5ad.")
        figure = plot_aug(
            source,
            _method(method),
            real=cells_at(real, transpose, obs),
            layer=layer,
            label_key=label_key,
            seed=seed,
        )
        save_figure(figure, out, overwrite=overwrite)
    if not quiet:
        Console().print(f"picture -> {plain(str(out))}")


def _method(name: str) -> str:
    from vaexprs.plotting import REDUCTIONS

    known = {method.lower(): method for method in REDUCTIONS}
    if name.lower() not in known:
        raise ValueError(
            f"--method must be one of {', '.join(REDUCTIONS)}, got {name!r}.{did_you_mean(name, REDUCTIONS)}"
        )
    return known[name.lower()]


def evaluate(
    generated: Generated,
    real: Annotated[Path, typer.Option(help="Real cells, best such as the model has not seen.")],
    train: Annotated[Path | None, typer.Option(help="The cells the model was fitted to.")] = None,
    label_key: LabelKey = None,
    donor_key: DonorKey = None,
    layer: Layer = None,
    transpose: Transpose = None,
    obs: Obs = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="A figure wanted, by its name in the table; more than once for more. Default: all."
        ),
    ] = None,
    resamples: Annotated[
        int | None,
        typer.Option(help="Times that real cells are compared with real ones; default 10, at least 3."),
    ] = None,
    as_json: Json = False,
    as_csv: Csv = False,
    out: TableOut = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Compare generated with real cells, each figure beside its real-against-real floor."""
    _check_table_options(as_json, as_csv, out, overwrite)
    from vaexprs import evaluation, scorecard

    table = evaluation.evaluate(
        generated,
        cells_at(real, transpose, obs),
        train=cells_at(train, transpose, obs),
        label_key=label_key,
        donor_key=donor_key,
        layer=layer,
        seed=seed,
        only=only or None,
        resamples=evaluation.RESAMPLES if resamples is None else resamples,
        progress=not quiet,
    )
    if not (quiet or as_json or as_csv):
        _show_scorecard(table, scorecard)
    _give_table(table, as_json, as_csv, out, quiet=quiet, overwrite=overwrite)


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
    _check_table_options(as_json, as_csv, out, overwrite)
    from vaexprs import privacy

    table = privacy.audit_privacy(
        generated,
        cells_at(train, transpose, obs),
        cells_at(holdout, transpose, obs),
        donor_key=donor_key,
        label_key=label_key,
        layer=layer,
        seed=seed,
    )
    if not (quiet or as_json or as_csv):
        _show_audit(table, privacy)
    _give_table(table, as_json, as_csv, out, quiet=quiet, overwrite=overwrite)


def report(
    model: Annotated[Path, typer.Argument(help="Folder with the saved model.")],
    generated: Generated,
    real: Annotated[Path, typer.Option(help="Real cells, best such as the model has not seen.")],
    out: Annotated[Path, typer.Option(help="Page to write: .html.")],
    train: Annotated[
        Path | None, typer.Option(help="The cells the model was fitted to; without them no audit.")
    ] = None,
    label_key: LabelKey = None,
    donor_key: DonorKey = None,
    layer: Layer = None,
    transpose: Transpose = None,
    obs: Obs = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Write one HTML page: how good generated cells are, what they may leak, how to repeat them."""
    from vaexprs.io import check_readable
    from vaexprs.report import check_suffix

    claim(check_suffix(out), overwrite=overwrite)
    for path in (generated, real, train):
        if path is not None:
            check_readable(path)
    from vaexprs.report import write_report
    from vaexprs.result import load_vae

    write_report(
        load_vae(model),
        generated,
        cells_at(real, transpose, obs),
        out,
        train=cells_at(train, transpose, obs),
        label_key=label_key,
        donor_key=donor_key,
        layer=layer,
        seed=seed,
        overwrite=overwrite,
        progress=not quiet,
    )
    if not quiet:
        Console().print(f"page -> {plain(str(out))}", soft_wrap=True, highlight=False)


def _check_table_options(as_json: bool, as_csv: bool, out: Path | None, overwrite: bool) -> None:
    if as_json and as_csv:
        raise ValueError("Say --json or --csv, one of the two.")
    if out is not None:
        if out.suffix not in (".csv", ".json"):
            raise ValueError(f"The table must be written to a .csv or .json file, got {out.name!r}.")
        claim(out, overwrite=overwrite)


def _give_table(
    table: Any, as_json: bool, as_csv: bool, out: Path | None, *, quiet: bool, overwrite: bool
) -> None:
    """Print a table as asked for, and write it."""
    from vaexprs.tables import guarded
    from vaexprs.writing import written_whole

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


LIGHTS = {"green": "[green]● good[/]", "amber": "[yellow]▲ fair[/]", "red": "[red]■ poor[/]", "unknown": "○"}
VERDICTS = {
    **dict.fromkeys(("within", "pass"), "green"),
    **dict.fromkeys(("close", "caution"), "yellow"),
    **dict.fromkeys(("off", "fail"), "red"),
}


def _say(console: Console, answers: Iterable[Any], notes: Iterable[str]) -> None:
    for each in answers:
        console.print(f"{LIGHTS[each.light]} [bold]{each.question}[/] {plain(each.sentence)}")
    for note in notes:
        console.print(f"[dim]{plain(note)}[/]")


def _numbers(*values: float) -> list[str]:
    return [f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}" for value in values]


def _show_scorecard(table: Any, scorecard: Any) -> None:
    console = Console(soft_wrap=True, highlight=False)
    shown = Table("figure", "value", "real against real", "verdict", box=None, header_style="bold")
    shown.columns[1].justify = "right"
    for row in table[table["label"] == scorecard.ALL].itertuples():
        value, floor, low, high = _numbers(row.value, row.floor, row.floor_low, row.floor_high)
        shown.add_row(
            plain(scorecard.METRICS[row.metric].title),
            value,
            f"{floor} ({low} to {high})",
            f"[{VERDICTS[row.verdict]}]{row.verdict}[/]",
        )
    console.print(shown)
    labels = table.loc[table["label"] != scorecard.ALL, "label"].nunique()
    if labels:
        console.print(f"[dim]Figures of {labels} labels are in the table: --csv, --json or --out.[/]")
    console.print()
    _say(console, scorecard.answers(table), table.attrs["notes"])


def _show_audit(table: Any, privacy: Any) -> None:
    console = Console(soft_wrap=True, highlight=False)
    shown = Table("figure", "value", "95% interval", "verdict", box=None, header_style="bold")
    shown.columns[1].justify = "right"
    for row in table.itertuples():
        value, low, high = _numbers(row.value, row.low, row.high)
        shown.add_row(
            plain(privacy.AUDITS[row.metric].title),
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
    _say(console, [privacy.answer(table)], table.attrs["notes"])
