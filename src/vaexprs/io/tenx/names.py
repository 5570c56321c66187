"""Read the lists of genes and cells of a 10x folder."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from vaexprs.interface.errors import FileFormatError
from vaexprs.io.tables.orientation import is_gene
from vaexprs.io.tables.vocabulary import is_index_name
from vaexprs.io.text import opened

# header that R's write.table and pandas write above a list
HEADER = re.compile(
    r"x|V1|0|Unnamed: 0|barcodes?|cells?|genes?|features?|(gene|feature|cell)_?(id|name)s?", re.I
)


def read_names(path: Path, n: int) -> pd.DataFrame:
    """Return the columns of a list of n names as text, without quotes, header and row numbers.

    Parameters
    ----------
    path
        Text file without a header, as CellRanger writes it; or with one, with quotes, row numbers or other
        separators, as R and pandas write it.
    n
        Number of rows or columns of the matrix; a first line that would be one too many is a header.

    Raises
    ------
    FileFormatError
        If the file is empty.
    """
    with opened(path) as file:
        lines = [line.rstrip("\n") for line in file]
    while lines and not lines[-1].strip():
        del lines[-1]
    if not lines:
        raise FileFormatError(f"{str(path)!r} is empty.")
    quoted = '"' in lines[0]
    separator = _separator(lines, path, quoted=quoted)
    rows = [line.split(separator) if separator else [line] for line in lines]
    if separator == " " or (quoted and separator == ","):
        rows = [re.findall(r'"[^"]*"|[^\s,"]+', line) or [""] for line in lines]
    if len(rows) == n + 1 and _is_header(rows[0], rows[1]):
        rows = rows[1:]
    width = max(map(len, rows))
    table = pd.DataFrame([row + [""] * (width - len(row)) for row in rows], dtype=str)
    for i in table:
        if table[i].str.fullmatch(r'".*"').all():
            table[i] = table[i].str[1:-1]
    if width > 1 and len(table) > 1:
        numbers = table[0].tolist()
        if numbers in ([str(i + 1) for i in range(len(table))], [str(i) for i in range(len(table))]):
            table = table.drop(columns=0).set_axis(range(width - 1), axis=1)
    return table


def _separator(lines: list[str], path: Path, *, quoted: bool) -> str:
    if "\t" in lines[0] or (len(lines) > 1 and "\t" in lines[1]):
        return "\t"
    last = lines[-1]
    if ".csv" in path.suffixes and "," in last:
        return ","
    if quoted and re.fullmatch(r'"[^"]*"( "?[^"]*"?)+', last):
        return " "
    return " " if " " in last and _has_spaces_between(lines[1:]) else ""


def _has_spaces_between(lines: list[str]) -> bool:
    """Return whether spaces separate row numbers or identifiers of genes from names, without quotes."""
    rows = [line.split(" ") for line in lines]
    first = [row[0] for row in rows]
    start = int(first[0]) if first and first[0].isdecimal() else None
    numbered = start is not None and first == [str(start + i) for i in range(len(first))]
    # False for a list of one name
    return len(set(map(len, rows))) == 1 and (numbered or all(map(is_gene, first)))


def _is_header(first: list[str], second: list[str]) -> bool:
    names = [name.strip('"') for name in first]
    return len(first) < len(second) or HEADER.fullmatch(names[0]) is not None or is_index_name(names[0])
