"""interpolate: cells on the way from one label to another."""

from __future__ import annotations

import json
from collections.abc import Mapping

import anndata as ad
import numpy as np
import pandas as pd

from vaexprs.data.matrix import stacked
from vaexprs.generation.generated import origin
from vaexprs.generation.requests import candidate_conditions, counts_a_cell, wanted_covariates
from vaexprs.generation.sampler import Drawer, Plan, drawn_here, with_progress
from vaexprs.interface.validation import check_integer
from vaexprs.latent.transport import Transport
from vaexprs.model.vae_fit import VAEFit, check_fit
from vaexprs.preprocessing.splits import apportion


def interpolate(
    fit: VAEFit,
    start: str,
    end: str,
    num_samples: int,
    *,
    steps: int = 11,
    covariates: Mapping[str, str] | None = None,
    library_size: float | None = None,
    seed: int = 0,
    progress: bool = True,
) -> ad.AnnData:
    """Generate cells on the way from one label to another, along the latent density.

    Parameters
    ----------
    fit
        What `fit_vae` or `load_vae` returned, with labels.
    start, end
        The two labels.
    num_samples
        Number of cells, spread evenly over the steps.
    steps
        Positions on the way, the two ends among them; at least 2.
    covariates
        Levels asked for, as in `gen_exprs`; others come in the proportions they have in `start`.
    library_size
        Counts a cell to aim at; by default it changes along the way too.
    seed
        The same seed gives the same cells.
    progress
        Whether to show a progress bar where it takes longer.

    Returns
    -------
    AnnData of shape (n_cells, n_genes)
        With ``obs["position"]`` from 0 at `start` to 1 at `end`, the covariates, and the recipe in
        ``uns["vaexprs"]``. There is no label: cells between two labels have none.

    Raises
    ------
    ValueError
        If a label or level is unknown, or a number too small.
    TypeError
        If `fit` is not a fit or a number is not whole.

    Notes
    -----
    The latent density at a position is that of the geodesic between the mixtures of the two labels under the
    Wasserstein distance (see `vaexprs.transport`): clusters move to clusters, and none is smeared out on the
    way. The code of the label changes in proportion. The way is the model's, which has seen no time: cells in
    the middle need not exist.

    Examples
    --------
    >>> import vaexprs as vx
    >>> fit = vx.fit_vae(vx.demo_cells(), label_key="cell_type", epochs=2, verbose=0)
    >>> vx.interpolate(fit, "CD34+", "CD19+ B", 6, steps=3).obs["position"].tolist()
    [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]
    """
    check_fit(fit, "fit")
    known = fit.preprocessing.conditions
    key = known.label_key
    if key is None:
        raise ValueError("There is no way between labels: the model was fitted without label_key or y_train.")
    ends = [known.check(key, label) for label in (start, end)]
    if ends[0] == ends[1]:
        raise ValueError(f"start and end must be different labels, got {ends[0]!r} twice.")
    num_samples = check_integer("num_samples", num_samples, 1)
    steps = check_integer("steps", steps, 2)
    seed = check_integer("seed", seed, 0)
    per_cell = counts_a_cell(fit, library_size)
    candidates, weights = candidate_conditions(fit, ends[0], wanted_covariates(fit, covariates))
    ways = [
        Transport(fit.density.mixture(levels), fit.density.mixture(levels | {key: ends[1]}))
        for levels in candidates
    ]
    codes = [known.one_hot(pd.DataFrame([levels | {key: label} for levels in candidates])) for label in ends]
    positions = np.round(np.linspace(0, 1, steps), 10)  # 0.3, not 0.30000000000000004
    rows = [
        {"position": float(t)} | {name: level for name, level in levels.items() if name != key}
        for t in positions
        for levels in candidates
    ]
    a_step = apportion(np.ones(steps), num_samples)
    number = np.concatenate([apportion(weights, n) if n else np.zeros(len(ways), int) for n in a_step])
    plan = Plan(rows, np.repeat(np.arange(len(rows)), number), per_cell, stratified=True, seed=seed)
    drawer = Drawer(
        fit,
        np.concatenate([(1 - t) * codes[0] + t * codes[1] for t in positions]),
        [way.between(float(t)) for t in positions for way in ways],
    )
    adata = ad.AnnData(obs=plan.obs(known.levels), var=pd.DataFrame(index=fit.genes))
    adata.uns["vaexprs"] = origin(fit) | {
        "seed": seed,
        "interpolated": json.dumps(ends),
        "library_size": "real" if per_cell is None else per_cell,
    }
    blocks = with_progress(drawn_here(drawer, plan, plan.n_blocks), num_samples, progress)
    adata.X = stacked(list(blocks))
    return adata
