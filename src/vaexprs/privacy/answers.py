"""Metrics of the privacy audit, and the answer derived from them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from vaexprs.interface import html as markup
from vaexprs.metrics.answers import Answer
from vaexprs.privacy.intervals import Interval, can_identify, true_positive_interval

COLUMNS = ("metric", "value", "low", "high", "verdict")
NOT_JUDGED = "not judged"
CONFIDENCE = 0.95  # confidence level of all intervals of a table together
STRONG_LEAK = 0.8  # AUC of an attack that must be excluded before the answer is green


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


class Row(NamedTuple):
    """Row of the table of `audit_privacy`."""

    metric: str
    value: float
    low: float
    high: float
    verdict: str


def _auc(title: str, what: str) -> Audit:
    return Audit(title, f"AUC of {what}; 0.5: chance level.", 0.5, 0.6)


def _rate(title: str, what: str) -> Audit:
    return Audit(title, f"Fraction of {what} at a false positive rate of 1%; 0.01: chance level.", 0.01, 0.1)


GENES = "the sum over genes of log(generated / reference) for the label"
LIKELIHOOD = "the likelihood ratio of generated and reference cells of the label"

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
    "membership_auc": _auc(
        "Membership by relative distance (AUC)",
        "membership inference (training vs held-out cells) by the distance to generated cells relative to "
        "reference cells",
    ),
    "membership_auc_density": _auc(
        "Membership by density ratio (AUC)",
        "membership inference by the ratio of the densities of generated and reference cells",
    ),
    "membership_auc_likelihood": _auc(
        "Membership by likelihood ratio (AUC)", f"membership inference by {LIKELIHOOD}"
    ),
    "membership_auc_genes": _auc("Membership by gene sums (AUC)", f"membership inference by {GENES}"),
    "membership_auc_totals": _auc(
        "Membership by gene totals (AUC)",
        "membership inference by the means of generated and reference cells over all labels",
    ),
    "membership_tpr_at_1pct_fpr": _rate(
        "Training cells identified at 1% FPR", "training cells identified by the relative distance"
    ),
    "membership_tpr_at_1pct_fpr_density": _rate(
        "Identified by density ratio at 1% FPR", "training cells identified by the density ratio"
    ),
    "membership_tpr_at_1pct_fpr_likelihood": _rate(
        "Identified by likelihood ratio at 1% FPR", "training cells identified by the likelihood ratio"
    ),
    "membership_tpr_at_1pct_fpr_genes": _rate(
        "Identified by gene sums at 1% FPR", "training cells identified by gene sums"
    ),
    "exposed_cells": Audit(
        "Exposed training cells",
        "Fraction of training cells with a suspiciously near generated cell; for counts, one with hardly any "
        "gene that the training cell lacks.",
        0.0,
        0.01,
    ),
    "label_membership_auc": _auc(
        "Membership in the most exposed label (AUC)",
        "all attacks together for the training cells of the label with the highest lower limit",
    ),
    "rare_labels": Audit(
        "Labels with 1-5 training cells",
        "Largest number of generated cells per training cell among labels with 1-5 training cells; 0: there "
        "are no such labels.",
        10.0,
        100.0,
    ),
    "donor_copy_ratio": Audit(
        "Distance to the training donors",
        "Median distance of cells of training donors to the nearest generated cell, over that of held-out "
        "donors; far below 1: donor membership is leaked.",
        0.95,
        0.8,
        below=True,
    ),
}
for _end, _by in {"": "the relative distance", "_likelihood": LIKELIHOOD, "_genes": GENES}.items():
    _short = {"": "", "_likelihood": " by likelihood ratio", "_genes": " by gene sums"}[_end]
    AUDITS |= {
        f"donor_membership_auc{_end}": _auc(
            f"Membership of a donor{_short} (AUC)",
            f"an attacker who separates training donors from other donors by {_by}",
        ),
        f"donor_membership_tpr_at_1pct_fpr{_end}": _rate(
            f"Training donors identified{_short} at 1% FPR", "training donors identified"
        ),
        f"donor_membership_auc{_end}_other_cells": _auc(
            f"Membership of a donor from other cells{_short} (AUC)",
            f"an attacker who has cells of training donors that were not in training, by {_by}",
        ),
    }
# metrics that can fail without copying, for cells of another depth or condition
DISTANCES = ("copy_ratio", "close_copies")
QUESTION = "Did it copy its training cells?"
# what lowers the accuracy of the attacks: benchmarks/audit_fits.py
# of cells from a fit with differential privacy
QUALITY = "Low leakage is of no use unless the cells are usable: check them with evaluate."
ADVICE = "More training cells, fewer genes, fewer generated cells or differential privacy reduce this."


def judged(metric: str, interval: Interval) -> Row:
    """Return the row of a metric: a caution or failure if its whole interval is beyond the limit."""
    audit = AUDITS[metric]
    beyond = [
        interval.high < limit if audit.below else interval.low > limit
        for limit in (audit.caution, audit.fail)
    ]
    return Row(metric, *interval, "fail" if beyond[1] else "caution" if beyond[0] else "pass")


def judged_rate(
    metric: str,
    inside: np.ndarray,
    outside: np.ndarray,
    confidence: float,
    effect: tuple[float, float] = (1.0, 1.0),
) -> Row:
    """Return the row of a true positive rate, not judged if no attack could exceed the limit."""
    row = judged(metric, true_positive_interval(inside, outside, confidence, effect))
    able = can_identify(len(inside), len(outside), confidence, AUDITS[metric].caution, effect)
    return row if able else row._replace(verdict=NOT_JUDGED)


class PrivacyAudit(pd.DataFrame):
    """Table of `audit_privacy`: a DataFrame with a summary in notebooks; slices are plain DataFrames."""

    def _repr_html_(self) -> str:
        if not set(COLUMNS) <= set(self.columns):  # columns were changed in place
            return str(pd.DataFrame(self)._repr_html_())  # type: ignore[operator]
        return markup.verdict_table(self, [answer(self)], AUDITS, "95% interval (of all rows together)")


def answer(audit: pd.DataFrame | None) -> Answer:
    """Return whether training cells were copied: red if a metric fails, amber at a caution, else green.

    Unknown if no metric fails, but there are too few held-out cells to exclude a strong leak.

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
    rows = audit.set_index("metric")
    verdicts = rows["verdict"]
    attack = _strongest(rows)
    failed, beyond = (
        [AUDITS[name].title for name in rows.index[verdicts == of]] for of in ("fail", "caution")
    )
    share = float(rows["value"].get("exact_copies", 0.0))
    copies = (
        f"{share:.2%} of the generated cells are exact copies of training cells. "
        if verdicts.get("exact_copies", "pass") != "pass"
        else ""
    )
    attacked = any("membership" in name for name in rows.index[verdicts.isin(["fail", "caution"])])
    if failed:
        only_near = set(verdicts.index[verdicts == "fail"]) <= set(DISTANCES)
        finding = "are closer to training cells than real cells are" if only_near else "leak training cells"
        finding = f"{copies}Generated cells {finding}. {attack} Failed: {'; '.join(failed)}."
    elif beyond:
        detectable = "Training cells are detectable. " if attacked else ""
        finding = f"{copies}{detectable}{attack} Above chance level: {'; '.join(beyond)}."
    else:
        quality = f"{QUALITY} " if audit.attrs.get("private") else ""
        found = f"These attacks found no leak. {quality}{attack}{_not_excluded(rows)}{_rare(verdicts)}"
        return Answer(QUESTION, "green" if _highest(rows) <= STRONG_LEAK else "unknown", found)
    advice = f" {ADVICE}" if attacked and not copies else ""
    return Answer(QUESTION, "red" if failed else "amber", f"{finding}{advice}{_rare(verdicts)}")


