"""Select the gene expression features of 10x data."""

from __future__ import annotations

import warnings
from pathlib import Path

import anndata as ad

from vaexprs.interface.errors import warn
from vaexprs.interface.validation import listed

GENE_KIND = "Gene Expression"


def genes_only(adata: ad.AnnData, path: Path) -> ad.AnnData:
    """Return cells with gene expression features only (no antibodies, guides or peaks) and unique names."""
    if "feature_types" in adata.var:
        kinds = adata.var["feature_types"].astype(str)
        genes = (kinds == GENE_KIND).to_numpy()
        if genes.any() and not genes.all():
            others = sorted(set(kinds[~genes]))
            warn(
                f"{path.name!r}: {int((~genes).sum()):,} of {len(genes):,} features are not genes and are "
                f"dropped: {listed(others)}."
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # gene names are made unique below
                adata = adata[:, genes].copy()
    adata.var_names = ad.utils.make_index_unique(adata.var_names.astype(str))
    return adata
