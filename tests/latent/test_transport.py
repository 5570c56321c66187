"""Optimal transport between mixtures, against what POT says of it."""

import numpy as np
import pytest
from ot.gmm import gmm_ot_loss

from vaexprs.latent.transport import Transport
from vaexprs.mixture.em import Mixture

DRAWS = 40_000


def mixture(seed, components, dims=3):
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(components, 5.0))
    roots = rng.normal(size=(components, dims, dims))
    covariances = 0.2 * roots @ roots.transpose(0, 2, 1) + 0.1 * np.eye(dims)
    return Mixture(weights, rng.normal(scale=4, size=(components, dims)), covariances, "VVV")


def moments(mixture):
    mean = mixture.weights @ mixture.means
    away = mixture.means - mean
    covariance = np.einsum("k,kij->ij", mixture.weights, mixture.covariances)
    return mean, covariance + (mixture.weights[:, None] * away).T @ away


@pytest.fixture(scope="module")
def way():
    return Transport(mixture(0, 4), mixture(1, 5))


def test_draws_become_draws_of_the_target(way):
    rng = np.random.default_rng(2)
    carried = way.carry(way.source.sample(DRAWS, rng), rng)
    mean, covariance = moments(way.target)
    assert np.allclose(carried.mean(axis=0), mean, atol=0.08)
    assert np.allclose(np.cov(carried.T), covariance, atol=0.3)
    # as likely under the target as the target's own draws
    own = way.target.log_prob(way.target.sample(DRAWS, rng))
    assert way.target.log_prob(carried).mean() == pytest.approx(own.mean(), abs=0.03)


def test_points_move_as_far_as_the_cheapest_plan(way):
    rng = np.random.default_rng(3)
    component = rng.choice(4, DRAWS, p=way.source.weights)
    x = way.source.means[component] + np.einsum(
        "nij,nj->ni", np.linalg.cholesky(way.source.covariances)[component], rng.normal(size=(DRAWS, 3))
    )
    a, b = way.source, way.target
    least = gmm_ot_loss(a.means, b.means, a.covariances, b.covariances, a.weights, b.weights)
    gone = ((way.carry(x, rng) - x) ** 2).sum(axis=1).mean()
    assert gone == pytest.approx(float(least), rel=0.05)


def test_geodesic_ends_are_source_and_target(way):
    for t, end in ((0.0, way.source), (1.0, way.target)):
        for here, there in zip(moments(way.between(t)), moments(end), strict=True):
            assert np.allclose(here, there)
    middle = moments(way.between(0.5))[0]
    assert np.allclose(middle, (moments(way.source)[0] + moments(way.target)[0]) / 2)


def test_components_stay_narrow_along_the_geodesic():
    """A blend of the two densities would be a cluster at each end; the geodesic is one cluster that moves."""
    start = Mixture(np.ones(1), np.array([[-5.0, 0.0]]), np.eye(2)[None], "VVV")
    end = Mixture(np.ones(1), np.array([[5.0, 0.0]]), 4 * np.eye(2)[None], "VVV")
    middle = Transport(start, end).between(0.5)
    assert np.allclose(middle.means, [[0, 0]])
    assert np.allclose(middle.covariances, 2.25 * np.eye(2))  # standard deviations 1, 1.5, 2


def test_transport_to_itself_moves_nothing():
    here = mixture(0, 4)
    x = here.sample(200, np.random.default_rng(0))
    assert np.allclose(Transport(here, here).carry(x, np.random.default_rng(1)), x, atol=1e-6)
