"""`vaexprs fit`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from vaexprs.cli.options import (
    READABLE,
    CountsLayer,
    CovariateKey,
    Epochs,
    NTopGenes,
    Obs,
    Overwrite,
    Quiet,
    Seed,
    Stopped,
    Transpose,
    cells_at,
    claim,
    plain,
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
    from vaexprs.differential_privacy.accounting import Privacy
    from vaexprs.io.atomic import check_output
    from vaexprs.io.read import check_readable
    from vaexprs.training import multiprocess as several

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
    from vaexprs.training.fit import fit_vae

    with _hint_at_resume(checkpoint):
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
def _hint_at_resume(checkpoint: Path) -> Iterator[None]:
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
