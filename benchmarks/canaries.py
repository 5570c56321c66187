"""White-box audit of private fits with canaries, also of fits that are deliberately broken.

    python benchmarks/canaries.py [--epsilons 1 3 10 30] [--canaries 800] [--runs 5] [--density-runs 2000]

A canary is a cell with 1,000 counts in a gene of its own, which no other cell has. Each is added to the
training cells with probability one half. The attacker sees every noisy sum of the fit (the marginals and the
gradient of each step) and knows the weights and the real cells. Of these sums the part along the contribution
of a canary is used: its entry of the mean profile, and its clipped gradient in the weights of its gene. Steps
do not change the weights (a learning rate of nearly 0), so that the gradient is known exactly.

Two attacks are made:

* Membership: the score of a canary is the log likelihood ratio of all sums with and without it, with the
  planned noise and sampling rate. Scores of canaries that were added are compared with the others.
* Parts: the auditor also knows in which steps a canary was. The mean profile with and without it, and each
  step with and without it, show how much noise these releases have. The accounting composes them.

If the noise is Gaussian, scores are about normal, and the distance of the two means over the standard
deviation, mu, is at most that of Gaussian differential privacy (Dong, Roth & Su 2022,
doi:10.1111/rssb.12454; Nasr et al. 2023, doi:10.48550/arXiv.2302.07956). Lower confidence limits of mu
(noncentral t distribution) give a lower bound on epsilon at the delta of the fit, with 95% confidence for
both attacks together. This bound is not limited by the number of canaries: it can exceed every promise.

What all canaries have in common is not attacked: the number of cells and their library sizes (a quarter of
the budget of the marginals), and the gradient in weights that belong to no gene or to other genes. The latent
density, in which canaries cannot be told apart, has a game of its own: the same sums with and without one
cell. Its promise is the epsilon of the density alone.

Every line is one mechanism; "caught" is the number of runs whose lower bound exceeds the promise. It must be
0 for the fit as it is, and is the power of the audit for the broken ones. The lines "allowed" have the mu of
the promised noise.
"""

import argparse
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from unittest.mock import patch

import vaexprs as vx

# isort: split
import anndata as ad
import dp_accounting
import jax
import keras
import numpy as np
import scipy.sparse as sp
from harness import table_head, table_row
from scipy.optimize import brentq
from scipy.stats import nct, norm

from vaexprs.differential_privacy import dp_sgd, latent, mechanisms
from vaexprs.differential_privacy import fit as private_fit
from vaexprs.differential_privacy.accounting import Guarantee, Privacy, least_epsilon, plan, spent
from vaexprs.differential_privacy.marginals import shares
from vaexprs.differential_privacy.mechanisms import Units
from vaexprs.differential_privacy.randomness import Randomness
from vaexprs.preprocessing.conditions import Conditions

GENES = 60  # number of genes of the real cells
COUNTS = 1_000  # counts of a canary in its gene
CONFIDENCE = 0.95
EPOCHS = 5
DELTA = 1e-5
PROFILE_SHARE = shares(Conditions(None, {}))[3]  # of the budget of the marginals, without conditions
N_MARGINALS = 3  # number of noisy sums before training, without conditions
DRAWS = 4  # latent noises over which the gradient of a canary is averaged
CONTROLS = (
    "as it is",
    "no noise",
    "half noise",
    "no clipping",
    "no noise in marginals",
    "no noise in training",
    "all cells in every step",
)
NEVER = 1e9  # noise multiplier of a release that is not attacked


