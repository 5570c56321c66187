"""The likelihoods: scaling of the input, output layer, log probability and sampling of each."""

from __future__ import annotations

from vaexprs.interface.validation import check_choice
from vaexprs.likelihoods.base import Likelihood
from vaexprs.likelihoods.continuous import Bernoulli, Gaussian
from vaexprs.likelihoods.counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from vaexprs.preprocessing.summary import Summary

LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "nb": NegativeBinomial,
    "zinb": ZeroInflatedNegativeBinomial,
    "poisson": Poisson,
    "gaussian": Gaussian,
}


def likelihood_named(name: str) -> type[Likelihood]:
    """Return the likelihood of this name.

    Raises
    ------
    ValueError
        If there is none; the message lists them.
    """
    return LIKELIHOODS[check_choice("likelihood", name, tuple(LIKELIHOODS))]


def default_likelihood(summary: Summary) -> type[Likelihood]:
    """Return the negative binomial for counts, the Gaussian for anything else."""
    return NegativeBinomial if summary.whole else Gaussian
