"""Cells that cannot be learned from are refused, and values that are not counts are described."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import vaexprs as vx
from vaexprs.data.backed import BackedCells
from vaexprs.io import stores
from vaexprs.io.open import open_cells
from vaexprs.io.stores import back_layer
from vaexprs.preprocessing.values import warn_of_many_genes, with_min_counts, without_empty

COUNTS = np.random.default_rng(0).poisson(5, (60, 10)).astype(np.float32)
NAMES = [f"c{i}" for i in range(60)]


def cells_of(x, **layers):
    obs = pd.DataFrame({"t": ["a", "b"] * (len(x) // 2) + ["a"] * (len(x) % 2)}, index=NAMES[: len(x)])
    return ad.AnnData(np.asarray(x, np.float32), obs=obs, layers=layers)


def fit(cells, **settings):
    """Return a short fit and the warnings."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fitted = vx.fit_vae(cells, label_key="t", epochs=1, latent_dim=2, verbose=0, **settings)
    return fitted, " | ".join(str(warning.message) for warning in said)


@pytest.mark.parametrize("n", [1, 2, 8])
def test_too_few_cells_are_refused(n):
    with pytest.raises(ValueError, match=rf"at least 10 cells to fit, got {n} cells x 10 genes"):
        fit(cells_of(COUNTS[:n]))


def test_annotation_is_not_fitted(tmp_path):
    frame = pd.DataFrame({"t": ["a", "b"] * 30, "zeta": np.arange(60) / 7}, index=NAMES)
    frame.to_csv(tmp_path / "a.csv")
    for given in (frame, tmp_path / "a.csv"):
        with pytest.raises(ValueError, match=r"at least 2 genes to fit, got 1 \('zeta'\).*obs="):
            fit(given)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x / x.sum(1, keepdims=True) * 1e6, "sum to 1,000,000 in each cell, such as CPM"),
        (lambda x: (x - x.mean(0)) / x.std(0), "which look scaled or centred"),
        (lambda x: np.log1p(x) * 0.37, "which look like logarithms"),
        (lambda x: x * 37.3, "fractions, 5"),
    ],
)
def test_values_that_are_not_counts_are_described(change, words):
    fitted, said = fit(cells_of(change(COUNTS)))
    assert fitted.likelihood.name == "gaussian"
    assert words in said
    assert "no counts" not in fit(cells_of(change(COUNTS)), likelihood="gaussian")[1]


def test_counts_in_a_layer_of_another_name_are_named():
    scaled = (COUNTS - COUNTS.mean(0)) / COUNTS.std(0)
    _, said = fit(cells_of(scaled, rna_counts=COUNTS, ones=np.ones_like(COUNTS)))
    assert "layers['rna_counts'] holds whole counts" in said
    assert "layer='rna_counts' (--layer rna_counts)" in said


def test_cells_without_counts_are_left_out():
    x = COUNTS.copy()
    x[[3, 17]] = 0
    fitted, said = fit(cells_of(x))
    assert fitted.preprocessing.train.obs.index.tolist() == [
        n for i, n in enumerate(NAMES) if i not in (3, 17)
    ]
    np.testing.assert_array_equal(fitted.preprocessing.train.x, np.delete(x, [3, 17], 0))
    assert "2 of 60 cells have no counts in the 10 genes of the fit and are left out ('c3', 'c17')" in said
    with pytest.raises(ValueError, match=r"Every cell must have counts.*got 2.*'c3'"):
        fit(cells_of(x), sample_weight=np.ones(60))  # weights belong to all cells
    x[5:] = 0
    with pytest.raises(ValueError, match=r"at least 10 cells with counts.*got 4 of 60.*n_top_genes"):
        fit(cells_of(x))


