"""Registry of metrics: names, questions they answer, margins and descriptions.

A metric of two samples is one function in `vaexprs.metrics.functions` and one entry in `METRICS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vaexprs.metrics import functions as metrics
from vaexprs.metrics.reference import Sample

ALL = "all"  # value of the column "label" for all cells together
COLUMNS = ("metric", "label", "value", "floor", "floor_low", "floor_high", "verdict")
MIN_CELLS = 5  # minimum number of cells per side
MIN_OF_LABEL = 3  # minimum number of cells per side for a label to get fractions of cells of its own
MIN_OF_MEAN = 10  # the same for metrics whose baseline varies evenly only with more cells
MAX_GENES = 2_000  # number of most variable genes that are compared
MIN_DISPERSION = 0.1  # added to squared coefficients of variation before their ratio


@dataclass(frozen=True)
class Metric:
    """Description of a metric and the margins of its verdict.

    Parameters
    ----------
    title, what
        Name and one-sentence description for the user.
    question
        Key in `QUESTIONS` of the question that the metric helps to answer.
    close, far
        Distances from the baseline interval, on `scale`: up to `close` a difference is too small to matter,
        from `far` on it is large.
    of
        Function of two samples that returns the value; None for metrics that are computed elsewhere.
    scale
        Scale on which baseline values vary evenly: "plain", "log" or "share" (arcsine of the square root).
    limits
        Smallest and largest possible value.
    cells
        Minimum number of cells per side.
    kind
        "any" values, "counts" only, or only "values" that are not counts.
    per
        "label" if the metric is also computed for each label, "all" if for all cells together only.
    slow
        Whether it is computed in a few of the comparisons only.
    """

    title: str
    what: str
    question: str
    close: float
    far: float
    of: Callable[[Sample, Sample], float] | None = None
    scale: str = "plain"
    limits: tuple[float, float] = (-np.inf, np.inf)
    cells: int = MIN_OF_MEAN
    kind: str = "any"
    per: str = "label"
    slow: bool = False


def _components(a: Sample, b: Sample) -> list[list[np.ndarray]]:
    """Return the coordinates within labels of both samples, minus the mean of the label, for each half."""
    return [
        [metrics.centred_within(x.within[x.half == h], x.labels[x.half == h]) for x in (a, b)] for h in (0, 1)
    ]


def _component_variance(a: Sample, b: Sample) -> float:
    ratios = [metrics.largest_variance_ratio(first, second) for first, second in _components(a, b)]
    return float(np.mean(ratios))


def _coexpression(a: Sample, b: Sample) -> float:
    totals = [float(x.variance.sum()) for x in (a, b)]
    explained = [[float(x.var(axis=0).sum()) for x in part] for part in _components(a, b)]
    with np.errstate(invalid="ignore", divide="ignore"):  # of identical cells the variance is 0
        first, second = np.mean(explained, axis=0) / totals
        return float(first / second)


def _mmd(a: Sample, b: Sample) -> float:
    parts = [[x.pcs[x.half == h] for x in (a, b)] for h in (0, 1)]
    return float(np.mean([metrics.mmd(*part) if min(map(len, part)) > 1 else np.nan for part in parts]))


def _subpopulations(a: Sample, b: Sample) -> float:
    """Return the mean over labels of the MMD on the label's own components, weighted by cells."""
    total, cells = 0.0, 0
    for h in (0, 1):
        for label in np.unique(b.labels):
            first, second = (x.own[(x.half == h) & (x.labels == label)] for x in (a, b))
            if min(len(first), len(second)) >= MIN_CELLS:
                total += len(second) * metrics.mmd(first, second)
                cells += len(second)
    return total / cells if cells else float("nan")


def _dispersion_ratio(a: Sample, b: Sample) -> float:
    ratio = _dispersion(a) / _dispersion(b)
    known = ratio[np.isfinite(ratio)]
    return float(np.median(known)) if len(known) else float("nan")


def _dispersion(sample: Sample) -> np.ndarray:
    relative = np.exp(sample.library - np.median(sample.library))
    return np.maximum(metrics.excess_variance(sample.scaled, relative, sample.labels), 0) + MIN_DISPERSION


