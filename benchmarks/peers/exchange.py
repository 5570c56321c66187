"""Command line of a peer: read training cells, generate two sets, write them (see ../peers.py)."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

Numbers = dict[str, int]  # cells of each label
Generate = Callable[[Numbers, int], Any]  # counts, (n_cells, n_genes), in the order of the labels, for a seed
Fit = Callable[[ad.AnnData, str, int], Generate]


def dense(cells: ad.AnnData) -> np.ndarray:
    """Return the counts, (n_cells, n_genes)."""
    return np.asarray(cells.X.toarray() if sp.issparse(cells.X) else cells.X, np.float64)


def by_label(
    cells: ad.AnnData, key: str, function: Callable[[np.ndarray, np.random.Generator], Any], seed: int
) -> dict[str, Any]:
    """Apply a function to the counts of each label."""
    rng = np.random.default_rng([seed, 1])  # not the stream of a draw
    counts, labels = dense(cells), cells.obs[key].astype(str).to_numpy()
    return {str(label): function(counts[labels == label], rng) for label in np.unique(labels)}


def main(doc: str | None, fit: Fit) -> None:
    """Run the script of a peer.

    Parameters
    ----------
    doc
        Docstring of the script.
    fit
        Function of the training cells, the column of obs with the label, and a seed. It returns a function of
        the number of cells of each label and a seed, which returns counts.
    """
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("train", type=Path, help=".h5ad file with counts in X")
    options.add_argument("numbers", type=Path, help=".json file: number of cells of each label")
    options.add_argument("out", type=Path, nargs=2, help=".h5ad files to write")
    options.add_argument("--label-key", default="cell_type", help="column of obs with the label")
    options.add_argument("--seed", type=int, default=0)
    args = options.parse_args()
    train, numbers = ad.read_h5ad(args.train), json.loads(args.numbers.read_text())
    start = time.perf_counter()
    generate = fit(train, args.label_key, args.seed)
    fitted = time.perf_counter()
    for i, path in enumerate(args.out):
        start_draw = time.perf_counter()
        counts = generate(numbers, 3 * args.seed + i)
        seconds = {"fit": fitted - start, "generate": time.perf_counter() - start_draw}
        labels = pd.Categorical(np.repeat(list(numbers), list(numbers.values())))
        obs = pd.DataFrame({args.label_key: labels}, index=np.arange(len(labels)).astype(str))
        x = sp.csr_matrix(counts, dtype=np.float32)
        ad.AnnData(x, obs=obs, var=pd.DataFrame(index=train.var_names), uns={"seconds": seconds}).write_h5ad(
            path
        )
