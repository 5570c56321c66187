"""Verbal answers to questions about generated cells, derived from the metrics."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from vaexprs.interface import html as markup
from vaexprs.interface.validation import listed
from vaexprs.metrics.baseline import FEW as MIN_JUDGED
from vaexprs.metrics.baseline import NOT_JUDGED, excess, is_far
from vaexprs.metrics.learning_curve import use_light
from vaexprs.metrics.registry import ALL, COLUMNS, METRICS, QUESTIONS

FEW, SOME = 100, 500  # cells per side below which only large differences, or no small ones, are detected
MANY_OFF = 0.5  # share of metrics of all cells that are off from which the answer is red
MAX_NAMED = 3  # maximum number of labels or metrics named in a sentence
# first sentence of each answer, by question and light
OPENINGS = {
    "looks": {
        "green": "No metric distinguishes generated from real cells.",
        "amber": "Generated cells are similar to real cells, but distinguishable.",
        "red": "Generated cells are clearly distinguishable from real cells.",
    },
    "types": {
        "green": "No type differs from the real cells of its label.",
        "amber": "Some types differ from the real cells of their label.",
        "red": "At least one type differs strongly from the real cells of its label.",
    },
    "differences": {
        "green": "Differences between types and gene-gene correlations are as in real cells.",
        "amber": "Differences between types or gene-gene correlations are partly kept.",
        "red": "Differences between types or gene-gene correlations are lost or exaggerated.",
    },
}
NOT_COMPARABLE = "Not judged: there are too few real cells, or too few donors to compare donors with donors."
NOT_REQUESTED = "Not measured: none of its metrics was requested."
UNMEASURED = {
    "looks": "Not measured: there were too few cells.",
    "types": "Not measured: it requires a label.",
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

    Each metric that is "off" was farther from the baseline than real cells are by chance in any metric of
    the table. Green: no metric of the question is off, with at least 10 cells per side (unknown with
    fewer). Red: one is off by a large margin (`Metric.far`), or half of those of all cells are off.
    Amber: everything else. "Do they look real?" uses the metrics of all cells; "Is each type right?"
    those of each type, so the worst type decides. The rule for "Do they help a classifier?" is that of
    `vaexprs.metrics.learning_curve.use_light`.

    Parameters
    ----------
    table
        The table returned by `evaluate`.
    """
    n = table.attrs.get("cells", SOME)
    few = ""
    if n < SOME:
        detected = "only large differences can" if n < FEW else "small differences cannot"
        few = f" With {n} cells per side, {detected} be detected."
    dependent = str(table.attrs.get("dependent", ""))
    requested = _requested_questions(table)
    found = []
    for question, text in QUESTIONS.items():
        if question not in requested:
            found.append(Answer(text, "unknown", NOT_REQUESTED))
            continue
        rows = rows_of(table, question)
        if question == "use":
            found.append(Answer(text, *(use_light(rows) if len(rows) else ("unknown", UNMEASURED["use"]))))
            continue
        light = light_of(rows)
        if light == "green" and n < MIN_JUDGED:  # a few rows, such as copies, have a verdict for any number
            light = "unknown"
        if question == "types" and light in ("green", "unknown") and not dependent and _no_type_judged(table):
            found.append(Answer(text, "unknown", _not_judged(table).strip()))
            continue
        if light == "unknown":
            reason = dependent or (UNMEASURED[question] if rows.empty else NOT_COMPARABLE)
            found.append(Answer(text, light, reason))
            continue
        sentence = f"{OPENINGS[question][light]} {_counts(rows, question)}{_worst(rows)}"
        if question == "types":
            sentence += _not_judged(table)
        elif question == "looks":
            sentence += _forest(rows) + few
        found.append(Answer(text, light, sentence))
    return found


def rows_of(table: pd.DataFrame, question: str) -> pd.DataFrame:
    """Return the rows that answer a question: metrics of a type count for "types", whatever they measure."""
    of = np.array([METRICS[name].question for name in table["metric"]], object)
    is_all = (table["label"] == ALL).to_numpy()
    if question == "types":
        return table[(of == "types") | ((of == "looks") & ~is_all)]
    if question == "looks":
        return table[(of == "looks") & is_all]
    if question == "use":
        return table[table["metric"] == "f1_generated_added"]
    return table[of == question]


