"""Effects of donors: shifts, gene offsets, composition, and new donors drawn from them."""

import numpy as np
import pytest

from vaexprs.latent.donors import (
    DonorCounts,
    DonorEffects,
    combined,
    donor_effects,
    fit_composition,
    fit_donor_shifts,
    fit_gene_offsets,
)

DONORS, GROUPS, GENES = 40, 2, 400


def cells_of_donors(between, rng):
    """Return values of three dimensions, donor and group, with the variance `between` donors in each."""
    numbers = rng.integers(5, 60, (DONORS, GROUPS))
    donor, group = (np.repeat(part.ravel(), numbers.ravel()) for part in np.indices(numbers.shape))
    common = rng.standard_normal((DONORS, 1, 3)) * np.sqrt(between / 2)
    own = rng.standard_normal((DONORS, GROUPS, 3)) * np.sqrt(between / 2)
    truth = common + own
    return truth[donor, group] + rng.standard_normal((len(donor), 3)), donor, group, truth


def counts_of_donors(sd, rng, dispersion=0.5):
    """Return counts with log-normal factors of standard deviation `sd` for every fourth gene."""
    tau = np.where(np.arange(GENES) % 4 == 0, sd, 0.0)
    truth = tau * rng.standard_normal((DONORS, 1, GENES)) * np.ones((1, GROUPS, 1))
    cells, mean = 50, rng.gamma(2.0, 0.5, GENES)
    squares = np.broadcast_to(cells * mean**2, truth.shape)
    expected = np.broadcast_to(cells * mean, truth.shape)
    shape = cells / dispersion
    observed = rng.poisson(expected * np.exp(truth) * rng.gamma(shape, 1 / shape, truth.shape))
    return (
        DonorCounts(observed, expected, expected, squares, np.full((GROUPS, GENES), dispersion)),
        truth,
        tau,
    )


def test_shifts_are_predicted_better_than_by_means_and_have_the_variance_between_donors():
    values, donor, group, truth = cells_of_donors(np.array([0.05, 0.2, 0.01]), np.random.default_rng(0))
    shifts, scale = fit_donor_shifts(values, donor, group, DONORS, GROUPS)
    truth = truth - truth.mean(axis=0)
    means = np.zeros_like(truth)
    for d, k in np.ndindex(DONORS, GROUPS):
        means[d, k] = values[(donor == d) & (group == k)].mean(axis=0)
    means -= means.mean(axis=0)
    assert ((shifts - truth) ** 2).mean() < 0.8 * ((means - truth) ** 2).mean()
    sd = shifts.std(axis=0, ddof=1) * scale
    assert sd[:, 1] == pytest.approx(truth[..., 1].std(axis=0, ddof=1), rel=0.25)
    assert (sd[:, 2] < 0.2).all()


def test_without_variance_between_donors_there_are_hardly_any_shifts():
    values, donor, group, _ = cells_of_donors(np.zeros(3), np.random.default_rng(1))
    shifts, scale = fit_donor_shifts(values, donor, group, DONORS, GROUPS)
    assert (shifts.std(axis=0) * scale < 0.15).all()  # less than the standard error of a mean, .18


def test_offsets_are_large_where_donors_differ_and_small_elsewhere():
    counts, truth, tau = counts_of_donors(0.6, np.random.default_rng(0))
    offsets, scale, ratio = fit_gene_offsets(counts)
    sd = offsets.std(axis=0, ddof=1) * scale
    assert np.median(sd[:, tau > 0]) == pytest.approx(0.6, rel=0.15)
    assert np.median(sd[:, tau == 0]) < 0.15
    assert np.corrcoef(offsets[..., tau > 0].ravel(), truth[..., tau > 0].ravel())[0, 1] > 0.8
    # dispersion within donors is smaller only where donors differ
    assert np.median(ratio[:, tau > 0]) > 1.5
    assert np.median(ratio[:, tau == 0]) < 1.1


def test_a_gene_that_is_not_expressed_has_no_offset():
    counts, _, _ = counts_of_donors(0.6, np.random.default_rng(0))
    empty = np.zeros_like(counts.expected)
    offsets, _, _ = fit_gene_offsets(DonorCounts(empty, empty, empty, empty, counts.dispersion))
    assert (offsets == 0).all()


def test_composition_varies_more_than_by_sampling():
    rng = np.random.default_rng(0)
    share = rng.dirichlet([4.0, 8.0], DONORS)
    varied = np.stack([rng.multinomial(200, p) for p in share])
    constant = rng.multinomial(200, [1 / 3, 2 / 3], DONORS)
    values, scale = fit_composition(varied)
    assert (values.std(axis=0, ddof=1) * scale > 0.15).all()
    values, scale = fit_composition(constant)
    assert (values.std(axis=0, ddof=1) * scale < 0.08).all()


@pytest.fixture(scope="module")
def effects():
    rng = np.random.default_rng(0)
    values, donor, group, _ = cells_of_donors(np.array([0.05, 0.2, 0.1]), rng)
    cells = np.zeros((DONORS, GROUPS), int)
    np.add.at(cells, (donor, group), 1)
    counts, _, _ = counts_of_donors(0.6, rng)
    shifts = fit_donor_shifts(values, donor, group, DONORS, GROUPS)
    return donor_effects("donor", [f"d{i}" for i in range(DONORS)], cells, shifts, counts, 0)


def test_new_donors_have_the_mean_and_the_variance_of_the_effects(effects):
    new = effects.draw(3_000, np.random.default_rng(1))
    shifts = np.stack([effects.shift(donor, 0) for donor in new])
    sd = effects.shifts[:, 0].std(axis=0, ddof=1) * effects.shift_scale[0]
    assert shifts.std(axis=0) == pytest.approx(sd, rel=0.06)
    assert np.abs(shifts.mean(axis=0)).max() < 0.03
    offsets = np.stack([effects.offset(donor, 1) for donor in new[:500]])
    assert np.abs(np.exp(offsets).mean(axis=0) - 1).max() < 0.2  # a factor of 1 on average
    shares = np.stack([effects.proportions(donor) for donor in new])
    assert shares.sum(axis=1) == pytest.approx(1)
    assert shares.mean(axis=0) == pytest.approx(effects.cells.sum(axis=0) / effects.cells.sum(), abs=0.01)


def test_factors_of_new_donors_stay_near_the_range_of_the_training_donors():
    own = np.random.default_rng(0).standard_normal((5, 20))
    drawn = combined(10 * np.random.default_rng(1).standard_normal((100, 5)), own, np.ones(20))
    centred = own - own.mean(axis=0)
    assert (drawn <= 1.25 * centred.max(axis=0) + 1e-9).all()
    assert (drawn >= 1.25 * centred.min(axis=0) - 1e-9).all()


def test_a_training_donor_keeps_its_own_effects(effects):
    assert np.array_equal(effects.shift(3, 1), effects.shifts[3, 1])
    assert np.array_equal(effects.offset(3, 1), effects.offsets[3, 1])


def test_arrays_restore_the_effects(effects):
    again = DonorEffects.from_arrays(effects.to_arrays())
    assert again.key == "donor"
    assert again.names == effects.names
    donor = effects.draw(1, np.random.default_rng(0))[0]
    assert np.array_equal(again.offset(donor, 0), effects.offset(donor, 0))
