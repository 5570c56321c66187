"""Open .h5ad and .zarr files, with matrices above a size limit left on disk."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from vaexprs.data.backed import BackedCells, BackedMatrix, file_of, stamp_of, storage_of
from vaexprs.data.count_detection import SAMPLE, X_LAYER, X_LAYER_HINT, count_layers, holds_counts, recovered
from vaexprs.data.matrix import as_float
from vaexprs.interface.errors import FileFormatError, file_errors, warn
from vaexprs.interface.validation import did_you_mean, listed
from vaexprs.io.untrusted.anndata import check_matrix, check_parts, check_sparse, text_attribute
from vaexprs.io.untrusted.hdf5 import open_hdf5
from vaexprs.io.untrusted.zarr import check_zarr

IN_MEMORY = 64 * 2**20  # maximum size in bytes of a matrix on disk that is read as a whole


def open_backed(path: str | os.PathLike[str]) -> ad.AnnData:
    """Open what `write_blocks` wrote, with X left on disk."""
    path = Path(path)
    if path.suffix == ".h5ad":
        return ad.read_h5ad(path, backed="r")
    import zarr

    store = zarr.open_group(path, mode="r")
    parts = {name: ad.io.read_elem(store[name]) for name in ("obs", "var", "uns")}
    return ad.AnnData(ad.io.sparse_dataset(store["X"]), **parts)


@dataclass(frozen=True)
class StoredCells:
    """Cells in an .h5ad or .zarr file that is open and checked; nothing is read that is not asked for.

    Parameters
    ----------
    path
        The file or folder.
    group
        Its root: the file that h5py, or the group that zarr has opened.
    """

    path: Path
    group: Any

    @cached_property
    def provenance(self) -> Any:
        """What is in ``uns["vaexprs"]``; None where there is no such entry."""
        with file_errors(self.path):
            there = "uns" in self.group and "vaexprs" in self.group["uns"]
            return ad.io.read_elem(self.group["uns"]["vaexprs"]) if there else None

    def has_column(self, key: str) -> bool:
        """Whether `obs` has a column."""
        return "obs" in self.group and key in self.group["obs"]

    def read(self) -> ad.AnnData:
        """Return all of it in memory.

        Raises
        ------
        FileFormatError
            If the matrices are not whole, or the content is malformed.
        """
        with file_errors(self.path), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            check_parts(self.group, self.path)
            if text_attribute(self.group, "encoding-type") == "anndata":
                cells: ad.AnnData = ad.io.read_elem(self.group)
            else:  # written before AnnData 0.8: its own reader knows the older layouts
                cells = ad.read_h5ad(self.path) if self.path.suffix == ".h5ad" else ad.read_zarr(self.path)
            check_sparse(cells)
        return cells

    def close(self) -> None:
        """Close the file."""
        if self.path.suffix == ".h5ad":
            self.group.close()


def open_store(path: Path) -> StoredCells:
    """Open an ``.h5ad`` or ``.zarr`` file and check it.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    FileFormatError
        If the file is damaged, or is not what it declares.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    with file_errors(path):
        if path.suffix == ".h5ad":
            return StoredCells(path, open_hdf5(path))
        import zarr

        group = zarr.open_group(path, mode="r")
        check_zarr(group, path)
        return StoredCells(path, group)


def read_store(path: Path) -> ad.AnnData:
    """Read an ``.h5ad`` or ``.zarr`` file."""
    store = open_store(path)
    try:
        return store.read()
    finally:
        store.close()


def back_layer(
    cells: ad.AnnData | StoredCells, *, layer: str | None, keys: Sequence[str]
) -> BackedCells | None:
    """Return cells with their matrix left on disk, or None where it is in memory or small enough to be read.

    Parameters
    ----------
    cells
        An open file, or an AnnData whose X is on disk, or a view of one.
    layer
        Layer with the values, "X" for X. By default the first of X, count-like layers and raw that holds
        counts.
    keys
        Columns of `obs` to read.

    Raises
    ------
    FileFormatError
        If the file cannot be read, has no such layer, or stores its matrix by genes.
    """
    if isinstance(cells, StoredCells):
        return _back_stored(cells, layer, keys)
    if layer not in (None, X_LAYER):
        return None
    whole = cells._adata_ref if cells.is_view else cells
    source = whole.X
    if source is None or isinstance(source, np.ndarray) or sp.issparse(source):
        return None
    file = file_of(source)
    matrix = None if file is None else _backed_matrix(source, file)
    if matrix is None:
        return None
    if layer is None and not holds_counts(source):
        others = [whole.layers[name] for name in count_layers(whole.layers)]
        if any(map(holds_counts, others if whole.raw is None else [*others, whole.raw.X])):
            return None  # those are in memory or small: `load_layer` takes them
        _warn_of_logarithms(source)
    obs, names = cells.obs, cells.var_names
    if cells.is_view:
        rows, genes = (np.arange(n)[i] for n, i in zip(source.shape, (cells._oidx, cells._vidx), strict=True))
        order = np.argsort(rows, kind="stable")
        matrix, obs = matrix.keep(rows[order]), obs.iloc[order]
        if len(genes) < matrix.shape[1] or (np.diff(genes) != 1).any():
            matrix = matrix.mapped(genes, None)
    known = list(keys) if set(keys) <= set(obs) else list(obs)
    return BackedCells(matrix, obs[known].reset_index(drop=True), names, obs.index)


