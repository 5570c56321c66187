"""Read and write 10x folders with matrix.mtx; read .h5 files of CellRanger."""

from __future__ import annotations

import gzip
import io
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse as sp

from vaexprs.data.matrix import as_float
from vaexprs.interface.errors import FileFormatError, warn
from vaexprs.interface.validation import listed
from vaexprs.io.atomic import written_whole
from vaexprs.io.formats import suffix_of
from vaexprs.io.tables import COMPRESSION_LEVEL, opened, read_obs, with_obs, write_obs
from vaexprs.io.untrusted.anndata import check_sparse
from vaexprs.io.untrusted.archives import check_decompressed_size
from vaexprs.io.untrusted.hdf5 import open_hdf5

MATRIX = ("matrix.mtx.gz", "matrix.mtx")
GENES = ("features.tsv.gz", "features.tsv", "genes.tsv.gz", "genes.tsv")
BARCODES = ("barcodes.tsv.gz", "barcodes.tsv")
OBS = "obs.csv"
GENE_KIND = "Gene Expression"
KINDS = ("integer", "real", "pattern")
ENTRIES_AT_ONCE = 2**22  # entries of a matrix that are parsed at once
MAX_LINE = 2**16  # maximum length in bytes of a line of the header
MIN_BYTES = 4  # minimum length in bytes of an entry of a matrix
MAX_RATIO = 1_032  # maximum ratio of decompressed to compressed bytes of gzip


def is_folder(path: Path) -> bool:
    """Return whether a folder contains a file with one of CellRanger's names."""
    return path.is_dir() and any((path / name).is_file() for name in (*MATRIX, *GENES, *BARCODES))


def read_folder(path: Path) -> ad.AnnData:
    """Read ``matrix.mtx``, ``features.tsv`` (or ``genes.tsv``) and ``barcodes.tsv``, each also ``.gz``.

    Genes are named by their symbols, made unique; ``var["gene_ids"]`` holds the identifiers. Columns of `obs`
    are read from ``obs.csv`` if it exists.
    """
    folder = path if path.is_dir() else path.parent
    matrix, genes, barcodes = (_one_of(folder, names) for names in (MATRIX, GENES, BARCODES))
    for part in (matrix, genes, barcodes):
        check_decompressed_size(part)
    features = _lines(genes)
    cells = _lines(barcodes)[0]
    rows, columns, entries, *kind = scipy.io.mminfo(matrix)
    if (rows, columns) != (len(features), len(cells)):
        raise FileFormatError(
            f"{str(matrix)!r} has {rows:,} genes x {columns:,} cells, but {genes.name} has "
            f"{len(features):,} rows and {barcodes.name} has {len(cells):,}."
        )
    if kind[0] != "coordinate" or kind[1] not in KINDS or kind[2] != "general":
        raise FileFormatError(
            f"{str(matrix)!r} must be a 'coordinate' matrix, 'integer', 'real' or 'pattern', and 'general', "
            f"as CellRanger writes it, got {listed(kind)}."
        )
    size = matrix.stat().st_size * (MAX_RATIO if suffix_of(matrix).endswith(".gz") else 1)
    if entries * MIN_BYTES > size:
        raise FileFormatError(f"{str(matrix)!r} is truncated: it declares {entries:,} entries.")
    x = as_float(_entries(matrix, (rows, columns), entries, values=kind[1] != "pattern"))
    symbols = features[1] if features.shape[1] > 1 else features[0]
    var = pd.DataFrame({"gene_ids": features[0].to_numpy()}, index=symbols.to_numpy())
    if features.shape[1] > 2:
        var["feature_types"] = features[2].to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gene names are made unique below
        adata = ad.AnnData(x, obs=pd.DataFrame(index=pd.Index(cells.to_numpy())), var=var)
    annotation = folder / OBS
    obs = read_obs(annotation) if annotation.is_file() else None
    return with_obs(_genes_only(adata, path), obs, annotation)


def _entries(path: Path, shape: tuple[int, int], n: int, *, values: bool) -> sp.csr_matrix:
    """Read the n entries of a genes x cells matrix and return it as cells x genes.

    scipy.io.mmread writes out of bounds and crashes on zero bytes and on unexpected line endings.
    """
    columns = {"gene": np.int64, "cell": np.int64} | ({"value": np.float32} if values else {})
    parts = [pd.DataFrame({name: np.empty(0, kind) for name, kind in columns.items()})]
    with gzip.open(path, "rb") if suffix_of(path).endswith(".gz") else path.open("rb") as file:
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


