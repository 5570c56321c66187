"""A mini-batch of cells as its counts above zero."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from vaexprs.data.matrix import Matrix


class Blocks(NamedTuple):
    """Counts above zero of blocks of equally many cells.

    Each block has the same number of places, `room`: the counts of its cells one after the other, and then
    zeros, which belong to its last cell and to gene 0.

    Attributes
    ----------
    count
        Counts, (n_blocks, room), float32.
    gene, cell
        Gene of each count, and its cell within the block, (n_blocks, room).
    library, detected
        Sum of the counts of each cell, and number of counts above zero, (n_blocks, cells per block), float32.
    """

    count: Any
    gene: Any
    cell: Any
    library: Any
    detected: Any

    @property
    def n_cells(self) -> int:
        return int(self.library.size)

    def in_lanes(self, most: int) -> list[Blocks]:
        """Return the blocks in equal parts, at most this number."""
        n = len(self.count)
        lanes = max(k for k in range(1, most + 1) if n % k == 0)
        return [Blocks(*(part[i * n // lanes : (i + 1) * n // lanes] for part in self)) for i in range(lanes)]


class SparseBatch(NamedTuple):
    """The counts above zero of a batch of cells, as arrays whose shapes are the same for every batch.

    Attributes
    ----------
    blocks
        The counts.
    start
        First place of each cell in the flattened blocks, and the number of places, (n_cells + 1,).
    order
        Places in the flattened blocks gene by gene, (n_blocks * room,).
    gene_start
        First element of `order` of each input of the encoder, and the number of counts, (n_inputs + 1,). The
        inputs are the genes and the codes of the conditions, which have no counts.
    """

    blocks: Blocks
    start: Any
    order: Any
    gene_start: Any


def compressed(x: Matrix) -> sp.csr_matrix:
    """Return a matrix, which may be changed, as CSR without duplicate entries and explicit zeros."""
    x = sp.csr_matrix(x)
    x.sum_duplicates()
    x.eliminate_zeros()
    return x


def balanced(sizes: np.ndarray, n_blocks: int) -> np.ndarray:
    """Return an order of cells such that blocks of equally many cells have about the same sum of sizes.

    The cells are dealt to the blocks from the largest to the smallest, in every other round backwards.
    """
    dealt = np.argsort(-sizes, kind="stable").reshape(-1, n_blocks)
    dealt[1::2] = dealt[1::2, ::-1]
    return dealt.T.ravel()


def most_in_block(x: sp.csr_matrix, n_blocks: int) -> int:
    """Return the largest number of counts of a block."""
    return int(np.diff(x.indptr[:: x.shape[0] // n_blocks]).max())


def sparse_batch(x: sp.csr_matrix, n_blocks: int, room: int, n_codes: int) -> SparseBatch:
    """Return the counts of a batch.

    Parameters
    ----------
    x
        Counts, (n_cells, n_genes), as `compressed` returns them.
    n_blocks
        Number of blocks, a divisor of the number of cells.
    room
        Places of a block, at least `most_in_block`.
    n_codes
        Number of inputs of the encoder that are codes of conditions.
    """
    size = x.shape[0] // n_blocks
    detected = np.diff(x.indptr)
    shift = np.arange(n_blocks) * room - x.indptr[:-1:size]  # from an element of x to its place
    place = np.arange(x.nnz) + np.repeat(shift, np.diff(x.indptr[::size]))

    def filled(values: np.ndarray, kind: type, filler: int = 0) -> np.ndarray:
        full = np.full(n_blocks * room, filler, kind)
        full[place] = values
        return full.reshape(n_blocks, room)

    by_gene = sp.csr_matrix((place, x.indices, x.indptr), x.shape).tocsc()
    order = np.zeros(n_blocks * room, np.int32)
    order[: x.nnz] = by_gene.data
    blocks = Blocks(
        count=filled(x.data, np.float32),
        gene=filled(x.indices, np.int32),
        cell=filled(np.repeat(np.arange(x.shape[0]) % size, detected), np.int32, size - 1),
        library=np.asarray(x.sum(axis=1), np.float32).reshape(n_blocks, size),
        detected=detected.astype(np.float32).reshape(n_blocks, size),
    )
    start = np.append(x.indptr[:-1] + np.repeat(shift, size), n_blocks * room).astype(np.int32)
    gene_start = np.append(by_gene.indptr, np.full(n_codes, x.nnz)).astype(np.int32)
    return SparseBatch(blocks, start, order, gene_start)
