"""`audit_privacy`: copies, membership inference and donor leakage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from vaexprs.comparison.axes import Axes
from vaexprs.comparison.cell_sets import CellSet, open_generated, rows_in, side_by_side
from vaexprs.comparison.provenance import has_dependent_cells, label_key_of, real_layer, recipe_of
from vaexprs.comparison.subsample import load_cells
from vaexprs.interface.validation import check_integer, listed
from vaexprs.io.open import open_cells
from vaexprs.preprocessing.splits import matched_rows
from vaexprs.privacy.answers import AUDITS, COLUMNS, PrivacyAudit
from vaexprs.privacy.attack import TINY, Attack, far_out_rows, nearest_distances, run_attack
from vaexprs.privacy.intervals import (
    CONFIDENCE,
    attack_auc,
    bootstrap_interval,
    newcombe_interval,
    ratio_interval,
    true_positive_rate,
)

MIN_CELLS = 10  # minimum number of cells of each set
NEAREST = 0.01  # fraction of held-out cells that are as near to a training cell as a close copy
MIN_DONORS = 3  # minimum number of donors per side for an attack to be distinguishable from chance
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
        Held-out real cells from the same source, at least 10. Cells that are also among the training cells
        are left out.
    donor_key
        Column of `obs` with the donor: adds metrics for whole donors. Some held-out cells must come from
        donors without training cells.
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
        With columns ``metric``, ``value``, ``low`` and ``high`` (the 95% interval) and ``verdict`` ("pass",
        "caution" or "fail"). ``attrs["exposed_cells"]`` lists the training cells with a suspiciously near
        generated cell, as dicts of cell, label, distance and ratio (the distance over the distance to the
        nearest real cell); ``attrs["notes"]`` has sentences on the cells that were compared.

    Raises
    ------
    ValueError
        If genes or a column are missing, there are too few cells, or no donor is held out.
    TypeError
        If an argument has the wrong type.

    Notes
    -----
    The attacker of `membership_auc` scores a cell x by ``log d(x, nearest other real cell) - log d(x, nearest
    generated cell)``, on the 50 principal axes of the generated cells. It has the generated cells and some
    real cells of the same kind. This is the density-ratio attack of van Breugel et al. (2023,
    doi:10.48550/arXiv.2302.12580) with densities from the nearest neighbour; `membership_auc_density` uses
    the fifth nearest. Training and held-out cells are treated alike, so the expected AUC is 0.5 if generated
    cells are independent of them. Intervals are percentiles of 1,000 bootstraps over cells; those of
    fractions are Wilson's (1927, doi:10.1080/01621459.1927.10502953), and that of a donor's AUC is Newcombe's
    fifth (2006, doi:10.1002/sim.2324), since donors are few. A pass is no guarantee: other attacks may be
    stronger.

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
    attack = run_attack(cells, seed)
    rows = [
        *_copy_rows(cells, label_key, seed),
        *_membership_rows(attack, seed),
        _exposed_row(attack),
    ]
    if donor_key is not None:
        rows += _donor_rows(cells, attack, donor_key, label_key, notes)
    table = PrivacyAudit(rows, columns=list(COLUMNS))
    table.attrs["notes"] = notes
    table.attrs["exposed_cells"] = _exposed_cells(cells["train"], attack, label_key)
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


def _copy_rows(cells: dict[str, CellSet], label_key: str | None, seed: int) -> list[tuple[Any, ...]]:
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
    distances = near_generated, near_holdout

    def ratio(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.median(x) / max(np.median(y), TINY))

    def close(x: np.ndarray, y: np.ndarray) -> float:
        return float((x < np.quantile(y, NEAREST)).mean())

    return [
        _row("copy_ratio", ratio(*distances), *bootstrap_interval(ratio, *distances, seed)),
        _fraction_row("exact_copies", int(rows_in(generated, train).sum()), len(generated)),
        _row("close_copies", close(*distances), *bootstrap_interval(close, *distances, seed)),
    ]


def _membership_rows(attack: Attack, seed: int) -> list[tuple[Any, ...]]:
    rows = []
    for name, score, statistic in (
        ("membership_auc", attack.ratio, attack_auc),
        ("membership_auc_distance", -attack.distance, attack_auc),
        ("membership_auc_density", attack.density, attack_auc),
        ("membership_tpr_at_1pct_fpr", attack.ratio, true_positive_rate),
    ):
        inside, outside = score[attack.member], score[~attack.member]
        interval = bootstrap_interval(statistic, inside, outside, seed)
        rows.append(_row(name, statistic(inside, outside), *interval))
    return rows


def _row(name: str, value: float, low: float, high: float) -> tuple[Any, ...]:
    audit = AUDITS[name]
    beyond = [high < limit if audit.below else low > limit for limit in (audit.caution, audit.fail)]
    return name, value, low, high, "fail" if beyond[1] else "caution" if beyond[0] else "pass"


def _fraction_row(name: str, k: int, n: int) -> tuple[Any, ...]:
    from scipy.stats import binomtest

    interval = binomtest(k, n).proportion_ci(CONFIDENCE, method="wilson")
    # rounding may leave a positive lower end for k = 0
    return _row(name, k / n, float(interval.low) if k else 0.0, float(interval.high))


def _exposed_row(attack: Attack) -> tuple[Any, ...]:
    return _fraction_row(
        "exposed_cells", int(far_out_rows(attack)[attack.member].sum()), int(attack.member.sum())
    )


def _exposed_cells(train: CellSet, attack: Attack, label_key: str | None) -> list[dict[str, Any]]:
    """Return the exposed training cells, the nearest to a generated cell (by ratio) first."""
    rows = np.flatnonzero(far_out_rows(attack) & attack.member)
    rows = rows[np.argsort(-attack.ratio[rows], kind="stable")]
    labels = train.column(label_key)
    return [
        {
            "cell": str(train.obs.index[attack.row[i]]),
            "label": str(labels[attack.row[i]]),
            "distance": float(attack.distance[i]),
            "ratio": float(np.exp(-attack.ratio[i])),
        }
        for i in rows
    ]


def _donor_rows(
    cells: dict[str, CellSet], attack: Attack, donor_key: str, label_key: str | None, notes: list[str]
) -> list[tuple[Any, ...]]:
    frame = pd.DataFrame({"member": attack.member, "ratio": attack.ratio, "distance": attack.distance})
    for column, key in (("donor", donor_key), ("label", label_key)):
        frame[column] = np.concatenate(
            [
                cells[name].column(key)[attack.row[attack.member == of]]
                for name, of in (("train", True), ("holdout", False))
            ]
        )
    known = set(frame.loc[frame["member"], "donor"])
    frame = frame[frame["member"] | ~frame["donor"].isin(known)]
    if frame["member"].all():
        raise ValueError(
            f"holdout must have donors that are not in train: all donors of its column {donor_key!r} "
            f"({listed(sorted(known))}) are among the training cells. Hold out whole donors, or omit "
            "donor_key."
        )
    # remove label effects: donors differ in label proportions, and labels in their typical ratio
    frame["ratio"] -= frame.groupby("label")["ratio"].transform("mean")
    donors = frame.groupby(["member", "donor"], as_index=False).agg({"ratio": "mean", "distance": "median"})
    inside, outside = (donors[donors["member"] == of] for of in (True, False))
    n, m = len(inside), len(outside)
    notes.append(f"Donors: {n:,} in the training cells, {m:,} held out.")
    if min(n, m) < MIN_DONORS:
        notes.append(f"Donor leakage was not measured: it requires {MIN_DONORS} donors on each side.")
        return []
    scores = inside["ratio"].to_numpy(), outside["ratio"].to_numpy()
    auc = attack_auc(*scores)
    distances = inside["distance"].to_numpy(), outside["distance"].to_numpy()
    ratio = float(np.median(distances[0]) / max(np.median(distances[1]), TINY))
    spread = ratio_interval(*distances, ratio)
    return [
        _row("donor_copy_ratio", ratio, *spread),
        _row("donor_membership_auc", auc, *newcombe_interval(auc, n, m)),
        _fraction_row("donor_membership_tpr_at_1pct_fpr", round(true_positive_rate(*scores) * n), n),
    ]
