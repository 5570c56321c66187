"""Any accepted input becomes an AnnData, and results go back to disk whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
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
    path = Path(path)
    if path.suffix not in READABLE:
        raise ValueError(f"The file must be one of {', '.join(READABLE)}, got {path.name!r}.")
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return ad.read_h5ad(path) if path.suffix == ".h5ad" else ad.read_zarr(path)
    except Exception as error:  # h5py, zarr and anndata each have their own: a stranger's file may raise any
        raise ValueError(f"{str(path)!r} cannot be read as {path.suffix}: {reason(error)}") from error


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
        writer.start(ad.io.write_elem, "/", adata, dataset_kwargs=settings)
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
        writer.start(ad.io.write_elem, "/", adata)
        for i, part in enumerate(_gathered(blocks, CELLS_A_WRITE[path.suffix])):
            if i:
                writer.start(_append, part)
            else:
                writer.start(ad.io.write_elem, "X", part, dataset_kwargs=settings)
    return path


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
    """Return matrices one below the other."""
    if len(parts) == 1:
        return parts[0]
    return sp.vstack(parts, format="csr") if sp.issparse(parts[0]) else np.concatenate(parts)


def open_backed(path: str | os.PathLike[str]) -> ad.AnnData:
    """Open what `write_blocks` wrote, with X left on disk."""
    path = Path(path)
    if path.suffix == ".h5ad":
        return ad.read_h5ad(path, backed="r")
    import zarr

    store = zarr.open_group(path, mode="r")
    parts = {name: ad.io.read_elem(store[name]) for name in ("obs", "var", "uns")}
    return ad.AnnData(ad.io.sparse_dataset(store["X"]), **parts)


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


def _take_layer(adata: ad.AnnData, layer: str | None) -> ad.AnnData:
    if layer is not None and layer not in adata.layers:
        raise ValueError(
            f"layer must be one of {some(list(adata.layers)) or 'none: there are no layers'}, got {layer!r}."
            f"{did_you_mean(layer, adata.layers)}"
        )
    values = adata.X if layer is None else adata.layers[layer]
    if values is None:
        raise ValueError("The AnnData has no X. Name the layer with the counts: layer='counts'.")
    if layer is None and "counts" in adata.layers and not _whole(values) and _whole(adata.layers["counts"]):
        warnings.warn(
            "X holds fractions while layers['counts'] holds counts; X is used. "
            "For counts pass layer='counts'.",
            UserWarning,
            stacklevel=4,
        )
    if adata.isbacked and layer is None:
        values = adata.X[:]
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
