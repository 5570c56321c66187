"""Differentially private fits: accounting, sensitivity, refused arguments and results."""

import json
import re
import signal
import subprocess
import sys
import time

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import vaexprs as vx
from commands import run

pytest.importorskip("jax_privacy", reason="jax-privacy is not installed")

import dp_accounting
import jax
import keras
from jax_privacy.accounting import accountants, analysis
from scipy import stats

from vaexprs.cli.options import gene_list
from vaexprs.differential_privacy import accounting as guarantee
from vaexprs.differential_privacy import dp_sgd as dpsgd
from vaexprs.differential_privacy import latent, marginals, mechanisms, profiles
from vaexprs.differential_privacy.accounting import Guarantee, Privacy, plan
from vaexprs.differential_privacy.randomness import Randomness
from vaexprs.likelihoods import likelihood_named
from vaexprs.nn.build import build_vae
from vaexprs.preprocessing.conditions import Conditions
from vaexprs.preprocessing.summary import summarise
from vaexprs.privacy import answers as audit_answers
from vaexprs.report import collect, reproduce
from vaexprs.report.render import Page, render

CLI = (sys.executable, "-m", "vaexprs")


@pytest.fixture(scope="module")
def cells() -> ad.AnnData:
    demo = vx.demo_cells()
    counts = np.ravel(demo.X.sum(axis=0))
    kept = demo[:, np.sort(np.argsort(-counts)[:60])].copy()
    kept.obs["donor"] = pd.Categorical([f"d{i % 40}" for i in range(kept.n_obs)])
    return kept[np.ravel(kept.X.sum(axis=1)) > 0].copy()


def fitted(cells, epsilon=3.0, seed=1, unit="cell", **arguments) -> vx.VAEFit:
    arguments = {"label_key": "cell_type", "epochs": 5, "verbose": 0} | arguments
    return vx.fit_vae(cells, privacy=Privacy(epsilon, 1e-4, unit, insecure_test_seed=seed), **arguments)


@pytest.fixture(scope="module")
def fit(cells) -> vx.VAEFit:
    return fitted(cells, seed=None)


# accounting


@pytest.mark.parametrize(("rate", "steps", "noise"), [(0.1, 200, 2.0), (0.01, 1500, 0.9), (1.0, 30, 8.0)])
def test_training_costs_as_much_as_in_jax_privacy(rate, steps, noise):
    units = 10_000
    planned = Guarantee(1.0, 1e-5, "cell", units, 1, 1e9, 1e9, noise, rate, steps)
    theirs = analysis.DpsgdTrainingAccountant(
        accountants.PldAccountantConfig(value_discretization_interval=guarantee.INTERVAL)
    ).compute_epsilon(
        steps,
        analysis.DpParams(
            noise_multipliers=noise, num_samples=units, delta=1e-5, batch_size=round(rate * units)
        ),
    )
    # two releases with a billion times the noise cost nothing that shows
    assert guarantee.spent(planned) == pytest.approx(theirs, rel=1e-6)


def test_releases_alone_cost_what_the_gaussian_mechanism_does():
    planned = Guarantee(1.0, 1e-5, "cell", 100, 1, 3.0, 4.0, 0.0, 0.1, 0)
    together = 1 / np.sqrt(1 / 3.0**2 + 1 / 4.0**2)
    assert guarantee.spent(planned) == pytest.approx(
        dp_accounting.get_epsilon_gaussian(together, 1e-5), rel=1e-3
    )


