# /// script
# requires-python = ">=3.11"
# dependencies = ["anndata>=0.12", "numpy>=2", "pandas>=2.2", "scikit-learn>=1.6", "scipy>=1.15"]
# ///
"""Gaussian copula with negative binomial margins for each label.

After scDesign2 (Sun et al. 2021, doi:10.1186/s13059-021-02367-2): margins by maximum likelihood, a copula of
the genes with at most 80% zeros, the other genes independent. Unlike there, the margins depend on the library
size, which is that of a random training cell of the label: this had lower AUCs (see ../peers.py). The
correlation is shrunk (Ledoit and Wolf 2004, doi:10.1016/S0047-259X(03)00096-4), as labels have fewer cells
than genes.
"""

from typing import NamedTuple

import anndata as ad
import numpy as np
from exchange import Generate, Numbers, by_label, main
from scipy.special import gammaln, ndtr, ndtri
from scipy.stats import nbinom
from sklearn.covariance import ledoit_wolf_shrinkage

MAX_ZEROS = 0.8  # fraction of zeros of a gene in the copula
SHAPES = np.logspace(-2, 4, 61)  # candidate shapes of a negative binomial


class Copula(NamedTuple):
    """Margins and normal scores of one label."""

    library: np.ndarray  # library sizes of the training cells, relative to their mean, (n_cells,)
    mean: np.ndarray  # of cells with the mean library size, (n_genes,)
    shape: np.ndarray  # (n_genes,)
    joint: np.ndarray  # genes in the copula, (n_genes,) bool
    scores: np.ndarray  # standardised normal scores of the training cells, (n_cells, n_joint)
    shrinkage: float


def shapes(counts: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return the shape of the negative binomial of each gene, by maximum likelihood on a grid."""
    best, found = np.full(counts.shape[1], -np.inf), np.ones(counts.shape[1])
    for shape in SHAPES:
        terms = gammaln(counts + shape) - gammaln(shape) - (counts + shape) * np.log1p(mean / shape)
        likelihood = (terms - counts * np.log(shape)).sum(axis=0)
        found = np.where(likelihood > best, shape, found)
        best = np.maximum(likelihood, best)
    return found


def one_label(counts: np.ndarray, rng: np.random.Generator) -> Copula:
    library = counts.sum(axis=1) / counts.sum() * len(counts)
    mean = library[:, None] * counts.mean(axis=0)
    shape = shapes(counts, mean)
    joint = ((counts == 0).mean(axis=0) <= MAX_ZEROS) & (len(counts) > 2)
    x, margin = counts[:, joint], nbinom(shape[joint], shape[joint] / (shape[joint] + mean[:, joint]))
    # distributional transform: a uniform number within the step of the distribution function at the count
    uniform = margin.cdf(x) - rng.random(x.shape) * margin.pmf(x)
    scores = ndtri(np.clip(uniform, 1e-6, 1 - 1e-6))
    scores = (scores - scores.mean(axis=0)) / np.maximum(scores.std(axis=0), 1e-9)
    shrinkage = float(ledoit_wolf_shrinkage(scores, assume_centered=True)) if joint.any() else 1.0
    return Copula(library, counts.mean(axis=0), shape, joint, scores, shrinkage)


def sample(copula: Copula, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return counts of n cells, (n, n_genes)."""
    normal = rng.standard_normal((n, len(copula.mean)))
    # normal with the correlation (1 - shrinkage) * scores.T @ scores / n_cells + shrinkage * identity
    known = len(copula.scores)
    shared = rng.standard_normal((n, known)) @ copula.scores / np.sqrt(known)
    keep = copula.shrinkage
    normal[:, copula.joint] = np.sqrt(1 - keep) * shared + np.sqrt(keep) * normal[:, copula.joint]
    on = copula.mean > 0
    mean, shape = rng.choice(copula.library, n)[:, None] * copula.mean[on], copula.shape[on]
    counts = np.zeros_like(normal)
    counts[:, on] = nbinom.ppf(ndtr(normal[:, on]), shape, shape / (shape + mean))
    return counts


def fit(train: ad.AnnData, key: str, seed: int) -> Generate:
    copulas = by_label(train, key, one_label, seed)

    def generate(numbers: Numbers, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return np.concatenate([sample(copulas[label], n, rng) for label, n in numbers.items()])

    return generate


if __name__ == "__main__":
    main(__doc__, fit)
