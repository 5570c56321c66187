"""Registry of metrics: names, questions they answer, thresholds and descriptions.

A metric of two samples is one function in `vaexprs.metrics.functions` and one entry in `METRICS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vaexprs.metrics import functions as metrics

ALL = "all"  # value of the column "label" for all cells together
COLUMNS = ("metric", "label", "value", "floor", "floor_low", "floor_high", "verdict")
MIN_CELLS = 5  # minimum number of cells per side for a label to get its own metrics
MAX_GENES = 2_000  # number of most variable genes given to classifiers
CORRELATED_GENES = 200  # number of most variable genes whose correlations are compared


@dataclass(frozen=True)
class Sample:
    """Dense cells from one side of a comparison.

    Parameters
    ----------
    raw, values
        In the user's units and as the model sees them, (n_cells, n_genes).
    pcs
        Coordinates on the shared principal axes, (n_cells, n_axes).
    labels
        Label of each cell, (n_cells,).
    """

    raw: np.ndarray
    values: np.ndarray
    pcs: np.ndarray
    labels: np.ndarray

    @cached_property
    def genes(self) -> metrics.GeneStatistics:
        """Mean, variance and zero fraction of each gene."""
        return metrics.gene_statistics(self.values)

    def half(self, i: int) -> Sample:
        """Return every other cell, starting with the first (`i` = 0) or the second (1)."""
        return Sample(self.raw[i::2], self.values[i::2], self.pcs[i::2], self.labels[i::2])

    def within(self, genes: np.ndarray) -> np.ndarray:
        """Return the values of genes minus their mean in the cell's label, (n_cells, len(genes))."""
        centred = self.values[:, genes].astype(np.float64)
        for label in np.unique(self.labels):
            centred[self.labels == label] -= centred[self.labels == label].mean(axis=0)
        return centred

    @cached_property
    def library(self) -> np.ndarray:
        """Library size of each cell, (n_cells,)."""
        return self.raw.sum(axis=1, dtype=np.float64)

    @cached_property
    def detected(self) -> np.ndarray:
        """Number of genes with a value above 0 in each cell, (n_cells,)."""
        return (self.raw > 0).sum(axis=1)


@dataclass(frozen=True)
class Shared:
    """Settings common to all comparisons, real vs real and generated vs real.

    Parameters
    ----------
    variable
        Columns of the genes, sorted by decreasing variance.
    seed
        Seed of the classifiers.
    """

    variable: np.ndarray
    seed: int

    @cached_property
    def classified(self) -> np.ndarray:
        """Columns given to classifiers."""
        return np.sort(self.variable[:MAX_GENES])

    @cached_property
    def correlated(self) -> np.ndarray:
        """Columns whose correlations are compared."""
        return self.variable[:CORRELATED_GENES]


@dataclass(frozen=True)
class Metric:
    """Description of a metric and rule for its verdict.

    Parameters
    ----------
    title, what
        Name and one-sentence description for the user.
    question
        Key in `QUESTIONS` of the question that the metric helps to answer.
    better
        "low", "high", or "near": neither above nor below the baseline.
    close
        Maximum distance from the baseline interval that is still "close"; in units of the value, or as a
        fraction of the end of the interval if `relative`.
    of
        Function of two samples that returns the value; None for metrics computed from all labels together.
    scale
        Scale on which baseline values vary evenly: "plain", "log" or "fisher" (arctanh).
    limits
        Smallest and largest possible value.
    cells
        Minimum number of cells per side.
    relative
        Whether `close` is a fraction.
    kind
        "any" values, or "counts" only.
    per
        "label" if the metric is also computed for each label, "all" if for all cells together only.
    by_noise
        0, or, for a metric driven by the sampling noise of both sides rather than by a difference between
        them, the ratio of its variance to the variance with half of the cells: 0.5 where the variance falls
        as 1/n, 1 for correlations, which noise attenuates. Two sides split from the same cells
        underestimate the variance of such a metric, so it is estimated from disjoint halves; see
        `baseline_interval`.
    """

    title: str
    what: str
    question: str
    better: str
    close: float
    of: Callable[[Sample, Sample, Shared], float] | None = None
    scale: str = "plain"
    limits: tuple[float, float] = (-np.inf, np.inf)
    cells: int = MIN_CELLS
    relative: bool = False
    kind: str = "any"
    per: str = "label"
    by_noise: float = 0.0


