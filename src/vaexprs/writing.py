"""Results go to disk whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import threading
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np

from vaexprs._checks import check_path, reason, suffix_of
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
    path = check_path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{str(path)!r} exists already; choose another name or say overwrite.")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"The folder {str(path.absolute().parent)!r} does not exist.")
    return path


@contextmanager
def written_whole(path: str | os.PathLike[str], *, overwrite: bool) -> Iterator[Path]:
    """Give a name beside `path` to write a file or folder to; put it in place of `path` at the end.

    If the body raises, nothing is left behind and what stood at `path` still stands. What a killed process
    left behind is cleared away by the next that writes to `path`.

    Raises
    ------
    FileExistsError, FileNotFoundError
        As `check_output`, before the body and after it.
    BlockingIOError
        If another process is writing to `path`.
    """
    path = Path(path)
    with claimed(path):
        check_output(path, overwrite=overwrite)
        beside, retired = _names_beside(path)
        try:
            with _clear_write_errors(path):
                yield beside
            check_output(path, overwrite=overwrite)  # not everybody who writes asks whether he may
            if path.is_dir() or (path.exists() and beside.is_dir()):
                # a folder cannot be replaced in one step: exchange the two, or set the old one aside first
                if _exchange(beside, path):
                    return
                path.rename(retired)
            try:
                beside.replace(path)
            except BaseException:
                if retired.exists():
                    retired.rename(path)
                raise
        finally:
            _remove(beside)
            if path.exists():
                _remove(retired)


def _names_beside(path: Path) -> tuple[Path, Path]:
    """Return names for what is not yet at `path`, and for what was there; `_clear_away` knows them."""
    tag = uuid.uuid4().hex[:8]
    names = (f".{path.stem}.vaexprs-{tag}{old}{path.suffix}" for old in ("", "-old"))
    beside, retired = map(path.with_name, names)
    return beside, retired


def _clear_away(path: Path) -> None:
    """Remove what killed processes left beside `path`; put back what one had only set aside."""
    name = re.compile(rf"\.{re.escape(path.stem)}\.vaexprs-[0-9a-f]{{8}}(-old)?{re.escape(path.suffix)}")
    try:
        with os.scandir(path.absolute().parent) as entries:
            matches = [match for each in entries if (match := name.fullmatch(each.name))]
    except OSError:  # the folder is gone, or may not be listed
        return
    for match in matches:
        leftover, old = path.with_name(match[0]), match[1]
        with suppress(OSError):  # another user's
            if not old or path.exists():
                _remove(leftover)
            elif leftover.is_dir():
                leftover.rename(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step, if the system can: a process that is killed leaves both whole."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # Linux alone has it
        return False
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of linux/fs.h
    return rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


_CLAIMS = threading.local()  # the paths that this thread has claimed


@contextmanager
def claimed(path: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other processes from writing to `path` until the end.

    The claim is a lock of the system on the file ``.name.lock`` beside it, so it ends with its process,
    however that ends. On a network file system that has locks it holds for other machines too; where there
    are none nobody is kept from anything, and the last to finish is told that something is there.

    Raises
    ------
    BlockingIOError
        If another process, or another thread, has claimed it.
    OSError
        If nothing can be written there.
    """
    path = Path(path)
    key = path.absolute()
    held: set[Path] = _CLAIMS.__dict__.setdefault("held", set())
    if key in held or not key.parent.is_dir():  # `check_output` tells that there is no folder
        yield
        return
    lock = path.with_name(f".{path.name}.lock")
    with _clear_write_errors(path):
        file, locked = _locked(lock, path)
    held.add(key)
    try:
        if locked:  # else what lies there may be another's work
            _clear_away(path)
        yield
    finally:
        held.discard(key)
        if locked:
            _clear_away(path)
            lock.unlink(missing_ok=True)
        os.close(file)
        if not locked:  # Windows removes no open file
            lock.unlink(missing_ok=True)


def _locked(lock: Path, path: Path) -> tuple[int, bool]:
    """Open a file and lock it; return its descriptor, and whether the file system has locks."""
    try:
        import fcntl
    except ImportError:  # Windows, which does not let go of an open file either
        return os.open(lock, os.O_RDWR | os.O_CREAT, 0o666), False
    while True:
        file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # whoever had it before may have removed it since it was opened
            if os.path.samestat(os.fstat(file), lock.stat()):
                return file, True
        except FileNotFoundError:
            pass
        except BlockingIOError as error:
            os.close(file)
            raise BlockingIOError(
                f"{str(path)!r} is being written by another process. Wait for it, or choose another name."
            ) from error
        except OSError:
            return file, False
        os.close(file)


@contextmanager
def _set_aside(path: Path) -> Iterator[Callable[[], None]]:
    """Give what takes away the file at `path` until another is put there; if none is, it comes back."""
    _, retired = _names_beside(path)

    def take() -> None:
        if path.exists():
            path.rename(retired)

    try:
        yield take
    finally:
        if retired.exists():
            if path.exists():
                retired.unlink()
            else:
                retired.rename(path)


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
    path = check_path(path)
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
    path = check_output(check_writable(path), overwrite=overwrite)
    if suffix_of(path).removesuffix(".gz") in TABLES:
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
    suffix = suffix_of(path)
    if not isinstance(adata, ad.AnnData):
        raise TypeError(f"adata must be an AnnData, such as gen.adata, got {type(adata).__name__}.")
    if suffix in STORES:
        adata.strings_to_categoricals()
        settings = {"compression": "gzip"} if suffix == ".h5ad" else {}
        with written_whole(path, overwrite=overwrite) as beside, _writer(beside) as writer:
            writer.start(_write_adata, adata, dataset_kwargs=settings)
        return path
    if adata.X is None:
        raise ValueError(
            f"The AnnData must have the values for a {suffix} file in X, but has no X. Put them there, as in "
            "adata.X = adata.layers['counts'], or write .h5ad, which holds cells without X too."
        )
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
            claimed(path),
            _set_aside(path) as take_away,
            written_whole(path, overwrite=overwrite) as beside,
            written_whole(obs_path(path), overwrite=overwrite) as columns,
        ):
            write_obs(columns, adata.obs)
            write_table(adata, beside, separator, compressed=packed)
            # two names cannot change in one step: in between there is no table rather than one with the
            # columns of another
            take_away()
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
    KeyboardInterrupt
        On Ctrl-C. What is written then is kept in ``name.partial.h5ad`` beside `path`; the message says so.
    """
    path = check_writable(path, STORES)
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
