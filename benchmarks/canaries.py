"""White-box audit of private fits with canaries, also of fits that are deliberately broken.

    python benchmarks/canaries.py [--epsilons 1 3 10 30] [--canaries 800] [--runs 5] [--density-runs 2000]

A canary is a cell with 1,000 counts in a gene of its own, which no other cell has. Each is added to the
training cells with probability one half. The attacker sees every noisy sum of the fit (the marginals and the
gradient of each step) and knows the weights and the real cells. The score of a canary is the part of these
sums along its own contribution: its entry of the mean profile, and its clipped gradient in the weights of its
gene. Steps do not change the weights (a learning rate of nearly 0), so that the gradient is known exactly.

If the noise is Gaussian, the scores of canaries that were added and of those that were not are normal, and
the distance of their means over their standard deviation is at most the mu of Gaussian differential privacy
(Dong, Roth & Su 2022, doi:10.1111/rssb.12454; Nasr et al. 2023, doi:10.48550/arXiv.2302.07956). Its lower 95%
confidence limit (noncentral t distribution) gives a lower bound on epsilon at the delta of the fit. This
bound is not limited by the number of canaries, so that it can exceed every promise. The latent density, in
which canaries cannot be told apart, has a game of its own: the same sums with and without one cell.

Every line is one mechanism; "caught" is the fraction of the runs whose lower bound exceeds the promise. It
must be 0 for the fit as it is, and is the power of the audit for the broken ones.
"""

import argparse
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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
from scipy.stats import nct

from vaexprs.differential_privacy import dp_sgd, latent, mechanisms
from vaexprs.differential_privacy import fit as private_fit
from vaexprs.differential_privacy.accounting import Guarantee, Privacy, plan
from vaexprs.differential_privacy.marginals import IN_DEVIATION, IN_OVERALL
from vaexprs.differential_privacy.mechanisms import Units
from vaexprs.differential_privacy.randomness import Randomness

GENES = 60  # number of genes of the real cells
COUNTS = 1_000  # counts of a canary in its gene
CONFIDENCE = 0.95
EPOCHS = 5
DELTA = 1e-5
N_MARGINALS = 4  # number of noisy sums before training, without conditions
DRAWS = 4  # latent noises over which the gradient of a canary is averaged
CONTROLS = (
    "as it is",
    "no noise",
    "half noise",
    "no clipping",
    "no noise in marginals",
    "no noise in training",
)


@contextmanager
def broken(how: str) -> Iterator[None]:
    """Break private fits inside the block, in one of the ways of CONTROLS."""
    normal, clipped = Randomness.normal, dp_sgd.clipped_gradient
    marginals, noise = private_fit.release_marginals, dp_sgd.add_noise
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
            lambda x, obs, c, u, _, source: marginals(x, obs, c, u, 1e-6, source),
        ):
            yield
    elif how == "no noise in training":
        with patch.object(dp_sgd, "add_noise", lambda total, sd, source: noise(total, 1e-6 * sd, source)):
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


def scores(epsilon: float, n_canaries: int, how: str, seed: int) -> tuple[np.ndarray, np.ndarray, Guarantee]:
    """Return the scores of the canaries of one fit, which of them were added, and the guarantee of the fit.

    The scores are those of an attacker who uses all sums, the marginals only, and the gradients only,
    (3, n_canaries).
    """
    cells, added = with_canaries(n_canaries, np.random.default_rng(seed))
    sums: list[np.ndarray] = []

    def observed(original):
        def add_noise(total, sd, randomness):
            noisy = original(total, sd, randomness)
            sums.append(noisy)
            return noisy

        return add_noise

    with (
        broken(how),
        warnings.catch_warnings(),
        patch.object(mechanisms, "add_noise", observed(mechanisms.add_noise)),
        patch.object(dp_sgd, "add_noise", observed(dp_sgd.add_noise)),
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
        directions, strength, others = canary_gradients(fit, cells, n_canaries)
    guarantee = fit.guarantee
    *_, profile = sums[:N_MARGINALS]
    steps = np.array(sums[N_MARGINALS : N_MARGINALS + guarantee.steps])
    # each result in units of its planned noise, along the contribution of the canary
    profile_noise = guarantee.marginals / np.sqrt(IN_OVERALL + IN_DEVIATION)
    found = profile[GENES:] / profile_noise / profile_noise
    noise = guarantee.training * dp_sgd.CLIP
    expected = guarantee.rate * guarantee.steps * others
    along = np.einsum("gk,gk->g", steps.sum(axis=0)[directions[0]] - expected[directions[0]], directions[1])
    training = guarantee.rate * strength * along / noise**2
    return np.array([found + training, found, training]), added, guarantee


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


def density_scores(
    epsilon: float, runs: int, how: str, seed: int
) -> tuple[np.ndarray, np.ndarray, Guarantee]:
    """Return scores of the sums of the latent density with and without one cell, and which are with it."""
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
    return np.array([found]), np.arange(runs) % 2 == 0, guarantee


def lower_bound(attacks: np.ndarray, added: np.ndarray, delta: float) -> float:
    """Return the largest lower confidence limit of epsilon by several attacks, adjusted for their number.

    Parameters
    ----------
    attacks
        Scores of each attack, normal and with equal variance in both groups, (n_attacks, n_canaries).
    added
        Which canaries were added, (n_canaries,).
    delta
        Delta of the fit.
    """
    confidence = 1 - (1 - CONFIDENCE) / len(attacks)
    return max(_lower_bound(found, added, delta, confidence) for found in attacks)


def _lower_bound(found: np.ndarray, added: np.ndarray, delta: float, confidence: float) -> float:
    inside, outside = found[added], found[~added]
    freedom = len(found) - 2
    spread = np.sqrt(
        (np.sum((inside - inside.mean()) ** 2) + np.sum((outside - outside.mean()) ** 2)) / freedom
    )
    root = np.sqrt(1 / (1 / len(inside) + 1 / len(outside)))
    t = (inside.mean() - outside.mean()) / spread * root
    if nct.sf(t, freedom, 0) > 1 - confidence:
        return 0.0
    # beyond 100 standard deviations the distribution is computed badly, and the limit is the estimate
    limit = t if t > 100 else brentq(lambda c: nct.sf(t, freedom, c) - (1 - confidence), 0, t + 5)
    mu = min(limit / root, 50)
    return float(dp_accounting.get_epsilon_gaussian(1 / mu, delta))


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
    print(
        table_head(("mechanism", "promised epsilon", "lower bound: median", "min", "max", "caught")),
        flush=True,
    )
    lines = [(scores, how, args.canaries) for how in CONTROLS]
    lines += [(density_scores, how, args.density_runs) for how in CONTROLS[:3]]
    for epsilon in args.epsilons:
        for game, how, size in lines:
            bounds = []
            for run in range(args.runs):
                found, added, guarantee = game(epsilon, size, how, args.seed + run)
                bounds.append(lower_bound(found, added, guarantee.delta))
            name = how if game is scores else f"density: {how}"
            shown = [f"{value:.2f}" for value in (np.median(bounds), min(bounds), max(bounds))]
            caught = f"{sum(bound > epsilon for bound in bounds)} of {args.runs}"
            print(table_row([name, f"{epsilon:g}", *shown, caught]), flush=True)


if __name__ == "__main__":
    main()
