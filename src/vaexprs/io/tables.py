"""Tables of text: .csv, .tsv, .txt and .gct, either way round, and the columns of cells beside them."""

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
from vaexprs.io.untrusted.archives import check_packed

SEPARATORS = {".csv": ",;\t", ".tsv": "\t", ".txt": "\t,; ", ".gct": "\t"}
VALUES_AT_ONCE = 2**24  # of a table that are read or written at once
PACKING = 6  # gzip's own default: Python's takes three times as long for little
FEW = 0.5  # of the values not zero, up to which a table becomes a sparse matrix
GCT = "#1.2"  # first line of a .gct, whose second has the numbers of its rows and columns
# what featureCounts has of a gene before its counts, of which some are numbers
OF_GENE = ["Chr", "Start", "End", "Strand", "Length"]
# rows in which htseq-count and STAR say how many reads are of no gene
OF_NO_GENE = re.compile(
    "__(no_feature|ambiguous|too_low_aQual|not_aligned|alignment_not_unique)|"
    "N_(unmapped|multimapping|noFeature|ambiguous)"
)
# what spreadsheets make of MARCHF1, SEPTIN2 and DEC1 (Ziemann et al. 2016, doi:10.1186/s13059-016-1044-7)
DATE = re.compile(r"\d{1,2}-(Mar|Sep|Dec)|(Mar|Sep|Dec)-\d{1,2}", re.IGNORECASE)
# a spreadsheet runs what begins so
FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


class _Form(NamedTuple):
    """What the first lines of a table tell of it."""

    lead: int  # lines before the names of the columns
    separator: str
    header: list[str]  # names of the columns but the first
    about: int  # columns after the first that are of genes, whatever is in them; 0 where nothing is sure


def read_table(path: Path, transpose: bool | None = None, columns: pd.DataFrame | None = None) -> ad.AnnData:
    """Read a table whose first row and first column have names.

    Columns without any number are about the other side: the labels of cells, or the symbols of genes.
    Columns of the cells may also be in a file beside, ``cells.obs.csv`` for ``cells.csv``. Comments before
    the names are passed over, and what featureCounts, htseq-count and STAR write beside counts is known.

    Parameters
    ----------
    path
        The file, which may end in ``.gz``.
    transpose
        Whether the genes are in the rows; None to tell by the names and the shape, and to say so.
    columns
        Of the cells, whose names tell it for sure, as those of the file beside do.
    """
    check_packed(path)
    form = _form(path)
    text, values, rows, others = _read(path, form)
    beside = obs_path(path)
    obs = read_obs(beside) if beside.is_file() else None
    if transpose is None:
        transpose = bool(form.about) or infer_orientation(
            path.name, list(rows), list(others), (columns, obs), labels=_has_labels(text)
        )
    if transpose:
        adata = ad.AnnData(
            values.T.tocsr() if sp.issparse(values) else np.ascontiguousarray(values.T),
            obs=pd.DataFrame(index=others),
            var=text,
        )
    else:
        adata = ad.AnnData(values, obs=text, var=pd.DataFrame(index=others))
    return with_obs(_of_genes(adata, path), obs, beside)


def _of_genes(adata: ad.AnnData, path: Path) -> ad.AnnData:
    """Leave out the sums of reads that are of no gene, and say so, and of genes that became dates."""
    dates = [name for name in adata.var_names if DATE.fullmatch(name)]
    if dates:
        warn(f"{path.name!r}: a spreadsheet has made dates of the names of genes: {listed(dates)}.")
    apart = np.array([OF_NO_GENE.fullmatch(name) is not None for name in adata.var_names], bool)
    if not apart.any():
        return adata
    warn(f"{path.name!r}: {listed(list(adata.var_names[apart]))} count reads of no gene, and are left out.")
    return adata[:, ~apart].copy()


def _has_labels(text: pd.DataFrame) -> bool:
    return any(2 * text[column].nunique() <= len(text) for column in text)


