"""Fidelity of generated cells, and the contribution of each default to it.

    python benchmarks/fidelity.py DATA.h5ad [...] [--label-key cell_type] [--splits 0 1] [--seeds 0 1 2]
    python benchmarks/fidelity.py DATA.h5ad [...] --choices all  # each default replaced in turn
    python benchmarks/fidelity.py DATA.h5ad [...] --simulate     # estimation error alone

Half of the cells (labels with ten or more cells, 2,000 most variable genes) train; as many cells per label
as in the other half are generated and compared with that half. The floor uses the two halves of the training
half in place of generated cells. With --simulate the "real" cells are themselves sampled from a fit to the
data: the model is then correct, and the remaining error is that of learning it from this number of cells.

Prints a Markdown table of metrics, means over splits and seeds: the AUC of a random forest between real and
generated cells, which learns on one generated set and is tested on another (genes, pcs), the AUC between
these two sets (sets) and the share of genes that differ between them at p < .05 (null), ratios and
differences of standard deviations, zeros and library sizes, label accuracy, the slope of fold changes, the
distance to training cells relative to real cells (copies), the AUC of membership inference (members), and
the moments of the genes within labels (means, sds, bias; see `moments`).
"""

import argparse
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import vaexprs as vx

# isort: split
import anndata as ad
import keras
import numpy as np
import scanpy as sc
from harness import parser, random_halves, table_head, table_row, variable_genes
from scipy.stats import ttest_ind
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vaexprs.data.matrix import log_normalised
from vaexprs.latent import density
from vaexprs.likelihoods import base, count_base, outliers
from vaexprs.mixture import selection as mixture

MAX_CELLS = 1_000  # cells per side in a random forest
MIN_CELLS = 15  # of a label in either half, for its moments to be compared
LARGE = 500  # generated cells of each label, to know the moments that a model has learned
COLUMNS = (
    *("genes", "pcs", "sets", "null", "sd", "zeros", "library", "library sd"),
    *("labels", "folds", "copies", "members", "means", "sds", "bias"),
)


def halves(path: Path, key: str, split: int = 0) -> tuple[ad.AnnData, ad.AnnData]:
    """Return two random halves of the cells of frequent labels, with the most variable genes."""
    cells = ad.read_h5ad(path)
    sc.pp.filter_genes(cells, min_cells=3)
    cells = cells[:, variable_genes(cells.X)].copy()
    number = cells.obs[key].map(cells.obs[key].value_counts()).astype(float)
    return random_halves(cells[(number >= 10).to_numpy() & (np.ravel(cells.X.sum(axis=1)) > 0)], split)


def counts(cells: ad.AnnData) -> np.ndarray:
    return np.asarray(cells.X.toarray() if hasattr(cells.X, "toarray") else cells.X, np.float64)


def forest_auc(real: np.ndarray, made: np.ndarray, second: np.ndarray, pcs: bool = False) -> float:
    """Return the AUC of forests that learn on `made` and are tested on `second`, an independent set.

    The real cells are divided into five folds; the AUC is averaged over them.
    """
    rng, found = np.random.default_rng(0), []
    real = rng.permutation(real)[:MAX_CELLS]
    for learned, tested in KFold(5, shuffle=True, random_state=0).split(real):
        x = np.concatenate([real[learned], rng.permutation(made)[: len(learned)]])
        new = np.concatenate([real[tested], rng.permutation(second)[: len(tested)]])
        if pcs:
            axes = PCA(min(50, len(x) - 1, x.shape[1]), random_state=0).fit(x)
            x, new = axes.transform(x), axes.transform(new)
        y, truth = (np.arange(len(part)) >= n for part, n in ((x, len(learned)), (new, len(tested))))
        forest = RandomForestClassifier(100, n_jobs=-1, random_state=0).fit(x, y)
        found.append(roc_auc_score(truth, forest.predict_proba(new)[:, 1]))
    return float(np.mean(found))


def nearest(to: np.ndarray, cells: np.ndarray) -> np.ndarray:
    return NearestNeighbors(n_neighbors=1).fit(to).kneighbors(cells)[0].ravel()


def folds(x: np.ndarray, y: np.ndarray, labels: list[str]) -> np.ndarray:
    return np.concatenate([x[y == label].mean(axis=0) - x[y != label].mean(axis=0) for label in labels])


def two_sample_auc(x: np.ndarray, y: np.ndarray) -> float:
    """Return the AUC of forests between two sets of cells, cross-validated."""
    both, of = np.concatenate([x, y]), np.repeat([0, 1], [len(x), len(y)])
    forest = RandomForestClassifier(100, n_jobs=-1, random_state=0)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    found = cross_val_predict(forest, both, of, cv=folds, method="predict_proba")
    return float(roc_auc_score(of, found[:, 1]))


