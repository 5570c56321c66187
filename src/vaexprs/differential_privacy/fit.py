"""Fit a model with differential privacy: argument checks, marginals, training and latent density."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import anndata as ad
import keras
import numpy as np
import pandas as pd

from vaexprs.data.backed import BackedCells, library_sizes
from vaexprs.differential_privacy.accounting import (
    CELL,
    PRIVATE,
    Guarantee,
    Privacy,
    plan,
    training_signal,
)
from vaexprs.differential_privacy.dp_sgd import train_privately
from vaexprs.differential_privacy.independence import (
    check_independence,
    check_precision,
    encode_separately,
)
from vaexprs.differential_privacy.latent import release_density
from vaexprs.differential_privacy.levels import ReleasedLevels, release_levels
from vaexprs.differential_privacy.marginals import Marginals, release_marginals
from vaexprs.differential_privacy.mechanisms import Units
from vaexprs.differential_privacy.randomness import Randomness
from vaexprs.differential_privacy.usefulness import expectation
from vaexprs.interface.errors import warn
from vaexprs.interface.validation import did_you_mean, listed
from vaexprs.latent.density import LatentDensity, without_noise
from vaexprs.likelihoods import LIKELIHOODS
from vaexprs.likelihoods.base import Likelihood
from vaexprs.nn.build import build_vae
from vaexprs.nn.options import NetworkOptions
from vaexprs.nn.vae import VAE
from vaexprs.preprocessing.conditions import column_of_levels
from vaexprs.preprocessing.prepare import Preprocessing
from vaexprs.preprocessing.summary import summarise
from vaexprs.preprocessing.values import check_enough_cells

STEPS = 300  # default number of steps for up to MANY_UNITS units
MANY_UNITS = 5_000  # number of units above which steps grow with its square root
RATE = 0.2  # default sampling rate of the units in a step
MAX_EXPECTED = 1_024  # maximum of the default expected number of units in a step
CELLS_PER_UNIT = 32  # maximum number of cells of a donor in a step
# A network is trained by default if the norm of the gradients of all units is at least this much larger than
# that of the noise. Otherwise training adds more noise than it learns: the budget goes to the marginals.
MIN_TRAINING_SIGNAL = 1.0
HIDDEN = 16  # units of the encoder's default hidden layer
LATENT_DIM = 5
# number of levels of each key that is assumed if levels are private, when it is decided whether to train
ASSUMED_LEVELS = 10
LEARNING_RATE = 1e-2
AVERAGING = 0.99  # momentum of the moving average of the weights
START_CELLS = 2_000  # number of cells sampled from the marginals to initialise the model
NOISE_SAMPLES = 256  # latent vectors per condition to estimate the sampling noise of total counts
# parts of the names of covariates that name persons or samples with many cells
DONORS = ("donor", "patient", "person", "subject", "individual", "participant", "sample", "mouse", "animal")
# arguments of fit_vae that cannot be combined with privacy, and why
REFUSED = {
    "n_top_genes": "the selection of variable genes depends on the private cells. Give a list of genes that "
    "was chosen with other data, such as a panel or the variable genes of a public atlas, with genes= "
    "(--genes)",
    "validation_split": "decisions based on the loss of private cells reveal information about them. Hold "
    "out cells before the fit, and use evaluate",
    "x_val": "decisions based on the loss of private cells reveal information about them. Use evaluate",
    "donor_key": "the effects of donors are estimated without noise. To protect donors, use "
    "Privacy(epsilon, delta, unit='donor')",
    "preprocessing": "its limits were learned without noise. Leave it out",
    "checkpoint": "the noise can be computed from a saved training state. Leave it out",
    "resume": "the noise can be computed from a saved training state. Leave it out",
    "distribution": "units and noise must be sampled by one process. Leave it out",
}
REFUSED_BY_KERAS_FIT = (
    "the only argument of Keras' fit that is allowed is verbose. The others give user code access to losses "
    "of private cells, or weight cells differently"
)


def check_request(privacy: Any, given: Mapping[str, Any], fit_arguments: Mapping[str, Any]) -> None:
    """Check the arguments of a private fit before any data are read.

    Raises
    ------
    TypeError
        If `privacy` is not a `Privacy`.
    ValueError
        If an argument would break the guarantee.
    """
    if not isinstance(privacy, Privacy):
        raise TypeError(f"privacy must be vaexprs.Privacy(epsilon, delta, unit), got {privacy!r}.")
    for name, why in REFUSED.items():
        value = given.get(name)
        if value is not None and value is not False and not (name == "validation_split" and value == 0):
            raise ValueError(f"{name} cannot be combined with privacy: {why}.")
    continuous = given.get("continuous_keys")
    if continuous is not None and len(continuous):
        raise ValueError(
            "continuous_keys cannot be combined with privacy, which supports levels only. Use covariate_keys "
            "with few levels, such as age groups."
        )
    check_precision()
    for name in fit_arguments:
        if name != "verbose":
            raise ValueError(f"{name} cannot be combined with privacy: {REFUSED_BY_KERAS_FIT}.")


def check_levels(privacy: Privacy, keys: Sequence[str | None]) -> None:
    """Check that there is a label or a covariate if levels are private.

    Raises
    ------
    ValueError
        If there is none.
    """
    if privacy.levels == PRIVATE and not any(keys):
        raise ValueError(
            "levels='private' requires label_key or covariate_keys, whose levels are private. Leave it out."
        )


def warn_of_donors(privacy: Privacy, keys: Sequence[str]) -> None:
    """Warn that single cells are protected, not donors, if a covariate seems to name donors."""
    if privacy.unit != CELL:
        return
    for key in keys:
        if any(part in key.lower() for part in DONORS):
            warn(
                f"Single cells are protected, not donors: the model learns what the cells of one level of "
                f"{key!r} have in common. To protect donors, leave {key!r} out of the covariates and use "
                f"Privacy(epsilon, delta, unit={key!r}) or --unit {key}."
            )
            return


def units_of(cells: ad.AnnData | BackedCells, unit: str, conditions: Sequence[str | None]) -> Units:
    """Return the privacy unit (cell or donor) of each cell.

    Raises
    ------
    ValueError
        If `obs` has no such column, the column has missing values or is one of the conditions, or there is
        only one unit.
    """
    if unit == CELL:
        check_enough_cells(cells, "object")
        units = Units(np.arange(cells.n_obs), cells.n_obs, single=True)
    elif unit in conditions:
        raise ValueError(
            f"unit must not be one of the conditions, got {unit!r}: the model would learn parameters "
            "specific to each unit. Leave it out of label_key and covariate_keys."
        )
    elif unit not in cells.obs:
        raise ValueError(
            f"unit must be 'cell' or a column of obs ({listed(list(cells.obs.columns), 20) or 'it has none'}"
            f"), got {unit!r}.{did_you_mean(unit, cells.obs.columns)}"
        )
    else:
        column = column_of_levels(cells.obs, unit, "unit")
        units = Units(column.cat.codes.to_numpy().astype(int), len(column.cat.categories))
    if units.n < 2:
        raise ValueError(f"A fit with privacy requires at least two units ({unit!r}), got {units.n}.")
    return units


def schedule(units: int, batch_size: int | None, epochs: int | None) -> tuple[float, int]:
    """Return the sampling rate of units in a step, and the number of steps.

    Without `batch_size` (expected number of units in a step) or `epochs` the defaults are used.
    """
    expected = batch_size or max(1, min(round(RATE * units), MAX_EXPECTED))
    rate = min(expected / units, 1.0)
    if epochs is not None:
        return rate, max(1, round(epochs / rate))
    return rate, round(STEPS * max(1.0, np.sqrt(units / MANY_UNITS)))


def fit_privately(
    prepared: Preprocessing,
    likelihood: Likelihood,
    units: Units,
    privacy: Privacy,
    network: NetworkOptions,
    *,
    epochs: int | None,
    batch_size: int | None,
    optimizer: keras.optimizers.Optimizer | None,
    seed: int,
    shown: bool,
) -> tuple[VAE, Preprocessing, LatentDensity, Guarantee]:
    """Return the trained model, its preprocessing without cells, its density, and the privacy spent on them.

    Private levels are released first, and cells with other levels are left out. Then the marginals of the
    cells are released with noise; cells sampled from them replace the private cells in the initialisation of
    the model. Then the model is trained with DP-SGD, and the latent density is released with noise.

    Parameters
    ----------
    prepared
        With its training cells.
    likelihood
        A likelihood of counts.
    units
        Privacy unit of each cell.
    privacy
        The requested guarantee.
    network
        Layers, latent dimensions and KL weight.
    epochs, batch_size, seed
        See `fit_vae`; `batch_size` is the expected number of units in a step.
    optimizer
        None for Adam with averaged weights.
    shown
        Whether to show a progress bar.

    Raises
    ------
    ValueError
        If the values are not counts, a layer has state besides its weights, or no private level is released.
    """
    prepared, units = without_empty(prepared, units)
    if not likelihood.supports_privacy:
        names = [name for name, kind in LIKELIHOODS.items() if kind.supports_privacy]
        raise ValueError(
            f"likelihood must be one for counts ({listed(names)}) with privacy=, got "
            f"{likelihood.name!r}, which would release the range of the values without noise. Use the "
            "counts, with layer= if they are not in X: a private fit does not search for them."
        )
    randomness = privacy.source()
    conditions, n_genes = prepared.conditions, len(prepared.genes)
    rate, steps = schedule(units.n, batch_size, epochs)
    if epochs is None:
        any_counts = np.ones((2, n_genes), np.float32)  # values do not matter
        private = privacy.levels == PRIVATE
        width = ASSUMED_LEVELS * len(conditions.keys) if private else conditions.width
        untrained = _network(any_counts, np.ones(width), likelihood, network, seed)
        weights = sum(variable.value.size for variable in untrained.trainable_variables)
        if training_signal(privacy, units.n, weights) < MIN_TRAINING_SIGNAL:
            steps = 0
    cells_per_unit = 1 if privacy.unit == CELL else CELLS_PER_UNIT
    guarantee = plan(
        privacy,
        units=units.n,
        rate=rate,
        steps=steps,
        cells_per_unit=cells_per_unit,
        noise_source=randomness.source,
    )
    released = None
    if guarantee.levels:
        prepared, units, released = with_released_levels(prepared, units, guarantee, randomness)
        conditions = prepared.conditions
    low = expectation(guarantee, n_genes, [len(levels) for levels in conditions.levels.values()])
    if low:
        warn(low)
    cells = prepared.train
    assert cells is not None
    marginals = release_marginals(
        cells.x, cells.obs, conditions, units, guarantee.marginals, randomness, released
    )
    model = _initial_model(marginals, prepared, likelihood, network, seed)
    model.compile(optimizer or keras.optimizers.Adam(LEARNING_RATE, use_ema=True, ema_momentum=AVERAGING))
    if steps:
        taken = train_privately(
            model, cells.x, prepared.codes_train, units, guarantee, randomness, shown=shown
        )
        if taken < steps:
            guarantee = guarantee.after(taken)
    mean, sd = encode_separately(model, cells.x, prepared.codes_train)
    density = release_density(
        mean + sd * randomness.normal(mean.shape),
        library_sizes(cells.x),
        cells.obs,
        conditions,
        marginals,
        units,
        round(marginals.units * guarantee.cells_per_unit),
        guarantee.density,
        randomness,
    )
    # of released values only, so that any random numbers will do
    density = _without_sampling_noise(density, model, np.random.default_rng(seed))
    return model, prepared.without_cells(), density, guarantee


def without_empty(prepared: Preprocessing, units: Units) -> tuple[Preprocessing, Units]:
    """Return the cells that have counts and are not left out, with the unit of each.

    A cell without counts (of the listed genes) contributes nothing, like a cell that is not there. An error
    or a warning would tell that there is one. The number of units stays the same.
    """
    assert prepared.train is not None
    return _with_cells(prepared, units, (library_sizes(prepared.train.x) > 0) & (units.of >= 0))


def with_released_levels(
    prepared: Preprocessing, units: Units, guarantee: Guarantee, randomness: Randomness
) -> tuple[Preprocessing, Units, ReleasedLevels]:
    """Release the levels of label and covariates, and leave out cells with other levels.

    Like cells without counts, these contribute nothing, and the number of units stays the same.
    """
    assert prepared.train is not None
    obs = prepared.train.obs
    released = release_levels(
        obs, prepared.conditions, units, guarantee.levels, guarantee.threshold_delta, randomness
    )
    levels = released.conditions.levels
    kept = np.all([obs[key].isin(levels[key]) for key in levels], axis=0)
    prepared, units = _with_cells(replace(prepared, conditions=released.conditions), units, kept)
    return prepared, units, released


def _with_cells(prepared: Preprocessing, units: Units, kept: np.ndarray) -> tuple[Preprocessing, Units]:
    """Return some of the cells, with the unit of each."""
    assert prepared.train is not None
    if kept.all():
        return prepared, units
    rows = np.flatnonzero(kept)
    return replace(prepared, train=prepared.train.keep(rows)), replace(units, of=units.of[rows])


def _network(
    x: np.ndarray, level_cells: np.ndarray, likelihood: Likelihood, network: NetworkOptions, seed: int
) -> VAE:
    """Return a network with the user's or the default layers, and initial values for counts."""
    encoder_layers, decoder_layers = network.encoder_layers, network.decoder_layers
    if encoder_layers is None:
        encoder_layers = [keras.layers.Dense(HIDDEN, activation="relu", name="encoder_1")]
    if decoder_layers is None:
        decoder_layers = []  # fewer weights need less noise
    return build_vae(
        encoder_layers,
        decoder_layers,
        likelihood=likelihood,
        x=x,
        summary=summarise(x, "start"),
        level_cells=[int(n) for n in level_cells],
        latent_dim=network.latent_dim or LATENT_DIM,
        regularization=network.regularization,
        seed=seed,
    )


