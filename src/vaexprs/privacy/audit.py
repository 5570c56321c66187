"""`audit_privacy`: copies, membership inference and donor leakage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from vaexprs.comparison.axes import Axes
from vaexprs.comparison.cell_sets import CellSet, open_generated, rows_in, side_by_side
from vaexprs.comparison.provenance import label_key_of, real_layer
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

MIN_CELLS = 10  # of each set
NEAREST = 0.01  # of the held-out cells are as near to a training cell as what is called a close copy
MIN_DONORS = 3  # on each side, with fewer of whom no attack can be told from luck


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
    """Attack the training cells with the generated ones, and look for copies.

    Parameters
    ----------
    generated
        What `gen_exprs` returned, or an AnnData or file of generated cells.
    train
        The cells the model was fitted to: AnnData, BiocPy experiment or file.
    holdout
        Real cells from the same source that the model has not seen, at least 10. Those that are also among
        the training cells are left out.
    donor_key
        Column of `obs` with the donor: adds the same rows for whole donors. Some held-out cells must come
        from donors that are not among the training cells.
    label_key
        Column of `obs` with the label; by default the one the generated cells were made with. Where there is
        one, only cells of labels that were generated are looked at, and generated and held-out cells are
        compared in equal numbers of each label.
    layer
        Layer of the real cells with the values; by default X.
    seed
        Seed of all that is random.

    Returns
    -------
    DataFrame
        With columns ``metric``, ``value``, ``low`` and ``high`` (the 95% interval) and ``verdict`` ("pass",
        "caution" or "fail"). ``attrs["exposed_cells"]`` lists the training cells that have a generated cell
        suspiciously near, as dicts of cell, label, distance and ratio (the distance over that to the nearest
        real cell); ``attrs["notes"]`` has sentences on what was looked at.

    Raises
    ------
    ValueError
        If genes or a column are missing, there are too few cells, or no donor is held out.
    TypeError
        If an argument is of the wrong kind.

    Notes
    -----
    The attacker of `membership_auc` scores a cell x by ``log d(x, nearest other real cell) - log d(x, nearest
    generated cell)``, on the 50 principal axes of the generated cells: what he could do who has them and
    some real cells of the same kind. It is the density-ratio attack of van Breugel et al. (2023,
    doi:10.48550/arXiv.2302.12580) with densities from the nearest neighbour; `membership_auc_density` takes
    the fifth. Training and held-out cells are treated alike, so that the AUC is 0.5 in the mean for cells
    that tell nothing. Intervals are percentiles of 1,000 bootstraps over cells; those of fractions are
    Wilson's (1927, doi:10.1080/01621459.1927.10502953), and that of a donor's AUC is Newcombe's fifth
    (2006, doi:10.1002/sim.2324), since donors are few. A pass is no guarantee: other attacks may do better.

    Of a set that is on disk and takes more than 64 MiB a random sample is read and looked at, at most 20,000
    cells and 256 MiB, in the proportions of the labels but with some of each; the
    notes say so. Copies of cells that are not in it are not found.

    Examples
    --------
    >>> import vaexprs as vx
    >>> cells = vx.demo_cells()
    >>> table = vx.audit_privacy(cells[:350], cells[:350], cells[350:]).set_index("metric")
    >>> table.loc["membership_auc", "verdict"]
    'fail'
    """
    seed = check_integer("seed", seed, 0)
    made = open_generated(generated)
    label_key = label_key_of(made, label_key)
    layer = real_layer(made, layer)
    keys = {"label_key": label_key, "donor_key": donor_key}
    looked = {"generated": load_cells(made, keys=[label_key], seed=seed)}
    for name, given in (("train", train), ("holdout", holdout)):
        looked[name] = load_cells(open_cells(given, name=name), keys=[*keys.values()], seed=seed, layer=layer)
    notes = [sentence for name, part in looked.items() for sentence in part.notes(name)]
    if notes:
        notes.append("Copies among the cells that were not looked at were not found.")
    made, others = looked["generated"].cells, {name: looked[name].cells for name in ("train", "holdout")}
    # generated cells need no donor
    sets = side_by_side(made, others, keys=keys, optional={"donor_key"}, layer=layer, notes=notes)
    cells = _comparable(sets, label_key, notes)
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
    table.attrs["exposed_cells"] = _exposed(cells["train"], attack, label_key)
    return table


def _comparable(sets: dict[str, CellSet], label_key: str | None, notes: list[str]) -> dict[str, CellSet]:
    """Return the sets with held-out cells that are none, and labels that were not generated, left out."""
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
            notes.append("Only cells of labels that were generated were looked at.")
        cells = {name: part.take(np.flatnonzero(keep[name])) for name, part in cells.items()}
    for name, part in cells.items():
        if len(part) < MIN_CELLS:
            why = ", those that are training cells too left out" if name == "holdout" and same.any() else ""
            raise ValueError(
                f"{name} must have at least {MIN_CELLS} cells (of labels that were generated{why}), "
                f"got {len(part)}."
            )
    return cells


def _copy_rows(cells: dict[str, CellSet], label_key: str | None, seed: int) -> list[tuple[Any, ...]]:
    made, held, train = (cells[name] for name in ("generated", "holdout", "train"))
    rng = np.random.default_rng(seed)
    rows = matched_rows(rng, made.column(label_key), held.column(label_key))
    if len(rows[0]) < MIN_CELLS:
        raise ValueError(
            f"There must be at least {MIN_CELLS} generated and as many held-out cells of the same labels, "
            f"got {len(rows[0])}. Generate more cells of the labels that were held out."
        )
    # both are treated alike: as many of each make the axes
    axes = Axes.of([made.values[rows[0]], held.values[rows[1]]], seed)
    at = axes.of_cells(train.values)
    near_made, near_held = (
        nearest_distances(at, axes.of_cells(part.values[chosen]))[:, 0]
        for part, chosen in zip((made, held), rows, strict=True)
    )

    def ratio(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.median(x) / max(np.median(y), TINY))

    def close(x: np.ndarray, y: np.ndarray) -> float:
        return float((x < np.quantile(y, NEAREST)).mean())

    exact = int(rows_in(made, train).sum())
    return [
        _row(
            "copy_ratio", ratio(near_made, near_held), *bootstrap_interval(ratio, near_made, near_held, seed)
        ),
        _fraction_row("exact_copies", exact, len(made)),
        _row(
            "close_copies",
            close(near_made, near_held),
            *bootstrap_interval(close, near_made, near_held, seed),
        ),
    ]


def _membership_rows(attack: Attack, seed: int) -> list[tuple[Any, ...]]:
    rows = []
    for name, score, figure in (
        ("membership_auc", attack.ratio, attack_auc),
        ("membership_auc_distance", -attack.distance, attack_auc),
        ("membership_auc_density", attack.density, attack_auc),
        ("membership_tpr_at_1pct_fpr", attack.ratio, true_positive_rate),
    ):
        inside, outside = score[attack.member], score[~attack.member]
        rows.append(_row(name, figure(inside, outside), *bootstrap_interval(figure, inside, outside, seed)))
    return rows


def _row(name: str, value: float, low: float, high: float) -> tuple[Any, ...]:
    audit = AUDITS[name]
    beyond = [high < limit if audit.below else low > limit for limit in (audit.caution, audit.fail)]
    return name, value, low, high, "fail" if beyond[1] else "caution" if beyond[0] else "pass"


def _fraction_row(name: str, k: int, n: int) -> tuple[Any, ...]:
    from scipy.stats import binomtest

    interval = binomtest(k, n).proportion_ci(CONFIDENCE, method="wilson")
    # not one found is a low end of exactly 0
    return _row(name, k / n, float(interval.low) if k else 0.0, float(interval.high))


def _exposed_row(attack: Attack) -> tuple[Any, ...]:
    return _fraction_row(
        "exposed_cells", int(far_out_rows(attack)[attack.member].sum()), int(attack.member.sum())
    )


def _exposed(train: CellSet, attack: Attack, label_key: str | None) -> list[dict[str, Any]]:
    found = np.flatnonzero(far_out_rows(attack) & attack.member)
    found = found[np.argsort(attack.ratio[found] * -1, kind="stable")]
    labels = train.column(label_key)
    return [
        {
            "cell": str(train.obs.index[attack.row[i]]),
            "label": str(labels[attack.row[i]]),
            "distance": float(attack.distance[i]),
            "ratio": float(np.exp(-attack.ratio[i])),
        }
        for i in found
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
            f"holdout must have donors that train has not, to tell them apart: all of its {donor_key!r} "
            f"({listed(sorted(known))}) are among the training cells. Hold whole donors out, or leave "
            "donor_key out."
        )
    # donors have their labels in different proportions, and some labels lie nearer than others
    frame["ratio"] -= frame.groupby("label")["ratio"].transform("mean")
    donors = frame.groupby(["member", "donor"], as_index=False).agg({"ratio": "mean", "distance": "median"})
    inside, outside = (donors[donors["member"] == of] for of in (True, False))
    n, m = len(inside), len(outside)
    notes.append(f"Donors: {n:,} in the training cells, {m:,} held out.")
    if min(n, m) < MIN_DONORS:
        notes.append(f"Whether donors are given away takes {MIN_DONORS} on each side to say: not measured.")
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
