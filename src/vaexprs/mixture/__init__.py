"""Gaussian mixtures: the fourteen models of mclust, fitted by EM and chosen by BIC."""

from vaexprs.mixture.em import MODELS, Mixture, SingularFitError
from vaexprs.mixture.gaussian_mixture import GaussianMixture
from vaexprs.mixture.selection import Selection, select_mixture

__all__ = ["MODELS", "GaussianMixture", "Mixture", "Selection", "SingularFitError", "select_mixture"]
