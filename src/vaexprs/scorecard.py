"""What each figure of the scorecard is, how it is judged, and what the figures say together."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd

from vaexprs import markup, metrics

ALL = "all"
COLUMNS = ("metric", "label", "value", "floor", "floor_low", "floor_high", "verdict")
CONFIDENCE = 0.95
LEAST_CELLS = 5  # of each side, for a label to have figures of its own
MOST_GENES = 2_000  # the most variable ones, that classifiers see
CORRELATED_GENES = 200
FEW = 100  # cells of a side, below which even bad cells may lie within the floor
GAIN = 0.01  # of F1 from which on generated cells are called a help


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
        return np.sort(self.variable[:MOST_GENES])

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
    cells: int = LEAST_CELLS
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


def pair_figures(
    a: Sample, b: Sample, shared: Shared, wanted: Collection[str], counts: bool
) -> dict[str, float]:
    """Return the figures of two samples, the judged one first, by name.

    Parameters
    ----------
    a, b
        The samples.
    shared
        What all comparisons have in common.
    wanted
        Names of the metrics; those that need more cells, or counts where there are none, are left out.
    counts
        Whether the values are counts.
    """
    return {
        name: metric.of(a, b, shared)
        for name, metric in METRICS.items()
        if metric.of is not None
        and name in wanted
        and len(a.values) >= metric.cells
        and (counts or metric.kind == "any")
        and (metric.per == "label" or len(set(a.labels)) > 1)
    }


def pair_figures_and_gaps(
    a: Sample, b: Sample, shared: Shared, wanted: Collection[str], counts: bool, floor: bool
) -> tuple[dict[str, float], dict[str, float]]:
    """Return `pair_figures` and, where the comparison is one of the floor's, `half_differences`."""
    gaps = half_differences(a, b, shared, wanted, counts) if floor else {}
    return pair_figures(a, b, shared, wanted, counts), gaps


def half_differences(
    a: Sample, b: Sample, shared: Shared, wanted: Collection[str], counts: bool
) -> dict[str, float]:
    """Return the differences of figures between two disjoint halves of both samples, on the figures' scale.

    Those of the metrics with `by_noise`; the arguments are those of `pair_figures`.
    """
    names = [name for name in wanted if METRICS[name].by_noise]
    first, second = (
        pair_figures(a.half(i), b.half(i), shared, names, counts) if names else {} for i in (0, 1)
    )
    return {name: difference(METRICS[name], first[name], second[name]) for name in first if name in second}


def difference(metric: Metric, first: float, second: float) -> float:
    """Return the difference of two values of a figure on its scale."""
    first_scaled, second_scaled = SCALES[metric.scale][0](np.array([first, second]))
    return float(first_scaled - second_scaled)


def floor_of(
    metric: Metric, values: np.ndarray, differences: np.ndarray | None = None
) -> tuple[float, float, float]:
    """Return the mean of a figure for real against real, and the interval in which one more falls.

    Student's prediction interval ``mean +- t(0.975, n - 1) sd sqrt(1 + 1/n)`` on the figure's scale, cut to
    its limits.

    Parameters
    ----------
    metric
        The figure.
    values
        Its values for real against real, (n_resamples,), at least two.
    differences
        Differences of the figure between two disjoint halves of the cells of each comparison,
        (n_resamples,). Where they are given half of their mean square is the variance with half of the
        cells, and ``sd^2`` that times the metric's `by_noise`.
    """
    from scipy.stats import t

    forward, back = SCALES[metric.scale]
    with np.errstate(all="ignore"):
        scaled = forward(values)
    n = len(values)
    sd = scaled.std(ddof=1) if differences is None else np.sqrt(metric.by_noise * np.mean(differences**2) / 2)
    reach = t.ppf((1 + CONFIDENCE) / 2, n - 1) * sd * np.sqrt(1 + 1 / n)
    centre = scaled.mean()
    low, high = np.clip(back(np.array([centre - reach, centre + reach])), *metric.limits)
    return float(back(centre)), float(low), float(high)


NIL = 1e-12  # stands for 0 where logs are taken
SCALES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "plain": (lambda x: x, lambda x: x),
    "log": (lambda x: np.log(np.maximum(x, NIL)), lambda x: np.where(x > np.log(2 * NIL), np.exp(x), 0.0)),
    "fisher": (lambda x: np.arctanh(np.clip(x, -1 + 1e-9, 1 - 1e-9)), np.tanh),
}


def verdict_of(metric: Metric, value: float, low: float, high: float) -> str:
    """Return "within" where a value is in the floor's interval or better, "close" or "off"."""
    below, above = max(low - value, 0.0), max(value - high, 0.0)
    beyond = {"low": above, "high": below, "near": below + above}[metric.better]
    if beyond == 0:
        return "within"
    reach = metric.close * abs(high if above else low) if metric.relative else metric.close
    return "close" if beyond <= reach else "off"


