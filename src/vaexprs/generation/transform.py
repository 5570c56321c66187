"""`transform`: predict cells under another condition."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from vaexprs.data.backed import BackedCells
from vaexprs.data.count_detection import X_LAYER
from vaexprs.data.matrix import Matrix
from vaexprs.generation.continuous import warn_outside
from vaexprs.generation.generated import beside_real_cells, origin, with_values
from vaexprs.generation.requests import check_library_size
from vaexprs.generation.sampler import BLOCK, CellSampler, with_progress
from vaexprs.interface.validation import check_integer, did_you_mean, listed
from vaexprs.io.open import open_cells, select_layer
from vaexprs.io.write import check_new_cells
from vaexprs.latent.density import LatentDensity, groups_of
from vaexprs.latent.transport import Transport
from vaexprs.mixture.em import Mixture
from vaexprs.model.vae_fit import VAEFit, check_fit
from vaexprs.nn.predict import encode, posterior
from vaexprs.preprocessing.prepare import Cells
from vaexprs.preprocessing.summary import check_cells, summarise

CELLS_AT_ONCE = 16 * BLOCK  # number of cells that are encoded together


def transform(
    fit: VAEFit,
    object: Any,
    conditions: Mapping[str, Any] | None = None,
    *,
    layer: str | None = None,
    library_size: float | None = None,
    seed: int = 0,
    progress: bool = True,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    **levels: Any,
) -> ad.AnnData:
    """Predict cells under another condition (counterfactual cells).

    Parameters
    ----------
    fit
        A fit returned by `fit_vae` or `load_vae`.
    object
        Cells in any form that `fit_vae` accepts, with the genes of the fit (others are ignored) and its label
        and covariates in `obs`. A large file on disk is read block by block.
    conditions
        Levels by name, ``{"stim": "ctrl"}``, or the value of a continuous covariate, ``{"age": 70}``.
    layer
        Layer or assay with the values, as in `fit_vae`.
    library_size
        Expected total count of each cell; by default its own total count.
    seed
        The same seed gives the same cells.
    progress
        Whether to show a progress bar for many cells.
    out
        File or folder to write the cells to, in any format of `write`; counts in ``.h5ad`` and ``.zarr`` are
        written block by block.
    overwrite
        Whether an existing `out` may be replaced.
    **levels
        The same as `conditions`, as keyword arguments: ``transform(fit, adata, stim="ctrl")``.

    Returns
    -------
    AnnData of shape (n_cells, n_genes)
        The cells in the same order with their names and `obs` (only the conditions for a file that stays on
        disk), the new conditions and newly sampled values. The recipe is in ``uns["vaexprs"]``.

    Raises
    ------
    ValueError
        If a condition or level is unknown, or the cells do not match the fit.
    TypeError
        If `fit` is not a fit.
    FileExistsError
        If `out` exists and `overwrite` is false.

    Notes
    -----
    A latent vector is sampled from the posterior of each cell under its own condition, moved by optimal
    transport from the latent density of that condition to that of the new condition (see
    `vaexprs.latent.transport`), and decoded under the new condition. Transformed cells therefore have the
    latent distribution of the new condition, and each stays close to its original position. The effects of
    continuous covariates on the latent mean are subtracted before and added afterwards. If one of the
    conditions has no training cells, latent vectors are shifted by the sum of the effects of the levels that
    differ.

    A prediction cannot be verified for an individual cell: interpret it as a cell of the new condition that
    is otherwise similar.

    Examples
    --------
    >>> import vaexprs as vx
    >>> cells = vx.demo_cells()
    >>> fit = vx.fit_vae(cells, label_key="cell_type", covariate_keys=["phase"], epochs=2, verbose=0)
    >>> vx.transform(fit, cells[:5], phase="S").obs["phase"].tolist()
    ['S', 'S', 'S', 'S', 'S']
    """
    check_fit(fit, "fit")
    seed = check_integer("seed", seed, 0)
    target = check_library_size(fit, library_size)
    wanted = _check_conditions(fit, dict(conditions or {}) | levels)
    if out is not None:
        check_new_cells(out, overwrite=overwrite)
    prep = fit.preprocessing
    if layer is None and not fit.likelihood.counts:
        layer = X_LAYER
    source = select_layer(open_cells(object, keys=prep.conditions.all_keys), layer, prep.conditions.all_keys)
    check_cells(source, "object")
    whole = source.obs if isinstance(source, BackedCells) else source.obs.copy()
    cells = prep.prepare(_with_genes(source, fit.genes), dense=False)
    fit.likelihood.check(summarise(source.X, "object"), source.obs_names)
    new = cells.obs.assign(**wanted)
    adata = ad.AnnData(
        obs=whole.assign(
            **{
                key: new[key].to_numpy()
                if key in prep.conditions.continuous
                else pd.Categorical(new[key], categories=prep.conditions.levels[key])
                for key in wanted
            }
        ),
        var=pd.DataFrame(index=fit.genes),
        uns={
            "vaexprs": beside_real_cells(origin(fit))
            | {"seed": seed, "transformed_to": json.dumps(wanted), "library_size": target or "own"}
        },
    )
    adata.obs_names = _names(source)
    blocks = with_progress(_draw(fit, cells, new, target, seed), len(cells), progress)
    return with_values(adata, blocks, out, counts=fit.likelihood.counts, overwrite=overwrite)


def _check_conditions(fit: VAEFit, given: Mapping[str, Any]) -> dict[str, Any]:
    known = fit.preprocessing.conditions
    options = listed(known.all_keys) or "it has none"
    if not given:
        raise ValueError(
            f"transform requires a condition of the fit ({options}), such as "
            "transform(fit, adata, stim='ctrl')."
        )
    for key in given:
        if key not in known.all_keys:
            raise ValueError(
                f"conditions must be those of the fit ({options}), got {key!r}."
                f"{did_you_mean(key, known.all_keys)}"
            )
    wanted = {key: known.check_any(key, level) for key, level in given.items()}
    for key in known.continuous.keys() & wanted.keys():
        warn_outside(known, key, np.array([wanted[key]]))
    return wanted


def _with_genes(cells: ad.AnnData | BackedCells, genes: pd.Index) -> ad.AnnData | BackedCells:
    """Return cells without the genes that are not in `genes`."""
    if len(genes.difference(cells.var_names)) or len(genes) == cells.n_vars:
        return cells  # missing genes are reported when the cells are prepared
    if isinstance(cells, BackedCells):
        columns = cells.var_names.get_indexer(genes)
        return BackedCells(cells.X.mapped(columns, None), cells.obs, genes, cells.names)
    return cells[:, genes]


def _names(cells: ad.AnnData | BackedCells) -> pd.Index:
    if isinstance(cells, BackedCells):
        return cells.take_names(np.arange(cells.n_obs))
    return cells.obs_names


def _draw(
    fit: VAEFit, cells: Cells, new: pd.DataFrame, library_size: float | None, seed: int
) -> Iterator[Matrix]:
    """Yield sampled values of the cells under their new conditions, block by block."""
    conditions = fit.preprocessing.conditions
    groups = groups_of(new, conditions)
    table = pd.DataFrame([dict(zip(conditions.keys, levels, strict=True)) for levels in groups])
    sampler = CellSampler(fit, conditions.expand(conditions.columns(table)) if conditions.width else None)
    which = np.empty(len(new), int)
    for i, of_group in enumerate(groups.values()):
        which[of_group] = i
    mover, encoder = _LatentMover(fit.density, fit.latent_dim), posterior(fit.model)
    for first in range(0, len(cells), CELLS_AT_ONCE):
        rows = slice(first, first + CELLS_AT_ONCE)
        values: Matrix = cells.x[rows]
        mean, sd = encode(encoder, values, conditions.code(cells.obs.iloc[rows]))
        library: Any = None
        if fit.likelihood.counts:
            own = np.asarray(values.sum(axis=1), np.float64).ravel()
            library = own if library_size is None else np.full(len(mean), library_size)
        for start in range(0, len(mean), BLOCK):
            block = slice(start, start + BLOCK)
            rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=((first + start) // BLOCK,)))
            z = mean[block] + sd[block] * rng.standard_normal(mean[block].shape)
            obs, new_obs = cells.obs.iloc[rows].iloc[block], new.iloc[rows].iloc[block]
            yield sampler.values(
                mover.move(z, obs, new_obs, rng),
                None if library is None else library[block],
                which[rows][block],
                rng,
                conditions.basis(new_obs) if conditions.continuous else None,
            )


class _LatentMover:
    """Moves latent vectors between conditions; the transport of each pair of conditions is computed once."""

    def __init__(self, density: LatentDensity, latent_dim: int) -> None:
        self.density, self.latent_dim = density, latent_dim
        self._transports: dict[tuple[tuple[str, ...], tuple[str, ...]], Transport | np.ndarray] = {}

    def move(
        self, z: np.ndarray, obs: pd.DataFrame, new: pd.DataFrame, rng: np.random.Generator
    ) -> np.ndarray:
        """Return latent vectors, (n_cells, latent_dim), moved from the conditions `obs` to `new`."""
        if not self.density.conditions.continuous:
            return self._move(z, obs, new, rng)
        return self._move(z - self._shift(obs), obs, new, rng) + self._shift(new)

    def _shift(self, obs: pd.DataFrame) -> np.ndarray:
        """Return the effect of continuous covariates on each cell's latent mean, (n_cells, latent_dim)."""
        conditions = self.density.conditions
        basis, shift = conditions.basis(obs), np.empty((len(obs), self.latent_dim))
        for levels, rows in groups_of(obs, conditions).items():
            slopes = self.density.slopes(dict(zip(conditions.keys, levels, strict=True)))
            shift[rows] = basis[rows] @ slopes[:, : self.latent_dim]
        return shift

    def _move(
        self, z: np.ndarray, obs: pd.DataFrame, new: pd.DataFrame, rng: np.random.Generator
    ) -> np.ndarray:
        keys = self.density.conditions.keys
        if not keys:
            return z
        pairs = pd.concat([obs[keys], new[keys]], axis=1).to_numpy(dtype=str)
        distinct, which = np.unique(pairs, axis=0, return_inverse=True)
        moved = np.empty_like(z)
        for i, pair in enumerate(distinct):
            rows = which.ravel() == i
            step = self._between(tuple(pair[: len(keys)]), tuple(pair[len(keys) :]))
            moved[rows] = step.carry(z[rows], rng) if isinstance(step, Transport) else z[rows] + step
        return moved

    def _between(self, source: tuple[str, ...], target: tuple[str, ...]) -> Transport | np.ndarray:
        """Return the transport between two conditions, or the shift if one has no training cells."""
        if (source, target) not in self._transports:
            self._transports[source, target] = self._compute(source, target)
        return self._transports[source, target]

    def _compute(self, source: tuple[str, ...], target: tuple[str, ...]) -> Transport | np.ndarray:
        density = self.density
        keys = density.conditions.keys
        both = [dict(zip(keys, levels, strict=True)) for levels in (source, target)]
        if source != target and all(levels in density.seen for levels in both):
            return Transport(*(_without_library(density.mixture(levels), self.latent_dim) for levels in both))
        codes = density.conditions.one_hot(pd.DataFrame(both))
        return np.asarray((codes[1] - codes[0]) @ density.effects)[: self.latent_dim]


def _without_library(mixture: Mixture, dims: int) -> Mixture:
    return Mixture(
        mixture.weights, mixture.means[:, :dims], mixture.covariances[:, :dims, :dims], mixture.model
    )
