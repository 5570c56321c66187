"""Interactive plotly figures of the report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

Figure = dict[str, Any]
INK, GRID, FAINT = "#1B1F24", "#E1E5EA", "#8A929C"
REAL, GENERATED = "#0072B2", "#D55E00"  # blue and vermillion of the Okabe-Ito palette
GREEN, PURPLE = "#009E73", "#6A3D9A"
PALETTE = (REAL, GENERATED, GREEN, "#C0578F", "#B27D00", "#2E9BD0", PURPLE, "#555B63")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "pentagon", "triangle-down", "star", "hexagon")
# colours of the dark theme by colour of the light theme
DARK = {
    INK: "#E4E8ED",
    GRID: "#353C45",
    FAINT: "#7D8793",
    REAL: "#56B4E9",
    GENERATED: "#F7965A",
    GREEN: "#3CCB9F",
    "#C0578F": "#EA9CC6",
    "#B27D00": "#E9BC55",
    "#2E9BD0": "#A3D8F5",
    PURPLE: "#BC9FE6",
    "#555B63": "#C6CBD2",
}
GROUPS = {"real": (REAL, "circle"), "generated": (GENERATED, "triangle-up")}
STATISTICS = ("mean", "variance", "zero fraction")
# colour, symbol and line style of the methods of learning curves
METHODS = {
    "real": (REAL, "circle", "solid"),
    "generated": (GENERATED, "triangle-up", "solid"),
    "SMOTE": (GREEN, "square", "dash"),
    "oversampling": (FAINT, "diamond", "dot"),
}
LOSSES = ("loss", "reconstruction", "kl")
MAX_GENES = 1_200  # maximum number of points of a gene plot
MIN_LOG_RATIO = 30  # minimum ratio of largest to smallest value for a logarithmic axis
OFFSET = 0.05  # horizontal offset between methods on a learning curve, as a fraction of n
CELLS_AXIS = {"type": "log", "tickvals": [m * 10**e for e in range(6) for m in (1, 2, 5)]}
F1_AXIS = {"range": [-0.02, 1.02]}
# squared radius of an outline: 95% quantile of the chi-squared distribution with 2 degrees of freedom
ELLIPSE = 5.991
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Embedding:
    """Embedding of real and generated cells.

    Parameters
    ----------
    coordinates
        (n_cells, 2).
    group
        "real" or "generated", (n_cells,).
    label
        Label of each cell, (n_cells,), or None.
    cells
        Names of the cells, (n_cells,).
    axes
        Names of the axes.
    total
        Total numbers of real and generated cells, of which these are a sample.
    """

    coordinates: np.ndarray
    group: np.ndarray
    label: np.ndarray | None
    cells: np.ndarray
    axes: tuple[str, str]
    total: tuple[int, int]


@dataclass(frozen=True)
class GenePlotData:
    """Mean, variance and fraction of zeros of each gene.

    Parameters
    ----------
    genes
        Names, (n_genes,).
    real, generated
        Statistics of the real and of the generated cells, (3, n_genes).
    halves
        Statistics of two halves of the real cells, which show the differences expected by chance.
    """

    genes: np.ndarray
    real: np.ndarray
    generated: np.ndarray
    halves: tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Ellipse:
    """Component of the latent density in the plane of the figure.

    Parameters
    ----------
    label
        Its label, "" without labels.
    centre
        (2,).
    covariance
        (2, 2).
    """

    label: str
    centre: np.ndarray
    covariance: np.ndarray


@dataclass(frozen=True)
class Latent:
    """Codes of real cells on their first two principal axes, and the latent density.

    Parameters
    ----------
    coordinates
        (n_cells, 2).
    label
        Label of each cell, (n_cells,), or None.
    cells
        Names of the cells, (n_cells,).
    axes
        Names of the axes.
    ellipses
        The components of the density.
    """

    coordinates: np.ndarray
    label: np.ndarray | None
    cells: np.ndarray
    axes: tuple[str, str]
    ellipses: Sequence[Ellipse]


def plain(text: object, max_length: int = 80) -> str:
    """Return text for plotly: shortened, without line breaks, with markup and templates escaped."""
    line = " ".join(str(text).split())
    line = line if len(line) <= max_length else f"{line[: max_length - 1]}…"
    for mark, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("%", "&#37;"), ("$", "&#36;")):
        line = line.replace(mark, entity)
    return re.sub(r"[\x00-\x1f\x7f]", "", line)


def _layout(x: str, y: str, **more: Any) -> Figure:
    axis = {
        "gridcolor": GRID,
        "linecolor": FAINT,
        "zeroline": False,
        "showline": True,
        "ticks": "outside",
        "tickcolor": FAINT,
        "ticklen": 4,
        "automargin": True,
    }
    return {
        "xaxis": axis | {"title": {"text": x, "standoff": 8}} | more.pop("xaxis", {}),
        "yaxis": axis | {"title": {"text": y, "standoff": 8}} | more.pop("yaxis", {}),
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 56, "r": 12, "t": 34, "b": 48},
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "font": {"family": FONT, "size": 13}},
        "legend": {"itemsizing": "constant", "font": {"size": 12.5}, "tracegroupgap": 2},
        **more,
    }


def _rounded(values: np.ndarray, digits: int = 5) -> list[float | None]:
    """Return numbers for JSON, rounded to significant digits; None if not finite."""
    return [float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in values]


def _style(i: int) -> tuple[str, str]:
    """Return colour and symbol of the i-th label, repeating after 64 labels."""
    return PALETTE[i % len(PALETTE)], SYMBOLS[i // len(PALETTE) % len(SYMBOLS)]


def sorted_labels(*columns: np.ndarray | None) -> list[str]:
    """Return the sorted labels of all columns, with numbers in them sorted by value."""
    found = {str(label) for column in columns if column is not None for label in column}
    return sorted(found, key=lambda label: ([_digits(part) for part in re.split(r"(\d+)", label)], label))


def _digits(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdecimal() else (-1, part.casefold())


def embedding(cells: Embedding, labels: Sequence[str] | None = None) -> Figure:
    """Return the embedding, with modes "group" and (if there are labels) "label" for its colours.

    Besides plotly's ``data`` and ``layout``, the dict has ``modes``, changes to merge into each trace by mode
    (see `patched` in script.js), and ``labels``, the label of each trace.
    """
    column = np.full(len(cells.cells), "") if cells.label is None else cells.label.astype(str)
    names = list(labels) if labels is not None else sorted_labels(column)
    axis = {"showticklabels": False, "ticks": "", "showgrid": False}
    figure: Figure = {
        "data": [],
        "layout": _layout(*map(plain, cells.axes), xaxis=axis, yaxis=axis, height=560),
        "modes": {"group": []} if cells.label is None else {"group": [], "label": []},
        "labels": [],
    }
    size = float(np.clip(200 / np.sqrt(max(len(column), 1)), 4.5, 7))
    shown_in_legend: set[str] = set()
    for group, (color, symbol) in reversed(GROUPS.items()):  # real cells, often fewer, on top
        n = int((cells.group == group).sum())
        for i, label in enumerate(names):
            rows = (cells.group == group) & (column == label)
            if not rows.any():
                continue
            figure["labels"].append(label)
            figure["data"].append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": _rounded(cells.coordinates[rows, 0]),
                    "y": _rounded(cells.coordinates[rows, 1]),
                    "text": [plain(name) for name in cells.cells[rows]],
                    "hovertemplate": _hover("%{text}", label, group),
                    "marker": {"size": size, "opacity": 0.65, "line": {"width": 0}},
                }
            )
            figure["modes"]["group"].append(
                {
                    "name": f"{group} ({n:,})",
                    "legendgroup": group,
                    "showlegend": group not in shown_in_legend,
                    "marker": {"color": color, "symbol": symbol},
                }
            )
            if "label" in figure["modes"]:
                color, symbol = _style(i)
                figure["modes"]["label"].append(
                    {
                        "name": plain(label, 32),
                        "legendgroup": f"label {i}",
                        "showlegend": f"label {i}" not in shown_in_legend,
                        "marker": {
                            "color": color,
                            "symbol": symbol if group == "real" else f"{symbol}-open",
                            "line": {"width": 0 if group == "real" else 1.3},
                        },
                    }
                )
                color, symbol = GROUPS[group]
            shown_in_legend |= {group, f"label {i}"}
    return figure


def _hover(first: str, *lines: str) -> str:
    rest = "".join(f"<br>{plain(line, 60)}" for line in lines if line)
    return f"<b>{first}</b>{rest}<extra></extra>"


def gene_plots(statistics: GenePlotData, seed: int = 0) -> dict[str, Figure]:
    """Return a figure for each statistic: generated vs real cells, and two halves of the real cells.

    Parameters
    ----------
    statistics
        The statistics.
    seed
        Seed of the random genes, if only some are shown.
    """
    rows = shown_genes(statistics, seed)
    names = [plain(name, 60) for name in statistics.genes[rows]]
    first, second = statistics.halves
    figures = {}
    for i, name in enumerate(STATISTICS):
        pairs = {
            "real, two halves": (first[i, rows], second[i, rows]),
            "generated": (statistics.real[i, rows], statistics.generated[i, rows]),
        }
        figures[name] = _gene_plot(name, names, pairs)
    return figures


def shown_genes(statistics: GenePlotData, seed: int = 0) -> np.ndarray:
    """Return the rows of the genes to show: all, or those with the largest difference and random others."""
    n = len(statistics.genes)
    if n <= MAX_GENES:
        return np.arange(n)
    difference = np.abs(np.log1p(np.abs(statistics.generated)) - np.log1p(np.abs(statistics.real)))
    relative = np.nan_to_num(difference / (difference.max(axis=1, keepdims=True) + 1e-12))
    order = np.argsort(-relative.max(axis=0), kind="stable")
    largest, others = np.split(order, [MAX_GENES // 4])
    rng = np.random.default_rng(seed)
    return np.sort(np.concatenate([largest, rng.permutation(others)[: MAX_GENES - len(largest)]]))


def _gene_plot(name: str, genes: list[str], pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    axis, low, high = _gene_axis(name, np.concatenate([np.concatenate(pair) for pair in pairs.values()]))
    data: list[Figure] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [low, high],
            "y": [low, high],
            "line": {"color": FAINT, "width": 1, "dash": "dot"},
            "hoverinfo": "skip",
            "showlegend": False,
        }
    ]
    styles = {"real, two halves": (FAINT, "circle", 0.45), "generated": (GENERATED, "triangle-up", 0.5)}
    against = {"real, two halves": ("one half", "other half"), "generated": ("real", "generated")}
    for group, (x, y) in pairs.items():
        color, symbol, opacity = styles[group]
        of_x, of_y = against[group]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": group,
                "x": _rounded(np.maximum(x, low)),
                "y": _rounded(np.maximum(y, low)),
                "customdata": list(map(list, zip(_rounded(x), _rounded(y), strict=True))),
                "text": genes,
                "hovertemplate": (
                    f"<b>%{{text}}</b><br>{of_x} %{{customdata[0]:.3~g}}<br>{of_y} %{{customdata[1]:.3~g}}"
                    "<extra></extra>"
                ),
                "marker": {"color": color, "symbol": symbol, "size": 5, "opacity": opacity},
            }
        )
    legend = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "itemsizing": "constant"}
    layout = _layout(
        f"{name.capitalize()}, real", f"{name.capitalize()}, generated", xaxis=axis, yaxis=axis, height=350
    )
    return {"data": data, "layout": layout | {"legend": legend}}


def _gene_axis(name: str, values: np.ndarray) -> tuple[Figure, float, float]:
    """Return the axis of a gene plot and its lowest and highest value; 0 is at the low end of a log axis."""
    values = values[np.isfinite(values)]
    positive = values[values > 0]
    logarithmic = (
        name != "zero fraction"
        and len(positive) > 0
        and bool((values >= 0).all())
        and positive.max() > MIN_LOG_RATIO * positive.min()
    )
    low, high = (positive.min() / 2, positive.max()) if logarithmic else _ends(values)
    ends = np.log10([low, high]) if logarithmic else np.array([low, high])
    margin = 0.03 * (ends[1] - ends[0])
    axis: Figure = {"range": [float(ends[0] - margin), float(ends[1] + margin)]}
    if logarithmic:
        axis |= {"type": "log", "dtick": 1, "exponentformat": "power"}
    return axis, float(low), float(high)


def _ends(values: np.ndarray) -> tuple[float, float]:
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def curves(records: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Return the learning curves, with a mode for each label (by its number); None without curves.

    Parameters
    ----------
    records
        Dicts with ``label``, ``method``, ``n``, ``f1``, ``low`` and ``high``.
    """
    if not records:
        return None
    table = pd.DataFrame(list(records))
    table["label"] = table["label"].astype(str)
    names = list(dict.fromkeys(table["label"]))
    figure: Figure = {
        "data": [],
        "layout": _layout(
            "Real training cells of the label (n)", "F1", xaxis=CELLS_AXIS, yaxis=F1_AXIS, height=420
        ),
        "modes": {str(i): [] for i in range(len(names))},
        "labels": [],
        "names": names,
    }
    sizes = table["n"].to_numpy(float)
    figure["layout"]["xaxis"]["range"] = [
        float(np.log10(sizes.min() / 1.3)),
        float(np.log10(sizes.max() * 1.5)),
    ]
    figure["layout"]["legend"]["itemsizing"] = "trace"
    offset = {name: 1 + OFFSET * (i + 1) for i, name in enumerate(name for name in METHODS if name != "real")}
    for (label, method), part in table.groupby(["label", "method"], sort=False):
        part = part.sort_values("n")
        color, symbol, dash = METHODS.get(str(method), (PURPLE, "star", "dashdot"))
        trace: Figure = {
            "type": "scatter",
            "mode": "lines+markers",
            "name": plain(method),
            "x": _rounded(part["n"].to_numpy(float) * offset.get(str(method), 1)),
            "y": _rounded(part["f1"].to_numpy(float)),
            "customdata": _rounded(part["n"].to_numpy(float)),
            "line": {"color": color, "dash": dash, "width": 2},
            "marker": {"color": color, "symbol": symbol, "size": 8},
            "hovertemplate": f"<b>{plain(method)}</b><br>n %{{customdata}}<br>F1 %{{y:.3f}}<extra></extra>",
        }
        if {"low", "high"} <= set(part.columns):
            up, down = part["high"] - part["f1"], part["f1"] - part["low"]
            trace["error_y"] = {
                "type": "data",
                "symmetric": False,
                "array": _rounded(up.to_numpy(float)),
                "arrayminus": _rounded(down.to_numpy(float)),
                "color": color,
                "thickness": 1.2,
                "width": 4,
            }
        figure["data"].append(trace)
        figure["labels"].append(label)
        for i, name in enumerate(names):
            figure["modes"][str(i)].append({"visible": name == label})
    return figure


