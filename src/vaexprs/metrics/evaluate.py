"""`evaluate`: a table of metrics, each with its baseline (real vs real)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd

from vaexprs.comparison.cell_sets import CellSet, has_column, open_generated, rows_in, side_by_side
from vaexprs.comparison.matching import only_generated
from vaexprs.comparison.provenance import (
    covariate_keys_of,
    has_dependent_cells,
    label_key_of,
    real_layer,
    recipe_of,
)
from vaexprs.comparison.subsample import load_cells
from vaexprs.interface.validation import as_keys, check_integer, did_you_mean, listed
from vaexprs.io.open import open_cells
from vaexprs.metrics.answers import Scorecard
from vaexprs.metrics.baseline import NOT_JUDGED, Judged, judge, verdict_of
from vaexprs.metrics.independence import TOLERATED_COPIES, are_too_even, count_copies
from vaexprs.metrics.learning_curve import UTILITY, learning_curve, summarise, utility_rows
from vaexprs.metrics.plan import EvaluationPlan, plan_evaluation
from vaexprs.metrics.registry import ALL, COLUMNS, METRICS
from vaexprs.metrics.resampling import Compared, compare_sets

if TYPE_CHECKING:
    from vaexprs.model.vae_fit import VAEFit

MAIN_METRIC = "forest_auc_genes"  # metric with its own share of the family error
MIN_BASELINE = 3  # minimum number of real-vs-real values of a metric
RESAMPLES = 40  # default number of comparisons of each kind
DEPENDENT_BY_RECIPE = (
    "The cells were generated with evenly spread random numbers (stratified, before version 0.2). They are "
    "not independent and look more real than they are, so nothing is judged as good. Generate them again."
)
DEPENDENT_BY_ORDER = (
    "Consecutive generated cells agree more than independent cells do: their random numbers seem to be "
    "evenly spread. Such cells look more real than they are, so nothing is judged as good."
)


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
    covariate_keys: Sequence[str] | None = None,
    fit: VAEFit | None = None,
    resamples: int = RESAMPLES,
    progress: bool = True,
) -> pd.DataFrame:
    """Compare generated with real cells by metrics, each with its baseline (real vs real).

    Both sides of every comparison have the same number of cells of each label, so that the requested
    composition has no effect. A value is the mean over `resamples` random samples of the generated and the
    real cells. The baseline comes from as many random splits of the real cells (and the training cells, if
    given) into two sides of the same size. Its interval is a 95% prediction interval. Values are judged on
    both sides of it: cells that agree better than independent real cells do are copies, or not independent.

    Parameters
    ----------
    generated
        What `gen_exprs` returned, or an AnnData or file of generated cells.
    real
        Real cells, preferably held out from training: AnnData, BiocPy experiment or file, with at least the
        genes of the generated cells. Without `train`, each side of a real-vs-real comparison has at most
        half of them.
    train
        Training cells of the model, if `real` are other cells from the same source. They add real cells for
        the baseline, and are needed to measure the benefit of generated cells for a classifier. Cells that
        are also among `real` are left out.
    label_key
        Column of `obs` with the label (default: the label key of the generated cells). Metrics are computed
        for all cells and for each label with at least 3 cells per side (10 for most metrics).
    donor_key
        Column of `obs` with the donor. Donors are compared like covariates. If the real cells come from other
        donors than the training (or generated) cells, the baseline compares real donors with each other; with
        fewer than four donors nothing is judged.
    layer
        Layer of the real cells with the values (default: X).
    seed
        Random seed.
    only
        Names of metrics, keys of `vaexprs.scorecard.METRICS` (default: all).
    covariate_keys
        Columns of `obs` with further conditions that are compared (default: those of the fit, as recorded in
        the generated cells, if all sets have them).
    fit
        The fit that the cells were generated from. A second set is drawn from it, with another seed, and
        classifiers that learn on the generated cells are tested on it.
    resamples
        Number of comparisons of each kind, at least 3. Random forests are computed in four to six of them.
    progress
        Whether to show a progress bar.

    Returns
    -------
    DataFrame
        With columns ``metric``, ``label`` ("all", a label, or a level of a covariate, "key: level"),
        ``value``, ``floor`` (mean of the baseline), ``floor_low``, ``floor_high`` (its interval) and
        ``verdict``: "within" the baseline interval, "close" to it, "off" (farther than real cells are by
        chance in any row of the table, and by more than a negligible margin), or "not judged". In ``attrs``:
        ``notes``, sentences on the cells that were compared; ``wanted``, the metrics; ``cells``, the number
        of cells per side; ``too_few``, labels with too few real cells for a verdict; ``dependent``, why the
        generated cells are not independent of each other, if they are not; ``learning_curve``, dicts of
        label, method ("real", "generated", "oversampling", "SMOTE"), n (real training cells of the label),
        added, f1, low and high: the F1 of a classifier for the label.

    Raises
    ------
    ValueError
        If genes, labels or a column are missing, or there are too few cells.
    TypeError
        If an argument has the wrong type.

    Notes
    -----
    Values are compared as the model sees them: log(1 + counts per 10,000) for counts. Axes, profiles of
    types, sub-populations and classifiers of types are learned on one half of the real cells and applied to
    the other half, and vice versa. Random forests are tested on cells that they did not learn from, in two
    to five folds (with `fit`, on a second generated set). A random sample of at
    most 1,000 cells per side (300 per label) and the 2,000 most variable genes are used.

    A set on disk that takes more than 64 MiB is evaluated on a random sample of at most 20,000 cells and
    256 MiB, stratified by label with cells of each label; the notes say so.

    Examples
    --------
    >>> import vaexprs as vx
    >>> cells = vx.demo_cells()
    >>> table = vx.evaluate(cells[::2], cells[1::2], label_key="cell_type", only=["gene_means"])
    >>> table["verdict"].iloc[0]
    'within'
    """
    seed = check_integer("seed", seed, 0)
    resamples = check_integer("resamples", resamples, 3)
    wanted = _wanted(only)
    needed = [label_key, donor_key, *as_keys(covariate_keys)]
    made = open_generated(generated, needed)
    recipe = recipe_of(made)
    label_key = label_key_of(made, label_key)
    if label_key is not None and label_key == donor_key:
        raise ValueError(f"donor_key must differ from label_key, got {donor_key!r} for both.")
    layer = real_layer(made, layer)
    needed = [label_key, *needed]  # the label that the generated cells record
    given = {"real": open_cells(real, name="real", keys=needed)}
    if train is not None:
        given["train"] = open_cells(train, name="train", keys=needed)
    covariates = shared_covariates(covariate_keys, [recipe], [made, *given.values()])
    covariates = [key for key in covariates if key != label_key]
    keys = {"label_key": label_key, "donor_key": donor_key} | {
        f"covariate_keys[{i}]": key for i, key in enumerate(covariates)
    }
    looked = {"generated": load_cells(made, keys=[*keys.values()], seed=seed)}
    for name, cells in given.items():
        looked[name] = load_cells(cells, keys=[*keys.values()], seed=seed, layer=layer)
    notes = [sentence for name, part in looked.items() for sentence in part.notes(name)]
    others = {name: part.cells for name, part in looked.items() if name != "generated"}
    cells = only_generated(looked["generated"].cells, notes)
    n_made = cells.n_obs
    if fit is not None:
        from vaexprs.generation.again import draw_again  # imports Keras

        cells = ad.concat({"first": cells, "second": draw_again(fit, cells, recipe, seed)}, index_unique="-")
        cells.uns["vaexprs"] = recipe
    sets = side_by_side(cells, others, keys=keys, layer=layer, notes=notes)
    if fit is not None:
        made_twice = sets["generated"]
        sets["generated"] = made_twice.take(np.arange(n_made))
        sets["second"] = made_twice.take(np.arange(n_made, len(made_twice)))
    if ALL in sets["real"].column(label_key):
        raise ValueError(
            f"No label must be named {ALL!r}, which is reserved for all cells. Rename it in {label_key!r}."
        )
    if label_key is None and any(key in looked["real"].cells.obs for key in looked["generated"].cells.obs):
        notes.append(
            "Cells were compared without labels. To compare by label, give its column as label_key "
            "(--label-key)."
        )
    training = _without_real(sets.pop("train", None), sets["real"], notes)
    if training is not None:
        sets["train"] = training
    plan = plan_evaluation(
        sets, label_key=label_key, donor_key=donor_key, covariate_keys=covariates, notes=notes
    )
    rows = _judged_rows(compare_sets(plan, wanted, resamples, seed, progress), plan)
    if "copies" in wanted:
        rows.append(_copies_row(sets["generated"], plan.pool.cells))
    dependent = ""
    if has_dependent_cells(recipe):
        dependent = DEPENDENT_BY_RECIPE
    elif are_too_even(sets["generated"], sets["generated"].column(label_key), seed):
        dependent = DEPENDENT_BY_ORDER
    if dependent:
        notes.append(dependent)
        rows = [row if row[-1] == "off" else (*row[:-1], NOT_JUDGED) for row in rows]
    if not plan.judged:
        rows = [(*row[:-1], NOT_JUDGED) for row in rows]
    curve: list[dict[Any, Any]] = []
    if training is not None and plan.labels and wanted & set(UTILITY):
        points = learning_curve(plan, training, seed)
        rows += utility_rows(points, wanted)
        curve = summarise(points).to_dict("records")
    order = {name: i for i, name in enumerate(METRICS)}
    table = Scorecard(sorted(rows, key=lambda row: order[str(row[0])]), columns=list(COLUMNS))
    table.attrs["notes"] = notes
    table.attrs["wanted"] = [name for name in METRICS if name in wanted]
    table.attrs["cells"] = sum(plan.sizes.values())
    table.attrs["too_few"] = plan.too_few
    table.attrs["dependent"] = dependent
    table.attrs["learning_curve"] = curve
    return table


def _wanted(only: Collection[str] | None) -> set[str]:
    if only is None:
        return set(METRICS)
    names = [only] if isinstance(only, str) else list(only)
    for name in names:
        if name not in METRICS:
            raise ValueError(
                f"only must name metrics ({listed(list(METRICS), 8)}), got {name!r}."
                f"{did_you_mean(name, METRICS)}"
            )
    return set(names)


def shared_covariates(
    given: Sequence[str] | str | None, recipes: Sequence[Mapping[str, Any]], sets: Sequence[Any]
) -> list[str]:
    """Return the covariates to compare: those given, or those of the recipes that all sets have."""
    if given is not None:
        return [given] if isinstance(given, str) else list(given)
    keys = dict.fromkeys(key for recipe in recipes for key in covariate_keys_of(recipe))
    return [key for key in keys if all(has_column(cells, key) for cells in sets)]


def _without_real(train: CellSet | None, real: CellSet, notes: list[str]) -> CellSet | None:
    """Return the training cells that are not among the real cells, or None if there are none."""
    if train is None:
        return None
    same = rows_in(train, real)
    if same.all():
        notes.append(
            "All training cells are also among the real cells, so a model that copies them scores perfectly. "
            "Compare with held-out cells."
        )
    elif same.any():
        notes.append(
            f"{same.sum():,} of {len(train):,} training cells are also among the real cells and were left "
            "out of train."
        )
    return None if same.all() else train.take(np.flatnonzero(~same))


def _judged_rows(compared: Compared, plan: EvaluationPlan) -> list[tuple[Any, ...]]:
    """Return the rows of the table; metrics undefined for too few cells or constant genes are left out.

    The family error is divided into three equal parts: for the forest on genes of all cells, for the other
    metrics of all cells, and for those of labels and levels.

    Parameters
    ----------
    compared
        Values of the metrics.
    plan
        The plan of the evaluation.
    """
    sizes = {label: sum(plan.sizes_of(label).values()) for label in [ALL, *plan.labels]}
    found: dict[tuple[str, str], tuple[Judged, int]] = {}
    for key in dict.fromkeys(key for values in compared.generated for key in values):
        values, baseline = (
            np.array([each[key] for each in part if np.isfinite(each.get(key, np.nan))]) for part in compared
        )
        if len(values) and len(baseline) >= MIN_BASELINE:
            n = sizes.get(key[1], sizes[ALL])
            distinct = _distinct(plan, key[1], n, len(values))
            found[key] = judge(METRICS[key[0]], values, baseline, n, plan.independent_splits, distinct), n
    parts = {key: key == (MAIN_METRIC, ALL) or (key[1] == ALL and "others") for key in found}
    numbers = Counter(parts.values())
    return [
        (
            name,
            label,
            judged.value,
            judged.mean,
            judged.low,
            judged.high,
            verdict_of(METRICS[name], judged, n, 3 * numbers[parts[name, label]]),
        )
        for (name, label), (judged, n) in found.items()
    ]


def _distinct(plan: EvaluationPlan, label: str, n: int, times: int) -> tuple[int, int]:
    """Return the numbers of different generated and real cells in several comparisons of n cells."""
    found = []
    for side in (plan.generated, plan.real):
        here = np.isin(side.strata, list(plan.sizes))
        total = int((here if label not in plan.labels else here & (side.labels == label)).sum())
        found.append(max(n, min(times * n, total)))
    return found[0], found[1]


def _copies_row(generated: CellSet, pool: CellSet) -> tuple[Any, ...]:
    """Return the row of the metric "copies".

    Parameters
    ----------
    generated, pool
        The generated cells, and all real cells.
    """
    copies = count_copies(generated, pool)
    high = copies.real + TOLERATED_COPIES
    verdict = "within" if copies.generated <= copies.real else "close" if copies.generated <= high else "off"
    return "copies", ALL, copies.generated, copies.real, 0.0, high, verdict
