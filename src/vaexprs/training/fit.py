"""`fit_vae`: fit a (conditional) variational autoencoder to cells."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anndata as ad
import keras
import numpy as np
import pandas as pd

from vaexprs.data.backed import BackedCells, BackedMatrix, library_sizes
from vaexprs.data.count_detection import X_LAYER
from vaexprs.differential_privacy.accounting import CELL, Privacy
from vaexprs.differential_privacy.fit import check_request, fit_privately, units_of
from vaexprs.interface.errors import memory_errors, warn
from vaexprs.interface.validation import check_integer, check_real, did_you_mean, listed
from vaexprs.io.atomic import check_output
from vaexprs.io.convert import fingerprint
from vaexprs.latent.density import LatentDensity, chosen_rows, fit_density, groups_of
from vaexprs.model.vae_fit import VAEFit
from vaexprs.nn.build import build_vae
from vaexprs.nn.compilation import keep_compiled
from vaexprs.nn.predict import encode
from vaexprs.nn.vae import NOISE_CELLS, VAE
from vaexprs.preprocessing.prepare import Cells, Preprocessing
from vaexprs.preprocessing.summary import Summary
from vaexprs.training import multiprocess as processes
from vaexprs.training.callbacks import as_callbacks
from vaexprs.training.checkpoint import Checkpoint, read_state
from vaexprs.training.inputs import (
    gather_cells,
    may_be_counts,
    prepare_cells,
    reuse_cells,
    select_variable_genes,
    split_validation,
)
from vaexprs.training.loop import train
from vaexprs.training.optimizer import copy_optimizer, default_optimizer
from vaexprs.training.schedule import Schedule, schedule_for

MAX_STUCK = 0.05  # genes with a dispersion at its limit, as a fraction, beyond which a fit is in doubt
MIN_KL = 0.01  # nats a cell
# arguments that say where a fit is made and kept, and change nothing of it
WHERE = ("distribution", "checkpoint", "checkpoint_minutes", "checkpoint_steps", "resume")
OURS = {  # arguments of keras.Model.fit that fit_vae sets itself, and what to use for them
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
    layer: str | None = None,
    likelihood: str | None = None,
    seed: int = 0,
    n_top_genes: int | None = None,
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
        Cells with their annotation: an AnnData of shape (n_cells, n_genes), a BiocPy
        ``SummarizedExperiment`` or ``SingleCellExperiment``, a DataFrame of cells in rows with their
        annotation in columns without numbers, or a path to anything that `read` reads. A matrix of an
        ``.h5ad`` or ``.zarr`` file that takes more than 64 MiB is never loaded: it is read once from
        beginning to end, and then in shuffled blocks, with at most some 256 MiB of it in memory.
    x_train
        Or the cells as an array, a DataFrame or a sparse matrix of shape (n_cells, n_genes).
    x_val
        Validation cells, likewise (or an AnnData), with the genes of the training cells.
    y_train, y_val
        Labels of `x_train` and `x_val`, (n_cells,). With `x_val` an AnnData they are taken from its `obs`.
    encoder_layers, decoder_layers
        Hidden layers, any Keras layers; new ones are built from their configurations. The encoder's may
        begin with a ``keras.Input``. By default one layer of 256 units (128 below 500 cells), with
        ReLU in the encoder and without activation in the decoder. Decoder layers that end in a layer of
        n_genes units are R's contract: see `likelihood`.
    latent_dim
        Size of the latent vector; by default 2 for "bernoulli" and 10 for the others.
    regularization
        Weight of the KL divergence, at least 0.
    epochs
        Passes over the training cells; by default as many as make ``27 * sqrt(n_cells)`` steps, at
        least 300.
    batch_size
        Cells a step; by default 128, or a quarter of the cells where there are fewer than 512. Up to 16 steps
        run as one program, unless one of the callbacks looks at batches.
    preprocessing
        ``fit.preprocessing`` of an earlier fit: its limits and codes are used, and its cells where none
        are given here.
    use_generator
        Whether to stream shuffled mini-batches from the matrix as it is. A sparse matrix is then never
        made dense as a whole; one that would take more than 2 GiB is not in any case.
    optimizer
        Name of a Keras optimizer, or one; it is copied. By default Adam, under "bernoulli" with its
        default learning rate, otherwise with one of 0.003 (0.001 where values are not counts or there are
        more than 20,000 a cell), beta_2 = 0.99, gradients with a norm of at most 10, and the weights
        averaged over the steps (an exponential moving average with momentum 0.99).
    validation_split
        Fraction of the cells kept for validation, in proportion within each label; at least 0, less
        than 1. Ignored where `x_val` is given.
    label_key
        Column of ``object.obs`` with the label. With `y_train`, the name of the label.
    covariate_keys
        Columns of ``object.obs`` with further conditions: donor, batch, treatment.
    layer
        Layer (AnnData) or assay (BiocPy) with the values, "X" for X. By default X (or the first assay) if
        it holds counts, else a layer with a name that says counts and that holds them, else ``raw``; where
        there are none, counts are recovered from the logarithms of normalised ones. A warning says what was
        taken if it is not X. With a `likelihood` that is not for counts it is X.
    likelihood
        "nb", "zinb", "poisson" (counts), "gaussian" (any values; exact zeros have a probability of their
        own where there are any), or "bernoulli": R's contract, where the last decoder layer is the output,
        the data are min-max scaled, the loss is the cross-entropy, and generated values are the output's
        means. By default "bernoulli" where `decoder_layers` end in a layer of n_genes units, else "nb" for
        counts and "gaussian" for other values.
    seed
        Seed of the weights, the order, the noise and the latent density.
    n_top_genes
        Fit only so many of the genes, the most variable ones as `scanpy.pp.highly_variable_genes` finds them
        (in 20,000 of the cells, where there are more). By default all.
    distribution
        A ``keras.distribution`` to build and train the model under. With
        ``keras.distribution.DataParallel(auto_shard_dataset=False)`` each process takes its part of each
        batch, and of a file on disk reads its part alone; see `vaexprs.processes.join`.
    checkpoint
        File to write the state of the training to, from time to time, so that `resume` can go on from it.
        It stays when the fit is done: delete it once the fit is saved. Callbacks of your own begin anew.
    checkpoint_minutes, checkpoint_steps
        How often: after so many minutes or, where they are given, steps.
    resume
        Go on from `checkpoint` with the same data and settings, to the same result as a fit without
        interruption. Where there is none yet, begin.
    privacy
        ``vaexprs.Privacy(epsilon, delta, unit)`` for a fit with differential privacy, by default without.
        The model and all that is generated of it then tell of one cell (or donor) no more than that allows;
        ``fit.guarantee`` says what was spent. It takes counts, trains a smaller network with noise, and
        refuses what would break the guarantee. `batch_size` is then the expected number of units in a step,
        drawn anew each time: by default a fifth of them, at most 1,024, and 300 steps or more.
    **fit_arguments
        Passed on to ``keras.Model.fit``: ``callbacks``, ``verbose``, ``initial_epoch``, ``sample_weight``
        and so on. By default one progress bar is shown; Keras' own with ``verbose=1`` or ``2``. Ctrl-C ends
        training after the current step and keeps what was learned.

    Returns
    -------
    VAEFit
        With model, encoder, decoder, preprocessing, density and history. Where training diverged, which a
        warning says, they are those of the last good weights, and ``recipe["diverged"]`` has the sentence.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind or unknown.
    ValueError
        If values cannot be learned from: NaN, negative or fractional counts, cells without counts,
        absurdly large ones, duplicate gene names, unknown labels, layers that do not fit; if training
        diverges before there is anything to keep; or if a checkpoint is of another fit.
    FileExistsError
        If there is something at `checkpoint` and `resume` is false.
    MemoryError
        If there is not enough of it.

    Examples
    --------
    >>> import vaexprs as vx
    >>> fit = vx.fit_vae(vx.demo_cells(), label_key="cell_type", epochs=2, verbose=0)
    >>> fit.latent_dim
    10
    """
    given = dict(locals())  # what the recipe tells: nothing else is known here yet
    seed = check_integer("seed", seed, 0)
    regularization = check_real("regularization", regularization, 0)
    validation_split = check_real("validation_split", validation_split, 0, below=1)
    if latent_dim is not None:
        latent_dim = check_integer("latent_dim", latent_dim, 1)
    batch_size = None if batch_size is None else check_integer("batch_size", batch_size, 1)
    epochs = None if epochs is None else check_integer("epochs", epochs, 1)
    _check_fit_arguments(fit_arguments)
    if n_top_genes is not None:
        n_top_genes = check_integer("n_top_genes", n_top_genes, 1)
    every = None if checkpoint_steps is None else check_integer("checkpoint_steps", checkpoint_steps, 1)
    minutes = check_real("checkpoint_minutes", checkpoint_minutes, 0)
    if privacy is not None:
        check_request(privacy, given, fit_arguments)
    file = _checkpoint_file(checkpoint, resume)

    keep_compiled()
    if layer is None and not may_be_counts(likelihood, preprocessing):
        layer = X_LAYER
    unit = [] if privacy is None or privacy.unit == CELL else [privacy.unit]
    train_cells, val, key = gather_cells(
        object, x_train, y_train, x_val, y_val, label_key, covariate_keys, layer, unit
    )
    if train_cells is not None and n_top_genes is not None:
        train_cells, val = select_variable_genes(train_cells, val, n_top_genes, seed)
    if train_cells is None:
        prepared, chosen, summary = reuse_cells(preprocessing, val, likelihood, not use_generator)
    else:
        prepared, chosen, summary = prepare_cells(
            train_cells,
            val,
            preprocessing,
            likelihood,
            decoder_layers,
            key,
            covariate_keys,
            not use_generator,
        )
    if privacy is not None:
        assert train_cells is not None
        model, density, guarantee = fit_privately(
            prepared,
            chosen,
            units_of(train_cells, privacy.unit, prepared.conditions.keys),
            privacy,
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers,
            latent_dim=latent_dim,
            regularization=regularization,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=None if optimizer is None else copy_optimizer(optimizer),
            seed=seed,
            shown=fit_arguments.get("verbose", "auto") != 0,
        )
        recipe = _recipe(given, None) | ({"interrupted": True} if model.interrupted else {})
        return VAEFit(model, prepared.without_cells(), density, {}, seed, recipe, guarantee)
    if prepared.val is None and validation_split:
        prepared = split_validation(prepared, validation_split, seed)
    cells = prepared.train
    assert cells is not None
    callbacks = as_callbacks(fit_arguments.get("callbacks"))
    schedule = schedule_for(len(cells), len(prepared.genes), epochs, batch_size, callbacks)
    share = (0, 1) if distribution is None else processes.place()
    about = _about(given, prepared, schedule, summary)
    processes.agree(about)
    scope = nullcontext() if distribution is None else distribution.scope()
    with memory_errors(), processes.lost_process_errors(), scope:
        model = build_vae(
            encoder_layers,
            decoder_layers,
            likelihood=chosen,
            x=cells.x,
            summary=summary,
            level_cells=prepared.level_cells,
            latent_dim=latent_dim or chosen.latent_dim,
            regularization=regularization,
            seed=seed,
        )
        model.compile(
            optimizer=default_optimizer(chosen, summary) if optimizer is None else copy_optimizer(optimizer),
            steps_per_execution=schedule.steps_at_once if distribution is None else 1,
        )
        state = None
        if file is not None:
            start = read_state(file, about)
            state = Checkpoint(
                file, steps=every, minutes=minutes, about=about, start=start, writes=share[0] == 0
            )
        history = train(
            model,
            prepared,
            schedule,
            seed=seed,
            fit_arguments=fit_arguments,
            share=share,
            checkpoint=state,
        )
    interrupted, diverged = model.interrupted, model.diverged
    if diverged:
        warn(diverged)
    if share[1] > 1:  # what follows is each process's own
        model = model.local_copy()
    density = _density(model, prepared, seed)
    for sentence in _doubts(model, prepared, history):
        warn(sentence)
    recipe = _recipe(given, train_cells) | ({"interrupted": True} if interrupted else {})
    recipe |= {"diverged": diverged} if diverged else {}
    return VAEFit(model, prepared, density, history, seed, recipe)


