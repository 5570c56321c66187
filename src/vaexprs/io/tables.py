"""Read and write text tables (.csv, .tsv, .txt, .gct) and their files with `obs`."""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from vaexprs.data.matrix import Matrix, densify
from vaexprs.interface.errors import FileFormatError, reason, warn
from vaexprs.interface.validation import listed
from vaexprs.io.atomic import claimed, set_aside, written_whole
from vaexprs.io.formats import suffix_of
from vaexprs.io.orientation import infer_orientation
from vaexprs.io.untrusted.archives import check_decompressed_size

SEPARATORS = {".csv": ",;\t", ".tsv": "\t", ".txt": "\t,; ", ".gct": "\t"}
VALUES_AT_ONCE = 2**24  # values of a table that are read or written at once
COMPRESSION_LEVEL = 6  # gzip's default; Python's 9 takes three times as long for little gain
MAX_DENSITY = 0.5  # maximum fraction of nonzero values for a sparse matrix
GCT = "#1.2"  # first line of a .gct file; the second has the numbers of rows and columns
# columns of gene annotation that featureCounts writes before the counts, some of them numeric
GENE_COLUMNS = ["Chr", "Start", "End", "Strand", "Length"]
# rows of htseq-count and STAR with numbers of reads that were not assigned to a gene
NOT_GENES = re.compile(
    "__(no_feature|ambiguous|too_low_aQual|not_aligned|alignment_not_unique)|"
    "N_(unmapped|multimapping|noFeature|ambiguous)"
)
# dates to which spreadsheets convert MARCH1, SEPT2 and DEC1 (Ziemann et al. 2016,
# doi:10.1186/s13059-016-1044-7)
DATE = re.compile(r"\d{1,2}-(Mar|Sep|Dec)|(Mar|Sep|Dec)-\d{1,2}", re.IGNORECASE)
# start of a text that a spreadsheet runs as a formula
FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


class _Layout(NamedTuple):
    """Layout of a table, from its first lines."""

    skip: int  # number of lines before the header
    separator: str
    header: list[str]  # column names except the first
    annotation: int  # number of columns after the first that are known to be gene annotation


def read_table(path: Path, transpose: bool | None = None, columns: pd.DataFrame | None = None) -> ad.AnnData:
    """Read a table with names in the first row and the first column.

    Text columns annotate the rows: labels of cells, or symbols of genes. Columns of `obs` may also be in a
    file ``cells.obs.csv`` in the same folder as ``cells.csv``. Comments before the header are skipped, and
    the additional rows and columns of featureCounts, htseq-count and STAR are recognised.

    Parameters
    ----------
    path
        File, which may end in ``.gz``.
    transpose
        Whether genes are in the rows; None to infer it from names and shape with a warning.
    columns
        Annotation of the cells, whose names settle the orientation, as do those in the ``.obs.csv`` file.
    """
    check_decompressed_size(path)
    layout = _layout(path)
    text, values, rows, columns_of_values = _read(path, layout)
    annotation = obs_path(path)
    obs = read_obs(annotation) if annotation.is_file() else None
    if transpose is None:
        transpose = bool(layout.annotation) or infer_orientation(
            path.name, list(rows), list(columns_of_values), (columns, obs), labels=_has_labels(text)
        )
    if transpose:
        adata = ad.AnnData(
            values.T.tocsr() if sp.issparse(values) else np.ascontiguousarray(values.T),
            obs=pd.DataFrame(index=columns_of_values),
            var=text,
        )
    else:
        adata = ad.AnnData(values, obs=text, var=pd.DataFrame(index=columns_of_values))
    return with_obs(_genes_only(adata, path), obs, annotation)


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


def _has_labels(text: pd.DataFrame) -> bool:
    return any(2 * text[column].nunique() <= len(text) for column in text)


