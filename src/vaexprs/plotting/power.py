"""`plot_power`: plot power by number of donors."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from vaexprs.studies.power_table import TARGET, Power

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# colours of the Okabe-Ito palette, distinguishable with colour vision deficiency, and markers
STYLES = (
    ("#0072B2", "o"),
    ("#D55E00", "^"),
    ("#009E73", "s"),
    ("#CC79A7", "D"),
    ("#E69F00", "v"),
    ("#56B4E9", "P"),
)
DASHES = ("-", "--", ":", "-.")  # line styles of depths
MAX_COLUMNS = 4  # panels in a row


def plot_power(power: Power) -> Figure:
    """Plot power by number of donors: a panel for each log2 fold change, a line for each number of cells.

    Vertical bars are 95% intervals of the mean over replicates. Depths have different line styles. The grey
    line is a power of 80%.

    Parameters
    ----------
    power
        Result of `power`.

    Returns
    -------
    matplotlib Figure.

    Raises
    ------
    TypeError
        If `power` has another type.
    """
    if not isinstance(power, Power):
        raise TypeError(f"power must be the result of vaexprs.power, got {type(power).__name__}.")
    from matplotlib.figure import Figure

    plt: Any = sys.modules.get("matplotlib.pyplot")
    if plt is not None:
        plt.draw_if_interactive()  # loads the backend, which registers how notebooks show figures
    table = power.table[power.table["power"].notna()]
    folds, cells, depths = (sorted(table[name].unique()) for name in ("log2_fold_change", "cells", "depth"))
    columns = max(1, min(len(folds), MAX_COLUMNS))
    rows = max(1, -(-len(folds) // columns))
    figure = Figure(figsize=(1.4 + 2.6 * columns, 0.6 + 2.8 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for panel in panels[max(len(folds), 1) :]:
        panel.set_axis_off()
    lines = {}
    for panel, fold in zip(panels, folds, strict=False):
        panel.axhline(TARGET, color="0.6", linewidth=0.8)
        for (n, depth), part in table[table["log2_fold_change"] == fold].groupby(["cells", "depth"]):
            part = part.sort_values("donors")
            color, marker = STYLES[cells.index(n) % len(STYLES)]
            reach = [
                (part["power"] - part["power_low"]).fillna(0),
                (part["power_high"] - part["power"]).fillna(0),
            ]
            name = f"{n:,.10g} cells" + (f", depth {depth:g}" if len(depths) > 1 else "")
            lines[name] = panel.errorbar(
                part["donors"],
                part["power"],
                yerr=reach,
                color=color,
                marker=marker,
                markersize=5,
                linestyle=DASHES[depths.index(depth) % len(DASHES)],
                linewidth=1.4,
                capsize=2,
            )
        panel.set_title(f"log2 fold change {fold:g}", fontsize=10)
        panel.set_ylim(-0.03, 1.03)
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_xticks(sorted(table["donors"].unique()))
        panel.set_xlabel("donors a group")
    for panel in panels[::columns]:
        panel.set_ylabel("power")
    if lines:
        of = "" if power.label is None else f" of {power.label}"
        figure.legend(
            lines.values(), lines.keys(), title=f"per donor{of}", loc="outside right upper", frameon=False
        )
    return figure
