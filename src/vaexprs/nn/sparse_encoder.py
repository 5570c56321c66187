"""First layers of an encoder applied to sparse counts, in JAX."""

from __future__ import annotations

from typing import Any

import jax
import keras
from jax import numpy as jnp
from jax.experimental.sparse import BCSR

from vaexprs.data.sparse_batch import SparseBatch
from vaexprs.nn.layers import Normalize

# Fraction of places up to which the product of a sparse matrix is faster, on a CPU. Elsewhere it is not used.
MAX_DENSITY = 0.25


def pays(cells: SparseBatch, n_genes: int) -> bool:
    """Return whether `first_layer` is faster than the layers after `dense_counts`."""
    density = len(cells.count) / (len(cells.library) * n_genes)
    return jax.default_backend() == "cpu" and density <= MAX_DENSITY


def dense_counts(cells: SparseBatch, n_genes: int) -> Any:
    """Return the counts of a batch, (n_cells, n_genes)."""
    gene = jnp.where(cells.count > 0, cells.gene, n_genes)  # the other places are not in the matrix
    dense = jnp.zeros((len(cells.library), n_genes), cells.count.dtype)
    return dense.at[cells.cell, gene].set(cells.count, mode="drop")


def first_layer(cells: SparseBatch, condition: Any, normalize: Normalize, layer: keras.layers.Dense) -> Any:
    """Return ``layer(concatenate([normalize(counts), condition]))``, (n_cells, n_units).

    The normalised value of a zero is the same in all cells. It is multiplied by the weights once, and the
    deviations from it where there are counts are a sparse matrix.
    """
    of_zero, deviation = normalize.of_sparse(cells.count, cells.gene, cells.library[cells.cell])
    hidden = _product(cells, deviation, of_zero, condition, keras.ops.convert_to_tensor(layer.kernel))
    return layer.activation(hidden if layer.bias is None else hidden + layer.bias)


@jax.custom_vjp
def _product(cells: SparseBatch, deviation: Any, of_zero: Any, condition: Any, kernel: Any) -> Any:
    """Return the product of inputs and kernel, (n_cells, n_units).

    Parameters
    ----------
    cells
        The counts.
    deviation
        Normalised values at the places of `cells` less those of zeros.
    of_zero
        Normalised value of a zero of each gene, (n_genes,).
    condition
        Codes of the conditions, (n_cells, n_codes), or None.
    kernel
        (n_genes + n_codes, n_units).
    """
    return _forward(cells, deviation, of_zero, condition, kernel)[0]


def _forward(
    cells: SparseBatch, deviation: Any, of_zero: Any, condition: Any, kernel: Any
) -> tuple[Any, tuple[Any, ...]]:
    shape = (len(cells.library), kernel.shape[0])
    product = _matrix(deviation, cells.gene, cells.start, shape) @ kernel
    product = product + jnp.pad(of_zero, (0, shape[1] - len(of_zero))) @ kernel
    if condition is not None:
        product = product + condition @ kernel[len(of_zero) :]
    return product, (cells, deviation, of_zero, condition)


def _backward(saved: tuple[Any, ...], gradient: Any) -> tuple[Any, ...]:
    cells, deviation, of_zero, condition = saved
    n_codes = cells.gene_start.shape[0] - 1 - len(of_zero)
    shape = (len(of_zero) + n_codes, len(cells.library))
    transposed = _matrix(deviation[cells.order], cells.cell[cells.order], cells.gene_start, shape)
    of_kernel = transposed @ gradient
    if condition is not None:
        of_kernel = of_kernel.at[len(of_zero) :].set(condition.T @ gradient)
    of_kernel = of_kernel + jnp.pad(of_zero, (0, n_codes))[:, None] * gradient.sum(axis=0)
    return None, None, None, None, of_kernel


_product.defvjp(_forward, _backward)


def _matrix(values: Any, columns: Any, start: Any, shape: tuple[int, int]) -> BCSR:
    return BCSR((values, columns, start), shape=shape, indices_sorted=True, unique_indices=True)