def _back_stored(cells: StoredCells, layer: str | None, keys: Sequence[str]) -> BackedCells | None:
    path, group = cells.path, cells.group
    with file_errors(path):
        layers = list(group["layers"]) if "layers" in group else []
        places = _places(group, layers) if layer is None else {}
    if layer == X_LAYER not in layers:
        places = {X_LAYER: "X"} if "X" in group else {}
    elif layer is not None:
        if layer not in layers:
            raise no_layer(layer, layers)
        places = {layer: f"layers/{layer}"}
    if not places:
        raise no_x()
    with file_errors(path):
        sources = {
            name: source for name, at in places.items() if (source := _matrix_in(group[at])) is not None
        }
        name = next(
            (name for name in sources if len(places) > 1 and holds_counts(sources[name])), next(iter(places))
        )
        source = sources.get(name)
        matrix = None if source is None else _backed_matrix(source, path)
        if matrix is not None and layer is None:
            if name != next(iter(places)):
                warn(f"X holds no counts; those in {name} are used. {X_LAYER_HINT}")
            elif not holds_counts(source):
                _warn_of_logarithms(source)
        if matrix is None:
            return None
        rows, columns = matrix.shape
        obs, names = _columns_in(group["obs"], keys), _names_in(group["raw/var" if name == "raw" else "var"])
        if len(obs) != rows or len(names) != columns:
            raise IndexError(
                f"its matrix is of {rows:,} cells x {columns:,} genes, but there are names of {len(obs):,} "
                f"cells and {len(names):,} genes."
            )
        return BackedCells(matrix, obs, names, group["obs"][group["obs"].attrs["_index"]])


def _places(group: Any, layers: Sequence[str]) -> dict[str, str]:
    """Return where counts may be in a file, by what the places are called."""
    places = {X_LAYER: "X"} if "X" in group else {}
    places |= {f"layers[{name!r}]": f"layers/{name}" for name in count_layers(layers)}
    return places | ({"raw": "raw/X"} if "raw" in group and "X" in group["raw"] else {})


def _warn_of_logarithms(source: Any) -> None:
    """Warn where a matrix that is left on disk holds logarithms that counts could be recovered from."""
    if getattr(source, "format", "") != "csc" and recovered(as_float(source[:SAMPLE])) is not None:
        warn(
            "X holds logarithms of normalised counts and is left on disk, where they are taken as they are. "
            "To have the counts recovered read it into memory: read(path) instead of the path."
        )


def _matrix_in(part: Any) -> Any:
    """Return a matrix on disk; None where its form is left to AnnData's reader, with its messages."""
    kind = text_attribute(part, "encoding-type")
    if kind in ("csr_matrix", "csc_matrix"):
        return ad.io.sparse_dataset(part)
    return part if kind == "array" else None


def _backed_matrix(source: Any, path: Path) -> BackedMatrix | None:
    matrix = BackedMatrix(source, path, stamp_of(path, storage_of(source).name))
    if matrix.nbytes <= IN_MEMORY:
        return None
    if getattr(source, "format", "csr") != "csr":
        raise FileFormatError(
            f"{str(path)!r} holds its matrix by genes (CSC), and cells cannot be read from that one after "
            "the other. Write it by cells: adata.X = scipy.sparse.csr_matrix(adata.X)."
        )
    check_matrix(storage_of(source), path)
    return matrix


def _columns_in(group: Any, keys: Sequence[str]) -> pd.DataFrame:
    """Return columns of a data frame on disk, rows numbered; where one is missing all, for the message."""
    if text_attribute(group, "encoding-version") != "0.2.0":  # levels were kept elsewhere
        return ad.io.read_elem(group).reset_index(drop=True)
    known = list(group.attrs["column-order"])
    columns = {key: ad.io.read_elem(group[key]) for key in (keys if set(keys) <= set(known) else known)}
    index = group[group.attrs["_index"]]
    n = int(index.shape[0]) if hasattr(index, "shape") else len(ad.io.read_elem(index))
    for key, values in columns.items():
        if len(values) != n:
            raise IndexError(f"obs has {n:,} cells, but values of {key!r} for {len(values):,}.")
    return pd.DataFrame({key: pd.Series(values) for key, values in columns.items()}, index=pd.RangeIndex(n))


def _names_in(group: Any) -> pd.Index:
    return pd.Index(np.asarray(ad.io.read_elem(group[group.attrs["_index"]]), dtype=object).astype(str))


def no_layer(layer: str, known: Sequence[str]) -> ValueError:
    """Return the error for a layer that is not there."""
    return ValueError(
        f"layer must be one of {listed(known) or 'none: there are no layers'}, got {layer!r}."
        f"{did_you_mean(layer, known)}"
    )


def no_x() -> ValueError:
    """Return the error where there is no X."""
    return ValueError("The AnnData has no X. Name the layer with the counts: layer='counts'.")
