"""Open .h5ad and .zarr files, leaving matrices above a size limit on disk."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from vaexprs.data.backed import BackedCells, BackedMatrix, file_of, stamp_of, storage_of
from vaexprs.data.count_detection import (
    SAMPLE,
    X_LAYER,
    X_LAYER_HINT,
    count_layers,
    holds_counts,
    other_counts,
    recovered,
)
from vaexprs.data.matrix import as_float
from vaexprs.interface.errors import FileFormatError, file_errors, warn
from vaexprs.interface.validation import did_you_mean, listed
from vaexprs.io.names import unique_index
from vaexprs.io.untrusted.anndata import check_matrix, check_parts, check_sparse, text_attribute
from vaexprs.io.untrusted.hdf5 import open_hdf5
from vaexprs.io.untrusted.zarr import check_zarr

IN_MEMORY = 64 * 2**20  # maximum size in bytes of a stored matrix that is read into memory


def open_backed(path: str | os.PathLike[str]) -> ad.AnnData:
    """Open a file written by `write_blocks`, leaving X on disk."""
    path = Path(path)
    if path.suffix == ".h5ad":
        return ad.read_h5ad(path, backed="r")
    import zarr

    store = zarr.open_group(path, mode="r")
    parts = {name: ad.io.read_elem(store[name]) for name in ("obs", "var", "uns")}
    return ad.AnnData(ad.io.sparse_dataset(store["X"]), **parts)


@dataclass(frozen=True)
class StoredCells:
    """Cells in an opened and validated .h5ad or .zarr file; parts are read on request.

    Parameters
    ----------
    path
        File or folder.
    group
        Root group, as opened by h5py or zarr.
    """

    path: Path
    group: Any

    @cached_property
    def provenance(self) -> Any:
        """Content of ``uns["vaexprs"]``, or None if there is no such entry."""
        with file_errors(self.path):
            exists = "uns" in self.group and "vaexprs" in self.group["uns"]
            return ad.io.read_elem(self.group["uns"]["vaexprs"]) if exists else None

    def has_column(self, key: str) -> bool:
        """Return whether `obs` has a column."""
        return "obs" in self.group and key in self.group["obs"]

    def read(self) -> ad.AnnData:
        """Return all content in memory.

        Raises
        ------
        FileFormatError
            If a matrix is incomplete, or the content is malformed.
        """
        with file_errors(self.path), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            check_parts(self.group, self.path)
            if text_attribute(self.group, "encoding-type") == "anndata":
                cells: ad.AnnData = ad.io.read_elem(self.group)
            else:  # written before AnnData 0.8: AnnData's file readers support the older layouts
                cells = ad.read_h5ad(self.path) if self.path.suffix == ".h5ad" else ad.read_zarr(self.path)
            check_sparse(cells)
        return cells

    def close(self) -> None:
        """Close the file."""
        if self.path.suffix == ".h5ad":
            self.group.close()


def is_store(path: Path) -> bool:
    """Return whether a folder is a Zarr group, whatever its suffix."""
    return path.is_dir() and any((path / name).is_file() for name in (".zgroup", "zarr.json"))


def open_store(path: Path) -> StoredCells:
    """Open an ``.h5ad`` or ``.zarr`` file and check it.

    Raises
    ------
    FileNotFoundError
        If `path` does not exist.
    FileFormatError
        If the file is damaged, or does not match its declared sizes.
    """
    if not path.exists():
        raise FileNotFoundError(f"The file {str(path)!r} does not exist.")
    with file_errors(path):
        if path.suffix == ".h5ad":
            return StoredCells(path, open_hdf5(path))
        import zarr

        group = zarr.open_group(path, mode="r")
        _check_is_cells(group, path)
        check_zarr(group, path)
        return StoredCells(path, group)


def _check_is_cells(group: Any, path: Path) -> None:
    """Check that a Zarr store is not a SpatialData or MuData object, which hold AnnData objects.

    Raises
    ------
    FileFormatError
        If it is; the message names the paths of the AnnData objects.
    """
    if "obs" in group and "var" in group and "mod" not in group:
        return
    for kind, parts in {"SpatialData": ("tables", "table"), "MuData": ("mod",)}.items():
        for part in parts:
            names = sorted(group[part].group_keys()) if part in group else []
            inside = [name for name in names if "var" in group[f"{part}/{name}"]]
            if inside:
                given = str(path / part / inside[0])
                others = f" It holds {listed([f'{part}/{name}' for name in inside])}." if inside[1:] else ""
                raise FileFormatError(
                    f"{str(path)!r} is a {kind} store. Give the table in it: {given!r}.{others}"
                )


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
    """Return cells with the matrix left on disk, or None if it is in memory or small enough to be read.

    Parameters
    ----------
    cells
        Opened file, or an AnnData whose X is on disk, or a view of one.
    layer
        Layer with the values, "X" for X. By default the first of X, count-like layers and raw that holds
        counts.
    keys
        Columns of `obs` to read.

    Raises
    ------
    ValueError
        If the layer does not exist.
    FileFormatError
        If the file cannot be read, or stores its matrix by genes (CSC).
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
            return None  # they are in memory or small: `load_layer` uses them
        _warn_if_log_normalised(source)
        warn_of_other_counts(whole.layers)
    obs, names = cells.obs, unique_index(cells.var_names, "object", "genes")
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
        candidates = _count_candidates(group, layers) if layer is None else {}
    if layer == X_LAYER not in layers:
        candidates = {X_LAYER: "X"} if "X" in group else {}
    elif layer is not None:
        if layer not in layers:
            raise no_layer(layer, layers)
        candidates = {layer: f"layers/{layer}"}
    if not candidates:
        raise no_x()
    with file_errors(path):
        sources = {
            name: source for name, at in candidates.items() if (source := _matrix_in(group[at])) is not None
        }
        name = next(
            (name for name in sources if len(candidates) > 1 and holds_counts(sources[name])),
            next(iter(candidates)),
        )
        source = sources.get(name)
        matrix = None if source is None else _backed_matrix(source, path)
        if matrix is not None and layer is None:
            if name != next(iter(candidates)):
                warn(f"X contains no counts; the counts in {name} are used. {X_LAYER_HINT}")
            elif not holds_counts(source):
                _warn_if_log_normalised(source)
                others = {key: _matrix_in(group[f"layers/{key}"]) for key in layers}
                warn_of_other_counts({key: x for key, x in others.items() if x is not None})
        if matrix is None:
            return None
        rows, columns = matrix.shape
        obs, names = _columns_in(group["obs"], keys), _names_in(group["raw/var" if name == "raw" else "var"])
        if len(obs) != rows or len(names) != columns:
            raise IndexError(
                f"the matrix has {rows:,} cells x {columns:,} genes, but there are names for {len(obs):,} "
                f"cells and {len(names):,} genes."
            )
        names = unique_index(names, repr(path.name), "genes")
        return BackedCells(matrix, obs, names, group["obs"][group["obs"].attrs["_index"]])


