"""Matrices left on disk, and the stores they are in: .h5ad and .zarr."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from vaexprs._checks import did_you_mean, reason, some, warn
from vaexprs.chunks import misread
from vaexprs.counts import AS_IT_IS, AS_IT_IS_SAID, SAMPLE, count_names, holds_counts, recovered
from vaexprs.heaps import endless_heap
from vaexprs.matrices import Matrix, as_float, check_compressed, falls, stacked

STORES = (".h5ad", ".zarr")
IN_MEMORY = 64 * 2**20  # bytes of a matrix on disk up to which it is read as a whole
NAMES_AT_ONCE = 16_384  # that are read of those of cells on disk
BLOCK_BYTES = 16 * 2**20  # of a larger one read at once
ALWAYS_UNPACKED = 256 * 2**20  # bytes that an array may claim whatever is there of it, ...
MOST_UNPACKED = 1_032  # ... and for each byte that is there: gzip can make no more of one
# of Zarr's codecs those that make nothing but numbers and text; "pickle" is another one
CODECS = """
    adler32 astype bitround blosc bytes bz2 crc32 crc32c delta fixedscaleoffset fletcher32 gzip lz4
    lzma packbits quantize sharding_indexed shuffle transpose vlen-bytes vlen-utf8 zlib zstd
"""
BLOSC_HEADER = 16  # bytes, the last four of which say how long the chunk is
GAP_BYTES = 256 * 2**10  # of rows between two that are wanted, up to which they are read along


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
    return adata if adata.X is None or file_of(adata.X) is None else adata.to_memory()


def note_of(path: str | os.PathLike[str], name: str) -> Any:
    """Return what a file has in ``uns[name]``; None where there is no such thing."""
    if Path(path).suffix not in STORES:
        return None
    group = open_group(path)
    with damage_told(Path(path)):
        return ad.io.read_elem(group["uns"][name]) if "uns" in group and name in group["uns"] else None


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
            raise Told(
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


class Told(ValueError):
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


def open_large(obj: Any, *, layer: str | None, keys: Sequence[str]) -> DiskCells | None:
    """Return cells with their matrix left on disk; None for what is in memory or may as well be read.

    Parameters
    ----------
    obj
        A path, or an AnnData whose X is on disk, or a view of one. Only ``.h5ad`` and ``.zarr`` are left
        on disk.
    layer
        The layer with the values, "X" for X; by default what holds counts of X, layers with a name that
        says so, and raw.
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
        return _open_file(Path(obj), layer, keys) if Path(obj).suffix in STORES else None
    if not isinstance(obj, ad.AnnData) or layer not in (None, AS_IT_IS):
        return None
    whole = obj._adata_ref if obj.is_view else obj
    source = whole.X
    if source is None or isinstance(source, np.ndarray) or sp.issparse(source):
        return None
    file = file_of(source)
    matrix = None if file is None else _disk_matrix(source, file)
    if matrix is None:
        return None
    if layer is None and not holds_counts(source):
        others = [whole.layers[name] for name in count_names(whole.layers)]
        if any(map(holds_counts, others if whole.raw is None else [*others, whole.raw.X])):
            return None  # those are in memory, or small: `from_object` takes them
        _tell_logarithms(source)
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
    with damage_told(path):
        layers = list(group["layers"]) if "layers" in group else []
        places = _places(group, layers) if layer is None else {}
    if layer == AS_IT_IS not in layers:
        places = {AS_IT_IS: "X"} if "X" in group else {}
    elif layer is not None:
        if layer not in layers:
            raise no_layer(layer, layers)
        places = {layer: f"layers/{layer}"}
    if not places:
        raise no_x()
    with damage_told(path):
        sources = {
            name: source for name, at in places.items() if (source := _matrix_in(group[at])) is not None
        }
        name = next(
            (name for name in sources if len(places) > 1 and holds_counts(sources[name])), next(iter(places))
        )
        source = sources.get(name)
        matrix = None if source is None else _disk_matrix(source, path)
        if matrix is not None and layer is None:
            if name != next(iter(places)):
                warn(f"X holds no counts; those in {name} are used. {AS_IT_IS_SAID}")
            elif not holds_counts(source):
                _tell_logarithms(source)
        if matrix is None:
            return None
        rows, columns = matrix.shape
        obs, names = _columns_in(group["obs"], keys), _names_in(group["raw/var" if name == "raw" else "var"])
        if len(obs) != rows or len(names) != columns:
            raise IndexError(
                f"its matrix is of {rows:,} cells x {columns:,} genes, but there are names of {len(obs):,} "
                f"cells and {len(names):,} genes."
            )
        return DiskCells(matrix, obs, names, group["obs"][group["obs"].attrs["_index"]])


