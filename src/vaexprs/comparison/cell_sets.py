"""Generated and real cells with the same genes, scale and conditions."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from vaexprs.comparison.matching import at_one_depth, only_generated, with_levels_asked
from vaexprs.comparison.provenance import real_layer, recipe_of
from vaexprs.data.count_detection import X_LAYER
from vaexprs.data.matrix import Matrix, as_float, densify, limits, log_normalised, stacked, stored
from vaexprs.interface.errors import warn
from vaexprs.interface.validation import did_you_mean, listed
from vaexprs.io.open import load_layer, open_cells
from vaexprs.io.stores import StoredCells
from vaexprs.preprocessing.conditions import column_of_levels
from vaexprs.preprocessing.scaling import Scaling
from vaexprs.preprocessing.summary import check_cells

MIN_TELLING = 20  # genes with a value in a cell, for the values to tell which cell it is


@dataclass(frozen=True)
class CellSet:
    """Some cells as they are compared.

    Parameters
    ----------
    raw
        Values in the user's units, (n_cells, n_genes); float32, CSR for counts.
    values
        The same as the model sees them: log(1 + counts per 10,000) for counts, the fit's scaling for
        other values.
    obs
        The columns asked for, as strings; the index names the cells.
    genes
        Names of the genes, (n_genes,).
    counts
        Whether the values are counts.
    """

    raw: Matrix
    values: Matrix
    obs: pd.DataFrame
    genes: pd.Index
    counts: bool

    def __len__(self) -> int:
        return int(self.raw.shape[0])

    def take(self, rows: np.ndarray) -> CellSet:
        """Return some of the cells."""
        return CellSet(self.raw[rows], self.values[rows], self.obs.iloc[rows], self.genes, self.counts)

    def joined(self, others: CellSet) -> CellSet:
        """Return these cells and others, in this order."""
        return CellSet(
            stacked([self.raw, others.raw]),
            stacked([self.values, others.values]),
            pd.concat([self.obs, others.obs]),
            self.genes,
            self.counts,
        )

    def column(self, *keys: str | None) -> np.ndarray:
        """Return columns of `obs` as one, (n_cells,); those that are None are left out."""
        named = [self.obs[key].to_numpy(str) for key in keys if key is not None]
        if not named:
            return np.full(len(self), "", dtype=object)
        return (
            named[0].astype(object)
            if len(named) == 1
            else np.array(["\t".join(row) for row in zip(*named, strict=True)], object)
        )


def open_generated(generated: Any) -> ad.AnnData | StoredCells:
    """Open generated cells: what `gen_exprs` returned, or anything that `open_cells` takes.

    Raises
    ------
    TypeError
        If they are something else.
    """
    cells = getattr(generated, "adata", generated)  # not `isinstance`, which would import Keras
    if not isinstance(cells, (ad.AnnData, StoredCells, pd.DataFrame, str, os.PathLike)) and not hasattr(
        cells, "get_assay_names"
    ):
        raise TypeError(
            "generated must be what gen_exprs returned, an AnnData, a BiocPy experiment, a DataFrame or a "
            f"path, got {type(generated).__name__}."
        )
    return open_cells(cells, name="generated")


def side_by_side(
    generated: ad.AnnData,
    others: Mapping[str, Any],
    *,
    keys: Mapping[str, str | None],
    optional: Collection[str] = (),
    layer: str | None = None,
    notes: list[str] | None = None,
) -> dict[str, CellSet]:
    """Return generated and real cells with the same genes in the same space.

    Parameters
    ----------
    generated
        The generated cells; how they were made is read from ``uns["vaexprs"]`` where it is there.
    others
        Real cells by the name of their argument: AnnData, BiocPy experiments, DataFrames or paths. They
        may have more genes than the generated ones.
    keys
        Columns of `obs` that each set must have, by the name of the argument that names them; those that
        are None are left out.
    optional
        Arguments among them whose column the generated cells need not have.
    layer
        Layer of the real cells with the values.
    notes
        Gets sentences on what was done so that like is compared with like (see
        `vaexprs.comparison.matching`).

    Returns
    -------
    Sets of cells by name; that of the generated ones is "generated".

    Raises
    ------
    ValueError
        If a set is empty, has NaN, lacks a gene of the generated cells or a column, or real sets hold
        counts where others do not.
    """
    notes = [] if notes is None else notes
    recipe = recipe_of(generated)
    layer = real_layer(generated, layer)
    generated = only_generated(generated, notes)
    sets = {"generated": load_layer(generated, X_LAYER if recipe or layer == X_LAYER else None)}
    sets |= {name: load_layer(cells, layer) for name, cells in others.items()}
    genes = sets["generated"].var_names
    for name, cells in sets.items():
        check_cells(cells, name)
        missing = genes.difference(cells.var_names, sort=False)
        if len(missing):
            raise ValueError(
                f"{name} must have the genes of the generated cells; {len(missing):,} of {len(genes):,} are "
                f"missing: {listed(list(missing))}."
            )
    real_sets = {name: cells for name, cells in sets.items() if name != "generated"}
    sets |= with_levels_asked(real_sets, recipe, notes)
    raw = {name: _matrix(cells, genes) for name, cells in sets.items()}
    counts = _all_counts(raw, recipe.get("counts"))
    if counts:
        raw = at_one_depth(raw, {name: cells.obs for name, cells in sets.items()}, recipe, notes)
    real = next(x for name, x in raw.items() if name != "generated")
    scaling = None if counts else scaling_of(recipe, real)
    return {
        name: CellSet(
            x,
            log_normalised(x) if scaling is None else densify(scaling.forward(x)),
            _columns(sets[name], name, keys, optional if name == "generated" else ()),
            genes,
            counts,
        )
        for name, x in raw.items()
    }


def scaling_of(recipe: Mapping[str, Any], real: Matrix) -> Scaling:
    """Return the scaling that cells were made with, by their recipe, with the limits of real ones."""
    return Scaling.fit(str(recipe.get("scaling", "none")), *limits(real), recipe.get("unit", 1))


def _all_counts(raw: dict[str, Matrix], made_as: Any) -> bool:
    """Return whether the values are compared as counts; generated ones that are not whole are made to fit.

    Parameters
    ----------
    raw
        Values by set; negative generated values beside real counts become 0.
    made_as
        Whether the recipe of the generated cells says counts; None where there is none.
    """
    whole = {name: _counts(x) for name, x in raw.items()}
    real = [is_ for name, is_ in whole.items() if name != "generated"]
    if made_as is not None and not made_as:
        return False
    if not all(real) and (any(real) or whole["generated"]):
        kinds = ", ".join(f"{name} {'counts' if is_ else 'other values'}" for name, is_ in whole.items())
        raise ValueError(
            "The sets must all hold counts or all other values, "
            f"got {kinds}. Name the layer of the real cells with the counts: layer='counts'."
        )
    if all(real) and not whole["generated"]:
        warn(
            "The generated values are not whole numbers while the real ones are counts; they are compared as "
            "expected counts, negative ones as 0. If they are logarithms, give the counts instead."
        )
        x = raw["generated"]
        raw["generated"] = as_float(x.maximum(0) if sp.issparse(x) else np.maximum(x, 0))
    return all(real)


def _matrix(cells: ad.AnnData, genes: pd.Index) -> Matrix:
    x = cells.X if cells.var_names.equals(genes) else cells[:, genes].X
    return as_float(x)


def _counts(x: Matrix) -> bool:
    values = stored(x)
    return bool(np.all(values >= 0) and np.all(values == np.round(values)))


def _columns(
    cells: ad.AnnData, name: str, keys: Mapping[str, str | None], optional: Collection[str]
) -> pd.DataFrame:
    columns = {}
    for argument, key in keys.items():
        if key is None or (argument in optional and key not in cells.obs):
            continue
        if key not in cells.obs:
            raise ValueError(
                f"{argument} must be a column of obs of the {name} cells "
                f"({listed(list(cells.obs.columns), 20) or 'they have none'}), got {key!r}."
                f"{did_you_mean(key, cells.obs.columns)}"
            )
        columns[key] = column_of_levels(cells.obs, key, argument).astype(str)
    return pd.DataFrame(columns, index=cells.obs_names)


def rows_in(cells: CellSet, others: CellSet) -> np.ndarray:
    """Return for each cell whether a cell of `others` has the same values, (n_cells,).

    Values in fewer than 20 genes may agree by chance: such a cell must have the same name too.
    """
    known = set(_fingerprints(others.raw))
    named = set(zip(others.obs.index, _fingerprints(others.raw), strict=True))
    many = np.asarray((cells.raw != 0).sum(axis=1)).ravel() >= MIN_TELLING
    marks = zip(cells.obs.index, _fingerprints(cells.raw), many, strict=True)
    return np.array([mark in known if tells else (name, mark) in named for name, mark, tells in marks], bool)


def _fingerprints(x: Matrix) -> list[bytes]:
    if not sp.issparse(x):
        return [row.tobytes() for row in np.ascontiguousarray(x + 0.0)]  # + 0.0 makes -0.0 and 0.0 alike
    x = x.copy()
    x.eliminate_zeros()
    x.sort_indices()
    ends = x.indptr[1:-1]
    parts = zip(np.split(x.indices.astype(np.int32), ends), np.split(x.data, ends), strict=True)
    return [indices.tobytes() + data.tobytes() for indices, data in parts]
