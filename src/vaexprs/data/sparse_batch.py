"""A mini-batch of cells as its counts above zero."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp


class SparseBatch(NamedTuple):
    """The counts above zero of a batch, as arrays whose shapes are the same for every batch.

    There is room for more counts: the places after the last one have a count of zero and belong to the last
    cell and to gene 0.

    Attributes
    ----------
    count
        Counts of the cells one after the other, (room,), float32.
    gene, cell
        Gene and cell of each count, (room,).
    start
        First place of each cell, and the number of places, (n_cells + 1,).
    order
        Places of the counts gene by gene, (room,).
    gene_start
        First element of `order` of each input of the encoder, and the number of counts, (n_inputs + 1,). The
        inputs are the genes and the codes of the conditions, which have no counts.
    library, detected
        Sum of the counts of each cell, and number of counts above zero, (n_cells,), float32.
    """

    count: Any
    gene: Any
    cell: Any
    start: Any
    order: Any
    gene_start: Any
    library: Any
    detected: Any


def sparse_batch(x: sp.csr_matrix, room: int, n_codes: int) -> SparseBatch:
    """Return the counts of a batch.

    Parameters
    ----------
    x
        Counts, (n_cells, n_genes), as `matrix.compressed` returns them.
    room
        Number of places, at least the number of counts above zero.
    n_codes
        Number of inputs of the encoder that are codes of conditions.
    """
    n_cells = x.shape[0]
    detected = np.diff(x.indptr)
    by_gene = sp.csr_matrix((np.arange(x.nnz), x.indices, x.indptr), x.shape).tocsc()

    def filled(values: np.ndarray, kind: type, filler: int = 0) -> np.ndarray:
        full: np.ndarray = np.full(room, filler, kind)
        full[: x.nnz] = values
        return full

    return SparseBatch(
        count=filled(x.data, np.float32),
        gene=filled(x.indices, np.int32),
        cell=filled(np.repeat(np.arange(n_cells), detected), np.int32, n_cells - 1),
        start=np.append(x.indptr[:-1], room).astype(np.int32),
        order=filled(by_gene.data, np.int32),
        gene_start=np.append(by_gene.indptr, np.full(n_codes, x.nnz)).astype(np.int32),
        library=np.asarray(x.sum(axis=1), np.float32).ravel(),
        detected=detected.astype(np.float32),
    )
