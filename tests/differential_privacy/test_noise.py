"""The noise that private fits add: its source, its distribution at each of the three places, and clipping.

Each test fails if the noise is left out or halved at its place, or if gradients are not clipped.
"""

import os

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy import stats

import vaexprs as vx

pytest.importorskip("jax_privacy", reason="jax-privacy is not installed")

import keras

from vaexprs.differential_privacy import dp_sgd, latent, marginals, mechanisms, profiles
from vaexprs.differential_privacy.accounting import Guarantee, Privacy
from vaexprs.differential_privacy.mechanisms import GRID, MARGIN, Units, add_noise
from vaexprs.differential_privacy.randomness import Randomness
from vaexprs.likelihoods import likelihood_named
from vaexprs.nn.build import build_vae
from vaexprs.preprocessing.conditions import Conditions
from vaexprs.preprocessing.summary import summarise

TYPES = Conditions("type", {"type": ("a", "b")})

# source


def test_the_noise_comes_from_the_operating_system_and_is_new_each_time(monkeypatch):
    draws = {float(Privacy(1).source().normal((1,))[0]) for _ in range(5)}
    assert len(draws) == 5
    monkeypatch.setattr(os, "urandom", lambda n: b"\x80" * n)
    assert len(set(Privacy(1).source().normal((100,)))) == 1


def test_a_test_seed_repeats_the_noise_and_says_so():
    one, two = (Privacy(1, insecure_test_seed=7).source() for _ in range(2))
    np.testing.assert_array_equal(one.normal((5,)), two.normal((5,)))
    assert one.source == "test seed"
    assert Privacy(1).source().source == "operating system"
    assert "12345" not in repr(Privacy(1, insecure_test_seed=12345))
    assert "12345" not in str(Privacy(1, insecure_test_seed=12345).asked)


@pytest.mark.parametrize("source", [Randomness(3), Randomness()])
def test_normal_numbers_are_normal(source):
    x = source.normal((200, 1000))
    assert x.shape == (200, 1000)
    assert x.dtype == np.float64
    assert stats.kstest(x.ravel(), "norm").pvalue > 1e-5
    assert abs(np.corrcoef(x[:, ::2].ravel(), x[:, 1::2].ravel())[0, 1]) < 0.02
    assert 4 < np.abs(x).max() < 9
    assert len(np.unique(x)) == x.size  # float32 numbers would repeat


def test_uniform_numbers_are_uniform():
    x = Randomness(4).uniform(100_000)
    assert stats.kstest(x, "uniform").pvalue > 1e-3
    assert x.min() >= 0
    assert x.max() < 1


# one sum


@pytest.mark.parametrize("sd", [1e-3, 1.0, 700.0])
def test_noise_of_a_sum_has_the_requested_standard_deviation(sd):
    total = np.linspace(-50, 1e4, 40_000)
    added = add_noise(total, sd, Randomness(1)) - total
    assert added.dtype == np.float64
    assert stats.kstest(added / (sd * (1 + MARGIN)), "norm").pvalue > 1e-3


def test_noisy_sums_are_multiples_of_a_grid_whatever_the_sum():
    noisy = add_noise(np.random.default_rng(0).normal(size=10_000), 3.0, Randomness(2))
    grid = 2.0 ** np.floor(np.log2(3.0 * GRID))
    np.testing.assert_array_equal(noisy / grid, np.rint(noisy / grid))


@pytest.mark.parametrize("sd", [0.0, -1.0, np.nan, np.inf])
def test_a_sum_without_noise_is_refused(sd):
    with pytest.raises(ValueError, match=rf"noise.*above 0.*{sd:g}"):
        add_noise(np.zeros(3), sd, Randomness(1))


# the three places


def test_what_is_not_released_gets_no_share_of_the_budget():
    for conditions in (TYPES, Conditions(None, {})):
        for presence in (True, False):
            shares = marginals.shares(conditions, presence=presence)
            assert sum(shares) == pytest.approx(1)
            x, obs = np.ones((4, 3), np.float32), pd.DataFrame({"type": ["a", "a", "b", "b"]})
            units = Units(np.arange(4), 4, single=True)
            sums = marginals.marginal_sums(x, obs, conditions, units, presence=presence)
            for part, share in zip(sums.parts, shares[:-1], strict=True):
                assert (part.size > 0) == (share > 0)
            noisy, sd = sums.with_noise(5.0, Randomness(1))
            assert [part.shape for part in noisy] == [part.shape for part in sums.parts]
            assert [value for value in sd if value] == [5 / np.sqrt(s) for s in shares[:-1] if s]


