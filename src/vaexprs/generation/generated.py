"""Generated cells with their provenance, and joined with real cells."""

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

from vaexprs.comparison.provenance import PRIVACY
from vaexprs.data.backed import BackedMatrix, in_memory
from vaexprs.data.groups import GROUP, OTHER_GROUP
from vaexprs.data.matrix import Matrix, densify, stacked_values
from vaexprs.interface import html as markup
from vaexprs.interface.errors import memory_errors, require, warn
from vaexprs.interface.validation import listed
from vaexprs.io.formats import BACKED
from vaexprs.io.stores import open_backed
from vaexprs.io.write import write, write_blocks
from vaexprs.model.vae_fit import NOISY_CELLS, VAEFit
from vaexprs.nn.predict import encode, posterior


@dataclass(frozen=True)
class Generated:
    """Generated cells, and the fit with the real cells it was trained on.

    Parameters
    ----------
    adata
        The generated cells: values in X (CSR of whole numbers for counts), label and covariates in `obs`,
        gene names in `var_names`, the recipe in ``uns["vaexprs"]``.
    fit
        The fit that generated them.
    """

    adata: ad.AnnData
    fit: VAEFit

    @property
    def x_gen(self) -> Any:
        """Generated values, (n_cells, n_genes); CSR for counts."""
        return self.adata.X

    @property
    def y_gen(self) -> np.ndarray | None:
        """Labels of the generated cells, (n_cells,), or None if the fit has no label."""
        return self._labels(self.adata.obs)

    @property
    def x_train(self) -> Matrix | BackedMatrix | None:
        """Values of the training cells, (n_cells, n_genes), in the user's units.

        On disk if the fit read them from there; None after the fit was loaded from disk.
        """
        prep = self.fit.preprocessing
        if prep.train is None:
            return None
        x = prep.train.x
        if isinstance(x, BackedMatrix):
            return x.mapped(None, None)
        if prep.scaling.kind == "none" and prep.scaling.unit == 1:
            return x
        return prep.scaling.inverse(densify(x))

    @property
    def y_train(self) -> np.ndarray | None:
        """Labels of the training cells, (n_cells,); None after loading or without labels."""
        train = self.fit.preprocessing.train
        return None if train is None else self._labels(train.obs)

    @property
    def latent_vector(self) -> np.ndarray | None:
        """Posterior means of the training cells, (n_cells, latent_dim); None after loading from disk."""
        prep = self.fit.preprocessing
        if prep.train is None:
            return None
        return encode(posterior(self.fit.model), prep.train.x, prep.y_train)[0]

    def _labels(self, obs: pd.DataFrame) -> np.ndarray | None:
        key = self.fit.preprocessing.conditions.label_key
        return None if key is None else obs[key].astype(str).to_numpy(dtype=object)

    def to_anndata(self, real: bool = False) -> ad.AnnData:
        """Return the generated cells, optionally joined with the training cells.

        Parameters
        ----------
        real
            Whether to put the training cells first; ``obs["group"]`` is then "real" or "generated". If the
            cells have a column "group" already, it is kept and ``obs["vaexprs_group"]`` is used.

        Raises
        ------
        ValueError
            If `real` is true and the fit was loaded from disk: training cells are not saved.
        """
        return self.joined.copy() if real else self.adata.to_memory(copy=True)

    def to_biocpy(self) -> Any:
        """Return the generated cells as a BiocPy ``SingleCellExperiment`` of shape (n_genes, n_cells).

        Its one assay is "counts", or "X" if the values are not counts.

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
        """Return the generated cells as a DataFrame: a row per cell, the columns of `obs`, then the genes."""
        cells = in_memory(self.adata)
        values = pd.DataFrame(densify(cells.X), index=cells.obs_names, columns=cells.var_names)
        return pd.concat([cells.obs, values], axis=1)

    @cached_property
    def joined(self) -> ad.AnnData:
        """Training and generated cells in one AnnData, cached: `plot_aug` stores its embeddings in it."""
        return join_real(real_cells(self), in_memory(self.adata))

    def __repr__(self) -> str:
        return f"Generated: {self.adata.n_obs:,} cells x {self.adata.n_vars:,} genes"

    def _repr_html_(self) -> str:
        generated, recipe = self.adata, self.adata.uns.get("vaexprs", {})
        conditions = {}
        for key in self.fit.levels:
            real, numbers = self.fit.cells_of(key), generated.obs[key].astype(str).value_counts()
            conditions[key] = markup.levels(
                {level: (int(numbers.get(level, 0)), n) for level, n in real.items()}
            )
        return markup.render(
            "interface/templates/generated.html",
            shape=generated.shape,
            counts=self.fit.likelihood.counts,
            likelihood=self.fit.likelihood.name,
            seed=recipe.get("seed"),
            file=str(generated.filename) if generated.filename else None,
            library_size=recipe.get("library_size") if self.fit.likelihood.counts else None,
            conditions=conditions,
            real_title="real (training)" if self.fit.guarantee is None else NOISY_CELLS,
        )


def real_cells(generated: Generated) -> ad.AnnData:
    """Return the training cells of the fit, in memory and in the user's units.

    Raises
    ------
    ValueError
        If the fit was loaded from disk: training cells are not saved.
    """
    train, x = generated.fit.preprocessing.train, generated.x_train
    if train is None or x is None:
        raise ValueError(
            "A fit loaded from disk contains no training cells. Give the real cells: "
            "plot_aug(gen, 'UMAP', real=adata)."
        )
    obs = train.obs.set_axis(train.obs.index.astype(str), axis=0)
    return ad.AnnData(x[:] if isinstance(x, BackedMatrix) else x, obs=obs, var=generated.adata.var)


def join_real(real: ad.AnnData, generated: ad.AnnData) -> ad.AnnData:
    """Return real and generated cells in one AnnData with ``obs["group"]``.

    The genes are those of the generated cells. Columns of `obs` that both have are kept, as categories or
    (continuous covariates) as numbers; other annotation is dropped.

    Raises
    ------
    ValueError
        If real cells lack generated genes.
    """
    missing = generated.var_names.difference(real.var_names)
    if len(missing):
        raise ValueError(f"The real cells lack genes of the generated cells: {listed(list(missing))}.")
    recipe = generated.uns.get("vaexprs", {})
    numbers = json.loads(str(recipe.get("continuous_keys", "")) or "[]")
    parts = {"real": real[:, generated.var_names], "generated": generated}
    for name, part in parts.items():
        columns = [key for key in generated.obs if key in real.obs]
        x = sp.csr_matrix(part.X, dtype=np.float32) if sp.issparse(generated.X) else densify(part.X)
        kinds = {key: float if key in numbers else str for key in columns}
        parts[name] = ad.AnnData(x, obs=part.obs[columns].astype(kinds), var=generated.var[[]])
    joined = concatenate(parts)
    for key in joined.obs:
        if key not in numbers:
            joined.obs[key] = pd.Categorical(joined.obs[key])
    if "vaexprs" in generated.uns:  # generated cells from a table or from R have no recipe
        joined.uns["vaexprs"] = beside_real_cells(generated.uns["vaexprs"])
    return joined


def beside_real_cells(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe of generated cells for a set that also holds real cells, or is made from them.

    The privacy guarantee of the fit does not hold for such a set, so its sentence is left out.
    """
    return {name: value for name, value in recipe.items() if name != PRIVACY}