def training(history: Mapping[str, Sequence[float]]) -> dict[str, Figure]:
    """Return a figure for the loss and each of its parts, with that of validation cells if there are any."""
    figures = {}
    names = [name for name in history if not name.startswith("val_")]
    for name in sorted(names, key=lambda name: LOSSES.index(name) if name in LOSSES else len(LOSSES)):
        layout = _layout("Epoch", plain(name, 40), height=300)
        layout["legend"] |= {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
        parts = {"training": (history[name], PURPLE, "solid")}
        if f"val_{name}" in history:
            parts["validation"] = (history[f"val_{name}"], "#B27D00", "dash")
        data = [
            {
                "type": "scatter",
                "mode": "lines" if len(values) > 1 else "markers",
                "name": part,
                "x": list(range(1, len(values) + 1)),
                "y": _rounded(np.asarray(values, float), 6),
                "line": {"color": color, "dash": dash, "width": 2},
                "marker": {"color": color},
                "showlegend": len(parts) > 1,
                "hovertemplate": f"{part}<br>epoch %{{x}}<br>%{{y:.5~g}}<extra></extra>",
            }
            for part, (values, color, dash) in parts.items()
        ]
        figures[name] = {"data": data, "layout": layout}
    return figures


def latent(view: Latent, labels: Sequence[str] | None = None) -> Figure:
    """Return the codes of real cells by label, and the outlines of the components of the density."""
    column = np.full(len(view.cells), "") if view.label is None else view.label.astype(str)
    names = (
        list(labels)
        if labels is not None
        else sorted_labels(column, np.array([e.label for e in view.ellipses]))
    )
    figure: Figure = {"data": [], "layout": _layout(*map(plain, view.axes), height=520), "labels": []}
    for i, label in enumerate(names):
        color, symbol = _style(i)
        rows = column == label
        outlines = [ellipse for ellipse in view.ellipses if ellipse.label == label]
        common = {"type": "scatter", "legendgroup": f"label {i}", "name": plain(label or "cells", 32)}
        if rows.any():
            figure["labels"].append(label)
            figure["data"].append(
                common
                | {
                    "mode": "markers",
                    "x": _rounded(view.coordinates[rows, 0]),
                    "y": _rounded(view.coordinates[rows, 1]),
                    "text": [plain(name) for name in view.cells[rows]],
                    "hovertemplate": _hover("%{text}", label),
                    "marker": {"color": color, "symbol": symbol, "size": 5, "opacity": 0.75},
                }
            )
        if outlines:
            figure["labels"].append(label)
            path = np.concatenate(
                [np.vstack([outline(e.centre, e.covariance), [np.nan] * 2]) for e in outlines]
            )
            figure["data"].append(
                common
                | {
                    "mode": "lines",
                    "x": _rounded(path[:, 0], 4),
                    "y": _rounded(path[:, 1], 4),
                    "line": {"color": color, "width": 1.2},
                    "opacity": 0.7,
                    "hoverinfo": "skip",
                    "showlegend": not rows.any(),
                }
            )
    return figure


def outline(centre: np.ndarray, covariance: np.ndarray, points: int = 48) -> np.ndarray:
    """Return the closed ellipse that holds 95% of a normal distribution, (points, 2)."""
    variance, axes = np.linalg.eigh(covariance)
    angle = np.linspace(0, 2 * np.pi, points)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return centre + (circle * np.sqrt(ELLIPSE * np.maximum(variance, 0))) @ axes.T
