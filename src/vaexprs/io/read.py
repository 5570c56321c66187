"""Read cells from a file of any supported format."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import anndata as ad

from vaexprs.interface.errors import file_errors
from vaexprs.interface.validation import check_file, check_path, did_you_mean
from vaexprs.io.content import advice_on, check_content
from vaexprs.io.formats import BACKED, FOLDER, ORIENTED, READERS, readable_suffix
from vaexprs.io.names import unique_names
from vaexprs.io.stores import is_store
from vaexprs.io.tables.annotation import read_obs, with_obs
from vaexprs.io.tenx.companions import is_folder
from vaexprs.io.untrusted.anndata import check_sparse


def read(
    path: str | os.PathLike[str],
    *,
    transpose: bool | None = None,
    obs: str | os.PathLike[str] | None = None,
    obs_columns: Sequence[str] = (),
) -> ad.AnnData:
    """Read cells from a file or folder in any supported format.

    Repeated names of genes or cells are made unique ("A", "A-1"), with a warning.

    Parameters
    ----------
    path
        File or folder; its suffix selects the format:

        * ``.h5ad``, ``.zarr``: AnnData, read completely;
        * ``.h5mu``: MuData, of which the modality ``rna`` is read;
        * ``.h5``: CellRanger, version 2 or later;
        * a folder with ``matrix.mtx``, ``features.tsv`` (or ``genes.tsv``) and ``barcodes.tsv``, or the path
          of any ``.mtx`` file beside such lists; each file may be compressed and have a prefix
          (``GSM1_matrix.mtx.gz``). Genes are named by their symbols, made unique;
        * ``.loom``: requires ``pip install "vaexprs[loom]"``;
        * ``.csv``, ``.tsv``, ``.txt``, ``.tab``, ``.gct`` (version 1.2), also compressed: tables with names
          in the first row. Separator, decimal mark, comments, header and the column with the names are
          recognised. Text columns become columns of `obs` (or of `var`, if genes are in rows), and so do
          numeric columns whose names say so, such as ``leiden``, ``pct_mt`` or ``Length``, with a warning
          that lists them; columns of a file ``cells.obs.csv`` in the same folder as ``cells.csv`` become
          columns of `obs`. Output of featureCounts, htseq-count, STAR, kallisto (``abundance.tsv``), salmon
          (``quant.sf``) and RSEM (``.results``) is recognised; numbers of reads without a gene are dropped
          with a warning;
        * ``.rds``: a ``SummarizedExperiment`` or ``SingleCellExperiment``, a Seurat object, a matrix or a
          data frame; requires ``pip install "vaexprs[r]"``, but not R. Code in the file is not run.
    transpose
        For tables and for matrices in ``.rds``: whether genes are in the rows. By default inferred from
        `obs`, or else from names, content and shape, with a warning.
    obs
        Table (.csv, .tsv) with annotation of the cells, such as cell types. It is matched by the column that
        holds the cell names, in any order; it may include other cells. Cells without a row get missing
        values, with a warning.
    obs_columns
        For tables: columns that annotate cells although they hold numbers and their names do not say so.

    Returns
    -------
    AnnData of shape (n_cells, n_genes). Empty fields, NA, NaN, None and the like are missing values in
    annotation.

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
    keys = [obs_columns] if isinstance(obs_columns, str) else list(obs_columns)
    cells = read_cells(path, transpose=transpose, obs=obs, keys=keys)
    missing = [key for key in keys if key not in cells.obs]
    if missing:
        raise ValueError(
            f"obs_columns must name columns of the table, got {missing[0]!r}."
            f"{did_you_mean(missing[0], [*cells.obs.columns, *cells.var_names])}"
        )
    return cells


def read_cells(
    path: str | os.PathLike[str],
    *,
    transpose: bool | None = None,
    obs: str | os.PathLike[str] | None = None,
    keys: Sequence[str] = (),
) -> ad.AnnData:
    """Read cells as `read` does; `keys` that a table does not have are ignored."""
    path = check_readable(path)
    suffix = format_of(path)
    chosen = READERS[suffix]
    if transpose is not None and not chosen.oriented:
        raise ValueError(
            f"transpose applies to {', '.join(ORIENTED)} only; the format of {path.name!r} defines the "
            "orientation. Omit transpose."
        )
    annotation = path if obs is None else check_file(obs)
    with file_errors(annotation):
        columns = None if obs is None else read_obs(annotation)
    with file_errors(path), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(Observation|Variable) names are not unique")
        cells = chosen.read(path, transpose, columns, keys) if chosen.oriented else chosen.read(path)
        if not chosen.backed:  # `StoredCells.read` has checked them
            check_sparse(cells)
            cells = unique_names(cells, repr(path.name))
    with file_errors(annotation):
        cells = with_obs(cells, columns)
    return cells


def format_of(path: Path) -> str:
    """Return the key of `READERS` for an existing path."""
    if path.is_file():
        return readable_suffix(path)
    return ".zarr" if path.suffix in BACKED or is_store(path) else FOLDER


def check_readable(path: str | os.PathLike[str]) -> Path:
    """Return `path` if it exists, its format is supported, and its content is not obviously another.

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
    suffix = readable_suffix(path)
    if suffix not in READERS and not is_folder(path) and not is_store(path):
        if path.is_file():
            check_content(path, suffix)
        if path.is_dir():
            raise _no_cells_in(path)
        raise ValueError(
            f"The file format must be one of {', '.join(READERS)}, got {path.name!r}.{advice_on(path)}"
        )
    if not path.exists():
        raise FileNotFoundError(f"The file {str(path)!r} does not exist.")
    if path.is_dir() and path.suffix != ".zarr" and not is_folder(path) and not is_store(path):
        raise _no_cells_in(path)
    check_content(path, suffix)
    return path


def _no_cells_in(folder: Path) -> ValueError:
    return ValueError(
        f"{str(folder)!r} is a folder without matrix.mtx. Give the path of the file in it with the cells."
    )