def concatenate(parts: Mapping[str, ad.AnnData], **options: Any) -> ad.AnnData:
    """Return sets of cells in one AnnData, with their names in ``obs["group"]`` and unique cell names.

    If a set has a column "group" already, it is kept, and the names are in ``obs["vaexprs_group"]``, with a
    warning.

    Parameters
    ----------
    parts
        The sets by name.
    **options
        Passed on to `anndata.concat`.

    Raises
    ------
    ValueError
        If a set has both columns.
    """
    columns = [key for part in parts.values() for key in part.obs]
    key = next((key for key in (GROUP, OTHER_GROUP) if key not in columns), None)
    if key is None:
        raise ValueError(
            f"obs must not have both columns {GROUP!r} and {OTHER_GROUP!r}, which say which cells are real. "
            "Rename one."
        )
    if key == OTHER_GROUP:
        warn(
            f"obs[{GROUP!r}] is a column of the cells and is kept; which cells are real and which generated "
            f"is in obs[{OTHER_GROUP!r}]."
        )
    joined = ad.concat(parts, label=key, **options)
    joined.obs_names_make_unique()
    for key in joined.obs:
        if joined.obs[key].dtype == object:
            joined.obs[key] = pd.Categorical(joined.obs[key])
    return joined


def with_values(
    adata: ad.AnnData,
    blocks: Iterable[Matrix],
    out: str | os.PathLike[str] | None,
    *,
    counts: bool,
    overwrite: bool,
) -> ad.AnnData:
    """Return cells with their values from blocks, which are written to disk one by one if the format allows.

    Parameters
    ----------
    adata
        The cells without X.
    blocks
        Matrices with consecutive rows of X, CSR for counts.
    out
        File or folder to write the cells to; None to keep them in memory.
    counts
        Whether the values are counts: only counts are written block by block.
    overwrite
        Whether an existing `out` may be replaced.
    """
    with memory_errors():
        if out is not None and counts and Path(out).suffix in BACKED:
            return open_backed(write_blocks(adata, blocks, out, overwrite=overwrite))
        adata.X = stacked_values(list(blocks))
    if out is not None:
        write(adata, out, overwrite=overwrite)
    return adata


def origin(fit: VAEFit) -> dict[str, Any]:
    """Return the properties of a fit that generated cells record in ``uns["vaexprs"]``."""
    return (
        {
            "version": version("vaexprs"),
            "likelihood": fit.likelihood.name,
            "counts": fit.likelihood.counts,
            "scaling": fit.preprocessing.scaling.kind,
            "unit": fit.preprocessing.scaling.unit,
            "label_key": fit.preprocessing.conditions.label_key or "",
            "covariate_keys": json.dumps(fit.preprocessing.conditions.covariate_keys),
            "donor_key": "" if fit.donors is None else fit.donors.key,
            "fit_seed": fit.seed,
        }
        | _continuous_keys(fit)
        | ({} if fit.guarantee is None else {PRIVACY: fit.guarantee.sentence})
    )


def _continuous_keys(fit: VAEFit) -> dict[str, str]:
    keys = list(fit.preprocessing.conditions.continuous)
    return {"continuous_keys": json.dumps(keys)} if keys else {}
