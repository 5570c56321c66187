"""Convert data frames of R that have columns of text to cells."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from vaexprs.data.matrix import as_float
from vaexprs.interface.errors import FileFormatError
from vaexprs.interface.validation import listed
from vaexprs.io.tables.annotation import CellTable
from vaexprs.io.tables.numbers import Marks, numbers
from vaexprs.io.tables.orientation import infer_orientation, warn_of_orientation
from vaexprs.io.tables.roles import columns_of, evidence_of, index_of, quantified, roles_of, said


def from_frame_of_r(
    frame: pd.DataFrame,
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
        If it has no column of numbers.
    """
    names = [str(name) for name in frame.columns]
    columns = columns_of(frame, names, Marks())
    rows = pd.Index(frame.index.astype(str))
    numbered = list(rows) == [str(i + 1) for i in range(len(rows))]
    index = index_of(columns, frame) if numbered else None
    if index is not None:
        rows = pd.Index(frame.iloc[:, index].astype(str))
    provisional = roles_of(columns, index, genes_in_rows=None, keys=keys)
    if not provisional.values or quantified(columns) is not None:
        raise FileFormatError(
            f"{str(path)!r} must contain numbers of several cells, but is a data frame with the columns "
            f"{listed(names)}, such as column {names[0]!r}. In R, save the matrix of counts only: "
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
    x = np.column_stack([numbers(frame.iloc[:, i], Marks()).to_numpy(np.float64) for i in roles.values])
    texts = frame.iloc[:, roles.annotation].set_axis(rows, axis=0)
    others = pd.DataFrame(index=pd.Index([names[i] for i in roles.values]))
    if transpose:
        return ad.AnnData(as_float(x.T), obs=others, var=texts)
    return ad.AnnData(as_float(x), obs=texts, var=others)
