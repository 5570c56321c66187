"""Prepare cells for the network: scaled matrix and codes of conditions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from vaexprs.data.backed import BackedCells, BackedMatrix
from vaexprs.data.matrix import Matrix, as_float, densify
from vaexprs.interface.validation import listed
from vaexprs.preprocessing.conditions import Conditions, LevelCodes, column_of_levels, column_of_numbers
from vaexprs.preprocessing.scaling import Scaling


@dataclass(frozen=True)
class Cells:
    """Prepared cells.

    Parameters
    ----------
    x
        Input of the network, (n_cells, n_genes), float32: dense, CSR or left on disk.
    obs
        Label and covariates of each cell, as strings, and continuous covariates as float64; the index holds
        the cell names.
    """

    x: Matrix | BackedMatrix
    obs: pd.DataFrame

    def __len__(self) -> int:
        return int(self.x.shape[0])

    def take(self, rows: np.ndarray) -> Cells:
        """Return the given cells, in memory. For a matrix on disk `rows` must be sorted."""
        x = self.x.take(rows) if isinstance(self.x, BackedMatrix) else self.x[rows]
        return Cells(x, self.obs.iloc[rows])

    def keep(self, rows: np.ndarray) -> Cells:
        """Return the given cells; cells on disk stay there."""
        if isinstance(self.x, BackedMatrix):
            return Cells(self.x.keep(rows), self.obs.iloc[rows])
        return self.take(rows)


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing learned from the training cells. Pass it to another fit to reuse it.

    Parameters
    ----------
    genes
        Names of the genes, (n_genes,).
    conditions
        Levels of label and covariates, and splines of continuous covariates.
    scaling
        Scaling from the user's values to the input of the network.
    likelihood
        Name of the likelihood the values were prepared for.
    train, val
        Prepared cells; None after loading from disk, because cells are not saved.
    donor_key
        Key of the donors, whose effects are random; None without.
    """

    genes: pd.Index
    conditions: Conditions
    scaling: Scaling
    likelihood: str
    train: Cells | None = None
    val: Cells | None = None
    donor_key: str | None = None

    @property
    def x_train(self) -> Matrix | None:
        """Prepared training cells, (n_cells, n_genes)."""
        return None if self.train is None else self.train.x

    @property
    def x_val(self) -> Matrix | None:
        """Prepared validation cells, (n_cells, n_genes), or None."""
        return None if self.val is None else self.val.x

    @property
    def y_train(self) -> np.ndarray | None:
        """Codes of the conditions of the training cells, (n_cells, width), or None."""
        return self._codes(self.train)

    @property
    def y_val(self) -> np.ndarray | None:
        """Codes of the conditions of the validation cells, (n_cells, width), or None."""
        return self._codes(self.val)

    @cached_property
    def codes_train(self) -> LevelCodes | None:
        """The same as `y_train`, expanded on access; None without conditions."""
        if self.train is None or not self.conditions.width:
            return None
        return self.conditions.codes(self.train.obs)

    @property
    def level_cells(self) -> list[int]:
        """Number of training cells in each one-hot column, (n_levels,); empty without levels."""
        codes = self.codes_train
        if codes is None:
            return []
        return [int(n) for n in np.bincount(codes.columns.ravel(), minlength=self.conditions.n_levels)]

    def _codes(self, cells: Cells | None) -> np.ndarray | None:
        return None if cells is None or not self.conditions.width else self.conditions.code(cells.obs)

    def prepare(self, adata: ad.AnnData | BackedCells, *, dense: bool) -> Cells:
        """Return cells with this scaling and gene order, after checking their levels.

        Parameters
        ----------
        adata
            Checked cells with these genes in any order and the label and covariates in `obs`.
        dense
            Whether to convert a sparse matrix to dense.

        Raises
        ------
        ValueError
            If the genes differ, a key is missing in `obs`, or a level is unknown.
        """
        genes = self._order_of_genes(adata)
        x: Any
        if isinstance(adata, BackedCells):
            x = adata.X.mapped(genes, self.scaling.forward)
        else:
            x = self.scaling.forward(as_float(adata.X if genes is None else adata.X[:, genes]))
            if dense:
                x = densify(x)
        obs = pd.DataFrame(
            {
                key: column_of_levels(
                    adata.obs, key, "label_key" if key == self.conditions.label_key else "covariate_keys"
                )
                for key in self.conditions.keys
            }
            | {key: column_of_numbers(adata.obs, key) for key in self.conditions.continuous},
            index=adata.obs_names,
        )
        if self.donor_key is not None and self.donor_key in adata.obs:
            obs[self.donor_key] = column_of_levels(adata.obs, self.donor_key, "donor_key")
        for key in self.conditions.keys:
            named = {value: self.conditions.check(key, value) for value in obs[key].unique()}
            if any(value != level for value, level in named.items()):  # 1.0 for 1, TRUE for True
                obs[key] = obs[key].astype(str).map(named).astype("category")
        return Cells(x, obs)

    def _order_of_genes(self, adata: ad.AnnData | BackedCells) -> np.ndarray | None:
        """Return the columns of `adata` in the order of `genes`; None if they are in this order."""
        if list(adata.var_names) == list(self.genes):
            return None
        missing = self.genes.difference(adata.var_names, sort=False)
        extra = adata.var_names.difference(self.genes, sort=False)
        if len(missing) or len(extra):
            raise ValueError(
                f"The genes must be the {len(self.genes):,} of the training cells, got {adata.n_vars:,}: "
                f"missing {listed(list(missing)) or 'none'}; unexpected {listed(list(extra)) or 'none'}."
            )
        return np.asarray(adata.var_names.get_indexer(self.genes))

    def without_cells(self) -> Preprocessing:
        """Return the preprocessing without cells, as it is saved."""
        return replace(self, train=None, val=None)
