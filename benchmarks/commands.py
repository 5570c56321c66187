"""Time of whole commands, from the start of the process to its end.

    python benchmarks/commands.py DATA.h5ad [--other PYTHON] [--runs 3]

The commands are `vaexprs demo`, `vaexprs generate` of 300 cells from the model of the demo, and `vaexprs
evaluate` of 1,000 generated cells x 2,000 genes with 1,000 real ones, which are drawn from DATA. PYTHON is an
interpreter with another version of vaexprs, which runs the same commands on the same files. The versions
alternate; the first run of each does not count, because it fills caches of compiled programs.

Prints the median, minimum and maximum in seconds of each command.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import anndata as ad
import numpy as np
from harness import parser, print_seconds, timed, variable_genes

import vaexprs as vx

N_CELLS = 1_000  # cells of each side of the evaluation


def seconds_of(python: str, *words: object) -> float:
    """Run a command of the vaexprs of an interpreter, and return the seconds that it took."""
    command = [python, "-m", "vaexprs", *map(str, words), "--overwrite", "-q"]
    return timed(partial(subprocess.run, command, check=True))[0]


def write_cells(data: Path, key: str, folder: Path) -> tuple[Path, Path]:
    """Write 1,000 real cells, and as many from a fit of the others; return the files."""
    cells = ad.read_h5ad(data)
    cells = cells[:, variable_genes(cells.X)]
    rows = np.random.default_rng(0).permutation(cells.n_obs)
    real, made = folder / "real.h5ad", folder / "made.h5ad"
    vx.write(cells[rows[:N_CELLS]].copy(), real)
    fit = vx.fit_vae(cells[rows[N_CELLS:]].copy(), label_key=key, verbose=0)
    vx.gen_exprs(fit, N_CELLS, out=made, progress=False)
    return real, made


def main() -> None:
    options = parser(__doc__, data="data")
    options.add_argument("--other", metavar="PYTHON", help="interpreter with another version of vaexprs")
    options.add_argument("--runs", type=int, default=3, help="runs of each command")
    args = options.parse_args()
    pythons = {"": sys.executable} | ({} if args.other is None else {"other, ": args.other})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        real, made = write_cells(args.data, args.label_key, folder)
        commands = {
            "demo": ["demo", "--out", folder / "demo"],
            "generate -n 300": ["generate", folder / "demo/model", "-n", 300, "--out", folder / "300.h5ad"],
            "evaluate": ["evaluate", made, "--real", real, "--out", folder / "table.csv"],
        }
        sides = {
            f"{version}{command}": partial(seconds_of, python, *words)
            for command, words in commands.items()
            for version, python in pythons.items()
        }
        print_seconds(sides, args.runs)


if __name__ == "__main__":
    main()
