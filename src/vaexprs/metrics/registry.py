"""The metrics: names, questions they answer, thresholds and descriptions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vaexprs.metrics import functions as metrics

ALL = "all"
COLUMNS = ("metric", "label", "value", "floor", "floor_low", "floor_high", "verdict")
MIN_CELLS = 5  # of each side, for a label to have figures of its own
MAX_GENES = 2_000  # the most variable ones, that classifiers see
CORRELATED_GENES = 200


@dataclass(frozen=True)
class Sample:
    """Cells that one figure looks at, dense.

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
        """Return every other cell, from the first (`i` = 0) or the second (1)."""
        return Sample(self.raw[i::2], self.values[i::2], self.pcs[i::2], self.labels[i::2])

    def within(self, genes: np.ndarray) -> np.ndarray:
        """Return some genes' values less their mean in the cell's label, (n_cells, n_some)."""
        found = self.values[:, genes].astype(np.float64)
        for label in np.unique(self.labels):
            found[self.labels == label] -= found[self.labels == label].mean(axis=0)
        return found

    @cached_property
    def library(self) -> np.ndarray:
        """Sum of each cell, (n_cells,)."""
        return self.raw.sum(axis=1, dtype=np.float64)

    @cached_property
    def detected(self) -> np.ndarray:
        """Genes with a value above 0 in each cell, (n_cells,)."""
        return (self.raw > 0).sum(axis=1)


@dataclass(frozen=True)
class Shared:
    """What all comparisons have in common, real against real and generated against real.

    Parameters
    ----------
    variable
        Columns of the most variable genes, the most variable first.
    seed
        Seed of the classifiers.
    """

    variable: np.ndarray
    seed: int

    @cached_property
    def classified(self) -> np.ndarray:
        """Columns that classifiers see."""
        return np.sort(self.variable[:MAX_GENES])

    @cached_property
    def correlated(self) -> np.ndarray:
        """Columns whose correlations are compared."""
        return self.variable[:CORRELATED_GENES]