@dataclass(frozen=True)
class Scores:
    """Scores of an attack, normal with equal variance, and whether a canary was present in each.

    Parameters
    ----------
    values
        (n,).
    present
        (n,).
    """

    values: np.ndarray
    present: np.ndarray

    @property
    def mu(self) -> float:
        """Distance of the mean scores with and without a canary, in standard deviations."""
        inside, outside = self.values[self.present], self.values[~self.present]
        squares = sum(np.sum((group - group.mean()) ** 2) for group in (inside, outside))
        spread = np.sqrt(squares / (len(self.values) - 2))
        return float((inside.mean() - outside.mean()) / spread)

    def limit(self, confidence: float) -> float:
        """Return the lower confidence limit of mu, from 0 to 50."""
        freedom, n_present = len(self.values) - 2, np.count_nonzero(self.present)
        root = np.sqrt(1 / (1 / n_present + 1 / (len(self.values) - n_present)))
        t = self.mu * root
        if nct.sf(t, freedom, 0) > 1 - confidence:
            return 0.0
        if t > 100:  # the distribution is computed badly, and nearly normal
            limit = t - norm.ppf(confidence) * np.sqrt(1 + t**2 / (2 * freedom))
        else:
            limit = brentq(lambda c: nct.sf(t, freedom, c) - (1 - confidence), 0, t + 5)
        return float(min(limit / root, 50))

    def lower_bound(self, delta: float, confidence: float = CONFIDENCE) -> float:
        """Return the lower confidence limit of epsilon at a delta."""
        return epsilon_of(self.limit(confidence), delta)


@dataclass(frozen=True)
class Evidence:
    """Scores of the canaries of one fit.

    Parameters
    ----------
    guarantee
        The promise of the fit.
    membership
        Log likelihood ratios of all sums; present are the canaries that were added.
    profile
        Entries of the mean profile; likewise.
    steps
        Sums of gradients along each canary, for each step; present are canaries that were in the step.
    """

    guarantee: Guarantee
    membership: Scores
    profile: Scores
    steps: Scores

    @property
    def lower_bound(self) -> float:
        """Lower confidence limit of epsilon by the better attack."""
        wrong = (1 - CONFIDENCE) / 2  # of each attack
        whole = self.membership.lower_bound(self.guarantee.delta, 1 - wrong)
        profile, step = (part.limit(1 - wrong / 2) for part in (self.profile, self.steps))
        parts = replace(
            self.guarantee,
            marginals=1 / profile if profile else NEVER,
            density=NEVER,
            training=1 / step if step else NEVER,
        )
        return max(whole, spent(replace(parts, epsilon=max(least_epsilon(parts), self.guarantee.epsilon))))


def epsilon_of(mu: float, delta: float) -> float:
    """Return epsilon of Gaussian differential privacy."""
    return float(dp_accounting.get_epsilon_gaussian(1 / mu, delta)) if mu else 0.0


@contextmanager
def broken(how: str) -> Iterator[None]:
    """Break private fits inside the block, in one of the ways of CONTROLS."""
    normal, clipped = Randomness.normal, dp_sgd.clipped_gradient
    marginals, noise = private_fit.release_marginals, dp_sgd.add_noise
    sampled = dp_sgd._sampled_units
    factor = {"no noise": 1e-6, "half noise": 0.5}.get(how)
    if how == "as it is":
        yield
    elif factor:
        with patch.object(Randomness, "normal", lambda self, shape: factor * normal(self, shape)):
            yield
    elif how == "no clipping":
        with patch.object(dp_sgd, "clipped_gradient", lambda model, _, size=None: clipped(model, 1e9, size)):
            yield
    elif how == "no noise in marginals":
        with patch.object(
            private_fit,
            "release_marginals",
            lambda x, obs, c, u, _, source, levels: marginals(x, obs, c, u, 1e-6, source, levels),
        ):
            yield
    elif how == "no noise in training":
        with patch.object(dp_sgd, "add_noise", lambda total, sd, source: noise(total, 1e-6 * sd, source)):
            yield
    elif how == "all cells in every step":
        with patch.object(dp_sgd, "_sampled_units", lambda n, rate, source: sampled(n, 1.0, source)):
            yield
    else:
        raise ValueError(f"how must be one of {CONTROLS}, got {how!r}.")


def with_canaries(n: int, rng: np.random.Generator) -> tuple[ad.AnnData, np.ndarray]:
    """Return demo cells with canaries, which have one more gene each, and which canaries were added."""
    demo = vx.demo_cells()
    real = demo[:, np.sort(np.argsort(-np.ravel(demo.X.sum(axis=0)))[:GENES])].X
    added = rng.random(n) < 0.5
    x = sp.block_diag([sp.csr_matrix(real), COUNTS * sp.eye(n).tocsr()[added]], format="csr").astype(
        np.float32
    )
    return ad.AnnData(sp.csr_matrix(x)), added


