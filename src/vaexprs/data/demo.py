"""Load real cells that are packaged with scanpy, for the demo and the examples."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp


def demo_cells() -> ad.AnnData:
    """Return 700 human blood cells x 765 genes as UMI counts, with ten labels in ``obs["cell_type"]``.

    The data are ``scanpy.datasets.pbmc68k_reduced()`` (Zheng et al. 2017, doi:10.1038/ncomms14049), which
    holds log-normalised values; the counts are ``round(expm1(raw.X) * n_counts / 1e4)``. Nothing is
    downloaded.
    """
    import scanpy as sc

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the old format of the packaged file
        packaged = sc.datasets.pbmc68k_reduced()
    normalised = packaged.raw.X.toarray()
    counts = np.round(np.expm1(normalised) * packaged.obs["n_counts"].to_numpy()[:, None] / 1e4)
    return ad.AnnData(
        sp.csr_matrix(counts, dtype=np.float32),
        obs=pd.DataFrame(
            {"cell_type": packaged.obs["bulk_labels"], "phase": packaged.obs["phase"]},
            index=packaged.obs_names,
        ),
        var=pd.DataFrame(index=packaged.var_names),
    )
