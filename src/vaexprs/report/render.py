"""Render the report as one HTML page."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np
import pandas as pd
from markupsafe import Markup

from vaexprs.interface import html as markup
from vaexprs.interface.html import as_float, records, verdict
from vaexprs.interface.verdicts import LIGHTS, UNKNOWN
from vaexprs.report import plotly_figures as figures
from vaexprs.report.plotly_figures import Embedding, GenePlotData, Latent

# preferred columns of the table by label, if they were measured
LABEL_COLUMNS = (
    "recall_real_to_generated",
    "gene_means",
    "deviance_ratio",
    "library_size_spread",
    "fold_change_slope",
    "f1_generated_added",
)
OF_LEVELS = ("covariate_recall", "covariate_slope")  # metrics whose rows are levels of covariates, not labels
MAX_LABEL_COLUMNS = 6  # maximum number of metrics in the table by label
MAX_EXPOSED = 20  # maximum number of exposed training cells that are listed
# Content-Security-Policy of the page: only its own scripts run, nothing is loaded
POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)


class Answered(Protocol):
    """Question and answer; ``light`` is "green", "amber", "red" or "unknown"."""

    @property
    def question(self) -> str:
        """The question."""

    @property
    def light(self) -> str:
        """The verdict as a traffic light."""

    @property
    def sentence(self) -> str:
        """The answer."""


@dataclass(frozen=True)
class Page:
    """Content of the report.

    Parameters
    ----------
    title
        The heading.
    facts
        Numbers in the header, by name.
    answers
        Questions and answers of the cards.
    evaluation
        Table with the columns metric, label, value, floor, floor_low, floor_high and verdict.
    label_lights
        The light of each label with metrics of its own, or with too few real cells for a verdict.
    metrics
        For each metric an object with ``title``, ``what`` and ``question``.
    questions
        The text of each question, in the order of the table.
    curves
        Learning curves: dicts with label, method, n, f1, low and high.
    audit
        Table with the columns metric, value, low, high and verdict, or None if copying was not tested.
    audits
        For each metric of the audit an object with ``title`` and ``what``.
    exposed
        Training cells with a suspiciously near generated cell: dicts with cell, label, distance and ratio.
    embedding, genes, latent
        Data of the figures, or None.
    history
        Loss and its parts by epoch.
    guarantee
        Statements on differential privacy; empty without a guarantee.
    architecture
        SVG of the network, or None.
    recipe
        Tables of names and values by heading.
    code
        Python code that reproduces the run.
    notes, audit_notes
        Notes on the evaluation and on the audit.
    """

    title: str
    facts: Mapping[str, str]
    answers: Sequence[Answered]
    evaluation: pd.DataFrame
    label_lights: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    questions: Mapping[str, str] = field(default_factory=dict)
    curves: Sequence[Mapping[str, Any]] = ()
    audit: pd.DataFrame | None = None
    audits: Mapping[str, Any] = field(default_factory=dict)
    exposed: Sequence[Mapping[str, Any]] = ()
    embedding: Embedding | None = None
    genes: GenePlotData | None = None
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)
    guarantee: Sequence[str] = ()
    architecture: str | None = None
    latent: Latent | None = None
    recipe: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    code: str = ""
    notes: Sequence[str] = ()
    audit_notes: Sequence[str] = ()


def render(page: Page) -> str:
    """Return the HTML of a report, without references to external resources."""
    plots = _plots(page)
    scripts = {"plotly": _plotly(), "page": _resource("script.js")}
    return markup.render(
        "report/template.html",
        page=page,
        policy=POLICY.format(scripts=" ".join(f"'{_hash(text)}'" for text in scripts.values())),
        style=Markup(_resource("style.css")),
        scripts={name: Markup(text) for name, text in scripts.items()},
        cards=markup.cards(page.answers),
        scorecard=_scorecard(page),
        by_label=_by_label(page),
        audit=_audit_rows(page),
        exposed=[_exposed(cell) for cell in page.exposed[:MAX_EXPOSED]],
        plots=plots,
        trained=[name for name in plots if name.startswith("training-")],
        labels=_labels(page),
        shown=_shown(page.embedding),
        curve_names=[] if "curves" not in plots else plots["curves"]["names"],
        n_shown_genes=0 if page.genes is None else len(figures.shown_genes(page.genes)),
        architecture=None if page.architecture is None else markup.data_uri(page.architecture),
        plots_json=_script_json({"figures": plots, "dark": figures.DARK}),
        tables_json=_script_json(
            {
                "evaluation": _table(page.evaluation),
                "privacy": None if page.audit is None else _table(page.audit),
                "learning_curve": [dict(record) for record in page.curves],
                "exposed_cells": [dict(cell) for cell in page.exposed],
            }
        ),
    )


def _plots(page: Page) -> dict[str, figures.Figure]:
    """Return the figures by the id of their HTML element."""
    plots: dict[str, figures.Figure] = {}
    labels = _labels(page) or None
    if page.embedding is not None:
        plots["embedding"] = figures.embedding(
            page.embedding, labels if page.embedding.label is not None else None
        )
    if page.genes is not None:
        for name, figure in figures.gene_plots(page.genes).items():
            plots[f"genes-{name.replace(' ', '-')}"] = figure
    curves = figures.curves(page.curves)
    if curves is not None:
        plots["curves"] = curves
    for i, figure in enumerate(figures.training(page.history).values()):
        plots[f"training-{i + 1}"] = figure
    if page.latent is not None:
        plots["latent"] = figures.latent(page.latent, labels if page.latent.label is not None else None)
    return plots


def _shown(view: Embedding | None) -> dict[str, Any]:
    """Return the numbers of real and generated cells shown, and whether they are a sample."""
    if view is None:
        return {}
    numbers = {group: int((view.group == group).sum()) for group in figures.GROUPS}
    return {group: f"{n:,}" for group, n in numbers.items()} | {
        "is_sample": sum(numbers.values()) < sum(view.total)
    }


def _labels(page: Page) -> list[str]:
    """Return all labels of the figures, in the order of their colours."""
    columns = [view.label for view in (page.embedding, page.latent) if view is not None]
    outlines = [] if page.latent is None or page.latent.label is None else page.latent.ellipses
    return figures.sorted_labels(*columns, np.array([ellipse.label for ellipse in outlines], dtype=object))


def _named(known: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return title and description of a metric; an unknown name is its own title."""
    entry = known.get(name)
    return {"title": getattr(entry, "title", name), "what": getattr(entry, "what", "")}


