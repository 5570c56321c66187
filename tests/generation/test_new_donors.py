"""Donors as random effects: fits with donor_key, training donors and new ones."""

import json

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import vaexprs as vx


def planted(cells, seed=0):
    """Return the cells with eight donors, who differ in depth and in the first ten frequent genes."""
    rng = np.random.default_rng(seed)
    cells = cells.copy()
    donor = rng.integers(0, 8, cells.n_obs)
    x = np.asarray(sp.csr_matrix(cells.X).toarray())
    genes = np.argsort(-x.sum(axis=0))[:10]
    kept = np.full(x.shape, 0.6)
    kept[:, genes] = rng.uniform(0.1, 1, (8, 10))[donor]
    kept *= np.linspace(0.5, 1, 8)[donor][:, None]
    cells.X = sp.csr_matrix(rng.binomial(x.astype(int), kept).astype(np.float32))
    cells.obs["donor"] = [f"d{i}" for i in donor]
    cells.obs["sex"] = np.where(donor % 2, "f", "m")
    return cells[np.ravel(cells.X.sum(axis=1)) > 0].copy(), genes


@pytest.fixture(scope="module")
def donors(cells):
    return planted(cells)


@pytest.fixture(scope="module")
def fitted(donors):
    return vx.fit_vae(donors[0], label_key="cell_type", donor_key="donor", epochs=12, seed=0, verbose=0)


def profile(adata, genes):
    """Return the log proportions of genes and the log depth of each donor."""
    x = pd.DataFrame(adata.X.toarray()).groupby(adata.obs["donor"].astype(str).to_numpy()).sum()
    cells = adata.obs["donor"].astype(str).value_counts().reindex(x.index)
    total = x.sum(axis=1)
    return np.log((x[genes] + 1).div(total, axis=0)), np.log(total / cells)


def test_training_donors_are_generated_with_their_own_expression_and_depth(fitted, donors):
    real, genes = donors
    made = vx.gen_exprs(fitted, 2_000, seed=0, progress=False).adata
    assert list(made.obs["donor"].cat.categories) == [f"d{i}" for i in range(8)]
    (real_genes, real_depth), (made_genes, made_depth) = (profile(a, genes) for a in (real, made))
    centred = [table - table.mean() for table in (real_genes, made_genes)]
    assert np.corrcoef(*(table.to_numpy().ravel() for table in centred))[0, 1] > 0.9
    assert np.corrcoef(real_depth, made_depth)[0, 1] > 0.9


def test_one_training_donor_can_be_requested(fitted):
    made = vx.gen_exprs(fitted, 30, covariates={"donor": "d3"}, progress=False).adata
    assert set(made.obs["donor"]) == {"d3"}
    table = pd.DataFrame({"donor": ["d1", "d2"], "cell_type": ["CD34+", "CD56+ NK"], "n": [5, 7]})
    made = vx.gen_exprs(fitted, conditions=table, progress=False).adata
    assert made.obs["donor"].value_counts().to_dict() | {} == {"d2": 7, "d1": 5} | {
        f"d{i}": 0 for i in (0, 3, 4, 5, 6, 7)
    }


def test_new_donors_vary_as_the_training_donors_do(fitted, donors):
    real, genes = donors
    made = vx.gen_exprs(fitted, 6_000, donors=60, seed=1, progress=False).adata
    names = [f"new_{i + 1}" for i in range(60)]
    assert sorted(made.obs["donor"].astype(str).unique()) == sorted(names)
    assert (made.obs["donor"].value_counts() == 100).all()
    (real_genes, real_depth), (made_genes, made_depth) = (profile(a, genes) for a in (real, made))
    assert 0.6 < np.median(made_genes.std() / real_genes.std()) < 1.4
    assert 0.6 < made_depth.std() / real_depth.std() < 1.5
    rest = np.setdiff1d(np.argsort(-real.X.sum(axis=0).A1)[:100], genes)
    assert profile(made, rest)[0].std().median() < 0.6 * made_genes.std().median()


def test_the_same_seed_gives_the_same_donors_and_cells(fitted):
    first, same, other = (
        vx.gen_exprs(fitted, 60, donors=3, seed=seed, progress=False).adata for seed in (5, 5, 6)
    )
    assert (first.X != same.X).nnz == 0
    assert (first.X != other.X).nnz > 0
    assert json.loads(first.uns["vaexprs"]["donors"]) == 3


def test_a_saved_fit_generates_the_same_donors(fitted, tmp_path):
    loaded = vx.load_vae(fitted.save(tmp_path / "model"))
    assert "donor (8)" in repr(loaded)
    assert json.loads((tmp_path / "model" / "meta.json").read_text())["format"] == 2
    for arguments in ({"donors": 4}, {"covariates": {"donor": "d2"}}):
        a, b = (vx.gen_exprs(fit, 40, **arguments, progress=False).adata for fit in (fitted, loaded))
        assert (a.X != b.X).nnz == 0


