"""augment: add generated cells to real cells."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

import vaexprs as vx


@pytest.fixture(scope="module")
def balanced(conditional, cells):
    mine = cells.copy()
    mine.obs["cells_counted"] = np.arange(mine.n_obs)
    mine.var["id"] = [f"id{i}" for i in range(mine.n_vars)]
    return vx.augment(mine, "cell_type", fit=conditional, progress=False)


def numbers(adata, group):
    return adata.obs["cell_type"][adata.obs["group"] == group].value_counts()


def test_balanced_means_as_many_as_the_largest(balanced, cells):
    assert set(balanced.obs["cell_type"].value_counts()) == {240}
    assert numbers(balanced, "real").to_dict() == cells.obs["cell_type"].value_counts().to_dict()
    assert numbers(balanced, "generated")["CD34+"] == 227
    assert numbers(balanced, "generated").get("Dendritic", 0) == 0


def test_the_real_cells_come_first_unchanged(balanced, cells):
    assert list(balanced.obs_names[:700]) == list(cells.obs_names)
    assert (sp.csr_matrix(balanced.X[:700]) != sp.csr_matrix(cells.X)).nnz == 0
    assert balanced.obs["cells_counted"][:700].tolist() == list(range(700))
    assert balanced.obs["cells_counted"][700:].isna().all()
    assert list(balanced.var["id"][:2]) == ["id0", "id1"]
    assert balanced.obs_names.is_unique
    assert np.array_equal(balanced.X.data, np.round(balanced.X.data))


def test_results_are_written_and_read(balanced, tmp_path):
    balanced.write_h5ad(tmp_path / "b.h5ad")
    back = ad.read_h5ad(tmp_path / "b.h5ad")
    pd.testing.assert_frame_equal(back.obs, balanced.obs, check_index_type=False, check_names=False)


@pytest.mark.slow
def test_results_work_in_scanpy(balanced):
    """Neighbours, UMAP and marker genes of the augmented cells."""
    adata = balanced.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.pca(adata, n_comps=20)
    sc.pp.neighbors(adata)
    sc.tl.umap(adata)
    assert np.isfinite(adata.obsm["X_umap"]).all()
    sc.tl.rank_genes_groups(adata, "cell_type", method="wilcoxon")
    ranked = adata.uns["rank_genes_groups"]["names"]
    assert "CD79A" in list(ranked["CD19+ B"][:10])
    assert "NKG7" in list(ranked["CD56+ NK"][:10])


@pytest.mark.slow
def test_a_number_a_dict_and_a_fit_made_here(few):
    made = vx.augment(few, "cell_type", to=40, epochs=1, verbose=0, progress=False)
    assert numbers(made, "generated").to_dict() == dict.fromkeys(few.obs["cell_type"].unique(), 10)
    made = vx.augment(few, "cell_type", to={"Dendritic": 35}, epochs=1, n_top_genes=20, progress=False)
    assert numbers(made, "generated")["Dendritic"] == 5
    assert made.shape == (125, 20)
    dense = few.copy()
    dense.X = dense.X.toarray()
    assert isinstance(vx.augment(dense, "cell_type", to=31, epochs=1, verbose=0).X, np.ndarray)


def test_a_warning_if_no_cells_are_generated(conditional, cells):
    with pytest.warns(UserWarning, match=r"cells.*\bto=5\b"):
        made = vx.augment(cells, "cell_type", to=5, fit=conditional)
    assert made.n_obs == 700
    assert set(made.obs["group"]) == {"real"}


def test_cells_without_genes_of_the_fit(conditional, cells):
    words = rf"genes.*\bfit\b.*'{cells.var_names[0]}', '{cells.var_names[1]}'"
    with pytest.raises(ValueError, match=words):
        vx.augment(cells[:, 2:].copy(), "cell_type", fit=conditional)


@pytest.mark.parametrize(
    ("key", "kwargs", "error", "words"),
    [
        ("cell_typ", {}, ValueError, r"label_key.*\bobs\b.*'cell_type'"),
        ("cell_type", {"to": "even"}, ValueError, r"\bto\b.*'balanced'.*'even'"),
        ("cell_type", {"to": 2.5}, TypeError, r"\bto\b.*\b2\.5"),
        ("cell_type", {"to": {"NK": 5}}, ValueError, r"\bto\b.*label.*'NK'"),
        ("phase", {"fit": True}, ValueError, r"'phase'.*label.*'cell_type'"),
        ("cell_type", {"fit": True, "epochs": 3}, ValueError, r"covariate_keys"),
    ],
)  # fmt: skip
def test_invalid_arguments(conditional, cells, key, kwargs, error, words):
    if "fit" in kwargs:
        kwargs = kwargs | {"fit": conditional}
    with pytest.raises(error, match=words):
        vx.augment(cells, key, **kwargs)
