"""Answers in words: what the metrics together say."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from vaexprs.interface import html as markup
from vaexprs.metrics.registry import ALL, COLUMNS, METRICS, QUESTIONS

FEW = 100  # cells of a side, below which even bad cells may lie within the floor
GAIN = 0.01  # of F1 from which on generated cells are called a help


class Scorecard(pd.DataFrame):
    """The table of `evaluate`, a DataFrame that shows itself in a notebook; its parts are plain ones."""

    def _repr_html_(self) -> str:
        if not set(COLUMNS) <= set(self.columns):  # it was changed in place
            return str(pd.DataFrame(self)._repr_html_())  # type: ignore[operator]
        asked = {QUESTIONS[METRICS[name].question] for name in self.attrs.get("wanted", METRICS)}
        told = [answer for answer in answers(self) if answer.question in asked]
        return markup.judged(self, told, METRICS, "real against real")


class Answer(NamedTuple):
    """The answer to one question about generated cells.

    Parameters
    ----------
    question
        The question.
    light
        "green", "amber", "red", or "unknown" where nothing was measured.
    sentence
        What was seen, for the reader.
    """

    question: str
    light: str
    sentence: str


def answers(table: pd.DataFrame) -> list[Answer]:
    """Return an answer for each question that a scorecard can answer.

    Green: at least half of the figures are within the floor's interval and at most one in ten is off. Red:
    more than a third are off. Amber: all else, and a classifier that gains less than 0.01. Figures of all
    cells count, and for "types" and "use" those of each type.

    Parameters
    ----------
    table
        What `evaluate` returned.
    """
    n = table.attrs.get("cells", FEW)
    few = f" With {n} cells on a side only large differences show." if n < FEW else ""
    found = []
    for question, text in QUESTIONS.items():
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


OPENINGS = {
    "looks": {
        "green": "Generated cells look like real ones.",
        "amber": "Generated cells are near to real ones, not the same.",
        "red": "Generated cells can be told from real ones.",
    },
    "types": {
        "green": "Generated cells have the type they are labelled with.",
        "amber": "Most generated cells have the type they are labelled with; some types are blurred.",
        "red": "Types are mixed up in the generated cells.",
    },
    "differences": {
        "green": "Genes vary together, and types differ, as in real cells.",
        "amber": "Differences between types and correlations between genes are kept in part.",
        "red": "Differences between types or correlations between genes are lost or exaggerated.",
    },
    "use": {
        "green": "A classifier is better with generated cells added to its training cells.",
        "amber": "A classifier is about as good with generated cells added to its training cells.",
        "red": "A classifier is worse with generated cells added to its training cells.",
    },
}
UNMEASURED = {
    "looks": "Not measured: there were too few cells.",
    "types": "Not measured: it takes a label with at least two types.",
    "differences": "Not measured: there were too few cells.",
    "use": "Not measured: it takes the training cells apart from the real ones.",
}


def _count_sentence(counts: dict[str, int], n: int) -> str:
    are = "is" if counts["within"] == 1 else "are"
    parts = [f"{counts['within']} of {n} figures {are} within what real cells differ among themselves"]
    parts += [f"{counts[word]} {word}" for word in ("close", "off") if counts[word]]
    return ", ".join(parts) + "."


def _f1_sentence(rows: pd.DataFrame) -> str:
    return (
        f"In the mean over {len(rows)} types it finds a type with an F1 of {rows['value'].mean():.2f} with "
        f"them, {rows['floor'].mean():.2f} without."
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
