"""Power, calibration and run time of `evaluate`.

    python benchmarks/scorecard.py controls DATA.h5ad [--cells 100 300 1000] [--draws 1]
    python benchmarks/scorecard.py fresh [DATA.h5ad] [--cells 300] [--draws 100]
    python benchmarks/scorecard.py seeds [DATA.h5ad] [--cells 300] [--draws 6]
    python benchmarks/scorecard.py time [--cells 20000]

``controls``: held-out real cells, each spoiled in one way (`tests/controls.py`), are evaluated against other
real cells, with the remaining ones as training cells. Prints the light of each answer and the metrics that
are off, by number of cells per side; then how often each metric is off, and for which controls it is alone.

``fresh``: unchanged real cells in the same role. Prints how often each answer is green, how often a metric
lies in the real-vs-real interval (nominal: 95%), and how often it is off.

``seeds``: one comparison of vaexprs cells with real cells, repeated with other seeds of `evaluate`. Prints
the share of verdicts that differ from the most frequent one.

``time``: one evaluation of N cells against N others x 2,000 genes with ten labels, in a new process. Prints
wall time and peak memory.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from harness import parser, table_head, table_row, timed, variable_genes

import vaexprs as vx
from vaexprs.metrics.answers import answers
from vaexprs.metrics.registry import ALL, METRICS

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from controls import CONTROLS, roles, unchanged

GENES = 2_000
QUESTIONS = ("looks", "types", "differences")
MEASURED = [name for name, metric in METRICS.items() if metric.question in QUESTIONS]


def read(path: Path | None, key: str) -> ad.AnnData:
    """Return the demo cells or those of a file, with variable genes and labels of ten cells or more."""
    cells = vx.demo_cells() if path is None else ad.read_h5ad(path)
    cells = cells[cells.obs[key].notna()].copy()
    if cells.n_vars > GENES:
        cells = cells[:, variable_genes(cells.X)].copy()
    frequent = cells.obs[key].map(cells.obs[key].value_counts()).astype(float) >= 10
    return cells[frequent.to_numpy() & (np.ravel(cells.X.sum(axis=1)) > 0)].copy()


def evaluated(
    parts: Sequence[ad.AnnData], key: str, seed: int, only: Sequence[str] = MEASURED
) -> pd.DataFrame:
    made, real, train = parts
    return vx.evaluate(made, real, train=train, label_key=key, only=only, seed=seed, progress=False)


def lights(table: pd.DataFrame) -> list[str]:
    return [answer.light for answer in answers(table)[: len(QUESTIONS)]]


def controls(cells: ad.AnnData, key: str, sizes: Sequence[int], draws: int, only: Sequence[str]) -> None:
    print(table_head(["control", "cells", *QUESTIONS, "off"], n_text=6))
    caught: dict[str, set[str]] = {}
    for name, spoil in CONTROLS.items():
        for n in sizes:
            for draw in range(draws):
                rng = np.random.default_rng(draw)
                made, real, train, spare = roles(cells, key, n, rng)
                table = evaluated((spoil(made, spare, key, rng), real, train), key, draw, only)
                off = table[table["verdict"] == "off"]
                found = [
                    metric if label == ALL else f"{metric} ({label})"
                    for metric, label in zip(off["metric"], off["label"], strict=True)
                ]
                caught.setdefault(f"{name} {n}", set()).update(off["metric"])
                shown = ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")
                print(table_row([name, n, *lights(table), shown or "-"]), flush=True)
    print()
    for metric in MEASURED:
        alone = [name for name, found in caught.items() if found == {metric}]
        every = sum(metric in found for found in caught.values())
        print(f"- {metric}: off in {every} of {len(caught)} controls, alone in {len(alone)} {alone or ''}")


def fresh(cells: ad.AnnData, key: str, n: int, draws: int, only: Sequence[str]) -> None:
    parts, found = [], []
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        made, real, train, spare = roles(cells, key, n, rng)
        table = evaluated((unchanged(made, spare, key, rng), real, train), key, draw, only)
        parts.append(table.assign(of=np.where(table["label"] == ALL, "all cells", "labels")))
        found.append([light == "green" for light in lights(table)])
        off = table[table["verdict"] == "off"]
        print(draw, *lights(table), off[["metric", "label"]].to_numpy().tolist(), file=sys.stderr, flush=True)
    table = pd.concat(parts, ignore_index=True)
    table["inside"] = table["value"].between(table["floor_low"], table["floor_high"])
    table["off"] = table["verdict"] == "off"
    print(
        table.groupby(["metric", "of"], sort=False)[["inside", "off"]].mean().unstack().round(3).to_string()
    )
    print(table.groupby("of")[["inside", "off"]].mean().round(4).to_string())
    green = np.array(found)
    print(
        f"green of {draws} draws of about {n} cells:",
        dict(zip(QUESTIONS, green.sum(axis=0).tolist(), strict=True)),
    )
    print("all answers green:", int(green.all(axis=1).sum()))


def seeds(cells: ad.AnnData, key: str, n: int, draws: int) -> None:
    made, real, train, _ = roles(cells, key, n, np.random.default_rng(0))
    fit = vx.fit_vae(train, label_key=key, verbose=0)
    numbers = {str(label): int(k) for label, k in real.obs[key].value_counts().items() if k}
    made = vx.gen_exprs(fit, labels=numbers, progress=False).adata
    tables = [evaluated((made, real, train), key, seed) for seed in range(draws)]
    verdicts = pd.concat(
        [t.set_index(["metric", "label"])["verdict"].rename(i) for i, t in enumerate(tables)], axis=1
    )
    for name, rows in (
        ("all cells", verdicts[verdicts.index.get_level_values(1) == ALL]),
        ("labels", verdicts[verdicts.index.get_level_values(1) != ALL]),
    ):
        changed = rows.apply(lambda row: (row != row.mode()[0]).mean(), axis=1)
        print(
            f"{name}: {len(rows)} rows; over {draws} seeds {changed.mean():.1%} of verdicts differ from the "
            "most frequent one"
        )
    print("lights:", [lights(table) for table in tables])


def simulated(n: int, seed: int) -> ad.AnnData:
    """Sample n cells x 2,000 genes of ten labels from negative binomials."""
    rng = np.random.default_rng(seed)
    base = np.random.default_rng(0).gamma(0.3, 1, size=(10, GENES))
    label = rng.integers(10, size=n)
    blocks = [
        sp.csr_matrix(rng.poisson(rng.gamma(2, base[rows] / 2)), dtype=np.float32)
        for rows in np.array_split(label, max(1, n // 1_000))
    ]
    obs = pd.DataFrame({"cell_type": pd.Categorical(label.astype(str))}, index=np.arange(n).astype(str))
    return ad.AnnData(sp.vstack(blocks, format="csr"), obs=obs)


def time_evaluation(n: int) -> None:
    made, real = simulated(n, 1), simulated(n, 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, table = timed(lambda: vx.evaluate(made, real, label_key="cell_type", progress=False))
    peaks = [
        resource.getrusage(who).ru_maxrss / 1e6 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    print(
        f"{n:,} x {GENES:,} against {n:,}: {len(table)} rows, {seconds:.1f} s; peak memory {peaks[0]:.2f} GB "
        f"({before / 1e6:.2f} GB before), the largest worker {peaks[1]:.2f} GB"
    )


def main() -> None:
    options = parser(__doc__)
    options.add_argument("what", choices=["controls", "fresh", "seeds", "time"])
    options.add_argument("data", type=Path, nargs="?", help=".h5ad file with raw counts in X (default: demo)")
    options.add_argument("--label-key", default="cell_type", help="column of obs with the cell type")
    options.add_argument("--cells", type=int, nargs="+", default=None, help="cells per side")
    options.add_argument("--draws", type=int, default=None, help="random draws")
    options.add_argument("--no-forests", action="store_true", help="leave out the slow metrics")
    options.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = options.parse_args()
    warnings.filterwarnings("ignore", message=".*same value in every cell.*")
    if args.what == "time":
        n = (args.cells or [20_000])[0]
        if args.here:
            time_evaluation(n)
        else:
            subprocess.run([sys.executable, __file__, "time", "--cells", str(n), "--here"], check=True)
        return
    cells, key = read(args.data, args.label_key), args.label_key
    only = [name for name in MEASURED if not (args.no_forests and METRICS[name].slow)]
    if args.what == "controls":
        controls(cells, key, args.cells or [100, 300, 1000], args.draws or 1, only)
    elif args.what == "fresh":
        fresh(cells, key, (args.cells or [300])[0], args.draws or 100, only)
    else:
        seeds(cells, key, (args.cells or [300])[0], args.draws or 6)


if __name__ == "__main__":
    main()
