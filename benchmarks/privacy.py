"""What differential privacy costs in fidelity, and what an attacker finds of planted cells.

    python benchmarks/privacy.py DATA.h5ad --genes PUBLIC.h5ad [--label-key cell_type] [--unit cell]
        [--epsilons 1 3 10 30] [--donors N] [--canaries 50]

Half of the cells train, on the genes that another, public data set has (to choose them by the cells
themselves would tell of them). As many cells as the other half has of each label are generated and compared
with it, and `audit_privacy` looks for the training cells. Beside the fits with privacy: one without, and
independent counts drawn from marginals of each label that were told with the whole budget.

Canaries: cells with 1,000 counts in one rare gene each, of which every one is planted among the training
cells with probability one half. The attacker has the model, and names those as planted whose gene the decoder
expects most. What he gets right gives a lower bound on epsilon with a confidence of 95% (Steinke, Nasr &
Jagielski 2023, doi:10.48550/arXiv.2305.08846): it must stay below what was promised.

With --donors the cells are dealt at random to so many made-up donors, who are the units. Prints a markdown
table.
"""

import argparse
import warnings

import vaexprs as vx

# isort: split
import anndata as ad
import dp_accounting
import numpy as np
import pandas as pd
import scipy.sparse as sp
from fidelity import COLUMNS, figures, like
from jax_privacy.auditing import CanaryScoreAuditor

from vaexprs.differential_privacy.marginals import release_marginals
from vaexprs.differential_privacy.mechanisms import Units
from vaexprs.preprocessing.conditions import learn_conditions

COUNTS = 1_000
CONFIDENCE = 0.95
SHOWN = ("genes", "labels", "folds")


def halves(path: str, public: str, key: str) -> tuple[ad.AnnData, ad.AnnData]:
    cells = ad.read_h5ad(path)
    cells = cells[:, cells.var_names.intersection(ad.read_h5ad(public).var_names)]
    cells = cells[np.ravel(cells.X.sum(axis=1)) > 0]
    order = np.random.default_rng(0).permutation(cells.n_obs)
    return cells[order[: cells.n_obs // 2]].copy(), cells[order[cells.n_obs // 2 :]].copy()


def fitted(cells: ad.AnnData, key: str, epsilon: float, delta: float, unit: str, seed: int) -> vx.VAEFit:
    if not np.isfinite(epsilon):
        return vx.fit_vae(cells, label_key=key, seed=seed, verbose=0)
    privacy = vx.Privacy(epsilon, delta, unit, secret=seed)
    return vx.fit_vae(cells, label_key=key, privacy=privacy, seed=seed, verbose=0)


def from_marginals(
    cells: ad.AnnData, key: str, epsilon: float, delta: float, unit: str, n: int, seed: int
) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    conditions = learn_conditions(cells.obs, key, ())
    obs = cells.obs[[key]].astype(str)
    of = np.arange(cells.n_obs) if unit == "cell" else pd.factorize(cells.obs[unit])[0]
    multiplier = dp_accounting.get_sigma_gaussian(epsilon, delta)
    told = release_marginals(cells.X, obs, conditions, Units(of, of.max() + 1), multiplier, rng)
    x, obs = told.draw(n, conditions, rng)
    return ad.AnnData(sp.csr_matrix(x), obs=obs.set_axis(obs.index.astype(str)), var=cells.var)


def row(train: ad.AnnData, test: ad.AnnData, made: ad.AnnData, key: str) -> dict[str, float]:
    found = dict(zip(COLUMNS, figures(train, test, made, key), strict=True))
    audit = vx.audit_privacy(made, train, test, label_key=key, seed=0).set_index("metric")
    return {name: found[name] for name in SHOWN} | {"membership": float(audit.loc["membership_auc", "value"])}


def planted(cells: ad.AnnData, unit: str, n: int, seed: int) -> tuple[ad.AnnData, np.ndarray, np.ndarray]:
    """Return cells with canaries among them, the gene of each canary, and which are there."""
    rng = np.random.default_rng(seed)
    rare = np.argsort(np.ravel(cells.X.sum(axis=0)), kind="stable")[:n]
    there = rng.random(n) < 0.5
    genes = rare[there]
    x = sp.csr_matrix(
        (np.full(len(genes), COUNTS, np.float32), (np.arange(len(genes)), genes)), (len(genes), cells.n_vars)
    )
    obs = cells.obs.iloc[rng.integers(0, cells.n_obs, len(genes))].copy()
    obs.index = [f"canary-{gene}" for gene in genes]
    if unit != "cell":
        obs[unit] = obs.index
    whole = ad.concat(
        [ad.AnnData(sp.csr_matrix(cells.X), cells.obs, cells.var), ad.AnnData(x, obs, cells.var)]
    )
    return whole, rare, there


def lower_bound(fit: vx.VAEFit, genes: np.ndarray, there: np.ndarray, delta: float) -> tuple[float, float]:
    """Return the lower bound on epsilon, and the AUC of the attack."""
    scores = np.asarray(fit.model.get_layer("output").bias)[genes]
    auditor = CanaryScoreAuditor(scores[there], scores[~there])
    return auditor.epsilon_one_run(1 - CONFIDENCE, delta), auditor.attack_auroc()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("--genes", required=True)
    parser.add_argument("--label-key", default="cell_type")
    parser.add_argument("--unit", default="cell")
    parser.add_argument("--donors", type=int)
    parser.add_argument("--epsilons", type=float, nargs="+", default=[1, 3, 10, 30])
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--canaries", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    key, seed = given.label_key, given.seed
    train, test = halves(given.data, given.genes, key)
    unit = given.unit
    if given.donors:
        unit = "donor"
        train.obs[unit] = [f"d{i % given.donors}" for i in range(train.n_obs)]
    n_units = train.n_obs if unit == "cell" else train.obs[unit].nunique()
    print(f"{train.n_obs:,} cells x {train.n_vars:,} genes to train; {n_units:,} units ({unit})\n")
    with_canaries, genes, there = planted(train, unit, given.canaries, seed)
    columns = ("what", "promised epsilon", "spent", *SHOWN, "membership", "lower bound", "canaries AUC")
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns), flush=True)

    def show(
        what: str, promised: float, spent: float, values: dict[str, float], bound: tuple[float, float]
    ) -> None:
        numbers = [f"{promised:g}", f"{spent:.3g}", *(f"{value:.3f}" for value in values.values())]
        print("| " + " | ".join([what, *numbers, *(f"{value:.3f}" for value in bound)]) + " |", flush=True)

    nothing = (float("nan"), float("nan"))
    show("real cells (floor)", np.inf, np.inf, row(train, test, train, key) | {"membership": np.nan}, nothing)
    for epsilon in [*given.epsilons, np.inf]:
        fit = fitted(train, key, epsilon, given.delta, unit, seed)
        spent = np.inf if fit.guarantee is None else fit.guarantee.epsilon
        attacked = fitted(with_canaries, key, epsilon, given.delta, unit, seed)
        bound = lower_bound(attacked, genes, there, given.delta)
        what = "vaexprs" if np.isfinite(epsilon) else "without privacy"
        show(what, epsilon, spent, row(train, test, like(fit, test, key, seed), key), bound)
        if np.isfinite(epsilon):
            made = from_marginals(train, key, epsilon, given.delta, unit, test.n_obs, seed)
            show("noisy marginals", epsilon, epsilon, row(train, test, made, key), nothing)


if __name__ == "__main__":
    main()