def _scorecard(page: Page) -> list[dict[str, Any]]:
    """Return the metrics of all cells, by question."""
    table = page.evaluation[page.evaluation["label"].astype(str) == "all"]
    groups: dict[str, list[dict[str, Any]]] = {question: [] for question in page.questions}
    for row in records(table):
        name = str(row["metric"])
        question = str(getattr(page.metrics.get(name), "question", "other"))
        entry = {**row, **_named(page.metrics, name), "name": name, **verdict(row["verdict"])}
        entry["strip"] = _strip(row)
        groups.setdefault(question, []).append(entry)
    return [
        {"question": page.questions.get(question, "Other metrics"), "rows": rows}
        for question, rows in groups.items()
        if rows
    ]


def _strip(row: Mapping[str, Any]) -> dict[str, float] | None:
    """Return positions (0 to 100) of a value and its baseline interval on a strip; None if undefined."""
    numbers = {key: as_float(row[key]) for key in ("value", "floor", "floor_low", "floor_high")}
    if not all(map(math.isfinite, (numbers["value"], numbers["floor"]))):
        return None
    finite = [v for v in numbers.values() if math.isfinite(v)]
    low, high = min(finite), max(finite)
    if high - low < 1e-12 * max(abs(high), abs(low), 1e-300):
        return None
    place = {
        key: round(4 + 92 * (v - low) / (high - low), 2) for key, v in numbers.items() if math.isfinite(v)
    }
    place.setdefault("floor_low", place["floor"])
    place.setdefault("floor_high", place["floor"])
    return place


def _generated_labels(page: Page) -> np.ndarray | None:
    """Return the labels of the generated cells, which get a row even with too few cells for metrics."""
    cells = page.embedding
    if cells is None or cells.label is None:
        return None
    return cells.label[cells.group == "generated"]


def _by_label(page: Page) -> dict[str, Any]:
    """Return the table of labels and their main metrics."""
    table = page.evaluation
    table = table[(table["label"].astype(str) != "all") & ~table["metric"].isin(OF_LEVELS)]
    measured = [str(name) for name in table.loc[table["value"].notna(), "metric"].unique()]
    first = [name for name in LABEL_COLUMNS if name in measured]
    names = (first + [name for name in measured if name not in first])[:MAX_LABEL_COLUMNS]
    order = {name: i for i, name in enumerate(page.metrics)}
    names = sorted(names, key=lambda name: order.get(name, len(order)))
    rows = []
    parts = {str(label): part for label, part in table.groupby(table["label"].astype(str), sort=False)}
    for label in figures.sorted_labels(table["label"].to_numpy(), _generated_labels(page) if names else None):
        found = {str(row["metric"]): row for row in records(parts.get(label, table.head(0)))}
        cells = []
        for name in names:
            row = found.get(name, {"value": float("nan"), "verdict": None})
            cells.append({"name": name, "value": row["value"], **verdict(row["verdict"])})
        light = LIGHTS.get(page.label_lights.get(label, "unknown"), UNKNOWN)
        word = "not judged" if light is UNKNOWN else light.word
        rows.append({"label": label, "kind": light.css_class, "word": word, "cells": cells})
    return {"columns": [_named(page.metrics, name) for name in names], "rows": rows}


def _audit_rows(page: Page) -> list[dict[str, Any]]:
    if page.audit is None:
        return []
    return [
        {**row, **_named(page.audits, str(row["metric"])), "name": row["metric"], **verdict(row["verdict"])}
        for row in records(page.audit)
    ]


def _exposed(cell: Mapping[str, Any]) -> dict[str, Any]:
    return {key: cell.get(key) for key in ("cell", "label", "distance", "ratio")}


def _table(table: pd.DataFrame) -> dict[str, Any]:
    return {"columns": [str(name) for name in table.columns], "data": table.to_numpy(dtype=object).tolist()}


def _clean(value: Any) -> Any:
    """Return a value as JSON can hold it; numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): _clean(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_clean(part) for part in value]
    if value is None or value is pd.NA or isinstance(value, str):
        return None if value is pd.NA else value
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return str(value)


def _script_json(value: Any) -> Markup:
    """Return JSON for a script element, escaped so that no text can end the element."""
    text = json.dumps(_clean(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return Markup(text)  # safe: every < is escaped as \u003c


def _hash(script: str) -> str:
    """Return the hash of a script for the Content-Security-Policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _resource(name: str) -> str:
    return resources.files("vaexprs.report").joinpath(name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    text = str(get_plotlyjs())
    if "</script" in text.lower():
        raise ImportError(
            f"The report requires a plotly.js without a closing script tag, but that of plotly "
            f"{version('plotly')} contains one. Install another version: "
            f"pip install 'plotly!={version('plotly')}'"
        )
    return text