def _places(group: Any, layers: Sequence[str]) -> dict[str, str]:
    """Return where counts may be in a file, by what the places are called."""
    places = {AS_IT_IS: "X"} if "X" in group else {}
    places |= {f"layers[{name!r}]": f"layers/{name}" for name in count_names(layers)}
    return places | ({"raw": "raw/X"} if "raw" in group and "X" in group["raw"] else {})


def _tell_logarithms(source: Any) -> None:
    """Warn where a matrix that is left on disk holds logarithms that counts could be recovered from."""
    if getattr(source, "format", "") != "csc" and recovered(as_float(source[:SAMPLE])) is not None:
        warn(
            "X holds logarithms of normalised counts and is left on disk, where they are taken as they are. "
            "To have the counts recovered read it into memory: read(path) instead of the path."
        )


@contextmanager
def damage_told(path: Path) -> Iterator[None]:
    """Turn what readers raise over a damaged file into one sentence."""
    try:
        yield
    except (Told, MemoryError, Warning):  # a warning is one where the user asks for that
        raise
    except ImportError as error:
        if error.name is None:  # `require` has said what to install
            raise
        what = str(error).partition(" from ")[0]
        raise ImportError(
            f"{str(path)!r} holds something that is read with a package which is not installed ({what}). "
            "Install it with pip."
        ) from error
    except Exception as error:  # h5py, zarr and others each have their own: a stranger's file may raise any
        form = path.suffix or "a folder"
        raise Told(f"{str(path)!r} cannot be read as {form}: {reason(error)}") from error


def open_group(path: str | os.PathLike[str]) -> Any:
    """Open an ``.h5ad`` or ``.zarr`` file for reading.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    ValueError
        If the file is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    with damage_told(path):
        if path.suffix == ".h5ad":
            import h5py

            check_hdf5(path, path)
            return h5py.File(path, "r")
        import zarr

        group = zarr.open_group(path, mode="r")
        check_zarr(group, path)
        return group


def _matrix_in(part: Any) -> Any:
    """Return a matrix on disk; None where its form is left to AnnData's reader, with its messages."""
    kind = _told(part, "encoding-type")
    if kind in ("csr_matrix", "csc_matrix"):
        return ad.io.sparse_dataset(part)
    return part if kind == "array" else None


def _disk_matrix(source: Any, path: Path) -> DiskMatrix | None:
    matrix = DiskMatrix(source, path, stamp_of(path, _part(source).name))
    if matrix.nbytes <= IN_MEMORY:
        return None
    if getattr(source, "format", "csr") != "csr":
        raise Told(
            f"{str(path)!r} holds its matrix by genes (CSC), and cells cannot be read from that one after "
            "the other. Write it by cells: adata.X = scipy.sparse.csr_matrix(adata.X)."
        )
    _check_matrix(_part(source), path)
    return matrix


def check_store(path: Path) -> None:
    """Check that the matrices of a file are whole, and that it holds what it claims to hold."""
    group = open_group(path)
    with group if path.suffix == ".h5ad" else nullcontext():  # an error would keep the file open
        check_parts(group, path)


def check_parts(group: Any, path: Path) -> None:
    """Check that an AnnData in a file has its tables, and that its matrices are whole.

    Without tables names would be made for as many cells and genes as a matrix claims.

    Raises
    ------
    LookupError
        If a table is missing.
    ValueError
        If something is not what it should be, or not whole.
    """
    raw = [each for each in ("raw/", "raw.") if f"{each}X" in group]
    for name in ("obs", "var", *(f"{each}var" for each in raw)):
        if name not in group:
            raise LookupError(f"it has no {name!r}.")
        part = group[name]
        of_old = getattr(getattr(part, "dtype", None), "names", None)  # then a table was one array
        if _told(part, "encoding-type") != "dataframe" and not of_old:
            raise LookupError(f"its {name!r} is not a table.")
    layers = group.get("layers", {})
    for part in (*([group["X"]] if "X" in group else []), *(layers[name] for name in layers)):
        _check_matrix(part, path)


