"""Load a saved model and check that its parts are consistent."""

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
from vaexprs.latent.donors import MIN_DONORS, DonorEffects
from vaexprs.mixture.em import Mixture
from vaexprs.model.vae_fit import FILES, FORMAT, VAEFit
from vaexprs.nn.compilation import keep_compiled
from vaexprs.nn.vae import VAE
from vaexprs.preprocessing.conditions import Conditions
from vaexprs.preprocessing.prepare import Preprocessing
from vaexprs.preprocessing.scaling import SCALINGS, Scaling
from vaexprs.preprocessing.splines import Spline

PARTS_OF_RECIPE = ("arguments", "choices", "data", "versions")  # dicts in the recipe


def load_vae(
    path: str | os.PathLike[str], *, custom_objects: Mapping[str, type[keras.layers.Layer]] | None = None
) -> VAEFit:
    """Load a fit saved by `VAEFit.save`. It generates exactly the same cells as the original.

    Parameters
    ----------
    path
        Folder of the saved model.
    custom_objects
        Custom layer classes of the model by name. Code in the folder is never executed.

    Raises
    ------
    TypeError
        If `path` is not a path.
    FileNotFoundError
        If `path` is not a folder or a file is missing in it.
    ValueError
        If the model was saved by a newer version or is damaged.
    """
    path = check_path(path)
    if path.is_file():
        raise FileNotFoundError(
            f"A saved model is a folder, got the file {str(path)!r}. Give the folder that `vaexprs fit` or "
            "VAEFit.save wrote; to fit a model to a data set use `vaexprs fit` or fit_vae."
        )
    if not path.is_dir():
        raise FileNotFoundError(f"There is no saved model {str(path)!r}.")
    for name in FILES:
        if not (path / name).is_file():
            raise FileNotFoundError(f"{str(path)!r} is not a saved model: {name} is missing.")
    meta = _read_meta(path / "meta.json")
    try:
        arrays = read_arrays(path / "arrays.npz")
        conditions = Conditions(
            meta["label_key"],
            {key: tuple(levels) for key, levels in meta["levels"].items()},
            {key: Spline.from_dict(part) for key, part in meta.get("continuous", {}).items()},
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
            donor_key=None if "donors.key" not in arrays else str(arrays["donors.key"]),
        )
        donors = None
        if "donors.key" in arrays:
            donors = DonorEffects.from_arrays(
                {name.removeprefix("donors."): a for name, a in arrays.items() if name.startswith("donors.")}
            )
        history = {name: [float(value) for value in values] for name, values in meta["history"].items()}
        seed, recipe = int(meta["seed"]), dict(meta.get("recipe", {}))
        recipe |= {part: dict(recipe[part]) for part in PARTS_OF_RECIPE if part in recipe}
        guarantee = Guarantee.from_dict(meta["guarantee"]) if "guarantee" in meta else None
    except Exception as error:  # zipfile and zlib raise their own exceptions
        raise ValueError(
            f"The saved model {str(path)!r} is damaged (arrays.npz or meta.json): {reason(error)}"
        ) from error
    keep_compiled()  # Keras compiles the initializers of the weights that it replaces
    fit = VAEFit(
        _read_model(path / "model.keras", custom_objects, recipe),
        preprocessing,
        density,
        history,
        seed,
        recipe,
        guarantee,
        donors,
    )
    try:
        _check_together(fit)
    except Exception as error:  # inconsistent parts can raise anything
        raise ValueError(f"The saved model {str(path)!r} is inconsistent: {reason(error)}") from error
    return fit


