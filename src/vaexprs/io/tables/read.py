"""Read text tables: one sample or cell, or one gene, per row."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from vaexprs.data.matrix import Matrix
from vaexprs.interface.errors import FileFormatError, warn
from vaexprs.interface.validation import listed
from vaexprs.io.formats import suffix_of, uncompressed
from vaexprs.io.tables.annotation import CellTable, obs_path, read_obs, with_obs
from vaexprs.io.tables.dialect import Dialect, find_dialect
from vaexprs.io.tables.fields import is_missing, read_texts, unguarded
from vaexprs.io.tables.numbers import Marks, numbers
from vaexprs.io.tables.orientation import infer_orientation, warn_of_orientation
from vaexprs.io.tables.roles import (
    EMPTY,
    GENE,
    MIXED,
    NUMBER,
    TEXT,
    Column,
    Roles,
    check_no_results,
    columns_of,
    evidence_of,
    feature_counts,
    find_marks,
    has_barcodes,
    index_of,
    quantified,
    roles_of,
    said,
)
from vaexprs.io.tables.vocabulary import NOT_GENES, is_about_cells, is_about_genes
from vaexprs.io.text import opened
from vaexprs.io.untrusted.archives import check_decompressed_size

VALUES_AT_ONCE = 2**24  # values of a table that are read or written at once
MAX_DENSITY = 0.5  # maximum fraction of nonzero values for a sparse matrix
GENERIC_STEMS = ("abundance", "quant", "quant.genes", "genes", "isoforms", "readspergene.out", "counts")
# dates to which spreadsheets convert MARCH1, SEPT2 and DEC1 (Ziemann et al. 2016,
# doi:10.1186/s13059-016-1044-7)
DATE = re.compile(r"\d{1,2}-(Mar|Sep|Dec)|(Mar|Sep|Dec)-\d{1,2}", re.IGNORECASE)
SERIES_END = "!series_matrix_table_end"  # last line of the table of a GEO series matrix
STAR_COLUMNS = ("", "unstranded", "forward", "reverse")  # columns of STAR's ReadsPerGene.out.tab


class _Layout(NamedTuple):
    """Layout of a table: its dialect, the content of its columns, and what is known of their roles."""

    dialect: Dialect
    marks: Marks
    columns: list[Column]
    named_by: int | None
    n_annotation: int  # number of columns after the first that are known to be gene annotation
    sample: tuple[int, str] | None  # column with the counts of a table of one sample, and the tool

    @property
    def genes_in_rows(self) -> bool:
        """Whether the tool that wrote the table is known to write genes in rows."""
        return bool(self.n_annotation) or self.sample is not None


class _Content(NamedTuple):
    """Content of a table: names of its rows, texts and values by position of the column."""

    rows: np.ndarray
    texts: dict[int, pd.Series]
    values: Matrix


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
    layout = _layout(path, keys)
    if sidecar is not None and layout.columns[0].name == "cell":  # as `write` writes it
        layout = layout._replace(columns=[_as_gene(column) for column in layout.columns])
    provisional = roles_of(
        layout.columns, layout.named_by, genes_in_rows=None, keys=keys, n_annotation=layout.n_annotation
    )
    open_roles = [i for i in provisional.values if _may_annotate(layout.columns[i], layout)]
    content = _read(path, layout, provisional, open_roles)
    genes_in_rows, roles = _settled(path, layout, content, provisional, transpose, (columns, sidecar), keys)
    adata = _assembled(path, layout, content, roles, open_roles, provisional, genes_in_rows)
    adata = _genes_only(adata, path)
    return with_obs(adata, sidecar)


def _layout(path: Path, keys: Collection[str]) -> _Layout:
    """Read the first rows of a table and return its layout."""
    dialect = find_dialect(path)
    names = [""] * dialect.width if dialect.header is None else list(map(unguarded, dialect.header))
    if dialect.header is None:
        names = ["", *map(str, range(1, dialect.width))]
    start = next(_chunks(path, dialect, {} if dialect.header is None else {0: str}, Marks()))
    start = start.iloc[:, : dialect.width].copy()
    if dialect.header is None:
        start[0] = start[0].astype(str)
    try:
        marks = find_marks(start, semicolons=dialect.separator == ";")
        columns = columns_of(start, names, marks)
        if dialect.header is None:
            columns[0] = columns[0]._replace(name="", kind=TEXT)
        elif dialect.shifted:
            columns[0] = columns[0]._replace(kind=TEXT, groups=False)
        else:
            columns[0] = columns_of(start[[0]].apply(_as_found), names[:1], marks)[0]
        check_no_results(columns, path)
        frame = start[[0]].apply(_as_found)
        index = 0 if dialect.shifted or dialect.header is None else index_of(columns, frame)
    except FileFormatError:
        raise
    except ValueError as error:
        raise FileFormatError(f"{str(path)!r} {error}.") from error
    n_annotation = feature_counts(names)
    if suffix_of(uncompressed(path)) == ".gct":
        n_annotation = 1
    sample = quantified(columns)
    if sample is None and dialect.header is None and _is_star(start):
        columns = [c._replace(name=name) for c, name in zip(columns, STAR_COLUMNS, strict=True)]
        sample = (1, "STAR")
    if sample is None and not n_annotation:
        _check_values(path, columns, index, keys)
    return _Layout(dialect, marks, columns, index, n_annotation, sample)


def _as_gene(column: Column) -> Column:
    """Return a column of numbers whose name is not that of annotation, whatever it is."""
    return column._replace(kind=GENE) if column.kind == NUMBER else column


def _as_found(values: pd.Series) -> pd.Series:
    """Return a column that was read as text with numbers where all of its texts are numbers."""
    number = numbers(values.fillna(""), Marks())
    return number if number.notna().all() else values


def _is_star(start: pd.DataFrame) -> bool:
    names = start[0].astype(str)
    return start.shape[1] == len(STAR_COLUMNS) and bool(names.str.startswith("N_").iloc[:4].any())


def _check_values(path: Path, columns: Sequence[Column], index: int | None, keys: Collection[str]) -> None:
    """Check that a table has values, and is not a table with annotation of cells or genes only."""
    others = [column for i, column in enumerate(columns) if i != index]
    held = [c for c in others if c.kind in (NUMBER, MIXED, EMPTY) and c.name not in keys]
    if not held:
        raise FileFormatError(
            f"{str(path)!r} must have a column of numbers, got columns "
            f"{listed([c.name for c in others] or [c.name for c in columns])}."
        )
    about = (is_about_cells, is_about_genes)
    for is_about, what, way in zip(
        about, ("cells", "genes"), (" Pass it as obs= (--obs) with the counts.", ""), strict=True
    ):
        if all(is_about(c.name) for c in held) and (len(held) > 1 or len(others) > len(held)):
            raise FileFormatError(
                f"{str(path)!r} must hold expression, but has only annotation of {what}: "
                f"{listed([c.name for c in others], 12)}.{way}"
            )


def _may_annotate(column: Column, layout: _Layout) -> bool:
    """Return whether the orientation of the table decides whether a column is annotation."""
    if column.kind == GENE:
        return False
    if layout.sample is not None or is_about_genes(column.name) or is_about_cells(column.name):
        return True
    return column.kind == NUMBER and not column.whole and _mostly_whole(layout)


def _mostly_whole(layout: _Layout) -> bool:
    held = [column for column in layout.columns if column.kind == NUMBER]
    return 4 * sum(not column.whole for column in held) < len(held)


def _chunks(path: Path, dialect: Dialect, kinds: dict[int, Any], marks: Marks) -> Iterator[pd.DataFrame]:
    """Yield consecutive rows of a table."""
    settings: dict[str, Any] = {
        "sep": dialect.separator,
        "decimal": marks.decimal,
        "thousands": marks.thousands,
        "header": None,
        "skiprows": int(dialect.header is not None),
        "names": list(range(dialect.width + dialect.ends)),
        "index_col": False,
        "keep_default_na": False,
        "na_values": [""],
        "low_memory": False,
        "skipinitialspace": dialect.separator == " ",
        "float_precision": "round_trip",  # other parsers crash on exponents of ten digits
    }
    n_rows = max(1, VALUES_AT_ONCE // dialect.width)
    with (
        opened(path, dialect.skip) as file,
        pd.read_csv(file, dtype=kinds, chunksize=n_rows, **settings) as reader,
    ):
        for chunk in reader:
            ended = chunk[0].astype(str).str.startswith(SERIES_END) if dialect.skip else None
            yield chunk if ended is None or not ended.any() else chunk[~ended]


def _read(path: Path, layout: _Layout, roles: Roles, open_roles: Sequence[int]) -> _Content:
    """Return the content of a table; columns whose role is open are read as text."""
    dialect, marks, header = layout.dialect, layout.marks, [column.name for column in layout.columns]
    texts = [*roles.annotation, *open_roles]
    still_open = set(open_roles)
    held = [i for i in roles.values if i not in still_open]
    index = 0 if roles.named_by is None else roles.named_by
    names: list[np.ndarray] = []
    words: list[pd.DataFrame] = []
    parts: list[Any] = []
    kinds = dict.fromkeys([*({} if roles.named_by is None else [index]), *texts], str)
    for chunk in _chunks(path, dialect, kinds, marks):
        rows = chunk[index].fillna("").to_numpy(str)
        names.append(rows)
        words.append(chunk[texts])
        parts.append(sp.csr_matrix(_block(path, chunk[held], marks, rows, header)))
    x = sp.vstack(parts, format="csr") if len(parts) > 1 else parts[0]
    texts_found = pd.concat(words, ignore_index=True)
    return _Content(np.concatenate(names), {i: texts_found[i] for i in texts}, x)


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
            f"column {header[chunk.columns[column]]!r}."
        )
    return block


def _settled(
    path: Path,
    layout: _Layout,
    content: _Content,
    provisional: Roles,
    transpose: bool | None,
    tables: Sequence[CellTable | None],
    keys: Collection[str],
) -> tuple[bool, Roles]:
    """Return whether genes are in the rows, and the final roles of the columns."""
    columns = layout.columns

    def roles_if(genes_in_rows: bool) -> Roles:
        return roles_of(
            columns,
            layout.named_by,
            genes_in_rows=genes_in_rows,
            keys=keys,
            n_annotation=layout.n_annotation,
        )

    if layout.sample is not None:
        position, tool = layout.sample
        others = [i for i in range(len(columns)) if i not in (position, layout.named_by)]
        warn(
            f"{path.name!r}: {tool}'s table of one sample with {len(content.rows):,} genes; the counts are "
            f"{columns[position].name!r}, and {listed([columns[i].name for i in others])} are annotation."
        )
        return True, Roles(layout.named_by, others, [position], [])
    rows = [unguarded(name) for name in content.rows]
    value_names = [columns[i].name for i in provisional.values]
    if layout.n_annotation:
        genes_in_rows: bool | None = True
    elif transpose is not None:
        genes_in_rows = transpose
    else:
        named = rows if layout.named_by is not None else []
        answers = [table.orientation(named, value_names) for table in tables if table is not None]
        genes_in_rows = next((answer for answer in answers if answer is not None), None)
    if genes_in_rows is None:
        if layout.named_by is None and has_barcodes(value_names):
            raise FileFormatError(_no_names(path, columns))
        found = infer_orientation(rows, value_names, evidence_of(columns, provisional))
        roles = roles_if(found.genes_in_rows)
        about = said(columns, roles.annotation)
        warn_of_orientation(path.name, found, len(rows), len(roles.values), about)
        return found.genes_in_rows, roles
    roles = roles_if(genes_in_rows)
    numeric = [i for i in roles.annotation if columns[i].kind == NUMBER and i > layout.n_annotation]
    if numeric and not set(columns[i].name for i in numeric) <= set(keys):
        what = "genes" if genes_in_rows else "cells"
        warn(f"{path.name!r}: {what} in rows.{said(columns, roles.annotation)}")
    return genes_in_rows, roles


def _no_names(path: Path, columns: Sequence[Column]) -> str:
    return (
        f"{str(path)!r} must have a column with the names of its genes, got values in the first column "
        f"({columns[0].name!r}). Write it with the names: to_csv(path, index=True)."
    )


def _assembled(
    path: Path,
    layout: _Layout,
    content: _Content,
    roles: Roles,
    open_roles: Sequence[int],
    provisional: Roles,
    genes_in_rows: bool,
) -> ad.AnnData:
    """Return an AnnData of the content of a table."""
    columns = layout.columns
    if not roles.values:
        raise FileFormatError(
            f"{str(path)!r} must have columns of values for {'samples' if genes_in_rows else 'genes'}, got "
            f"annotation only: {listed([columns[i].name for i in roles.annotation], 12)}."
        )
    values = _all_values(path, layout, content, roles, open_roles, provisional)
    rows = _row_names(path, layout, content, genes_in_rows)
    texts = pd.DataFrame(
        {i: read_texts(content.texts[i]).to_numpy(object) for i in roles.annotation}, index=rows, dtype=object
    )
    texts.columns = pd.Index(_distinct([columns[i].name for i in roles.annotation]), dtype=object)
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


def _all_values(
    path: Path,
    layout: _Layout,
    content: _Content,
    roles: Roles,
    open_roles: Sequence[int],
    provisional: Roles,
) -> Matrix:
    """Return the values of the columns of `roles`, in order."""
    still_open = set(open_roles)
    held = [i for i in provisional.values if i not in still_open]
    x, order = content.values, held
    in_values = set(held)
    late = [i for i in roles.values if i not in in_values]
    if late:
        chunk = pd.DataFrame({i: content.texts[i] for i in late})
        header = [column.name for column in layout.columns]
        block = _block(path, chunk, layout.marks, content.rows, header)
        x, order = sp.hstack([x, sp.csr_matrix(block)], format="csr"), [*held, *late]
    position = {column: place for place, column in enumerate(order)}
    wanted = [position[i] for i in roles.values]
    if wanted != list(range(x.shape[1])):
        x = x[:, wanted]
    return x if x.nnz <= MAX_DENSITY * x.shape[0] * x.shape[1] else x.toarray()


def _row_names(path: Path, layout: _Layout, content: _Content, genes_in_rows: bool) -> pd.Index:
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


def _genes_only(adata: ad.AnnData, path: Path) -> ad.AnnData:
    """Drop counts of unassigned reads with a warning; warn of gene names converted to dates."""
    dates = [name for name in adata.var_names if DATE.fullmatch(name)]
    if dates:
        warn(f"{path.name!r}: a spreadsheet has converted gene names to dates: {listed(dates)}.")
    unassigned = np.array([NOT_GENES.fullmatch(name) is not None for name in adata.var_names], bool)
    if not unassigned.any():
        return adata
    warn(
        f"{path.name!r}: dropped {listed(list(adata.var_names[unassigned]))}, which count reads not "
        "assigned to a gene."
    )
    return adata[:, ~unassigned].copy()