def _spread(a: Sample, b: Sample, name: str) -> float:
    parts = [metrics.centred_within(getattr(x, name)[:, None], x.labels) for x in (a, b)]
    return metrics.sd_ratio(*parts)


QUESTIONS = {
    "looks": "Do they look real?",
    "types": "Is each type right?",
    "differences": "Are the differences between types kept?",
    "use": "Do they help a classifier?",
}
UNIT = (0.0, 1.0)
POSITIVE = (0.0, np.inf)
# In each entry: text, then the rule for the verdict, then properties of the value, then the function.
# fmt: off
METRICS: dict[str, Metric] = {
    "forest_auc_genes": Metric(
        title="Random forest, genes (AUC)",
        what="AUC of a random forest that separates generated from real cells by their genes, on cells that "
        "it was not trained on; 0.5: chance level.",
        question="looks", close=0.005, far=0.15, limits=UNIT, cells=15, slow=True,
    ),
    "forest_auc_pcs": Metric(
        title="Random forest, PCs (AUC)",
        what="The same on 50 principal components of the forest's training cells, which capture "
        "co-expression.",
        question="looks", close=0.005, far=0.15, limits=UNIT, cells=15, slow=True,
    ),
    "mmd": Metric(
        title="Maximum mean discrepancy (squared)",
        what="Kernel distance between generated and real cells on the principal components of other real "
        "cells; 0: same distribution.",
        question="looks", close=0.001, far=0.03, cells=20, per="all",
        of=_mmd,
    ),
    "gene_means": Metric(
        title="Gene means (largest differences)",
        what="Root mean square of Welch's t over the 2% of genes whose means differ most between generated "
        "and real cells.",
        question="looks", close=0.05, far=0.7, scale="log", limits=POSITIVE,
        of=lambda a, b: metrics.mean_difference(a.values, b.values, a.variance, b.variance),
    ),
    "dispersion_ratio": Metric(
        title="Overdispersion (ratio)",
        what="Median over expressed genes of generated over real squared coefficient of variation within "
        "types, beyond Poisson noise.",
        question="looks", close=0.05, far=0.5, scale="log", limits=POSITIVE, kind="counts", per="all",
        of=_dispersion_ratio,
    ),
    "sd_ratio": Metric(
        title="Spread of genes (ratio of SDs)",
        what="Median over expressed genes of generated over real standard deviation within types; "
        "below 1: too little variation.",
        question="looks", close=0.05, far=0.3, scale="log", limits=POSITIVE, kind="values",
        of=lambda a, b: metrics.spread_ratio(np.abs(b.values).mean(axis=0), a.variance, b.variance),
    ),
    "library_size_ratio": Metric(
        title="Library sizes (ratio)",
        what="Geometric mean of the counts per cell, generated over real.",
        question="looks", close=0.03, far=0.4, scale="log", limits=POSITIVE, kind="counts",
        of=lambda a, b: float(np.exp(a.library.mean() - b.library.mean())),
    ),
    "library_size_spread": Metric(
        title="Library sizes (ratio of SDs)",
        what="Standard deviation of the log counts per cell within types, generated over real.",
        question="looks", close=0.05, far=0.5, scale="log", limits=POSITIVE, kind="counts",
        of=lambda a, b: _spread(a, b, "library"),
    ),
    "detected_genes_ratio": Metric(
        title="Detected genes (ratio)",
        what="Number of detected genes of cells with the same library size, generated over real.",
        question="looks", close=0.005, far=0.1, scale="log", limits=POSITIVE, kind="counts",
        of=lambda a, b: float(np.exp(a.detected.mean() - b.detected.mean())),
    ),
    "detected_genes_spread": Metric(
        title="Detected genes (ratio of SDs)",
        what="Standard deviation of that number between cells within types, generated over real.",
        question="looks", close=0.05, far=0.7, scale="log", limits=POSITIVE, kind="counts",
        of=lambda a, b: _spread(a, b, "detected"),
    ),
    "deviance_ratio": Metric(
        title="Distance to the mean of the type (ratio)",
        what="Multinomial deviance of a cell from the mean profile of its type (for values that are not "
        "counts, squared distance), generated over real.",
        question="looks", close=0.01, far=0.2, scale="log", limits=POSITIVE,
        of=lambda a, b: float(np.exp(a.deviance.mean() - b.deviance.mean())),
    ),
    "subpopulations": Metric(
        title="Sub-populations (discrepancy)",
        what="Kernel distance between the generated and the real cells of a type on its own three leading "
        "components; 0: no part of the type is missing or too large.",
        question="looks", close=0.003, far=0.1, cells=20,
        of=_subpopulations,
    ),
    "copies": Metric(
        title="Copies (fraction)",
        what="Fraction of generated cells whose values are those of a real, a training or another generated "
        "cell.",
        question="looks", close=0.0, far=0.05, scale="share", limits=UNIT, per="all",
    ),
    "recall_real_to_generated": Metric(
        title="Cells of their type (recall)",
        what="Fraction of generated cells assigned to their type by a classifier trained on real cells.",
        question="types", close=0.02, far=0.35, scale="share", limits=UNIT, cells=MIN_OF_LABEL,
        of=lambda a, b: float(a.hit.mean()),
    ),
    "atypical_cells": Metric(
        title="Atypical cells (fraction)",
        what="Fraction of cells farther from the mean of their type than 95% of real cells.",
        question="types", close=0.02, far=0.35, scale="share", limits=UNIT, cells=MIN_OF_LABEL,
        of=lambda a, b: float(a.atypical.mean()),
    ),
    "within_correlation_ratio": Metric(
        title="Co-expression within types (ratio)",
        what="Share of the variance within types along the ten leading components of other real cells, "
        "generated over real; below 1: gene-gene correlations are attenuated.",
        question="differences", close=0.03, far=0.4, scale="log", limits=POSITIVE, cells=30, per="all",
        of=_coexpression,
    ),
    "component_variance": Metric(
        title="Variance of components within types (largest ratio)",
        what="Largest ratio, larger over smaller, of the variances of generated and real cells along the ten "
        "principal components within types.",
        question="differences", close=0.05, far=0.7, scale="log", limits=(1.0, np.inf), cells=40, per="all",
        of=_component_variance,
    ),
    "fold_change_slope": Metric(
        title="Log fold changes (slope)",
        what="Slope of generated on real log fold changes of a type against the others, over its 50 largest; "
        "below 1: attenuated.",
        question="differences", close=0.05, far=0.4,
    ),
    "covariate_recall": Metric(
        title="Cells of their level (recall)",
        what="Fraction of generated cells assigned to their level of a covariate by a classifier trained on "
        "real cells.",
        question="differences", close=0.02, far=0.35, scale="share", limits=UNIT,
    ),
    "covariate_slope": Metric(
        title="Log fold changes of a covariate (slope)",
        what="Slope of generated on real log fold changes within types of a level against the others, over "
        "its 50 largest; below 1: attenuated.",
        question="differences", close=0.05, far=0.4,
    ),
    "f1_generated_added": Metric(
        title="With generated cells added (F1)",
        what="F1 of a classifier on held-out cells with generated cells added to its training cells; "
        "baseline: the best of nothing, repeated and SMOTE cells added, with the interval of the difference.",
        question="use", close=0.02, far=0.1, limits=UNIT,
    ),
    "f1_oversampling_added": Metric(
        title="With training cells repeated (F1)",
        what="F1 with repeated training cells (oversampling) instead of generated cells; baseline: nothing "
        "added.",
        question="use", close=0.02, far=0.1, limits=UNIT,
    ),
    "f1_smote_added": Metric(
        title="With SMOTE cells added (F1)",
        what="F1 with cells interpolated by SMOTE instead of generated cells; baseline: nothing added.",
        question="use", close=0.02, far=0.1, limits=UNIT,
    ),
    "cells_needed": Metric(
        title="Equivalent number of real cells",
        what="Number of real cells of the type that give the F1 of training plus generated cells; "
        "baseline: the number of training cells.",
        question="use", close=0.2, far=0.7, scale="log",
    ),
}
# fmt: on
