"""`interpolate`: generate cells between two labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from vaexprs.data.matrix import stacked_values
from vaexprs.generation.continuous import split_values
from vaexprs.generation.generated import origin
from vaexprs.generation.requests import candidate_conditions, check_covariates, check_library_size
from vaexprs.generation.sampler import CellSampler, Plan, draw_in_threads, with_progress
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
    covariates: Mapping[str, Any] | None = None,
    library_size: float | None = None,
    seed: int = 0,
    progress: bool = True,
) -> ad.AnnData:
    """Generate cells between two labels, along a path of latent densities.

    Parameters
    ----------
    fit
        A fit with labels, returned by `fit_vae` or `load_vae`.
    start, end
        The two labels.
    num_samples
        Number of cells, spread evenly over the steps.
    steps
        Number of positions on the path, including both ends; at least 2.
    covariates
        Levels of covariates and values of continuous ones, as in `gen_exprs`; others follow their
        distribution in `start`.
    library_size
        Expected total count of each cell; by default it changes along the path too.
    seed
        The same seed gives the same cells.
    progress
        Whether to show a progress bar for many cells.

    Returns
    -------
    AnnData of shape (n_cells, n_genes)
        With ``obs["position"]`` from 0 at `start` to 1 at `end`, the covariates, and the recipe in
        ``uns["vaexprs"]``. There is no label, because cells between two labels have none.

    Raises
    ------
    ValueError
        If a label or level is unknown, the labels are equal, a number is too small, or the fit has no labels.
    TypeError
        If `fit` is not a fit or a number is not an integer.

    Notes
    -----
    The latent density at a position lies on the geodesic between the mixtures of the two labels under the
    Wasserstein distance (see `vaexprs.latent.transport`): clusters move to clusters without being blurred.
    The code of the label is interpolated linearly. The path comes from the model, which was trained without
    time information: cells between the labels need not exist.

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
        raise ValueError("interpolate requires a model fitted with label_key or y_train.")
    ends = [known.check(key, label) for label in (start, end)]
    if ends[0] == ends[1]:
        raise ValueError(f"start and end must be different labels, got {ends[0]!r} twice.")
    num_samples = check_integer("num_samples", num_samples, 1)
    steps = check_integer("steps", steps, 2)
    seed = check_integer("seed", seed, 0)
    target = check_library_size(fit, library_size)
    requested = check_covariates(fit, covariates)
    if fit.donors is not None and fit.donors.key in requested:
        raise ValueError(
            f"interpolate generates cells of the average donor, got {fit.donors.key!r} in covariates. "
            "Leave it out."
        )
    candidates, weights = candidate_conditions(fit, ends[0], requested, donors=False)
    candidates = [{name: row[name] for name in known.keys} for row in candidates]
    transports = [
        Transport(fit.density.mixture(levels), fit.density.mixture(levels | {key: ends[1]}))
        for levels in candidates
    ]
    frames = [pd.DataFrame([levels | {key: label} for levels in candidates]) for label in ends]
    codes = [known.expand(known.columns(frame)) for frame in frames]
    positions = np.round(np.linspace(0, 1, steps), 10)  # 0.3, not 0.30000000000000004
    rows = [
        {"position": float(t)} | {name: level for name, level in levels.items() if name != key}
        for t in positions
        for levels in candidates
    ]
    step_cells = apportion(np.ones(steps), num_samples)
    number = np.concatenate(
        [apportion(weights, n) if n else np.zeros(len(transports), int) for n in step_cells]
    )
    which = np.repeat(np.arange(len(rows)), number)
    numbers = {name: value for name, value in requested.items() if name in known.continuous}
    at_start = [levels | numbers for _ in positions for levels in candidates]
    _, _, continuous = split_values(fit, at_start, which, seed)
    plan = Plan(rows, which, target, seed, continuous=continuous)
    slopes = [
        np.stack([fit.density.slopes(levels | {key: label}) for levels in candidates]) for label in ends
    ]
    sampler = CellSampler(
        fit,
        np.concatenate([(1 - t) * codes[0] + t * codes[1] for t in positions]),
        [transport.between(float(t)) for t in positions for transport in transports],
        slopes=np.concatenate([(1 - t) * slopes[0] + t * slopes[1] for t in positions])
        if continuous
        else None,
    )
    adata = ad.AnnData(obs=plan.obs(known.levels), var=pd.DataFrame(index=fit.genes))
    adata.uns["vaexprs"] = origin(fit) | {
        "seed": seed,
        "stratified": False,
        "interpolated": json.dumps(ends),
        "library_size": "real" if target is None else target,
    }
    blocks = with_progress(draw_in_threads(sampler, plan, plan.n_blocks), num_samples, progress)
    adata.X = stacked_values(list(blocks))
    return adata
