"""Make names of cells and genes unique."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd

from vaexprs.interface.errors import warn
from vaexprs.interface.validation import listed


def unique_names(adata: ad.AnnData, source: str, *, cells: bool = True) -> ad.AnnData:
    """Return cells whose names of cells and genes are unique, with a warning for those that were not.

    Repeated names get numbers as by `AnnData.var_names_make_unique`: "A", "A-1", "A-2". The given AnnData is
    changed in place.

    Parameters
    ----------
    adata
        Cells.
    source
        What they are, in the warning.
    cells
        Whether to make the names of cells unique as well.
    """
    if cells:
        adata.obs_names = unique_index(adata.obs_names, source, "cells")
    adata.var_names = unique_index(adata.var_names, source, "genes")
    return adata


def unique_index(names: pd.Index, source: str, what: str) -> pd.Index:
    """Return names that are unique, with a warning if they were not; the same object if they were.

    Raises
    ------
    ValueError
        If a gene has no name.
    """
    if what == "genes":
        missing = int(np.count_nonzero(names.isna()))
        if missing:
            raise ValueError(
                f"Every gene must have a name, got {missing:,} of {len(names):,} without one (NaN). Give "
                "them names, such as their identifiers, or leave them out: adata[:, adata.var_names.notna()]."
            )
    empty = int(np.count_nonzero(names == ""))
    if empty:
        warn(f"{source} has {empty:,} {what} with an empty name.")
    if names.is_unique:
        return names
    twice = names[names.duplicated()].unique()
    warn(
        f"{source} has {len(twice):,} names of {what} more than once ({listed(list(twice))}). They are made "
        f"unique by numbers ({str(twice[0])!r}, '{twice[0]}-1'); the {what} are not merged."
    )
    return ad.utils.make_index_unique(names.astype(str))
