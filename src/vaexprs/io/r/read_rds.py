"""Read experiments, Seurat objects and matrices from R's .rds files.

R is not required and no code in a file is evaluated: functions, promises and byte code are parsed as data and
ignored. The package rdata parses the file; this module finds the values in the slots of each class.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from vaexprs.data.count_detection import count_layers
from vaexprs.data.matrix import as_float, check_compressed
from vaexprs.interface.errors import FileFormatError, require, warn
from vaexprs.interface.validation import listed
from vaexprs.io.formats import READERS
from vaexprs.io.r.frames import from_frame_of_r
from vaexprs.io.tables.annotation import CellTable
from vaexprs.io.tables.orientation import Evidence, infer_orientation, warn_of_orientation
from vaexprs.io.untrusted.archives import read_decompressed

STARTS = (b"X\n", b"A\n", b"B\n", b"A\r\n")  # of R's serialisation: XDR, text or native
SEQUENCES = ("compact_intseq", "compact_realseq")  # sequences that R stores as length, start and step
NO_VALUE = "\x01NULL\x01"  # symbol for NULL in a slot
MAX_NUMBERED = 2**22  # maximum number of rows or columns without names, because a file can declare any number
MAIN_ASSAY = "RNA"  # assay of a Seurat object with the counts; others are derived or hold other features
DATA_FRAMES = ("data.frame", "tbl_df", "data.table", "tbl", "spec_tbl_df", "grouped_df", "DFrame")
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
SPLIT = re.compile(r"(?P<name>.+?)\.(?P<part>.+)")  # a layer of Seurat 5 that is split by sample


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
    root = _parsed(path)
    kind = _class(root)
    slots = _attributes(root)
    if "colData" in slots:
        _check_orientation(path, kind, transpose)
        return _from_experiment(root, path)
    if kind == "Seurat":
        _check_orientation(path, kind, transpose)
        return _from_seurat(root, path)
    if kind in DATA_FRAMES and (frame := _text_frame(root)) is not None:
        return from_frame_of_r(frame, path, transpose, columns, keys)
    root = _counts_in(root, path)
    x, rows, others = _matrix(root, path, "x")
    if transpose is None and columns is not None:
        transpose = columns.orientation(list(rows), list(others))
    if transpose is None:
        found = infer_orientation(list(rows), list(others), Evidence(like="this is usual in R"))
        warn_of_orientation(path.name, found, len(rows), len(others))
        transpose = found.genes_in_rows
    if transpose:
        x, rows, others = x.T, others, rows
    return ad.AnnData(as_float(x), obs=pd.DataFrame(index=rows), var=pd.DataFrame(index=others))


def _counts_in(root: Any, path: Path) -> Any:
    """Return the matrix ``$counts`` of a list (edgeR, limma, tximport), or the object itself."""
    parts = _named(root) if _class(root) not in DATA_FRAMES else {}
    held = parts.get("counts")
    if held is None or not (_is_matrix(held) or _class(held) == "data.frame"):
        return root
    kind = _class(root) or "list"
    warn(f"{path.name!r} is a {kind!r}; its matrix x$counts is read, other parts are not.")
    return held


def _is_matrix(node: Any) -> bool:
    slots = _attributes(node)
    return "Dim" in slots or ("dim" in slots and type_of(node) in ("INT", "REAL", "LGL"))


def _text_frame(root: Any) -> pd.DataFrame | None:
    """Return a data frame that has columns of text, factors or logical values; None for others."""
    columns = _named(root)
    names = _strings(_attributes(root).get("row.names"))
    if not columns or names is None:
        return None
    frame = _frame(columns, len(names)).set_axis(pd.Index(names), axis=0)
    numeric = [pd.api.types.is_numeric_dtype(kind) and kind.kind != "b" for kind in frame.dtypes]
    return frame if not all(numeric) and len(frame.columns) == len(columns) else None


def _check_orientation(path: Path, kind: str, transpose: bool | None) -> None:
    if transpose is not None:
        raise FileFormatError(
            f"transpose applies to tables and matrices only; {path.name!r} is a {kind!r}, which defines the "
            "orientation. Omit transpose."
        )


def rdata() -> Any:
    """Import rdata, which parses and writes R's files; the ImportError names the pip command."""
    extra = READERS[".rds"].extra
    assert extra is not None
    return require(*extra)


