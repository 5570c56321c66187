"""Matrices and cells on disk, read row by row on request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from vaexprs.data.matrix import Matrix, as_float, stacked
from vaexprs.interface.errors import FileFormatError, reason

NAMES_AT_ONCE = 16_384  # cell names that are read at once
BLOCK_BYTES = 16 * 2**20  # maximum size of a block of rows that is read at once
GAP_BYTES = 256 * 2**10  # maximum gap between requested rows that is read through


def in_memory(adata: ad.AnnData) -> ad.AnnData:
    """Return an AnnData with X in memory; loads X if it is on disk."""
    return adata if adata.X is None or file_of(adata.X) is None else adata.to_memory()


@dataclass(frozen=True)
class BackedMatrix:
    """Matrix on disk, whose rows are read on request as float32.

    Parameters
    ----------
    source
        AnnData's CSR dataset, or an array of HDF5 or Zarr, (n_stored_cells, n_stored_genes).
    path
        Path of the file or folder.
    stamp
        Return value of `stamp_of` when the file was opened.
    kept
        Sorted indices of the selected rows, (n_cells,); None for all.
    columns
        Indices of the selected columns in order, (n_genes,); None for all.
    forward
        Function applied to each block of values after selection; None for no change.
    """

    source: Any
    path: Path
    stamp: tuple[int, ...]
    kept: np.ndarray | None = None
    columns: np.ndarray | None = None
    forward: Callable[[Matrix], Matrix] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cells and number of genes."""
        rows, columns = self.source.shape
        return (
            int(rows) if self.kept is None else len(self.kept),
            int(columns) if self.columns is None else len(self.columns),
        )

    @property
    def nbytes(self) -> int:
        """Size in bytes that all stored rows would have in memory, as CSR or dense."""
        rows, columns = self.source.shape
        if _is_sparse(self.source):
            return 8 * int(self.source.group["data"].shape[0])
        return 4 * int(rows) * int(columns)

    def rows_in(self, size: float) -> int:
        """Return the number of rows that fit in `size` bytes of memory, at least one."""
        return max(1, int(size / max(1, self.nbytes / max(1, self.source.shape[0]))))

    def __getitem__(self, rows: slice) -> Matrix:
        first, stop, _ = rows.indices(self.shape[0])
        if self.kept is not None:
            return self._prepared(self._read_rows(self.kept[first:stop]))
        return self._prepared(self._read(first, max(first, stop)))

    def take(self, rows: np.ndarray) -> Matrix:
        """Return the rows with the given sorted indices in memory."""
        return self._prepared(self._read_rows(rows if self.kept is None else self.kept[rows]))

    def keep(self, rows: np.ndarray) -> BackedMatrix:
        """Return a matrix on disk restricted to the rows with the given sorted indices."""
        return replace(self, kept=rows if self.kept is None else self.kept[rows])

    def mapped(self, columns: np.ndarray | None, forward: Callable[[Matrix], Matrix] | None) -> BackedMatrix:
        """Return a matrix on disk with selected columns and with `forward` applied to its values."""
        if columns is None:
            columns = self.columns
        elif self.columns is not None:
            columns = self.columns[columns]
        return replace(self, columns=columns, forward=forward)

    def _prepared(self, block: Matrix) -> Matrix:
        if self.columns is not None:
            block = block[:, self.columns]
        return block if self.forward is None else self.forward(block)

    def _read_rows(self, rows: np.ndarray) -> Matrix:
        """Return stored rows with the given sorted indices."""
        parts = [self._read(int(run[0]), int(run[-1]) + 1)[run - run[0]] for run in self._runs(rows)]
        return stacked(parts) if parts else self._read(0, 0)

    def _runs(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Split sorted row indices at large gaps and at the maximum block size."""
        if not len(rows):
            return
        max_gap, max_rows = self.rows_in(GAP_BYTES), self.rows_in(BLOCK_BYTES)
        for part in np.split(rows, np.flatnonzero(np.diff(rows) > max_gap) + 1):
            cuts = np.arange(part[0] + max_rows, part[-1] + 1, max_rows)
            yield from (run for run in np.split(part, np.searchsorted(part, cuts)) if len(run))

    def _read(self, first: int, stop: int) -> Matrix:
        try:
            block = as_float(self.source[first:stop])
            if (
                sp.issparse(block)
                and block.nnz
                and not 0 <= block.indices.min() <= block.indices.max() < block.shape[1]
            ):
                raise IndexError("column indices exceed the number of genes.")
        except Exception as error:  # h5py, zarr and their compressors raise different types
            self._check_unchanged()
            raise FileFormatError(
                f"{str(self.path)!r} cannot be read at cells {first:,} to {stop:,}: {reason(error)} "
                "It may be truncated; copy it again."
            ) from error
        self._check_unchanged()
        return block

    def _check_unchanged(self) -> None:
        if stamp_of(self.path, storage_of(self.source).name) != self.stamp:
            raise ValueError(
                f"{str(self.path)!r} was changed while it was being read. Start again, and do not modify the "
                "file during the run."
            )


def _is_sparse(source: Any) -> bool:
    return hasattr(source, "format")


def storage_of(source: Any) -> Any:
    """Return the group or array in which a matrix is stored."""
    return getattr(source, "group", source)


@dataclass(frozen=True)
class BackedCells:
    """Cells whose matrix is on disk, with attributes named as in AnnData.

    Parameters
    ----------
    X
        Values, (n_cells, n_genes).
    obs
        Requested columns of the annotation, with numbered rows.
    var_names
        Gene names.
    names
        Cell names, in memory or on disk; None to use row numbers.
    """

    X: BackedMatrix
    obs: pd.DataFrame
    var_names: pd.Index
    names: Any = None

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cells and number of genes."""
        return self.X.shape

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return self.X.shape[0]

    @property
    def n_vars(self) -> int:
        """Number of genes."""
        return self.X.shape[1]

    @property
    def obs_names(self) -> pd.Index:
        """Row numbers, because reading millions of cell names would be slow."""
        return self.obs.index

    def take(self, rows: np.ndarray) -> ad.AnnData:
        """Return the cells with the given sorted indices in memory, with their names."""
        return ad.AnnData(
            self.X.take(rows),
            obs=self.obs.iloc[rows].set_axis(self.take_names(rows), axis=0),
            var=pd.DataFrame(index=self.var_names),
        )

    def take_names(self, rows: np.ndarray) -> pd.Index:
        """Return the names of the cells with the given sorted indices."""
        return self.obs.index[rows].astype(str) if self.names is None else _read_names(self.names, rows)


# arrays of a dense or sparse Zarr matrix, and their files and folders that change with every write
ZARR_ARRAYS = ("", "data", "indices", "indptr")
ZARR_FILES = ("", "zarr.json", ".zarray", ".zattrs", "c")


def stamp_of(path: Path, name: str = "X") -> tuple[int, ...]:
    """Return numbers that change when a file, or the matrix `name` of a Zarr store, is written to."""
    parts = [path]
    if not path.is_file():
        folder = path / name.strip("/")
        parts = [folder / array / file for array in ZARR_ARRAYS for file in ZARR_FILES]
    stamp = []
    for part in parts:
        try:
            stat = part.stat()
        except OSError:
            continue
        stamp += [stat.st_ino, stat.st_mtime_ns, stat.st_size]
    return tuple(stamp)


def _read_names(names: Any, rows: np.ndarray) -> pd.Index:
    """Return the cell names with the given sorted indices, read in blocks."""
    if isinstance(names, pd.Index):
        return names[rows]
    if not hasattr(names, "shape"):
        return pd.Index(np.asarray(ad.io.read_elem(names), dtype=object)[rows].astype(str))
    source = names.asstr() if hasattr(names, "asstr") else names
    parts = [np.empty(0, object)]
    for first in range(0, int(names.shape[0]), NAMES_AT_ONCE):
        inside = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + NAMES_AT_ONCE)] - first
        if len(inside):
            parts.append(np.asarray(source[first : first + NAMES_AT_ONCE], dtype=object)[inside])
    return pd.Index(np.concatenate(parts).astype(str))


def file_of(source: Any) -> Path | None:
    """Return the path of the HDF5 file or Zarr store of a matrix, or None for a matrix in memory."""
    part = storage_of(source)
    name = getattr(getattr(part, "file", None), "filename", None)
    root = getattr(getattr(part, "store", None), "root", None) if name is None else name
    return None if root is None else Path(root)


def library_sizes(x: Matrix | BackedMatrix) -> np.ndarray:
    """Return the library size of each cell, (n_cells,), float64."""
    sums = [np.asarray(block.sum(axis=1, dtype=np.float64)).ravel() for block in row_blocks(x)]
    return np.concatenate(sums)


def row_blocks(x: Matrix | BackedMatrix) -> Iterator[Matrix]:
    """Yield all rows of a matrix in order: as one block if it is in memory, else in several."""
    if not isinstance(x, BackedMatrix):
        yield x
        return
    step = x.rows_in(BLOCK_BYTES)
    for first in range(0, x.shape[0], step):
        yield x[first : first + step]
