"""Wall time of a default fit compared with that of scvi-tools.

    python benchmarks/fit_time.py DATA.h5ad [--scvi PYTHON] [--genes 2000] [--repeats 3]

Both fit half of the cells (stratified by cell type) and their most variable genes with default arguments:
`vaexprs.fit_vae` with labels, and `scvi.model.SCVI` with its own number of epochs. Fits alternate, each in a
new process, and may use all cores. Run it on an otherwise idle machine. Without PYTHON, an interpreter with
scvi-tools, only vaexprs is timed.

Prints for each run, and as medians, "fit" (the fit alone, including compilation) and "process" (from the
start of Python, including imports and reading).
"""

import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

from harness import in_turn, parser, run_code, stratified_halves, timed, variable_genes

VAEXPRS = """
import sys, time
from vaexprs import fit_vae, read
adata = read(sys.argv[1])
start = time.perf_counter()
fit = fit_vae(adata, label_key=sys.argv[2], seed=0, verbose=0)
print(time.perf_counter() - start, len(fit.history["loss"]), "epochs")
"""
SCVI = """
import sys, time
import anndata as ad
import scvi
scvi.settings.seed = 0
adata = ad.read_h5ad(sys.argv[1])
start = time.perf_counter()
scvi.model.SCVI.setup_anndata(adata, labels_key=sys.argv[2])
model = scvi.model.SCVI(adata)
model.train(accelerator="cpu", enable_progress_bar=False)
print(time.perf_counter() - start, len(model.history["elbo_train"]), "epochs")
"""


def fit_seconds(python: str, script: str, data: Path, label_key: str) -> tuple[float, float, str]:
    """Run a script in a new process; return the time of the fit and of the process, and its other output."""
    process, output = timed(run_code, python, script, data, label_key)
    fit, *rest = output.strip().splitlines()[-1].split()
    return float(fit), process, " ".join(rest)


def write_half(source: Path, label_key: str, target: Path, n_genes: int = 2_000) -> tuple[int, int]:
    """Write the training half of the cells with their most variable genes, and return its shape."""
    import anndata as ad

    adata = ad.read_h5ad(source)
    adata = adata[:, variable_genes(adata.X, n_genes)]
    rows, _ = stratified_halves(adata.obs[label_key])
    adata[rows].copy().write_h5ad(target)
    return len(rows), adata.n_vars


def main() -> None:
    options = parser(__doc__, data="data")
    options.add_argument("--scvi", metavar="PYTHON", help="interpreter with scvi-tools")
    options.add_argument("--genes", type=int, default=2_000, help="maximum number of genes")
    options.add_argument("--repeats", type=int, default=3, help="fits of each")
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "half.h5ad")
        n_cells, n_genes = write_half(args.data, args.label_key, data, args.genes)
        print(f"{args.data.name}: {n_cells} cells x {n_genes} genes")
        sides = {"vaexprs": partial(fit_seconds, sys.executable, VAEXPRS, data, args.label_key)}
        if args.scvi:
            sides["scvi-tools"] = partial(fit_seconds, args.scvi, SCVI, data, args.label_key)
        times: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
        for side, (fit, process, rest) in in_turn(sides, args.repeats):
            times[side].append((fit, process))
            print(f"{side}: fit {fit:.1f} s, process {process:.1f} s, {rest}", flush=True)
    for i, what in enumerate(("fit", "process")):
        ours, *theirs = (median(t[i] for t in times[side]) for side in times)
        compared = "".join(f" against {other:.1f} s, {other / ours:.1f} times faster" for other in theirs)
        print(f"{what}: median {ours:.1f} s{compared}")


if __name__ == "__main__":
    main()