def _one_of(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileFormatError(
        f"{str(folder)!r} is incomplete: {' or '.join(names)} is missing. A 10x folder contains matrix.mtx, "
        "features.tsv (or genes.tsv) and barcodes.tsv, each optionally with .gz."
    )


def _lines(path: Path) -> pd.DataFrame:
    """Return the columns of a .tsv file without a header as text; quotes have no special meaning."""
    try:
        with opened(path) as file:
            return pd.read_csv(file, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=3)
    except pd.errors.EmptyDataError as error:
        raise FileFormatError(f"{str(path)!r} is empty.") from error


def read_h5(path: Path) -> ad.AnnData:
    """Read an ``.h5`` file of CellRanger version 2 or later; genes are named as in `read_folder`."""
    import h5py
    import scanpy as sc

    with open_hdf5(path) as file:
        if "obs" in file and "var" in file:
            raise FileFormatError(
                f"{str(path)!r} is not a CellRanger file but an AnnData file. Rename it to .h5ad."
            )
        if not any("barcodes" in part for part in file.values() if isinstance(part, h5py.Group)):
            raise FileFormatError(
                f"{str(path)!r} is not a CellRanger file: it contains {listed(list(file)) or 'nothing'}."
            )
        if "matrix" not in file and len(file) > 1:
            raise FileFormatError(
                f"{str(path)!r} contains several genomes, {listed(list(file))}. Pass the cells of one: "
                f"scanpy.read_10x_h5({path.name!r}, genome={next(iter(file))!r})."
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gene names are made unique below
        adata = sc.read_10x_h5(path, gex_only=False)
    check_sparse(adata)  # `as_float` computes with the matrix
    adata.X = as_float(adata.X)
    return _genes_only(adata, path)


def _genes_only(adata: ad.AnnData, path: Path) -> ad.AnnData:
    """Return cells with gene expression features only (no antibodies, guides or peaks) and unique names."""
    if "feature_types" in adata.var:
        kinds = adata.var["feature_types"].astype(str)
        genes = (kinds == GENE_KIND).to_numpy()
        if genes.any() and not genes.all():
            others = sorted(set(kinds[~genes]))
            warn(
                f"{path.name!r}: {int((~genes).sum()):,} of {len(genes):,} features are not genes and are "
                f"dropped: {listed(others)}."
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # gene names are made unique below
                adata = adata[:, genes].copy()
    adata.var_names = ad.utils.make_index_unique(adata.var_names.astype(str))
    return adata


def write_10x(adata: ad.AnnData, path: Path, *, overwrite: bool) -> None:
    """Write a 10x folder atomically."""
    with written_whole(path, overwrite=overwrite) as folder:
        write_folder(adata, folder)


def write_folder(adata: ad.AnnData, folder: Path) -> None:
    """Write the files that scanpy.read_10x_mtx and R's Read10X read, and `obs` as ``obs.csv``."""
    for names in (adata.obs_names, adata.var_names):
        odd = [name for name in names if not name or any(mark in name for mark in "\0\t\r\n")]
        if odd:
            raise ValueError(
                f"A 10x folder cannot hold names that are empty or contain NUL, tabs or line breaks: "
                f"{listed(odd)}. Rename them, or write .h5ad."
            )
    folder.mkdir()
    x = sp.coo_matrix(adata.X).T
    if np.all(x.data == np.round(x.data)):
        x = x.astype(np.int64)
    with gzip.open(folder / "matrix.mtx.gz", "wb", COMPRESSION_LEVEL) as file:
        scipy.io.mmwrite(file, x, symmetry="general")  # 10x readers know no other
    ids = adata.var.get("gene_ids", adata.var_names)
    features = pd.DataFrame({"id": list(ids), "name": list(adata.var_names), "kind": GENE_KIND})
    barcodes = pd.DataFrame({"cell": list(adata.obs_names)})
    for name, table in {"features": features, "barcodes": barcodes}.items():
        table.to_csv(folder / f"{name}.tsv.gz", sep="\t", header=False, index=False, quoting=3)
    if len(adata.obs.columns):
        write_obs(folder / OBS, adata.obs)
