"""fit, generate, augment, transform, interpolate: models and cells are made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from vaexprs._checks import check_file, reason
from vaexprs.cli.options import (
    READABLE,
    WRITABLE,
    CountsLayer,
    Covariate,
    CovariateKey,
    Epochs,
    LibrarySize,
    NTopGenes,
    Obs,
    Overwrite,
    Quiet,
    Seed,
    Stopped,
    Transpose,
    cells_at,
    claim,
    levels,
    pair,
    plain,
    say_written,
)

# what a shell completes; the room that knows these names is slow to open
LIKELIHOODS = ["nb", "zinb", "poisson", "gaussian", "bernoulli"]


def fit(
    data: Annotated[Path, typer.Argument(help=f"Cells: {READABLE}.")],
    out: Annotated[Path, typer.Option(help="Folder to save the model to.")],
    label_key: Annotated[str | None, typer.Option(help="Column of obs with the cell types.")] = None,
    covariate_key: CovariateKey = None,
    layer: CountsLayer = None,
    transpose: Transpose = None,
    obs: Obs = None,
    likelihood: Annotated[
        str | None,
        typer.Option(
            help="nb, zinb, poisson, gaussian or bernoulli; by default from the values.",
            autocompletion=lambda: LIKELIHOODS,
        ),
    ] = None,
    n_top_genes: NTopGenes = None,
    latent_dim: Annotated[int | None, typer.Option(help="Size of the latent vector.")] = None,
    regularization: Annotated[float, typer.Option(help="Weight of the KL divergence.")] = 1.0,
    epochs: Epochs = None,
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
    epsilon: Annotated[
        float | None,
        typer.Option(help="Largest privacy loss, such as 3, of a fit with differential privacy."),
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="Probability that this loss is exceeded; by default 1e-5.")
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(
            help="Whose contribution is hidden: cell (by default), or the column of obs with donors."
        ),
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
    from vaexprs.guarantee import Privacy
    from vaexprs.io import check_readable
    from vaexprs.writing import check_output

    check_output(out, overwrite=overwrite)
    check_readable(data)
    asked: dict[str, Any] = {
        name: value for name, value in (("delta", delta), ("unit", unit)) if value is not None
    }
    if epsilon is None and asked:
        raise ValueError(
            f"--{next(iter(asked))} is for a fit with differential privacy, but no --epsilon was given. "
            "Without it the fit promises nothing."
        )
    privacy = None if epsilon is None else Privacy(epsilon, **asked)
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    if checkpoint.exists() and not resume and not overwrite:
        raise FileExistsError(
            f"{str(checkpoint)!r} is left of an earlier run; go on from it with --resume, or say overwrite."
        )
    distribution = None
    if several.in_slurm_step() or any(value is not None for value in (processes, coordinator, process_id)):
        distribution = several.join(processes, coordinator, process_id)
    first = distribution is None or several.place()[0] == 0
    quiet = quiet or not first
    if first:
        claim(out, overwrite=overwrite)
        if not resume:
            checkpoint.unlink(missing_ok=True)
    from vaexprs.fitting import fit_vae

    with _told_how_to_go_on(checkpoint):
        fitted = fit_vae(
            cells_at(data, transpose, obs),
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
            privacy=privacy,
            checkpoint=None if privacy else checkpoint,
            checkpoint_minutes=checkpoint_minutes,
            checkpoint_steps=checkpoint_steps,
            resume=resume if privacy else True,
            verbose=0 if quiet else "auto",
        )
        stopped = fitted.recipe.get("interrupted", False)
        if first:
            fitted.save(out, overwrite=overwrite)
    if first and not stopped:
        checkpoint.unlink(missing_ok=True)
    several.leave()
    if not quiet:
        Console().print(f"{plain(repr(fitted))}\nsaved to {plain(str(out))}", highlight=False, soft_wrap=True)
    if stopped:
        going_on = " To go on give the same command with --resume --overwrite." if privacy is None else ""
        Console(stderr=True).print(
            f"Interrupted: {plain(repr(str(out)))} is a model of part of the training.{going_on}",
            soft_wrap=True,
        )
        raise Stopped


@contextmanager
def _told_how_to_go_on(checkpoint: Path) -> Iterator[None]:
    """Say that a fit which ends early, and left a checkpoint, need not begin anew."""
    go_on = f"The training so far is kept in {str(checkpoint)!r}: give the same command with --resume."
    try:
        yield
    except (OSError, MemoryError) as error:
        if not checkpoint.exists():
            raise
        raise type(error)(f"{error} {go_on}") from error
    except KeyboardInterrupt:
        if not checkpoint.exists():
            raise
        Console(stderr=True).print(
            f"Interrupted; no model was saved. {plain(go_on)}", soft_wrap=True, highlight=False
        )
        raise Stopped from None


def split(
    data: Annotated[Path, typer.Argument(help=f"Cells: {READABLE}.")],
    train: Annotated[Path, typer.Option(help="File for the cells to fit.")],
    holdout: Annotated[Path, typer.Option(help="File for those that the model does not see.")],
    fraction: Annotated[float, typer.Option(help="Of the cells, or levels of --by, to hold out.")] = 0.2,
    label_key: Annotated[
        str | None, typer.Option(help="Column of obs with the cell types: each is split in proportion.")
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="Column of obs, such as the donor: each level goes to one side whole.")
    ] = None,
    transpose: Transpose = None,
    obs: Obs = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Hold some cells out, to judge by them what a model of the others generates."""
    from vaexprs.io import read
    from vaexprs.preprocessing import column_of_levels, split_levels, split_rows
    from vaexprs.writing import write

    claim(train, holdout, overwrite=overwrite, cells=True)
    if not 0 < fraction < 1:
        raise ValueError(f"--fraction must be between 0 and 1, got {fraction:g}.")
    if by is not None and label_key is not None:
        raise ValueError("Say --label-key or --by, one of the two.")
    cells = read(data, transpose=transpose, obs=obs)
    if by is not None:
        rows = split_levels(column_of_levels(cells.obs, by, "--by").to_numpy(str), fraction, seed)
    else:
        labels = (
            None if label_key is None else column_of_levels(cells.obs, label_key, "--label-key").to_numpy(str)
        )
        rows = split_rows(labels, cells.n_obs, fraction, seed)
    if not all(map(len, rows)):
        raise ValueError(
            f"Both sides must have cells, got {len(rows[0]):,} to fit and {len(rows[1]):,} held out. Choose "
            "another --fraction, or a column with more levels for --by."
        )
    for path, part in zip((train, holdout), rows, strict=True):
        write(cells[part].copy(), path, overwrite=overwrite)
        if not quiet:
            say_written(cells[part], path)


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
    from vaexprs.cluster import connected
    from vaexprs.generation import gen_exprs
    from vaexprs.result import load_vae

    fitted = load_vae(model)
    cluster = nullcontext() if dask is None else connected(dask)
    with _told_what_is_kept(), cluster as client:
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


