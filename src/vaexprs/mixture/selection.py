"""Select the number of components and the covariance model by BIC."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from vaexprs.interface.validation import check_integer
from vaexprs.mixture.covariances import FULL, n_parameters
from vaexprs.mixture.em import (
    MAX_STEPS,
    MODELS,
    TOLERANCE,
    UNIVARIATE,
    Fitted,
    Points,
    SingularFitError,
    maximise,
)
from vaexprs.mixture.gaussian_mixture import STARTING_POINTS, GaussianMixture, Starts, check_model

TIE = 1e-9  # relative difference below which BICs count as equal; of equal models the first is kept


@dataclass(frozen=True)
class Selection:
    """Mixtures compared by BIC.

    Parameters
    ----------
    best
        Fitted mixture with the smallest BIC.
    table
        One row per model and number of components, with columns model, components, parameters,
        log_likelihood, bic and note. If a fit failed, its numbers are NaN and the note gives the reason.
    """

    best: GaussianMixture
    table: pd.DataFrame

    @property
    def bic(self) -> float:
        """BIC of the best mixture."""
        return float(self.table["bic"].min())


def select_mixture(
    x: Any,
    *,
    components: Collection[int] = range(1, 10),
    models: Collection[str] | None = None,
    n_independent: int | None = None,
    starting_points: int = STARTING_POINTS,
    seed: int = 0,
) -> Selection:
    r"""Fit mixtures by EM and choose the one with the smallest BIC.

    .. math:: \mathrm{BIC} = -2 \log L + k \log n

    with the number of free parameters k (Schwarz 1978, doi:10.1214/aos/1176344136). All fits are initialised
    from one hierarchical clustering (`vaexprs.mixture.hierarchical.merge_tree`). mclust reports the
    negative of this BIC.

    Parameters
    ----------
    x
        Points, (n, n_features).
    components
        Numbers of components to try.
    models
        Covariance models to try, by default all (see `GaussianMixture`); in one dimension E and V.
    n_independent
        Number of independent observations, if each is represented by several noisy points. Log likelihood
        and BIC are computed for this number. By default the number of points.
    starting_points
        Maximum number of points in the hierarchical clustering; of more a random subset is used.
    seed
        Seed of this subset.

    Raises
    ------
    SingularFitError
        If no model can be fitted with any number of components.
    ValueError
        If `x` is not a finite matrix, or an argument is invalid.
    """
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or not x.size or not np.isfinite(x).all():
        raise ValueError(f"x must be finite points, (n, n_features), got an array of shape {x.shape}.")
    n, d = x.shape
    observations = n if n_independent is None else n_independent
    if models is None:
        models = MODELS if d > 1 else tuple(UNIVARIATE)
    names = {model: check_model(model, d) for model in models}
    components = [check_integer("components", g, 1) for g in components]
    if not names or not components:
        raise ValueError(f"components and models must not be empty, got {components} and {list(models)}.")
    check_integer("starting_points", starting_points, max(components))
    points = Points(x)
    starts = Starts(x, np.random.RandomState(seed), starting_points)
    rows: list[tuple[Any, ...]] = []
    best: tuple[float, str, Fitted] | None = None
    # a single thread is fastest for matrices of this size
    with threadpool_limits(1):
        for g in components:
            start = starts.responsibility(min(g, n))  # shared by all models; more than n are not fitted
            for name, model in names.items():
                k = n_parameters(model, g, d)
                try:
                    if g > n or (n <= d and model in FULL):
                        raise SingularFitError("too few points")
                    fitted = maximise(points, start, model, TOLERANCE, MAX_STEPS)
                except SingularFitError as reason:
                    rows.append((name, g, k, np.nan, np.nan, str(reason)))
                    continue
                log_likelihood = fitted.log_likelihoods[-1] * observations / n
                bic = -2 * log_likelihood + k * np.log(observations)
                rows.append((name, g, k, log_likelihood, bic, "" if fitted.converged else "not converged"))
                if best is None or bic < best[0] - TIE * abs(best[0]):
                    best = bic, name, fitted
    if best is None:
        raise SingularFitError(
            f"None of the models {', '.join(names)} can be fitted to {n} points in {d} dimensions with "
            f"{', '.join(map(str, components))} components: the points are too few or lie in a subspace."
        )
    columns = ["model", "components", "parameters", "log_likelihood", "bic", "note"]
    _, name, fitted = best
    chosen = GaussianMixture(fitted.mixture.n_components, model=name, random_state=seed)
    chosen.n_features_in_ = d
    return Selection(chosen._take(fitted, n), pd.DataFrame(rows, columns=columns))
