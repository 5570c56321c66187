"""Fidelity of generated cells as a function of the number of training cells.

    python benchmarks/learning_curve.py DATA.h5ad [...] [--sizes 250 500 1000 2000 4000 6000]
        [--choices default] [--seeds 0] [--plot CURVE.svg]

Uses the halves, the forests and the choices of `fidelity.py`. Of the training half each size keeps a random
subset, nested in the size; the other half is the same for all sizes. Prints a Markdown table of the AUC of
the random forests (genes, pcs; means over the seeds) and the number of latent dimensions, and with --plot
draws it.
"""

from pathlib import Path

import vaexprs as vx

# isort: split
import numpy as np
from fidelity import choices, composition, counts, forest_auc, generated, halves
from harness import parser, table_head, table_row

from vaexprs.data.matrix import log_normalised


def main() -> None:
    options = parser(__doc__, data="data", nargs="+")
    options.add_argument("--sizes", type=int, nargs="+", default=[250, 500, 1000, 2000, 4000, 6000])
    options.add_argument("--choices", nargs="+", default=["default"], help="names of choices in fidelity.py")
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    options.add_argument("--plot", type=Path)
    args = options.parse_args()
    key, curves = args.label_key, []
    print(table_head(["data", "choice", "cells", "dimensions", "genes", "pcs"], n_text=2))
    for path in args.data:
        train, test = halves(path, key)
        real = log_normalised(counts(test)).astype(np.float32)
        order = np.random.default_rng(0).permutation(train.n_obs)
        for name in args.choices:
            arguments, change = choices()[name]
            curve = []
            for size in [size for size in args.sizes if size <= train.n_obs]:
                cells = train[order[:size]].copy()
                known = test.obs[key].isin(cells.obs[key].unique()).to_numpy()
                numbers, found = composition(test[known], key), []
                for seed in args.seeds:
                    with change():
                        fit = vx.fit_vae(cells, label_key=key, seed=seed, verbose=0, **arguments)
                    made = [
                        log_normalised(counts(generated(fit, numbers, i))).astype(np.float32)
                        for i in (2 * seed, 2 * seed + 1)
                    ]
                    found.append(
                        [forest_auc(real[known], made[0], made[1], pcs=pcs) for pcs in (False, True)]
                    )
                genes, pcs = np.mean(found, axis=0)
                row = [path.name, name, f"{size:,}", str(fit.latent_dim), f"{genes:.3f}", f"{pcs:.3f}"]
                print(table_row(row), flush=True)
                curve.append((size, genes, pcs))
            curves.append((f"{path.stem}, {name}", np.array(curve)))
    if args.plot:
        draw(curves, args.plot)


def draw(curves: list[tuple[str, np.ndarray]], path: Path) -> None:
    """Draw the AUC in genes (solid) and PCs (dashed) against the number of training cells."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for i, (name, curve) in enumerate(curves):
        axes.plot(curve[:, 0], curve[:, 1], "o-", color=f"C{i}", label=f"{name}: genes")
        axes.plot(curve[:, 0], curve[:, 2], "o--", color=f"C{i}", label=f"{name}: PCs")
    axes.axhline(0.5, color="grey", linewidth=1)
    axes.set(xscale="log", xlabel="training cells", ylabel="AUC, real against generated cells")
    axes.set_xticks(sorted({int(size) for _, curve in curves for size in curve[:, 0]}))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.minorticks_off()
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
