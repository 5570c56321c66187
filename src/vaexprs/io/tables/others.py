"""Rows and columns of a table that hold neither genes nor cells: sums, labels, reads without a gene."""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np

from vaexprs.data.matrix import densify
from vaexprs.interface.errors import warn
from vaexprs.interface.validation import listed
from vaexprs.io.tables.orientation import is_gene
from vaexprs.io.tables.vocabulary import MEANS, NOT_GENES, SUMS, is_about_cells, key_of

# dates to which spreadsheets convert MARCH1, SEPT2 and DEC1 (Ziemann et al. 2016,
# doi:10.1186/s13059-016-1044-7)
DATE = re.compile(
    r"\d{1,2}-(Mar|Sep|Dec)|(Mar|Sep|Dec)-\d{1,2}|\d{4}-(03|09|12)-\d\d( 00:00:00)?|\d\d?/\d\d?/\d{4}",
    re.IGNORECASE,
)
PHRASE = re.compile(r"(?=.*[a-z]{3}).*(\S \S|=)")  # text of several words, unlike "HLA A"
MAX_LABELS = 10  # maximum number of rows with labels of the cells above the genes


def without_others(adata: ad.AnnData, path: Path, *, genes_in_rows: bool) -> ad.AnnData:
    """Return cells without sums, labels and unassigned reads; warnings say what was dropped or moved."""
    dates = [name for name in adata.var_names if DATE.fullmatch(name)]
    if dates:
        warn(f"{path.name!r}: a spreadsheet has converted gene names to dates: {listed(dates)}.")
    adata = _without_unassigned(adata, path)
    if genes_in_rows:
        adata = _with_labels(adata, path)
    for axis in (0, 1):
        adata = _without_sums(adata, axis, path)
    return adata


def _without_unassigned(adata: ad.AnnData, path: Path) -> ad.AnnData:
    unassigned = np.array([NOT_GENES.fullmatch(name) is not None for name in adata.var_names], bool)
    if not unassigned.any():
        return adata
    warn(
        f"{path.name!r}: dropped {listed(list(adata.var_names[unassigned]))}, which count reads not "
        "assigned to a gene."
    )
    return adata[:, ~unassigned].copy()


def _with_labels(adata: ad.AnnData, path: Path) -> ad.AnnData:
    """Move rows above the genes that label the cells (batch, tumor) to `obs`."""
    names = list(adata.var_names)
    top = list(takewhile(lambda name: not is_gene(name), names[:MAX_LABELS]))
    # "malignant (1=no, 2=yes)" is no gene, and neither are the rows above it
    phrases = [i + 1 for i, name in enumerate(top) if PHRASE.search(name)]
    n = phrases[-1] if phrases and not any(" " in name for name in names[MAX_LABELS:]) else 0
    n += len(list(takewhile(is_about_cells, top[n:])))
    if not 0 < n <= len(names) // 2:
        return adata
    labels = names[:n]
    warn(
        f"{path.name!r}: the first rows, {listed(labels, 12)}, label the cells and become columns of obs. If "
        "they are genes, move them below others."
    )
    values = np.asarray(densify(adata.X[:, :n]))
    adata = adata[:, n:].copy()
    for name, column in zip(labels, values.T, strict=True):
        adata.obs[name] = [f"{value:g}" for value in column]
    return adata


def _without_sums(adata: ad.AnnData, axis: int, path: Path) -> ad.AnnData:
    """Drop a row or column called "Total" or "Mean" if it holds the sums or means of the others."""
    names = (adata.obs_names, adata.var_names)[axis]
    found = [i for i, name in enumerate(names) if key_of(name) in SUMS | MEANS]
    kept = np.ones(len(names), bool)
    kept[found] = False
    if not found or kept.sum() < 2:
        return adata
    others = _line(adata.X[kept].sum(axis=0) if axis == 0 else adata.X[:, kept].sum(axis=1))
    held = []
    for i in found:
        values = _line(adata.X[[i]] if axis == 0 else adata.X[:, [i]])
        expected = others / kept.sum() if key_of(names[i]) in MEANS else others
        if np.allclose(values, expected, rtol=1e-3, atol=1e-3) and values.any():
            held.append(i)
    if not held:
        return adata
    what = "the sum or the mean of all other"
    warn(
        f"{path.name!r}: dropped {listed([names[i] for i in held])}, which holds {what} "
        f"{('cells', 'genes')[axis]}."
    )
    kept[:] = True
    kept[held] = False
    return (adata[kept] if axis == 0 else adata[:, kept]).copy()


def _line(values: Any) -> np.ndarray:
    return np.asarray(densify(values), np.float64).ravel()
