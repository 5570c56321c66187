"""Read text tables: one sample or cell, or one gene, per row."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from vaexprs.data.matrix import Matrix
from vaexprs.interface.errors import FileFormatError, warn
from vaexprs.interface.validation import listed
from vaexprs.io.formats import uncompressed
from vaexprs.io.tables.annotation import CellTable, obs_path, read_obs, with_obs
from vaexprs.io.tables.fields import is_missing, read_texts, unguarded, warn_of_spaces
from vaexprs.io.tables.layout import Layout, chunks, find_layout, may_annotate
from vaexprs.io.tables.numbers import Marks, numbers
from vaexprs.io.tables.orientation import infer_orientation, warn_of_orientation
from vaexprs.io.tables.others import without_others
from vaexprs.io.tables.roles import GENE, NUMBER, Column, Roles, evidence_of, has_barcodes, said
from vaexprs.io.untrusted.archives import check_decompressed_size

MAX_DENSITY = 0.5  # maximum fraction of nonzero values for a sparse matrix
GENERIC_STEMS = ("abundance", "quant", "quant.genes", "genes", "isoforms", "readspergene.out", "counts")


class _Content(NamedTuple):
    """Content of a table.

    Parameters
    ----------
    rows
        Names of the rows, (n_rows,).
    texts
        Columns that were read as text, by position.
    values
        Values of the other columns, (n_rows, n_held).
    held
        Positions of these columns.
    """

    rows: np.ndarray
    texts: dict[int, pd.Series]
    values: Matrix
    held: list[int]


def read_table(
    path: Path,
    transpose: bool | None = None,
    columns: CellTable | None = None,
    keys: Collection[str] = (),
) -> ad.AnnData:
    """Read a table of expression values with names in the first row.

    Text columns annotate the rows: labels of cells, or symbols of genes. So do numeric columns whose names
    say that they are about cells or genes (clusters, quality metrics, lengths, identifiers). Columns of `obs`
    may also be in a file ``cells.obs.csv`` in the same folder as ``cells.csv``. Comments before the header
    are skipped, and the output of featureCounts, htseq-count, STAR, kallisto, salmon and RSEM is recognised.

    Parameters
    ----------
    path
        File, which may be compressed.
    transpose
        Whether genes are in the rows; None to infer it from names and content with a warning.
    columns
        Annotation of the cells, whose names settle the orientation, as do those in the ``.obs.csv`` file.
    keys
        Names of columns that annotate cells although they hold numbers.
    """
    check_decompressed_size(path)
    beside = obs_path(path)
    is_given = columns is not None and columns.path == beside
    sidecar = read_obs(beside) if beside.is_file() and not is_given else None
    layout = find_layout(path, keys)
    if sidecar is not None and layout.columns[0].name == "cell":  # as `write` writes it
        layout = layout._replace(columns=[_as_gene(column) for column in layout.columns], named_by=0)
    content = _read(path, layout)
    if layout.n_rows not in (None, len(content.rows)):
        raise FileFormatError(
            f"{str(path)!r} declares {layout.n_rows:,} rows, but contains {len(content.rows):,}."
        )
    genes_in_rows, roles = _settled(path, layout, content.rows, transpose, (columns, sidecar))
    adata = _assembled(path, layout, content, genes_in_rows, roles)
    adata = without_others(adata, path, genes_in_rows=genes_in_rows)
    return with_obs(adata, sidecar)


def _as_gene(column: Column) -> Column:
    """Return a column of numbers whose name is not that of annotation, whatever it is."""
    return column._replace(kind=GENE) if column.kind == NUMBER else column


def _read(path: Path, layout: Layout) -> _Content:
    """Return the content of a table; columns that the orientation may make annotation are read as text."""
    dialect, marks, header = layout.dialect, layout.marks, [column.name for column in layout.columns]
    roles = layout.roles(None)
    undecided = {i for i in roles.values if may_annotate(layout.columns[i], layout)}
    held = [i for i in roles.values if i not in undecided]
    texts = [*roles.annotation, *sorted(undecided)]
    index = 0 if roles.named_by is None else roles.named_by
    names: list[np.ndarray] = []
    words: list[pd.DataFrame] = []
    parts: list[Any] = []
    kinds = dict.fromkeys([*({} if roles.named_by is None else [index]), *texts], str)
    for chunk in chunks(path, dialect, kinds, marks):
        rows = chunk[index].fillna("").to_numpy(str)
        names.append(rows)
        words.append(chunk[texts])
        parts.append(sp.csr_matrix(_block(path, chunk[held], marks, rows, header)))
    x = sp.vstack(parts, format="csr") if len(parts) > 1 else parts[0]
    texts_found = pd.concat(words, ignore_index=True)
    return _Content(np.concatenate(names), {i: texts_found[i] for i in texts}, x, held)


def _block(
    path: Path, chunk: pd.DataFrame, marks: Marks, rows: np.ndarray, header: Sequence[str]
) -> np.ndarray:
    """Return values as float32 after checking that all of them are numbers."""
    values = chunk
    if not all(kind.kind in "iuf" for kind in set(chunk.dtypes)):
        values = chunk.apply(numbers, marks=marks)
    with np.errstate(over="ignore"):  # too large values become infinite and are reported later
        block = values.to_numpy(np.float32)
    if np.isnan(block).any():
        row, column = np.argwhere(np.isnan(block))[0]
        found = chunk.iloc[row, column]
        got = "an empty field" if pd.isna(found) else repr(str(found))
        raise FileFormatError(
            f"{str(path)!r} must contain numbers, got {got} in row {str(rows[row])!r}, "
            f"column {header[chunk.columns[column]]!r}.{_way_out(np.isnan(block[row]), found)}"
        )
    return block


def _way_out(missing: np.ndarray, found: Any) -> str:
    """Return what to do with a row that is not one of numbers, with a space before it."""
    if pd.isna(found) or 2 * missing.sum() < len(missing):
        return ""
    return " If this row labels the samples, move it to a table of their annotation (obs=, --obs)."


def _settled(
    path: Path, layout: Layout, rows: np.ndarray, transpose: bool | None, tables: Sequence[CellTable | None]
) -> tuple[bool, Roles]:
    """Return whether genes are in the rows, and the final roles of the columns."""
    columns, provisional = layout.columns, layout.roles(None)
    if layout.sample is not None:
        position, tool = layout.sample
        others = [i for i in range(len(columns)) if i not in (position, layout.named_by)]
        warn(
            f"{path.name!r}: {tool}'s table of one sample with {len(rows):,} genes; the counts are "
            f"{columns[position].name!r}, and {listed([columns[i].name for i in others])} are annotation."
        )
        return True, Roles(layout.named_by, others, [position], [])
    row_names = [unguarded(name) for name in rows]
    value_names = [columns[i].name for i in provisional.values]
    if layout.n_annotation:
        genes_in_rows: bool | None = True
    elif transpose is not None:
        genes_in_rows = transpose
    else:
        named = row_names if layout.named_by is not None else []
        answers = [table.orientation(named, value_names) for table in tables if table is not None]
        genes_in_rows = next((answer for answer in answers if answer is not None), None)
    if genes_in_rows is None:
        if layout.named_by is None and has_barcodes(value_names):
            raise FileFormatError(_no_names(path, columns))
        found = infer_orientation(row_names, value_names, evidence_of(columns, provisional))
        roles = layout.roles(found.genes_in_rows)
        about = said(columns, roles.annotation)
        warn_of_orientation(path.name, found, len(rows), len(roles.values), about)
        return found.genes_in_rows, roles
    roles = layout.roles(genes_in_rows)
    numeric = [i for i in roles.annotation if columns[i].kind == NUMBER and i > layout.n_annotation]
    if numeric and not set(columns[i].name for i in numeric) <= set(layout.keys):
        what = "genes" if genes_in_rows else "cells"
        warn(f"{path.name!r}: {what} in rows.{said(columns, roles.annotation)}")
    return genes_in_rows, roles


def _no_names(path: Path, columns: Sequence[Column]) -> str:
    return (
        f"{str(path)!r} must have a column with the names of its genes, got values in the first column "
        f"({columns[0].name!r}). Write it with the names: to_csv(path, index=True)."
    )


def _assembled(
    path: Path, layout: Layout, content: _Content, genes_in_rows: bool, roles: Roles
) -> ad.AnnData:
    """Return an AnnData of the content of a table."""
    columns = layout.columns
    if not roles.values:
        raise FileFormatError(
            f"{str(path)!r} must have columns of values for {'samples' if genes_in_rows else 'genes'}, got "
            f"annotation only: {listed([columns[i].name for i in roles.annotation], 12)}."
        )
    values = _all_values(path, layout, content, roles.values)
    rows = _row_names(path, layout, content, genes_in_rows)
    texts = pd.DataFrame(
        {i: read_texts(content.texts[i]).to_numpy(object) for i in roles.annotation}, index=rows, dtype=object
    )
    texts.columns = pd.Index(_distinct([columns[i].name for i in roles.annotation]), dtype=object)
    warn_of_spaces(texts, path.name)
    names = [columns[i].name for i in roles.values]
    if layout.sample is not None or (layout.dialect.header is None and len(names) == 1):
        names = [_sample_name(path)]
    index = pd.Index(names, dtype=object)
    if genes_in_rows:
        x = values.T.tocsr() if sp.issparse(values) else np.ascontiguousarray(values.T)
        return ad.AnnData(x, obs=pd.DataFrame(index=index), var=texts)
    return ad.AnnData(values, obs=texts, var=pd.DataFrame(index=index))


def _distinct(names: Sequence[str]) -> list[str]:
    """Return names of columns of annotation, numbered where they repeat."""
    return list(ad.utils.make_index_unique(pd.Index(list(names), dtype=object)))


def _all_values(path: Path, layout: Layout, content: _Content, columns: Sequence[int]) -> Matrix:
    """Return the values of some columns, in order."""
    x, order = content.values, content.held
    in_values = set(order)
    late = [i for i in columns if i not in in_values]
    if late:
        chunk = pd.DataFrame({i: content.texts[i] for i in late})
        header = [column.name for column in layout.columns]
        block = _block(path, chunk, layout.marks, content.rows, header)
        x, order = sp.hstack([x, sp.csr_matrix(block)], format="csr"), [*order, *late]
    position = {column: place for place, column in enumerate(order)}
    wanted = [position[i] for i in columns]
    if wanted != list(range(x.shape[1])):
        x = x[:, wanted]
    return x if x.nnz <= MAX_DENSITY * x.shape[0] * x.shape[1] else x.toarray()


def _row_names(path: Path, layout: Layout, content: _Content, genes_in_rows: bool) -> pd.Index:
    if layout.named_by is None:
        if genes_in_rows:
            raise FileFormatError(_no_names(path, layout.columns))
        n = len(content.rows)
        warn(
            f"{path.name!r}: no column names the rows (the first is {layout.columns[0].name!r}), so the "
            f"{n:,} cells are called cell1, cell2 and so on."
        )
        return pd.Index([f"cell{i + 1}" for i in range(n)], dtype=object)
    rows = content.rows
    if len(set(rows)) < len(rows) and numbers(pd.Series(rows), Marks()).notna().all():
        raise FileFormatError(f"{str(path)!r} must have names in its first column, got repeated numbers.")
    if genes_in_rows and is_missing(pd.Series(rows)).all():
        raise FileFormatError(_no_names(path, layout.columns))
    return pd.Index([unguarded(name) for name in rows], dtype=object)


def _sample_name(path: Path) -> str:
    """Return the name of the only sample of a file: that of the file, or of its folder if it is generic."""
    stem = uncompressed(path).stem
    generic = stem.lower() in GENERIC_STEMS and path.absolute().parent.name
    return path.absolute().parent.name if generic else stem
