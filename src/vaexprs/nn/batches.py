"""Shuffled mini-batches of prepared cells for Keras, from memory or from disk.

The cells of a batch depend only on the seed, the epoch and the step. A fit that resumes within an epoch, or
several processes that share each batch, use the same batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any, Protocol

import keras
import numpy as np
import scipy.sparse as sp

from vaexprs.data.backed import BackedMatrix
from vaexprs.data.matrix import Matrix, compressed, densify, stacked
from vaexprs.data.sparse_batch import SparseBatch, sparse_batch

LANES = 16  # contiguous parts of a file; every batch contains cells from each of them
BLOCKS = 4  # minimum number of blocks of each lane in the buffer
MAX_DENSITY = 0.3  # fraction of values above zero up to which batches are sparse
SAMPLE = 256  # cells from which the number of counts of a batch is estimated
TRIALS = 100  # random batches of them
SPARE = 1.1  # places of a batch relative to the most counts of these
ROOM_UNIT = 1_024  # the number of places is a multiple of it
BUFFER_BYTES = 64 * 2**20  # size of the buffer of cells; a second one is filled in the background


class OneHot(Protocol):
    """Codes of conditions, (n_cells, width), that can be indexed by rows."""

    def __getitem__(self, rows: Any) -> np.ndarray: ...


class CellBatches(keras.utils.PyDataset):
    """Mini-batches of cells; an epoch contains every cell.

    A sparse or backed matrix is made dense one batch at a time, so that there is never a dense copy of it.
    All shuffled batches have the same size, because JAX compiles a training step for each batch size: the
    last one is filled up with cells that occur twice in the epoch.

    If the model uses them, and few values are above zero, the cells are `SparseBatch`. Their number of places
    is the same in almost all batches, so that a step is compiled once.

    Set `epoch` to get the batches of another epoch. Batches before `passed_over`, a tuple of epoch and step,
    belong to steps done before the fit was resumed: they are all the same dummy batch and cause no reading.

    Parameters
    ----------
    x
        Prepared cells, (n_cells, n_genes), dense, CSR or on disk.
    codes
        Codes of the conditions, (n_cells, width); None if there are none.
    batch_size
        Cells per batch, at most all.
    shuffle
        Whether to shuffle in each epoch. If not, the last batch may be smaller.
    seed
        Seed of the shuffle.
    sample_weight
        Weight of each cell in the loss, (n_cells,).
    share
        Part of each batch to return and number of parts: ``(process, processes)``.
    sparse
        Whether batches may be sparse.
    """

    def __init__(
        self,
        x: Matrix | BackedMatrix,
        codes: OneHot | None,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int,
        sample_weight: np.ndarray | None = None,
        share: tuple[int, int] = (0, 1),
        sparse: bool = False,
    ) -> None:
        super().__init__()
        self.codes = codes
        self.sample_weight = sample_weight
        self.epoch = 0
        self.passed_over = (0, 0)
        size = min(batch_size, x.shape[0])
        self._room = _room(x, size // share[1]) if sparse else 0
        if self._room and not isinstance(x, BackedMatrix):
            x = sp.csr_matrix(x)
        self._cells: _InMemory | _OnDisk
        if shuffle and isinstance(x, BackedMatrix):
            self._cells = _OnDisk(x, size, seed, share)
        else:
            self._cells = _InMemory(x, size, seed if shuffle else None, share)

    def __len__(self) -> int:
        return self._cells.steps

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        if (self.epoch, index) < self.passed_over:
            return self._blank
        return self._batch(self.epoch, index)

    @cached_property
    def _blank(self) -> tuple[Any, ...]:
        return self._batch(*self.passed_over)

    def _batch(self, epoch: int, step: int) -> tuple[Any, ...]:
        rows, values = self._cells.batch(epoch, step)
        codes = None if self.codes is None else self.codes[rows]
        inputs = as_inputs(self._sparse(values, codes) if self._room else densify(values), codes)
        return (inputs,) if self.sample_weight is None else (inputs, None, self.sample_weight[rows])

    def _sparse(self, values: Matrix, codes: np.ndarray | None) -> SparseBatch:
        counts = compressed(values)
        if counts.nnz > self._room:
            self._room = _rounded(SPARE * counts.nnz)
        return sparse_batch(counts, self._room, 0 if codes is None else codes.shape[1])


def _room(x: Matrix | BackedMatrix, batch_size: int) -> int:
    """Return a number of places for the counts of a batch, or 0 if too many values are above zero.

    It depends on the cells only, so that a resumed fit uses the same program.
    """
    n, genes = x.shape
    rows = np.linspace(0, n, min(n, SAMPLE), endpoint=False).astype(int)
    detected = np.diff(compressed(x.take(rows) if isinstance(x, BackedMatrix) else x[rows]).indptr)
    size = batch_size * genes
    if detected.mean() > MAX_DENSITY * genes or size >= 2**31:
        return 0
    batches = np.random.default_rng(0).choice(detected, (TRIALS, batch_size))
    return _rounded(SPARE * max(batches.sum(axis=1).max(), 1))


def _rounded(n: float) -> int:
    return -(-int(n) // ROOM_UNIT) * ROOM_UNIT


class _InMemory:
    """Batches of fully shuffled cells, or of the cells in their order without a seed."""

    def __init__(
        self, x: Matrix | BackedMatrix, batch_size: int, seed: int | None, share: tuple[int, int]
    ) -> None:
        self.x: Any = x
        self.batch_size, self.seed, self.share = batch_size, seed, share
        self.steps = -(-x.shape[0] // batch_size)
        self._order: tuple[int, np.ndarray] = (-1, np.arange(x.shape[0]))

    def batch(self, epoch: int, step: int) -> tuple[np.ndarray, Matrix]:
        """Return the row numbers and the values of a batch."""
        first = step * self.batch_size
        if self.seed is None:
            rows = np.arange(first, min(first + self.batch_size, self.x.shape[0]))
            return rows, self.x[rows[0] : rows[-1] + 1]
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.x.shape[0])
        order = self._order[1]
        rows = order[first : first + self.batch_size]
        rows = np.append(rows, order[: self.batch_size - len(rows)])
        part, parts = self.share
        rows = rows[part * len(rows) // parts : (part + 1) * len(rows) // parts]
        return rows, self.x[rows]


class _OnDisk:
    """Batches of backed cells, read in contiguous blocks and shuffled within a buffer of blocks.

    The cells are divided into lanes, contiguous parts of the file, and each batch contains equally many cells
    of every lane: for a file sorted by cell type or donor it is a stratified sample. In each epoch, each lane
    is divided into blocks from a random offset. The blocks are read in random order, and the cells of the
    blocks in the buffer are shuffled while the next blocks are read. A process with a share of the batches
    reads only its own lanes.
    """

    def __init__(self, x: BackedMatrix, batch_size: int, seed: int, share: tuple[int, int]) -> None:
        self.x, self.seed = x, seed
        part, parts = share
        together = math.lcm(LANES, parts)
        lanes = math.gcd(together, batch_size)
        if lanes % parts:
            raise ValueError(
                f"batch_size must be divisible among the {parts} processes, got {batch_size:,}. "
                f"Try a multiple of {together}."
            )
        edges = np.linspace(0, x.shape[0], lanes + 1).astype(int)
        mine = range(part * lanes // parts, (part + 1) * lanes // parts)
        self.lanes = [(lane, int(edges[lane]), int(edges[lane + 1])) for lane in mine]
        self.each = batch_size // lanes
        self.steps = -(-int(np.diff(edges).max()) // self.each)
        held = x.rows_in(BUFFER_BYTES) // batch_size  # batches in the buffer
        # with few lanes, use more blocks of each, so that batches mix cells from as many places of the file
        self.blocks = max(BLOCKS, min(held, BLOCKS * LANES // lanes))
        self.block = self.each * max(1, held // self.blocks)
        self.window = self.blocks * self.block // self.each  # steps per filled buffer
        self._reader = ThreadPoolExecutor(1)
        self._ahead: dict[tuple[int, int], Future[_Buffer]] = {}

    def batch(self, epoch: int, step: int) -> tuple[np.ndarray, Matrix]:
        """Return the row numbers and the values of a batch."""
        window, slot = divmod(step, self.window)
        last = (window + 1) * self.window >= self.steps
        wanted = [(epoch, window), (epoch + 1, 0) if last else (epoch, window + 1)]
        self._ahead = {key: self._ahead.get(key) or self._reader.submit(self._read, *key) for key in wanted}
        rows, values, order = self._ahead[wanted[0]].result()
        return rows[order[slot]], values[order[slot]]

    def _read(self, epoch: int, window: int) -> _Buffer:
        """Return row numbers and values of the cells of a window, and the positions used in each step."""
        steps = min(self.window, self.steps - window * self.window)
        rows, values, order, held = [], [], [], 0
        for lane, start, stop in self.lanes:
            pieces = [
                piece
                for first, size in self._blocks(epoch, lane, stop - start, window)
                for piece in _around(start, stop, first, size)
            ]
            mine = np.concatenate([np.arange(first, last) for first, last in pieces])
            values += [self.x[first:last] for first, last in pieces]
            rng = np.random.default_rng([self.seed, epoch, lane, window])
            shuffled = np.resize(rng.permutation(len(mine)), (steps, self.each))
            order.append(held + shuffled)
            rows.append(mine)
            held += len(mine)
        return np.concatenate(rows), stacked(values), np.concatenate(order, axis=1)

    def _blocks(self, epoch: int, lane: int, n: int, window: int) -> Sequence[tuple[int, int]]:
        """Return first cell and number of cells of each block of a window, in a lane of n cells."""
        rng = np.random.default_rng([self.seed, epoch, lane])
        offset = int(rng.integers(n))
        whole, rest = divmod(n, self.block)
        order = rng.permutation(whole)[window * self.blocks : (window + 1) * self.blocks]
        blocks = [(offset + int(block) * self.block, self.block) for block in order]
        if rest and len(blocks) < self.blocks:  # the last, shorter block
            blocks.append((offset + whole * self.block, rest))
        return blocks or [(offset, self.each)]  # another lane is one cell longer and needs one more step


_Buffer = tuple[np.ndarray, Any, np.ndarray]


def _around(start: int, stop: int, first: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the row ranges of `size` cells of a lane from its cell `first` on, wrapping around at its end."""
    n = stop - start
    first %= n
    yield start + first, start + min(first + size, n)
    if first + size > n:
        yield start, start + first + size - n


def as_inputs(x: Any, codes: np.ndarray | None) -> Any:
    """Return the inputs of the Keras models: ``x``, or ``[x, codes]`` with conditions."""
    return x if codes is None else [x, codes]


def from_inputs(inputs: Any) -> tuple[Any, Any]:
    """Return the cells and the codes of the conditions, if any, of the inputs of a Keras model."""
    with_codes = isinstance(inputs, (list, tuple)) and not isinstance(inputs, SparseBatch)
    return tuple(inputs) if with_codes else (inputs, None)