def test_cells_without_counts_on_disk_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "IN_MEMORY", 0)
    x = COUNTS.copy()
    x[[3, 17]] = 0
    cells = cells_of(x)
    cells.X = sp.csr_matrix(cells.X)
    cells.write_h5ad(tmp_path / "a.h5ad")
    stored = back_layer(open_cells(tmp_path / "a.h5ad"), layer=None, keys=["t"])
    with pytest.warns(UserWarning, match=r"fewer than 1 counts.*'c3', 'c17'"):
        assert with_min_counts(stored, "object", 1).n_obs == 58
    with pytest.warns(UserWarning, match=r"'c3', 'c17'"):
        kept = without_empty(stored, "object")
    assert isinstance(kept, BackedCells)
    np.testing.assert_array_equal(kept.X[:].toarray(), np.delete(x, [3, 17], 0))
    assert list(kept.obs["t"]) == list(np.delete(cells.obs["t"].to_numpy(), [3, 17]))
    assert list(kept.take_names(np.array([0, 3, 57]))) == ["c0", "c4", "c59"]


def test_cells_with_few_counts_are_left_out_on_request():
    """c3 and c17 have 4 and 5 counts in all genes; the limit is inclusive, and genes are chosen after it."""
    x = COUNTS.copy()
    x[[3, 17]] = 0
    x[3, 0], x[17, 1] = 4, 5
    totals = x.sum(1)
    assert np.sort(totals)[2] > 5
    kept = {n: fit(cells_of(x), min_counts=n, genes=["0", "1"]) for n in (4, 5, 6)}
    assert [len(fitted.preprocessing.train) for fitted, _ in kept.values()] == [60, 59, 58]
    assert "1 of 60 cells have fewer than 5 counts in all 10 genes and are left out ('c3')." in kept[5][1]
    assert "left out" not in kept[4][1]
    assert kept[6][0].recipe["arguments"]["min_counts"] == 6
    fitted, said = fit(cells_of(x), x_val=cells_of(x[:20]), min_counts=6)
    assert len(fitted.preprocessing.val) == 18
    assert "2 of 20 cells" in said


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"min_counts": 0}, r"min_counts must be .*at least 1.*0"),
        ({"min_counts": 10**6}, r"must leave at least 10 cells, but 0 of 60 have 1,000,000 counts \(median: \d+\)"),
        ({"min_counts": 5, "layer": "X", "likelihood": "gaussian"}, r"min_counts requires counts"),
        ({"min_counts": 5, "sample_weight": np.ones(60)}, r"cannot be combined with sample_weight.*filter_cells"),
    ],
)  # fmt: skip
def test_min_counts_that_cannot_be_used(given, words):
    x = COUNTS / 2 if "layer" in given else COUNTS
    with pytest.raises(ValueError, match=words):
        vx.fit_vae(cells_of(x), epochs=1, latent_dim=2, verbose=0, **given)


def test_more_genes_than_cells_are_fitted_with_a_warning():
    x = np.random.default_rng(0).poisson(1.0, (40, 2_001)).astype(np.float32)
    words = "2,001 genes are many for 40 cells"
    _, said = fit(cells_of(x))
    assert words in said
    assert "n_top_genes=2000" in said
    assert words not in fit(cells_of(x), n_top_genes=2_001)[1]
    assert words not in fit(cells_of(x), genes=[f"{i}" for i in range(2_001)])[1]
    assert "genes are many" not in fit(cells_of(x[:, :2_000]))[1]


@pytest.mark.parametrize(
    ("cells", "genes", "warns"), [(2_000, 2_001, True), (2_001, 2_001, False), (9, 2_000, False)]
)
def test_genes_are_many_if_there_are_more_than_cells_and_2000(cells, genes, warns, recwarn):
    warn_of_many_genes(cells, genes)
    assert len(recwarn) == warns


def test_a_numeric_column_of_a_table_is_the_label(tmp_path):
    frame = pd.DataFrame(COUNTS.astype(int), NAMES, [f"g{i}" for i in range(10)])
    frame["zeta"] = np.arange(60) % 3
    frame["is_doublet"] = [True, False] * 30
    frame.to_csv(tmp_path / "a.csv")
    for given in (frame, tmp_path / "a.csv"):
        fitted = vx.fit_vae(given, label_key="zeta", epochs=1, latent_dim=2, verbose=0)
        assert fitted.preprocessing.conditions.labels == ("0", "1", "2")
        assert list(fitted.genes) == [f"g{i}" for i in range(10)]
        made = vx.gen_exprs(fitted, 5, labels=np.int64(2), progress=False)
        assert set(made.adata.obs["zeta"]) == {"2"}


