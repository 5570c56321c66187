"""augment: real cells, topped up with generated ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import anndata as ad
import pandas as pd
import scipy.sparse as sp

from vaexprs.data.count_detection import X_LAYER
from vaexprs.data.matrix import densify
from vaexprs.generation.generate import gen_exprs
from vaexprs.interface.errors import warn
from vaexprs.interface.validation import check_integer, listed
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
    """Return real cells, each label topped up with generated ones.

    Parameters
    ----------
    object
        Real cells as `fit_vae` takes them.
    label_key
        Column of `obs` with the label.
    to
        How many cells each label shall have: "balanced" for as many as the largest label, a number for at
        least so many, or numbers by label. A label that has more already keeps them all and gets none.
    covariate_keys
        Columns of `obs` with further conditions for the fit. Generated cells of a label have them in the
        proportions of its real ones.
    fit
        A fit of such cells to generate with. By default one is made here.
    layer
        Layer or assay with the values, as in `fit_vae`.
    library_size
        Counts a generated cell to aim at; by default like the real ones.
    seed
        Seed of the fit and of the generated cells.
    progress
        Whether to show progress bars.
    **fit_arguments
        Passed on to `fit_vae`: ``likelihood``, ``n_top_genes``, ``epochs`` ...

    Returns
    -------
    AnnData of shape (n_real + n_generated, n_genes)
        The real cells first, as they are, with ``obs["group"]`` "real" or "generated". Columns of `obs` that
        generated cells do not have are missing in them. How they were made is in ``uns["vaexprs"]``.

    Raises
    ------
    ValueError
        If `to` cannot be met, or the cells cannot be learned from.
    TypeError
        If `to` is of another kind.

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
    real = load_layer(open_cells(object), layer)
    labels = column_of_levels(real.obs, label_key)
    missing = _missing(labels, to)
    if fit is None:
        if not progress:
            fit_arguments.setdefault("verbose", 0)
        fit = fit_vae(real, label_key=label_key, covariate_keys=covariate_keys, seed=seed, **fit_arguments)
    elif fit_arguments or covariate_keys:
        raise ValueError(
            "With a fit there is nothing left to fit: leave out covariate_keys and arguments of fit_vae."
        )
    elif fit.preprocessing.conditions.label_key != label_key:
        raise ValueError(
            f"The fit must have {label_key!r} as its label, "
            f"it has {fit.preprocessing.conditions.label_key or 'none'!r}."
        )
    lacking = fit.genes.difference(real.var_names, sort=False)
    if len(lacking):
        raise ValueError(
            f"The cells must have the genes of the fit, but lack {listed(list(lacking))}. Give cells that have "
            "them, or no fit: then one is made of these cells."
        )
    if not missing:
        warn(
            f"Every label has as many cells as asked for (to={to!r}): nothing was generated. "
            "Ask for more, as in to=1000."
        )
        return _joined(real[:, fit.genes], None)
    generated = gen_exprs(fit, labels=missing, library_size=library_size, seed=seed, progress=progress)
    return _joined(real[:, fit.genes], generated.adata)


def _missing(labels: pd.Series, to: Any) -> dict[str, int]:
    """Return how many cells each label lacks; those that lack none are left out."""
    there = labels.value_counts(sort=False)
    names = list(labels.cat.categories)
    if isinstance(to, Mapping):
        unknown = [label for label in to if str(label) not in names]
        if unknown:
            raise ValueError(f"to must give numbers of labels of the cells, got {unknown[0]!r}.")
        wanted = {str(label): check_integer(f"to[{label!r}]", n, 0) for label, n in to.items()}
    elif to == BALANCED:
        wanted = dict.fromkeys(names, int(there.max()))
    elif isinstance(to, str):
        raise ValueError(f"to must be 'balanced', a number of cells, or numbers by label, got {to!r}.")
    else:
        wanted = dict.fromkeys(names, check_integer("to", to, 1))
    lacking = {label: n - int(there[label]) for label, n in wanted.items()}
    return {label: n for label, n in lacking.items() if n > 0}


def _joined(real: ad.AnnData, generated: ad.AnnData | None) -> ad.AnnData:
    """Return real and generated cells in one AnnData with ``obs["group"]``."""
    parts = {"real": real} if generated is None else {"real": real, "generated": generated}
    kind = sp.csr_matrix if sp.issparse(real.X) else densify
    both = ad.concat(
        {name: ad.AnnData(kind(part.X), obs=part.obs, var=part.var) for name, part in parts.items()},
        join="outer",
        merge="first",
        label="group",
    )
    both.obs_names_make_unique()
    for key in both.obs:
        if both.obs[key].dtype == object:
            both.obs[key] = pd.Categorical(both.obs[key])
    if generated is not None:
        both.uns["vaexprs"] = generated.uns["vaexprs"]
    return both
