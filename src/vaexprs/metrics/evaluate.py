"""`evaluate`: a table of metrics, each with its baseline (real vs real)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd

from vaexprs.comparison.cell_sets import CellSet, open_generated, rows_in, side_by_side
from vaexprs.comparison.provenance import label_key_of, real_layer
from vaexprs.comparison.subsample import load_cells
from vaexprs.interface.validation import check_integer, did_you_mean, listed
from vaexprs.io.open import open_cells
from vaexprs.metrics.answers import Scorecard
from vaexprs.metrics.baseline import baseline_interval, verdict_of
from vaexprs.metrics.comparison import ComparisonValues, compare_sets
from vaexprs.metrics.learning_curve import UTILITY, learning_curve, utility_rows
from vaexprs.metrics.plan import plan_evaluation
from vaexprs.metrics.registry import ALL, COLUMNS, METRICS

RESAMPLES = 10  # default number of real-vs-real comparisons


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
    """Compare generated with real cells by metrics, each with its baseline (real vs real).

    Both sides of every comparison have the same number of cells of each label, so that the requested
    composition has no effect. The baseline comes from `resamples` random splits of the real cells (and the
    training cells, if given) into two sides of the same size. Its interval is a 95% prediction interval:
    about 1 in 20 metrics of real cells falls outside.

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
        for all cells and for each label with at least 5 cells per side.
    donor_key
        Column of `obs` with the donor, for the correlation of pseudobulks.
    layer
        Layer of the real cells with the values (default: X).
    seed
        Random seed.
    only
        Names of metrics, keys of `vaexprs.scorecard.METRICS` (default: all).
    resamples
        Number of real-vs-real comparisons, at least 3.
    progress
        Whether to show a progress bar.

    Returns
    -------
    DataFrame
        With columns ``metric``, ``label`` ("all" or a label; for pseudobulks a donor), ``value``,
        ``floor`` (mean of the baseline), ``floor_low``, ``floor_high`` (its interval) and ``verdict``:
        "within" the baseline interval or better, "close" to it, or "off". In ``attrs``: ``notes``, sentences
        on the cells that were compared; ``wanted``, the metrics; ``cells``, the number of cells per side;
        ``learning_curve``, dicts of label, method ("real", "generated", "oversampling", "SMOTE"), n (real
        training cells of the label), added, f1, low and high: the F1 of a classifier for the label.

    Raises
    ------
    ValueError
        If genes, labels or a column are missing, or there are too few cells.
    TypeError
        If an argument has the wrong type.

    Notes
    -----
    Values are compared as the model sees them: log(1 + counts per 10,000) for counts. Principal components
    are computed from both sides of a comparison, with equal numbers of cells. A random sample of at most
    1,000 cells per side (300 per label) is used, and classifiers use the 2,000 most variable genes. The
    properties of marginals are those of Cao, Yang & Yang (2021, doi:10.1038/s41467-021-27130-w).

    A set on disk that takes more than 64 MiB is evaluated on a random sample of at most 20,000 cells and
    256 MiB, stratified by label with cells of each label; the notes say so.

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
    made = open_generated(generated)
    label_key = label_key_of(made, label_key)
    if label_key is not None and label_key == donor_key:
        raise ValueError(f"donor_key must differ from label_key, got {donor_key!r} for both.")
    layer = real_layer(made, layer)
    keys = {"label_key": label_key, "donor_key": donor_key}
    looked = {"generated": load_cells(made, keys=[*keys.values()], seed=seed)}
    given = {"real": real} if train is None else {"real": real, "train": train}
    for name, cells in given.items():
        looked[name] = load_cells(open_cells(cells, name=name), keys=[*keys.values()], seed=seed, layer=layer)
    notes = [sentence for name, part in looked.items() for sentence in part.notes(name)]
    others = {name: part.cells for name, part in looked.items() if name != "generated"}
    sets = side_by_side(looked["generated"].cells, others, keys=keys, layer=layer, notes=notes)
    if ALL in sets["real"].column(label_key):
        raise ValueError(
            f"No label must be named {ALL!r}, which is reserved for all cells. Rename it in {label_key!r}."
        )
    if label_key is None and any(key in looked["real"].cells.obs for key in looked["generated"].cells.obs):
        notes.append(
            "Cells were compared without labels. To compare by label, give its column as label_key "
            "(--label-key)."
        )
    training = _without_real(sets.get("train"), sets["real"], notes)
    plan = plan_evaluation(sets["generated"], sets["real"], training, label_key, donor_key, seed, notes)
    rows = _rows(compare_sets(plan, wanted, resamples, seed, progress))
    curve = None
    if training is not None and plan.labels and wanted & set(UTILITY):
        curve = learning_curve(plan, training, seed)
        rows += utility_rows(curve, wanted)
    order = {name: i for i, name in enumerate(METRICS)}
    table = Scorecard(sorted(rows, key=lambda row: order[str(row[0])]), columns=list(COLUMNS))
    table.attrs["notes"] = notes
    table.attrs["wanted"] = [name for name in METRICS if name in wanted]
    table.attrs["cells"] = sum(plan.sizes.values())
    table.attrs["learning_curve"] = [] if curve is None else curve.to_dict("records")
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


def _rows(compared: Sequence[ComparisonValues]) -> list[tuple[Any, ...]]:
    """Return the rows of the table; metrics undefined for too few cells or constant genes are left out."""
    generated, *real = compared
    rows = []
    for key, value in generated.values.items():
        name, label = key
        metric = METRICS[name]
        baseline = np.array([each.values.get(key, np.nan) for each in real])
        differences = None
        if metric.by_noise:
            differences = np.array([each.differences.get(key, np.nan) for each in real])
        if not np.isfinite([value, *baseline, *([] if differences is None else differences)]).all():
            continue
        mean, low, high = baseline_interval(metric, baseline, differences)
        rows.append((name, label, value, mean, low, high, verdict_of(metric, value, low, high)))
    return rows
