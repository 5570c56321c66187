"""Check that the tables and sparse matrices of an AnnData file are complete and consistent."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import scipy.sparse as sp

from vaexprs.data.matrix import check_compressed, falls
from vaexprs.interface.errors import FileFormatError, warn


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
        if text_attribute(part, "encoding-type") != "dataframe" and not of_old:
            raise LookupError(f"its {name!r} is not a table.")
    layers = group.get("layers", {})
    for part in (*([group["X"]] if "X" in group else []), *(layers[name] for name in layers)):
        check_matrix(part, path)


def text_attribute(part: Any, name: str) -> str:
    """Return a text among the attributes of a part of a file; an empty one where there is none.

    Julia's writer has texts of one length, which h5py gives as bytes.
    """
    told = part.attrs.get(name, "")
    return told.decode("utf-8", "replace") if isinstance(told, bytes) else str(told)


def check_row_ends(part: Any, path: Path) -> None:
    """Check that a sparse matrix has an end for each row that it claims: room is made for them before.

    Raises
    ------
    ValueError
        If it has not.
    """
    kind = text_attribute(part, "encoding-type") or text_attribute(part, "h5sparse_format")
    if kind not in ("csr_matrix", "csc_matrix", "csr", "csc"):
        return
    shape = part.attrs.get("shape", part.attrs.get("h5sparse_shape", ()))
    rows = int(shape[int(kind.startswith("csc"))])
    if "indptr" not in part or part["indptr"].shape != (rows + 1,):
        why = "does not fit its shape" if "indptr" in part else "is missing"
        raise _not_whole(path, f"'indptr' of {part.name.strip('/')!r} {why}")


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


def check_matrix(part: Any, path: Path) -> None:
    """Check that the arrays of a matrix on disk are there and fit together, as far as that is cheap.

    A chunk that a Zarr store lacks is read as zeros, and one of nothing but zeros is never written. So of a
    sparse matrix all chunks must be there, but of a dense one some may rightly be missing.
    """
    kind, name = text_attribute(part, "encoding-type"), part.name.strip("/")
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
    return FileFormatError(f"{str(path)!r} is not whole: {why}. Copy or write it anew.")
