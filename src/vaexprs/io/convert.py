"""Convert DataFrames, arrays and BiocPy experiments to AnnData."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from vaexprs.data.backed import file_of
from vaexprs.data.count_detection import X_LAYER, chosen, count_layers
from vaexprs.data.matrix import as_float
from vaexprs.interface.errors import warn
from vaexprs.interface.validation import did_you_mean, listed
from vaexprs.io.read import read
from vaexprs.io.stores import no_layer, no_x


def from_object(
    obj: Any, *, layer: str | None = None, name: str = "object", matrix: str = "anndata.AnnData(matrix)"
) -> ad.AnnData:
    """Return an AnnData whose X is the asked-for layer of an AnnData or a BiocPy experiment.

    Parameters
    ----------
    obj
        AnnData of shape (n_cells, n_genes), a BiocPy ``SummarizedExperiment`` or ``SingleCellExperiment`` of
        shape (n_genes, n_cells), a DataFrame with cells in rows, of which columns without numbers are
        columns of `obs`, or a path.
    layer
        The layer (AnnData) or assay (BiocPy) to take, "X" for X. By default what holds counts of X (or the
        first assay), layers with a name that says so, and raw; counts are recovered from their logarithms
        where there are no others. A warning says so where it is not X.
    name
        Of the argument, for the message.
    matrix
        How a matrix is given where that argument is `object`.

    Raises
    ------
    TypeError
        If `obj` is neither.
    ValueError
        If there is no such layer.
    """
    if isinstance(obj, (str, os.PathLike)):
        obj = read(obj)
    if isinstance(obj, ad.AnnData):
        return _take_layer(obj, layer)
    if hasattr(obj, "get_assay_names") and hasattr(obj, "get_column_data"):
        return _from_biocpy(obj, layer)
    if isinstance(obj, pd.DataFrame):
        text = [key for key, kind in obj.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]
        found = from_matrix(obj.drop(columns=text), name)
        for key in text:
            found.obs[str(key)] = obj[key].array
        return found
    hint = f" Give a matrix of shape (n_cells, n_genes) as {matrix}." if name == "object" else ""
    raise TypeError(
        f"{name} must be an AnnData, a SummarizedExperiment, a SingleCellExperiment, a DataFrame or a path, "
        f"got {type(obj).__name__}.{hint}"
    )


def _take_layer(adata: ad.AnnData, layer: str | None) -> ad.AnnData:
    var = adata.var
    if layer is None:
        sources = {} if adata.X is None else {X_LAYER: adata.X}
        sources |= {f"layers[{name!r}]": adata.layers[name] for name in count_layers(adata.layers)}
        if adata.raw is not None:
            sources["raw"] = adata.raw.X
        if not sources:
            raise no_x()
        name, values, told = chosen(sources)
        if name == "raw":
            var = adata.raw.var
        if told:
            warn(told)
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
    return ad.AnnData(X=values, obs=adata.obs, var=var)


def _from_biocpy(experiment: Any, layer: str | None) -> ad.AnnData:
    names = list(experiment.get_assay_names())
    if not names:
        raise ValueError("The experiment has no assay.")
    if layer == X_LAYER not in names:
        layer = names[0]
    if layer is not None and layer not in names:
        raise ValueError(f"layer must be one of {listed(names)}, got {layer!r}.{did_you_mean(layer, names)}")

    def values_of(name: str) -> Any:
        # not its to_anndata(): that needs a further package, and takes every assay along
        assay = experiment.assay(name)
        return as_float(assay.T if sp.issparse(assay) else np.asarray(assay).T)

    if layer is not None:
        values = values_of(layer)
    else:
        _, values, told = chosen(
            {name: values_of(name) for name in dict.fromkeys((names[0], *count_layers(names)))}
        )
        if told:
            warn(told)
    obs = experiment.get_column_data().to_pandas()
    cells, genes = experiment.get_column_names(), experiment.get_row_names()
    return ad.AnnData(
        X=values,
        obs=obs.set_axis(_names(cells, values.shape[0], "cell"), axis=0),
        var=pd.DataFrame(index=_names(genes, values.shape[1], "gene")),
    )


def from_matrix(x: Any, name: str, *, layer: str | None = None) -> ad.AnnData:
    """Return an AnnData of a matrix of shape (n_cells, n_genes).

    Parameters
    ----------
    x
        Array, DataFrame (its index and columns name cells and genes), SciPy sparse matrix or array,
        or an AnnData.
    name
        The argument's name, for the message.
    layer
        The layer of an AnnData, as in `from_object`.

    Raises
    ------
    TypeError
        If `x` is none of these.
    ValueError
        If it has not two dimensions.
    """
    if isinstance(x, ad.AnnData):
        return _take_layer(x, layer)
    cells = genes = None
    if isinstance(x, pd.DataFrame):
        numeric, complex_ = pd.api.types.is_numeric_dtype, pd.api.types.is_complex_dtype
        other = [str(c) for c, kind in x.dtypes.items() if not numeric(kind) or complex_(kind)]
        if other:
            raise TypeError(f"{name} must hold numbers only, got other columns: {listed(other)}.")
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
        raise TypeError(f"{name} must hold real numbers, got {x.dtype}.")
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
    """Return the SHA-256 of cells: the same however the matrix is stored.

    It is taken over the names of the cells, each with a line feed, those of the genes likewise, and the
    values that are not 0, row by row in the order of the genes: the number of them up to each row (int64),
    their columns (int64) and the values (float32), little-endian.
    """
    x = sp.csr_matrix(as_float(cells.X), copy=True)
    x.sum_duplicates()
    x.eliminate_zeros()
    digest = hashlib.sha256()
    for names in (cells.obs_names, cells.var_names):
        digest.update("".join(f"{name}\n" for name in names).encode())
    for part, kind in ((x.indptr, "<i8"), (x.indices, "<i8"), (x.data, "<f4")):
        digest.update(np.ascontiguousarray(part, dtype=kind).tobytes())
    return digest.hexdigest()