def _checkpoint_file(checkpoint: Any, resume: bool) -> Path | None:
    if checkpoint is None:
        if resume:
            raise ValueError("resume must come with checkpoint, the file to go on from.")
        return None
    path = Path(checkpoint)
    if path.exists() and not resume:
        raise FileExistsError(
            f"{str(path)!r} exists already. Go on from it with resume=True, or delete it to begin anew."
        )
    return check_output(path, overwrite=True)


def _about(
    given: Mapping[str, Any], prepared: Preprocessing, schedule: Schedule, summary: Summary
) -> dict[str, Any]:
    """Return what must be the same in all processes of a fit, and in a fit that goes on."""
    arguments = _arguments(given)
    for name in ("verbose", "callbacks"):
        arguments.pop(name, None)
    return arguments | {
        "version": version("vaexprs"),
        "data": summary.digest(),
        "genes": hashlib.sha256("\n".join(prepared.genes).encode()).hexdigest(),
        "levels": {key: list(levels) for key, levels in prepared.conditions.levels.items()},
        "batch_size": schedule.batch_size,
        "epochs": schedule.epochs,
        "seed": given["seed"],
    }


def _recipe(given: Mapping[str, Any], cells: ad.AnnData | BackedCells | None) -> dict[str, Any]:
    """Return what it takes to repeat a fit, in words that JSON can hold."""
    recipe: dict[str, Any] = {
        "arguments": _arguments(given),
        "versions": {name: version(name) for name in ("vaexprs", "keras", "jax", "numpy")},
    }
    if cells is not None:
        recipe["data"] = {"cells": cells.n_obs, "genes": cells.n_vars}
    if isinstance(cells, BackedCells):
        recipe["data"]["file"] = cells.X.path.name
    elif cells is not None:
        recipe["data"]["sha256"] = fingerprint(cells)
    return recipe


