"""Read .loom files."""

from __future__ import annotations

import warnings
from pathlib import Path

import anndata as ad

from vaexprs.interface.errors import require
from vaexprs.io.formats import READERS
from vaexprs.io.untrusted.hdf5 import open_hdf5


def read_loom(path: Path) -> ad.AnnData:
    """Read a .loom file; requires loompy."""
    extra = READERS[".loom"].extra
    assert extra is not None
    require(*extra)
    open_hdf5(path).close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ad.io.read_loom(path, X_name="")
