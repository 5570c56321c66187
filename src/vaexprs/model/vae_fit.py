"""Fitted model with its preprocessing, latent density and provenance, and how it is saved."""

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

from vaexprs.differential_privacy.accounting import CELL, Guarantee
from vaexprs.interface import html as markup
from vaexprs.io.atomic import check_output, written_whole
from vaexprs.latent.density import LatentDensity
from vaexprs.latent.donors import DonorEffects
from vaexprs.likelihoods.base import Likelihood
from vaexprs.model.card import CARD, model_card
from vaexprs.nn.vae import VAE
from vaexprs.preprocessing.prepare import Preprocessing

FORMAT = 2  # highest format that `load_vae` reads
FIRST_FORMAT = 1  # format of models without continuous covariates and donors, which version 0.1 reads
FILES = ("model.keras", "arrays.npz", "meta.json")
NOISY_CELLS = "training cells (noisy)"  # numbers of cells that a fit with privacy releases


@dataclass(frozen=True)
class VAEFit:
    """Fitted (conditional) variational autoencoder, ready to generate cells.

    Parameters
    ----------
    model
        Trained Keras model: prepared cells (and codes of conditions) to a dict of ``output``, ``z_mean`` and
        ``z_log_stddev``.
    preprocessing
        Preprocessing learned from the training cells; pass it to another `fit_vae` to reuse it. Contains the
        prepared training cells, except after loading from disk or a fit with privacy.
    density
        Latent density of each condition; ``density.summary()`` returns a table.
    history
        ``loss``, ``reconstruction`` and ``kl`` of each epoch, and the same with the prefix ``val_`` if there
        were validation cells. Empty after a fit with privacy, because losses would leak information.
    seed
        Seed of the fit.
    recipe
        Provenance needed to repeat the fit: ``arguments`` (other than defaults), ``choices`` (arguments
        chosen from the cells, with the reasons), ``data`` (cells, genes and SHA-256 of the training cells)
        and ``versions``.
    guarantee
        Differential privacy guarantee of the fit; None for a fit without privacy. For a loaded fit it is read
        from the file and cannot be verified.
    donors
        Effects of donors; None without `donor_key`.
    """

    model: VAE
    preprocessing: Preprocessing
    density: LatentDensity
    history: Mapping[str, list[float]]
    seed: int
    recipe: Mapping[str, Any] = field(default_factory=dict)
    guarantee: Guarantee | None = None
    donors: DonorEffects | None = None

    @cached_property
    def encoder(self) -> keras.Model:
        """Keras model from prepared cells (and codes of conditions) to ``z_mean``, (n_cells, latent_dim)."""
        return self.model.encoder()

    @cached_property
    def decoder(self) -> keras.Model:
        """Keras model from latent vectors (and codes of conditions) to the parameters of the likelihood."""
        return self.model.decoder()

    @cached_property
    def folded_decoder(self) -> keras.Model:
        """The same function as `decoder`, computed with fewer operations if its hidden layer is linear."""
        return self.model.folded_decoder()

    @property
    def likelihood(self) -> Likelihood:
        """Likelihood of the prepared values."""
        return self.model.likelihood

    @property
    def genes(self) -> pd.Index:
        """Names of the genes, (n_genes,)."""
        return self.preprocessing.genes

    @property
    def latent_dim(self) -> int:
        """Size of the latent vector."""
        return self.model.latent_dim

    @property
    def levels(self) -> dict[str, tuple[str, ...]]:
        """Levels of the label, the covariates and the donors, by key."""
        donors = {} if self.donors is None else {self.donors.key: self.donors.names}
        return dict(self.preprocessing.conditions.levels) | donors

    @cached_property
    def combinations(self) -> tuple[list[dict[str, str]], np.ndarray]:
        """Combinations of levels (and donors) in the training cells, and the number of cells of each."""
        if self.donors is None:
            return list(self.density.seen), self.density.cells
        key, names, cells = self.donors.key, self.donors.names, self.donors.cells
        pairs = np.argwhere(cells.T > 0)
        rows = [dict(self.density.seen[group]) | {key: names[donor]} for group, donor in pairs]
        return rows, cells.T[tuple(pairs.T)]

    def cells_of(self, key: str) -> dict[str, int]:
        """Return the number of training cells of each level of the label or of a covariate.

        After a fit with privacy these numbers have noise, and their sum is that of the units times the
        maximum number of cells of a unit in a step.
        """
        counts = dict.fromkeys(self.levels[key], 0)
        for levels, n in zip(*self.combinations, strict=True):
            counts[levels[key]] += int(n)
        return counts

    @property
    def _size(self) -> str:
        """Number of training cells, or of privacy units, as text."""
        if self.guarantee is None:
            return f"{int(self.density.cells.sum()):,} cells"
        unit = "cells" if self.guarantee.unit == CELL else f"units ({self.guarantee.unit!r})"
        return f"{self.guarantee.units:,} {unit}"

    def __repr__(self) -> str:
        conditions = ", ".join(
            [f"{key} ({len(levels)})" for key, levels in self.levels.items()]
            + [f"{key} ({spline})" for key, spline in self.preprocessing.conditions.continuous.items()]
        )
        if self.guarantee is None:
            losses = self.history["loss"]
            trained = f"{len(losses)} epoch{'s' if len(losses) > 1 else ''}, loss {losses[-1]:.1f}"
        else:
            trained = (
                f"{self.guarantee.steps:,} steps\n    {self.guarantee.sentence}\n"
                f"    {self.guarantee.explanation}"
            )
        chosen = self.recipe.get("choices", {}).get("latent_dim")
        reason = f" ({chosen})" if chosen else ""
        return (
            f"VAEFit: {len(self.genes):,} genes, {self._size}, "
            f"conditions: {conditions or 'none'}\n"
            f"    likelihood {self.likelihood.name!r}, {self.latent_dim} latent dimensions{reason}, {trained}"
        )

    def _repr_html_(self) -> str:
        # display in notebooks
        conditions = self.levels
        losses = list(self.history.get("loss", []))
        made_by = {
            str(name): str(value)
            for part in ("arguments", "versions")
            for name, value in dict(self.recipe.get(part, {})).items()
            if name != "verbose"
        }
        return markup.render(
            "interface/templates/fit.html",
            genes=list(map(str, self.genes)),
            size=self._size,
            cells_title="training cells" if self.guarantee is None else NOISY_CELLS,
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
            explanation="" if self.guarantee is None else self.guarantee.explanation,
            conditions={
                key: markup.levels({level: (n,) for level, n in self.cells_of(key).items()})
                for key in conditions
            },
            continuous={key: str(spline) for key, spline in self.preprocessing.conditions.continuous.items()},
            recipe=made_by,
        )

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Save to a folder: ``model.keras``, ``arrays.npz``, ``meta.json`` and a model card, ``README.md``.

        The files contain no pickles, no code and no training cells. Of continuous covariates they contain
        the knots of the spline and 101 quantiles for each combination of levels, which are values of training
        cells where there are few. The model card describes genes, conditions, guarantee and recipe from the
        other files, which alone are read by `load_vae`.

        Parameters
        ----------
        path
            Folder to create. It is written under a temporary name and renamed, so it is never incomplete.
        overwrite
            Whether to replace an existing model at `path`.

        Raises
        ------
        FileExistsError
            If `path` exists and `overwrite` is false, or `path` is not a saved model.
        BlockingIOError
            If another process is writing to `path`.
        """
        path = check_output(path, overwrite=overwrite)
        if path.exists() and not _is_model(path):
            raise FileExistsError(f"{str(path)!r} exists and is not a saved model; it was not replaced.")
        prep = self.preprocessing
        meta: dict[str, Any] = {
            "format": FORMAT if prep.conditions.continuous or self.donors is not None else FIRST_FORMAT,
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
        if prep.conditions.continuous:
            meta["continuous"] = {k: spline.to_dict() for k, spline in prep.conditions.continuous.items()}
        if self.guarantee is not None:
            meta["guarantee"] = self.guarantee.to_dict()
        arrays = {f"density.{name}": array for name, array in self.density.to_arrays().items()}
        arrays |= {"scaling.low": prep.scaling.low, "scaling.range": prep.scaling.range}
        if self.donors is not None:
            arrays |= {f"donors.{name}": array for name, array in self.donors.to_arrays().items()}
        with written_whole(path, overwrite=overwrite) as temporary:
            temporary.mkdir()
            self.model.uncompiled().save(temporary / "model.keras")
            np.savez_compressed(temporary / "arrays.npz", **arrays)  # type: ignore[arg-type]
            text = json.dumps(meta, indent=1, allow_nan=True)
            (temporary / "meta.json").write_text(text, encoding="utf-8")
            (temporary / CARD).write_text(model_card(self), encoding="utf-8")
        return path


def _is_model(path: Path) -> bool:
    """Return whether a folder is empty or contains files of a saved model only."""
    names = {each.name for each in path.iterdir()} if path.is_dir() else {""}
    return names <= {*FILES, CARD} and names != {CARD}  # a README.md alone may describe anything


def _loss_first(name: str) -> tuple[bool, bool, str]:
    return name.startswith("val_"), not name.endswith("loss"), name


def check_fit(value: Any, name: str) -> VAEFit:
    """Return `value` if it is a `VAEFit`.

    Raises
    ------
    TypeError
        If it is not.
    """
    if not isinstance(value, VAEFit):
        raise TypeError(f"{name} must be a VAEFit (from fit_vae or load_vae), got {type(value).__name__}.")
    return value