@pytest.mark.parametrize(
    ("epsilon", "rate", "steps"), [(0.1, 0.01, 3000), (3.0, 0.2, 300), (10.0, 0.2, 300), (100.0, 1.0, 5)]
)
def test_a_plan_spends_nearly_the_whole_budget_and_never_more(epsilon, rate, steps):
    planned = plan(Privacy(epsilon, 1e-5), units=5_000, rate=rate, steps=steps, cells_per_unit=1)
    assert 0.99 * epsilon < planned.epsilon <= epsilon
    assert guarantee.spent(planned) == pytest.approx(planned.epsilon, rel=1e-3)
    fewer = planned.after(steps // 2)
    assert fewer.epsilon < planned.epsilon
    assert fewer.steps == steps // 2


def test_a_guarantee_is_the_same_after_json():
    planned = plan(Privacy(2.0, 1e-5, "donor"), units=500, rate=0.1, steps=100, cells_per_unit=32)
    assert Guarantee.from_dict(json.loads(json.dumps(planned.to_dict()))) == planned
    assert planned.sentence == "(2, 1e-05)-differentially private for each 'donor' of 500"


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"epsilon": 0}, ValueError, r"epsilon.*\b0\.001\b.*\b0\b"),
        ({"epsilon": -1}, ValueError, r"epsilon.*\b0\b.*-1\b"),
        ({"epsilon": float("inf")}, ValueError, r"epsilon.*finite"),
        ({"epsilon": "3"}, TypeError, r"epsilon.*number.*'3'"),
        ({"epsilon": 3, "delta": 0}, ValueError, r"delta.*\b0\b.*\b0\b.*\b1e-5\b"),
        ({"epsilon": 3, "delta": 1}, ValueError, r"delta.*\b0\b.*\b1\b.*\b1\b"),
        ({"epsilon": 3, "unit": 5}, TypeError, r"\bunit\b.*'cell'.*\bobs\b.*\b5\b"),
        ({"epsilon": 3, "insecure_test_seed": 2**128}, ValueError, r"insecure_test_seed.*2\*\*128.*\d{39}"),
        ({"epsilon": 3, "insecure_test_seed": -1}, ValueError, r"insecure_test_seed.*\b0\b.*-1"),
    ],
)
def test_arguments_of_privacy_are_checked(arguments, error, words):
    with pytest.raises(error, match=words):
        Privacy(**arguments)


@pytest.mark.parametrize("delta", [1 / 40, 0.1])
def test_a_delta_of_one_over_the_units_or_more_is_refused(delta):
    with pytest.raises(ValueError, match=r"delta must be less than 1 over.*\b40\b.*'donor'.*Try 0\.001"):
        plan(Privacy(3, delta, "donor"), units=40, rate=0.5, steps=10, cells_per_unit=32)


# bounds


