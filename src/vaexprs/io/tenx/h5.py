"""Read .h5 files of CellRanger."""

from __future__ import annotations

import warnings
from pathlib import Path

import anndata as ad

from vaexprs.data.matrix import as_float
from vaexprs.interface.errors import FileFormatError
from vaexprs.interface.validation import listed
from vaexprs.io.tenx.features import genes_only
from vaexprs.io.untrusted.anndata import check_sparse
from vaexprs.io.untrusted.hdf5 import open_hdf5


def read_h5(path: Path) -> ad.AnnData:
    """Read an ``.h5`` file of CellRanger version 2 or later; genes are named as in `read_folder`."""
    import h5py
    import scanpy as sc

    with open_hdf5(path) as file:
        if "obs" in file and "var" in file:
            raise FileFormatError(
                f"{str(path)!r} is not a CellRanger file but an AnnData file. Rename it to .h5ad."
            )
        if not any("barcodes" in part for part in file.values() if isinstance(part, h5py.Group)):
            raise FileFormatError(
                f"{str(path)!r} is not a CellRanger file: it contains {listed(list(file)) or 'nothing'}."
            )
        if "matrix" not in file and len(file) > 1:
            raise FileFormatError(
                f"{str(path)!r} contains several genomes, {listed(list(file))}. Pass the cells of one: "
                f"scanpy.read_10x_h5({path.name!r}, genome={next(iter(file))!r})."
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gene names are made unique below
        adata = sc.read_10x_h5(path, gex_only=False)
    check_sparse(adata)  # `as_float` computes with the matrix
    adata.X = as_float(adata.X)
    return genes_only(adata, path)
