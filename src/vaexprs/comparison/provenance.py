"""What `uns["vaexprs"]` records about how cells were generated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import anndata as ad

from vaexprs.data.count_detection import X_LAYER
from vaexprs.interface.errors import reason
from vaexprs.io.stores import StoredCells

PRIVACY = "privacy"  # key of the sentence of the privacy guarantee


def recipe_of(cells: ad.AnnData | StoredCells) -> dict[str, Any]:
    """Return what ``uns["vaexprs"]`` records about generated cells; empty where there is no such entry.

    Raises
    ------
    ValueError
        If it is not what `gen_exprs` writes.
    """
    found = cells.provenance if isinstance(cells, StoredCells) else cells.uns.get("vaexprs")
    recipe = {str(key): value for key, value in found.items()} if isinstance(found, Mapping) else {}
    try:
        for name in ("labels", "covariates", "conditions", "covariate_keys", "donors"):
            json.loads(str(recipe.get(name, "")) or "null")
        float(0 if recipe.get("library_size", "real") == "real" else recipe["library_size"])
        int(recipe.get("seed", 0))
        bool(recipe.get("counts", True))
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(
            "uns['vaexprs'] of the generated cells is not what gen_exprs writes: "
            f"{reason(error)} Remove it: del adata.uns['vaexprs']."
        ) from error
    return recipe


def has_dependent_cells(recipe: Mapping[str, Any]) -> bool:
    """Return whether cells with this recipe depend on each other.

    Version 0.1 generated the cells of one condition with stratified random numbers by default, and always in
    `interpolate`, which did not record it. Tests that assume independent cells are not valid for them.
    """
    return bool(recipe.get("stratified", "interpolated" in recipe))


def label_key_of(generated: ad.AnnData | StoredCells, label_key: str | None) -> str | None:
    """Return `label_key`, or if it is None the one that the generated cells record."""
    return label_key or str(recipe_of(generated).get("label_key", "")) or None


def real_layer(generated: ad.AnnData | StoredCells, layer: str | None) -> str | None:
    """Return the layer of real cells to compare with: `layer`, or X where generated cells are not counts."""
    return X_LAYER if layer is None and not recipe_of(generated).get("counts", True) else layer


def covariate_keys_of(recipe: Mapping[str, Any]) -> list[str]:
    """Return the covariates of the fit that a recipe records; empty if it records none."""
    keys = json.loads(str(recipe.get("covariate_keys", "")) or "[]")
    return [str(key) for key in keys] if isinstance(keys, list) else []
