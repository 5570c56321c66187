"""Membership of donors in the training cells of several generators.

    python benchmarks/audit_donors.py DATA.h5ad [--label-key cell_type] [--donor-key donor]
        [--donors 10 20] [--splits 0 1 2] [--epsilon 10]
    python benchmarks/audit_donors.py DATA.h5ad --generators scvi --python scvi=PYTHON [--limit MINUTES]

Random donors train, all others are held out. Each generator makes as many cells of each label as there are
training cells. The attacks of `audit_privacy` on donors use the mean score of the cells of a donor, and
reference cells of other donors. "halves": half of the cells of each training donor train, and the attacker
has the other half.

Generators: vaexprs with default settings, without and with differential privacy (cells or donors as units);
the copula, SMOTE and scVI of `benchmarks/peers/`, in environments of their own (see `peers.py`); "genes
permuted", the training cells with each gene permuted among the cells of a label; and "other cells", the real
cells of the training donors that did not train, with which there is no attack with the other half. They show
how well donors are told apart by a generator of new cells of the same donors, without their training cells.

Prints a Markdown table with means over splits: AUC of each attack on donors, the same with the other half of
the cells, and the strongest attack on cells. Intervals (95%) are Newcombe's for the mean AUC and the numbers
of donors of one split.
"""

import argparse
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import vaexprs as vx

# isort: split
import anndata as ad
import numpy as np
import pandas as pd
from fidelity import composition
from harness import parser, table_head, table_row
from peers import add_environments, generated, python_of

from vaexprs.privacy.intervals import newcombe_interval

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import leaks

Make = Callable[[ad.AnnData, argparse.Namespace, int], ad.AnnData]
OTHER_CELLS = "other cells"
ATTACKS = {"": "distance", "_likelihood": "likelihood", "_genes": "genes"}


def from_vaexprs(train: ad.AnnData, args: argparse.Namespace, seed: int, unit: str | None) -> ad.AnnData:
    arguments = {} if unit is None else {"privacy": vx.Privacy(args.epsilon, 1e-5, unit)}
    fit = vx.fit_vae(train, label_key=args.label_key, seed=seed, verbose=0, **arguments)
    numbers = composition(train, args.label_key)
    return vx.gen_exprs(fit, labels=numbers, seed=seed, progress=False).adata


def from_peer(train: ad.AnnData, args: argparse.Namespace, seed: int, name: str) -> ad.AnnData:
    numbers = composition(train, args.label_key)
    python, script = python_of(name, args)
    return generated(python, script, train, numbers, args.label_key, seed, args.limit)[0]


def genes_permuted(train: ad.AnnData, args: argparse.Namespace, seed: int) -> ad.AnnData:
    return leaks.genes_permuted(train, train, train, args.label_key, np.random.default_rng(seed))[0]


def measure(make: Make | None, cells: ad.AnnData, n: int, split: int, args: argparse.Namespace) -> pd.Series:
    """Return the metrics of one split; without a function, those of other cells of the training donors."""
    rng = np.random.default_rng(split)
    donor = cells.obs[args.donor_key].astype(str).to_numpy()
    chosen = np.isin(donor, rng.permutation(np.unique(donor))[:n])
    used = chosen & (rng.random(len(donor)) < 0.5)
    train, held = cells[used].copy(), cells[~used if make else ~chosen].copy()
    made = make(train, args, split) if make else cells[chosen & ~used].copy()
    table = vx.audit_privacy(
        made, train, held, label_key=args.label_key, donor_key=args.donor_key, seed=split
    )
    return table.set_index("metric")["value"]


def main() -> None:
    options = parser(__doc__, data="data")
    options.add_argument("--donor-key", default="donor", help="column of obs with the donor")
    options.add_argument("--donors", type=int, nargs="+", default=[10, 20], help="training donors")
    options.add_argument("--splits", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--epsilon", type=float, default=10, help="of the fits with privacy")
    options.add_argument("--generators", nargs="+", metavar="NAME", help="generators (default: all)")
    add_environments(options)
    args = options.parse_args()
    warnings.simplefilter("ignore")
    cells = ad.read_h5ad(args.data)
    total = cells.obs[args.donor_key].nunique()
    generators: dict[str, Make | None] = {
        "vaexprs": partial(from_vaexprs, unit=None),
        f"vaexprs, epsilon {args.epsilon:g}, cells": partial(from_vaexprs, unit="cell"),
        f"vaexprs, epsilon {args.epsilon:g}, donors": partial(from_vaexprs, unit=args.donor_key),
        "copula": partial(from_peer, name="copula"),
        "smote": partial(from_peer, name="smote"),
        "scvi": partial(from_peer, name="scvi"),
        "genes permuted": genes_permuted,
        OTHER_CELLS: None,
    }
    chosen = args.generators or list(generators)
    if unknown := set(chosen) - set(generators):
        options.error(f"--generators must be of {', '.join(generators)}, got {', '.join(unknown)}.")
    ends = [f"{end}{others}" for others in ("", "_other_cells") for end in ATTACKS]
    names = [f"{name}{others}" for others in ("", ", halves") for name in ATTACKS.values()]
    print(table_head(["generator", "donors", "held out", *names, "cells"]), flush=True)
    for n in args.donors:
        for name in chosen:
            make = generators[name]
            try:
                found = pd.concat([measure(make, cells, n, split, args) for split in args.splits], axis=1)
            except (RuntimeError, ValueError) as error:
                print(table_row([name, n, total - n, f"failed: {error}"]), flush=True)
                continue
            means = found.mean(axis=1)
            shown = []
            for end in ends:
                auc = float(means.get(f"donor_membership_auc{end}", np.nan))
                if np.isnan(auc):
                    shown.append("-")
                    continue
                low, high = newcombe_interval(auc, n, total - n, 0.95)
                shown.append(f"{auc:.2f} ({low:.2f} to {high:.2f})")
            strongest = found[found.index.str.startswith("membership_auc")].max().mean()
            print(table_row([name, n, total - n, *shown, f"{strongest:.2f}"]), flush=True)


if __name__ == "__main__":
    main()
