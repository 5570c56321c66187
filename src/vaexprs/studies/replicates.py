"""Replicates of a planned study: simulated, tested, and compared with the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from vaexprs.generation.sampler import BLOCK, CellSampler, Plan
from vaexprs.model.vae_fit import VAEFit
from vaexprs.studies.design import Design, StudyCells, donor_column, plan_study
from vaexprs.studies.effects import FOLD, GROUP
from vaexprs.studies.expression_tests import TESTS, Samples
from vaexprs.studies.scenarios import Scenario
from vaexprs.studies.simulate import ExpectedCounts, study_plan

NOMINAL = 0.05  # p-values of null genes below it are counted as `type1`
EXPRESSION = ("lowest quarter", "second quarter", "third quarter", "highest quarter")
MAX_DRAWS = 50  # draws of altered genes that do not fit into the library
SEED_OF_POWER = 3  # first element of the spawn keys of replicates


@dataclass(frozen=True)
class Outcome:
    """Result of a replicate; fractions without genes are NaN."""

    power: float
    false: float
    type1: float
    tested: int
    cells: float
    by_expression: np.ndarray


@dataclass(frozen=True)
class Replicates:
    """Simulates and tests studies of a design, of the cells of a label.

    Parameters
    ----------
    fit, label, test, fdr
        See `power`.
    scenario
        Design and effects.
    """

    fit: VAEFit
    label: str | None
    test: str
    fdr: float
    scenario: Scenario

    def __post_init__(self) -> None:
        _ = self.mean  # computed once, before threads use it

    @cached_property
    def baseline(self) -> ExpectedCounts:
        """Expected counts without effects."""
        return ExpectedCounts(self.fit, self.scenario.design, {})

    @cached_property
    def mean(self) -> np.ndarray:
        """Expected counts of the label, (n_genes,), which both groups share."""
        return self.baseline.of(self.label or "", self.scenario.groups[0])

    def replicate(self, seed: tuple[int, int, int], compute: Callable[..., Any]) -> Outcome:
        """Return the result of one simulated study.

        Parameters
        ----------
        seed
            Seed of all studies, number of the design, and number of the replicate.
        compute
            Function that calls `compute_p_values`.
        """
        rng = np.random.default_rng(np.random.SeedSequence(seed[0], spawn_key=(SEED_OF_POWER, *seed[1:])))
        design = self.scenario.design
        cells = self._of_label(plan_study(self.fit, design, rng))
        table = self._effects(rng)
        plan = study_plan(self.fit, cells, design, table, {}, int(rng.integers(2**63)))
        samples = self._samples(plan, design)
        p, adjusted = compute(self.test, samples, self.fdr)

        altered = np.zeros(len(self.fit.genes), bool)
        altered[self.fit.genes.get_indexer(pd.Index(table["gene"][table[FOLD] != 0]))] = True
        found, tested = adjusted <= self.fdr, np.isfinite(p)
        quarters = np.argsort(np.argsort(self.mean)) * len(EXPRESSION) // len(self.mean)
        return Outcome(
            known_mean(found[altered]),
            float(found[~altered].sum() / max(found.sum(), 1)),
            known_mean(p[~altered & tested] < NOMINAL),
            int(tested.sum()),
            len(plan.which) / sum(design.groups.values()),
            np.array([known_mean(found[altered & (quarters == i)]) for i in range(len(EXPRESSION))]),
        )

    def _effects(self, rng: np.random.Generator) -> pd.DataFrame:
        """Draw altered genes, again if they would need more counts than the library has."""
        effects, treated, name = self.scenario.effects, self.scenario.groups[1], self.label or ""
        for attempt in range(1, MAX_DRAWS + 1):
            table = effects.draw(self.fit.genes, {name: self.mean}, rng).assign(**{GROUP: treated})
            try:
                self.baseline.check_library(table, self.fit.genes)
            except ValueError:
                if attempt == MAX_DRAWS:
                    raise
            else:
                break
        return table

    def _of_label(self, cells: StudyCells) -> StudyCells:
        """Return the cells of the label, with the rows that they use."""
        own = np.array([self.label is None or label == self.label for label in cells.labels], bool)
        which = cells.which[own[cells.which]]
        if not len(which):
            raise ValueError(
                f"designs must have cells of the label {self.label!r}, got none. Increase cells."
            )
        used, numbers = np.unique(which, return_inverse=True)
        rows = [cells.rows[i] for i in used]
        return StudyCells(rows, [self.label or ""] * len(rows), numbers, cells.donors)

    def _samples(self, plan: Plan, design: Design) -> Samples:
        """Simulate the cells, and return the pseudobulks or the cells."""
        column, second = donor_column(self.fit), list(design.groups)[1]
        of_row = [(row[GROUP], row[column]) for row in plan.rows]
        names = list(dict.fromkeys(of_row))
        sample = np.array([names.index(each) for each in of_row])
        treated = np.array([group == second for group, _ in names])
        donors = np.array([donor for _, donor in names]) if design.paired else None
        sampler, pseudobulk = CellSampler.of(self.fit, plan), TESTS[self.test].pseudobulk
        total = np.zeros((len(names), len(self.fit.genes)), np.int64)
        blocks = []
        for number in range(plan.n_blocks):
            block = sampler.block(plan, number)
            if not pseudobulk:
                blocks.append(block)
                continue
            of_cell = sample[plan.which[number * BLOCK : (number + 1) * BLOCK]]
            sums = sp.csr_matrix((np.ones(len(of_cell), np.int64), (of_cell, np.arange(len(of_cell)))),
                                 (len(names), len(of_cell)))  # fmt: skip
            total += (sums @ block).toarray()
        if not pseudobulk:
            return Samples(sp.vstack(blocks, format="csr"), treated[sample[plan.which]])
        if donors is not None:  # donors without cells in one group have no pair
            both = np.array([int(np.sum(donors == donor)) == 2 for donor in donors])
            return Samples(total[both], treated[both], donors[both])
        return Samples(total, treated)


def known_mean(values: Any) -> float:
    """Return the mean of the values that are not NaN, NaN if there is none."""
    values = np.asarray(values, float)
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else np.nan
