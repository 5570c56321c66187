"""What the metrics learn from real cells, and the features of cells that follow from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from vaexprs.comparison.axes import Axes
from vaexprs.comparison.cell_sets import CellSet
from vaexprs.data.matrix import Matrix, densify
from vaexprs.metrics.functions import centred_within

WITHIN_AXES = 10  # number of principal axes within labels
LABEL_AXES = 3  # number of principal axes of a single label
PRIOR_COUNTS = 20.0  # counts of the mean profile of all labels that are added to a label's
MIN_CELLS_OF_CLASS = 3  # minimum number of cells of a class in a classifier
LOG_ZERO = 1e-9  # added before taking logs


@dataclass(frozen=True)
class Sample:
    """Cells of one side of a comparison.

    Features that need a reference (axes, profiles, classifiers) come from real cells of the other
    half, so that no cell is compared with a reference it contributed to; see
    `vaexprs.metrics.reference.Reference`.

    Parameters
    ----------
    values
        The most variable genes as the model sees them, (n_cells, n_genes).
    labels
        Label of each cell, (n_cells,).
    half
        Number of the half, 0 or 1, (n_cells,).
    pcs
        Coordinates on the principal axes of the reference of the half, (n_cells, n_axes).
    within
        Coordinates on its principal axes within labels, (n_cells, n_within).
    deviance
        Distance to the mean of the label, (n_cells,): see `Reference.deviance`.
    atypical
        Whether that distance is larger than for 95% of the real cells of the label, (n_cells,); see
        `with_atypical`.
    hit
        Whether the reference's classifier returns the cell's label, (n_cells,).
    own
        Coordinates on the principal axes of the cells of the label alone, (n_cells, 3).
    library
        Log library size, (n_cells,); zeros unless the values are counts.
    detected
        Log number of detected genes, minus its expectation at the library size, (n_cells,).
    scaled
        Expressed genes in counts divided by the library size and multiplied by the median library size,
        (n_cells, n_expressed); without columns unless the values are counts.
    levels
        Codes of the levels of each covariate, (n_cells, n_covariates).
    level_hits
        Whether the reference's classifier of the covariate returns the level, (n_cells, n_covariates).
    """

    values: np.ndarray
    labels: np.ndarray
    half: np.ndarray
    pcs: np.ndarray
    within: np.ndarray
    deviance: np.ndarray
    atypical: np.ndarray
    hit: np.ndarray
    own: np.ndarray
    library: np.ndarray
    detected: np.ndarray
    scaled: np.ndarray
    levels: np.ndarray
    level_hits: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> Sample:
        """Return the cells of these rows."""
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def with_atypical(self, cutoffs: Mapping[str, float]) -> Sample:
        """Return the cells with `atypical` set to whether the deviance is above the cutoff of the label."""
        limits = np.array([cutoffs.get(label, np.inf) for label in self.labels])
        return replace(self, atypical=self.deviance > limits)

    @cached_property
    def centred(self) -> np.ndarray:
        """Values minus the mean of the label, (n_cells, n_genes)."""
        return centred_within(self.values, self.labels)

    @cached_property
    def variance(self) -> np.ndarray:
        """Variance of each gene within labels, (n_genes,)."""
        return self.centred.var(axis=0, dtype=np.float64)


@dataclass(frozen=True)
class Columns:
    """Columns of the genes that metrics use.

    Parameters
    ----------
    variable
        The most variable genes, most variable first.
    expressed
        Genes with the highest mean counts, for dispersions; empty unless the values are counts.
    median_library
        Median library size of the real cells.
    """

    variable: np.ndarray
    expressed: np.ndarray
    median_library: float


@dataclass(frozen=True)
class Reference:
    """Axes, profiles and classifiers of one half of the real cells.

    Parameters
    ----------
    axes
        Principal axes.
    within
        Principal axes of the values minus the mean of the label.
    centre
        Mean of the values of each label, by label.
    spread
        Standard deviation of each gene within labels, (n_genes,).
    profile
        Share of counts of each gene, by label; empty unless the values are counts.
    detected
        Coefficients of the log number of detected genes as a cubic polynomial of the log library size.
    expected
        Coefficients of the log deviance as such a polynomial.
    own
        Principal axes of the cells of each label.
    classifier
        Classifier of labels on the axes; None for one label.
    level_classifiers
        Classifier of each covariate on the axes within labels; None where it has one level.
    """

    axes: Axes
    within: Axes
    centre: Mapping[str, np.ndarray]
    spread: np.ndarray
    profile: Mapping[str, np.ndarray]
    detected: np.ndarray
    expected: np.ndarray
    own: Mapping[str, Axes]
    classifier: Any
    level_classifiers: Sequence[Any]

    def deviance(
        self, raw: Matrix, values: np.ndarray, labels: np.ndarray, library: np.ndarray
    ) -> np.ndarray:
        r"""Return the log distance of each cell to the mean of its label, minus its expectation, (n_cells,).

        For counts the distance is the multinomial deviance per count, :math:`2 \sum_g x_g \log(x_g / (N p_g))
        / N`, where p is the label's profile and N the library size; its expectation is a polynomial of log N.
        For other values it is the mean squared standardised distance over genes.
        """
        found = np.full(len(labels), np.nan)
        for label in np.unique(labels):
            if label in self.centre:
                rows = np.flatnonzero(labels == label)
                if self.profile:
                    found[rows] = _multinomial_deviance(densify(raw[rows]), self.profile[label])
                else:
                    scores = (values[rows] - self.centre[label]) / self.spread
                    found[rows] = (scores**2).mean(axis=1, dtype=np.float64)
        return np.log(found + LOG_ZERO) - np.polyval(self.expected, library)

    def labels_of(self, pcs: np.ndarray) -> np.ndarray:
        """Return the label of each cell according to the classifier, (n_cells,)."""
        if self.classifier is None:
            return np.full(len(pcs), next(iter(self.centre)), object)
        return np.asarray(self.classifier.predict(pcs), object)


def learn(cells: CellSet, labels: np.ndarray, levels: np.ndarray, columns: Columns, seed: int) -> Reference:
    """Learn a reference from real cells.

    Parameters
    ----------
    cells
        The cells.
    labels
        Label of each, (n_cells,).
    levels
        Codes of the levels of the covariates, (n_cells, n_covariates).
    columns
        Columns that the metrics use.
    seed
        Random seed.
    """
    values = densify(cells.values[:, columns.variable])
    centred = centred_within(values, labels)
    names = [str(name) for name in np.unique(labels)]
    library, detected, raw = _totals(cells)
    profile: dict[str, np.ndarray] = {}
    cubic = np.zeros(1)
    if cells.counts:
        everything = np.asarray(raw.sum(axis=0), np.float64).ravel() + LOG_ZERO
        for name in names:
            total = np.asarray(raw[labels == name].sum(axis=0), np.float64).ravel()
            total = total + PRIOR_COUNTS * everything / everything.sum()
            profile[name] = total / total.sum()
        cubic = _polynomial(library, detected)
    axes = Axes.of([values], seed)
    spread = centred.std(axis=0, dtype=np.float64)
    draft = Reference(
        axes=axes,
        within=Axes.of([centred], seed, WITHIN_AXES),
        centre={name: values[labels == name].mean(axis=0, dtype=np.float64) for name in names},
        spread=np.maximum(spread, 1e-3 * max(float(spread.max(initial=0)), LOG_ZERO)),
        profile=profile,
        detected=cubic,
        expected=np.zeros(1),
        own={name: Axes.of([values[labels == name]], seed, LABEL_AXES) for name in names},
        classifier=_classifier(axes.of_cells(values), labels),
        level_classifiers=[],
    )
    deviance = draft.deviance(raw, values, labels, library)
    expected = _polynomial(library, deviance) if cells.counts else np.array([float(np.mean(deviance))])
    inner = draft.within.of_cells(centred)
    classifiers = [_classifier(inner, column) for column in levels.T]
    return replace(draft, expected=expected, level_classifiers=classifiers)


def features(
    cells: CellSet,
    labels: np.ndarray,
    levels: np.ndarray,
    half: np.ndarray,
    references: Sequence[Reference],
    columns: Columns,
) -> Sample:
    """Return the features of cells, each from the reference of the half that it is in.

    Parameters
    ----------
    cells, labels, levels
        The cells, the label of each and the codes of its levels.
    half
        Number of the reference that applies to each cell, (n_cells,).
    references
        Both references; `references[0]` was learned from the real cells of half 1, and vice versa.
    columns
        Columns that the metrics use.
    """
    values = densify(cells.values[:, columns.variable])
    library, detected, raw = _totals(cells)
    n = len(labels)
    pcs = np.zeros((n, max(len(r.axes.components) for r in references)), np.float32)
    within = np.zeros((n, max(len(r.within.components) for r in references)), np.float32)
    deviance, rest = np.zeros(n), np.zeros(n)
    hit, own_axes = np.zeros(n, bool), np.zeros((n, LABEL_AXES), np.float32)
    level_hits = np.zeros(levels.shape, bool)
    for h, reference in enumerate(references):
        rows = np.flatnonzero(half == h)
        if not len(rows):
            continue
        x, own = values[rows], labels[rows]
        at = reference.axes.of_cells(x)
        pcs[rows, : at.shape[1]] = at
        hit[rows] = reference.labels_of(at) == own
        deviance[rows] = reference.deviance(raw[rows], x, own, library[rows])
        rest[rows] = detected[rows] - np.polyval(reference.detected, library[rows])
        centred = x - np.stack([reference.centre.get(label, x.mean(axis=0)) for label in own])
        inner = reference.within.of_cells(np.asarray(centred, np.float32))
        within[rows, : inner.shape[1]] = inner
        for name, of_label in reference.own.items():
            here = np.flatnonzero(own == name)
            own_axes[rows[here], : len(of_label.components)] = of_label.of_cells(x[here])
        for i, classifier in enumerate(reference.level_classifiers):
            if classifier is not None:
                level_hits[rows, i] = classifier.predict(inner) == levels[rows, i]
    scaled = np.zeros((n, 0), np.float32)
    if cells.counts and len(columns.expressed):
        scaled = densify(raw[:, columns.expressed]) * (columns.median_library / np.exp(library))[:, None]
    return Sample(
        values=values,
        labels=labels,
        half=half,
        pcs=pcs,
        within=within,
        deviance=deviance,
        atypical=np.zeros(n, bool),
        hit=hit,
        own=own_axes,
        library=library,
        detected=rest,
        scaled=scaled.astype(np.float32),
        levels=levels,
        level_hits=level_hits,
    )


def _totals(cells: CellSet) -> tuple[np.ndarray, np.ndarray, Matrix]:
    """Return log library size and log number of detected genes, zeros unless counts, and the raw values."""
    raw = cells.raw
    if not cells.counts:
        return np.zeros(len(cells)), np.zeros(len(cells)), raw
    library = np.asarray(raw.sum(axis=1), np.float64).ravel()
    detected = np.asarray((raw > 0).sum(axis=1), np.float64).ravel()
    return np.log(np.maximum(library, 1)), np.log(np.maximum(detected, 1)), raw


def _polynomial(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the coefficients of a cubic polynomial, or of a simpler one for few distinct values."""
    degree = min(3, len(np.unique(np.round(x, 3))) // 10)
    return np.asarray(np.polyfit(x, y, degree))


def _multinomial_deviance(counts: np.ndarray, profile: np.ndarray) -> np.ndarray:
    total = np.maximum(counts.sum(axis=1, dtype=np.float64), 1)
    row, gene = np.nonzero(counts)
    x = counts[row, gene].astype(np.float64)
    parts = x * np.log(x / (total[row] * profile[gene]))
    return np.asarray(2 * np.bincount(row, parts, len(counts)) / total)


def _classifier(x: np.ndarray, y: np.ndarray) -> Any:
    """Return a linear discriminant analysis with equal priors; None for fewer than two classes."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    names, sizes = np.unique(y, return_counts=True)
    kept = names[sizes >= MIN_CELLS_OF_CLASS]
    if len(kept) < 2:
        return None
    rows = np.isin(y, kept)
    priors = np.full(len(kept), 1 / len(kept))
    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=priors).fit(x[rows], y[rows])
