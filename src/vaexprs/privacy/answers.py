"""The metrics of the audit and the answer they give."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from vaexprs.interface import html as markup
from vaexprs.metrics.answers import Answer

COLUMNS = ("metric", "value", "low", "high", "verdict")


class Audit(NamedTuple):
    """What a row of the audit is and how it is judged.

    Parameters
    ----------
    title, what
        Its name and a sentence for the reader.
    caution, fail
        The verdict is "pass" unless the interval lies beyond `caution`, and "fail" if it lies beyond `fail`.
    below
        Whether small values are the bad ones.
    """

    title: str
    what: str
    caution: float
    fail: float
    below: bool = False


AUDITS: dict[str, Audit] = {
    "copy_ratio": Audit(
        "Distance to the training cells",
        "Median distance of a generated cell to the closest training cell, over that of a held-out real "
        "cell; far below 1: copies.",
        0.95,
        0.8,
        below=True,
    ),
    "exact_copies": Audit(
        "Exact copies",
        "Fraction of generated cells that equal a training cell in each gene.",
        0.0,
        0.001,
    ),
    "close_copies": Audit(
        "Close copies",
        "Fraction of generated cells that are nearer to a training cell than all but 1% of held-out cells "
        "are; 0.01 is expected.",
        0.01,
        0.05,
    ),
    "membership_auc": Audit(
        "Membership of a cell (AUC)",
        "How well an attacker with the generated cells tells training from held-out cells, by how near a "
        "generated cell is compared with other real cells; 0.5: by chance.",
        0.5,
        0.6,
    ),
    "membership_auc_distance": Audit(
        "Membership by distance alone (AUC)",
        "The same by the distance to the nearest generated cell, without comparison.",
        0.5,
        0.6,
    ),
    "membership_auc_density": Audit(
        "Membership by density ratio (AUC)",
        "The same by the ratio of the densities of generated and real cells around a cell.",
        0.5,
        0.6,
    ),
    "membership_tpr_at_1pct_fpr": Audit(
        "Training cells found at 1% false alarms",
        "Fraction of training cells that the attacker names while naming 1% of held-out cells by mistake; "
        "0.01: by chance.",
        0.01,
        0.1,
    ),
    "exposed_cells": Audit(
        "Exposed training cells",
        "Fraction of training cells with a generated cell suspiciously near, as is hardly ever seen for "
        "held-out cells.",
        0.001,
        0.01,
    ),
    "donor_copy_ratio": Audit(
        "Distance from donors",
        "Median distance of the training donors' cells to the nearest generated cell, over that of donors "
        "held out; far below 1: training donors are given away.",
        0.95,
        0.8,
        below=True,
    ),
    "donor_membership_auc": Audit(
        "Membership of a donor (AUC)",
        "How well an attacker tells donors in the training cells from others; 0.5: by chance.",
        0.5,
        0.6,
    ),
    "donor_membership_tpr_at_1pct_fpr": Audit(
        "Training donors found at 1% false alarms",
        "Fraction of training donors that the attacker names while naming 1% of other donors by mistake.",
        0.01,
        0.1,
    ),
}
# of several attacks one may reach beyond chance by chance; these two are for information unless they fail
SECOND_ATTACKS = ["membership_auc_distance", "membership_auc_density"]
DISTANCES = ("copy_ratio", "close_copies")  # what deeper cells, or such of one condition, can fail alone
QUESTION = "Did it copy its training cells?"


class PrivacyAudit(pd.DataFrame):
    """The table of `audit_privacy`, a DataFrame that shows itself in a notebook; its parts are plain ones."""

    def _repr_html_(self) -> str:
        if not set(COLUMNS) <= set(self.columns):  # it was changed in place
            return str(pd.DataFrame(self)._repr_html_())  # type: ignore[operator]
        return markup.judged(self, [answer(self)], AUDITS, "95% interval")


def answer(audit: pd.DataFrame | None) -> Answer:
    """Return the answer to whether training cells were copied: red if a row fails, amber at a caution.

    Parameters
    ----------
    audit
        What `audit_privacy` returned; None where it could not be made.
    """
    if audit is None:
        return Answer(
            QUESTION,
            "unknown",
            "Not measured: it takes the training cells and real cells the model has not seen.",
        )
    verdicts = audit.set_index("metric")["verdict"]
    auc = audit.set_index("metric").loc["membership_auc"]
    told = (
        f"An attacker tells training from held-out cells with an AUC of {auc['value']:.2f} "
        f"({auc['low']:.2f} to {auc['high']:.2f}; 0.5: by chance)."
    )
    failed = [AUDITS[name].title for name in verdicts.index[verdicts == "fail"]]
    if failed:
        near = set(verdicts.index[verdicts == "fail"]) <= set(DISTANCES)
        sign = "lie closer to training cells than real ones do" if near else "give training cells away"
        return Answer(QUESTION, "red", f"Generated cells {sign}. {told} Failed: {'; '.join(failed)}.")
    first = verdicts.drop(SECOND_ATTACKS)
    beyond = [AUDITS[name].title for name in first.index[first == "caution"]]
    if beyond:
        trace = f"No copies, but training cells leave a trace. {told} Beyond chance: {'; '.join(beyond)}."
        return Answer(QUESTION, "amber", trace)
    return Answer(QUESTION, "green", f"No sign of copying was found. {told}")
