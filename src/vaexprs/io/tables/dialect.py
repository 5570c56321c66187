"""Infer the dialect of a table from its first lines: comments, separator, header."""

from __future__ import annotations

import csv
import re
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from vaexprs.interface.errors import FileFormatError
from vaexprs.interface.validation import listed
from vaexprs.io.formats import suffix_of, uncompressed
from vaexprs.io.tables.numbers import DECIMAL_COMMA, GROUPS_OF_COMMAS, PLAIN
from vaexprs.io.tables.orientation import is_gene
from vaexprs.io.tables.vocabulary import NOT_GENES, is_index_name
from vaexprs.io.text import opened

# possible separators by suffix, the usual one first
SEPARATORS = {".csv": ",;\t| ", ".tsv": "\t,;| ", ".gct": "\t"}
OTHER_SEPARATORS = "\t,;| "
COMMENT = ("#", "%")
SERIES = "!"  # start of the lines of a GEO series matrix before and after its table
GCT = re.compile(r"#1\.[23]\s*")  # first line of a .gct file; the second has the numbers of rows and columns
EXCEL = re.compile(r'"?sep=(.)"?\s*')  # first line by which Excel is told the separator
LINES = 50  # number of lines after the header from which the dialect is inferred
MAX_COMMENTS = 10_000  # number of lines that are searched for the header


class Dialect(NamedTuple):
    """Dialect of a table.

    Parameters
    ----------
    skip
        Number of lines before the first row.
    separator
        Separator of the fields.
    header
        Names of all columns; None if the first row holds values.
    width
        Number of columns. Separators at the ends of rows do not count.
    shifted
        Whether the header has no name for the first column, as R's write.table omits it.
    ends
        Whether rows end in a separator, which makes an empty column.
    """

    skip: int
    separator: str
    header: list[str] | None
    width: int
    shifted: bool = False
    ends: bool = False


def find_dialect(path: Path, *, headless: bool = True) -> Dialect:
    """Return the dialect of a table.

    Parameters
    ----------
    path
        File, which may be compressed.
    headless
        Whether a table without a header is accepted.

    Raises
    ------
    FileFormatError
        If the file is not a table with names in the first row.
    """
    suffix = suffix_of(uncompressed(path))
    with opened(path) as file:
        lines = list(islice(file, LINES))
        skip, given = _leading(lines, suffix, path)
        while skip == len(lines) < MAX_COMMENTS and (line := file.readline()):
            lines.append(line)  # many comments
            skip, given = _leading(lines, suffix, path)
        lines += islice(file, LINES)
    if lines and "\0" in lines[0]:
        raise FileFormatError(
            f"{str(path)!r} must be text in UTF-8, got NUL characters, as in UTF-16 without a byte order "
            "mark. Convert it: iconv -f utf-16le -t utf-8."
        )
    return _dialect(lines, skip, given, suffix, path, headless)


def _leading(lines: list[str], suffix: str, path: Path) -> tuple[int, str | None]:
    """Return the number of lines before the table, and its separator if the first line names it."""
    if suffix == ".gct":
        if not lines or not GCT.fullmatch(lines[0]) or lines[0].strip() == "#1.3":
            raise FileFormatError(f"{str(path)!r} must begin with #1.2, the supported version of .gct.")
        return 2, "\t"
    skip, given = 0, None
    if lines and (match := EXCEL.fullmatch(lines[0])):
        skip, given = 1, match[1]
    series = bool(lines) and lines[0].startswith((SERIES, f'"{SERIES}'))
    marks = (*COMMENT, *(f'"{mark}' for mark in COMMENT)) + ((SERIES, f'"{SERIES}') if series else ())
    while skip < len(lines) and (not lines[skip].strip(" \t,;\r\n") or lines[skip].startswith(marks)):
        skip += 1
    return skip, given


def _dialect(
    lines: list[str], skip: int, given: str | None, suffix: str, path: Path, headless: bool
) -> Dialect:
    rest = [line for line in lines[skip:] if line.strip("\r\n")]
    separator = given or _separator(rest, SEPARATORS.get(suffix, OTHER_SEPARATORS))
    rows = _fields(rest, separator)
    # the last comment may be the header: "#cell,ACTB,GAPDH"
    before = lines[skip - 1] if skip and lines[skip - 1].startswith(COMMENT) else ""
    if before and rows and suffix != ".gct":
        names = _fields([before.lstrip("".join(COMMENT) + " ")], separator)
        first = rows[0]
        if names and len(names[0]) > 1 and len(names[0]) == len(first) and any(map(is_number, first[1:])):
            skip, rows = skip - 1, [names[0], *rows]
    if len(rows) < 2 or len(rows[1]) < 2:
        fewer = [len(row) for row in [*rows, [], []][:2]]
        raise FileFormatError(
            f"{str(path)!r} must be a table with names in the first row and the first column, "
            f"got {fewer[0]} fields in the first row and {fewer[1]} in the second."
        )
    return _with_header(skip, separator, rows, path, headless)


