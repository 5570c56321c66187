"""Read .loom files."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata as ad

from vaexprs.interface.errors import FileFormatError, require, warn
from vaexprs.interface.validation import listed
from vaexprs.io.formats import READERS
from vaexprs.io.tables.fields import read_texts
from vaexprs.io.untrusted.hdf5 import open_hdf5

# attributes that name cells and genes: of the specification, of AnnData and kb, of loomR and Optimus
_CELL_NAMES = """
    CellID obs_names cell_names cell_id cellID CellId cell_name barcode barcodes Barcode Barcodes
    cell_barcode cell_barcodes CellName cell Cell cells index _index
"""
CELL_NAMES = tuple(_CELL_NAMES.split())
_GENE_NAMES = """
    Gene var_names gene_names gene_name GeneName gene_symbol gene_symbols GeneSymbol Symbol symbol
    gene_short_name target_name gene Genes genes Accession gene_ids gene_id ensembl_ids ensembl_id
    GeneID target_id index _index
"""
GENE_NAMES = tuple(_GENE_NAMES.split())


def read_loom(path: Path) -> ad.AnnData:
    """Read a .loom file; requires loompy. Texts that stand for missing values are missing.

    Raises
    ------
    FileFormatError
        If no known attribute names the cells or the genes.
    """
    extra = READERS[".loom"].extra
    assert extra is not None
    require(*extra)
    with open_hdf5(path) as file:
        genes = _naming(file, "row_attrs", GENE_NAMES, "genes", path)
        cells = _naming(file, "col_attrs", CELL_NAMES, "cells", path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata: ad.AnnData = ad.io.read_loom(path, X_name="", obs_names=cells, var_names=genes)
    for table in (adata.obs, adata.var):
        for key in table:
            if table[key].dtype == object:
                table[key] = read_texts(table[key])
    return adata


def _naming(file: Any, side: str, known: Sequence[str], what: str, path: Path) -> str:
    """Return the attribute that names the rows or columns."""
    attributes = list(file[side]) if side in file else []
    matrix = file.get("matrix")
    n = None if matrix is None else matrix.shape[side == "col_attrs"]
    one = [name for name in attributes if getattr(file[side][name], "shape", None) == (n,)]
    name = next((each for each in known if each in one), None)
    if name is None:
        raise FileFormatError(
            f"{str(path)!r} must have an attribute that names the {what}, such as {known[0]!r}, got "
            f"{listed(one, 12) or 'none'}. Name the one that does: anndata.io.read_loom({path.name!r}, "
            f"{'var_names' if what == 'genes' else 'obs_names'}=...)."
        )
    if name not in known[:2] and len([each for each in known if each in one]) > 1:
        warn(f"{path.name!r}: the {what} are named by the attribute {name!r}.")
    return name
