"""Negative binomial log probabilities of sparse counts, in JAX.

Most counts of cells are zero, and the log probability of a zero has a short form. The rest is computed for
the other counts only, and so are the gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import numpy as jnp

from vaexprs.likelihoods.log_prob import log_coefficient, sum_over_genes

Keep = Callable[[Any, Any], Any]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def log_prob(limited: Keep, x: Any, mean: Any, dispersion: Any, nonzero: Any) -> Any:
    r"""Return the log probability of each cell, (n_cells,).

    The log probability of a zero is :math:`-\theta\log(1 + \mu/\theta)`; with a count x is added
    :math:`\log\frac{\Gamma(x+\theta)}{\Gamma(\theta)\,x!} + x\log\frac{\mu/\theta}{1 + \mu/\theta}`.

    Parameters
    ----------
    limited
        Function of the counts and their log probabilities, (n_cells, n_genes) each, that returns lower limits
        and which log probabilities they replace.
    x
        Counts, (n_cells, n_genes).
    mean, dispersion
        Means and inverse dispersions, (n_cells, n_genes).
    nonzero
        Positions of the counts above zero in the flattened `x`, in increasing order, filled up with the size
        of `x`.
    """
    return _forward(limited, x, mean, dispersion, nonzero)[0]


def _forward(limited: Keep, x: Any, mean: Any, dispersion: Any, nonzero: Any) -> tuple[Any, Any]:
    log_ratio = jnp.log1p(mean / dispersion)
    at = partial(_at, nonzero=nonzero)
    count, mu, theta, ratio = at(x), at(mean), at(dispersion), at(log_ratio)
    of_count = log_coefficient(count, theta, mu / theta) - count * ratio
    values = _add(-dispersion * log_ratio, nonzero, of_count)
    limits, replaced = limited(x, values)
    kept = jnp.logical_not(replaced)
    total = sum_over_genes(jnp.where(kept, values, limits))
    return total, (mean, dispersion, nonzero, log_ratio, count, mu, theta, kept)


def _backward(limited: Keep, saved: Any, gradient: Any) -> tuple[Any, ...]:
    mean, dispersion, nonzero, log_ratio, count, mu, theta, kept = saved
    factor = jnp.where(kept, gradient[:, None], 0.0)
    share = 1 / (mean + dispersion)
    own, own_share = _at(factor, nonzero), 1 / (mu + theta)
    rising = jax.vmap(jax.grad(log_coefficient, argnums=1))(count, theta)
    of_mean = _add(-factor * dispersion * share, nonzero, own * count * theta * own_share / mu)
    of_dispersion = _add(factor * (mean * share - log_ratio), nonzero, own * (rising - count * own_share))
    return None, of_mean, of_dispersion, None


log_prob.defvjp(_forward, _backward)


def _at(values: Any, nonzero: Any) -> Any:
    """Return the values at the positions; 1 where there is none."""
    flat = jnp.ravel(values).at[nonzero]
    return flat.get(mode="fill", fill_value=1.0, unique_indices=True, indices_are_sorted=True)


def _add(values: Any, nonzero: Any, added: Any) -> Any:
    """Return the values plus others at the positions."""
    flat = jnp.ravel(values).at[nonzero]
    return flat.add(added, mode="drop", unique_indices=True, indices_are_sorted=True).reshape(values.shape)
