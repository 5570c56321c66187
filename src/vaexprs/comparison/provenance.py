"""What `uns["vaexprs"]` records about how cells were generated."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata as ad

from vaexprs.data.count_detection import X_LAYER
from vaexprs.interface.errors import reason
from vaexprs.io.stores import note_of


def layer_like(generated: Any, layer: str | None) -> str | None:
    """Return the layer of real cells to compare generated ones with: X where those are not counts.

    Parameters
    ----------
    generated
        The generated cells, as `as_cells` returns them; how they were made is in ``uns["vaexprs"]``.
    layer
        What the user named; None to look for counts where the generated cells are counts.
    """
    return X_LAYER if layer is None and not recipe_of(generated).get("counts", True) else layer


def label_key_of(generated: ad.AnnData | Path, label_key: str | None) -> str | None:
    """Return `label_key`, or where it is None the one that the generated cells were made with."""
    return label_key or str(recipe_of(generated).get("label_key", "")) or None


def recipe_of(generated: Any) -> dict[str, Any]:
    """Return what ``uns["vaexprs"]`` says of how cells were made; empty where it is not one of ours.

    Raises
    ------
    ValueError
        If it is not what `gen_exprs` writes.
    """
    if isinstance(generated, (str, os.PathLike)):
        found = note_of(generated, "vaexprs")
    else:
        found = generated.uns.get("vaexprs", {})
    recipe = {str(key): value for key, value in found.items()} if isinstance(found, Mapping) else {}
    try:
        for name in ("labels", "covariates", "conditions"):
            json.loads(str(recipe.get(name, "")) or "null")
        float(0 if recipe.get("library_size", "real") == "real" else recipe["library_size"])
        int(recipe.get("seed", 0))
        bool(recipe.get("counts", True))
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(
            "uns['vaexprs'] of the generated cells is not what gen_exprs writes: "
            f"{reason(error)} Take it out: del adata.uns['vaexprs']."
        ) from error
    return recipe
