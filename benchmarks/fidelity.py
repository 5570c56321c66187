"""Fidelity of generated cells, and the contribution of each default to it.

    python benchmarks/fidelity.py DATA.h5ad [...] [--label-key cell_type] [--seeds 0 1 2]
    python benchmarks/fidelity.py DATA.h5ad [...] --choices all  # each default replaced in turn
    python benchmarks/fidelity.py DATA.h5ad [...] --simulate     # estimation error alone

Half of the cells (labels with ten or more cells, 2,000 most variable genes) train; as many cells per label
as in the other half are generated and compared with that half. The floor uses the two halves of the training
half in place of generated cells. With --simulate the "real" cells are themselves sampled from a fit to the
data: the model is then correct, and the remaining error is that of learning it from this number of cells.

Prints a Markdown table of metrics, means over the seeds: the AUC of a random forest between real and
generated cells, which learns on one generated set and is tested on another (genes, pcs), ratios and
differences of standard deviations, zeros and library sizes, label accuracy, the slope of fold changes, the
distance to training cells relative to real cells (copies), and the AUC of membership inference (members).
"""

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
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vaexprs.data.matrix import log_normalised
from vaexprs.latent import density
from vaexprs.likelihoods import base, count_base
from vaexprs.mixture import selection as mixture

MAX_CELLS = 1_000  # cells per side in a random forest
COLUMNS = ("genes", "pcs", "sd", "zeros", "library", "library sd", "labels", "folds", "copies", "members")


def halves(path: Path, key: str) -> tuple[ad.AnnData, ad.AnnData]:
    """Return two random halves of the cells of frequent labels, with the most variable genes."""
    cells = ad.read_h5ad(path)
    sc.pp.filter_genes(cells, min_cells=3)
    cells = cells[:, variable_genes(cells.X)].copy()
    number = cells.obs[key].map(cells.obs[key].value_counts()).astype(float)
    return random_halves(cells[(number >= 10).to_numpy() & (np.ravel(cells.X.sum(axis=1)) > 0)])


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


def figures(
    train: ad.AnnData, test: ad.AnnData, made: ad.AnnData, second: ad.AnnData, key: str
) -> np.ndarray:
    """Return the metrics (`COLUMNS`) of a set of generated cells; `second` is drawn independently."""
    raw = [counts(cells) for cells in (train, test, made, second)]
    real, new, other, again = (log_normalised(raw[i]).astype(np.float32) for i in (1, 2, 0, 3))
    y_train, y_test, y_made = (cells.obs[key].astype(str).to_numpy() for cells in (train, test, made))
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
            np.median(new[:, on].std(axis=0) / real[:, on].std(axis=0)),
            abs((raw[1] == 0).mean() - (raw[2] == 0).mean()),
            np.median(library[2]) / np.median(library[1]),
            np.log1p(library[2]).std() / np.log1p(library[1]).std(),
            classifier.score(new, y_made),
            real_folds[strong] @ new_folds[strong] / (real_folds[strong] @ real_folds[strong]),
            np.median(nearest(near_other, near_new)) / np.median(nearest(near_other, near_real)),
            roc_auc_score(np.repeat([1, 0], n), member),
        ]
    )


def like(fit: vx.VAEFit, cells: ad.AnnData, key: str, seed: int) -> ad.AnnData:
    """Generate as many cells of each label as there are in `cells`."""
    numbers = {str(k): int(n) for k, n in cells.obs[key].value_counts().items() if n}
    return vx.gen_exprs(fit, labels=numbers, seed=seed, progress=False).adata


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
        "6 latent dimensions": ({"latent_dim": 6}, none),
        "20 latent dimensions": ({"latent_dim": 20}, none),
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


def main() -> None:
    options = parser(__doc__, data="data", nargs="+")
    options.add_argument("--covariate-key", action="append", default=[])
    options.add_argument("--choices", nargs="+", default=["default"], help="names of choices, or all")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--simulate", action="store_true")
    args = options.parse_args()
    key = args.label_key
    table = choices()
    names = list(table) if args.choices == ["all"] else args.choices
    print(table_head(["data", "choice", *COLUMNS], n_text=2))
    for path in args.data:
        train, test = halves(path, key)
        if args.simulate:
            truth = vx.fit_vae(train, label_key=key, seed=99, verbose=0)
            train, test = (like(truth, cells, key, 100 + i) for i, cells in enumerate((train, test)))
            train = train[np.ravel(train.X.sum(axis=1)) > 0].copy()
        first, other = random_halves(train)
        rows = {"floor": figures(train, test, first, other, key)}
        if args.simulate:
            made, second = (like(truth, test, key, seed) for seed in (102, 103))
            rows["drawn from the truth"] = figures(train, test, made, second, key)
        for name in names:
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
                made, second = (like(fit, test, key, i) for i in (2 * seed, 2 * seed + 1))
                scores.append(figures(train, test, made, second, key))
            rows[name] = np.mean(scores, axis=0)
        for name, row in rows.items():
            print(table_row([path.name, name, *(f"{value:.3f}" for value in row)]), flush=True)


if __name__ == "__main__":
    main()