def attacked(epsilon: float, n_canaries: int, how: str, seed: int) -> Evidence:
    """Return what the attacks find in one fit."""
    cells, added = with_canaries(n_canaries, np.random.default_rng(seed))
    sums: list[np.ndarray] = []
    sampled: list[np.ndarray] = []

    def observed(original, seen):
        def observing(*args):
            result = original(*args)
            seen.append(result)
            return result

        return observing

    with (
        broken(how),
        warnings.catch_warnings(),
        patch.object(mechanisms, "add_noise", observed(mechanisms.add_noise, sums)),
        patch.object(dp_sgd, "add_noise", observed(dp_sgd.add_noise, sums)),
        patch.object(dp_sgd, "_sampled_units", observed(dp_sgd._sampled_units, sampled)),
    ):
        warnings.simplefilter("ignore")
        fit = vx.fit_vae(
            cells,
            likelihood="nb",
            epochs=EPOCHS,
            verbose=0,
            optimizer=keras.optimizers.SGD(1e-12),
            privacy=Privacy(epsilon, DELTA, insecure_test_seed=seed),
        )
        (weights, directions), strength, others = canary_gradients(fit, cells, n_canaries)
    guarantee = fit.guarantee
    rate, noise = guarantee.rate, guarantee.training * dp_sgd.CLIP
    *_, profile = sums[:N_MARGINALS]
    steps = np.array(sums[N_MARGINALS : N_MARGINALS + guarantee.steps]) - rate * others
    along = np.einsum("tgk,gk->tg", steps[:, weights], directions)
    in_step = np.zeros((guarantee.steps, n_canaries), bool)
    first = cells.n_obs - np.count_nonzero(added)  # row of the first canary
    for here, rows in zip(in_step, sampled, strict=True):
        here[np.flatnonzero(added)[rows[rows >= first] - first]] = True
    # log likelihood ratios: of a normal distribution with another mean, and of a mixture of both
    ratio_profile = profile[GENES:] * PROFILE_SHARE / guarantee.marginals**2
    ratio_step = (strength * along - strength**2 / 2) / noise**2
    ratio = ratio_profile + np.logaddexp(np.log1p(-rate), np.log(rate) + ratio_step).sum(axis=0)
    return Evidence(
        guarantee,
        Scores(ratio, added),
        Scores(profile[GENES:], added),
        # in units of the gradient of each canary
        Scores(np.ravel(along / strength), np.ravel(in_step)),
    )


