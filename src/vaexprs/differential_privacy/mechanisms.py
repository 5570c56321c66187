"""The Gaussian mechanism over sums of clipped contributions of each privacy unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Units:
    """Whom the cells are of.

    Parameters
    ----------
    of
        Number of the unit of each cell, (n_cells,), from 0.
    n
        Number of units.
    """

    of: np.ndarray
    n: int

    @property
    def weights(self) -> np.ndarray:
        """One over the number of cells of its unit, for each cell, (n_cells,): a unit counts as one."""
        return 1 / np.bincount(self.of, minlength=self.n)[self.of]


@dataclass(frozen=True)
class Sums:
    """Sums over units of what each contributes: a vector in parts.

    Parameters
    ----------
    parts
        The sums of each part.
    shares
        Most of a unit's squared length that lies in each part, once all parts are brought to one length; the
        shares sum up to 1.
    """

    parts: tuple[np.ndarray, ...]
    shares: tuple[float, ...]

    def with_noise(
        self, multiplier: float, rng: np.random.Generator
    ) -> tuple[tuple[np.ndarray, ...], tuple[float, ...]]:
        """Return the parts with normal noise, and its standard deviation in each."""
        noise = tuple(multiplier / np.sqrt(share) for share in self.shares)
        noisy = tuple(
            part + sd * rng.standard_normal(part.shape) for part, sd in zip(self.parts, noise, strict=True)
        )
        return noisy, noise
