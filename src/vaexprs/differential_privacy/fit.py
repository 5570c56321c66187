"""A fit with differential privacy: what it refuses, and the way from prepared cells to the latent density."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import anndata as ad
import keras
import numpy as np
import pandas as pd

from vaexprs.data.backed import BackedCells, library_sizes
from vaexprs.differential_privacy.accounting import CELL, Guarantee, Privacy, plan
from vaexprs.differential_privacy.dp_sgd import train_privately
from vaexprs.differential_privacy.latent import release_density
from vaexprs.differential_privacy.marginals import Marginals, release_marginals
from vaexprs.differential_privacy.mechanisms import Units
from vaexprs.interface.errors import warn
from vaexprs.interface.validation import did_you_mean, listed
from vaexprs.latent.density import LatentDensity, without_noise
from vaexprs.likelihoods import LIKELIHOODS
from vaexprs.likelihoods.base import Likelihood
from vaexprs.nn.build import build_vae
from vaexprs.nn.predict import encode
from vaexprs.nn.vae import VAE
from vaexprs.preprocessing.conditions import column_of_levels
from vaexprs.preprocessing.prepare import Preprocessing
from vaexprs.preprocessing.summary import summarise

STEPS = 300
MANY_UNITS = 5_000  # beyond which there are more steps, in proportion to the square root
RATE = 0.2  # of the units are in a step ...
MAX_EXPECTED = 1_024  # ... but not more than so many
CELLS_PER_UNIT = 32  # of a donor that a step looks at
HIDDEN = 16
LATENT_DIM = 5
LEARNING_RATE = 1e-2
AVERAGING = 0.99
START_CELLS = 2_000
DRAWN_FOR_NOISE = 256  # from the density of each condition tell how much totals of drawn counts spread
FEW_UNITS = 100
WHY_NOT = {
    "n_top_genes": "which genes vary most is told by the private cells. Choose the genes by other data, such "
    "as a public set: adata[:, genes]",
    "validation_split": "to stop or choose by the loss of private cells tells of them. Hold cells out before "
    "the fit, and judge with evaluate",
    "x_val": "to stop or choose by the loss of private cells tells of them. Judge with evaluate",
    "preprocessing": "its limits were learned of cells without noise. Leave it out",
    "checkpoint": "a state of the training holds what the noise can be computed from. Leave it out",
    "resume": "a state of the training holds what the noise can be computed from. Leave it out",
    "distribution": "one process draws the units and the noise. Leave it out",
}
WHY_NO_MORE = (
    "of the arguments of Keras' fit it takes verbose alone: the others show losses of private cells to code "
    "that may act on them, or let one cell count more than another"
)


def check_request(privacy: Any, given: Mapping[str, Any], fit_arguments: Mapping[str, Any]) -> None:
    """Check the arguments of a fit, before anything is looked at.

    Raises
    ------
    TypeError
        If `privacy` is something else.
    ValueError
        If an argument would break the guarantee.
    """
    if not isinstance(privacy, Privacy):
        raise TypeError(f"privacy must be vaexprs.Privacy(epsilon, delta, unit), got {privacy!r}.")
    for name, why in WHY_NOT.items():
        value = given.get(name)
        if value is not None and value is not False and not (name == "validation_split" and value == 0):
            raise ValueError(f"{name} cannot come with privacy: {why}.")
    for name in fit_arguments:
        if name != "verbose":
            raise ValueError(f"{name} cannot come with privacy: {WHY_NO_MORE}.")


def units_of(cells: ad.AnnData | BackedCells, unit: str, conditions: Sequence[str]) -> Units:
    """Return whom the cells are of.

    Raises
    ------
    ValueError
        If there is no such column of `obs`, it has missing values or is one of the conditions, or there is
        one unit only.
    """
    if unit == CELL:
        units = Units(np.arange(cells.n_obs), cells.n_obs)
    elif unit in conditions:
        raise ValueError(
            f"unit must not be one of the conditions, got {unit!r}: the model would learn what is each one's "
            "own. Leave it out of label_key and covariate_keys."
        )
    elif unit not in cells.obs:
        raise ValueError(
            f"unit must be 'cell' or a column of obs ({listed(list(cells.obs.columns), 20) or 'it has none'}), "
            f"got {unit!r}.{did_you_mean(unit, cells.obs.columns)}"
        )
    else:
        column = column_of_levels(cells.obs, unit, "unit")
        units = Units(column.cat.codes.to_numpy().astype(int), len(column.cat.categories))
    if units.n < 2:
        raise ValueError(f"A fit with privacy takes at least two units ({unit!r}), got {units.n}.")
    return units


def schedule(units: int, batch_size: int | None, epochs: int | None) -> tuple[float, int]:
    """Return the probability of a unit to be in a step, and the number of steps; None for the default."""
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
    *,
    encoder_layers: Sequence[keras.layers.Layer] | None,
    decoder_layers: Sequence[keras.layers.Layer] | None,
    latent_dim: int | None,
    regularization: float,
    epochs: int | None,
    batch_size: int | None,
    optimizer: keras.optimizers.Optimizer | None,
    seed: int,
    shown: bool,
) -> tuple[VAE, LatentDensity, Guarantee]:
    """Return the trained model, its latent density, and what they have spent.

    First the marginals of the cells are told with noise. Cells drawn from them take the place of the real
    ones wherever a fit looks at cells before training. Then the model is trained with noise, and the latent
    density is told with noise.

    Parameters
    ----------
    prepared
        With its training cells.
    likelihood
        Of counts.
    units
        Whom the cells are of.
    privacy
        What is asked for.
    encoder_layers, decoder_layers, latent_dim, regularization, epochs, batch_size, seed
        See `fit_vae`; `batch_size` is the expected number of units in a step.
    optimizer
        None for Adam with averaged weights.
    shown
        Whether to show a progress bar.

    Raises
    ------
    ValueError
        If values are not counts, or a layer has a state besides its weights.
    """
    cells = prepared.train
    assert cells is not None
    if not likelihood.supports_privacy:
        names = [name for name, kind in LIKELIHOODS.items() if kind.supports_privacy]
        raise ValueError(
            f"likelihood must be one for counts ({listed(names)}) with privacy=, got "
            f"{likelihood.name!r}, which would release the range of the values without noise. Use the counts."
        )
    rng = privacy.source()
    rate, steps = schedule(units.n, batch_size, epochs)
    several = privacy.unit != CELL
    told = plan(
        privacy, units=units.n, rate=rate, steps=steps, cells_per_unit=CELLS_PER_UNIT if several else 1
    )
    if units.n < FEW_UNITS:
        warn(
            f"There are {units.n:,} units ({privacy.unit!r}) only: noise that hides one of so few hides most "
            "of what there is to learn. Judge the generated cells before you use them."
        )
    conditions = prepared.conditions
    marginals = release_marginals(cells.x, cells.obs, conditions, units, told.marginals, rng)
    model = _model(
        marginals,
        prepared,
        likelihood,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        latent_dim=latent_dim or LATENT_DIM,
        regularization=regularization,
        seed=seed,
    )
    model.compile(optimizer or keras.optimizers.Adam(LEARNING_RATE, use_ema=True, ema_momentum=AVERAGING))
    taken = train_privately(model, cells.x, prepared.codes_train, units, told, rng, shown=shown)
    if taken < steps:
        told = told.after(taken)
    mean, sd = encode(model, cells, prepared.codes_train)
    density = release_density(
        mean + sd * rng.standard_normal(mean.shape),
        library_sizes(cells.x),
        cells.obs,
        conditions,
        marginals,
        units,
        told.units * told.cells_per_unit,
        told.density,
        rng,
    )
    return model, _narrowed(density, model, rng), told


def _model(
    marginals: Marginals, prepared: Preprocessing, likelihood: Likelihood, *, seed: int, **arguments: Any
) -> VAE:
    """Return an untrained model that knows of the cells what was released."""
    rng = np.random.default_rng(seed)
    start, obs = marginals.draw(START_CELLS, prepared.conditions, rng)
    codes = prepared.conditions.one_hot(obs)
    if arguments["encoder_layers"] is None:
        arguments["encoder_layers"] = [keras.layers.Dense(HIDDEN, activation="relu", name="encoder_1")]
    if arguments["decoder_layers"] is None:
        arguments["decoder_layers"] = []  # fewer weights, less noise: from the latent vector to the genes
    model = build_vae(
        likelihood=likelihood,
        x=start,
        summary=summarise(start, "start"),
        level_cells=[int(n) for n in codes.sum(axis=0)],
        seed=seed,
        **arguments,
    )
    for layer in model.layers:
        if layer.name not in ("normalize", "latent") and layer.non_trainable_variables:
            raise ValueError(
                "encoder_layers and decoder_layers must have no state besides their weights where there is "
                f"privacy, got {layer.name!r} ({type(layer).__name__}): it would take something of one cell "
                "to another, or draw one number for all. Leave it out."
            )
    likelihood.start_released(
        model.get_layer(model.decoder_layers[-1]), np.log(marginals.proportions), marginals.effects
    )
    return model


def _narrowed(density: LatentDensity, model: VAE, rng: np.random.Generator) -> LatentDensity:
    """Return the density with library sizes narrower by what drawing counts adds to their spread."""
    decoder, keys, noise = model.decoder(), density.conditions.keys, []
    for levels, mixture in zip(density.seen, density.mixtures, strict=True):
        points = mixture.sample(DRAWN_FOR_NOISE, rng)
        codes = density.conditions.one_hot(pd.DataFrame([levels] * DRAWN_FOR_NOISE)) if keys else None
        noise.append(model.noise_of_totals(decoder, points[:, :-1], codes, np.exp(points[:, -1])))
    return without_noise(density, np.array(noise))
