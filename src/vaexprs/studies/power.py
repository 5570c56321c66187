"""`power`: the fraction of planted effects that a planned study would find."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from vaexprs.interface.errors import require
from vaexprs.interface.parallel import in_order
from vaexprs.interface.progress import progress_bar
from vaexprs.interface.validation import check_choice, check_integer, check_real
from vaexprs.model.vae_fit import VAEFit, check_fit
from vaexprs.studies.design import Design
from vaexprs.studies.effects import Effects
from vaexprs.studies.expression_tests import TESTS, compute_p_values
from vaexprs.studies.power_table import Power, power_tables
from vaexprs.studies.replicates import Outcome, Replicates
from vaexprs.studies.scenarios import label_of, scenarios_of


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
    label = label_of(fit, label, designs)
    scenarios = scenarios_of(fit, designs, replace(effects, labels=None), label, test)
    studies = [Replicates(fit, label, test, fdr, scenario) for scenario in scenarios]

    calls = [(i, r) for i in range(len(scenarios)) for r in range(replicates)]
    outcomes: list[list[Outcome]] = [[] for _ in scenarios]
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
    table, by_expression = power_tables(scenarios, outcomes, test)
    return Power(table, by_expression, label, test, fdr, effects, seed)


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
