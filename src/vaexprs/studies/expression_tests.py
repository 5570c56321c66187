"""Tests of differential expression between two groups: pseudobulks of donors, or single cells."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from vaexprs.data.matrix import densify, log_normalised
from vaexprs.interface.errors import require

MIN_COUNTS = 10  # total counts of a gene below which it is not tested
MIN_DONORS = 2  # donors of each group for tests of pseudobulks
MIN_COMMON_GENES = 20  # genes with counts in all samples, for median ratios
GENES_AT_ONCE = 200  # genes whose cells are ranked together


@dataclass(frozen=True)
class Samples:
    """Counts of two groups.

    Parameters
    ----------
    counts
        (n_samples, n_genes): pseudobulks, or cells as CSR.
    treated
        Whether each sample is of the second group, (n_samples,).
    donors
        Donor of each sample, (n_samples,), if both groups have the same donors; None otherwise.
    """

    counts: Any
    treated: np.ndarray
    donors: np.ndarray | None = None


@dataclass(frozen=True)
class ExpressionTest:
    """A test of differential expression.

    Parameters
    ----------
    title
        Name for sentences.
    p_values
        Function of `Samples`, with the genes to test only, and of the false discovery rate. It returns
        p-values and adjusted p-values, (n_genes,) each; NaN for genes that it does not test.
    pseudobulk
        Whether the samples are pseudobulks; otherwise cells.
    holds_gil
        Whether it is slow in Python code, so that threads do not run it in parallel.
    """

    title: str
    p_values: Callable[[Samples, float], tuple[np.ndarray, np.ndarray]]
    pseudobulk: bool = True
    holds_gil: bool = False


def compute_p_values(test: str, samples: Samples, fdr: float) -> tuple[np.ndarray, np.ndarray]:
    """Return p-values and adjusted p-values of all genes, (n_genes,) each; NaN for genes that are not tested.

    Genes with fewer than 10 counts in all samples are not tested.

    Parameters
    ----------
    test
        Name of a test in `TESTS`.
    samples
        Counts of all genes.
    fdr
        False discovery rate, for tests that choose filters by it.
    """
    counts = samples.counts
    n_genes = counts.shape[1]
    p, adjusted = np.full(n_genes, np.nan), np.full(n_genes, np.nan)
    tested = np.flatnonzero(np.ravel(counts.sum(axis=0)) >= MIN_COUNTS)
    numbers = np.bincount(samples.treated.astype(int), minlength=2)
    if len(tested) and numbers.min() >= MIN_DONORS:
        used = Samples(counts[:, tested], samples.treated, samples.donors)
        p[tested], adjusted[tested] = TESTS[test].p_values(used, fdr)
    return p, adjusted


def size_factors(counts: np.ndarray) -> np.ndarray:
    """Return the size factors of pseudobulks, (n_samples,), with a geometric mean of 1.

    They are medians of ratios over the genes with counts in all samples (Anders & Huber 2010,
    doi:10.1186/gb-2010-11-10-r106), because altered genes with many counts shift counts per million of all
    other genes; with fewer than 20 such genes they are proportional to the totals.

    Parameters
    ----------
    counts
        (n_samples, n_genes).
    """
    from scipy import stats

    positive = counts[:, (counts > 0).all(axis=0)]
    if positive.shape[1] >= MIN_COMMON_GENES:
        factors = np.median(positive / stats.gmean(positive, axis=0), axis=1)
    else:
        factors = np.maximum(counts.sum(axis=1), 1).astype(float)
    return np.asarray(factors / stats.gmean(factors))


def _t_test(samples: Samples, fdr: float) -> tuple[np.ndarray, np.ndarray]:
    """Student's t-test of normalised log2 counts, paired if both groups have the same donors."""
    from scipy import stats

    values = np.log2(samples.counts / size_factors(samples.counts)[:, None] + 0.5)
    if samples.donors is None:
        found = stats.ttest_ind(values[samples.treated], values[~samples.treated])
    else:
        first, second = (
            values[np.flatnonzero(group)[np.argsort(samples.donors[group], kind="stable")]]
            for group in (~samples.treated, samples.treated)
        )
        found = stats.ttest_rel(second, first)
    return _with_adjusted(found.pvalue)


def _rank_sum_test(samples: Samples, fdr: float) -> tuple[np.ndarray, np.ndarray]:
    """Wilcoxon rank-sum test of log-normalised cells."""
    from scipy import stats

    cells = sp.csc_matrix(log_normalised(samples.counts))
    p = np.empty(cells.shape[1])
    for first in range(0, cells.shape[1], GENES_AT_ONCE):
        genes = slice(first, first + GENES_AT_ONCE)
        values = densify(cells[:, genes])
        p[genes] = stats.mannwhitneyu(
            values[samples.treated], values[~samples.treated], method="asymptotic"
        ).pvalue
    return _with_adjusted(p)


def _pydeseq2(samples: Samples, fdr: float) -> tuple[np.ndarray, np.ndarray]:
    """Wald test of DESeq2, with its independent filtering and outlier detection."""
    import pandas as pd

    dds = require("pydeseq2.dds", "pydeseq2", "The test 'pydeseq2'")
    ds = require("pydeseq2.ds", "pydeseq2", "The test 'pydeseq2'")
    inference = require("pydeseq2.default_inference", "pydeseq2", "The test 'pydeseq2'")
    names = [f"sample_{i}" for i in range(len(samples.treated))]
    genes = [str(i) for i in range(samples.counts.shape[1])]
    about = pd.DataFrame({"group": np.where(samples.treated, "treated", "control")}, index=names)
    design = "~group"
    if samples.donors is not None:
        about["donor"] = [f"donor_{donor}" for donor in samples.donors]
        design = "~donor + group"
    settings = {"inference": inference.DefaultInference(n_cpus=1), "quiet": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on trends that do not converge, for which it has a fallback
        fitted = dds.DeseqDataSet(
            counts=pd.DataFrame(np.asarray(samples.counts, np.int64), names, genes),
            metadata=about,
            design=design,
            low_memory=True,
            **settings,
        )
        fitted.deseq2()
        result = ds.DeseqStats(fitted, contrast=["group", "treated", "control"], alpha=fdr, **settings)
        result.summary()
    table = result.results_df.reindex(genes)
    return np.asarray(table["pvalue"], float), np.asarray(table["padj"], float)


def _with_adjusted(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return p-values and those adjusted by Benjamini and Hochberg (1995); NaN are not counted as tests."""
    from scipy import stats

    p = np.asarray(p, float)
    adjusted, known = np.full(len(p), np.nan), np.isfinite(p)
    if known.any():
        adjusted[known] = stats.false_discovery_control(p[known])
    return p, adjusted


TESTS = {
    "t-test": ExpressionTest("t-test of pseudobulks", _t_test),
    "pydeseq2": ExpressionTest("PyDESeq2 of pseudobulks", _pydeseq2, holds_gil=True),
    "wilcoxon": ExpressionTest("Wilcoxon test of cells", _rank_sum_test, pseudobulk=False),
}
