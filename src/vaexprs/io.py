"""Any accepted input becomes an AnnData."""

from __future__ import annotations

import hashlib
import os
import warnings
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from vaexprs._checks import did_you_mean, some, warn
from vaexprs.matrices import as_float, stored
from vaexprs.ondisk import check_readable, check_store, damage_told, file_of, no_layer, no_x


def read(path: str | os.PathLike[str]) -> ad.AnnData:
    """Read cells from an ``.h5ad`` or ``.zarr`` file.

    Parameters
    ----------
    path
        The file (``.h5ad``) or folder (``.zarr``).

    Returns
    -------
    AnnData of shape (n_cells, n_genes).

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    ValueError
        If the format is not one of the two or the content cannot be read.
    """
    path = check_readable(path)
    with damage_told(path), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        check_store(path)
        return ad.read_h5ad(path) if path.suffix == ".h5ad" else ad.read_zarr(path)


def from_object(obj: Any, *, layer: str | None = None) -> ad.AnnData:
    """Return an AnnData whose X is the asked-for layer of an AnnData or a BiocPy experiment.

    Parameters
    ----------
    obj
        AnnData of shape (n_cells, n_genes), or a BiocPy ``SummarizedExperiment`` or
        ``SingleCellExperiment`` of shape (n_genes, n_cells).
    layer
        The layer (AnnData) or assay (BiocPy) to take. By default X, or the first assay.

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
    raise TypeError(
        "object must be an AnnData, a SummarizedExperiment, a SingleCellExperiment or a path, "
        f"got {type(obj).__name__}. Give a matrix of shape (n_cells, n_genes) as x_train."
    )


def _take_layer(adata: ad.AnnData, layer: str | None) -> ad.AnnData:
    if layer is not None and layer not in adata.layers:
        raise no_layer(layer, list(adata.layers))
    values = adata.X if layer is None else adata.layers[layer]
    if values is None:
        raise no_x()
    if layer is None and "counts" in adata.layers and not _whole(values) and _whole(adata.layers["counts"]):
        warn(
            "X holds fractions while layers['counts'] holds counts; X is used. "
            "For counts pass layer='counts'."
        )
    if file_of(values) is not None:
        values = values[:]
    return ad.AnnData(X=values, obs=adata.obs, var=adata.var)


def _from_biocpy(experiment: Any, layer: str | None) -> ad.AnnData:
    names = list(experiment.get_assay_names())
    if not names:
        raise ValueError("The experiment has no assay.")
    if layer is not None and layer not in names:
        raise ValueError(f"layer must be one of {some(names)}, got {layer!r}.{did_you_mean(layer, names)}")
    # not its to_anndata(): that needs a further package, and takes every assay along
    values = experiment.assay(layer or names[0])
    values = values.T if sp.issparse(values) else np.asarray(values).T
    obs = experiment.get_column_data().to_pandas()
    cells, genes = experiment.get_column_names(), experiment.get_row_names()
    return ad.AnnData(
        X=as_float(values),
        obs=obs.set_axis(_names(cells, values.shape[0], "cell"), axis=0),
        var=pd.DataFrame(index=_names(genes, values.shape[1], "gene")),
    )


def from_matrix(x: Any, name: str) -> ad.AnnData:
    """Return an AnnData of a matrix of shape (n_cells, n_genes).

    Parameters
    ----------
    x
        Array, DataFrame (its index and columns name cells and genes), SciPy sparse matrix or array,
        or an AnnData.
    name
        The argument's name, for the message.

    Raises
    ------
    TypeError
        If `x` is none of these.
    ValueError
        If it has not two dimensions.
    """
    if isinstance(x, ad.AnnData):
        return _take_layer(x, None)
    cells = genes = None
    if isinstance(x, pd.DataFrame):
        numeric, complex_ = pd.api.types.is_numeric_dtype, pd.api.types.is_complex_dtype
        other = [str(c) for c, kind in x.dtypes.items() if not numeric(kind) or complex_(kind)]
        if other:
            raise TypeError(f"{name} must hold numbers only, got other columns: {some(other)}.")
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


def _whole(x: Any) -> bool:
    """Whether the first values stored in `x` are whole numbers."""
    values = stored(x[:200])[:100_000]
    return bool(np.all(values == np.round(values)))
