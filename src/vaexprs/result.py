"""VAEFit, the fitted thing: what it holds, and how it is saved and loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from packaging.version import InvalidVersion, Version

from vaexprs import markup
from vaexprs._checks import check_path, reason, some
from vaexprs.architecture import check_saved
from vaexprs.density import LatentDensity
from vaexprs.guarantee import Guarantee
from vaexprs.likelihoods import Likelihood
from vaexprs.mixture import Mixture
from vaexprs.networks import VAE, predict
from vaexprs.ondisk import Told
from vaexprs.packed import read_arrays
from vaexprs.preprocessing import SCALINGS, Cells, Conditions, LevelCodes, Preprocessing, Scaling
from vaexprs.writing import check_output, written_whole

FORMAT = 1
FILES = ("model.keras", "arrays.npz", "meta.json")
PARTS_OF_RECIPE = ("arguments", "data", "versions")  # by name


@dataclass(frozen=True)
class VAEFit:
    """A fitted (conditional) variational autoencoder, ready to generate.

    Parameters
    ----------
    model
        The trained Keras model: prepared cells (and one-hot conditions) to a dict of ``output``,
        ``z_mean`` and ``z_log_stddev``.
    preprocessing
        What was learned of the input before training; hand it to another `fit_vae` to reuse it. Holds the
        prepared training cells, except after loading from disk or a fit with privacy.
    density
        The latent density of each condition; ``density.summary()`` shows it.
    history
        For each epoch ``loss``, ``reconstruction`` and ``kl``, and the same with ``val_`` where there were
        validation cells. Empty after a fit with privacy: losses tell of cells.
    seed
        The seed of the fit.
    recipe
        What it takes to repeat the fit: ``arguments`` (those that were not the defaults), ``data`` (cells,
        genes and SHA-256 of the training cells) and ``versions``.
    guarantee
        What differential privacy holds for the fit; None where none was asked for. Of a fit from a file it is
        what the file says.
    """

    model: VAE
    preprocessing: Preprocessing
    density: LatentDensity
    history: Mapping[str, list[float]]
    seed: int
    recipe: Mapping[str, Any] = field(default_factory=dict)
    guarantee: Guarantee | None = None

    @cached_property
    def encoder(self) -> keras.Model:
        """Keras model: prepared cells (and one-hot conditions) to ``z_mean``, (n_cells, latent_dim)."""
        return self.model.encoder()

    @cached_property
    def decoder(self) -> keras.Model:
        """Keras model: latent vectors (and one-hot conditions) to what the likelihood takes."""
        return self.model.decoder()

    @property
    def likelihood(self) -> Likelihood:
        """The distribution of the values."""
        return self.model.likelihood

    @property
    def genes(self) -> pd.Index:
        """Names of the genes, (n_genes,)."""
        return self.preprocessing.genes

    @property
    def latent_dim(self) -> int:
        """Size of the latent vector."""
        return self.model.latent_dim

    def cells_of(self, key: str) -> dict[str, int]:
        """Return the number of training cells of each level of the label or of a covariate."""
        counts = dict.fromkeys(self.preprocessing.conditions.levels[key], 0)
        for levels, n in zip(self.density.seen, self.density.cells, strict=True):
            counts[levels[key]] += int(n)
        return counts

    def __repr__(self) -> str:
        conditions = ", ".join(
            f"{key} ({len(levels)})" for key, levels in self.preprocessing.conditions.levels.items()
        )
        if self.guarantee is None:
            losses = self.history["loss"]
            trained = f"{len(losses)} epoch{'s' if len(losses) > 1 else ''}, loss {losses[-1]:.1f}"
        else:
            trained = f"{self.guarantee.steps:,} steps\n    {self.guarantee.sentence}"
        return (
            f"VAEFit: {len(self.genes):,} genes, {int(self.density.cells.sum()):,} cells, "
            f"conditions: {conditions or 'none'}\n"
            f"    likelihood {self.likelihood.name!r}, {self.latent_dim} latent dimensions, {trained}"
        )

    def _repr_html_(self) -> str:
        # what a notebook shows
        conditions = self.preprocessing.conditions.levels
        losses = list(self.history.get("loss", []))
        made_by = {
            str(name): str(value)
            for part in ("arguments", "versions")
            for name, value in dict(self.recipe.get(part, {})).items()
            if name != "verbose"
        }
        return markup.render(
            "notebook/fit.html",
            genes=list(map(str, self.genes)),
            n_cells=int(self.density.cells.sum()),
            likelihood=self.likelihood.name,
            latent_dim=self.latent_dim,
            seed=self.seed,
            losses=losses,
            last={
                name: self.history[name][-1]
                for name in sorted(self.history, key=_loss_first)
                if self.history[name]
            },
            points=markup.sparkline(losses) if losses else "",
            guarantee=None if self.guarantee is None else self.guarantee.sentence,
            conditions={
                key: markup.levels({level: (n,) for level, n in self.cells_of(key).items()})
                for key in conditions
            },
            recipe=made_by,
        )

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Save to a folder: ``model.keras``, ``arrays.npz`` and ``meta.json``.

        No pickle, no code and no training cell is in it.

        Parameters
        ----------
        path
            The folder. It is written beside and renamed, so it is there whole or not at all.
        overwrite
            Whether an earlier model at `path` may be replaced.

        Raises
        ------
        FileExistsError
            If `path` exists and `overwrite` is false, or is something else than a saved model.
        BlockingIOError
            If another process is writing there.
        """
        path = check_output(path, overwrite=overwrite)
        if path.exists() and not (path.is_dir() and {p.name for p in path.iterdir()} <= set(FILES)):
            raise FileExistsError(f"{str(path)!r} is not a saved model; it is left as it is.")
        prep = self.preprocessing
        meta = {
            "format": FORMAT,
            "vaexprs": version("vaexprs"),
            "keras": keras.version(),
            "genes": list(prep.genes),
            "label_key": prep.conditions.label_key,
            "levels": {key: list(levels) for key, levels in prep.conditions.levels.items()},
            "scaling": prep.scaling.kind,
            "unit": prep.scaling.unit,
            "likelihood": prep.likelihood,
            "history": dict(self.history),
            "seed": self.seed,
            "recipe": dict(self.recipe),
        }
        if self.guarantee is not None:
            meta["guarantee"] = self.guarantee.to_dict()
        arrays = {f"density.{name}": array for name, array in self.density.to_arrays().items()}
        arrays |= {"scaling.low": prep.scaling.low, "scaling.range": prep.scaling.range}
        with written_whole(path, overwrite=overwrite) as beside:
            beside.mkdir()
            self.model.uncompiled().save(beside / "model.keras")
            np.savez_compressed(beside / "arrays.npz", **arrays)  # type: ignore[arg-type]
            text = json.dumps(meta, indent=1, allow_nan=True)
            (beside / "meta.json").write_text(text, encoding="utf-8")
        return path


def _loss_first(name: str) -> tuple[bool, bool, str]:
    return name.startswith("val_"), not name.endswith("loss"), name


def check_fit(value: Any, name: str) -> VAEFit:
    """Return `value` if it is a fit.

    Raises
    ------
    TypeError
        If it is something else.
    """
    if not isinstance(value, VAEFit):
        raise TypeError(f"{name} must be what fit_vae or load_vae returned, got {type(value).__name__}.")
    return value


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
        raise ValueError(f"arrays must hold numbers, got dtype of kind {some(sorted(odd))}.")


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
    except (Told, MemoryError):
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


def encode(model: VAE, cells: Cells, codes: np.ndarray | LevelCodes | None) -> tuple[np.ndarray, np.ndarray]:
    """Return posterior mean and standard deviation of prepared cells, each (n_cells, latent_dim)."""
    posterior = keras.Model(
        model.input, [model.get_layer("z_mean").output, model.get_layer("z_log_stddev").output]
    )
    mean, log_stddev = predict(posterior, cells.x, codes)
    return mean.astype(np.float64), np.exp(log_stddev.astype(np.float64))
