"""`fit_vae`: fit a (conditional) variational autoencoder to cells."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import keras

from vaexprs.data.count_detection import X_LAYER
from vaexprs.differential_privacy.accounting import CELL, Privacy
from vaexprs.differential_privacy.fit import (
    check_levels,
    check_request,
    fit_privately,
    units_of,
    warn_of_donors,
)
from vaexprs.interface.errors import memory_errors, warn
from vaexprs.interface.validation import as_keys, check_integer, check_real, did_you_mean
from vaexprs.model.vae_fit import VAEFit
from vaexprs.nn.build import build_vae
from vaexprs.nn.compilation import keep_compiled
from vaexprs.nn.options import NetworkOptions
from vaexprs.nn.vae import VAE
from vaexprs.preprocessing.genes import check_genes
from vaexprs.preprocessing.prepare import Preprocessing
from vaexprs.preprocessing.values import few_counts, warn_of_many_genes
from vaexprs.training import multiprocess as processes
from vaexprs.training.callbacks import as_callbacks
from vaexprs.training.capacity import choose_capacity
from vaexprs.training.checkpoint import CheckpointOptions, checkpoint_options
from vaexprs.training.density import fit_latent_density
from vaexprs.training.diagnosis import diagnose
from vaexprs.training.inputs import (
    TrainingData,
    gather_cells,
    may_be_counts,
    prepare_data,
    select_cells,
    select_genes,
    select_variable_genes,
    split_validation,
)
from vaexprs.training.loop import train
from vaexprs.training.optimizer import copy_optimizer, default_optimizer
from vaexprs.training.recipe import fit_identity, fit_recipe, recorded_arguments
from vaexprs.training.schedule import Schedule, schedule_for

# arguments of keras.Model.fit that fit_vae sets itself, and the argument of fit_vae to use instead
REPLACED_ARGUMENTS = {
    "x": "x_train",
    "y": "y_train",
    "validation_data": "x_val and y_val",
    "class_weight": "sample_weight",
    "batch_size": "batch_size",
    "epochs": "epochs",
    "validation_split": "validation_split",
}


def fit_vae(
    object: Any = None,
    x_train: Any = None,
    x_val: Any = None,
    y_train: Any = None,
    y_val: Any = None,
    encoder_layers: Sequence[keras.layers.Layer] | None = None,
    decoder_layers: Sequence[keras.layers.Layer] | None = None,
    latent_dim: int | None = None,
    regularization: float = 1.0,
    epochs: int | None = None,
    batch_size: int | None = None,
    preprocessing: Preprocessing | None = None,
    use_generator: bool = False,
    optimizer: str | keras.optimizers.Optimizer | None = None,
    validation_split: float = 0.0,
    *,
    label_key: str | None = None,
    covariate_keys: Sequence[str] = (),
    donor_key: str | None = None,
    continuous_keys: Sequence[str] = (),
    layer: str | None = None,
    likelihood: str | None = None,
    seed: int = 0,
    min_counts: int | None = None,
    n_top_genes: int | None = None,
    genes: Sequence[str] | None = None,
    distribution: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_minutes: float = 10.0,
    checkpoint_steps: int | None = None,
    resume: bool = False,
    privacy: Privacy | None = None,
    **fit_arguments: Any,
) -> VAEFit:
    """Fit a (conditional) variational autoencoder to gene expression.

    Parameters
    ----------
    object
        Cells with annotation: an AnnData of shape (n_cells, n_genes), a BiocPy ``SummarizedExperiment`` or
        ``SingleCellExperiment``, a DataFrame with cells in rows and annotation in non-numeric columns, or a
        path to a file that `read` reads. A matrix of more than 64 MiB in an ``.h5ad`` or ``.zarr`` file
        stays on disk: it is read once from beginning to end and then in shuffled blocks, with at most about
        256 MiB in memory.
    x_train
        Alternative to `object`: an array, DataFrame or sparse matrix of shape (n_cells, n_genes).
    x_val
        Validation cells in the same form (or an AnnData), with the genes of the training cells.
    y_train, y_val
        Labels of `x_train` and `x_val`, (n_cells,). If `x_val` is an AnnData, its labels come from its `obs`.
    encoder_layers, decoder_layers
        Hidden layers: any Keras layers, which are rebuilt from their configurations. The encoder's may begin
        with a ``keras.Input``. By default one layer of 256 units (128 below 500 cells), with ReLU in the
        encoder and without activation in the decoder. Decoder layers that end in a layer of n_genes units
        follow the contract of the R package: see `likelihood`.
    latent_dim
        Size of the latent vector. By default 2 for "bernoulli", and otherwise the number of principal
        components of the cells that exceed the noise, between 10 and 64: within conditions, their variance
        is larger than that of the first component after permuting each gene (parallel analysis, Horn 1965,
        doi:10.1007/BF02289447). ``fit.recipe["choices"]`` has the reason. Fits with privacy use 5.
    regularization
        Weight of the KL divergence, at least 0.
    epochs
        Number of epochs; by default chosen to give ``27 * sqrt(n_cells)`` steps, at least 300.
    batch_size
        Batch size; by default 128, or a quarter of the cells if there are fewer than 512. Up to 16 steps run
        as one compiled program, unless a callback has hooks for batches.
    preprocessing
        ``fit.preprocessing`` of an earlier fit, whose limits and codes are used; so are its cells if no cells
        are given here.
    use_generator
        Whether to stream shuffled mini-batches without making a sparse matrix dense. A sparse matrix that
        would take more than 2 GiB as a dense one is always streamed.
    optimizer
        Name of a Keras optimizer, or an optimizer, which is copied. By default Adam: for "bernoulli" with
        its default learning rate, otherwise with a learning rate of 0.003 (0.001 for values that are not
        counts or for more than 20,000 counts per cell), beta_2 = 0.99, gradients clipped to a norm of 10,
        and an exponential moving average of the weights with momentum 0.99.
    validation_split
        Fraction of the cells held out for validation, stratified by label; at least 0, less than 1. Ignored
        if `x_val` is given.
    label_key
        Column of ``object.obs`` with the label. With `y_train`, the name of the label.
    covariate_keys
        Columns of ``object.obs`` with further conditions: donor, batch, treatment.
    donor_key
        Column of ``object.obs`` with the donor, for counts of at least three donors. The effects of donors on
        expression, depth and composition are random: `gen_exprs` draws new donors (``donors=8``), or the
        donors of the training cells. A donor that is named in `covariate_keys` instead is a fixed condition.
    continuous_keys
        Columns of ``object.obs`` with covariates that are numbers: age, dose, pseudotime. The network and the
        mean of the latent density depend on each by a natural cubic spline with 1 to 4 degrees of freedom,
        which is linear beyond the range of the training cells (`scipy.interpolate.CubicSpline`). The degrees
        of freedom are chosen from the cells: more than 1 (a line) if the regression of a gene or principal
        component within conditions is better with them by an F test, adjusted for the number of tests; with
        at least six distinct values the observations are the means of cells with the same value. At least
        three distinct values are required, and none may be missing. Numbers stored as text are converted.
    layer
        Layer (AnnData) or assay (BiocPy) with the values, "X" for X. By default X (or the first assay) if
        it holds counts, otherwise a layer of counts with a name that says so, otherwise ``raw``; without any
        of these, counts are recovered from log-normalized values. A warning names the source unless it is X.
        With a `likelihood` that is not for counts, and with `privacy`, the default is X.
    likelihood
        "nb", "zinb", "poisson" (counts), "gaussian" (any values; exact zeros, if there are any, have a
        probability of their own), or "bernoulli", the contract of the R package: the last decoder layer is
        the output, the data are min-max scaled, the loss is the cross-entropy, and generated values are the
        means of the output. By default "bernoulli" if `decoder_layers` end in a layer of n_genes units,
        otherwise "nb" for counts and "gaussian" for other values.
    seed
        Seed of the weights, the order of the cells, the noise and the latent density.
    min_counts
        Minimum number of counts of a cell in all genes, before genes are chosen, as in
        `scanpy.pp.filter_cells`. Cells with fewer are left out, with a warning unless `privacy` is given. By
        default only cells without any counts in the genes of the fit are left out.
    n_top_genes
        Number of genes to fit: the most variable ones by `scanpy.pp.highly_variable_genes` (computed on
        20,000 cells if there are more). By default all genes, with a warning if there are more genes than
        cells and more than 2,000: such fits leak which cells were in training.
    genes
        Names of the genes to fit, such as a panel; those that the cells do not have are left out with a
        warning. With `privacy` the list must be public: not chosen by looking at the private cells.
    distribution
        A ``keras.distribution`` to build and train the model under. With
        ``keras.distribution.DataParallel(auto_shard_dataset=False)`` each process trains on its part of each
        batch, and reads only its part of a file on disk; see `vaexprs.processes.join`.
    checkpoint
        File to which the state of training is saved at intervals, for `resume`. It remains after the fit:
        delete it once the fit is saved. The state of the user's own callbacks is not saved.
    checkpoint_minutes, checkpoint_steps
        Interval between checkpoints, in minutes or, if given, in steps.
    resume
        Whether to continue from `checkpoint` with the same data and settings, to the same result as a fit
        without interruption. If the file does not exist, training starts from the beginning.
    privacy
        ``vaexprs.Privacy(epsilon, delta, unit)`` for a differentially private fit; by default there is no
        privacy guarantee. It bounds what the model, and everything generated from it, reveals about one cell
        (or donor); ``fit.guarantee`` holds the privacy spent. It requires counts, trains a smaller
        network with noise, and refuses arguments that would break the guarantee. `batch_size` is then the
        expected number of units per step, sampled in each step: by default a fifth of the units, at most
        1,024, for 300 steps or more. Without `epochs` the network is not trained if the noise would be larger
        than what it learns, as with a few donors; the model then consists of the noisy marginals.
    **fit_arguments
        Passed to ``keras.Model.fit``: ``callbacks``, ``verbose``, ``initial_epoch``, ``sample_weight``
        and so on. By default one progress bar is shown, that of Keras with ``verbose=1`` or ``2``. Ctrl-C
        ends training after the current step and keeps the weights.

    Returns
    -------
    VAEFit
        With model, encoder, decoder, preprocessing, density and history. If training diverged, a warning is
        given, they are those of the last good weights, and ``recipe["diverged"]`` holds the message.

    Raises
    ------
    TypeError
        If an argument has the wrong type or is unknown.
    ValueError
        If the cells cannot be fitted (NaN, negative or fractional counts, cells without counts, values
        out of range, duplicate gene names, unknown labels), if layers do not fit, if training diverges before
        there are good weights, or if a checkpoint belongs to another fit.
    FileExistsError
        If `checkpoint` exists and `resume` is false.
    MemoryError
        If memory is exhausted.

    Examples
    --------
    >>> import vaexprs as vx
    >>> fit = vx.fit_vae(vx.demo_cells(), label_key="cell_type", epochs=2, verbose=0)
    >>> fit.latent_dim
    10
    """
    given = dict(locals())
    arguments = recorded_arguments(fit_vae, given)
    seed = check_integer("seed", seed, 0)
    regularization = check_real("regularization", regularization, 0)
    validation_split = check_real("validation_split", validation_split, 0, below=1)
    latent_dim = _positive("latent_dim", latent_dim)
    batch_size = _positive("batch_size", batch_size)
    epochs = _positive("epochs", epochs)
    n_top_genes = _positive("n_top_genes", n_top_genes)
    min_counts = _positive("min_counts", min_counts)
    names = check_genes(genes)
    _check_fit_arguments(fit_arguments)
    if privacy is not None:
        check_request(privacy, given, fit_arguments)
    if min_counts is not None:
        _check_min_counts(object, x_train, fit_arguments)
    shown = fit_arguments.get("verbose", "auto") != 0
    saving = checkpoint_options(checkpoint, checkpoint_steps, checkpoint_minutes, resume)
    network = NetworkOptions(encoder_layers, decoder_layers, latent_dim, regularization)

    keep_compiled()
    # a private fit must not choose a layer by its values
    if layer is None and (privacy is not None or not may_be_counts(likelihood, preprocessing)):
        layer = X_LAYER
    other_keys = [] if privacy is None or privacy.unit == CELL else [privacy.unit]
    if donor_key is not None:
        other_keys.append(donor_key)
    cells, val, key = gather_cells(
        object,
        x_train,
        y_train,
        x_val,
        y_val,
        label_key,
        covariate_keys,
        layer,
        [*other_keys, *as_keys(continuous_keys)],
    )
    units = None
    if privacy is not None:
        assert cells is not None  # privacy cannot be combined with preprocessing
        keys = as_keys(covariate_keys)
        check_levels(privacy, [key, *keys])
        warn_of_donors(privacy, keys)
        units = units_of(cells, privacy.unit, [key, *keys])
        if min_counts is not None:  # such cells are left out without a message
            units = units.without(few_counts(cells, "object", min_counts))
    elif cells is not None and min_counts is not None:
        cells, val = select_cells(cells, val, min_counts)
    if cells is not None and names is not None:
        cells, val = select_genes(cells, val, names)
    if cells is not None and n_top_genes is not None:
        cells, val = select_variable_genes(cells, val, n_top_genes, seed)
    data = prepare_data(
        cells,
        val,
        preprocessing,
        likelihood,
        decoder_layers,
        key,
        covariate_keys,
        donor_key,
        continuous_keys,
        dense=not use_generator,
        seed=seed,
        # weights and units of privacy belong to all cells
        drop_empty=privacy is None and "sample_weight" not in fit_arguments,
        private=privacy is not None,
        shown=shown,
    )
    if privacy is not None and units is not None:
        model, prepared, density, guarantee = fit_privately(
            data.preprocessing,
            data.likelihood,
            units,
            privacy,
            network,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=None if optimizer is None else copy_optimizer(optimizer),
            seed=seed,
            shown=shown,
        )
        recipe = fit_recipe(arguments, None, interrupted=model.interrupted)
        return VAEFit(model, prepared, density, {}, seed, recipe, guarantee)
    if n_top_genes is None and names is None and preprocessing is None:
        warn_of_many_genes(*data.shape)
    data = split_validation(data, validation_split, seed)
    prepared = data.preprocessing
    choices = {}
    if latent_dim is None:
        latent_dim = data.likelihood.latent_dim
        if not data.likelihood.last_layer_is_output:
            capacity = choose_capacity(data.cells, prepared.conditions, data.likelihood.counts, seed)
            latent_dim, choices["latent_dim"] = capacity.latent_dim, capacity.reason
        network = replace(network, latent_dim=latent_dim)
    schedule = schedule_for(*data.shape, epochs, batch_size, as_callbacks(fit_arguments.get("callbacks")))
    identity = fit_identity(arguments, prepared, latent_dim, schedule, data.summary, seed)
    model, history = _train_model(
        data, network, optimizer, schedule, saving, identity, distribution, seed, fit_arguments
    )
    recipe = fit_recipe(
        arguments, cells, interrupted=model.interrupted, diverged=model.diverged, choices=choices
    )
    if model.diverged:
        warn(model.diverged)
    if distribution is not None and processes.place()[1] > 1:  # each process fits the density by itself
        model = model.local_copy()
    density, donors = fit_latent_density(model, prepared, seed, shown=shown)
    for problem in diagnose(model, prepared, history):
        warn(problem)
    return VAEFit(model, prepared, density, history, seed, recipe, donors=donors)


def _positive(name: str, value: Any) -> int | None:
    return None if value is None else check_integer(name, value, 1)


def _check_min_counts(object: Any, x_train: Any, fit_arguments: Mapping[str, Any]) -> None:
    """Check that `min_counts` is not combined with what belongs to all cells."""
    advice = "Filter the cells before the fit: scanpy.pp.filter_cells(adata, min_counts=...)."
    if "sample_weight" in fit_arguments:
        raise ValueError(
            f"min_counts cannot be combined with sample_weight, which weights all cells. {advice}"
        )
    if object is None and x_train is None:
        raise ValueError("min_counts requires cells. Give them as object or x_train.")


def _check_fit_arguments(given: Mapping[str, Any]) -> None:
    keras_arguments = list(inspect.signature(keras.Model.fit).parameters)[1:]
    own_arguments = list(inspect.signature(fit_vae).parameters)
    for name in given:
        if name in REPLACED_ARGUMENTS:
            raise TypeError(f"{name} cannot be passed on to Keras' fit. Use {REPLACED_ARGUMENTS[name]}.")
        if name not in keras_arguments:
            raise TypeError(
                f"{name!r} is not an argument of fit_vae or of keras.Model.fit."
                f"{did_you_mean(name, [*own_arguments, *keras_arguments])}"
            )


def _train_model(
    data: TrainingData,
    network: NetworkOptions,
    optimizer: str | keras.optimizers.Optimizer | None,
    schedule: Schedule,
    saving: CheckpointOptions | None,
    identity: Mapping[str, Any],
    distribution: Any,
    seed: int,
    fit_arguments: Mapping[str, Any],
) -> tuple[VAE, dict[str, list[float]]]:
    """Build a model, train it under a distribution if there is one, and return it with its history."""
    share = (0, 1) if distribution is None else processes.place()
    processes.agree(identity)
    scope = nullcontext() if distribution is None else distribution.scope()
    with memory_errors(), processes.lost_process_errors(), scope:
        model = _build_model(data, network, optimizer, schedule, distribution, seed)
        history = train(
            model,
            data.preprocessing,
            schedule,
            seed=seed,
            fit_arguments=fit_arguments,
            share=share,
            checkpoint=None if saving is None else saving.open(identity, writes=share[0] == 0),
        )
    return model, history


def _build_model(
    data: TrainingData,
    network: NetworkOptions,
    optimizer: str | keras.optimizers.Optimizer | None,
    schedule: Schedule,
    distribution: Any,
    seed: int,
) -> VAE:
    """Return an untrained, compiled model."""
    model = build_vae(
        network.encoder_layers,
        network.decoder_layers,
        likelihood=data.likelihood,
        x=data.cells.x,
        summary=data.summary,
        level_cells=data.preprocessing.level_cells,
        n_basis=data.preprocessing.conditions.n_basis,
        latent_dim=network.latent_dim or data.likelihood.latent_dim,
        regularization=network.regularization,
        seed=seed,
    )
    model.compile(
        optimizer=(
            default_optimizer(data.likelihood, data.summary)
            if optimizer is None
            else copy_optimizer(optimizer)
        ),
        steps_per_execution=schedule.steps_at_once if distribution is None else 1,
    )
    return model
