"""`simulate`: cells of a study that has not been run, with the true effects."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from vaexprs.generation.continuous import split_values
from vaexprs.generation.generated import Generated, origin, with_values
from vaexprs.generation.new_donors import matching_groups
from vaexprs.generation.sampler import CellSampler, Plan, draw_in_threads, with_progress
from vaexprs.generation.scaling import check_scale
from vaexprs.interface.errors import warn
from vaexprs.interface.validation import check_integer, listed
from vaexprs.io.atomic import check_output, written_whole
from vaexprs.io.write import check_new_cells
from vaexprs.model.vae_fit import VAEFit, check_fit
from vaexprs.studies.design import Design, StudyCells, check_design, donor_column, plan_study
from vaexprs.studies.effects import FOLD, GENE, GROUP, LABEL, Effects, check_effects, log_factors

SEED_OF_STUDY = (0, 2)  # blocks of cells have one-element spawn keys
STUDY_LABEL = "label of the study"  # name in the rows of a plan, which also have the label of the model
EXPECTATION_CELLS = 1_024  # latent vectors to compute the expected counts of a label


@dataclass(frozen=True)
class Study(Generated):
    """Cells of a simulated study, with the truth.

    Parameters
    ----------
    adata
        The cells: counts in X; donor, "group", label and covariates in `obs`; the recipe in
        ``uns["vaexprs"]``.
    fit
        The fit that generated them.
    truth
        A row for each gene, label and contrast of a group with the first group ("treated / control"), or of a
        new label with the label that it was made from: ``log2_fold_change`` as requested,
        ``expected_log2_fold_change`` of the mean counts at equal depth, and whether the gene is ``null``.
    """

    truth: pd.DataFrame

    def __repr__(self) -> str:
        changed = int((~self.truth["null"].astype(bool)).sum())
        return (
            f"Study: {self.adata.n_obs:,} cells x {self.adata.n_vars:,} genes, "
            f"{self.adata.obs[donor_column(self.fit)].nunique()} donors, groups "
            f"{', '.join(self.adata.obs[GROUP].cat.categories)}, {changed:,} effects"
        )


def simulate(
    x: VAEFit,
    design: Design,
    effects: Effects | pd.DataFrame | None = None,
    *,
    scale: Mapping[str, float] | None = None,
    seed: int = 0,
    progress: bool = True,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> Study:
    r"""Simulate a study with new donors and known effects.

    Parameters
    ----------
    x
        A fit returned by `fit_vae` or `load_vae`; with `donor_key` its donors vary.
    design
        Groups, donors, cells and depth.
    effects
        Differential expression: `Effects` to draw it, or a table with the columns "gene" and
        "log2_fold_change" and optionally "label" (default: all labels) and "group" (default: all groups but
        the first; for a new label all groups).
    scale
        Factors of the effects of covariates or donors of the fit: ``{"batch": 0}`` removes the differences
        between batches, 0.5 halves and 2 doubles them, on the log scale; depth is kept.
    seed
        The same seed gives the same study.
    progress
        Whether to show a progress bar for many cells.
    out
        File or folder to write the cells to, in any format of `write`. The truth is written beside them as
        ``name.truth.csv``.
    overwrite
        Whether existing output may be replaced.

    Returns
    -------
    Study
        With ``adata``, ``truth`` and ``fit``.

    Raises
    ------
    ValueError
        If a gene, label, group or level is unknown, a number is out of range, or altered genes would need
        more than the library.
    TypeError
        If an argument has the wrong type.
    FileExistsError
        If output exists and `overwrite` is false.

    Notes
    -----
    The expected count of gene g in a cell with size factor L is :math:`L\, p_g\, 2^{\beta_g}` with the
    proportion :math:`p_g` of the model and the log2 fold change :math:`\beta_g`. The proportions are not
    normalised again: genes without effect have exactly the same expected counts in all groups, and the total
    of a cell changes by that of the altered genes. Methods that divide by the total (counts per million)
    therefore find a small common shift of all other genes if the effects are not balanced; methods with
    robust size factors (DESeq2, TMM) do not.

    Examples
    --------
    >>> import vaexprs as vx
    >>> fit = vx.fit_vae(vx.demo_cells(), label_key="cell_type", epochs=2, verbose=0)
    >>> design = vx.Design({"control": 3, "treated": 3}, cells={"CD34+": 20})
    >>> study = vx.simulate(fit, design, vx.Effects(genes=10, log2_fold_change=1), progress=False)
    >>> study.adata.n_obs, int((~study.truth["null"]).sum())
    (120, 100)
    """
    check_fit(x, "x")
    if not x.likelihood.counts:
        raise ValueError(f"simulate requires a fit to counts, got likelihood {x.likelihood.name!r}.")
    seed = check_integer("seed", seed, 0)
    design = check_design(design, x)
    scale = {} if scale is None else check_scale(x, scale)
    truth_path = None
    if out is not None:
        check_new_cells(out, overwrite=overwrite)
        truth_path = check_output(truth_beside(out), overwrite=overwrite)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=SEED_OF_STUDY))
    cells = plan_study(x, design, rng)
    if x.donors is None and max(design.groups.values()) > 1:
        warn(
            "The donors of the study do not differ, because the fit has no donors. Fit with donor_key to "
            "learn how donors vary."
        )
    baseline = ExpectedCounts(x, design, scale)
    table = requested_effects(effects, x, design, cells, baseline, rng)
    plan = study_plan(x, cells, design, table, scale, seed)
    baseline.check_library(table, x.genes)
    truth = true_effects(x, design, cells, table, baseline)

    adata = study_cells(x, plan, cells)
    adata.uns["vaexprs"] = origin(x) | {
        "seed": seed,
        "n_cells": adata.n_obs,
        "groups": json.dumps(design.groups),
        "depth": design.depth,
        "scale": json.dumps(scale),
        "n_effects": len(table),
    }
    blocks = draw_in_threads(CellSampler.of(x, plan), plan, plan.n_blocks)
    blocks = with_progress(blocks, adata.n_obs, progress)
    adata = with_values(adata, blocks, out, counts=True, overwrite=overwrite)
    if truth_path is not None:
        with written_whole(truth_path, overwrite=overwrite) as temporary:
            truth.to_csv(temporary, index=False)
    return Study(adata, x, truth)


def truth_beside(out: str | os.PathLike[str]) -> Path:
    """Return the path of the truth of a study with cells at `out`."""
    path = Path(out)
    return path.with_name(f"{path.name.split('.')[0]}.truth.csv")


def study_cells(fit: VAEFit, plan: Plan, cells: StudyCells) -> ad.AnnData:
    """Return the annotation of the cells of a study."""
    donors = list(dict.fromkeys(row[donor_column(fit)] for row in cells.rows))
    groups = list(dict.fromkeys(row[GROUP] for row in cells.rows))
    levels = dict(fit.levels) | {donor_column(fit): tuple(donors), GROUP: tuple(groups)}
    obs = plan.obs(levels)
    labels = obs.pop(STUDY_LABEL).astype(str)
    key = fit.preprocessing.conditions.label_key
    if key is not None:
        known = [*fit.preprocessing.conditions.labels]
        known += [label for label in dict.fromkeys(cells.labels) if label not in known]
        obs[key] = pd.Categorical(labels, categories=known)
    return ad.AnnData(obs=obs, var=pd.DataFrame(index=fit.genes))


def requested_effects(
    effects: Any,
    fit: VAEFit,
    design: Design,
    cells: StudyCells,
    baseline: ExpectedCounts,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Return the effects as a checked table with the columns gene, label, group and log2_fold_change."""
    labels, groups = list(dict.fromkeys(cells.labels)), list(design.groups)
    if effects is None:
        effects = pd.DataFrame({GENE: [], FOLD: []})
    elif isinstance(effects, Effects):
        if len(groups) < 2:
            raise ValueError("Effects between groups require two groups, got one. Add a group to the design.")
        means = {label: baseline.of(label, groups[0]) for label in labels}
        effects = effects.draw(fit.genes, means, rng)
        if fit.preprocessing.conditions.label_key is None:
            effects = effects.drop(columns=LABEL)
    else:
        effects = pd.DataFrame(effects)
    new = [label for label in labels if label in design.new_labels]
    if new and LABEL in effects:  # effects that define a new label hold in all groups
        group = effects[GROUP] if GROUP in effects else pd.Series([None] * len(effects), effects.index)
        everywhere = effects[LABEL].astype(str).isin(new) & group.isna()
        defining = [effects[everywhere].assign(**{GROUP: name}) for name in groups]
        effects = pd.concat([effects[~everywhere], *defining], ignore_index=True)
    return check_effects(effects, fit, labels, groups)


