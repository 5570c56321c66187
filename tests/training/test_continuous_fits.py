"""Fits with continuous covariates."""

import numpy as np
import pytest

import vaexprs as vx
from vaexprs.io import stores
from vaexprs.preprocessing.conditions import Conditions
from vaexprs.training.capacity import with_continuous


@pytest.fixture(scope="module")
def aged(few):
    cells = few.copy()
    cells.obs["age"] = np.random.default_rng(0).integers(20, 80, cells.n_obs).astype(str)
    return cells


def quick(*args, **kwargs):
    return vx.fit_vae(*args, **({"epochs": 2, "verbose": 0, "continuous_keys": ["age"]} | kwargs))


def test_cells_on_disk(aged, tmp_path, monkeypatch):
    aged.write_h5ad(tmp_path / "aged.h5ad")
    monkeypatch.setattr(stores, "IN_MEMORY", 0)
    on_disk = quick(tmp_path / "aged.h5ad", label_key="cell_type")
    in_memory = quick(aged, label_key="cell_type")
    assert on_disk.preprocessing.conditions == in_memory.preprocessing.conditions
    assert vx.gen_exprs(on_disk, 10, covariates={"age": 30}).adata.obs["age"].tolist() == [30] * 10


def test_validation_cells_and_other_likelihoods(aged):
    for likelihood in ("gaussian", "bernoulli"):
        fit = quick(aged, likelihood=likelihood, validation_split=0.2)
        assert fit.preprocessing.val.obs["age"].dtype == np.float64
        assert fit.preprocessing.y_val.shape == (24, fit.preprocessing.conditions.width)
        assert np.isfinite(vx.gen_exprs(fit, 10, covariates={"age": 30}).adata.X).all()


def test_an_earlier_preprocessing_keeps_its_splines(aged):
    fit = quick(aged, label_key="cell_type")
    again = vx.fit_vae(aged[:60], preprocessing=fit.preprocessing, epochs=1, verbose=0)
    assert again.preprocessing.conditions == fit.preprocessing.conditions


def test_the_recipe_names_the_covariates(aged):
    fit = quick(aged)
    assert fit.recipe["arguments"]["continuous_keys"] == ["age"]
    assert "conditions: age (" in repr(fit)


def test_a_value_that_another_covariate_determines_raises_a_warning(aged):
    obs = aged.obs.assign(donor=[f"d{i % 4}" for i in range(120)])
    age = np.array([30.0, 40.0, 50.0, 70.0])[np.arange(120) % 4]
    known = Conditions(None, {"donor": ("d0", "d1", "d2", "d3")})
    with pytest.warns(UserWarning, match="'age' has one value within each combination of donor"):
        with_continuous(known, {"age": age}, obs, aged.X, True, 0)


def test_the_degrees_of_freedom_do_not_depend_on_rare_values_of_unused_cells(few, monkeypatch):
    """A subset of the cells may have fewer distinct values."""
    monkeypatch.setattr("vaexprs.training.capacity.MAX_CELLS", 20)
    dose = np.r_[np.zeros(118), 1.0, 2.0]
    found = with_continuous(Conditions(None, {}), {"dose": dose}, few.obs, few.X, True, 0)
    assert found.continuous["dose"].degrees == 1
