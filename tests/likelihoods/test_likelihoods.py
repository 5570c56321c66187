"""Likelihoods: probabilities, draws, checks and last layers, against scipy.stats and scikit-learn."""

import warnings
from operator import attrgetter

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy import stats
from scipy.special import expit, gammaln, softmax, xlog1py, xlogy
from sklearn.metrics import log_loss

from vaexprs.data.demo import demo_cells
from vaexprs.data.matrix import compressed
from vaexprs.data.sparse_batch import sparse_batch
from vaexprs.likelihoods import LIKELIHOODS, default_likelihood, likelihood_named
from vaexprs.likelihoods.base import DISPERSION_STEP, EFFECT_STEP, RowL2
from vaexprs.likelihoods.bernoulli import Bernoulli
from vaexprs.likelihoods.count_base import LOG_DISPERSION_LIMITS
from vaexprs.likelihoods.count_sampling import count_quantiles, draw_counts
from vaexprs.likelihoods.gaussian import _NO_MOMENTS, Gaussian, _combined_moments, _moments, _nonzero
from vaexprs.likelihoods.log_prob import log_rising, negative_binomial_log_prob, poisson_log_prob
from vaexprs.likelihoods.negative_binomial import NegativeBinomial
from vaexprs.likelihoods.poisson import Poisson
from vaexprs.likelihoods.zero_inflated_negative_binomial import ZeroInflatedNegativeBinomial
from vaexprs.preprocessing.scaling import POWERS
from vaexprs.preprocessing.summary import Summary

N = 100_000  # draws of each gene
NAMES = ["bernoulli", "nb", "zinb", "poisson", "gaussian"]
COUNT_LIKELIHOODS = [Poisson(), NegativeBinomial(), ZeroInflatedNegativeBinomial()]

by_name = attrgetter("name")
both_forms = pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix], ids=["dense", "sparse"])
each_count_likelihood = pytest.mark.parametrize("likelihood", COUNT_LIKELIHOODS, ids=by_name)


def f32(*values):
    return [np.asarray(value, np.float32) for value in values]


def f64(value):
    return np.asarray(value, np.float64)


def scipy_nb(mean, dispersion):
    return stats.nbinom(dispersion, dispersion / (dispersion + mean))


@pytest.fixture(scope="module")
def cells():
    return demo_cells()


@pytest.fixture(scope="module")
def output():
    """Parameters of 40 cells x 12 genes, as decoders of counts give them."""
    rng = np.random.default_rng(1)
    proportion, dispersion, logit = f32(
        softmax(rng.normal(0, 1.5, (40, 12)), axis=1),
        np.broadcast_to(np.exp(rng.normal(0, 1.5, 12)), (40, 12)),
        rng.normal(-1, 1.5, (40, 12)),
    )
    return {"proportion": proportion, "dispersion": dispersion, "zero_logit": logit}


@pytest.fixture(scope="module")
def counts(output):
    rng = np.random.default_rng(2)
    drawn = ZeroInflatedNegativeBinomial().sample(
        output, rng.integers(20, 3000, (40, 1)), rng.random((40, 12))
    )
    return np.asarray(drawn + np.eye(40, 12), np.float32)  # no cell without counts


# ---- log probabilities of counts

POINTS = 4000  # one size for all: each new size is compiled


def points(seed, *ranges):
    """Random numbers over many orders of magnitude, in float32."""
    rng = np.random.default_rng(seed)
    return f32(*(np.exp(rng.uniform(*np.log(limits), POINTS)) for limits in ranges))


def test_log_rising_is_the_difference_of_two_log_gammas():
    """In float32, where both are as large as 1e6, to six digits of the larger of 1 and the difference."""
    a, x = points(0, (1e-3, 1e5), (0.3, 1e5))
    x = np.round(x)
    assert (x == 0).sum() > 100
    expected = gammaln(f64(a) + f64(x)) - gammaln(f64(a))
    np.testing.assert_allclose(log_rising(a, x), expected, rtol=2e-6, atol=5e-6)


def test_log_rising_of_nothing_is_exactly_zero():
    (a,) = points(0, (1e-3, 1e5))
    np.testing.assert_array_equal(log_rising(a, np.zeros_like(a)), 0)


def test_poisson_log_prob_is_that_of_scipy():
    x, mean = points(1, (0.3, 1000), (1e-4, 2000))
    x = np.round(x)
    expected = stats.poisson(f64(mean)).logpmf(x)
    np.testing.assert_allclose(poisson_log_prob(x, mean), expected, rtol=1e-4, atol=2e-3)


def test_negative_binomial_log_prob_is_that_of_scipy():
    x, mean, dispersion = points(2, (0.3, 1000), (1e-4, 2000), (1e-3, 8000))
    x = np.round(x)
    expected = scipy_nb(f64(mean), f64(dispersion)).logpmf(x)
    np.testing.assert_allclose(
        negative_binomial_log_prob(x, mean, dispersion), expected, rtol=1e-4, atol=2e-3
    )


@pytest.mark.parametrize("mean", [0.01, 1.0, 20.0])
def test_probabilities_of_all_counts_sum_to_one(mean):
    x = np.arange(POINTS, dtype=np.float32)
    mu = np.full_like(x, mean)
    assert np.exp(f64(poisson_log_prob(x, mu))).sum() == pytest.approx(1, abs=1e-4)
    for dispersion in (0.3, 2.0, 50.0):
        theta = np.full_like(x, dispersion)
        total = np.exp(f64(negative_binomial_log_prob(x, mu, theta))).sum()
        assert total == pytest.approx(1, abs=1e-4)


def test_negative_binomial_of_large_dispersion_is_poisson():
    (mean,) = points(3, (0.1, 10))
    x = np.random.default_rng(3).poisson(mean).astype(np.float32)
    got = negative_binomial_log_prob(x, mean, np.full_like(mean, np.exp(9)))
    np.testing.assert_allclose(got, stats.poisson(f64(mean)).logpmf(x), atol=0.05)


def test_log_prob_of_a_cell_is_the_sum_over_its_genes(counts, output):
    mean = counts.sum(axis=1, keepdims=True) * f64(output["proportion"])
    nb = scipy_nb(mean, f64(output["dispersion"]))
    excess = expit(f64(output["zero_logit"]))
    zinb = np.log(excess * (counts == 0) + (1 - excess) * nb.pmf(counts))
    expected = {
        "poisson": stats.poisson(mean).logpmf(counts),
        "nb": nb.logpmf(counts),
        "zinb": zinb,
    }
    for likelihood in COUNT_LIKELIHOODS:
        given = output["proportion"] if likelihood.name == "poisson" else output
        got = likelihood.log_prob(counts, given)
        np.testing.assert_allclose(got, expected[likelihood.name].sum(axis=1), rtol=1e-4)


@each_count_likelihood
def test_probabilities_of_the_counts_of_a_gene_sum_to_one(likelihood):
    """A second gene with one count keeps the cell from being empty; its probability is divided out."""
    x = np.stack([np.arange(POINTS), np.ones(POINTS)], axis=1).astype(np.float32)
    mean, dispersion, logit = [6.0, 2.0], [1.5, 0.7], [-0.5, 0.5]
    proportion = np.array(mean) / x.sum(axis=1, keepdims=True)
    parameters = f32(proportion, np.broadcast_to(dispersion, x.shape), np.broadcast_to(logit, x.shape))
    output = dict(zip(("proportion", "dispersion", "zero_logit"), parameters, strict=True))
    one = {
        "poisson": stats.poisson(2.0).pmf(1),
        "nb": scipy_nb(2.0, 0.7).pmf(1),
        "zinb": scipy_nb(2.0, 0.7).pmf(1) * expit(-0.5),
    }[likelihood.name]
    log_prob = likelihood.log_prob(x, output["proportion"] if likelihood.name == "poisson" else output)
    assert np.exp(f64(log_prob)).sum() / one == pytest.approx(1, abs=1e-4)


