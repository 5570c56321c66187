"""Generate cells to disk, beside two others.

    python benchmarks/generate.py MODEL [--cells 100000] [--out g.h5ad] [--depth 1]

MODEL is a folder that `vaexprs fit` saved under the negative binomial. The others are

* gamma-Poisson: NumPy's draws, with the same decoder, to CSR, by the same writer;
* floor: the matrix product of the decoder's last layer, and a plain write of vaexprs' number of bytes.

Each side runs in a process of its own, three times in turn. Printed are seconds, seconds of processors,
peak memory, the fraction of values that are not zero, and the medians.
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
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

import vaexprs as vx
from vaexprs.io.write import write_blocks

AT_ONCE = 1_024
SIDES = ["vaexprs", "gamma-Poisson", "floor"]


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


def floor(fit: vx.VAEFit, n: int, size: int, out: Path) -> None:
    """Multiply n rows of hidden units by the last layer's weights, and write so many bytes."""
    kernel = np.asarray(fit.decoder.get_layer("output").kernel)
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((AT_ONCE, len(kernel)), np.float32)
    product = np.empty((AT_ONCE, kernel.shape[1]), np.float32)
    content = rng.bytes(-(-size * AT_ONCE // n))
    with out.open("wb") as file:
        for _ in range(0, n, AT_ONCE):
            np.matmul(hidden, kernel, out=product)
            file.write(content)


def deeper(fit: vx.VAEFit, factor: float) -> vx.VAEFit:
    """Return the fit with library sizes so many times as large."""
    shift = np.r_[np.zeros(fit.latent_dim), np.log(factor)]
    mixtures = tuple(replace(mixture, means=mixture.means + shift) for mixture in fit.density.mixtures)
    return replace(fit, density=replace(fit.density, mixtures=mixtures))


def run(model: str, side: str, n: int, depth: float, size: int, out: Path) -> None:
    fit = deeper(vx.load_vae(model), depth)
    vx.gen_exprs(fit, 300, progress=False)  # compiled
    start, busy, filled = time.perf_counter(), time.process_time(), 0
    if side == "vaexprs":
        filled = vx.gen_exprs(fit, n, out=out, progress=False).adata.X.group["data"].shape[0]
    elif side == "floor":
        floor(fit, n, size, out)
    else:
        obs = pd.DataFrame(index=pd.Index([f"cell_{i}" for i in range(n)]))
        write_blocks(ad.AnnData(obs=obs, var=pd.DataFrame(index=fit.genes)), plain(fit, n), out)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    size = sum(path.stat().st_size for path in [out, *out.rglob("*")] if path.is_file())
    print(f"{seconds:.2f} {busy:.2f} {peak:.2f} {filled / n / len(fit.genes):.3f} {size}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--out", default="g.h5ad", help="g.h5ad or g.zarr: the writer to use")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--depth", type=float, default=1.0, help="library sizes, times the model's")
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, default=0, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        with tempfile.TemporaryDirectory() as folder:
            run(asked.model, asked.side, asked.cells, asked.depth, asked.size, Path(folder) / asked.out)
        return
    seconds: dict[str, list[float]] = {side: [] for side in asked.sides}
    size = "0"
    for _ in range(asked.runs):
        for side, times in seconds.items():
            words = [asked.model, "--cells", str(asked.cells), "--out", asked.out, "--side", side]
            words += ["--depth", str(asked.depth), "--size", size]
            done = subprocess.run(
                [sys.executable, __file__, *words], check=True, capture_output=True, text=True
            )
            taken, busy, peak, filled, written = done.stdout.split()[-5:]
            if side == "vaexprs":
                size = written
                print(f"not zero: {filled}, bytes a cell: {int(written) / asked.cells:.0f}")
            times.append(float(taken))
            rate = asked.cells / float(taken)
            print(f"{side}: {taken} s ({busy} s of processors), {rate:,.0f} cells/s, peak memory {peak} GB")
    medians = {side: statistics.median(times) for side, times in seconds.items()}
    for side, median in medians.items():
        print(
            f"median of {side}: {median:.2f} s, {median / medians[asked.sides[0]]:.2f} times {asked.sides[0]}"
        )


if __name__ == "__main__":
    main()