def different_genes(x: np.ndarray, of_x: np.ndarray, y: np.ndarray, of_y: np.ndarray) -> float:
    """Return the fraction of genes with p < .05 (Welch's t-test within a label) between two sets."""
    found = []
    for label in np.unique(of_x):
        one, two = x[of_x == label], y[of_y == label]
        if min(len(one), len(two)) >= 20:
            on = one.mean(axis=0) + two.mean(axis=0) > 0.2
            found.append(ttest_ind(one[:, on], two[:, on], equal_var=False).pvalue)
    values = np.concatenate(found) if found else np.array([np.nan])
    return float(np.mean(values[np.isfinite(values)] < 0.05))


def moments(train: ad.AnnData, test: ad.AnnData, large: ad.AnnData, key: str) -> tuple[float, float, float]:
    """Return how far moments of genes within labels are from held-out ones, relative to training cells.

    The root mean square over labels and expressed genes of the distance of generated from held-out means, in
    standard errors, divided by that of training from held-out means; the same for log standard deviations;
    and the mean difference of the log standard deviation of generated cells and of both halves. A model that
    knew the truth would reach 1 / sqrt(2), one that repeats the training cells 1.
    """
    groups = [cells.obs[key].astype(str).to_numpy() for cells in (train, test, large)]
    values = [log_normalised(counts(cells)) for cells in (train, test, large)]
    squares, bias = [], []
    for label in np.unique(groups[1]):
        known, held, made = (x[group == label] for x, group in zip(values, groups, strict=True))
        if min(len(known), len(held)) < MIN_CELLS or not len(made):
            continue
        pair = np.concatenate([known, held])
        on = (pair > 0).mean(axis=0) > 0.1
        known, held, made, pair = (x[:, on] for x in (known, held, made, pair))
        error = np.sqrt(pair.var(axis=0) * (1 / len(known) + 1 / len(held))) + 1e-9
        mean = [x.mean(axis=0) / error for x in (known, held, made)]
        log_sd = [np.log(x.std(axis=0) + 1e-3) for x in (known, held, made)]
        squares.append([((part[i] - part[1]) ** 2).sum() for part in (mean, log_sd) for i in (2, 0)])
        bias.append(log_sd[2] - (log_sd[0] + log_sd[1]) / 2)
    total = np.sqrt(np.sum(squares, axis=0))
    return total[0] / total[1], total[2] / total[3], float(np.concatenate(bias).mean())


def figures(
    train: ad.AnnData,
    test: ad.AnnData,
    made: ad.AnnData,
    second: ad.AnnData,
    key: str,
    large: ad.AnnData | None = None,
) -> np.ndarray:
    """Return the metrics (`COLUMNS`) of generated cells.

    `second` is drawn independently of `made`; the moments are those of `large`, or of both sets.
    """
    raw = [counts(cells) for cells in (train, test, made, second)]
    other, real, new, again = (log_normalised(x).astype(np.float32) for x in raw)
    y_train, y_test, y_made, y_again = (
        cells.obs[key].astype(str).to_numpy() for cells in (train, test, made, second)
    )
    axes = min(50, len(real) - 1)
    all_three = PCA(axes, random_state=0).fit(np.concatenate([real, new, other]))
    near_real, near_new, near_other = (all_three.transform(x) for x in (real, new, other))
    on = real.mean(axis=0) > 0.05
    classifier = make_pipeline(
        StandardScaler(), PCA(min(30, len(other) - 1), random_state=0), LogisticRegression(max_iter=2000)
    ).fit(other, y_train)
    labels = [
        label for label in np.unique(y_test) if min((y_test == label).sum(), (y_made == label).sum()) >= 10
    ]
    real_folds, new_folds = folds(real, y_test, labels), folds(new, y_made, labels)
    strong = np.abs(real_folds) > 0.5
    n = min(len(near_other), len(near_real))
    member = -np.concatenate([nearest(near_new, near_other[:n]), nearest(near_new, near_real[:n])])
    library = [x.sum(axis=1) for x in raw]
    return np.array(
        [
            forest_auc(real, new, again),
            forest_auc(real, new, again, pcs=True),
            two_sample_auc(new[:MAX_CELLS], again[:MAX_CELLS]),
            different_genes(new, y_made, again, y_again),
            np.median(new[:, on].std(axis=0) / real[:, on].std(axis=0)),
            abs((raw[1] == 0).mean() - (raw[2] == 0).mean()),
            np.median(library[2]) / np.median(library[1]),
            np.log1p(library[2]).std() / np.log1p(library[1]).std(),
            classifier.score(new, y_made),
            real_folds[strong] @ new_folds[strong] / (real_folds[strong] @ real_folds[strong]),
            np.median(nearest(near_other, near_new)) / np.median(nearest(near_other, near_real)),
            roc_auc_score(np.repeat([1, 0], n), member),
            *moments(train, test, ad.concat([made, second]) if large is None else large, key),
        ]
    )