def small_model(x: np.ndarray, levels: int = 2):
    return build_vae(
        [keras.layers.Dense(8, activation="relu")],
        [],
        likelihood=likelihood_named("nb")(),
        x=x,
        summary=summarise(x, "x"),
        level_cells=[len(x) // levels] * levels,
        latent_dim=3,
        regularization=1.0,
        seed=0,
    )


def gradients(x: np.ndarray, clip: float, together: int | None = None):
    model = small_model(np.random.default_rng(0).poisson(2, (50, x.shape[-1])).astype(np.float32))
    weights = [variable.value for variable in model.trainable_variables]
    n, cells = x.shape[:2]
    code = np.broadcast_to(np.eye(2, dtype=np.float32)[np.arange(n) % 2][:, None], (n, cells, 2))
    part = np.full((n, cells), 1 / cells, np.float32)
    function = dpsgd.clipped_gradient(model, clip, together)
    return function, (weights, x, code, part, jax.random.key(0))


def length(tree) -> float:
    return float(np.sqrt(sum(np.sum(np.asarray(part, np.float64) ** 2) for part in tree)))


@pytest.mark.slow
def test_an_outlier_of_a_million_counts_moves_a_step_by_no_more_than_the_bound():
    rng = np.random.default_rng(1)
    ordinary = rng.poisson(2, (9, 1, 20)).astype(np.float32)
    outlier = np.zeros((1, 1, 20), np.float32)
    outlier[0, 0, 3] = 1e6
    function, arguments = gradients(np.concatenate([ordinary, outlier]), clip=1.0)
    everything = function(*arguments)
    padding = np.zeros(10, bool)
    padding[-1] = True
    without = function(*arguments, is_padding_example=padding)
    moved = length([a - b for a, b in zip(everything, without, strict=True)])
    assert moved == pytest.approx(1.0, abs=1e-3)  # it is at the bound, and would be far beyond it
    unbounded, arguments = gradients(np.concatenate([ordinary, outlier]), clip=1e12)
    assert length(unbounded(*arguments)) > 1e3


@pytest.mark.slow
def test_gradients_that_are_not_finite_are_ignored():
    x = np.full((2, 1, 20), 2, np.float32)
    x[1] = np.nan
    function, arguments = gradients(x, clip=1.0)
    assert length(function(*arguments)) <= 1 + 1e-4


@pytest.mark.slow
def test_the_sum_does_not_depend_on_how_many_units_are_computed_together():
    x = np.random.default_rng(2).poisson(3, (8, 2, 20)).astype(np.float32)
    sums = []
    for together in (None, 2, 8):
        function, arguments = gradients(x, 1.0, together)
        sums.append(function(*arguments))
    for other in sums[1:]:
        for a, b in zip(sums[0], other, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_each_unit_has_its_own_latent_noise():
    same = np.broadcast_to(np.random.default_rng(3).poisson(3, (1, 1, 20)), (2, 1, 20)).astype(np.float32)
    function, (weights, x, _, part, key) = gradients(same, clip=1e12)
    code = np.broadcast_to(np.array([1.0, 0.0], np.float32), (2, 1, 2))
    one = [
        function(weights, x, code, part, key, is_padding_example=np.array(hidden))
        for hidden in ([False, True], [True, False])
    ]
    assert length([a - b for a, b in zip(*one, strict=True)]) > 1e-3


def test_a_donor_has_weight_one_for_any_number_of_cells():
    units = mechanisms.Units(np.repeat([0, 1], [1, 99]), 2)
    assert units.weights[:1].sum() == pytest.approx(1)
    assert units.weights[1:].sum() == pytest.approx(1)


def test_poisson_sampling_is_independent_between_units():
    rng = Randomness(0)
    sizes = [len(dpsgd._sampled_units(1000, 0.2, rng)) for _ in range(2000)]
    assert np.mean(sizes) == pytest.approx(200, abs=1)
    assert np.var(sizes) == pytest.approx(1000 * 0.2 * 0.8, rel=0.1)  # that of a binomial number, not 0
    pairs = np.zeros((2, 2))
    for _ in range(5000):
        drawn = np.isin([3, 4], dpsgd._sampled_units(10, 0.5, rng)).astype(int)
        pairs[drawn[0], drawn[1]] += 1
    assert stats.chi2_contingency(pairs).pvalue > 1e-3


@pytest.mark.parametrize("n_keys", [0, 1, 2])
def test_noise_of_the_releases_has_the_size_that_was_planned(n_keys):
    rng = np.random.default_rng(0)
    n, genes = 400, 30
    x = rng.poisson(3, (n, genes)).astype(np.float32) + 1
    levels = {"type": ("a", "b"), "batch": ("x", "y", "z")}
    levels = dict(list(levels.items())[:n_keys])
    obs = pd.DataFrame({key: rng.choice(of, n) for key, of in levels.items()}, index=np.arange(n).astype(str))
    conditions = Conditions("type" if n_keys else None, levels)
    overall = rng.dirichlet(np.ones(genes)) ** 0.5  # not that of these cells, as if there were much noise

    def both(rows, units):
        sums = marginals.marginal_sums(x[rows], obs[rows], conditions, units)
        if not n_keys:
            return sums
        more = profiles.deviation_sums(x[rows], obs[rows], conditions, units, overall, marginals.IN_DEVIATION)
        return mechanisms.Sums(sums.parts + more.parts, sums.shares + more.shares)

    check_noise_and_length(both, n)


def test_noise_of_the_density_has_the_size_that_was_planned():
    rng = np.random.default_rng(1)
    n = 300
    points = rng.standard_normal((n, 4))
    points /= np.linalg.norm(points, axis=1, keepdims=True)  # as long as they may be
    combination = rng.integers(0, 3, n)
    check_noise_and_length(
        lambda rows, units: latent.density_sums(points[rows], combination[rows], 3, units), n
    )


def check_noise_and_length(sums_of, n: int, multiplier: float = 5.0) -> None:
    everybody = np.ones(n, bool)
    exact = sums_of(everybody, mechanisms.Units(np.arange(n), n, single=True))
    noisy = [exact.with_noise(multiplier, Randomness(i)) for i in range(200)]
    planned = noisy[0][1]
    for i, (part, sd) in enumerate(zip(exact.parts, planned, strict=True)):
        if part.size < 2:
            continue
        added = np.stack([parts[i] for parts, _ in noisy]) - part
        assert np.sqrt(np.mean(added**2)) == pytest.approx(sd, rel=0.2)
    # one unit less: what changes, each part in units of its noise multiplier, has a length of at most one
    for gone in range(5):
        rest = np.arange(n) != gone
        less = sums_of(rest, mechanisms.Units(np.arange(n - 1), n - 1, single=True))
        change = [
            ((a - b) * multiplier / sd).ravel()
            for a, b, sd in zip(exact.parts, less.parts, planned, strict=True)
        ]
        assert 0.5 < np.linalg.norm(np.concatenate(change)) <= 1 + 1e-6
    # and so has a donor with many cells
    donors = np.minimum(np.arange(n) // 10, 9)
    both = sums_of(everybody, mechanisms.Units(donors, 10))
    rest = donors > 0
    less = sums_of(rest, mechanisms.Units(donors[rest] - 1, 9))
    change = [
        ((a - b) * multiplier / sd).ravel() for a, b, sd in zip(both.parts, less.parts, planned, strict=True)
    ]
    assert 0.1 < np.linalg.norm(np.concatenate(change)) <= 1 + 1e-6


# the fit


def test_a_private_fit_generates_the_requested_cells(fit, cells):
    assert fit.guarantee.epsilon <= 3
    assert fit.guarantee.units == cells.n_obs
    assert fit.guarantee.steps == 25  # 5 epochs of steps with a fifth of the cells
    assert fit.guarantee.rate == pytest.approx(0.2, abs=1e-3)
    made = vx.gen_exprs(fit, labels={"Dendritic": 300}, library_size=2000, seed=1, progress=False).adata
    assert made.shape == (300, 60)
    assert set(made.obs["cell_type"]) == {"Dendritic"}
    x = made.X.toarray()
    assert (x == np.round(x)).all()
    assert (x >= 0).all()
    assert np.median(x.sum(axis=1)) == pytest.approx(2000, rel=0.1)
    assert made.uns["vaexprs"]["privacy"] == fit.guarantee.sentence
    assert "3, 0.0001)-differentially private for each cell" in fit.guarantee.sentence


@pytest.mark.slow
def test_with_a_loose_budget_the_model_learns_the_profiles(cells):
    loose = fitted(cells, epsilon=200.0, epochs=20)
    made = vx.gen_exprs(loose, labels={"CD19+ B": 300, "CD14+ Monocyte": 300}, seed=1, progress=False).adata
    correlations = {}
    for label in ("CD19+ B", "CD14+ Monocyte"):
        profile = np.log1p(np.ravel(made[made.obs["cell_type"] == label].X.mean(axis=0)))
        for real in ("CD19+ B", "CD14+ Monocyte"):
            truth = np.log1p(np.ravel(cells[cells.obs["cell_type"] == real].X.mean(axis=0)))
            correlations[label, real] = np.corrcoef(profile, truth)[0, 1]
    for label in ("CD19+ B", "CD14+ Monocyte"):
        other = next(real for real in ("CD19+ B", "CD14+ Monocyte") if real != label)
        assert correlations[label, label] > 0.9
        assert correlations[label, label] > correlations[label, other]


@pytest.mark.slow
def test_the_same_test_seed_gives_the_same_model_and_another_one_another(cells):
    one, again, other = fitted(cells), fitted(cells), fitted(cells, seed=2)
    for a, b in zip(one.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(one.density.pooled, again.density.pooled)
    assert not np.array_equal(one.density.pooled, other.density.pooled)


def test_a_private_fit_holds_no_cell_no_loss_and_no_fingerprint(fit, cells, tmp_path):
    assert fit.preprocessing.train is None
    assert dict(fit.history) == {}
    assert "data" not in fit.recipe
    path = fit.save(tmp_path / "model")
    meta = json.loads((path / "meta.json").read_text())
    assert meta["recipe"]["arguments"]["privacy"] == {
        "epsilon": 3.0,
        "delta": 1e-4,
        "unit": "cell",
        "levels": "public",
    }
    assert "seed" not in json.dumps(meta["guarantee"] | meta["recipe"]["arguments"])
    assert meta["history"] == {}
    assert "loss" not in repr(fit)
    assert fit.guarantee.sentence in repr(fit)
    assert fit.guarantee.sentence in fit._repr_html_()
    card = (path / "README.md").read_text()
    assert "3, 0.0001)-differentially private for each cell" in card
    assert "noisy numbers of cells" in card
    assert not {word for word in ("loss", "SHA-256", "training data") if word in card}
    loaded = vx.load_vae(path)
    assert loaded.guarantee == fit.guarantee
    one, two = (vx.gen_exprs(f, 20, seed=3, progress=False).adata.X for f in (fit, loaded))
    assert (one != two).nnz == 0


@pytest.mark.parametrize("steps", ["gone", "many", float("inf"), -1, True])
def test_a_damaged_guarantee_is_reported(fit, tmp_path, steps):
    path = fit.save(tmp_path / "model")
    meta = json.loads((path / "meta.json").read_text())
    meta["guarantee"]["steps"] = steps
    if steps == "gone":
        del meta["guarantee"]["steps"]
    (path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(ValueError, match=r"damaged"):
        vx.load_vae(path)


def test_a_network_that_would_learn_less_than_the_noise_is_not_trained(cells):
    fit = fitted(cells, epsilon=3.0, unit="donor", epochs=None)
    assert fit.guarantee.steps == 0
    assert 2.98 < fit.guarantee.epsilon <= 3
    assert guarantee.spent(fit.guarantee) == pytest.approx(fit.guarantee.epsilon, rel=1e-3)
    assert "no training" in reproduce.privacy_statements(fit)[1]
    head = fit.model.get_layer("output")  # the released profiles, not averages of weights without a step
    np.testing.assert_allclose(np.exp(np.asarray(head.bias.value)).sum(), 1, rtol=1e-3)
    assert np.abs(np.asarray(head.effect.value)).max() > 1e-3
    assert vx.gen_exprs(fit, 10, seed=1, progress=False).adata.shape == (10, 60)


def test_the_weights_of_given_layers_count_in_the_decision_to_train(cells):
    # the default network would be trained
    fit = fitted(cells, epochs=None, encoder_layers=[keras.layers.Dense(2**14)])
    assert fit.guarantee.steps == 0


def test_low_leakage_of_a_private_fit_points_to_evaluate(cells):
    with pytest.warns(UserWarning, match="nothing usable"):
        fit = fitted(cells, unit="donor", epsilon=0.1, epochs=None)
    assert re.search(
        "nothing usable.*usable: check them with evaluate", reproduce.privacy_statements(fit)[-1]
    )
    made = vx.gen_exprs(fit, 200, seed=1, progress=False).adata
    table = vx.audit_privacy(made, cells[::2], cells[1::2])
    found = audit_answers.answer(table)
    assert found.light == "green"
    assert "no leak. Low leakage is of no use unless the cells are usable" in found.sentence
    del made.uns["vaexprs"]["privacy"]
    assert "usable" not in audit_answers.answer(vx.audit_privacy(made, cells[::2], cells[1::2])).sentence


def test_few_large_deviations_are_shrunk_less_than_noise():
    rng = np.random.default_rng(0)
    overall = np.full(1_000, 1.0)
    true = np.zeros((2, 1_000))
    true[0, :20] = 3.0
    deviations = true + rng.normal(0, 0.5, true.shape)
    found = profiles.shrunken_levels(deviations, overall, np.full(2, 0.5)) - overall
    normal = (1 - 1_000 * 0.25 / (deviations[0] ** 2).sum()) * deviations[0]  # with a normal prior
    assert found[0, :20].mean() > 1.3 * normal[:20].mean()
    assert found[0, 20:].std() < 0.9 * normal[20:].std()
    assert np.sum((found[0] - true[0]) ** 2) < 0.6 * np.sum((normal - true[0]) ** 2)
    assert found[1].std() < 0.15
    extreme = profiles.shrunken_levels(np.full((1, 3), 1e3), np.array([1e-9, 1.0, 1.0]), np.full(1, 1e-9))
    np.testing.assert_allclose(extreme, 1e3, rtol=1e-2)


def test_donors_with_some_of_the_labels_have_the_deviations_of_those_with_all():
    # deviations from the mean over the labels that a donor has would be smaller
    x = np.repeat([[90, 10, 10, 10], [10, 90, 10, 10], [10, 10, 90, 10], [10, 10, 10, 90]], 50, axis=0)
    conditions = Conditions("type", {"type": tuple("abcd")})
    obs = pd.DataFrame({"type": np.repeat(list("abcd"), 50)})
    overall = np.full(4, 0.5)
    found = []
    for donors in (np.tile(np.arange(50), 4), np.tile(np.arange(100), 2)):  # all labels; two of them
        units = mechanisms.Units(donors, donors.max() + 1)
        (sums,) = profiles.deviation_sums(x, obs, conditions, units, overall, 1.0).parts
        found.append(np.diag(sums))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)


def test_noise_hardly_changes_equal_numbers_of_donors():
    noisy = np.random.default_rng(0).normal(130, 30, 10)
    found = marginals._numbers_of_units(noisy, 30.0, mechanisms.Units(np.arange(200), 200))
    assert np.abs(found - 130).max() < 25 < np.abs(noisy - 130).max()
    different = np.array([50.0, 100, 150, 200])
    found = marginals._numbers_of_units(different, 1.0, mechanisms.Units(np.arange(200), 200))
    np.testing.assert_allclose(found, different, rtol=0.01)


def test_labels_of_few_cells_count_as_much_as_others_for_donors():
    rng = np.random.default_rng(0)
    n, genes = 200, 30
    profile = {"common": rng.dirichlet(np.ones(genes)), "rare": rng.dirichlet(np.ones(genes))}
    labels = np.tile(["common"] * 19 + ["rare"], n)
    x = np.array([rng.multinomial(2_000, profile[label]) for label in labels]).astype(np.float32)
    conditions = Conditions("type", {"type": ("common", "rare")})
    units = mechanisms.Units(np.arange(20 * n) // 20, n)
    released = marginals.release_marginals(
        x, pd.DataFrame({"type": labels}), conditions, units, 2.0, Randomness(1)
    )
    for column, label in enumerate(("common", "rare")):
        found = released.proportions * np.exp(released.effects[column])
        found /= found.sum()
        assert np.abs(found - profile[label]).sum() / 2 < 0.15  # a quarter of what the labels differ by
    assert np.abs(profile["common"] - profile["rare"]).sum() / 2 > 0.4


@pytest.mark.slow
def test_donors_as_units_and_a_warning_for_few(cells):
    with pytest.warns(UserWarning, match=r"\b40 units \('donor'\).*nothing usable"):
        fit = fitted(cells, epsilon=1.0, unit="donor", epochs=2)
    assert fit.guarantee.unit == "donor"
    assert fit.guarantee.units == 40
    assert fit.guarantee.cells_per_unit == 32
    assert vx.gen_exprs(fit, 10, seed=1, progress=False).adata.shape == (10, 60)


@pytest.mark.slow
def test_every_label_can_be_generated_despite_strong_noise(cells):
    for seed in range(3):
        fit = fitted(cells, epsilon=0.1, seed=seed, epochs=1)
        labels = list(fit.preprocessing.conditions.labels)
        made = vx.gen_exprs(fit, labels=dict.fromkeys(labels, 3), seed=1, progress=False).adata
        assert made.n_obs == 3 * len(labels)
        assert np.isfinite(made.X.toarray()).all()


@pytest.mark.slow
def test_without_a_label(cells):
    alone = fitted(cells, label_key=None, likelihood="poisson", epochs=1)
    assert vx.gen_exprs(alone, 5, seed=1, progress=False).adata.n_obs == 5


@pytest.mark.slow
def test_other_likelihoods_layers_and_optimizers(cells):
    hidden = [keras.layers.Dense(8, activation="relu")]
    fit = fitted(
        cells,
        likelihood="zinb",
        covariate_keys=["phase"],
        epochs=1,
        encoder_layers=hidden,
        decoder_layers=hidden,
        optimizer="sgd",
        latent_dim=3,
    )
    assert fit.latent_dim == 3
    made = vx.gen_exprs(
        fit, labels={"Dendritic": 4}, covariates={"phase": "G1"}, seed=1, progress=False
    ).adata
    assert set(made.obs["phase"].astype(str)) == {"G1"}
    assert np.isfinite(made.X.toarray()).all()


@pytest.mark.slow
def test_a_matrix_left_on_disk_gives_what_one_in_memory_gives(cells, tmp_path, monkeypatch):
    from vaexprs.io import stores as ondisk

    cells.write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.setattr(ondisk, "IN_MEMORY", 1)
    on_disk = fitted(tmp_path / "cells.h5ad", epochs=1, unit="donor")
    in_memory = fitted(cells, epochs=1, unit="donor")
    for a, b in zip(on_disk.model.get_weights(), in_memory.model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5)


# what would break the guarantee


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"n_top_genes": 20},
            r"n_top_genes.*privacy",
        ),
        (
            {"validation_split": 0.1},
            r"validation_split.*privacy",
        ),
        ({"x_val": np.ones((3, 60))}, r"x_val.*privacy"),
        ({"callbacks": [keras.callbacks.EarlyStopping()]}, r"callbacks.*privacy"),
        ({"sample_weight": np.ones(3)}, r"sample_weight.*privacy"),
        ({"checkpoint": "c"}, r"checkpoint.*privacy"),
        ({"continuous_keys": ["age"]}, r"continuous_keys cannot be combined with privacy.*covariate_keys"),
        ({"likelihood": "gaussian"}, r"likelihood.*counts.*privacy"),
        (
            {"encoder_layers": [keras.layers.Dense(4), keras.layers.BatchNormalization()]},
            r"state.*weights.*privacy.*'batch_normalization",
        ),
        ({"decoder_layers": [keras.layers.Dense(4), keras.layers.Dropout(0.5)]}, "Dropout"),
        (
            {"encoder_layers": [keras.layers.Dense(4), keras.layers.Softmax(axis=0)]},
            r"separately.*'softmax'.*axis=-1",
        ),
    ],
)
def test_what_would_break_the_guarantee_is_refused(cells, arguments, words):
    with pytest.raises(ValueError, match=words):
        fitted(cells, **arguments)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["cell", "donor"])
