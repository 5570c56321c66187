"""The number of latent dimensions follows from the cells."""

import numpy as np
import pandas as pd
import pytest

import vaexprs as vx
from vaexprs.preprocessing.conditions import learn_conditions
from vaexprs.preprocessing.prepare import Cells
from vaexprs.training.capacity import MAX_DIM, MIN_DIM, choose_capacity


def counts_with_factors(n_factors, n_cells=400, n_genes=300, strength=0.25, labels=1, seed=0):
    """Return counts whose log means within a label vary along this number of random directions."""
    rng = np.random.default_rng(seed)
    slopes = strength * rng.standard_normal((n_factors, n_genes)) if n_factors else np.zeros((0, n_genes))
    label = rng.integers(0, labels, n_cells)
    own = rng.normal(0, 1, (labels, n_genes))
    log_mean = 2 + own[label] + rng.standard_normal((n_cells, n_factors)) @ slopes
    x = rng.poisson(np.exp(np.minimum(log_mean, 6))).astype(np.float32)
    return x, pd.DataFrame({"label": label.astype(str)}, index=[f"cell{i}" for i in range(n_cells)])


def capacity_of(x, obs, seed=0, counts=True):
    return choose_capacity(Cells(x, obs), learn_conditions(obs, "label", []), counts, seed)


@pytest.mark.parametrize("n_factors", [3, 12, 25])
def test_counts_the_factors_of_simulated_cells(n_factors):
    found = capacity_of(*counts_with_factors(n_factors, n_cells=800, labels=2))
    assert abs(found.components - n_factors) <= 1
    assert found.latent_dim == max(found.components, MIN_DIM)


def test_noise_and_differences_between_labels_are_not_counted():
    x, obs = counts_with_factors(0, labels=4)
    assert capacity_of(x, obs).components <= 1
    assert capacity_of(x, obs).latent_dim == MIN_DIM
    alone = obs.assign(label="all")
    alone.loc[alone.index[0], "label"] = "one"
    assert capacity_of(x, alone).components >= 3


def test_the_same_seed_finds_the_same_and_the_limits_hold():
    x, obs = counts_with_factors(90, n_cells=600, n_genes=400)
    first = capacity_of(x, obs, seed=3)
    assert capacity_of(x, obs, seed=3) == first
    assert first.latent_dim <= MAX_DIM
    assert str(first.components) in first.reason


def test_few_cells_and_constant_genes():
    x, obs = counts_with_factors(0, n_cells=3, n_genes=5)
    assert capacity_of(x, obs).latent_dim == MIN_DIM
    assert capacity_of(np.ones((4, 6), np.float32), obs.reindex(list("abcd"), fill_value="0")).components == 0


def test_a_fit_uses_and_records_the_choice(tmp_path):
    x, obs = counts_with_factors(14, n_cells=500, labels=2)
    fit = vx.fit_vae(x_train=x, y_train=obs["label"].to_numpy(), epochs=1, verbose=0)
    assert 12 <= fit.latent_dim <= 15
    reason = fit.recipe["choices"]["latent_dim"]
    assert "above noise" in reason
    assert reason in repr(fit)
    fit.save(tmp_path / "model")
    assert reason in repr(vx.load_vae(tmp_path / "model"))


def test_a_given_number_is_not_replaced():
    x, obs = counts_with_factors(14, labels=2)
    fit = vx.fit_vae(x_train=x, y_train=obs["label"].to_numpy(), latent_dim=4, epochs=1, verbose=0)
    assert fit.latent_dim == 4
    assert "choices" not in fit.recipe
