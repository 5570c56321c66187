"""Any accepted input becomes an AnnData."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from vaexprs._checks import check_file, check_path, did_you_mean, require, some, suffix_of, warn
from vaexprs.counts import AS_IT_IS, chosen, count_names
from vaexprs.matrices import as_float
from vaexprs.ondisk import (
    STORES,
    Told,
    check_hdf5,
    check_parts,
    check_sparse,
    check_store,
    damage_told,
    file_of,
    no_layer,
    no_x,
)
from vaexprs.rds import read_rds
from vaexprs.tables import read_obs, read_table, with_obs
from vaexprs.tenx import is_folder, read_folder, read_h5


def read(
    path: str | os.PathLike[str],
    *,
    transpose: bool | None = None,
    obs: str | os.PathLike[str] | None = None,
) -> ad.AnnData:
    """Read cells from a file or folder of any of the formats that they come in.

    Parameters
    ----------
    path
        By its suffix:

        * ``.h5ad``, ``.zarr``: all of it;
        * ``.h5mu``: its modality ``rna``;
        * ``.h5``: of CellRanger, version 2 or later;
        * a folder with ``matrix.mtx``, ``features.tsv`` (or ``genes.tsv``) and ``barcodes.tsv``, or that
          matrix; each file may be ``.gz``. Genes are named by their symbols, made unique;
        * ``.loom``: needs ``pip install "vaexprs[loom]"``;
        * ``.csv``, ``.tsv``, ``.txt``, ``.gct`` (version 1.2), also with ``.gz``: names in the first row and
          the first column. Columns of text become columns of `obs`, and so does a file beside,
          ``cells.obs.csv`` for ``cells.csv``. Of featureCounts, what it says of genes is kept in `var`; sums
          of reads that are of no gene, which htseq-count and STAR write, are left out with a warning;
        * ``.rds``: a ``SummarizedExperiment`` or ``SingleCellExperiment``, a Seurat object or a matrix; needs
          ``pip install "vaexprs[r]"``, but no R. No code in it is run.
    transpose
        Of tables, and matrices in ``.rds``: whether the genes are in the rows. By default that is told by
        `obs`, or by the names and the shape, with a warning that says so.
    obs
        A table (.csv, .tsv) with columns of the cells, such as their types; its first column names them, in
        any order, and it may name more.

    Returns
    -------
    AnnData of shape (n_cells, n_genes).

    Raises
    ------
    TypeError
        If `path` is something else.
    FileNotFoundError
        If there is nothing at `path`.
    ValueError
        If the format is none of these, or the content cannot be read.
    ImportError
        If a format needs a package that is not installed.
    """
    path = check_readable(path)
    suffix = suffix_of(path) if path.is_file() else path.suffix if path.suffix in STORES else FOLDER
    turned = TURNED.get(suffix)
    if transpose is not None and turned is None:
        raise ValueError(
            f"transpose is for tables (.csv, .tsv, .txt, .gct) and matrices in .rds; {path.name!r} says "
            "itself what its cells are. Leave it out."
        )
    beside = path if obs is None else check_file(obs)
    with damage_told(beside):
        columns = None if obs is None else read_obs(beside)
    with damage_told(path):
        cells = READERS[suffix](path) if turned is None else turned(path, transpose, columns)
        check_sparse(cells)
    with damage_told(beside):
        return with_obs(cells, columns, beside)


def _read_store(path: Path) -> ad.AnnData:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        check_store(path)
        return ad.read_h5ad(path) if path.suffix == ".h5ad" else ad.read_zarr(path)


def _read_loom(path: Path) -> ad.AnnData:
    require("loompy", "'vaexprs[loom]'", "Reading .loom files")
    check_hdf5(path, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ad.io.read_loom(path, X_name="")


def _read_h5mu(path: Path) -> ad.AnnData:
    """Read the modality of a MuData file that has the genes."""
    import h5py

    check_hdf5(path, path)
    with h5py.File(path, "r") as file:
        parts = list(file["mod"]) if "mod" in file else []
        name = next((each for each in RNA if each in parts), parts[0] if len(parts) == 1 else None)
        if name is None:
            raise Told(f"{str(path)!r} must have a modality 'rna', got {some(parts) or 'none'}.")
        check_parts(file["mod"][name], path)
        cells: ad.AnnData = ad.io.read_elem(file["mod"][name])
        obs = ad.io.read_elem(file["obs"]) if "obs" in file else pd.DataFrame()
    shared = [key for key in obs if key not in cells.obs and not str(key).startswith(f"{name}:")]
    if shared and cells.obs_names.isin(obs.index).all():
        cells.obs = cells.obs.join(obs[shared])
    return cells


FOLDER = "a folder with matrix.mtx"
RNA = ("rna", "RNA", "gex", "GEX", "Gene Expression")  # what the modality with the genes is called
READERS: dict[str, Callable[[Path], ad.AnnData]] = {
    ".h5ad": _read_store,
    ".zarr": _read_store,
    ".h5mu": _read_h5mu,
    ".h5": read_h5,
    ".loom": _read_loom,
    ".mtx": read_folder,
    ".mtx.gz": read_folder,
    FOLDER: read_folder,
}
# of those that do not say which side the genes are on
TURNED: dict[str, Callable[[Path, bool | None, pd.DataFrame | None], ad.AnnData]] = {
    ".csv": read_table,
    ".csv.gz": read_table,
    ".tsv": read_table,
    ".tsv.gz": read_table,
    ".txt": read_table,
    ".txt.gz": read_table,
    ".gct": read_table,
    ".gct.gz": read_table,
    ".rds": read_rds,
}


def check_readable(path: str | os.PathLike[str]) -> Path:
    """Return `path` if there is a file or folder that may be read.

    Raises
    ------
    FileNotFoundError
        If there is nothing.
    ValueError
        If its format is none that can be read.
    """
    path = check_path(path)
    if not path.exists() and not path.suffix:
        raise FileNotFoundError(f"There is no file or folder {str(path)!r}.")
    known = suffix_of(path) in (*READERS, *TURNED) or is_folder(path)
    if not known:
        raise ValueError(f"The file must be one of {', '.join((*READERS, *TURNED))}, got {path.name!r}.")
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    if path.is_dir() and path.suffix != ".zarr" and not is_folder(path):
        raise ValueError(
            f"{str(path)!r} is a folder without matrix.mtx; name the file in it that has the cells."
        )
    return path


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
        sources = {} if adata.X is None else {AS_IT_IS: adata.X}
        sources |= {f"layers[{name!r}]": adata.layers[name] for name in count_names(adata.layers)}
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
    elif layer == AS_IT_IS:
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
    if layer == AS_IT_IS not in names:
        layer = names[0]
    if layer is not None and layer not in names:
        raise ValueError(f"layer must be one of {some(names)}, got {layer!r}.{did_you_mean(layer, names)}")

    def values_of(name: str) -> Any:
        # not its to_anndata(): that needs a further package, and takes every assay along
        assay = experiment.assay(name)
        return as_float(assay.T if sp.issparse(assay) else np.asarray(assay).T)

    if layer is not None:
        values = values_of(layer)
    else:
        _, values, told = chosen(
            {name: values_of(name) for name in dict.fromkeys((names[0], *count_names(names)))}
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
