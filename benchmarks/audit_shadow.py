"""The attacks of `audit_privacy` beside an attack with shadow models.

    python benchmarks/audit_shadow.py DATA.h5ad [--label-key cell_type] [--cells 300] [--genes 500]
        [--fits 33]

Of a pool of twice as many cells, random halves train fits with default settings; each fit generates as many
cells. Each fit is attacked in turn, with the other fits as shadow models: the likelihood ratio attack (LiRA,
Carlini et al. 2022, doi:10.1109/SP46214.2022.9833649). The score of a cell is taken as normal over the shadow
fits that trained on the cell, and over those that did not; the attack is the ratio of the two densities at
the score of the attacked fit. Such an attacker has all cells of the pool, knows the settings and fits many
models. `audit_privacy` has one half of the pool as training cells and the other as held-out cells.

Scores of a cell: "distance" and "density" (log distance to the nearest and to the fifth generated cell), and
"likelihood" and "genes" (by the generated cells of the label), as in `audit_privacy` but without reference
cells; "all" is the sum of their log ratios. "ELBO" is the evidence lower bound of the cell in the fit: an
attack with the model itself.

Prints a Markdown table: AUC and true positive rate at 1% false positives, mean over the attacked fits and
standard deviation.
"""

import warnings
from typing import NamedTuple

import vaexprs as vx

# isort: split
import anndata as ad
import numpy as np
from fidelity import composition
from harness import parser, table_head, table_row, variable_genes

from vaexprs.comparison.axes import Axes
from vaexprs.data.matrix import densify, log_normalised
from vaexprs.nn.predict import encode, posterior
from vaexprs.privacy.attack import NEIGHBOURS, nearest_distances
from vaexprs.privacy.gene_scores import MIN_VARIANCE, Groups, sums_by
from vaexprs.privacy.intervals import TINY, attack_auc, true_positive_rate

GENERATED = ("distance", "density", "likelihood", "genes")  # scores from generated cells
SAMPLES = 10  # samples of the posterior for the evidence lower bound
SCORES = (*GENERATED, "ELBO")


class Pool(NamedTuple):
    """Cells of which random halves train.

    Parameters
    ----------
    cells, key
        Counts, and the column of obs with the label.
    names, label
        Names of the labels, and the number of that of each cell, (n_cells,).
    logs
        log(1 + counts per 10,000), (n_cells, n_genes).
    variance
        Variance of each gene within labels, (n_genes,).
    axes, points
        Principal axes of the pool, and its cells on them.
    """

    cells: ad.AnnData
    key: str
    names: np.ndarray
    label: np.ndarray
    logs: np.ndarray
    variance: np.ndarray
    axes: Axes
    points: np.ndarray


def pool_of(cells: ad.AnnData, key: str, n: int) -> Pool:
    """Return n random cells."""
    cells = cells[np.sort(np.random.default_rng(0).permutation(cells.n_obs)[:n])].copy()
    names, label = np.unique(cells.obs[key].astype(str), return_inverse=True)
    logs = densify(log_normalised(cells.X)).astype(np.float64)
    means = sums_by(logs, label, len(names)) / np.bincount(label)[:, None]
    variance = np.mean((logs - means[label]) ** 2, axis=0)
    variance = np.maximum(variance, MIN_VARIANCE * np.median(variance[variance > 0]))
    axes = Axes.of([logs], 0)
    return Pool(cells, key, names, label, logs, variance, axes, axes.of_cells(logs))


def scores_of(fit: vx.VAEFit, made: ad.AnnData, pool: Pool) -> np.ndarray:
    """Return the scores of each cell of the pool, (n_scores, n_cells)."""
    logs = densify(log_normalised(made.X)).astype(np.float64)
    near = np.log(nearest_distances(pool.axes.of_cells(logs), pool.points) + TINY)
    of_made = np.searchsorted(pool.names, made.obs[pool.key].astype(str))
    n = np.bincount(of_made, minlength=len(pool.names))
    means = Groups(n, sums_by(logs, of_made, len(n))).means()[pool.label]
    frequencies = Groups(n, sums_by(made.X, of_made, len(n))).frequencies()[pool.label]
    return np.stack(
        [
            -near[:, 0],
            -near[:, NEIGHBOURS - 1],
            -((pool.logs - means) ** 2 / (2 * pool.variance)).sum(axis=1),
            (np.log1p(densify(pool.cells.X)) * np.log(frequencies)).sum(axis=1),
            evidence(fit, pool.cells),
        ]
    )


