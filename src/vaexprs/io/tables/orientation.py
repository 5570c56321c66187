"""Infer from names whether genes are in the rows or the columns of a table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from vaexprs.interface.errors import warn

# gene identifiers and symbols, and cell barcodes
GENE = re.compile(
    r"^(ENS[A-Z]{0,6}[GT]\d{6,}|MT-[A-Z]|RP[LS]\d+[A-Z]?\d*$|[NX][MRP]_\d{5,}|LOC\d{5,}|"
    r"(ACTB|GAPDH|MALAT1|B2M|EEF1A1|TMSB4X|FTL|FTH1|TPT1|UBC|HSP90AB1|CD3[DEG]|CD4|CD8A|CD74|LYZ)$)",
    re.IGNORECASE,
)
BARCODE = re.compile(r"(?:^|[^A-Za-z])[ACGT]{10,}(?:[^A-Za-z]|$)")
CLEARLY = 4  # ratio of names for and against an orientation from which on it counts as clear


class Evidence(NamedTuple):
    """Evidence from the columns of a table, beside the names in its rows and columns.

    Parameters
    ----------
    genes
        Reason to read the rows as genes, for example that the first column is named "gene"; empty if none.
    cells
        Reason to read the rows as cells; empty if none.
    like
        Convention by which such tables have genes in rows; empty if there is none.
    """

    genes: str = ""
    cells: str = ""
    like: str = ""


def is_gene(name: str) -> bool:
    """Return whether a name is surely that of a gene."""
    return GENE.search(name) is not None


class Orientation(NamedTuple):
    """Orientation of a table: whether genes are in the rows, and why."""

    genes_in_rows: bool
    why: str


def infer_orientation(
    rows: Sequence[str],
    columns: Sequence[str],
    evidence: Evidence = Evidence(),  # noqa: B008 - a constant
) -> Orientation:
    """Return the orientation of a table.

    Parameters
    ----------
    rows, columns
        Names of the rows and of the columns with values.
    evidence
        Evidence from other columns.
    """
    in_rows, in_columns = (_fraction(GENE, names) for names in (rows, columns))
    cells_rows, cells_columns = (_fraction(BARCODE, names) for names in (rows, columns))
    for_rows, for_columns = in_rows + cells_columns, in_columns + cells_rows
    if for_rows > CLEARLY * for_columns:
        return Orientation(
            True, f"{'rows are named like genes' if in_rows else 'columns are named like barcodes'}"
        )
    if for_columns > CLEARLY * for_rows:
        why = f"{'columns are named like genes' if in_columns else 'rows are named like barcodes'}"
        return Orientation(False, why)
    if bool(evidence.genes) != bool(evidence.cells):
        return Orientation(bool(evidence.genes), evidence.genes or evidence.cells)
    if evidence.like:
        return Orientation(True, evidence.like)
    n, m = len(rows), len(columns)
    why = f"the names are ambiguous and there are {'more' if n > m else 'no more'} rows than columns"
    return Orientation(n > m, why)


def warn_of_orientation(
    name: str, found: Orientation, n_rows: int, n_columns: int, annotation: str = ""
) -> None:
    """Warn of an inferred orientation.

    Parameters
    ----------
    name
        Name of the file.
    found
        The orientation.
    n_rows, n_columns
        Numbers of rows and of columns with values.
    annotation
        Sentence on the columns of annotation, with a space before it.
    """
    side, other = ("genes", "cells") if found.genes_in_rows else ("cells", "genes")
    turn = "transpose=False (--no-transpose)" if found.genes_in_rows else "transpose=True (--transpose)"
    warn(
        f"{name!r}: the {n_rows:,} rows are read as {side} and {n_columns:,} columns as {other}, because "
        f"{found.why}.{annotation} If this is wrong, pass {turn}."
    )


def _fraction(pattern: re.Pattern[str], names: Sequence[str]) -> float:
    """Return the fraction of names that contain a pattern."""
    return sum(pattern.search(str(name)) is not None for name in names) / max(1, len(names))
