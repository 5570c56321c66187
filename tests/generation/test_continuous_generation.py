"""Cells at requested values of continuous covariates."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import vaexprs as vx
from vaexprs.generation.again import draw_again
from vaexprs.generation.continuous import split_values
from vaexprs.generation.sampler import BLOCK, CellSampler, Plan, draw_part


@pytest.fixture(scope="module")
def aged(few):
    """The cells with an age, a dose stored as text, and a score that is correlated with the age."""
    rng = np.random.default_rng(0)
    cells = few.copy()
    cells.obs["age"] = rng.integers(20, 80, cells.n_obs)
    cells.obs["dose"] = rng.choice(["0", "1", "10"], cells.n_obs)
    cells.obs["score"] = cells.obs["age"] / 10 + rng.random(cells.n_obs)
    return cells


@pytest.fixture(scope="module")
def fit(aged):
    return vx.fit_vae(
        aged,
        label_key="cell_type",
        covariate_keys=["phase"],
        continuous_keys=["age", "dose"],
        epochs=3,
        seed=1,
        verbose=0,
    )


@pytest.fixture(scope="module")
def alone(aged):
    """A fit without label and levels."""
    return vx.fit_vae(aged, continuous_keys="age", epochs=2, verbose=0)


def generate(fit, n=60, **arguments):
    return vx.gen_exprs(fit, n, progress=False, **arguments).adata


def same(a, b):
    return (a.X != b.X).nnz == 0 and a.obs.equals(b.obs)


def test_requested_values_of_any_type_give_the_same_cells(fit):
    cells = generate(fit, covariates={"age": 40})
    assert cells.obs["age"].dtype == np.float64
    assert (cells.obs["age"] == 40).all()
    assert set(cells.obs["dose"]) <= {0.0, 1.0, 10.0}
    assert list(cells.obs) == ["cell_type", "phase", "age", "dose"]
    for value in (40.0, np.float32(40), np.int64(40), "40", "4e1"):
        assert same(cells, generate(fit, covariates={"age": value}))
    assert not same(cells, generate(fit, covariates={"age": 41}))


def test_values_that_are_not_requested_follow_the_training_cells(fit, aged):
    cells = generate(fit, 4000)
    assert cells.obs["age"].mean() == pytest.approx(aged.obs["age"].mean(), abs=3)
    assert cells.obs["age"].std() == pytest.approx(aged.obs["age"].std(), rel=0.1)
    share = cells.obs["dose"].value_counts(normalize=True)
    expected = aged.obs["dose"].astype(float).value_counts(normalize=True)
    np.testing.assert_allclose(share[[0, 1, 10]], expected[[0, 1, 10]], atol=0.07)


def test_tables_request_levels_and_values_in_each_row(fit):
    table = pd.DataFrame({"n": [3, 2, 1], "cell_type": ["Dendritic", None, None], "age": [30, None, "55.5"]})
    obs = generate(fit, None, conditions=table).obs
    assert obs["age"].tolist()[:3] == [30, 30, 30]
    assert obs["age"].iloc[5] == 55.5
    assert (obs["cell_type"][:3] == "Dendritic").all()
    assert obs.notna().all().all()


def test_cells_do_not_depend_on_the_batch_size(fit):
    whole = generate(fit, 3 * BLOCK + 10, seed=3)
    parts = generate(fit, 3 * BLOCK + 10, seed=3, use_generator=True, batch_size=1)
    assert same(whole, parts)


def test_parts_of_a_plan_give_the_same_cells(fit):
    rows, which, values = split_values(fit, [{"cell_type": "Dendritic", "phase": "S"}], np.zeros(600, int), 5)
    plan = Plan(rows, which, None, 5, continuous=values)
    whole = draw_part(fit, plan)
    assert (sp.vstack([draw_part(fit, part) for part in plan.parts(1)]) != whole).nnz == 0
    sampler = CellSampler.of(fit, plan)
    assert (sampler.block(plan, 1) != whole[BLOCK : 2 * BLOCK]).nnz == 0


def test_values_beyond_the_range_are_allowed_with_a_warning(fit, aged):
    low, high = aged.obs["age"].min(), aged.obs["age"].max()
    with pytest.warns(UserWarning, match=f"age = 120 is outside the range .* {low} to {high}, beyond"):
        assert (generate(fit, covariates={"age": 120}).obs["age"] == 120).all()
    with pytest.warns(UserWarning, match="age = -5 is outside"):
        vx.transform(fit, aged[:2], age=-5)


def test_requests_that_cannot_be_met_are_refused(fit, aged):
    with pytest.raises(ValueError, match="age must be a finite number, got 'old'"):
        generate(fit, covariates={"age": "old"})
    with pytest.raises(ValueError, match="covariates must name covariates .*'phase', 'age', 'dose'.*'ages'"):
        generate(fit, covariates={"ages": 40})
    with pytest.raises(ValueError, match="columns of conditions must be 'n' .*Did you mean 'age'"):
        generate(fit, None, conditions=[{"n": 1, "Age": 3}])
    with pytest.raises(ValueError, match="age must be a finite number"):
        vx.transform(fit, aged, age=np.nan)
    with pytest.raises(ValueError, match="'age' must have a value in every cell"):
        vx.transform(fit, ad.AnnData(aged.X, aged.obs.assign(age=np.nan), aged.var), phase="S")


def test_a_saved_fit_generates_the_same_cells(fit, alone, tmp_path):
    for name, one in (("both", fit), ("alone", alone)):
        one.save(tmp_path / name)
        loaded = vx.load_vae(tmp_path / name)
        assert same(generate(one, seed=2), generate(loaded, seed=2))
        assert json.loads((tmp_path / name / "meta.json").read_text())["format"] == 2
        assert loaded.preprocessing.conditions == one.preprocessing.conditions


def test_transformed_cells_have_the_new_value(fit, aged):
    cells = vx.transform(fit, aged, {"age": "70"}, phase="S")
    assert (cells.obs["age"] == 70).all()
    assert (cells.obs["phase"] == "S").all()
    assert cells.obs["dose"].tolist() == aged.obs["dose"].tolist()
    assert json.loads(cells.uns["vaexprs"]["transformed_to"]) == {"age": 70.0, "phase": "S"}


def test_cells_between_labels_have_values(fit):
    cells = vx.interpolate(fit, "Dendritic", "CD56+ NK", 30, steps=3, covariates={"dose": 1})
    assert (cells.obs["dose"] == 1).all()
    assert cells.obs["age"].between(20, 80).all()
    assert list(cells.obs) == ["position", "phase", "age", "dose"]


def test_augmented_cells_have_values(fit, aged):
    both = vx.augment(aged, "cell_type", to=33, fit=fit, progress=False)
    assert both.obs.loc[both.obs["group"] == "generated", "age"].between(20, 80).all()
    fitted = vx.augment(
        aged, "cell_type", to=31, progress=False, continuous_keys=["age"], epochs=1, verbose=0
    )
    assert fitted.n_obs == 124


def test_a_second_set_has_the_values_of_the_first(fit):
    cells = generate(fit, 50, covariates={"age": 40})
    again = draw_again(fit, cells, cells.uns["vaexprs"], 0)
    keys = list(cells.obs)
    assert sorted(map(tuple, again.obs[keys].astype(str).to_numpy())) == sorted(
        map(tuple, cells.obs[keys].astype(str).to_numpy())
    )
    assert (again.X != cells.X).nnz


def test_joined_cells_keep_numbers(fit, aged):
    joined = vx.gen_exprs(fit, 20, progress=False).to_anndata(real=True)
    assert joined.obs["age"].dtype == np.float64
    assert joined.obs["age"].iloc[0] == aged.obs["age"].iloc[0]
    assert joined.obs["phase"].dtype == "category"


def test_a_fit_without_levels(alone, aged):
    assert generate(alone, 5, covariates={"age": 30}).obs["age"].tolist() == [30] * 5
    assert (vx.transform(alone, aged[:4], age=50).obs["age"] == 50).all()
    assert "age (" in repr(alone)
    assert "Continuous covariates: age" in alone._repr_html_()
    again = draw_again(alone, generate(alone, 7), {}, 0)
    assert again.n_obs == 7


def test_correlated_covariates(aged):
    fit = vx.fit_vae(aged, continuous_keys=["age", "score"], epochs=1, verbose=0)
    obs = generate(fit, 3000).obs
    assert obs.corr().iloc[0, 1] > 0.9
    assert generate(fit, 500, covariates={"age": 75}).obs["score"].mean() == pytest.approx(8, abs=0.5)


def test_fits_without_continuous_covariates_record_none(conditional, tmp_path):
    conditional.save(tmp_path / "model")
    meta = json.loads((tmp_path / "model" / "meta.json").read_text())
    assert meta["format"] == 1
    assert "continuous" not in meta
    assert "continuous_keys" not in generate(conditional, 5).uns["vaexprs"]
    assert "n_basis" not in conditional.model.get_layer("output").get_config()


def planted(cells, curve, n=40, seed=0):
    """Return cells whose counts of `n` genes are scaled by exp(slope * curve), with the slopes."""
    rng = np.random.default_rng(seed)
    time = rng.random(cells.n_obs)
    x = np.asarray(cells.X.todense(), float)
    genes = np.argsort(-x.mean(axis=0))[5 : 5 + n]
    slope = rng.uniform(-1.5, 1.5, n)
    x[:, genes] = rng.poisson(x[:, genes] * np.exp(curve(time)[:, None] * slope))
    obs = cells.obs.assign(pseudotime=time)
    return ad.AnnData(sp.csr_matrix(x.astype(np.float32)), obs, cells.var), genes, slope


@pytest.mark.slow
@pytest.mark.parametrize("curve", [lambda t: t, lambda t: np.sin(np.pi * t)], ids=["line", "peak"])
def test_a_planted_trend_is_recovered(cells, curve):
    """Log means of cells at ten requested values have the planted slopes."""
    cells, genes, slope = planted(cells, curve)
    fit = vx.fit_vae(cells, label_key="cell_type", continuous_keys=["pseudotime"], verbose=0)
    times = np.arange(0.05, 1, 0.1)
    table = pd.DataFrame({"n": 400, "pseudotime": times})
    made = generate(fit, None, conditions=table)
    at = made.obs["pseudotime"].to_numpy()
    sums = np.stack([np.ravel(made.X[np.isclose(at, time)].sum(axis=0)) for time in times])
    log_share = np.log(sums[:, genes] / sums.sum(axis=1, keepdims=True))
    x = curve(times) - curve(times).mean()
    recovered = x @ log_share / (x @ x)
    assert np.corrcoef(recovered, slope)[0, 1] > 0.95
    assert np.polyfit(slope, recovered, 1)[0] == pytest.approx(1, abs=0.15)
