"""evaluate: how close generated cells are to real ones, each figure beside its real-against-real floor."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from vaexprs import metrics
from vaexprs._checks import address_space, check_integer, did_you_mean, some
from vaexprs.comparison import (
    Axes,
    CellSet,
    as_cells,
    at_hand,
    label_key_of,
    layer_like,
    random_rows,
    rows_in,
    side_by_side,
)
from vaexprs.matrices import densify
from vaexprs.progress import progress_bar
from vaexprs.scorecard import (
    ALL,
    COLUMNS,
    LEAST_CELLS,
    METRICS,
    Sample,
    Scorecard,
    Shared,
    difference,
    floor_of,
    pair_figures_and_gaps,
    verdict_of,
)

RESAMPLES = 10
MOST_CELLS = 1_000  # of each side that the figures over all cells look at ...
MOST_OF_LABEL = 300  # ... and those of one label
MARKERS = 50
# the learning curve
REPEATS = 4
SIZES = (5, 10, 20, 50, 100, 200, 500)
MOST_CURVES = 12  # labels, the rarest first
MOST_OTHERS = 1_000  # training cells of the other labels
METHODS = ("generated", "oversampling", "SMOTE")
# what one comparison gives: (metric, label) -> value
Figures = dict[tuple[str, str], float]


def evaluate(
    generated: Any,
    real: Any,
    *,
    train: Any = None,
    label_key: str | None = None,
    donor_key: str | None = None,
    layer: str | None = None,
    seed: int = 0,
    only: Collection[str] | None = None,
    resamples: int = RESAMPLES,
    progress: bool = True,
) -> pd.DataFrame:
    """Compare generated with real cells: each figure beside the same figure for real against real cells.

    Both sides of every comparison have the same number of cells of each label, so that the composition
    asked for does not count. The floor comes from splitting the real cells (with the training cells, where
    they are given) at random into two sides as large as those of the comparison, `resamples` times; its
    interval is the one into which one more such figure falls with 95%, so a set of real cells is outside
    it once in 20 times.

    Parameters
    ----------
    generated
        What `gen_exprs` returned, or an AnnData or file of generated cells.
    real
        Real cells, best such as the model has not seen: AnnData, BiocPy experiment or file, with at least
        the genes of the generated cells. Without `train` half of them are a side.
    train
        The cells the model was fitted to, where `real` are others from the same source. They double the real
        cells that the floor is made from, and tell what generated cells are worth to a classifier. Cells
        that are also among `real` are left out.
    label_key
        Column of `obs` with the label; by default the one the generated cells were made with. Figures are
        given for all cells and for each label with at least 5 cells on each side.
    donor_key
        Column of `obs` with the donor, for the agreement of pseudobulks.
    layer
        Layer of the real cells with the values; by default X.
    seed
        Seed of all that is random.
    only
        Names of the metrics wanted (`vaexprs.scorecard.METRICS` has them all); by default all.
    resamples
        Times that real cells are compared with real ones, at least 3.
    progress
        Whether to show a progress bar.

    Returns
    -------
    DataFrame
        With columns ``metric``, ``label`` ("all" or a label; for pseudobulks a donor), ``value``,
        ``floor``, ``floor_low``, ``floor_high`` and ``verdict``: "within" the floor's interval or better,
        "close" to it, or "off". In ``attrs``: ``notes``, sentences on what was looked at; ``wanted``, the
        metrics; ``cells``, the number of cells on a side; ``learning_curve``, dicts of label, method ("real",
        "generated", "oversampling", "SMOTE"), n (real training cells of the label), added, f1, low and high:
        how well a classifier finds the label.

    Raises
    ------
    ValueError
        If genes, labels or a column are missing, or there are too few cells to compare.
    TypeError
        If an argument is of the wrong kind.

    Notes
    -----
    Values are compared as the model sees them: log(1 + counts per 10,000) for counts. Principal components
    are those of both sides of a comparison, with as many cells of each. At most 1,000 cells a side (300 of
    one label), drawn with the seed, are looked at, and classifiers see the 2,000 most variable genes. The
    properties of marginals are those of Cao, Yang & Yang (2021, doi:10.1038/s41467-021-27130-w).

    Of a set that is on disk and takes more than 64 MiB a random sample is read and looked at, at most 20,000
    cells and 256 MiB, in the proportions of the labels but with some of each; the notes say so.

    Examples
    --------
    >>> import vaexprs as vx
    >>> cells = vx.demo_cells()
    >>> table = vx.evaluate(cells[::2], cells[1::2], label_key="cell_type", only=["gene_mean_r"])
    >>> table["verdict"].iloc[0]
    'within'
    """
    seed = check_integer("seed", seed, 0)
    resamples = check_integer("resamples", resamples, 3)
    wanted = _wanted(only)
    made = as_cells(generated)
    label_key = label_key_of(made, label_key)
    if label_key is not None and label_key == donor_key:
        raise ValueError(f"donor_key must be another column than label_key, got {donor_key!r} for both.")
    layer = layer_like(made, layer)
    keys = {"label_key": label_key, "donor_key": donor_key}
    looked = {"generated": at_hand(made, keys=[*keys.values()], seed=seed)}
    given = {"real": real} if train is None else {"real": real, "train": train}
    for name, cells in given.items():
        looked[name] = at_hand(cells, keys=[*keys.values()], seed=seed, layer=layer)
    notes = [sentence for name, part in looked.items() for sentence in part.told(name)]
    others = {name: part.cells for name, part in looked.items() if name != "generated"}
    sets = side_by_side(looked["generated"].cells, others, keys=keys, layer=layer, notes=notes)
    if ALL in sets["real"].column(label_key):
        raise ValueError(
            f"No label may be named {ALL!r}, which stands for all cells; rename it in {label_key!r}."
        )
    if label_key is None and any(key in looked["real"].cells.obs for key in looked["generated"].cells.obs):
        notes.append(
            "No label was named, so all cells were compared with all: name its column with label_key "
            "(--label-key)."
        )
    training = _apart(sets.get("train"), sets["real"], notes)
    plan = _plan(sets["generated"], sets["real"], training, label_key, donor_key, seed, notes)
    rows = _rows(_compare(plan, wanted, resamples, seed, progress))
    curve = None
    if training is not None and plan.labels and wanted & set(UTILITY):
        curve = _learning_curve(plan, training, seed)
        rows += _utility_rows(curve, wanted)
    order = {name: i for i, name in enumerate(METRICS)}
    table = Scorecard(sorted(rows, key=lambda row: order[str(row[0])]), columns=list(COLUMNS))
    table.attrs["notes"] = notes
    table.attrs["wanted"] = [name for name in METRICS if name in wanted]
    table.attrs["cells"] = sum(plan.most.values())
    table.attrs["learning_curve"] = [] if curve is None else curve.to_dict("records")
    return table


UTILITY = ("f1_generated_added", "f1_oversampling_added", "f1_smote_added", "cells_needed")


def _wanted(only: Collection[str] | None) -> set[str]:
    if only is None:
        return set(METRICS)
    names = [only] if isinstance(only, str) else list(only)
    for name in names:
        if name not in METRICS:
            raise ValueError(
                f"only must name metrics ({some(list(METRICS), 8)}), got {name!r}."
                f"{did_you_mean(name, METRICS)}"
            )
    return set(names)


def _apart(train: CellSet | None, real: CellSet, notes: list[str]) -> CellSet | None:
    """Return the training cells that are not among the real ones, or None if there is none."""
    if train is None:
        return None
    same = rows_in(train, real)
    if same.all():
        notes.append(
            "The training cells are among the real cells: a model that copies them would look perfect here. "
            "Hold some out."
        )
    elif same.any():
        notes.append(
            f"{same.sum():,} of {len(train):,} training cells are also among the real cells and were left "
            "out of train."
        )
    return None if same.all() else train.take(np.flatnonzero(~same))


class Side(NamedTuple):
    """One set of cells that samples are drawn from, with the label and the stratum of each cell."""

    cells: CellSet
    labels: np.ndarray
    strata: np.ndarray


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Parameters
    ----------
    generated, real, pool
        The cells; `pool` are all real ones, with the training cells.
    most
        Cells of each stratum (label, or label and donor) of a side.
    labels
        Labels that have figures of their own.
    of_label
        Label of each stratum.
    of_donor
        Donor of each stratum, empty where there is no donor.
    shared
        What all comparisons have in common.
    """

    generated: Side
    real: Side
    pool: Side
    most: Mapping[str, int]
    labels: list[str]
    of_label: Mapping[str, str]
    of_donor: Mapping[str, str]
    shared: Shared

    def of(self, label: str, of_all: Mapping[str, int]) -> dict[str, int]:
        """Return how many cells of each stratum the figures of a label, or of all cells, look at."""
        if label == ALL:
            return dict(of_all)
        return {name: n for name, n in self.most.items() if self.of_label[name] == label}


