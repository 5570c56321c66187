r"""The fourteen covariance models of a mixture of normal distributions.

The covariance of component k is :math:`\lambda_k D_k A_k D_k^T`, with a volume :math:`\lambda_k`, an
orientation :math:`D_k` and a shape :math:`A_k`, a diagonal matrix with determinant 1 (Banfield & Raftery
1993, doi:10.2307/2532201). The letters of a model name refer to volume, shape and orientation: equal for all
components (E), varying (V), or identity (I): spherical shape, or axes along the coordinates. Number of
parameters for G components in d dimensions:

===== ====================== ======= ========= ===============
model covariance             volumes shapes    orientations
===== ====================== ======= ========= ===============
EII   lambda I               1       0         0
VII   lambda_k I             G       0         0
EEI   lambda A               1       d - 1     0
VEI   lambda_k A             G       d - 1     0
EVI   lambda A_k             1       G (d - 1) 0
VVI   lambda_k A_k           G       G (d - 1) 0
EEE   lambda D A D'          1       d - 1     d (d - 1) / 2
VEE   lambda_k D A D'        G       d - 1     d (d - 1) / 2
EVE   lambda D A_k D'        1       G (d - 1) d (d - 1) / 2
VVE   lambda_k D A_k D'      G       G (d - 1) d (d - 1) / 2
EEV   lambda D_k A D_k'      1       d - 1     G d (d - 1) / 2
VEV   lambda_k D_k A D_k'    G       d - 1     G d (d - 1) / 2
EVV   lambda D_k A_k D_k'    1       G (d - 1) G d (d - 1) / 2
VVV   lambda_k D_k A_k D_k'  G       G (d - 1) G d (d - 1) / 2
===== ====================== ======= ========= ===============

The maximum-likelihood estimates are those of Celeux & Govaert 1995 (doi:10.1016/0031-3203(94)00125-6), for
EVE and VVE of Browne & McNicholas 2014 (doi:10.1007/s11634-013-0139-1). Each function takes

* the sizes :math:`n_k = \sum_i t_{ik}` of the components with responsibilities :math:`t_{ik}`, (G,);
* their scatter matrices :math:`W_k = \sum_i t_{ik} (x_i - \bar x_k)(x_i - \bar x_k)^T`, (G, d, d), or only
  the diagonals, (G, d), for axes along the coordinates;
* its state from the previous step, None at first,

and returns the covariances or their diagonals, with the shape of the scatter matrices or with one for all
components, and its new state. Models without a closed form do one iteration of their alternating estimation
from the state of the previous step: the likelihood does not decrease, and EM continues the iteration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Estimate = tuple[np.ndarray, Any]
MAX_ANGLE = 0.5  # maximum rotation of the common axes per step, in radians


def _geometric_mean(values: np.ndarray) -> np.ndarray:
    """Return the geometric mean along the last axis, keeping the axis."""
    return np.asarray(np.exp(np.log(values).mean(axis=-1, keepdims=True)))


def _eii(sizes: np.ndarray, w: np.ndarray, state: Any) -> Estimate:
    """Estimate lambda = sum_k tr(W_k) / (n d)."""
    return np.full_like(w, w.sum() / (sizes.sum() * w.shape[1])), None


def _vii(sizes: np.ndarray, w: np.ndarray, state: Any) -> Estimate:
    """Estimate lambda_k = tr(W_k) / (n_k d)."""
    return np.broadcast_to((w.mean(axis=1) / sizes)[:, None], w.shape), None


def _eei(sizes: np.ndarray, w: np.ndarray, state: Any) -> Estimate:
    """Estimate lambda A = diag(W) / n with W = sum_k W_k."""
    return np.broadcast_to(w.sum(axis=0) / sizes.sum(), w.shape), None


def _vei(sizes: np.ndarray, w: np.ndarray, state: Any) -> Estimate:
    """Estimate A ~ sum_k diag(W_k) / lambda_k and lambda_k = tr(W_k A^-1) / (n_k d); the state is lambda."""
    volume = _geometric_mean(w) / sizes[:, None] if state is None else state
    shape = (w / volume).sum(axis=0)
    shape = shape / _geometric_mean(shape)
    volume = (w / shape).mean(axis=1, keepdims=True) / sizes[:, None]
    return volume * shape, volume


def _evi(sizes: np.ndarray, w: np.ndarray, state: Any) -> Estimate:
    """Estimate A_k ~ diag(W_k), lambda = sum_k |diag(W_k)|^(1/d) / n."""
    volumes = _geometric_mean(w)
    return w / volumes * (volumes.sum() / sizes.sum()), None


def _vvi(sizes: np.ndarray, w: np.ndarray, state: Any) -> Estimate:
    """Estimate lambda_k A_k = diag(W_k) / n_k."""
    return w / sizes[:, None], None


def _eee(sizes: np.ndarray, w: np.ndarray, state: Any) -> Estimate:
    """Estimate the common covariance W / n."""
    return w.sum(axis=0, keepdims=True) / sizes.sum(), None


def _vee(sizes: np.ndarray, w: np.ndarray, state: Any) -> Estimate:
    """Estimate C ~ sum_k W_k / lambda_k and lambda_k = tr(W_k C^-1) / (n_k d); the state is lambda."""
    each = sizes[:, None, None]
    volume = _root_determinant(w) / each if state is None else state
    form = (w / volume).sum(axis=0)
    form = form / _root_determinant(form)
    volume = (w * np.linalg.inv(form)).sum(axis=(1, 2), keepdims=True) / (w.shape[1] * each)
    return volume * form, volume


def _eve(sizes: np.ndarray, w: np.ndarray, state: Any) -> Estimate:
    """Estimate A_k ~ diag(D' W_k D), lambda = sum_k |diag(D' W_k D)|^(1/d) / n; the state is D."""
    axes, along = _turn(w, state, lambda along: along / _geometric_mean(along))
    variances, _ = _evi(sizes, along, None)
    return _along(axes, variances), axes


def _vve(sizes: np.ndarray, w: np.ndarray, state: Any) -> Estimate:
    """Estimate lambda_k A_k = diag(D' W_k D) / n_k; the state is D."""
    axes, along = _turn(w, state, lambda along: along / sizes[:, None])
    return _along(axes, along / sizes[:, None]), axes


def _eev(sizes: np.ndarray, w: np.ndarray, state: Any) -> Estimate:
    """Estimate lambda A = sum_k Omega_k / n with W_k = D_k Omega_k D_k'."""
    axes, along = _eigen(w)
    variances, _ = _eei(sizes, along, None)
    return _along(axes, variances), None


def _vev(sizes: np.ndarray, w: np.ndarray, state: Any) -> Estimate:
    """Estimate as VEI of Omega_k with W_k = D_k Omega_k D_k'; the state is lambda."""
    axes, along = _eigen(w)
    if state is None:  # unlike the determinant, positive for singular scatter matrices
        state = along.mean(axis=1, keepdims=True) / sizes[:, None]
    variances, state = _vei(sizes, along, state)
    return _along(axes, variances), state


def _evv(sizes: np.ndarray, w: np.ndarray, state: Any) -> Estimate:
    """Estimate C_k = W_k / |W_k|^(1/d), lambda = sum_k |W_k|^(1/d) / n."""
    volumes = _root_determinant(w)
    return w / volumes * (volumes.sum() / sizes.sum()), None


def _vvv(sizes: np.ndarray, w: np.ndarray, state: Any) -> Estimate:
    """Estimate the covariances as W_k / n_k."""
    return w / sizes[:, None, None], None


def _root_determinant(w: np.ndarray) -> np.ndarray:
    """Return the d-th root of determinants, (..., 1, 1); NaN for determinants that are not positive."""
    sign, log = np.linalg.slogdet(w)
    root = np.where(sign > 0, np.exp(log / w.shape[-1]), np.nan)
    return np.asarray(root[..., None, None])


def _eigen(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return eigenvectors, (G, d, d), and eigenvalues, (G, d), the largest first."""
    along, axes = np.linalg.eigh(w)
    return axes[:, :, ::-1], np.maximum(along[:, ::-1], 0)


def _along(axes: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Return covariances from variances, (G, d), along axes, (G, d, d) or (d, d)."""
    return np.asarray((axes * variances[:, None, :]) @ np.swapaxes(axes, -1, -2))


def _turn(
    w: np.ndarray, axes: np.ndarray | None, variances: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    r"""Rotate the common axes D to decrease :math:`\sum_k \operatorname{tr}(W_k D V_k^{-1} D^T)`.

    Parameters
    ----------
    w
        Scatter matrices.
    axes
        Initial axes; None for the eigenvectors of the sum of the scatter matrices.
    variances
        Function that returns the optimal V_k, up to a factor, from the diagonals of D' W_k D.

    Returns
    -------
    tuple
        The axes and the diagonals of D' W_k D.
    """
    if axes is None:
        axes = np.linalg.eigh(w.sum(axis=0))[1]
    rotated = w @ axes
    along = (axes * rotated).sum(axis=1)
    inverse = 1 / variances(along)
    turned = _rotated(axes, rotated, along, inverse)
    turned_along = (turned * (w @ turned)).sum(axis=1)
    if not (turned_along * inverse).sum() <= (along * inverse).sum():
        turned = _majorised(w, axes, rotated, inverse)
        turned_along = (turned * (w @ turned)).sum(axis=1)
    return turned, turned_along


def _rotated(axes: np.ndarray, rotated: np.ndarray, along: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """Return the axes after a Newton step for the rotation angle in the plane of each pair of axes.

    Treats the planes as independent, which is accurate when the matrices D' W_k D are nearly diagonal. It
    then converges in a few steps, where majorisation takes hundreds (Ablin, Cardoso & Gramfort 2019,
    doi:10.48550/arXiv.1811.11433, for joint diagonalisation). The step may also increase the sum.
    """
    apart = inverse[:, :, None] - inverse[:, None, :]
    slope = ((axes.T @ rotated) * apart).sum(axis=0)
    curvature = ((along[:, None, :] - along[:, :, None]) * apart).sum(axis=0)
    angles = np.divide(slope, curvature, out=np.zeros_like(slope), where=curvature > 0)
    half = angles / 2 * MAX_ANGLE / max(np.abs(angles).max(), MAX_ANGLE)
    one = np.eye(len(axes))
    return np.asarray(axes @ np.linalg.solve(one - half, one + half))


def _majorised(w: np.ndarray, axes: np.ndarray, rotated: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    r"""Return the axes that minimise an upper bound of the sum (Browne & McNicholas 2014).

    The bound is linear in D and equals the sum at the current axes, because :math:`W_k - \omega_k I` with the
    largest eigenvalue :math:`\omega_k` is negative semidefinite. Its minimum follows from a singular value
    decomposition, and never increases the sum.
    """
    largest = np.linalg.eigvalsh(w)[:, -1:]
    inverse = inverse - inverse.min(
        axis=1, keepdims=True
    )  # shifts the sum by a constant and tightens the bound
    slope = (rotated * inverse[:, None, :]).sum(axis=0) - axes * (largest * inverse).sum(axis=0)
    left, _, right = np.linalg.svd(slope)
    return np.asarray(-left @ right)


Estimator = Callable[[np.ndarray, np.ndarray, Any], Estimate]
# models estimated from the diagonals of scatter matrices, and models that need the full matrices
DIAGONAL: dict[str, Estimator] = {
    "EII": _eii,
    "VII": _vii,
    "EEI": _eei,
    "VEI": _vei,
    "EVI": _evi,
    "VVI": _vvi,
}
FULL: dict[str, Estimator] = {
    "EEE": _eee,
    "VEE": _vee,
    "EVE": _eve,
    "VVE": _vve,
    "EEV": _eev,
    "VEV": _vev,
    "EVV": _evv,
    "VVV": _vvv,
}
# Models that, as in mclust, need a nonsingular scatter matrix of every component, not only a nonsingular
# covariance. With a common volume, a varying shape could otherwise be stretched without limit.
WHOLE_SCATTER = ("VEE", "EVE", "VVE", "EVV")


def n_parameters(model: str, components: int, d: int) -> int:
    """Return the number of free parameters of covariances, means and weights (one weight is fixed)."""
    volume, shape, orientation = tuple(model) if d > 1 else (model[0], "I", "I")
    number = {"E": 1, "V": components, "I": 0}
    covariances = number[volume] + number[shape] * (d - 1) + number[orientation] * d * (d - 1) // 2
    return covariances + components * d + components - 1
