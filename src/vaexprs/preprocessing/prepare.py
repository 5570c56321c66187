"""AnnData to prepared matrix and one-hot conditions, and back."""

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
from vaexprs.preprocessing.conditions import Conditions, LevelCodes, column_of_levels
from vaexprs.preprocessing.scaling import Scaling


@dataclass(frozen=True)
class Cells:
    """Prepared cells.

    Parameters
    ----------
    x
        What the network sees, (n_cells, n_genes), float32, dense, CSR or left on disk.
    obs
        The label and the covariates of each cell, as strings; the index names the cells.
    """

    x: Matrix | BackedMatrix
    obs: pd.DataFrame

    def __len__(self) -> int:
        return int(self.x.shape[0])

    def take(self, rows: np.ndarray) -> Cells:
        """Return some of the cells, in memory; of a matrix on disk sorted ones."""
        x = self.x.take(rows) if isinstance(self.x, BackedMatrix) else self.x[rows]
        return Cells(x, self.obs.iloc[rows])

    def keep(self, rows: np.ndarray) -> Cells:
        """Return some of the cells, left on disk where they are there."""
        if isinstance(self.x, BackedMatrix):
            return Cells(self.x.keep(rows), self.obs.iloc[rows])
        return self.take(rows)


@dataclass(frozen=True)
class Preprocessing:
    """What a fit learned about its input before training; hand it to a second fit to reuse it.

    Parameters
    ----------
    genes
        Names of the genes, (n_genes,).
    conditions
        Levels of label and covariates.
    scaling
        From the user's values to the network's.
    likelihood
        Name of the likelihood it was made for.
    train, val
        Prepared cells; None after loading from disk, where no cell is saved.
    """

    genes: pd.Index
    conditions: Conditions
    scaling: Scaling
    likelihood: str
    train: Cells | None = None
    val: Cells | None = None

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
        """One-hot conditions of the training cells, (n_cells, width), or None."""
        return self._codes(self.train)

    @property
    def y_val(self) -> np.ndarray | None:
        """One-hot conditions of the validation cells, (n_cells, width), or None."""
        return self._codes(self.val)

    @cached_property
    def codes_train(self) -> LevelCodes | None:
        """The same as `y_train`, made for the rows that are asked for; None without conditions."""
        if self.train is None or not self.conditions.levels:
            return None
        return LevelCodes(self.conditions, self.conditions.columns(self.train.obs))

    @property
    def level_cells(self) -> list[int]:
        """Number of training cells in each one-hot column, (width,); empty without conditions."""
        codes = self.codes_train
        if codes is None:
            return []
        return [int(n) for n in np.bincount(codes.columns.ravel(), minlength=self.conditions.width)]

    def _codes(self, cells: Cells | None) -> np.ndarray | None:
        return None if cells is None or not self.conditions.levels else self.conditions.one_hot(cells.obs)

    def prepare(self, adata: ad.AnnData | BackedCells, *, dense: bool) -> Cells:
        """Return cells scaled with this preprocessing's limits and checked against its codes.

        Parameters
        ----------
        adata
            Checked cells with these genes in any order and the label and covariates in `obs`.
        dense
            Whether a sparse matrix is made dense.
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
            },
            index=adata.obs_names,
        )
        for key in self.conditions.keys:
            for value in obs[key].unique():
                self.conditions.check(key, value)
        return Cells(x, obs)

    def _order_of_genes(self, adata: ad.AnnData | BackedCells) -> np.ndarray | None:
        """Return the columns of `adata` in this order of genes; None where they have it."""
        if list(adata.var_names) == list(self.genes):
            return None
        missing = self.genes.difference(adata.var_names, sort=False)
        extra = adata.var_names.difference(self.genes, sort=False)
        if len(missing) or len(extra):
            raise ValueError(
                f"The genes must be the {len(self.genes):,} of the training cells, got {adata.n_vars:,}: "
                f"missing {listed(list(missing)) or 'none'}; not among them {listed(list(extra)) or 'none'}."
            )
        return np.asarray(adata.var_names.get_indexer(self.genes))

    def without_cells(self) -> Preprocessing:
        """Return the same with no cell in it, as it is saved."""
        return replace(self, train=None, val=None)
