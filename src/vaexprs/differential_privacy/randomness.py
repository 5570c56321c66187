"""Random numbers of private fits: from the operating system, or from a seed in tests."""

from __future__ import annotations

import math
import os

import numpy as np
from scipy.special import ndtri

SYSTEM = "operating system"
TEST_SEED = "test seed"
NOT_RECORDED = "not recorded"  # models saved by version 0.1
SOURCES = (SYSTEM, TEST_SEED, NOT_RECORDED)


class Randomness:
    """Random numbers of a private fit, in float64.

    By default each number comes from the operating system's cryptographically secure generator. There is no
    seed, and no state that could be saved or used twice.

    Parameters
    ----------
    test_seed
        Seed of a reproducible generator instead. Anyone who knows it can remove the noise.
    """

    def __init__(self, test_seed: int | None = None) -> None:
        self._reproducible = None if test_seed is None else np.random.PCG64(test_seed)

    @property
    def source(self) -> str:
        """Where the numbers come from: "operating system" or "test seed"."""
        return SYSTEM if self._reproducible is None else TEST_SEED

    def bits(self, n: int) -> np.ndarray:
        """Return n random 64-bit integers, (n,)."""
        if self._reproducible is not None:
            return np.asarray(self._reproducible.random_raw(n))
        return np.frombuffer(os.urandom(8 * n), np.uint64)

    def uniform(self, n: int) -> np.ndarray:
        """Return n numbers from 0 to 1, exclusively, (n,)."""
        return (self.bits(n) >> np.uint64(11)) * 2.0**-53

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return standard normal numbers.

        One bit of 64 is the sign, and the others are the tail probability, so that numbers up to 9 standard
        deviations occur.
        """
        bits = self.bits(math.prod(shape))
        size = -ndtri(((bits >> np.uint64(1)) + 0.5) * 2.0**-64)
        return np.where(bits & np.uint64(1), size, -size).reshape(shape)
