"""Generate cells to disk, beside NumPy's gamma-Poisson draws with the same decoder and the same writer.

    python benchmarks/generate.py MODEL [--cells 100000] [--out g.h5ad]

MODEL is a folder that `vaexprs fit` saved. Each side runs in a process of its own, three times in turn.
Printed are seconds, peak memory and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

import vaexprs as vx
from vaexprs.io import write_blocks

AT_ONCE = 1_024


def plain(fit: vx.VAEFit, n: int) -> Iterator[sp.csr_matrix]:
    """Yield blocks of counts: latent vectors from the mixtures, the decoder, gamma, Poisson, CSR."""
    rng = np.random.default_rng(0)
    share = fit.density.cells / fit.density.cells.sum()
    for first in range(0, n, AT_ONCE):
        m = min(AT_ONCE, n - first)
        which = rng.choice(len(share), m, p=share)
        latent = np.empty((m, fit.latent_dim + 1))
        for i in np.unique(which):
            latent[which == i] = fit.density.mixtures[i].sample(int((which == i).sum()), rng)
        codes = fit.preprocessing.conditions.one_hot(pd.DataFrame([fit.density.seen[i] for i in which]))
        pad = ((0, AT_ONCE - m), (0, 0))
        z = np.pad(latent[:, :-1].astype(np.float32), pad)
        output = fit.decoder.predict_on_batch([z, np.pad(codes, pad)])
        mean = np.exp(latent[:, -1:]) * np.asarray(output["proportion"])[:m]
        theta = np.asarray(output["dispersion"])[:m]
        yield sp.csr_matrix(rng.poisson(rng.gamma(theta) * mean / theta).astype(np.int32))


def run(model: str, side: str, n: int, out: Path) -> None:
    fit = vx.load_vae(model)
    vx.gen_exprs(fit, 200, progress=False)  # compiled
    start = time.perf_counter()
    if side == "vaexprs":
        vx.gen_exprs(fit, n, out=out, progress=False)
    else:
        obs = pd.DataFrame(index=pd.Index([f"cell_{i}" for i in range(n)]))
        write_blocks(ad.AnnData(obs=obs, var=pd.DataFrame(index=fit.genes)), plain(fit, n), out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{time.perf_counter() - start:.2f} {peak:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--out", default="g.h5ad", help="g.h5ad or g.zarr: the writer to use")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        with tempfile.TemporaryDirectory() as folder:
            run(asked.model, asked.side, asked.cells, Path(folder) / asked.out)
        return
    seconds: dict[str, list[float]] = {"vaexprs": [], "gamma-Poisson": []}
    for _ in range(asked.runs):
        for side, times in seconds.items():
            words = [asked.model, "--cells", str(asked.cells), "--out", asked.out, "--side", side]
            done = subprocess.run(
                [sys.executable, __file__, *words], check=True, capture_output=True, text=True
            )
            taken, peak = done.stdout.split()[-2:]
            times.append(float(taken))
            print(f"{side}: {taken} s, {asked.cells / float(taken):,.0f} cells/s, peak memory {peak} GB")
    medians = {side: statistics.median(times) for side, times in seconds.items()}
    print(f"ratio of medians: {medians['gamma-Poisson'] / medians['vaexprs']:.2f}")


if __name__ == "__main__":
    main()
