"""Write cells to a file of any supported format."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np

from vaexprs.data.backed import in_memory
from vaexprs.data.levels import storable
from vaexprs.data.matrix import stacked
from vaexprs.interface.errors import reason, require
from vaexprs.interface.validation import check_path
from vaexprs.io.atomic import check_output, written_whole
from vaexprs.io.formats import BACKED, WRITERS, suffix_of
from vaexprs.io.tables.annotation import obs_path

# cells per write: each write to zarr has an overhead, HDF5 has almost none
CELLS_A_WRITE = {".h5ad": 4_096, ".zarr": 16_384}
# values per chunk of a sparse matrix
VALUES_A_CHUNK = {".h5ad": 65_536, ".zarr": 262_144}
PAGE = 65_536  # bytes per page of writes kept in memory after a write error


def check_writable(path: str | os.PathLike[str], suffixes: Sequence[str] = tuple(WRITERS)) -> Path:
    """Return `path` if its suffix names a format that can be written.

    Raises
    ------
    ValueError
        If it does not.
    ImportError
        If the format requires a package that is not installed.
    """
    path = check_path(path)
    suffix = suffix_of(path)
    if suffix not in suffixes:
        raise ValueError(f"The output format must be one of {', '.join(suffixes)}, got {path.name!r}.")
    extra = WRITERS[suffix].extra
    if extra is not None:
        require(*extra)
    return path


def check_new_cells(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Return `path` if cells can be written to it in the format of its suffix.

    Raises
    ------
    ValueError, ImportError
        As in `check_writable`.
    FileExistsError, FileNotFoundError
        As in `check_output`.
    """
    path = check_output(check_writable(path), overwrite=overwrite)
    if WRITERS[suffix_of(path)].obs_file:
        check_output(obs_path(path), overwrite=overwrite)
    return path


