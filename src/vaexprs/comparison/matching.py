"""Matching of real to generated cells: same levels of covariates, same sequencing depth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from vaexprs.data.groups import group_key
from vaexprs.data.levels import find_level
from vaexprs.data.matrix import Matrix, as_float

MIN_CELLS = 20  # minimum number of real cells with the requested levels for a comparison with them alone
MAX_DEPTH_RATIO = 1.1  # maximum ratio of median library sizes that counts as equal depth
SEED = 0  # seed of binomial thinning


def only_generated(cells: ad.AnnData, notes: list[str]) -> ad.AnnData:
    """Return the generated cells of an AnnData that holds real cells too (`augment`, `to_anndata`)."""
    key = group_key(cells.obs)
    if key is None:
        return cells
    group = cells.obs[key].astype(str)
    real = (group == "real").to_numpy()
    if not real.any() or not (group[~real] == "generated").any() or set(group) > {"real", "generated"}:
        return cells
    notes.append(
        f"Of the {cells.n_obs:,} cells given as generated, {real.sum():,} are real (obs[{key!r}]) and were "
        "left out."
    )
    return cells[~real]


def with_requested_levels(
    real: Mapping[str, ad.AnnData], recipe: Mapping[str, Any], notes: list[str]
) -> dict[str, ad.AnnData]:
    """Return the real cells with the levels of covariates requested for the generated cells.

    All real cells are returned if a set lacks a column or has fewer than 20 such cells.

    Parameters
    ----------
    real
        Sets of real cells by name.
    recipe
        Recipe of the generated cells.
    notes
        List to which a remark is appended.
    """
    requested = _requested_levels(recipe)
    if not requested:
        return dict(real)
    levels = ", ".join(f"{key} {level}" for key, level in requested.items())
    kept = {}
    for name, cells in real.items():
        missing = [key for key in requested if key not in cells.obs]
        if missing:
            notes.append(
                f"The cells were generated with {levels}; the {name} cells have no column {missing[0]!r}, so "
                "all real cells were compared."
            )
            return dict(real)
        mask = np.ones(cells.n_obs, bool)
        for key, level in requested.items():
            column = cells.obs[key]
            wanted = [value for value in column.unique() if find_level(value, [level]) is not None]
            mask &= column.isin(wanted).to_numpy()
        if mask.sum() < MIN_CELLS:
            notes.append(
                f"The cells were generated with {levels}; of the {name} cells, only {mask.sum():,} have "
                "them, so all real cells were compared. Some differences are due to the requested levels."
            )
            return dict(real)
        kept[name] = cells[mask]
    numbers = ", ".join(f"{kept[name].n_obs:,} of {cells.n_obs:,} {name}" for name, cells in real.items())
    notes.append(
        f"The cells were generated with {levels}, and are compared with real cells with these levels: "
        f"{numbers}."
    )
    return kept


def _requested_levels(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Return the levels of covariates in a recipe; empty if it has none or they are not valid JSON."""
    try:
        levels = json.loads(str(recipe.get("covariates", "")))
    except ValueError:
        return {}
    return {str(key): str(level) for key, level in levels.items()} if isinstance(levels, dict) else {}


def at_equal_depth(
    raw: dict[str, Matrix], obs: Mapping[str, pd.DataFrame], recipe: Mapping[str, Any], notes: list[str]
) -> dict[str, Matrix]:
    """Return the counts of all sets at equal depth, if a library size was requested for the generated cells.

    The counts of the deeper cells are thinned binomially with the ratio of the median library sizes, which
    turns negative binomial counts of one mean into those of another. Without it, metrics would measure the
    difference in depth only.

    Parameters
    ----------
    raw
        Counts by set; one set is "generated".
    obs
        Cell annotation by set; the depth of real cells is that of the generated labels.
    recipe
        Recipe of the generated cells.
    notes
        List to which a remark is appended.
    """
    requested = recipe.get("library_size", "real")
    if not isinstance(requested, (int, float, np.number)):
        return raw
    key = recipe.get("label_key") or None
    made = None if key not in obs["generated"] else set(obs["generated"][key].astype(str))
    totals = {name: np.asarray(x.sum(axis=1)).ravel() for name, x in raw.items()}
    real = [
        total if made is None or key not in obs[name] else total[obs[name][key].astype(str).isin(made)]
        for name, total in totals.items()
        if name != "generated"
    ]
    if not sum(map(len, real)):
        return raw
    depths = float(np.median(totals["generated"])), float(np.median(np.concatenate(real)))
    low, high = min(depths), max(depths)
    if not low or high < MAX_DEPTH_RATIO * low:
        return raw
    deeper = ["generated"] if depths[0] > depths[1] else [name for name in raw if name != "generated"]
    notes.append(
        f"The cells were generated with {requested:,.0f} counts per cell, the real cells have "
        f"{depths[1]:,.0f} (median): the {'generated' if depths[0] > depths[1] else 'real'} cells were "
        f"thinned to {low:,.0f}."
    )
    rng = np.random.default_rng(SEED)
    return raw | {name: _thinned(raw[name], low / high, rng) for name in deeper}


def _thinned(x: Matrix, share: float, rng: np.random.Generator) -> Matrix:
    """Return binomially thinned counts; `share` is the probability of keeping each count."""
    if not sp.issparse(x):
        return as_float(rng.binomial(np.rint(x).astype(np.int64), share))
    thinned = x.copy()
    thinned.data = rng.binomial(np.rint(x.data).astype(np.int64), share).astype(np.float32)
    thinned.eliminate_zeros()
    return thinned
