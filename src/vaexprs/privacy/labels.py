"""Membership inference within each label."""

from __future__ import annotations

from typing import Any

import numpy as np

from vaexprs.comparison.cell_sets import CellSet
from vaexprs.privacy.answers import NOT_JUDGED, Row, judged
from vaexprs.privacy.attack import Attack
from vaexprs.privacy.intervals import Interval, auc_interval, design_effects

MIN_TRAINING = (
    6  # minimum number of training cells of a label; with fewer, generated cells describe single cells
)
MIN_HELD_OUT = 10  # minimum number of held-out cells of a label for it to be judged
MAX_NAMED = 5  # maximum number of labels that a note names
COMBINED = ("ratio", "density", "likelihood", "genes")  # attacks whose scores are averaged


def combined_score(attack: Attack) -> np.ndarray:
    """Return the mean of the standardised scores of several attacks, (n_cells,)."""
    return np.mean([attack.scores[name] for name in COMBINED if name in attack.scores], axis=0)


def label_table(
    cells: dict[str, CellSet], attack: Attack, label_key: str, donor_key: str | None, confidence: float
) -> list[dict[str, Any]]:
    """Return for each label its numbers of cells, the AUC of the combined attack, and a verdict.

    The intervals hold for all labels together. Labels with at least 6 training and 10 held-out cells are
    judged by the AUC. For labels with 1-5 training cells, Student's t-test compares the mean score of the
    training cells with those of the held-out cells: "fail" if it is higher.

    Parameters
    ----------
    cells
        Sets "generated", "train" and "holdout".
    attack
        Scores of the attackers.
    label_key, donor_key
        Columns with the label and the donor; None without donors.
    confidence
        Confidence level of all intervals together.
    """
    columns = {name: part.column(label_key) for name, part in cells.items()}
    score = combined_score(attack)
    names = np.unique(columns["train"].astype(str))
    parts = {
        name: [np.flatnonzero((attack.label == name) & of) for of in (attack.member, ~attack.member)]
        for name in names
    }
    tested = [name for name, (_, outside) in parts.items() if len(outside) >= MIN_HELD_OUT]
    error = (1 - confidence) / max(len(tested), 1)
    rows = []
    for name, (inside, outside) in parts.items():
        n = {part: int((column == name).sum()) for part, column in columns.items()}
        found, verdict = Interval(np.nan, np.nan, np.nan), NOT_JUDGED
        if name in tested:
            pair = score[inside], score[outside]
            units, effect = (len(inside), len(outside)), (1.0, 1.0)
            if donor_key is not None:
                clusters = attack.donor[inside], attack.donor[outside]
                units = len(np.unique(clusters[0])), len(np.unique(clusters[1]))
                effect = design_effects(*pair, clusters)
            found = auc_interval(*pair, 1 - error, effect)
            if n["train"] >= MIN_TRAINING:
                verdict = judged("label_membership_auc", found).verdict
            elif _is_higher(*pair, units, error):
                verdict = "fail"
        rows.append({"label": str(name), **n, **found._asdict(), "verdict": verdict})
    return rows


def _is_higher(inside: np.ndarray, outside: np.ndarray, units: tuple[int, int], error: float) -> bool:
    """Return whether the mean of few members is higher than expected from non-members.

    `units` are the numbers of independent units: cells, or donors.
    """
    from scipy.stats import t

    spread = outside.std(ddof=1) * np.sqrt(1 / units[0] + 1 / units[1])
    statistic = (inside.mean() - outside.mean()) / spread if spread > 0 and units[1] > 1 else 0.0
    return bool(t.sf(statistic, max(units[1] - 1, 1)) < error / 2)


def label_rows(table: list[dict[str, Any]]) -> list[Row]:
    """Return the metric of the label with the strongest attack, and that of labels with 1-5 training cells.

    Parameters
    ----------
    table
        What `label_table` returned.
    """
    rows = []
    large = [row for row in table if row["train"] >= MIN_TRAINING and np.isfinite(row["low"])]
    if large:
        worst = max(large, key=lambda row: row["low"])
        rows.append(judged("label_membership_auc", Interval(worst["value"], worst["low"], worst["high"])))
    rare = [row for row in table if row["train"] < MIN_TRAINING]
    per_cell = max((row["generated"] / row["train"] for row in rare), default=0.0)
    row = judged("rare_labels", Interval(per_cell, per_cell, per_cell))
    if any(label["verdict"] == "fail" for label in rare):
        row = row._replace(verdict="fail")
    elif rare and row.verdict == "pass":
        row = row._replace(verdict=NOT_JUDGED)
    return [*rows, row]


def label_notes(table: list[dict[str, Any]]) -> list[str]:
    """Return sentences on labels that leak and on labels that were not judged.

    Parameters
    ----------
    table
        What `label_table` returned.
    """
    notes = []
    worst = [row for row in table if row["verdict"] in ("caution", "fail")]
    if worst:
        worst.sort(key=lambda row: -row["low"])
        named = [
            f"{row['label']!r} ({row['train']:,} training cells, AUC {row['value']:.2f})" for row in worst
        ]
        notes.append(f"Labels whose training cells differ from held-out cells: {_first(named)}.")
    rare = [f"{row['label']!r} ({row['train']:,})" for row in table if row["train"] < MIN_TRAINING]
    if rare:
        notes.append(
            f"Labels with fewer than {MIN_TRAINING} training cells: {_first(rare)}. Their generated cells "
            "describe single training cells. Merge these labels with others or do not generate them."
        )
    few = [
        f"{row['label']!r} ({row['holdout']:,})"
        for row in table
        if row["train"] >= MIN_TRAINING and row["verdict"] == NOT_JUDGED
    ]
    if few:
        notes.append(
            f"Labels with fewer than {MIN_HELD_OUT} held-out cells, not judged on their own: {_first(few)}."
        )
    return notes


def _first(items: list[str]) -> str:
    more = len(items) - MAX_NAMED
    return ", ".join(items[:MAX_NAMED]) + (f" and {more:,} more" if more > 0 else "")
