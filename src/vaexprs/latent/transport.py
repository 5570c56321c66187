r"""Optimal transport between mixtures of normal distributions.

The Wasserstein-type distance of Delon & Desolneux (2020, doi:10.1137/19M1301047) restricts transport plans to
Gaussian mixtures: the masses :math:`\pi_{kl}` transported between components :math:`k` and :math:`l` minimise
the total squared Wasserstein distance between normal distributions, and each mass moves by their optimal map

.. math:: T_{kl}(x) = \mu_l + A (x - \mu_k), \qquad
          A = \Sigma_k^{-1/2} (\Sigma_k^{1/2} \Sigma_l \Sigma_k^{1/2})^{1/2} \Sigma_k^{-1/2}
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vaexprs.mixture.em import Mixture

MIN_MASS = 1e-9  # smaller masses of pairs of components are ignored


@dataclass(frozen=True)
class Transport:
    """Optimal transport from one mixture to another.

    Parameters
    ----------
    source, target
        Mixtures in the same space.
    """

    source: Mixture
    target: Mixture

    @cached_property
    def mass(self) -> np.ndarray:
        """Mass transported between each pair of components, (n_source, n_target), with sum 1."""
        from ot.gmm import gmm_ot_plan

        a, b = self.source, self.target
        return np.asarray(
            gmm_ot_plan(a.means, b.means, a.covariances, b.covariances, a.weights, b.weights), float
        )

    @cached_property
    def maps(self) -> dict[tuple[int, int], np.ndarray]:
        """Matrix A, (n_dims, n_dims), of each pair of components with transported mass."""
        from ot.gaussian import bures_wasserstein_mapping

        pairs = [(int(k), int(j)) for k, j in np.argwhere(self.mass > MIN_MASS)]
        a, b = self.source, self.target
        return {
            (k, j): bures_wasserstein_mapping(a.means[k], b.means[j], a.covariances[k], b.covariances[j])[0]
            for k, j in pairs
        }

    def carry(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return transported points, (n, n_dims).

        Each point moves with one pair of components, sampled with the probabilities of the pairs. Samples of
        the source become samples of the target.
        """
        pairs = list(self.maps)
        ends = np.cumsum(self._shares(x), axis=1)
        chosen = (rng.random((len(x), 1)) * ends[:, -1:] > ends).sum(axis=1)
        carried = np.empty_like(x)
        for i in np.unique(chosen):
            rows = chosen == i
            carried[rows] = self._moved(x[rows], *pairs[i])
        return carried

    def between(self, t: float) -> Mixture:
        """Return the mixture at fraction `t` of the geodesic from source to target."""
        a, b = self.source, self.target
        weights, means, covariances = [], [], []
        for (k, j), linear in self.maps.items():
            part = (1 - t) * np.eye(len(linear)) + t * linear
            weights.append(self.mass[k, j])
            means.append((1 - t) * a.means[k] + t * b.means[j])
            covariances.append(part @ a.covariances[k] @ part.T)
        total = np.array(weights)
        return Mixture(total / total.sum(), np.stack(means), np.stack(covariances), f"{a.model}-{b.model}")

    def _shares(self, x: np.ndarray) -> np.ndarray:
        """Return the probability of each pair of `maps` for each point, (n, n_pairs); rows sum to 1."""
        joint = self.source.log_joint(x)
        of_component = np.exp(joint - self.source.log_prob(x))
        onward = self.mass / self.mass.sum(axis=1, keepdims=True)
        return np.stack([of_component[k] * onward[k, j] for k, j in self.maps], axis=1)

    def _moved(self, x: np.ndarray, k: int, j: int) -> np.ndarray:
        return self.target.means[j] + (x - self.source.means[k]) @ self.maps[k, j].T
