"""Sets of generated and real cells with the same genes, scale and conditions."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from vaexprs.comparison.matching import at_equal_depth, only_generated, with_requested_levels
from vaexprs.comparison.provenance import real_layer, recipe_of
from vaexprs.data.count_detection import X_LAYER
from vaexprs.data.levels import find_level
from vaexprs.data.matrix import Matrix, are_counts, as_float, densify, limits, log_normalised, stacked
from vaexprs.interface.errors import warn
from vaexprs.interface.validation import did_you_mean, listed
from vaexprs.io.open import load_layer, open_cells
from vaexprs.io.stores import StoredCells
from vaexprs.preprocessing.conditions import column_of_levels
from vaexprs.preprocessing.scaling import Scaling
from vaexprs.preprocessing.summary import check_cells

MIN_DETECTED = 20  # minimum number of detected genes for the values alone to identify a cell


@dataclass(frozen=True)
class CellSet:
    """Set of cells prepared for comparison.

    Parameters
    ----------
    raw
        Values in the user's units, (n_cells, n_genes); float32, CSR for counts.
    values
        The same values as the model sees them: log(1 + counts per 10,000) for counts, else the scaling of
        the fit.
    obs
        Label and donor columns as strings, indexed by cell name.
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
        """Return the cells of these rows."""
        return CellSet(self.raw[rows], self.values[rows], self.obs.iloc[rows], self.genes, self.counts)

    def joined(self, others: CellSet) -> CellSet:
        """Return these cells followed by others."""
        return CellSet(
            stacked([self.raw, others.raw]),
            stacked([self.values, others.values]),
            pd.concat([self.obs, others.obs]),
            self.genes,
            self.counts,
        )

    def column(self, *keys: str | None) -> np.ndarray:
        """Return columns of `obs` joined by tabs, (n_cells,); keys that are None are left out."""
        named = [self.obs[key].to_numpy(str) for key in keys if key is not None]
        if not named:
            return np.full(len(self), "", dtype=object)
        return (
            named[0].astype(object)
            if len(named) == 1
            else np.array(["\t".join(row) for row in zip(*named, strict=True)], object)
        )


def open_generated(generated: Any, keys: Sequence[Any] = ()) -> ad.AnnData | StoredCells:
    """Open generated cells: what `gen_exprs` returned, or anything that `open_cells` takes.

    Parameters
    ----------
    generated
        The cells.
    keys
        Columns of `obs` that the caller needs, as in `open_cells`.

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
    return open_cells(cells, name="generated", keys=keys)


def has_column(cells: ad.AnnData | StoredCells, key: str) -> bool:
    """Return whether open cells have a column of `obs`."""
    return bool(cells.has_column(key)) if isinstance(cells, StoredCells) else key in cells.obs


def side_by_side(
    generated: ad.AnnData,
    others: Mapping[str, Any],
    *,
    keys: Mapping[str, str | None],
    optional: Collection[str] = (),
    layer: str | None = None,
    notes: list[str] | None = None,
) -> dict[str, CellSet]:
    """Return generated and real cells with the same genes on the same scale.

    Parameters
    ----------
    generated
        The generated cells; their recipe is read from ``uns["vaexprs"]`` if present.
    others
        Real cells by argument name: AnnData, BiocPy experiments, DataFrames or paths. They may have more
        genes than the generated cells.
    keys
        Required columns of `obs`, by argument name; None for no column.
    optional
        Arguments whose column the generated cells may lack.
    layer
        Layer of the real cells with the values.
    notes
        List to which remarks on the matching of real and generated cells are appended (see
        `vaexprs.comparison.matching`).

    Returns
    -------
    Sets of cells by name; the generated cells are "generated".

    Raises
    ------
    ValueError
        If a set is empty, has NaN, lacks a gene of the generated cells or a column, or if only some sets
        hold counts.
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
    sets |= with_requested_levels(real_sets, recipe, notes)
    raw = {name: _matrix(cells, genes) for name, cells in sets.items()}
    counts = _compare_as_counts(raw, recipe.get("counts"))
    if counts:
        raw = at_equal_depth(raw, {name: cells.obs for name, cells in sets.items()}, recipe, notes)
    real = next(x for name, x in raw.items() if name != "generated")
    columns = {
        name: _columns(sets[name], name, keys, optional if name == "generated" else ()) for name in raw
    }
    _align_levels(columns)
    scaling = None if counts else scaling_of(recipe, real)
    return {
        name: CellSet(
            x,
            log_normalised(x) if scaling is None else densify(scaling.forward(x)),
            columns[name],
            genes,
            counts,
        )
        for name, x in raw.items()
    }


