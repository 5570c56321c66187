"""Convert every accepted kind of input to opened and validated cells."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import anndata as ad
import pandas as pd

from vaexprs.data.backed import BackedCells
from vaexprs.data.levels import check_columns
from vaexprs.io.convert import columns_to_obs, from_biocpy, from_frame, take_layer
from vaexprs.io.formats import BACKED, ORIENTED
from vaexprs.io.read import check_readable, format_of, read_cells
from vaexprs.io.stores import StoredCells, back_layer, open_store


def open_cells(
    source: Any,
    *,
    name: str = "object",
    matrix: str = "anndata.AnnData(matrix)",
    keys: Sequence[Any] = (),
) -> ad.AnnData | StoredCells:
    """Return an AnnData, or a `StoredCells` for a path to an .h5ad or .zarr file.

    Public functions call this once for each argument that holds cells; internal functions take no paths.

    Parameters
    ----------
    source
        AnnData of shape (n_cells, n_genes); a BiocPy ``SummarizedExperiment`` or ``SingleCellExperiment`` of
        shape (n_genes, n_cells); a DataFrame with cells in rows, whose non-numeric columns become columns
        of `obs`; a path in any format that `read` supports; or a return value of this function.
    name
        Name of the argument, used in error messages.
    matrix
        How to pass a plain matrix when the argument is `object`, used in error messages.
    keys
        Columns of `obs` that the caller needs: in tables and DataFrames they are annotation even if they hold
        numbers.

    Raises
    ------
    TypeError
        If `source` is of an unsupported type.
    FileNotFoundError
        If the path does not exist.
    ValueError
        If the file format is unknown or the file is malformed.
    """
    if isinstance(source, ad.AnnData):
        for table, what in ((source.obs, "obs"), (source.var, "var")):
            check_columns(table, f"{what} of {name}")
        return source
    if isinstance(source, StoredCells):
        return source
    wanted = [key for key in keys if isinstance(key, str)]
    if isinstance(source, (str, os.PathLike)):
        path = check_readable(source)
        suffix = format_of(path)
        if suffix in BACKED:
            return open_store(path)
        cells = read_cells(path, keys=wanted)
        return columns_to_obs(cells, wanted) if suffix in ORIENTED else cells
    if hasattr(source, "get_assay_names") and hasattr(source, "get_column_data"):
        return from_biocpy(source)
    if isinstance(source, pd.DataFrame):
        return from_frame(source, name, wanted)
    hint = f" Pass a matrix of shape (n_cells, n_genes) as {matrix}." if name == "object" else ""
    raise TypeError(
        f"{name} must be an AnnData, a SummarizedExperiment, a SingleCellExperiment, a DataFrame or a path, "
        f"got {type(source).__name__}.{hint}"
    )


def load_layer(cells: ad.AnnData | StoredCells, layer: str | None) -> ad.AnnData:
    """Return opened cells in memory, with the requested layer as X (see `take_layer`)."""
    return take_layer(cells.read() if isinstance(cells, StoredCells) else cells, layer)


def select_layer(
    cells: ad.AnnData | StoredCells, layer: str | None, keys: Sequence[str]
) -> ad.AnnData | BackedCells:
    """Return opened cells with the requested layer as X; a large matrix on disk stays on disk.

    Parameters
    ----------
    cells
        Return value of `open_cells`.
    layer
        Layer with the values, "X" for X; by default the first that holds counts.
    keys
        Columns of `obs` to read for cells that stay on disk.
    """
    return back_layer(cells, layer=layer, keys=keys) or load_layer(cells, layer)
