"""Convert DataFrames, arrays and BiocPy experiments to AnnData."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from vaexprs.data.backed import file_of
from vaexprs.data.count_detection import X_LAYER, chosen, count_layers, holds_counts
from vaexprs.data.matrix import as_float, compressed, densify
from vaexprs.interface.errors import warn
from vaexprs.interface.validation import listed
from vaexprs.io.names import unique_index
from vaexprs.io.stores import no_layer, no_x, warn_of_other_counts
from vaexprs.io.tables.numbers import Marks
from vaexprs.io.tables.roles import NUMBER, TEXT, columns_of, roles_of, said

# key of uns with the name of the assay in X, as written by zellkonverter
X_NAME = "X_name"


def from_biocpy(experiment: Any) -> ad.AnnData:
    """Return a BiocPy experiment (genes x cells) as an AnnData: the first assay as X, all assays as layers.

    Raises
    ------
    ValueError
        If the experiment has no assay.
    """
    names = list(experiment.get_assay_names())
    if not names:
        raise ValueError("The experiment has no assay.")
    # its own to_anndata() requires another package
    layers = {str(name): _transposed(experiment.assay(name)) for name in names}
    first = layers[str(names[0])]
    obs = experiment.get_column_data().to_pandas()
    cells, genes = experiment.get_column_names(), experiment.get_row_names()
    if cells is not None and set(map(str, obs.index)) == set(map(str, cells)):
        obs = obs.set_axis(obs.index.astype(str), axis=0).loc[list(map(str, cells))]
    return ad.AnnData(
        X=first,
        obs=obs.set_axis(_names(cells, first.shape[0], "cell"), axis=0),
        var=pd.DataFrame(index=_names(genes, first.shape[1], "gene")),
        layers=layers,
        uns={X_NAME: str(names[0])},
    )


def _transposed(assay: Any) -> Any:
    if sp.issparse(assay):
        transposed = assay.T
        return transposed if transposed.format in ("csr", "csc") else sp.csr_matrix(transposed)
    return np.asarray(assay).T


def from_frame(frame: pd.DataFrame, name: str, keys: Sequence[str] = ()) -> ad.AnnData:
    """Return a DataFrame with cells in rows as an AnnData; columns that annotate cells go to `obs`.

    These are the columns of text, categories, dates and logical values, those of `keys`, and with a warning
    columns of numbers whose names say that they are about cells (clusters, quality metrics). Columns of
    objects are numbers if all of their values are.

    Raises
    ------
    ValueError
        If two columns of annotation have the same name.
    """
    names = [str(key) for key in frame.columns]
    columns = [
        column._replace(kind=TEXT) if column.kind == NUMBER and _has_texts(frame.iloc[:, i]) else column
        for i, column in enumerate(columns_of(frame, names, Marks()))
    ]
    roles = roles_of(columns, None, genes_in_rows=False, keys=[str(key) for key in keys])
    number = [
        i for i in roles.annotation if columns[i].kind == NUMBER and names[i] not in set(map(str, keys))
    ]
    if number:
        warn(f"{name}: cells in rows.{said(columns, number)}")
    annotation = [names[i] for i in roles.annotation]
    twice = sorted({key for key in annotation if annotation.count(key) > 1})
    if twice:
        raise ValueError(
            f"{name} must have each column of annotation once, got {listed(twice)} several times."
        )
    if not roles.values and annotation:
        raise ValueError(
            f"{name} must have a column of numbers for each gene, got {listed(annotation)} of text or "
            "annotation only. If they are numbers, convert them: frame.apply(pandas.to_numeric)."
        )
    held = frame.iloc[:, roles.values]
    objects = [i for i, kind in enumerate(held.dtypes) if kind.kind == "O"]
    if objects:
        held = held.copy()
        for i in objects:
            if columns[roles.values[i]].kind == NUMBER:
                held.isetitem(i, pd.to_numeric(held.iloc[:, i]).to_numpy())
    cells = from_matrix(held, name)
    for i, key in zip(roles.annotation, annotation, strict=True):
        cells.obs[key] = frame.iloc[:, i].array
    return cells


def _has_texts(values: pd.Series) -> bool:
    return values.dtype.kind == "O" and any(isinstance(value, str) for value in values)


def columns_to_obs(cells: ad.AnnData, keys: Sequence[str]) -> ad.AnnData:
    """Return cells of a table whose `keys` are columns of `obs`, also those that were read as genes."""
    genes = [key for key in dict.fromkeys(keys) if key not in cells.obs and key in cells.var_names]
    if not genes:
        return cells
    values = {key: densify(cells.X[:, [cells.var_names.get_loc(key)]]).ravel() for key in genes}
    cells = cells[:, ~cells.var_names.isin(genes)].copy()
    for key, column in values.items():
        whole = bool(np.all(column == np.round(column)))
        cells.obs[key] = column.astype(np.int64) if whole else column
    return cells


def take_layer(adata: ad.AnnData, layer: str | None) -> ad.AnnData:
    """Return an AnnData whose X is in memory and holds the requested layer.

    Parameters
    ----------
    adata
        Cells.
    layer
        Layer to use, "X" for X. By default the first of X, count-like layers and raw that holds counts; if
        none does, counts are recovered from log-normalised values where possible. A warning reports any
        choice other than X.

    Raises
    ------
    ValueError
        If the layer does not exist.
    """
    var = adata.var
    if layer is None:
        x_name = str(adata.uns.get(X_NAME, X_LAYER))
        sources = {} if adata.X is None else {x_name: adata.X}
        sources |= {f"layers[{name!r}]": adata.layers[name] for name in count_layers(adata.layers)}
        if adata.raw is not None:
            sources["raw"] = adata.raw.X
        if not sources:
            raise no_x()
        name, values, warning = chosen(sources)
        if name == "raw":
            var = adata.raw.var
        if warning:
            warn(warning)
        elif not holds_counts(values):
            warn_of_other_counts(adata.layers)
    elif layer in adata.layers:
        values = adata.layers[layer]
    elif layer == X_LAYER:
        values = adata.X
        if values is None:
            raise no_x()
    else:
        raise no_layer(layer, list(adata.layers))
    if file_of(values) is not None:
        values = values[:]
    # the index is replaced, not the table, which belongs to the user
    var = var.set_axis(unique_index(var.index, "object", "genes"), axis=0)
    obs = adata.obs.set_axis(unique_index(adata.obs_names, "object", "cells"), axis=0)
    return ad.AnnData(X=values, obs=obs, var=var)


def from_matrix(x: Any, name: str, *, layer: str | None = None) -> ad.AnnData:
    """Return a matrix of shape (n_cells, n_genes) as an AnnData.

    Parameters
    ----------
    x
        Array, DataFrame (with cell names as index and gene names as columns), SciPy sparse matrix or array,
        or an AnnData.
    name
        Name of the argument, used in error messages.
    layer
        Layer of an AnnData, as in `take_layer`.

    Raises
    ------
    TypeError
        If `x` is of another type or does not hold real numbers.
    ValueError
        If `x` does not have two dimensions.
    """
    if isinstance(x, ad.AnnData):
        return take_layer(x, layer)
    cells = genes = None
    if isinstance(x, pd.DataFrame):
        numeric, complex_ = pd.api.types.is_numeric_dtype, pd.api.types.is_complex_dtype
        other = [str(c) for c, kind in x.dtypes.items() if not numeric(kind) or complex_(kind)]
        if other:
            raise TypeError(f"{name} must contain numbers only, got non-numeric columns: {listed(other)}.")
        cells, genes, x = x.index, x.columns, x.to_numpy(np.float64, na_value=np.nan)
    if not sp.issparse(x):
        try:
            x = np.asarray(x)
        except ValueError as error:
            raise TypeError(f"{name} must be a matrix of shape (n_cells, n_genes): {error}") from error
        if not (np.issubdtype(x.dtype, np.number) or x.dtype == bool):
            raise TypeError(
                f"{name} must be an array, a DataFrame, a sparse matrix or an AnnData of numbers, "
                f"got {type(x).__name__} of {x.dtype}."
            )
    if np.issubdtype(x.dtype, np.complexfloating):
        raise TypeError(f"{name} must contain real numbers, got {x.dtype}.")
    if x.ndim != 2:
        raise ValueError(f"{name} must have two dimensions (n_cells, n_genes), got shape {x.shape}.")
    return ad.AnnData(
        X=as_float(x),
        obs=pd.DataFrame(index=_names(cells, x.shape[0], "cell")),
        var=pd.DataFrame(index=_names(genes, x.shape[1], "gene")),
    )


def _names(given: Any, n: int, kind: str) -> pd.Index:
    if given is None:
        return pd.Index([f"{kind}{i + 1}" for i in range(n)])
    return pd.Index([str(value) for value in given])


def fingerprint(cells: ad.AnnData) -> str:
    """Return a SHA-256 of names and values, independent of how the matrix is stored.

    The hash covers the cell names and then the gene names, each followed by a line feed, and the nonzero
    values in CSR format with sorted columns: indptr (int64), indices (int64) and data (float32),
    little-endian.
    """
    x = compressed(sp.csr_matrix(as_float(cells.X), copy=True))
    digest = hashlib.sha256()
    for names in (cells.obs_names, cells.var_names):
        digest.update("".join(f"{name}\n" for name in names).encode())
    for part, kind in ((x.indptr, "<i8"), (x.indices, "<i8"), (x.data, "<f4")):
        digest.update(np.ascontiguousarray(part, dtype=kind).tobytes())
    return digest.hexdigest()
