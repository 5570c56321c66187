# ruff: noqa: PT017 - an example may be refused, and what it is refused with is looked at
"""What holds for any input of the parts that know nothing of networks."""

import tempfile
import warnings
from pathlib import Path

import vaexprs as vx

# isort: split
import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from threadpoolctl import threadpool_limits

from vaexprs.data.levels import find_level
from vaexprs.data.matrix import MAX_COUNT
from vaexprs.io.convert import fingerprint
from vaexprs.latent.density import LatentDensity, fit_density
from vaexprs.likelihoods.count_sampling import count_quantiles
from vaexprs.metrics import functions as metrics
from vaexprs.mixture.em import MODELS, SingularFitError
from vaexprs.mixture.gaussian_mixture import GaussianMixture
from vaexprs.preprocessing.conditions import Conditions, column_of_levels, learn_conditions
from vaexprs.preprocessing.scaling import SCALINGS, Scaling
from vaexprs.preprocessing.splits import apportion, split_levels, split_rows
from vaexprs.preprocessing.summary import Summary

FEWER = settings(max_examples=max(10, settings().max_examples // 20))  # where an example takes longer
SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=8)
COUNTS = hnp.arrays(np.float32, SHAPES, elements=st.integers(0, 2**20))
NUMBERS = hnp.arrays(np.float32, SHAPES, elements=st.floats(-1e4, 1e4, width=32))
POSITIVE = hnp.arrays(np.float32, SHAPES, elements=st.floats(0, 1e4, width=32))
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
LEVELS = st.one_of(st.integers(-3, 3), st.booleans(), st.floats(allow_nan=False), NAMES)
SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    with threadpool_limits(1):
        yield


# ---- preparing


@given(x=st.one_of(COUNTS, POSITIVE), kind=st.sampled_from(SCALINGS))
def test_scaling_goes_there_and_back_sparse_or_not(x, kind):
    scaling = Scaling.fit(kind, x.min(axis=0).astype(float), x.max(axis=0).astype(float))
    prepared = scaling.forward(x)
    np.testing.assert_allclose(scaling.forward(sp.csr_matrix(x)).toarray(), prepared, rtol=1e-5, atol=1e-5)
    assert np.isfinite(prepared).all()
    varies = np.full(x.shape[1], True) if kind != "minmax" else scaling.range > 0
    back = scaling.inverse(prepared.astype(np.float64))
    np.testing.assert_allclose(back[:, varies], x[:, varies], rtol=1e-3, atol=1e-3)
    if kind == "minmax":
        assert (prepared >= -1e-4).all()
        assert (prepared <= 1 + 1e-4).all()


@given(x=NUMBERS, at=st.integers(1, 7))
def test_the_summary_of_parts_is_that_of_all(x, at):
    assume(at < len(x))
    whole, parts = Summary.of(x), Summary.of(x[:at]).joined(Summary.of(sp.csr_matrix(x[at:])))
    for name in ("cells", "nonzero", "fractions", "n_empty", "low", "high", "empty", "whole"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))
    np.testing.assert_allclose(whole.total, parts.total, rtol=1e-6, atol=1e-3)


@given(x=COUNTS, order=st.sampled_from(["C", "F"]))
def test_the_fingerprint_is_of_values_and_names_not_of_how_they_are_kept(x, order):
    forms = [
        np.asarray(x, order=order),
        sp.csr_matrix(x),
        sp.csc_matrix(x),
        x.astype(np.int64),
        sp.csr_array(x),
    ]
    assert len({fingerprint(ad.AnnData(form)) for form in forms}) == 1
    assert fingerprint(ad.AnnData(x + np.eye(*x.shape, dtype=np.float32))) != fingerprint(ad.AnnData(x))


