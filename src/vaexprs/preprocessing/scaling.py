"""Scalings of values and their inverses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import scipy.sparse as sp

from vaexprs.data.matrix import Matrix
from vaexprs.interface.validation import check_choice

# Power, function and inverse of each transformation of the family ((1 + x)^p - 1) / p (Box & Cox 1964,
# doi:10.1111/j.2517-6161.1964.tb00553.x). All map 0 to 0, so that a sparse matrix stays sparse.
POWERS: dict[str, tuple[float, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "none": (1.0, lambda x: x, lambda y: y),
    "sqrt": (0.5, lambda x: 2 * x / (np.sqrt(1 + x) + 1), lambda y: y + y * y / 4),  # accurate near 0
    "log1p": (0.0, np.log1p, np.expm1),
}
SCALINGS = (*POWERS, "minmax")


@dataclass(frozen=True)
class Scaling:
    """Scaling of expression values to the input of the network.

    Parameters
    ----------
    kind
        "none": ``x``; "sqrt": ``2 (sqrt(1 + x) - 1)``; "log1p": ``log(1 + x)``, with x in units of `unit`;
        "minmax": ``(x - low) / range`` per gene; constant genes become 0.
    low, range
        Smallest value of each gene in the training cells and largest minus smallest, (n_genes,).
        Empty unless `kind` is "minmax".
    unit
        Divisor of the values before scaling; 1 unless they are small. Not used by "minmax".
    """

    kind: str
    low: np.ndarray
    range: np.ndarray
    unit: float = 1.0

    @classmethod
    def fit(cls, kind: str, low: np.ndarray, high: np.ndarray, unit: float = 1.0) -> Scaling:
        """Return the scaling of this kind with the limits of each gene, (n_genes,).

        Raises
        ------
        ValueError
            If the kind is unknown or the unit is not a positive number.
        """
        check_choice("kind", kind, SCALINGS)
        if not isinstance(unit, Real) or not 0 < unit < np.inf:
            raise ValueError(f"unit must be a positive number, got {unit!r}.")
        if kind != "minmax":
            return cls(kind, np.empty(0), np.empty(0), float(unit))
        return cls(kind, low, high - low)

    def __str__(self) -> str:
        return self.kind if self.unit == 1 else f"{self.kind}, in units of {self.unit:g}"

    def forward(self, x: Matrix) -> Matrix:
        """Return scaled values, (n_cells, n_genes); a sparse matrix stays sparse.

        "minmax" fills the column of a gene whose smallest value is not 0, because its zeros become non-zero.
        """
        if self.kind in POWERS:
            function = POWERS[self.kind][1]
            values = x.data if sp.issparse(x) else x
            values = np.asarray(function(values if self.unit == 1 else values / self.unit), np.float32)
            return sp.csr_matrix((values, x.indices, x.indptr), x.shape) if sp.issparse(x) else values
        factor = np.divide(1.0, self.range, out=np.zeros_like(self.range), where=self.range > 0)
        offset = -self.low * factor
        if not sp.issparse(x):
            return (x * factor + offset).astype(np.float32)
        scaled = x @ sp.diags(factor)
        filled = np.flatnonzero(offset)
        if len(filled):
            row = sp.csr_matrix((offset[filled], (np.zeros(len(filled), int), filled)), (1, x.shape[1]))
            scaled = scaled + sp.csr_matrix(np.ones((x.shape[0], 1))) @ row
        return sp.csr_matrix(scaled, dtype=np.float32)

    def inverse(self, x: np.ndarray) -> np.ndarray:
        """Return scaled values, (n_cells, n_genes), in the user's units."""
        if self.kind in POWERS:
            return np.asarray(POWERS[self.kind][2](x) * self.unit)
        return (x * self.range + self.low).astype(np.float32)