def study_plan(
    fit: VAEFit,
    cells: StudyCells,
    design: Design,
    effects: pd.DataFrame,
    scale: Mapping[str, float],
    seed: int,
) -> Plan:
    """Return the plan of the cells of a study with the factors of the altered genes."""
    factors = log_factors(effects, fit.genes)
    numbers = {key: i for i, key in enumerate(factors)}
    rows: list[dict[str, Any]] = [
        row | {STUDY_LABEL: label} for row, label in zip(cells.rows, cells.labels, strict=True)
    ]
    rows, which, continuous = split_values(fit, rows, cells.which, seed)
    return Plan(
        rows,
        which,
        None,
        seed,
        donors=cells.donors,
        factors=np.stack(list(factors.values())) if factors else None,
        factor_of=[numbers.get((row[STUDY_LABEL], row[GROUP]), -1) for row in rows],
        scale=scale,
        depth=design.depth,
        continuous=continuous,
    )


class ExpectedCounts:
    """Expected counts of each gene without effects, by label and group, for the average donor.

    Covariates that the design does not set follow the training proportions, as they do for new donors.

    Parameters
    ----------
    fit
        The fit.
    design
        A checked design.
    scale
        Factors of the effects of covariates.
    """

    def __init__(self, fit: VAEFit, design: Design, scale: Mapping[str, float]) -> None:
        self.fit, self.design, self.scale = fit, design, scale
        self._known: dict[tuple[tuple[str, Any], ...], np.ndarray] = {}

    def of(self, label: str, group: str) -> np.ndarray:
        """Return the expected counts of the cells of a label and group, (n_genes,)."""
        fit, levels = self.fit, dict(self.design.covariates.get(group, {}))
        source = self.design.new_labels.get(label, label) or None
        groups = matching_groups(fit, source, levels)
        weights = fit.density.cells[groups] / fit.density.cells[groups].sum()
        found = [self._combination(dict(fit.density.seen[k]) | levels) for k in groups]
        return self.design.depth * np.asarray(weights @ np.stack(found))

    def _combination(self, row: dict[str, Any]) -> np.ndarray:
        """Return the expected counts of a combination, at the mean basis of values that it does not have."""
        key, continuous = tuple(row.items()), self.fit.preprocessing.conditions.continuous
        if key not in self._known:
            values = {name: np.array([row.get(name, spline.low)]) for name, spline in continuous.items()}
            plan = Plan([row], np.zeros(1, int), None, 0, scale=self.scale, continuous=values)
            sampler = CellSampler.of(self.fit, plan, donors=False)
            basis = [
                spline.basis(values[name])[0] if name in row else np.zeros(spline.degrees)
                for name, spline in continuous.items()
            ]
            self._known[key] = sampler.expected(
                0, EXPECTATION_CELLS, np.concatenate(basis) if basis else None
            )
        return self._known[key]

    def same(self, groups: tuple[str, str]) -> bool:
        """Return whether the cells of two groups have the same expected counts without effects."""
        one, two = (dict(self.design.covariates.get(group, {})) for group in groups)
        return one == two

    def check_library(self, effects: pd.DataFrame, genes: pd.Index) -> None:
        """Raise ValueError if altered genes would need more counts than the library."""
        for (label, group), factor in log_factors(effects, genes).items():
            means = self.of(label, group)
            altered = factor != 0
            needed = float((means * np.exp(factor))[altered].sum() / means.sum())
            if needed > 1:
                worst = np.argsort(-means * np.exp(factor) * altered)[:3]
                raise ValueError(
                    f"effects on {label or 'the cells'!r} in group {group!r} must fit into the library, but "
                    f"the altered genes would need {needed:.1f} times its counts (first "
                    f"{listed(list(genes[worst]), 3)}). Use smaller fold changes or fewer genes."
                )


