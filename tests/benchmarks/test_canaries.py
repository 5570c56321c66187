"""The audit with canaries finds private fits that are broken, and no fault in those that are not."""

import importlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jax_privacy", reason="jax-privacy is not installed")

import dp_accounting

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CONTROLS = (
    "no noise",
    "half noise",
    "no clipping",
    "no noise in marginals",
    "no noise in training",
    "all cells in every step",
)
PROMISE = 3.0

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the sdist has no benchmarks")


@pytest.fixture
def audit(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("canaries")


def test_the_lower_bound_is_below_the_truth_in_95_of_100_samples_and_close(audit):
    rng = np.random.default_rng(0)
    mu, delta = 1.5, 1e-5
    truth = dp_accounting.get_epsilon_gaussian(1 / mu, delta)
    added = np.arange(800) < 400
    bounds = [audit.Scores(rng.normal(mu * added), added).lower_bound(delta) for _ in range(200)]
    assert np.mean(np.array(bounds) <= truth) >= 0.91  # 95% less two standard errors
    assert np.median(bounds) > 0.85 * truth
    nothing = [audit.Scores(rng.normal(size=800), added).lower_bound(delta) for _ in range(200)]
    assert np.mean(np.array(nothing) > 0) <= 0.09


def test_the_lower_bound_can_exceed_every_promise(audit):
    added = np.arange(100) < 50
    separated = added + np.random.default_rng(0).normal(scale=0.02, size=100)
    assert audit.Scores(separated, added).lower_bound(1e-5) > 100


@pytest.mark.parametrize("promise", [1.0, 30.0])
def test_parts_are_composed_like_the_promise(audit, promise):
    # an ideal attack on marginals and steps finds nearly all of the promise, and never more
    guarantee = audit.plan(audit.Privacy(promise, 1e-5), units=1_000, rate=0.2, steps=25, cells_per_unit=1)
    rng, n = np.random.default_rng(0), 10_000
    nothing = audit.Scores(rng.normal(size=n), np.arange(n) % 2 == 0)

    def evidence(noise):
        profile, step = (
            audit.Scores(present + noise * sd * rng.normal(size=present.size), present)
            for present, sd in (
                (np.arange(n) % 2 == 0, guarantee.marginals),
                (rng.random(25 * n) < 0.2, guarantee.training),
            )
        )
        return audit.Evidence(guarantee, nothing, profile, step)

    assert 0.75 * promise < evidence(1.0).lower_bound < promise
    assert evidence(0.8).lower_bound > promise


@pytest.mark.seconds(40)
@pytest.mark.parametrize("how", ["no noise", "half noise"])
@pytest.mark.parametrize("promise", [1.0, 3.0, 30.0])
def test_a_density_without_its_noise_is_caught(audit, how, promise):
    # a tenth of the budget is spent on the density: half of its noise does not exceed the whole promise,
    # but exceeds what the density may spend
    found, guarantee = audit.density_scores(promise, 4_000, how, 1)
    own = audit.epsilon_of(1 / guarantee.density, guarantee.delta)
    assert found.lower_bound(guarantee.delta) > own
    fine, _ = audit.density_scores(promise, 4_000, "as it is", 2)
    assert fine.lower_bound(guarantee.delta) <= own
    if how == "no noise":
        assert found.lower_bound(guarantee.delta) > promise


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_canaries_find_no_fault_in_a_private_fit(audit, seed):
    found = audit.attacked(PROMISE, 400, "as it is", seed)
    assert 1.0 < found.lower_bound < PROMISE  # the attack finds something, and not more than is allowed
    # by definition a clipped gradient is at most as strong as the noise allows (here: two standard errors)
    assert 0.7 < found.steps.mu * found.guarantee.training < 1.0 + 2 * 0.033


@pytest.mark.slow
@pytest.mark.parametrize("how", CONTROLS)
def test_canaries_catch_broken_fits(audit, how):
    assert audit.attacked(PROMISE, 400, how, 1).lower_bound > PROMISE
