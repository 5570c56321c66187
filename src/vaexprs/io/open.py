"""Open cells: whatever a user gives is turned into open, checked cells here, once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import anndata as ad
import pandas as pd

from vaexprs.data.backed import BackedCells
from vaexprs.io.convert import from_biocpy, from_frame, take_layer
from vaexprs.io.formats import BACKED
from vaexprs.io.read import check_readable, read
from vaexprs.io.stores import StoredCells, back_layer, open_store


def open_cells(
    source: Any, *, name: str = "object", matrix: str = "anndata.AnnData(matrix)"
) -> ad.AnnData | StoredCells:
    """Return cells as an AnnData, or as an open and checked file where they are in an .h5ad or .zarr file.

    Public functions call this once for each argument with cells; nothing below them takes a path.

    Parameters
    ----------
    source
        AnnData of shape (n_cells, n_genes); a BiocPy ``SummarizedExperiment`` or ``SingleCellExperiment`` of
        shape (n_genes, n_cells); a DataFrame with cells in rows, whose columns without numbers become
        columns of `obs`; a path of any format that `read` reads; or what this function returned.
    name
        Name of the argument, for the message.
    matrix
        How a plain matrix is given where the argument is `object`, for the message.

    Raises
    ------
    TypeError
        If `source` is of another kind.
    FileNotFoundError
        If there is nothing at the path.
    ValueError
        If the file is of an unknown format or malformed.
    """
    if isinstance(source, (ad.AnnData, StoredCells)):
        return source
    if isinstance(source, (str, os.PathLike)):
        path = check_readable(source)
        return open_store(path) if path.suffix in BACKED else read(path)
    if hasattr(source, "get_assay_names") and hasattr(source, "get_column_data"):
        return from_biocpy(source)
    if isinstance(source, pd.DataFrame):
        return from_frame(source, name)
    hint = f" Give a matrix of shape (n_cells, n_genes) as {matrix}." if name == "object" else ""
    raise TypeError(
        f"{name} must be an AnnData, a SummarizedExperiment, a SingleCellExperiment, a DataFrame or a path, "
        f"got {type(source).__name__}.{hint}"
    )


def load_layer(cells: ad.AnnData | StoredCells, layer: str | None) -> ad.AnnData:
    """Return open cells in memory, with the requested layer as X (see `take_layer`)."""
    return take_layer(cells.read() if isinstance(cells, StoredCells) else cells, layer)


def select_layer(
    cells: ad.AnnData | StoredCells, layer: str | None, keys: Sequence[str]
) -> ad.AnnData | BackedCells:
    """Return open cells with the requested layer as X; a large matrix on disk stays there.

    Parameters
    ----------
    cells
        What `open_cells` returned.
    layer
        Layer with the values, "X" for X; by default the first that holds counts.
    keys
        Columns of `obs` that are needed of cells that stay on disk.
    """
    return back_layer(cells, layer=layer, keys=keys) or load_layer(cells, layer)
