"""Convert data frames of R to cells, with the roles of columns that those of text tables have."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from vaexprs.data.matrix import as_float
from vaexprs.interface.errors import FileFormatError, warn
from vaexprs.interface.validation import listed
from vaexprs.io.r.columns import frame_in, frame_of
from vaexprs.io.r.tree import attributes_of, elements_of, numbered, strings
from vaexprs.io.tables.annotation import CellTable
from vaexprs.io.tables.numbers import Marks, numbers
from vaexprs.io.tables.orientation import infer_orientation, warn_of_orientation
from vaexprs.io.tables.others import without_others
from vaexprs.io.tables.roles import (
    TEXT,
    check_no_results,
    check_not_long,
    columns_of,
    evidence_of,
    index_of,
    quantified,
    roles_of,
    said,
)

_DATA_FRAMES = "data.frame tbl_df data.table tbl spec_tbl_df grouped_df DFrame DataFrame"
DATA_FRAMES = tuple(_DATA_FRAMES.split())


def _parts(root: Any, path: Path) -> tuple[pd.DataFrame, list[str] | None]:
    """Return the columns of a data frame that are vectors, and the names of its rows; None if numbered."""
    slots = attributes_of(root)
    if "listData" in slots:
        names, n = strings(slots.get("rownames")), int(slots["nrows"].value[0])
        elements, frame = elements_of(slots["listData"]), frame_in(root, n)
    else:
        elements, names = elements_of(root), strings(slots.get("row.names")) or []
        frame = frame_of(elements, len(names))
    if not len(frame) or not elements:
        raise FileFormatError(
            f"{str(path)!r} must contain numbers of several cells, got a data frame of {len(frame):,} rows "
            f"and {len(elements):,} columns."
        )
    if len(frame.columns) < len(elements):
        left = [name for name, _ in elements if name not in frame.columns]
        warn(f"{path.name!r}: columns that are not vectors are not read: {listed(left)}.")
    return frame, None if names is None or names == numbered(len(frame)) else names


def from_frame_of_r(
    root: Any,
    path: Path,
    transpose: bool | None,
    table: CellTable | None,
    keys: Collection[str],
) -> ad.AnnData:
    """Return a data frame as cells; columns have the roles that those of text tables have.

    A tibble or data.table has no row names; its column of text with the names is used.

    Raises
    ------
    FileFormatError
        If it has no column of numbers, or its first column may be names or values.
    """
    frame, names_of_rows = _parts(root, path)
    if names_of_rows is not None:
        frame.insert(0, "", names_of_rows, allow_duplicates=True)
    names = [str(name) for name in frame.columns]
    columns = columns_of(frame, names, Marks())
    check_no_results(columns, path)
    if names_of_rows is not None:
        columns[0] = columns[0]._replace(kind=TEXT)
    try:
        index = 0 if names_of_rows is not None else index_of(columns, frame)
    except ValueError as error:
        raise FileFormatError(f"{str(path)!r} {error}.") from error
    check_not_long(columns, index, path)
    rows = pd.Index(numbered(len(frame)) if index is None else frame.iloc[:, index].astype(str))
    provisional = roles_of(columns, index, genes_in_rows=None, keys=keys)
    if not provisional.values or quantified(columns) is not None:
        raise FileFormatError(
            f"{str(path)!r} must contain numbers of several cells, but is a data frame with the columns "
            f"{listed(names[names_of_rows is not None :])}. In R, save the matrix of counts only: "
            "saveRDS(as.matrix(x[, samples]), 'counts.rds')."
        )
    held = [names[i] for i in provisional.values]
    if transpose is None and table is not None:
        transpose = table.orientation(list(rows), held)
    if transpose is None:
        found = infer_orientation(list(rows), held, evidence_of(columns, provisional, "this is usual in R"))
        transpose = found.genes_in_rows
        roles = roles_of(columns, index, genes_in_rows=transpose, keys=keys)
        about = said(columns, roles.annotation)
        warn_of_orientation(path.name, found, len(rows), len(roles.values), about)
    roles = roles_of(columns, index, genes_in_rows=transpose, keys=keys)
    values = [numbers(frame.iloc[:, i], Marks()).to_numpy(np.float64, na_value=np.nan) for i in roles.values]
    x = np.column_stack(values)
    texts = frame.iloc[:, roles.annotation].set_axis(rows, axis=0)
    others = pd.DataFrame(index=pd.Index([names[i] for i in roles.values]))
    cells = ad.AnnData(
        as_float(x.T if transpose else x), *((others, texts) if transpose else (texts, others))
    )
    return without_others(cells, path, genes_in_rows=bool(transpose))
