"""R's .rds files: experiments, Seurat objects and matrices in, a SingleCellExperiment out.

R is not needed, and nothing of a file is evaluated: functions, promises and byte code in it are parsed as
data, and passed over. Parsing and writing are those of the package rdata; what is here knows which slots of
which class hold the values.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
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
from vaexprs.io.orientation import infer_orientation
from vaexprs.io.untrusted.archives import content_of

STARTS = (b"X\n", b"A\n", b"B\n", b"A\r\n")  # of R's serialisation: portable, as text, or the machine's
SEQUENCES = ("compact_intseq", "compact_realseq")  # vectors that R stores as from and to
NO_VALUE = "\x01NULL\x01"  # the symbol that stands for NULL in a slot
MAX_NUMBERED = 2**22  # maximum number of rows or columns without names: a file may claim any number
MAIN_ASSAY = "RNA"  # of a Seurat object: the others are made of it, or hold something else
IN_R = " In R: saveRDS(as(assay(x), 'dgCMatrix'), 'counts.rds') for its matrix alone."


def read_rds(path: Path, transpose: bool | None = None, columns: pd.DataFrame | None = None) -> ad.AnnData:
    """Read an experiment, a Seurat object or a matrix; assays and layers become layers, counts become X.

    Parameters
    ----------
    path
        The file.
    transpose
        Whether the genes are in the rows of a matrix, as is R's custom; None to tell by the names.
    columns
        Of the cells, whose names tell it for sure.

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
    x, rows, others = _matrix(root, path, kind)
    if transpose is None:
        transpose = infer_orientation(
            path.name, list(rows), list(others), (columns,), like="how R's packages have it"
        )
    if transpose:
        x, rows, others = x.T, others, rows
    return ad.AnnData(as_float(x), obs=pd.DataFrame(index=rows), var=pd.DataFrame(index=others))


def _check_orientation(path: Path, kind: str, transpose: bool | None) -> None:
    if transpose is not None:
        raise FileFormatError(
            f"transpose is for tables and matrices: {path.name!r} is a {kind!r}, which says what is what."
        )


def rdata() -> Any:
    """Return rdata, which parses and writes R's files; the ImportError says how to install it."""
    extra = READERS[".rds"].extra
    assert extra is not None
    return require(*extra)


