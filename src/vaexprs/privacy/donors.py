"""Membership inference on whole donors."""

from __future__ import annotations

import pandas as pd

from vaexprs.interface.validation import listed
from vaexprs.privacy.answers import Row, judged, judged_rate
from vaexprs.privacy.attack import Attack
from vaexprs.privacy.intervals import auc_interval, ratio_interval

MIN_DONORS = 3  # minimum number of donors per side for an attack to be distinguishable from chance
ATTACKS = {"ratio": "", "likelihood": "_likelihood", "genes": "_genes"}  # attack: end of the metric's name


def donor_rows(attack: Attack, donor_key: str, confidence: float, notes: list[str]) -> list[Row]:
    """Return the metrics of whole donors, from the mean scores of their cells.

    Parameters
    ----------
    attack
        Scores of the attackers, with reference cells of other donors.
    donor_key
        Column with the donor, for messages.
    confidence
        Confidence level of each interval.
    notes
        List to which remarks are appended.
    """
    scores = {name: attack.scores[name] for name in ATTACKS if name in attack.scores}
    frame = pd.DataFrame(
        {"member": attack.member, "donor": attack.donor, "distance": attack.distance, **scores}
    )
    known = set(frame.loc[frame["member"], "donor"])
    frame["known"] = frame["donor"].isin(known)
    if frame["known"].all():
        raise ValueError(
            f"holdout must have donors that are not in train: all donors of its column {donor_key!r} "
            f"({listed(sorted(known))}) are among the training cells. Hold out whole donors, or omit "
            "donor_key."
        )
    how = dict.fromkeys(scores, "mean") | {"distance": "median"}
    by = {
        name: part.groupby("donor").agg(how)
        for name, part in {
            "inside": frame[frame["member"]],
            "outside": frame[~frame["known"]],
            "others": frame[~frame["member"] & frame["known"]],
        }.items()
    }
    n, m, k = (len(by[name]) for name in ("inside", "outside", "others"))
    notes.append(f"Donors: {n:,} in the training cells, {m:,} held out.")
    if min(n, m) < MIN_DONORS:
        notes.append(f"Donor leakage was not measured: it requires {MIN_DONORS} donors on each side.")
        return []
    near, far = (by[name]["distance"].to_numpy() for name in ("inside", "outside"))
    rows = [judged("donor_copy_ratio", ratio_interval(near, far, confidence))]
    for name in scores:
        pair = by["inside"][name].to_numpy(), by["outside"][name].to_numpy()
        end = ATTACKS[name]
        rows.append(judged(f"donor_membership_auc{end}", auc_interval(*pair, confidence)))
        rows.append(judged_rate(f"donor_membership_tpr_at_1pct_fpr{end}", *pair, confidence))
    if k >= MIN_DONORS:
        notes.append(f"{k:,} of the training donors have held-out cells, which an attacker may have instead.")
        for name in scores:
            pair = by["others"][name].to_numpy(), by["outside"][name].to_numpy()
            found = auc_interval(*pair, confidence)
            rows.append(judged(f"donor_membership_auc{ATTACKS[name]}_other_cells", found))
    return rows
