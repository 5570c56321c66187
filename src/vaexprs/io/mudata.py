"""Read the gene expression of .h5mu files."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import pandas as pd

from vaexprs.interface.errors import FileFormatError
from vaexprs.interface.validation import listed
from vaexprs.io.untrusted.anndata import check_parts
from vaexprs.io.untrusted.hdf5 import open_hdf5

# names of the gene expression modality, the most common first
GENE_MODALITIES = ("rna", "RNA", "gex", "GEX", "Gene Expression")


def read_h5mu(path: Path) -> ad.AnnData:
    """Read the gene expression modality, with the shared columns of `obs`."""
    with open_hdf5(path) as file:
        parts = list(file["mod"]) if "mod" in file else []
        name = next((each for each in GENE_MODALITIES if each in parts), None)
        if name is None and len(parts) == 1:
            name = parts[0]
        if name is None:
            hint = ""
            if parts:
                take = f"mudata.read_h5mu({path.name!r})[{parts[0]!r}].write_h5ad('{parts[0]}.h5ad')"
                hint = f" To take another, write it to a file of its own: {take}."
            raise FileFormatError(
                f"{str(path)!r} must have a modality 'rna', got {listed(parts) or 'none'}.{hint}"
            )
        check_parts(file["mod"][name], path)
        cells: ad.AnnData = ad.io.read_elem(file["mod"][name])
        obs = ad.io.read_elem(file["obs"]) if "obs" in file else pd.DataFrame()
    shared = [key for key in obs if key not in cells.obs and not str(key).startswith(f"{name}:")]
    if shared and cells.obs_names.isin(obs.index).all():
        cells.obs = cells.obs.join(obs[shared])
    return cells
