"""Differential expression with known truth: tables of effects and random effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from vaexprs.interface.validation import check_choice, check_integer, check_real, did_you_mean, listed
from vaexprs.model.vae_fit import VAEFit

GENE, LABEL, GROUP, FOLD = "gene", "label", "group", "log2_fold_change"
DIRECTIONS = ("both", "up", "down")
MAX_FOLD = 20.0  # log2; larger fold changes are outside the range of counts


@dataclass(frozen=True)
class Effects:
    """Random differential expression: which genes change, and by how much.

    Parameters
    ----------
    genes
        Number of genes (a whole number), their fraction (below 1), or their names.
    log2_fold_change
        Mean absolute log2 fold change.
    sd
        Standard deviation of the absolute log2 fold change, ``|N(log2_fold_change, sd)|``.
    direction
        "both" (half of the genes up), "up" or "down".
    labels
        Labels with the effects; all by default.
    shared
        Whether all labels have the same changes; otherwise they are drawn for each label.
    min_mean
        Genes with a smaller mean count per cell in the model are not drawn.
    """

    genes: float | int | Sequence[str] = 0.1
    log2_fold_change: float = 1.0
    sd: float = 0.0
    direction: str = "both"
    labels: Sequence[str] | None = None
    shared: bool = True
    min_mean: float = 0.0

    def draw(
        self, genes: pd.Index, means: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> pd.DataFrame:
        """Return a table of effects.

        Parameters
        ----------
        genes
            Names of all genes, (n_genes,).
        means
            Mean count per cell of each gene in each label, (n_genes,).
        rng
            Random generator.

        Raises
        ------
        ValueError
            If a gene or label is unknown, or there are fewer genes than requested.
        TypeError
            If an argument has the wrong type.
        """
        check_choice("direction", self.direction, DIRECTIONS)
        size = check_real("log2_fold_change", self.log2_fold_change, 0, below=MAX_FOLD)
        sd = check_real("sd", self.sd, 0, below=MAX_FOLD)
        least = check_real("min_mean", self.min_mean, 0)
        labels = list(means) if self.labels is None else [_known("labels", v, means) for v in self.labels]
        tables = []
        together = {label: np.min([means[one] for one in labels], axis=0) for label in labels}
        for i, label in enumerate(labels):
            if i == 0 or not self.shared:
                possible = np.flatnonzero((together if self.shared else means)[label] >= least)
                chosen = self._chosen(genes, possible, rng)
                folds = np.abs(size + sd * rng.standard_normal(len(chosen)))
                sign = np.ones(len(chosen))
                if self.direction == "both":
                    sign[rng.permutation(len(chosen))[: len(chosen) // 2]] = -1
                elif self.direction == "down":
                    sign[:] = -1
            tables.append(pd.DataFrame({GENE: genes[chosen], LABEL: label, FOLD: sign * folds}))
        return pd.concat(tables, ignore_index=True)

    def _chosen(self, genes: pd.Index, possible: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if isinstance(self.genes, (list, tuple, pd.Index, np.ndarray)):
            return np.array([genes.get_loc(_known("genes", gene, genes)) for gene in self.genes], int)
        if isinstance(self.genes, float) and 0 < self.genes < 1:
            n = round(self.genes * len(possible))
        else:
            n = check_integer("genes", self.genes, 1)
        if n > len(possible):
            raise ValueError(
                f"genes must be at most {len(possible):,}, the number with a mean count of "
                f"{self.min_mean:g} or more, got {n:,}. Try a smaller min_mean."
            )
        return np.sort(rng.choice(possible, n, replace=False))


def _known(name: str, value: object, options: Any) -> str:
    names = [str(option) for option in options]
    if str(value) not in names:
        raise ValueError(
            f"{name} must be in the model ({listed(names)}), got {str(value)!r}.{did_you_mean(value, names)}"
        )
    return str(value)


def check_columns(name: str, table: pd.DataFrame, columns: Sequence[str], required: Sequence[str]) -> None:
    """Raise ValueError if a table of a study has an unknown column, or lacks a required one."""
    for column in table.columns:
        if column not in columns:
            raise ValueError(
                f"The columns of {name} must be {listed(columns)}, got {column!r}."
                f"{did_you_mean(column, columns)}"
            )
    for column in required:
        if column not in table:
            raise ValueError(f"{name} must have a column {column!r}, got {listed(list(table.columns))}.")


def check_effects(effects: Any, fit: VAEFit, labels: Sequence[str], groups: Sequence[str]) -> pd.DataFrame:
    """Return a table of effects with the columns gene, label, group and log2_fold_change.

    A missing label means all labels, a missing group all groups but the first.

    Raises
    ------
    TypeError
        If it is not a table.
    ValueError
        If a column is missing or unknown; a gene, label or group is unknown; a fold change is not a finite
        number or too large; or an effect is given twice.
    """
    try:
        table = pd.DataFrame(effects).copy()
    except (ValueError, TypeError) as error:
        raise TypeError(
            f"effects must be an Effects or a table with the columns {GENE!r} and {FOLD!r} (and {LABEL!r}, "
            f"{GROUP!r}), got {type(effects).__name__}."
        ) from error
    columns = [GENE, LABEL, GROUP, FOLD]
    check_columns("effects", table, columns, (GENE, FOLD))
    folds = pd.to_numeric(table[FOLD], errors="coerce")
    odd = ~np.isfinite(folds) | (folds.abs() > MAX_FOLD)
    if odd.any():
        first = table[odd].iloc[0]
        raise ValueError(
            f"{FOLD} must be a number between -{MAX_FOLD:g} and {MAX_FOLD:g}, got {first[FOLD]!r} for gene "
            f"{str(first[GENE])!r}. Counts cannot be negative: for a gene that is switched off use "
            f"-{MAX_FOLD:g}."
        )
    table[FOLD] = folds.astype(float)
    table[GENE] = [_known(GENE, gene, fit.genes) for gene in table[GENE]]
    for column, options in ((LABEL, labels), (GROUP, groups)):
        values = table[column] if column in table else pd.Series([None] * len(table), table.index)
        table[column] = [None if pd.isna(value) else _known(column, value, options) for value in values]
    expanded = [
        {GENE: row[GENE], LABEL: label, GROUP: group, FOLD: row[FOLD]}
        for row in table.to_dict("records")
        for label in ([row[LABEL]] if row[LABEL] is not None else labels)
        for group in ([row[GROUP]] if row[GROUP] is not None else groups[1:])
    ]
    found = pd.DataFrame(expanded, columns=columns)
    twice = found.duplicated([GENE, LABEL, GROUP])
    if twice.any():
        gene, label, group, _ = found[twice].iloc[0]
        raise ValueError(
            f"effects must change a gene once in a label and group, got {gene!r} in {label!r} and {group!r} "
            "twice."
        )
    return found


def log_factors(effects: pd.DataFrame, genes: pd.Index) -> dict[tuple[str, str], np.ndarray]:
    """Return the natural log factors of the genes, (n_genes,), by label and group."""
    factors = {}
    for (label, group), part in effects.groupby([LABEL, GROUP], sort=False):
        values = np.zeros(len(genes), np.float32)
        values[genes.get_indexer(pd.Index(part[GENE]))] = part[FOLD] * np.log(2)
        factors[str(label), str(group)] = values
    return factors