def canary_gradients(
    fit: vx.VAEFit, cells: ad.AnnData, n: int
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """Return what canaries, and the real cells together, contribute to the sum of gradients.

    Returns
    -------
    tuple
        Indices of the weights of each canary's gene, and the canary's direction in them, (n, n_weights) each;
        the norm of its gradient in them, (n,); and the sum of the gradients of the real cells, one number
        for each weight of the network.
    """
    model, genes = fit.model, cells.n_vars
    gradient = jax.jit(dp_sgd.clipped_gradient(model, dp_sgd.CLIP))
    weights = [variable.value for variable in model.trainable_variables]
    index, first = [], 0
    for weight in weights:  # of which the last or the first axis are genes
        numbers = first + np.arange(weight.size).reshape(weight.shape)
        first += weight.size
        if weight.shape[-1] == genes:
            index.append(np.atleast_2d(numbers))
        elif weight.shape[0] == genes:
            index.append(numbers.T)
    of_gene = np.concatenate(index)[:, GENES:].T

    def summed(x: np.ndarray, key: int) -> np.ndarray:
        units = x[:, None]
        codes, part = np.zeros((len(x), 1, 1), np.float32), np.ones((len(x), 1), np.float32)
        found = gradient(
            weights, units, codes, part, jax.random.key(key), is_padding_example=np.zeros(len(x), bool)
        )
        return np.concatenate([np.ravel(part) for part in found]).astype(np.float64)

    canaries = COUNTS * np.eye(genes, dtype=np.float32)[GENES:]
    own = np.array(
        [
            np.mean([summed(canaries[i : i + 1], key)[of_gene[i]] for key in range(DRAWS)], axis=0)
            for i in range(n)
        ]
    )
    strength = np.linalg.norm(own, axis=1)
    real = cells.X[:-1].toarray()
    others = summed(real[real[:, GENES:].sum(axis=1) == 0], DRAWS)
    return (of_gene, own / strength[:, None]), strength, others


def density_scores(epsilon: float, runs: int, how: str, seed: int) -> tuple[Scores, Guarantee]:
    """Return scores of the sums of the latent density with and without one cell, and the guarantee."""
    rng = np.random.default_rng(seed)
    n, d = 300, 6
    guarantee = plan(Privacy(epsilon, DELTA), units=n, rate=0.2, steps=25, cells_per_unit=1)
    points = rng.standard_normal((n, d))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    combination = rng.integers(0, 3, n)
    present = [
        latent.density_sums(points[k:], combination[k:], 3, Units(np.arange(n - k), n)) for k in (0, 1)
    ]
    scale = [np.sqrt(share) for share in present[0].shares]
    difference = [s * (a - b) for s, a, b in zip(scale, present[0].parts, present[1].parts, strict=True)]
    source, found = Randomness(seed), []
    with broken(how):
        for run in range(runs):
            noisy, _ = present[run % 2].with_noise(guarantee.density, source)
            found.append(
                sum(np.sum(s * part * diff) for s, part, diff in zip(scale, noisy, difference, strict=True))
            )
    return Scores(np.array(found), np.arange(runs) % 2 == 0), guarantee


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epsilons", type=float, nargs="+", default=[1, 3, 10, 30])
    parser.add_argument("--canaries", type=int, default=800)
    parser.add_argument("--runs", type=int, default=5, help="fits per line")
    parser.add_argument("--density-runs", type=int, default=2_000, help="releases per run of the density")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    seeds = range(args.seed, args.seed + args.runs)
    bound = ("lower bound: median", "min", "max", "caught")
    print(table_head(("fit", "promised epsilon", "mu of profile", "of a step", "of membership", *bound)))
    for epsilon in args.epsilons:
        for how in CONTROLS:
            found = [attacked(epsilon, args.canaries, how, seed) for seed in seeds]
            if how == CONTROLS[0]:
                planned = found[0].guarantee
                most = 1 / planned.marginals, 1 / planned.training, mu_of(epsilon, planned.delta)
                print(table_row(["allowed", f"{epsilon:g}", *map(shown, most), "", "", "", ""]))
            parts = [(one.profile.mu, one.steps.mu, one.membership.mu) for one in found]
            bounds = [one.lower_bound for one in found]
            print(
                table_row([how, f"{epsilon:g}", *map(shown, np.median(parts, axis=0)), *of(bounds, epsilon)])
            )
            sys.stdout.flush()
    print()
    print(table_head(("density", "promised epsilon", "mu", *bound)))
    for epsilon in args.epsilons:
        for how in CONTROLS[:3]:
            found = [density_scores(epsilon, args.density_runs, how, seed) for seed in seeds]
            guarantee = found[0][1]
            promise = epsilon_of(1 / guarantee.density, guarantee.delta)
            if how == CONTROLS[0]:
                print(table_row(["allowed", shown(promise), shown(1 / guarantee.density), "", "", "", ""]))
            mu = np.median([scores.mu for scores, _ in found])
            bounds = [scores.lower_bound(guarantee.delta) for scores, _ in found]
            print(table_row([how, shown(promise), shown(mu), *of(bounds, promise)]), flush=True)


def mu_of(epsilon: float, delta: float) -> float:
    """Return the mu of Gaussian differential privacy with this epsilon."""
    return float(1 / dp_accounting.get_sigma_gaussian(epsilon, delta))


def of(bounds: list[float], promise: float) -> list[str]:
    """Return the entries of a table for the lower bounds of several runs."""
    caught = f"{sum(bound > promise for bound in bounds)} of {len(bounds)}"
    return [*map(shown, (np.median(bounds), min(bounds), max(bounds))), caught]


def shown(value: float) -> str:
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


if __name__ == "__main__":
    main()
