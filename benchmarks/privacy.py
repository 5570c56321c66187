"""Fidelity lost to differential privacy.

    python benchmarks/privacy.py DATA.h5ad --genes PUBLIC.h5ad [--label-key cell_type] [--unit cell]
        [--epsilons 1 3 10 30] [--donors N] [--split donor]

Half of the cells train, on the genes of a public data set (selecting genes on the private cells would leak
information). As many cells per label as in the other half are generated and compared with that half, and
`audit_privacy` tests for membership of the training cells. Fits with privacy are compared with a fit
without, and with independent counts sampled from the marginals of each label, released with the whole
budget.

Columns: AUC of a random forest between real and generated cells (genes), accuracy of labels (labels), slope
of fold changes (folds), the part of the 20 best markers of each label that is found (markers), half of the
sum of differences of label fractions (fractions), and the AUC of membership by likelihood ratio (membership).

With --split, half of the donors in that column train instead of half of the cells. With --donors,
cells are assigned at random to N artificial donors, which become the privacy units.

The last column is the CPU time of the fit in seconds, with compilation.

Prints a Markdown table. `benchmarks/canaries.py` measures what an attacker finds.
"""

import time
import warnings
from pathlib import Path

import vaexprs as vx

# isort: split
import anndata as ad
import dp_accounting
import numpy as np
import pandas as pd
import scipy.sparse as sp
from fidelity import COLUMNS, composition, counts, figures, generated
from harness import parser, random_halves, table_head, table_row

from vaexprs.data.matrix import log_normalised
from vaexprs.differential_privacy.marginals import release_marginals
from vaexprs.differential_privacy.mechanisms import Units
from vaexprs.differential_privacy.randomness import Randomness
from vaexprs.preprocessing.conditions import learn_conditions

SHOWN = ("genes", "labels", "folds")
N_MARKERS = 20  # number of markers of each label