def _told(part: Any, name: str) -> str:
    """Return a text among the attributes of a part of a file; an empty one where there is none.

    Julia's writer has texts of one length, which h5py gives as bytes.
    """
    told = part.attrs.get(name, "")
    return told.decode("utf-8", "replace") if isinstance(told, bytes) else str(told)


def _check_ends(part: Any, path: Path) -> None:
    """Check that a sparse matrix has an end for each row that it claims: room is made for them before.

    Raises
    ------
    ValueError
        If it has not.
    """
    kind = _told(part, "encoding-type") or _told(part, "h5sparse_format")
    if kind not in ("csr_matrix", "csc_matrix", "csr", "csc"):
        return
    shape = part.attrs.get("shape", part.attrs.get("h5sparse_shape", ()))
    rows = int(shape[int(kind.startswith("csc"))])
    if "indptr" not in part or part["indptr"].shape != (rows + 1,):
        why = "does not fit its shape" if "indptr" in part else "is missing"
        raise _not_whole(path, f"'indptr' of {part.name.strip('/')!r} {why}")


def check_hdf5(source: Any, path: Path, *, packed: bool = True) -> int:
    """Check that an HDF5 file holds what it claims to hold, and nothing of other files.

    A dataset may say any shape without a value behind it, and lie in any other file. What was packed may be a
    thousand times as large as its file, but not more.

    Parameters
    ----------
    source
        The file, or its content.
    path
        Its name, for the message.
    packed
        Whether values may be packed; if not, each must be there.

    Returns
    -------
    Number of values in all datasets.

    Raises
    ------
    ValueError
        If it does not.
    """
    import h5py

    place = endless_heap(source)
    if place is not None:
        raise Told(
            f"{str(path)!r} is damaged: the heap of texts at byte {place:,} has no end. Copy it anew, or "
            "repack it with h5repack."
        )
    total = 0
    with h5py.File(source, "r") as file:
        for name, part in _in_hdf5(file, path):
            if part.external or part.is_virtual:
                raise Told(f"{str(path)!r} keeps {name!r} in another file; write it anew with all in one.")
            if not _is_plain(part.dtype):
                raise Told(f"{str(path)!r} holds {name!r}, which is neither numbers nor text.")
            if part.shape is None:
                continue
            size, there = part.size * part.dtype.itemsize, part.id.get_storage_size()
            if (size > there) if not packed else size > max(ALWAYS_UNPACKED, MOST_UNPACKED * there):
                raise Told(
                    f"{str(path)!r} claims {size:,} bytes of {name!r}, shape {part.shape}, but holds "
                    f"{there:,}."
                )
            why = misread(part)
            if why is not None:
                raise Told(
                    f"{str(path)!r} is not safe to read: {name!r} {why}. Copy it anew, or write it with gzip."
                )
            total += int(part.size)
    return total


def _is_plain(kind: np.dtype) -> bool:
    """Whether values are numbers or text; HDF5 crashes over other sequences in damaged files."""
    import h5py

    if kind.names is not None:
        return all(_is_plain(kind[name]) for name in kind.names)
    if kind.subdtype is not None:
        return _is_plain(kind.subdtype[0])
    return kind.kind != "O" or h5py.check_string_dtype(kind) is not None


def _check_attributes(part: Any, path: Path) -> None:
    """Check that the attributes of a part of a file are numbers, text, or where other parts are."""
    import h5py

    for name in part.attrs:
        kind = part.attrs.get_id(name).dtype
        if not _is_plain(kind) and h5py.check_ref_dtype(kind) is None:
            raise Told(
                f"{str(path)!r} holds {name!r}, an attribute of {part.name!r}, which is neither numbers nor "
                "text."
            )