def test_noise_of_the_released_marginals():
    rng = np.random.default_rng(0)
    n, genes, multiplier = 20_000, 40, 30.0
    x = rng.poisson(3, (n, genes)).astype(np.float32) + 1
    obs = pd.DataFrame({"type": np.repeat(["a", "b"], n // 2)})
    units = Units(np.arange(n), n, single=True)
    released = [
        marginals.release_marginals(x, obs, TYPES, units, multiplier, Randomness(seed)) for seed in range(60)
    ]
    # share of a type: half of the difference of two independent noisy numbers over their sum
    sd = multiplier / np.sqrt(marginals.IN_COMBINATION) / np.sqrt(2) / n
    assert np.std([m.share[0] for m in released]) == pytest.approx(sd, rel=0.3)
    # mean square roots of proportions of all cells
    sd = multiplier / np.sqrt(marginals.IN_OVERALL) / n
    roots = np.array([np.sqrt(m.proportions) for m in released])
    assert np.median(roots.std(axis=0)) == pytest.approx(sd, rel=0.15)


def test_noise_of_the_released_deviations(monkeypatch):
    rng = np.random.default_rng(0)
    n, genes, multiplier = 2_000, 40, 30.0
    x = rng.poisson(3, (n, genes)).astype(np.float32) + 1
    obs = pd.DataFrame({"type": np.repeat(["a", "b"], n // 2)})
    units = Units(np.arange(n), n, single=True)
    seen = []

    def observed(deviations, overall, noise):
        seen.append((deviations, overall, noise))
        return profiles.shrunken_levels(deviations, overall, noise)

    monkeypatch.setattr(marginals, "shrunken_levels", observed)
    for seed in range(30):
        marginals.release_marginals(x, obs, TYPES, units, multiplier, Randomness(seed))
    numbers = (
        multiplier
        / np.sqrt(marginals.IN_DEVIATION)
        * mechanisms.CELL_DEVIATION
        / np.array([noise for *_, noise in seen])
    )  # of the units that the sums are divided by, close to half of the cells
    assert np.median(numbers) == pytest.approx(n / 2, rel=0.2)
    # a sum of profiles minus the overall one, which is added again
    sums = np.array(
        [
            deviations * number[:, None] + n / 2 * overall
            for (deviations, overall, _), number in zip(seen, numbers, strict=True)
        ]
    )
    sd = multiplier / np.sqrt(marginals.IN_DEVIATION) * mechanisms.CELL_DEVIATION
    assert np.median(sums.std(axis=0)) == pytest.approx(sd, rel=0.1)


def test_noise_of_the_released_density():
    rng = np.random.default_rng(0)
    n, d, multiplier = 20_000, 3, 40.0
    points = rng.standard_normal((n, d)) + np.array([0, 0, 2])  # far from the prior, so that little is shrunk
    obs = pd.DataFrame({"type": np.repeat(["a", "b"], n // 2)})
    released = marginals.Marginals(
        ({"type": "a"}, {"type": "b"}),
        np.array([0.5, 0.5]),
        np.full(5, 0.2),
        np.zeros((2, 5)),
        7.0,
        0.3,
        n,
    )
    densities = [
        latent.release_density(
            points,
            np.full(n, np.exp(7.0)),
            obs,
            TYPES,
            released,
            Units(np.arange(n), n),
            10**9,  # so that rounding numbers of cells does not matter
            multiplier,
            Randomness(seed),
        )
        for seed in range(60)
    ]
    radius = latent.RADIUS * np.sqrt(d + 1)
    # the mean over both types, the sum of both noisy sums over n, is hardly shrunk
    overall = np.array(
        [
            sum(w * m.means[0][:d] for w, m in zip(density.cells, density.mixtures, strict=True))
            / density.cells.sum()
            for density in densities
        ]
    )
    sd = radius * multiplier / np.sqrt(latent.IN_MEAN) * np.sqrt(2) / n
    assert np.mean(overall.std(axis=0)) == pytest.approx(sd, rel=0.2)
    # second moments: entries off the diagonal are released times the square root of 2
    sd = radius**2 * multiplier / np.sqrt(latent.IN_MOMENT) / np.sqrt(2) / n
    entries = np.array([density.pooled[0, 1] for density in densities])
    assert np.std(entries) == pytest.approx(sd, rel=0.3)


def trained(x: np.ndarray, noise: float, steps: int = 1, rate: float = 1.0) -> np.ndarray:
    """Return the changes of all weights by training with gradient descent, times the units in a step."""
    start = np.random.default_rng(0).poisson(2, (50, x.shape[1])).astype(np.float32)
    model = build_vae(
        [keras.layers.Dense(8, activation="relu")],
        [],
        likelihood=likelihood_named("nb")(),
        x=start,
        summary=summarise(start, "start"),
        level_cells=[],
        latent_dim=3,
        regularization=1.0,
        seed=0,
    )
    model.compile(keras.optimizers.SGD(1.0))
    before = [np.array(weight.value) for weight in model.trainable_variables]
    n = len(x)
    guarantee = Guarantee(1.0, 1e-5, "cell", n, 1, 1.0, 1.0, noise, rate, steps)
    units = Units(np.arange(n), n)
    dp_sgd.train_privately(model, x, None, units, guarantee, Randomness(5), shown=False)
    changes = [
        np.ravel(np.asarray(weight.value) - old)
        for weight, old in zip(model.trainable_variables, before, strict=True)
    ]
    return -np.concatenate(changes).astype(np.float64) * n * rate


def test_noise_of_a_training_step():
    x = np.random.default_rng(1).poisson(2, (20, 300)).astype(np.float32) + 1
    noise = trained(x, noise=500.0)  # the sum of 20 clipped gradients is small beside it
    assert len(noise) > 3_900
    assert noise.std() == pytest.approx(500 * dp_sgd.CLIP, rel=0.04)
    assert stats.kstest(noise / noise.std(), "norm").pvalue > 1e-3


def test_noise_of_training_steps_is_independent_and_does_not_depend_on_the_rate():
    x = np.random.default_rng(1).poisson(2, (20, 300)).astype(np.float32) + 1
    noise = trained(x, noise=500.0, steps=4, rate=0.5)
    assert noise.std() == pytest.approx(500 * dp_sgd.CLIP * 2, rel=0.04)


@pytest.mark.parametrize("counts", [10, 1_000_000])
def test_a_training_step_moves_by_at_most_the_clipping_norm(counts):
    x = np.zeros((1, 30), np.float32)
    x[0, 3] = counts
    assert np.linalg.norm(trained(x, noise=1e-6)) == pytest.approx(dp_sgd.CLIP, rel=1e-3)


# the fit uses them with the noise of its guarantee


def test_a_fit_adds_the_noise_of_its_guarantee(monkeypatch):
    demo = vx.demo_cells()
    counts = np.ravel(demo.X.sum(axis=0))
    cells = demo[:, np.sort(np.argsort(-counts)[:60])].copy()
    added = []

    def observed(total, sd, randomness):
        noisy = add_noise(total, sd, randomness)
        added.append(np.ravel(noisy - total))
        return noisy

    monkeypatch.setattr(mechanisms, "add_noise", observed)
    monkeypatch.setattr(dp_sgd, "add_noise", observed)
    fit = vx.fit_vae(
        cells, label_key="cell_type", epochs=1, verbose=0, privacy=Privacy(3, 1e-4, insecure_test_seed=1)
    )
    steps = fit.guarantee.steps
    assert len(added) == 5 + steps + 2
    shares = (marginals.IN_COMBINATION, marginals.IN_LIBRARY, marginals.IN_PRESENCE, marginals.IN_OVERALL)
    for noise, share in zip(added[:5], (*shares, marginals.IN_DEVIATION), strict=True):
        check_sd(noise, fit.guarantee.marginals / np.sqrt(share))
    for noise in added[5:-2]:
        check_sd(noise, fit.guarantee.training * dp_sgd.CLIP)
    for noise, share in zip(added[-2:], (latent.IN_MEAN, latent.IN_MOMENT), strict=True):
        check_sd(noise, fit.guarantee.density / np.sqrt(share))
    different = np.array([noise[:50] for noise in added[5:-2]])
    assert len(np.unique(different)) == different.size


def check_sd(noise: np.ndarray, sd: float) -> None:
    """Check the standard deviation of noise by a two-sided chi-squared test."""
    statistic = np.sum((noise / sd) ** 2)
    p = stats.chi2(len(noise)).cdf(statistic)
    assert 1e-4 < p < 1 - 1e-4, (noise.std(), sd)


def test_cells_without_counts_of_the_listed_genes_contribute_nothing():
    rng = np.random.default_rng(0)
    x = rng.poisson(3, (300, 30)).astype(np.float32) + 1
    x[7, :20] = 0
    cells = ad.AnnData(
        sp.csr_matrix(x),
        obs=pd.DataFrame({"type": ["a", "b"] * 150}, dtype="category", index=[str(i) for i in range(300)]),
    )
    cells.var_names = [f"g{i}" for i in range(30)]
    fit = vx.fit_vae(
        cells,
        label_key="type",
        genes=[f"g{i}" for i in range(20)],
        epochs=1,
        verbose=0,
        privacy=Privacy(50, 1e-4),
    )
    assert fit.guarantee.units == 300
    assert list(fit.genes) == [f"g{i}" for i in range(20)]
