"""What lowers the accuracy of the attacks of `audit_privacy` on default fits.

    python benchmarks/audit_fits.py DATA.h5ad [--label-key cell_type] [--split 0]
    python benchmarks/audit_fits.py DATA.h5ad --cells 300 500 1000 --genes 500 2000 all

Random cells train, as many others are held out; both have the genes that are most variable in all cells. As
many cells as in training are generated, unless the row says otherwise. Each row changes one thing: the
number of training cells, the number of genes, the number of generated cells, the weight of the
Kullback-Leibler divergence (`regularization`), or differential privacy. With `--cells` and `--genes` there
is a row for each pair of them instead.

Prints a Markdown table: AUC with its interval and true positive rate at 1% false positives of the strongest
attack, the AUC by relative distance, the answer, and the AUC of a random forest that separates generated
from held-out cells (0.5: indistinguishable).
"""

import argparse
import warnings
from typing import Any, NamedTuple

import vaexprs as vx

# isort: split
import anndata as ad
import numpy as np
from harness import parser, table_head, table_row, variable_genes

from vaexprs.privacy.answers import answer

SAME_GENES = (
    500  # number of most variable genes of the second forest, the same for all numbers of fitted genes
)


class Setting(NamedTuple):
    """Fit that is attacked."""

    cells: int = 1_000
    genes: int = 2_000
    generated: float = 1.0
    regularization: float = 1.0
    epsilon: float | None = None

    def words(self) -> list[str]:
        """Return the numbers of cells, genes and generated cells, the regularization, and epsilon."""
        made = round(self.generated * self.cells)
        return [
            f"{self.cells:,}",
            f"{self.genes:,}",
            f"{made:,}",
            f"{self.regularization:g}",
            "-" if self.epsilon is None else f"{self.epsilon:g}",
        ]


SETTINGS = [
    *(Setting(cells=n) for n in (250, 1_000)),
    Setting(genes=500),
    Setting(generated=0.1),
    Setting(regularization=16),
    *(Setting(epsilon=epsilon) for epsilon in (10, 3)),
]


def measure(cells: ad.AnnData, setting: Setting, args: argparse.Namespace) -> list[str]:
    """Return the row of a setting."""
    key, n = args.label_key, setting.cells
    order = np.random.default_rng(args.split).permutation(cells.n_obs)
    same = cells.var_names[variable_genes(cells.X, min(SAME_GENES, setting.genes))]
    cells = cells[:, variable_genes(cells.X, setting.genes)]
    parts = (cells[np.sort(order[rows])] for rows in (slice(n), slice(n, 2 * n)))
    train, held = (part[np.ravel(part.X.sum(axis=1)) > 0].copy() for part in parts)
    arguments: dict[str, Any] = {"regularization": setting.regularization}
    if setting.epsilon is not None:
        arguments = {"privacy": vx.Privacy(setting.epsilon, 1e-5)}
    fit = vx.fit_vae(train, label_key=key, seed=args.split, verbose=0, **arguments)
    made = vx.gen_exprs(fit, round(setting.generated * n), seed=args.split, progress=False)
    table = vx.audit_privacy(made, train, held, label_key=key, seed=args.split)
    rows = table.set_index("metric")
    aucs = rows[rows.index.str.startswith("membership_auc")]
    best = aucs.loc[aucs["low"].idxmax()]
    rates = rows[rows.index.str.startswith("membership_tpr")]
    rate = rates.loc[rates["low"].idxmax()]

    def forest(genes: Any) -> str:
        parts = [part[:, genes].copy() for part in (made.adata, held, train)]
        rows = vx.evaluate(
            parts[0],
            parts[1],
            train=parts[2],
            label_key=key,
            only=["forest_auc_genes"],
            seed=args.split,
            progress=False,
        )
        return f"{rows.iloc[0]['value']:.2f}"

    return [
        f"{best['value']:.2f} ({best['low']:.2f} to {best['high']:.2f})",
        f"{rate['value']:.2f} ({rate['low']:.2f} to {rate['high']:.2f})",
        f"{rows.loc['membership_auc', 'value']:.2f}",
        answer(table).light,
        forest(cells.var_names),
        forest(same),
    ]


def main() -> None:
    options = parser(__doc__, data="data")
    options.add_argument("--split", type=int, default=0, help="seed of the split, the fit and the cells")
    options.add_argument("--cells", type=int, nargs="+", default=[], help="numbers of training cells")
    options.add_argument("--genes", nargs="+", default=["2000"], help="numbers of genes, or 'all'")
    args = options.parse_args()
    warnings.simplefilter("ignore")
    cells = ad.read_h5ad(args.data)
    numbers = [cells.n_vars if n == "all" else int(n) for n in args.genes]
    settings = [Setting(cells=n, genes=genes) for n in args.cells for genes in numbers] or SETTINGS
    columns = ["cells", "genes", "generated", "regularization", "epsilon"]
    measured = ["AUC", "TPR at 1% FPR", "relative distance", "answer", "forest", "forest, same genes"]
    print(table_head([*columns, *measured], n_text=0), flush=True)
    for setting in settings:
        if 2 * setting.cells <= cells.n_obs and setting.genes <= cells.n_vars:
            print(table_row([*setting.words(), *measure(cells, setting, args)]), flush=True)


if __name__ == "__main__":
    main()