@dataclass(frozen=True)
class Metric:
    """What a figure is and how it is judged.

    Parameters
    ----------
    title, what
        Its name and a sentence for the reader.
    question
        The question it helps to answer, one of `QUESTIONS`.
    better
        "low", "high", or "near": as the real cells, neither above nor below.
    close
        How far beyond the floor's interval a value is still called close; in units of the value, or as a
        fraction of the interval's end where `relative`.
    of
        The figure for two samples; None where it is computed for all labels together.
    scale
        On which scale the floor varies evenly: "plain", "log" or "fisher" (arctanh).
    limits
        Smallest and largest possible value.
    cells
        Cells of each side it needs.
    kind
        "any" values, or "counts" only.
    per
        "label" where labels have the figure too, "all" where all cells together do.
    by_noise
        0, or for a figure that follows the noise of both sides together rather than a difference between
        them, its variance over that with half of the cells: 0.5 where it falls as 1/n, 1 for correlations,
        which noise attenuates. Two sides split from the same cells vary less in such a figure than they
        should, so its spread comes from disjoint parts; see `floor_of`.
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
METRICS: dict[str, Metric] = {
    "forest_auc_genes": Metric(
        "Random forest, genes (AUC)",
        "How well a random forest tells generated from real cells by their genes; 0.5: it cannot.",
        "looks",
        "low",
        0.1,
        lambda a, b, s: metrics.forest_auc(a.values[:, s.classified], b.values[:, s.classified], s.seed),
        limits=UNIT,
        cells=15,
    ),
    "forest_auc_pcs": Metric(
        "Random forest, PCs (AUC)",
        "The same by 50 principal components, which carry what genes do together.",
        "looks",
        "low",
        0.1,
        lambda a, b, s: metrics.forest_auc(a.pcs, b.pcs, s.seed),
        limits=UNIT,
        cells=15,
    ),
    "logistic_auc_genes": Metric(
        "Logistic regression, genes (AUC)",
        "How well a linear classifier tells them apart by their genes; 0.5: it cannot.",
        "looks",
        "low",
        0.1,
        lambda a, b, s: metrics.logistic_auc(a.values[:, s.classified], b.values[:, s.classified], s.seed),
        limits=UNIT,
        cells=15,
    ),
    "logistic_auc_pcs": Metric(
        "Logistic regression, PCs (AUC)",
        "The same by principal components.",
        "looks",
        "low",
        0.1,
        lambda a, b, s: metrics.logistic_auc(a.pcs, b.pcs, s.seed),
        limits=UNIT,
        cells=15,
    ),
    "mmd": Metric(
        "Maximum mean discrepancy (squared)",
        "A distance between the two clouds of cells, by kernels on principal components; 0: none.",
        "looks",
        "low",
        0.002,
        lambda a, b, s: metrics.mmd(a.pcs, b.pcs),
        cells=10,
    ),
    "wasserstein_1": Metric(
        "Wasserstein-1 distance",
        "How far cells must be moved, on principal components, to turn one cloud into the other.",
        "looks",
        "low",
        0.05,
        lambda a, b, s: metrics.wasserstein(a.pcs, b.pcs, 1),
        scale="log",
        relative=True,
        by_noise=0.5,
    ),
    "wasserstein_2": Metric(
        "Wasserstein-2 distance",
        "The same with squared distances, which weigh far moves more.",
        "looks",
        "low",
        0.05,
        lambda a, b, s: metrics.wasserstein(a.pcs, b.pcs, 2),
        scale="log",
        relative=True,
        by_noise=0.5,
    ),
    "nearest_same": Metric(
        "Neighbours of the same kind",
        "Fraction of a cell's 15 nearest neighbours that are, like itself, generated or real; 0.5: mixed.",
        "looks",
        "low",
        0.05,
        lambda a, b, s: metrics.nearest_same(a.pcs, b.pcs),
        limits=UNIT,
        cells=10,
    ),
    "lisi": Metric(
        "Mixing (LISI)",
        "How mixed the neighbours of a cell are; 1: as many real as generated ones.",
        "looks",
        "high",
        0.1,
    ),
    "gene_mean_r": Metric(
        "Gene means (r)",
        "Correlation over genes of the mean expression.",
        "looks",
        "high",
        0.02,
        lambda a, b, s: metrics.correlation(a.genes.mean, b.genes.mean),
        scale="fisher",
    ),
    "gene_variance_r": Metric(
        "Gene variances (r)",
        "Correlation over genes of the log variance.",
        "looks",
        "high",
        0.05,
        lambda a, b, s: metrics.correlation(
            metrics.log_variance(a.genes.variance), metrics.log_variance(b.genes.variance)
        ),
        scale="fisher",
    ),
    "zero_fraction_r": Metric(
        "Zero fractions (r)",
        "Correlation over genes of the fraction of cells with no count.",
        "looks",
        "high",
        0.02,
        lambda a, b, s: metrics.correlation(a.genes.zero_fraction, b.genes.zero_fraction),
        scale="fisher",
    ),
    "gene_mean_ks": Metric(
        "Gene means (KS)",
        "Largest difference of the distributions of gene means.",
        "looks",
        "low",
        0.05,
        lambda a, b, s: metrics.ks(a.genes.mean, b.genes.mean),
        scale="log",
        limits=UNIT,
    ),
    "gene_variance_ks": Metric(
        "Gene variances (KS)",
        "Largest difference of the distributions of gene variances.",
        "looks",
        "low",
        0.05,
        lambda a, b, s: metrics.ks(a.genes.variance, b.genes.variance),
        scale="log",
        limits=UNIT,
    ),
    "zero_fraction_ks": Metric(
        "Zero fractions (KS)",
        "Largest difference of the distributions of the genes' zero fractions.",
        "looks",
        "low",
        0.05,
        lambda a, b, s: metrics.ks(a.genes.zero_fraction, b.genes.zero_fraction),
        scale="log",
        limits=UNIT,
    ),
    "sd_ratio": Metric(
        "Spread of genes (ratio of SDs)",
        "Median over expressed genes of generated over real standard deviation; below 1: too uniform.",
        "looks",
        "near",
        0.05,
        lambda a, b, s: metrics.spread_ratio(a.genes, b.genes),
        scale="log",
    ),
    "zero_difference": Metric(
        "Fraction of zeros (difference)",
        "Fraction of zeros in the generated cells minus that in the real ones.",
        "looks",
        "near",
        0.02,
        lambda a, b, s: float(a.genes.zero_fraction.mean() - b.genes.zero_fraction.mean()),
    ),
    "mean_variance_gap": Metric(
        "Mean-variance relation (gap)",
        "How far the genes' trend of log10 variance over mean is from the real one.",
        "looks",
        "low",
        0.05,
        lambda a, b, s: metrics.trend_gap(
            a.genes.mean,
            metrics.log_variance(a.genes.variance),
            b.genes.mean,
            metrics.log_variance(b.genes.variance),
        ),
        scale="log",
    ),
    "mean_zero_gap": Metric(
        "Mean-zero relation (gap)",
        "How far the genes' trend of zero fraction over mean is from the real one.",
        "looks",
        "low",
        0.02,
        lambda a, b, s: metrics.trend_gap(
            a.genes.mean, a.genes.zero_fraction, b.genes.mean, b.genes.zero_fraction
        ),
        scale="log",
    ),
    "library_size_ks": Metric(
        "Library sizes (KS)",
        "Largest difference of the distributions of counts a cell.",
        "looks",
        "low",
        0.1,
        lambda a, b, s: metrics.ks(a.library, b.library),
        scale="log",
        limits=UNIT,
        kind="counts",
    ),
    "library_size_ratio": Metric(
        "Library sizes (ratio of medians)",
        "Median of counts a cell, generated over real.",
        "looks",
        "near",
        0.1,
        lambda a, b, s: float(np.median(a.library) / max(np.median(b.library), 1)),
        scale="log",
        kind="counts",
    ),
    "detected_genes_ks": Metric(
        "Detected genes (KS)",
        "Largest difference of the distributions of the number of genes found in a cell.",
        "looks",
        "low",
        0.1,
        lambda a, b, s: metrics.ks(a.detected, b.detected),
        scale="log",
        limits=UNIT,
        kind="counts",
    ),
    "gene_correlation_r": Metric(
        "Gene-gene correlations (r)",
        "Correlation of the correlations between the 200 most variable genes.",
        "differences",
        "high",
        0.05,
        lambda a, b, s: metrics.correlation_structure(a.values[:, s.correlated], b.values[:, s.correlated])[
            0
        ],
        scale="fisher",
        cells=10,
        by_noise=1.0,
    ),
    "gene_correlation_slope": Metric(
        "Gene-gene correlations (slope)",
        "Slope of generated on real gene-gene correlations; below 1: too weak.",
        "differences",
        "near",
        0.15,
        lambda a, b, s: metrics.correlation_structure(a.values[:, s.correlated], b.values[:, s.correlated])[
            1
        ],
        cells=10,
        by_noise=1.0,
    ),
    "within_correlation_r": Metric(
        "Gene-gene correlations within types (r)",
        "The same after taking each type's means away: what genes do together inside a type.",
        "differences",
        "high",
        0.05,
        lambda a, b, s: metrics.correlation_structure(a.within(s.correlated), b.within(s.correlated))[0],
        scale="fisher",
        cells=30,
        per="all",
        by_noise=1.0,
    ),
    "within_correlation_slope": Metric(
        "Gene-gene correlations within types (slope)",
        "Slope of generated on real correlations within types; below 1: too weak.",
        "differences",
        "near",
        0.15,
        lambda a, b, s: metrics.correlation_structure(a.within(s.correlated), b.within(s.correlated))[1],
        cells=30,
        per="all",
        by_noise=1.0,
    ),
    "marker_overlap": Metric(
        "Marker genes (overlap)",
        "Fraction of a type's 50 strongest marker genes that generated and real cells share.",
        "differences",
        "high",
        0.1,
        limits=UNIT,
        by_noise=1.0,
    ),
    "fold_change_slope": Metric(
        "Log fold changes (slope)",
        "Slope of generated on real log fold changes, over a type's 50 largest; below 1: too weak.",
        "differences",
        "near",
        0.1,
    ),
    "pseudobulk_r": Metric(
        "Donors' pseudobulks (r)",
        "Correlation of what sets a donor apart from the mean of all, generated against real.",
        "differences",
        "high",
        0.1,
        scale="fisher",
    ),
    "recall_real_to_generated": Metric(
        "Trained on real, tested on generated (recall)",
        "Fraction of a type's generated cells in which a classifier trained on real cells sees that type.",
        "types",
        "high",
        0.05,
        limits=UNIT,
    ),
    "recall_generated_to_real": Metric(
        "Trained on generated, tested on real (recall)",
        "Fraction of a type's real cells that a classifier trained on generated cells finds.",
        "types",
        "high",
        0.05,
        limits=UNIT,
    ),
    "f1_generated_added": Metric(
        "With generated cells added (F1)",
        "How well a classifier finds the type in new cells when generated ones are added to its training "
        "cells; the floor: without them.",
        "use",
        "high",
        0.05,
        limits=UNIT,
    ),
    "f1_oversampling_added": Metric(
        "With training cells repeated (F1)",
        "The same with repeated training cells instead, for comparison.",
        "use",
        "high",
        0.05,
        limits=UNIT,
    ),
    "f1_smote_added": Metric(
        "With SMOTE cells added (F1)",
        "The same with cells interpolated by SMOTE instead, for comparison.",
        "use",
        "high",
        0.05,
        limits=UNIT,
    ),
    "cells_needed": Metric(
        "Real cells worth the same",
        "How many real cells of the type would have done as much as the training cells with the generated "
        "ones; the floor: the training cells there were.",
        "use",
        "high",
        0.25,
        relative=True,
    ),
}