@contextmanager
def _told_what_is_kept() -> Iterator[None]:
    """Say what there is after Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if not stop.args:
            raise
        Console(stderr=True).print(f"Interrupted; {plain(str(stop))}", soft_wrap=True, highlight=False)
        raise Stopped from None


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
    covariate_key: CovariateKey = None,
    layer: CountsLayer = None,
    transpose: Transpose = None,
    obs: Obs = None,
    n_top_genes: NTopGenes = None,
    epochs: Epochs = None,
    library_size: LibrarySize = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Top up the cells of each type with generated ones."""
    from vaexprs.writing import write

    claim(out, overwrite=overwrite, cells=True)
    from vaexprs.augmentation import augment as topped_up
    from vaexprs.result import load_vae

    options = {"n_top_genes": n_top_genes, "epochs": epochs}
    cells = topped_up(
        cells_at(data, transpose, obs),
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
        say_written(cells, out)


def transform(
    model: Annotated[Path, typer.Argument(help="Folder with a saved model.")],
    data: Annotated[Path, typer.Argument(help=f"The cells: {READABLE}.")],
    to: Annotated[list[str], typer.Option(help="The condition to give them: 'stim=ctrl' (repeatable).")],
    out: Annotated[Path, typer.Option(help=WRITABLE)],
    layer: CountsLayer = None,
    transpose: Transpose = None,
    obs: Obs = None,
    library_size: Annotated[
        float | None, typer.Option(help="Counts a cell to aim at; by default each cell's own.")
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Give cells as they might have been under another condition."""
    claim(out, overwrite=overwrite, cells=True)
    wanted = levels(to, "--to", "stim=ctrl")
    from vaexprs.counterfactual import transform as transformed
    from vaexprs.result import load_vae

    with _told_what_is_kept():
        cells = transformed(
            load_vae(model),
            cells_at(data, transpose, obs),
            wanted,
            layer=layer,
            library_size=library_size,
            seed=seed,
            progress=not quiet,
            out=out,
            overwrite=overwrite,
        )
    if not quiet:
        say_written(cells, out)


def interpolate(
    model: Annotated[Path, typer.Argument(help="Folder with a saved model.")],
    start: Annotated[str, typer.Option("--from", help="Label at the beginning of the way.")],
    end: Annotated[str, typer.Option("--to", help="Label at its end.")],
    out: Annotated[Path, typer.Option(help=WRITABLE)],
    n: Annotated[int, typer.Option("-n", "--num-samples", help="Number of cells.")] = 1_100,
    steps: Annotated[int, typer.Option(help="Positions on the way, with both ends.")] = 11,
    covariate: Covariate = None,
    library_size: LibrarySize = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Generate cells on the way from one label to another."""
    from vaexprs.writing import write

    claim(out, overwrite=overwrite, cells=True)
    wanted = levels(covariate, "--covariate", "donor=101")
    from vaexprs.interpolation import interpolate as on_the_way
    from vaexprs.result import load_vae

    cells = on_the_way(
        load_vae(model),
        start,
        end,
        n,
        steps=steps,
        covariates=wanted,
        library_size=library_size,
        seed=seed,
        progress=not quiet,
    )
    write(cells, out, overwrite=overwrite)
    if not quiet:
        say_written(cells, out)


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

    from vaexprs.tables import opened

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
