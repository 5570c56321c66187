"""gen_exprs: draw labelled cells from a fit."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from vaexprs import markup
from vaexprs._checks import check_integer, check_real, did_you_mean, memory_told, require, some
from vaexprs.cluster import check_client, drawn_by
from vaexprs.drawing import BLOCK, Drawer, Plan, draw_part, drawn_here, with_progress
from vaexprs.matrices import Matrix, densify, stacked
from vaexprs.ondisk import STORES, DiskMatrix, in_memory, open_backed
from vaexprs.preprocessing import apportion
from vaexprs.result import VAEFit, check_fit, encode
from vaexprs.writing import check_new_cells, write, write_blocks

NUMBER = "n"  # column of a table of conditions with numbers of cells
VALUES_A_TASK = 2**24  # cells times genes that a worker of a cluster draws at a time, about


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
        if prep.scaling.kind == "none" and prep.scaling.unit == 1:
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

    def to_biocpy(self) -> Any:
        """Return the generated cells as a BiocPy ``SingleCellExperiment`` of shape (n_genes, n_cells).

        Its one assay is "counts", or "X" where the values are not counts.

        Raises
        ------
        ImportError
            If the package singlecellexperiment is not installed.
        """
        package = require("singlecellexperiment", "singlecellexperiment", "A SingleCellExperiment")
        from biocframe import BiocFrame

        cells = in_memory(self.adata)
        return package.SingleCellExperiment(
            assays={"counts" if self.fit.likelihood.counts else "X": cells.X.T},
            row_names=list(cells.var_names),
            column_names=list(cells.obs_names),
            column_data=BiocFrame.from_pandas(cells.obs),
        )

    def to_pandas(self) -> pd.DataFrame:
        """Return the generated cells as a table: a row for each, the columns of `obs`, then the genes."""
        cells = in_memory(self.adata)
        values = pd.DataFrame(densify(cells.X), index=cells.obs_names, columns=cells.var_names)
        return pd.concat([cells.obs, values], axis=1)

    @cached_property
    def joined(self) -> ad.AnnData:
        """Real and generated cells together, made once: `plot_aug` keeps its embeddings here."""
        return join_real(real_cells(self), in_memory(self.adata))

    def __repr__(self) -> str:
        return f"Generated: {self.adata.n_obs:,} cells x {self.adata.n_vars:,} genes"

    def _repr_html_(self) -> str:
        # what a notebook shows
        made, recipe = self.adata, self.adata.uns.get("vaexprs", {})
        conditions = {}
        for key in self.fit.preprocessing.conditions.keys:
            real, numbers = self.fit.cells_of(key), made.obs[key].astype(str).value_counts()
            conditions[key] = markup.levels(
                {level: (int(numbers.get(level, 0)), n) for level, n in real.items()}
            )
        return markup.render(
            "notebook/generated.html",
            shape=made.shape,
            counts=self.fit.likelihood.counts,
            likelihood=self.fit.likelihood.name,
            seed=recipe.get("seed"),
            file=str(made.filename) if made.filename else None,
            library_size=recipe.get("library_size") if self.fit.likelihood.counts else None,
            conditions=conditions,
        )


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
    if "vaexprs" in generated.uns:  # not of a table, nor of what R has
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
    conditions: Any = None,
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
    conditions
        Or all of that as a table: a DataFrame (or a list of dicts) with a row for each wish, the number of
        cells in column "n" and levels of the label and of covariates in columns of their names. Those without
        a column, or without a value in a row, come in the training proportions.
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
        File or folder to write the cells to, of any format that `write` writes. An ``.h5ad`` file or
        ``.zarr`` folder is written as the cells are made, so that any number of counts can be generated;
        the result's ``adata`` then leaves X on disk. For other formats, and for values that are not counts,
        they are put together first.
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
    BlockingIOError
        If another process is writing to `out`.
    MemoryError
        If there is not enough of it.
    KeyboardInterrupt
        On Ctrl-C. Of an ``.h5ad`` or ``.zarr`` file at `out` the cells that are written then are kept as
        ``name.partial.h5ad``; `out` itself is there whole or not at all.
    """
    check_fit(x, "x")
    if client is not None:
        check_client(client)
    seed = check_integer("seed", seed, 0)
    per_cell = counts_a_cell(x, library_size)
    rows, which = _plan(x, num_samples, labels, covariates, conditions)
    plan = Plan(rows, which, per_cell, bool(stratified), seed)
    n = len(which)
    size = n if not use_generator else (batch_size or 1024)
    if batch_size is not None:
        check_integer("batch_size", batch_size, 1)
    if out is not None:
        check_new_cells(out, overwrite=overwrite)
    adata = ad.AnnData(obs=plan.obs(x.preprocessing.conditions.levels), var=pd.DataFrame(index=x.genes))
    asked = dict(labels) if isinstance(labels, Mapping) else {} if labels is None else {labels: n}
    adata.uns["vaexprs"] = origin(x) | {
        "seed": seed,
        "stratified": bool(stratified),
        "n_cells": n,
        "labels": json.dumps({str(k): int(v) for k, v in asked.items()}),
        "covariates": json.dumps({str(k): str(v) for k, v in (covariates or {}).items()}),
        "conditions": "" if conditions is None else pd.DataFrame(conditions).to_json(orient="records"),
        "library_size": "real" if per_cell is None else per_cell,
    }
    if client is None:
        drawn = drawn_here(Drawer.of(x, plan), plan, max(1, size // BLOCK))
    else:
        drawn = drawn_by(client, draw_part, x, plan.parts(max(1, VALUES_A_TASK // (BLOCK * len(x.genes)))))
    blocks = with_progress(drawn, n, progress)
    return Generated(with_values(adata, blocks, out, counts=x.likelihood.counts, overwrite=overwrite), x)


def with_values(
    adata: ad.AnnData,
    blocks: Iterable[Matrix],
    out: str | os.PathLike[str] | None,
    *,
    counts: bool,
    overwrite: bool,
) -> ad.AnnData:
    """Return cells with their values, which come in blocks; on disk where they can be written as they come.

    Parameters
    ----------
    adata
        Everything but X.
    blocks
        Matrices of shape (n_some, n_genes), CSR for counts.
    out
        Where to write the cells to; None for memory.
    counts
        Whether the values are counts: only those are written block by block.
    overwrite
        Whether what is at `out` may be replaced.
    """
    with memory_told():
        if out is not None and counts and Path(out).suffix in STORES:
            return open_backed(write_blocks(adata, blocks, out, overwrite=overwrite))
        adata.X = stacked(list(blocks))
    if out is not None:
        write(adata, out, overwrite=overwrite)
    return adata


def origin(fit: VAEFit) -> dict[str, Any]:
    """Return what cells from a fit say of it in ``uns["vaexprs"]``."""
    return {
        "version": version("vaexprs"),
        "likelihood": fit.likelihood.name,
        "counts": fit.likelihood.counts,
        "scaling": fit.preprocessing.scaling.kind,
        "unit": fit.preprocessing.scaling.unit,
        "label_key": fit.preprocessing.conditions.label_key or "",
        "fit_seed": fit.seed,
    } | ({} if fit.guarantee is None else {"privacy": fit.guarantee.sentence})


def counts_a_cell(fit: VAEFit, library_size: Any) -> float | None:
    """Return the library size asked for; None where it is that of real cells.

    Raises
    ------
    ValueError
        If it is not positive, or the values of the fit are not counts.
    """
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
    conditions: Any = None,
) -> tuple[list[dict[str, str]], np.ndarray]:
    """Return the distinct conditions asked for, and for each cell which of them it has."""
    if conditions is None:
        wanted = wanted_covariates(fit, covariates)
        asked = [(label, wanted, n) for label, n in _numbers_by_label(fit, num_samples, labels)]
    else:
        if any(given is not None for given in (num_samples, labels, covariates)):
            raise ValueError(
                "conditions says what and how many: leave out num_samples, labels and covariates."
            )
        asked = _rows_asked(fit, conditions)
    rows: list[dict[str, str]] = []
    which: list[np.ndarray] = []
    for label, wanted, n in asked:
        candidates, weights = candidate_conditions(fit, label, wanted)
        which.append(len(rows) + np.repeat(np.arange(len(candidates)), apportion(weights, n)))
        rows += candidates
    return rows, np.concatenate(which)


def _numbers_by_label(
    fit: VAEFit, num_samples: int | None, labels: str | Mapping[str, int] | None
) -> list[tuple[str | None, int]]:
    """Return the labels asked for and the number of cells of each; no label stands for any."""
    conditions = fit.preprocessing.conditions
    if labels is not None and conditions.label_key is None:
        raise ValueError("labels cannot be asked for: the model was fitted without label_key or y_train.")
    if isinstance(labels, Mapping):
        if not labels:
            raise ValueError("labels must name at least one label, got an empty dict.")
        if num_samples is not None:
            raise ValueError("num_samples must be left out where labels gives the numbers.")
        numbers = {
            conditions.check(str(conditions.label_key), label): check_integer(f"labels[{label!r}]", n, 1)
            for label, n in labels.items()
        }
        return list(numbers.items())
    if num_samples is None:
        raise ValueError("num_samples must be given, or numbers by label: labels={'B cell': 100}.")
    if labels is not None and not isinstance(labels, (str, int)):
        raise TypeError(f"labels must be a label or numbers by label ({{'B cell': 100}}), got {labels!r}.")
    label = None if labels is None else conditions.check(str(conditions.label_key), labels)
    return [(label, check_integer("num_samples", num_samples, 1))]


def _rows_asked(fit: VAEFit, table: Any) -> list[tuple[str | None, dict[str, str], int]]:
    """Return label, covariates and number of cells of each row of a table of conditions."""
    known = fit.preprocessing.conditions
    try:
        table = pd.DataFrame(table)
    except (ValueError, TypeError) as error:
        raise TypeError(
            f"conditions must be a DataFrame with a column 'n' and columns of levels, got {table!r}."
        ) from error
    columns = [str(column) for column in table.columns]
    for column in columns:
        if column != NUMBER and column not in known.keys:
            raise ValueError(
                f"The columns of conditions must be {NUMBER!r} and conditions of the fit "
                f"({some(known.keys) or 'it has none'}), got {column!r}."
                f"{did_you_mean(column, [NUMBER, *known.keys])}"
            )
    if NUMBER not in columns:
        raise ValueError(
            f"conditions must have a column {NUMBER!r} with numbers of cells, got {some(columns)}."
        )
    if not len(table):
        raise ValueError("conditions must have at least one row, got none.")
    asked = []
    for i, row in enumerate(table.set_axis(columns, axis=1).to_dict("records")):
        n = row.pop(NUMBER)
        n = check_integer(f"{NUMBER} in row {i + 1} of conditions", _whole(n), 0)
        levels = {key: known.check(key, _whole(level)) for key, level in row.items() if not pd.isna(level)}
        if n:
            asked.append((levels.pop(str(known.label_key), None), levels, n))
    if not asked:
        raise ValueError(f"conditions must ask for at least one cell, got {NUMBER!r} = 0 in all rows.")
    return asked


def _whole(value: Any) -> Any:
    """Return 101.0 as 101: pandas reads whole numbers so where the column has a gap."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def wanted_covariates(fit: VAEFit, covariates: Mapping[str, str] | None) -> dict[str, str]:
    """Return the levels of covariates asked for, checked.

    Raises
    ------
    TypeError
        If they are not given by name.
    ValueError
        If a name is no covariate of the fit, or a level unknown.
    """
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


def candidate_conditions(
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
