"""Negative binomial log probabilities of sparse counts and their gradients, in JAX.

Most counts of cells are zero, and the log probability of a zero has a short form. The rest is computed for
the other counts only, and so are its gradients, which are computed together with the values: with many genes
most of the time is spent on moving values to and from memory.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
from jax import numpy as jnp

from vaexprs.data.sparse_batch import SparseBatch
from vaexprs.likelihoods import outliers
from vaexprs.likelihoods.count_base import LOG_DISPERSION_LIMITS, MIN_MEAN
from vaexprs.likelihoods.log_prob import log_coefficient, sum_over_genes


@jax.custom_vjp
def log_prob(cells: SparseBatch, logits: Any, log_dispersion: Any) -> Any:
    r"""Return the log probability of each cell, (n_cells,), with bounded influence of single outlying counts.

    With mean :math:`\mu` and inverse dispersion :math:`\theta` the log probability of a zero is
    :math:`-\theta\log(1 + \mu/\theta)`; with a count x is added
    :math:`\log\frac{\Gamma(x+\theta)}{\Gamma(\theta)\,x!} + x\log\frac{\mu/\theta}{1 + \mu/\theta}`. The mean
    is the library size times the softmax of the logits.

    Parameters
    ----------
    cells
        The counts.
    logits, log_dispersion
        Logits of the proportions and log inverse dispersions before they are limited, (n_cells, n_genes).
    """
    return _forward(cells, logits, log_dispersion)[0]


def _forward(cells: SparseBatch, logits: Any, log_dispersion: Any) -> tuple[Any, tuple[Any, Any]]:
    """Return the log probabilities, and their gradients by the logits and log dispersions."""
    count, cell = cells.count, cells.cell
    n_cells, n_genes = logits.shape
    found = count > 0  # the other places are not used
    place = jnp.where(found, cells.gene + n_genes * cell, logits.size)
    at, put = partial(_at, place=place), partial(_put, place=place)
    by_cell = partial(jax.ops.segment_sum, segment_ids=cell, num_segments=n_cells, indices_are_sorted=True)

    exponential = jnp.exp(logits - logits.max(axis=1, keepdims=True))
    share = exponential * (cells.library / sum_over_genes(exponential))[:, None]
    mean = share + MIN_MEAN
    least, most = LOG_DISPERSION_LIMITS
    theta = jnp.exp(jnp.clip(log_dispersion, least, most))
    ratio = mean / theta
    of_zero = -theta * jnp.log1p(ratio)

    # log probabilities of the counts, and of zeros in their place
    mu, a = at(mean), at(theta)
    log_ratio = jnp.log1p(mu / a)
    of_no_count = -a * log_ratio
    of_count = log_coefficient(count, a, mu / a) - count * log_ratio + of_no_count

    limit, limit_of_zero = outliers.outlier_limit(count), outliers.LOG_CONTAMINATION
    zero_below, none_below, below = (
        of_zero < limit_of_zero,
        found & (of_no_count < limit_of_zero),
        found & (of_count < limit),
    )
    number = sum_over_genes(zero_below.astype(mean.dtype)) + by_cell(
        below.astype(mean.dtype) - none_below.astype(mean.dtype)
    )
    isolated = number <= outliers.most_outliers(cells.detected)
    zero_replaced = zero_below & isolated[:, None]
    none_replaced, replaced = none_below & isolated[cell], below & isolated[cell]

    value = jnp.where(replaced, limit, of_count) - jnp.where(none_replaced, limit_of_zero, of_no_count)
    total = sum_over_genes(jnp.where(zero_replaced, limit_of_zero, of_zero))
    total = total + by_cell(jnp.where(found, value, 0.0))

    inverse = 1 / (1 + ratio)
    own = a / (mu + a)
    rising = jax.vmap(jax.grad(log_coefficient, argnums=1))(count, a)
    by_share = put(
        jnp.where(zero_replaced, 0.0, -inverse * share),
        jnp.where(replaced, 0.0, own * (count - mu) / mu * (mu - MIN_MEAN)),
    )
    by_theta = put(
        jnp.where(zero_replaced, 0.0, theta * (1 - inverse) + of_zero),
        jnp.where(replaced, 0.0, a * rising + own * (mu - count) + of_no_count),
    )
    by_logits = by_share - share * (sum_over_genes(by_share) / cells.library)[:, None]
    inside = (log_dispersion > least) & (log_dispersion < most)
    return total, (by_logits, jnp.where(inside, by_theta, 0.0))


def _backward(gradients: tuple[Any, Any], of_total: Any) -> tuple[Any, Any, Any]:
    of_logits, of_log_dispersion = (of_total[:, None] * gradient for gradient in gradients)
    return None, of_logits, of_log_dispersion


log_prob.defvjp(_forward, _backward)


def _at(values: Any, place: Any) -> Any:
    """Return the values at the places; 1 where there is none."""
    flat = jnp.ravel(values).at[place]
    return flat.get(mode="fill", fill_value=1.0, unique_indices=True, indices_are_sorted=True)


def _put(values: Any, new: Any, place: Any) -> Any:
    """Return the values with others at the places."""
    flat = jnp.ravel(values).at[place]
    return flat.set(new, mode="drop", unique_indices=True, indices_are_sorted=True).reshape(values.shape)