def _check_together(fit: VAEFit) -> None:
    """Check that network, density and names have consistent sizes; generation does not check them."""
    prep, density, model = fit.preprocessing, fit.density, fit.model
    n_genes, conditions = len(prep.genes), prep.conditions
    n_groups, n_keys = len(density.seen) + 1, len(conditions.continuous)
    continuous = density.continuous
    dims = fit.latent_dim + fit.likelihood.counts
    expected = {
        "genes": (n_genes, int(model.inputs[0].shape[-1])),
        "conditions": (conditions.width, int(model.inputs[1].shape[-1]) if len(model.inputs) > 1 else 0),
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
        "effects": (density.effects.shape, (conditions.n_levels, dims)),
        "output": (
            {int(part.shape[-1]) for part in keras.tree.flatten(fit.decoder.output)},
            {n_genes},
        ),
        "continuous covariates": (conditions.continuous.keys() & conditions.levels.keys(), set()),
        "loss": (bool(fit.history.get("loss")) or fit.guarantee is not None, True),
    }
    if fit.donors is not None:
        expected |= _expected_of_donors(fit.donors, len(density.seen), dims, n_genes)
    if continuous is not None:
        expected |= {
            "slopes": (continuous.slopes.shape, (n_groups, conditions.n_basis, dims)),
            "quantiles": (continuous.quantiles.shape[:2], (n_groups, n_keys)),
            "correlation": (continuous.correlation.shape, (n_keys, n_keys)),
            "discrete": (continuous.discrete.shape, (n_keys,)),
            "continuous": (all(bool(np.isfinite(part).all()) for part in vars(continuous).values()), True),
        }
    for what, (found, wanted) in expected.items():
        if found != wanted:
            raise ValueError(f"{what} must be {wanted}, got {found}.")
    for levels in density.seen:
        for key, level in levels.items():
            prep.conditions.check(key, level)
    finite = (density.cells, density.pooled, density.effects, prep.scaling.low, prep.scaling.range)
    numbers = (*finite, density.bic, *(() if continuous is None else vars(continuous).values()))
    parts = [
        part for mixture in density.mixtures for part in (mixture.weights, mixture.means, mixture.covariances)
    ]
    odd = {part.dtype.kind for part in (*numbers, *parts)} - set("iuf")
    if odd:
        raise ValueError(f"arrays must be numeric, got dtype of kind {listed(sorted(odd))}.")
    if not all(bool(np.isfinite(part).all()) for part in finite):
        raise ValueError("the latent density and the scaling must be finite, got NaN or infinite numbers.")
    # counts of a network with NaN would all be zero
    lost = [weight.path for weight in model.weights if not np.isfinite(np.asarray(weight.value)).all()]
    if lost:
        raise ValueError(f"weights must be finite, got NaN or infinite ones in {listed(lost)}.")


def _expected_of_donors(donors: DonorEffects, groups: int, dims: int, genes: int) -> dict[str, Any]:
    """Return found and expected shapes of the effects of donors, and whether they are finite numbers."""
    shapes = {
        "cells": (donors.n_donors, groups),
        "shifts": (donors.n_donors, groups, dims),
        "offsets": (donors.n_donors, groups, genes),
        "composition": (donors.n_donors, groups),
        "shift_scale": (groups, dims),
        "offset_scale": (groups, genes),
        "composition_scale": (groups,),
        "offset_mean": (groups, genes),
        "composition_mean": (groups,),
        "dispersion_ratio": (groups, genes),
    }
    arrays = {name: getattr(donors, name) for name in shapes}
    return {
        "number of donors": (donors.n_donors >= MIN_DONORS, True),
        "effects of donors": ({name: array.shape for name, array in arrays.items()}, shapes),
        "values of donors": (
            donors.values.shape if donors.value_keys else (donors.n_donors, 0),
            (donors.n_donors, len(donors.value_keys)),
        ),
        "finite effects of donors": (
            [name for name, a in arrays.items() if a.dtype.kind not in "iuf" or not np.isfinite(a).all()],
            [],
        ),
    }


def _components(mixture: Mixture) -> bool:
    """Return whether a mixture has complete and finite parameters of at least one component."""
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
            f"The saved model {str(path.parent)!r} has format {number}, but vaexprs {version('vaexprs')} "
            f"supports formats up to {FORMAT}. Update vaexprs: pip install -U vaexprs."
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
    except Exception as error:  # untrusted file: Keras, zipfile or h5py may raise anything
        raise ValueError(f"{str(path)!r} is damaged{_or_newer(recipe)}: {reason(error)}") from error
    return model


def _or_newer(recipe: Mapping[str, Any]) -> str:
    """Return a hint for the message if the model was saved with a newer Keras than the installed one."""
    versions = recipe.get("versions")
    saved = str(versions.get("keras", "")) if isinstance(versions, dict) else ""
    try:
        if Version(saved) <= Version(keras.__version__):
            return ""
    except InvalidVersion:
        return ""
    return f" or needs a newer Keras (saved with {saved}, installed {keras.__version__}; update Keras)"
