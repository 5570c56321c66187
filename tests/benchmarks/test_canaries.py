"""The audit with canaries finds private fits that are broken, and no fault in those that are not."""

import importlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jax_privacy", reason="jax-privacy is not installed")

import dp_accounting

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CONTROLS = ("no noise", "half noise", "no clipping", "no noise in marginals", "no noise in training")
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
    bounds = [audit.lower_bound(rng.normal(mu * added)[None], added, delta) for _ in range(200)]
    assert np.mean(np.array(bounds) <= truth) >= 0.91  # 95% less two standard errors
    assert np.median(bounds) > 0.85 * truth
    nothing = [audit.lower_bound(rng.normal(size=(3, 800)), added, delta) for _ in range(200)]
    assert np.mean(np.array(nothing) > 0) <= 0.09


def test_the_lower_bound_can_exceed_every_promise(audit):
    added = np.arange(100) < 50
    separated = added + np.random.default_rng(0).normal(scale=0.02, size=100)
    assert audit.lower_bound(separated[None], added, 1e-5) > 100


@pytest.mark.seconds(40)
@pytest.mark.parametrize("how", ["no noise", "half noise"])
@pytest.mark.parametrize("promise", [1.0, 3.0, 30.0])
def test_a_density_without_its_noise_is_caught(audit, how, promise):
    # a tenth of the budget is spent on the density: half of its noise does not exceed the whole promise,
    # but exceeds what the density may spend
    found, added, guarantee = audit.density_scores(promise, 4_000, how, 1)
    own = dp_accounting.get_epsilon_gaussian(guarantee.density, guarantee.delta)
    assert audit.lower_bound(found, added, guarantee.delta) > own
    fine, added, guarantee = audit.density_scores(promise, 4_000, "as it is", 2)
    assert audit.lower_bound(fine, added, guarantee.delta) <= own
    if how == "no noise":
        assert audit.lower_bound(found, added, guarantee.delta) > promise


@pytest.mark.slow
def test_canaries_find_no_fault_in_a_private_fit(audit):
    found, added, guarantee = audit.scores(PROMISE, 400, "as it is", 1)
    bound = audit.lower_bound(found, added, guarantee.delta)
    assert 0.3 < bound < PROMISE  # the attack finds something, and not more than is allowed


@pytest.mark.slow
@pytest.mark.parametrize("how", CONTROLS)
def test_canaries_catch_broken_fits(audit, how):
    # half of the noise exceeds the promise by little, so that it takes more canaries
    n = 800 if how == "half noise" else 400
    found, added, guarantee = audit.scores(PROMISE, n, how, 1)
    assert audit.lower_bound(found, added, guarantee.delta) > PROMISE
