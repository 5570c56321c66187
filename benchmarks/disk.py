"""Training on cells on disk compared with the same cells in memory.

    python benchmarks/disk.py MODEL [--cells 100000 1000000] [--out cells.h5ad cells.zarr] [--steps N]

MODEL is a folder saved by `vaexprs fit` with a label. Cells are generated from it, sorted by label, so that
the losses show whether shuffling within a buffer is sufficient. Each fit runs in a new process for two
epochs, of which the second is timed; the file is in the file cache. Only the smallest number of cells is
also fitted in memory, where it is fully shuffled. With --steps, each fit is stopped after N steps, and all
but the first quarter of them are timed, one by one.

Prints training throughput (cells/s), peak memory, the time of the whole fit, and the loss of each epoch.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from harness import parser, run_code

FIT = """
import json, resource, sys, time
import vaexprs as vx
import keras

path, key, in_memory, most = sys.argv[1], sys.argv[2], sys.argv[3] == "memory", int(sys.argv[4])
start = time.perf_counter()
rate, losses = 0.0, []

class Epochs(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()
    def on_epoch_end(self, epoch, logs=None):
        global rate
        rate = n / (time.perf_counter() - self.start)
        losses.append(float(logs["loss"]))

class Steps(keras.callbacks.Callback):
    done = 0
    def on_train_batch_end(self, batch, logs=None):
        global rate
        self.done += 1
        if self.done == most // 4:
            self.start = time.perf_counter()
        if self.done == most:
            rate = 128 * (most - most // 4) / (time.perf_counter() - self.start)
            losses.append(float(logs["loss"]))
            raise KeyboardInterrupt

cells = vx.read(path) if in_memory else path
n = int(sys.argv[5])
try:
    vx.fit_vae(cells, label_key=key, epochs=2, verbose=0, callbacks=[Steps() if most else Epochs()])
except KeyboardInterrupt:
    pass
print(json.dumps({
    "rate": rate,
    "whole": time.perf_counter() - start,
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    "loss": losses,
}))
"""


def main() -> None:
    import vaexprs as vx

    options = parser(__doc__)
    options.add_argument("model")
    options.add_argument("--cells", type=int, nargs="+", default=[100_000, 1_000_000])
    options.add_argument("--out", nargs="+", default=["cells.h5ad", "cells.zarr"])
    options.add_argument("--library-size", type=float, help="library size in counts (default: the model's)")
    options.add_argument("--steps", type=int, default=0, help="number of steps (default: two epochs)")
    args = options.parse_args()
    fit = vx.load_vae(args.model)
    key = str(fit.preprocessing.conditions.label_key)
    with tempfile.TemporaryDirectory() as folder:
        for name in args.out:
            for n in args.cells:
                path = Path(folder, name)
                size = {} if args.library_size is None else {"library_size": args.library_size}
                made = vx.gen_exprs(fit, n, out=path, overwrite=True, progress=False, **size)
                zeros = 1 - made.adata.X[:1_000].nnz / (1_000 * made.adata.n_vars)
                print(f"{name}: {n:,} cells x {made.adata.n_vars:,} genes, zeros {100 * zeros:.0f}%")
                for where in ("disk", "memory") if n == min(args.cells) else ("disk",):
                    found = json.loads(
                        run_code(sys.executable, FIT, path, key, where, args.steps, n).splitlines()[-1]
                    )
                    losses = " ".join(f"{loss:.3f}" for loss in found["loss"])
                    print(
                        f"  {where}: {found['rate']:,.0f} cells/s, peak {found['peak']:.2f} GB, whole fit "
                        f"{found['whole']:.0f} s, losses {losses}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
