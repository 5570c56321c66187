"""Find the files with the names of genes and cells that belong to a sparse matrix."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vaexprs.interface.errors import FileFormatError
from vaexprs.interface.validation import listed

MATRIX = re.compile(r"(?P<prefix>.*?)(?P<name>matrix)?\.mtx(\.gz|\.bz2|\.xz)?", re.IGNORECASE)
STANDARD = re.compile(r"matrix\.mtx(\.gz)?")
# names of the lists of genes and of cells after a common prefix, the usual ones first
GENES = ("features", "genes", "gene_names", "rownames", "genes.names", "all_genes", "gene_ids")
CELLS = ("barcodes", "cells", "cell_names", "cellnames", "colnames", "cell_barcodes")
# names of the lists beside matrices with cells in rows: alevin and alevin-fry
CELLS_OF_ROWS, GENES_OF_COLUMNS = ("_rows", "rows"), ("_cols", "cols")


class Companions(NamedTuple):
    """Files of a sparse matrix.

    Parameters
    ----------
    matrix, genes, cells
        The files.
    cells_in_rows
        Whether the matrix has cells in rows, as kb and alevin write it, if its shape does not tell.
    """

    matrix: Path
    genes: Path
    cells: Path
    cells_in_rows: bool


def is_folder(path: Path) -> bool:
    """Return whether a folder contains a sparse matrix or a list of names of a 10x folder."""
    if not path.is_dir() or path.suffix == ".zarr":
        return False
    names = [each.name for each in path.iterdir() if each.is_file()]
    lists = re.compile(r"(features|genes|barcodes)\.tsv(\.gz)?")
    return any(MATRIX.fullmatch(name) or lists.fullmatch(name) for name in names)


def find_companions(path: Path) -> Companions:
    """Return the files of a matrix: of the named one, or of the only or standard one of a folder.

    The files with names have the longest common prefix with the name of the matrix:
    ``GSM1_matrix.mtx.gz``, ``GSM1_features.tsv.gz`` and ``GSM1_barcodes.tsv.gz`` belong together.

    Raises
    ------
    FileFormatError
        If a file is missing, or a folder contains several matrices.
    """
    matrix = _matrix_in(path) if path.is_dir() else path
    names = sorted(each.name for each in matrix.parent.iterdir() if each.is_file())
    for genes, cells, in_rows in ((GENES_OF_COLUMNS, CELLS_OF_ROWS, True), (GENES, CELLS, None)):
        found = [_best(words, names, matrix) for words in (genes, cells)]
        if all(found):
            by_rows = matrix.name.startswith("cells_x_") if in_rows is None else in_rows
            first, second = (matrix.with_name(str(name)) for name in found)
            return Companions(matrix, first, second, by_rows)
    prefix = _prefix(matrix.name)
    standard = not prefix or STANDARD.fullmatch(matrix.name)
    missing = [
        what
        for what, name in zip(("features.tsv or genes.tsv", "barcodes.tsv"), found, strict=True)
        if name is None
    ]
    near = [name for name in names if re.search(r"\.(tsv|txt|csv)(\.gz)?$", name)]
    hint = "" if standard else f" (or '{prefix}features.tsv' and '{prefix}barcodes.tsv')"
    raise FileFormatError(
        f"{str(path)!r} is incomplete: {' and '.join(missing)} is missing. A folder contains matrix.mtx, "
        f"features.tsv (or genes.tsv) and barcodes.tsv{hint}, each optionally with .gz; here are "
        f"{listed(near, 8) or 'no lists of names'}."
    )


def _matrix_in(folder: Path) -> Path:
    matrices = sorted(each for each in folder.iterdir() if each.is_file() and MATRIX.fullmatch(each.name))
    standard = [each for each in matrices if STANDARD.fullmatch(each.name)]
    if standard:
        return max(standard, key=lambda each: each.suffix == ".gz")
    if len(matrices) == 1:
        return matrices[0]
    if not matrices:
        raise FileFormatError(
            f"{str(folder)!r} is incomplete: matrix.mtx.gz or matrix.mtx is missing. A 10x folder contains "
            "matrix.mtx, features.tsv (or genes.tsv) and barcodes.tsv, each optionally with .gz."
        )
    raise FileFormatError(
        f"{str(folder)!r} contains several matrices: {listed([each.name for each in matrices], 8)}. Give the "
        f"path of one, such as {str(matrices[0])!r}."
    )


def _prefix(name: str) -> str:
    match = MATRIX.fullmatch(name)
    return "" if match is None or match["name"] is None else match["prefix"]


def _stem(name: str) -> str:
    """Return the name of a matrix without its suffix: "s1" for "s1.mtx.gz" and "s1_genes.tsv"."""
    match = MATRIX.fullmatch(name)
    return name if match is None else match["prefix"]


def _best(words: Sequence[str], names: Sequence[str], matrix: Path) -> str | None:
    """Return the list whose prefix is the longest with which the name of the matrix begins."""
    found = []
    for rank, word in enumerate(words):
        kind = re.compile(rf"(?P<prefix>.*?){re.escape(word)}\.(tsv|txt|csv)(\.gz)?", re.IGNORECASE)
        for name in names:
            match = kind.fullmatch(name)
            if match is None:
                continue
            if matrix.name.startswith(match["prefix"]) or _stem(matrix.name) == match["prefix"].rstrip("_.-"):
                found.append((len(match["prefix"]), -rank, name.endswith(".gz"), name))
    return max(found)[-1] if found else None
