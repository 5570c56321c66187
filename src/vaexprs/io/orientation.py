"""Infer from names and shape whether genes are in the rows or the columns of a table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import pandas as pd

from vaexprs.interface.errors import warn

# gene identifiers and symbols, and cell barcodes
GENE = re.compile(
    r"^(ENS[A-Z]{0,6}G\d{6,}|MT-[A-Z]|RP[LS]\d+[A-Z]?\d*$|"
    r"(ACTB|GAPDH|MALAT1|B2M|EEF1A1|TMSB4X|FTL|FTH1|TPT1|UBC|HSP90AB1|CD3[DEG]|CD4|CD8A|CD74|LYZ)$)",
    re.IGNORECASE,
)
BARCODE = re.compile(r"(?:^|[^A-Za-z])[ACGT]{10,}(?:[^A-Za-z]|$)")


def infer_orientation(
    name: str,
    rows: Sequence[str],
    columns: Sequence[str],
    cell_tables: Iterable[pd.DataFrame | None] = (),
    *,
    labels: bool = False,
    like: str = "",
) -> bool:
    """Return whether the genes are in the rows of a table; warn with the reason if it had to be guessed.

    Parameters
    ----------
    name
        Name of the file.
    rows, columns
        Names of the rows and columns.
    cell_tables
        Tables with one row per cell, whose names settle the orientation without a warning.
    labels
        Whether there are text columns with repeated values.
    like
        Convention by which such tables have genes in rows, used in the warning; empty if there is none.
    """
    for table in cell_tables:
        known = set() if table is None else set(table.index)
        if known.issuperset(rows) != known.issuperset(columns):
            return known.issuperset(columns)
    in_rows, in_columns = (_fraction(GENE, names) for names in (rows, columns))
    cells_rows, cells_columns = (_fraction(BARCODE, names) for names in (rows, columns))
    for_rows, for_columns = in_rows + cells_columns, in_columns + cells_rows
    n, m = len(rows), len(columns)
    if for_rows > 4 * for_columns:
        genes_in_rows = True
        why = f"{'rows are named like genes' if in_rows else 'columns are named like barcodes'}"
    elif labels:
        genes_in_rows, why = False, "text columns label the rows"
    elif for_columns > 4 * for_rows:
        genes_in_rows = False
        why = f"{'columns are named like genes' if in_columns else 'rows are named like barcodes'}"
    elif like:
        genes_in_rows, why = True, like
    else:
        genes_in_rows = n > m
        why = f"the names are ambiguous and there are {'more' if n > m else 'no more'} rows than columns"
    side, other = ("genes", "cells") if genes_in_rows else ("cells", "genes")
    turn = "transpose=False (--no-transpose)" if genes_in_rows else "transpose=True (--transpose)"
    warn(
        f"{name!r}: the {n:,} rows are read as {side} and the {m:,} columns as {other}, because {why}. "
        f"If this is wrong, pass {turn}."
    )
    return genes_in_rows


def _fraction(pattern: re.Pattern[str], names: Sequence[str]) -> float:
    """Return the fraction of names that contain a pattern."""
    return sum(pattern.search(str(name)) is not None for name in names) / max(1, len(names))