def true_effects(
    fit: VAEFit, design: Design, cells: StudyCells, effects: pd.DataFrame, baseline: ExpectedCounts
) -> pd.DataFrame:
    """Return the truth of a study; see `Study`."""
    factors = {key: factor / np.log(2) for key, factor in log_factors(effects, fit.genes).items()}
    zero = np.zeros(len(fit.genes))
    groups, parts = list(design.groups), []
    labels = list(dict.fromkeys(cells.labels))

    def add(label: str, contrast: str, asked: np.ndarray, pair: list[tuple[str, str]], same: bool) -> None:
        expected = asked
        if not same:
            reference, other = (np.maximum(baseline.of(*key), 1e-12) for key in pair)
            expected = asked + np.log2(other / reference)
        parts.append(
            pd.DataFrame(
                {
                    GENE: fit.genes,
                    LABEL: label,
                    "contrast": contrast,
                    FOLD: asked,
                    f"expected_{FOLD}": expected,
                    "null": expected == 0,
                }
            )
        )

    for label in labels:
        for group in groups[1:]:
            pair = [(label, groups[0]), (label, group)]
            asked = factors.get(pair[1], zero) - factors.get(pair[0], zero)
            add(label, f"{group} / {groups[0]}", asked, pair, baseline.same((groups[0], group)))
        source = design.new_labels.get(label)
        if source is not None:
            asked = factors.get((label, groups[0]), zero) - factors.get((source, groups[0]), zero)
            add(label, f"{label} / {source}", asked, [], True)
    columns = [GENE, LABEL, "contrast", FOLD, f"expected_{FOLD}", "null"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
