"""Read cells from a file of any supported format."""

from __future__ import annotations

import os
from pathlib import Path

import anndata as ad

from vaexprs.interface.errors import file_errors
from vaexprs.interface.validation import check_file, check_path
from vaexprs.io.formats import BACKED, FOLDER, ORIENTED, READERS, suffix_of
from vaexprs.io.tables import read_obs, with_obs
from vaexprs.io.tenx import is_folder
from vaexprs.io.untrusted.anndata import check_sparse


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
    suffix = suffix_of(path) if path.is_file() else path.suffix if path.suffix in BACKED else FOLDER
    chosen = READERS[suffix]
    if transpose is not None and not chosen.oriented:
        raise ValueError(
            f"transpose applies to {', '.join(ORIENTED)}; the format of {path.name!r} defines where genes "
            "are. Omit transpose."
        )
    annotation = path if obs is None else check_file(obs)
    with file_errors(annotation):
        columns = None if obs is None else read_obs(annotation)
    with file_errors(path):
        cells = chosen.read(path, transpose, columns) if chosen.oriented else chosen.read(path)
        check_sparse(cells)
    with file_errors(annotation):
        return with_obs(cells, columns, annotation)


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
    if suffix_of(path) not in READERS and not is_folder(path):
        raise ValueError(f"The file must be one of {', '.join(READERS)}, got {path.name!r}.")
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    if path.is_dir() and path.suffix != ".zarr" and not is_folder(path):
        raise ValueError(
            f"{str(path)!r} is a folder without matrix.mtx; name the file in it that has the cells."
        )
    return path