QUESTIONS = {
    "looks": "Do they look real?",
    "types": "Is each type right?",
    "differences": "Are the differences between types kept?",
    "use": "Do they help a classifier?",
}
UNIT = (0.0, 1.0)
# In each entry: text, then the rule for the verdict, then properties of the value, then the function.
# fmt: off
METRICS: dict[str, Metric] = {
    "forest_auc_genes": Metric(
        title="Random forest, genes (AUC)",
        what="AUC of a random forest that separates generated from real cells by their genes; "
        "0.5: chance level.",
        question="looks", better="low", close=0.1, limits=UNIT, cells=15,
        of=lambda a, b, s: metrics.forest_auc(a.values[:, s.classified], b.values[:, s.classified], s.seed),
    ),
    "forest_auc_pcs": Metric(
        title="Random forest, PCs (AUC)",
        what="AUC of a random forest on 50 principal components, which capture co-expression; "
        "0.5: chance level.",
        question="looks", better="low", close=0.1, limits=UNIT, cells=15,
        of=lambda a, b, s: metrics.forest_auc(a.pcs, b.pcs, s.seed),
    ),
    "logistic_auc_genes": Metric(
        title="Logistic regression, genes (AUC)",
        what="AUC of a linear classifier that separates generated from real cells by their genes; "
        "0.5: chance level.",
        question="looks", better="low", close=0.1, limits=UNIT, cells=15,
        of=lambda a, b, s: metrics.logistic_auc(a.values[:, s.classified], b.values[:, s.classified], s.seed),
    ),
    "logistic_auc_pcs": Metric(
        title="Logistic regression, PCs (AUC)",
        what="AUC of a linear classifier on 50 principal components; 0.5: chance level.",
        question="looks", better="low", close=0.1, limits=UNIT, cells=15,
        of=lambda a, b, s: metrics.logistic_auc(a.pcs, b.pcs, s.seed),
    ),
    "mmd": Metric(
        title="Maximum mean discrepancy (squared)",
        what="Kernel distance between generated and real cells on principal components; "
        "0: same distribution.",
        question="looks", better="low", close=0.002, cells=10,
        of=lambda a, b, s: metrics.mmd(a.pcs, b.pcs),
    ),
    "wasserstein_1": Metric(
        title="Wasserstein-1 distance",
        what="Mean distance by which cells must be moved, on principal components, to turn one set into the "
        "other.",
        question="looks", better="low", close=0.05, relative=True, scale="log", by_noise=0.5,
        of=lambda a, b, s: metrics.wasserstein(a.pcs, b.pcs, 1),
    ),
    "wasserstein_2": Metric(
        title="Wasserstein-2 distance",
        what="As Wasserstein-1, with squared distances, which give long moves more weight.",
        question="looks", better="low", close=0.05, relative=True, scale="log", by_noise=0.5,
        of=lambda a, b, s: metrics.wasserstein(a.pcs, b.pcs, 2),
    ),
    "nearest_same": Metric(
        title="Neighbours from the same set",
        what="Fraction of a cell's 15 nearest neighbours from its own set (generated or real); "
        "0.5: fully mixed.",
        question="looks", better="low", close=0.05, limits=UNIT, cells=10,
        of=lambda a, b, s: metrics.nearest_same(a.pcs, b.pcs),
    ),
    "lisi": Metric(
        title="Mixing (LISI)",
        what="Mixing of generated and real cells among a cell's neighbours; 1: equal numbers of both.",
        question="looks", better="high", close=0.1,
    ),
    "gene_mean_r": Metric(
        title="Gene means (r)",
        what="Correlation over genes of the mean expression.",
        question="looks", better="high", close=0.02, scale="fisher",
        of=lambda a, b, s: metrics.correlation(a.genes.mean, b.genes.mean),
    ),
    "gene_variance_r": Metric(
        title="Gene variances (r)",
        what="Correlation over genes of the log variance.",
        question="looks", better="high", close=0.05, scale="fisher",
        of=lambda a, b, s: metrics.correlation(
            metrics.log_variance(a.genes.variance), metrics.log_variance(b.genes.variance)
        ),
    ),
    "zero_fraction_r": Metric(
        title="Zero fractions (r)",
        what="Correlation over genes of the fraction of cells with a zero.",
        question="looks", better="high", close=0.02, scale="fisher",
        of=lambda a, b, s: metrics.correlation(a.genes.zero_fraction, b.genes.zero_fraction),
    ),
    "gene_mean_ks": Metric(
        title="Gene means (KS)",
        what="Kolmogorov-Smirnov distance between the distributions of gene means.",
        question="looks", better="low", close=0.05, scale="log", limits=UNIT,
        of=lambda a, b, s: metrics.ks(a.genes.mean, b.genes.mean),
    ),
    "gene_variance_ks": Metric(
        title="Gene variances (KS)",
        what="Kolmogorov-Smirnov distance between the distributions of gene variances.",
        question="looks", better="low", close=0.05, scale="log", limits=UNIT,
        of=lambda a, b, s: metrics.ks(a.genes.variance, b.genes.variance),
    ),
    "zero_fraction_ks": Metric(
        title="Zero fractions (KS)",
        what="Kolmogorov-Smirnov distance between the distributions of the zero fractions of genes.",
        question="looks", better="low", close=0.05, scale="log", limits=UNIT,
        of=lambda a, b, s: metrics.ks(a.genes.zero_fraction, b.genes.zero_fraction),
    ),
    "sd_ratio": Metric(
        title="Spread of genes (ratio of SDs)",
        what="Median over expressed genes of generated over real standard deviation; "
        "below 1: too little variation.",
        question="looks", better="near", close=0.05, scale="log",
        of=lambda a, b, s: metrics.spread_ratio(a.genes, b.genes),
    ),
    "zero_difference": Metric(
        title="Fraction of zeros (difference)",
        what="Fraction of zeros in the generated cells minus that in the real cells.",
        question="looks", better="near", close=0.02,
        of=lambda a, b, s: float(a.genes.zero_fraction.mean() - b.genes.zero_fraction.mean()),
    ),
    "mean_variance_gap": Metric(
        title="Mean-variance relation (gap)",
        what="Mean distance between the generated and the real trend of log10 variance over gene mean.",
        question="looks", better="low", close=0.05, scale="log",
        of=lambda a, b, s: metrics.trend_gap(
            a.genes.mean, metrics.log_variance(a.genes.variance),
            b.genes.mean, metrics.log_variance(b.genes.variance),
        ),
    ),
    "mean_zero_gap": Metric(
        title="Mean-zero relation (gap)",
        what="Mean distance between the generated and the real trend of zero fraction over gene mean.",
        question="looks", better="low", close=0.02, scale="log",
        of=lambda a, b, s: metrics.trend_gap(
            a.genes.mean, a.genes.zero_fraction, b.genes.mean, b.genes.zero_fraction
        ),
    ),
    "library_size_ks": Metric(
        title="Library sizes (KS)",
        what="Kolmogorov-Smirnov distance between the distributions of counts per cell.",
        question="looks", better="low", close=0.1, scale="log", limits=UNIT, kind="counts",
        of=lambda a, b, s: metrics.ks(a.library, b.library),
    ),
    "library_size_ratio": Metric(
        title="Library sizes (ratio of medians)",
        what="Median counts per cell, generated over real.",
        question="looks", better="near", close=0.1, scale="log", kind="counts",
        of=lambda a, b, s: float(np.median(a.library) / max(np.median(b.library), 1)),
    ),
    "detected_genes_ks": Metric(
        title="Detected genes (KS)",
        what="Kolmogorov-Smirnov distance between the distributions of detected genes per cell.",
        question="looks", better="low", close=0.1, scale="log", limits=UNIT, kind="counts",
        of=lambda a, b, s: metrics.ks(a.detected, b.detected),
    ),
    "gene_correlation_r": Metric(
        title="Gene-gene correlations (r)",
        what="Agreement (r) of the correlations between the 200 most variable genes.",
        question="differences", better="high", close=0.05, scale="fisher", cells=10, by_noise=1.0,
        of=lambda a, b, s: metrics.correlation_structure(
            a.values[:, s.correlated], b.values[:, s.correlated]
        )[0],
    ),
    "gene_correlation_slope": Metric(
        title="Gene-gene correlations (slope)",
        what="Slope of generated on real gene-gene correlations; below 1: attenuated.",
        question="differences", better="near", close=0.15, cells=10, by_noise=1.0,
        of=lambda a, b, s: metrics.correlation_structure(
            a.values[:, s.correlated], b.values[:, s.correlated]
        )[1],
    ),
    "within_correlation_r": Metric(
        title="Gene-gene correlations within types (r)",
        what="Agreement (r) of gene-gene correlations after subtracting each type's mean: "
        "co-expression within types.",
        question="differences", better="high", close=0.05, scale="fisher", cells=30, per="all", by_noise=1.0,
        of=lambda a, b, s: metrics.correlation_structure(a.within(s.correlated), b.within(s.correlated))[0],
    ),
    "within_correlation_slope": Metric(
        title="Gene-gene correlations within types (slope)",
        what="Slope of generated on real gene-gene correlations within types; below 1: attenuated.",
        question="differences", better="near", close=0.15, cells=30, per="all", by_noise=1.0,
        of=lambda a, b, s: metrics.correlation_structure(a.within(s.correlated), b.within(s.correlated))[1],
    ),
    "marker_overlap": Metric(
        title="Marker genes (overlap)",
        what="Fraction of a type's (up to) 50 strongest marker genes shared by generated and real cells.",
        question="differences", better="high", close=0.1, limits=UNIT, by_noise=1.0,
    ),
    "fold_change_slope": Metric(
        title="Log fold changes (slope)",
        what="Slope of generated on real log fold changes, over a type's (up to) 50 largest; "
        "below 1: attenuated.",
        question="differences", better="near", close=0.1,
    ),
    "pseudobulk_r": Metric(
        title="Donor pseudobulks (r)",
        what="Correlation of each donor's pseudobulk, minus the mean over donors, between generated and real "
        "cells.",
        question="differences", better="high", close=0.1, scale="fisher",
    ),
    "recall_real_to_generated": Metric(
        title="Trained on real, tested on generated (recall)",
        what="Fraction of a type's generated cells assigned to it by a classifier trained on real cells.",
        question="types", better="high", close=0.05, limits=UNIT,
    ),
    "recall_generated_to_real": Metric(
        title="Trained on generated, tested on real (recall)",
        what="Fraction of a type's real cells assigned to it by a classifier trained on generated cells.",
        question="types", better="high", close=0.05, limits=UNIT,
    ),
    "f1_generated_added": Metric(
        title="With generated cells added (F1)",
        what="F1 of a classifier on held-out cells with generated cells added to its training cells; "
        "baseline: without them.",
        question="use", better="high", close=0.05, limits=UNIT,
    ),
    "f1_oversampling_added": Metric(
        title="With training cells repeated (F1)",
        what="F1 with repeated training cells (oversampling) instead of generated cells, for comparison.",
        question="use", better="high", close=0.05, limits=UNIT,
    ),
    "f1_smote_added": Metric(
        title="With SMOTE cells added (F1)",
        what="F1 with cells interpolated by SMOTE instead of generated cells, for comparison.",
        question="use", better="high", close=0.05, limits=UNIT,
    ),
    "cells_needed": Metric(
        title="Equivalent number of real cells",
        what="Number of real cells of the type that give the F1 of training plus generated cells; "
        "baseline: the number of training cells.",
        question="use", better="high", close=0.25, relative=True,
    ),
}
# fmt: on
