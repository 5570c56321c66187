"""`vaexprs fit`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from vaexprs.cli.console import Stopped, plain
from vaexprs.cli.options import (
    READABLE,
    ContinuousKey,
    CountsLayer,
    CovariateKey,
    Epochs,
    NTopGenes,
    Obs,
    Overwrite,
    Quiet,
    Seed,
    Transpose,
    cells_at,
    gene_list,
)
from vaexprs.cli.output import claim

if TYPE_CHECKING:
    from vaexprs.differential_privacy.accounting import Privacy

# static copy of vaexprs.likelihoods.LIKELIHOODS for help and completion: importing it loads Keras
LIKELIHOODS = ["nb", "zinb", "poisson", "gaussian", "bernoulli"]
LEVELS = ["public", "private"]


def fit(
    data: Annotated[Path, typer.Argument(help=f"Cells: {READABLE}.")],
    out: Annotated[Path, typer.Option(help="Output folder for the fitted model.")],
    label_key: Annotated[str | None, typer.Option(help="Column of obs with the cell type.")] = None,
    covariate_key: CovariateKey = None,
    continuous_key: ContinuousKey = None,
    donor_key: Annotated[
        str | None,
        typer.Option(help="Column of obs with the donor, to generate new donors (at least 3 donors)."),
    ] = None,
    layer: CountsLayer = None,
    transpose: Transpose = None,
    obs: Obs = None,
    likelihood: Annotated[
        str | None,
        typer.Option(
            help=f"Likelihood: {', '.join(LIKELIHOODS)} (default: chosen from the values).",
            autocompletion=lambda: LIKELIHOODS,
        ),
    ] = None,
    min_counts: Annotated[
        int | None,
        typer.Option(
            help="Minimum number of counts of a cell in all genes; cells with fewer are left out (default: "
            "only cells without counts in the fitted genes)."
        ),
    ] = None,
    n_top_genes: NTopGenes = None,
    genes: Annotated[
        Path | None,
        typer.Option(
            help="Genes to fit: a text file with a name per line, or a data set with these genes. With "
            "--epsilon the list must be public.",
            metavar="FILE",
        ),
    ] = None,
    latent_dim: Annotated[
        int | None,
        typer.Option(help="Number of latent dimensions (default: chosen from the cells; bernoulli: 2)."),
    ] = None,
    regularization: Annotated[float, typer.Option(help="Weight of the KL divergence.")] = 1.0,
    epochs: Epochs = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Batch size (default: 128, less for under 512 cells)."),
    ] = None,
    validation_split: Annotated[float, typer.Option(help="Fraction of cells held out for validation.")] = 0.0,
    optimizer: Annotated[
        str | None, typer.Option(help="Name of a Keras optimizer (default: Adam with averaged weights).")
    ] = None,
    use_generator: Annotated[
        bool, typer.Option("--use-generator", help="Stream mini-batches and keep sparse data sparse.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue from the checkpoint of an earlier run, if any."),
    ] = False,
    checkpoint_minutes: Annotated[
        float,
        typer.Option(help="Minutes between checkpoints (OUT.checkpoint, removed at the end)."),
    ] = 10.0,
    checkpoint_steps: Annotated[
        int | None, typer.Option(help="Training steps between checkpoints (overrides --checkpoint-minutes).")
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(help="Fit with differential privacy and this privacy budget, e.g. 3."),
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="Delta of (epsilon, delta)-differential privacy (default: 1e-5).")
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(help="Privacy unit: cell, or the column of obs with the donor (default: cell)."),
    ] = None,
    levels: Annotated[
        str | None,
        typer.Option(
            help="Whether labels and levels of covariates are public, fixed before the cells were seen, or "
            "private: then those of many units are released, with noise (default: public).",
            autocompletion=lambda: LEVELS,
        ),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(help="Number of processes that train together (default: that of srun).")
    ] = None,
    coordinator: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Address of process 0 for the other processes."),
    ] = None,
    process_id: Annotated[int | None, typer.Option(help="Index of this process, counted from 0.")] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Fit a model to cells and save it."""
    from vaexprs.interface.validation import check_file
    from vaexprs.io.atomic import check_output
    from vaexprs.io.read import check_readable
    from vaexprs.training import multiprocess

    check_output(out, overwrite=overwrite)
    check_readable(data)
    privacy = _privacy(epsilon, delta=delta, unit=unit, levels=levels)
    if genes is not None:
        check_file(genes)
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    if checkpoint.exists() and not (resume or overwrite):
        raise FileExistsError(
            f"{str(checkpoint)!r} exists from an earlier run. Continue it with --resume, or use --overwrite."
        )
    distribution = None
    if multiprocess.in_slurm_step() or not (processes is None and coordinator is None and process_id is None):
        distribution = multiprocess.join(processes, coordinator, process_id)
    is_first = distribution is None or multiprocess.place()[0] == 0
    if is_first:
        claim(out, overwrite=overwrite)
        if not resume:
            checkpoint.unlink(missing_ok=True)
    from vaexprs.training.fit import fit_vae

    with _hint_at_resume(checkpoint):
        fitted = fit_vae(
            cells_at(data, transpose, obs, [label_key, covariate_key, continuous_key, donor_key]),
            label_key=label_key,
            covariate_keys=covariate_key or (),
            continuous_keys=continuous_key or (),
            donor_key=donor_key,
            layer=layer,
            likelihood=likelihood,
            min_counts=min_counts,
            n_top_genes=n_top_genes,
            genes=None if genes is None else gene_list(genes),
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
            verbose="auto" if is_first and not quiet else 0,
        )
        interrupted = fitted.recipe.get("interrupted", False)
        if is_first:
            fitted.save(out, overwrite=overwrite)
    if is_first and not interrupted:
        checkpoint.unlink(missing_ok=True)
    multiprocess.leave()
    if is_first and not quiet:
        Console().print(f"{plain(repr(fitted))}\nsaved to {plain(str(out))}", highlight=False, soft_wrap=True)
    if interrupted:
        _stop(out, can_resume=privacy is None)


def _privacy(epsilon: float | None, **options: Any) -> Privacy | None:
    """Return the privacy settings, or None if no budget was given.

    Raises
    ------
    ValueError
        If another option of privacy was given without `epsilon`.
    """
    from vaexprs.differential_privacy.accounting import Privacy

    given = {name: value for name, value in options.items() if value is not None}
    if epsilon is not None:
        return Privacy(epsilon, **given)
    if given:
        raise ValueError(
            f"--{next(iter(given))} requires --epsilon: without it the fit has no differential privacy."
        )
    return None


def _stop(out: Path, *, can_resume: bool) -> NoReturn:
    """Report that the saved model is of part of the training, and end the command as after Ctrl-C."""
    hint = " To continue, run the same command with --resume --overwrite." if can_resume else ""
    Console(stderr=True).print(
        f"Interrupted: {plain(repr(str(out)))} is a model of part of the training.{hint}", soft_wrap=True
    )
    raise Stopped


@contextmanager
def _hint_at_resume(checkpoint: Path) -> Iterator[None]:
    """Add to an error or interrupt that the training can be resumed, if there is a checkpoint."""
    hint = f"The training so far is kept in {str(checkpoint)!r}: run the same command with --resume."
    try:
        yield
    except (OSError, MemoryError) as error:
        if not checkpoint.exists():
            raise
        raise type(error)(f"{error} {hint}") from error
    except KeyboardInterrupt:
        if not checkpoint.exists():
            raise
        Console(stderr=True).print(
            f"Interrupted; no model was saved. {plain(hint)}", soft_wrap=True, highlight=False
        )
        raise Stopped from None
