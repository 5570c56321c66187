"""Read cells from a file of any supported format."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import pandas as pd

from vaexprs.interface.errors import FileFormatError, file_errors, require
from vaexprs.interface.validation import check_file, check_path, listed, suffix_of
from vaexprs.io.rds import read_rds
from vaexprs.io.stores import STORES, check_store
from vaexprs.io.tables import read_obs, read_table, with_obs
from vaexprs.io.tenx import is_folder, read_folder, read_h5
from vaexprs.io.untrusted.anndata import check_parts, check_sparse
from vaexprs.io.untrusted.hdf5 import check_hdf5


def read(
    path: str | os.PathLike[str],
    *,
    transpose: bool | None = None,
    obs: str | os.PathLike[str] | None = None,
) -> ad.AnnData:
    """Read cells from a file or folder of any of the formats that they come in.

    Parameters
    ----------
    path
        By its suffix:

        * ``.h5ad``, ``.zarr``: all of it;
        * ``.h5mu``: its modality ``rna``;
        * ``.h5``: of CellRanger, version 2 or later;
        * a folder with ``matrix.mtx``, ``features.tsv`` (or ``genes.tsv``) and ``barcodes.tsv``, or that
          matrix; each file may be ``.gz``. Genes are named by their symbols, made unique;
        * ``.loom``: needs ``pip install "vaexprs[loom]"``;
        * ``.csv``, ``.tsv``, ``.txt``, ``.gct`` (version 1.2), also with ``.gz``: names in the first row and
          the first column. Columns of text become columns of `obs`, and so does a file beside,
          ``cells.obs.csv`` for ``cells.csv``. Of featureCounts, what it says of genes is kept in `var`; sums
          of reads that are of no gene, which htseq-count and STAR write, are left out with a warning;
        * ``.rds``: a ``SummarizedExperiment`` or ``SingleCellExperiment``, a Seurat object or a matrix; needs
          ``pip install "vaexprs[r]"``, but no R. No code in it is run.
    transpose
        Of tables, and matrices in ``.rds``: whether the genes are in the rows. By default that is told by
        `obs`, or by the names and the shape, with a warning that says so.
    obs
        A table (.csv, .tsv) with columns of the cells, such as their types; its first column names them, in
        any order, and it may name more.

    Returns
    -------
    AnnData of shape (n_cells, n_genes).

    Raises
    ------
    TypeError
        If `path` is something else.
    FileNotFoundError
        If there is nothing at `path`.
    ValueError
        If the format is none of these, or the content cannot be read.
    ImportError
        If a format needs a package that is not installed.
    """
    path = check_readable(path)
    suffix = suffix_of(path) if path.is_file() else path.suffix if path.suffix in STORES else FOLDER
    turned = TURNED.get(suffix)
    if transpose is not None and turned is None:
        raise ValueError(
            f"transpose is for tables (.csv, .tsv, .txt, .gct) and matrices in .rds; {path.name!r} says "
            "itself what its cells are. Leave it out."
        )
    beside = path if obs is None else check_file(obs)
    with file_errors(beside):
        columns = None if obs is None else read_obs(beside)
    with file_errors(path):
        cells = READERS[suffix](path) if turned is None else turned(path, transpose, columns)
        check_sparse(cells)
    with file_errors(beside):
        return with_obs(cells, columns, beside)


def _read_store(path: Path) -> ad.AnnData:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        check_store(path)
        return ad.read_h5ad(path) if path.suffix == ".h5ad" else ad.read_zarr(path)


def _read_loom(path: Path) -> ad.AnnData:
    require("loompy", "'vaexprs[loom]'", "Reading .loom files")
    check_hdf5(path, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ad.io.read_loom(path, X_name="")


def _read_h5mu(path: Path) -> ad.AnnData:
    """Read the modality of a MuData file that has the genes."""
    import h5py

    check_hdf5(path, path)
    with h5py.File(path, "r") as file:
        parts = list(file["mod"]) if "mod" in file else []
        name = next((each for each in RNA if each in parts), parts[0] if len(parts) == 1 else None)
        if name is None:
            raise FileFormatError(f"{str(path)!r} must have a modality 'rna', got {listed(parts) or 'none'}.")
        check_parts(file["mod"][name], path)
        cells: ad.AnnData = ad.io.read_elem(file["mod"][name])
        obs = ad.io.read_elem(file["obs"]) if "obs" in file else pd.DataFrame()
    shared = [key for key in obs if key not in cells.obs and not str(key).startswith(f"{name}:")]
    if shared and cells.obs_names.isin(obs.index).all():
        cells.obs = cells.obs.join(obs[shared])
    return cells


FOLDER = "a folder with matrix.mtx"
RNA = ("rna", "RNA", "gex", "GEX", "Gene Expression")  # what the modality with the genes is called
READERS: dict[str, Callable[[Path], ad.AnnData]] = {
    ".h5ad": _read_store,
    ".zarr": _read_store,
    ".h5mu": _read_h5mu,
    ".h5": read_h5,
    ".loom": _read_loom,
    ".mtx": read_folder,
    ".mtx.gz": read_folder,
    FOLDER: read_folder,
}
# of those that do not say which side the genes are on
TURNED: dict[str, Callable[[Path, bool | None, pd.DataFrame | None], ad.AnnData]] = {
    ".csv": read_table,
    ".csv.gz": read_table,
    ".tsv": read_table,
    ".tsv.gz": read_table,
    ".txt": read_table,
    ".txt.gz": read_table,
    ".gct": read_table,
    ".gct.gz": read_table,
    ".rds": read_rds,
}


def check_readable(path: str | os.PathLike[str]) -> Path:
    """Return `path` if there is a file or folder that may be read.

    Raises
    ------
    FileNotFoundError
        If there is nothing.
    ValueError
        If its format is none that can be read.
    """
    path = check_path(path)
    if not path.exists() and not path.suffix:
        raise FileNotFoundError(f"There is no file or folder {str(path)!r}.")
    known = suffix_of(path) in (*READERS, *TURNED) or is_folder(path)
    if not known:
        raise ValueError(f"The file must be one of {', '.join((*READERS, *TURNED))}, got {path.name!r}.")
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    if path.is_dir() and path.suffix != ".zarr" and not is_folder(path):
        raise ValueError(
            f"{str(path)!r} is a folder without matrix.mtx; name the file in it that has the cells."
        )
    return path
