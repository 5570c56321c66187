"""Layout of a text table: its dialect, what its columns hold, and what is known of their roles."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from vaexprs.interface.errors import FileFormatError, warn
from vaexprs.interface.validation import listed
from vaexprs.io.formats import suffix_of, uncompressed
from vaexprs.io.tables.dialect import Dialect, find_dialect
from vaexprs.io.tables.fields import unguarded
from vaexprs.io.tables.numbers import Marks, numbers
from vaexprs.io.tables.roles import (
    EMPTY,
    GENE,
    MIXED,
    NUMBER,
    TEXT,
    Column,
    Roles,
    check_no_results,
    check_not_long,
    check_one_measure,
    columns_of,
    feature_counts,
    find_marks,
    index_of,
    mostly_whole,
    quantified,
    roles_of,
)
from vaexprs.io.tables.vocabulary import is_about_cells, is_about_genes
from vaexprs.io.text import opened

FIELDS = re.compile(r"Expected (\d+) fields in line (\d+), saw (\d+)")  # message of pandas
VALUES_AT_ONCE = 2**24  # values of a table that are read or written at once
SERIES_END = "!series_matrix_table_end"  # last line of the table of a GEO series matrix
STAR_COLUMNS = ("", "unstranded", "forward", "reverse")  # columns of STAR's ReadsPerGene.out.tab


class Layout(NamedTuple):
    """Layout of a table: its dialect, the content of its columns, and what is known of their roles."""

    dialect: Dialect
    marks: Marks
    columns: list[Column]
    named_by: int | None
    n_annotation: int  # number of columns after the first that are known to be gene annotation
    sample: tuple[int, str] | None  # column with the counts of a table of one sample, and the tool
    n_rows: int | None  # number of rows that the file declares
    keys: Collection[str]  # names of columns that annotate cells whatever they hold

    def roles(self, genes_in_rows: bool | None) -> Roles:
        """Return the roles of the columns; see `roles_of`."""
        return roles_of(
            self.columns,
            self.named_by,
            genes_in_rows=genes_in_rows,
            keys=self.keys,
            n_annotation=self.n_annotation,
        )


def find_layout(path: Path, keys: Collection[str]) -> Layout:
    """Read the first rows of a table and return its layout."""
    dialect = find_dialect(path)
    names = [""] * dialect.width if dialect.header is None else list(map(unguarded, dialect.header))
    if dialect.header is None:
        names = ["", *map(str, range(1, dialect.width))]
    start = next(chunks(path, dialect, {} if dialect.header is None else {0: str}, Marks()))
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
    n_annotation, n_rows = feature_counts(names), None
    if suffix_of(uncompressed(path)) == ".gct":
        n_annotation, n_rows = 1, _declared_rows(path)
    sample = quantified(columns)
    if sample is None and dialect.header is None and _is_star(start):
        columns = [c._replace(name=name) for c, name in zip(columns, STAR_COLUMNS, strict=True)]
        sample = (1, "STAR")
    if sample is None and not n_annotation:
        check_not_long(columns, index, path)
        _check_values(path, columns, index, keys)
    if sample is None and dialect.header is None:
        warn(
            f"{path.name!r} has no names of columns: its first row, {start.iloc[0, 0]!r}, holds numbers as "
            "the others do. If it holds names, call its first column 'gene' or 'cell'."
        )
    return Layout(dialect, marks, columns, index, n_annotation, sample, n_rows, keys)


def _declared_rows(path: Path) -> int | None:
    """Return the number of rows in the second line of a .gct file."""
    with opened(path, 1) as file:
        fields = file.readline().split()
    return int(fields[0]) if fields and fields[0].isdecimal() else None


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
    check_one_measure([c for c in held if not is_about_genes(c.name)], path)
    about = (is_about_cells, is_about_genes)
    for is_about, what, way in zip(
        about, ("cells", "genes"), (" Pass it as obs= (--obs) with the counts.", ""), strict=True
    ):
        if all(is_about(c.name) for c in held) and (len(held) > 1 or len(others) > len(held)):
            raise FileFormatError(
                f"{str(path)!r} must hold expression, but has only annotation of {what}: "
                f"{listed([c.name for c in others], 12)}.{way}"
            )


def may_annotate(column: Column, layout: Layout) -> bool:
    """Return whether the orientation of the table decides whether a column is annotation."""
    if column.kind == GENE:
        return False
    if layout.sample is not None or is_about_genes(column.name) or is_about_cells(column.name):
        return True
    return column.kind == NUMBER and not column.whole and mostly_whole(layout.columns)


@contextmanager
def _row_errors(path: Path, skip: int) -> Iterator[None]:
    """Say which row has too many fields."""
    try:
        yield
    except pd.errors.ParserError as error:
        match = FIELDS.search(str(error))
        if match is None:
            raise
        expected, line, found = map(int, match.groups())
        raise FileFormatError(
            f"{str(path)!r} must have {expected:,} fields in each row, got {found:,} in line {line + skip:,}."
        ) from error


def chunks(path: Path, dialect: Dialect, kinds: dict[int, Any], marks: Marks) -> Iterator[pd.DataFrame]:
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
        _row_errors(path, dialect.skip),
        opened(path, dialect.skip) as file,
        pd.read_csv(file, dtype=kinds, chunksize=n_rows, **settings) as reader,
    ):
        for chunk in reader:
            if dialect.skip:
                chunk = chunk[~chunk[0].astype(str).str.startswith(SERIES_END)]
            if chunk[0].isna().any():  # rows of separators alone, which spreadsheets write
                chunk = chunk.dropna(how="all")
            yield chunk