def _strongest(rows: pd.DataFrame) -> str:
    """Return a sentence on the attack on cells with the highest lower limit of the AUC."""
    aucs = rows[rows.index.str.startswith("membership_auc")]
    best = aucs.iloc[int(aucs["low"].to_numpy().argmax())]
    by = AUDITS[str(best.name)].title.removeprefix("Membership ").removesuffix(" (AUC)")
    return (
        f"The strongest of {len(aucs)} attacks on cells ({by}) separates training from held-out cells with "
        f"an AUC of {best['value']:.2f} ({best['low']:.2f} to {best['high']:.2f}; 0.5: chance level)."
    )


def _highest(rows: pd.DataFrame) -> float:
    """Return the highest upper limit of the AUC of an attack on cells."""
    return float(rows["high"][rows.index.str.startswith("membership_auc")].max())


def _not_excluded(rows: pd.DataFrame) -> str:
    """Return a sentence on the largest leak that the intervals do not exclude, if it would be a failure."""
    high = _highest(rows)
    if high <= AUDITS["membership_auc"].fail:
        return ""
    return f" With so few held-out cells, an AUC of up to {high:.2f} cannot be excluded."


def _rare(verdicts: pd.Series) -> str:
    if verdicts.get("rare_labels") != NOT_JUDGED:
        return ""
    return " Not judged: labels with 1-5 training cells."
