"""Wall time of a default fit beside that of scvi-tools, in turn, each in a new process.

    python benchmarks/fit_time.py pbmc_facs.h5ad --scvi /path/to/scvi/environment/bin/python

Half of the cells, in proportion within each type, are fitted from their 2,000 most variable genes with the
defaults of both: `vaexprs.fit_vae` with labels, and `scvi.model.SCVI` with as many epochs as it chooses by
itself. "fit" is that call alone, compilation included; "process" is all from the start of Python, with
imports and reading. Both may use all cores. Run it on an otherwise idle machine.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

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


def seconds(python: str, script: str, data: Path, label_key: str) -> tuple[float, float, str]:
    """Run a script in a new process; return the time of the fit, of the process, and what it said besides."""
    start = time.perf_counter()
    done = subprocess.run([python, "-c", script, str(data), label_key], capture_output=True, text=True)
    whole = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{python} failed:\n{done.stderr[-2000:]}")
    fit, *rest = done.stdout.strip().splitlines()[-1].split()
    return float(fit), whole, " ".join(rest)


def write_half(source: Path, label_key: str, target: Path, genes: int = 2000) -> tuple[int, int]:
    """Write the training half of the cells with their most variable genes, and return its shape."""
    import anndata as ad
    import scanpy as sc
    from sklearn.model_selection import train_test_split

    adata = ad.read_h5ad(source)
    if adata.n_vars > genes:
        log = adata.copy()
        sc.pp.normalize_total(log, target_sum=1e4)
        sc.pp.log1p(log)
        sc.pp.highly_variable_genes(log, n_top_genes=genes)
        adata = adata[:, log.var["highly_variable"]].copy()
    rows, _ = train_test_split(
        range(adata.n_obs), test_size=0.5, stratify=adata.obs[label_key], random_state=0
    )
    adata[sorted(rows)].copy().write_h5ad(target)
    return len(rows), adata.n_vars


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help=".h5ad with raw counts in X")
    parser.add_argument("--label-key", default="cell_type", help="column of obs with the type")
    parser.add_argument("--scvi", required=True, metavar="PYTHON", help="interpreter with scvi-tools")
    parser.add_argument("--repeats", type=int, default=3, help="fits of each")
    args = parser.parse_args()
    sides = {"vaexprs": (sys.executable, VAEXPRS), "scvi-tools": (args.scvi, SCVI)}
    times: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "half.h5ad")
        n_cells, n_genes = write_half(args.data, args.label_key, data)
        print(f"{args.data.name}: {n_cells} cells x {n_genes} genes")
        for _ in range(args.repeats):
            for side, (python, script) in sides.items():
                fit, whole, said = seconds(python, script, data, args.label_key)
                times[side].append((fit, whole))
                print(f"{side}: fit {fit:.1f} s, process {whole:.1f} s, {said}", flush=True)
    for i, what in enumerate(("fit", "process")):
        ours, theirs = (median(t[i] for t in times[side]) for side in sides)
        print(f"{what}: median {ours:.1f} s against {theirs:.1f} s, {theirs / ours:.1f} times faster")


if __name__ == "__main__":
    main()
