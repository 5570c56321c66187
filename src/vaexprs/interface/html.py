"""HTML from templates: how numbers and verdicts are written, and what a notebook shows of a result."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

LIGHTS = {"green": "good", "amber": "fair", "red": "poor"}
VERDICTS = {
    "within": "good",
    "pass": "good",
    "close": "fair",
    "caution": "fair",
    "off": "poor",
    "fail": "poor",
}
DASH, MINUS, TIMES, INFINITY = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}", "\N{INFINITY}"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MAX_LEVELS = 12  # of a condition, the largest, that a notebook shows


def render(name: str, **values: Any) -> str:
    """Return the HTML of a template of this package; all text in `values` is escaped."""
    return _environment().get_template(name).render(**values).strip() + "\n"


def number(value: Any) -> str:
    """Return a number with three significant digits (all digits before the point), or a dash."""
    value = as_float(value)
    if math.isnan(value):
        return DASH
    if math.isinf(value):
        return INFINITY if value > 0 else MINUS + INFINITY
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(float(f"{value:.2e}"))))
    if size < -3 or size > 6:
        mantissa, exponent = f"{value:.2e}".split("e")
        text = f"{mantissa} {TIMES} 10{str(int(exponent)).translate(SUPERSCRIPTS)}"
    else:
        text = f"{value:,.{max(0, 2 - size)}f}"
        if value == int(value) and abs(value) >= 10:
            text = f"{value:,.0f}"
    return text.replace("-", MINUS, 1) if value < 0 else text


def exact(value: Any) -> str:
    """Return a number in full, as Python and JavaScript read it back, or an empty text."""
    value = as_float(value)
    return repr(value) if math.isfinite(value) else ""


def as_float(value: Any) -> float:
    """Return a number, not a number where there is none."""
    return float("nan") if value is None or value is pd.NA else float(value)


def light(kind: str, word: str | None = None) -> dict[str, str]:
    """Return the symbol of a light ("good", "fair", "poor", "unknown") and the word beside it."""
    return {"kind": kind, "word": word or {"unknown": "not measured"}.get(kind, kind)}


def verdict(word: Any) -> dict[str, str]:
    """Return the light of a verdict."""
    known = isinstance(word, str) and word in VERDICTS
    return light(VERDICTS[word], word) if known else light("unknown")


def data_uri(svg: str) -> str:
    """Return a picture as an address: shown as an image no text in it is HTML, and nothing of it runs."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def cards(answers: Iterable[Any]) -> list[dict[str, str]]:
    """Return question, sentence and light of each answer."""
    return [
        {"question": a.question, "sentence": a.sentence, **light(LIGHTS.get(str(a.light), "unknown"))}
        for a in answers
    ]


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as dicts."""
    names = [str(name) for name in table.columns]
    return [dict(zip(names, row, strict=True)) for row in table.itertuples(index=False, name=None)]


def judged(table: pd.DataFrame, answers: Iterable[Any], known: Mapping[str, Any], interval: str) -> str:
    """Return what a notebook shows of a table of figures with verdicts.

    Parameters
    ----------
    table
        The figures; where it has a column "label" those of "all" are shown.
    answers
        What the figures say together.
    known
        For each metric an object with ``title`` and ``what``.
    interval
        Heading of the interval's column.
    """
    shown = table[table["label"] == "all"] if "label" in table else table
    low, high = (f"floor_{end}" if "floor" in table else end for end in ("low", "high"))
    rows = [
        {"title": known[row["metric"]].title, "what": known[row["metric"]].what, "value": row["value"],
         "low": row[low], "high": row[high], **verdict(row["verdict"])}
        for row in records(shown)
    ]  # fmt: skip
    return render(
        "interface/templates/judged.html",
        cards=cards(answers),
        rows=rows,
        interval=interval,
        notes=table.attrs.get("notes", []),
        n_rows=len(table),
        columns=[str(name) for name in table.columns],
    )


def levels(counts: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Return the rows of the largest levels of a condition, and how many others there are.

    Parameters
    ----------
    counts
        For each level numbers of cells; the first decides the order.
    """
    largest = sorted(counts.items(), key=lambda item: -item[1][0])
    return {"rows": largest[:MAX_LEVELS], "more": max(0, len(largest) - MAX_LEVELS)}


def sparkline(values: Sequence[float]) -> str:
    """Return the points of a line through values, in a box of 100 x 24; empty where there is none to draw."""
    finite = [(i, v) for i, v in enumerate(values) if math.isfinite(v)]
    if len(finite) < 2:
        return ""
    low, high = (f(v for _, v in finite) for f in (min, max))
    reach = (high - low) or 1.0
    return " ".join(f"{100 * i / (len(values) - 1):.2f},{22 - 20 * (v - low) / reach:.2f}" for i, v in finite)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("vaexprs", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "exact": exact}
    return environment
