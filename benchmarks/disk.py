"""Training on cells left on disk beside the same cells in memory: cells a second, peak memory and losses.

    python benchmarks/disk.py MODEL [--cells 100000 1000000] [--out cells.h5ad cells.zarr]

MODEL is a folder that `vaexprs fit` saved with a label; cells are generated from it, one label after the
other, so that a loss curve tells whether shuffling within a buffer is enough. Each fit is a process of
its own and trains for two epochs, of which the second is timed; the file is in the file cache. In memory
the cells are shuffled fully. Only the smallest number of cells is fitted in memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

FIT = """
import json, resource, sys, time
import vaexprs as vx
import keras
class Clock(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()
    def on_epoch_end(self, epoch, logs=None):
        self.seconds = time.perf_counter() - self.start
path, key, in_memory = sys.argv[1], sys.argv[2], sys.argv[3] == "memory"
clock, start = Clock(), time.perf_counter()
fit = vx.fit_vae(vx.read(path) if in_memory else path, label_key=key, epochs=2, verbose=0, callbacks=[clock])
print(json.dumps({
    "rate": float(fit.density.cells.sum()) / clock.seconds,
    "whole": time.perf_counter() - start,
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    "loss": fit.history["loss"],
}))
"""


def measure(path: Path, key: str, where: str) -> dict:
    done = subprocess.run([sys.executable, "-c", FIT, str(path), key, where], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    import vaexprs as vx

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--cells", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--out", nargs="+", default=["cells.h5ad", "cells.zarr"])
    parser.add_argument("--library-size", type=float, help="counts a cell; by default the model's")
    asked = parser.parse_args()
    fit = vx.load_vae(asked.model)
    key = str(fit.preprocessing.conditions.label_key)
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.out:
            for n in asked.cells:
                path = Path(folder, name)
                size = {} if asked.library_size is None else {"library_size": asked.library_size}
                made = vx.gen_exprs(
                    fit, n, out=path, overwrite=True, progress=False, stratified=False, **size
                )
                zeros = 1 - made.adata.X[:1_000].nnz / (1_000 * made.adata.n_vars)
                print(f"{name}: {n:,} cells x {made.adata.n_vars:,} genes, zeros {100 * zeros:.0f}%")
                for where in ("disk", "memory") if n == min(asked.cells) else ("disk",):
                    told = measure(path, key, where)
                    losses = " ".join(f"{loss:.3f}" for loss in told["loss"])
                    print(
                        f"  {where}: {told['rate']:,.0f} cells/s, peak {told['peak']:.2f} GB, whole fit "
                        f"{told['whole']:.0f} s, losses {losses}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
