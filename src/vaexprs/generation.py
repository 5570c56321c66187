"""gen_exprs: draw labelled cells from a fit."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

import anndata as ad
import keras
import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.special import ndtri

from vaexprs._checks import check_integer, check_real, did_you_mean, some
from vaexprs.batches import as_inputs
from vaexprs.io import DiskMatrix, Matrix, check_output, densify, in_memory, open_backed, write, write_blocks
from vaexprs.mixture import Mixture
from vaexprs.networks import keep_compiled
from vaexprs.preprocessing import apportion
from vaexprs.result import VAEFit, encode

# Cells are drawn in blocks of this size, each with a seed of its own, and decoded in matrices of this many
# rows: the same cells come out whatever the batch size.
BLOCK = 128
SLOW = 20  # blocks from which on a progress bar is shown


@dataclass(frozen=True)
class Generated:
    """Generated cells, and the real ones they were learned from.

    Parameters
    ----------
    adata
        The generated cells: values in X (CSR of whole numbers for counts), label and covariates in `obs`,
        gene names in `var_names`, the recipe in ``uns["vaexprs"]``.
    fit
        The fit they came from.
    """

    adata: ad.AnnData
    fit: VAEFit

    @property
    def x_gen(self) -> Any:
        """Generated values, (n_cells, n_genes); CSR for counts."""
        return self.adata.X

    @property
    def y_gen(self) -> np.ndarray | None:
        """Labels of the generated cells, (n_cells,), or None where the fit has no label."""
        return self._labels(self.adata.obs)

    @property
    def x_train(self) -> Matrix | DiskMatrix | None:
        """Real values, (n_cells, n_genes), in the user's units, on disk where the fit left them there.

        None after loading from disk.
        """
        prep = self.fit.preprocessing
        if prep.train is None:
            return None
        x = prep.train.x
        if isinstance(x, DiskMatrix):
            return x.mapped(None, None)
        if prep.scaling.kind == "none":
            return x
        return prep.scaling.inverse(densify(x))

    @property
    def y_train(self) -> np.ndarray | None:
        """Labels of the real cells, (n_cells,); None after loading or without labels."""
        train = self.fit.preprocessing.train
        return None if train is None else self._labels(train.obs)

    @property
    def latent_vector(self) -> np.ndarray | None:
        """Posterior means of the real cells, (n_cells, latent_dim); None after loading from disk."""
        prep = self.fit.preprocessing
        return None if prep.train is None else encode(self.fit.model, prep.train, prep.y_train)[0]

    def _labels(self, obs: pd.DataFrame) -> np.ndarray | None:
        key = self.fit.preprocessing.conditions.label_key
        return None if key is None else obs[key].astype(str).to_numpy(dtype=object)

    def to_anndata(self, real: bool = False) -> ad.AnnData:
        """Return the generated cells, or real and generated ones together.

        Parameters
        ----------
        real
            Whether the training cells come first; ``obs["group"]`` is then "real" or "generated".

        Raises
        ------
        ValueError
            If `real` and the fit was loaded from disk: no training cell is saved.
        """
        return self.joined.copy() if real else self.adata.to_memory(copy=True)

    @cached_property
    def joined(self) -> ad.AnnData:
        """Real and generated cells together, made once: `plot_aug` keeps its embeddings here."""
        return join_real(real_cells(self), in_memory(self.adata))

    def __repr__(self) -> str:
        return f"Generated: {self.adata.n_obs:,} cells x {self.adata.n_vars:,} genes"


def real_cells(generated: Generated) -> ad.AnnData:
    """Return the cells that a fit was made of, in memory and in the user's units.

    Raises
    ------
    ValueError
        If the fit was loaded from disk: no training cell is saved.
    """
    train, x = generated.fit.preprocessing.train, generated.x_train
    if train is None or x is None:
        raise ValueError(
            "There are no real cells: a fit loaded from disk holds none. Give your own: "
            "plot_aug(gen, 'UMAP', real=adata)."
        )
    obs = train.obs.set_axis(train.obs.index.astype(str), axis=0)
    return ad.AnnData(x[:] if isinstance(x, DiskMatrix) else x, obs=obs, var=generated.adata.var)


def join_real(real: ad.AnnData, generated: ad.AnnData) -> ad.AnnData:
    """Return real and generated cells in one AnnData with ``obs["group"]``.

    The genes are the generated cells'; columns of `obs` that both have are kept.
    """
    missing = generated.var_names.difference(real.var_names)
    if len(missing):
        raise ValueError(f"The real cells must have the generated genes, missing: {some(list(missing))}.")
    parts = {"real": real[:, generated.var_names], "generated": generated}
    for name, part in parts.items():
        columns = [key for key in generated.obs if key in real.obs]
        x = sp.csr_matrix(part.X, dtype=np.float32) if sp.issparse(generated.X) else densify(part.X)
        parts[name] = ad.AnnData(x, obs=part.obs[columns].astype(str), var=generated.var[[]])
    joined = ad.concat(parts, label="group")
    joined.obs_names_make_unique()
    for key in joined.obs:
        joined.obs[key] = pd.Categorical(joined.obs[key])
    joined.obs["group"] = joined.obs["group"].cat.set_categories(["real", "generated"])
    joined.uns["vaexprs"] = generated.uns["vaexprs"]
    return joined


def gen_exprs(
    x: VAEFit,
    num_samples: int | None = None,
    batch_size: int | None = None,
    use_generator: bool = False,
    *,
    labels: str | Mapping[str, int] | None = None,
    covariates: Mapping[str, str] | None = None,
    library_size: float | str | None = None,
    stratified: bool = True,
    seed: int = 0,
    progress: bool = True,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> Generated:
    """Generate cells.

    Parameters
    ----------
    x
        What `fit_vae` or `load_vae` returned.
    num_samples
        Number of cells; left out where `labels` gives the numbers.
    batch_size
        With `use_generator`, the most cells that are decoded and not yet drawn; by default 1,024.
    use_generator
        Whether to bound these cells by `batch_size` rather than by the number of processors. Few are in
        memory either way, and the cells are the same.
    labels
        A label, for `num_samples` cells of it, or numbers by label: ``{"CD34+": 500, "NK": 200}``. By
        default all labels in the training proportions.
    covariates
        Levels asked for: ``{"donor": "101", "stim": "stim"}``. Those not named come in the training
        proportions.
    library_size
        Counts a cell to aim at: the expected total of each generated cell. By default (None or "real") it
        is drawn with the state of the cell, as in the real ones.
    stratified
        Whether the random numbers of cells of one condition are spread evenly rather than independently
        (Latin hypercube sampling; McKay, Beckman & Conover 1979, doi:10.2307/1268522). The distribution
        of each cell is the same. The means of a set of cells then carry the error of what was learned
        from the real ones, but little more of their own on top. For cells that must be independent draws,
        such as replicates for a test, say False.
    seed
        The same seed gives the same cells, whatever the batch size.
    progress
        Whether to show a progress bar where it takes longer.
    out
        An ``.h5ad`` file or ``.zarr`` folder to write the cells to as they are made, so that any number of
        counts can be generated; the result's ``adata`` then leaves X on disk. Values that are not counts are
        put together first.
    overwrite
        Whether what is at `out` may be replaced.

    Returns
    -------
    Generated
        R's five fields (``x_gen``, ``y_gen``, ``x_train``, ``y_train``, ``latent_vector``) and ``adata``.

    Raises
    ------
    ValueError
        If a number is not positive, a label or level is unknown, or no number is given.
    FileExistsError
        If there is something at `out` and `overwrite` is false.
    TypeError
        If `x` is not a fit, or a number is not whole.
    """
    if not isinstance(x, VAEFit):
        raise TypeError(f"x must be what fit_vae or load_vae returned, got {type(x).__name__}.")
    seed = check_integer("seed", seed, 0)
    per_cell = _per_cell(x, library_size)
    rows, which = _plan(x, num_samples, labels, covariates)
    n = len(which)
    size = n if not use_generator else (batch_size or 1024)
    if batch_size is not None:
        check_integer("batch_size", batch_size, 1)
    if out is not None:
        check_output(out, overwrite=overwrite)
    obs = pd.DataFrame(index=pd.Index([f"generated_{i + 1}" for i in range(n)]))
    for key, levels in x.preprocessing.conditions.levels.items():
        obs[key] = pd.Categorical(np.array([row[key] for row in rows])[which], categories=levels)
    adata = ad.AnnData(obs=obs, var=pd.DataFrame(index=x.genes))
    asked = dict(labels) if isinstance(labels, Mapping) else {} if labels is None else {labels: n}
    adata.uns["vaexprs"] = {
        "version": version("vaexprs"),
        "likelihood": x.likelihood.name,
        "counts": x.likelihood.counts,
        "scaling": x.preprocessing.scaling.kind,
        "label_key": x.preprocessing.conditions.label_key or "",
        "fit_seed": x.seed,
        "seed": seed,
        "stratified": bool(stratified),
        "n_cells": n,
        "labels": json.dumps({str(k): int(v) for k, v in asked.items()}),
        "covariates": json.dumps({str(k): str(v) for k, v in (covariates or {}).items()}),
        "library_size": "real" if per_cell is None else per_cell,
    }
    drawn = _draw(x, rows, which, per_cell, stratified, seed, max(1, size // BLOCK))
    blocks = _with_progress(drawn, n, progress)
    if out is not None and x.likelihood.counts:
        return Generated(open_backed(write_blocks(adata, blocks, out, overwrite=overwrite)), x)
    adata.X = sp.vstack(list(blocks), format="csr") if x.likelihood.counts else np.concatenate(list(blocks))
    if out is not None:
        write(adata, out, overwrite=overwrite)
    return Generated(adata, x)


def _per_cell(fit: VAEFit, library_size: Any) -> float | None:
    if library_size is None or library_size == "real":
        return None
    if not fit.likelihood.counts:
        raise ValueError(
            f"library_size applies to counts; this fit has likelihood {fit.likelihood.name!r}. Leave it out."
        )
    if isinstance(library_size, str):
        raise ValueError(f"library_size must be a number or 'real', got {library_size!r}.")
    size = check_real("library_size", library_size, 0)
    if size == 0:
        raise ValueError("library_size must be more than 0, got 0.")
    return size


def _plan(
    fit: VAEFit,
    num_samples: int | None,
    labels: str | Mapping[str, int] | None,
    covariates: Mapping[str, str] | None,
) -> tuple[list[dict[str, str]], np.ndarray]:
    """Return the distinct conditions asked for, and for each cell which of them it has."""
    conditions = fit.preprocessing.conditions
    if labels is not None and conditions.label_key is None:
        raise ValueError("labels cannot be asked for: the model was fitted without label_key or y_train.")
    wanted = _wanted_covariates(fit, covariates)
    if isinstance(labels, Mapping):
        if not labels:
            raise ValueError("labels must name at least one label, got an empty dict.")
        if num_samples is not None:
            raise ValueError("num_samples must be left out where labels gives the numbers.")
        numbers = {
            conditions.check(str(conditions.label_key), label): check_integer(f"labels[{label!r}]", n, 1)
            for label, n in labels.items()
        }
        asked: list[tuple[str | None, int]] = list(numbers.items())
    else:
        if num_samples is None:
            raise ValueError("num_samples must be given, or numbers by label: labels={'B cell': 100}.")
        if labels is not None and not isinstance(labels, (str, int)):
            raise TypeError(
                f"labels must be a label or numbers by label ({{'B cell': 100}}), got {labels!r}."
            )
        label = None if labels is None else conditions.check(str(conditions.label_key), labels)
        asked = [(label, check_integer("num_samples", num_samples, 1))]
    rows: list[dict[str, str]] = []
    which: list[np.ndarray] = []
    for label, n in asked:
        candidates, weights = _candidates(fit, label, wanted)
        which.append(len(rows) + np.repeat(np.arange(len(candidates)), apportion(weights, n)))
        rows += candidates
    return rows, np.concatenate(which)


def _wanted_covariates(fit: VAEFit, covariates: Mapping[str, str] | None) -> dict[str, str]:
    conditions = fit.preprocessing.conditions
    if covariates is not None and not isinstance(covariates, Mapping):
        raise TypeError(f"covariates must give levels by name ({{'donor': '101'}}), got {covariates!r}.")
    wanted = {}
    known = conditions.covariate_keys
    for key, level in (covariates or {}).items():
        if key not in known:
            raise ValueError(
                f"covariates must name covariates of the fit ({some(known) or 'it has none'}), got {key!r}."
                f"{did_you_mean(key, known)}"
            )
        wanted[key] = conditions.check(key, level)
    return wanted


def _candidates(
    fit: VAEFit, label: str | None, covariates: dict[str, str]
) -> tuple[list[dict[str, str]], np.ndarray]:
    """Return the conditions that answer a wish, and the weight of each.

    Those with training cells, in their proportions; where there are none, the label's conditions with the
    covariates set to what was asked.
    """
    key = str(fit.preprocessing.conditions.label_key)
    seen = fit.density.seen
    own = [i for i, levels in enumerate(seen) if label is None or levels[key] == label]
    match = [i for i in own if covariates.items() <= seen[i].items()]
    weight: dict[tuple[tuple[str, str], ...], float] = {}
    for i in match or own:
        levels = tuple((seen[i] | covariates).items())
        weight[levels] = weight.get(levels, 0.0) + float(fit.density.cells[i])
    return [dict(levels) for levels in weight], np.array(list(weight.values()))


def _draw(
    fit: VAEFit,
    rows: list[dict[str, str]],
    which: np.ndarray,
    per_cell: float | None,
    stratified: bool,
    seed: int,
    blocks_at_once: int,
) -> Iterator[Any]:
    """Yield the values of the cells, block by block: one is decoded while others are drawn."""
    from vaexprs.sampling import evenly_spread

    keep_compiled()
    mixtures = [fit.density.mixture(levels) for levels in rows]
    dims = mixtures[0].means.shape[1]
    width = fit.preprocessing.conditions.width
    codes = fit.preprocessing.conditions.one_hot(pd.DataFrame(rows)) if width else None
    workers = os.cpu_count() or 1
    waiting: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for block in range(-(-len(which) // BLOCK)):
            mine = which[block * BLOCK : (block + 1) * BLOCK]
            rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(block,)))
            groups = {i: np.flatnonzero(mine == i) for i in np.unique(mine)}
            strata = list(groups.values()) if stratified else []
            latent = _latent(mixtures, groups, evenly_spread(rng, len(mine), 1 + dims, strata))
            z, library = latent, None
            if fit.likelihood.counts:
                z = latent[:, :-1]
                library = np.exp(latent[:, -1:]) if per_cell is None else np.full((len(mine), 1), per_cell)
            output = _decode(fit.decoder, z, None if codes is None else codes[mine])
            if len(waiting) >= min(blocks_at_once, 2 * workers):
                yield waiting.popleft().result()
            waiting.append(pool.submit(_values, fit, output, library, len(mine), strata, rng))
        while waiting:
            yield waiting.popleft().result()


def _values(
    fit: VAEFit,
    output: Any,
    library: np.ndarray | None,
    n: int,
    strata: list[np.ndarray],
    rng: np.random.Generator,
) -> Any:
    """Return the values of a block, drawn from what its decoded latent vectors say; CSR for counts."""
    from vaexprs.sampling import evenly_spread

    uniform = evenly_spread(rng, n, len(fit.genes), strata)
    values = fit.preprocessing.scaling.inverse(fit.likelihood.sample(output, library, uniform))
    if fit.likelihood.counts:
        return sp.csr_matrix(values.astype(np.int32))
    return values.astype(np.float32)


def _latent(mixtures: list[Mixture], groups: Mapping[int, np.ndarray], uniform: np.ndarray) -> np.ndarray:
    """Return latent vectors (and log library sizes) of a block of cells, (n, n_dims).

    `groups` gives the rows of each mixture, `uniform` (n, 1 + n_dims) numbers to draw with.
    """
    component, normal = uniform[:, 0], ndtri(np.clip(uniform[:, 1:], 1e-12, 1 - 1e-12))
    latent = np.empty(normal.shape)
    for i, rows in groups.items():
        latent[rows] = mixtures[i].transform(component[rows], normal[rows])
    return latent


def _decode(decoder: keras.Model, z: np.ndarray, codes: np.ndarray | None) -> Any:
    """Return the decoder's output for a block, as arrays; always computed for BLOCK rows."""
    n, short = len(z), BLOCK - len(z)
    padded = [
        np.pad(part.astype(np.float32), ((0, short), (0, 0))) for part in (z, codes) if part is not None
    ]
    output = decoder.predict_on_batch(as_inputs(padded[0], padded[1] if len(padded) == 2 else None))
    return keras.tree.map_structure(lambda part: np.asarray(part)[:n], output)


def _with_progress(parts: Iterator[Any], n: int, progress: bool) -> Iterator[Any]:
    if not progress or n < SLOW * BLOCK:
        yield from parts
        return
    from tqdm.auto import tqdm

    with tqdm(total=n, desc="generating", unit="cell") as bar:
        for part in parts:
            yield part
            bar.update(part.shape[0])
