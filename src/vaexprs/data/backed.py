"""Matrices and cells left on disk; rows are read on request."""

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

NAMES_AT_ONCE = 16_384  # that are read of those of cells on disk
BLOCK_BYTES = 16 * 2**20  # of a larger one read at once
GAP_BYTES = 256 * 2**10  # of rows between two that are wanted, up to which they are read along


def in_memory(adata: ad.AnnData) -> ad.AnnData:
    """Return an AnnData as it is, or one in memory where its X is on disk."""
    return adata if adata.X is None or file_of(adata.X) is None else adata.to_memory()


@dataclass(frozen=True)
class BackedMatrix:
    """A matrix left on disk; its rows are read as they are asked for, as float32.

    Parameters
    ----------
    source
        What AnnData gives for a matrix on disk: CSR, or an array of HDF5 or Zarr.
    path
        Of the file or folder.
    stamp
        What `stamp_of` said of it when it was opened.
    kept
        Sorted numbers of the rows that are meant, (n_cells,); None for all.
    columns
        Order of the columns; None for that on disk.
    forward
        What is done with values before they are given out.
    """

    source: Any
    path: Path
    stamp: tuple[int, ...]
    kept: np.ndarray | None = None
    columns: np.ndarray | None = None
    forward: Callable[[Matrix], Matrix] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cells and of genes."""
        rows, columns = self.source.shape
        return (
            int(rows) if self.kept is None else len(self.kept),
            int(columns) if self.columns is None else len(self.columns),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all rows on disk in memory, as CSR or dense."""
        rows, columns = self.source.shape
        if _is_sparse(self.source):
            return 8 * int(self.source.group["data"].shape[0])
        return 4 * int(rows) * int(columns)

    def rows_in(self, size: float) -> int:
        """Return how many rows take so many bytes in memory, at least one."""
        return max(1, int(size / max(1, self.nbytes / max(1, self.source.shape[0]))))

    def __getitem__(self, rows: slice) -> Matrix:
        first, stop, _ = rows.indices(self.shape[0])
        if self.kept is not None:
            return self._prepared(self._gathered(self.kept[first:stop]))
        return self._prepared(self._read(first, max(first, stop)))

    def take(self, rows: np.ndarray) -> Matrix:
        """Return some of the rows, given by their sorted numbers, in memory; few of the others are read."""
        return self._prepared(self._gathered(rows if self.kept is None else self.kept[rows]))

    def keep(self, rows: np.ndarray) -> BackedMatrix:
        """Return some of the rows, given by their sorted numbers, left on disk."""
        return replace(self, kept=rows if self.kept is None else self.kept[rows])

    def mapped(self, columns: np.ndarray | None, forward: Callable[[Matrix], Matrix] | None) -> BackedMatrix:
        """Return the same with its columns in order and its values prepared."""
        if columns is None:
            columns = self.columns
        elif self.columns is not None:
            columns = self.columns[columns]
        return replace(self, columns=columns, forward=forward)

    def _prepared(self, block: Matrix) -> Matrix:
        if self.columns is not None:
            block = block[:, self.columns]
        return block if self.forward is None else self.forward(block)

    def _gathered(self, rows: np.ndarray) -> Matrix:
        """Return rows of the file, given by their sorted numbers."""
        parts = [self._read(int(run[0]), int(run[-1]) + 1)[run - run[0]] for run in self._runs(rows)]
        return stacked(parts) if parts else self._read(0, 0)

    def _runs(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Yield sorted rows in parts that are read at once: near to each other, and not too many."""
        if not len(rows):
            return
        near, most = self.rows_in(GAP_BYTES), self.rows_in(BLOCK_BYTES)
        for part in np.split(rows, np.flatnonzero(np.diff(rows) > near) + 1):
            cuts = np.arange(part[0] + most, part[-1] + 1, most)
            yield from (run for run in np.split(part, np.searchsorted(part, cuts)) if len(run))

    def _read(self, first: int, stop: int) -> Matrix:
        try:
            block = as_float(self.source[first:stop])
            if (
                sp.issparse(block)
                and block.nnz
                and not 0 <= block.indices.min() <= block.indices.max() < block.shape[1]
            ):
                raise IndexError("there are values of genes that it has not.")
        except Exception as error:  # h5py, zarr and their compressors each have their own
            self._check_unchanged()
            raise FileFormatError(
                f"{str(self.path)!r} cannot be read at its cells {first:,} to {stop:,}: {reason(error)} "
                "It may be cut off; copy it anew."
            ) from error
        self._check_unchanged()
        return block

    def _check_unchanged(self) -> None:
        if stamp_of(self.path, storage_of(self.source).name) != self.stamp:
            raise ValueError(
                f"{str(self.path)!r} was changed while it was being read. Leave it as it is until the end, "
                "and begin anew."
            )


def _is_sparse(source: Any) -> bool:
    return hasattr(source, "format")


def storage_of(source: Any) -> Any:
    """Return the group or array of a file that a matrix is."""
    return getattr(source, "group", source)


@dataclass(frozen=True)
class BackedCells:
    """Cells whose matrix is left on disk, with the names of an AnnData.

    Parameters
    ----------
    X
        Their values.
    obs
        The columns of the annotation that were asked for; rows are numbered.
    var_names
        Names of the genes.
    names
        Those of the cells, in memory or on disk; None where they are numbered only.
    """

    X: BackedMatrix
    obs: pd.DataFrame
    var_names: pd.Index
    names: Any = None

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cells and of genes."""
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
        """Row numbers: the names of millions of cells are not read."""
        return self.obs.index

    def take(self, rows: np.ndarray) -> ad.AnnData:
        """Return some of the cells, given by their sorted numbers, in memory and with their names."""
        return ad.AnnData(
            self.X.take(rows),
            obs=self.obs.iloc[rows].set_axis(self.take_names(rows), axis=0),
            var=pd.DataFrame(index=self.var_names),
        )

    def take_names(self, rows: np.ndarray) -> pd.Index:
        """Return the names of some of the cells, given by their sorted numbers."""
        return self.obs.index[rows].astype(str) if self.names is None else _taken(self.names, rows)


# of a Zarr matrix: its arrays where it is sparse, and what is written anew with each of their chunks
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


def _taken(names: Any, rows: np.ndarray) -> pd.Index:
    """Return some of the names of cells, given by their sorted numbers, read some ten thousand at a time."""
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
    """Return the HDF5 file or the folder of the Zarr store that a matrix is in; None for others."""
    part = storage_of(source)
    name = getattr(getattr(part, "file", None), "filename", None)
    root = getattr(getattr(part, "store", None), "root", None) if name is None else name
    return None if root is None else Path(root)


def library_sizes(x: Matrix | BackedMatrix) -> np.ndarray:
    """Return the sum of each row, (n_cells,), float64."""
    return np.concatenate([np.asarray(block.sum(axis=1), np.float64).ravel() for block in row_blocks(x)])


def row_blocks(x: Matrix | BackedMatrix) -> Iterator[Matrix]:
    """Yield all rows of a matrix in order: at once where it is in memory, else block by block."""
    if not isinstance(x, BackedMatrix):
        yield x
        return
    step = x.rows_in(BLOCK_BYTES)
    for first in range(0, x.shape[0], step):
        yield x[first : first + step]