def _arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that are not the defaults, in words that JSON can hold."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(fit_vae).parameters.items()
        if name not in ("object", "x_train", "x_val", "y_train", "y_val", "fit_arguments")
    }
    arguments = {
        name: given[name]
        for name, default in defaults.items()
        if given[name] is not default and not (np.isscalar(given[name]) and given[name] == default)
    }
    arguments = {name: value for name, value in arguments.items() if name not in WHERE}
    return {name: _as_json(value) for name, value in (arguments | given["fit_arguments"]).items()}


def _as_json(value: Any) -> Any:
    """Return a plain value as it is, and for an object the name of its class."""
    if isinstance(value, (str, bool, int, float)) or value is None:
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple, np.ndarray, pd.Index)):
        return [_as_json(part) for part in value]
    if isinstance(value, Privacy):
        return value.asked
    return type(value).__name__


def _check_fit_arguments(given: Mapping[str, Any]) -> None:
    known = list(inspect.signature(keras.Model.fit).parameters)[1:]
    ours = list(inspect.signature(fit_vae).parameters)
    for name in given:
        if name in OURS:
            raise TypeError(f"{name} cannot be passed on to Keras' fit; use {OURS[name]}.")
        if name not in known:
            raise TypeError(
                f"fit_vae got an argument that neither it nor Keras' fit has: {name!r}."
                f"{did_you_mean(name, [*ours, *known])}"
            )


