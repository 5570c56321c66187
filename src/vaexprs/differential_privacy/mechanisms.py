"""The Gaussian mechanism for sums of bounded contributions of privacy units."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vaexprs.differential_privacy.randomness import Randomness

# Sums and noise are rounded to a grid of this fraction of the standard deviation (a power of two). The noisy
# sum is then exactly a function of the rounded sum plus Gaussian noise: the low-order bits of floating-point
# noise reveal nothing (Mironov 2012, doi:10.1145/2382196.2382264).
GRID = 2.0**-28
# Additional noise, as a fraction, for the rounding of sums to the grid and of gradients in float32.
MARGIN = 1e-3
# Norms to which a donor's mean profile (square roots of proportions, with a norm of at most 1) is clipped,
# and the deviation of one of its levels from it; and the deviation of a cell from the mean profile. They are
# about those of public data sets of blood cells; any value keeps the guarantee.
DONOR_PROFILE, DONOR_DEVIATION = 0.75, 0.5
CELL_DEVIATION = 0.75


@dataclass(frozen=True)
class Units:
    """Privacy unit (cell or donor) of each cell.

    Parameters
    ----------
    of
        Index of the unit of each cell, (n_cells,), from 0; -1 for a cell that is left out.
    n
        Number of units, including those without cells.
    single
        Whether each unit is a single cell.
    """

    of: np.ndarray
    n: int
    single: bool = False

    @property
    def profile(self) -> float:
        """Norm to which the mean profile of a unit is clipped."""
        return 1.0 if self.single else DONOR_PROFILE

    def deviation(self, n_levels: int) -> float:
        """Return the norm to which the deviations of a unit's profiles in the levels of a key are clipped."""
        return CELL_DEVIATION if self.single else DONOR_DEVIATION * float(np.sqrt(n_levels))

    def without(self, cells: np.ndarray) -> Units:
        """Return the units with some cells left out, given which, (n_cells,)."""
        return replace(self, of=np.where(cells, -1, self.of))

    @property
    def weights(self) -> np.ndarray:
        """Weight of each cell, (n_cells,): 1 over the number of cells of its unit, so that units weigh 1."""
        return 1 / np.bincount(self.of, minlength=self.n)[self.of]


@dataclass(frozen=True)
class Sums:
    """Sums over units of their contributions, a vector in several parts.

    Parameters
    ----------
    parts
        The sum of each part.
    shares
        Weight of each part: the squared norms of a unit's contributions, so weighted, add up to at most 1.
    """

    parts: tuple[np.ndarray, ...]
    shares: tuple[float, ...]

    def with_noise(
        self, multiplier: float, randomness: Randomness
    ) -> tuple[tuple[np.ndarray, ...], tuple[float, ...]]:
        """Return the parts with Gaussian noise, and the standard deviation of the noise of each part.

        Empty parts have no share and no noise.
        """
        noise = tuple(float(multiplier / np.sqrt(share)) if share else 0.0 for share in self.shares)
        noisy = tuple(
            add_noise(part, sd, randomness) if part.size else part
            for part, sd in zip(self.parts, noise, strict=True)
        )
        return noisy, noise


def add_noise(total: np.ndarray, sd: float, randomness: Randomness) -> np.ndarray:
    """Return a sum with independent Gaussian noise on each entry, in float64.

    Parameters
    ----------
    total
        The exact sum.
    sd
        Standard deviation of the noise, above 0: the noise multiplier times the maximum norm of the
        contribution of a unit. The noise is larger by the fraction MARGIN.
    randomness
        Source of the noise.

    Raises
    ------
    ValueError
        If `sd` is not a positive number.
    """
    if not 0 < sd < np.inf:
        raise ValueError(f"The standard deviation of privacy noise must be above 0 and finite, got {sd:g}.")
    total = np.asarray(total, np.float64)
    grid = 2.0 ** np.floor(np.log2(sd * GRID))
    noise = np.rint(sd * (1 + MARGIN) / grid * randomness.normal(total.shape))
    return np.asarray((np.rint(total / grid) + noise) * grid)