def _parsed(path: Path) -> Any:
    """Return the tree of R objects in a file."""
    package = rdata()
    content = read_decompressed(path)
    if not content.startswith(STARTS):
        raise FileFormatError(
            f"{str(path)!r} must be a file written by R's saveRDS(). Files of save() are not supported."
        )

    def bounded(name: str, expand: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def expanded(state: Any) -> Any:
            if state.value[0] > len(content):  # any length can be declared, but no valid use is longer
                raise ValueError(f"a {name} of {state.value[0]:,.0f} values is too long for the file size.")
            return expand(state)

        return expanded

    from rdata.parser._parser import DEFAULT_ALTREP_MAP

    expanders = dict(DEFAULT_ALTREP_MAP)
    for name in SEQUENCES:
        expanders[name.encode()] = bounded(name, expanders[name.encode()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            parsed = package.parser.parse_data(content, altrep_constructor_dict=expanders, extension=".rds")
        except (NotImplementedError, ValueError) as error:
            if "RObjectType" not in str(error):  # not an unsupported type of R object
                raise
            raise FileFormatError(
                f"{str(path)!r} contains an R object that rdata does not support ({error}). In R, remove "
                "everything except matrices and data frames, for example metadata(x) <- list(), and save "
                "it again."
            ) from error
    return parsed.object


def _from_experiment(root: Any, path: Path) -> ad.AnnData:
    """Convert a SummarizedExperiment or a derived class, such as SingleCellExperiment."""
    slots = _attributes(root)
    assays: dict[str, Any] = {}
    if "assays" in slots:  # the slot is missing if there are no assays
        data = _attributes(slots["assays"]).get("data")
        if data is None:
            raise FileFormatError(
                f"{str(path)!r} contains outdated R classes. In R: saveRDS(updateObject(x), ...)."
            )
        assays = _named(_attributes(data)["listData"])
    if not assays:
        raise FileFormatError(f"The experiment in {str(path)!r} has no assay.")
    annotation = _attributes(slots["colData"])
    cells, genes = _strings(annotation.get("rownames")), _gene_names(slots)
    matrices: dict[str, Any] = {}
    for name, assay in assays.items():
        x, rows, columns = _matrix(assay, path, f"assay(x, {name!r})")
        genes = list(rows) if genes is None and _has_dimnames(assay, 0) else genes
        cells = list(columns) if cells is None and _has_dimnames(assay, 1) else cells
        matrices[name or f"assay{len(matrices) + 1}"] = as_float(x.T)
    n, m = next(iter(matrices.values())).shape
    obs = _frame(_named(annotation["listData"]), n)
    own = list(columns) if _has_dimnames(assay, 1) else None
    if own is not None and cells is not None and own != cells and set(own) == set(cells):
        obs, cells = _in_order(obs, cells, own, path), own  # as the assay has them
    return _assembled(matrices, obs, cells, genes, (n, m), path)


def _gene_names(slots: Mapping[str, Any]) -> list[str] | None:
    names = _strings(slots.get("NAMES"))
    if names is not None or "rowRanges" not in slots:
        return names
    ranges = _attributes(slots["rowRanges"])
    for holder in ("partitioning", "ranges"):
        if holder in ranges:
            names = _strings(_attributes(ranges[holder]).get("NAMES"))
    return names


def _from_seurat(root: Any, path: Path) -> ad.AnnData:
    """Convert the assay "RNA" of a Seurat object, or the active assay if there is none."""
    slots = _attributes(root)
    assays = _named(slots["assays"])
    active = (_strings(slots.get("active.assay")) or [""])[0]
    name = next((each for each in (MAIN_ASSAY, active, *assays) if each in assays), None)
    if name is None:
        raise FileFormatError(f"The Seurat object in {str(path)!r} has no assay.")
    if len(assays) > 1:
        warn(f"{path.name!r} has the assays {listed(list(assays))}; only {name!r} is read.")
    parts = _attributes(assays[name])
    named = _attributes(slots["meta.data"])
    cells = _strings(named.get("row.names"))
    matrices, genes, owned = _layers(assays[name], parts, path)
    cells = owned if owned is not None else cells
    if not matrices:
        raise FileFormatError(f"The assay {name!r} in {str(path)!r} has neither counts nor data.")
    n, m = next(iter(matrices.values())).shape
    obs = _frame(_named(slots["meta.data"]), n)
    obs = _in_order(obs, _strings(named.get("row.names")), cells, path)
    identity = slots.get("active.ident")
    if identity is not None and "ident" not in obs:
        ident = _frame({"ident": identity}, n)
        ident = _in_order(ident, _strings(_attributes(identity).get("names")), cells, path)
        obs = obs.join(ident)
    return _assembled(matrices, obs, cells, genes, (n, m), path)


def _in_order(
    obs: pd.DataFrame, names: Sequence[str] | None, cells: Sequence[str] | None, path: Path
) -> pd.DataFrame:
    """Return annotation with row names in the order of the cells, with numbered rows.

    Raises
    ------
    FileFormatError
        If both have names, and these are not the same.
    """
    if names is None or cells is None or list(names) == list(cells) or len(names) != len(obs):
        return obs
    if names == _numbered(len(names)):
        return obs
    if set(names) != set(cells) or len(set(names)) < len(names):
        missing = [name for name in cells if name not in set(names)]
        raise FileFormatError(
            f"{str(path)!r} must have a row of annotation for each cell, but lacks {listed(missing)}: row "
            "names of meta.data must be the names of the cells."
        )
    return obs.set_axis(pd.Index(list(names)), axis=0).loc[list(cells)].reset_index(drop=True)


def _layers(assay: Any, parts: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], Any, Any]:
    """Return the matrices of a Seurat assay, (n_cells, n_genes), and the names of its genes and cells."""
    if "layers" in parts:  # Seurat 5, which stores the names separately
        return _layers_of_version_5(parts, path)
    matrices: dict[str, Any] = {}
    genes = cells = None
    for name in ("counts", "data"):
        if name in parts:
            x, rows, columns = _matrix(parts[name], path, f"GetAssayData(x, {name!r})")
            if min(x.shape):
                matrices[name], genes, cells = as_float(x.T), list(rows), list(columns)
    return matrices, genes, cells


def _layers_of_version_5(parts: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], Any, Any]:
    """Return the layers of an Assay5; layers that are split by sample are joined."""
    found = {
        name: _matrix(layer, path, f"LayerData(x, {name!r})")[0]
        for name, layer in _named(parts["layers"]).items()
    }
    genes, cells = (_row_names(parts[side]) for side in ("features", "cells"))
    shape = (len(genes or ()), len(cells or ()))
    split: dict[str, dict[str, Any]] = {}
    for name, x in found.items():
        match = SPLIT.fullmatch(name)
        if match is not None and match["name"] in ("counts", "data"):
            split.setdefault(match["name"], {})[name] = x
    whole = {name: as_float(x.T) for name, x in found.items() if x.shape == shape and name not in split}
    for name, layers in split.items():
        joined = _joined(parts, layers, shape)
        if joined is not None and name not in whole:
            for each in layers:
                whole.pop(each, None)
            whole = {name: joined, **whole} if name == "counts" else {**whole, name: joined}
        elif joined is None and name == "counts" and name not in whole:
            raise FileFormatError(
                f"The counts in {str(path)!r} are split into {listed(sorted(layers))}. In R: "
                "saveRDS(JoinLayers(x), ...)."
            )
    return whole, genes, cells


def _joined(parts: Mapping[str, Any], layers: Mapping[str, Any], shape: tuple[int, int]) -> Any:
    """Return layers of some cells each as one matrix, (n_cells, n_genes), as JoinLayers does.

    A gene that a layer lacks is 0 in its cells. None if the layers do not fit their maps of genes and cells,
    or do not have each cell exactly once.
    """
    genes, cells = (_log_map(parts[side]) for side in ("features", "cells"))
    blocks, order = [], []
    for name, x in layers.items():
        if name not in genes or name not in cells or x.shape != (len(genes[name]), len(cells[name])):
            return None
        placed = sp.coo_matrix(x)
        blocks.append(
            sp.csr_matrix(
                (placed.data, (placed.col, genes[name][placed.row])), shape=(len(cells[name]), shape[0])
            )
        )
        order.append(cells[name])
    rows = np.concatenate(order)
    if len(rows) != shape[1] or len(np.unique(rows)) < len(rows):
        return None
    return as_float(sp.vstack(blocks, format="csr")[np.argsort(rows)])


def _log_map(node: Any) -> dict[str, np.ndarray]:
    """Return the rows in which a LogMap of Seurat is TRUE by column."""
    names = _attributes(node).get("dimnames")
    columns = None if names is None else _strings(_resolve(names.value[1]))
    values = np.ma.filled(node.value, False) if np.ma.isMA(node.value) else np.asarray(node.value)
    if not columns or len(values) % len(columns):
        return {}
    table = values.astype(bool).reshape((-1, len(columns)), order="F")
    return {name: np.flatnonzero(table[:, i]) for i, name in enumerate(columns)}


def _row_names(matrix: Any) -> list[str] | None:
    names = _attributes(matrix).get("dimnames")
    return None if names is None else _strings(names.value[0])


def _assembled(
    matrices: dict[str, Any], obs: pd.DataFrame, cells: Any, genes: Any, shape: tuple[int, int], path: Path
) -> ad.AnnData:
    """Return an AnnData of matrices, columns and names, with the counts in X."""
    first = (*count_layers(matrices), *matrices)[0]
    for kind, names, n in (("cells", cells, shape[0]), ("genes", genes, shape[1])):
        if names is not None and len(names) != n:
            raise FileFormatError(f"{str(path)!r} has {n:,} {kind}, but {len(names):,} names.")
    obs_names, var_names = _index(cells, shape[0], "cell"), _index(genes, shape[1], "gene")
    return ad.AnnData(
        matrices[first],
        obs=obs.set_axis(obs_names, axis=0),
        var=pd.DataFrame(index=var_names),
        layers={name: x for name, x in matrices.items() if x.shape == shape},
    )


def _index(names: Sequence[str] | None, n: int, kind: str) -> pd.Index:
    return pd.Index(_numbered(n, kind) if names is None else list(names))


def _numbered(n: int, kind: str = "") -> list[str]:
    """Return numbered names for unnamed rows or columns."""
    if n > MAX_NUMBERED:
        raise ValueError(f"{n:,} {kind or 'row'}s without names are more than {MAX_NUMBERED:,}. Add names.")
    return [f"{kind}{i + 1}" for i in range(n)]


# accessors for the tree of R objects that rdata returns


def type_of(node: Any) -> str:
    """Return the R type of a parsed object."""
    return str(node.info.type.name)


def _resolve(node: Any) -> Any:
    """Return the target of a reference, or the node itself."""
    while type_of(node) == "REF":
        node = node.referenced_object
    return node


def _symbol(node: Any) -> str:
    return str(_resolve(node).value.value.decode("utf-8", "replace"))


def _attributes(node: Any) -> dict[str, Any]:
    """Return attributes by name (slots for an S4 object), without those that are NULL."""
    found = {}
    pair = _resolve(node).attributes
    while pair is not None and type_of(pair) == "LIST":
        value = _resolve(pair.value[0])
        if not (type_of(value) == "SYM" and _symbol(value) == NO_VALUE) and type_of(value) not in (
            "NIL",
            "NILVALUE",
        ):
            found[_symbol(pair.tag)] = value
        pair = pair.value[1]
    return found


def _class(node: Any) -> str:
    """Return the first class of an object, or an empty string for a plain vector."""
    return (_strings(_attributes(node).get("class")) or [""])[0]


def _strings(node: Any) -> list[str] | None:
    """Return a character or integer vector as text, or None for NULL and other objects."""
    if node is None:
        return None
    if type_of(node) == "STR":
        return [_text(each) for each in node.value]
    if type_of(node) == "INT":
        first = np.ma.getmaskarray(node.value)[:1]
        if len(node.value) == 2 and first.all():  # compact form of numbered row names
            return _numbered(abs(int(node.value[1])))
        return [str(value) for value in node.value]
    return None


def _text(node: Any) -> str:
    if node.value is None:
        return "NA"
    latin1 = node.info.gp & 4
    return str(node.value.decode("latin-1" if latin1 else "utf-8", "replace"))


def _named(node: Any) -> dict[str, Any]:
    """Return the elements of a list by name; unnamed ones are numbered."""
    values = [_resolve(value) for value in node.value] if type_of(node) == "VEC" else []
    names = _strings(_attributes(node).get("names")) or [str(i + 1) for i in range(len(values))]
    return dict(zip(names, values, strict=True))


def _frame(columns: Mapping[str, Any], n: int) -> pd.DataFrame:
    """Return the columns that are vectors of n values; others, such as lists, are dropped."""
    kept = {}
    for name, node in columns.items():
        values = _vector(node, n)
        if values is not None and len(values) == n:
            kept[name] = values
    return pd.DataFrame(kept, index=pd.RangeIndex(n))


def _vector(node: Any, n: int) -> Any:
    """Return a vector as an array, or None for other objects and for an Rle of other than n values."""
    attributes = _attributes(node)
    if _class(node) == "Rle":
        lengths = np.ma.getdata(attributes["lengths"].value).astype(np.int64)
        values = _vector(attributes["values"], len(lengths)) if lengths.sum() == n else None
        return None if values is None else pd.Series(values).repeat(lengths.tolist()).array
    if type_of(node) == "STR":
        return np.array([None if each.value is None else _text(each) for each in node.value], object)
    if type_of(node) not in ("INT", "REAL", "LGL") or "dim" in attributes:
        return None
    values, missing = np.ma.getdata(node.value), np.ma.getmaskarray(node.value)
    if "levels" in attributes:
        levels = _strings(attributes["levels"]) or []
        codes = np.where(missing, 0, values).astype(int) - 1
        if len(codes) and codes.max() >= len(levels):
            raise ValueError("a factor has codes beyond its levels.")
        return pd.Categorical.from_codes(codes, pd.Index(levels))
    if type_of(node) == "LGL":
        known = values.astype(bool)
        return pd.arrays.BooleanArray(known, missing.copy()) if missing.any() else known
    if type_of(node) == "INT" and missing.any():
        return pd.arrays.IntegerArray(values.astype(np.int64), missing.copy())
    return values


def _has_dimnames(node: Any, side: int) -> bool:
    attributes = _attributes(node)
    names = attributes.get("Dimnames", attributes.get("dimnames"))
    return names is not None and _strings(_resolve(names.value[side])) is not None


def _matrix(node: Any, path: Path, expression: str) -> tuple[Any, pd.Index, pd.Index]:
    """Return a matrix in the orientation of the file, and the names of its rows and columns.

    `expression` is R code for the matrix, used in error messages.
    """
    slots = _attributes(node)
    name = _class(node)
    x: Any = None
    names: Any = None
    if name == "data.frame":
        x = np.column_stack([_number_column(path, key, each) for key, each in _named(node).items()])
        return x, _index(_strings(slots.get("row.names")), len(x), "row"), pd.Index(list(_named(node)))
    if "Dim" in slots:
        shape = tuple(int(n) for n in slots["Dim"].value)
        x = _stored(name, slots, shape)
        names = slots.get("Dimnames")
    elif "dim" in slots and type_of(node) in ("INT", "REAL", "LGL") and len(slots["dim"].value) == 2:
        shape = tuple(int(n) for n in slots["dim"].value)
        values = np.ma.filled(node.value.astype(np.float64) if np.ma.isMA(node.value) else node.value, np.nan)
        x = np.asarray(values).reshape(shape, order="F")
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
            parts = [key for key in _named(node)]
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
        got = f"{name!r}. {save}" if name else f"{_description(node)}."
        raise FileFormatError(
            f"{str(path)!r} must contain a SingleCellExperiment, a SummarizedExperiment, a Seurat object or "
            f"a numeric matrix stored in the file, got a {got}"
        )
    sides = [None, None] if names is None else [_strings(_resolve(each)) for each in names.value]
    for side, n, what in zip(sides, shape, ("rows", "columns"), strict=True):
        if side is not None and len(side) != n:
            raise FileFormatError(f"{str(path)!r} has a matrix of {n:,} {what}, but {len(side):,} names.")
    rows, columns = (
        _index(each, n, what) for each, n, what in zip(sides, shape, ("row", "column"), strict=True)
    )
    return x, rows, columns


def _description(node: Any) -> str:
    """Return the name of an R type for an error message."""
    words = {"CLO": "function", "VEC": "list", "STR": "character vector", "ENV": "environment"}
    return words.get(
        type_of(node), "plain vector" if type_of(node) in ("INT", "REAL", "LGL") else "unsupported R object"
    )


def _number_column(path: Path, key: str, node: Any) -> np.ndarray:
    if type_of(node) not in ("INT", "REAL") or "levels" in _attributes(node):
        raise FileFormatError(f"{str(path)!r} must contain numbers, but column {key!r} is not numeric.")
    return np.ma.filled(node.value.astype(np.float64), np.nan)


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
