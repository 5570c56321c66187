"""What cells were asked to be, real ones beside them must be too: the same levels, the same depth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from vaexprs.data.matrix import Matrix, as_float

MIN_CELLS = 20  # real cells with the levels asked for, for a comparison with them alone
ALIKE = 1.1  # ratio of library sizes up to which they are taken as alike
SEED = 0  # of which counts are kept


def only_generated(cells: ad.AnnData, notes: list[str]) -> ad.AnnData:
    """Return the generated ones of cells that `augment` or `to_anndata` put together with real ones."""
    if "group" not in cells.obs:
        return cells
    group = cells.obs["group"].astype(str)
    real = (group == "real").to_numpy()
    if not real.any() or not (group[~real] == "generated").any() or set(group) > {"real", "generated"}:
        return cells
    notes.append(
        f"Of the {cells.n_obs:,} cells that were given as generated {real.sum():,} are real (obs['group']) "
        "and were left out."
    )
    return cells[~real]


def with_levels_asked(
    real: Mapping[str, ad.AnnData], recipe: Mapping[str, Any], notes: list[str]
) -> dict[str, ad.AnnData]:
    """Return real cells with the levels of covariates that generated ones were asked to have.

    Parameters
    ----------
    real
        Sets of real cells by name.
    recipe
        How the generated cells were made.
    notes
        Gets a sentence on what was done.
    """
    asked = _levels(recipe)
    if not asked:
        return dict(real)
    told = ", ".join(f"{key} {level}" for key, level in asked.items())
    kept = {}
    for name, cells in real.items():
        if not set(asked) <= set(cells.obs):
            notes.append(f"The cells were asked for with {told}; the {name} cells do not say what they have.")
            return dict(real)
        mask = np.ones(cells.n_obs, bool)
        for key, level in asked.items():
            mask &= (cells.obs[key].astype(str) == level).to_numpy()
        if mask.sum() < MIN_CELLS:
            notes.append(
                f"The cells were asked for with {told}; of the {name} cells only {mask.sum():,} are so, and "
                "all were compared: some differences are those that were asked for."
            )
            return dict(real)
        kept[name] = cells[mask]
    numbers = ", ".join(f"{kept[name].n_obs:,} of {cells.n_obs:,} {name}" for name, cells in real.items())
    notes.append(
        f"The cells were asked for with {told}, and are compared with real ones that are so: {numbers}."
    )
    return kept


def _levels(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Return the levels that a recipe says were asked for; none where it is not one of ours."""
    try:
        asked = json.loads(str(recipe.get("covariates", "")))
    except ValueError:
        return {}
    return {str(key): str(level) for key, level in asked.items()} if isinstance(asked, dict) else {}


def at_one_depth(
    raw: dict[str, Matrix], obs: Mapping[str, pd.DataFrame], recipe: Mapping[str, Any], notes: list[str]
) -> dict[str, Matrix]:
    """Return counts of sets at one depth, where the generated cells were asked to have another.

    Each count of the deeper cells is kept with the ratio of the median library sizes as its probability,
    which turns negative binomial counts of one mean into those of another. Deeper cells would be told from
    the others, and lie nearer to all, by nothing but their depth.

    Parameters
    ----------
    raw
        Counts by set, of which one is "generated".
    obs
        Annotation by set; real cells of the labels that were generated say how deep real ones are.
    recipe
        How the generated cells were made.
    notes
        Gets a sentence on what was done.
    """
    asked = recipe.get("library_size", "real")
    if not isinstance(asked, (int, float, np.number)):
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
    if not low or high < ALIKE * low:
        return raw
    deeper = ["generated"] if depths[0] > depths[1] else [name for name in raw if name != "generated"]
    notes.append(
        f"The cells were asked for with {asked:,.0f} counts, while real ones have {depths[1]:,.0f} (median): "
        f"the {'generated' if depths[0] > depths[1] else 'real'} cells are compared as they would be with "
        f"{low:,.0f}."
    )
    rng = np.random.default_rng(SEED)
    return raw | {name: _thinned(raw[name], low / high, rng) for name in deeper}


def _thinned(x: Matrix, share: float, rng: np.random.Generator) -> Matrix:
    """Return counts each of which is kept with a probability."""
    if not sp.issparse(x):
        return as_float(rng.binomial(np.rint(x).astype(np.int64), share))
    thinned = x.copy()
    thinned.data = rng.binomial(np.rint(x.data).astype(np.int64), share).astype(np.float32)
    thinned.eliminate_zeros()
    return thinned
