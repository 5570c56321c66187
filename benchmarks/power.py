"""Predicted power against the power found in held-out real donors.

    python benchmarks/power.py DATA.h5ad [--label-key cell_type] [--donor-key donor] [--labels cd4nc bmem]
                               [--cells 15 30] [--splits 0 1 2] [--repeats 100] [--min-mean 0.5]

A model is fitted to a random half of the donors. The other donors with enough cells of the label are divided
into two random groups, and the same number of cells is taken from each donor. Effects are planted in 10% of
the genes (with at least --min-mean counts per cell) by binomial thinning of the counts of the second group
(Gerard 2020, doi:10.1186/s12859-020-3450-9): the mean of a gene is reduced by its fold change, and all else
stays as measured. This is repeated with other groups, cells and genes. `vaexprs.power` predicts the power of
the same design from the model, with the same test.

Prints a Markdown table: predicted and found power, their difference, false discovery proportion, and the
fraction of genes without effect with p < .05; each as predicted / found, means over splits. The power found
in a split depends on its donors: the difference has its standard error over splits.
"""

import argparse
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import vaexprs as vx

# isort: split
import anndata as ad
import numpy as np
import pandas as pd
from harness import parser, table_head, table_row

from vaexprs.studies.expression_tests import Samples, compute_p_values

GENES = 0.1  # fraction of altered genes
FDR = 0.05
MIN_GROUP = 5  # donors of a group


