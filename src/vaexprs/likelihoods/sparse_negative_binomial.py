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
from vaexprs.likelihoods.count_base import LOG_DISPERSION_LIMITS, MIN_MEAN
from vaexprs.likelihoods.log_prob import log_coefficient, sum_over_genes
from vaexprs.likelihoods.outliers import LOG_CONTAMINATION, most_outliers, outlier_limit


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
    count, gene, cell = cells.count, cells.gene, cells.cell
    n_cells, n_genes = logits.shape
    found = count > 0  # the other places are not used
    place = jnp.where(found, gene + n_genes * cell, logits.size)
    at, put = partial(_at, place=place), partial(_put, place=place)
    of_cell = partial(jax.ops.segment_sum, segment_ids=cell, num_segments=n_cells, indices_are_sorted=True)

    exponential = jnp.exp(logits - logits.max(axis=1, keepdims=True))
    share = exponential * (cells.library / sum_over_genes(exponential))[:, None]
    mean = share + MIN_MEAN
    least, most = LOG_DISPERSION_LIMITS
    theta = jnp.exp(jnp.clip(log_dispersion, least, most))
    ratio = mean / theta
    zero = -theta * jnp.log1p(ratio)

    mu, a = at(mean), at(theta)
    log_ratio = jnp.log1p(mu / a)
    at_zero = -a * log_ratio  # log probability of a zero where there is a count
    value = log_coefficient(count, a, mu / a) - count * log_ratio + at_zero
    limit = outlier_limit(count)
    below, zero_below = found & (value < limit), zero < LOG_CONTAMINATION
    instead = found & (at_zero < LOG_CONTAMINATION)  # counted in zero_below
    outliers = sum_over_genes(zero_below.astype(zero.dtype)) + of_cell(
        below.astype(zero.dtype) - instead.astype(zero.dtype)
    )
    isolated = outliers <= most_outliers(cells.detected)
    replaced, zero_replaced = below & isolated[cell], zero_below & isolated[:, None]

    total = sum_over_genes(jnp.where(zero_replaced, LOG_CONTAMINATION, zero))
    counted = jnp.where(instead & isolated[cell], LOG_CONTAMINATION, at_zero)
    total = total + of_cell(jnp.where(found, jnp.where(replaced, limit, value) - counted, 0.0))

    kept = 1 / (1 + ratio)  # theta / (mean + theta)
    of_share = jnp.where(zero_replaced, 0.0, -kept * share)
    of_theta = jnp.where(zero_replaced, 0.0, theta * (1 - kept) + zero)
    own = a / (mu + a)
    rising = jax.vmap(jax.grad(log_coefficient, argnums=1))(count, a)
    of_share = put(of_share, jnp.where(replaced, 0.0, own * (count - mu) / mu * (mu - MIN_MEAN)))
    of_theta = put(of_theta, jnp.where(replaced, 0.0, a * rising + own * (mu - count) + at_zero))
    of_logits = of_share - share * (sum_over_genes(of_share) / cells.library)[:, None]
    inside = (log_dispersion > least) & (log_dispersion < most)
    return total, (of_logits, jnp.where(inside, of_theta, 0.0))


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
