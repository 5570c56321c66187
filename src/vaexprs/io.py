"""Any accepted input becomes an AnnData, and results go back to disk whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from vaexprs._checks import did_you_mean, reason, some
from vaexprs.disk import SafeFile

# A float32 array or CSR matrix of shape (n_cells, n_genes); SciPy has no types to say it with.
Matrix: TypeAlias = Any

READABLE = (".h5ad", ".zarr")
# Each write to zarr has its price; HDF5 writes few cells as fast as many, and begins the sooner.
CELLS_A_WRITE = {".h5ad": 4_096, ".zarr": 16_384}
VALUES_A_CHUNK = {".h5ad": 65_536, ".zarr": 262_144}
NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)
IN_MEMORY = 64 * 2**20  # bytes of a matrix on disk up to which it is read as a whole
NAMES_AT_ONCE = 16_384  # that are read of those of cells on disk
BLOCK_BYTES = 16 * 2**20  # of a larger one read at once
GAP_BYTES = 256 * 2**10  # of rows between two that are wanted, up to which they are read along


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
    with _damage_told(path), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        _check_store(path)
        return ad.read_h5ad(path) if path.suffix == ".h5ad" else ad.read_zarr(path)


def check_readable(path: str | os.PathLike[str]) -> Path:
    """Return `path` if there is a file or folder that may be read.

    Raises
    ------
    FileNotFoundError
        If there is nothing.
    ValueError
        If its format is not one of the two.
    """
    path = Path(path)
    if path.suffix not in READABLE:
        raise ValueError(f"The file must be one of {', '.join(READABLE)}, got {path.name!r}.")
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    return path


def check_output(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Return `path` if something may be written there.

    Raises
    ------
    FileExistsError
        If something is there and `overwrite` is false.
    FileNotFoundError
        If the folder it should be in is not there.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{str(path)!r} exists already; choose another name or say overwrite.")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"The folder {str(path.absolute().parent)!r} does not exist.")
    return path


@contextmanager
def written_whole(path: str | os.PathLike[str], *, overwrite: bool) -> Iterator[Path]:
    """Give a name beside `path` to write a file or folder to; rename it to `path` at the end.

    If the body raises, nothing is left behind and what stood at `path` still stands.
    """
    path = check_output(path, overwrite=overwrite)
    tag = uuid.uuid4().hex[:8]
    beside = path.with_name(f".{path.stem}-{tag}{path.suffix}")
    retired = path.with_name(f".{path.stem}-{tag}-old{path.suffix}")
    try:
        with _clear_write_errors(path):
            yield beside
        if path.is_dir() or (path.exists() and beside.is_dir()):
            path.rename(retired)  # a folder cannot be replaced in one step: set the old one aside first
        try:
            beside.replace(path)
        except BaseException:
            if retired.exists():
                retired.rename(path)
            raise
    finally:
        for leftover in (beside, retired):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


@contextmanager
def _clear_write_errors(path: Path) -> Iterator[None]:
    """Say in a sentence that there is no room or no permission."""
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        raise OSError(
            f"{str(path)!r} cannot be written: {os.strerror(error.errno).lower()}. Nothing is left of it; "
            "make room or choose another place."
        ) from error


def write(adata: ad.AnnData, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write an AnnData as ``.h5ad`` or ``.zarr``, whole or not at all.

    Raises
    ------
    ValueError
        If the suffix is another one.
    FileExistsError
        If `path` exists and `overwrite` is false.
    """
    path = _check_writable(path)
    adata.strings_to_categoricals()
    settings = {"compression": "gzip"} if path.suffix == ".h5ad" else {}
    with written_whole(path, overwrite=overwrite) as beside, _writer(beside) as writer:
        writer.start(_write_adata, adata, dataset_kwargs=settings)
    return path


