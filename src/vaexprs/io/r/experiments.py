"""Read SummarizedExperiment and derived classes, such as SingleCellExperiment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata as ad
import pandas as pd

from vaexprs.data.count_detection import count_layers
from vaexprs.data.matrix import as_float
from vaexprs.interface.errors import FileFormatError
from vaexprs.io.r.columns import frame_in, in_order
from vaexprs.io.r.matrices import has_dimnames, matrix, names_or_numbers
from vaexprs.io.r.tree import attributes_of, named, strings


def from_experiment(root: Any, path: Path) -> ad.AnnData:
    """Convert a SummarizedExperiment or a derived class, such as SingleCellExperiment."""
    slots = attributes_of(root)
    assays: dict[str, Any] = {}
    if "assays" in slots:  # the slot is missing if there are no assays
        data = attributes_of(slots["assays"]).get("data")
        if data is None:
            raise FileFormatError(
                f"{str(path)!r} contains outdated R classes. In R: saveRDS(updateObject(x), ...)."
            )
        assays = named(attributes_of(data)["listData"])
    if not assays:
        raise FileFormatError(f"The experiment in {str(path)!r} has no assay.")
    annotation = attributes_of(slots["colData"])
    cells, genes = strings(annotation.get("rownames")), _gene_names(slots)
    matrices: dict[str, Any] = {}
    for name, assay in assays.items():
        x, rows, columns = matrix(assay, path, f"assay(x, {name!r})")
        genes = list(rows) if genes is None and has_dimnames(assay, 0) else genes
        cells = list(columns) if cells is None and has_dimnames(assay, 1) else cells
        matrices[name or f"assay{len(matrices) + 1}"] = as_float(x.T)
    n, m = next(iter(matrices.values())).shape
    obs = frame_in(slots["colData"], n)
    own = list(columns) if has_dimnames(assay, 1) else None
    if own is not None and cells is not None and own != cells and set(own) == set(cells):
        obs, cells = in_order(obs, cells, own, path), own  # as the assay has them
    return assembled(matrices, obs, cells, genes, (n, m), path, var=_gene_columns(slots, m))


def _gene_names(slots: Mapping[str, Any]) -> list[str] | None:
    names = strings(slots.get("NAMES"))
    if names is not None or "rowRanges" not in slots:
        return names
    ranges = attributes_of(slots["rowRanges"])
    for holder in ("partitioning", "ranges"):
        if holder in ranges:
            names = strings(attributes_of(ranges[holder]).get("NAMES"))
    return names


def _gene_columns(slots: Mapping[str, Any], n: int) -> pd.DataFrame:
    """Return rowData, which ranged experiments store with their ranges."""
    holders = [slots, attributes_of(slots["rowRanges"]) if "rowRanges" in slots else {}]
    held = [frame_in(holder["elementMetadata"], n) for holder in holders if "elementMetadata" in holder]
    return max(held, key=lambda frame: len(frame.columns), default=pd.DataFrame(index=pd.RangeIndex(n)))


def assembled(
    matrices: dict[str, Any],
    obs: pd.DataFrame,
    cells: Any,
    genes: Any,
    shape: tuple[int, int],
    path: Path,
    *,
    var: pd.DataFrame | None = None,
) -> ad.AnnData:
    """Return an AnnData of matrices, columns and names, with the counts in X."""
    first = (*count_layers(matrices), *matrices)[0]
    for kind, names, n in (("cells", cells, shape[0]), ("genes", genes, shape[1])):
        if names is not None and len(names) != n:
            raise FileFormatError(f"{str(path)!r} has {n:,} {kind}, but {len(names):,} names.")
    obs_names, var_names = (
        names_or_numbers(cells, shape[0], "cell"),
        names_or_numbers(genes, shape[1], "gene"),
    )
    return ad.AnnData(
        matrices[first],
        obs=obs.set_axis(obs_names, axis=0),
        var=pd.DataFrame(index=var_names) if var is None else var.set_axis(var_names, axis=0),
        layers={name: x for name, x in matrices.items() if x.shape == shape},
    )