def _initial_model(
    marginals: Marginals, prepared: Preprocessing, likelihood: Likelihood, network: NetworkOptions, seed: int
) -> VAE:
    """Return an untrained model that depends on the private cells only through the released marginals."""
    rng = np.random.default_rng(seed)
    start, obs = marginals.draw(START_CELLS, prepared.conditions, rng)
    codes = prepared.conditions.one_hot(obs)
    model = _network(start, codes.sum(axis=0), likelihood, network, seed)
    for layer in model.layers:
        if layer.name not in ("normalize", "latent") and layer.non_trainable_variables:
            raise ValueError(
                "encoder_layers and decoder_layers must have no state besides their weights in a fit with "
                f"privacy, got {layer.name!r} ({type(layer).__name__}): it would share information or random "
                "numbers between cells. Leave it out."
            )
    check_precision(model.layers)
    check_independence(model, start, codes)
    likelihood.start_released(
        model.get_layer(model.decoder_layers[-1]), np.log(marginals.proportions), marginals.effects
    )
    return model


def _without_sampling_noise(density: LatentDensity, model: VAE, rng: np.random.Generator) -> LatentDensity:
    """Return the density with the variance that sampling counts adds to the library sizes removed."""
    decoder, keys, noise = model.decoder(), density.conditions.keys, []
    for levels, mixture in zip(density.seen, density.mixtures, strict=True):
        points = mixture.sample(NOISE_SAMPLES, rng)
        codes = density.conditions.one_hot(pd.DataFrame([levels] * NOISE_SAMPLES)) if keys else None
        noise.append(model.noise_of_totals(decoder, points[:, :-1], codes, np.exp(points[:, -1]), rng))
    return without_noise(density, np.array(noise))
