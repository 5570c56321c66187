"""Shuffled mini-batches of prepared cells for Keras."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from vaexprs.io import Matrix, densify


class CellBatches(keras.utils.PyDataset):
    """Mini-batches of cells; every cell comes in every epoch.

    A CSR matrix is made dense one batch at a time, so that no dense copy of it is ever in memory. Shuffled
    batches are all of one size, because JAX compiles a training step for each size that it meets: the last
    is filled up with cells from the beginning of the epoch, which come twice.

    Parameters
    ----------
    x
        Prepared cells, (n_cells, n_genes), dense or CSR.
    codes
        One-hot conditions, (n_cells, width); None if there are none.
    batch_size
        Cells a batch, at most all.
    shuffle
        Whether the order is drawn anew for each epoch. If not, the last batch holds what is left.
    seed
        Seed of the order.
    sample_weight
        Weight of each cell in the loss, (n_cells,).
    """

    def __init__(
        self,
        x: Matrix,
        codes: np.ndarray | None,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int,
        sample_weight: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        self.x = x
        self.codes = codes
        self.batch_size = min(batch_size, x.shape[0])
        self.sample_weight = sample_weight
        self._rng = np.random.default_rng(seed) if shuffle else None
        self._order = np.arange(x.shape[0])
        self.on_epoch_end()

    def __len__(self) -> int:
        return -(-len(self._order) // self.batch_size)

    def on_epoch_end(self) -> None:
        """Draw a new order."""
        if self._rng is not None:
            self._order = self._rng.permutation(len(self._order))

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        rows = self._order[index * self.batch_size : (index + 1) * self.batch_size]
        if self._rng is not None:
            rows = np.append(rows, self._order[: self.batch_size - len(rows)])
        inputs = as_inputs(densify(self.x[rows]), None if self.codes is None else self.codes[rows])
        if self.sample_weight is None:
            return (inputs,)
        return inputs, None, self.sample_weight[rows]


def as_inputs(x: np.ndarray, codes: np.ndarray | None) -> Any:
    """Return what the Keras models take: ``x``, or ``[x, codes]`` where there are conditions."""
    return x if codes is None else [x, codes]