def test_cells_with_few_counts_are_left_out_without_a_message(cells, unit, recwarn):
    totals = np.ravel(cells.X.sum(axis=1))
    least = int(np.median(totals))
    few = np.flatnonzero(totals < least)
    other = cells.copy()  # with other cells instead of those with few counts
    x = other.X.toarray()
    x[few] = 0
    x[few, 3] = 1
    other.X = x
    arguments = {"unit": unit, "epochs": 1, "min_counts": least, "genes": list(cells.var_names[:50])}
    one, two = (fitted(given, **arguments) for given in (cells, other))
    assert one.guarantee.units == two.guarantee.units == (cells.n_obs if unit == "cell" else 40)
    for a, b in zip(one.model.get_weights(), two.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not [w for w in recwarn if "left out" in str(w.message)]
    everything = fitted(cells, **arguments | {"min_counts": 1})
    assert not np.array_equal(one.density.pooled, everything.density.pooled)


def test_an_earlier_preprocessing_is_refused(fit, cells):
    with pytest.raises(ValueError, match=r"preprocessing.*privacy"):
        fitted(cells, preprocessing=fit.preprocessing)


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        ("doner", r"\bunit\b.*'cell'.*\bobs\b.*'donor'"),
        ("cell_type", r"\bunit\b.*conditions.*'cell_type'"),
        ("same", r"units.*'same'.*\b1\b"),
        ("gap", r"'gap'.*value.*\bcell\b.*\b1\b"),
    ],
)
def test_an_invalid_unit_is_refused(cells, unit, words):
    wrong = cells.copy()
    wrong.obs["same"] = "d"
    wrong.obs["gap"] = ["d", *[None] * 1, *["e"] * (cells.n_obs - 2)]
    with pytest.raises(ValueError, match=words):
        fitted(wrong, unit=unit)