def _read(path: Path, layout: _Layout) -> tuple[pd.DataFrame, Matrix, pd.Index, pd.Index]:
    """Return the text columns, the values, and the names of their rows and columns."""
    header = layout.header
    settings: dict[str, Any] = {
        "sep": layout.separator,
        "decimal": "," if layout.separator == ";" else ".",
        "header": None,
        "skiprows": 1,
        "names": list(range(len(header) + 1)),
        "keep_default_na": False,
        "na_values": [""],
        "low_memory": False,
        "float_precision": "round_trip",  # other parsers crash on exponents of ten digits
    }
    n_rows = max(1, VALUES_AT_ONCE // (len(header) + 1))
    with opened(path, layout.skip) as file:
        start = pd.read_csv(file, dtype={0: str}, nrows=n_rows, **settings)
    positions = range(1, len(header) + 1)
    text = [i for i in positions if i <= layout.annotation or _is_text(start[i], settings["decimal"])]
    numbers = [i for i in positions if i not in set(text)]
    if not numbers:
        raise FileFormatError(f"{str(path)!r} must have a column of numbers, got columns {listed(header)}.")
    names, parts, words = [], [], []
    kinds = dict.fromkeys([0, *text], str)
    with (
        opened(path, layout.skip) as file,
        pd.read_csv(file, dtype=kinds, chunksize=n_rows, **settings) as reader,
    ):
        for chunk in reader:
            rows = chunk[0].fillna("").to_numpy(str)
            values = chunk[numbers]
            if not _all_numbers(values):
                values = values.apply(_numbers, decimal=settings["decimal"])
            block = values.to_numpy(np.float32)
            if np.isnan(block).any():
                row, column = np.argwhere(np.isnan(block))[0]
                found = chunk[numbers[column]].iloc[row]
                got = "an empty field" if pd.isna(found) else repr(str(found))
                raise FileFormatError(
                    f"{str(path)!r} must contain numbers, got {got} in row {str(rows[row])!r}, "
                    f"column {header[numbers[column] - 1]!r}."
                )
            names.append(rows)
            parts.append(sp.csr_matrix(block))
            words.append(chunk[text])
    x = sp.vstack(parts, format="csr") if len(parts) > 1 else parts[0]
    values = x if x.nnz <= MAX_DENSITY * x.shape[0] * x.shape[1] else x.toarray()
    row_names = np.concatenate(names)
    if len(set(row_names)) < len(row_names) and _numbers(pd.Series(row_names), ".").notna().all():
        raise FileFormatError(f"{str(path)!r} must have names in its first column, got repeated numbers.")
    index = pd.Index([unguarded(name) for name in row_names])
    annotation = pd.concat(words).set_axis(index, axis=0).fillna("")
    annotation = annotation.set_axis([unguarded(header[i - 1]) for i in text], axis=1)
    return annotation, values, index, pd.Index([unguarded(header[i - 1]) for i in numbers])


@contextmanager
def opened(path: Path, skip: int = 0) -> Iterator[IO[str]]:
    """Open a text file, decompressed, after its first `skip` lines.

    Text mode normalises line endings; with mixed ones pandas may not terminate.

    Raises
    ------
    FileFormatError
        If the text is encoded in neither UTF-8 nor UTF-16 (in which Excel writes .txt).
    """
    compressed = suffix_of(path).endswith(".gz")
    with gzip.open(path) if compressed else path.open("rb") as start:
        is_utf16 = start.read(2) in (b"\xff\xfe", b"\xfe\xff")
    encoding = "utf-16" if is_utf16 else "utf-8-sig"
    try:
        with gzip.open(path, "rt", encoding=encoding) if compressed else path.open(encoding=encoding) as file:
            for _ in range(skip):
                file.readline()
            yield file
    except UnicodeError as error:
        raise FileFormatError(
            f"{str(path)!r} must be text in UTF-8: {reason(error)}. Save it in Excel as 'CSV UTF-8', or "
            "convert it: iconv -f latin1 -t utf-8."
        ) from error


def _layout(path: Path) -> _Layout:
    """Infer the layout of a table from its first lines."""
    with opened(path) as file:
        skip, lines = _find_header(file, path)
        separator = _separator(lines[0], path)
        rows = csv.reader(chain(lines, file), delimiter=separator)
        header, first = next(rows, []), next(filter(None, rows), [])
    if len(first) < 2:
        raise FileFormatError(
            f"{str(path)!r} must be a table with names in the first row and the first column, "
            f"got {len(header)} fields in the first row and {len(first)} in the second."
        )
    # R's write.table omits the name of the first column
    if len(header) not in (len(first), len(first) - 1):
        raise FileFormatError(
            f"{str(path)!r} must have as many fields in the second row as names in the first, "
            f"got {len(header):,} names and {len(first):,} fields."
        )
    header = header[len(header) == len(first) :]
    if header[: len(GENE_COLUMNS)] == GENE_COLUMNS:
        annotation = len(GENE_COLUMNS)
    else:
        annotation = int(suffix_of(_uncompressed(path)) == ".gct")
    return _Layout(skip, separator, header, annotation)


def _find_header(file: IO[str], path: Path) -> tuple[int, list[str]]:
    """Read up to the header, past comments and the first lines of a .gct file.

    Returns
    -------
    The number of lines before the header, and the lines read from the header on (one or two).
    """
    lines, skip = [file.readline()], 0
    if suffix_of(_uncompressed(path)) == ".gct":
        if lines[0].strip() != GCT:
            raise FileFormatError(f"{str(path)!r} must begin with {GCT}, the supported version of .gct.")
        file.readline()
        return 2, [file.readline()]
    while lines[0].startswith("#"):
        lines.append(file.readline())
        separator = _separator(lines[1], path)
        if lines[0].count(separator) == lines[1].count(separator):  # a header that begins with #
            break
        del lines[0]
        skip += 1
    return skip, lines


def _uncompressed(path: Path) -> Path:
    """Return a path without the suffix of its compression."""
    return path.with_suffix("") if suffix_of(path).endswith(".gz") else path


def _separator(line: str, path: Path) -> str:
    """Return the field separator: the possible one that is most frequent in the first line."""
    possible = SEPARATORS.get(suffix_of(_uncompressed(path)), SEPARATORS[".csv"])
    return max(possible, key=lambda mark: (line.count(mark), -possible.index(mark)))


def _is_text(values: pd.Series, decimal: str) -> bool:
    """Return whether none of the values is a number."""
    if pd.api.types.is_bool_dtype(values):
        return True
    if pd.api.types.is_numeric_dtype(values):
        return False
    return bool(_numbers(pd.Series(values.unique()), decimal).isna().all())


def _all_numbers(values: pd.DataFrame) -> bool:
    return all(kind.kind in "iuf" for kind in set(values.dtypes))


def _numbers(values: pd.Series, decimal: str) -> pd.Series:
    """Return values as numbers, with NaN for values that are not numbers or overflow.

    ``pandas.to_numeric`` crashes on exponents of ten digits.
    """
    if values.dtype.kind in "iuf":
        return values
    swapped = str.maketrans(".,", ",.") if decimal == "," else {}

    def number(value: object) -> float:
        text = str(value).translate(swapped)
        try:
            found = float(text)
        except ValueError:
            return np.nan
        return np.nan if "_" in text or np.isinf(found) else found

    return values.map(number).astype(float)


def obs_path(path: Path) -> Path:
    """Return the path of the file with `obs`: ``a.obs.csv`` for ``a.csv.gz``."""
    return _uncompressed(path).with_suffix(".obs.csv")


def read_obs(path: Path) -> pd.DataFrame:
    """Read a table of `obs` as text, with cell names in the first column."""
    check_decompressed_size(path)
    with opened(path) as file:
        separator = _separator(file.readline(), path)
        file.seek(0)
        obs = pd.read_csv(file, sep=separator, dtype=str, keep_default_na=False)
    if not isinstance(obs.index, pd.RangeIndex):  # R's write.table omits the name of the first column
        obs = obs.reset_index()
    obs = obs.apply(lambda column: column.map(unguarded)).rename(columns=unguarded)
    return obs.set_index(obs.columns[0]).rename_axis(index=None)


def write_obs(path: Path, obs: pd.DataFrame) -> None:
    """Write `obs` as a table, with cell names in the first column."""
    header = "cell"
    while header in obs:  # a column of this name is the user's
        header = f"_{header}"
    table = pd.DataFrame({header: guarded(obs.index)})
    for key in obs:
        table[guarded([key])[0]] = guarded(obs[key].astype(str))
    # without quotes a row with only an empty name would be an empty line
    table.to_csv(
        path, index=False, encoding="utf-8", quoting=csv.QUOTE_MINIMAL if len(obs.columns) else csv.QUOTE_ALL
    )


def with_obs(adata: ad.AnnData, obs: pd.DataFrame | None, path: Path) -> ad.AnnData:
    """Return cells with the columns of `obs` from the file `path` added, matched by name."""
    if obs is None:
        return adata
    missing = adata.obs_names.difference(obs.index)
    if len(missing) or not obs.index.is_unique:
        why = f"lacks {listed(list(missing))}" if len(missing) else "has repeated cell names"
        raise FileFormatError(f"{str(path)!r} must have one row for each cell, but {why}.")
    for key in obs:
        adata.obs[key] = obs[key].loc[adata.obs_names].to_numpy(object)
    return adata


def guarded(names: Iterable[Any]) -> list[str]:
    """Return texts, prefixed with an apostrophe if a spreadsheet would run them as a formula.

    Raises
    ------
    ValueError
        If a text contains a NUL or a carriage return, which table readers cannot parse.
    """
    names = list(map(str, names))
    odd = [name for name in names if "\0" in name or "\r" in name]
    if odd:
        raise ValueError(f"A table cannot hold text with a NUL or a carriage return, got {listed(odd)}.")
    return ["'" + text if FORMULA.match(text) else text for text in names]


def unguarded(name: Any) -> str:
    """Return a text without the apostrophe added by `guarded`."""
    text = str(name)
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text


def write_csv(adata: ad.AnnData, path: Path, *, overwrite: bool) -> None:
    """Write values and `obs` as two tables in the same folder, both or neither."""
    suffix = suffix_of(path)
    separator = SEPARATORS[suffix.removesuffix(".gz")][0]
    with (
        claimed(path),
        set_aside(path) as move_aside,
        written_whole(path, overwrite=overwrite) as table,
        written_whole(obs_path(path), overwrite=overwrite) as columns,
    ):
        write_obs(columns, adata.obs)
        write_table(adata, table, separator, compressed=suffix.endswith(".gz"))
        # two files cannot be replaced in one step: in between there is no table of values, rather than old
        # values with new `obs`
        move_aside()


def write_table(adata: ad.AnnData, path: Path, separator: str, *, compressed: bool) -> None:
    """Write values as a table with cells in rows and names made safe by `guarded`."""
    genes, cells = guarded(adata.var_names), guarded(adata.obs_names)
    step = max(1, VALUES_AT_ONCE // max(1, len(genes)))
    with (
        gzip.open(path, "wt", COMPRESSION_LEVEL, "utf-8", newline="")
        if compressed
        else open(path, "w", encoding="utf-8", newline="") as file
    ):
        rows = csv.writer(file, delimiter=separator, lineterminator="\n")
        rows.writerow(["cell", *genes])
        for first in range(0, adata.n_obs, step):
            block = np.asarray(densify(adata.X[first : first + step]))
            if np.all(block == np.round(block)):
                block = block.astype(np.int64)
            rows.writerows(
                [name, *values.tolist()]
                for name, values in zip(cells[first : first + step], block, strict=True)
            )
