"""Read experiments, Seurat objects, matrices and data frames from R's .rds files, without R."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import anndata as ad
import pandas as pd

from vaexprs.data.matrix import as_float
from vaexprs.interface.errors import FileFormatError, warn
from vaexprs.io.r.experiments import from_experiment
from vaexprs.io.r.frames import DATA_FRAMES, from_frame_of_r
from vaexprs.io.r.matrices import is_matrix, matrix
from vaexprs.io.r.seurat import from_seurat
from vaexprs.io.r.tree import attributes_of, class_of, named, parsed
from vaexprs.io.tables.annotation import CellTable
from vaexprs.io.tables.orientation import Evidence, infer_orientation, warn_of_orientation
from vaexprs.io.tables.others import without_others


def read_rds(
    path: Path,
    transpose: bool | None = None,
    columns: CellTable | None = None,
    keys: Collection[str] = (),
) -> ad.AnnData:
    """Read an experiment, a Seurat object or a matrix; assays and layers become layers, counts become X.

    Parameters
    ----------
    path
        ``.rds`` file.
    transpose
        Whether genes are in the rows of a matrix, as is usual in R; None to infer it from the names.
    columns
        Annotation of the cells, whose names settle the orientation.
    keys
        Columns of a data frame that annotate cells although they hold numbers.

    Raises
    ------
    ImportError
        If rdata is not installed.
    """
    root = parsed(path)
    kind = class_of(root)
    slots = attributes_of(root)
    if "colData" in slots and "ExperimentList" not in slots:  # a MultiAssayExperiment has both
        _check_orientation(path, kind, transpose)
        return from_experiment(root, path)
    if kind == "Seurat":
        _check_orientation(path, kind, transpose)
        return from_seurat(root, path)
    root = _counts_in(root, path)
    if class_of(root) in DATA_FRAMES:
        return from_frame_of_r(root, path, transpose, columns, keys)
    x, rows, others = matrix(root, path, "x")
    if transpose is None and columns is not None:
        transpose = columns.orientation(list(rows), list(others))
    if transpose is None:
        found = infer_orientation(list(rows), list(others), Evidence(like="this is usual in R"))
        warn_of_orientation(path.name, found, len(rows), len(others))
        transpose = found.genes_in_rows
    if transpose:
        x, rows, others = x.T, others, rows
    cells = ad.AnnData(as_float(x), obs=pd.DataFrame(index=rows), var=pd.DataFrame(index=others))
    return without_others(cells, path, genes_in_rows=transpose)


def _counts_in(root: Any, path: Path) -> Any:
    """Return the matrix ``$counts`` of a list (edgeR, limma, tximport), or the object itself."""
    parts = named(root) if class_of(root) not in DATA_FRAMES else {}
    held = parts.get("counts")
    if held is None or not (is_matrix(held) or class_of(held) in DATA_FRAMES):
        return root
    kind = class_of(root) or "list"
    warn(f"{path.name!r} is a {kind!r}; its matrix x$counts is read, other parts are not.")
    return held


def _check_orientation(path: Path, kind: str, transpose: bool | None) -> None:
    if transpose is not None:
        raise FileFormatError(
            f"transpose applies to tables and matrices only; {path.name!r} is a {kind!r}, which defines the "
            "orientation. Omit transpose."
        )