def evidence(fit: vx.VAEFit, cells: ad.AnnData) -> np.ndarray:
    """Return the evidence lower bound of each cell, (n_cells,)."""
    prepared = fit.preprocessing.prepare(cells, dense=True)
    codes = fit.preprocessing.conditions.code(prepared.obs)
    mean, sd = encode(posterior(fit.model), prepared.x, codes)
    rng, log_prob = np.random.default_rng(0), np.zeros(len(mean))
    for _ in range(SAMPLES):
        z = (mean + sd * rng.standard_normal(mean.shape)).astype(np.float32)
        log_prob += np.asarray(fit.likelihood.log_prob(prepared.x, fit.decoder([z, codes]))) / SAMPLES
    return log_prob + 0.5 * (1 + 2 * np.log(sd) - mean**2 - sd**2).sum(axis=1)


def fitted(pool: Pool, n_fits: int) -> tuple[np.ndarray, np.ndarray, list[dict[str, float]]]:
    """Fit models to random halves of the pool.

    Returns
    -------
    Whether each cell was in training, (n_fits, n_cells), the scores, (n_scores, n_fits, n_cells), and the
    metrics of `audit_privacy` of each fit.
    """
    n = pool.cells.n_obs
    member, scores, audits = np.zeros((n_fits, n), bool), [], []
    for i in range(n_fits):
        member[i, np.random.default_rng(i).permutation(n)[: n // 2]] = True
        train, held = pool.cells[member[i]].copy(), pool.cells[~member[i]].copy()
        fit = vx.fit_vae(train, label_key=pool.key, seed=i, verbose=0)
        made = vx.gen_exprs(fit, labels=composition(train, pool.key), seed=i, progress=False).adata
        table = vx.audit_privacy(made, train, held, label_key=pool.key, seed=i)
        audits.append(dict(zip(table["metric"], table["value"], strict=True)))
        scores.append(scores_of(fit, made, pool))
    return member, np.stack(scores, axis=1), audits


def likelihood_ratios(score: np.ndarray, member: np.ndarray, attacked: int) -> np.ndarray:
    """Return the log likelihood ratio of each cell for one attacked fit, (n_cells,).

    Parameters
    ----------
    score
        Score of each cell by each fit, (n_fits, n_cells).
    member
        Whether the cell was in training, (n_fits, n_cells).
    attacked
        Row of the attacked fit; all others are shadow models.
    """
    shadows = np.arange(len(score)) != attacked
    values, inside = score[shadows], member[shadows]
    means = [np.where(of, values, 0).sum(axis=0) / of.sum(axis=0) for of in (inside, ~inside)]
    variance = np.where(inside, values - means[0], values - means[1]).var(axis=0)
    distances = [(score[attacked] - mean) ** 2 for mean in means]
    return (distances[1] - distances[0]) / (2 * variance)


def summary(name: str, aucs: list[float], rates: list[float]) -> str:
    """Return a row with means and standard deviations over fits."""
    return table_row([name, *(f"{np.mean(of):.3f} ± {np.std(of):.3f}" for of in (aucs, rates))])


def main() -> None:
    options = parser(__doc__, data="data")
    options.add_argument("--cells", type=int, default=300, help="training cells")
    options.add_argument("--genes", type=int, default=500)
    options.add_argument("--fits", type=int, default=33)
    args = options.parse_args()
    warnings.simplefilter("ignore")
    cells = ad.read_h5ad(args.data)
    cells = cells[:, variable_genes(cells.X, args.genes)]
    cells = cells[np.ravel(cells.X.sum(axis=1)) > 0]
    member, scores, audits = fitted(pool_of(cells, args.label_key, 2 * args.cells), args.fits)
    print(table_head(["attack", "AUC", "TPR at 1% FPR"]))
    for end in ("", *(f"_{name}" for name in ("density", "likelihood", "genes"))):
        found = [[a[f"membership_{of}{end}"] for a in audits] for of in ("auc", "tpr_at_1pct_fpr")]
        print(summary(f"`membership_auc{end}`", *found))
    ratios = {
        name: np.stack([likelihood_ratios(scores[i], member, fit) for fit in range(args.fits)])
        for i, name in enumerate(SCORES)
    }
    ratios["all"] = np.sum([ratios[name] for name in GENERATED], axis=0)
    for name, ratio in ratios.items():
        pairs = [(row[own], row[~own]) for row, own in zip(ratio, member, strict=True)]
        found = [[function(*pair) for pair in pairs] for function in (attack_auc, true_positive_rate)]
        print(summary(f"shadow models, {name}", *found))


if __name__ == "__main__":
    main()