def write(adata: ad.AnnData, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write cells atomically in the format of the suffix.

    Parameters
    ----------
    adata
        AnnData of shape (n_cells, n_genes). ``.h5ad`` and ``.zarr`` files hold all of it, other formats X,
        `obs` and the names of cells and genes.
    path
        Output path; its suffix selects the format:

        * ``.h5ad`` or ``.zarr``: the formats of AnnData;
        * ``.mtx``: a folder with ``matrix.mtx.gz``, ``features.tsv.gz`` and ``barcodes.tsv.gz``, as
          `scanpy.read_10x_mtx` and R's ``Read10X`` read it, and ``obs.csv``;
        * ``.csv`` or ``.tsv``, also with ``.gz``: a table with cells in rows, and `obs` in the same folder as
          ``cells.obs.csv`` for ``cells.csv``. Names that a spreadsheet would run as a formula (those that
          begin with ``=``, ``+``, ``-`` or ``@``) are prefixed with an apostrophe, which `read` removes and
          other programs treat as part of the name;
        * ``.rds``: a ``SingleCellExperiment`` for R's ``readRDS``; requires ``pip install "vaexprs[r]"``.
    overwrite
        Whether an existing file or folder may be replaced.

    Returns
    -------
    The path.

    Raises
    ------
    TypeError
        If `adata` is not an AnnData, or `path` is not a path.
    ValueError
        If the format is not supported, or cannot hold the cells.
    FileExistsError
        If `path` exists and `overwrite` is false.
    BlockingIOError
        If another process is writing to `path`.
    ImportError
        If ``.rds`` is requested and its package is not installed.
    """
    path = check_writable(path)
    if not isinstance(adata, ad.AnnData):
        raise TypeError(f"adata must be an AnnData, for example gen.adata, got {type(adata).__name__}.")
    chosen = WRITERS[suffix_of(path)]
    if chosen.needs_x:
        if adata.X is None:
            raise ValueError(
                f"adata.X must hold the values for a {suffix_of(path)} file, but adata has no X. Set it, for "
                "example adata.X = adata.layers['counts'], or write .h5ad, which can store cells without X."
            )
        adata = in_memory(adata)
    chosen.write(adata, path, overwrite=overwrite)
    return path


def write_store(adata: ad.AnnData, path: Path, *, overwrite: bool) -> None:
    """Write a complete AnnData as .h5ad or .zarr."""
    obs, var = storable(adata.obs), storable(adata.var)
    if obs is not adata.obs or var is not adata.var:
        adata = adata.copy()
        adata.obs, adata.var = obs, var
    adata.strings_to_categoricals()
    settings = {"compression": "gzip"} if path.suffix == ".h5ad" else {}
    with written_whole(path, overwrite=overwrite) as temporary, _writer(temporary) as writer:
        writer.start(_write_adata, adata, dataset_kwargs=settings)


def write_blocks(
    adata: ad.AnnData, blocks: Iterable[Any], path: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write an AnnData atomically, with X given in blocks of cells so that memory use stays bounded.

    Parameters
    ----------
    adata
        Everything except X.
    blocks
        CSR matrices of shape (n_block, n_genes) that together contain all cells in order.
    path
        ``.h5ad`` file or ``.zarr`` folder.
    overwrite
        Whether an existing file or folder may be replaced.

    Raises
    ------
    ValueError
        If the suffix is neither ``.h5ad`` nor ``.zarr``.
    FileExistsError
        If `path` exists and `overwrite` is false.
    KeyboardInterrupt
        On Ctrl-C. Cells written so far are kept in ``name.partial.h5ad`` in the same folder; the message
        says so.
    """
    path = check_writable(path, BACKED)
    # 64-bit offsets: there may be more than 2**31 values
    settings: dict[str, Any] = {"indptr_dtype": np.int64, "chunks": (VALUES_A_CHUNK[path.suffix],)}
    if path.suffix == ".h5ad":
        # the shuffle filter makes gzip faster and files smaller by a third, because counts are small numbers;
        # every HDF5 library supports both filters
        settings |= {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    with written_whole(path, overwrite=overwrite) as temporary:
        kept: list[int] = []
        try:
            with _writer(temporary) as writer:
                try:
                    writer.start(_write_adata, adata)
                    for i, part in enumerate(_merged(blocks, CELLS_A_WRITE[path.suffix])):
                        if i:
                            writer.start(_append, part)
                        else:
                            writer.start(ad.io.write_elem, "X", part, dataset_kwargs=settings)
                except KeyboardInterrupt:
                    writer.start(_end_early, adata, kept)
                    writer.wait()
                    raise
        except KeyboardInterrupt as stop:
            if kept:
                raise _keep_partial(kept[0], adata.n_obs, temporary, path, overwrite=overwrite) from stop
            raise
    return path


def _end_early(store: Any, adata: ad.AnnData, kept: list[int]) -> None:
    """Truncate the annotation to the cells whose values were written; append their number to `kept`."""
    if "X" not in store:
        return
    n = int(ad.io.sparse_dataset(store["X"]).shape[0])
    uns = dict(adata.uns)
    if "vaexprs" in uns:
        uns["vaexprs"] = dict(uns["vaexprs"]) | {"interrupted": True}
    for name, part in {"obs": adata.obs.iloc[:n], "uns": uns}.items():
        ad.io.write_elem(store, name, part)  # replaces the complete annotation
    kept.append(n)


def _keep_partial(n: int, total: int, temporary: Path, path: Path, *, overwrite: bool) -> KeyboardInterrupt:
    """Rename an incomplete file to ``name.partial``; return the exception that reports it."""
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    try:
        with written_whole(partial, overwrite=overwrite) as other:
            temporary.rename(other)
    except OSError as error:
        return KeyboardInterrupt(f"nothing was kept: {error}")
    return KeyboardInterrupt(
        f"the first {n:,} of {total:,} cells are kept in {str(partial)!r}. Run the same command again for "
        "all of them."
    )


def _write_adata(store: Any, adata: ad.AnnData, **settings: Any) -> None:
    try:
        ad.io.write_elem(store, "/", adata, **settings)
    except (ValueError, TypeError, KeyError) as error:  # for example names that the format cannot hold
        names = [*adata.obs, *adata.var, *adata.layers, *adata.obsm, *adata.varm, *adata.uns]
        slashed = [name for name in map(str, names) if "/" in name]
        if slashed:
            raise ValueError(
                f"Names in this format must not contain a slash, got {slashed[0]!r}. Rename it, or write "
                ".csv or .rds."
            ) from error
        raise ValueError(f"The cells cannot be written: {reason(error).rstrip('.')}.") from error
    if adata.raw is None and "raw" in store:
        del store["raw"]  # a backed AnnData would have raw without X


def _append(store: Any, part: Any) -> None:
    ad.io.sparse_dataset(store["X"]).append(part)


class _Writer:
    """Write to a new file or folder in a separate thread, one task at a time.

    The main thread can prepare the next block in the meantime. Ctrl-C interrupts only the main thread and
    therefore never a write; opening and closing are done in the writing thread too.
    """

    def __init__(self, path: Path) -> None:
        self._resources = ExitStack()
        self._pool = ThreadPoolExecutor(1)
        self._pending: Future[None] = self._pool.submit(self._open, path)

    def start(self, function: Callable[..., None], *arguments: Any, **settings: Any) -> None:
        """Start ``function(store, *arguments, **settings)`` after the previous task has succeeded."""
        self.wait()
        self._pending = self._pool.submit(self._write, function, arguments, settings)

    def wait(self) -> None:
        """Wait for the current task and raise its error, if any."""
        self._pending.result()

    def close(self) -> None:
        """Wait for the current task, even if it fails, and close the file."""
        closed = self._pool.submit(self._resources.close)
        self._pool.shutdown()
        closed.result()

    def _open(self, path: Path) -> None:
        self._store, self._check = self._resources.enter_context(_store(path))

    def _write(self, function: Callable[..., None], arguments: Any, settings: Any) -> None:
        function(self._store, *arguments, **settings)
        self._check()


@contextmanager
def _writer(path: Path) -> Iterator[_Writer]:
    """Yield a `_Writer` for a new file or folder; close it at the end."""
    writer = _Writer(path)
    try:
        yield writer
        writer.wait()
    except BaseException:
        with suppress(Exception):  # the first error is raised
            writer.close()
        raise
    writer.close()


@contextmanager
def _store(path: Path) -> Iterator[tuple[Any, Callable[[], None]]]:
    """Yield a new file or folder opened for AnnData's writers, and a function that raises write errors."""
    if path.suffix == ".h5ad":
        import h5py

        with _SafeFile(path) as disk:
            with h5py.File(disk, "w") as file:
                yield file, disk.check
            disk.check()
    else:
        import zarr

        # write chunks of zeros too, so that a missing chunk reveals an incomplete copy
        with warnings.catch_warnings(), zarr.config.set({"array.write_empty_chunks": True}):
            # announcement of a new default zarr version in anndata
            warnings.filterwarnings("ignore", module="anndata|zarr|vaexprs.io.write|concurrent.futures")
            yield zarr.open_group(path, mode="w", zarr_format=ad.settings.zarr_write_format), lambda: None


def _merged(blocks: Iterable[Any], min_cells: int) -> Iterator[Any]:
    """Yield consecutive blocks merged to at least `min_cells` cells."""
    waiting: list[Any] = []
    for block in blocks:
        waiting.append(block)
        if sum(part.shape[0] for part in waiting) >= min_cells:
            yield stacked(waiting)
            waiting = []
    if waiting:
        yield stacked(waiting)


class _SafeFile(io.FileIO):
    """New file that stores the first write error in `error` instead of raising it.

    HDF5 (2.0.0, h5py 3.16) crashes with a segmentation fault if a write fails while it deletes an object or
    closes the file. After a write error further writes go to memory so that HDF5 can close the file cleanly;
    the caller then removes it. Call `check` often to keep that memory small.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(os.fspath(path), "w+")
        self.error: OSError | None = None
        self._end = 0  # size of the file including writes kept in memory
        self._pages: dict[int, bytearray] = {}

    def check(self) -> None:
        """Raise the stored write error, if any."""
        if self.error is not None:
            raise self.error

    def write(self, data: Any) -> int:
        content, start = memoryview(data).cast("B"), self.tell()
        self._end = max(self._end, start + len(content))
        done = 0
        try:
            while self.error is None and done < len(content):
                done += super().write(content[done:])
        except OSError as error:
            self.error = error
        if self.error is not None:
            self._in_memory(start, content, write=True)
        return len(content)

    def readinto(self, buffer: Any) -> int:
        if self.error is None:
            return super().readinto(buffer)
        content = memoryview(buffer).cast("B")
        self._in_memory(self.tell(), content, write=False)
        return len(content)

    def truncate(self, size: int | None = None) -> int:
        self._end = self.tell() if size is None else size
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return self._end

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            return super().seek(self._end + offset)
        return super().seek(offset, whence)

    def _in_memory(self, start: int, content: memoryview, *, write: bool) -> None:
        """Copy bytes to the pages in memory, or from them."""
        done = 0
        while done < len(content):
            number, offset = divmod(start + done, PAGE)
            page = self._page(number)
            n = min(PAGE - offset, len(content) - done)
            if write:
                page[offset : offset + n] = content[done : done + n]
            else:
                content[done : done + n] = page[offset : offset + n]
            done += n
        super().seek(start + done)

    def _page(self, number: int) -> bytearray:
        if number not in self._pages:
            super().seek(number * PAGE)
            self._pages[number] = bytearray((super().read(PAGE) or b"").ljust(PAGE, b"\0"))
        return self._pages[number]