def test_repeated_genes_are_made_unique():
    cells = cells_of(COUNTS)
    cells.var_names = ["A", "A", *"CDEFGHIJ"]
    fitted, said = fit(cells)
    assert list(fitted.genes) == ["A", "A-1", *"CDEFGHIJ"]
    assert "names of genes more than once ('A')" in said
    assert list(cells.var_names[:2]) == ["A", "A"]  # as they were


def test_objects_that_are_numbers_are_numbers():
    frame = pd.DataFrame(COUNTS.astype(int), NAMES, [f"g{i}" for i in range(10)])
    frame["t"] = ["a", "b"] * 30
    fitted, _ = fit(frame.T.T)
    assert list(fitted.genes) == [f"g{i}" for i in range(10)]
    with pytest.raises(ValueError, match=r"column of numbers for each gene.*pandas\.to_numeric"):
        fit(frame.astype(str))


def test_levels_of_other_types_are_generated():
    day = pd.to_datetime(["2024-01-02", "2024-03-04"] * 30)
    cells = cells_of(COUNTS)
    cells.obs = cells.obs.assign(day=day, tumour=[True, True, False] * 20, dose=np.float32([0, 0.1] * 30))
    fitted, _ = fit(cells, covariate_keys=["day", "tumour", "dose"])
    assert fitted.levels["day"] == ("2024-01-02", "2024-03-04")
    assert fitted.levels["dose"] == ("0.0", "0.1")
    for key, values, level in (
        ("day", [day[0], day[0].date(), np.datetime64("2024-01-02"), "2024-01-02 00:00:00"], "2024-01-02"),
        ("tumour", [True, np.True_, "TRUE", "true"], "True"),
        ("dose", [0.1, np.float32(0.1), "0.10"], "0.1"),
    ):
        for value in values:
            made = vx.gen_exprs(fitted, 3, covariates={key: value}, progress=False)
            assert set(made.adata.obs[key]) == {level}
            assert f'"{key}": "{level}"' in made.adata.uns["vaexprs"]["covariates"]
    numbers = cells.obs["t"].value_counts()
    made = vx.gen_exprs(fitted, labels=numbers, progress=False)
    assert made.adata.obs["t"].value_counts().to_dict() == {"a": 30, "b": 30}
    rows = [{"day": day[1], "tumour": False, "n": 4}]
    made = vx.gen_exprs(fitted, conditions=rows, progress=False)
    assert set(zip(made.adata.obs["day"], made.adata.obs["tumour"], strict=True)) == {("2024-03-04", "False")}


def test_a_column_group_of_the_user_is_kept():
    cells = cells_of(COUNTS)
    cells.obs["group"] = ["ctrl", "stim", "stim"] * 20
    settings = {"epochs": 1, "latent_dim": 2, "verbose": 0, "progress": False}
    with pytest.warns(UserWarning, match=r"obs\['group'\] is a column of the cells.*obs\['vaexprs_group'\]"):
        both = vx.augment(cells, "t", to=35, covariate_keys=["group"], **settings)
    assert both.obs["vaexprs_group"].value_counts().to_dict() == {"real": 60, "generated": 10}
    assert list(both.obs["group"][:60]) == ["ctrl", "stim", "stim"] * 20
    assert set(both.obs["group"][60:]) <= {"ctrl", "stim"}
    assert vx.plot_aug(both, "PCA", label_key="t").axes
    table = vx.evaluate(both, cells, label_key="t", only=["gene_means"], progress=False)
    assert any("60 are real (obs['vaexprs_group'])" in note for note in table.attrs["notes"])