def light_of(rows: pd.DataFrame) -> str:
    """Return the light of some rows of a scorecard: "green", "amber", "red" or "unknown"."""
    if rows.empty or (rows["verdict"] == NOT_JUDGED).all():
        return "unknown"
    off = rows[rows["verdict"] == "off"]
    if off.empty:
        judged = rows["verdict"] != NOT_JUDGED
        return "green" if judged.any() else "unknown"
    columns = (off[name] for name in ("metric", "value", "floor_low", "floor_high"))
    far = any(
        is_far(METRICS[name], value, low, high) for name, value, low, high in zip(*columns, strict=True)
    )
    of_all = rows[rows["label"] == ALL]
    many = len(of_all) > 1 and (of_all["verdict"] == "off").mean() >= MANY_OFF
    return "red" if far or many else "amber"


def label_lights(table: pd.DataFrame) -> dict[str, str]:
    """Return the light of each type with metrics of its own, or with too few real cells for a verdict."""
    rows = rows_of(table, "types")
    labels = sorted(set(rows["label"]) - {ALL})
    lights = dict.fromkeys(table.attrs.get("too_few", []), "unknown")
    return lights | {label: light_of(rows[rows["label"] == label]) for label in labels}


def _no_type_judged(table: pd.DataFrame) -> bool:
    """Return whether all types have too few real cells; metrics of all cells say nothing about each type."""
    lights = label_lights(table)
    return bool(lights) and all(light == "unknown" for light in lights.values())


def _requested_questions(table: pd.DataFrame) -> set[str]:
    return {METRICS[name].question for name in table.attrs.get("wanted", METRICS)}


def _counts(rows: pd.DataFrame, question: str) -> str:
    """Return how many metrics, or types, are off."""
    if question != "types":
        shown = rows[rows["label"] == ALL] if question == "looks" else rows
        off = int((shown["verdict"] == "off").sum())
        return f"{off} of {len(shown)} metrics {'is' if off == 1 else 'are'} off."
    labels = [label for label in dict.fromkeys(rows["label"]) if label != ALL]
    lights = [light_of(rows[rows["label"] == label]) for label in labels]
    judged = [light for light in lights if light != "unknown"]
    differ = sum(light != "green" for light in judged)
    return f"{differ} of {len(judged)} {'type differs' if differ == 1 else 'types differ'}." if judged else ""


def _forest(rows: pd.DataFrame) -> str:
    """Return the AUC of the random forest on genes, as a sentence."""
    rows = rows[rows["metric"] == "forest_auc_genes"]
    if rows.empty:
        return ""
    value, low, high = rows.iloc[0][["value", "floor_low", "floor_high"]]
    return f" A random forest has an AUC of {value:.2f} (real cells: {low:.2f} to {high:.2f})."


def _not_judged(table: pd.DataFrame) -> str:
    """Return which types have too few real cells for a verdict, as a sentence."""
    names = [label for label, light in label_lights(table).items() if light == "unknown"]
    return f" Not judged, with too few real cells: {listed(names)}." if names else ""


def _worst(rows: pd.DataFrame) -> str:
    """Return the metrics that are farthest from the baseline, as a sentence."""
    off = rows[rows["verdict"] == "off"]
    if off.empty:
        return ""
    columns = (off[name] for name in ("metric", "label", "value", "floor_low", "floor_high"))
    found = sorted(
        (
            (-excess(METRICS[name], value, low, high), METRICS[name].title, label)
            for name, label, value, low, high in zip(*columns, strict=True)
        ),
        key=lambda item: item[0],
    )
    names = [title if label == ALL else f"{label}: {title}" for _, title, label in found[:MAX_NAMED]]
    return f" Off: {'; '.join(names)}{' and others' if len(off) > MAX_NAMED else ''}."
