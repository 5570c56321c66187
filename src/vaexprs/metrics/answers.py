"""Verbal answers to questions about generated cells, derived from the metrics."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from vaexprs.interface import html as markup
from vaexprs.metrics.registry import ALL, COLUMNS, METRICS, QUESTIONS

FEW = 100  # cells per side below which even poor cells may be within the baseline interval
GAIN = 0.01  # minimum gain of F1 that counts as a benefit
# first sentence of each answer, by question and light
OPENINGS = {
    "looks": {
        "green": "Generated cells look like real cells.",
        "amber": "Generated cells are similar to real cells, but distinguishable.",
        "red": "Generated cells are clearly distinguishable from real cells.",
    },
    "types": {
        "green": "Generated cells match the type of their label.",
        "amber": "Most generated cells match the type of their label; some types are blurred.",
        "red": "Many generated cells do not match the type of their label.",
    },
    "differences": {
        "green": "Differences between types and gene-gene correlations are as in real cells.",
        "amber": "Differences between types and gene-gene correlations are partly kept.",
        "red": "Differences between types or gene-gene correlations are lost or exaggerated.",
    },
    "use": {
        "green": "A classifier improves with generated cells added to its training cells.",
        "amber": "A classifier is about as good with generated cells added to its training cells.",
        "red": "A classifier is worse with generated cells added to its training cells.",
    },
}
NOT_REQUESTED = "Not measured: none of its metrics was requested."
UNMEASURED = {
    "looks": "Not measured: there were too few cells.",
    "types": "Not measured: it requires a label with at least two types.",
    "differences": "Not measured: there were too few cells.",
    "use": "Not measured: it requires training cells that are not among the real cells.",
}


class Scorecard(pd.DataFrame):
    """Table of `evaluate`: a DataFrame with a summary in notebooks; slices are plain DataFrames."""

    def _repr_html_(self) -> str:
        if not set(COLUMNS) <= set(self.columns):  # columns were changed in place
            return str(pd.DataFrame(self)._repr_html_())  # type: ignore[operator]
        requested = {QUESTIONS[question] for question in _requested_questions(self)}
        shown = [answer for answer in answers(self) if answer.question in requested]
        return markup.verdict_table(self, shown, METRICS, "baseline (real vs real)")


class Answer(NamedTuple):
    """Answer to one question about generated cells.

    Parameters
    ----------
    question
        The question.
    light
        "green", "amber", "red", or "unknown" if nothing was measured.
    sentence
        The answer in words.
    """

    question: str
    light: str
    sentence: str


def answers(table: pd.DataFrame) -> list[Answer]:
    """Return an answer for each question that a scorecard can answer.

    Green: at least half of the metrics are within the baseline interval and at most one in ten is off. Red:
    more than a third are off. Amber: everything else, and a classifier that gains less than 0.01 in F1. The
    metrics of all cells are used, and for "types" and "use" those of each type.

    Parameters
    ----------
    table
        The table returned by `evaluate`.
    """
    n = table.attrs.get("cells", FEW)
    few = f" With {n} cells per side, only large differences can be detected." if n < FEW else ""
    requested = _requested_questions(table)
    found = []
    for question, text in QUESTIONS.items():
        if question not in requested:
            found.append(Answer(text, "unknown", NOT_REQUESTED))
            continue
        rows = table[[METRICS[name].question == question for name in table["metric"]]]
        if question in ("looks", "differences"):
            rows = rows[rows["label"] == ALL]
        elif question == "use":
            rows = rows[(rows["metric"] == "f1_generated_added") & (rows["label"] != ALL)]
        elif (rows["label"] != ALL).any():
            rows = rows[rows["label"] != ALL]
        light, sentence = _light(question, rows)
        found.append(Answer(text, light, sentence + (few if question == "looks" else "")))
    return found


def _requested_questions(table: pd.DataFrame) -> set[str]:
    return {METRICS[name].question for name in table.attrs.get("wanted", METRICS)}


def _light(question: str, rows: pd.DataFrame) -> tuple[str, str]:
    n = len(rows)
    if not n:
        return "unknown", UNMEASURED[question]
    counts = {word: int((rows["verdict"] == word).sum()) for word in ("within", "close", "off")}
    light = "amber"
    if counts["within"] >= n / 2 and counts["off"] <= n / 10:
        light = "green"
    elif counts["off"] > n / 3:
        light = "red"
    if question != "use":
        return light, f"{OPENINGS[question][light]} {_count_sentence(counts, n)}{_worst(rows)}"
    gain = float((rows["value"] - rows["floor"]).mean())
    if light == "green" and gain < GAIN:
        light = "amber"
    return light, f"{OPENINGS[question][light]} {_f1_sentence(rows)}{_worst(rows)}"


def _count_sentence(counts: dict[str, int], n: int) -> str:
    are = "is" if counts["within"] == 1 else "are"
    parts = [f"{counts['within']} of {n} metrics {are} within the real-vs-real range"]
    parts += [f"{counts[word]} {word}" for word in ("close", "off") if counts[word]]
    return ", ".join(parts) + "."


def _f1_sentence(rows: pd.DataFrame) -> str:
    return (
        f"Mean F1 over {len(rows)} {'type' if len(rows) == 1 else 'types'}: {rows['value'].mean():.2f} with "
        f"generated cells, {rows['floor'].mean():.2f} without."
    )


def _worst(rows: pd.DataFrame) -> str:
    off = rows[rows["verdict"] == "off"]
    if off.empty:
        return ""
    names = [
        METRICS[name].title if label == ALL else f"{label}: {METRICS[name].title}"
        for name, label in zip(off["metric"].head(2), off["label"].head(2), strict=True)
    ]
    return f" Off: {'; '.join(names)}{' and others' if len(off) > 2 else ''}."
