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
    """Read cells from a file or folder in any supported format.

    Parameters
    ----------
    path
        File or folder; its suffix selects the format:

        * ``.h5ad``, ``.zarr``: AnnData, read completely;
        * ``.h5mu``: MuData, of which the modality ``rna`` is read;
        * ``.h5``: CellRanger, version 2 or later;
        * a folder with ``matrix.mtx``, ``features.tsv`` (or ``genes.tsv``) and ``barcodes.tsv``, or the path
          of that matrix; each file may be ``.gz``. Genes are named by their symbols, made unique;
        * ``.loom``: requires ``pip install "vaexprs[loom]"``;
        * ``.csv``, ``.tsv``, ``.txt``, ``.gct`` (version 1.2), also with ``.gz``: tables with names in the
          first row and the first column. Text columns become columns of `obs`, and so do the columns of a
          file ``cells.obs.csv`` in the same folder as ``cells.csv``. Gene annotation of featureCounts is kept
          in `var`; rows of htseq-count and STAR that count reads without a gene are dropped with a warning;
        * ``.rds``: a ``SummarizedExperiment`` or ``SingleCellExperiment``, a Seurat object or a matrix;
          requires ``pip install "vaexprs[r]"``, but not R. Code in the file is not run.
    transpose
        For tables and for matrices in ``.rds``: whether genes are in the rows. By default inferred from
        `obs`, or else from names and shape, with a warning.
    obs
        Table (.csv, .tsv) with annotation of the cells, such as cell types; its first column holds the cell
        names, in any order, and may include other cells.

    Returns
    -------
    AnnData of shape (n_cells, n_genes).

    Raises
    ------
    TypeError
        If `path` is not a path.
    FileNotFoundError
        If `path` does not exist.
    ValueError
        If the format is not supported, or the content cannot be read.
    ImportError
        If the format requires a package that is not installed.
    """
    path = check_readable(path)
    suffix = suffix_of(path) if path.is_file() else path.suffix if path.suffix in BACKED else FOLDER
    chosen = READERS[suffix]
    if transpose is not None and not chosen.oriented:
        raise ValueError(
            f"transpose applies to {', '.join(ORIENTED)} only; the format of {path.name!r} defines the "
            "orientation. Omit transpose."
        )
    annotation = path if obs is None else check_file(obs)
    with file_errors(annotation):
        columns = None if obs is None else read_obs(annotation)
    with file_errors(path):
        cells = chosen.read(path, transpose, columns) if chosen.oriented else chosen.read(path)
        if not chosen.backed:  # `StoredCells.read` has checked them
            check_sparse(cells)
    with file_errors(annotation):
        return with_obs(cells, columns, annotation)


def check_readable(path: str | os.PathLike[str]) -> Path:
    """Return `path` if it exists and its format is supported.

    Raises
    ------
    FileNotFoundError
        If `path` does not exist.
    ValueError
        If the format is not supported.
    """
    path = check_path(path)
    if not path.exists() and not path.suffix:
        raise FileNotFoundError(f"The file or folder {str(path)!r} does not exist.")
    if suffix_of(path) not in READERS and not is_folder(path):
        raise ValueError(f"The file format must be one of {', '.join(READERS)}, got {path.name!r}.")
    if not path.exists():
        raise FileNotFoundError(f"The file {str(path)!r} does not exist.")
    if path.is_dir() and path.suffix != ".zarr" and not is_folder(path):
        raise ValueError(
            f"{str(path)!r} is a folder without matrix.mtx. Give the path of the file in it with the cells."
        )
    return path
