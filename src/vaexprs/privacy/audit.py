"""`audit_privacy`: copies, membership inference and donor leakage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from vaexprs.comparison.axes import Axes
from vaexprs.comparison.cell_sets import CellSet, open_generated, rows_in, side_by_side
from vaexprs.comparison.provenance import PRIVACY, has_dependent_cells, label_key_of, real_layer, recipe_of
from vaexprs.comparison.subsample import load_cells
from vaexprs.interface.validation import check_integer
from vaexprs.io.open import open_cells
from vaexprs.preprocessing.splits import matched_rows
from vaexprs.privacy.answers import AUDITS, COLUMNS, CONFIDENCE, PrivacyAudit, Row, judged, judged_rate
from vaexprs.privacy.attack import Attack, nearest_distances, run_attacks
from vaexprs.privacy.donors import donor_rows
from vaexprs.privacy.intervals import (
    auc_interval,
    design_effects,
    median_ratio,
    proportion_interval,
    true_positive_interval,
)
from vaexprs.privacy.labels import label_notes, label_rows, label_table
from vaexprs.privacy.populations import population_auc

MIN_CELLS = 10  # minimum number of cells of each set
DEPENDENT = (
    "The generated cells are not independent of each other (stratified random numbers, before version 0.2), "
    "so the intervals are too wide or too narrow. Generate them again."
)


def audit_privacy(
    generated: Any,
    train: Any,
    holdout: Any,
    *,
    donor_key: str | None = None,
    label_key: str | None = None,
    layer: str | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Test generated cells for copies of training cells and for membership inference.

    Parameters
    ----------
    generated
        Result of `gen_exprs`, or an AnnData or file of generated cells.
    train
        Training cells of the model: AnnData, BiocPy experiment or file.
    holdout
        Held-out real cells from the same source, at least 10. They are the cells to be told from training
        cells and the reference of the attackers. Cells that are also among the training cells are left out.
    donor_key
        Column of `obs` with the donor: adds metrics for whole donors. Some held-out cells must come from
        donors without training cells. Name it whenever whole donors are held out; otherwise differences
        between donors count as membership.
    label_key
        Column of `obs` with the label (default: the label key of the generated cells). With a label, only
        cells of generated labels are used, and generated and held-out cells are compared in equal numbers
        of each label.
    layer
        Layer of the real cells with the values (default: X).
    seed
        Random seed.

    Returns
    -------
    DataFrame
        With columns ``metric``, ``value``, ``low`` and ``high`` (intervals that hold for all metrics together
        with a confidence of 95%) and ``verdict`` ("pass", "caution", "fail", or "not judged" with too few
        cells). ``attrs["exposed_cells"]`` lists the training cells with a suspiciously near generated cell,
        as dicts of cell, label, distance and ratio (the distance over that of the nearest reference cell);
        ``attrs["labels"]`` has for each label its numbers of cells, AUC, interval and verdict;
        ``attrs["notes"]`` has sentences on the cells that were compared.

    Raises
    ------
    ValueError
        If genes or a column are missing, there are too few cells, or no donor is held out.
    TypeError
        If an argument has the wrong type.

    Notes
    -----
    The attackers have the generated cells and reference cells. The real cells are split into five folds, with
    all cells of a donor in one fold with `donor_key`; a cell is attacked with the cells of the other folds as
    reference. Attacks by distance use the held-out cells among them, attacks by gene sums use all of them:
    the attacker then has many cells of which some were in training, and does not know which. Scores are
    standardised within labels, so that an attack compares cells of the same label. If generated cells are
    independent of the training cells, the expected AUC is 0.5.

    * `membership_auc`: ``log d(x, nearest reference cell) - log d(x, nearest generated cell)``, on the 50
      principal axes of the generated cells. This is the density-ratio attack of van Breugel et al. (2023,
      doi:10.48550/arXiv.2302.12580) with densities from the nearest neighbour; `membership_auc_density` uses
      the fifth nearest.
    * `membership_auc_genes` (counts only): ``sum over genes of log(1 + count) * log(p_generated /
      p_reference)``, where p is the fraction of the counts of the label that the gene has, after Homer et al.
      (2008, doi:10.1371/journal.pgen.1000167).
    * `membership_auc_likelihood`: log likelihood ratio of normal distributions with the means of generated
      and of reference cells of the label (Sankararaman et al. 2009, doi:10.1038/ng.436).
    * `membership_auc_totals`: the same for the means over all labels, on all but the first 10 principal axes.
    * `exposed_cells`: for counts, the distance of a generated cell to a real cell is the number of genes
      detected in the generated cell and not in the real cell; rare genes count more, and the average gene
      counts 1. It is near 0 for copies, also for those with a third of the counts. A training cell is exposed
      if the nearest reference cell is at least 8 times as far from the generated cell (with 0.5 added to both
      distances; 4 times if the ratio is far above those of held-out cells), and the ratio is twice that of
      every held-out cell. Cells with few genes, with few zeros or without counts are compared by the distance
      on principal axes.
    * `label_membership_auc`: the mean score of all attacks but the gene totals, for each label with at least
      6 training and 10 held-out cells; the label with the highest lower limit counts. A label with 1-5
      training cells is not judged, or fails if their mean score is higher than that of held-out cells
      (Student's t-test), or is a caution if more than 10 cells of it were generated per training cell
      (`rare_labels`).
    * `donor_*`: the mean scores of the cells of a donor. If training donors have held-out cells,
      ``..._other_cells`` attacks them with these cells.

    Each attack has a true positive rate at 1% false positives (``membership_tpr_at_1pct_fpr...``). Intervals
    of an AUC are Newcombe's fifth (2006, doi:10.1002/sim.2324), with the design effect of donors; those of
    rates are Clopper's and Pearson's. The error of 5% is divided by the number of metrics, so that cells
    independent of the training cells pass all of them in at least 95% of audits. A pass is no guarantee:
    other attacks may be stronger, above all with the fit itself (`benchmarks/audit_shadow.py`). More than
    20,000 training or held-out cells are attacked as a random sample, and the notes say so.

    A set on disk that takes more than 64 MiB is tested on a random sample of at most 20,000 cells and
    256 MiB, stratified by label with cells of each label; the notes say so. Copies of cells outside the
    sample are not found.

    Examples
    --------
    >>> import vaexprs as vx
    >>> cells = vx.demo_cells()
    >>> table = vx.audit_privacy(cells[:350], cells[:350], cells[350:]).set_index("metric")
    >>> table.loc["membership_auc", "verdict"]
    'fail'
    """
    seed = check_integer("seed", seed, 0)
    made = open_generated(generated, [label_key, donor_key])
    label_key = label_key_of(made, label_key)
    layer = real_layer(made, layer)
    keys = {"label_key": label_key, "donor_key": donor_key}
    looked = {"generated": load_cells(made, keys=[label_key], seed=seed)}
    for name, given in (("train", train), ("holdout", holdout)):
        cells = open_cells(given, name=name, keys=[*keys.values()])
        looked[name] = load_cells(cells, keys=[*keys.values()], seed=seed, layer=layer)
    notes = [sentence for name, part in looked.items() for sentence in part.notes(name)]
    if notes:
        notes.append("Copies of cells outside the random sample cannot be found.")
    made, others = looked["generated"].cells, {name: looked[name].cells for name in ("train", "holdout")}
    # the generated cells may lack the donor column
    if has_dependent_cells(recipe_of(made)):
        notes.append(DEPENDENT)
    sets = side_by_side(made, others, keys=keys, optional={"donor_key"}, layer=layer, notes=notes)
    cells = _comparable_cells(sets, label_key, notes)
    confidence = 1 - (1 - CONFIDENCE) / _tests(cells["generated"].counts, donor_key is not None)
    copies = _copy_rows(cells, label_key, seed, confidence)
    attack = run_attacks(cells, label_key, donor_key, seed, notes)
    rows = [*copies, *_membership_rows(attack, confidence, donor_key), _exposed_row(attack, confidence)]
    labels = [] if label_key is None else label_table(cells, attack, label_key, donor_key, confidence)
    if len(labels) > 1:
        rows += label_rows(labels)
        notes += label_notes(labels)
    if donor_key is not None:
        rows += donor_rows(attack, donor_key, confidence, notes)
    else:
        found = population_auc(cells["train"], cells["holdout"], label_key, seed)
        if found.low > 0.5:
            notes.append(
                "Training and held-out cells differ even without generated cells (AUC "
                f"{found.value:.2f}, {found.low:.2f} to {found.high:.2f}), for example in donors or batches. "
                "Attacks may detect this difference instead of membership. Hold out random cells, or name "
                "the donors (donor_key)."
            )
    table = PrivacyAudit(rows, columns=list(COLUMNS))
    table.attrs["notes"] = notes
    table.attrs["private"] = PRIVACY in recipe_of(made)
    table.attrs["exposed_cells"] = _exposed_cells(cells["train"], attack)
    table.attrs["labels"] = labels
    return table


