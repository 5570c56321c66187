"""Tables with annotation of cells: read, match by name, write."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from vaexprs.interface.errors import FileFormatError, warn
from vaexprs.interface.validation import listed
from vaexprs.io.formats import uncompressed
from vaexprs.io.tables.dialect import find_dialect
from vaexprs.io.tables.fields import guarded, read_texts, unguarded, warn_of_spaces, written_texts
from vaexprs.io.tables.orientation import BARCODE
from vaexprs.io.tables.vocabulary import is_numbering
from vaexprs.io.text import opened
from vaexprs.io.untrusted.archives import check_decompressed_size


@dataclass(frozen=True)
class CellTable:
    """Table with annotation of cells, one row per cell.

    Parameters
    ----------
    path
        File that it was read from.
    texts
        All columns, as text.
    """

    path: Path
    texts: pd.DataFrame

    def matches(self, names: Sequence[str]) -> int:
        """Return the largest number of names in a column of the table, in any spelling."""
        return max((self._match(i, names)[0] for i in range(self.texts.shape[1])), default=0)

    def orientation(self, rows: Sequence[str], columns: Sequence[str]) -> bool | None:
        """Return whether the columns of a table are the cells of this one; None if names do not tell."""
        in_rows, in_columns = self.matches(rows), self.matches(columns)
        if bool(in_rows) != bool(in_columns):
            return bool(in_columns)
        if in_rows and in_columns / len(columns) != in_rows / len(rows):
            return in_columns / len(columns) > in_rows / len(rows)
        return None

    def _match(self, column: int, names: Sequence[str]) -> tuple[int, str, Callable[[str], str]]:
        """Return the number of names that a column has, and the spelling in which it has most of them."""
        found: tuple[int, str, Callable[[str], str]] = (0, "", str)
        given = self.texts.iloc[:, column].dropna()
        for what, spelling in SPELLINGS.items():
            here = list(map(spelling, given))
            there = list(map(spelling, names))
            if what and (len(set(here)) < len(here) or len(set(there)) < len(there)):
                continue  # different names become one
            n = len(set(here) & (set(there) - ({""} if what else set())))
            if n > found[0]:
                found = (n, what, spelling)
        return found

    def joined(self, adata: ad.AnnData) -> ad.AnnData:
        """Return cells with the columns of the table added, matched by name.

        Cells without a row get missing values, with a warning.

        Raises
        ------
        FileFormatError
            If no column has the names of the cells, or a cell has several rows.
        """
        names = list(map(str, adata.obs_names))
        matches = [self._match(i, names) for i in range(self.texts.shape[1])]
        column = int(np.argmax([n for n, *_ in matches])) if matches else 0
        n, what, spelling = matches[column] if matches else (0, "", str)
        if not n:
            raise self._no_match(names)
        given = self.texts.iloc[:, column]
        keys = given.map(spelling, na_action="ignore").fillna("")
        known = set(map(spelling, names))
        used = keys[keys.isin(known)]
        if used.duplicated().any():
            twice = list(given[used.index[used.duplicated()]])
            raise FileFormatError(
                f"{str(self.path)!r} must have one row for each cell, but has repeated cell names: "
                f"{listed(twice)}."
            )
        if what:
            warn(
                f"{str(self.path)!r} names the cells otherwise ({given[used.index[0]]!r} instead of "
                f"{names[list(map(spelling, names)).index(used.iloc[0])]!r}); they are matched {what}."
            )
        rows = pd.Series(used.index, index=used)
        position = rows.reindex(list(map(spelling, names)))
        missing = position.isna().to_numpy()
        if missing.any():
            without = [name for name, each in zip(names, missing, strict=True) if each]
            warn(
                f"{str(self.path)!r} has no row for {len(without):,} of {len(names):,} cells "
                f"({listed(without)}), whose annotation is missing. To leave them out: "
                "adata[adata.obs['cell_type'].notna()], with your column."
            )
        for i, key in enumerate(self.texts.columns):
            if i == column or (is_numbering(key) and i < column):
                continue
            values = self.texts.iloc[:, i].reindex(position).to_numpy(object)
            if key in adata.obs:
                warn(f"{str(self.path)!r}: its column {key!r} replaces that of the cells.")
            adata.obs[key] = values
        return adata

    def _no_match(self, names: Sequence[str]) -> FileFormatError:
        first = list(self.texts.iloc[:, 0].dropna()) if self.texts.shape[1] else []
        return FileFormatError(
            f"{str(self.path)!r} must have one row for each cell, but no column has their names: they are "
            f"{listed(names)}, its first column ({str(next(iter(self.texts.columns), ''))!r}) has "
            f"{listed(first, 3) or 'nothing'}. Put the names of the cells into its first column."
        )


def _without_number(name: str) -> str:
    return re.sub(r"[-.]\d+$", "", name)


def _of_r(name: str) -> str:
    return re.sub(r"^X(?=[\d.])", "", re.sub(r"[^0-9A-Za-z_]", ".", name))


def _barcode(name: str) -> str:
    match = BARCODE.search(name)
    return re.sub(r"[^ACGT]", "", match[0]) if match else ""


# spellings of names in which a table and the cells may agree, by how the warning describes them
SPELLINGS: dict[str, Callable[[str], str]] = {
    "": str,
    "without spaces around them": str.strip,
    "without the number at the end, such as '-1'": _without_number,
    "as R spells names of columns": _of_r,
    "as R spells names of columns, without the number at the end": lambda name: _without_number(_of_r(name)),
    "by their barcodes alone": _barcode,
}


def obs_path(path: Path) -> Path:
    """Return the path of the file with `obs`: ``a.obs.csv`` for ``a.csv.gz``."""
    return uncompressed(path).with_suffix(".obs.csv")


def read_obs(path: Path) -> CellTable:
    """Read a table of `obs` as text; texts that stand for missing values are missing."""
    check_decompressed_size(path)
    try:
        dialect = find_dialect(path, headless=False)
        skip, separator = dialect.skip, dialect.separator
    except FileFormatError:  # one column, or no row
        skip, separator, dialect = 0, ",", None
    names = None if dialect is None else dialect.header
    with opened(path, skip) as file:
        table = pd.read_csv(
            file,
            sep=separator,
            dtype=str,
            keep_default_na=False,
            header=0 if names is None else None,
            skiprows=0 if names is None else 1,
            names=None if names is None else list(range(len(names) + bool(dialect and dialect.ends))),
            index_col=False,
            skipinitialspace=separator == " ",
        )
    if names is not None:
        table = table.iloc[:, : len(names)].set_axis(names, axis=1)
    first = table.iloc[:, :1].apply(lambda column: column.map(unguarded))
    texts = pd.concat([first, *(read_texts(table.iloc[:, i]) for i in range(1, table.shape[1]))], axis=1)
    texts.columns = pd.Index([unguarded(name) for name in table.columns], dtype=object)
    warn_of_spaces(texts, path.name)
    return CellTable(path, texts)


def with_obs(adata: ad.AnnData, table: CellTable | None) -> ad.AnnData:
    """Return cells with the columns of a table added, matched by name."""
    return adata if table is None else table.joined(adata)


def write_obs(path: Path, obs: pd.DataFrame) -> None:
    """Write `obs` as a table, with cell names in the first column and empty fields for missing values."""
    header = "cell"
    while header in obs:  # a column of this name is the user's
        header = f"_{header}"
    table = pd.DataFrame({header: guarded(obs.index)})
    for i, key in enumerate(obs):
        table[guarded([key])[0]] = written_texts(obs.iloc[:, i])
    # without quotes a row with only an empty name would be an empty line
    table.to_csv(
        path, index=False, encoding="utf-8", quoting=csv.QUOTE_MINIMAL if len(obs.columns) else csv.QUOTE_ALL
    )