@given(values=st.lists(LEVELS, min_size=1, max_size=12), other=NAMES)
def test_levels_and_their_codes(values, other):
    obs = pd.DataFrame({"kind": pd.Series(values, dtype=object)})
    column = column_of_levels(obs, "kind")
    # 1, 1.0 and True are one value to pandas, and are named as the first of them
    assert len(set(map(str, column))) <= len(set(map(str, values)))
    if len(values) > 1 and len(column.cat.categories) == len(values):
        with pytest.raises(ValueError, match=r"^label_key\b"):
            learn_conditions(obs, "kind", [])
        return
    conditions = learn_conditions(obs, "kind", [])
    frame = pd.DataFrame({"kind": column})
    code = conditions.one_hot(frame)
    assert code.shape == (len(values), conditions.width)
    assert (code.sum(axis=1) == 1).all()
    assert [conditions.labels[i] for i in code.argmax(axis=1)] == list(column)
    if find_level(other, conditions.labels) is None:
        with pytest.raises(ValueError, match=r"^kind\b"):
            conditions.one_hot(pd.DataFrame({"kind": [other]}))


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), fraction=st.floats(0, 0.99), seed=SEEDS)
def test_a_split_keeps_each_cell_once_and_each_label_in_training(sizes, fraction, seed):
    labels = np.repeat([f"l{i}" for i in range(len(sizes))], sizes)
    train, held = split_rows(labels, len(labels), fraction, seed)
    assert sorted([*train, *held]) == list(range(len(labels)))
    assert set(labels[train]) == set(labels)
    assert len(held) <= round(fraction * len(labels))
    again = split_rows(labels, len(labels), fraction, seed)
    assert [list(part) for part in again] == [list(train), list(held)]
    kept, out = split_levels(labels, fraction, seed)
    assert not set(labels[kept]) & set(labels[out])
    assert sorted([*kept, *out]) == list(range(len(labels)))


@given(
    weights=st.lists(st.floats(0, 1e6), min_size=1, max_size=20).filter(lambda w: sum(w) > 1e-3),
    n=st.integers(0, 10_000),
)
def test_apportioned_numbers_are_whole_sum_up_and_are_near(weights, n):
    counts = apportion(np.array(weights), n)
    exact = np.array(weights) / np.sum(weights) * n
    assert counts.sum() == n
    assert (np.abs(counts - exact) < 1 + 1e-6).all()
    assert (counts >= 0).all()


# ---- drawing


@given(
    u=st.floats(0, 1, exclude_max=True),
    mean=st.floats(1e-9, 1e18),
    dispersion=st.one_of(st.just(np.inf), st.floats(9e-4, 8200)),
)
def test_quantiles_are_counts_and_rise(u, mean, dispersion):
    uniform = np.array([u / 2, u, (1 + u) / 2])
    found = count_quantiles(uniform, np.full(3, mean), np.full(3, dispersion))
    assert found.dtype == np.int64
    assert (np.diff(found) >= 0).all()
    assert found[0] >= 0
    assert found[2] <= MAX_COUNT
    if 1 < mean < 1e6 and np.isinf(dispersion) and 1e-3 < u < 1 - 1e-3:
        assert abs(found[1] - stats.poisson.ppf(u, mean)) <= 1


@given(theta=st.floats(1e-3, 8e3), u=st.floats(0.01, 0.999), mean=st.floats(2.0**24, 2.0**24.5))
def test_large_counts_are_as_those_that_are_searched(theta, u, mean):
    """Just above the mean from which on they are not searched any more."""
    assume(theta > 0.5)
    found = count_quantiles(np.array([u]), np.array([mean]), np.array([theta]))[0]
    assert found == pytest.approx(stats.nbinom.ppf(u, theta, theta / (theta + mean)), rel=2e-3)


# ---- densities