def _with_header(skip: int, separator: str, rows: list[list[str]], path: Path, headless: bool) -> Dialect:
    header, body = rows[0], rows[1:]
    if len(header) > 1 and all(name.startswith(" ") for name in header[1:]):  # "gene, S1, S2"
        header = [name.strip() for name in header]
    width = len(body[0])
    ends = all(row[-1] == "" for row in body) and len(Counter(map(len, body))) == 1
    named = header[0].strip() != "" and (headless or is_index_name(header[0]))
    if ends and len(header) == width - 1 and named:
        return Dialect(
            skip, separator, header, width - 1, ends=True
        )  # rows end in a separator, the header not
    if ends and len(header) == width and header[-1] == "":
        return Dialect(skip, separator, header[:-1], width - 1, ends=True)
    if width > 2 and len(header) > 0 and not any(name.strip() for name in header[1:]):
        raise FileFormatError(
            f"{str(path)!r} must begin with the names of its columns, got a line with one text, "
            f"{header[0].strip()!r}. Delete the lines above the names."
        )
    if len(header) not in (width, width - 1):
        raise FileFormatError(
            f"{str(path)!r} must have as many fields in the second row as names in the first, "
            f"got {len(header):,} names and {width:,} fields."
        )
    if len(header) == width - 1:
        return Dialect(skip, separator, ["", *header], width, shifted=True)
    if not _is_row(header, body):
        return Dialect(skip, separator, header, width)
    if not headless or not _is_surely_row(header, body):
        numeric = [text for text in header[1:] if is_number(text)]
        raise FileFormatError(
            f"{str(path)!r} must have the names of its columns in the first row, got numbers: "
            f"{listed(numeric)}. Add a row with names, such as 'gene' and the names of the samples; or, if "
            "these are names, call the first column 'gene' or 'cell'."
        )
    return Dialect(skip, separator, None, width)


def is_number(text: str) -> bool:
    """Return whether a field is a number."""
    text = text.strip()
    return any(kind.fullmatch(text) for kind in (PLAIN, DECIMAL_COMMA, GROUPS_OF_COMMAS))


def _is_row(header: list[str], body: list[list[str]]) -> bool:
    """Return whether the first row holds a number in each column of numbers, as other rows do."""
    if is_index_name(header[0]) or not any(map(is_number, header[1:])):
        return False
    columns = [
        i for i in range(1, len(header)) if all(is_number(row[i]) for row in body if len(row) > i and row[i])
    ]
    if not columns or not all(is_number(header[i]) for i in columns):
        return False
    numbered = [header[i].strip() for i in columns]
    first = numbered[0]
    # numbered columns: 0, 1, 2 or 1, 2, 3
    return not (
        first in ("0", "1")
        and len(columns) > 1
        and numbered == [str(int(first) + i) for i in range(len(numbered))]
    )


def _is_surely_row(header: list[str], body: list[list[str]]) -> bool:
    """Return whether the first row cannot be a header: it names a gene, or it repeats a number."""
    names = [header[0], *(row[0] for row in body)]
    if is_gene(header[0]) or any(NOT_GENES.fullmatch(name) for name in names):
        return True
    numeric = [text for text in header[1:] if is_number(text)]
    if len(set(numeric)) < len(numeric):
        return True
    alike = _letters(header[0]) in set(map(_letters, names[1:]))
    return alike and (len(header) == 2 or any("." in text for text in numeric))


def _letters(name: str) -> tuple[bool, ...]:
    """Return whether a name has small letters, capitals, digits and other characters."""
    return tuple(re.search(kind, name) is not None for kind in ("[a-z]", "[A-Z]", "[0-9]", "[^0-9A-Za-z]"))


def _separator(lines: list[str], possible: str) -> str:
    """Return the separator that splits the most lines into the same number of fields."""

    def score(mark: str) -> tuple[float, int, int]:
        widths = [len(row) for row in _fields(lines, mark)]
        body = widths[1:] or widths
        if not body:
            return 0.0, 0, 0
        width, often = Counter(body).most_common(1)[0]
        if width < 2:
            return 0.0, widths[0], -possible.index(mark)
        fits = widths[0] in (width, width - 1)
        return often / len(body) + fits, min(width, 2), -possible.index(mark)

    return max(possible, key=score)


def _fields(lines: list[str], separator: str) -> list[list[str]]:
    try:
        rows = list(csv.reader(lines, delimiter=separator, skipinitialspace=separator == " "))
    except csv.Error:  # a field of more than 128 KiB, or a NUL
        rows = [line.rstrip("\r\n").split(separator) for line in lines]
    rows = [row for row in rows if row]
    if separator == " ":  # spaces at the ends of lines
        rows = [row[:-1] if row[-1] == "" else row for row in rows]
    return rows