def test_labels_and_numbers_of_cells_hold_for_new_donors(fitted):
    made = vx.gen_exprs(fitted, labels={"CD34+": 7, "CD56+ NK": 5}, donors=3, progress=False).adata
    table = pd.crosstab(made.obs["donor"], made.obs["cell_type"])
    assert table.sum().loc[["CD34+", "CD56+ NK"]].tolist() == [7, 5]
    assert (table["CD34+"] >= 2).all()


@pytest.mark.slow
def test_covariates_constant_within_donors_are_constant_within_new_donors(donors):
    fit = vx.fit_vae(
        donors[0],
        label_key="cell_type",
        covariate_keys=["sex"],
        donor_key="donor",
        epochs=2,
        verbose=0,
    )
    made = vx.gen_exprs(fit, 400, donors={"f": 3, "m": 2}, progress=False).adata
    by_donor = made.obs.groupby("donor", observed=True)["sex"].agg(lambda sex: "".join(sorted(set(sex))))
    assert sorted(by_donor) == ["f", "f", "f", "m", "m"]
    made = vx.gen_exprs(fit, 200, donors=6, progress=False).adata
    assert (made.obs.groupby("donor", observed=True)["sex"].nunique() == 1).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"donor_key": "batch"}, "donor_key must be a column of obs"),
        ({"donor_key": "cell_type"}, "must not be the label"),
        ({"donor_key": "two"}, "at least 3 donors, got 2.*covariate_keys=\\['two'\\]"),
        ({"donor_key": "donor", "likelihood": "gaussian"}, "requires counts"),
        ({"donor_key": "donor", "privacy": vx.Privacy(3, 1e-5)}, "donor_key"),
    ],
)
def test_bad_donors_of_a_fit_are_refused(donors, arguments, message):
    cells = donors[0].copy()
    cells.obs["two"] = ["a", "b"] * (cells.n_obs // 2) + ["a"] * (cells.n_obs % 2)
    with pytest.raises(ValueError, match=message):
        vx.fit_vae(cells, label_key="cell_type", epochs=1, verbose=0, **arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"donors": 0}, ValueError, "donors must be"),
        ({"donors": 2.5}, TypeError, "donors must be"),
        ({"donors": 50}, ValueError, "at least one cell"),
        ({"donors": {"stim": 2}}, ValueError, "donors must be a number"),
        ({"donors": 2, "covariates": {"donor": "d1"}}, ValueError, "cannot be combined"),
        ({"covariates": {"donor": "d9"}}, ValueError, "one of the training donors.*donors=1"),
    ],
)
def test_bad_requests_of_donors_are_refused(fitted, arguments, error, message):
    with pytest.raises(error, match=message):
        vx.gen_exprs(fitted, 40, **arguments, progress=False)


def test_new_donors_need_a_fit_with_donors(conditional):
    with pytest.raises(ValueError, match="requires a fit with donor_key"):
        vx.gen_exprs(conditional, 40, donors=2, progress=False)


@pytest.mark.slow
def test_a_donor_has_one_value_of_a_continuous_covariate(donors, tmp_path):
    cells = donors[0].copy()
    cells.obs["age"] = 20.0 + 5 * cells.obs["donor"].str[1:].astype(int)
    cells.obs["time"] = np.random.default_rng(0).uniform(0, 1, cells.n_obs)
    fit = vx.fit_vae(
        cells,
        label_key="cell_type",
        donor_key="donor",
        continuous_keys=["age", "time"],
        epochs=2,
        verbose=0,
    )
    fit = vx.load_vae(fit.save(tmp_path / "model"))
    made = vx.gen_exprs(fit, 400, progress=False).adata
    assert (made.obs["age"] == 20 + 5 * made.obs["donor"].astype(str).str[1:].astype(int)).all()
    new = vx.gen_exprs(fit, 400, donors=10, progress=False).adata
    ages = new.obs.groupby("donor", observed=True)["age"]
    assert (ages.nunique() == 1).all()
    assert ages.first().nunique() > 2
    assert new.obs.groupby("donor", observed=True)["time"].nunique().min() > 10
    design = vx.Design({"young": 2, "old": 2}, cells=30, covariates={"old": {"age": 50}})
    study = vx.simulate(fit, design, progress=False)
    old = study.adata[study.adata.obs["group"] == "old"]
    assert set(old.obs["age"]) == {50.0}
    assert not study.truth["null"].any()
    with pytest.raises(ValueError, match="average donor"):
        vx.interpolate(fit, "CD34+", "CD56+ NK", 50, covariates={"donor": "d1"}, progress=False)
