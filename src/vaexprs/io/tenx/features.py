"""Select the gene expression features of 10x data."""

from __future__ import annotations

import warnings
from pathlib import Path

import anndata as ad
import pandas as pd

from vaexprs.interface.errors import warn
from vaexprs.interface.validation import listed
from vaexprs.io.tables.fields import is_missing

GENE_KIND = "Gene Expression"
# kinds of features that CellRanger counts beside genes
OTHER_KINDS = {"Antibody Capture", "CRISPR Guide Capture", "Multiplexing Capture", "Peaks", "Custom"}


def genes_only(adata: ad.AnnData, path: Path) -> ad.AnnData:
    """Return cells with gene expression features only (no antibodies, guides or peaks) and unique names.

    A gene without a symbol is named by its identifier.
    """
    if "feature_types" in adata.var:
        kinds = adata.var["feature_types"].astype(str)
        genes = (kinds == GENE_KIND).to_numpy()
        if len(genes) and not genes.any() and set(kinds) <= OTHER_KINDS:
            warn(
                f"{path.name!r}: no feature is of kind {GENE_KIND!r}; its {len(genes):,} features are "
                f"{listed(sorted(set(kinds)))}."
            )
        if genes.any() and not genes.all():
            others = sorted(set(kinds[~genes]))
            warn(
                f"{path.name!r}: {int((~genes).sum()):,} of {len(genes):,} features are not genes and are "
                f"dropped: {listed(others)}."
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # gene names are made unique below
                adata = adata[:, genes].copy()
    if "gene_ids" in adata.var:
        names = adata.var_names.to_series()
        ids = adata.var["gene_ids"].astype(str)
        adata.var_names = pd.Index(names.mask(is_missing(names).to_numpy(), ids.to_numpy()).astype(str))
    adata.var_names = ad.utils.make_index_unique(adata.var_names.astype(str))
    return adata
