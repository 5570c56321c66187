"""Likelihoods: scaling of the input, output layer, log probability and sampling of each.

A likelihood is one module with one class, and one entry of `LIKELIHOODS`.
"""

from __future__ import annotations

from typing import Any

from vaexprs.interface.validation import check_choice
from vaexprs.likelihoods.base import Likelihood
from vaexprs.likelihoods.bernoulli import Bernoulli
from vaexprs.likelihoods.gaussian import Gaussian
from vaexprs.likelihoods.negative_binomial import NegativeBinomial
from vaexprs.likelihoods.poisson import Poisson
from vaexprs.likelihoods.zero_inflated_negative_binomial import ZeroInflatedNegativeBinomial
from vaexprs.preprocessing.summary import Summary

LIKELIHOODS: dict[str, type[Likelihood]] = {
    kind.name: kind for kind in (Bernoulli, NegativeBinomial, ZeroInflatedNegativeBinomial, Poisson, Gaussian)
}


def likelihood_named(name: str) -> type[Likelihood]:
    """Return the likelihood with this name.

    Raises
    ------
    ValueError
        If there is none; the message lists the names.
    """
    return LIKELIHOODS[check_choice("likelihood", name, tuple(LIKELIHOODS))]


def default_likelihood(summary: Summary, last_layer: Any = None) -> type[Likelihood]:
    """Return the likelihood to use when none is named.

    The likelihood implied by the user's last decoder layer, if any (`Likelihood.fits_last_layer`); otherwise
    the negative binomial for counts and the Gaussian for other values.

    Parameters
    ----------
    summary
        Summary of the training values.
    last_layer
        Last of `decoder_layers`; None if there are none.

    Raises
    ------
    ValueError
        If the last layer looks like an output layer but does not have one unit per gene.
    """
    for kind in LIKELIHOODS.values():
        if kind.fits_last_layer(last_layer, len(summary.low)):
            return kind
    return NegativeBinomial if summary.whole else Gaussian
