"""`augment`: add generated cells to real cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import anndata as ad
import pandas as pd
import scipy.sparse as sp

from vaexprs.data.count_detection import X_LAYER
from vaexprs.data.levels import find_level
from vaexprs.data.matrix import densify
from vaexprs.generation.generate import gen_exprs
from vaexprs.generation.generated import beside_real_cells, concatenate
from vaexprs.interface.errors import warn
from vaexprs.interface.validation import as_keys, check_integer, listed
from vaexprs.io.open import load_layer, open_cells
from vaexprs.model.vae_fit import VAEFit
from vaexprs.preprocessing.conditions import column_of_levels
from vaexprs.training.fit import fit_vae
from vaexprs.training.inputs import may_be_counts

BALANCED = "balanced"


def augment(
    object: Any,
    label_key: str,
    to: str | int | Mapping[str, int] = BALANCED,
    *,
    covariate_keys: Sequence[str] = (),
    fit: VAEFit | None = None,
    layer: str | None = None,
    library_size: float | None = None,
    seed: int = 0,
    progress: bool = True,
    **fit_arguments: Any,
) -> ad.AnnData:
    """Add generated cells to real cells, up to a number of cells of each label.

    Parameters
    ----------
    object
        Real cells as `fit_vae` takes them.
    label_key
        Column of `obs` with the label.
    to
        Number of cells of each label afterwards: "balanced" for the number of the largest label, a number for
        all labels, or numbers by label. A label that has more cells already keeps them all.
    covariate_keys
        Columns of `obs` with further conditions for the fit. Generated cells of a label have them in the
        proportions of its real cells.
    fit
        A fit to generate with. By default a model is fitted to the cells.
    layer
        Layer or assay with the values, as in `fit_vae`.
    library_size
        Expected total count of each generated cell; by default sampled like those of the real cells.
    seed
        Seed of the fit and of the generated cells.
    progress
        Whether to show progress bars.
    **fit_arguments
        Passed to `fit_vae`: ``likelihood``, ``n_top_genes``, ``epochs`` and so on.

    Returns
    -------
    AnnData of shape (n_real + n_generated, n_genes)
        The real cells first, unchanged, with ``obs["group"]`` "real" or "generated". Columns of `obs` that
        generated cells do not have are missing values in them. If the cells have a column "group"
        already, it is kept and ``obs["vaexprs_group"]`` is used instead. The recipe is in ``uns["vaexprs"]``.

    Raises
    ------
    ValueError
        If `to` is invalid, the fit does not match the cells, or the cells cannot be fitted.
    TypeError
        If a number in `to` is not an integer.

    Examples
    --------
    >>> import vaexprs as vx
    >>> both = vx.augment(vx.demo_cells(), "cell_type", to=60, epochs=2, verbose=0)
    >>> both[both.obs["cell_type"] == "CD34+"].obs["group"].value_counts().to_dict()
    {'generated': 47, 'real': 13}
    """
    seed = check_integer("seed", seed, 0)
    earlier = fit_arguments.get("preprocessing") if fit is None else fit.preprocessing
    if layer is None and not may_be_counts(fit_arguments.get("likelihood"), earlier):
        layer = X_LAYER
    real = load_layer(open_cells(object, keys=[label_key, *as_keys(covariate_keys)]), layer)
    labels = column_of_levels(real.obs, label_key)
    missing = _missing(labels, to)
    if fit is None:
        if not progress:
            fit_arguments.setdefault("verbose", 0)
        fit = fit_vae(real, label_key=label_key, covariate_keys=covariate_keys, seed=seed, **fit_arguments)
    elif fit_arguments or covariate_keys:
        raise ValueError(
            "covariate_keys and arguments of fit_vae cannot be combined with fit. Leave them out."
        )
    elif fit.preprocessing.conditions.label_key != label_key:
        raise ValueError(
            f"fit must be fitted with label_key={label_key!r}, "
            f"got a fit with label_key={fit.preprocessing.conditions.label_key!r}."
        )
    missing_genes = fit.genes.difference(real.var_names, sort=False)
    if len(missing_genes):
        raise ValueError(
            f"The cells must have all genes of the fit, missing {listed(list(missing_genes))}. Give cells "
            "with these genes, or leave out fit to fit a model to these cells."
        )
    if not missing:
        warn(
            f"Every label has the requested number of cells already (to={to!r}), so no cells were generated. "
            "Try a larger number, such as to=1000."
        )
        return _joined(real[:, fit.genes], None)
    generated = gen_exprs(fit, labels=missing, library_size=library_size, seed=seed, progress=progress)
    return _joined(real[:, fit.genes], generated.adata)


def _missing(labels: pd.Series, to: Any) -> dict[str, int]:
    """Return the number of cells to generate for each label that has too few."""
    existing = labels.value_counts(sort=False)
    names = list(labels.cat.categories)
    if isinstance(to, pd.Series):  # value_counts()
        to = to.to_dict()
    if isinstance(to, Mapping):
        found = {label: find_level(label, names) for label in to}
        unknown = [label for label, level in found.items() if level is None]
        if unknown:
            raise ValueError(f"to must name labels of the cells ({listed(names)}), got {unknown[0]!r}.")
        target = {str(found[label]): check_integer(f"to[{label!r}]", n, 0) for label, n in to.items()}
    elif to == BALANCED:
        target = dict.fromkeys(names, int(existing.max()))
    elif isinstance(to, str):
        raise ValueError(f"to must be 'balanced', a number of cells, or numbers by label, got {to!r}.")
    else:
        target = dict.fromkeys(names, check_integer("to", to, 1))
    missing = {label: n - int(existing[label]) for label, n in target.items()}
    return {label: n for label, n in missing.items() if n > 0}


def _joined(real: ad.AnnData, generated: ad.AnnData | None) -> ad.AnnData:
    """Return real and generated cells in one AnnData with ``obs["group"]`` and all annotation of both."""
    parts = {"real": real} if generated is None else {"real": real, "generated": generated}
    kind = sp.csr_matrix if sp.issparse(real.X) else densify
    parts = {name: ad.AnnData(kind(part.X), obs=part.obs, var=part.var) for name, part in parts.items()}
    both = concatenate(parts, join="outer", merge="first")
    if generated is not None:
        both.uns["vaexprs"] = beside_real_cells(generated.uns["vaexprs"])
    return both