@FEWER
@given(
    d=st.integers(1, 4),
    components=st.integers(1, 3),
    model=st.sampled_from(MODELS),
    scale=st.floats(1e-6, 1e6),
    seed=SEEDS,
)
def test_a_mixture_is_a_density_or_is_said_to_be_singular(d, components, model, scale, seed):
    rng = np.random.default_rng(seed)
    x = scale * (rng.standard_normal((60, d)) + rng.integers(0, 3, (60, 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that EM has not converged
        try:
            mixture = GaussianMixture(components, model=model, random_state=0).fit(x).mixture_
        except SingularFitError as error:
            assert str(error).endswith(".")
            return
    assert mixture.weights.sum() == pytest.approx(1)
    assert (np.linalg.eigvalsh(mixture.covariances) > 0).all()
    assert np.isfinite(mixture.log_prob(x)).all()
    assert np.isfinite(mixture.sample(20, rng)).all()


@pytest.mark.slow
@FEWER
@given(
    sizes=st.lists(st.sampled_from([1, 2, 3, 29, 31, 60]), min_size=1, max_size=4),
    spread=st.sampled_from([0.0, 1e-3, 1.0, 1e3]),
    counts=st.booleans(),
    seed=SEEDS,
)
def test_a_density_is_finite_and_comes_back_whole(sizes, spread, counts, seed):
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    obs = pd.DataFrame({"kind": np.repeat([f"l{i}" for i in range(len(sizes))], sizes)})
    levels = tuple(f"l{i}" for i in range(len(sizes)))
    conditions = Conditions("kind", {"kind": levels})
    mean = spread * rng.standard_normal((n, 2))
    library = np.log(rng.integers(1, 100, n)) if counts else None
    density = fit_density(mean, np.full((n, 2), 0.1), library, obs, conditions, seed=0)
    assert density.cells.tolist() == sizes
    back = LatentDensity.from_arrays(density.to_arrays(), conditions)
    for level in levels:
        mixture = density.mixture({"kind": level})
        assert np.isfinite(mixture.sample(10, rng)).all()
        np.testing.assert_array_equal(back.mixture({"kind": level}).means, mixture.means)
    assert back.seen == density.seen


# ---- judging


@FEWER
@given(
    n=st.integers(2, 20),
    m=st.integers(2, 20),
    d=st.integers(1, 5),
    kind=st.sampled_from(["normal", "counts", "constant", "one apart"]),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    seed=SEEDS,
)
def test_metrics_are_finite_symmetric_and_independent_of_the_unit(n, m, d, kind, scale, seed):
    rng = np.random.default_rng(seed)
    if kind == "normal":
        a, b = rng.standard_normal((n, d)), rng.standard_normal((m, d))
    elif kind == "counts":
        a, b = rng.poisson(0.3, (n, d)).astype(float), rng.poisson(0.5, (m, d)).astype(float)
    else:
        a, b = np.ones((n, d)), np.ones((m, d))
        a[0] += kind == "one apart"
    discrepancy = metrics.mmd(a, b)
    assert np.isfinite(discrepancy)
    assert -2 <= discrepancy <= 2 + 1e-9
    if np.median(((b[:, None] - b) ** 2).sum(axis=-1)[np.triu_indices(m, 1)]) > 1e-3:
        assert metrics.mmd(scale * a, scale * b) == pytest.approx(discrepancy, abs=1e-5)
    assert metrics.mmd(b, a, scale=2.0) == pytest.approx(metrics.mmd(a, b, scale=2.0), abs=1e-9)
    variances = a.var(axis=0), b.var(axis=0)
    difference = metrics.mean_difference(a, b, *variances)
    assert np.isnan(difference) or difference >= 0
    swapped = metrics.mean_difference(b, a, *variances[::-1])
    assert swapped == pytest.approx(difference, rel=1e-9, nan_ok=True)
    ratio = metrics.largest_variance_ratio(a, b)
    assert np.isnan(ratio) or ratio >= 1
    if kind == "normal":  # of constant values the variance is a rounding error, or 0
        rescaled = metrics.largest_variance_ratio(scale * a, scale * b)
        assert rescaled == pytest.approx(ratio, rel=1e-6)


# ---- files


@st.composite
def some_cells(draw):
    x = draw(st.one_of(COUNTS, POSITIVE))
    form = draw(st.sampled_from([np.asarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array]))
    unique = {"unique": True}
    genes = draw(st.lists(NAMES, min_size=x.shape[1], max_size=x.shape[1], **unique))
    names = draw(st.lists(NAMES, min_size=len(x), max_size=len(x), **unique))
    obs = pd.DataFrame(index=pd.Index(names, dtype=object))
    if draw(st.booleans()):
        values = draw(st.lists(NAMES, min_size=len(x), max_size=len(x)))
        obs[draw(st.sampled_from(["kind", "größe", "=1", "cell"]))] = pd.Series(
            values, obs.index, dtype=object
        )
    return ad.AnnData(form(x), obs=obs, var=pd.DataFrame(index=pd.Index(genes, dtype=object)))


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr", ".mtx", ".csv", ".csv.gz", ".tsv", ".rds"])
@FEWER
@given(cells=some_cells())
def test_what_is_read_is_what_was_written_or_it_is_refused(suffix, cells):
    expected = np.asarray(cells.X.toarray() if sp.issparse(cells.X) else cells.X)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / f"cells{suffix}"
        turned = {"transpose": False} if suffix.startswith((".csv", ".tsv")) else {}
        try:
            vx.write(cells.copy(), path)
        except ValueError as error:
            assert "\n" not in str(error)
            assert not any(Path(folder).iterdir())
            return
        try:
            back = vx.read(path, **turned)
        except ValueError as error:
            assert suffix in (".csv", ".csv.gz", ".tsv"), error
            return
    found = np.asarray(back.X.toarray() if sp.issparse(back.X) else back.X)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert list(back.obs_names) == list(cells.obs_names)
    if suffix != ".mtx":
        assert list(back.var_names) == list(cells.var_names)
    for key in cells.obs:
        assert list(back.obs[key].astype(str)) == list(cells.obs[key].astype(str))
