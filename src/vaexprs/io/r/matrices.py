"""Matrices in R objects: base matrices and those of the package Matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from vaexprs.data.matrix import check_compressed
from vaexprs.interface.errors import FileFormatError
from vaexprs.interface.validation import listed
from vaexprs.io.r.columns import numbers_in
from vaexprs.io.r.tree import attributes_of, class_of, named, numbered, resolve, strings, type_of

# R code for the matrix of unsupported classes
MATRIX_IN_R = {
    "ExpressionSet": "exprs(x)",
    "CellDataSet": "exprs(x)",
    "EList": "x$E",
    "EListRaw": "x$E",
    "liger": "x@raw.data[[1]]",
}
# R code for an object of a supported class
OBJECT_IN_R = {
    "seurat": "UpdateSeuratObject(x)",
    "MultiAssayExperiment": "experiments(x)[['rna']]",
    "ExperimentList": "x[['rna']]",
    "SeuratProject": "UpdateSeuratObject(x)",
}
EXPERIMENTS = ("MultiAssayExperiment", "ExperimentList")  # classes that hold several experiments


def is_matrix(node: Any) -> bool:
    """Return whether an R object is a matrix whose numbers are in the file."""
    slots = attributes_of(node)
    return "Dim" in slots or ("dim" in slots and type_of(node) in ("INT", "REAL", "LGL"))


def has_dimnames(node: Any, side: int) -> bool:
    """Return whether the rows (0) or columns (1) of a matrix have names."""
    attributes = attributes_of(node)
    names = attributes.get("Dimnames", attributes.get("dimnames"))
    return names is not None and strings(resolve(names.value[side])) is not None


def matrix(node: Any, path: Path, expression: str) -> tuple[Any, pd.Index, pd.Index]:
    """Return a matrix in the orientation of the file, and the names of its rows and columns.

    `expression` is R code for the matrix, used in error messages.
    """
    slots = attributes_of(node)
    if class_of(node) == "DelayedMatrix" and "seed" in slots and is_matrix(slots["seed"]):
        return matrix(slots["seed"], path, expression)  # without operations
    name = class_of(node)
    x: Any = None
    names: Any = None
    if "Dim" in slots:
        shape = tuple(int(n) for n in slots["Dim"].value)
        x = _stored(name, slots, shape)
        names = slots.get("Dimnames")
    elif "dim" in slots and type_of(node) in ("INT", "REAL", "LGL") and len(slots["dim"].value) == 2:
        shape = tuple(int(n) for n in slots["dim"].value)
        x = numbers_in(node).reshape(shape, order="F")
        names = slots.get("dimnames")
    if x is None:
        if name in OBJECT_IN_R:
            which = ", with the name of the experiment with gene expression" if name in EXPERIMENTS else ""
            raise FileFormatError(
                f"{str(path)!r} must contain a SingleCellExperiment, a SummarizedExperiment, a Seurat object "
                f"or a numeric matrix, got a {name!r}. In R: "
                f"saveRDS({OBJECT_IN_R[name]}, 'cells.rds'){which}."
            )
        if type_of(node) == "VEC" and expression == "x":
            parts = [key for key in named(node)]
            raise FileFormatError(
                f"{str(path)!r} must contain a SingleCellExperiment, a SummarizedExperiment, a Seurat object "
                f"or a numeric matrix, got a list of {listed(parts)}. Save its matrix of counts, for example "
                f"saveRDS(x${parts[0] if parts else 'counts'}, 'counts.rds')."
            )
        if name in MATRIX_IN_R:
            expression = MATRIX_IN_R[name]
        elif expression == "x" and not name.endswith("Matrix"):
            expression = "counts"  # of an unknown class: whatever the user extracts
        save = f"In R, save the matrix only: saveRDS(as({expression}, 'dgCMatrix'), 'counts.rds')."
        got = f"a {name!r}. {save}" if name else f"{_description(node)}."
        raise FileFormatError(
            f"{str(path)!r} must contain a SingleCellExperiment, a SummarizedExperiment, a Seurat object or "
            f"a numeric matrix stored in the file, got {got}"
        )
    sides = [None, None] if names is None else [strings(resolve(each)) for each in names.value]
    for side, n, what in zip(sides, shape, ("rows", "columns"), strict=True):
        if side is not None and len(side) != n:
            raise FileFormatError(f"{str(path)!r} has a matrix of {n:,} {what}, but {len(side):,} names.")
    rows, columns = (
        names_or_numbers(each, n, what) for each, n, what in zip(sides, shape, ("row", "column"), strict=True)
    )
    return x, rows, columns


def _description(node: Any) -> str:
    """Return an R type with its article for an error message."""
    words = {"CLO": "a function", "VEC": "a list", "STR": "a character vector", "ENV": "an environment"}
    words |= {"NIL": "NULL", "NILVALUE": "NULL"}
    if type_of(node) not in ("INT", "REAL", "LGL"):
        return words.get(type_of(node), "an unsupported R object")
    shape = attributes_of(node).get("dim")
    return "a plain vector" if shape is None else f"an array of {len(shape.value)} dimensions"


def _stored(name: str, slots: Mapping[str, Any], shape: tuple[int, ...]) -> Any:
    """Return a matrix of the package Matrix, or None for a class without stored numbers."""
    arrays = {key: np.ma.getdata(slots[key].value) for key in ("x", "i", "j", "p") if key in slots}
    if name == "dgCMatrix":
        x: Any = sp.csc_matrix((arrays["x"], arrays["i"], arrays["p"]), shape=shape)
    elif name == "dgRMatrix":
        x = sp.csr_matrix((arrays["x"], arrays["j"], arrays["p"]), shape=shape)
    elif name == "dgTMatrix":
        return sp.coo_matrix((arrays["x"], (arrays["i"], arrays["j"])), shape=shape)
    elif name == "dgeMatrix":
        return arrays["x"].reshape(shape, order="F")
    else:
        return None
    check_compressed(x)
    return x


def names_or_numbers(names: Sequence[str] | None, n: int, kind: str) -> pd.Index:
    """Return names as an index, numbered if there are none."""
    return pd.Index(numbered(n, kind) if names is None else list(names))
