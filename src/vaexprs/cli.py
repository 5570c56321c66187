"""The command line: a verb of the package each, and the demo and the doctor."""

from __future__ import annotations

import json
import shlex
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vaexprs._checks import did_you_mean

INTERRUPTED = 130  # the status that Typer gives for Ctrl-C
DEMO_CELLS = 1_000
DEMO_RARE = 200
SHOWN_CELLS = 10  # of the exposed ones
DEMO_HELD_OUT = 0.2  # of the cells, which the model does not see
USABLE = 10  # cells from which on the demo calls a type usable

# what a shell completes; the rooms that know these names are slow to open
LIKELIHOODS = ["nb", "zinb", "poisson", "gaussian", "bernoulli"]
METHODS = ["PCA", "MDS", "TSNE", "UMAP", "NMF", "DiffusionMap"]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Fit (conditional) variational autoencoders to gene expression and generate new cells from them.",
)

Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
LibrarySize = Annotated[
    float | None, typer.Option(help="Counts a generated cell to aim at; by default like the real ones.")
]
CountsLayer = Annotated[
    str | None, typer.Option(help="Layer with the counts, X for X; by default they are looked for.")
]
WRITABLE = "File to write: .h5ad, .zarr, .csv, .tsv (also .gz), .rds, or .mtx for a 10x folder."
READABLE = ".h5ad, .zarr, .h5mu, .h5 or folder of 10x, .loom, .csv, .tsv, .txt or .rds"
Transpose = Annotated[
    bool | None,
    typer.Option(
        "--transpose/--no-transpose",
        help="Whether tables of real cells have genes in rows; by default told by the names.",
        show_default=False,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there under the name.")]


def main() -> None:
    """Run the command line; the user's mistakes end in one clear line and exit status 2."""
    errors = Console(stderr=True)

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        errors.print(f"[yellow]Warning:[/] {escape(str(message))}", soft_wrap=True, highlight=False)

    warnings.showwarning = show
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError) as error:
        text = str(error)
        if isinstance(error, FileExistsError):
            text = text.replace("say overwrite", "say --overwrite")
        errors.print(f"[red]Error:[/] {escape(text)}", soft_wrap=True, highlight=False)
        from vaexprs.processes import give_up

        give_up(2)
        sys.exit(2)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            errors.print("Interrupted; nothing was written.")
        raise


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"vaexprs {version('vaexprs')}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def fit(
    data: Annotated[Path, typer.Argument(help=f"Cells: {READABLE}.")],
    out: Annotated[Path, typer.Option(help="Folder to save the model to.")],
    label_key: Annotated[str | None, typer.Option(help="Column of obs with the cell types.")] = None,
    covariate_key: Annotated[
        list[str] | None, typer.Option(help="Column of obs with donor, batch, treatment ... (repeatable).")
    ] = None,
    layer: CountsLayer = None,
    transpose: Transpose = None,
    likelihood: Annotated[
        str | None,
        typer.Option(
            help="nb, zinb, poisson, gaussian or bernoulli; by default from the values.",
            autocompletion=lambda: LIKELIHOODS,
        ),
    ] = None,
    n_top_genes: Annotated[
        int | None, typer.Option(help="Fit only so many of the genes, the most variable; by default all.")
    ] = None,
    latent_dim: Annotated[int | None, typer.Option(help="Size of the latent vector.")] = None,
    regularization: Annotated[float, typer.Option(help="Weight of the KL divergence.")] = 1.0,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the cells; by default from their number.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Cells a step.")] = None,
    validation_split: Annotated[float, typer.Option(help="Fraction of the cells kept for validation.")] = 0.0,
    optimizer: Annotated[
        str | None, typer.Option(help="Name of a Keras optimizer; by default Adam with averaged weights.")
    ] = None,
    use_generator: Annotated[
        bool, typer.Option("--use-generator", help="Stream mini-batches; never make sparse data dense.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint of an earlier run, if there is one.")
    ] = False,
    checkpoint_minutes: Annotated[
        float, typer.Option(help="Minutes between checkpoints, which are kept beside OUT until it is saved.")
    ] = 10.0,
    checkpoint_steps: Annotated[
        int | None, typer.Option(help="Steps between checkpoints, instead of minutes.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(help="Number of processes that train together; under srun from SLURM.")
    ] = None,
    coordinator: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where process 0 listens for the others.")
    ] = None,
    process_id: Annotated[int | None, typer.Option(help="Number of this process, from 0.")] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Fit a model to cells and save it."""
    from vaexprs import processes as several
    from vaexprs.io import check_readable
    from vaexprs.writing import check_output

    check_output(out, overwrite=overwrite)
    check_readable(data)
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    if overwrite and not resume:
        checkpoint.unlink(missing_ok=True)
    elif checkpoint.exists() and not resume:
        raise FileExistsError(
            f"{str(checkpoint)!r} is left of an earlier run; go on from it with --resume, or say overwrite."
        )
    distribution = None
    if several.in_slurm_step() or any(value is not None for value in (processes, coordinator, process_id)):
        distribution = several.join(processes, coordinator, process_id)
    first = distribution is None or several.place()[0] == 0
    quiet = quiet or not first
    from vaexprs.fitting import fit_vae

    fitted = fit_vae(
        _cells(data, transpose),
        label_key=label_key,
        covariate_keys=covariate_key or (),
        layer=layer,
        likelihood=likelihood,
        n_top_genes=n_top_genes,
        latent_dim=latent_dim,
        regularization=regularization,
        epochs=epochs,
        batch_size=batch_size,
        validation_split=validation_split,
        optimizer=optimizer,
        use_generator=use_generator,
        seed=seed,
        distribution=distribution,
        checkpoint=checkpoint,
        checkpoint_minutes=checkpoint_minutes,
        checkpoint_steps=checkpoint_steps,
        resume=True,
        verbose=0 if quiet else "auto",
    )
    if first:
        fitted.save(out, overwrite=overwrite)
        checkpoint.unlink(missing_ok=True)
    several.leave()
    if not quiet:
        Console().print(
            f"{escape(repr(fitted))}\nsaved to {escape(str(out))}", highlight=False, soft_wrap=True
        )


@app.command()
def generate(
    model: Annotated[Path, typer.Argument(help="Folder with a saved model.")],
    out: Annotated[Path, typer.Option(help=WRITABLE)],
    n: Annotated[int | None, typer.Option("-n", "--num-samples", help="Number of cells.")] = None,
    label: Annotated[str | None, typer.Option(help="The one label all cells shall have.")] = None,
    labels: Annotated[
        list[str] | None, typer.Option(help="Number of cells of a label: 'NK=200' (repeatable).")
    ] = None,
    labels_json: Annotated[Path | None, typer.Option(help='File with numbers: {"NK": 200, ...}.')] = None,
    covariate: Annotated[
        list[str] | None, typer.Option(help="Level of a covariate: 'donor=101' (repeatable).")
    ] = None,
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
    from vaexprs.writing import check_output, check_writable

    asked = _asked_labels(label, labels, labels_json)
    check_writable(out)
    check_output(out, overwrite=overwrite)
    levels = dict(_pair(text, "--covariate", "donor=101") for text in covariate or [])
    from vaexprs.cluster import connected
    from vaexprs.generation import gen_exprs
    from vaexprs.result import load_vae

    fitted = load_vae(model)
    with nullcontext() if dask is None else connected(dask) as client:
        cells = gen_exprs(
            fitted,
            n,
            batch_size,
            use_generator=batch_size is not None,
            labels=asked,
            covariates=levels or None,
            conditions=None if conditions is None else _read_conditions(conditions),
            library_size=library_size,
            stratified=not independent,
            seed=seed,
            progress=not quiet,
            out=out,
            overwrite=overwrite,
            client=client,
        )
    if not quiet:
        _say_written(cells.adata, out)


def _say_written(cells: Any, out: Path) -> None:
    Console().print(f"{cells.n_obs:,} cells x {cells.n_vars:,} genes -> {escape(str(out))}")


def _read_conditions(path: Path) -> Any:
    import pandas as pd

    try:
        # levels are words: 1 is not to become 1.0 where another row has none
        table = pd.read_csv(path, dtype=str, keep_default_na=False).replace("", None)
    except (ValueError, OSError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as CSV: {error}") from error
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


@app.command()
def augment(
    data: Annotated[Path, typer.Argument(help=f"Real cells: {READABLE}.")],
    label_key: Annotated[str, typer.Option(help="Column of obs with the cell types.")],
    out: Annotated[Path, typer.Option(help=WRITABLE)],
    to: Annotated[
        str, typer.Option(help="Cells each type shall have: 'balanced' (as the largest), or a number.")
    ] = "balanced",
    model: Annotated[
        Path | None, typer.Option(help="Folder with a saved model of such cells; by default one is fitted.")
    ] = None,
    covariate_key: Annotated[
        list[str] | None, typer.Option(help="Column of obs with donor, batch, treatment ... (repeatable).")
    ] = None,
    layer: CountsLayer = None,
    transpose: Transpose = None,
    n_top_genes: Annotated[
        int | None, typer.Option(help="Take only so many of the genes, the most variable; by default all.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the cells; by default from their number.")
    ] = None,
    library_size: LibrarySize = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Top up the cells of each type with generated ones."""
    from vaexprs.writing import check_output, check_writable, write

    check_writable(out)
    check_output(out, overwrite=overwrite)
    from vaexprs.augmentation import augment as topped_up
    from vaexprs.result import load_vae

    options = {"n_top_genes": n_top_genes, "epochs": epochs}
    cells = topped_up(
        _cells(data, transpose),
        label_key,
        int(to) if to.isdecimal() else to,
        covariate_keys=covariate_key or (),
        fit=None if model is None else load_vae(model),
        layer=layer,
        library_size=library_size,
        seed=seed,
        progress=not quiet,
        **{name: value for name, value in options.items() if value is not None},
    )
    write(cells, out, overwrite=overwrite)
    if not quiet:
        _say_written(cells, out)


@app.command()
def transform(
    model: Annotated[Path, typer.Argument(help="Folder with a saved model.")],
    data: Annotated[Path, typer.Argument(help=f"The cells: {READABLE}.")],
    to: Annotated[list[str], typer.Option(help="The condition to give them: 'stim=ctrl' (repeatable).")],
    out: Annotated[Path, typer.Option(help=WRITABLE)],
    layer: CountsLayer = None,
    transpose: Transpose = None,
    library_size: Annotated[
        float | None, typer.Option(help="Counts a cell to aim at; by default each cell's own.")
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Give cells as they might have been under another condition."""
    from vaexprs.writing import check_output, check_writable

    check_writable(out)
    check_output(out, overwrite=overwrite)
    levels = dict(_pair(text, "--to", "stim=ctrl") for text in to)
    from vaexprs.counterfactual import transform as transformed
    from vaexprs.result import load_vae

    cells = transformed(
        load_vae(model),
        _cells(data, transpose),
        levels,
        layer=layer,
        library_size=library_size,
        seed=seed,
        progress=not quiet,
        out=out,
        overwrite=overwrite,
    )
    if not quiet:
        _say_written(cells, out)


@app.command()
def interpolate(
    model: Annotated[Path, typer.Argument(help="Folder with a saved model.")],
    start: Annotated[str, typer.Option("--from", help="Label at the beginning of the way.")],
    end: Annotated[str, typer.Option("--to", help="Label at its end.")],
    out: Annotated[Path, typer.Option(help=WRITABLE)],
    n: Annotated[int, typer.Option("-n", "--num-samples", help="Number of cells.")] = 1_100,
    steps: Annotated[int, typer.Option(help="Positions on the way, with both ends.")] = 11,
    covariate: Annotated[
        list[str] | None, typer.Option(help="Level of a covariate: 'donor=101' (repeatable).")
    ] = None,
    library_size: LibrarySize = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Generate cells on the way from one label to another."""
    from vaexprs.writing import check_output, check_writable, write

    check_writable(out)
    check_output(out, overwrite=overwrite)
    levels = dict(_pair(text, "--covariate", "donor=101") for text in covariate or [])
    from vaexprs.interpolation import interpolate as on_the_way
    from vaexprs.result import load_vae

    cells = on_the_way(
        load_vae(model),
        start,
        end,
        n,
        steps=steps,
        covariates=levels or None,
        library_size=library_size,
        seed=seed,
        progress=not quiet,
    )
    write(cells, out, overwrite=overwrite)
    if not quiet:
        _say_written(cells, out)


def _asked_labels(
    label: str | None, labels: list[str] | None, labels_json: Path | None
) -> str | dict[str, int] | None:
    if sum(option is not None for option in (label, labels or None, labels_json)) > 1:
        raise ValueError("Say --label, --labels or --labels-json, one of the three.")
    if labels:
        pairs = dict(_pair(text, "--labels", "NK=200") for text in labels)
        for name, number in pairs.items():
            if not number.isdecimal():
                raise ValueError(
                    f"--labels must give a number of cells, as in 'NK=200', got '{name}={number}'."
                )
        return {name: int(number) for name, number in pairs.items()}
    if labels_json is not None:
        try:
            numbers = json.loads(labels_json.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{str(labels_json)!r} is not JSON: {error}") from error
        if not isinstance(numbers, dict):
            raise ValueError(f'{str(labels_json)!r} must hold numbers by label, as in {{"NK": 200}}.')
        return numbers
    return label


def _pair(text: str, option: str, example: str) -> tuple[str, str]:
    name, equals, value = text.rpartition("=")
    if not equals or not name or not value:
        raise ValueError(f"{option} must look like '{example}', got {text!r}.")
    return name, value


@app.command()
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
    label_key: Annotated[str | None, typer.Option(help="Column of obs for a panel each.")] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Draw the architecture of a model, or real and generated cells together."""
    from vaexprs.io import check_readable
    from vaexprs.writing import check_output

    check_output(out, overwrite=overwrite)
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
            real=_cells(real, transpose),
            layer=layer,
            label_key=label_key,
            seed=seed,
        )
        save_figure(figure, out, overwrite=overwrite)
    if not quiet:
        Console().print(f"picture -> {escape(str(out))}")


def _cells(path: Path | None, transpose: bool | None) -> Any:
    """Return a path, or the cells where it must be said which side they are on."""
    if path is None or transpose is None:
        return path
    from vaexprs.io import read

    return read(path, transpose=transpose)


def _method(name: str) -> str:
    from vaexprs.plotting import REDUCTIONS

    known = {method.lower(): method for method in REDUCTIONS}
    if name.lower() not in known:
        raise ValueError(
            f"--method must be one of {', '.join(REDUCTIONS)}, got {name!r}.{did_you_mean(name, REDUCTIONS)}"
        )
    return known[name.lower()]


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


@app.command()
def evaluate(
    generated: Generated,
    real: Annotated[Path, typer.Option(help="Real cells, best such as the model has not seen.")],
    train: Annotated[Path | None, typer.Option(help="The cells the model was fitted to.")] = None,
    label_key: LabelKey = None,
    donor_key: DonorKey = None,
    layer: Layer = None,
    transpose: Transpose = None,
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
        _cells(real, transpose),
        train=_cells(train, transpose),
        label_key=label_key,
        donor_key=donor_key,
        layer=layer,
        seed=seed,
        progress=not quiet,
    )
    if not (quiet or as_json or as_csv):
        _show_scorecard(table, scorecard)
    _give_table(table, as_json, as_csv, out, quiet=quiet, overwrite=overwrite)


@app.command()
def audit(
    generated: Generated,
    train: Annotated[Path, typer.Option(help="The cells the model was fitted to.")],
    holdout: Annotated[Path, typer.Option(help="Real cells that the model has not seen.")],
    label_key: LabelKey = None,
    donor_key: DonorKey = None,
    layer: Layer = None,
    transpose: Transpose = None,
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
        _cells(train, transpose),
        _cells(holdout, transpose),
        donor_key=donor_key,
        label_key=label_key,
        layer=layer,
        seed=seed,
    )
    if not (quiet or as_json or as_csv):
        _show_audit(table, privacy)
    _give_table(table, as_json, as_csv, out, quiet=quiet, overwrite=overwrite)


@app.command()
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
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Write one HTML page: how good generated cells are, what they may leak, how to repeat them."""
    from vaexprs.io import check_readable
    from vaexprs.report import check_suffix
    from vaexprs.writing import check_output

    check_output(check_suffix(out), overwrite=overwrite)
    for path in (generated, real, train):
        if path is not None:
            check_readable(path)
    from vaexprs.report import write_report
    from vaexprs.result import load_vae

    write_report(
        load_vae(model),
        generated,
        _cells(real, transpose),
        out,
        train=_cells(train, transpose),
        label_key=label_key,
        donor_key=donor_key,
        layer=layer,
        seed=seed,
        overwrite=overwrite,
        progress=not quiet,
    )
    if not quiet:
        Console().print(f"page -> {escape(str(out))}", soft_wrap=True, highlight=False)


def _check_table_options(as_json: bool, as_csv: bool, out: Path | None, overwrite: bool) -> None:
    from vaexprs.writing import check_output

    if as_json and as_csv:
        raise ValueError("Say --json or --csv, one of the two.")
    if out is not None:
        if out.suffix not in (".csv", ".json"):
            raise ValueError(f"The table must be written to a .csv or .json file, got {out.name!r}.")
        check_output(out, overwrite=overwrite)


def _give_table(
    table: Any, as_json: bool, as_csv: bool, out: Path | None, *, quiet: bool, overwrite: bool
) -> None:
    """Print a table as asked for, and write it."""
    from vaexprs.writing import written_whole

    texts = {
        ".json": table.to_json(orient="records", indent=1, double_precision=15) + "\n",
        ".csv": table.to_csv(index=False),
    }
    if as_json or as_csv:
        typer.echo(texts[".json" if as_json else ".csv"], nl=False)
    if out is not None:
        with written_whole(out, overwrite=overwrite) as beside:
            beside.write_text(texts[out.suffix], encoding="utf-8")
        if not (quiet or as_json or as_csv):
            Console().print(f"table -> {escape(str(out))}", soft_wrap=True, highlight=False)


LIGHTS = {"green": "[green]● good[/]", "amber": "[yellow]▲ fair[/]", "red": "[red]■ poor[/]", "unknown": "○"}
VERDICTS = {
    **dict.fromkeys(("within", "pass"), "green"),
    **dict.fromkeys(("close", "caution"), "yellow"),
    **dict.fromkeys(("off", "fail"), "red"),
}


def _say(console: Console, answers: Iterable[Any], notes: Iterable[str]) -> None:
    for each in answers:
        console.print(f"{LIGHTS[each.light]} [bold]{each.question}[/] {escape(each.sentence)}")
    for note in notes:
        console.print(f"[dim]{escape(note)}[/]")


def _numbers(*values: float) -> list[str]:
    return [f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}" for value in values]


def _show_scorecard(table: Any, scorecard: Any) -> None:
    console = Console(soft_wrap=True, highlight=False)
    shown = Table("figure", "value", "real against real", "verdict", box=None, header_style="bold")
    shown.columns[1].justify = "right"
    for row in table[table["label"] == scorecard.ALL].itertuples():
        value, floor, low, high = _numbers(row.value, row.floor, row.floor_low, row.floor_high)
        shown.add_row(
            escape(scorecard.METRICS[row.metric].title),
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
            escape(privacy.AUDITS[row.metric].title),
            value,
            f"{low} to {high}",
            f"[{VERDICTS[row.verdict]}]{row.verdict}[/]",
        )
    console.print(shown)
    exposed = table.attrs["exposed_cells"]
    for cell in exposed[:SHOWN_CELLS]:
        of_label = f" ({cell['label']})" if cell["label"] else ""
        named = escape(cell["cell"] + of_label)
        console.print(f"  exposed: {named}, at {cell['ratio']:.2g} of its distance to real cells")
    if len(exposed) > SHOWN_CELLS:
        console.print(f"  and {len(exposed) - SHOWN_CELLS:,} more")
    console.print()
    _say(console, [privacy.answer(table)], table.attrs["notes"])


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Look at the installation: versions, devices, what is missing, and what to do."""
    from vaexprs import doctor as practice

    versions, findings = practice.examine()
    if as_json:
        typer.echo(json.dumps(practice.as_json(versions, findings), indent=1))
    else:
        _show_findings(versions, findings, works=practice.works(findings))
    if not practice.works(findings):
        raise typer.Exit(1)


MARKS = {"good": "[green]●[/]", "fair": "[yellow]▲[/]", "poor": "[red]■[/]", "absent": "○"}


def _show_findings(versions: dict[str, str], findings: Iterable[Any], *, works: bool) -> None:
    console = Console(soft_wrap=True, highlight=False)
    console.print(", ".join(f"{name} {number}" for name, number in versions.items()))
    for each in findings:
        console.print(f"{MARKS[each.state]} {escape(f'{each.part}: {each.told}')}")
        if each.advice:
            console.print(f"  [bold]{escape(each.advice)}[/]")
    console.print("Fitting and generating work." if works else "[red]Fitting and generating do not work.[/]")


class _Steps:
    """Runs the steps of the demo, and remembers how long each took."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.seconds: list[tuple[str, float]] = []

    @contextmanager
    def step(self, name: str, *, own_bar: bool = False) -> Iterator[None]:
        """Say what is done, turn a spinner unless the step shows a bar of its own, and take the time."""
        self.console.print(f"[bold]{name}[/] ...")
        start = time.perf_counter()
        with nullcontext() if own_bar else self.console.status(name):
            yield
        self.seconds.append((name, time.perf_counter() - start))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("vaexprs-demo"),
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Fit real blood cells, generate 1,000 new ones, and judge them by cells held out. Needs no network."""
    from vaexprs.writing import check_output, write, written_whole

    check_output(out, overwrite=overwrite)
    console = Console(quiet=quiet, highlight=False, soft_wrap=True)
    steps = _Steps(console)
    with steps.step("loading libraries and cells"):
        from vaexprs.demo import demo_cells
        from vaexprs.fitting import fit_vae
        from vaexprs.generation import gen_exprs
        from vaexprs.plotting import plot_aug, plot_vae, save_figure
        from vaexprs.preprocessing import apportion, split_rows
        from vaexprs.report import write_report

        cells = demo_cells()
        labels = cells.obs["cell_type"].to_numpy(str)
        train, holdout = (cells[rows].copy() for rows in split_rows(labels, cells.n_obs, DEMO_HELD_OUT, seed))
    sizes = cells.obs["cell_type"].value_counts()
    rare = str(sizes[sizes >= USABLE].index[-1])
    others = sizes.drop(rare)
    numbers = dict(
        zip(others.index, map(int, apportion(others.to_numpy(), DEMO_CELLS - DEMO_RARE)), strict=True)
    )
    with written_whole(out, overwrite=overwrite) as folder:
        folder.mkdir()
        with steps.step("fitting the model", own_bar=True):
            fitted = fit_vae(train, label_key="cell_type", seed=seed, verbose=0 if quiet else "auto")
            fitted.save(folder / "model")
        with steps.step("generating cells"):
            made = gen_exprs(fitted, labels={rare: DEMO_RARE} | numbers, seed=seed, progress=not quiet)
        with steps.step("drawing the pictures"):
            plot_vae(fitted).save(folder / "architecture.svg")
            save_figure(plot_aug(made, "UMAP", seed=seed), folder / "umap.png")
        with steps.step("writing the cells"):
            write(made.adata, folder / "generated.h5ad")
            write(cells, folder / "real.h5ad")
            write(train, folder / "train.h5ad")
            write(holdout, folder / "holdout.h5ad")
        with steps.step("judging the cells and writing the report", own_bar=True):
            write_report(fitted, made, holdout, folder / "report.html", seed=seed, progress=not quiet)
    if not quiet:
        _tell(console, steps, cells, holdout.n_obs, made.adata, rare, out)


def _tell(
    console: Console, steps: _Steps, cells: Any, held_out: int, made: Any, rare: str, out: Path
) -> None:
    """Say what the demo made, how long each step took, and what to try next."""
    table = Table("cell type", "real", "generated", box=None, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    generated = made.obs["cell_type"].value_counts()
    for name, n in cells.obs["cell_type"].value_counts().items():
        table.add_row(escape(str(name)), f"{n:,}", f"{generated[name]:,}")
    console.print()
    console.print(table)
    depths = [float(x.X.sum(axis=1).mean()) for x in (cells, made)]
    zeros = [100 * (1 - x.X.nnz / (x.n_obs * x.n_vars)) for x in (cells, made)]
    console.print(
        f"\n{cells.n_obs - held_out:,} real cells trained the model, {held_out:,} others judge it.\n"
        f"{made.n_obs:,} cells x {made.n_vars:,} genes of whole counts; mean library size {depths[1]:.0f} "
        f"(real {depths[0]:.0f}), zeros {zeros[1]:.1f}% (real {zeros[0]:.1f}%)\n"
    )
    times = Table("step", "seconds", box=None, header_style="bold")
    times.columns[1].justify = "right"
    for name, seconds in [*steps.seconds, ("in all", sum(s for _, s in steps.seconds))]:
        times.add_row(name, f"{seconds:.1f}")
    console.print(times)
    console.print(f"\nwritten to {escape(str(out))}:")
    for name, what in {
        "generated.h5ad": "the generated cells, for scanpy",
        "real.h5ad": "the real ones (train.h5ad and holdout.h5ad together)",
        "model": "the model",
        "architecture.svg": "its layers",
        "umap.png": "real and generated cells together",
    }.items():
        console.print(f"  {name:18}{what}")
    console.print(f"\nreport: {escape(str(out / 'report.html'))} (open it in a browser)")
    console.print("\nnext:")
    for command in next_commands(out, rare):
        console.print(f"  {escape(command)}")


def next_commands(out: Path, rare: str) -> list[str]:
    """Return commands to try after the demo."""
    q = {
        name: shlex.quote(str(out / name))
        for name in (
            "model", "generated.h5ad", "real.h5ad", "train.h5ad", "holdout.h5ad", "more.h5ad", "tsne.png",
            "mine",
        )
    }  # fmt: skip
    return [
        f"vaexprs generate {q['model']} --label {shlex.quote(rare)} -n 500 --out {q['more.h5ad']}",
        f"vaexprs plot {q['more.h5ad']} --real {q['real.h5ad']} --method TSNE --out {q['tsne.png']}",
        f"vaexprs audit {q['generated.h5ad']} --train {q['train.h5ad']} --holdout {q['holdout.h5ad']}",
        f"vaexprs fit {q['real.h5ad']} --label-key cell_type --covariate-key phase --out {q['mine']}",
    ]