class Scorecard(pd.DataFrame):
    """The table of `evaluate`, a DataFrame that shows itself in a notebook; its parts are plain ones."""

    def _repr_html_(self) -> str:
        if not set(COLUMNS) <= set(self.columns):  # it was changed in place
            return str(pd.DataFrame(self)._repr_html_())  # type: ignore[operator]
        asked = {QUESTIONS[METRICS[name].question] for name in self.attrs.get("wanted", METRICS)}
        told = [answer for answer in answers(self) if answer.question in asked]
        return markup.judged(self, told, METRICS, "real against real")


class Answer(NamedTuple):
    """The answer to one question about generated cells.

    Parameters
    ----------
    question
        The question.
    light
        "green", "amber", "red", or "unknown" where nothing was measured.
    sentence
        What was seen, for the reader.
    """

    question: str
    light: str
    sentence: str


def answers(table: pd.DataFrame) -> list[Answer]:
    """Return an answer for each question that a scorecard can answer.

    Green: at least half of the figures are within the floor's interval and at most one in ten is off. Red:
    more than a third are off. Amber: all else, and a classifier that gains less than 0.01. Figures of all
    cells count, and for "types" and "use" those of each type.

    Parameters
    ----------
    table
        What `evaluate` returned.
    """
    n = table.attrs.get("cells", FEW)
    few = f" With {n} cells on a side only large differences show." if n < FEW else ""
    found = []
    for question, text in QUESTIONS.items():
        rows = table[[METRICS[name].question == question for name in table["metric"]]]
        if question in ("looks", "differences"):
            rows = rows[rows["label"] == ALL]
        elif question == "use":
            rows = rows[(rows["metric"] == "f1_generated_added") & (rows["label"] != ALL)]
        elif (rows["label"] != ALL).any():
            rows = rows[rows["label"] != ALL]
        light, sentence = _light(question, rows)
        found.append(Answer(text, light, sentence + (few if question == "looks" else "")))
    return found


def _light(question: str, rows: pd.DataFrame) -> tuple[str, str]:
    n = len(rows)
    if not n:
        return "unknown", UNMEASURED[question]
    counts = {word: int((rows["verdict"] == word).sum()) for word in ("within", "close", "off")}
    light = "amber"
    if counts["within"] >= n / 2 and counts["off"] <= n / 10:
        light = "green"
    elif counts["off"] > n / 3:
        light = "red"
    if question != "use":
        return light, f"{OPENINGS[question][light]} {_count_sentence(counts, n)}{_worst(rows)}"
    gain = float((rows["value"] - rows["floor"]).mean())
    if light == "green" and gain < GAIN:
        light = "amber"
    return light, f"{OPENINGS[question][light]} {_f1_sentence(rows)}{_worst(rows)}"


OPENINGS = {
    "looks": {
        "green": "Generated cells look like real ones.",
        "amber": "Generated cells are near to real ones, not the same.",
        "red": "Generated cells can be told from real ones.",
    },
    "types": {
        "green": "Generated cells have the type they are labelled with.",
        "amber": "Most generated cells have the type they are labelled with; some types are blurred.",
        "red": "Types are mixed up in the generated cells.",
    },
    "differences": {
        "green": "Genes vary together, and types differ, as in real cells.",
        "amber": "Differences between types and correlations between genes are kept in part.",
        "red": "Differences between types or correlations between genes are lost or exaggerated.",
    },
    "use": {
        "green": "A classifier is better with generated cells added to its training cells.",
        "amber": "A classifier is about as good with generated cells added to its training cells.",
        "red": "A classifier is worse with generated cells added to its training cells.",
    },
}
UNMEASURED = {
    "looks": "Not measured: there were too few cells.",
    "types": "Not measured: it takes a label with at least two types.",
    "differences": "Not measured: there were too few cells.",
    "use": "Not measured: it takes the training cells apart from the real ones.",
}


def _count_sentence(counts: dict[str, int], n: int) -> str:
    are = "is" if counts["within"] == 1 else "are"
    parts = [f"{counts['within']} of {n} figures {are} within what real cells differ among themselves"]
    parts += [f"{counts[word]} {word}" for word in ("close", "off") if counts[word]]
    return ", ".join(parts) + "."


def _f1_sentence(rows: pd.DataFrame) -> str:
    return (
        f"In the mean over {len(rows)} types it finds a type with an F1 of {rows['value'].mean():.2f} with "
        f"them, {rows['floor'].mean():.2f} without."
    )


def _worst(rows: pd.DataFrame) -> str:
    off = rows[rows["verdict"] == "off"]
    if off.empty:
        return ""
    names = [
        METRICS[name].title if label == ALL else f"{label}: {METRICS[name].title}"
        for name, label in zip(off["metric"].head(2), off["label"].head(2), strict=True)
    ]
    return f" Off: {'; '.join(names)}{' and others' if len(off) > 2 else ''}."