def _read(path: Path, form: _Form) -> tuple[pd.DataFrame, Matrix, pd.Index, pd.Index]:
    """Return the columns of text, the values, and the names of rows and columns."""
    header = form.header
    settings: dict[str, Any] = {
        "sep": form.separator,
        "decimal": "," if form.separator == ";" else ".",
        "header": None,
        "skiprows": 1,
        "names": list(range(len(header) + 1)),
        "keep_default_na": False,
        "na_values": [""],
        "low_memory": False,
        "float_precision": "round_trip",  # the others crash over exponents of ten digits
    }
    n_rows = max(1, VALUES_AT_ONCE // (len(header) + 1))
    with opened(path, form.lead) as file:
        start = pd.read_csv(file, dtype={0: str}, nrows=n_rows, **settings)
    places = range(1, len(header) + 1)
    text = [place for place in places if place <= form.about or _is_text(start[place], settings["decimal"])]
    numbers = [place for place in places if place not in set(text)]
    if not numbers:
        raise FileFormatError(f"{str(path)!r} has no column of numbers beside its names ({listed(header)}).")
    names, parts, words = [], [], []
    kinds = dict.fromkeys([0, *text], str)
    with (
        opened(path, form.lead) as file,
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
                what = "nothing" if pd.isna(found) else repr(str(found))
                raise FileFormatError(
                    f"{str(path)!r} must hold numbers, but has {what} in row {str(rows[row])!r}, "
                    f"column {header[numbers[column] - 1]!r}."
                )
            names.append(rows)
            parts.append(sp.csr_matrix(block))
            words.append(chunk[text])
    x = sp.vstack(parts, format="csr") if len(parts) > 1 else parts[0]
    values = x if x.nnz <= FEW * x.shape[0] * x.shape[1] else x.toarray()
    named = np.concatenate(names)
    if len(set(named)) < len(named) and _numbers(pd.Series(named), ".").notna().all():
        raise FileFormatError(
            f"{str(path)!r} must have names in its first column, got numbers that come more than once."
        )
    index = pd.Index([unguarded(name) for name in named])
    about = pd.concat(words).set_axis(index, axis=0).fillna("")
    about = about.set_axis([unguarded(header[place - 1]) for place in text], axis=1)
    return about, values, index, pd.Index([unguarded(header[place - 1]) for place in numbers])


@contextmanager
def opened(path: Path, lead: int = 0) -> Iterator[IO[str]]:
    """Open a table after its first `lead` lines.

    Lines may end as on any system; pandas finds lines without end where some do.

    Raises
    ------
    ValueError
        If what is read is text in neither UTF-8 nor UTF-16 (in which Excel writes .txt).
    """
    packed = suffix_of(path).endswith(".gz")
    with gzip.open(path) if packed else path.open("rb") as start:
        wide = start.read(2) in (b"\xff\xfe", b"\xfe\xff")
    encoding = "utf-16" if wide else "utf-8-sig"
    try:
        with gzip.open(path, "rt", encoding=encoding) if packed else path.open(encoding=encoding) as file:
            for _ in range(lead):
                file.readline()
            yield file
    except UnicodeError as error:
        raise FileFormatError(
            f"{str(path)!r} must be text in UTF-8: {reason(error)}. In Excel save it as 'CSV UTF-8'; "
            "elsewhere: iconv -f latin1 -t utf-8."
        ) from error


def _form(path: Path) -> _Form:
    """Return what the first lines of a table tell of it."""
    with opened(path) as file:
        lead, ahead = _names(file, path)
        separator = _separator(ahead[0], path)
        rows = csv.reader(chain(ahead, file), delimiter=separator)
        header, first = next(rows, []), next(filter(None, rows), [])
    if len(first) < 2:
        raise FileFormatError(
            f"{str(path)!r} must be a table with names in its first row and its first column, "
            f"got {len(header)} fields in its first row and {len(first)} in its second."
        )
    # R's write.table leaves out the name of the first column
    if len(header) not in (len(first), len(first) - 1):
        raise FileFormatError(
            f"{str(path)!r} has {len(header):,} names in its first row, but {len(first):,} fields in its "
            "second."
        )
    header = header[len(header) == len(first) :]
    about = len(OF_GENE) if header[: len(OF_GENE)] == OF_GENE else int(suffix_of(_unpacked(path)) == ".gct")
    return _Form(lead, separator, header, about)


def _names(file: IO[str], path: Path) -> tuple[int, list[str]]:
    """Read to the names of the columns, past comments and what .gct begins with.

    Returns
    -------
    The number of lines before them, and the lines read from them on: that one, or two.
    """
    ahead, lead = [file.readline()], 0
    if suffix_of(_unpacked(path)) == ".gct":
        if ahead[0].strip() != GCT:
            raise FileFormatError(f"{str(path)!r} must begin with {GCT}, the version of .gct that is read.")
        file.readline()
        return 2, [file.readline()]
    while ahead[0].startswith("#"):
        ahead.append(file.readline())
        mark = _separator(ahead[1], path)
        if ahead[0].count(mark) == ahead[1].count(mark):  # the names themselves begin with it
            break
        del ahead[0]
        lead += 1
    return lead, ahead


def _unpacked(path: Path) -> Path:
    """Return the name of a file without what says that it is packed."""
    return path.with_suffix("") if suffix_of(path).endswith(".gz") else path


def _separator(line: str, path: Path) -> str:
    """Return what separates the fields of a table, by its first line."""
    possible = SEPARATORS.get(suffix_of(_unpacked(path)), SEPARATORS[".csv"])
    return max(possible, key=lambda mark: (line.count(mark), -possible.index(mark)))


def _is_text(values: pd.Series, decimal: str) -> bool:
    """Whether not one of the values is a number."""
    if pd.api.types.is_bool_dtype(values):
        return True
    if pd.api.types.is_numeric_dtype(values):
        return False
    return bool(_numbers(pd.Series(values.unique()), decimal).isna().all())


def _all_numbers(values: pd.DataFrame) -> bool:
    return all(kind.kind in "iuf" for kind in set(values.dtypes))


def _numbers(values: pd.Series, decimal: str) -> pd.Series:
    """Return values as numbers, NaN for what is none or too large for one.

    ``pandas.to_numeric`` crashes over exponents of ten digits.
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
    """Return the name of the file with the columns of the cells: ``a.obs.csv`` for ``a.csv.gz``."""
    return _unpacked(path).with_suffix(".obs.csv")


def read_obs(path: Path) -> pd.DataFrame:
    """Read columns of the cells, as text; what separates them is told as it is of tables."""
    check_packed(path)
    with opened(path) as file:
        separator = _separator(file.readline(), path)
        file.seek(0)
        obs = pd.read_csv(file, sep=separator, dtype=str, keep_default_na=False)
    if not isinstance(obs.index, pd.RangeIndex):  # R's write.table leaves out the name of the first column
        obs = obs.reset_index()
    obs = obs.apply(lambda column: column.map(unguarded)).rename(columns=unguarded)
    return obs.set_index(obs.columns[0]).rename_axis(index=None)


def write_obs(path: Path, obs: pd.DataFrame) -> None:
    """Write columns of the cells, with their names first."""
    table = pd.DataFrame({"cell": guarded(obs.index)})
    for key in obs:
        table[guarded([key])[0]] = guarded(obs[key].astype(str))
    # a row of one empty name would be an empty line
    table.to_csv(
        path, index=False, encoding="utf-8", quoting=csv.QUOTE_MINIMAL if len(obs.columns) else csv.QUOTE_ALL
    )


def with_obs(adata: ad.AnnData, obs: pd.DataFrame | None, path: Path) -> ad.AnnData:
    """Return cells with the columns that a file beside theirs has of them."""
    if obs is None:
        return adata
    missing = adata.obs_names.difference(obs.index)
    if len(missing) or not obs.index.is_unique:
        why = f"lacks {listed(list(missing))}" if len(missing) else "names a cell twice"
        raise FileFormatError(f"{str(path)!r} must have a row for each cell, but {why}.")
    for key in obs:
        adata.obs[key] = obs[key].loc[adata.obs_names].to_numpy(object)
    return adata


def guarded(names: Iterable[Any]) -> list[str]:
    """Return texts with an apostrophe before those that a spreadsheet would run as a formula.

    Raises
    ------
    ValueError
        If one has a NUL or a carriage return, at which readers of tables stop.
    """
    names = list(map(str, names))
    odd = [name for name in names if "\0" in name or "\r" in name]
    if odd:
        raise ValueError(f"A table cannot hold texts with a NUL or a carriage return: {listed(odd)}.")
    return ["'" + text if FORMULA.match(text) else text for text in names]


def unguarded(name: Any) -> str:
    """Return a text without the apostrophe that `guarded` set before it."""
    text = str(name)
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text


def write_csv(adata: ad.AnnData, path: Path, *, overwrite: bool) -> None:
    """Write values as a table and `obs` as another one next to it, both or neither."""
    suffix = suffix_of(path)
    separator = SEPARATORS[suffix.removesuffix(".gz")][0]
    with (
        claimed(path),
        set_aside(path) as take_away,
        written_whole(path, overwrite=overwrite) as table,
        written_whole(obs_path(path), overwrite=overwrite) as columns,
    ):
        write_obs(columns, adata.obs)
        write_table(adata, table, separator, compressed=suffix.endswith(".gz"))
        # two files cannot be replaced in one step: in between there is no table, rather than a table with the
        # columns of another
        take_away()


def write_table(adata: ad.AnnData, path: Path, separator: str, *, compressed: bool) -> None:
    """Write values as a table, cells in rows; names that a spreadsheet would run get an apostrophe."""
    genes, cells = guarded(adata.var_names), guarded(adata.obs_names)
    step = max(1, VALUES_AT_ONCE // max(1, len(genes)))
    with (
        gzip.open(path, "wt", PACKING, "utf-8", newline="")
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
