"""Write 10x folders."""

from __future__ import annotations

import gzip
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse as sp

from vaexprs.interface.validation import listed
from vaexprs.io.atomic import written_whole
from vaexprs.io.tables.annotation import write_obs
from vaexprs.io.tables.write import COMPRESSION_LEVEL
from vaexprs.io.tenx.features import GENE_KIND
from vaexprs.io.tenx.folder import OBS


def write_10x(adata: ad.AnnData, path: Path, *, overwrite: bool) -> None:
    """Write a 10x folder atomically."""
    with written_whole(path, overwrite=overwrite) as folder:
        write_folder(adata, folder)


def write_folder(adata: ad.AnnData, folder: Path) -> None:
    """Write the files that scanpy.read_10x_mtx and R's Read10X read, and `obs` as ``obs.csv``."""
    for names in (adata.obs_names, adata.var_names):
        odd = [name for name in names if not name or any(mark in name for mark in "\0\t\r\n")]
        if odd:
            raise ValueError(
                f"A 10x folder cannot hold names that are empty or contain NUL, tabs or line breaks: "
                f"{listed(odd)}. Rename them, or write .h5ad."
            )
    folder.mkdir()
    x = sp.coo_matrix(adata.X).T
    if np.all(x.data == np.round(x.data)):
        x = x.astype(np.int64)
    with gzip.open(folder / "matrix.mtx.gz", "wb", COMPRESSION_LEVEL) as file:
        scipy.io.mmwrite(file, x, symmetry="general")  # 10x readers know no other
    ids = adata.var.get("gene_ids", adata.var_names)
    features = pd.DataFrame({"id": list(ids), "name": list(adata.var_names), "kind": GENE_KIND})
    barcodes = pd.DataFrame({"cell": list(adata.obs_names)})
    for name, table in {"features": features, "barcodes": barcodes}.items():
        table.to_csv(folder / f"{name}.tsv.gz", sep="\t", header=False, index=False, quoting=3)
    if len(adata.obs.columns):
        write_obs(folder / OBS, adata.obs)
