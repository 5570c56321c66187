"""Draw a second set of cells like the first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import anndata as ad
import pandas as pd

from vaexprs.generation.generate import gen_exprs
from vaexprs.generation.requests import NUMBER
from vaexprs.model.vae_fit import VAEFit, check_fit

MAX_OF_CONDITION = 1_200


def draw_again(fit: VAEFit, cells: ad.AnnData, recipe: Mapping[str, Any], seed: int) -> ad.AnnData:
    """Return cells of each condition of `cells`, drawn from the fit with another seed.

    As many as there are in `cells`, but at most 1,200 of each condition, with the values of continuous
    covariates of `cells`.

    Parameters
    ----------
    fit
        The fit.
    cells
        The generated cells, with the conditions of the fit in `obs`.
    recipe
        How they were generated.
    seed
        The seed of the new cells is far from that of the recipe, and depends on this one.

    Raises
    ------
    ValueError
        If the conditions of the cells are not those of the fit.
    """
    check_fit(fit, "fit")
    own = int(recipe.get("seed", 0)) + 1_000_003 * (seed + 1)
    new_donors = _new_donors(fit, cells, recipe)
    keys = [key for key in fit.levels if key in cells.obs and new_donors is None]
    library_size = recipe.get("library_size", "real")
    requested: dict[str, Any] = {"num_samples": cells.n_obs}
    if keys:
        numbers = cells.obs[keys].astype(str).value_counts().clip(upper=MAX_OF_CONDITION)
        requested = {"conditions": pd.DataFrame(numbers.rename(NUMBER).reset_index())}
    continuous = [key for key in fit.preprocessing.conditions.continuous if key in cells.obs]
    if continuous and new_donors is None:
        requested = {"conditions": _table_of_cells(cells.obs, keys, continuous, own)}
    levels = json.loads(str(recipe.get("covariates", "")) or "{}")
    if new_donors is not None:
        number = new_donors if isinstance(new_donors, int) else sum(new_donors.values())
        requested = {"num_samples": min(cells.n_obs, MAX_OF_CONDITION * number), "donors": new_donors}
    if not keys and not continuous and levels:
        requested["covariates"] = levels
    return gen_exprs(fit, **requested, library_size=library_size, seed=own, progress=False).adata


def _new_donors(fit: VAEFit, cells: ad.AnnData, recipe: Mapping[str, Any]) -> Any:
    """Return the number of new donors in the cells, or numbers by level; None if there are no new donors."""
    if fit.donors is None:
        return None
    requested = json.loads(str(recipe.get("donors", "")) or "null")
    if requested is None and fit.donors.key in cells.obs:  # a simulated study
        names = set(cells.obs[fit.donors.key].astype(str))
        return None if names <= set(fit.donors.names) else len(names)
    return requested


def _table_of_cells(obs: pd.DataFrame, keys: list[str], continuous: list[str], seed: int) -> pd.DataFrame:
    """Return a table of conditions with a row for each cell, at most 1,200 of each combination of levels."""
    table = obs[keys + continuous].astype(dict.fromkeys(keys, str)).sample(frac=1, random_state=seed % 2**32)
    if keys:
        return table.groupby(keys).head(MAX_OF_CONDITION).assign(**{NUMBER: 1})
    return table.head(MAX_OF_CONDITION).assign(**{NUMBER: 1})