def _doubts(model: VAE, prepared: Preprocessing, history: Mapping[str, list[float]]) -> list[str]:
    """Return what there is to be said against a fit, and what to try."""
    doubts = []
    held_out = history.get("val_loss", [])
    if len(held_out) > 1 and held_out[-1] > held_out[0]:
        best = int(np.argmin(held_out))
        doubts.append(
            f"The loss of the validation cells rose from {held_out[0]:.1f} to {held_out[-1]:.1f} (best: "
            f"{held_out[best]:.1f} after {best + 1} of {len(held_out)} epochs): the model has learned its "
            f"training cells by heart. Fit with epochs={best + 1} or a larger regularization."
        )
    stuck = model.likelihood.stuck_genes(model.get_layer(model.decoder_layers[-1]))
    if stuck.mean() > MAX_STUCK:
        names = [str(gene) for gene in prepared.genes[stuck]]
        doubts.append(
            f"The dispersion of {len(names):,} of {len(stuck):,} genes ({listed(names)}) is at its limit: they "
            "vary in a way that the likelihood cannot have, or training was too long. Try another likelihood "
            "or fewer epochs."
        )
    if history["kl"] and history["kl"][-1] < MIN_KL:
        doubts.append(
            f"The latent vector is hardly used (KL divergence {history['kl'][-1]:.3f}): generated cells of a "
            "condition differ by the noise of the likelihood only. Where that cannot be, try more epochs or "
            "a smaller regularization."
        )
    return doubts


def _density(model: VAE, prepared: Preprocessing, seed: int) -> LatentDensity:
    cells = prepared.train
    assert cells is not None
    groups = groups_of(cells.obs, prepared.conditions)
    sizes = np.array([len(rows) for rows in groups.values()])
    codes = prepared.codes_train
    x = cells.x
    if isinstance(x, BackedMatrix):  # those that will be looked at, and no others, are read
        rows = np.sort(np.concatenate(list(chosen_rows(groups, seed).values())))
        x, codes = x.take(rows), None if codes is None else codes.take(rows)
        cells = Cells(x, cells.obs.iloc[rows])
    mean, sd = encode(model, cells, None if codes is None else codes[:])
    if not np.isfinite(mean).all() or not np.isfinite(sd).all():
        raise ValueError(
            "Training diverged: the encoder's output is not finite. Try a smaller learning rate: "
            "optimizer=keras.optimizers.Adam(1e-4)."
        )
    if not model.likelihood.counts:
        return fit_density(mean, sd, None, cells.obs, prepared.conditions, seed=seed, sizes=sizes)
    library = library_sizes(x)

    def noise(rows: np.ndarray) -> float:
        rows = rows[:NOISE_CELLS]
        code = None if codes is None else codes[rows]
        return model.noise_of_totals(decoder, mean[rows], code, library[rows])

    decoder = model.decoder()
    return fit_density(
        mean,
        sd,
        np.log(library),
        cells.obs,
        prepared.conditions,
        seed=seed,
        sizes=sizes,
        library_noise=noise,
    )