def scaling_of(recipe: Mapping[str, Any], real: Matrix) -> Scaling:
    """Return the scaling in the recipe of generated cells, fitted to real values."""
    return Scaling.fit(str(recipe.get("scaling", "none")), *limits(real), recipe.get("unit", 1))


def _compare_as_counts(raw: dict[str, Matrix], recipe_counts: Any) -> bool:
    """Return whether the values are compared as counts.

    Parameters
    ----------
    raw
        Values by set. Negative generated values are replaced by 0 in place if the real values are counts.
    recipe_counts
        Whether the generated cells are counts according to their recipe; None without a recipe.
    """
    counts = {name: are_counts(x) for name, x in raw.items()}
    real = [is_counts for name, is_counts in counts.items() if name != "generated"]
    if recipe_counts is not None and not recipe_counts:
        return False
    if not all(real) and (any(real) or counts["generated"]):
        kinds = ", ".join(
            f"{name} {'counts' if is_counts else 'other values'}" for name, is_counts in counts.items()
        )
        raise ValueError(
            "All sets must hold counts, or all must hold other values, "
            f"got {kinds}. Name the layer of the real cells that holds the counts: layer='counts'."
        )
    if all(real) and not counts["generated"]:
        warn(
            "The generated values are not whole numbers, but the real values are counts. They are compared "
            "as expected counts, with negative values as 0. If they are logarithms, give the counts instead."
        )
        x = raw["generated"]
        raw["generated"] = as_float(x.maximum(0) if sp.issparse(x) else np.maximum(x, 0))
    return all(real)


def _matrix(cells: ad.AnnData, genes: pd.Index) -> Matrix:
    x = cells.X if cells.var_names.equals(genes) else cells[:, genes].X
    return as_float(x)


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
                f"({listed(list(cells.obs.columns), 20) or 'there are none'}), got {key!r}."
                f"{did_you_mean(key, cells.obs.columns)}"
            )
        columns[key] = column_of_levels(cells.obs, key, argument).astype(str)
    return pd.DataFrame(columns, index=cells.obs_names)


def _align_levels(columns: Mapping[str, pd.DataFrame]) -> None:
    """Give levels of other types the names of the first set, in place: "TRUE" becomes "True"."""
    first, *others = columns.values()
    for key in first:
        levels = list(first[key].unique())
        for table in others:
            if key in table:
                named = {level: find_level(level, levels) or level for level in table[key].unique()}
                table[key] = table[key].map(named)


def rows_in(cells: CellSet, others: CellSet) -> np.ndarray:
    """Return for each cell whether a cell of `others` has the same values, (n_cells,).

    Cells with fewer than 20 detected genes may agree by chance, so they must have the same name too.
    """
    contents = _row_bytes(others.raw)
    known, known_with_name = set(contents), set(zip(others.obs.index, contents, strict=True))
    identifying = np.asarray((cells.raw != 0).sum(axis=1)).ravel() >= MIN_DETECTED
    rows = zip(cells.obs.index, _row_bytes(cells.raw), identifying, strict=True)
    return np.array(
        [
            content in known if enough else (name, content) in known_with_name
            for name, content, enough in rows
        ],
        bool,
    )


def equal_rows(cells: CellSet, sets: Sequence[CellSet]) -> np.ndarray:
    """Return for each cell whether another cell of one of the sets has the same values, (n_cells,).

    Cells with fewer than 20 detected genes may agree by chance and are not counted.

    Parameters
    ----------
    cells
        The cells.
    sets
        The sets; `cells` itself may be one of them.
    """
    contents = _row_bytes(cells.raw)
    numbers: Counter[bytes] = Counter()
    for other in sets:
        numbers.update(contents if other is cells else _row_bytes(other.raw))
    own = 1 if any(other is cells for other in sets) else 0
    identifying = np.asarray((cells.raw != 0).sum(axis=1)).ravel() >= MIN_DETECTED
    return identifying & np.array([numbers[content] > own for content in contents], bool)


def _row_bytes(x: Matrix) -> list[bytes]:
    """Return the values of each row as bytes, equal for equal rows."""
    if not sp.issparse(x):
        return [row.tobytes() for row in np.ascontiguousarray(x + 0.0)]  # + 0.0 turns -0.0 into 0.0
    x = x.copy()
    x.eliminate_zeros()
    x.sort_indices()
    ends = x.indptr[1:-1]
    parts = zip(np.split(x.indices.astype(np.int32), ends), np.split(x.data, ends), strict=True)
    return [indices.tobytes() + data.tobytes() for indices, data in parts]
