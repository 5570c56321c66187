"""Effects of continuous covariates on the latent density, and the values that it samples."""

import numpy as np
import pandas as pd
import pytest

from vaexprs.latent.continuous import fit_effects
from vaexprs.latent.density import LatentDensity, fit_density
from vaexprs.preprocessing.conditions import Conditions
from vaexprs.preprocessing.splines import Spline


def data(n=600, slopes=(1.0, -1.0), seed=0):
    """Two types with a different slope of the first latent dimension on age."""
    rng = np.random.default_rng(seed)
    kind, age = rng.integers(0, 2, n), rng.uniform(20, 80, n)
    spline = Spline.fit(age, 1)
    basis = spline.basis(age)
    mean = 0.1 * rng.standard_normal((n, 3)) + 3 * kind[:, None]
    mean[:, 0] += np.array(slopes)[kind] * basis[:, 0]
    obs = pd.DataFrame({"type": np.array(["B", "T"])[kind], "age": age})
    return mean, obs, Conditions("type", {"type": ("B", "T")}, {"age": spline})


@pytest.fixture(scope="module")
def density():
    mean, obs, conditions = data(3000)
    library = np.log(1000) + 0.5 * conditions.basis(obs)[:, 0]
    return fit_density(mean, np.full(mean.shape, 0.1), library, obs, conditions, seed=0)


def test_slopes_of_each_condition_are_recovered(density):
    assert density.continuous.slopes.shape == (3, 1, 4)
    own = [density.slopes({"type": kind})[0] for kind in ("B", "T")]
    assert own[0][0] == pytest.approx(1, abs=0.15)
    assert own[1][0] == pytest.approx(-1, abs=0.15)
    np.testing.assert_allclose([s[3] for s in own], 0.5, atol=0.02)
    np.testing.assert_allclose(density.continuous.slopes[2, 0], density.slopes({"type": "unseen"})[0])


def test_mixtures_describe_the_cells_at_the_mean_of_the_basis(density):
    for kind, centre in (("B", 0), ("T", 3)):
        mixture = density.mixture({"type": kind})
        np.testing.assert_allclose(mixture.weights @ mixture.means[:, :3], centre, atol=0.1)
        middle = mixture.weights @ mixture.means
        spread = np.einsum("k,kdd->d", mixture.weights, mixture.covariances)
        spread += mixture.weights @ (mixture.means - middle) ** 2
        assert spread[0] < 0.15  # 1 with the effect of age


def test_own_slopes_of_few_cells_are_shrunken():
    mean, obs, conditions = data(slopes=(0.0, 1.0))
    rows = np.r_[np.flatnonzero(obs["type"] == "B"), np.flatnonzero(obs["type"] == "T")[:10]]
    groups = [np.arange((obs["type"] == "B").sum()), np.arange((obs["type"] == "B").sum(), len(rows))]
    effects = fit_effects(
        mean[rows], conditions.basis(obs)[rows], obs["age"].to_numpy()[rows, None], [1], groups
    )
    assert abs(effects.slopes[0, 0, 0]) < 0.05
    assert 0 < effects.slopes[1, 0, 0] < 0.3


def test_slopes_on_a_value_of_donors_are_shrunken_by_their_number():
    age = np.linspace(-1.5, 1.5, 10)[np.repeat(np.arange(10), 100)][:, None]
    by_donor = fit_effects(2 * age, age, age, [1], [np.arange(1000)])
    by_cell = fit_effects(2 * age, age, age + 1e-9 * np.arange(1000)[:, None], [1], [np.arange(1000)])
    assert by_donor.slopes[1, 0, 0] == pytest.approx(2 * 0.48, abs=0.05)  # 10 donors, a prior of 10
    assert by_cell.slopes[1, 0, 0] == pytest.approx(2, abs=0.05)
    dose = np.tile([-1.0, 0.0, 1.0], 300)[:, None]
    assert fit_effects(dose, dose, dose, [1], [np.arange(900)]).slopes[0, 0, 0] == pytest.approx(1, abs=0.05)


def test_sampled_values_have_the_distribution_of_the_group():
    rng = np.random.default_rng(0)
    values = np.c_[np.r_[rng.normal(30, 5, 500), rng.normal(60, 5, 500)], rng.choice([0.0, 1.0, 10.0], 1000)]
    groups = [np.arange(500), np.arange(500, 1000)]
    effects = fit_effects(values, values, values, [1, 1], groups)
    assert effects.discrete.tolist() == [0, 1]
    group = np.repeat([0, 1, 2], 2000)
    drawn = effects.draw(group, np.full((6000, 2), np.nan), np.random.default_rng(1))
    assert drawn[group == 0, 0].mean() == pytest.approx(30, abs=1)
    assert drawn[group == 1, 0].mean() == pytest.approx(60, abs=1)
    assert drawn[group == 2, 0].std() == pytest.approx(values[:, 0].std(), rel=0.05)
    assert set(drawn[:, 1]) == {0.0, 1.0, 10.0}
    share = [(drawn[group == 2, 1] == dose).mean() for dose in (0, 1, 10)]
    np.testing.assert_allclose(share, 1 / 3, atol=0.06)


def test_sampled_values_are_correlated_and_follow_requested_ones():
    rng = np.random.default_rng(0)
    values = rng.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], 2000)
    effects = fit_effects(values, values, values, [1, 1], [np.arange(2000)])
    group = np.zeros(4000, int)
    requested = np.full((4000, 2), np.nan)
    drawn = effects.draw(group, requested, np.random.default_rng(1))
    assert np.corrcoef(drawn.T)[0, 1] == pytest.approx(0.8, abs=0.05)
    requested[:2000, 0] = 1.5
    drawn = effects.draw(group, requested, np.random.default_rng(1))
    assert (drawn[:2000, 0] == 1.5).all()
    assert drawn[:2000, 1].mean() == pytest.approx(1.2, abs=0.1)
    requested[:] = [1.0, 2.0]
    np.testing.assert_array_equal(effects.draw(group, requested, np.random.default_rng(1)), requested)


def test_equal_values_in_a_group_are_no_correlation():
    values = np.c_[np.repeat([1.0, 2.0, 3.0], 10), np.arange(30.0)]
    groups = [np.arange(10), np.arange(10, 20), np.arange(20, 30)]
    effects = fit_effects(values, values, values, [1, 1], groups)
    np.testing.assert_array_equal(effects.correlation, np.eye(2))
    np.testing.assert_allclose(effects.slopes[:, 0], 0, atol=1e-9)


def test_arrays_give_the_same_density(density):
    loaded = LatentDensity.from_arrays(density.to_arrays(), density.conditions)
    for name, part in vars(density.continuous).items():
        np.testing.assert_array_equal(getattr(loaded.continuous, name), part)


def test_density_without_continuous_covariates_has_no_new_arrays():
    mean, obs, conditions = data()
    plain = Conditions("type", conditions.levels)
    density = fit_density(mean, np.full(mean.shape, 0.1), None, obs, plain, seed=0)
    assert density.continuous is None
    assert not {"slopes", "quantiles", "correlation", "discrete"} & density.to_arrays().keys()
