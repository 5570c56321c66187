"""`evaluate`: a table of metrics, each with its real-vs-real baseline."""

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
from vaexprs.metrics.comparison import Compared, compare_sets
from vaexprs.metrics.floor import floor_of, verdict_of
from vaexprs.metrics.learning_curve import UTILITY, learning_curve, utility_rows
from vaexprs.metrics.plan import plan_evaluation
from vaexprs.metrics.registry import ALL, COLUMNS, METRICS

RESAMPLES = 10


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
    made = open_generated(generated)
    label_key = label_key_of(made, label_key)
    if label_key is not None and label_key == donor_key:
        raise ValueError(f"donor_key must be another column than label_key, got {donor_key!r} for both.")
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
            f"No label may be named {ALL!r}, which stands for all cells; rename it in {label_key!r}."
        )
    if label_key is None and any(key in looked["real"].cells.obs for key in looked["generated"].cells.obs):
        notes.append(
            "No label was named, so all cells were compared with all: name its column with label_key "
            "(--label-key)."
        )
    training = _apart(sets.get("train"), sets["real"], notes)
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
    table.attrs["cells"] = sum(plan.most.values())
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
