"""Leaks that `audit_privacy` must detect, some that it does not, and fresh cells that must pass.

    python benchmarks/audit_controls.py [DATA.h5ad] [--cells 60 300 1000] [--draws 5] [--fresh 100] [--models]

The cells (with the 2,000 genes that most cells have) are split at random into training, held-out and fresh
cells, `--cells` of each. `tests/leaks.py` makes generated cells that leak training cells in one way each; its
leaks that the audit does not always notice come last. With --models it fits models that leak.

Prints a Markdown table: how many draws end as fail, caution and pass, and the metrics beyond chance level in
most draws.
"""

import sys
import warnings
from collections import Counter
from pathlib import Path

import anndata as ad
import numpy as np
from harness import parser, table_head, table_row

import vaexprs as vx
from vaexprs.privacy.answers import answer

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import leaks

GENES = 2_000
LIGHTS = {"red": "fail", "amber": "caution", "green": "pass"}
SHOWN = 3  # metrics that are shown


def read(path: Path | None) -> ad.AnnData:
    """Return the demo cells or those of a file, with the genes that most cells have."""
    cells = vx.demo_cells() if path is None else ad.read_h5ad(path)
    if cells.n_vars > GENES:
        cells = cells[:, np.sort(np.argsort(-np.ravel((cells.X > 0).sum(axis=0)))[:GENES])]
    return cells[np.ravel(cells.X.sum(axis=1)) > 0].copy()


def row(cells: ad.AnnData, leak: leaks.Leak, key: str, n: int, draws: int) -> list[object]:
    """Return the numbers of draws with each verdict, and the metrics beyond chance level."""
    lights: Counter[str] = Counter()
    beyond: Counter[str] = Counter()
    for seed in range(draws):
        parts = leak(*leaks.thirds(cells, n, seed), key, np.random.default_rng(seed))
        table = vx.audit_privacy(*parts, label_key=key, seed=seed)
        lights[answer(table).light] += 1
        beyond.update(table.loc[table["verdict"].isin(["caution", "fail"]), "metric"])
    names = [f"{name} ({count})" for name, count in beyond.most_common(SHOWN)]
    return [*(lights[light] for light in LIGHTS), ", ".join(names) or "-"]


def main() -> None:
    options = parser(__doc__, data="data", nargs="?")
    options.add_argument("--cells", type=int, nargs="+", default=[60, 300, 1_000], help="cells of each set")
    options.add_argument("--draws", type=int, default=5, help="draws of each leak")
    options.add_argument("--fresh", type=int, default=100, help="draws of fresh cells")
    options.add_argument("--models", action="store_true", help="fit models that leak, one draw each")
    args = options.parse_args()
    warnings.simplefilter("ignore")
    cells = read(args.data)
    print(table_head(["generated cells", "cells", *LIGHTS.values(), "most frequent metrics"], n_text=1))
    for n in args.cells:
        if 3 * n > cells.n_obs:
            continue
        print(table_row(["fresh", n, *row(cells, leaks.fresh, args.label_key, n, args.fresh)]), flush=True)
        for name, leak in {**leaks.LEAKS, **leaks.MISSED}.items():
            print(table_row([name, n, *row(cells, leak, args.label_key, n, args.draws)]), flush=True)
        for name, leak in leaks.MODELS.items() if args.models else ():
            print(table_row([name, n, *row(cells, leak, args.label_key, n, 1)]), flush=True)


if __name__ == "__main__":
    main()
