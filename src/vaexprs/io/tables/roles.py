"""Decide for each column of a table whether it names the rows, annotates them, or holds values."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import takewhile
from typing import NamedTuple

import numpy as np
import pandas as pd

from vaexprs.interface.errors import FileFormatError
from vaexprs.interface.validation import listed
from vaexprs.io.tables.fields import is_missing
from vaexprs.io.tables.numbers import Marks, marks_of, numbers
from vaexprs.io.tables.orientation import BARCODE, Evidence, is_gene
from vaexprs.io.tables.vocabulary import (
    CELL_GROUPS,
    FEATURE_COUNTS,
    GENE_GROUPS,
    MEASURES,
    QUANTIFICATIONS,
    TEST_RESULTS,
    TXIMPORT,
    is_about_cells,
    is_about_genes,
    is_index_name,
    is_numbering,
    key_of,
    names_cells,
    names_genes,
)

NUMBER, TEXT, MIXED, EMPTY = "number", "text", "mixed", "empty"
GENE = "gene"  # numbers that are expression whatever the name of the column
LOGICALS = frozenset(["TRUE", "FALSE", "True", "False", "true", "false"])
SAMPLED = 100_000  # distinct texts of a column that are looked at


class Column(NamedTuple):
    """Content of a column in the first rows of a table.

    Parameters
    ----------
    name
        Its name.
    kind
        "number", "text", "mixed" (some values are numbers) or "empty". Logical values are text.
    whole
        Whether all numbers are whole and non-negative.
    score
        Whether most numbers are fractions or negative, as scores are and estimated counts are not.
    distinct
        Whether all values are different; false for numbers after the first column.
    groups
        Whether values repeat as those of labels do: at most half as many values as rows.
    """

    name: str
    kind: str
    whole: bool
    distinct: bool
    groups: bool
    score: bool = False


def columns_of(frame: pd.DataFrame, names: Sequence[str], marks: Marks) -> list[Column]:
    """Return the content of each column of a table."""
    kinds = list(frame.dtypes)
    numeric = [i for i, kind in enumerate(kinds) if i and isinstance(kind, np.dtype) and kind.kind in "iuf"]
    block = frame.iloc[:, numeric].to_numpy()  # at once: a table may have 30,000 such columns
    with np.errstate(invalid="ignore"):
        known: np.ndarray = ~np.isnan(block) if block.dtype.kind == "f" else np.ones(block.shape, bool)
        whole: np.ndarray = ~known | ((block >= 0) & (block == np.round(block)))
    n_known, n_other = known.sum(axis=0), (~whole).sum(axis=0)
    of_numbers = {}
    for i, n, other in zip(numeric, n_known.tolist(), n_other.tolist(), strict=True):
        kind = NUMBER if n else EMPTY
        of_numbers[i] = Column(str(names[i]), kind, bool(n) and not other, False, False, 2 * other > n)
    return [
        of_numbers[i] if i in of_numbers else _column(frame.iloc[:, i], str(name), marks)
        for i, name in enumerate(names)
    ]


def _column(values: pd.Series, name: str, marks: Marks) -> Column:
    n = len(values)
    if pd.api.types.is_bool_dtype(values.dtype):
        return Column(name, TEXT, False, False, True)
    if pd.api.types.is_complex_dtype(values.dtype):
        return Column(name, MIXED, False, False, False)
    if pd.api.types.is_numeric_dtype(values.dtype):
        number = values.to_numpy(np.float64, na_value=np.nan)
        if n and np.isnan(number).all():
            return Column(name, EMPTY, False, False, False)
        return Column(name, NUMBER, _whole(number), values.is_unique, False, _is_score(number))
    if isinstance(values.dtype, pd.CategoricalDtype) or values.dtype.kind in "mM":
        return Column(name, TEXT, False, values.is_unique, 2 * values.nunique() <= n)
    unique = pd.Series(values.unique()[:SAMPLED])
    if any(isinstance(value, (bool, np.bool_)) for value in unique):
        return Column(name, TEXT, False, False, True)
    found = unique[~is_missing(unique)]
    distinct, groups = values.is_unique, 2 * len(unique) <= n
    if not len(found):
        return Column(name, EMPTY, False, False, False)
    number = numbers(found, marks).to_numpy(np.float64)
    known = ~np.isnan(number)
    if not known.any() or set(found.astype(str).str.strip()) <= LOGICALS:
        return Column(name, TEXT, False, distinct, groups)
    kind = NUMBER if known.all() else MIXED
    # by distinct values: zeros among fractions count once
    return Column(name, kind, _whole(number[known]), distinct, groups, _is_score(number[known]))


def _is_score(values: np.ndarray) -> bool:
    values = values[~np.isnan(values)]
    return 2 * int(((values < 0) | (values != np.round(values))).sum()) > len(values)


def _whole(values: np.ndarray) -> bool:
    values = values[~np.isnan(values)]
    return bool((values >= 0).all() and (values == np.round(values)).all())


def find_marks(frame: pd.DataFrame, *, semicolons: bool) -> Marks:
    """Return the decimal mark and the thousands separator of a table."""
    texts: set[str] = set()
    kinds = list(frame.dtypes)
    number = frame.iloc[:, [i for i, kind in enumerate(kinds) if kind.kind == "f"]].to_numpy()
    has_points = bool((number[np.isfinite(number)] % 1 != 0).any())
    for i in (i for i, kind in enumerate(kinds) if kind.kind == "O"):
        values = frame.iloc[:, i].unique()[:SAMPLED]
        texts.update(text.strip() for text in values if isinstance(text, str))
    return marks_of(texts, has_points=has_points, prefers_comma=semicolons)


def index_of(columns: Sequence[Column], frame: pd.DataFrame) -> int | None:
    """Return the position of the column that names the rows; None if there is none.

    It is the first column, unless this numbers the rows and another column names them, or holds labels or
    values.

    Raises
    ------
    ValueError
        If the first column may be either.
    """
    first = columns[0]
    numbered = first.kind == NUMBER and _counts_rows(frame.iloc[:, 0])
    text = [i for i, column in enumerate(columns) if i and column.kind == TEXT]
    unnamed = first.name == "V1" and not numbered  # V1, V2, V3 are R's names of columns without names
    if first.kind == NUMBER and is_numbering(first.name) and not unnamed:
        better = [i for i in text if columns[i].distinct and is_index_name(columns[i].name)]
        return better[0] if numbered and better else 0
    if first.kind in (NUMBER, EMPTY, MIXED):
        if (is_index_name(first.name) and not unnamed) or first.kind == MIXED:
            return 0
        better = [i for i in text if columns[i].distinct and is_index_name(columns[i].name)]
        if better:
            return better[0]
        alike = is_gene(first.name) or not first.whole or not first.distinct
        if not alike:
            raise ValueError(
                f"must have the names of its rows in its first column, but {first.name!r} may be names or "
                "values. Call it 'cell' or 'gene' if these are names, or put a column with names before it"
            )
        return None
    grouped = CELL_GROUPS.fullmatch(key_of(first.name)) and not first.distinct
    # samples and donors repeat where the rows are cells, genes where the rows are transcripts
    may_repeat = is_index_name(first.name) and not names_cells(first.name)
    repeats = first.groups and len(frame) > 2 and not may_repeat
    if grouped or (repeats and not has_barcodes(list(map(str, frame.iloc[:, 0])))):
        return next((i for i in text if columns[i].distinct), None)
    return 0


def _counts_rows(values: pd.Series) -> bool:
    """Return whether values are 0, 1, 2 or 1, 2, 3 and so on."""
    number = pd.to_numeric(values, errors="coerce").to_numpy(np.float64)
    start = number[0] if len(number) else np.nan
    return start in (0, 1) and bool((number == start + np.arange(len(number))).all())


class Roles(NamedTuple):
    """Roles of the columns of a table, as positions.

    Parameters
    ----------
    named_by
        Column with the names of the rows; None if there is none.
    annotation
        Columns with annotation of the rows.
    values
        Columns with values.
    dropped
        Columns without a name and without content, or that number the rows.
    """

    named_by: int | None
    annotation: list[int]
    values: list[int]
    dropped: list[int]


def roles_of(
    columns: Sequence[Column],
    index: int | None,
    *,
    genes_in_rows: bool | None,
    keys: Collection[str] = (),
    n_annotation: int = 0,
) -> Roles:
    """Return the roles of columns, decided by content and names together.

    Parameters
    ----------
    columns
        The columns.
    index
        Column with the names of the rows.
    genes_in_rows
        Whether the rows are genes; None if unknown: numbers are then values whatever their name.
    keys
        Names of columns that are annotation, whatever they hold.
    n_annotation
        Number of columns after the first that are known to be annotation.
    """
    annotation, values, dropped = [], [], []
    for i, column in enumerate(columns):
        if i == index:
            continue
        if (column.kind == EMPTY and is_numbering(column.name)) or (
            index not in (None, 0) and i == 0 and column.kind == NUMBER and is_numbering(column.name)
        ):
            dropped.append(i)
        elif (
            column.kind == TEXT
            or column.name in keys
            or 0 < i <= n_annotation
            or (column.kind != GENE and genes_in_rows is not None and _is_about(column, genes_in_rows))
        ):
            annotation.append(i)
        else:
            values.append(i)
    if genes_in_rows is False:
        scores = set(_scores(columns, values))
        values = [i for i in values if i not in scores]
        annotation = sorted([*annotation, *scores])
    return Roles(index, annotation, values, dropped)


def _scores(columns: Sequence[Column], values: Sequence[int]) -> list[int]:
    """Return the columns with scores of cells before or after columns with counts of genes."""
    if not mostly_whole([columns[i] for i in values]):
        return []

    def is_score(i: int) -> bool:
        return columns[i].kind == NUMBER and columns[i].score and not is_gene(columns[i].name)

    return [*takewhile(is_score, values), *takewhile(is_score, reversed(values))]


def mostly_whole(columns: Sequence[Column]) -> bool:
    """Return whether most columns of numbers hold whole numbers only."""
    held = [column for column in columns if column.kind == NUMBER]
    return 4 * sum(not column.whole for column in held) < len(held)


def _is_about(column: Column, genes: bool) -> bool:
    """Return whether the name of a column says that it annotates genes, or else cells."""
    if column.kind == EMPTY and (GENE_GROUPS if genes else CELL_GROUPS).fullmatch(key_of(column.name)):
        return True
    return is_about_genes(column.name) if genes else is_about_cells(column.name)


def evidence_of(columns: Sequence[Column], roles: Roles, like: str = "") -> Evidence:
    """Return what the columns other than those of values tell about the orientation of a table."""
    named = "" if roles.named_by is None else columns[roles.named_by].name
    genes = cells = ""
    if roles.named_by is None:
        cells = "no column names the rows"
    elif names_genes(named) and not names_cells(named):
        genes = f"the first column is called {named!r}"
    elif names_cells(named):
        cells = f"the first column is called {named!r}"
    values = [columns[i] for i in roles.values if columns[i].kind != GENE]
    about_genes = [c.name for c in values if is_about_genes(c.name)]
    about_cells = [c.name for c in values if is_about_cells(c.name)]
    text = [columns[i] for i in roles.annotation if columns[i].kind == TEXT]
    described = [c.name for c in text if GENE_GROUPS.fullmatch(key_of(c.name)) or is_about_genes(c.name)]
    grouping = [c.name for c in text if CELL_GROUPS.fullmatch(key_of(c.name))]
    labels = [c.name for c in text if c.groups and c.name not in described]
    if not cells and not genes:
        if described or (len(about_genes) > len(about_cells) and not labels):
            genes = f"{listed(described or about_genes)} describe genes"
        if grouping or (len(about_cells) > len(about_genes) and not described):
            cells = f"the text columns or numbers {listed(grouping or about_cells)} label the rows"
        elif labels and not genes:
            cells = "text columns label the rows"
    return Evidence(genes, cells, like)


def quantified(columns: Sequence[Column]) -> tuple[int, str] | None:
    """Return the column with the counts of a table of one sample, and the tool; None for other tables."""
    keys = {key_of(column.name): i for i, column in reversed(list(enumerate(columns)))}
    keys |= {key.replace("_", ""): i for key, i in keys.items()}
    for counts, other, tool in QUANTIFICATIONS:
        if counts in keys and other in keys:
            return keys[counts], tool
    return None


def feature_counts(names: Sequence[str]) -> int:
    """Return the number of columns of gene annotation that featureCounts writes after the first; else 0."""
    return len(FEATURE_COUNTS) if tuple(names[1 : 1 + len(FEATURE_COUNTS)]) == FEATURE_COUNTS else 0


def check_no_results(columns: Sequence[Column], path: object) -> None:
    """Check that a table does not hold the results of a statistical test."""
    found = [c.name for c in columns if {key_of(c.name), key_of(c.name).replace("_", "")} & TEST_RESULTS]
    if len(found) > 1:
        raise FileFormatError(
            f"{str(path)!r} must hold expression, but has the columns {listed(found)} of a statistical test. "
            "Give the table of counts that was tested."
        )


def check_one_measure(columns: Sequence[Column], path: object) -> None:
    """Check that columns of values are samples, not measures of the same samples."""
    names = [column.name for column in columns]
    if len(names) > 1 and all(key_of(name) in MEASURES for name in names):
        raise FileFormatError(
            f"{str(path)!r} must have a column of counts, got measures of one sample only: {listed(names)}."
        )
    kinds = {match[1] for name in names if (match := TXIMPORT.fullmatch(name))}
    if len(kinds) > 1 and sum(TXIMPORT.fullmatch(name) is not None for name in names) >= len(names) - 1:
        raise FileFormatError(
            f"{str(path)!r} must hold counts only, got {listed(sorted(kinds))} of each sample, as tximport "
            "returns them. In R: write.csv(txi$counts, 'counts.csv')."
        )


def check_not_long(columns: Sequence[Column], index: int | None, path: object) -> None:
    """Check that a table does not hold one row for each gene and cell, as umi_tools writes it."""
    values = [c for c in columns if c.kind == NUMBER and not is_about_genes(c.name)]
    named = [c.name for i, c in enumerate(columns) if i == index or c.kind == TEXT]
    genes = [name for name in named if names_genes(name) and not names_cells(name)]
    cells = [name for name in named if names_cells(name)]
    if len(values) == 1 and genes and cells:
        raise FileFormatError(
            f"{str(path)!r} must have a row or column for each cell, got a row for each {genes[0]!r} and "
            f"{cells[0]!r}. Convert it: pandas.pivot_table(frame, {values[0].name!r}, {cells[0]!r}, "
            f"{genes[0]!r}, fill_value=0)."
        )


def said(columns: Sequence[Column], positions: Sequence[int]) -> str:
    """Return the sentence on columns of annotation, with a space before it; empty if there are none."""
    if not positions:
        return ""
    names = [columns[i].name for i in positions]
    plural = "columns are" if len(names) > 1 else "column is"
    return f" {len(names):,} {plural} annotation: {listed(names, 12)}."


def has_barcodes(names: Sequence[str]) -> bool:
    """Return whether most names are cell barcodes."""
    return 2 * sum(BARCODE.search(name) is not None for name in names) > len(names)
