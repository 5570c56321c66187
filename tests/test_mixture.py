"""Gaussian mixtures against scikit-learn, scipy.stats and their own moments."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.datasets import load_iris
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import scale
from threadpoolctl import threadpool_limits

from vaexprs.mixture import FLOOR, MODELS, Mixture, Selection, n_parameters, select_mixture

N = 50_000
each_model = pytest.mark.parametrize("model", MODELS)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Matrices as small as these wait longer for several threads than they compute."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module")
def iris():
    """150 flowers x 4 lengths, standardised."""
    return scale(load_iris().data)


@pytest.fixture(scope="module")
def clusters():
    """300 points around three well separated centres in a plane, and which is whose."""
    rng = np.random.default_rng(0)
    centres = np.array([[-2.0, 0.0], [1.0, 1.5], [1.5, -1.5]])
    member = rng.integers(0, 3, 300)
    return centres[member] + 0.2 * rng.standard_normal((300, 2)), member


@pytest.fixture(scope="module")
def mixture():
    covariances = np.array([[[1.0, 0.6], [0.6, 2.0]], [[0.5, -0.2], [-0.2, 0.3]]])
    return Mixture(np.array([0.3, 0.7]), np.array([[-3.0, 1.0], [2.0, 0.0]]), covariances, "VVV")


def sklearn_mixture(x, model, components, seed=0):
    em = GaussianMixture(
        components, covariance_type=MODELS[model], reg_covar=FLOOR, random_state=seed, max_iter=200
    )
    return em.fit(x)


# ---- Mixture


@each_model
@pytest.mark.parametrize("components", [1, 3])
def test_log_prob_is_that_of_scikit_learn(iris, model, components):
    best = select_mixture(iris, components=[components], models=[model]).best
    expected = sklearn_mixture(iris, model, components).score_samples(iris)
    np.testing.assert_allclose(best.log_prob(iris), expected, rtol=1e-9)
    assert (best.model, best.n_components) == (model, components)
    assert best.covariances.shape == (components, 4, 4)


def test_log_prob_is_that_of_scipy(mixture):
    x = np.random.default_rng(0).normal(0, 4, (100, 2))
    parts = [
        w * stats.multivariate_normal(m, c).pdf(x)
        for w, m, c in zip(mixture.weights, mixture.means, mixture.covariances, strict=True)
    ]
    np.testing.assert_allclose(mixture.log_prob(x), np.log(sum(parts)), rtol=1e-9)


def test_log_prob_is_finite_far_away(mixture):
    assert -1e7 < mixture.log_prob(np.array([[2000.0, 0.0]]))[0] < -1e6


def test_density_integrates_to_one(mixture):
    step = 0.05
    grid = np.stack(np.meshgrid(np.arange(-12, 12, step), np.arange(-12, 12, step)), axis=-1).reshape(-1, 2)
    assert np.exp(mixture.log_prob(grid)).sum() * step**2 == pytest.approx(1, abs=1e-6)


def test_draws_have_the_mean_and_covariance_of_the_mixture(mixture):
    x = mixture.sample(N, np.random.default_rng(0))
    assert x.shape == (N, 2)
    mean = mixture.weights @ mixture.means
    away = mixture.means - mean
    covariance = np.einsum(
        "k,kij->ij", mixture.weights, mixture.covariances + np.einsum("ki,kj->kij", away, away)
    )
    products = np.einsum("ni,nj->nij", x - mean, x - mean)
    assert (np.abs(x.mean(axis=0) - mean) < 5 * x.std(axis=0) / np.sqrt(N)).all()
    assert (np.abs(products.mean(axis=0) - covariance) < 5 * products.std(axis=0) / np.sqrt(N)).all()


def test_draws_follow_the_distribution_of_each_dimension(mixture):
    x = mixture.sample(5000, np.random.default_rng(1))
    for j in range(2):
        sd = np.sqrt(mixture.covariances[:, j, j])

        def cdf(value, j=j, sd=sd):
            return stats.norm.cdf(np.subtract.outer(value, mixture.means[:, j]) / sd) @ mixture.weights

        assert stats.kstest(x[:, j], cdf).pvalue > 1e-4


def test_components_of_draws_are_in_proportion_and_shuffled(mixture):
    apart = Mixture(mixture.weights, mixture.means * 100, mixture.covariances, "VVV")
    second = apart.sample(N, np.random.default_rng(2))[:, 0] > 0
    p = 0.7
    assert abs(second.mean() - p) < 5 * np.sqrt(p * (1 - p) / N)
    changes, expected = (second[1:] != second[:-1]).mean(), 2 * p * (1 - p)
    assert abs(changes - expected) < 5 * np.sqrt(expected * (1 - expected) / N) * 2


def test_draws_are_those_of_the_seed(mixture):
    first, again, other = (mixture.sample(10, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()


def test_transform_chooses_the_component_by_the_uniform_number(mixture):
    uniform = np.array([0.0, 0.2999, 0.3, 0.5, np.nextafter(1, 0)])
    np.testing.assert_array_equal(
        mixture.transform(uniform, np.zeros((5, 2))), mixture.means[[0, 0, 1, 1, 1]]
    )


def test_transform_is_the_same_for_the_same_numbers_in_any_company(mixture):
    rng = np.random.default_rng(0)
    uniform, normal = rng.random(20), rng.standard_normal((20, 2))
    together = mixture.transform(uniform, normal)
    np.testing.assert_array_equal(together, mixture.transform(uniform, normal))
    np.testing.assert_array_equal(together[5:9], mixture.transform(uniform[5:9], normal[5:9]))


def test_transform_gives_normal_numbers_the_covariance_of_the_component(mixture):
    factor = mixture.transform(np.full(2, 0.9), np.eye(2)) - mixture.means[1]
    np.testing.assert_allclose(factor.T @ factor, mixture.covariances[1], atol=1e-12)


def test_mixture_in_one_dimension():
    mixture = Mixture(np.ones(1), np.array([[2.0]]), np.array([[[9.0]]]), "VII")
    np.testing.assert_allclose(mixture.log_prob(np.array([[5.0]])), stats.norm(2, 3).logpdf(5))
    np.testing.assert_allclose(mixture.transform(np.array([0.5]), np.array([[-1.0]])), [[-1.0]])


def test_covariance_that_is_not_positive_definite_is_refused():
    with pytest.raises(np.linalg.LinAlgError, match="positive definite"):
        Mixture(np.ones(1), np.zeros((1, 2)), np.array([[[1.0, 2.0], [2.0, 1.0]]]), "VVV")


# ---- BIC


@each_model
@pytest.mark.parametrize("components", [1, 2, 4])
def test_bic_is_that_of_scikit_learn(iris, model, components):
    row = select_mixture(iris, components=[components], models=[model]).table.iloc[0]
    em = sklearn_mixture(iris, model, components)
    assert row["bic"] == pytest.approx(em.bic(iris))
    assert row["log_likelihood"] == pytest.approx(em.score(iris) * 150)


@each_model
@pytest.mark.parametrize("components", [1, 2, 4])
def test_number_of_parameters_is_that_in_scikit_learns_bic(iris, model, components):
    em = sklearn_mixture(iris, model, components)
    counted = (em.bic(iris) + 2 * em.score(iris) * 150) / np.log(150)
    assert n_parameters(model, components, 4) == pytest.approx(counted)


@pytest.mark.parametrize(("model", "covariances"), [("VII", 2), ("VVI", 6), ("EEE", 6), ("VVV", 12)])
def test_parameters_are_covariances_means_and_all_weights_but_one(model, covariances):
    assert n_parameters(model, components=2, d=3) == covariances + 2 * 3 + 1


# ---- select_mixture


@pytest.mark.parametrize("seed", range(2))
def test_three_well_separated_clusters_are_found(clusters, seed):
    x, member = clusters
    chosen = select_mixture(x, components=range(1, 6), seed=seed)
    best = chosen.best
    assert best.n_components == 3
    densities = [
        Mixture(np.ones(1), best.means[[k]], best.covariances[[k]], best.model).log_prob(x) for k in range(3)
    ]
    assert adjusted_rand_score(member, np.argmax(densities, axis=0)) == 1.0
    np.testing.assert_allclose(np.sort(best.weights), np.sort(np.bincount(member) / 300), atol=1e-6)


def test_best_is_the_row_with_the_smallest_bic(iris):
    chosen = select_mixture(iris, components=range(1, 4))
    row = chosen.table.loc[chosen.table["bic"].idxmin()]
    assert (chosen.best.model, chosen.best.n_components) == (row["model"], row["components"])
    assert chosen.bic == row["bic"] == chosen.table["bic"].min()
    assert list(chosen.table.columns) == ["model", "components", "parameters", "log_likelihood", "bic"]


def test_selection_reports_the_smallest_bic(mixture):
    assert Selection(mixture, pd.DataFrame({"bic": [3.0, -1.0, 2.0]})).bic == -1.0


def test_spherical_points_need_one_spherical_component():
    x = np.random.default_rng(0).standard_normal((150, 3))
    best = select_mixture(x, components=[1, 2]).best
    assert (best.model, best.n_components) == ("VII", 1)


def test_correlated_points_need_a_full_covariance():
    x = np.random.default_rng(0).multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], 400)
    best = select_mixture(x, components=[1], models=["VII", "VVI", "VVV"]).best
    assert best.model == "VVV"
    np.testing.assert_allclose(best.covariances[0], np.cov(x.T, bias=True) + FLOOR * np.eye(2), atol=1e-9)


def test_number_of_components_grows_until_bic_got_worse_twice(clusters):
    table = select_mixture(clusters[0], components=range(1, 10)).table
    for _, rows in table.groupby("model"):
        bic = rows["bic"].to_numpy()
        worse = bic[1:] >= np.minimum.accumulate(bic)[:-1]
        assert len(bic) < 9
        assert worse[-2:].all()
        assert not (worse[:-1] & worse[1:])[:-1].any()


def test_only_the_models_asked_for_are_fitted(iris):
    table = select_mixture(iris, components=[2], models=["VVI", "EEE"]).table
    assert list(table["model"]) == ["VVI", "EEE"]
    assert list(table["components"]) == [2, 2]


def test_likelihood_counts_for_the_number_of_independent_observations(iris):
    whole = select_mixture(iris, components=[2]).table
    fewer = select_mixture(iris, components=[2], n_independent=30).table
    np.testing.assert_allclose(fewer["log_likelihood"], whole["log_likelihood"] * 30 / 150)
    expected = -2 * fewer["log_likelihood"] + fewer["parameters"] * np.log(30)
    np.testing.assert_allclose(fewer["bic"], expected)
    pd.testing.assert_frame_equal(select_mixture(iris, components=[2], n_independent=150).table, whole)


def test_repeated_points_do_not_make_more_components():
    """Six points, each repeated fifty times with noise, are six observations and no six clusters."""
    rng = np.random.default_rng(0)
    x = np.repeat(rng.standard_normal((6, 2)), 50, axis=0) + 0.05 * rng.standard_normal((300, 2))
    told = select_mixture(x, components=range(1, 7), models=["VVI", "EEE"], n_independent=6).best
    untold = select_mixture(x, components=range(1, 7), models=["VVI", "EEE"]).best
    assert told.n_components < untold.n_components == 6


def test_selection_is_that_of_its_seed(iris):
    first, again = (select_mixture(iris, components=[3], seed=4) for _ in range(2))
    pd.testing.assert_frame_equal(first.table, again.table)
    np.testing.assert_array_equal(first.best.means, again.best.means)


def test_points_all_alike_have_a_density_of_the_floor():
    best = select_mixture(np.ones((20, 2)), components=[1, 2]).best
    assert best.n_components == 1
    np.testing.assert_allclose(best.covariances[0], FLOOR * np.eye(2), rtol=1e-6)