def write_blocks(
    adata: ad.AnnData, blocks: Iterable[Any], path: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write an AnnData whose X comes in blocks of cells, of which few are in memory; whole or not at all.

    Parameters
    ----------
    adata
        Everything but X.
    blocks
        CSR matrices of shape (n_some, n_genes), which have all cells together.
    path
        The ``.h5ad`` file or ``.zarr`` folder.
    overwrite
        Whether what is there may be replaced.

    Raises
    ------
    ValueError
        If the suffix is another one.
    FileExistsError
        If `path` exists and `overwrite` is false.
    """
    path = _check_writable(path)
    # offsets of 64 bits: there may be more than 2**31 values
    settings: dict[str, Any] = {"indptr_dtype": np.int64, "chunks": (VALUES_A_CHUNK[path.suffix],)}
    if path.suffix == ".h5ad":
        # counts are small: with their bytes sorted by significance gzip takes two thirds of the time, and the
        # file two thirds of the room; HDF5 has both filters wherever it is read
        settings |= {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    with written_whole(path, overwrite=overwrite) as beside, _writer(beside) as writer:
        writer.start(_write_adata, adata)
        for i, part in enumerate(_gathered(blocks, CELLS_A_WRITE[path.suffix])):
            if i:
                writer.start(_append, part)
            else:
                writer.start(ad.io.write_elem, "X", part, dataset_kwargs=settings)
    return path


def _write_adata(store: Any, adata: ad.AnnData, **settings: Any) -> None:
    ad.io.write_elem(store, "/", adata, **settings)
    if adata.raw is None and "raw" in store:
        del store["raw"]  # a backed AnnData would have a raw without X


def _append(store: Any, part: Any) -> None:
    ad.io.sparse_dataset(store["X"]).append(part)


class _Writer:
    """Writes to a store in a thread of its own, one thing at a time.

    What is written next can be made in the meantime, and Ctrl-C, which ends the main thread's work at any
    point, does not end a write in the middle.
    """

    def __init__(self, store: Any, check: Callable[[], None]) -> None:
        self._store = store
        self._check = check
        self._pool = ThreadPoolExecutor(1)
        self._under_way: Future[None] | None = None

    def start(self, function: Callable[..., None], *arguments: Any, **settings: Any) -> None:
        """Call a function of the store and more, after what was started before has ended well."""
        self.wait()
        self._under_way = self._pool.submit(self._write, function, arguments, settings)

    def wait(self) -> None:
        """Wait for the end of what was started, and raise what went wrong."""
        if self._under_way is not None:
            self._under_way.result()

    def close(self) -> None:
        """Wait for the end, well or not."""
        self._pool.shutdown()

    def _write(self, function: Callable[..., None], arguments: Any, settings: Any) -> None:
        function(self._store, *arguments, **settings)
        self._check()


@contextmanager
def _writer(path: Path) -> Iterator[_Writer]:
    """Give what writes to a new file or folder."""
    with _store(path) as (store, check):
        writer = _Writer(store, check)
        try:
            yield writer
            writer.wait()
        finally:
            writer.close()


@contextmanager
def _store(path: Path) -> Iterator[tuple[Any, Callable[[], None]]]:
    """Open a new file or folder for AnnData's writers; with it comes what raises their errors."""
    if path.suffix == ".h5ad":
        import h5py

        with SafeFile(path) as disk:
            with h5py.File(disk, "w") as file:
                yield file, disk.check
            disk.check()
    else:
        import zarr

        with warnings.catch_warnings():
            # of a coming change of anndata's default zarr version
            warnings.filterwarnings("ignore", module="anndata|zarr|vaexprs.io|concurrent.futures")
            yield zarr.open_group(path, mode="w", zarr_format=ad.settings.zarr_write_format), lambda: None


def _gathered(blocks: Iterable[Any], cells: int) -> Iterator[Any]:
    """Yield blocks put together to so many cells at least."""
    waiting: list[Any] = []
    for block in blocks:
        waiting.append(block)
        if sum(part.shape[0] for part in waiting) >= cells:
            yield stacked(waiting)
            waiting = []
    if waiting:
        yield stacked(waiting)


def stacked(parts: Sequence[Matrix]) -> Matrix:
    """Return matrices one below the other; sparse where all of them are."""
    if len(parts) == 1:
        return parts[0]
    if all(sp.issparse(part) for part in parts):
        return sp.vstack(parts, format="csr")
    return np.concatenate([densify(part) for part in parts])


def open_backed(path: str | os.PathLike[str]) -> ad.AnnData:
    """Open what `write_blocks` wrote, with X left on disk."""
    path = Path(path)
    if path.suffix == ".h5ad":
        return ad.read_h5ad(path, backed="r")
    import zarr

    store = zarr.open_group(path, mode="r")
    parts = {name: ad.io.read_elem(store[name]) for name in ("obs", "var", "uns")}
    return ad.AnnData(ad.io.sparse_dataset(store["X"]), **parts)


def in_memory(adata: ad.AnnData) -> ad.AnnData:
    """Return an AnnData as it is, or one in memory where its X is on disk."""
    return adata if adata.X is None or _file_of(adata.X) is None else adata.to_memory()


def note_of(path: str | os.PathLike[str], name: str) -> Any:
    """Return what a file has in ``uns[name]``; None where there is no such thing."""
    group = open_group(path)
    with _damage_told(Path(path)):
        return ad.io.read_elem(group["uns"][name]) if "uns" in group and name in group["uns"] else None


def _check_writable(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.suffix not in READABLE:
        raise ValueError(f"The output must be one of {', '.join(READABLE)}, got {path.name!r}.")
    return path


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


@dataclass(frozen=True)
class DiskMatrix:
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

    def keep(self, rows: np.ndarray) -> DiskMatrix:
        """Return some of the rows, given by their sorted numbers, left on disk."""
        return replace(self, kept=rows if self.kept is None else self.kept[rows])

    def mapped(self, columns: np.ndarray | None, forward: Callable[[Matrix], Matrix] | None) -> DiskMatrix:
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
            raise _Told(
                f"{str(self.path)!r} cannot be read at its cells {first:,} to {stop:,}: {reason(error)} "
                "It may be cut off; copy it anew."
            ) from error
        self._check_unchanged()
        return block

    def _check_unchanged(self) -> None:
        if stamp_of(self.path, _part(self.source).name) != self.stamp:
            raise ValueError(
                f"{str(self.path)!r} was changed while it was being read. Leave it as it is until the end, "
                "and begin anew."
            )


class _Told(ValueError):
    """What is wrong with a file, in a sentence that is not to be put into another."""


def _is_sparse(source: Any) -> bool:
    return hasattr(source, "format")


def _part(source: Any) -> Any:
    """Return the group or array of a file that a matrix is."""
    return getattr(source, "group", source)


@dataclass(frozen=True)
class DiskCells:
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

    X: DiskMatrix
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
        names = self.obs.index[rows].astype(str) if self.names is None else _taken(self.names, rows)
        return ad.AnnData(
            self.X.take(rows),
            obs=self.obs.iloc[rows].set_axis(names, axis=0),
            var=pd.DataFrame(index=self.var_names),
        )


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


def open_large(obj: Any, *, layer: str | None, keys: Sequence[str]) -> DiskCells | None:
    """Return cells with their matrix left on disk; None for what is in memory or may as well be read.

    Parameters
    ----------
    obj
        A path to an ``.h5ad`` or ``.zarr`` file, or an AnnData whose X is on disk, or a view of one.
    layer
        The layer with the values; by default X.
    keys
        Columns of `obs` to read.

    Raises
    ------
    FileNotFoundError
        If there is nothing at the path.
    ValueError
        If it cannot be read, has no such layer, or is stored by genes.
    """
    if isinstance(obj, (str, os.PathLike)):
        return _open_file(Path(obj), layer, keys)
    if not isinstance(obj, ad.AnnData) or layer is not None:
        return None
    whole = obj._adata_ref if obj.is_view else obj
    source = whole.X
    if source is None or isinstance(source, np.ndarray) or sp.issparse(source):
        return None
    file = _file_of(source)
    matrix = None if file is None else _disk_matrix(source, file)
    if matrix is None:
        return None
    obs, names = obj.obs, obj.var_names
    if obj.is_view:
        rows, genes = (np.arange(n)[i] for n, i in zip(source.shape, (obj._oidx, obj._vidx), strict=True))
        order = np.argsort(rows, kind="stable")
        matrix, obs = matrix.keep(rows[order]), obs.iloc[order]
        if len(genes) < matrix.shape[1] or (np.diff(genes) != 1).any():
            matrix = matrix.mapped(genes, None)
    known = list(keys) if set(keys) <= set(obs) else list(obs)
    return DiskCells(matrix, obs[known].reset_index(drop=True), names, obs.index)


def _open_file(path: Path, layer: str | None, keys: Sequence[str]) -> DiskCells | None:
    group = open_group(path)
    with _damage_told(path):
        layers = list(group["layers"]) if "layers" in group else []
    if layer is not None and layer not in layers:
        raise _no_layer(layer, layers)
    if layer is None and "X" not in group:
        raise _no_x()
    with _damage_told(path):
        source = _matrix_in(group["X" if layer is None else f"layers/{layer}"])
        matrix = None if source is None else _disk_matrix(source, path)
        if matrix is None:
            return None
        rows, columns = matrix.shape
        obs, names = _columns_in(group["obs"], keys), _names_in(group["var"])
        if len(obs) != rows or len(names) != columns:
            raise IndexError(
                f"its matrix is of {rows:,} cells x {columns:,} genes, but there are names of {len(obs):,} "
                f"cells and {len(names):,} genes."
            )
        return DiskCells(matrix, obs, names, group["obs"][group["obs"].attrs["_index"]])


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """Turn what readers of HDF5 and Zarr raise over a damaged file into one sentence."""
    try:
        yield
    except _Told:
        raise
    except Exception as error:  # h5py and zarr each have their own: a stranger's file may raise any
        raise _Told(f"{str(path)!r} cannot be read as {path.suffix}: {reason(error)}") from error


def open_group(path: str | os.PathLike[str]) -> Any:
    """Open an ``.h5ad`` or ``.zarr`` file for reading.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    ValueError
        If the format is not one of the two or the file is damaged.
    """
    path = check_readable(path)
    with _damage_told(path):
        if path.suffix == ".h5ad":
            import h5py

            return h5py.File(path, "r")
        import zarr

        return zarr.open_group(path, mode="r")


def _matrix_in(part: Any) -> Any:
    """Return a matrix on disk; None where its form is left to AnnData's reader, with its messages."""
    kind = str(part.attrs.get("encoding-type", ""))
    if kind in ("csr_matrix", "csc_matrix"):
        return ad.io.sparse_dataset(part)
    return part if kind == "array" else None


def _disk_matrix(source: Any, path: Path) -> DiskMatrix | None:
    matrix = DiskMatrix(source, path, stamp_of(path, _part(source).name))
    if matrix.nbytes <= IN_MEMORY:
        return None
    if getattr(source, "format", "csr") != "csr":
        raise _Told(
            f"{str(path)!r} holds its matrix by genes (CSC), and cells cannot be read from that one after "
            "the other. Write it by cells: adata.X = scipy.sparse.csr_matrix(adata.X)."
        )
    _check_matrix(_part(source), path)
    return matrix


def _check_store(path: Path) -> None:
    """Check that the matrices of a file are whole."""
    group = open_group(path)
    for name in ("obs", "var"):
        if name not in group:
            raise LookupError(f"it has no {name!r}.")
    layers = group.get("layers", {})
    for part in (*([group["X"]] if "X" in group else []), *(layers[name] for name in layers)):
        _check_matrix(part, path)


def _check_matrix(part: Any, path: Path) -> None:
    """Check that the arrays of a matrix on disk are there and fit together, as far as that is cheap.

    A chunk that a Zarr store lacks is read as zeros, and one of nothing but zeros is never written. So of a
    sparse matrix all chunks must be there, but of a dense one some may rightly be missing.
    """
    kind, name = str(part.attrs.get("encoding-type", "")), part.name.strip("/")
    if kind == "array":
        missing, of = _missing_chunks(part)
        if missing and missing == of:
            raise _not_whole(path, f"all {of:,} chunks of {name!r} are missing")
        if missing:
            warnings.warn(
                f"{str(path)!r} has no values in {missing:,} of the {of:,} chunks of {name!r}: they count as "
                "zeros. If it was not copied as a whole, copy it anew.",
                UserWarning,
                stacklevel=4,
            )
    elif kind in ("csr_matrix", "csc_matrix"):
        major = int(part.attrs["shape"][int(kind == "csc_matrix")])
        ends, n = np.asarray(part["indptr"][:]), int(part["data"].size)
        if len(ends) != major + 1 or ends[-1] != n or part["indices"].size != n or (np.diff(ends) < 0).any():
            raise _not_whole(path, f"'indptr', 'indices' and 'data' of {name!r} do not fit together")
        # where there is but one value a cell it may be the first gene's each time
        for array in ("data", "indices") if n > len(ends) else ("data",):
            missing, of = _missing_chunks(part[array])
            if missing:
                raise _not_whole(path, f"{missing:,} of {of:,} chunks of '{name}/{array}' are missing")


def _missing_chunks(array: Any) -> tuple[int, int]:
    """Return how many chunks (or shards of them) a Zarr array lacks, and should have; none of HDF5."""
    if not hasattr(array, "nchunks_initialized") or not array.size:
        return 0, 0
    stored = array.shards or array.chunks
    together = math.prod(size // chunk for size, chunk in zip(stored, array.chunks, strict=True))
    of = math.prod(-(-n // size) for n, size in zip(array.shape, stored, strict=True))
    return of - array.nchunks_initialized // together, of


def _not_whole(path: Path, why: str) -> ValueError:
    return _Told(f"{str(path)!r} is not whole: {why}. Copy or write it anew.")


def _columns_in(group: Any, keys: Sequence[str]) -> pd.DataFrame:
    """Return columns of a data frame on disk, rows numbered; where one is missing all, for the message."""
    if str(group.attrs.get("encoding-version", "")) != "0.2.0":  # levels were kept elsewhere
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


def _file_of(source: Any) -> Path | None:
    """Return the HDF5 file or the folder of the Zarr store that a matrix is in; None for others."""
    part = _part(source)
    name = getattr(getattr(part, "file", None), "filename", None)
    root = getattr(getattr(part, "store", None), "root", None) if name is None else name
    return None if root is None else Path(root)


def _no_layer(layer: str, known: Sequence[str]) -> ValueError:
    return ValueError(
        f"layer must be one of {some(known) or 'none: there are no layers'}, got {layer!r}."
        f"{did_you_mean(layer, known)}"
    )


def _no_x() -> ValueError:
    return ValueError("The AnnData has no X. Name the layer with the counts: layer='counts'.")


def _take_layer(adata: ad.AnnData, layer: str | None) -> ad.AnnData:
    if layer is not None and layer not in adata.layers:
        raise _no_layer(layer, list(adata.layers))
    values = adata.X if layer is None else adata.layers[layer]
    if values is None:
        raise _no_x()
    if layer is None and "counts" in adata.layers and not _whole(values) and _whole(adata.layers["counts"]):
        warnings.warn(
            "X holds fractions while layers['counts'] holds counts; X is used. "
            "For counts pass layer='counts'.",
            UserWarning,
            stacklevel=4,
        )
    if _file_of(values) is not None:
        values = values[:]
    return ad.AnnData(X=values, obs=adata.obs, var=pd.DataFrame(index=adata.var_names))


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


def as_float(x: Any) -> Matrix:
    """Return a matrix as float32: sparse as CSR, everything else as a C-contiguous array."""
    if sp.issparse(x):
        csr = sp.csr_matrix(x, dtype=np.float32)
        if not csr.has_canonical_format:
            csr = csr.copy()  # sum_duplicates() works in place, and the arrays may be the user's
            csr.sum_duplicates()
        return csr
    return np.ascontiguousarray(np.asarray(x), dtype=np.float32)


def densify(x: Matrix) -> np.ndarray:
    """Return a matrix as an array."""
    return x.toarray() if sp.issparse(x) else x


def stored(x: Any) -> np.ndarray:
    """Return the explicitly stored values of a sparse matrix, or all values of a dense one, flat."""
    return np.asarray(x.data if sp.issparse(x) else x).ravel()


def row_blocks(x: Matrix | DiskMatrix) -> Iterator[Matrix]:
    """Yield all rows of a matrix in order: at once where it is in memory, else block by block."""
    if not isinstance(x, DiskMatrix):
        yield x
        return
    step = x.rows_in(BLOCK_BYTES)
    for first in range(0, x.shape[0], step):
        yield x[first : first + step]


def limits(x: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest value of each gene, (n_genes,) each."""
    both = x.min(axis=0), x.max(axis=0)
    low, high = (np.asarray(densify(v), np.float64).ravel() for v in both)
    return low, high


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
