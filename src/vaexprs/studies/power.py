"""`power`: the fraction of planted effects that a planned study would find."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from vaexprs.generation.sampler import BLOCK, CellSampler, Plan
from vaexprs.interface import html as markup
from vaexprs.interface.errors import require
from vaexprs.interface.parallel import in_order
from vaexprs.interface.progress import progress_bar
from vaexprs.interface.validation import check_choice, check_integer, check_real, did_you_mean, listed
from vaexprs.model.vae_fit import VAEFit, check_fit
from vaexprs.studies.design import Design, StudyCells, check_design, donor_column, plan_study
from vaexprs.studies.effects import FOLD, GROUP, Effects
from vaexprs.studies.expression_tests import MIN_DONORS, TESTS, Samples, compute_p_values
from vaexprs.studies.simulate import ExpectedCounts, study_plan

GROUPS = ("control", "treated")  # groups of the designs of a grid
GRID = ("donors", "cells", "depth", FOLD)  # keys of a grid
TARGET = 0.8  # power that the sentence asks for
NOMINAL = 0.05  # p-values of null genes below it are counted as `type1`
INTERVAL = 0.95  # coverage of the intervals
EXPRESSION = ("lowest quarter", "second quarter", "third quarter", "highest quarter")
MAX_DRAWS = 50  # draws of altered genes that do not fit into the library
SEED_OF_POWER = 3  # first element of the spawn keys of replicates


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


@dataclass(frozen=True)
class _Scenario:
    """A design with a log2 fold change."""

    design: Design
    effects: Effects

    @property
    def groups(self) -> tuple[str, str]:
        """The reference, and the group with the effects."""
        reference, treated = self.design.groups
        return reference, treated


@dataclass(frozen=True)
class _Outcome:
    """Result of a replicate; fractions without genes are NaN."""

    power: float
    false: float
    type1: float
    tested: int
    cells: float
    by_expression: np.ndarray


def power(
    fit: VAEFit,
    designs: Design | Sequence[Design] | Mapping[str, Any],
    effects: Effects | None = None,
    *,
    label: str | None = None,
    test: str = "t-test",
    replicates: int = 10,
    fdr: float = 0.05,
    seed: int = 0,
    jobs: int | None = None,
    progress: bool = True,
) -> Power:
    """Estimate the power of planned studies by simulation.

    Each replicate draws new donors, their cells of one label and the altered genes, as `simulate` does, and
    tests all genes between the second and the first group.

    Parameters
    ----------
    fit
        A fit with `donor_key`, returned by `fit_vae` or `load_vae`.
    designs
        A grid: a mapping with numbers of "donors" (of each of the groups "control" and "treated"), "cells"
        (of the label from each donor), and optionally "depth" (default: 1) and "log2_fold_change" (default:
        that of `effects`). All combinations are simulated. Or one or several `Design` with two groups, which
        may be paired.
    effects
        Altered genes (default: ``Effects()``, 10% of the genes).
    label
        Label whose cells are compared. Required if the fit has several labels, unless the designs give
        numbers of cells of one label.
    test
        "t-test": Student's t-test of log2 counts of pseudobulks (sums of each donor's counts), normalised by
        median ratios, and paired in a paired design. "pydeseq2": the Wald test of PyDESeq2 on pseudobulks
        (``pip install pydeseq2``). "wilcoxon": rank-sum test of log-normalised cells, which ignores that
        cells of a donor are alike.
    replicates
        Number of simulated studies of each design.
    fdr
        False discovery rate (Benjamini & Hochberg 1995).
    seed
        The same seed gives the same result, with any number of jobs.
    jobs
        Number of replicates that are computed at the same time (default: number of cores). Each keeps the
        pseudobulks in memory; with "wilcoxon" its cells.
    progress
        Whether to show a progress bar.

    Returns
    -------
    Power
        Its ``table`` has for each design and log2 fold change:

        * ``donors`` (of the smaller group), ``cells`` (mean number of the label from each donor), ``depth``,
          ``log2_fold_change``, ``test`` and ``replicates``;
        * ``power``: fraction of the altered genes that are found; genes with fewer than ten counts in all
          samples are not tested and count as not found;
        * ``fdr``: false discovery proportion, the fraction of the found genes that are not altered;
        * ``type1``: fraction of the tested genes without effect with p < .05;
        * ``genes_tested``: mean number of tested genes.

        Power, fdr and type1 are means over replicates, with 95% t intervals (``_low`` and ``_high``; NaN if
        all replicates agree).

    Raises
    ------
    ValueError
        If the fit has no donors, a design has not two groups, fewer than two donors a group, or groups with
        different covariates, a name is unknown or a number is out of range.
    TypeError
        If an argument has the wrong type.
    ImportError
        If `test` is "pydeseq2", which is not installed.

    Notes
    -----
    Power depends on expression: few counts hide even large changes. ``by_expression`` has the power of each
    quarter of the genes, and ``Effects(min_mean=...)`` excludes rarely expressed ones.

    Examples
    --------
    >>> import vaexprs as vx
    >>> cells = vx.demo_cells()
    >>> cells.obs["donor"] = [f"donor {i % 6}" for i in range(cells.n_obs)]
    >>> fit = vx.fit_vae(cells, label_key="cell_type", donor_key="donor", epochs=2, verbose=0)
    >>> grid = {"donors": [3, 6], "cells": 30, "log2_fold_change": [1, 2]}
    >>> result = vx.power(fit, grid, label="CD34+", replicates=2, progress=False)
    >>> result.table[["donors", "cells", "log2_fold_change"]].to_numpy().tolist()
    [[3.0, 30.0, 1.0], [3.0, 30.0, 2.0], [6.0, 30.0, 1.0], [6.0, 30.0, 2.0]]
    """
    check_fit(fit, "fit")
    if fit.donors is None:
        raise ValueError(
            "power requires a fit with donor_key, such as fit_vae(adata, label_key='cell_type', "
            "donor_key='donor'): power depends on how donors vary."
        )
    check_choice("test", test, tuple(TESTS))
    if test == "pydeseq2":
        require("pydeseq2", "pydeseq2", "The test 'pydeseq2'")
    replicates = check_integer("replicates", replicates, 1)
    fdr = check_real("fdr", fdr, 0, below=1)
    if fdr == 0:
        raise ValueError("fdr must be above 0, got 0. Try 0.05.")
    seed = check_integer("seed", seed, 0)
    jobs = os.cpu_count() or 1 if jobs is None else check_integer("jobs", jobs, 1)
    effects = Effects() if effects is None else effects
    if not isinstance(effects, Effects):
        raise TypeError(
            "effects must be a vaexprs.Effects, such as Effects(genes=0.1, log2_fold_change=1), got "
            f"{type(effects).__name__}."
        )
    label = _check_label(fit, label, designs)
    scenarios = _scenarios(fit, designs, replace(effects, labels=None), label, test)
    studies = [_Studies(fit, label, test, fdr, scenario) for scenario in scenarios]

    calls = [(i, r) for i in range(len(scenarios)) for r in range(replicates)]
    outcomes: list[list[_Outcome]] = [[] for _ in scenarios]
    with (
        warnings.catch_warnings(),  # here, because threads share the filters
        _executors(jobs, TESTS[test].holds_gil) as (pool, compute),
        progress_bar(len(calls), "power", "replicate", shown=progress) as bar,
    ):
        warnings.filterwarnings("ignore", category=RuntimeWarning, module="scipy")  # genes with equal values
        submitted = (partial(pool.submit, studies[i].replicate, (seed, i, r), compute) for i, r in calls)
        for (i, _), outcome in zip(calls, in_order(submitted, 2 * jobs, Future.result), strict=True):
            outcomes[i].append(outcome)
            bar.update(1)
    rows = [_row(scenario, found, test) for scenario, found in zip(scenarios, outcomes, strict=True)]
    table = pd.DataFrame(rows)
    by_expression = [
        {name: row[name] for name in GRID}
        | {"expression": name, "power": _mean([found.by_expression[quarter] for found in of_design])}
        for row, of_design in zip(rows, outcomes, strict=True)
        for quarter, name in enumerate(EXPRESSION)
    ]
    return Power(table, pd.DataFrame(by_expression), label, test, fdr, effects, seed)


def _check_label(fit: VAEFit, label: Any, designs: Any) -> str | None:
    """Return the label whose cells are compared; None if the fit has no labels."""
    conditions = fit.preprocessing.conditions
    key = conditions.label_key
    if key is None:
        if label is not None:
            raise ValueError(f"label must be left out, because the fit has no label_key, got {label!r}.")
        return None
    if label is not None:
        return str(conditions.check(key, label))
    given = [designs] if isinstance(designs, Design) else designs if isinstance(designs, Sequence) else []
    named = {
        str(name)
        for design in given
        if isinstance(design, Design)
        for name in (design.cells if isinstance(design.cells, Mapping) else conditions.labels)
    }
    if len(named) != 1:
        named = set(conditions.labels)
    if len(named) != 1:
        raise ValueError(
            f"label must be one of the labels of the fit ({listed(list(conditions.labels), 20)}), got None."
        )
    return str(conditions.check(key, named.pop()))


def _scenarios(fit: VAEFit, designs: Any, effects: Effects, label: str | None, test: str) -> list[_Scenario]:
    """Return the checked designs with their effects."""
    if isinstance(designs, Mapping):
        found = _grid(designs, effects, label)
    elif isinstance(designs, Design):
        found = [_Scenario(designs, effects)]
    elif isinstance(designs, Sequence) and all(isinstance(each, Design) for each in designs) and designs:
        found = [_Scenario(design, effects) for design in designs]
    else:
        raise TypeError(
            "designs must be a grid such as {'donors': [4, 8], 'cells': [50, 200]}, a vaexprs.Design or a "
            f"list of them, got {designs!r}."
        )
    return [replace(each, design=_check_design(fit, each.design, label, test)) for each in found]


def _grid(grid: Mapping[str, Any], effects: Effects, label: str | None) -> list[_Scenario]:
    """Return the combinations of a grid."""
    for key in grid:
        if key not in GRID:
            raise ValueError(
                f"The keys of designs must be {listed(GRID)}, got {key!r}.{did_you_mean(key, GRID)}"
            )
    for key in ("donors", "cells"):
        if key not in grid:
            raise ValueError(f"designs must have numbers of {key}, as in {{{key!r}: [50, 200]}}.")
    given = {"depth": 1.0, FOLD: effects.log2_fold_change} | dict(grid)
    values: dict[str, list[Any]] = {}
    for key in GRID:
        several = [given[key]] if np.ndim(given[key]) == 0 else list(given[key])
        if not several:
            raise ValueError(f"designs[{key!r}] must have at least one number, got none.")
        if key in ("donors", "cells"):
            several = [check_integer(key, value, 1) for value in several]
        else:
            several = [check_real(key, value, 0) for value in several]
        values[key] = list(dict.fromkeys(several))
    return [
        _Scenario(
            Design(dict.fromkeys(GROUPS, donors), cells if label is None else {label: cells}, depth),
            replace(effects, log2_fold_change=fold),
        )
        for donors, cells, depth, fold in product(*values.values())
    ]


def _check_design(fit: VAEFit, design: Design, label: str | None, test: str) -> Design:
    """Return a checked design of two groups that differ in the planted effects only."""
    design = check_design(design, fit)
    if len(design.groups) != 2:
        raise ValueError(
            f"designs must have two groups, got {len(design.groups)} ({listed(list(design.groups))})."
        )
    if design.new_labels:
        raise ValueError(f"new_labels cannot be used in power, got {dict(design.new_labels)!r}.")
    first, second = (design.covariates.get(group, {}) for group in design.groups)
    if first != second:
        raise ValueError(
            "The groups of designs must have the same covariates, because they must differ in the planted "
            f"effects only, got {first!r} and {second!r}. Use other names of the groups or the same levels."
        )
    fewest = min(design.groups.values())
    if fewest < MIN_DONORS and TESTS[test].pseudobulk:
        raise ValueError(
            f"The test {test!r} requires at least {MIN_DONORS} donors a group, got {fewest}. Use more donors."
        )
    if label is not None and isinstance(design.cells, Mapping) and not design.cells.get(label):
        raise ValueError(
            f"designs must have cells of the label {label!r}, got {dict(design.cells)!r}. Add it to cells."
        )
    return design


@dataclass(frozen=True)
class _Studies:
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
    scenario: _Scenario

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

    def replicate(self, seed: tuple[int, int, int], compute: Callable[..., Any]) -> _Outcome:
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
        return _Outcome(
            _mean(found[altered]),
            float(found[~altered].sum() / max(found.sum(), 1)),
            _mean(p[~altered & tested] < NOMINAL),
            int(tested.sum()),
            len(plan.which) / sum(design.groups.values()),
            np.array([_mean(found[altered & (quarters == i)]) for i in range(len(EXPRESSION))]),
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


@contextmanager
def _executors(jobs: int, holds_gil: bool) -> Iterator[tuple[ThreadPoolExecutor, Callable[..., Any]]]:
    """Return threads that simulate, and the function that tests: in processes if it holds the GIL.

    After an error or Ctrl-C, replicates that have not started are cancelled.
    """
    pool, processes = ThreadPoolExecutor(jobs), None
    compute: Callable[..., Any] = compute_p_values
    if holds_gil and jobs > 1:
        from joblib.externals.loky import ProcessPoolExecutor

        processes = ProcessPoolExecutor(max_workers=jobs)

        def compute(*arguments: Any) -> Any:
            return processes.submit(compute_p_values, *arguments).result()

    try:
        yield pool, compute
    except BaseException:
        if processes is not None:
            processes.shutdown(wait=False, kill_workers=True)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        if processes is not None:
            processes.shutdown()


def _row(scenario: _Scenario, outcomes: Sequence[_Outcome], test: str) -> dict[str, Any]:
    """Return the row of the table for a design."""
    design, cells = scenario.design, _mean([found.cells for found in outcomes])
    row: dict[str, Any] = {
        "donors": min(design.groups.values()),
        "cells": int(cells) if cells == int(cells) else cells,
        "depth": design.depth,
        FOLD: float(scenario.effects.log2_fold_change),
        "test": test,
    }
    for name, of in (("power", "power"), ("fdr", "false"), ("type1", "type1")):
        row |= _with_interval(name, [getattr(found, of) for found in outcomes])
    return row | {"replicates": len(outcomes), "genes_tested": _mean([found.tested for found in outcomes])}


def _with_interval(name: str, values: Sequence[float]) -> dict[str, float]:
    """Return the mean of fractions, and its t interval within 0 and 1."""
    from scipy import stats

    known = np.array(values)[np.isfinite(values)]
    mean, reach = _mean(known), np.nan
    if len(known) > 1 and known.std() > 0:
        quantile = stats.t.ppf((1 + INTERVAL) / 2, len(known) - 1)
        reach = float(quantile * known.std(ddof=1) / np.sqrt(len(known)))
    return {name: mean, f"{name}_low": max(mean - reach, 0.0) if reach == reach else np.nan,
            f"{name}_high": min(mean + reach, 1.0) if reach == reach else np.nan}  # fmt: skip


def _mean(values: Any) -> float:
    """Return the mean of the values that are not NaN, NaN if there is none."""
    values = np.asarray(values, float)
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else np.nan


def _changes(fold: float) -> str:
    """Return the words for changes of a log2 fold change."""
    names = {1.0: "twofold", 2.0: "fourfold", 3.0: "eightfold"}
    return f"{names.get(float(fold), f'{2**fold:.2g}-fold')} changes"