def donor_halves(cells: ad.AnnData, key: str, seed: int) -> tuple[ad.AnnData, ad.AnnData]:
    """Return the cells of two random halves of the donors."""
    donors = np.random.default_rng(seed).permutation(cells.obs[key].astype(str).unique())
    first = cells.obs[key].astype(str).isin(donors[: len(donors) // 2]).to_numpy()
    return cells[first].copy(), cells[~first].copy()


def thinned_study(
    counts: list[np.ndarray], n: int, fold: float, altered: np.ndarray, rng: np.random.Generator
) -> Samples:
    """Return pseudobulks of donors in two random groups, the second with planted effects.

    Parameters
    ----------
    counts
        Counts of the cells of each donor, (n_cells, n_genes) each.
    n
        Number of cells to take from each donor.
    fold
        Log2 of the factor by which the altered genes are reduced.
    altered
        Numbers of the altered genes.
    rng
        Random generator.
    """
    size = len(counts) // 2
    chosen = rng.permutation(len(counts))[: 2 * size]
    bulks = np.stack([counts[i][rng.permutation(len(counts[i]))[:n]].sum(axis=0) for i in chosen])
    # the sum of thinned counts is a thinned sum
    bulks[size:, altered] = rng.binomial(bulks[size:, altered], 2.0**-fold)
    return Samples(bulks, np.arange(2 * size) >= size)


def found_power(
    counts: list[np.ndarray],
    n: int,
    fold: float,
    possible: np.ndarray,
    options: argparse.Namespace,
    seed: int,
) -> dict[str, float]:
    """Return mean power, false discovery proportion and type 1 error over random studies of real donors."""
    rng, rows, genes = np.random.default_rng(seed), [], counts[0].shape[1]
    for _ in range(options.repeats):
        altered = rng.choice(possible, round(GENES * len(possible)), replace=False)
        p, adjusted = compute_p_values(options.test, thinned_study(counts, n, fold, altered, rng), FDR)
        is_altered = np.isin(np.arange(genes), altered)
        found, null = adjusted <= FDR, ~is_altered & np.isfinite(p)
        rows.append(
            {
                "power": found[is_altered].mean(),
                "fdr": (found & ~is_altered).sum() / max(found.sum(), 1),
                "type1": (p[null] < 0.05).mean(),
            }
        )
    return pd.DataFrame(rows).mean().to_dict()


def results(path: Path, options: argparse.Namespace) -> Iterator[dict]:
    """Yield predicted and found power of each split, label, number of cells and effect."""
    cells = ad.read_h5ad(path)
    label_key, donor_key = options.label_key, options.donor_key
    for split in options.splits:
        train, held_out = donor_halves(cells, donor_key, split)
        fit = vx.fit_vae(train, label_key=label_key, donor_key=donor_key, seed=split, verbose=0)
        for label in options.labels:
            own = held_out[(held_out.obs[label_key] == label).to_numpy()]
            donor = own.obs[donor_key].astype(str).to_numpy()
            x = np.asarray(own.X.toarray() if hasattr(own.X, "toarray") else own.X).astype(np.int64)
            measured = train[(train.obs[label_key] == label).to_numpy()].X.mean(axis=0)
            possible = np.flatnonzero(np.ravel(measured) >= options.min_mean)
            for n in options.cells:
                counts = [x[donor == each] for each in np.unique(donor) if (donor == each).sum() >= n]
                size = len(counts) // 2
                if size < MIN_GROUP:
                    continue
                for fold in options.folds:
                    effects = vx.Effects(genes=GENES, log2_fold_change=fold, direction="down")
                    effects = replace(effects, min_mean=options.min_mean)
                    grid = {"donors": size, "cells": n}
                    predicted = vx.power(
                        fit,
                        grid,
                        effects,
                        label=label,
                        test=options.test,
                        fdr=FDR,
                        replicates=options.replicates,
                        seed=split,
                        progress=False,
                    ).table.iloc[0]
                    found = found_power(counts, n, fold, possible, options, split)
                    yield {"label": label, "cells": n, "fold": fold, "donors": size, "split": split} | {
                        f"{name} {side}": float(values[name])
                        for side, values in (("predicted", predicted), ("found", found))
                        for name in found
                    }


def main() -> None:
    options = parser(__doc__, data="data")
    options.add_argument("--donor-key", default="donor", help="column of obs with the donor")
    options.add_argument("--labels", nargs="+", default=["cd4nc", "bmem"], help="labels to compare")
    options.add_argument("--cells", type=int, nargs="+", default=[15, 30], help="cells of each donor")
    options.add_argument("--folds", type=float, nargs="+", default=[0.5, 1, 2], help="log2 fold changes")
    options.add_argument(
        "--splits", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5], help="seeds of the halves of donors"
    )
    options.add_argument("--min-mean", type=float, default=0, help="minimum mean count of altered genes")
    options.add_argument("--test", default="t-test", help="test of vaexprs.power")
    options.add_argument("--replicates", type=int, default=40, help="simulated studies of a design")
    options.add_argument("--repeats", type=int, default=100, help="studies of real donors")
    given = options.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)  # t-tests of genes with equal values
    table = pd.DataFrame(results(given.data, given))
    averaged = table.groupby(["label", "cells", "fold"], sort=False).mean(numeric_only=True).reset_index()
    columns = ["label", "cells", "log2 FC", "donors a group", "power", "difference (SE)", "FDR", "p < .05"]
    print(table_head(columns))
    for row in averaged.to_dict("records"):
        both = {
            name: f"{row[f'{name} predicted']:.3f} / {row[f'{name} found']:.3f}"
            for name in ("power", "fdr", "type1")
        }
        design = [row["label"], f"{row['cells']:.0f}", f"{row['fold']:g}", f"{row['donors']:.3g}"]
        own = table[
            (table[["label", "cells", "fold"]] == [row[k] for k in ("label", "cells", "fold")]).all(axis=1)
        ]
        differences = own["power predicted"] - own["power found"]
        difference = f"{differences.mean():+.3f} ({differences.sem():.3f})"
        print(table_row([*design, both["power"], difference, both["fdr"], both["type1"]]))
    split = (table["power predicted"] - table["power found"]).abs()
    mean = (averaged["power predicted"] - averaged["power found"]).abs()
    print(f"\nlargest difference: {mean.max():.3f} of the means, {split.max():.3f} of a split")


if __name__ == "__main__":
    main()
