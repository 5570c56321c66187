"""Real data sets in every format and back: identical counts, names, labels and missing values."""

import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import vaexprs as vx
from vaexprs.data.levels import level_name
from vaexprs.data.matrix import densify

DATA = Path(__file__).parents[3] / "shared" / "data"
SUFFIXES = (".csv", ".csv.gz", ".tsv", ".mtx", ".h5ad", ".zarr", ".rds", ".loom")


def to_loom(cells, path):
    """Write a loom file as AnnData does."""
    pytest.importorskip("loompy")
    copy = cells.copy()
    for key in copy.obs:
        copy.obs[key] = [("NA" if pd.isna(v) else level_name(v)) for v in copy.obs[key]]
    copy.write_loom(path)


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="the data sets are not on this machine")
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", sorted(path.stem for path in DATA.glob("*.h5ad")))
def test_real_data_come_back(tmp_path, name, suffix):
    cells = vx.read(DATA / f"{name}.h5ad")
    rows = np.sort(np.random.default_rng(0).permutation(cells.n_obs)[:60])
    cells = cells[rows, :3_000].copy()
    cells.obs["some"] = pd.Series(["NA", "B", None] * 60)[: cells.n_obs].to_numpy(object)
    if suffix == ".loom":  # has no form for missing values
        cells.obs["some"] = cells.obs["some"].replace("NA", "A")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if suffix == ".loom":
            to_loom(cells, tmp_path / "a.loom")
        else:
            vx.write(cells, tmp_path / f"a{suffix}")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # nothing is guessed
        back = vx.read(tmp_path / f"a{suffix}")
    assert_same(back, cells)


def assert_same(back: ad.AnnData, cells: ad.AnnData):
    np.testing.assert_array_equal(densify(back.X), densify(cells.X))
    assert list(back.obs_names) == list(cells.obs_names)
    assert list(back.var_names) == list(cells.var_names)
    assert set(back.obs) == set(cells.obs)  # a loom file sorts them
    for key in cells.obs:
        found, wanted = back.obs[key], cells.obs[key]
        assert list(found.isna()) == list(wanted.isna()), key
        if pd.api.types.is_numeric_dtype(wanted.dtype):
            np.testing.assert_array_equal(found.dropna().astype(float), wanted.dropna().astype(float))
        else:
            assert list(found.dropna().map(level_name)) == list(wanted.dropna().map(level_name)), key