def halves(path: Path, public: Path, split: str | None, seed: int) -> tuple[ad.AnnData, ad.AnnData]:
    """Return two random halves of the cells, or of the donors, on the genes of a public data set."""
    cells = ad.read_h5ad(path)
    cells = cells[:, cells.var_names.intersection(ad.read_h5ad(public).var_names)]
    cells = cells[np.ravel(cells.X.sum(axis=1)) > 0]
    if split is None:
        return random_halves(cells)
    donors = np.random.default_rng(seed).permutation(cells.obs[split].unique().astype(str))
    first = cells.obs[split].astype(str).isin(donors[: len(donors) // 2]).to_numpy()
    return cells[first].copy(), cells[~first].copy()


def fitted(cells: ad.AnnData, key: str, epsilon: float, delta: float, unit: str, seed: int) -> vx.VAEFit:
    if not np.isfinite(epsilon):
        return vx.fit_vae(cells, label_key=key, seed=seed, verbose=0)
    privacy = vx.Privacy(epsilon, delta, unit, insecure_test_seed=seed)
    return vx.fit_vae(cells, label_key=key, privacy=privacy, seed=seed, verbose=0)


def from_marginals(
    cells: ad.AnnData, key: str, epsilon: float, delta: float, unit: str, n: int, seed: int
) -> ad.AnnData:
    rng, source = np.random.default_rng(seed), Randomness(seed)
    conditions = learn_conditions(cells.obs, key, ())
    obs = cells.obs[[key]].astype(str)
    of = np.arange(cells.n_obs) if unit == "cell" else pd.factorize(cells.obs[unit])[0]
    privacy_units = Units(of, of.max() + 1, single=unit == "cell")
    multiplier = dp_accounting.get_sigma_gaussian(epsilon, delta)
    marginals = release_marginals(cells.X, obs, conditions, privacy_units, multiplier, source)
    x, obs = marginals.draw(n, conditions, rng)
    return ad.AnnData(sp.csr_matrix(x), obs=obs.set_axis(obs.index.astype(str)), var=cells.var)


def row(
    train: ad.AnnData, test: ad.AnnData, made: ad.AnnData, second: ad.AnnData, key: str, fractions: pd.Series
) -> dict[str, float]:
    found = dict(zip(COLUMNS, figures(train, test, made, second, key), strict=True))
    audit = vx.audit_privacy(made, train, test, label_key=key, seed=0).set_index("metric")
    real, new = markers(test, key), markers(made, key)
    return {name: found[name] for name in SHOWN} | {
        "markers": float(np.mean([len(real[label] & new[label]) / N_MARKERS for label in real])),
        "fractions": float(fractions.sub(fractions_of(test, key), fill_value=0).abs().sum() / 2),
        "membership": float(audit.loc["membership_auc_likelihood", "value"]),
    }


def markers(cells: ad.AnnData, key: str) -> dict[str, set[int]]:
    """Return for each label the genes with the largest difference of mean log expression from the others."""
    x, labels = log_normalised(counts(cells)), cells.obs[key].astype(str).to_numpy()
    return {
        label: set(np.argsort(x[labels != label].mean(axis=0) - x[labels == label].mean(axis=0))[:N_MARKERS])
        for label in np.unique(labels)
    }


def fractions_of(cells: ad.AnnData, key: str) -> pd.Series:
    return cells.obs[key].astype(str).value_counts(normalize=True)


def main() -> None:
    options = parser(__doc__, data="data")
    options.add_argument("--genes", type=Path, required=True, help="public data set with the genes to use")
    options.add_argument("--unit", default="cell", help="cell, or column of obs with the donor")
    options.add_argument("--donors", type=int, help="number of artificial donors")
    options.add_argument("--epsilons", type=float, nargs="+", default=[1, 3, 10, 30])
    options.add_argument("--delta", type=float, default=1e-5)
    options.add_argument("--split", help="column of obs with the donors, half of which train")
    options.add_argument("--seed", type=int, default=1)
    args = options.parse_args()
    warnings.simplefilter("ignore")
    key, seed = args.label_key, args.seed
    train, test = halves(args.data, args.genes, args.split, seed)
    unit = args.unit
    if args.donors:
        unit = "donor"
        train.obs[unit] = [f"d{i % args.donors}" for i in range(train.n_obs)]
    n_units = train.n_obs if unit == "cell" else train.obs[unit].nunique()
    print(f"{train.n_obs:,} cells x {train.n_vars:,} genes to train; {n_units:,} units ({unit})\n")
    columns = ("what", "promised epsilon", "spent", *SHOWN, "markers", "fractions", "membership", "CPU s")
    print(table_head(columns), flush=True)

    def show(what: str, promised: float, spent: float, values: dict[str, float], seconds: str = "") -> None:
        numbers = [f"{promised:g}", f"{spent:.3g}", *(f"{value:.3f}" for value in values.values())]
        print(table_row([what, *numbers, seconds]), flush=True)

    floor = row(train, test, *random_halves(train), key, fractions_of(train, key)) | {"membership": np.nan}
    show("real cells (floor)", np.inf, np.inf, floor)
    for epsilon in [*args.epsilons, np.inf]:
        start = time.process_time()
        fit = fitted(train, key, epsilon, args.delta, unit, seed)
        seconds = f"{time.process_time() - start:.0f}"
        spent = np.inf if fit.guarantee is None else fit.guarantee.epsilon
        what = "vaexprs" if np.isfinite(epsilon) else "without privacy"
        sets = [generated(fit, composition(test, key), 2 * seed + i) for i in range(2)]
        numbers = pd.Series(fit.cells_of(key))
        show(what, epsilon, spent, row(train, test, *sets, key, numbers / numbers.sum()), seconds)
        if np.isfinite(epsilon):
            pair = from_marginals(train, key, epsilon, args.delta, unit, 2 * test.n_obs, seed)
            sets = [pair[: test.n_obs].copy(), pair[test.n_obs :].copy()]
            found = row(train, test, *sets, key, fractions_of(pair, key))
            show("noisy marginals", epsilon, epsilon, found)


if __name__ == "__main__":
    main()
