"""Write text tables with values and `obs`."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import anndata as ad
import numpy as np

from vaexprs.data.matrix import densify
from vaexprs.io.atomic import claimed, set_aside, written_whole
from vaexprs.io.formats import suffix_of
from vaexprs.io.tables.annotation import obs_path, write_obs
from vaexprs.io.tables.dialect import SEPARATORS
from vaexprs.io.tables.fields import guarded
from vaexprs.io.tables.layout import VALUES_AT_ONCE

COMPRESSION_LEVEL = 6  # gzip's default; Python's 9 takes three times as long for little gain


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
