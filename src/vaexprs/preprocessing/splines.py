"""Continuous covariates as columns of natural cubic splines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.special import fdtrc

MAX_DEGREES = 4  # maximum degrees of freedom of a continuous covariate
MIN_DISTINCT = 3  # minimum number of distinct values of a continuous covariate
# Minimum number of distinct values that are the units of the choice of degrees of freedom: cells of one donor
# have the same age and are not independent observations. With fewer values (doses) cells are the units.
MIN_UNITS = 6
LEVEL = 0.05  # level of the test of a spline against a line
MIN_SPREAD = 0.1  # minimum standard deviation of a direction of the basis, relative to the largest


@dataclass(frozen=True)
class Spline:
    """Natural cubic spline basis of a continuous covariate.

    The functions of the basis are combinations of the natural cubic splines that are 1 at one knot and 0 at
    the others (`scipy.interpolate.CubicSpline`), and are continued linearly beyond the first and the last
    knot. Over the training cells they have mean 0, variance at most 1 and no correlation. One degree of
    freedom is the standardised value itself.

    Parameters
    ----------
    knots
        Knots in ascending order, (degrees + 1,); the first and the last are the range of the training cells.
    centre
        Mean over the training cells of the spline of each knot, (degrees + 1,).
    rotation
        Coefficients of the centred splines, (degrees + 1, degrees).
    """

    knots: tuple[float, ...]
    centre: tuple[float, ...]
    rotation: tuple[tuple[float, ...], ...]

    @property
    def degrees(self) -> int:
        """Degrees of freedom, the number of columns of the basis."""
        return len(self.knots) - 1

    @property
    def low(self) -> float:
        """Smallest value of the training cells."""
        return self.knots[0]

    @property
    def high(self) -> float:
        """Largest value of the training cells."""
        return self.knots[-1]

    def __str__(self) -> str:
        degrees = "linear" if self.degrees == 1 else f"{self.degrees} degrees of freedom"
        return f"{self.low:g} to {self.high:g}, {degrees}"

    def basis(self, values: Any) -> np.ndarray:
        """Return the basis at finite values, (n, degrees), float32."""
        splines = self._splines(np.asarray(values, np.float64))
        return np.asarray((splines - self.centre) @ np.array(self.rotation), np.float32)

    def _splines(self, values: np.ndarray) -> np.ndarray:
        """Return the spline of each knot at the values, (n, degrees + 1)."""
        inside = np.clip(values, self.low, self.high)
        beyond = (values - inside)[:, None]
        return np.asarray(self._cardinal(inside) + beyond * self._cardinal(inside, 1))

    @cached_property
    def _cardinal(self) -> CubicSpline:
        return CubicSpline(self.knots, np.eye(len(self.knots)), bc_type="natural")

    @classmethod
    def fit(cls, values: np.ndarray, degrees: int) -> Spline:
        """Return the spline with these degrees of freedom for the values of the training cells.

        The knots are at equally spaced ranks of the distinct values.

        Parameters
        ----------
        values
            Finite values, (n_cells,), with more than `degrees` distinct ones.
        degrees
            Degrees of freedom, at least 1.
        """
        distinct, cells = np.unique(np.asarray(values, np.float64), return_counts=True)
        knots = distinct[np.linspace(0, len(distinct) - 1, degrees + 1).round().astype(int)]
        start = cls(tuple(knots.tolist()), (0.0,) * len(knots), ())
        splines, share = start._splines(distinct), cells / cells.sum()
        centre = share @ splines
        _, sd, axes = np.linalg.svd(np.sqrt(share)[:, None] * (splines - centre), full_matrices=False)
        # a direction in which hardly any cells differ is not inflated to unit variance
        rotation = axes[:degrees].T / np.maximum(sd[:degrees], MIN_SPREAD * sd[0])
        return cls(start.knots, tuple(centre.tolist()), tuple(map(tuple, rotation.tolist())))

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, parameters: Mapping[str, Any]) -> Spline:
        """Return the spline from the values of `to_dict`.

        Raises
        ------
        ValueError
            If they are not those of a spline.
        """
        knots, centre, rotation = (
            np.array(parameters[name], float) for name in ("knots", "centre", "rotation")
        )
        n = len(knots)
        if (
            knots.shape != (n,)
            or n < 2
            or centre.shape != (n,)
            or rotation.shape != (n, n - 1)
            or not all(np.isfinite(part).all() for part in (knots, centre, rotation))
            or not (np.diff(knots) > 0).all()
        ):
            raise ValueError(
                f"the spline of a continuous covariate must have ascending knots and finite coefficients, "
                f"got {n} knots and coefficients of shape {rotation.shape}"
            )
        return cls(tuple(knots.tolist()), tuple(centre.tolist()), tuple(map(tuple, rotation.tolist())))


def choose_degrees(values: np.ndarray, responses: np.ndarray, groups: Sequence[np.ndarray]) -> int:
    """Return the degrees of freedom of a covariate that responses support, from 1 to `MAX_DEGREES`.

    Responses and basis are centred within groups and averaged over the cells of each distinct value, and each
    response is regressed on the basis by least squares. A spline is chosen if an F test for one of the
    responses rejects the line against it, at a level of 0.05 adjusted for the number of tests (Bonferroni):
    an effect on few genes is sufficient. Of several splines the one with the smallest p is chosen.

    Parameters
    ----------
    values
        Value of each cell, (n_cells,).
    responses
        What the covariate may have an effect on, (n_cells, n_responses): genes and principal components.
    groups
        Rows of the cells of each condition.
    """
    distinct, unit = np.unique(values, return_inverse=True)
    most = min(MAX_DEGREES, len(distinct) - 1)
    if len(distinct) < MIN_UNITS:
        unit = np.arange(len(values))
    else:
        most = min(most, len(distinct) - 3)
    if most < 2:
        return 1
    observed = _unit_means(_centred(responses, groups), unit)
    n, k = observed.shape
    errors = []
    for degrees in range(1, most + 1):
        basis = _unit_means(_centred(Spline.fit(values, degrees).basis(values), groups), unit)
        left, singular, _ = np.linalg.svd(basis, full_matrices=False)
        left = left[:, singular > 1e-6 * max(singular[0], 1e-6)]
        errors.append(((observed - left @ (left.T @ observed)) ** 2).sum(axis=0))
    smallest_p = [1.0]
    for extra, error in enumerate(errors[1:], 1):
        rest = n - 2 - extra
        ratio = (errors[0] - error) / extra / np.maximum(error / rest, 1e-12 * errors[0] + 1e-300)
        smallest_p.append(float(fdtrc(extra, rest, np.maximum(ratio, 0)).min()))
    best = int(np.argmin(smallest_p))
    return 1 + best if smallest_p[best] < LEVEL / (k * (most - 1)) else 1


def _centred(values: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
    centred = np.array(values, np.float64)
    for rows in groups:
        centred[rows] -= centred[rows].mean(axis=0)
    return centred


def _unit_means(values: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Return the mean of each unit times the root of its number of cells, (n_units, n_columns)."""
    cells = np.bincount(unit)
    if len(cells) == len(unit):
        return values
    sums = np.stack([np.bincount(unit, column) for column in values.T], axis=1)
    return np.asarray(sums / np.sqrt(cells)[:, None])