def _comparable_cells(
    sets: dict[str, CellSet], label_key: str | None, notes: list[str]
) -> dict[str, CellSet]:
    """Return the sets without held-out cells that are training cells, and without labels not generated."""
    same = rows_in(sets["holdout"], sets["train"])
    if same.any():
        notes.append(
            f"{same.sum():,} of {len(same):,} held-out cells are also among the training cells and were left "
            "out."
        )
    cells = sets | {"holdout": sets["holdout"].take(np.flatnonzero(~same))}
    if label_key is not None:
        made = set(cells["generated"].column(label_key))
        keep = {name: np.isin(part.column(label_key), list(made)) for name, part in cells.items()}
        if not all(kept.all() for kept in keep.values()):
            notes.append("Only cells of labels with generated cells were compared.")
        cells = {name: part.take(np.flatnonzero(keep[name])) for name, part in cells.items()}
    for name, part in cells.items():
        if len(part) < MIN_CELLS:
            why = ", without training cells" if name == "holdout" and same.any() else ""
            raise ValueError(
                f"{name} must have at least {MIN_CELLS} cells (of generated labels{why}), got {len(part)}."
            )
    return cells


def _copy_rows(cells: dict[str, CellSet], label_key: str | None, seed: int, confidence: float) -> list[Row]:
    generated, holdout, train = (cells[name] for name in ("generated", "holdout", "train"))
    rng = np.random.default_rng(seed)
    rows = matched_rows(rng, generated.column(label_key), holdout.column(label_key))
    if len(rows[0]) < MIN_CELLS:
        raise ValueError(
            f"There must be at least {MIN_CELLS} generated and as many held-out cells of the same labels, "
            f"got {len(rows[0])}. Generate more cells of the held-out labels."
        )
    # generated and held-out cells are treated alike: the axes come from equal numbers of both
    axes = Axes.of([generated.values[rows[0]], holdout.values[rows[1]]], seed)
    training = axes.of_cells(train.values)
    near_generated, near_holdout = (
        nearest_distances(training, axes.of_cells(part.values[chosen]))[:, 0]
        for part, chosen in zip((generated, holdout), rows, strict=True)
    )
    copies = proportion_interval(int(rows_in(generated, train).sum()), len(generated), confidence)
    return [
        judged("copy_ratio", median_ratio(near_generated, near_holdout, confidence)),
        judged("exact_copies", copies),
        judged("close_copies", true_positive_interval(-near_generated, -near_holdout, confidence)),
    ]


