"""The result of `power`: its table, and sentences on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from vaexprs.interface import html as markup
from vaexprs.studies.effects import FOLD, Effects
from vaexprs.studies.expression_tests import TESTS
from vaexprs.studies.replicates import EXPRESSION, Outcome, known_mean
from vaexprs.studies.scenarios import GRID, Scenario

TARGET = 0.8  # power that the sentence asks for
INTERVAL = 0.95  # coverage of the intervals


@dataclass(frozen=True)
class Power:
    """Power of planned studies.

    Parameters
    ----------
    table
        A row for each design and log2 fold change: see `power`.
    by_expression
        Power by quarters of the mean expression of the genes in the label, a row for each design and quarter.
    label
        Label whose cells are compared; None if the fit has no labels.
    test
        Name of the test.
    fdr
        False discovery rate at which genes are found.
    effects
        The effects; their log2 fold change is that of the table.
    seed
        The seed.
    """

    table: pd.DataFrame
    by_expression: pd.DataFrame
    label: str | None
    test: str
    fdr: float
    effects: Effects
    seed: int

    @property
    def sentences(self) -> list[str]:
        """Smallest design with a power of 80% for each log2 fold change, and whether the test is valid."""
        table, found = self.table, []
        cells = "cells" if self.label is None else f"{self.label!r} cells"
        for fold in sorted(table[FOLD].unique(), reverse=True):
            of_fold = table[(table[FOLD] == fold) & table["power"].notna()]
            if not len(of_fold):
                continue
            enough = of_fold[of_fold["power"] >= TARGET].sort_values(["donors", "cells", "depth"])
            best_first = enough if len(enough) else of_fold.sort_values("power", ascending=False)
            position = int(best_first.index[0])
            row = table.iloc[position]
            design = f"{row['donors']} donors a group with {row['cells']:,.10g} {cells} each"
            if table["depth"].nunique() > 1 or row["depth"] != 1:
                design += f" at {row['depth']:g} times the depth"
            changes, power = _changes(fold), f"{row['power']:.0%}"
            if len(enough):
                found.append(f"{design} find {power} of {changes} at {self.fdr:.0%} FDR.")
            else:
                best = "It finds" if len(of_fold) == 1 else f"The best, {design}, finds"
                highest = self.by_expression["power"].iloc[(position + 1) * len(EXPRESSION) - 1]
                power += (
                    f" ({highest:.0%} in the highest quarter of expression)" if highest == highest else ""
                )
                which = design if len(of_fold) == 1 else "None of the designs"
                verb = "do not find" if len(of_fold) == 1 else "finds"
                found.append(
                    f"{which} {verb} {TARGET:.0%} of {changes} at {self.fdr:.0%} FDR. {best} {power}."
                )
        worst = table.iloc[int(np.nanargmax(table["fdr"]))] if table["fdr"].notna().any() else None
        if worst is not None and worst["fdr_low"] > 2 * self.fdr:
            found.append(
                f"The {TESTS[self.test].title} does not control the false discovery rate: up to "
                f"{worst['fdr']:.0%} of the genes that it finds are false."
            )
        return found

    @property
    def sentence(self) -> str:
        """The sentences as one text."""
        return " ".join(self.sentences)

    def __repr__(self) -> str:
        return f"Power ({TESTS[self.test].title}, {len(self.table)} designs): {self.sentence}"

    def _repr_html_(self) -> str:
        return markup.render("interface/templates/power.html", power=self, rows=markup.records(self.table))


def power_tables(
    scenarios: Sequence[Scenario], outcomes: Sequence[Sequence[Outcome]], test: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables of `Power`, of all genes and by expression, from the replicates of each scenario."""
    rows = [_row(scenario, found, test) for scenario, found in zip(scenarios, outcomes, strict=True)]
    by_expression = [
        {name: row[name] for name in GRID}
        | {"expression": name, "power": known_mean([found.by_expression[quarter] for found in of_design])}
        for row, of_design in zip(rows, outcomes, strict=True)
        for quarter, name in enumerate(EXPRESSION)
    ]
    return pd.DataFrame(rows), pd.DataFrame(by_expression)


def _row(scenario: Scenario, outcomes: Sequence[Outcome], test: str) -> dict[str, Any]:
    """Return the row of the table for a design."""
    design, cells = scenario.design, known_mean([found.cells for found in outcomes])
    row: dict[str, Any] = {
        "donors": min(design.groups.values()),
        "cells": int(cells) if cells == int(cells) else cells,
        "depth": design.depth,
        FOLD: float(scenario.effects.log2_fold_change),
        "test": test,
    }
    for name, of in (("power", "power"), ("fdr", "false"), ("type1", "type1")):
        row |= _with_interval(name, [getattr(found, of) for found in outcomes])
    return row | {
        "replicates": len(outcomes),
        "genes_tested": known_mean([found.tested for found in outcomes]),
    }


def _with_interval(name: str, values: Sequence[float]) -> dict[str, float]:
    """Return the mean of fractions, and its t interval within 0 and 1."""
    from scipy import stats

    known = np.array(values)[np.isfinite(values)]
    mean, reach = known_mean(known), np.nan
    if len(known) > 1 and known.std() > 0:
        quantile = stats.t.ppf((1 + INTERVAL) / 2, len(known) - 1)
        reach = float(quantile * known.std(ddof=1) / np.sqrt(len(known)))
    return {name: mean, f"{name}_low": max(mean - reach, 0.0) if reach == reach else np.nan,
            f"{name}_high": min(mean + reach, 1.0) if reach == reach else np.nan}  # fmt: skip


def _changes(fold: float) -> str:
    """Return the words for changes of a log2 fold change."""
    names = {1.0: "twofold", 2.0: "fourfold", 3.0: "eightfold"}
    return f"{names.get(float(fold), f'{2**fold:.2g}-fold')} changes"
