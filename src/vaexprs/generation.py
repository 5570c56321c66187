"""gen_exprs: draw labelled cells from a fit."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
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
from vaexprs.cluster import check_client, drawn_by, in_order
from vaexprs.matrices import Matrix, densify, stacked
from vaexprs.mixture import Mixture
from vaexprs.networks import keep_compiled
from vaexprs.ondisk import DiskMatrix, in_memory, open_backed
from vaexprs.preprocessing import apportion
from vaexprs.result import VAEFit, encode
from vaexprs.writing import check_output, write, write_blocks

# Cells are drawn in blocks of this size, each with a seed of its own, and decoded in matrices of this many
# rows: the same cells come out whatever the batch size.
BLOCK = 256
VALUES_A_TASK = 2**24  # cells times genes that a worker of a cluster draws at a time, about
SLOW = 10  # blocks from which on a progress bar is shown


@dataclass(frozen=True)
class Plan:
    """Which cells are to be drawn; with the fit it decides every value.

    Parameters
    ----------
    rows
        The distinct conditions asked for, as levels by name.
    which
        For each cell which of them it has, (n_cells,).
    library_size
        Counts a cell to aim at; None to draw it with the state of the cell.
    stratified
        Whether random numbers are spread evenly.
    seed
        The seed of all cells.
    first
        Number of the first block: a part of a plan has the numbers it has in the whole.
    """

    rows: list[dict[str, str]]
    which: np.ndarray
    library_size: float | None
    stratified: bool
    seed: int
    first: int = 0

    @property
    def n_blocks(self) -> int:
        """Number of blocks of cells."""
        return -(-len(self.which) // BLOCK)

    def parts(self, blocks: int) -> Iterator[Plan]:
        """Yield plans of so many blocks each."""
        for first in range(0, self.n_blocks, blocks):
            which = self.which[first * BLOCK : (first + blocks) * BLOCK]
            yield replace(self, which=which, first=self.first + first)


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
    client: Any = None,
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
    client
        A `distributed.Client`: the workers of its Dask cluster draw the cells, which are the same. They need
        this version of vaexprs; a worker that is lost costs no more than time. `batch_size` has no say there.
        By default the threads of this process draw.

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
        If `x` is not a fit, a number is not whole, or `client` is not one.
    ConnectionError
        If the cluster of `client` is lost, or has no workers.
    ImportError
        If its workers do not have this version of vaexprs.
    """
    if not isinstance(x, VAEFit):
        raise TypeError(f"x must be what fit_vae or load_vae returned, got {type(x).__name__}.")
    if client is not None:
        check_client(client)
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
    plan = Plan(rows, which, per_cell, bool(stratified), seed)
    if client is None:
        drawn = _drawn_here(x, plan, max(1, size // BLOCK))
    else:
        drawn = drawn_by(client, draw_part, x, plan.parts(max(1, VALUES_A_TASK // (BLOCK * len(x.genes)))))
    blocks = _with_progress(drawn, n, progress)
    if out is not None and x.likelihood.counts:
        return Generated(open_backed(write_blocks(adata, blocks, out, overwrite=overwrite)), x)
    adata.X = stacked(list(blocks))
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


class _Drawer:
    """Draws the blocks of a plan: what they have in common is made once."""

    def __init__(self, fit: VAEFit, plan: Plan) -> None:
        keep_compiled()
        conditions, common = fit.preprocessing.conditions, fit.likelihood.common
        self.fit = fit
        self.plan = plan
        self.mixtures = [fit.density.mixture(levels) for levels in plan.rows]
        self.codes = conditions.one_hot(pd.DataFrame(plan.rows)) if conditions.width else None
        self.decode = _compiled(fit.decoder, common)
        self.common = self._common(_compiled(fit.decoder, ())) if common else {}

    def _common(self, decode: Callable[[Any], Any]) -> dict[str, np.ndarray]:
        """Return the parts of the decoder's output that conditions alone decide, a row for each condition."""
        z = np.zeros((len(self.plan.rows), self.fit.latent_dim))
        blocks = [slice(first, first + BLOCK) for first in range(0, len(z), BLOCK)]
        outputs = [
            _decode(decode, z[rows], None if self.codes is None else self.codes[rows]) for rows in blocks
        ]
        named = [output for output in outputs if isinstance(output, dict)]
        names = [name for name in self.fit.likelihood.common if named and name in named[0]]
        return {name: np.concatenate([output[name] for output in named]) for name in names}

    def block(self, number: int) -> Any:
        """Return the values of a block of cells; CSR for counts."""
        from vaexprs.sampling import evenly_spread

        fit, plan = self.fit, self.plan
        mine = plan.which[number * BLOCK : (number + 1) * BLOCK]
        rng = np.random.default_rng(np.random.SeedSequence(plan.seed, spawn_key=(plan.first + number,)))
        present = np.unique(mine)
        groups = [np.flatnonzero(mine == i) for i in present]
        dims = self.mixtures[0].means.shape[1]
        uniform = evenly_spread(rng, len(mine), 1 + dims, groups if plan.stratified else ())
        z = latent = _latent([self.mixtures[i] for i in present], groups, uniform)
        library = None
        if fit.likelihood.counts:
            z, own = latent[:, :-1], plan.library_size
            library = np.exp(latent[:, -1:]) if own is None else np.full((len(mine), 1), own)
        output = _decode(self.decode, z, None if self.codes is None else self.codes[mine])
        if self.common:
            output = output | {name: part[present] for name, part in self.common.items()}
        shape = (len(mine), len(fit.genes))
        values = fit.likelihood.draw(output, library, shape, groups, plan.stratified, rng)
        if fit.likelihood.counts:
            return values
        return fit.preprocessing.scaling.inverse(values).astype(np.float32)


def draw_part(fit: VAEFit, plan: Plan) -> Any:
    """Return the values of all cells of a plan, (n_cells, n_genes), one block after the other."""
    drawer = _Drawer(fit, plan)
    return stacked([drawer.block(number) for number in range(plan.n_blocks)])


def _drawn_here(fit: VAEFit, plan: Plan, blocks_at_once: int) -> Iterator[Any]:
    """Yield the values of the cells of a plan, block by block, drawn by threads."""
    workers = os.cpu_count() or 1
    drawer = _Drawer(fit, plan)
    with ThreadPoolExecutor(workers) as pool:
        submitted = (partial(pool.submit, drawer.block, number) for number in range(plan.n_blocks))
        yield from in_order(submitted, min(blocks_at_once, 2 * workers), Future.result)


def _latent(mixtures: list[Mixture], groups: list[np.ndarray], uniform: np.ndarray) -> np.ndarray:
    """Return latent vectors (and log library sizes) of a block of cells, (n, n_dims).

    `groups` has the rows of each mixture, `uniform` (n, 1 + n_dims) numbers to draw with.
    """
    component, normal = uniform[:, 0], ndtri(np.clip(uniform[:, 1:], 1e-12, 1 - 1e-12))
    latent = np.empty(normal.shape)
    for mixture, rows in zip(mixtures, groups, strict=True):
        latent[rows] = mixture.transform(component[rows], normal[rows])
    return latent


@lru_cache(maxsize=4)
def _compiled(decoder: keras.Model, left_out: tuple[str, ...]) -> Callable[[Any], Any]:
    """Return a function of the decoder's inputs that computes its output without some parts."""

    def asked(output: Any) -> Any:
        if not isinstance(output, dict):
            return output
        return {name: part for name, part in output.items() if name not in left_out}

    if keras.backend.backend() != "jax":
        return lambda inputs: asked(decoder.predict_on_batch(inputs))
    import jax

    @jax.jit
    def call(trainable: Any, other: Any, inputs: Any) -> Any:
        return asked(decoder.stateless_call(trainable, other, inputs, training=False)[0])

    # Keras' own predict_on_batch takes as long again as a block does
    return lambda inputs: call(
        [variable.value for variable in decoder.trainable_variables],
        [variable.value for variable in decoder.non_trainable_variables],
        inputs,
    )


def _decode(decode: Callable[[Any], Any], z: np.ndarray, codes: np.ndarray | None) -> Any:
    """Return the decoder's output for a block, as arrays; always computed for BLOCK rows."""
    n, short = len(z), BLOCK - len(z)
    padded = [
        np.pad(part.astype(np.float32), ((0, short), (0, 0))) for part in (z, codes) if part is not None
    ]
    output = decode(as_inputs(padded[0], padded[1] if len(padded) == 2 else None))
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