def outlying(n_genes=400, n_cells=30):
    """Counts of a known negative binomial, (n_cells, n_genes), and its parameters."""
    rng = np.random.default_rng(4)
    proportion = np.broadcast_to(softmax(rng.normal(0, 1, n_genes)), (n_cells, n_genes))
    dispersion = np.full((n_cells, n_genes), 5.0)
    x = stats.nbinom(5.0, 5 / (5 + 1_000 * proportion)).rvs(random_state=rng)
    return x.astype(np.float32), dict(
        zip(("proportion", "dispersion"), f32(proportion, dispersion), strict=True)
    )


def test_a_single_outlying_count_has_a_bounded_loss():
    likelihood = NegativeBinomial()
    x, output = outlying()
    rare = int(np.argmin(output["proportion"][0]))
    losses = []
    for value in (60, 200):
        x[0, rare] = value
        losses.append([f64(f(x, output))[0] for f in (likelihood.robust_log_prob, likelihood.log_prob)])
    (robust, plain), (robust_more, plain_more) = losses
    assert robust - robust_more < 15 < 100 < plain - plain_more
    np.testing.assert_allclose(likelihood.robust_log_prob(x, output)[1:], likelihood.log_prob(x, output)[1:])
    cleaned = np.array(likelihood.without_outliers(x, output))
    assert cleaned[0, rare] == pytest.approx(x[0].sum() * output["proportion"][0, rare], rel=1e-3)
    cleaned[0, rare] = x[0, rare]
    np.testing.assert_array_equal(cleaned, x)


def test_a_cell_with_many_outlying_counts_is_not_contaminated():
    likelihood = NegativeBinomial()
    x, output = outlying()
    x[0, np.argsort(output["proportion"][0])[:8]] = 60
    np.testing.assert_allclose(likelihood.robust_log_prob(x, output), likelihood.log_prob(x, output))
    np.testing.assert_array_equal(likelihood.without_outliers(x, output), x)


