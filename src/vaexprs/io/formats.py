"""Table of supported file formats, one row per format.

`read`, `write`, error messages and the help of the command line use these rows. To add a format, write its
module and add its row.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = "a folder with matrix.mtx"

# suffixes of compressed files; what is in a file is decided by its content
COMPRESSED = (".gz", ".bz2", ".xz")
TABLES = (".csv", ".tsv", ".txt", ".gct", ".tab", ".sf", ".results")
# suffixes recognised in any case, because spreadsheets and R users write them in capitals
ANY_CASE = (*TABLES, ".rds", *COMPRESSED)


@dataclass(frozen=True)
class Format:
    """File format for expression data.

    Parameters
    ----------
    suffixes
        Suffixes that can be read, the usual one first.
    reader
        ``module:function`` of ``read(path)``, or of ``read(path, transpose, obs)`` if `oriented`.
    writer
        ``module:function`` of ``write(adata, path, overwrite)``, which must write atomically.
    written
        Suffixes that can be written.
    oriented
        Whether genes may be in rows or in columns, so that the orientation must be given or inferred.
    backed
        Whether a large matrix can stay on disk and be written in blocks.
    obs_file
        Whether `obs` is written to a file of its own (see `tables.obs_path`).
    needs_x
        Whether only the values in X are written, so that X is required.
    extra
        Required module, extra of vaexprs that installs it, and purpose; None for the default installation.
    """

    suffixes: tuple[str, ...]
    reader: str
    writer: str | None = None
    written: tuple[str, ...] = ()
    oriented: bool = False
    backed: bool = False
    obs_file: bool = False
    needs_x: bool = True
    extra: tuple[str, str, str] | None = None

    def read(self, *arguments: Any) -> Any:
        """Call the reader."""
        return _function(self.reader)(*arguments)

    def write(self, *arguments: Any, **settings: Any) -> Any:
        """Call the writer."""
        assert self.writer is not None
        return _function(self.writer)(*arguments, **settings)


def _function(name: str) -> Callable[..., Any]:
    # resolved by name so that importing this table loads no reader and `vaexprs --help` stays fast
    return pkgutil.resolve_name(f"vaexprs.io.{name}")


FORMATS = (
    Format(
        (".h5ad", ".zarr"),
        reader="stores:read_store",
        writer="write:write_store",
        written=(".h5ad", ".zarr"),
        backed=True,
        needs_x=False,
    ),
    Format((".h5mu",), reader="mudata:read_h5mu"),
    Format((".h5",), reader="tenx.h5:read_h5"),
    Format((".loom",), reader="loom:read_loom", extra=("loompy", "'vaexprs[loom]'", "Reading .loom files")),
    Format(
        (".mtx", ".mtx.gz", FOLDER),
        reader="tenx.folder:read_folder",
        writer="tenx.write:write_10x",
        written=(".mtx",),
    ),
    Format(
        tuple(f"{suffix}{packed}" for suffix in TABLES for packed in ("", ".gz")),
        reader="tables.read:read_table",
        writer="tables.write:write_csv",
        written=(".csv", ".csv.gz", ".tsv", ".tsv.gz"),
        oriented=True,
        obs_file=True,
    ),
    Format(
        (".rds",),
        reader="r.read_rds:read_rds",
        writer="r.write_rds:write_rds",
        written=(".rds",),
        oriented=True,
        extra=("rdata", "'vaexprs[r]'", "Reading and writing .rds files"),
    ),
)
READERS = {suffix: each for each in FORMATS for suffix in each.suffixes}
WRITERS = {suffix: each for each in FORMATS for suffix in each.written}
BACKED = tuple(suffix for suffix, each in READERS.items() if each.backed)
ORIENTED = tuple(suffix for suffix, each in READERS.items() if each.oriented)


def suffix_of(path: Path) -> str:
    """Return the suffix that selects the format: ".csv.gz" for "cells.csv.gz" and "CELLS.CSV.GZ"."""
    parts = [part.lower() if part.lower() in ANY_CASE else part for part in path.suffixes[-2:]]
    return "".join(parts if parts[-1:] and parts[-1] in COMPRESSED else parts[-1:])


def readable_suffix(path: Path) -> str:
    """Return the suffix of `READERS` for a file: any compression of text counts as ".gz"."""
    suffix = suffix_of(path)
    packed = next((each for each in COMPRESSED if suffix.endswith(each)), "")
    return suffix.removesuffix(packed) + ".gz" if packed else suffix


def uncompressed(path: Path) -> Path:
    """Return a path without the suffix of its compression."""
    return path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
