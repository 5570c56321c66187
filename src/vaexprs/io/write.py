"""Write cells to a file of any supported format."""

from __future__ import annotations

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
from vaexprs.data.matrix import stacked
from vaexprs.interface.errors import reason, require
from vaexprs.interface.validation import check_path
from vaexprs.io.atomic import check_output, written_whole
from vaexprs.io.disk import SafeFile
from vaexprs.io.formats import BACKED, WRITERS, suffix_of
from vaexprs.io.tables import obs_path

# Each write to zarr has its price; HDF5 writes few cells as fast as many, and begins the sooner.
CELLS_A_WRITE = {".h5ad": 4_096, ".zarr": 16_384}
VALUES_A_CHUNK = {".h5ad": 65_536, ".zarr": 262_144}


def check_writable(path: str | os.PathLike[str], suffixes: Sequence[str] = tuple(WRITERS)) -> Path:
    """Return `path` if it ends in the suffix of a format that can be written.

    Raises
    ------
    ValueError
        If it does not.
    ImportError
        If the format needs a package that is not installed.
    """
    path = check_path(path)
    suffix = suffix_of(path)
    if suffix not in suffixes:
        raise ValueError(f"The output must be one of {', '.join(suffixes)}, got {path.name!r}.")
    extra = WRITERS[suffix].extra
    if extra is not None:
        require(*extra)
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
    path = check_output(check_writable(path), overwrite=overwrite)
    if WRITERS[suffix_of(path)].oriented and suffix_of(path) != ".rds":
        check_output(obs_path(path), overwrite=overwrite)
    return path


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
    TypeError
        If `adata` is no AnnData, or `path` no path.
    ValueError
        If the suffix is another one, or the format cannot hold the cells.
    FileExistsError
        If there is something and `overwrite` is false.
    BlockingIOError
        If another process is writing there.
    ImportError
        If ``.rds`` is asked for and its package is not installed.
    """
    path = check_writable(path)
    if not isinstance(adata, ad.AnnData):
        raise TypeError(f"adata must be an AnnData, such as gen.adata, got {type(adata).__name__}.")
    chosen = WRITERS[suffix_of(path)]
    if chosen.needs_x:
        if adata.X is None:
            raise ValueError(
                f"adata.X must hold the values for a {suffix_of(path)} file, but adata has no X. Set "
                "adata.X = adata.layers['counts'], say, or write .h5ad, which can store cells without X."
            )
        adata = in_memory(adata)
    chosen.write(adata, path, overwrite=overwrite)
    return path


def write_store(adata: ad.AnnData, path: Path, *, overwrite: bool) -> None:
    """Write all of an AnnData as .h5ad or .zarr."""
    adata.strings_to_categoricals()
    settings = {"compression": "gzip"} if path.suffix == ".h5ad" else {}
    with written_whole(path, overwrite=overwrite) as temporary, _writer(temporary) as writer:
        writer.start(_write_adata, adata, dataset_kwargs=settings)


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
    KeyboardInterrupt
        On Ctrl-C. What is written then is kept in ``name.partial.h5ad`` beside `path`; the message says so.
    """
    path = check_writable(path, BACKED)
    # offsets of 64 bits: there may be more than 2**31 values
    settings: dict[str, Any] = {"indptr_dtype": np.int64, "chunks": (VALUES_A_CHUNK[path.suffix],)}
    if path.suffix == ".h5ad":
        # counts are small: with their bytes sorted by significance gzip takes two thirds of the time, and the
        # file two thirds of the room; HDF5 has both filters wherever it is read
        settings |= {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    with written_whole(path, overwrite=overwrite) as beside:
        kept: list[int] = []
        try:
            with _writer(beside) as writer:
                try:
                    writer.start(_write_adata, adata)
                    for i, part in enumerate(_gathered(blocks, CELLS_A_WRITE[path.suffix])):
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
                raise _kept(kept[0], adata.n_obs, beside, path, overwrite=overwrite) from stop
            raise
    return path


def _end_early(store: Any, adata: ad.AnnData, kept: list[int]) -> None:
    """Cut the annotation down to the cells whose values are there, and tell how many those are."""
    if "X" not in store:
        return
    n = int(ad.io.sparse_dataset(store["X"]).shape[0])
    uns = dict(adata.uns)
    if "vaexprs" in uns:
        uns["vaexprs"] = dict(uns["vaexprs"]) | {"interrupted": True}
    for name, part in {"obs": adata.obs.iloc[:n], "uns": uns}.items():
        ad.io.write_elem(store, name, part)  # in place of what is there
    kept.append(n)


def _kept(n: int, of: int, beside: Path, path: Path, *, overwrite: bool) -> KeyboardInterrupt:
    """Keep a part of the cells under a name that says so; return what tells of it."""
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    try:
        with written_whole(partial, overwrite=overwrite) as other:
            beside.rename(other)
    except OSError as error:
        return KeyboardInterrupt(f"nothing was kept: {error}")
    return KeyboardInterrupt(
        f"the first {n:,} of {of:,} cells are kept in {str(partial)!r}. The same command makes all of them."
    )


def _write_adata(store: Any, adata: ad.AnnData, **settings: Any) -> None:
    try:
        ad.io.write_elem(store, "/", adata, **settings)
    except (ValueError, TypeError, KeyError) as error:  # names that the format cannot hold
        names = [*adata.obs, *adata.var, *adata.layers, *adata.obsm, *adata.varm, *adata.uns]
        slashed = [name for name in map(str, names) if "/" in name]
        if slashed:
            raise ValueError(
                f"Names in this format cannot have a slash, as {slashed[0]!r} has. Rename it, or write "
                ".csv or .rds."
            ) from error
        raise ValueError(f"The cells cannot be written: {reason(error).rstrip('.')}.") from error
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
            warnings.filterwarnings("ignore", module="anndata|zarr|vaexprs.io.write|concurrent.futures")
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
