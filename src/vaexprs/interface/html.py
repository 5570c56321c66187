"""HTML from templates: numbers, verdicts, and the notebook representation of results."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from vaexprs.interface.verdicts import LIGHTS, UNKNOWN, VERDICTS, Level

DASH, MINUS, TIMES, INFINITY = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}", "\N{INFINITY}"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MAX_LEVELS = 12  # maximum number of levels of a condition shown in a notebook, the largest first


def render(name: str, **values: Any) -> str:
    """Return the HTML of a template of this package; text in `values` is escaped."""
    return _environment().get_template(name).render(**values).strip() + "\n"


def number(value: Any) -> str:
    """Return a number with three significant digits (all before the decimal point), or a dash for NaN."""
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
    """Return a number with full precision, as read by Python and JavaScript; empty if not finite."""
    value = as_float(value)
    return repr(value) if math.isfinite(value) else ""


def as_float(value: Any) -> float:
    """Return a value as float, NaN for missing values."""
    return float("nan") if value is None or value is pd.NA else float(value)


def verdict(word: Any) -> dict[str, str]:
    """Return CSS class and word of a verdict; anything else is shown as not judged."""
    if isinstance(word, str) and word in VERDICTS:
        return {"kind": VERDICTS[word].css_class, "word": word}
    return _kind_and_word(UNKNOWN)


def _kind_and_word(level: Level) -> dict[str, str]:
    return {"kind": level.css_class, "word": level.word}


def data_uri(svg: str) -> str:
    """Return an SVG as a data URI: inside an image its text is not HTML, and scripts do not run."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def cards(answers: Iterable[Any]) -> list[dict[str, str]]:
    """Return question, sentence, CSS class and word of each answer."""
    return [
        {"question": a.question, "sentence": a.sentence, **_kind_and_word(LIGHTS.get(str(a.light), UNKNOWN))}
        for a in answers
    ]


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as dicts."""
    names = [str(name) for name in table.columns]
    return [dict(zip(names, row, strict=True)) for row in table.itertuples(index=False, name=None)]


def verdict_table(
    table: pd.DataFrame, answers: Iterable[Any], known: Mapping[str, Any], interval: str
) -> str:
    """Return the notebook representation of a table of metrics with verdicts.

    Parameters
    ----------
    table
        The metrics; if it has a column "label", only those of "all" are shown.
    answers
        Answers derived from the metrics.
    known
        For each metric an object with ``title`` and ``what``.
    interval
        Heading of the column with the interval.
    """
    shown = table[table["label"] == "all"] if "label" in table else table
    low, high = (f"floor_{end}" if "floor" in table else end for end in ("low", "high"))
    rows = [
        {"title": known[row["metric"]].title, "what": known[row["metric"]].what, "value": row["value"],
         "low": row[low], "high": row[high], **verdict(row["verdict"])}
        for row in records(shown)
    ]  # fmt: skip
    return render(
        "interface/templates/verdict_table.html",
        cards=cards(answers),
        rows=rows,
        interval=interval,
        notes=table.attrs.get("notes", []),
        n_rows=len(table),
        columns=[str(name) for name in table.columns],
    )


def levels(counts: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Return the rows of the largest levels of a condition, and the number of remaining levels.

    Parameters
    ----------
    counts
        Numbers of cells of each level; sorted by the first.
    """
    largest = sorted(counts.items(), key=lambda item: -item[1][0])
    return {"rows": largest[:MAX_LEVELS], "more": max(0, len(largest) - MAX_LEVELS)}


def sparkline(values: Sequence[float]) -> str:
    """Return the points of an SVG polyline in a box of 100 x 24; empty for fewer than two finite values."""
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
