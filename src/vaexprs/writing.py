"""Results go to disk whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np

from vaexprs._checks import reason
from vaexprs.disk import SafeFile
from vaexprs.matrices import stacked
from vaexprs.ondisk import STORES, in_memory
from vaexprs.rds import rdata, write_rds
from vaexprs.tables import obs_path, write_obs, write_table
from vaexprs.tenx import write_folder

TABLES = {".csv": ",", ".tsv": "\t"}
WRITABLE = (*STORES, ".mtx", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".rds")
# Each write to zarr has its price; HDF5 writes few cells as fast as many, and begins the sooner.
CELLS_A_WRITE = {".h5ad": 4_096, ".zarr": 16_384}
VALUES_A_CHUNK = {".h5ad": 65_536, ".zarr": 262_144}
NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)


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


def check_writable(path: str | os.PathLike[str], suffixes: Sequence[str] = WRITABLE) -> Path:
    """Return `path` if it ends in the suffix of a format that can be written.

    Raises
    ------
    ValueError
        If it does not.
    ImportError
        If it ends in ``.rds`` and the package for that is not installed.
    """
    path = Path(path)
    suffix = suffix_of(path)
    if suffix not in suffixes:
        raise ValueError(f"The output must be one of {', '.join(suffixes)}, got {path.name!r}.")
    if suffix == ".rds":
        rdata()
    return path


def check_new_cells(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Return `path` if cells may be written there, in the format that its suffix names.

    Raises
    ------
    ValueError, ImportError
        As `check_writable`.
    FileExistsError, FileNotFoundError
        As `check_output`.
    """
    return check_output(check_writable(path), overwrite=overwrite)


def suffix_of(path: Path) -> str:
    """Return the suffix that names the format: ".csv.gz" of "cells.csv.gz"."""
    if path.suffix.lower() == ".rds":  # R's users write it in three ways
        return ".rds"
    return Path(path.stem).suffix + path.suffix if path.suffix == ".gz" else path.suffix


def write(adata: ad.AnnData, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write cells in the format that the suffix names, whole or not at all.

    Parameters
    ----------
    adata
        AnnData of shape (n_cells, n_genes). Of ``.h5ad`` and ``.zarr`` all of it is written, of the others
        X, `obs` and the names.
    path
        One of:

        * ``.h5ad`` or ``.zarr``, AnnData's own;
        * ``.mtx``: a folder with ``matrix.mtx.gz``, ``features.tsv.gz`` and ``barcodes.tsv.gz``, as
          `scanpy.read_10x_mtx` and R's ``Read10X`` read it, and ``obs.csv``;
        * ``.csv`` or ``.tsv``, also with ``.gz``: a table with cells in rows, and `obs` beside it as
          ``cells.obs.csv`` for ``cells.csv``. Names that a spreadsheet would run as a formula (those that
          begin with ``=``, ``+``, ``-`` or ``@``) get an apostrophe before them, which `read` takes away
          again and other programs take as part of the name;
        * ``.rds``: a ``SingleCellExperiment`` for R's ``readRDS``; needs ``pip install "vaexprs[r]"``.
    overwrite
        Whether what is there may be replaced.

    Returns
    -------
    The path.

    Raises
    ------
    ValueError
        If the suffix is another one, or the format cannot hold the cells.
    FileExistsError
        If there is something and `overwrite` is false.
    ImportError
        If ``.rds`` is asked for and its package is not installed.
    """
    path = check_writable(path)
    suffix = suffix_of(path)
    if suffix in STORES:
        adata.strings_to_categoricals()
        settings = {"compression": "gzip"} if suffix == ".h5ad" else {}
        with written_whole(path, overwrite=overwrite) as beside, _writer(beside) as writer:
            writer.start(_write_adata, adata, dataset_kwargs=settings)
        return path
    if adata.X is None:
        raise ValueError("The AnnData has no X to write.")
    adata = in_memory(adata)
    if suffix == ".rds":
        with written_whole(path, overwrite=overwrite) as beside:
            write_rds(adata, beside)
    elif suffix == ".mtx":
        with written_whole(path, overwrite=overwrite) as beside:
            write_folder(adata, beside)
    else:
        separator, packed = TABLES[suffix.removesuffix(".gz")], suffix.endswith(".gz")
        with (
            written_whole(path, overwrite=overwrite) as beside,
            written_whole(obs_path(path), overwrite=overwrite) as columns,
        ):
            write_obs(columns, adata.obs)
            write_table(adata, beside, separator, compressed=packed)
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
    path = check_writable(path, STORES)
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
    try:
        ad.io.write_elem(store, "/", adata, **settings)
    except (ValueError, TypeError, KeyError) as error:  # names that the format cannot hold
        raise ValueError(f"The cells cannot be written: {reason(error)}") from error
    if adata.raw is None and "raw" in store:
        del store["raw"]  # a backed AnnData would have a raw without X


def _append(store: Any, part: Any) -> None:
    ad.io.sparse_dataset(store["X"]).append(part)


class _Writer:
    """Writes to a new file or folder in a thread of its own, one thing at a time.

    What is written next can be made in the meantime, and Ctrl-C, which ends the main thread's work at any
    point, does not end a write in the middle: from opening to closing all is done in that thread.
    """

    def __init__(self, path: Path) -> None:
        self._opened = ExitStack()
        self._pool = ThreadPoolExecutor(1)
        self._under_way: Future[None] = self._pool.submit(self._open, path)

    def start(self, function: Callable[..., None], *arguments: Any, **settings: Any) -> None:
        """Call a function of the store and more, after what was started before has ended well."""
        self.wait()
        self._under_way = self._pool.submit(self._write, function, arguments, settings)

    def wait(self) -> None:
        """Wait for the end of what was started, and raise what went wrong."""
        self._under_way.result()

    def close(self) -> None:
        """Wait for the end, well or not, and close the file."""
        closed = self._pool.submit(self._opened.close)
        self._pool.shutdown()
        closed.result()

    def _open(self, path: Path) -> None:
        self._store, self._check = self._opened.enter_context(_store(path))

    def _write(self, function: Callable[..., None], arguments: Any, settings: Any) -> None:
        function(self._store, *arguments, **settings)
        self._check()


@contextmanager
def _writer(path: Path) -> Iterator[_Writer]:
    """Give what writes to a new file or folder."""
    writer = _Writer(path)
    try:
        yield writer
        writer.wait()
    except BaseException:
        with suppress(Exception):  # what went wrong first is told
            writer.close()
        raise
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

        # a chunk that is all zeros is written too: one that is missing then tells of a copy that is not whole
        with warnings.catch_warnings(), zarr.config.set({"array.write_empty_chunks": True}):
            # of a coming change of anndata's default zarr version
            warnings.filterwarnings("ignore", module="anndata|zarr|vaexprs.writing|concurrent.futures")
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