def _in_hdf5(file: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """Yield name and dataset of all in a file that stands in no other one."""
    import h5py

    waiting, seen = [file], set()
    _check_attributes(file, path)
    while waiting:
        group = waiting.pop()
        for key in group:
            link, name = group.get(key, getlink=True), f"{group.name.rstrip('/')}/{key}"
            if isinstance(link, h5py.ExternalLink):
                raise Told(f"{str(path)!r} keeps {name!r} in another file; write it anew with all in one.")
            if isinstance(link, h5py.SoftLink):
                continue  # to something of the same file, which is come upon there
            part = group[key]
            _check_attributes(part, path)
            if isinstance(part, h5py.Dataset):
                yield name, part
            elif isinstance(part, h5py.Group):
                mark = h5py.h5o.get_info(part.id).addr
                if mark not in seen:  # a group may hold itself
                    _check_ends(part, path)
                    seen.add(mark)
                    waiting.append(part)


def check_zarr(group: Any, path: Path) -> None:
    """Check that the arrays of a Zarr store hold what they claim to hold, and are unpacked by known codecs.

    Those of version 2 name their codecs, and one of them is Python's pickle, which runs code.

    Raises
    ------
    ValueError
        If they do not.
    """
    _guard_codecs()
    for name, part in _in_zarr(group, path):
        unknown = sorted(set(_codecs(part.metadata.to_dict())) - set(CODECS.split()))
        if unknown:
            raise Told(
                f"{str(path)!r} packs {name!r} with {some(unknown)}, which is not among the codecs that only "
                "unpack numbers and text. Write it anew with the defaults of zarr."
            )
        size = int(part.size) * part.dtype.itemsize
        if size > ALWAYS_UNPACKED and size > MOST_UNPACKED * _bytes_in(path / name):
            raise Told(
                f"{str(path)!r} claims {size:,} bytes of {name!r}, shape {part.shape}, but holds "
                f"{_bytes_in(path / name):,}."
            )


def _in_zarr(group: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """Yield name and array of all in a Zarr store, which must be a tree."""
    import zarr

    waiting = [group]
    while waiting:
        within = waiting.pop()
        folder = path / within.path
        for each in folder.iterdir() if folder.is_dir() else ():  # it may be in consolidated metadata only
            # Zarr takes a backslash for a slash, and so a group named by one for the group that it is in
            if "\\" in each.name or (each.is_symlink() and each.is_dir()):
                raise Told(
                    f"{str(path)!r} holds {each.name!r}, which leads to another folder. Write it anew."
                )
        for key, part in _members(within, folder):
            if isinstance(part, zarr.Array):
                yield f"{within.path}/{key}".lstrip("/"), part
            else:
                _check_ends(part, path)
                waiting.append(part)


def _members(group: Any, folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield name and content of what is in a group.

    One after the other: of several damaged ones that Zarr reads at once it tells one, and asyncio writes the
    tracebacks of the others to the terminal.
    """
    if group.metadata.consolidated_metadata is not None:
        yield from group.members(max_depth=0)
        return
    for each in sorted(folder.iterdir()):
        if any((each / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup")):
            yield each.name, group[each.name]


def _guard_codecs() -> None:
    """Have the codecs that believe what a chunk says of its size look whether it can be so.

    Blosc reads beyond a chunk that says that it is longer, and texts are made room for before they are read.
    It is in the codecs since chunks may be in shards, and are read much later where a matrix stays on disk.
    """
    from numcodecs import blosc, vlen

    def told(chunk: Any, at: int) -> int:
        return int.from_bytes(bytes(chunk[at : at + 4]), "little")

    def of_blosc(chunk: Any) -> bool:
        return len(chunk) >= BLOSC_HEADER and told(chunk, BLOSC_HEADER - 4) <= len(chunk)

    def of_texts(chunk: Any) -> bool:  # their number, and then the length of each
        return len(chunk) >= 4 and 4 * told(chunk, 0) <= len(chunk) - 4

    for codec, holds in ((blosc.Blosc, of_blosc), (vlen.VLenUTF8, of_texts), (vlen.VLenBytes, of_texts)):
        if not hasattr(codec.decode, "unguarded"):
            codec.decode = _guarded(codec.decode, holds)


def _guarded(decode: Callable[..., Any], holds: Callable[[Any], bool]) -> Callable[..., Any]:
    @functools.wraps(decode)
    def checked(self: Any, buf: Any, out: Any = None) -> Any:
        if not holds(memoryview(buf).cast("B")):
            raise ValueError("a chunk is not as long as it says")
        return decode(self, buf, out)

    checked.unguarded = decode  # type: ignore[attr-defined]
    return checked


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _codecs(about: Any) -> Iterator[str]:
    """Yield the names of the codecs in the metadata of an array, those within codecs too."""
    for key in ("filters", "compressor", "codecs", "index_codecs"):
        given = about.get(key) or ()
        for codec in given if isinstance(given, (list, tuple)) else (given,):
            name = codec.get("id", codec.get("name", codec)) if isinstance(codec, dict) else codec
            yield str(name).removeprefix("numcodecs.")
            if isinstance(codec, dict) and isinstance(codec.get("configuration"), dict):
                yield from _codecs(codec["configuration"])


def check_sparse(cells: ad.AnnData) -> None:
    """Check that the sparse matrices of cells name only rows and columns that they have.

    SciPy reads wherever they point to.

    Raises
    ------
    ValueError
        If they do not.
    """
    raw = () if cells.raw is None else (cells.raw.X,)
    held = (cells.layers, cells.obsm, cells.varm, cells.obsp, cells.varp)
    for x in (cells.X, *raw, *(each for part in held for each in part.values())):
        if sp.issparse(x) and hasattr(x, "check_format"):
            check_compressed(x)


def _check_matrix(part: Any, path: Path) -> None:
    """Check that the arrays of a matrix on disk are there and fit together, as far as that is cheap.

    A chunk that a Zarr store lacks is read as zeros, and one of nothing but zeros is never written. So of a
    sparse matrix all chunks must be there, but of a dense one some may rightly be missing.
    """
    kind, name = _told(part, "encoding-type"), part.name.strip("/")
    if kind == "array":
        missing, of = _missing_chunks(part)
        if missing and missing == of:
            raise _not_whole(path, f"all {of:,} chunks of {name!r} are missing")
        if missing:
            warn(
                f"{str(path)!r} has no values in {missing:,} of the {of:,} chunks of {name!r}: they count as "
                "zeros. If it was not copied as a whole, copy it anew."
            )
    elif kind in ("csr_matrix", "csc_matrix"):
        major = int(part.attrs["shape"][int(kind == "csc_matrix")])
        ends, n = np.asarray(part["indptr"][:]), int(part["data"].size)
        if len(ends) != major + 1 or ends[0] or ends[-1] != n or part["indices"].size != n or falls(ends):
            raise _not_whole(path, f"'indptr', 'indices' and 'data' of {name!r} do not fit together")
        # where there is but one value a cell it may be the first gene's each time
        for array in ("data", "indices") if n > len(ends) else ("data",):
            missing, of = _missing_chunks(part[array])
            if missing:
                raise _not_whole(path, f"{missing:,} of {of:,} chunks of {f'{name}/{array}'!r} are missing")


def _missing_chunks(array: Any) -> tuple[int, int]:
    """Return how many chunks (or shards of them) a Zarr array lacks, and should have; none of HDF5."""
    if not hasattr(array, "nchunks_initialized") or not array.size:
        return 0, 0
    pieces = array.shards or array.chunks
    together = math.prod(size // chunk for size, chunk in zip(pieces, array.chunks, strict=True))
    of = math.prod(-(-n // size) for n, size in zip(array.shape, pieces, strict=True))
    return of - array.nchunks_initialized // together, of


def _not_whole(path: Path, why: str) -> ValueError:
    return Told(f"{str(path)!r} is not whole: {why}. Copy or write it anew.")


def _columns_in(group: Any, keys: Sequence[str]) -> pd.DataFrame:
    """Return columns of a data frame on disk, rows numbered; where one is missing all, for the message."""
    if _told(group, "encoding-version") != "0.2.0":  # levels were kept elsewhere
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


def file_of(source: Any) -> Path | None:
    """Return the HDF5 file or the folder of the Zarr store that a matrix is in; None for others."""
    part = _part(source)
    name = getattr(getattr(part, "file", None), "filename", None)
    root = getattr(getattr(part, "store", None), "root", None) if name is None else name
    return None if root is None else Path(root)


def no_layer(layer: str, known: Sequence[str]) -> ValueError:
    """Return the error for a layer that is not there."""
    return ValueError(
        f"layer must be one of {some(known) or 'none: there are no layers'}, got {layer!r}."
        f"{did_you_mean(layer, known)}"
    )


def no_x() -> ValueError:
    """Return the error where there is no X."""
    return ValueError("The AnnData has no X. Name the layer with the counts: layer='counts'.")


def library_sizes(x: Matrix | DiskMatrix) -> np.ndarray:
    """Return the sum of each row, (n_cells,), float64."""
    return np.concatenate([np.asarray(block.sum(axis=1), np.float64).ravel() for block in row_blocks(x)])


def row_blocks(x: Matrix | DiskMatrix) -> Iterator[Matrix]:
    """Yield all rows of a matrix in order: at once where it is in memory, else block by block."""
    if not isinstance(x, DiskMatrix):
        yield x
        return
    step = x.rows_in(BLOCK_BYTES)
    for first in range(0, x.shape[0], step):
        yield x[first : first + step]
