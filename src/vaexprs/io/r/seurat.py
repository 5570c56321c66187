"""Read Seurat objects, also those of Seurat 5 with layers that are split by sample."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import scipy.sparse as sp

from vaexprs.data.matrix import as_float
from vaexprs.interface.errors import FileFormatError, warn
from vaexprs.interface.validation import listed
from vaexprs.io.r.columns import frame_of, in_order
from vaexprs.io.r.experiments import assembled
from vaexprs.io.r.matrices import matrix
from vaexprs.io.r.tree import attributes_of, elements_of, named, resolve, strings

MAIN_ASSAY = "RNA"  # assay of a Seurat object with the counts; others are derived or hold other features
SPLIT = re.compile(r"(?P<name>.+?)\.(?P<part>.+)")  # a layer of Seurat 5 that is split by sample


def from_seurat(root: Any, path: Path) -> ad.AnnData:
    """Convert the assay "RNA" of a Seurat object, or the active assay if there is none."""
    slots = attributes_of(root)
    assays = named(slots["assays"])
    active = (strings(slots.get("active.assay")) or [""])[0]
    name = next((each for each in (MAIN_ASSAY, active, *assays) if each in assays), None)
    if name is None:
        raise FileFormatError(f"The Seurat object in {str(path)!r} has no assay.")
    if len(assays) > 1:
        warn(f"{path.name!r} has the assays {listed(list(assays))}; only {name!r} is read.")
    parts = attributes_of(assays[name])
    owners = strings(attributes_of(slots["meta.data"]).get("row.names"))
    matrices, genes, owned = _layers(assays[name], parts, path)
    cells = owned if owned is not None else owners
    if not matrices:
        raise FileFormatError(f"The assay {name!r} in {str(path)!r} has neither counts nor data.")
    n, m = next(iter(matrices.values())).shape
    obs = frame_of(elements_of(slots["meta.data"]), n)
    obs = in_order(obs, owners, cells, path)
    identity = slots.get("active.ident")
    if identity is not None and "ident" not in obs:
        ident = frame_of([("ident", identity)], n)
        ident = in_order(ident, strings(attributes_of(identity).get("names")), cells, path)
        obs = obs.join(ident)
    return assembled(matrices, obs, cells, genes, (n, m), path)


def _layers(assay: Any, parts: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], Any, Any]:
    """Return the matrices of a Seurat assay, (n_cells, n_genes), and the names of its genes and cells."""
    if "layers" in parts:  # Seurat 5, which stores the names separately
        return _layers_of_version_5(parts, path)
    matrices: dict[str, Any] = {}
    genes = cells = None
    for name in ("counts", "data"):
        if name in parts:
            x, rows, columns = matrix(parts[name], path, f"GetAssayData(x, {name!r})")
            if min(x.shape):
                matrices[name], genes, cells = as_float(x.T), list(rows), list(columns)
    return matrices, genes, cells


def _layers_of_version_5(parts: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], Any, Any]:
    """Return the layers of an Assay5; layers that are split by sample are joined."""
    found = {
        name: matrix(layer, path, f"LayerData(x, {name!r})")[0]
        for name, layer in named(parts["layers"]).items()
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
    names = attributes_of(node).get("dimnames")
    columns = None if names is None else strings(resolve(names.value[1]))
    values = np.ma.filled(node.value, False) if np.ma.isMA(node.value) else np.asarray(node.value)
    if not columns or len(values) % len(columns):
        return {}
    table = values.astype(bool).reshape((-1, len(columns)), order="F")
    return {name: np.flatnonzero(table[:, i]) for i, name in enumerate(columns)}


def _row_names(node: Any) -> list[str] | None:
    names = attributes_of(node).get("dimnames")
    return None if names is None else strings(names.value[0])