def _membership_rows(attack: Attack, confidence: float, donor_key: str | None) -> list[Row]:
    effects = {}
    for name in attack.scores:
        clusters = attack.donor[attack.member], attack.donor[~attack.member]
        pair = attack.split(name)
        effects[name] = (1.0, 1.0) if donor_key is None else design_effects(*pair, clusters)
    end = {name: "" if name == "ratio" else f"_{name}" for name in attack.scores}
    return [
        *(
            judged(f"membership_auc{end[name]}", auc_interval(*attack.split(name), confidence, effects[name]))
            for name in attack.scores
        ),
        *(
            judged_rate(
                f"membership_tpr_at_1pct_fpr{end[name]}", *attack.split(name), confidence, effects[name]
            )
            for name in attack.scores
            if f"membership_tpr_at_1pct_fpr{end[name]}" in AUDITS
        ),
    ]


def _exposed_row(attack: Attack, confidence: float) -> Row:
    exposed = int(attack.nearness.exposed.sum())
    return judged("exposed_cells", proportion_interval(exposed, int(attack.member.sum()), confidence))


def _exposed_cells(train: CellSet, attack: Attack) -> list[dict[str, Any]]:
    """Return the exposed training cells, the nearest to a generated cell (by ratio) first."""
    near = attack.nearness
    rows = np.flatnonzero(near.exposed)
    rows = rows[np.argsort(-near.ratio[rows], kind="stable")]
    return [
        {
            "cell": str(train.obs.index[attack.row[i]]),
            "label": str(attack.label[i]),
            "distance": float(near.distance[i]),
            "ratio": float(np.exp(-near.ratio[i])),
        }
        for i in rows
    ]


def _tests(counts: bool, donors: bool) -> int:
    """Return the number of metrics with an interval in a table."""
    return sum(
        (counts or "genes" not in name) and (donors or not name.startswith("donor")) for name in AUDITS
    )