@pytest.mark.parametrize("spare", [0, 1_000])
def test_sparse_counts_have_the_log_probabilities_and_gradients_of_dense_ones(spare):
    """With outliers: an isolated one, zeros where many counts are expected, and a cell of nothing else."""
    rng = np.random.default_rng(5)
    logits, log_dispersion = f32(rng.normal(-1, 2, (40, 500)), rng.normal(0, 4, (40, 500)))
    x = rng.poisson(np.exp(rng.normal(-2, 2, 500)) * rng.gamma(0.5, 2, (40, 500))).astype(np.float32)
    x[3, np.argmin(logits[3])] = 500
    x[5, np.argsort(logits[5])[:8]] = 300
    logits[7, 0], log_dispersion[7, 0], x[7, 0] = 9, 5, 0
    logits[8, 0], log_dispersion[8, 0], x[8, 0] = 9, 5, 1
    x[9], log_dispersion[9] = 0, 0
    logits[9, :9], log_dispersion[9, :9], x[9, :9] = 7, 5, 880  # zeros would be outliers
    x[9, np.argmin(logits[9])] = 500
    counts = compressed(x.copy())
    cells = sparse_batch(counts, counts.nnz + spare, 0)
    limits = LOG_DISPERSION_LIMITS
    assert (log_dispersion < limits[0]).any()
    assert (log_dispersion > limits[1]).any()

    def of_dense(logits, log_dispersion):
        dispersion = jnp.exp(jnp.clip(log_dispersion, *limits))
        output = {"proportion": jax.nn.softmax(logits), "dispersion": dispersion}
        return NegativeBinomial().robust_log_prob(x, output)

    def of_sparse(logits, log_dispersion):
        predictors = {"logits": logits, "log_dispersion": log_dispersion}
        return NegativeBinomial().sparse_log_prob(cells, predictors)

    def gradients(function):  # those of each cell have another weight
        of_total = jax.grad(lambda *given: (function(*given) * jnp.arange(40)).sum(), argnums=(0, 1))
        return of_total(logits, log_dispersion)

    np.testing.assert_allclose(of_sparse(logits, log_dispersion), of_dense(logits, log_dispersion), rtol=2e-6)
    for got, expected in zip(gradients(of_sparse), gradients(of_dense), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_zero_inflation_of_zero_leaves_the_negative_binomial(counts, output):
    none = output | {"zero_logit": np.full_like(output["zero_logit"], -1e4)}
    np.testing.assert_allclose(
        ZeroInflatedNegativeBinomial().log_prob(counts, none),
        NegativeBinomial().log_prob(counts, output),
        rtol=1e-6,
    )


@each_count_likelihood
def test_cells_with_very_many_counts_have_finite_log_probabilities(likelihood, output):
    x = np.zeros((40, 12), np.float32)
    x[:, 0], x[:, 1] = 1e6, 3e5
    given = output["proportion"] if likelihood.name == "poisson" else output
    assert np.isfinite(f64(likelihood.log_prob(x, given))).all()


# ---- draws of counts


def drawn_counts(likelihood, means, dispersions, logits, library=50.0):
    shape = (N, len(means))
    output = {
        "proportion": np.broadcast_to(np.array(means) / library, shape),
        "dispersion": np.broadcast_to(dispersions, shape),
        "zero_logit": np.broadcast_to(logits, shape),
    }
    given = output["proportion"] if likelihood.name == "poisson" else output
    return likelihood.sample(given, np.full((N, 1), library), np.random.default_rng(7).random(shape))


def assert_moments(drawn, mean, variance, zero):
    """Mean, variance and fraction of zeros of each gene within five standard errors."""
    n = len(drawn)
    centred = (drawn - drawn.mean(axis=0)) ** 2
    assert (np.abs(drawn.mean(axis=0) - mean) <= 5 * np.sqrt(variance / n)).all()
    assert (np.abs(centred.mean(axis=0) - variance) <= 5 * centred.std(axis=0) / np.sqrt(n)).all()
    assert (np.abs((drawn == 0).mean(axis=0) - zero) <= 5 * np.sqrt(zero * (1 - zero) / n)).all()


@each_count_likelihood
def test_draws_have_the_moments_and_zeros_of_their_distribution(likelihood):
    means, dispersions, logits = (
        np.array([0.2, 2.0, 15.0]),
        np.array([0.5, 3.0, 40.0]),
        np.array([-2.0, 0.0, 1.0]),
    )
    drawn = drawn_counts(likelihood, means, dispersions, logits)
    kept = 1 - expit(logits) if likelihood.name == "zinb" else np.ones(3)
    reference = stats.poisson(means) if likelihood.name == "poisson" else scipy_nb(means, dispersions)
    variance = kept * reference.var() + kept * (1 - kept) * means**2
    assert_moments(drawn, kept * means, variance, 1 - kept + kept * reference.pmf(0))


@each_count_likelihood
def test_draws_are_counts(likelihood):
    drawn = drawn_counts(likelihood, [3.0], [2.0], [0.0])
    assert np.issubdtype(drawn.dtype, np.integer)
    assert drawn.min() == 0


@each_count_likelihood
def test_draws_are_in_proportion_to_the_library_of_each_cell(likelihood):
    library = np.repeat([100.0, 400.0], N // 2)[:, None]
    output = {"proportion": np.full((N, 1), 0.05), "dispersion": np.full((N, 1), 5.0)}
    output["zero_logit"] = np.full((N, 1), -40.0)
    given = output["proportion"] if likelihood.name == "poisson" else output
    drawn = likelihood.sample(given, library, np.random.default_rng(0).random((N, 1))).reshape(2, -1)
    error = drawn.std(axis=1) / np.sqrt(N // 2)
    assert (np.abs(drawn.mean(axis=1) - [5, 20]) < 5 * error).all()


def test_counts_are_the_quantiles_of_scipy():
    """Over means from 0.0003 to 3,000 and dispersions from 0.007 to 3,000, and to Poisson."""
    rng = np.random.default_rng(0)
    mean, theta = np.exp(rng.uniform(-8, 8, (200, 300))), np.exp(rng.uniform(-5, 8, (200, 300)))
    u = rng.random(mean.shape)
    np.testing.assert_array_equal(count_quantiles(u, mean, theta), scipy_nb(mean, theta).ppf(u))
    np.testing.assert_array_equal(
        count_quantiles(u, mean, np.full_like(mean, np.inf)), stats.poisson(mean).ppf(u)
    )


@pytest.mark.parametrize(("mean", "theta"), [(0.05, 0.3), (0.7, 5.0), (8.0, 0.5), (45.0, 2.0), (300.0, 20.0)])
def test_a_million_draws_follow_the_negative_binomial(mean, theta):
    """Chi-square over counts in cells of at least 20 expected ones."""
    u = np.random.default_rng(1).random(1_000_000)
    drawn = count_quantiles(u, np.full_like(u, mean), np.full_like(u, theta))
    expected = np.append(scipy_nb(mean, theta).pmf(np.arange(5000)), 0) * len(u)
    many = np.flatnonzero(expected >= 20)
    observed = np.bincount(drawn, minlength=5001).astype(float)[many]
    observed, expected = np.append(observed, len(u) - observed.sum()), expected[many]
    expected = np.append(expected, len(u) - expected.sum())
    assert ((observed - expected) ** 2 / expected).sum() < stats.chi2(len(expected) - 1).ppf(0.999)


@pytest.mark.parametrize("extreme", [0.0, np.nextafter(1.0, 0.0)])
def test_quantiles_of_the_least_and_the_greatest_uniform_number_are_finite(extreme):
    mean = np.array([1e-9, 0.1, 5.0, 49.0, 51.0, 1e6])
    drawn = count_quantiles(np.full(6, extreme), mean, np.array([1e-3, 0.1, 5.0, 8000.0, 1.0, 10.0]))
    assert (drawn >= 0).all()
    assert (drawn[:4] < 5000).all()
    assert (drawn <= 2e8).all()


def test_head_learns_dispersions_of_conditions():
    """Without conditions there is one a gene; deviations add to it, held by a penalty."""
    condition = np.eye(2, dtype=np.float32)[[0, 0, 1, 1, 1]]
    head = NegativeBinomial().head(GENES, 100, [2, 3])
    head(HIDDEN, condition)
    head.deviation.assign(np.log([[2.0] * GENES, [0.5] * GENES]) / DISPERSION_STEP)
    dispersion = f64(head(HIDDEN, condition)["dispersion"])
    np.testing.assert_allclose(dispersion[:, 0], [2, 2, 0.5, 0.5, 0.5], rtol=1e-5)
    expected = 0.5 * 2 * GENES * (np.log(2) / head.deviation_sd) ** 2 / 100
    assert float(sum(head.losses)) == pytest.approx(expected, rel=1e-4)
    alone = NegativeBinomial().head(GENES, 100)
    alone(HIDDEN)
    assert alone.deviation is None


@pytest.mark.parametrize("likelihood", [NegativeBinomial(), Poisson(), Gaussian(zeros=True)], ids=by_name)
def test_effects_of_rare_conditions_are_shrunk_more(likelihood):
    """Prior variance 50 times its share of the cells; 25 of 100 cells have 12.5, one has 0.5."""
    condition = np.eye(2, dtype=np.float32)[[0, 0, 1, 1, 1]]
    head = likelihood.head(GENES, 100, [25, 1])
    before = head(HIDDEN, condition)
    head.effect.assign(np.array([[0.4] * GENES, [0.0] * GENES]) / EFFECT_STEP)
    assert float(sum(head.losses)) * 100 == pytest.approx(GENES * 0.4**2 / 2 / 12.5, rel=1e-5)
    head.effect.assign(np.array([[0.0] * GENES, [0.4] * GENES]) / EFFECT_STEP)
    assert float(sum(head.losses)) * 100 == pytest.approx(GENES * 0.4**2 / 2 / 0.5, rel=1e-5)
    if likelihood.name == "gaussian":
        after = head(HIDDEN, condition)
        np.testing.assert_array_equal(after["mean"][:2], before["mean"][:2])
        assert head.zero_effect.shape == (2, GENES)


def test_condition_effects_multiply_proportions():
    head = NegativeBinomial().head(GENES, 100, [50, 50])
    condition = np.eye(2, dtype=np.float32)[[0, 0, 1, 1, 1]]
    plain = f64(head(HIDDEN, condition)["proportion"])
    factor = np.array([[1.0, 2.0, 4.0], [1.0, 1.0, 1.0]])
    head.effect.assign(np.log(factor) / EFFECT_STEP)
    given = f64(head(HIDDEN, condition)["proportion"])
    expected = plain * (condition @ factor)
    np.testing.assert_allclose(given, expected / expected.sum(axis=1, keepdims=True), rtol=1e-5)


def test_shrinkage_of_effects_is_constant_above_two_thousand_cells():
    heads = [NegativeBinomial().head(GENES, n, [20, 30]) for n in (2_000, 2_000_000)]
    for head in heads:
        head(HIDDEN, np.eye(2, dtype=np.float32)[[0, 0, 1, 1, 1]])
        head.effect.assign(np.ones((2, GENES)))
    strengths = [float(sum(head.losses)) * head.n_cells for head in heads]
    assert strengths[0] == pytest.approx(strengths[1], rel=1e-5)
    assert strengths[0] == pytest.approx(GENES * 12.5 * (2_000 / 20 + 2_000 / 30) / 50, rel=1e-5)


# ---- checks of counts


@both_forms
@each_count_likelihood
def test_negative_counts_are_refused_with_the_smallest(likelihood, form):
    x = form(np.array([[1, 0], [2, -1], [-2.5, 4]], np.float32))
    words = rf"(?i)counts.*negative.*likelihood.*'{likelihood.name}'.*-2\.5\..*'gaussian'"
    with pytest.raises(ValueError, match=words):
        likelihood.check(Summary.of(x), list("abc"))
    with pytest.raises(ValueError, match=r"negative.*-1\."):
        likelihood.check(Summary.of(form(np.array([[1, 0], [2, -1]], np.float32))), list("ab"))


@both_forms
@each_count_likelihood
def test_fractions_are_counted(likelihood, form):
    x = form(np.array([[1, 0.5], [2, 0], [2.25, 4]], np.float32))
    words = rf"(?i)counts.*whole.*likelihood.*'{likelihood.name}'.*\b2 fractions"
    with pytest.raises(ValueError, match=words):
        likelihood.check(Summary.of(x), list("abc"))


@both_forms
@each_count_likelihood
def test_cells_without_counts_are_counted_and_the_first_named(likelihood, form):
    x = form(np.array([[1, 0], [0, 0], [0, 0]], np.float32))
    words = rf"likelihood '{likelihood.name}'.*\b2\b.*'b'.*Leave out cells without counts"
    with pytest.raises(ValueError, match=words):
        likelihood.check(Summary.of(x), pd.Index(list("abc")))


@both_forms
@each_count_likelihood
def test_single_count_in_a_cell_is_enough(likelihood, form):
    likelihood.check(Summary.of(form(np.array([[1, 0], [0, 1]], np.float32))), list("ab"))


def test_real_counts_pass_the_check(cells):
    NegativeBinomial().check(Summary.of(cells.X), cells.obs_names)


@pytest.mark.parametrize("likelihood", [Gaussian(), Bernoulli()], ids=by_name)
def test_other_likelihoods_take_negative_values_fractions_and_empty_cells(likelihood):
    likelihood.check(Summary.of(np.array([[-1.5, 0.5], [0, 0]], np.float32)), list("ab"))


# ---- Bernoulli


def test_bernoulli_log_prob_is_the_binary_cross_entropy_of_scikit_learn():
    rng = np.random.default_rng(0)
    x, p = f32(rng.random((20, 30)) < 0.4, rng.uniform(0.01, 0.99, (20, 30)))
    expected = [-log_loss(x[i], f64(p[i]), normalize=False, labels=[0, 1]) for i in range(20)]
    np.testing.assert_allclose(Bernoulli().log_prob(x, p), expected, rtol=1e-5)


def test_bernoulli_log_prob_of_values_between_is_the_cross_entropy_too():
    x, p = f32(*np.random.default_rng(0).uniform(0.01, 0.99, (2, 20, 30)))
    expected = (xlogy(x, f64(p)) + xlog1py(1 - f64(x), -f64(p))).sum(axis=1)
    np.testing.assert_allclose(Bernoulli().log_prob(x, p), expected, rtol=1e-5)


def test_bernoulli_log_prob_is_finite_where_the_output_is_sure():
    x, p = f32([[0.0, 1.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]])
    right, wrong = f64(Bernoulli().log_prob(x, p))
    assert right == pytest.approx(0, abs=1e-5)
    assert -35 < wrong < -30


def test_bernoulli_generates_its_means():
    p = np.random.default_rng(0).random((5, 3))
    np.testing.assert_array_equal(Bernoulli().sample(p, None, np.full((5, 3), 0.5)), p)


def test_bernoulli_values_are_minmax_scaled():
    assert Bernoulli().scaling(np.ones((2, 2))) == "minmax"


# ---- Gaussian


@pytest.fixture(scope="module")
def normal_output():
    rng = np.random.default_rng(3)
    mean, sd, logit = f32(
        rng.normal(0, 2, (40, 12)),
        np.broadcast_to(rng.uniform(0.1, 3, 12), (40, 12)),
        rng.normal(0, 2, (40, 12)),
    )
    return {"mean": mean, "sd": sd, "zero_logit": logit}


def test_gaussian_log_prob_is_that_of_scipy(normal_output):
    x = np.random.default_rng(0).normal(0, 2, (40, 12)).astype(np.float32)
    expected = stats.norm(f64(normal_output["mean"]), f64(normal_output["sd"])).logpdf(x).sum(axis=1)
    np.testing.assert_allclose(Gaussian().log_prob(x, normal_output), expected, rtol=1e-5)


def test_gaussian_with_zeros_is_a_hurdle_model(normal_output):
    rng = np.random.default_rng(0)
    x = (rng.normal(0, 2, (40, 12)) * (rng.random((40, 12)) < 0.5)).astype(np.float32)
    zero = expit(f64(normal_output["zero_logit"]))
    density = stats.norm(f64(normal_output["mean"]), f64(normal_output["sd"])).logpdf(x)
    expected = np.where(x == 0, np.log(zero), np.log1p(-zero) + density).sum(axis=1)
    np.testing.assert_allclose(Gaussian(zeros=True).log_prob(x, normal_output), expected, rtol=1e-5)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("nonnegative", [False, True])
def test_gaussian_draws_have_the_moments_and_zeros_of_their_distribution(zeros, nonnegative):
    mean, sd, logit = np.array([3.0, 0.5, 10.0]), np.array([1.0, 1.0, 0.2]), np.array([-1.0, 0.0, 2.0])
    output = {"mean": np.broadcast_to(mean, (N, 3)), "sd": np.broadcast_to(sd, (N, 3))}
    output["zero_logit"] = np.broadcast_to(logit, (N, 3))
    drawn = Gaussian(zeros, nonnegative).sample(output, None, np.random.default_rng(5).random((N, 3)))
    reference = stats.foldnorm(mean / sd, scale=sd) if nonnegative else stats.norm(mean, sd)
    kept = 1 - expit(logit) if zeros else np.ones(3)
    variance = kept * reference.var() + kept * (1 - kept) * reference.mean() ** 2
    assert_moments(drawn, kept * reference.mean(), variance, 1 - kept)
    assert (drawn.min() < 0) != nonnegative


@both_forms
def test_gaussian_learns_of_zeros_and_signs_from_the_values(form):
    def options(values):
        return Gaussian.for_values(Summary.of(form(np.array(values, np.float32)))).options()

    assert options([[1.5, 2], [3, 0]]) == {"zeros": True, "nonnegative": True}
    assert options([[1.5, 2], [3, 4]]) == {"zeros": False, "nonnegative": True}
    assert options([[1.5, -2], [3, 0]]) == {"zeros": True, "nonnegative": False}
    assert options([[1.5, -2], [3, 4]]) == {"zeros": False, "nonnegative": False}
    assert options([[1.5, -0.01], [3, 4]]) == {"zeros": False, "nonnegative": False}


def test_zeros_stored_in_a_sparse_matrix_are_zeros_too():
    x = sp.csr_matrix(([1.5, 0.0, 2.0, 3.0], ([0, 0, 1, 1], [0, 1, 0, 1])), (2, 2))
    assert x.nnz == 4
    assert Gaussian.for_values(Summary.of(x)).options() == {"zeros": True, "nonnegative": True}


DRAWS = {
    "lognormal": lambda rng: rng.lognormal(3, 1, (300, 8)),
    "normal": lambda rng: rng.normal(20, 2, (300, 8)),
    "squares": lambda rng: rng.normal(10, 2, (300, 8)) ** 2,
    "exponential": lambda rng: rng.exponential(2, (300, 8)),
    "uniform": lambda rng: rng.uniform(1, 5, (300, 8)),
}


def best_power(x):
    """The power with the largest likelihood of the non-zeros of each gene, Jacobian and all."""
    total = {}
    for kind, (power, function, _) in POWERS.items():
        total[kind] = 0.0
        for gene in x.T:
            values = gene[gene != 0]
            y = function(values)
            jacobian = ((power - 1) * np.log1p(values)).sum()
            total[kind] += stats.norm(y.mean(), y.std()).logpdf(y).sum() + jacobian
    return max(total, key=total.get)


@both_forms
@pytest.mark.parametrize(
    ("name", "kind"), [("lognormal", "log1p"), ("normal", "none"), ("squares", "sqrt"), ("uniform", None)]
)
@pytest.mark.parametrize("kept", [1.0, 0.4])
def test_values_are_scaled_so_that_their_non_zeros_are_most_normal(form, name, kind, kept):
    rng = np.random.default_rng(0)
    x = DRAWS[name](rng) * (rng.random((300, 8)) < kept)
    likelihood = Gaussian.for_values(Summary.of(form(x)))
    assert likelihood.scaling(form(x)) == (kind or best_power(x)) == best_power(x)


def test_exponential_values_are_scaled_by_the_largest_likelihood():
    x = DRAWS["exponential"](np.random.default_rng(0))
    assert Gaussian.for_values(Summary.of(x)).scaling(x) == best_power(x)


def test_values_with_negative_ones_are_not_scaled():
    x = DRAWS["lognormal"](np.random.default_rng(0))
    x[0, 0] = -1
    assert Gaussian.for_values(Summary.of(x)).scaling(x) == "none"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "values", [[1e-30, 1e-30, 1e-38, 0], [1e15, 1.0000005e15, 1.000001e15, 1.0000015e15]]
)
def test_values_too_small_or_too_near_each_other_for_a_transformation(values, dtype):
    """Their moments may be 0 under one of them, and its logarithm says nothing."""
    x = np.array(values, dtype)[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Gaussian.for_values(Summary.of(x)).scaling(x) in POWERS
    for power, (_, there, back) in POWERS.items():
        np.testing.assert_allclose(back(there(x)), x, rtol=1e-4, err_msg=power)


def test_scaling_does_not_depend_on_genes_whose_non_zeros_are_all_the_same():
    rng = np.random.default_rng(0)
    expected, chosen = {}, {}
    for name in ("lognormal", "normal", "squares"):
        x = DRAWS[name](rng)
        for value in (0.1, 0.3, 0.7, 1.1):
            alike = np.where(rng.random((300, 4)) < 0.5, value, 0)
            expected[name, value] = best_power(x)
            chosen[name, value] = Gaussian.for_values(Summary.of(x)).scaling(np.hstack([x, alike]))
    assert chosen == expected


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        ([[0.002, 0], [0.003, 0.001]], 0.001),
        ([[9e-21, 0], [0, 0]], 1e-21),
        ([[0.5, 1.4], [0, 0]], 0.1),
        ([[0.5, 1.6], [0, 0]], 1),
        ([[300, 0], [0, 0]], 1),
        ([[0, 0], [0, 0]], 1),
        ([[-0.002, 0.004], [0.001, -0.01]], 0.001),
        ([[-3, 2], [1, 1]], 1),
    ],
)
def test_small_values_are_taken_in_a_unit_of_their_size(values, unit):
    summary = Summary.of(np.array(values))
    assert Gaussian.for_values(summary).unit(summary) == pytest.approx(unit)
    assert NegativeBinomial().unit(summary) == Bernoulli().unit(summary) == 1


@both_forms
@pytest.mark.parametrize("unit", [1e-3, 1e-12])
def test_the_unit_of_values_does_not_change_their_scaling(form, unit):
    rng = np.random.default_rng(0)
    for name in ("lognormal", "normal", "squares", "exponential"):
        x = DRAWS[name](rng) * (rng.random((300, 8)) < 0.4)
        likelihood = Gaussian.for_values(Summary.of(form(x)))
        assert likelihood.scaling(form(x * unit), unit) == likelihood.scaling(form(x))


# ---- names, options, defaults


def test_every_likelihood_has_its_name():
    assert list(LIKELIHOODS) == NAMES
    assert [kind.name for kind in LIKELIHOODS.values()] == NAMES
    assert [likelihood_named(name) for name in NAMES] == list(LIKELIHOODS.values())


def test_unknown_likelihood_lists_them_and_suggests_the_nearest():
    words = r"^likelihood\b.*'bernoulli', .*, 'gaussian'.*'gausian'.*'gaussian'"
    with pytest.raises(ValueError, match=words):
        likelihood_named("gausian")


@pytest.mark.parametrize(
    "likelihood",
    [
        *(LIKELIHOODS[name]() for name in NAMES),
        Gaussian(True, True),
        Gaussian(True, False),
        Gaussian(False, True),
    ],
    ids=lambda likelihood: f"{likelihood.name} {likelihood.options()}",
)
def test_options_make_the_likelihood_again(likelihood):
    again = LIKELIHOODS[likelihood.name](**likelihood.options())
    assert type(again) is type(likelihood)
    assert vars(again) == vars(likelihood)


@both_forms
def test_counts_are_negative_binomial_by_default_and_other_values_gaussian(form):
    def chosen(values):
        return default_likelihood(Summary.of(form(np.array(values, np.float32))))

    assert chosen([[0, 3], [1, 2]]) is NegativeBinomial
    assert chosen([[0, 0], [0, 0]]) is NegativeBinomial
    assert chosen([[0, 3.5], [1, 2]]) is Gaussian
    assert chosen([[0, 3], [-1, 2]]) is Gaussian


def test_default_for_real_cells_follows_their_values(cells):
    assert default_likelihood(Summary.of(cells.X)) is NegativeBinomial
    assert default_likelihood(Summary.of(cells.X.log1p())) is Gaussian


def test_only_counts_have_a_library_and_only_bernoulli_takes_the_users_last_layer():
    assert [LIKELIHOODS[name].counts for name in NAMES] == [False, True, True, True, False]
    assert [LIKELIHOODS[name].last_layer_is_output for name in NAMES] == [True, False, False, False, False]
    assert [LIKELIHOODS[name].latent_dim for name in NAMES] == [2, 10, 10, 10, 10]


def test_only_counts_support_privacy_and_every_likelihood_is_listed_under_its_name():
    assert [LIKELIHOODS[name].supports_privacy for name in NAMES] == [False, True, True, True, False]
    assert [kind.name for kind in LIKELIHOODS.values()] == list(LIKELIHOODS) == NAMES


@pytest.mark.parametrize("last", [None, keras.layers.Dense(8), keras.layers.Dense(8, "relu")])
def test_hidden_last_layer_leaves_the_likelihood_to_the_values(last):
    counts = Summary.of(np.array([[0.0, 3], [1, 2]]))
    assert default_likelihood(counts, last) is NegativeBinomial


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_last_layer_with_one_unit_per_gene_implies_bernoulli(activation):
    counts = Summary.of(np.array([[0.0, 3], [1, 2]]))
    assert default_likelihood(counts, keras.layers.Dense(2, activation)) is Bernoulli


@pytest.mark.parametrize(
    ("last", "got"),
    [(keras.layers.Dense(1_500, "sigmoid"), "1,500"), (keras.layers.Activation("sigmoid"), "no")],
)
def test_sigmoid_last_layer_must_have_one_unit_per_gene(last, got):
    counts = Summary.of(np.array([[0.0, 3], [1, 2]]))
    with pytest.raises(ValueError, match=rf"decoder_layers.*sigmoid.*\b{got} units.*\b2 genes.*likelihood"):
        default_likelihood(counts, last)


# ---- last layers

HIDDEN = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
GENES = 3


def started(likelihood, x):
    """The head after its start from `x`, and its output where the hidden units are zero, in one cell."""
    head = likelihood.head(GENES, 100)
    head(HIDDEN)
    likelihood.start(head, x, Summary.of(x))
    output = head(np.zeros_like(HIDDEN))
    return head, {k: f64(v)[0] for k, v in (output if isinstance(output, dict) else {"": output}).items()}


@pytest.mark.parametrize(
    ("likelihood", "keys"),
    [
        (NegativeBinomial(), {"proportion", "dispersion"}),
        (ZeroInflatedNegativeBinomial(), {"proportion", "dispersion", "zero_logit"}),
        (Gaussian(), {"mean", "sd"}),
        (Gaussian(zeros=True), {"mean", "sd", "zero_logit"}),
    ],
    ids=["nb", "zinb", "gaussian", "gaussian with zeros"],
)
def test_head_gives_each_parameter_for_each_cell_and_gene(likelihood, keys):
    output = likelihood.head(GENES, 100)(HIDDEN)
    assert set(output) == keys
    assert {part.shape for part in output.values()} == {(5, GENES)}


@pytest.mark.parametrize("likelihood", [Poisson(), Bernoulli()], ids=by_name)
def test_head_with_one_parameter_gives_it_alone(likelihood):
    assert likelihood.head(GENES, 100)(HIDDEN).shape == (5, GENES)


@each_count_likelihood
def test_proportions_of_a_cell_sum_to_one(likelihood):
    output = likelihood.head(GENES, 100)(HIDDEN * 50)
    proportion = f64(output if likelihood.name == "poisson" else output["proportion"])
    np.testing.assert_allclose(proportion.sum(axis=1), 1, rtol=1e-5)
    assert proportion.min() > 0


def test_means_of_bernoulli_are_between_zero_and_one():
    output = f64(Bernoulli().head(GENES, 100)(HIDDEN * 5))
    assert 0 < output.min() < output.max() < 1


@pytest.mark.parametrize("likelihood", [NegativeBinomial(), ZeroInflatedNegativeBinomial()], ids=by_name)
def test_dispersion_is_one_for_each_gene_and_bounded(likelihood):
    head = likelihood.head(GENES, 100)
    head(HIDDEN)
    head.log_dispersion.assign([-100.0, 0.0, 100.0])
    dispersion = f64(head(HIDDEN)["dispersion"])
    np.testing.assert_allclose(dispersion, np.tile(np.exp([-7, 0, 9]), (5, 1)), rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_head_is_made_again_from_its_configuration(name):
    likelihood = LIKELIHOODS[name](**({"zeros": True} if name == "gaussian" else {}))
    head = likelihood.head(GENES, 100)
    head(HIDDEN)
    again = type(head).from_config(head.get_config())
    again(HIDDEN)
    assert head.name == again.name == "output"
    for own, given in zip(again.weights, head.weights, strict=True):
        own.assign(given.value)
    got, expected = (layer(HIDDEN) for layer in (again, head))
    for key in expected if isinstance(expected, dict) else [slice(None)]:
        np.testing.assert_array_equal(got[key], expected[key])


@pytest.mark.parametrize("name", NAMES)
def test_output_of_a_head_gives_finite_log_probabilities_and_draws(name):
    x = np.random.default_rng(0).poisson(3, (5, GENES)).astype(np.float32) + 1
    if name == "bernoulli":
        x /= x.max()
    likelihood = LIKELIHOODS[name].for_values(Summary.of(x))
    head = likelihood.head(GENES, 100)
    output = head(HIDDEN)
    likelihood.start(head, x, Summary.of(x))
    output = head(HIDDEN)
    log_prob = f64(likelihood.log_prob(x, output))
    assert log_prob.shape == (5,)
    assert np.isfinite(log_prob).all()
    arrays = {k: np.asarray(v) for k, v in output.items()} if isinstance(output, dict) else np.asarray(output)
    library = x.sum(axis=1, keepdims=True) if likelihood.counts else None
    drawn = likelihood.sample(arrays, library, np.random.default_rng(0).random((5, GENES)))
    assert drawn.shape == (5, GENES)
    assert np.isfinite(drawn).all()


@both_forms
@each_count_likelihood
def test_count_heads_start_at_the_observed_proportions(cells, likelihood, form):
    x = cells.X[:, :GENES].toarray()
    _, output = started(likelihood, form(x))
    total = x.sum(axis=0, dtype=float)
    proportion = output["" if likelihood.name == "poisson" else "proportion"]
    np.testing.assert_allclose(proportion, (total + 0.1) / (total + 0.1).sum(), rtol=1e-4)


def test_gene_without_counts_starts_with_a_proportion_above_zero():
    _, output = started(Poisson(), np.array([[10, 0, 5], [90, 0, 5]], np.float32))
    assert 0 < output[""][1] < 0.01


@both_forms
def test_gaussian_head_starts_at_mean_and_sd_of_the_non_zeros_and_the_fraction_of_zeros(form):
    rng = np.random.default_rng(0)
    x = (rng.normal(5, [1, 2, 0.5], (400, GENES)) * (rng.random((400, GENES)) < [0.2, 0.5, 0.9])).astype(
        np.float32
    )
    _, output = started(Gaussian.for_values(Summary.of(form(x))), form(x))
    kept = [gene[gene != 0] for gene in f64(x).T]
    np.testing.assert_allclose(output["mean"], [gene.mean() for gene in kept], rtol=1e-5)
    np.testing.assert_allclose(output["sd"], [gene.std() for gene in kept], rtol=1e-4)
    np.testing.assert_allclose(expit(output["zero_logit"]), [1 - len(gene) / 400 for gene in kept], atol=2e-3)


@pytest.fixture(scope="module")
def normal_values():
    """Three genes without zeros, the last of which does not vary."""
    return np.random.default_rng(0).normal([5, 50, 20], [1, 7, 0], (400, GENES)).astype(np.float32)


@both_forms
def test_gaussian_head_without_zeros_starts_at_mean_and_sd(normal_values, form):
    _, output = started(Gaussian(), form(normal_values))
    np.testing.assert_allclose(output["mean"], normal_values.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(output["sd"][:2], normal_values.std(axis=0)[:2], rtol=1e-4)


def test_sd_of_a_gene_that_does_not_vary_starts_small_but_above_zero(normal_values):
    _, output = started(Gaussian(), normal_values)
    assert 0 < output["sd"][2] < 0.01 * output["sd"][0]


def test_gaussian_mean_stays_within_the_observed_range(normal_values):
    head, _ = started(Gaussian(), normal_values)
    head.kernel.assign(np.full((8, GENES), 100.0, np.float32))
    mean = f64(head(HIDDEN)["mean"])[:, :2]
    np.testing.assert_allclose(mean.min(axis=0), normal_values.min(axis=0)[:2], rtol=1e-6)
    np.testing.assert_allclose(mean.max(axis=0), normal_values.max(axis=0)[:2], rtol=1e-6)


# ---- what the numbers in the code stand for: weights of saved models keep their meaning


CONDITION = np.eye(2, dtype=np.float32)[[0, 0, 1, 1, 1]]


def test_dispersions_are_learned_in_units_of_twenty_and_effects_of_five():
    head = NegativeBinomial().head(GENES, 100, [2, 3])
    head(HIDDEN, CONDITION)
    head.log_dispersion.assign([0.1, 0.0, -0.1])
    head.deviation.assign([[0, 0, 0], [0.05, 0, 0]])
    dispersion = f64(head(HIDDEN, CONDITION)["dispersion"])
    np.testing.assert_allclose(np.log(dispersion[[0, 2]]), [[2, 0, -2], [3, 0, -2]], atol=1e-5)
    before = np.log(f64(head(HIDDEN, CONDITION)["proportion"]))
    head.effect.assign([[0.2, 0, 0], [0, 0, 0]])
    change = np.log(f64(head(HIDDEN, CONDITION)["proportion"])) - before
    np.testing.assert_allclose(change[:2, 0] - change[:2, 1], 1, atol=1e-5)
    np.testing.assert_allclose(change[2:], 0, atol=1e-6)


@pytest.mark.parametrize(
    ("likelihood", "sd"), [(NegativeBinomial(), 3.0), (Gaussian(), 0.3)], ids=["nb", "gaussian"]
)
def test_deviations_of_levels_have_a_normal_prior(likelihood, sd):
    head = likelihood.head(GENES, 100, [40, 60])
    head(HIDDEN, CONDITION)
    head.deviation.assign([[0.01] * GENES, [0.0] * GENES])
    assert float(sum(head.losses)) * 100 == pytest.approx(GENES * (0.2 / sd) ** 2 / 2, rel=1e-5)


def test_effect_of_a_level_without_cells_is_shrunk_as_with_one_cell():
    losses = []
    for level_cells in ([0, 9], [1, 9]):
        head = Poisson().head(GENES, 10, level_cells)
        head(HIDDEN, CONDITION)
        head.effect.assign(np.ones((2, GENES)))
        losses.append(float(sum(head.losses)))
    assert losses[0] == losses[1] == pytest.approx(GENES * (25 / 2 / 5 + 25 / 2 / 45) / 10, rel=1e-5)


@pytest.mark.parametrize(
    "likelihood",
    [Poisson(), NegativeBinomial(), ZeroInflatedNegativeBinomial(), Gaussian(zeros=True)],
    ids=by_name,
)
def test_heads_start_near_one_profile_with_few_excess_zeros(likelihood):
    head = likelihood.head(2_000, 100)
    hidden = np.ones((2, 8), np.float32)
    output = head(hidden)
    kernel = f64(head.kernel)
    assert kernel.std() == pytest.approx(0.01, rel=0.05)
    assert abs(kernel.mean()) < 0.001
    if likelihood.name == "zinb":
        np.testing.assert_array_equal(output["zero_logit"], -3)
    if likelihood.name == "gaussian":
        np.testing.assert_array_equal(output["zero_logit"], 0)
        np.testing.assert_array_equal(output["sd"], 1)
        np.testing.assert_allclose(output["mean"][0], np.maximum(kernel.sum(axis=0), 0), atol=1e-6)


def test_which_weights_are_trainable():
    head = Gaussian(zeros=True).head(GENES, 100, [2, 3])
    head(HIDDEN, CONDITION)
    names = {weight.name for weight in head.trainable_weights}
    assert names == {
        "kernel",
        "bias",
        "effect",
        "log_dispersion",
        "deviation",
        "zero_kernel",
        "zero_bias",
        "zero_effect",
    }
    assert {weight.name for weight in head.non_trainable_weights} == {"centre", "spread", "lowest", "highest"}
    counts = ZeroInflatedNegativeBinomial().head(GENES, 100, [2, 3])
    counts(HIDDEN, CONDITION)
    assert {weight.name for weight in counts.trainable_weights} == names
    assert not counts.non_trainable_weights


@pytest.mark.parametrize("name", ["CountHead", "GaussianHead", "RowL2"])
def test_what_saved_models_name_is_registered_with_keras(name):
    assert keras.saving.get_registered_object(f"vaexprs>{name}").__name__ == name


@pytest.mark.parametrize(
    "likelihood", [ZeroInflatedNegativeBinomial(), Poisson(), Gaussian(zeros=True)], ids=by_name
)
def test_conditional_head_is_rebuilt_with_its_regularisers(likelihood):
    head = likelihood.head(GENES, 100, [2, 3])
    head(HIDDEN, CONDITION)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(head))
    again(HIDDEN, CONDITION)
    for own, given in zip(again.weights, head.weights, strict=True):
        given.assign(np.full(given.shape, 0.3))
        own.assign(given.value)
    assert again.get_config() == head.get_config()
    assert float(sum(again.losses)) == pytest.approx(float(sum(head.losses)), rel=1e-6)
    assert float(sum(again.losses)) > 0
    prior = RowL2.from_config(head.effect.regularizer.get_config())
    assert prior.strengths == head.effect.regularizer.strengths


def test_standard_deviations_are_those_of_the_gene_times_a_factor_within_limits():
    head, _ = started(Gaussian(), np.random.default_rng(0).normal([5, 50, 20], [1, 7, 3], (400, GENES)))
    spread = f64(head.spread)
    head.log_dispersion.assign([-100.0, 100.0, 0.05])
    np.testing.assert_allclose(f64(head(HIDDEN)["sd"])[0], spread * np.exp([-6, 3, 1]), rtol=1e-5)
    head.log_dispersion.assign([0.0, 0, 0])
    head.kernel.assign(np.zeros((8, GENES)))
    head.bias.assign([0.5, -0.25, 0])
    np.testing.assert_allclose(
        f64(head(HIDDEN)["mean"])[0], f64(head.centre) + spread * [0.5, -0.25, 0], rtol=1e-6
    )


def test_genes_at_the_lower_limit_of_the_dispersion_are_stuck():
    for likelihood in (NegativeBinomial(), ZeroInflatedNegativeBinomial()):
        head = likelihood.head(GENES, 100)
        head(HIDDEN)
        head.log_dispersion.assign([-0.36, -0.35, -0.34])  # times twenty: the limit is -7
        assert likelihood.stuck_genes(head).tolist() == [True, True, False]
    for likelihood in (Poisson(), Gaussian(), Bernoulli()):
        head = likelihood.head(GENES, 100)
        head(HIDDEN)
        assert likelihood.stuck_genes(head).tolist() == [False]


def test_proportion_of_nothing_leaves_a_mean_of_one_in_a_hundred_million():
    x, proportion = f32([[1.0, 3.0], [0.0, 4.0]], [[0.0, 1.0], [0.0, 1.0]])
    got = f64(Poisson().log_prob(x, proportion))
    expected = stats.poisson(4).logpmf([3, 4]) + np.array([np.log(1e-8), 0])
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_common_parts_and_scaling_of_each_likelihood():
    assert [LIKELIHOODS[name].common for name in NAMES] == [(), *[("dispersion",)] * 3, ()]
    assert [LIKELIHOODS[name].scaling_in_network for name in NAMES] == [False, True, True, True, True]
    assert [LIKELIHOODS[name]().scaling(np.ones((2, 2))) for name in NAMES[1:4]] == ["none"] * 3


# ---- draws of blocks


@pytest.mark.parametrize("name", NAMES)
def test_block_is_drawn_from_the_generators_numbers(name):
    rng = np.random.default_rng(0)
    groups = [np.array([3, 0, 4]), np.array([1, 2])]
    library = rng.integers(50, 900, (5, 1)).astype(float)
    proportion = f32(softmax(rng.normal(size=(5, GENES)), axis=1))[0]
    output = {
        "proportion": proportion,
        "dispersion": f32(np.exp(rng.normal(size=(2, GENES))))[0],
        "zero_logit": f32(rng.normal(size=(5, GENES)))[0],
        "mean": proportion * 4,
        "sd": proportion,
    }
    own = {
        "poisson": (np.full((2, GENES), np.inf), None),
        "nb": (output["dispersion"], None),
        "zinb": (output["dispersion"], output["zero_logit"]),
    }
    likelihood = LIKELIHOODS[name](**({"zeros": True} if name == "gaussian" else {}))
    if name == "nb":
        del output["zero_logit"]
    given = proportion if name in ("poisson", "bernoulli") else output
    got = likelihood.draw(given, library, (5, GENES), groups, np.random.default_rng(9))
    again = np.random.default_rng(9)
    if likelihood.counts:
        expected = draw_counts(again, proportion, library, *own[name], groups)
        assert sp.issparse(got)
        np.testing.assert_array_equal(got.toarray(), expected.toarray())
    else:
        np.testing.assert_array_equal(got, likelihood.sample(given, library, again.random((5, GENES))))


def test_gaussian_draws_are_quantiles_and_stay_finite():
    output = {"mean": np.full((1, 6), 2.0), "sd": np.full((1, 6), 3.0), "zero_logit": np.zeros((1, 6))}
    u = np.array([[0.0, 0.2, 0.4999, 0.5, 0.75, np.nextafter(1, 0)]])
    far = stats.norm.isf(1e-12)
    got = Gaussian(zeros=True).sample(output, None, u)[0]
    assert got[:3].tolist() == [0, 0, 0]
    np.testing.assert_allclose(got[3:], [2 - 3 * far, 2, 2 + 3 * far], rtol=1e-4)
    expected = 2 + 3 * stats.norm.ppf(np.clip(u[0], 1e-12, 1 - 1e-12))
    np.testing.assert_allclose(Gaussian().sample(output, None, u)[0], expected, rtol=1e-6)
    np.testing.assert_allclose(
        Gaussian(nonnegative=True).sample(output, None, u)[0], np.abs(expected), rtol=1e-6
    )
    sure = output | {"zero_logit": np.full((1, 6), 80.0)}  # a probability of 1, of which nothing is left
    with np.errstate(divide="raise", invalid="raise"):
        assert Gaussian(zeros=True).sample(sure, None, u)[0].tolist() == [0] * 6


def test_zero_inflated_draws_are_quantiles_of_what_is_above_the_excess():
    u = np.random.default_rng(0).random((50, 40))
    logit = np.random.default_rng(1).normal(size=u.shape)
    output = {"proportion": np.full(u.shape, 0.02), "dispersion": np.full(u.shape, 1.5), "zero_logit": logit}
    excess = expit(logit)
    expected = np.where(u < excess, 0, scipy_nb(6.0, 1.5).ppf(np.clip((u - excess) / (1 - excess), 0, 1)))
    got = ZeroInflatedNegativeBinomial().sample(output, np.full((50, 1), 300.0), u)
    np.testing.assert_array_equal(got, expected)


# ---- scaling and start of Gaussian values


@pytest.mark.parametrize(("values", "kind"), [((1.0, 1000.0), "none"), ((1.0, 30.0, 1000.0), "log1p")])
def test_only_genes_with_three_values_determine_the_scaling(values, kind):
    x = np.zeros((300, 201))
    x[:, 0] = np.random.default_rng(0).normal(20, 2, 300)
    x[: len(values), 1:] = np.array(values)[:, None]
    assert best_power(x[:, :1]) == "none"
    assert best_power(x) == "log1p"
    assert Gaussian.for_values(Summary.of(x)).scaling(x) == kind


def test_gaussian_start_is_exact_in_a_few_cells():
    """Zeros of 4 cells with a half added to each side; a gene that does not vary gets a thousandth of the others' sd."""
    x = np.array([[1.0, 5, 0], [3, 5, 0], [0, 5, 7], [5, 5, 9]], np.float32)
    head, output = started(Gaussian(zeros=True), x)
    np.testing.assert_allclose(f64(head.zero_bias), np.log([1.5 / 3.5, 0.5 / 4.5, 2.5 / 2.5]), atol=1e-6)
    np.testing.assert_allclose(output["mean"], [3, 5, 8], rtol=1e-6)
    sd = np.array([np.sqrt(8 / 3), 0, 1])
    sd[1] = 1e-3 * np.median(sd[[0, 2]])
    np.testing.assert_allclose(f64(head.spread), sd, rtol=1e-5)
    np.testing.assert_array_equal(f64(head.lowest), [0, 5, 0])
    np.testing.assert_array_equal(f64(head.highest), [5, 5, 9])
    little, _ = started(Gaussian(zeros=True), x / 50)
    np.testing.assert_allclose(f64(little.spread), sd / 50, rtol=1e-5)
    alike, _ = started(Gaussian(), np.full((4, GENES), 6.0, np.float32))
    np.testing.assert_allclose(f64(alike.spread), 1e-3, rtol=1e-6)
    empty, output = started(Gaussian(zeros=True), np.zeros((4, GENES), np.float32))
    np.testing.assert_allclose(f64(empty.zero_bias), np.log(9), rtol=1e-6)
    assert output["mean"].tolist() == [0] * GENES


def test_entries_that_are_not_zero_are_all_but_zeros_stored_or_not():
    x = sp.csr_matrix(([-1.0, 0.0, 2.0], ([0, 0, 1], [0, 1, 1])), (2, 2))
    assert x.nnz == 3
    for form in (x, x.toarray()):
        gene, values = _nonzero(form)
        assert (gene.tolist(), values.tolist()) == ([0, 1], [-1, 2])


def test_moments_of_blocks_together_are_those_of_all():
    """Blocks of different genes and sizes, among them none: number, mean and standard deviation of the non-zeros."""
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (60, 4)) * (rng.random((60, 4)) < [0.9, 0.5, 0.05, 0])
    joined = _NO_MOMENTS
    for block in (x[:7], x[7:7], x[7:30], x[30:]):
        joined = _combined_moments(joined, _moments(*_nonzero(sp.csr_matrix(block)), 4))
    kept = [gene[gene != 0] for gene in x.T]
    assert joined[0].tolist() == [len(gene) for gene in kept]
    np.testing.assert_allclose(joined[1][:3], [gene.mean() for gene in kept[:3]])
    np.testing.assert_allclose(joined[2][:3], [gene.std() for gene in kept[:3]], atol=1e-12)
    assert (joined[1][3], joined[2][3]) == (0, 0)


def test_head_started_from_private_releases_learns_no_dispersions():
    """Proportions and effects are the released ones; the dispersion of all genes is fixed at 5."""
    log_proportions, effects = np.log([0.2, 0.5, 0.3]), np.array([[1.0, 0, 0], [0, -1, 0]])
    head = NegativeBinomial().head(GENES, 100, [2, 3])
    head(np.zeros_like(HIDDEN), CONDITION)
    NegativeBinomial().start_released(head, log_proportions, effects)
    output = head(np.zeros_like(HIDDEN), CONDITION)
    expected = softmax(log_proportions + CONDITION @ effects, axis=1)
    np.testing.assert_allclose(f64(output["proportion"]), expected, rtol=1e-5)
    np.testing.assert_allclose(f64(output["dispersion"]), 5, rtol=1e-5)
    assert {weight.name for weight in head.trainable_weights} == {"kernel", "bias", "effect"}
    for likelihood in (NegativeBinomial(), Poisson()):
        alone = likelihood.head(GENES, 100)
        alone(HIDDEN)
        likelihood.start_released(alone, log_proportions, np.zeros((0, GENES)))
        assert {weight.name for weight in alone.trainable_weights} == {"kernel", "bias"}
        np.testing.assert_allclose(f64(alone.bias), log_proportions, rtol=1e-6)


@each_count_likelihood
def test_counts_are_at_most_what_an_integer_holds(likelihood):
    x = np.array([[2.0**31 - 1, 0], [0, 1]])
    likelihood.check(Summary.of(x), list("ab"))
    x[0, 0] += 1
    with pytest.raises(ValueError, match=r"(?i)counts.*2,147,483,647.*\b2\.14748e\+09\b"):
        likelihood.check(Summary.of(x), list("ab"))


@pytest.mark.parametrize("likelihood", [NegativeBinomial(), Poisson(), Gaussian(zeros=True)], ids=by_name)
def test_basis_columns_have_effects_but_no_dispersions(likelihood):
    """Effects have the prior of a level that all cells have; dispersions are those of the levels."""
    levels = np.eye(2, dtype=np.float32)[[0, 0, 1, 1, 1]]
    condition = np.c_[levels, np.linspace(-1, 1, 5, dtype=np.float32)]
    head = likelihood.head(GENES, 100, [2, 3], n_basis=1)
    before = head(HIDDEN, condition)
    assert head.effect.shape == (3, GENES)
    head.effect.assign(np.array([[0.0] * GENES, [0.0] * GENES, [0.4] * GENES]) / EFFECT_STEP)
    assert float(sum(head.losses)) * 100 == pytest.approx(GENES * 0.4**2 / 2 / 50, rel=1e-5)
    if likelihood.name == "nb":
        assert head.deviation.shape == (2, GENES)
        after = head(HIDDEN, condition)
        np.testing.assert_array_equal(after["dispersion"], before["dispersion"])
    if likelihood.name == "gaussian":
        after = head(HIDDEN, condition)
        assert (np.asarray(after["mean"] != before["mean"])).any()
    assert head.get_config()["n_basis"] == 1
    assert "n_basis" not in likelihood.head(GENES, 100, [2, 3]).get_config()


def test_head_with_basis_columns_only():
    head = NegativeBinomial().head(GENES, 100, n_basis=2)
    output = head(HIDDEN, np.ones((5, 2), np.float32))
    assert head.deviation is None
    assert output["dispersion"].shape == (5, GENES)
