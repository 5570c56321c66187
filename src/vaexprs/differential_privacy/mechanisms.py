"""The Gaussian mechanism for sums of bounded contributions of privacy units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Units:
    """Privacy unit (cell or donor) of each cell.

    Parameters
    ----------
    of
        Index of the unit of each cell, (n_cells,), from 0.
    n
        Number of units.
    """

    of: np.ndarray
    n: int

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
        self, multiplier: float, rng: np.random.Generator
    ) -> tuple[tuple[np.ndarray, ...], tuple[float, ...]]:
        """Return the parts with Gaussian noise, and the standard deviation of the noise of each part."""
        noise = tuple(multiplier / np.sqrt(share) for share in self.shares)
        noisy = tuple(
            part + sd * rng.standard_normal(part.shape) for part, sd in zip(self.parts, noise, strict=True)
        )
        return noisy, noise
