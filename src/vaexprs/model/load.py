"""Load a saved model and check that its parts fit together."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from packaging.version import InvalidVersion, Version

from vaexprs.differential_privacy.accounting import Guarantee
from vaexprs.interface.errors import FileFormatError, reason
from vaexprs.interface.validation import check_path, listed
from vaexprs.io.untrusted.archives import read_arrays
from vaexprs.io.untrusted.keras_archive import check_saved
from vaexprs.latent.density import LatentDensity
from vaexprs.mixture.em import Mixture
from vaexprs.model.vae_fit import FILES, FORMAT, VAEFit
from vaexprs.nn.vae import VAE
from vaexprs.preprocessing.conditions import Conditions
from vaexprs.preprocessing.prepare import Preprocessing
from vaexprs.preprocessing.scaling import SCALINGS, Scaling

PARTS_OF_RECIPE = ("arguments", "data", "versions")  # by name


def load_vae(
    path: str | os.PathLike[str], *, custom_objects: Mapping[str, type[keras.layers.Layer]] | None = None
) -> VAEFit:
    """Load a fit that `VAEFit.save` wrote. It generates the same cells bit for bit.

    Parameters
    ----------
    path
        The folder.
    custom_objects
        Your own layer classes by name, where the model has any: nothing in the folder is run as code.

    Raises
    ------
    TypeError
        If `path` is something else.
    FileNotFoundError
        If there is no folder at `path` or a file is missing in it.
    ValueError
        If it was written by a newer version, or is damaged.
    """
    path = check_path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"There is no saved model {str(path)!r}.")
    for name in FILES:
        if not (path / name).is_file():
            raise FileNotFoundError(f"{str(path)!r} is not a saved model: {name} is missing.")
    meta = _read_meta(path / "meta.json")
    try:
        arrays = read_arrays(path / "arrays.npz")
        conditions = Conditions(
            meta["label_key"], {key: tuple(levels) for key, levels in meta["levels"].items()}
        )
        density = LatentDensity.from_arrays(
            {name.removeprefix("density."): a for name, a in arrays.items() if name.startswith("density.")},
            conditions,
        )
        preprocessing = Preprocessing(
            pd.Index(meta["genes"]),
            conditions,
            Scaling(
                meta["scaling"],
                arrays["scaling.low"],
                arrays["scaling.range"],
                float(meta.get("unit", 1)),
            ),
            meta["likelihood"],
        )
        history = {name: [float(value) for value in values] for name, values in meta["history"].items()}
        seed, recipe = int(meta["seed"]), dict(meta.get("recipe", {}))
        recipe |= {part: dict(recipe[part]) for part in PARTS_OF_RECIPE if part in recipe}
        guarantee = Guarantee.from_dict(meta["guarantee"]) if "guarantee" in meta else None
    except Exception as error:  # zipfile and zlib each have their own
        raise ValueError(
            f"The saved model {str(path)!r} is damaged (arrays.npz or meta.json): {reason(error)}"
        ) from error
    fit = VAEFit(
        _read_model(path / "model.keras", custom_objects, recipe),
        preprocessing,
        density,
        history,
        seed,
        recipe,
        guarantee,
    )
    try:
        _check_together(fit)
    except Exception as error:  # any, of parts that were never meant for each other
        raise ValueError(
            f"The parts of the saved model {str(path)!r} do not fit together: {reason(error)}"
        ) from error
    return fit


def _check_together(fit: VAEFit) -> None:
    """Check that network, density and names are of one size: what draws does not look again."""
    prep, density, model = fit.preprocessing, fit.density, fit.model
    n_genes, width = len(prep.genes), prep.conditions.width
    dims = fit.latent_dim + fit.likelihood.counts
    expected = {
        "genes": (n_genes, int(model.inputs[0].shape[-1])),
        "conditions": (width, int(model.inputs[1].shape[-1]) if len(model.inputs) > 1 else 0),
        "label_key": (prep.conditions.label_key in (None, *prep.conditions.levels), True),
        "likelihood": (prep.likelihood, fit.likelihood.name),
        "scaling": (prep.scaling.kind in SCALINGS, True),
        "unit": (0 < prep.scaling.unit < np.inf, True),
        "limits": ({prep.scaling.low.shape, prep.scaling.range.shape}, {_limits(prep.scaling, n_genes)}),
        "cells": (density.cells.shape, (len(density.seen),)),
        "bic": (density.bic.shape, (len(density.seen),)),
        "components": ([_components(mixture) for mixture in density.mixtures], [True] * len(density.seen)),
        "means": ({mixture.means.shape[1:] for mixture in density.mixtures}, {(dims,)}),
        "covariances": ({mixture.covariances.shape[1:] for mixture in density.mixtures}, {(dims, dims)}),
        "pooled": (density.pooled.shape, (dims, dims)),
        "effects": (density.effects.shape, (width, dims)),
        "output": (
            {int(part.shape[-1]) for part in keras.tree.flatten(fit.decoder.output)},
            {n_genes},
        ),
        "loss": (bool(fit.history.get("loss")) or fit.guarantee is not None, True),
    }
    for what, (found, wanted) in expected.items():
        if found != wanted:
            raise ValueError(f"{what} must be {wanted}, got {found}.")
    for levels in density.seen:
        for key, level in levels.items():
            prep.conditions.check(key, level)
    numbers = (
        density.cells,
        density.bic,
        density.pooled,
        density.effects,
        prep.scaling.low,
        prep.scaling.range,
    )
    parts = [
        part for mixture in density.mixtures for part in (mixture.weights, mixture.means, mixture.covariances)
    ]
    odd = {part.dtype.kind for part in (*numbers, *parts)} - set("iuf")
    if odd:
        raise ValueError(f"arrays must hold numbers, got dtype of kind {listed(sorted(odd))}.")


def _components(mixture: Mixture) -> bool:
    """Whether a mixture has a component, and all of each."""
    parts = (mixture.weights, mixture.means, mixture.covariances)
    return len({len(part) for part in parts}) == 1 <= len(mixture.weights) and all(
        bool(np.isfinite(part).all()) for part in parts
    )


def _limits(scaling: Scaling, n_genes: int) -> tuple[int]:
    return (n_genes,) if scaling.kind == "minmax" else (0,)


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        number = meta["format"]
    except (ValueError, KeyError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"{str(path)!r} is damaged: {reason(error)}") from error
    if not isinstance(number, int) or number > FORMAT:
        raise ValueError(
            f"The saved model {str(path.parent)!r} has format {number}, this vaexprs ({version('vaexprs')}) "
            f"reads up to {FORMAT}. Update it: pip install -U vaexprs."
        )
    return dict(meta)


def _read_model(path: Path, custom_objects: Mapping[str, Any] | None, recipe: Mapping[str, Any]) -> VAE:
    try:
        check_saved(path, custom_objects or {})
        model: VAE = keras.saving.load_model(
            path, custom_objects=dict(custom_objects or {}), compile=False, safe_mode=True
        )
    except (FileFormatError, MemoryError):
        raise
    except Exception as error:  # Keras, zipfile and h5py each have their own: a stranger's file may raise any
        raise ValueError(f"{str(path)!r} is damaged{_or_newer(recipe)}: {reason(error)}") from error
    return model


def _or_newer(recipe: Mapping[str, Any]) -> str:
    """Say so where a model was saved with a newer Keras, whose layers may have settings unknown here."""
    versions = recipe.get("versions")
    saved = str(versions.get("keras", "")) if isinstance(versions, dict) else ""
    try:
        if Version(saved) <= Version(keras.__version__):
            return ""
    except InvalidVersion:
        return ""
    return f", or needs the Keras that it was saved with, {saved} (here is {keras.__version__}; update it)"
