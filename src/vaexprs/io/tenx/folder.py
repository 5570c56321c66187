"""Read folders with matrix.mtx and lists of genes and cells."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from vaexprs.data.matrix import as_float
from vaexprs.interface.errors import FileFormatError, warn
from vaexprs.interface.validation import listed
from vaexprs.io.tables.annotation import read_obs, with_obs
from vaexprs.io.tenx.companions import STANDARD, Companions, find_companions
from vaexprs.io.tenx.features import genes_only
from vaexprs.io.tenx.names import read_names
from vaexprs.io.untrusted.archives import check_decompressed_size, is_compressed, open_decompressed

OBS = "obs.csv"
KINDS = ("integer", "real", "pattern", "double")
ENTRIES_AT_ONCE = 2**22  # entries of a matrix that are parsed at once
MAX_LINE = 2**16  # maximum length in bytes of a line of the header
MIN_BYTES = 4  # minimum length in bytes of an entry of a matrix
MAX_RATIO = 1_032  # maximum ratio of decompressed to compressed bytes of gzip


def read_folder(path: Path) -> ad.AnnData:
    """Read a sparse matrix with its lists of genes and cells, each also compressed.

    The path is a folder, or one of its matrices, which is then read itself. Genes are named by their symbols,
    made unique; ``var["gene_ids"]`` holds the identifiers. Columns of `obs` are read from ``obs.csv`` if it
    exists.
    """
    files = find_companions(path)
    for part in (files.matrix, files.genes, files.cells):
        check_decompressed_size(part)
    head = _read_head(files.matrix)
    transposed = _has_cells_in_rows(files, head)
    n_genes, n_cells = head.shape[::-1] if transposed else head.shape
    features, cells = read_names(files.genes, n_genes), read_names(files.cells, n_cells)[0]
    if (n_genes, n_cells) != (len(features), len(cells)):
        raise FileFormatError(
            f"{str(files.matrix)!r} has {head.shape[0]:,} genes x {head.shape[1]:,} cells, but "
            f"{files.genes.name} has {len(features):,} rows and {files.cells.name} has {len(cells):,}."
        )
    x = _entries(files.matrix, head)  # columns of the file in rows
    x = as_float(x.T if transposed else x)
    ids, symbols = features[0], features[min(1, features.shape[1] - 1)]
    if _n_identifiers(symbols) > len(symbols) / 2 > _n_identifiers(ids):  # symbols come first
        ids, symbols = symbols, ids
    var = pd.DataFrame({"gene_ids": ids.to_numpy()}, index=symbols.to_numpy())
    if features.shape[1] > 2:
        var["feature_types"] = features[2].to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gene names are made unique below
        adata = ad.AnnData(x, obs=pd.DataFrame(index=pd.Index(cells.to_numpy())), var=var)
    annotation = files.matrix.parent / OBS
    is_own = STANDARD.fullmatch(files.matrix.name) is not None and annotation.is_file()
    table = read_obs(annotation) if is_own else None
    return with_obs(genes_only(adata, path), table)


def _n_identifiers(names: pd.Series) -> int:
    return int(names.str.match(r"ENS[A-Z]{0,6}[GT]\d{6,}").sum())


class _Head(NamedTuple):
    """First lines of a matrix: rows and columns, number of entries, kind of the values."""

    shape: tuple[int, int]
    n: int
    kind: str


def _read_head(path: Path) -> _Head:
    """Return the head of a matrix after checking that its format is that of CellRanger.

    scipy.io.mminfo does not read files compressed with xz.
    """
    with open_decompressed(path) as file:
        first = file.readline(MAX_LINE).decode("latin-1").split()
        line = file.readline(MAX_LINE)
        while line.startswith(b"%") or (line and not line.strip()):
            line = file.readline(MAX_LINE)
    if len(first) != 5 or first[0] != "%%MatrixMarket" or first[1].lower() != "matrix":
        raise FileFormatError(
            f"{str(path)!r} must begin with '%%MatrixMarket matrix coordinate', got {' '.join(first)[:40]!r}."
        )
    kind = [word.lower() for word in first[2:]]
    if kind[0] != "coordinate" or kind[1] not in KINDS or kind[2] != "general":
        raise FileFormatError(
            f"{str(path)!r} must be a 'coordinate' matrix, 'integer', 'real' or 'pattern', and 'general', "
            f"as CellRanger writes it, got {listed(kind)}."
        )
    sizes = line.decode("latin-1").split()
    if len(sizes) != 3 or not all(size.isdecimal() for size in sizes):
        raise FileFormatError(
            f"{str(path)!r} must give its numbers of rows, columns and entries, got {' '.join(sizes)[:40]!r}."
        )
    rows, columns, entries = map(int, sizes)
    size = path.stat().st_size * (MAX_RATIO if is_compressed(path) else 1)
    if entries * MIN_BYTES > size:
        raise FileFormatError(f"{str(path)!r} is truncated: it declares {entries:,} entries.")
    return _Head((rows, columns), entries, kind[1])


def _has_cells_in_rows(files: Companions, head: _Head) -> bool:
    """Return whether a matrix has cells in rows, by the lengths of the lists, or by who writes such files."""
    n_genes, n_cells = (_n_lines(each) for each in (files.genes, files.cells))

    def fits(genes: int, cells: int) -> bool:
        return 0 <= n_genes - genes <= 1 and 0 <= n_cells - cells <= 1

    by_genes, by_cells = fits(*head.shape), fits(*head.shape[::-1])
    if by_cells and not by_genes:
        if not files.cells_in_rows:
            warn(
                f"{files.matrix.name!r}: the {head.shape[0]:,} rows are read as cells, because there are as "
                f"many lines in {files.cells.name!r}."
            )
        return True
    return files.cells_in_rows and by_cells


def _n_lines(path: Path) -> int:
    with open_decompressed(path) as file:
        content = file.read().rstrip()
    return content.count(b"\n") + 1 if content else 0


def _entries(path: Path, head: _Head) -> sp.csr_matrix:
    """Read the entries of a matrix and return it transposed: genes x cells as cells x genes.

    scipy.io.mmread writes out of bounds and crashes on zero bytes and on unexpected line endings.
    """
    n, shape, values = head.n, head.shape, head.kind != "pattern"
    columns = {"gene": np.int64, "cell": np.int64} | ({"value": np.float32} if values else {})
    parts = [pd.DataFrame({name: np.empty(0, kind) for name, kind in columns.items()})]
    with open_decompressed(path) as file:
        while (line := file.readline(MAX_LINE)).startswith(b"%") or (line and not line.strip()):
            continue  # up to and including the line with the shape
        settings: dict[str, Any] = {"sep": r"\s+", "header": None, "names": list(columns), "dtype": columns}
        settings |= {"index_col": False, "na_filter": False, "quoting": 3, "chunksize": ENTRIES_AT_ONCE}
        settings["float_precision"] = "round_trip"  # other parsers crash on exponents of ten digits
        # text mode normalises line endings; with mixed ones pandas may not terminate
        text = io.TextIOWrapper(file, "latin-1")
        for chunk in pd.read_csv(text, **settings) if n else ():
            for side, size in zip(("gene", "cell"), shape, strict=True):
                if not chunk[side].between(1, size).all():
                    raise FileFormatError(
                        f"{str(path)!r} has an entry whose {side} index is not between 1 and {size:,}."
                    )
            parts.append(chunk.astype({"gene": np.int32, "cell": np.int32}))
            if sum(map(len, parts)) > n:
                break
    found = pd.concat(parts)
    if len(found) != n:
        got = "more" if len(found) > n else f"{len(found):,}"
        raise FileFormatError(f"{str(path)!r} declares {n:,} entries, but contains {got}.")
    value = found["value"].to_numpy() if values else np.ones(n, np.float32)
    gene, cell = (found[side].to_numpy() - 1 for side in ("gene", "cell"))
    return sp.csr_matrix((value, (cell, gene)), shape=shape[::-1])
