"""The latent density of each condition, from posterior means and standard deviations."""

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_limits

from vaexprs.latent.density import CELLS_FOR_OWN_COVARIANCE, FLOOR, MAX_CELLS, fit_density
from vaexprs.mixture.covariances import n_parameters
from vaexprs.preprocessing.conditions import Conditions

SIZES = {"T": 28, "B": 20, "NK": 2, "Mast": 1}
SD = 0.1
N = 20_000


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Matrices as small as these wait longer for several threads than they compute."""
    with threadpool_limits(1):
        yield


def one_key(*levels):
    return Conditions("cell_type", {"cell_type": tuple(levels)})


def fit(mean, obs, conditions, *, sd=0.0, log_library=None, seed=0):
    return fit_density(mean, np.full(mean.shape, sd), log_library, obs, conditions, seed=seed)


@pytest.fixture(scope="module")
def posterior():
    """Four labels of falling size in a latent plane, with log library sizes that go with the first axis."""
    rng = np.random.default_rng(0)
    labels = np.repeat(list(SIZES), list(SIZES.values()))
    centres = {"T": (3, 0), "B": (-3, 0), "NK": (0, 4), "Mast": (0, -4)}
    mean = np.array([centres[label] for label in labels]) + rng.standard_normal((len(labels), 2))
    log_library = 8 + 0.5 * mean[:, 0] + 0.1 * rng.standard_normal(len(labels))
    return mean, log_library, pd.DataFrame({"cell_type": labels})


@pytest.fixture(scope="module")
def density(posterior):
    mean, log_library, obs = posterior
    return fit(mean, obs, one_key(*SIZES), sd=SD, log_library=log_library)


def draws(mixture, n=N):
    return mixture.sample(n, np.random.default_rng(9))


# ---- what each condition gets


def test_summary_has_a_row_for_each_condition_in_the_order_of_its_levels(density):
    summary = density.summary()
    assert list(summary.columns) == ["cell_type", "cells", "model", "components", "bic"]
    assert list(summary["cell_type"]) == list(SIZES)
    assert list(summary["cells"]) == list(SIZES.values())
    assert (summary["components"] >= 1).all()
    assert np.isfinite(summary["bic"]).all()


@pytest.mark.parametrize("label", ["NK", "Mast"])
def test_label_of_one_or_two_cells_borrows_the_pooled_covariance_around_its_own_mean(
    posterior, density, label
):
    mean, log_library, obs = posterior
    mixture = density.mixture({"cell_type": label})
    assert (mixture.model, mixture.n_components) == ("pooled", 1)
    np.testing.assert_array_equal(mixture.covariances[0], density.pooled)
    rows = (obs["cell_type"] == label).to_numpy()
    own, error = mean[rows].mean(axis=0), SD / np.sqrt(10 * rows.sum())
    assert (np.abs(mixture.means[0, :2] - own) < 5 * error).all()
    assert mixture.means[0, 2] == pytest.approx(log_library[rows].mean())


def test_three_cells_may_have_a_covariance_of_their_own():
    assert CELLS_FOR_OWN_COVARIANCE == 3
    rng = np.random.default_rng(0)
    tight = 5 + 0.01 * rng.standard_normal((3, 2))
    mean = np.vstack([rng.standard_normal((28, 2)), tight])
    obs = pd.DataFrame({"cell_type": ["T"] * 28 + ["B"] * 3})
    models = [fit(mean[: 28 + n], obs[: 28 + n], one_key("T", "B")).summary()["model"][1] for n in (2, 3)]
    assert models[0] == "pooled"
    assert models[1] == "shrunken"


def test_pooled_covariance_is_the_mean_of_the_covariances_within_labels(posterior):
    mean, _, obs = posterior
    within = mean - pd.DataFrame(mean).groupby(obs["cell_type"].to_numpy()).transform("mean").to_numpy()
    expected = within.T @ within / len(mean) + FLOOR * np.eye(2)
    np.testing.assert_allclose(fit(mean, obs, one_key(*SIZES)).pooled, expected, atol=1e-12)


def test_pooled_covariance_of_single_cells_is_that_of_the_posterior():
    mean = np.array([[0.0, 0.0], [5.0, 5.0], [9.0, 0.0]])
    obs = pd.DataFrame({"cell_type": list("abc")})
    density = fit(mean, obs, one_key(*"abc"), sd=0.5)
    np.testing.assert_allclose(np.sqrt(np.diag(density.pooled)), 0.5, rtol=0.4)
    assert set(density.summary()["model"]) == {"pooled"}


@pytest.mark.parametrize(("cells", "components"), [(29, 1), (30, 2), (80, 5), (440, 29), (900, 30)])
def test_a_component_for_every_fifteen_cells_and_at_most_thirty(cells, components):
    mean = np.random.default_rng(0).standard_normal((cells, 2))
    mixture = fit(mean, pd.DataFrame({"cell_type": ["T"] * cells}), one_key("T")).mixture({"cell_type": "T"})
    assert mixture.n_components == components
    assert mixture.model == ("EEE" if components > 1 else "shrunken")


def test_two_clusters_of_a_label_have_their_components_in_proportion():
    rng = np.random.default_rng(0)
    mean = rng.standard_normal((80, 2)) * 0.3 + np.where(np.arange(80) < 30, -3, 3)[:, None]
    mixture = fit(mean, pd.DataFrame({"cell_type": ["T"] * 80}), one_key("T"), sd=SD).mixture(
        {"cell_type": "T"}
    )
    first = mixture.means[:, 0] < 0
    assert mixture.weights[first].sum() == pytest.approx(30 / 80, abs=0.01)
    assert (np.abs(np.abs(mixture.means) - 3) < 1).all()


def test_draws_of_a_label_have_the_mean_and_spread_of_its_posterior(posterior, density):
    mean, log_library, obs = posterior
    for label in ("T", "B"):
        rows = (obs["cell_type"] == label).to_numpy()
        x = draws(density.mixture({"cell_type": label}))
        true = np.column_stack([mean, log_library])[rows]
        np.testing.assert_allclose(x.mean(axis=0), true.mean(axis=0), atol=0.1)
        np.testing.assert_allclose(x[:, :2].std(axis=0), np.sqrt(true[:, :2].var(axis=0) + SD**2), rtol=0.25)


def test_posterior_noise_is_part_of_the_spread():
    mean = np.random.default_rng(0).standard_normal((28, 2))
    obs = pd.DataFrame({"cell_type": ["T"] * 28})
    spread = [fit(mean, obs, one_key("T"), sd=sd).pooled.trace() for sd in (0.0, 2.0)]
    assert spread[1] - spread[0] == pytest.approx(2 * 2.0**2, rel=0.3)


def test_mixture_and_bic_are_in_the_units_of_the_latent_space():
    """Axes of very different scale; without posterior noise the points are the cells."""
    second = np.repeat([False, True], [30, 50])
    unit = np.random.default_rng(1).standard_normal((80, 2)) + np.outer(second, [10, 0])
    mean = unit * [100, 0.5] + [0, 7]
    obs = pd.DataFrame({"cell_type": ["T"] * 80})
    density = fit(mean, obs, one_key("T"))
    mixture = density.mixture({"cell_type": "T"})
    first = mixture.means[:, 0] < 500
    for rows, mine in ((~second, first), (second, ~first)):
        middle = mixture.weights[mine] @ mixture.means[mine] / mixture.weights[mine].sum()
        np.testing.assert_allclose(middle, mean[rows].mean(axis=0), rtol=1e-2, atol=0.05)
    sds = np.sqrt(np.diagonal(mixture.covariances, axis1=1, axis2=2))
    np.testing.assert_allclose(sds[:, 1] / sds[:, 0], 0.005, rtol=0.7)
    expected = -2 * mixture.log_prob(mean).sum() + n_parameters(mixture.model, 5, 2) * np.log(80)
    assert density.summary()["bic"][0] == pytest.approx(expected)


def test_bic_of_a_borrowed_covariance_counts_the_mean_alone():
    mean = np.array([[0.0, 0.0], [1.0, 2.0], [5.0, 5.0], [7.0, 5.0]])
    density = fit(mean, pd.DataFrame({"cell_type": list("TTBB")}), one_key("T", "B"))
    for label, rows, bic in zip("TB", (mean[:2], mean[2:]), density.summary()["bic"], strict=True):
        mixture = density.mixture({"cell_type": label})
        assert bic == pytest.approx(-2 * mixture.log_prob(rows).sum() + 2 * np.log(2))


def test_label_with_very_many_cells_is_counted_whole_and_fitted_to_some():
    n = MAX_CELLS + 1000
    mean = np.random.default_rng(0).standard_normal((n, 1))
    density = fit(mean, pd.DataFrame({"cell_type": ["T"] * n}), one_key("T"))
    assert list(density.summary()["cells"]) == [n]
    assert density.pooled[0, 0] == pytest.approx(1, abs=5 * np.sqrt(2 / MAX_CELLS))
    assert density.pooled[0, 0] != pytest.approx(mean.var() + FLOOR, abs=1e-9)


# ---- library size


def test_log_library_is_one_more_dimension_with_its_correlation(posterior, density):
    mean, log_library, obs = posterior
    rows = (obs["cell_type"] == "T").to_numpy()
    x = draws(density.mixture({"cell_type": "T"}))
    assert x.shape == (N, 3)
    assert x[:, 2].mean() == pytest.approx(log_library[rows].mean(), abs=0.05)
    assert x[:, 2].std() == pytest.approx(log_library[rows].std(), rel=0.1)
    true = np.corrcoef(mean[rows, 0], log_library[rows])[0, 1]
    assert true > 0.95
    assert np.corrcoef(x[:, 0], x[:, 2])[0, 1] == pytest.approx(true, abs=0.03)


def test_log_library_has_no_posterior_noise():
    obs = pd.DataFrame({"cell_type": ["T", "B"]})
    density = fit(np.zeros((2, 1)), obs, one_key("T", "B"), sd=3.0, log_library=np.array([7.0, 9.0]))
    assert density.mixture({"cell_type": "B"}).means[0, 1] == 9.0
    assert density.pooled[1, 1] == pytest.approx(FLOOR)
    assert density.pooled[0, 0] > 1


def test_without_library_the_density_is_that_of_the_latent_space(posterior):
    mean, _, obs = posterior
    density = fit(mean, obs, one_key(*SIZES), sd=SD)
    assert density.pooled.shape == (2, 2)
    assert draws(density.mixture({"cell_type": "T"}), 5).shape == (5, 2)


# ---- unseen combinations


@pytest.fixture(scope="module")
def additive():
    """Three labels in two batches, one combination left out, each centred exactly on a sum of effects."""
    labels = {"T": (1.0, 5.0), "B": (-2.0, 0.5), "NK": (4.0, -3.0)}
    batches = {"1": (0.0, 0.0), "2": (0.7, -1.1)}
    sizes = {("T", "1"): 8, ("T", "2"): 2, ("B", "1"): 4, ("B", "2"): 12, ("NK", "1"): 6}
    rows, mean = [], []
    for (label, batch), n in sizes.items():
        offset = np.resize([[0.1, 0.2], [-0.1, -0.2]], (n, 2))
        mean.append(np.array(labels[label]) + batches[batch] + offset)
        rows += [(label, batch)] * n
    conditions = Conditions("cell_type", {"cell_type": tuple(labels), "batch": tuple(batches)})
    obs = pd.DataFrame(rows, columns=["cell_type", "batch"])
    return fit(np.vstack(mean), obs, conditions), np.array([4.7, -4.1])


def test_mean_of_an_unseen_combination_is_the_sum_of_the_effects(additive):
    density, expected = additive
    mixture = density.mixture({"cell_type": "NK", "batch": "2"})
    np.testing.assert_allclose(mixture.means, [expected], atol=1e-9)
    assert (mixture.model, mixture.n_components) == ("additive", 1)
    np.testing.assert_array_equal(mixture.covariances[0], density.pooled)


def test_seen_combinations_keep_their_own_mixture_in_any_order_of_keys(additive):
    density, _ = additive
    assert density.mixture({"cell_type": "B", "batch": "2"}).model != "additive"
    first, second = (
        density.mixture(dict(pairs))
        for pairs in ([("cell_type", "B"), ("batch", "1")], [("batch", "1"), ("cell_type", "B")])
    )
    assert first is second
    np.testing.assert_allclose(first.weights @ first.means, [-2, 0.5], atol=1e-6)


def test_summary_has_a_column_for_each_key_and_only_seen_combinations(additive):
    summary = additive[0].summary()
    assert list(summary.columns[:3]) == ["cell_type", "batch", "cells"]
    pairs = list(zip(summary["cell_type"], summary["batch"], summary["cells"], strict=True))
    assert pairs == [("T", "1", 8), ("T", "2", 2), ("B", "1", 4), ("B", "2", 12), ("NK", "1", 6)]


def test_unknown_level_is_refused_with_the_nearest(additive):
    with pytest.raises(ValueError, match=r"^cell_type\b.*'T', 'B', 'NK'.*'nk'.*'NK'"):
        additive[0].mixture({"cell_type": "nk", "batch": "1"})


def test_level_without_any_training_cell_has_a_library_like_the_others(posterior):
    """As where the preprocessing of an earlier fit, with more levels, is used again."""
    mean, log_library, _ = posterior
    n = len(mean)
    obs = pd.DataFrame({"cell_type": np.resize(["T", "B"], n), "batch": np.resize(["1", "1", "2", "2"], n)})
    conditions = Conditions("cell_type", {"cell_type": ("T", "B"), "batch": ("1", "2", "3")})
    mixture = fit(mean, obs, conditions, log_library=log_library).mixture({"cell_type": "T", "batch": "3"})
    assert log_library.min() < mixture.means[0, -1] < log_library.max()


# ---- no conditions


def test_without_conditions_there_is_one_mixture_of_all_cells():
    mean = np.random.default_rng(0).normal([4, -4], 1, (25, 2))
    density = fit(mean, pd.DataFrame(index=range(25)), Conditions(None, {}))
    summary = density.summary()
    assert list(summary.columns) == ["cells", "model", "components", "bic"]
    assert list(summary["cells"]) == [25]
    mixture = density.mixture({})
    np.testing.assert_allclose(mixture.weights @ mixture.means, mean.mean(axis=0), atol=1e-6)


# ---- seeds and saving


def test_density_is_that_of_its_seed(posterior):
    mean, log_library, obs = posterior
    first, again, other = (
        fit(mean, obs, one_key(*SIZES), sd=SD, log_library=log_library, seed=seed).pooled
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_rows_may_come_in_any_order(posterior):
    mean, _, obs = posterior
    order = np.random.default_rng(0).permutation(len(mean))
    first, second = fit(mean, obs, one_key(*SIZES)), fit(mean[order], obs.iloc[order], one_key(*SIZES))
    np.testing.assert_allclose(first.pooled, second.pooled, rtol=1e-9)
    assert list(first.summary()["cells"]) == list(second.summary()["cells"])


@pytest.mark.parametrize("which", ["one key", "two keys", "none"])
def test_arrays_without_objects_give_the_same_density_back(tmp_path, density, additive, which):
    if which == "none":
        mean = np.random.default_rng(0).standard_normal((25, 2))
        given = fit(mean, pd.DataFrame(index=range(25)), Conditions(None, {}))
    else:
        given = density if which == "one key" else additive[0]
    arrays = given.to_arrays()
    assert not any(array.dtype.hasobject for array in arrays.values())
    np.savez(tmp_path / "density.npz", **arrays)
    with np.load(tmp_path / "density.npz", allow_pickle=False) as file:
        back = type(given).from_arrays(dict(file), given.conditions)
    pd.testing.assert_frame_equal(back.summary(), given.summary())
    asked = [dict(zip(given.conditions.keys, row, strict=True)) for row in arrays["seen"].tolist()]
    if which == "two keys":
        asked.append({"cell_type": "NK", "batch": "2"})
    for levels in asked:
        np.testing.assert_array_equal(draws(back.mixture(levels), 50), draws(given.mixture(levels), 50))


def test_levels_of_any_letters_survive_the_arrays():
    levels = ("CD4+/CD25 T Reg", "γδ T", "1", "")
    obs = pd.DataFrame({"cell_type": np.repeat(levels, 3)})
    mean = np.random.default_rng(0).standard_normal((12, 1))
    given = fit(mean, obs, one_key(*levels))
    back = type(given).from_arrays(given.to_arrays(), given.conditions)
    assert list(back.summary()["cell_type"]) == list(levels)


def test_covariance_of_few_cells_is_shrunken_toward_their_own():
    """(5 pooled + n own) / (5 + n) for n cells."""
    rng = np.random.default_rng(3)
    shape = np.array([[1.0, 0.6], [0.6, 0.5]])
    mean = rng.multivariate_normal(np.zeros(2), shape, 220)
    mean[:20] += 4
    obs = pd.DataFrame({"cell_type": ["B"] * 20 + ["T"] * 200})
    density = fit_density(mean, np.full((220, 2), 1e-6), None, obs, one_key("B", "T"), seed=0)
    few = density.mixture({"cell_type": "B"})
    assert few.model == "shrunken"
    own = np.cov(mean[:20].T, bias=True)
    np.testing.assert_allclose(few.covariances[0], (5 * density.pooled + 20 * own) / 25, atol=1e-3)
    np.testing.assert_allclose(few.means[0], mean[:20].mean(axis=0), atol=1e-6)


def test_library_sizes_are_narrower_by_the_noise_of_totals():
    """Of one component and of many, of the conditions with cells and of the pooled covariance."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"cell_type": ["B"] * 20 + ["T"] * 200})
    mean, log_library = rng.standard_normal((220, 2)), 7 + 0.5 * rng.standard_normal(220)
    noise = {20: 0.04, 200: 0.1}
    wide, narrow = (
        fit_density(mean, np.zeros((220, 2)), log_library, obs, one_key("B", "T"), seed=0, library_noise=f)
        for f in (None, lambda rows: (-noise[len(rows)] / 2, noise[len(rows)]))
    )
    for label, extra in (("B", 0.04), ("T", 0.1)):
        a, b = (draws(density.mixture({"cell_type": label})) for density in (wide, narrow))
        assert a[:, 2].var() - b[:, 2].var() == pytest.approx(extra, rel=0.1)
        assert b[:, 2].mean() - a[:, 2].mean() == pytest.approx(extra / 2, abs=0.01)
        np.testing.assert_allclose(b[:, :2], a[:, :2])
    expected = (0.04 * 20 + 0.1 * 200) / 220
    assert wide.pooled[2, 2] - narrow.pooled[2, 2] == pytest.approx(expected, rel=1e-6)


