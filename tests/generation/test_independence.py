"""Generated cells are independent draws: two sets with different seeds differ like two samples of one population."""

import anndata as ad
import numpy as np
import pytest
from scipy import stats

import vaexprs as vx
from vaexprs.data.matrix import log_normalised
from vaexprs.metrics.functions import auc, forest_votes

N, PAIRS = 400, 16
# "bernoulli" is left out: its cells are the decoder's means without noise, of two latent dimensions, so that the
# p-values of a pair are nearly one number. The latent vectors are sampled by the same code for all likelihoods.
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("zinb", "poisson", "gaussian")]


@pytest.fixture(scope="module", params=["nb", *SLOW])
def sets(request, cells):
    """Log values of pairs of sets of one label, (PAIRS, 2, N, n_genes), each set with its own seed."""
    genes = np.argsort(-np.asarray(cells.X.mean(axis=0)).ravel())[:300:2]
    train, counts = cells[:, genes].copy(), request.param != "gaussian"
    if not counts:
        train = ad.AnnData(log_normalised(train.X), train.obs, train.var)
    fit = vx.fit_vae(train, label_key="cell_type", likelihood=request.param, epochs=8, verbose=0)
    made = [
        vx.gen_exprs(fit, labels={"CD14+ Monocyte": N}, seed=seed, progress=False).adata.X
        for seed in range(2 * PAIRS)
    ]
    values = np.stack([np.log1p(x.toarray()) if counts else x for x in made])
    return values.reshape(PAIRS, 2, N, -1)


def test_p_values_between_sets_are_uniform(sets):
    expressed = (sets > 0).mean(axis=(0, 1, 2)) > 0.1
    assert expressed.sum() > 80
    a, b = (sets[:, i][..., expressed] for i in (0, 1))
    p = stats.ttest_ind(a, b, axis=1, equal_var=False).pvalue
    assert 0.02 < (p < 0.05).mean() < 0.09
    # genes of a pair are correlated, so the pooled p-values are not as close to uniform as independent ones
    assert stats.kstest(p.ravel(), "uniform").statistic < 0.1


def forest_auc(a, b):
    """Return the AUC of forests that learn on half of the cells of both sets, on the other half."""
    x, y = np.concatenate([a, b]), np.repeat([1, 0], [len(a), len(b)])
    half = np.arange(len(x)) % 2
    return np.mean(
        [auc(forest_votes(x[half != h], y[half != h], x[half == h], 0), y[half == h]) for h in (0, 1)]
    )


def test_a_forest_does_not_tell_sets_apart(sets):
    sd = np.sqrt((2 * N + 1) / (12 * N * N))  # of the Mann-Whitney statistic of one pair
    assert np.abs(np.array([forest_auc(a, b) for a, b in sets[:2]]) - 0.5).max() < 3.5 * sd
