"""Gaussian mixtures against mclust, scikit-learn, scipy.stats and what mathematics says of them."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from scipy.stats import ortho_group
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture as Reference
from sklearn.preprocessing import scale
from sklearn.utils.estimator_checks import parametrize_with_checks
from threadpoolctl import threadpool_limits

from layers import spread
from vaexprs.mixture.covariances import FULL, n_parameters
from vaexprs.mixture.em import MODELS, Mixture, SingularFitError
from vaexprs.mixture.gaussian_mixture import GaussianMixture, Starts
from vaexprs.mixture.hierarchical import cut, merge_tree, svd_scaled
from vaexprs.mixture.selection import select_mixture

N = 50_000
MCLUST = np.load(Path(__file__).parents[1] / "reference" / "mclust.npz", allow_pickle=False)
SETS = sorted({name.split("/")[0] for name in MCLUST.files})
SKLEARN = {"VII": "spherical", "VVI": "diag", "EEE": "tied", "VVV": "full"}
ROTATE = ("EII", "VII", *FULL)  # models that do not ask where the coordinates point
each_model = pytest.mark.parametrize("model", spread(MODELS, 4))


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


# ---- Mixture


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


def test_transform_does_not_depend_on_other_points(mixture):
    rng = np.random.default_rng(0)
    uniform, normal = rng.random(20), rng.standard_normal((20, 2))
    together = mixture.transform(uniform, normal)
    np.testing.assert_array_equal(together, mixture.transform(uniform, normal))
    np.testing.assert_array_equal(together[5:9], mixture.transform(uniform[5:9], normal[5:9]))


def test_transform_gives_normal_numbers_the_covariance_of_the_component(mixture):
    factor = mixture.transform(np.full(2, 0.9), np.eye(2)) - mixture.means[1]
    np.testing.assert_allclose(factor.T @ factor, mixture.covariances[1], atol=1e-12)


def test_mixture_has_as_many_components_as_it_has_and_cannot_be_changed():
    two = Mixture(np.full(2, 0.5), np.zeros((2, 3)), np.stack([np.eye(3)] * 2), "EII")
    assert two.sample(4, np.random.default_rng(0)).shape == (4, 3)
    assert two.n_components == 2
    with pytest.raises(FrozenInstanceError):
        two.weights = np.ones(2)
    with pytest.raises(FrozenInstanceError):
        select_mixture(np.eye(2), components=[1], models=["EII"]).best = None


def test_mixture_in_one_dimension():
    mixture = Mixture(np.ones(1), np.array([[2.0]]), np.array([[[9.0]]]), "VII")
    np.testing.assert_allclose(mixture.log_prob(np.array([[5.0]])), stats.norm(2, 3).logpdf(5))
    np.testing.assert_allclose(mixture.transform(np.array([0.5]), np.array([[-1.0]])), [[-1.0]])


def test_covariance_that_is_not_positive_definite_is_refused():
    with pytest.raises(np.linalg.LinAlgError, match="positive definite"):
        Mixture(np.ones(1), np.zeros((1, 2)), np.array([[[1.0, 2.0], [2.0, 1.0]]]), "VVV")


# ---- against mclust


@pytest.fixture(scope="module", params=SETS)
def mclust(request):
    """A data set, what mclust 6.0 made of it and what we make of it."""
    parts = {
        name: MCLUST[f"{request.param}/{name}"] for name in ("x", "models", "log_likelihood", "parameters")
    }
    chosen = select_mixture(parts["x"])
    grid = chosen.table.pivot(index="components", columns="model", values="log_likelihood")
    return parts, chosen, grid[list(parts["models"])].to_numpy()


@pytest.mark.r
def test_likelihoods_are_not_below_those_of_mclust():
    """Of every 100 fits at least 95 within 0.001 nats a point; together, and at least 90 on each set."""
    enough = []
    for name in SETS:
        x, theirs = MCLUST[f"{name}/x"], MCLUST[f"{name}/log_likelihood"]
        table = select_mixture(x).table
        ours = table.pivot(index="components", columns="model", values="log_likelihood")
        ours = ours[list(MCLUST[f"{name}/models"])].to_numpy()
        there = ~np.isnan(theirs)
        enough.append((ours >= theirs - 1e-3 * len(x))[there])
        assert enough[-1].mean() > 0.9, name
    assert np.concatenate(enough).mean() > 0.975


def test_no_fit_where_mclust_has_none(mclust):
    parts, _, ours = mclust
    assert np.isnan(ours[np.isnan(parts["log_likelihood"])]).all()


def test_the_choice_is_that_of_mclust_or_better(mclust):
    parts, chosen, _ = mclust
    x = parts["x"]
    theirs = -2 * parts["log_likelihood"] + parts["parameters"] * np.log(len(x))
    row, column = np.unravel_index(np.nanargmin(theirs), theirs.shape)
    ours = (chosen.best.n_components, chosen.best.model)
    assert chosen.bic <= theirs[row, column] + 0.01
    # with one component the models with all orientations are one and the same
    same = {(g, m) for g, m in zip(*np.nonzero(theirs <= theirs[row, column] + 1e-6), strict=True)}
    assert ours in {(g + 1, str(parts["models"][m])) for g, m in same}
    parameters = zip(chosen.best.weights_, chosen.best.means_, chosen.best.covariances_, strict=True)
    density = sum(w * stats.multivariate_normal(m, c).pdf(x) for w, m, c in parameters)
    k = parts["parameters"][ours[0] - 1, list(parts["models"]).index(ours[1])]
    assert chosen.bic == pytest.approx(-2 * np.log(density).sum() + k * np.log(len(x)), rel=1e-9)


def test_numbers_of_parameters_are_those_of_mclust(mclust):
    parts, chosen, _ = mclust
    table = chosen.table.pivot(index="components", columns="model", values="parameters")
    theirs = parts["parameters"]
    there = ~np.isnan(theirs)
    np.testing.assert_array_equal(table[list(parts["models"])].to_numpy()[there], theirs[there])


@pytest.mark.parametrize("name", [name for name in SETS if f"{name}/partition" in MCLUST])
def test_partitions_of_the_tree_are_those_of_mclust(name):
    steps = merge_tree(svd_scaled(MCLUST[f"{name}/x"]))
    for i, theirs in enumerate(MCLUST[f"{name}/partition"].T):
        assert adjusted_rand_score(theirs, cut(steps, i + 2)) == 1


# ---- against scikit-learn


@pytest.mark.parametrize("model", SKLEARN)
@pytest.mark.parametrize("components", [1, 2, 4])
def test_optimum_is_that_of_scikit_learn_from_the_same_start(iris, model, components):
    start = cut(merge_tree(svd_scaled(iris)), components)
    ours = GaussianMixture(components, model=model, tol=1e-13, max_iter=5000, start=start).fit(iris)
    first = GaussianMixture(components, model=model, max_iter=1, start=start)
    with pytest.warns(ConvergenceWarning):
        first.fit(iris)
    precisions = np.linalg.inv(first.covariances_)
    shapes = {
        "spherical": precisions[:, 0, 0],
        "diag": np.diagonal(precisions, axis1=1, axis2=2),
        "tied": precisions[0],
        "full": precisions,
    }
    kind = SKLEARN[model]
    theirs = Reference(
        components,
        covariance_type=kind,
        reg_covar=0,
        tol=1e-13,
        max_iter=5000,
        weights_init=first.weights_,
        means_init=first.means_,
        precisions_init=shapes[kind],
    ).fit(iris)
    assert ours.score(iris) == pytest.approx(theirs.score(iris), abs=1e-6)
    np.testing.assert_allclose(ours.means_, theirs.means_, atol=1e-4)
    assert ours.bic(iris) == pytest.approx(theirs.bic(iris), abs=1e-3)
    assert ours.aic(iris) == pytest.approx(theirs.aic(iris), abs=1e-3)
    np.testing.assert_allclose(ours.predict_proba(iris), theirs.predict_proba(iris), atol=1e-3)
    np.testing.assert_array_equal(ours.predict(iris), ours.predict_proba(iris).argmax(axis=1))


@parametrize_with_checks(
    [GaussianMixture(), GaussianMixture(2, model="EEI"), GaussianMixture(2, model="EEV")]
)
def test_estimator_keeps_scikit_learns_conventions(estimator, check):
    check(estimator)


# ---- mathematics


@each_model
@pytest.mark.parametrize("components", [2, 3])
def test_likelihood_never_falls(iris, model, components):
    fit = GaussianMixture(components, model=model, tol=1e-9, max_iter=5000).fit(iris)
    assert len(fit.lower_bounds_) > 2
    assert np.diff(fit.lower_bounds_).min() > -1e-11
    assert fit.score(iris) == pytest.approx(fit.lower_bounds_[-1], rel=1e-9)


@each_model
def test_covariances_have_the_form_of_the_model(iris, model):
    covariances = GaussianMixture(3, model=model).fit(iris).covariances_
    volume = np.linalg.det(covariances) ** (1 / 4)
    values = np.linalg.eigvalsh(covariances)
    shape = values / volume[:, None]
    if model[0] == "E":
        np.testing.assert_allclose(volume, volume[0], rtol=1e-6)
    else:
        assert np.ptp(volume) > 0.01
    if model[1] == "I":
        np.testing.assert_allclose(shape, 1, rtol=1e-9)
    elif model[1] == "E":
        np.testing.assert_allclose(shape, shape[[0, 0, 0]], rtol=1e-5)
    else:
        assert np.ptp(shape, axis=0).max() > 0.1
    off = covariances[:, ~np.eye(4, dtype=bool)]
    if model[2] == "I":
        assert (off == 0).all()
    else:
        assert np.abs(off).max() > 0.01
    if model[2] == "E":  # they commute
        product = covariances[0] @ covariances[1]
        np.testing.assert_allclose(product, product.T, atol=1e-8)


@each_model
def test_density_integrates_to_one_in_the_plane(clusters, model):
    fit = GaussianMixture(3, model=model).fit(clusters[0])
    step = 0.05
    grid = np.stack(np.meshgrid(np.arange(-6, 6, step), np.arange(-6, 6, step)), axis=-1).reshape(-1, 2)
    assert np.exp(fit.score_samples(grid)).sum() * step**2 == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("model", ["E", "V"])
def test_density_integrates_to_one_on_the_line(model):
    fit = GaussianMixture(3, model=model).fit(MCLUST["d1_k3/x"])
    whole = integrate.quad(
        lambda v: np.exp(fit.score_samples([[v]])[0]), -40, 40, points=[-3, 0, 3], limit=500
    )
    assert whole[0] == pytest.approx(1, abs=1e-6)


def test_moments_of_a_million_draws(iris):
    fit = GaussianMixture(3, model="VEV").fit(iris)
    x, component = fit.sample(1_000_000, random_state=0)
    mean = fit.weights_ @ fit.means_
    away = fit.means_ - mean
    covariance = np.einsum("k,kij->ij", fit.weights_, fit.covariances_ + away[:, :, None] * away[:, None])
    np.testing.assert_allclose(x.mean(axis=0), mean, atol=0.005)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.01)
    np.testing.assert_allclose(np.bincount(component) / 1e6, fit.weights_, atol=0.002)
    own = x[component == 1]
    np.testing.assert_allclose(own.mean(axis=0), fit.means_[1], atol=0.01)
    np.testing.assert_allclose(np.cov(own.T), fit.covariances_[1], atol=0.01)


@pytest.mark.parametrize("model", ROTATE)
def test_likelihood_is_that_of_rotated_points(iris, model):
    turn = ortho_group.rvs(4, random_state=0)
    start = cut(merge_tree(svd_scaled(iris)), 3)
    straight = GaussianMixture(3, model=model, start=start).fit(iris)
    turned = GaussianMixture(3, model=model, start=start).fit(iris @ turn)
    assert turned.score(iris @ turn) == pytest.approx(straight.score(iris), abs=1e-6)
    np.testing.assert_allclose(turned.means_, straight.means_ @ turn, atol=1e-4)


@each_model
@pytest.mark.parametrize("unit", [2.0**-40, 2.0**60, 3e-9, 1e12])
def test_other_units_change_nothing_but_units(iris, model, unit):
    plain, scaled = (GaussianMixture(3, model=model).fit(x) for x in (iris + 5, (iris + 5) * unit))
    np.testing.assert_array_equal(plain.predict(iris + 5), scaled.predict((iris + 5) * unit))
    np.testing.assert_allclose(
        scaled.covariances_, plain.covariances_ * unit**2, rtol=1e-6, atol=1e-9 * unit**2
    )
    moved = -4 * np.log(unit)
    assert scaled.score((iris + 5) * unit) - moved == pytest.approx(
        plain.score(iris + 5), abs=1e-9 * abs(moved) + 1e-8
    )


@st.composite
def troublesome(draw):
    """Points with duplicates, collinear columns, fewer of them than dimensions, huge and tiny scales."""
    n, d = draw(st.integers(2, 25)), draw(st.integers(1, 6))
    x = np.random.default_rng(draw(st.integers(0, 2**16))).standard_normal((n, d))
    for _ in range(draw(st.integers(0, 3))):
        x[draw(st.integers(0, n - 1))] = x[draw(st.integers(0, n - 1))]
    if d > 1 and draw(st.booleans()):
        x[:, 0] = 2 * x[:, -1]
    if draw(st.booleans()):
        x[:, 0] = np.round(x[:, 0])
    return x * 10.0 ** draw(st.integers(-100, 100)) + draw(st.sampled_from([0.0, 1.0, -1e3]))


@given(x=troublesome(), components=st.integers(1, 6))
def test_trouble_is_singular_and_nothing_worse(x, components):
    try:
        chosen = select_mixture(x, components=[1, components])
    except SingularFitError:
        return
    table = chosen.table
    failed = table["note"].isin(["singular", "too few points"])
    assert table.loc[~failed, "bic"].notna().all()
    assert table.loc[failed, ["log_likelihood", "bic"]].isna().all(axis=None)
    assert np.isfinite(chosen.best.score_samples(x)).all()
    assert np.isfinite(chosen.best.covariances_).all()
    assert chosen.best.weights_.sum() == pytest.approx(1)
    assert np.isfinite(chosen.best.sample(20, random_state=0)[0]).all()


# ---- the estimator


def test_start_from_labels_is_start_from_responsibilities(clusters):
    x, member = clusters
    labels = GaussianMixture(3, model="EEE", start=member).fit(x)
    shares = GaussianMixture(3, model="EEE", start=np.eye(3)[member].T).fit(x)
    np.testing.assert_array_equal(labels.means_, shares.means_)
    assert adjusted_rand_score(member, labels.predict(x)) == 1


@pytest.mark.parametrize(
    "start", [np.zeros(5), np.full(300, 3), np.full((300, 3), 1 / 3), -np.ones((3, 300))]
)
def test_start_of_another_form_is_refused(clusters, start):
    with pytest.raises(ValueError, match=r"start\b.*responsibilities.*\(3, 300\)"):
        GaussianMixture(3, start=start).fit(clusters[0])


def test_unknown_model_is_refused_with_the_nearest(iris):
    with pytest.raises(ValueError, match=r"^model\b.*'EII'.*'VVW'"):
        GaussianMixture(2, model="VVW").fit(iris)
    with pytest.raises(ValueError, match=r"^model\b.*'EII'"):
        GaussianMixture(2, model="E").fit(iris)


def test_number_of_components_is_that_of_points_at_most(iris):
    with pytest.raises(ValueError, match=r"n_components.*points.*\b150\b.*\b151\b"):
        GaussianMixture(151).fit(iris)
    with pytest.raises(ValueError, match=r"n_components.*\b1\b.*\b0\b"):
        GaussianMixture(0).fit(iris)
    with pytest.raises(ValueError, match=r"max_iter.*\b1\b.*\b0\b"):
        GaussianMixture(2, max_iter=0).fit(iris)


def test_points_in_fewer_dimensions_are_singular(iris):
    flat = np.c_[iris, iris.sum(axis=1)]
    with pytest.raises(SingularFitError, match=r"'EEE'.*\b2 components.*singular.*\b5 dim"):
        GaussianMixture(2, model="EEE").fit(flat)
    assert GaussianMixture(2, model="VVI").fit(flat).converged_


@each_model
def test_component_without_points_is_singular(iris, model):
    with pytest.raises(SingularFitError, match=rf"'{model}'.*\b3 components.*singular"):
        GaussianMixture(3, model=model, start=np.arange(150) % 2).fit(iris)


def test_fit_that_has_not_converged_says_so(iris):
    with pytest.warns(ConvergenceWarning, match=r"converge.*\b3\b"):
        fit = GaussianMixture(5, model="VVI", max_iter=3).fit(iris)
    assert (fit.n_iter_, fit.converged_) == (3, False)


def test_draws_of_the_estimator_are_those_of_the_seed(iris):
    fit = GaussianMixture(2, random_state=3).fit(iris)
    first, component = fit.sample(10)
    np.testing.assert_array_equal(first, fit.sample(10)[0])
    np.testing.assert_array_equal(first, fit.sample(10, random_state=3)[0])
    assert (fit.sample(10, random_state=4)[0] != first).all()
    rng = np.random.default_rng(3)
    np.testing.assert_array_equal(first, fit.sample(10, random_state=rng)[0])
    assert (fit.sample(10, random_state=rng)[0] != first).all()  # a generator goes on
    assert set(component) == {0, 1}
    with pytest.raises(ValueError, match=r"n_samples.*\b1\b.*\b0\b"):
        fit.sample(0)


@pytest.mark.slow
def test_more_than_two_thousand_points_start_from_some_of_them():
    rng = np.random.default_rng(0)
    member = rng.integers(0, 3, 5000)
    x = np.array([[-4.0, 0], [4, 0], [0, 6]])[member] + rng.standard_normal((5000, 2))
    fits = [GaussianMixture(3, model="EII", random_state=seed).fit(x) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(fits[0].means_, fits[1].means_)
    for fit in fits:
        assert adjusted_rand_score(member, fit.predict(x)) > 0.97
        assert fit.weights_.sum() == pytest.approx(1)


# ---- select_mixture


def test_three_well_separated_clusters_are_found(clusters):
    x, member = clusters
    best = select_mixture(x, components=range(1, 6)).best
    assert best.n_components == 3
    assert adjusted_rand_score(member, best.predict(x)) == 1.0
    np.testing.assert_allclose(np.sort(best.weights_), np.sort(np.bincount(member) / 300), atol=1e-6)


def test_best_is_the_row_with_the_smallest_bic(iris):
    chosen = select_mixture(iris, components=range(1, 4))
    row = chosen.table.loc[chosen.table["bic"].idxmin()]
    assert (chosen.best.model, chosen.best.n_components) == (row["model"], row["components"])
    assert chosen.bic == row["bic"] == pytest.approx(chosen.best.bic(iris))
    columns = ["model", "components", "parameters", "log_likelihood", "bic", "note"]
    assert list(chosen.table.columns) == columns
    assert len(chosen.table) == 3 * 14


def test_spherical_points_need_one_spherical_component():
    x = np.random.default_rng(0).standard_normal((150, 3))
    best = select_mixture(x, components=[1, 2]).best
    assert (best.model, best.n_components) == ("EII", 1)


def test_correlated_points_need_a_full_covariance():
    x = np.random.default_rng(0).multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], 400)
    best = select_mixture(x, components=[1]).best
    assert best.model == "EEE"
    np.testing.assert_allclose(best.covariances_[0], np.cov(x.T, bias=True), atol=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_of_models_that_are_the_same_with_one_component_the_first_is_chosen(seed):
    rng = np.random.default_rng(seed)
    correlated = rng.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], 400)
    for x, model in ((correlated, "EEE"), (rng.normal(size=(400, 3)) * [1, 3, 9], "EEI")):
        assert select_mixture(x, components=[1]).best.model == model


def test_only_the_models_asked_for_are_fitted(iris):
    table = select_mixture(iris, components=[2], models=["VVI", "EEE"]).table
    assert list(table["model"]) == ["VVI", "EEE"]
    assert list(table["components"]) == [2, 2]


def test_fewer_points_than_dimensions_leave_spheres_and_axes():
    x = np.random.default_rng(0).standard_normal((5, 8))
    table = select_mixture(x, components=[1, 2, 6]).table.set_index(["components", "model"])
    assert (table.loc[1].loc[list(FULL), "note"] == "too few points").all()
    assert (table.loc[6]["note"] == "too few points").all()
    assert table.loc[(1, "EEI"), "note"] == ""
    assert np.isfinite(table.loc[(1, "EEI"), "bic"])


def test_likelihood_counts_for_the_number_of_independent_observations(iris):
    whole = select_mixture(iris, components=[2]).table
    fewer = select_mixture(iris, components=[2], n_independent=30).table
    np.testing.assert_allclose(fewer["log_likelihood"], whole["log_likelihood"] * 30 / 150)
    expected = -2 * fewer["log_likelihood"] + fewer["parameters"] * np.log(30)
    np.testing.assert_allclose(fewer["bic"], expected)


def test_repeated_points_do_not_make_more_components():
    """Six points, each repeated fifty times with noise, are six observations and no six clusters."""
    rng = np.random.default_rng(0)
    x = np.repeat(rng.standard_normal((6, 2)), 50, axis=0) + 0.3 * rng.standard_normal((300, 2))
    chosen = select_mixture(x, components=range(1, 7), models=["VVI", "EEE"], n_independent=6).best
    default = select_mixture(x, components=range(1, 7), models=["VVI", "EEE"]).best
    assert chosen.n_components < default.n_components


def test_points_all_alike_cannot_be_fitted():
    with pytest.raises(SingularFitError, match=r"models\b.*\b20 points.*\b2 dim"):
        select_mixture(np.ones((20, 2)), components=[1, 2])


@pytest.mark.parametrize("x", [np.ones(5), np.full((5, 2), np.nan), np.empty((0, 2))])
def test_what_is_not_points_is_refused(x):
    with pytest.raises(ValueError, match=r"^x\b.*finite"):
        select_mixture(x)


def test_arguments_of_the_choice_are_checked(iris):
    for arguments, message in (
        ({"components": []}, r"components.*models"),
        ({"models": []}, r"components.*models"),
        ({"components": [0, 1]}, r"components.*\b1\b.*\b0\b"),
        ({"models": ["EEK"]}, r"^model\b.*'EII'"),
        ({"starting_points": 5}, r"starting_points.*\b9\b.*\b5\b"),
    ):
        with pytest.raises(ValueError, match=message):
            select_mixture(iris, **arguments)


@pytest.mark.parametrize(("model", "covariances"), [("VII", 2), ("VVI", 6), ("EEE", 6), ("VVV", 12)])
def test_parameters_are_covariances_means_and_all_weights_but_one(model, covariances):
    assert n_parameters(model, components=2, d=3) == covariances + 2 * 3 + 1


# ---- edges, defaults and when EM ends


@each_model
def test_em_ends_at_the_first_gain_below_the_tolerance(iris, model):
    """By default 5e-6 a number; the first step has no gain."""
    chosen = select_mixture(iris, components=[3], models=[model])
    assert chosen.table["log_likelihood"][0] == pytest.approx(150 * chosen.best.score(iris), rel=1e-10)
    for fit, tol in (
        (GaussianMixture(3, model=model).fit(iris), 5e-6),
        (GaussianMixture(3, model=model, tol=1e-3).fit(iris), 1e-3),
        (chosen.best, 5e-6),
    ):
        gains = np.diff(fit.lower_bounds_) / 4
        assert (fit.converged_, fit.n_iter_) == (True, len(fit.lower_bounds_))
        assert gains[-1] < tol
        assert (gains[:-1] >= tol).all()


@each_model
def test_parameters_are_the_estimates_of_the_responsibilities_of_the_step_before(iris, model):
    """With sums over points: weights and means, and the covariance of VVV; far from the origin."""
    x = iris[:, :2] * 0.3 + [50, -7]
    before = GaussianMixture(3, model=model, tol=0, max_iter=3)
    after = GaussianMixture(3, model=model, tol=0, max_iter=4)
    with pytest.warns(ConvergenceWarning):
        share = before.fit(x).predict_proba(x)
    with pytest.warns(ConvergenceWarning):
        after.fit(x)
    assert after.n_iter_ == 4
    np.testing.assert_allclose(share.sum(axis=1), 1)
    np.testing.assert_allclose(after.weights_, share.mean(axis=0))
    np.testing.assert_allclose(after.means_, share.T @ x / share.sum(axis=0)[:, None])
    away = x[:, None] - after.means_
    scatter = np.einsum("nk,nki,nkj->kij", share, away, away)
    expected = {
        "EII": np.eye(2) * np.trace(scatter.sum(axis=0)) / 300,
        "VII": np.eye(2) * (np.trace(scatter, axis1=1, axis2=2) / share.sum(axis=0) / 2)[:, None, None],
        "EEI": np.eye(2) * scatter.sum(axis=0) / 150,
        "VVI": np.eye(2) * scatter / share.sum(axis=0)[:, None, None],
        "EEE": scatter.sum(axis=0) / 150,
        "VVV": scatter / share.sum(axis=0)[:, None, None],
    }
    if model in expected:
        np.testing.assert_allclose(
            after.covariances_, np.broadcast_to(expected[model], (3, 2, 2)), rtol=1e-8, atol=1e-10
        )
    density = sum(
        w * stats.multivariate_normal(m, c).pdf(x)
        for w, m, c in zip(before.weights_, before.means_, before.covariances_, strict=True)
    )
    assert before.lower_bounds_[-1] == pytest.approx(np.log(density).mean())
    np.testing.assert_allclose(before.score_samples(x), np.log(density))
    assert before.score(x) == pytest.approx(np.log(density).mean())


def test_defaults_are_one_component_of_its_own_form_and_one_draw(iris):
    fit = GaussianMixture().fit(iris)
    np.testing.assert_allclose(fit.means_, iris.mean(axis=0)[None], atol=1e-12)
    np.testing.assert_allclose(fit.covariances_, np.cov(iris.T, bias=True)[None], atol=1e-12)
    assert fit.weights_.tolist() == [1]
    assert fit.n_parameters() == 14
    assert fit.n_iter_ == 2  # the second step gains nothing
    x, component = fit.sample()
    assert (x.shape, component.tolist()) == ((1, 4), [0])
    assert (fit.sample(5)[0] != fit.sample(5)[0]).all()  # without a seed


def test_arguments_are_given_by_name(iris):
    with pytest.raises(TypeError, match="positional"):
        select_mixture(iris, [1])
    with pytest.raises(TypeError, match="positional"):
        GaussianMixture(1, "EII")


def test_draws_of_the_estimator_are_of_the_components_it_says(clusters):
    fit = GaussianMixture(3, model="EEE", start=clusters[1]).fit(clusters[0])
    x, component = fit.sample(3000, random_state=1)
    np.testing.assert_array_equal(fit.predict(x), component)
    np.testing.assert_allclose(np.bincount(component) / 3000, fit.weights_, atol=0.05)
    np.testing.assert_array_equal(fit.fit_predict(clusters[0]), clusters[1])


def test_two_points_are_the_fewest_and_one_component_for_each_the_most():
    x = np.array([[0.0, 0], [1, 2], [5, 1]])
    np.testing.assert_allclose(GaussianMixture(model="EII").fit(x[:2]).covariances_[0], np.eye(2) * 5 / 8)
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        GaussianMixture(model="EII").fit(x[:1])
    with pytest.raises(SingularFitError, match=r"\b3 components.*singular.*\b2 dim"):
        GaussianMixture(3, model="EII").fit(x)


@pytest.mark.parametrize(("model", "parameters"), [("E", 6), ("EVI", 6), ("V", 8), ("VEI", 8)])
def test_names_of_models_in_one_dimension_stand_for_their_first_letter(model, parameters):
    x = MCLUST["d1_k3/x"]
    fit = GaussianMixture(3, model=model).fit(x)
    assert fit.n_parameters() == parameters
    assert (np.ptp(fit.covariances_) == 0) == (model[0] == "E")
    with pytest.raises(ValueError, match=r"^model\b.*'E', 'V', 'EII'"):
        GaussianMixture(3, model="X").fit(x)


def test_one_dimension_starts_from_quantiles():
    x = np.random.default_rng(1).gamma(2, 1, (61, 1))
    member = pd.qcut(x[:, 0], 4, labels=False)
    default = GaussianMixture(4, model="V", max_iter=5)
    given = GaussianMixture(4, model="V", max_iter=5, start=member)
    with pytest.warns(ConvergenceWarning):
        default.fit(x)
    with pytest.warns(ConvergenceWarning):
        given.fit(x)
    np.testing.assert_array_equal(default.lower_bounds_, given.lower_bounds_)


def test_choice_in_one_dimension_is_among_one_to_nine_components_and_two_models():
    chosen = select_mixture(MCLUST["d1_k3/x"])
    assert list(chosen.table["model"]) == ["E", "V"] * 9
    assert list(chosen.table["components"]) == list(np.repeat(np.arange(1, 10), 2))
    assert chosen.best.random_state == 0
    assert chosen.best.n_features_in_ == 1
    assert np.ptp(chosen.best.covariances_) == 0 or chosen.best.model == "V"


def test_choice_is_made_from_some_of_the_points_only_where_there_are_more(iris):
    """From 30 points of 30 the seed says nothing; from 29 it does, and 0 is the default."""
    x = iris[::5][:, :2] + 0.3 * np.random.default_rng(0).standard_normal((30, 2))
    bic = {
        (points, seed): select_mixture(x, components=[4], starting_points=points, seed=seed).table["bic"]
        for points in (29, 30)
        for seed in range(4)
    }
    for seed in range(4):
        np.testing.assert_array_equal(bic[30, seed], bic[30, 0])
    assert any(not bic[29, seed].equals(bic[29, 0]) for seed in range(1, 4))
    default = select_mixture(x, components=[4], starting_points=29)
    np.testing.assert_array_equal(default.table["bic"], bic[29, 0])
    with pytest.raises(SingularFitError):  # as many as components are allowed, but too few
        select_mixture(x, components=[4], starting_points=4)
    assert select_mixture(x, components=[4], seed=3).best.random_state == 3


def test_points_outside_the_subset_start_without_a_cluster():
    starts = Starts(np.arange(20.0)[:, None], np.random.RandomState(0), 6)
    responsibility = starts.responsibility(3)
    rows = np.sort(np.random.RandomState(0).permutation(20)[:6])
    np.testing.assert_array_equal(np.flatnonzero(responsibility.sum(axis=0)), rows)
    np.testing.assert_array_equal(responsibility[:, rows], np.repeat(np.eye(3), 2, axis=1))
    assert starts.responsibility(1).sum() == 6


def test_full_covariances_need_more_points_than_dimensions():
    x = np.random.default_rng(0).standard_normal((4, 3))
    notes = [
        select_mixture(points, components=[1, len(points)]).table.set_index(["components", "model"])["note"]
        for points in (x, x[:3])
    ]
    assert (notes[0].loc[1] == "").all()
    assert (notes[1].loc[1].loc[list(FULL)] == "too few points").all()
    assert (notes[1].loc[1].drop(list(FULL)) == "").all()
    assert (notes[0].loc[4] == "singular").all()
    assert notes[1].loc[(3, "EII")] == "singular"


def test_error_names_models_and_components_if_none_can_be_fitted():
    with pytest.raises(SingularFitError, match=r"models EII, EEE\b.*\b4 points.*\b2 dimensions.*\b1, 3 comp"):
        select_mixture(np.ones((4, 2)), components=[1, 3], models=["EII", "EEE"])


def test_start_of_shares_and_of_numbers_is_taken_as_it_is():
    x = np.random.default_rng(0).standard_normal((6, 1))
    labels = np.array([0, 0, 1, 1, 1, 0])
    shares = np.array([[0.2, 1, 0, 0.5, 0.3, 2], [0.8, 0, 1, 0.5, 0.7, 0]])
    for start, weight in ((labels, np.eye(2)[labels].T), (shares, shares)):
        fit = GaussianMixture(2, model="V", start=start, max_iter=1)
        with pytest.warns(ConvergenceWarning):
            fit.fit(x)
        np.testing.assert_allclose(fit.weights_, weight.sum(axis=1) / weight.sum())
        np.testing.assert_allclose(fit.means_, weight @ x / weight.sum(axis=1, keepdims=True))
    for start in (
        labels - 1,
        labels + 1,
        labels[:5],
        shares[:, :5],
        np.vstack([shares, shares]),
        shares * np.nan,
    ):
        with pytest.raises(ValueError, match=r"start\b.*responsibilities.*\(2, 6\).*\b0\b.*\b1\b.*\(6,\)"):
            GaussianMixture(2, start=start).fit(x)


@pytest.mark.parametrize("model", ["VVI", "EEE", "VVV"])
def test_dimensions_may_be_of_very_different_sizes(clusters, model):
    """What is singular is asked of each dimension in its own units."""
    x, member = clusters
    sizes = np.array([1.0, 1e-5])
    plain = GaussianMixture(3, model=model, start=member).fit(x)
    other = GaussianMixture(3, model=model, start=member).fit(x * sizes)
    assert other.score(x * sizes) == pytest.approx(plain.score(x) - np.log(sizes).sum(), abs=1e-6)
    np.testing.assert_allclose(other.means_, plain.means_ * sizes, rtol=1e-4)
