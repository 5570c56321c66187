"""Throughput and memory of generating cells to disk.

    python benchmarks/generate.py MODEL [--cells 100000] [--out g.h5ad] [--depth 1]

MODEL is a folder saved by `vaexprs fit` with the negative binomial likelihood. vaexprs is compared with

* gamma-Poisson: NumPy's samplers with the same decoder, converted to CSR and written by the same writer;
* floor: the matrix product of the last decoder layer, and a plain write of as many bytes as vaexprs wrote.

The sides alternate, three runs of each, every run in a new process.

Prints for each run the wall time, the processor time, cells/s and peak memory; then the fraction of nonzero
values and the medians.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from harness import in_turn, parser

import vaexprs as vx
from vaexprs.io.write import write_blocks

BLOCK = 1_024  # cells per block
SIDES = ["vaexprs", "gamma-Poisson", "floor"]


def plain(fit: vx.VAEFit, n: int) -> Iterator[sp.csr_matrix]:
    """Yield blocks of counts in CSR: mixtures, decoder, then NumPy's gamma and Poisson samplers."""
    rng = np.random.default_rng(0)
    share = fit.density.cells / fit.density.cells.sum()
    for first in range(0, n, BLOCK):
        m = min(BLOCK, n - first)
        which = rng.choice(len(share), m, p=share)
        latent = np.empty((m, fit.latent_dim + 1))
        for i in np.unique(which):
            latent[which == i] = fit.density.mixtures[i].sample(int((which == i).sum()), rng)
        codes = fit.preprocessing.conditions.one_hot(pd.DataFrame([fit.density.seen[i] for i in which]))
        pad = ((0, BLOCK - m), (0, 0))
        z = np.pad(latent[:, :-1].astype(np.float32), pad)
        output = fit.decoder.predict_on_batch([z, np.pad(codes, pad)])
        mean = np.exp(latent[:, -1:]) * np.asarray(output["proportion"])[:m]
        theta = np.asarray(output["dispersion"])[:m]
        yield sp.csr_matrix(rng.poisson(rng.gamma(theta) * mean / theta).astype(np.int32))


def floor(fit: vx.VAEFit, n: int, size: int, out: Path) -> None:
    """Multiply n rows of hidden units by the weights of the last layer, and write `size` bytes."""
    kernel = np.asarray(fit.decoder.get_layer("output").kernel)
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((BLOCK, len(kernel)), np.float32)
    product = np.empty((BLOCK, kernel.shape[1]), np.float32)
    content = rng.bytes(-(-size * BLOCK // n))
    with out.open("wb") as file:
        for _ in range(0, n, BLOCK):
            np.matmul(hidden, kernel, out=product)
            file.write(content)


def deeper(fit: vx.VAEFit, factor: float) -> vx.VAEFit:
    """Return the fit with library sizes multiplied by a factor."""
    shift = np.r_[np.zeros(fit.latent_dim), np.log(factor)]
    mixtures = tuple(replace(mixture, means=mixture.means + shift) for mixture in fit.density.mixtures)
    return replace(fit, density=replace(fit.density, mixtures=mixtures))


def run(model: str, side: str, n: int, depth: float, size: int, out: Path) -> None:
    fit = deeper(vx.load_vae(model), depth)
    vx.gen_exprs(fit, 300, progress=False)  # compilation does not count
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
    print(f"{seconds} {busy:.2f} {peak:.2f} {filled / n / len(fit.genes):.3f} {size}")


def measure(args: argparse.Namespace, side: str, written: dict[str, str]) -> float:
    """Run one side in a new process, print its figures, and return its wall time in seconds."""
    words = [args.model, "--cells", str(args.cells), "--out", args.out, "--side", side]
    words += ["--depth", str(args.depth), "--size", written.get("vaexprs", "0")]
    done = subprocess.run([sys.executable, __file__, *words], check=True, capture_output=True, text=True)
    seconds, busy, peak, nonzero, written[side] = done.stdout.split()[-5:]
    if side == "vaexprs":
        print(f"not zero: {nonzero}, bytes per cell: {int(written[side]) / args.cells:.0f}")
    taken = float(seconds)
    rate = args.cells / taken
    print(f"{side}: {taken:.2f} s ({busy} s of processors), {rate:,.0f} cells/s, peak memory {peak} GB")
    return taken


def main() -> None:
    options = parser(__doc__)
    options.add_argument("model")
    options.add_argument("--cells", type=int, default=100_000)
    options.add_argument("--out", default="g.h5ad", help="g.h5ad or g.zarr: file format")
    options.add_argument("--runs", type=int, default=3, help="runs of each side")
    options.add_argument("--depth", type=float, default=1.0, help="factor of the model's library sizes")
    options.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES)
    options.add_argument("--side", help=argparse.SUPPRESS)
    options.add_argument("--size", type=int, default=0, help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.side:
        with tempfile.TemporaryDirectory() as folder:
            run(args.model, args.side, args.cells, args.depth, args.size, Path(folder) / args.out)
        return
    written: dict[str, str] = {}  # bytes by side
    times: dict[str, list[float]] = {side: [] for side in args.sides}
    sides = {side: partial(measure, args, side, written) for side in args.sides}
    for side, seconds in in_turn(sides, args.runs):
        times[side].append(seconds)
    medians = {side: median(values) for side, values in times.items()}
    for side, seconds in medians.items():
        print(
            f"median of {side}: {seconds:.2f} s, {seconds / medians[args.sides[0]]:.2f} times {args.sides[0]}"
        )


if __name__ == "__main__":
    main()