def composition(cells: ad.AnnData, key: str) -> dict[str, int]:
    """Return the number of cells of each label."""
    return {str(label): int(n) for label, n in cells.obs[key].value_counts().items() if n}


def generated(fit: vx.VAEFit, numbers: dict[str, int], seed: int) -> ad.AnnData:
    """Generate the given number of cells of each label."""
    return vx.gen_exprs(fit, labels=numbers, seed=seed, progress=False).adata


def drawn(fit: vx.VAEFit, numbers: dict[str, int], seed: int) -> tuple[ad.AnnData, ad.AnnData, ad.AnnData]:
    """Generate two independent sets with the given numbers of cells, and a large one."""
    large = dict.fromkeys(numbers, LARGE)
    return (
        generated(fit, numbers, 3 * seed),
        generated(fit, numbers, 3 * seed + 1),
        generated(fit, large, 3 * seed + 2),
    )


def by_bic(x: np.ndarray, *, components: Any, models: Any, **arguments: Any) -> mixture.Selection:
    """Select among all covariance models with 1 to 9 components."""
    return mixture.select_mixture(x, **arguments)


def choices() -> dict[str, tuple[dict[str, Any], Callable[[], Any]]]:
    """Return fit arguments and a context with patches, by name."""
    none = contextlib.nullcontext
    hidden = [keras.layers.Dense(256, "relu")]
    plain = keras.optimizers.Adam(3e-3, beta_2=0.99, global_clipnorm=10.0)
    free = keras.optimizers.Adam(3e-3, use_ema=True, ema_momentum=0.99)
    return {
        "default": ({}, none),
        "a hidden layer with ReLU": ({"decoder_layers": hidden}, none),
        "no hidden layer": ({"decoder_layers": []}, none),
        "weights not averaged": ({"optimizer": plain}, none),
        "Adam's own beta_2, not clipped": ({"optimizer": free}, none),
        "10 latent dimensions": ({"latent_dim": 10}, none),
        "20 latent dimensions": ({"latent_dim": 20}, none),
        "outlying counts as the others": (
            {},
            lambda: patch.object(outliers, "LOG_CONTAMINATION", -70.0),
        ),
        "additions of conditions not held": (
            {},
            lambda: patch.object(base, "EFFECT_VARIANCE", 1e6),
        ),
        "one dispersion a gene": (
            {},
            lambda: patch.object(count_base.CountHead, "deviation_sd", 1e-3),
        ),
        "one component a label": ({}, lambda: patch.object(density, "CELLS_PER_COMPONENT", 10**9)),
        "model and components by BIC": ({}, lambda: patch.object(density, "select_mixture", by_bic)),
        "library noise counted twice": (
            {},
            lambda: patch.object(density, "_narrower", lambda v, n: 1.0),
        ),
        "half the KL": ({"regularization": 0.5}, none),
        "twice the KL": ({"regularization": 2.0}, none),
    }


def measure(path: Path, split: int, args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Return the metrics of the floor and of each choice in one split, means over the seeds."""
    key, table = args.label_key, choices()
    train, test = halves(path, key, split)
    if args.simulate:
        truth = vx.fit_vae(train, label_key=key, seed=99, verbose=0)
        train, test = (
            generated(truth, composition(cells, key), 100 + i) for i, cells in enumerate((train, test))
        )
        train = train[np.ravel(train.X.sum(axis=1)) > 0].copy()
    numbers = composition(test, key)
    first, other = random_halves(train)
    rows = {"floor": figures(train, test, first, other, key, train)}
    if args.simulate:
        made, second, large = drawn(truth, numbers, 34)
        rows["drawn from the truth"] = figures(train, test, made, second, key, large)
    for name in list(table) if args.choices == ["all"] else args.choices:
        arguments, change = table[name]
        scores = []
        for seed in args.seeds:
            with change():
                fit = vx.fit_vae(
                    train,
                    label_key=key,
                    covariate_keys=args.covariate_key,
                    seed=seed,
                    verbose=0,
                    **arguments,
                )
            made, second, large = drawn(fit, numbers, seed)
            scores.append(figures(train, test, made, second, key, large))
        rows[name] = np.mean(scores, axis=0)
    return rows


def main() -> None:
    options = parser(__doc__, data="data", nargs="+")
    options.add_argument("--covariate-key", action="append", default=[])
    options.add_argument("--choices", nargs="+", default=["default"], help="names of choices, or all")
    options.add_argument("--splits", type=int, nargs="+", default=[0, 1])
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--simulate", action="store_true")
    args = options.parse_args()
    print(table_head(["data", "choice", *COLUMNS], n_text=2))
    for path in args.data:
        found = [measure(path, split, args) for split in args.splits]
        for name in found[0]:
            row = np.mean([rows[name] for rows in found], axis=0)
            print(table_row([path.name, name, *(f"{value:.3f}" for value in row)]), flush=True)


if __name__ == "__main__":
    main()