def _count_candidates(group: Any, layers: Sequence[str]) -> dict[str, str]:
    """Return the paths in a file of matrices that may hold counts, by display name."""
    candidates = {X_LAYER: "X"} if "X" in group else {}
    candidates |= {f"layers[{name!r}]": f"layers/{name}" for name in count_layers(layers)}
    return candidates | ({"raw": "raw/X"} if "raw" in group and "X" in group["raw"] else {})


def _warn_if_log_normalised(source: Any) -> None:
    """Warn if a matrix left on disk holds log-normalised values from which counts could be recovered."""
    if getattr(source, "format", "") != "csc" and recovered(as_float(source[:SAMPLE])) is not None:
        warn(
            "X contains logarithms of normalised counts and is used unchanged because it is left on disk. "
            "To recover the counts, read it into memory: pass read(path) instead of the path."
        )


def warn_of_other_counts(layers: Mapping[str, Any]) -> None:
    """Warn if X is used although it holds no counts, and layers of other names than the usual do."""
    names = other_counts(layers)
    if names:
        one = f"layers[{names[0]!r}] holds" if len(names) == 1 else f"the layers {listed(names)} hold"
        warn(
            f"X contains no counts and is used, but {one} whole counts. To use them, pass "
            f"layer={names[0]!r} (--layer {names[0]})."
        )


def _matrix_in(part: Any) -> Any:
    """Return a matrix on disk, or None for encodings that are left to AnnData's reader."""
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
            f"{str(path)!r} stores its matrix by genes (CSC), which cannot be read cell by cell. Write it as "
            "CSR: adata.X = scipy.sparse.csr_matrix(adata.X)."
        )
    check_matrix(storage_of(source), path)
    return matrix


def _columns_in(group: Any, keys: Sequence[str]) -> pd.DataFrame:
    """Return columns of a stored data frame with numbered rows.

    If a key is missing, all columns are returned, so that the error message can list them.
    """
    if text_attribute(group, "encoding-version") != "0.2.0":  # stored the categories elsewhere
        return ad.io.read_elem(group).reset_index(drop=True)
    known = list(group.attrs["column-order"])
    columns = {key: ad.io.read_elem(group[key]) for key in (keys if set(keys) <= set(known) else known)}
    index = group[group.attrs["_index"]]
    n = int(index.shape[0]) if hasattr(index, "shape") else len(ad.io.read_elem(index))
    for key, values in columns.items():
        if len(values) != n:
            raise IndexError(f"obs has {n:,} cells, but column {key!r} has {len(values):,} values.")
    return pd.DataFrame({key: pd.Series(values) for key, values in columns.items()}, index=pd.RangeIndex(n))


def _names_in(group: Any) -> pd.Index:
    return pd.Index(np.asarray(ad.io.read_elem(group[group.attrs["_index"]]), dtype=object).astype(str))


def no_layer(layer: str, known: Sequence[str]) -> ValueError:
    """Return the error for a layer that does not exist."""
    allowed = f"one of {listed(known)}" if known else "omitted, because there are no layers"
    return ValueError(f"layer must be {allowed}, got {layer!r}.{did_you_mean(layer, known)}")


def no_x() -> ValueError:
    """Return the error for cells without X."""
    return ValueError("The AnnData has no X. Pass the layer with the counts, for example layer='counts'.")
