"""Studies without effects: are p-values uniform, and are those of cells as wrong as between real donors?

    python benchmarks/null_studies.py DATA.h5ad --labels B [...] [--donor-key donor] [--groups 4 8]

Fits all donors. `new`: two groups of new donors without any effect (`vaexprs.power` with a log2 fold change
of 0). `real`: the donors with enough cells of the label in two random groups, with the same number of cells
from each. Prints a Markdown table with the fraction of the tested genes with p < .05, means over the studies
with standard errors. A valid test has 0.05.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import vaexprs as vx

# isort: split
import anndata as ad
import numpy as np
import scipy.sparse as sp
from harness import parser, table_head, table_row

from vaexprs.studies.expression_tests import TESTS, Samples, compute_p_values

FDR = 0.05


def real_study(counts: list[np.ndarray], size: int, n: int, test: str, rng: np.random.Generator) -> float:
    """Return the fraction of genes with p < .05 between two random groups of real donors.

    Parameters
    ----------
    counts
        Counts of the cells of each donor, (n_cells, n_genes) each.
    size
        Donors of a group.
    n
        Number of cells to take from each donor.
    test
        Name of the test.
    rng
        Random generator.
    """
    chosen = rng.permutation(len(counts))[: 2 * size]
    cells = [counts[i][rng.permutation(len(counts[i]))[:n]] for i in chosen]
    treated = np.arange(2 * size) >= size
    if TESTS[test].pseudobulk:
        samples = Samples(np.stack([each.sum(axis=0) for each in cells]), treated)
    else:
        samples = Samples(sp.csr_matrix(np.concatenate(cells)), np.repeat(treated, n))
    p, _ = compute_p_values(test, samples, FDR)
    return float((p[np.isfinite(p)] < 0.05).mean())


def results(path: Path, options: argparse.Namespace) -> Iterator[list[str]]:
    """Yield the rows of a data set."""
    cells = ad.read_h5ad(path)
    fit = vx.fit_vae(cells, label_key=options.label_key, donor_key=options.donor_key, seed=0, verbose=0)
    for label in options.labels:
        own = cells[(cells.obs[options.label_key] == label).to_numpy()]
        donor = own.obs[options.donor_key].astype(str).to_numpy()
        x = np.asarray(own.X.toarray() if sp.issparse(own.X) else own.X).astype(np.int64)
        n = options.cells
        counts = [x[donor == each] for each in np.unique(donor) if (donor == each).sum() >= n]
        for size in options.groups:
            for test in options.tests:
                rng, real = np.random.default_rng(0), ["-"]
                if 2 * size <= len(counts):
                    found = [real_study(counts, size, n, test, rng) for _ in range(options.replicates)]
                    real = [f"{np.mean(found):.3f} ({np.std(found, ddof=1) / len(found) ** 0.5:.3f})"]
                new = vx.power(
                    fit,
                    {"donors": size, "cells": n, "log2_fold_change": 0},
                    label=label,
                    test=test,
                    replicates=options.replicates,
                    progress=False,
                ).table.iloc[0]
                error = (new["type1_high"] - new["type1"]) / options.quantile
                row = [path.name, label, str(size), test, f"{new['type1']:.3f} ({error:.3f})", *real]
                yield row


def main() -> None:
    from scipy import stats

    options = parser(__doc__, data="data")
    options.add_argument("--donor-key", default="donor", help="column of obs with the donor")
    options.add_argument("--labels", nargs="+", required=True, help="labels to compare")
    options.add_argument("--cells", type=int, default=15, help="cells of each donor")
    options.add_argument("--groups", type=int, nargs="+", default=[4, 8], help="donors of a group")
    options.add_argument("--tests", nargs="+", default=list(TESTS), help="tests of vaexprs.power")
    options.add_argument("--replicates", type=int, default=20, help="studies")
    given = options.parse_args()
    given.quantile = stats.t.ppf(0.975, given.replicates - 1)
    print(table_head(["data", "label", "donors a group", "test", "new", "real"], n_text=4))
    for row in results(given.data, given):
        print(table_row(row), flush=True)


if __name__ == "__main__":
    main()
