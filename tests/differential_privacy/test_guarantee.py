"""What is promised: epsilon by other methods, words, saved guarantees, and sets of cells with real ones."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

import vaexprs as vx

pytest.importorskip("jax_privacy", reason="jax-privacy is not installed")

import dp_accounting
import keras

from vaexprs.differential_privacy.accounting import Guarantee, Privacy, least_epsilon, plan
from vaexprs.differential_privacy.independence import check_independence, encode_separately
from vaexprs.differential_privacy.marginals import IN_DEVIATION
from vaexprs.differential_privacy.mechanisms import CELL_DEVIATION, DONOR_DEVIATION
from vaexprs.differential_privacy.usefulness import expectation, signal_to_noise
from vaexprs.generation.generated import join_real
from vaexprs.likelihoods import likelihood_named
from vaexprs.nn.build import build_vae
from vaexprs.nn.predict import encode, posterior
from vaexprs.preprocessing.conditions import Conditions
from vaexprs.preprocessing.summary import summarise
from vaexprs.report import reproduce

PLANS = [
    (3.0, 1937, 0.2, 300, 1e-5),
    (1.0, 1937, 0.2, 300, 1e-5),
    (0.3, 20_000, 1024 / 20_000, 600, 1e-6),
    (10.0, 200, 0.2, 300, 1e-4),
    (3.0, 100, 1.0, 20, 1e-4),
    (3.0, 20, 1.0, 0, 1e-5),  # without training
    (10.0, 20, 1.0, 0, 1e-5),
    (3.0, 1937, 0.2, 300, 1e-5, "private"),
]


def planned(epsilon, units, rate, steps, delta, levels="public", unit="cell", **arguments) -> Guarantee:
    privacy = Privacy(epsilon, delta, unit, levels=levels)
    return plan(privacy, units=units, rate=rate, steps=steps, cells_per_unit=1, **arguments)


def multipliers(guarantee: Guarantee) -> list[float]:
    """Return the noise multipliers of all releases besides training."""
    return [value for value in (guarantee.levels, guarantee.marginals, guarantee.density) if value]


@pytest.fixture(scope="module")
def cells() -> ad.AnnData:
    demo = vx.demo_cells()
    counts = np.ravel(demo.X.sum(axis=0))
    return demo[:, np.sort(np.argsort(-counts)[:60])].copy()


@pytest.fixture(scope="module")
def fit(cells) -> vx.VAEFit:
    with pytest.warns(
        UserWarning, match=r"^Single cells are protected, not donors: .*'sample'.*--unit sample"
    ):
        return fitted(cells.copy(), insecure_test_seed=None, covariate_keys=["sample"])


def fitted(cells, epsilon=3.0, delta=1e-4, insecure_test_seed=1, **arguments) -> vx.VAEFit:
    cells.obs["sample"] = pd.Categorical(np.where(np.arange(cells.n_obs) % 2, "s1", "s2"))
    privacy = Privacy(epsilon, delta, insecure_test_seed=insecure_test_seed)
    return vx.fit_vae(
        cells, privacy=privacy, **({"label_key": "cell_type", "epochs": 1, "verbose": 0} | arguments)
    )


# epsilon


def fft_epsilon(guarantee: Guarantee, spacing: float = 2e-4, limit: float = 60.0) -> float:
    """Return epsilon from a Fourier transform of discretised privacy losses (Koskela et al. 2020)."""
    n = int(2 * limit / spacing) // 2 * 2
    losses = (np.arange(n) - n // 2) * spacing
    q, noise = guarantee.rate, guarantee.training or 1.0  # of no step if there is no noise

    def discretised(cdf) -> np.ndarray:  # the losses are rounded up
        return np.maximum(np.diff(cdf(losses), prepend=cdf(losses[:1] - spacing)), 0)

    def gaussian(sd):
        return lambda loss: norm.cdf((loss - 1 / (2 * sd**2)) * sd)

    def threshold(loss):  # of the result of a step with this log likelihood ratio
        odds = (np.exp(loss) - (1 - q)) / q
        return np.where(odds > 0, noise**2 * np.log(np.maximum(odds, 1e-300)) + 0.5, -np.inf)

    def removed(loss):
        return (1 - q) * norm.cdf(threshold(loss) / noise) + q * norm.cdf((threshold(loss) - 1) / noise)

    def added(loss):
        return norm.sf(threshold(-loss) / noise)

    found = []
    for step in (removed, added):
        transform = np.fft.fft(np.fft.ifftshift(discretised(step))) ** guarantee.steps
        for sd in multipliers(guarantee):
            transform = transform * np.fft.fft(np.fft.ifftshift(discretised(gaussian(sd))))
        mass = np.maximum(np.fft.fftshift(np.fft.ifft(transform).real), 0)
        low, high = 0.0, 2 * guarantee.epsilon
        for _ in range(20):
            middle = (low + high) / 2
            above = losses > middle
            excess = mass[above] @ -np.expm1(middle - losses[above])
            low, high = (middle, high) if excess > guarantee.noise_delta else (low, middle)
        found.append(high)
    return (
        max(found) - (guarantee.steps + len(multipliers(guarantee))) * spacing / 2
    )  # less the mean rounding


@pytest.mark.seconds(60)
@pytest.mark.parametrize("request_", PLANS)
def test_epsilon_by_a_second_method_agrees_within_two_percent(request_):
    guarantee = planned(*request_)
    assert fft_epsilon(guarantee) == pytest.approx(guarantee.epsilon, rel=0.02)
    # Renyi differential privacy is an upper bound
    renyi = dp_accounting.rdp.RdpAccountant()
    for sd in multipliers(guarantee):
        renyi.compose(dp_accounting.GaussianDpEvent(sd))
    if guarantee.steps:
        step = dp_accounting.PoissonSampledDpEvent(
            guarantee.rate, dp_accounting.GaussianDpEvent(guarantee.training)
        )
        renyi.compose(step, guarantee.steps)
    assert guarantee.epsilon <= request_[0]
    assert guarantee.epsilon <= renyi.get_epsilon(guarantee.noise_delta) < 1.4 * guarantee.epsilon


@pytest.mark.seconds(60)
@pytest.mark.parametrize("request_", PLANS)
def test_the_lower_bound_on_epsilon_is_close_and_never_above(request_):
    guarantee = planned(*request_)
    assert 0.95 * guarantee.epsilon < least_epsilon(guarantee) <= guarantee.epsilon


def test_the_delta_of_the_threshold_is_part_of_the_promised_one():
    guarantee = planned(3.0, 500, 0.2, 0, 1e-4, "private")
    assert guarantee.threshold_delta == pytest.approx(1e-5)
    pld = dp_accounting.pld.privacy_loss_distribution
    either = dp_accounting.pld.common.DifferentialPrivacyParameters(0, guarantee.threshold_delta)
    together = pld.from_privacy_parameters(either, value_discretization_interval=1e-4)
    for sd in multipliers(guarantee):
        together = together.compose(pld.from_gaussian_mechanism(sd, value_discretization_interval=1e-4))
    assert together.get_delta_for_epsilon(guarantee.epsilon) == pytest.approx(1e-4, rel=0.01)
    # the shares of the budget
    cost = 1 / np.square(multipliers(guarantee))
    np.testing.assert_allclose(cost / cost.sum(), [0.1, 0.81, 0.09], rtol=1e-6)


def test_the_lower_bound_grows_as_the_noise_shrinks():
    bounds = [
        least_epsilon(Guarantee(1.0, 1e-5, "cell", 100, 1, 5.0, 5.0, noise, 0.2, 100))
        for noise in (8.0, 4.0, 1.0, 1e-3)
    ]
    assert (np.diff(bounds) > 0).all()
    assert bounds[-1] > 1e3


def test_delta_is_not_the_probability_that_epsilon_is_exceeded():
    # the page for data protection officers has these numbers
    for epsilon, times in ((1, 16), (3, 7), (10, 3)):
        sd = dp_accounting.get_sigma_gaussian(epsilon, 1e-5)
        assert round(norm.sf((epsilon - 1 / (2 * sd**2)) * sd) / 1e-5) == times


@pytest.mark.parametrize(
    ("delta", "said"), [(0.999 / 1937, True), (0.5 / 1937, True), (0.1 / 1937, False), (0.05 / 1937, False)]
)
def test_a_delta_above_a_tenth_of_one_over_the_units_is_warned_of(delta, said, recwarn):
    planned(3.0, 1937, 0.2, 50, delta)
    found = [str(w.message) for w in recwarn if "delta" in str(w.message)]
    assert len(found) == said
    if said:
        assert "tenth" in found[0]
        assert f"{delta * 1937:.0%}" in found[0]
        assert "1e-05" in found[0]


# a loaded guarantee


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epsilon": 0.01}, r"epsilon 0\.01.*at least"),
        ({"marginals": 0.0}, r"marginals 0"),
        ({"density": 0.0}, r"density 0"),
        ({"training": 0.0}, r"training 0"),
        ({"training": 0.01}, r"epsilon.*at least"),
        ({"delta": 0.0}, r"delta 0"),
        ({"rate": 1.5}, r"rate 1\.5"),
        ({"units": 1}, r"units 1"),
        ({"neighbours": "replace-one"}, r"neighbours 'replace-one'"),
        ({"noise_source": "a good one"}, r"noise_source 'a good one'"),
    ],
)
def test_a_guarantee_that_its_noise_cannot_give_is_refused(fit, load_with_guarantee, change, words):
    with pytest.raises(ValueError, match=words):
        load_with_guarantee(fit, change)


def test_a_guarantee_of_an_earlier_version_is_read(fit, tmp_path):
    path = fit.save(tmp_path / "model")
    meta = json.loads((path / "meta.json").read_text())
    assert meta["guarantee"].pop("noise_source") == "operating system"
    assert meta["guarantee"].pop("levels") == meta["guarantee"].pop("threshold_delta") == 0
    (path / "meta.json").write_text(json.dumps(meta))
    loaded = vx.load_vae(path).guarantee
    assert loaded.noise_source == "not recorded"
    assert loaded.levels == loaded.threshold_delta == 0


# words


def test_a_model_from_a_test_seed_says_that_it_has_no_guarantee(cells):
    fit = fitted(cells.copy())
    made = vx.gen_exprs(fit, 5, progress=False).adata
    sentences = reproduce.privacy_statements(fit)
    texts = (
        fit.guarantee.sentence,
        made.uns["vaexprs"]["privacy"],
        repr(fit),
        fit._repr_html_(),
        *sentences[:1],
    )
    for text in texts:
        assert "no guarantee" in text
        assert "insecure_test_seed" in text
    assert "no privacy guarantee" in fit.guarantee.explanation


def test_a_secret_is_deprecated_and_gives_no_guarantee(cells):
    with pytest.warns(FutureWarning, match=r"secret.*same noise.*insecure_test_seed"):
        privacy = Privacy(3, 1e-4, secret=0)
    assert privacy.source().source == "test seed"
    assert planned(3.0, 1937, 0.2, 5, 1e-5, noise_source="test seed").sentence.startswith("no guarantee")


def test_the_sentence_names_the_unit_and_calls_a_large_epsilon_weak():
    single = planned(3.0, 1937, 0.2, 50, 1e-5)
    assert (
        single.sentence
        == "(3, 1e-05)-differentially private for each cell of 1,937 (single cells, not donors)"
    )
    assert "can hardly be told apart" in single.explanation
    assert "at most 95.3% sure" in single.explanation  # e^3 / (1 + e^3) = 0.9526, rounded up
    assert "at most 99.967% sure" in planned(8.0, 1937, 0.2, 50, 1e-5).explanation
    assert "Donors are not protected" in single.explanation
    donors = planned(3.0, 200, 0.2, 50, 1e-5, unit="donor")
    assert "not donors" not in donors.sentence
    assert "'donor' with all its cells" in donors.explanation
    weak = planned(12.0, 200, 0.2, 50, 1e-5, unit="donor")
    assert weak.sentence.endswith("an epsilon above 10 is a weak guarantee")
    assert "nearly certain" in weak.explanation
    assert "hardly" not in weak.explanation


def test_numbers_of_cells_of_a_private_fit_are_called_noisy(fit):
    assert "training cells (noisy)" in fit._repr_html_()
    assert "training cells (noisy)" in vx.gen_exprs(fit, 5, progress=False)._repr_html_()
    assert "700 cells" in repr(fit)


@pytest.mark.parametrize(
    ("epsilon", "units", "unit", "genes", "levels", "words"),
    [
        (3, 1937, "cell", 763, 10, r"^$"),
        (1, 1937, "cell", 763, 10, r"in part only.*at most \d+ genes.*genes= \(--genes\)"),
        (3, 300, "cell", 16_791, 8, r"16,791 genes.*nothing usable"),
        (1, 20, "donor", 763, 8, r"^20 units \('donor'\).*nothing usable.*takes about [\d,]+ units"),
        (
            3,
            200,
            "donor",
            763,
            10,
            r"in part only, with fold changes of a quarter to three quarters.*public list",
        ),
    ],
)
def test_what_to_expect_is_said_before_the_fit(epsilon, units, unit, genes, levels, words):
    guarantee = planned(epsilon, units, 0.2, 50, 1e-5, unit=unit)
    text = expectation(guarantee, genes, [levels])
    assert pd.Series([text]).str.contains(words).item(), text


def test_the_expected_signal_is_that_of_the_released_deviations():
    cells = planned(3.0, 1937, 0.2, 50, 1e-5)
    noise = cells.marginals / np.sqrt(IN_DEVIATION / 2) * CELL_DEVIATION * np.sqrt(500)
    assert signal_to_noise(cells, 500, [10, 4]) == pytest.approx(0.5 * 1937 / 10 / noise)
    donors = planned(3.0, 200, 0.2, 50, 1e-5, unit="donor")
    noise = donors.marginals / np.sqrt(IN_DEVIATION) * DONOR_DEVIATION * np.sqrt(10 * 500)
    assert signal_to_noise(donors, 500, [10]) == pytest.approx(0.5 * 200 / noise)


# sets with real cells


def test_sets_with_real_cells_do_not_carry_the_guarantee(fit, cells):
    cells = cells.copy()
    cells.obs["sample"] = pd.Categorical(np.where(np.arange(cells.n_obs) % 2, "s1", "s2"))
    made = vx.gen_exprs(fit, 20, progress=False)
    assert made.adata.uns["vaexprs"]["privacy"] == fit.guarantee.sentence
    sets = {
        "augment": vx.augment(cells, "cell_type", fit=fit, progress=False),
        "transform": vx.transform(fit, cells[:20], sample="s1", progress=False),
        "joined": join_real(cells, made.adata),
    }
    for name, found in sets.items():
        recipe = found.uns["vaexprs"]
        assert "privacy" not in recipe, name
        assert "differential" not in json.dumps({key: str(value) for key, value in recipe.items()}), name
        assert recipe["likelihood"] == "nb", name
    assert "privacy" in made.adata.uns["vaexprs"]  # of the generated cells it stays


# nothing about single cells


def test_warnings_and_levels_of_a_private_fit_do_not_depend_on_single_cells(cells, recwarn):
    x = cells.X.toarray()
    x[:, 7] = 0
    x[3, 7] = 1
    lone = ad.AnnData(x, obs=cells.obs[["cell_type"]].copy(), var=cells.var)
    lone.obs["cell_type"] = lone.obs["cell_type"].cat.add_categories("rare")
    lone.obs.loc[lone.obs_names[3], "cell_type"] = "rare"
    rest = np.arange(lone.n_obs) != 3
    without = ad.AnnData(x[rest], obs=lone.obs[rest], var=cells.var)
    assert "rare" in without.obs["cell_type"].cat.categories
    found = []
    for given in (lone, without):
        recwarn.clear()
        fit = fitted(given, epsilon=50.0)
        warned = sorted(str(w.message) for w in recwarn if issubclass(w.category, UserWarning))
        found.append((fit.levels["cell_type"], [text for text in warned if "gene has" in text]))
    assert found[0] == found[1]
    assert "rare" in found[1][0]
    made = vx.gen_exprs(fit, labels={"rare": 3}, progress=False).adata
    assert np.isfinite(made.X.toarray()).all()


def test_a_private_fit_does_not_search_for_counts(cells):
    logged = cells.copy()
    logged.layers["counts"] = logged.X.copy()
    logged.X = np.log1p(logged.X.toarray())
    with pytest.raises(ValueError, match=r"counts.*layer=.*does not search"):
        fitted(logged.copy())
    assert fitted(logged.copy(), layer="counts").guarantee.units == cells.n_obs


# layers


def network(encoder_layers=None, decoder_layers=None):
    """Return an untrained model of 20 genes and two conditions, and cells for it with their codes."""
    x = np.random.default_rng(0).poisson(2, (50, 20)).astype(np.float32) + 1
    model = build_vae(
        encoder_layers or [keras.layers.Dense(8, activation="relu")],
        decoder_layers or [],
        likelihood=likelihood_named("nb")(),
        x=x,
        summary=summarise(x, "x"),
        level_cells=[25, 25],
        latent_dim=3,
        regularization=1.0,
        seed=0,
    )
    return model, x, np.eye(2, dtype=np.float32)[np.arange(50) % 2]


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        (lambda: [keras.layers.Softmax(axis=0)], "softmax"),
        (
            lambda: [keras.layers.Dense(8, activation="relu"), keras.layers.UnitNormalization(axis=0)],
            "unit_norm",
        ),
        (lambda: [OfBatch()], "of_batch"),
        (lambda: [GradientOfBatch()], "gradient_of_batch"),
    ],
)
@pytest.mark.parametrize("side", ["encoder_layers", "decoder_layers"])
def test_layers_that_combine_cells_are_refused(layers, named, side):
    with pytest.raises(ValueError, match=rf"separately.*{named}.*axis=-1"):
        check_independence(*network(**{side: layers()}))


@keras.saving.register_keras_serializable("tests")
class OfBatch(keras.layers.Layer):
    """Subtracts the largest total of the batch."""

    def call(self, x):
        return x - keras.ops.max(keras.ops.sum(x, axis=-1))


@keras.saving.register_keras_serializable("tests")
class GradientOfBatch(keras.layers.Layer):
    """Leaves the values as they are, but not the gradients."""

    def call(self, x):
        mean = keras.ops.mean(x, axis=0, keepdims=True)
        return x + mean - keras.ops.stop_gradient(mean)


def test_layers_that_compute_along_a_cell_are_accepted():
    hidden = [
        keras.layers.Dense(8),
        keras.layers.LayerNormalization(),
        keras.layers.UnitNormalization(),
        keras.layers.Reshape((4, 2)),
        keras.layers.Softmax(axis=1),
        keras.layers.Flatten(),
    ]
    check_independence(*network(hidden, [keras.layers.Dense(4, activation="relu")]))
    check_independence(*network())


def test_cells_are_encoded_separately():
    conditions = Conditions("type", {"type": ("a", "b")})
    obs = pd.DataFrame({"type": ["a", "b"] * 25})
    for layers, same in (([keras.layers.Dense(8)], True), ([keras.layers.Softmax(axis=0)], False)):
        model, x, _ = network(layers)
        codes = conditions.codes(obs)
        mean, sd = encode_separately(model, x, codes)
        expected = encode(posterior(model), x, codes)
        assert np.allclose(mean, expected[0], atol=1e-5) is same
        assert mean.shape == sd.shape == (50, 3)
        changed = x.copy()
        changed[7] = 0
        changed[7, 3] = 1e6
        other = encode_separately(model, changed, codes)
        rest = np.arange(50) != 7
        np.testing.assert_array_equal(other[0][rest], mean[rest])
        np.testing.assert_array_equal(other[1][rest], sd[rest])


def test_other_precisions_are_refused(cells):
    with pytest.raises(ValueError, match=r"float32.*bfloat16.*'narrow'.*dtype='float32'"):
        fitted(cells.copy(), encoder_layers=[keras.layers.Dense(4, dtype="bfloat16", name="narrow")])
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        with pytest.raises(ValueError, match=r"float32.*mixed_bfloat16.*set_dtype_policy"):
            fitted(cells.copy())
    finally:
        keras.config.set_dtype_policy("float32")