def test_noise_larger_than_the_library_sizes_vary_leaves_a_twentieth():
    mean, obs = np.zeros((20, 1)), pd.DataFrame({"cell_type": ["T"] * 20})
    log_library = np.random.default_rng(0).normal(7, 0.1, 20)
    wide, narrow = (
        fit_density(mean, np.ones((20, 1)), log_library, obs, one_key("T"), seed=0, library_noise=f).pooled[
            1, 1
        ]
        for f in (None, lambda rows: (0.0, 5.0))
    )
    assert narrow == pytest.approx(wide / 20)


def test_library_sizes_all_alike_leave_one_shrunken_component():
    mean = np.random.default_rng(0).standard_normal((60, 2))
    obs = pd.DataFrame({"cell_type": ["T"] * 60})
    density = fit(mean, obs, one_key("T"), sd=SD, log_library=np.full(60, 8.0))
    assert list(density.summary()["model"]) == ["shrunken"]
    x = draws(density.mixture({"cell_type": "T"}))
    np.testing.assert_allclose(x[:, 2], 8, atol=5 * np.sqrt(FLOOR))
    assert np.abs(np.cov(x[:, :2].T) - np.cov(mean.T, bias=True) - SD**2 * np.eye(2)).max() < 0.05
    uneven = fit(mean, obs, one_key("T"), sd=SD, log_library=8 + 0.1 * mean[:, 0] ** 2)
    assert list(uneven.summary()["model"]) == ["EEE"]
