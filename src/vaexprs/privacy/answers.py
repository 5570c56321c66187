"""Metrics of the privacy audit, and the answer derived from them."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from vaexprs.interface import html as markup
from vaexprs.metrics.answers import Answer

COLUMNS = ("metric", "value", "low", "high", "verdict")


class Audit(NamedTuple):
    """Description of a metric of the audit and rule for its verdict.

    Parameters
    ----------
    title, what
        Name and one-sentence description for the user.
    caution, fail
        The verdict is "caution" if the whole interval lies beyond `caution`, "fail" if it lies beyond
        `fail`, else "pass".
    below
        Whether smaller values are worse.
    """

    title: str
    what: str
    caution: float
    fail: float
    below: bool = False


AUDITS: dict[str, Audit] = {
    "copy_ratio": Audit(
        "Distance to the training cells",
        "Median distance of generated cells to the nearest training cell, over that of held-out real cells; "
        "far below 1: copies.",
        0.95,
        0.8,
        below=True,
    ),
    "exact_copies": Audit(
        "Exact copies",
        "Fraction of generated cells identical to a training cell in all genes.",
        0.0,
        0.001,
    ),
    "close_copies": Audit(
        "Close copies",
        "Fraction of generated cells that are as near to a training cell as the nearest 1% of held-out "
        "cells; 0.01: expected by chance.",
        0.01,
        0.05,
    ),
    "membership_auc": Audit(
        "Membership of a cell (AUC)",
        "AUC of membership inference (training vs held-out cells) by the distance to generated cells "
        "relative to other real cells; 0.5: chance level.",
        0.5,
        0.6,
    ),
    "membership_auc_distance": Audit(
        "Membership by distance alone (AUC)",
        "AUC of membership inference by the distance to the nearest generated cell alone; 0.5: chance level.",
        0.5,
        0.6,
    ),
    "membership_auc_density": Audit(
        "Membership by density ratio (AUC)",
        "AUC of membership inference by the ratio of the densities of generated and real cells; 0.5: chance "
        "level.",
        0.5,
        0.6,
    ),
    "membership_tpr_at_1pct_fpr": Audit(
        "Training cells identified at 1% FPR",
        "Fraction of training cells identified by the attacker at a false positive rate of 1%; 0.01: chance "
        "level.",
        0.01,
        0.1,
    ),
    "exposed_cells": Audit(
        "Exposed training cells",
        "Fraction of training cells with a suspiciously near generated cell, compared with the distances of "
        "held-out cells.",
        0.001,
        0.01,
    ),
    "donor_copy_ratio": Audit(
        "Distance to the training donors",
        "Median distance of cells of training donors to the nearest generated cell, over that of held-out "
        "donors; far below 1: donor membership is leaked.",
        0.95,
        0.8,
        below=True,
    ),
    "donor_membership_auc": Audit(
        "Membership of a donor (AUC)",
        "AUC of an attacker who separates training donors from other donors; 0.5: chance level.",
        0.5,
        0.6,
    ),
    "donor_membership_tpr_at_1pct_fpr": Audit(
        "Training donors identified at 1% FPR",
        "Fraction of training donors identified by the attacker at a false positive rate of 1%.",
        0.01,
        0.1,
    ),
}
# With several attacks, one may exceed chance level by chance: a caution of these two is ignored.
SECOND_ATTACKS = ["membership_auc_distance", "membership_auc_density"]
# metrics that can fail without copying, for cells of another depth or condition
DISTANCES = ("copy_ratio", "close_copies")
QUESTION = "Did it copy its training cells?"


class PrivacyAudit(pd.DataFrame):
    """Table of `audit_privacy`: a DataFrame with a summary in notebooks; slices are plain DataFrames."""

    def _repr_html_(self) -> str:
        if not set(COLUMNS) <= set(self.columns):  # columns were changed in place
            return str(pd.DataFrame(self)._repr_html_())  # type: ignore[operator]
        return markup.verdict_table(self, [answer(self)], AUDITS, "95% interval")


def answer(audit: pd.DataFrame | None) -> Answer:
    """Return whether training cells were copied: red if a metric fails, amber at a caution, else green.

    Parameters
    ----------
    audit
        The table returned by `audit_privacy`; None if there is none.
    """
    if audit is None:
        return Answer(
            QUESTION,
            "unknown",
            "Not measured: it requires the training cells and held-out real cells.",
        )
    verdicts = audit.set_index("metric")["verdict"]
    auc = audit.set_index("metric").loc["membership_auc"]
    attack = (
        f"Membership inference separates training from held-out cells with an AUC of {auc['value']:.2f} "
        f"({auc['low']:.2f} to {auc['high']:.2f}; 0.5: chance level)."
    )
    failed = [AUDITS[name].title for name in verdicts.index[verdicts == "fail"]]
    if failed:
        only_near = set(verdicts.index[verdicts == "fail"]) <= set(DISTANCES)
        finding = "are closer to training cells than real cells are" if only_near else "leak training cells"
        return Answer(QUESTION, "red", f"Generated cells {finding}. {attack} Failed: {'; '.join(failed)}.")
    first = verdicts.drop(SECOND_ATTACKS)
    beyond = [AUDITS[name].title for name in first.index[first == "caution"]]
    if beyond:
        finding = f"Training cells are slightly detectable. {attack}"
        return Answer(QUESTION, "amber", f"{finding} Above chance level: {'; '.join(beyond)}.")
    return Answer(QUESTION, "green", f"No sign of copying was found. {attack}")