def _plan(
    generated: CellSet,
    real: CellSet,
    train: CellSet | None,
    label_key: str | None,
    donor_key: str | None,
    seed: int,
    notes: list[str],
) -> Plan:
    pool = real if train is None else real.joined(train)
    cells = {"generated": generated, "real": real, "pool": pool}
    strata = {name: part.column(label_key, donor_key) for name, part in cells.items()}
    of_label = dict(zip(strata["pool"], pool.column(label_key), strict=True))
    of_donor = dict(zip(strata["pool"], pool.column(donor_key), strict=True))
    sizes = {name: _sizes(column) for name, column in strata.items()}
    most = {
        name: min(sizes["generated"].get(name, 0), n, sizes["pool"][name] // 2)
        for name, n in sizes["real"].items()
    }
    most = {name: n for name, n in most.items() if n}
    if sum(most.values()) < LEAST_CELLS:
        shared = some([str(label) for label in _sizes(real.column(label_key))])
        raise ValueError(
            f"There must be at least {LEAST_CELLS} generated cells and {2 * LEAST_CELLS} real ones of the "
            f"same labels, got {sum(most.values())} on a side; the real cells have {shared}. "
            f"{'Hold more cells out' if train is not None else 'Give more real cells'}."
        )
    _tell_composition(most, of_label, sizes, label_key, train is not None, notes)
    most = _thinned(most, of_label, MOST_OF_LABEL if label_key is not None else MOST_CELLS)
    sides = {name: Side(part, part.column(label_key), strata[name]) for name, part in cells.items()}
    totals = _by(most, of_label) if label_key is not None else {}
    variance = sum(_variances(cells[name].values) for name in ("generated", "pool"))
    return Plan(
        sides["generated"],
        sides["real"],
        sides["pool"],
        most,
        sorted(label for label, n in totals.items() if n >= LEAST_CELLS),
        of_label,
        of_donor if donor_key is not None else {},
        Shared(np.argsort(-variance, kind="stable"), seed),
    )


def _tell_composition(
    most: Mapping[str, int],
    of_label: Mapping[str, str],
    sizes: Mapping[str, Mapping[str, int]],
    label_key: str | None,
    with_train: bool,
    notes: list[str],
) -> None:
    n = sum(most.values())
    source = "the real and training cells" if with_train else "two halves of the real cells"
    notes.append(
        f"Each side of a comparison has up to {n:,} cells, the same number of each label; the floor is from "
        f"{source}."
    )
    if label_key is None:
        return
    real, made = (_by(sizes[name], of_label) for name in ("real", "generated"))
    total = _by(most, of_label)
    few = [label for label in real if total.get(label, 0) < LEAST_CELLS and made.get(label, 0)]
    absent = [label for label in real if not made.get(label, 0)]
    if few:
        notes.append(f"Too few cells for figures of their own: {some(sorted(few))}.")
    if absent:
        notes.append(f"No generated cells, so not compared: {some(sorted(absent))}.")
    strange = [name.replace("\t", " of ") for name in sizes["generated"] if name not in of_label]
    if strange:
        notes.append(f"Not among the real cells, so not compared: {some(sorted(strange))}.")


def _sizes(column: np.ndarray) -> dict[str, int]:
    names, numbers = np.unique(column.astype(str), return_counts=True)
    return {str(name): int(n) for name, n in zip(names, numbers, strict=True)}


def _by(sizes: Mapping[str, int], groups: Mapping[str, str]) -> dict[str, int]:
    """Return the sizes summed over the strata of each group; strata without one are left out."""
    total: dict[str, int] = {}
    for name, n in sizes.items():
        if name in groups:
            total[groups[name]] = total.get(groups[name], 0) + n
    return total


def _thinned(most: Mapping[str, int], groups: Mapping[str, str], limit: int) -> dict[str, int]:
    """Return numbers of the strata with the sum of each group at about `limit`, none below 1."""
    total = _by(most, groups)
    return {name: max(1, int(n * min(1, limit / total[groups[name]]))) for name, n in most.items()}


def _joined(rows: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([*rows, np.empty(0, int)]).astype(int)


def _variances(values: Any) -> np.ndarray:
    from sklearn.utils.sparsefuncs import mean_variance_axis

    if isinstance(values, np.ndarray):
        return values.var(axis=0, dtype=np.float64)
    return np.asarray(mean_variance_axis(values, axis=0)[1], np.float64)


@dataclass(frozen=True)
class Comparison:
    """Two sides of a comparison, the judged one first.

    Parameters
    ----------
    sides
        The cells that both are drawn from.
    rows
        Rows of each stratum, the same number on both sides.
    most
        How many of them the figures of all cells look at.
    """

    sides: tuple[Side, Side]
    rows: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]
    most: Mapping[str, int]
    seed: int

    @cached_property
    def axes(self) -> Axes:
        """Principal axes of both sides together: cells lie otherwise on axes that were not made from them."""
        return Axes.of([side.cells.values[rows] for side, rows in self._chosen(self.most)], self.seed)

    def samples(self, most: Mapping[str, int]) -> tuple[Sample, Sample]:
        """Return so many cells of each stratum of both sides, dense."""
        a, b = (self._sample(side, rows) for side, rows in self._chosen(most))
        return a, b

    def _chosen(self, most: Mapping[str, int]) -> list[tuple[Side, np.ndarray]]:
        return [
            (side, _joined(rows[name][:n] for name, n in most.items()))
            for side, rows in zip(self.sides, self.rows, strict=True)
        ]

    def _sample(self, side: Side, rows: np.ndarray) -> Sample:
        values = densify(side.cells.values[rows])
        return Sample(densify(side.cells.raw[rows]), values, self.axes.of_cells(values), side.labels[rows])


def _comparison(plan: Plan, i: int, seed: int) -> Comparison:
    """Return generated against real cells for i = 0, and for others two sides of real cells."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(i,)))
    of_all = _thinned(plan.most, dict.fromkeys(plan.most, ALL), MOST_CELLS)
    if i == 0:
        sides = plan.generated, plan.real
        a, b = (random_rows(rng, side.strata, plan.most) for side in sides)
        return Comparison(sides, (a, b), of_all, seed)
    both = random_rows(rng, plan.pool.strata, {name: 2 * n for name, n in plan.most.items()})
    halves = (
        {name: rows[: plan.most[name]] for name, rows in both.items()},
        {name: rows[plan.most[name] :] for name, rows in both.items()},
    )
    return Comparison((plan.pool, plan.pool), halves, of_all, seed)


class Compared(NamedTuple):
    """What one comparison gives.

    Parameters
    ----------
    figures
        The figures by metric and label.
    gaps
        For real against real, differences of the figures with `by_noise` between halves of both sides.
    """

    figures: Figures
    gaps: Figures


def _compare(plan: Plan, wanted: set[str], resamples: int, seed: int, progress: bool) -> list[Compared]:
    """Compare generated with real cells, then real with real ones."""
    from joblib import Parallel, delayed
    from threadpoolctl import threadpool_limits

    comparisons = [_comparison(plan, i, seed) for i in range(resamples + 1)]
    counts = plan.real.cells.counts
    tasks = [(i, label) for i in range(resamples + 1) for label in [ALL, *plan.labels]]
    found = [Compared({}, {}) for _ in comparisons]
    parts: list[dict[str, Parts]] = [{} for _ in comparisons]

    def drawn() -> Iterator[tuple[Sample, Sample, bool]]:
        for i, label in tasks:
            a, b = comparisons[i].samples(plan.of(label, comparisons[i].most))
            if label == ALL:
                found[i].figures.update(_mixing_figures(a, b, plan.labels) if "lisi" in wanted else {})
                found[i].figures.update(_recall_figures(a, b, plan.labels, wanted))
            else:
                parts[i][label] = Parts.of(a, b)
            yield a, b, i > 0

    # processes where trees are grown, which hold Python's lock; they import no more than `scorecard`.
    # joblib waits without end where it cannot start the threads that feed them
    n_jobs = -1 if any(name.startswith("forest") for name in wanted) and address_space() is None else 1
    with threadpool_limits(1), progress_bar(len(tasks), "comparing", "part", shown=progress) as bar:
        work = Parallel(n_jobs=n_jobs, return_as="generator")(
            delayed(pair_figures_and_gaps)(a, b, plan.shared, wanted, counts, floor)
            for a, b, floor in drawn()
        )
        for (i, label), both in zip(tasks, work, strict=True):
            for table, values in zip(found[i], both, strict=True):
                table.update({(name, label): value for name, value in values.items()})
            bar.update()
    for comparison, (figures, gaps), statistics in zip(comparisons, found, parts, strict=True):
        figures.update(_marker_figures({label: part.whole for label, part in statistics.items()}, wanted))
        first, second = (
            _marker_figures({label: part.halves[k] for label, part in statistics.items()}, wanted)
            for k in (0, 1)
        )
        by_noise = [key for key in first if METRICS[key[0]].by_noise]
        gaps.update({key: difference(METRICS[key[0]], first[key], second[key]) for key in by_noise})
        if plan.of_donor and "pseudobulk_r" in wanted:
            figures.update(_pseudobulk_figures(plan, comparison))
    return found


class Pair(NamedTuple):
    """What the genes of one label say on both sides, and how many cells each has."""

    a: metrics.GeneStatistics
    b: metrics.GeneStatistics
    n: int


class Parts(NamedTuple):
    """What the genes of one label say in all its cells and in two halves of them."""

    whole: Pair
    halves: tuple[Pair, Pair]

    @classmethod
    def of(cls, a: Sample, b: Sample) -> Parts:
        """Return what the genes of two samples say."""
        first, second = (Pair(a.half(k).genes, b.half(k).genes, len(a.half(k).values)) for k in (0, 1))
        return cls(Pair(a.genes, b.genes, len(a.values)), (first, second))


def _mixing_figures(a: Sample, b: Sample, labels: Sequence[str]) -> Figures:
    mixed, of = metrics.mixing(a.pcs, b.pcs), np.concatenate([a.labels, b.labels])
    found = {("lisi", label): float(mixed[of == label].mean()) for label in labels if (of == label).any()}
    return {("lisi", ALL): float(mixed.mean())} | found


def _recall_figures(a: Sample, b: Sample, labels: Sequence[str], wanted: set[str]) -> Figures:
    if len(labels) < 2:
        return {}
    found: Figures = {}
    for name, fitted, tested in (
        ("recall_real_to_generated", b, a),
        ("recall_generated_to_real", a, b),
    ):
        if name in wanted:
            recalls = metrics.recalls(fitted.pcs, fitted.labels, tested.pcs, tested.labels)
            mine = {label: recalls[label] for label in labels if label in recalls}
            found |= {(name, label): value for label, value in mine.items()}
            found[name, ALL] = float(np.mean(list(mine.values())))
    return found


def _marker_figures(parts: Mapping[str, Pair], wanted: set[str]) -> Figures:
    if len(parts) < 2 or not wanted & {"marker_overlap", "fold_change_slope"}:
        return {}
    sizes = np.array([part.n for part in parts.values()])
    a, b = (
        metrics.contrasts([part.a if side == 0 else part.b for part in parts.values()], sizes)
        for side in (0, 1)
    )
    most = max(1, min(MARKERS, len(a[0].t) // 10))
    found: Figures = {}
    for name, figure in (
        ("marker_overlap", metrics.marker_overlap),
        ("fold_change_slope", metrics.change_slope),
    ):
        if name in wanted:
            values = [figure(x, y, most) for x, y in zip(a, b, strict=True)]
            found |= {(name, label): value for label, value in zip(parts, values, strict=True)}
            found[name, ALL] = float(np.mean(values))
    return found


def _pseudobulk_figures(plan: Plan, comparison: Comparison) -> Figures:
    """Return how well donors' sums, less the mean of all donors, agree; a row for each donor."""
    donors = [donor for donor, n in _by(plan.most, plan.of_donor).items() if n >= LEAST_CELLS]
    if len(donors) < 2:
        return {}
    profiles = []
    for side, rows in zip(comparison.sides, comparison.rows, strict=True):
        sums = []
        for donor in donors:
            mine = _joined(rows[name] for name in plan.most if plan.of_donor[name] == donor)
            total = np.asarray(side.cells.raw[mine].sum(axis=0), np.float64).ravel()
            sums.append(
                np.log1p(1e6 * total / max(total.sum(), 1)) if side.cells.counts else total / len(mine)
            )
        profiles.append(np.stack(sums) - np.mean(sums, axis=0))
    values = [metrics.correlation(x, y) for x, y in zip(*profiles, strict=True)]
    found: Figures = {("pseudobulk_r", donor): value for donor, value in zip(donors, values, strict=True)}
    found["pseudobulk_r", ALL] = float(np.mean(values))
    return found


def _rows(compared: Sequence[Compared]) -> list[tuple[Any, ...]]:
    rows = []
    for key, value in compared[0].figures.items():
        name, label = key
        floors = np.array([each.figures.get(key, np.nan) for each in compared[1:]])
        gaps = np.array([each.gaps.get(key, np.nan) for each in compared[1:]])
        by_noise = METRICS[name].by_noise > 0
        if not np.isfinite([value, *floors, *(gaps if by_noise else ())]).all():
            continue  # too few cells or constant genes: nothing can be said
        floor, low, high = floor_of(METRICS[name], floors, gaps if by_noise else None)
        rows.append((name, label, value, floor, low, high, verdict_of(METRICS[name], value, low, high)))
    return rows


def _learning_curve(plan: Plan, train: CellSet, seed: int) -> pd.DataFrame:
    """Return how well each label is found in new cells, by what the classifier was trained on.

    The real cells are split at random into a half that is tested on and one that shows what more real cells
    would have done; that is repeated. All else is learned from the training cells: as they are ("real" with
    n cells of the label), or with cells added to all of them by one of `METHODS`, up to the median size of
    the other labels, at least twice the label's.

    Returns
    -------
    DataFrame
        With columns label, method, n (real training cells of the label), added, f1 and the ends low and high
        of its 95% interval over the repeats.
    """
    from joblib import Parallel, delayed
    from threadpoolctl import threadpool_limits

    axes = Axes.of([train.values], seed)  # as of someone who has the training cells only
    pcs = Coordinates(
        *(axes.of_cells(cells.values) for cells in (train, plan.real.cells, plan.generated.cells))
    )
    labels = plan.pool.labels[len(plan.real.labels) :]
    there = _sizes(labels)
    known = sorted((n, label) for label, n in there.items() if label in plan.labels and n >= 2)
    tasks = [(label, i) for _, label in known[:MOST_CURVES] for i in range(REPEATS)]
    with threadpool_limits(1):
        found = Parallel(n_jobs=-1, prefer="threads")(
            delayed(_scores)(plan, pcs, labels, label, np.random.SeedSequence(seed, spawn_key=(1_000_000, i)))
            for label, i in tasks
        )
    rows = [row for part in found for row in part]
    frame = pd.DataFrame(rows, columns=["label", "method", "n", "added", "f1"])
    return _with_intervals(frame)


class Coordinates(NamedTuple):
    """Cells on the principal axes of the training cells, (n_cells, n_axes) each."""

    train: np.ndarray
    real: np.ndarray
    generated: np.ndarray


def _scores(
    plan: Plan, pcs: Coordinates, labels: np.ndarray, label: str, entropy: np.random.SeedSequence
) -> list[tuple[str, str, int, int, float]]:
    """Return the points of one label's curve for one split of the real cells."""
    rng = np.random.default_rng(entropy)
    parts = random_rows(rng, plan.real.labels, _sizes(plan.real.labels))
    tested = _joined(rows[: -(-len(rows) // 2)] for rows in parts.values())
    more = parts[label][-(-len(parts[label]) // 2) :]
    others = rng.permutation(np.flatnonzero(labels != label))[:MOST_OTHERS]
    own = np.flatnonzero(labels == label)
    x_test, y_test = pcs.real[tested], plan.real.labels[tested]

    def score(x: np.ndarray) -> float:
        """Return the F1 where `x` are the label's training cells."""
        y = np.concatenate([labels[others], np.full(len(x), label, object)]).astype(str)
        return metrics.f1(np.concatenate([pcs.train[others], x]), y, x_test, y_test.astype(str), label)

    growing = np.concatenate([pcs.train[rng.permutation(own)], pcs.real[more]])
    sizes = sorted({n for n in SIZES if n <= len(growing)} | {len(own), len(growing)})
    points = [(label, "real", n, 0, score(growing[:n])) for n in sizes]
    median = int(np.median([n for name, n in _sizes(labels[others]).items()]))
    made = pcs.generated[rng.permutation(np.flatnonzero(plan.generated.labels == label))]
    m = min(max(median - len(own), len(own)), len(made))
    for method in METHODS:
        added = made[:m] if method == "generated" else _resampled(method, pcs.train[own], m, rng)
        points.append((label, method, len(own), m, score(np.concatenate([pcs.train[own], added]))))
    return points


def _resampled(method: str, x: np.ndarray, m: int, rng: np.random.Generator) -> np.ndarray:
    """Return `m` cells made of the few in `x` by imbalanced-learn."""
    from imblearn.over_sampling import SMOTE, RandomOverSampler

    asked: dict[str, Any] = {
        "sampling_strategy": {1: len(x) + m},
        "random_state": int(rng.integers(2**31)),
    }
    if method == "SMOTE":
        sampler: Any = SMOTE(k_neighbors=min(5, len(x) - 1), **asked)
    else:
        sampler = RandomOverSampler(**asked)
    # it resamples one class among others: two far-away points stand for those
    others = np.full((2, x.shape[1]), 1e6, x.dtype)
    resampled, _ = sampler.fit_resample(np.concatenate([x, others]), np.repeat([1, 0], [len(x), 2]))
    return np.asarray(resampled[len(x) + 2 :])


def _with_intervals(points: pd.DataFrame) -> pd.DataFrame:
    from scipy.stats import t

    frame = (
        points.groupby(["label", "method", "n", "added"], sort=False)["f1"].agg(["mean", "sem"]).reset_index()
    )
    reach = t.ppf(0.975, REPEATS - 1) * frame.pop("sem").fillna(0)
    return frame.rename(columns={"mean": "f1"}).assign(
        low=lambda f: (f["f1"] - reach).clip(0, 1), high=lambda f: (f["f1"] + reach).clip(0, 1)
    )


def _utility_rows(curve: pd.DataFrame, wanted: set[str]) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for label, part in curve.groupby("label", sort=False):
        real = part[part["method"] == "real"].sort_values("n")
        added = part[part["method"] != "real"].set_index("method")
        n, f1 = int(added["n"].iloc[0]), added["f1"].to_dict()
        alone = real.loc[real["n"] == n, ["f1", "low", "high"]].to_numpy(float)[0]
        floor = (float(alone[0]), float(alone[1]), float(alone[2]))
        for method in METHODS:
            name = f"f1_{method.lower()}_added"
            value = float(f1[method])
            rows.append((name, label, value, *floor, verdict_of(METRICS[name], value, *floor[1:])))
        needed = _cells_needed(real, float(f1["generated"]))
        rows.append(
            ("cells_needed", label, needed, n, n, n, verdict_of(METRICS["cells_needed"], needed, n, n))
        )
    return [row for row in rows if row[0] in wanted] + _utility_means(rows, wanted)


def _utility_means(rows: Sequence[tuple[Any, ...]], wanted: set[str]) -> list[tuple[Any, ...]]:
    means = []
    for name in UTILITY[:-1]:
        numbers = np.mean([row[2:6] for row in rows if row[0] == name], axis=0)
        if name in wanted:
            means.append(
                (name, ALL, *map(float, numbers), verdict_of(METRICS[name], numbers[0], *numbers[2:]))
            )
    return means


def _cells_needed(real: pd.DataFrame, f1: float) -> float:
    """Return with how many real cells the rising curve reaches an F1; the most there were if it does not."""
    n, reached = real["n"].to_numpy(float), np.maximum.accumulate(real["f1"].to_numpy(float))
    first = int(np.searchsorted(reached, f1))
    if first == len(n):
        return float(n[-1])
    if first == 0 or f1 == reached[first]:
        return float(n[first])
    share = (f1 - reached[first - 1]) / max(reached[first] - reached[first - 1], 1e-12)
    return float(np.exp((1 - share) * np.log(n[first - 1]) + share * np.log(n[first])))
