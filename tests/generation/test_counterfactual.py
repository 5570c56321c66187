"""transform: predict cells under another condition."""

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats

import vaexprs as vx
from vaexprs.data.matrix import log_normalised
from vaexprs.preprocessing.splits import split_rows


def same(a, b):
    return (sp.csr_matrix(a.X) != sp.csr_matrix(b.X)).nnz == 0


@pytest.fixture(scope="module")
def cycling(conditional, cells):
    return vx.transform(conditional, cells, phase="S", progress=False)


def test_names_order_and_annotation_are_kept(cycling, cells):
    assert list(cycling.obs_names) == list(cells.obs_names)
    assert list(cycling.var_names) == list(cells.var_names)
    assert (cycling.obs["cell_type"] == cells.obs["cell_type"]).all()
    assert set(cycling.obs["phase"]) == {"S"}
    assert list(cycling.obs["phase"].cat.categories) == ["G1", "G2M", "S"]
    assert np.array_equal(cycling.X.data, np.round(cycling.X.data))
    assert cycling.uns["vaexprs"]["transformed_to"] == '{"phase": "S"}'


def test_cell_type_and_library_size_are_kept(cycling, cells):
    """Most transformed cells are nearest to the mean of their own cell type, of ten."""
    real, made = (log_normalised(sp.csr_matrix(a.X)).toarray() for a in (cells, cycling))
    types = cells.obs["cell_type"].cat.categories
    means = np.stack([real[cells.obs["cell_type"] == name].mean(axis=0) for name in types])
    wide = ["CD14+ Monocyte", "CD19+ B", "CD34+", "CD56+ NK"]  # T cells are like each other
    kept = cells.obs["cell_type"].isin(wide).to_numpy()
    nearest = ((made[kept][:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (types[nearest] == cells.obs["cell_type"][kept]).mean() > 0.9
    totals = [np.asarray(a.X.sum(axis=1)).ravel() for a in (cells, cycling)]
    assert stats.spearmanr(*totals)[0] > 0.95  # ranks: one large count can dominate a correlation of totals
    assert totals[1].mean() == pytest.approx(totals[0].mean(), rel=0.03)


def test_the_same_seed_gives_the_same_cells_by_argument_or_dict(conditional, cells, cycling):
    again = vx.transform(conditional, cells, {"phase": "S"}, progress=False)
    assert same(again, cycling)
    assert not same(vx.transform(conditional, cells, {"phase": "S"}, seed=1, progress=False), cycling)


def test_the_own_condition_gives_similar_cells(conditional, cells):
    """Latent vectors are not moved; only the sampling noise is new."""
    g1 = cells[cells.obs["phase"] == "G1"]
    made = vx.transform(conditional, g1, phase="G1", progress=False)
    real, new = (log_normalised(sp.csr_matrix(a.X)).toarray().mean(axis=0) for a in (g1, made))
    assert np.corrcoef(real, new)[0, 1] > 0.997


def test_library_size_asked_for(conditional, cells):
    made = vx.transform(conditional, cells[:100], phase="S", library_size=3000, progress=False)
    assert made.X.sum(axis=1).mean() == pytest.approx(3000, rel=0.03)


def test_more_genes_in_another_order_do_not_matter(conditional, cells, cycling):
    extra = ad.AnnData(sp.csr_matrix(np.ones((cells.n_obs, 1), np.float32)), obs=cells.obs, var={"id": [1]})
    extra.var_names = ["NOT-A-GENE"]
    more = ad.concat([cells[:, ::-1], extra], axis=1, merge="same")
    assert same(vx.transform(conditional, more, phase="S", progress=False), cycling)


def test_files_in_and_out_a_block_at_a_time(conditional, cells, cycling, tmp_path, monkeypatch):
    from vaexprs.generation import transform as counterfactual
    from vaexprs.io import stores as ondisk

    cells.write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.setattr(ondisk, "IN_MEMORY", 1_000)
    monkeypatch.setattr(counterfactual, "CELLS_AT_ONCE", 256)
    made = vx.transform(
        conditional, tmp_path / "cells.h5ad", phase="S", out=tmp_path / "s.zarr", progress=False
    )
    assert made.shape == (700, 765)
    back = vx.read(tmp_path / "s.zarr")
    assert same(back, cycling)
    assert list(back.obs_names) == list(cells.obs_names)
    with pytest.raises(FileExistsError, match=r"exists"):
        vx.transform(conditional, cells, phase="S", out=tmp_path / "s.zarr")


@pytest.mark.parametrize(
    ("change", "kwargs", "error", "words"),
    [
        (None, {}, ValueError, r"condition.*'cell_type', 'phase'"),
        (None, {"fase": "S"}, ValueError, r"'fase'.*'phase'"),
        (None, {"phase": "s"}, ValueError, r"phase.*'G1', 'G2M', 'S'.*'s'.*'S'"),
        (lambda a: a[:, :700], {"phase": "S"}, ValueError, r"genes.*\b765\b.*\b700\b"),
        (lambda a: a[:0], {"phase": "S"}, ValueError, r"object.*\bcell"),
        (lambda a: ad.AnnData(a.X, var=a.var), {"phase": "S"}, ValueError, r"label_key.*\bobs\b"),
        (lambda a: ad.AnnData(a.X * 0.5, obs=a.obs, var=a.var), {"phase": "S"}, ValueError, r"Counts.*whole"),
        (None, {"phase": "S", "library_size": 0}, ValueError, r"library_size.*\b0\b"),
    ],
)  # fmt: skip
def test_invalid_arguments(conditional, cells, change, kwargs, error, words):
    with pytest.raises(error, match=words):
        vx.transform(conditional, cells if change is None else change(cells), **kwargs)
    with pytest.raises(TypeError, match=r"\bfit\b.*fit_vae.*load_vae.*\bstr\b"):
        vx.transform("model", cells, phase="S")


@pytest.fixture(scope="module")
def kang(real_data):
    """Blood cells with and without interferon: a training half and a test half."""
    adata = real_data("kang_muscat")
    strata = adata.obs[["cell_type", "stim", "donor"]].astype(str).agg("/".join, axis=1).to_numpy()
    train, test = split_rows(strata, adata.n_obs, 0.5, 0)
    return adata[train].copy(), adata[test].copy()


def shift_agrees(predicted, before, after):
    """Correlation over the genes of the predicted and the real shift of the mean, averaged over the types."""
    by_type = []
    for name in before.obs["cell_type"].unique():
        p, b, a = (
            np.asarray(log_normalised(sp.csr_matrix(x[x.obs["cell_type"] == name].X)).mean(axis=0)).ravel()
            for x in (predicted, before, after)
        )
        by_type.append(np.corrcoef(p - b, a - b)[0, 1])
    return np.mean(by_type)


def test_predicted_interferon_response(kang):
    """Real cells against real cells reach 0.93 on these halves."""
    train, test = kang
    fit = vx.fit_vae(train, label_key="cell_type", covariate_keys=["stim", "donor"], verbose=0)
    before, after = (test[test.obs["stim"] == level] for level in ("ctrl", "stim"))
    predicted = vx.transform(fit, before, stim="stim", progress=False)
    assert shift_agrees(predicted, before, after) > 0.87


def test_predicted_interferon_response_of_a_held_out_combination(kang):
    train, test = kang
    held = (train.obs["cell_type"] == "CD14+ Monocytes") & (train.obs["stim"] == "stim")
    fit = vx.fit_vae(train[~held], label_key="cell_type", covariate_keys=["stim", "donor"], verbose=0)
    test = test[test.obs["cell_type"] == "CD14+ Monocytes"]
    before, after = (test[test.obs["stim"] == level] for level in ("ctrl", "stim"))
    assert shift_agrees(vx.transform(fit, before, stim="stim", progress=False), before, after) > 0.65