def test_privacy_must_be_a_privacy(cells):
    with pytest.raises(TypeError, match=r"^privacy\b.*vaexprs\.Privacy"):
        vx.fit_vae(cells, privacy=3.0)


# from the shell, and in the report


def test_a_unit_without_an_epsilon_is_no_privacy_and_refused(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    done = run("fit", "cells.h5ad", "--out", "model", "--unit", "donor", cwd=tmp_path)
    assert done.returncode == 2
    assert re.search(r"--unit.*--epsilon", done.stderr), done.stderr
    assert not (tmp_path / "model").exists()


@pytest.mark.faults
def test_ctrl_c_keeps_the_model_and_reports_the_epsilon_spent(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    command = [*CLI, "fit", "cells.h5ad", "--out", "model", "--label-key", "cell_type"]
    process = subprocess.Popen(
        [*command, "--epsilon", "3", "--delta", "1e-4", "--epochs", "100000"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    seen = ""
    for line in process.stderr:  # the bar writes its first line when training begins
        seen += line
        if "fitting with privacy" in line:
            break
    time.sleep(5)
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=300)
    assert process.returncode == 130, seen + rest
    assert "part of the training" in rest
    assert "--resume" not in rest
    saved = json.loads((tmp_path / "model" / "meta.json").read_text())["guarantee"]
    assert 0 < saved["steps"] < 500_000
    assert 0 < saved["epsilon"] < 3
    assert not (tmp_path / "model.checkpoint").exists()


def test_the_report_states_the_guarantee_and_its_limits(fit):
    sentences = reproduce.privacy_statements(fit)
    assert "(3, 0.0001)-differentially private for each cell" in sentences[0]
    assert f"{fit.guarantee.steps} steps" in sentences[1]
    assert "real cells" in sentences[2]
    nothing = pd.DataFrame(
        columns=["metric", "label", "value", "floor", "floor_low", "floor_high", "verdict"]
    )
    html = render(Page("A report", {}, [], nothing, guarantee=sentences))
    assert sentences[0] in html
    assert sentences[2] in html
    code = reproduce.code(fit, {}, 10, given=False, label_key=None, donor_key=None, layer=None, seed=0)
    assert "privacy=vx.Privacy(epsilon=3.0, delta=0.0001, unit='cell', levels='public')," in code
    model = collect.of_model(fit)
    assert not model["epochs"].isdigit()
    assert "trained on" not in model


def test_shares_are_the_nearest_nonnegative_ones():
    np.testing.assert_allclose(marginals.on_simplex(np.array([0.7, 0.5, -0.4])), [0.6, 0.4, 0.0])
    np.testing.assert_allclose(marginals.on_simplex(np.array([0.2, 0.3, 0.5])), [0.2, 0.3, 0.5])


@pytest.mark.parametrize("depth", [100, 5_000, 100_000])
@pytest.mark.parametrize(("noise", "error"), [(1e-4, 0.01), (0.02, 0.3), (10.0, 3.0)])
def test_library_sizes_are_found_despite_noise(depth, noise, error):
    rng = np.random.default_rng(0)
    log10 = np.log10(depth) + rng.normal(0, 0.5 / np.log(10), 20_000)
    statistics = marginals._depth_statistics(log10)
    assert np.linalg.norm(statistics, axis=0).max() <= 1
    mean = statistics.mean(axis=1)
    for _ in range(10):
        middle, spread = marginals._library(mean + noise * rng.standard_normal(2), noise)
        assert abs(middle - np.log(depth)) < error * max(1, abs(np.log(depth / 1_600)))
        assert 0.1 <= spread <= 1.5
    if noise < 1e-3:
        assert spread == pytest.approx(0.5, abs=0.05)


def test_library_sizes_out_of_range_are_bounded():
    assert np.linalg.norm(marginals._depth_statistics(np.array([0.0, 9.0, 1.0, 6.0])), axis=0).max() <= 1


def test_deviations_of_donors_are_clipped_together():
    rng = np.random.default_rng(0)
    x = np.zeros((40, 20), np.float32)
    x[np.arange(40), rng.integers(0, 20, 40)] = 1e6  # each cell has one gene: deviations are large
    obs = pd.DataFrame({"type": ["a", "b"] * 20})
    conditions = Conditions("type", {"type": ("a", "b")})
    units = mechanisms.Units(np.arange(40) // 2, 20)
    overall = np.full(20, 20**-0.5)
    assert (
        np.linalg.norm(
            profiles.profile_sum(x[:2], obs[:2], conditions, mechanisms.Units(np.zeros(2, int), 1))
        )
        <= 1
    )
    for donor in range(20):
        rows = units.of == donor
        sums = profiles.deviation_sums(
            x[rows], obs[rows], conditions, mechanisms.Units(np.zeros(2, int), 1), overall, 0.7
        )
        assert np.linalg.norm(sums.parts[0]) == pytest.approx(1)
    together = profiles.deviation_sums(x, obs, conditions, units, overall, 0.7)
    assert np.linalg.norm(together.parts[0]) < 20


def test_a_list_of_genes_from_the_shell(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    names = list(cells.var_names[[3, 1, 40]])
    (tmp_path / "panel.txt").write_text("\n".join([*names, "NoSuchGene", ""]))
    (tmp_path / "panel.csv").write_text("".join(f'"{name}",marker\n' for name in names))
    for file in ("panel.txt", "panel.csv"):
        found = gene_list(tmp_path / file)
        assert found[:3] == names
    assert gene_list(tmp_path / "cells.h5ad") == list(cells.var_names)
    done = run("fit", "cells.h5ad", "--out", "model", "--genes", "none.txt", cwd=tmp_path)
    assert done.returncode == 2
    assert "none.txt" in done.stderr
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"--genes.*empty\.txt"):
        gene_list(tmp_path / "empty.txt")


def test_genes_of_a_list_are_fitted(cells):
    fit = vx.fit_vae(cells, genes=list(cells.var_names[:20]), epochs=1, verbose=0)
    assert list(fit.genes) == list(cells.var_names[:20])
    assert fit.recipe["arguments"]["genes"] == "20 names"
    code = reproduce.code(fit, {}, 10, given=False, label_key=None, donor_key=None, layer=None, seed=0)
    assert "# genes: 20 names; pass the original objects" in code