def _parsed(path: Path) -> Any:
    """Return the tree of R objects in a file."""
    package = rdata()
    content = content_of(path)
    if not content.startswith(STARTS):
        raise FileFormatError(
            f"{str(path)!r} is not what R's saveRDS writes; files of save() hold several objects."
        )

    def bounded(name: str, expand: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def expanded(state: Any) -> Any:
            if state.value[0] > len(content):  # it may say any length: a file this long cannot use it
                raise ValueError(
                    f"a {name} of {state.value[0]:,.0f} values is more than a file this long can use."
                )
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
            if "RObjectType" not in str(error):  # not of a kind that is missing
                raise
            raise FileFormatError(
                f"{str(path)!r} holds something that rdata cannot read yet ({error}). In R take out what is "
                "neither matrix nor data frame, such as metadata(x) <- list(), and save it again."
            ) from error
    return parsed.object


def _from_experiment(root: Any, path: Path) -> ad.AnnData:
    """Return a SummarizedExperiment or what is derived of it, such as a SingleCellExperiment."""
    slots = _attributes(root)
    assays: dict[str, Any] = {}
    if "assays" in slots:  # R leaves the slot out where there are none
        data = _attributes(slots["assays"]).get("data")
        if data is None:
            raise FileFormatError(
                f"{str(path)!r} was written by old classes of R. In R: saveRDS(updateObject(x), ...)."
            )
        assays = _named(_attributes(data)["listData"])
    if not assays:
        raise FileFormatError(f"The experiment in {str(path)!r} has no assay.")
    annotation = _attributes(slots["colData"])
    cells, genes = _strings(annotation.get("rownames")), _gene_names(slots)
    matrices: dict[str, Any] = {}
    for name, assay in assays.items():
        x, rows, columns = _matrix(assay, path, _class(assay) or f"assay {name!r}")
        genes = list(rows) if genes is None and _has_dimnames(assay, 0) else genes
        cells = list(columns) if cells is None and _has_dimnames(assay, 1) else cells
        matrices[name or f"assay{len(matrices) + 1}"] = as_float(x.T)
    n, m = next(iter(matrices.values())).shape
    obs = _frame(_named(annotation["listData"]), n)
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
    """Return the assay "RNA" of a Seurat object, or else the active one."""
    slots = _attributes(root)
    assays = _named(slots["assays"])
    active = (_strings(slots.get("active.assay")) or [""])[0]
    name = next((each for each in (MAIN_ASSAY, active, *assays) if each in assays), None)
    if name is None:
        raise FileFormatError(f"The Seurat object in {str(path)!r} has no assay.")
    if len(assays) > 1:
        warn(f"{path.name!r}: of its assays {listed(list(assays))}, {name!r} is read.")
    parts = _attributes(assays[name])
    named = _attributes(slots["meta.data"])
    cells = _strings(named.get("row.names"))
    matrices, genes, owned = _layers(assays[name], parts, path)
    cells = owned if owned is not None else cells
    if not matrices:
        raise FileFormatError(f"The assay {name!r} in {str(path)!r} has neither counts nor data.")
    n, m = next(iter(matrices.values())).shape
    obs = _frame(_named(slots["meta.data"]), n)
    identity = slots.get("active.ident")
    if identity is not None and "ident" not in obs:
        obs = obs.join(_frame({"ident": identity}, n))
    return _assembled(matrices, obs, cells, genes, (n, m), path)


def _layers(assay: Any, parts: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], Any, Any]:
    """Return the matrices of a Seurat assay, cells x genes, and the names of its genes and cells."""
    if "layers" in parts:  # of version 5, where the names are kept apart
        found = {name: _matrix(layer, path, "layer") for name, layer in _named(parts["layers"]).items()}
        genes, cells = (_row_names(parts[side]) for side in ("features", "cells"))
        split = sorted(name for name in found if name.startswith("counts."))
        whole = {
            name: as_float(x.T)
            for name, (x, *_) in found.items()
            if x.shape == (len(genes or ()), len(cells or ()))
        }
        if not whole and split:
            raise FileFormatError(
                f"The counts in {str(path)!r} are split into {listed(split)}. In R: "
                "saveRDS(JoinLayers(x), ...)."
            )
        return whole, genes, cells
    matrices: dict[str, Any] = {}
    genes = cells = None
    for name in ("counts", "data"):
        if name in parts:
            x, rows, columns = _matrix(parts[name], path, "assay")
            if min(x.shape):
                matrices[name], genes, cells = as_float(x.T), list(rows), list(columns)
    return matrices, genes, cells


def _row_names(matrix: Any) -> list[str] | None:
    names = _attributes(matrix).get("dimnames")
    return None if names is None else _strings(names.value[0])


def _assembled(
    matrices: dict[str, Any], obs: pd.DataFrame, cells: Any, genes: Any, shape: tuple[int, int], path: Path
) -> ad.AnnData:
    """Return matrices, columns and names as an AnnData, the counts in X."""
    first = (*count_layers(matrices), *matrices)[0]
    for kind, names, n in (("cells", cells, shape[0]), ("genes", genes, shape[1])):
        if names is not None and len(names) != n:
            raise FileFormatError(f"{str(path)!r} has {n:,} {kind}, but names of {len(names):,}.")
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
    """Return names for what has none."""
    if n > MAX_NUMBERED:
        raise ValueError(f"{n:,} {kind or 'row'}s without names are more than {MAX_NUMBERED:,}. Name them.")
    return [f"{kind}{i + 1}" for i in range(n)]


# the tree that rdata makes of a file


def type_of(node: Any) -> str:
    """Return the R type of a parsed object."""
    return str(node.info.type.name)


def _here(node: Any) -> Any:
    """Return what a reference refers to."""
    while type_of(node) == "REF":
        node = node.referenced_object
    return node


def _symbol(node: Any) -> str:
    return str(_here(node).value.value.decode("utf-8", "replace"))


