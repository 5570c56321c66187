r"""The fourteen covariance models of a mixture of normal distributions.

The covariance of component k is :math:`\lambda_k D_k A_k D_k^T`: a volume, an orientation and a shape, a
diagonal matrix of determinant 1 (Banfield & Raftery 1993, doi:10.2307/2532201). The three letters of a name
say of volume, shape and orientation whether they are equal (E) for all components or vary (V); I is a
sphere as shape, or axes along the coordinates as orientation. Parameters, for G components in d dimensions:

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
  the diagonals, (G, d), where the axes are along the coordinates;
* its state of the step before, None at first,

and returns the covariances or their diagonals, in the shape of what it took or just one for all, and its
state. Where parts have to be estimated in turn, one turn is taken from where the last step ended: the
likelihood does not fall, and EM comes round again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Estimate = tuple[np.ndarray, Any]
WIDEST_ANGLE = 0.5  # that common axes turn by in a step, in radians


def _geometric_mean(values: np.ndarray) -> np.ndarray:
    """Return the geometric mean along the last axis, which is kept."""
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
    """Estimate the one covariance as W / n."""
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
    if state is None:  # components in fewer than d dimensions have a volume here
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
    """Return the d-th root of determinants, (..., 1, 1); not a number where they are not positive."""
    sign, log = np.linalg.slogdet(w)
    root = np.where(sign > 0, np.exp(log / w.shape[-1]), np.nan)
    return np.asarray(root[..., None, None])


def _eigen(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return axes, (G, d, d), and what is along them, (G, d), the longest first."""
    along, axes = np.linalg.eigh(w)
    return axes[:, :, ::-1], np.maximum(along[:, ::-1], 0)


def _along(axes: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Return covariances with variances, (G, d), along axes, (G, d, d) or (d, d)."""
    return np.asarray((axes * variances[:, None, :]) @ np.swapaxes(axes, -1, -2))


def _turn(
    w: np.ndarray, axes: np.ndarray | None, variances: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    r"""Turn the common axes D to lower :math:`\sum_k \operatorname{tr}(W_k D V_k^{-1} D^T)`.

    Parameters
    ----------
    w
        Scatter matrices.
    axes
        Where to begin; None for those of the scatter of all components together.
    variances
        Tells the best V_k, up to a factor, from the diagonals of D' W_k D.

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
    """Return the axes after a Newton step for the angle in the plane of each two of them.

    As if the planes had nothing to do with each other, which is nearly so where D' W_k D are nearly diagonal:
    there it arrives in a few steps where majorisation takes hundreds (Ablin, Cardoso & Gramfort 2019,
    doi:10.48550/arXiv.1811.11433, for joint diagonalisation). It may also lead astray.
    """
    apart = inverse[:, :, None] - inverse[:, None, :]
    slope = ((axes.T @ rotated) * apart).sum(axis=0)
    curvature = ((along[:, None, :] - along[:, :, None]) * apart).sum(axis=0)
    angles = np.divide(slope, curvature, out=np.zeros_like(slope), where=curvature > 0)
    half = angles / 2 * WIDEST_ANGLE / max(np.abs(angles).max(), WIDEST_ANGLE)
    one = np.eye(len(axes))
    return np.asarray(axes @ np.linalg.solve(one - half, one + half))


def _majorised(w: np.ndarray, axes: np.ndarray, rotated: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    r"""Return the axes that are best for a bound on the sum (Browne & McNicholas 2014).

    The bound is linear in D and touches the sum at the present axes: with the largest eigenvalue
    :math:`\omega_k` the matrix :math:`W_k - \omega_k I` has none above 0. The best D for it comes from a
    singular value decomposition, and cannot be worse than the present one.
    """
    largest = np.linalg.eigvalsh(w)[:, -1:]
    inverse = inverse - inverse.min(axis=1, keepdims=True)  # moves the sum by a constant, tightens the bound
    slope = (rotated * inverse[:, None, :]).sum(axis=0) - axes * (largest * inverse).sum(axis=0)
    left, _, right = np.linalg.svd(slope)
    return np.asarray(-left @ right)


Estimator = Callable[[np.ndarray, np.ndarray, Any], Estimate]
# by what they take: diagonals of scatter matrices, or these as a whole
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
# Models that, as in mclust, need scatter in all dimensions from each component: the covariance is not enough.
# (A shape of its own with a determinant in common could otherwise be made as long as one likes.)
WHOLE_SCATTER = ("VEE", "EVE", "VVE", "EVV")


def n_parameters(model: str, components: int, d: int) -> int:
    """Return the number of free parameters: of covariances, means and all weights but one."""
    volume, shape, orientation = tuple(model) if d > 1 else (model[0], "I", "I")
    number = {"E": 1, "V": components, "I": 0}
    covariances = number[volume] + number[shape] * (d - 1) + number[orientation] * d * (d - 1) // 2
    return covariances + components * d + components - 1
