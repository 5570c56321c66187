"""Generated cells that leak training cells, each in one way that an audit must notice, and fresh cells.

Each function takes training, held-out and fresh real cells (three random parts of one data set), the column of
`obs` with the label and a random generator. It returns generated, training and held-out cells.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

Parts = tuple[ad.AnnData, ad.AnnData, ad.AnnData]
Leak = Callable[[ad.AnnData, ad.AnnData, ad.AnnData, str, np.random.Generator], Parts]


def thirds(cells: ad.AnnData, n: int, seed: int) -> Parts:
    """Return training, held-out and fresh cells, n each."""
    order = np.random.default_rng(seed).permutation(cells.n_obs)[: 3 * n]
    train, held, fresh = (cells[np.sort(order[i::3])].copy() for i in range(3))
    return train, held, fresh


def dense(cells: ad.AnnData) -> np.ndarray:
    return np.asarray(cells.X.toarray() if sp.issparse(cells.X) else cells.X)


def named(x: np.ndarray, labels: np.ndarray, key: str, cells: ad.AnnData) -> ad.AnnData:
    """Return cells with new names."""
    obs = pd.DataFrame({key: labels}, index=[f"g{i}" for i in range(len(x))])
    return ad.AnnData(sp.csr_matrix(x, dtype=np.float32), obs=obs, var=cells.var[[]])


def labels_of(cells: ad.AnnData, key: str) -> np.ndarray:
    return cells.obs[key].astype(str).to_numpy()


def fresh(train, held, fresh, key, rng):
    """Real cells that were not in training: no leak."""
    return named(dense(fresh), labels_of(fresh, key), key, train), train, held


def copies(train, held, fresh, key, rng):
    """The training cells."""
    return named(dense(train), labels_of(train, key), key, train), train, held


def jittered(train, held, fresh, key, rng):
    """The training cells, each count multiplied by a log-normal factor (SD 0.3)."""
    x = dense(train)
    x = np.round(x * np.exp(0.3 * rng.normal(size=x.shape)))
    return named(x, labels_of(train, key), key, train), train, held


def redrawn(train, held, fresh, key, rng):
    """Poisson counts with the training cells as means."""
    return named(rng.poisson(dense(train)), labels_of(train, key), key, train), train, held


def thinned(share: float, foreign: float = 0.0) -> Leak:
    def leak(train, held, fresh, key, rng):
        x, profile = rng.binomial(dense(train).astype(int), share), dense(fresh).mean(axis=0)
        x += rng.poisson(foreign * x.sum(axis=1, keepdims=True) * profile / profile.sum())
        return named(x, labels_of(train, key), key, train), train, held

    leak.__doc__ = f"The training cells with {share:.0%} of their counts, and {foreign:.0%} more from the mean of fresh cells."
    return leak


def doubled(train, held, fresh, key, rng):
    """The training cells with twice their counts."""
    return named(2 * dense(train), labels_of(train, key), key, train), train, held


def expressed_genes(share: float) -> Leak:
    def leak(train, held, fresh, key, rng):
        x, labels = dense(train).copy(), labels_of(train, key)
        others = np.argsort(-x.mean(axis=0))[round(share * x.shape[1]) :]
        rows = {label: np.flatnonzero(labels_of(fresh, key) == label) for label in labels}
        partner = [rng.choice(rows[label] if len(rows[label]) else fresh.n_obs) for label in labels]
        x[:, others] = dense(fresh)[np.ix_(partner, others)]
        return named(x, labels, key, train), train, held

    leak.__doc__ = (
        f"The training cells in the {share:.0%} of the genes with most counts, and fresh cells in the others."
    )
    return leak


def among_fresh(share: float, leak: Leak) -> Leak:
    def mixed(train, held, fresh, key, rng):
        leaked = leak(train, held, fresh, key, rng)[0]
        x, labels = dense(fresh).copy(), labels_of(fresh, key)
        n = max(1, round(share * len(x)))
        own = rng.choice(leaked.n_obs, n, replace=False)
        x[:n], labels[:n] = dense(leaked)[own], labels_of(leaked, key)[own]
        return named(x, labels, key, train), train, held

    mixed.__doc__ = f"Fresh cells, of which {share:.0%} are replaced. {leak.__doc__}"
    return mixed


def three_copies(train, held, fresh, key, rng):
    """Fresh cells and three exact copies among ten times as many cells with redrawn counts."""
    x, labels = dense(fresh), labels_of(fresh, key)
    drawn = rng.poisson(np.tile(x, (10, 1)))
    made = np.concatenate([drawn, dense(train)[:3]])
    return (
        named(made, np.concatenate([np.tile(labels, 10), labels_of(train, key)[:3]]), key, train),
        train,
        held,
    )


def averages(n: int) -> Leak:
    def leak(train, held, fresh, key, rng):
        x, labels = dense(train), labels_of(train, key)
        weights = rng.dirichlet(np.ones(n), len(x))
        made = weights[:, [0]] * x
        for weight in weights.T[1:]:
            for label in np.unique(labels):
                rows = np.flatnonzero(labels == label)
                made[rows] += weight[rows, None] * x[rng.permutation(rows)]
        return named(np.floor(made + rng.random(x.shape)), labels, key, train), train, held

    leak.__doc__ = f"Averages of {n} training cells of a label with random weights, rounded at random."
    return leak


def rare_label_thinned(share: float, times: int, min_cells: int) -> Leak:
    def leak(train, held, fresh, key, rng):
        sizes = pd.concat([pd.Series(labels_of(part, key)).value_counts() for part in (train, held)], axis=1)
        smaller = sizes.min(axis=1)
        label = smaller[smaller >= min(min_cells, smaller.max())].idxmin()
        own = dense(train)[labels_of(train, key) == label]
        others = labels_of(fresh, key) != label
        copied = rng.binomial(np.tile(own, (times, 1)).astype(int), share)
        labels = np.concatenate([labels_of(fresh, key)[others], np.repeat(label, len(copied))])
        return named(np.concatenate([dense(fresh)[others], copied]), labels, key, train), train, held

    leak.__doc__ = f"Fresh cells, but those of one label with few cells are training cells with {share:.0%} of their counts."
    return leak


def genes_permuted(train, held, fresh, key, rng):
    """Each gene of the training cells is permuted among the cells of a label."""
    x, labels = dense(train).copy(), labels_of(train, key)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        x[rows] = rng.permuted(x[rows], axis=0)
    return named(x, labels, key, train), train, held


def genes_permuted_over_all(train, held, fresh, key, rng):
    """Each gene of the training cells is permuted among all cells."""
    return named(rng.permuted(dense(train), axis=0), labels_of(train, key), key, train), train, held


def renamed(train, held, fresh, key, rng):
    """The training cells with the names of the genes permuted."""
    order = rng.permutation(train.n_vars)
    return named(dense(train)[:, order], labels_of(train, key), key, train), train, held


def with_rare_label(cells: ad.AnnData, key: str, n: int) -> ad.AnnData:
    """Return cells of which the first n of the largest label have a label of their own."""
    cells, labels = cells.copy(), labels_of(cells, key)
    names, sizes = np.unique(labels, return_counts=True)
    labels[np.flatnonzero(labels == names[sizes.argmax()])[:n]] = "rare"
    cells.obs[key] = labels
    return cells


def fitted(train: ad.AnnData, key: str, **arguments):
    import vaexprs as vx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return vx.fit_vae(train, label_key=key, verbose=0, **arguments)


def lone_cell(n_generated: int | None) -> Leak:
    def leak(train, held, fresh, key, rng):
        import vaexprs as vx

        train, held = with_rare_label(train, key, 1), with_rare_label(held, key, held.n_obs // 10)
        fit = fitted(train, key, epochs=30)
        made = vx.gen_exprs(fit, train.n_obs, progress=False).adata
        if n_generated is not None:
            rare = vx.gen_exprs(fit, labels={"rare": n_generated}, seed=1, progress=False).adata
            made = ad.concat([made, rare], index_unique="-")
        return made, train, held

    return leak


def overfitted(train, held, fresh, key, rng):
    """A model of all genes with 30 latent dimensions, little regularisation and many epochs."""
    import vaexprs as vx

    fit = fitted(train, key, latent_dim=30, regularization=0.02, epochs=400)
    return vx.gen_exprs(fit, 2 * train.n_obs, progress=False).adata, train, held


LEAKS: dict[str, Leak] = {
    "copies": copies,
    "jittered copies": jittered,
    "redrawn copies": redrawn,
    "copies thinned to 80%": thinned(0.8),
    "copies thinned to 50%": thinned(0.5),
    "copies thinned to 8%": thinned(0.08),
    "copies with doubled counts": doubled,
    "copies of the 50% most expressed genes": expressed_genes(0.5),
    "5% copies among fresh cells": among_fresh(0.05, copies),
    "5% copies thinned to 30% among fresh cells": among_fresh(0.05, thinned(0.3)),
    "20% copies thinned to 30% among fresh cells": among_fresh(0.2, thinned(0.3)),
    "3 copies among 10 times as many": three_copies,
    "averages of two training cells": averages(2),
    "averages of three training cells": averages(3),
    "rare label: copies thinned to 80%": rare_label_thinned(0.8, 2, 10),
    "rare label: copies thinned to 30%": rare_label_thinned(0.3, 1, 4),
    "genes permuted within labels": genes_permuted,
    "genes permuted over all cells": genes_permuted_over_all,
}
# leaks that the audit does not notice, or not always
MISSED: dict[str, Leak] = {
    "5% copies thinned to 30%, with 10% foreign counts": among_fresh(0.05, thinned(0.3, 0.1)),
    "5% averages of two training cells among fresh cells": among_fresh(0.05, averages(2)),
    "genes renamed": renamed,
    "copies of the 10% most expressed genes": expressed_genes(0.1),
    "5% copies of the 50% most expressed genes among fresh cells": among_fresh(0.05, expressed_genes(0.5)),
    "5% averages of three training cells among fresh cells": among_fresh(0.05, averages(3)),
}
MODELS: dict[str, Leak] = {
    "over-fitted model": overfitted,
    "label with 1 training cell": lone_cell(None),
    "label with 1 training cell, 200 generated": lone_cell(200),
}