def _attributes(node: Any) -> dict[str, Any]:
    """Return attributes by name; of an S4 object they are its slots. NULL is left out."""
    found = {}
    pair = _here(node).attributes
    while pair is not None and type_of(pair) == "LIST":
        value = _here(pair.value[0])
        if not (type_of(value) == "SYM" and _symbol(value) == NO_VALUE) and type_of(value) not in (
            "NIL",
            "NILVALUE",
        ):
            found[_symbol(pair.tag)] = value
        pair = pair.value[1]
    return found


def _class(node: Any) -> str:
    """Return the first class of an object; an empty string for a plain vector."""
    return (_strings(_attributes(node).get("class")) or [""])[0]


def _strings(node: Any) -> list[str] | None:
    """Return a character vector, or numbers as text; None for NULL and for other things."""
    if node is None:
        return None
    if type_of(node) == "STR":
        return [_text(each) for each in node.value]
    if type_of(node) == "INT":
        first = np.ma.getmaskarray(node.value)[:1]
        if len(node.value) == 2 and first.all():  # row names that are only numbered
            return _numbered(abs(int(node.value[1])))
        return [str(value) for value in node.value]
    return None


def _text(node: Any) -> str:
    if node.value is None:
        return "NA"
    latin1 = node.info.gp & 4
    return str(node.value.decode("latin-1" if latin1 else "utf-8", "replace"))


def _named(node: Any) -> dict[str, Any]:
    """Return the elements of a list by their names."""
    values = [_here(value) for value in node.value] if type_of(node) == "VEC" else []
    names = _strings(_attributes(node).get("names")) or [str(i + 1) for i in range(len(values))]
    return dict(zip(names, values, strict=True))


def _frame(columns: Mapping[str, Any], n: int) -> pd.DataFrame:
    """Return the columns that are vectors of n values; others, such as lists, are left out."""
    kept = {}
    for name, node in columns.items():
        values = _vector(node, n)
        if values is not None and len(values) == n:
            kept[name] = values
    return pd.DataFrame(kept, index=pd.RangeIndex(n))


def _vector(node: Any, n: int) -> Any:
    """Return a vector as an array; None for other things, and for runs that are not of n values in all."""
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
            raise ValueError("a factor has more values than levels.")
        return pd.Categorical.from_codes(codes, pd.Index(levels))
    return pd.array(values).astype("Float64") if missing.any() else values


def _has_dimnames(node: Any, side: int) -> bool:
    attributes = _attributes(node)
    names = attributes.get("Dimnames", attributes.get("dimnames"))
    return names is not None and _strings(_here(names.value[side])) is not None


def _matrix(node: Any, path: Path, kind: str) -> tuple[Any, pd.Index, pd.Index]:
    """Return a matrix as R has it, and the names of its rows and columns."""
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
        got = f"{name!r}.{IN_R}" if name else f"{_plain(node)}."
        raise FileFormatError(
            f"{str(path)!r} must hold a SingleCellExperiment, a SummarizedExperiment, a Seurat object or a "
            f"matrix with its values in it, got a {got}"
        )
    sides = [None, None] if names is None else [_strings(_here(each)) for each in names.value]
    for side, n, what in zip(sides, shape, ("rows", "columns"), strict=True):
        if side is not None and len(side) != n:
            raise FileFormatError(f"{str(path)!r} has a matrix of {n:,} {what}, but names of {len(side):,}.")
    rows, columns = (
        _index(each, n, what) for each, n, what in zip(sides, shape, ("row", "column"), strict=True)
    )
    return x, rows, columns


def _plain(node: Any) -> str:
    words = {"CLO": "function", "VEC": "list", "STR": "character vector", "ENV": "environment"}
    return words.get(
        type_of(node), "plain vector" if type_of(node) in ("INT", "REAL", "LGL") else "thing of another kind"
    )


def _number_column(path: Path, key: str, node: Any) -> np.ndarray:
    if type_of(node) not in ("INT", "REAL") or "levels" in _attributes(node):
        raise FileFormatError(f"{str(path)!r} must hold numbers, but its column {key!r} holds others.")
    return np.ma.filled(node.value.astype(np.float64), np.nan)


def _stored(name: str, slots: Mapping[str, Any], shape: tuple[int, ...]) -> Any:
    """Return a matrix of the package Matrix; None for a class without values of its own."""
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
