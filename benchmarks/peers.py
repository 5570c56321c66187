"""Comparison of generators of cells, judged by the same code.

    python benchmarks/peers.py DATA.h5ad [...] [--label-key cell_type] [--splits 0 1] [--seeds 0]
    python benchmarks/peers.py DATA.h5ad [...] --peers vaexprs copula smote scvi scdesigner
    python benchmarks/peers.py DATA.h5ad [...] --peers scvi --python scvi=PYTHON

The protocol is that of `fidelity.py`: half of the cells (labels with ten or more cells, 2,000 most variable
genes) train; each peer generates two sets, independent of each other, with as many cells per label as the
other half. `fidelity.figures` compares them with that half.

Each peer is a script in `benchmarks/peers/`, run in an environment of its own, which is created when it is
first needed from the dependencies that the script declares (PEP 723). vaexprs runs in this environment.

Prints a Markdown table, means over splits and seeds. The columns are explained in `fidelity.py`; seconds are
those of the fit and of the first set. "closer" names the AUCs (genes, pcs) of a peer that are nearer to 0.5
than those of vaexprs by more than 0.01. A peer that fails on a data set has a row that says why.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from fidelity import COLUMNS, composition, figures, halves

# isort: split
import anndata as ad
import numpy as np
import platformdirs
from harness import parser, random_halves, table_head, table_row

SCRIPTS = {
    "vaexprs": "vaexprs_defaults.py",
    "copula": "copula.py",
    "smote": "smote.py",
    "scvi": "scvi_tools.py",
    "scdesigner": "scdesigner_copula.py",
}
SHOWN = [name for name in COLUMNS if name not in ("sets", "null", "bias")]
AUCS = ("genes", "pcs")
MARGIN = 0.01  # of the AUCs, for a peer to be named as closer


def dependencies(script: Path) -> list[str]:
    """Return the dependencies that a script declares (PEP 723), none if it has no such block."""
    block = re.search(r"^# /// script\n((?:#.*\n)*?)# ///$", script.read_text(), re.MULTILINE)
    text = re.sub(r"^# ?", "", block[1], flags=re.MULTILINE) if block else ""
    return list(tomllib.loads(text).get("dependencies", []))


def interpreter(script: Path, environments: Path) -> str:
    """Return the Python of a script: this one, or that of an environment with its dependencies."""
    needed = dependencies(script)
    if not needed:
        return sys.executable
    folder = environments / script.stem
    python, installed = folder / "bin" / "python", folder / "dependencies.json"
    if not installed.exists() or json.loads(installed.read_text()) != needed:
        print(f"installing {', '.join(needed)}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        done = subprocess.run([python, "-m", "pip", "install", "-q", *needed], stdout=sys.stderr)
        if done.returncode:
            raise RuntimeError(f"pip could not install {', '.join(needed)}")
        installed.write_text(json.dumps(needed))
    return str(python)


def python_of(peer: str, args: argparse.Namespace) -> tuple[str, Path]:
    """Return the interpreter and the script of a peer."""
    script = Path(__file__).with_suffix("") / SCRIPTS[peer]
    given = dict(value.split("=", 1) for value in args.python)
    return given.get(peer) or interpreter(script, args.environments), script


def add_environments(options: argparse.ArgumentParser) -> None:
    """Add the arguments that `python_of` and `generated` need."""
    options.add_argument(
        "--limit", type=float, metavar="MINUTES", help="of a fit and two sets (default: none)"
    )
    options.add_argument(
        "--environments",
        type=Path,
        default=platformdirs.user_cache_path("vaexprs-peers"),
        help="folder of the environments (default: in the user's cache)",
    )
    options.add_argument("--python", action="append", default=[], metavar="PEER=PYTHON", help="interpreter")


def generated(
    python: str,
    script: Path,
    train: ad.AnnData,
    numbers: dict[str, int],
    key: str,
    seed: int,
    limit: float | None,
) -> list[ad.AnnData]:
    """Return the two sets of a peer; raise RuntimeError with one sentence if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("train.h5ad", "numbers.json", "1.h5ad", "2.h5ad")]
        cells = ad.AnnData(train.X, obs=train.obs[[key]].astype(str), var=train.var[[]])
        cells.write_h5ad(files[0])
        files[1].write_text(json.dumps(numbers))
        command = [python, script, *files, "--label-key", key, "--seed", seed]
        # modules of this environment must not be found by those of other packages
        own = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" or python == sys.executable}
        try:
            done = subprocess.run(
                list(map(str, command)), env=own, capture_output=True, text=True, timeout=limit and limit * 60
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"more than {limit:g} minutes") from None
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise RuntimeError(lines[-1].replace("|", "/")[:200])
        return [ad.read_h5ad(path) for path in files[2:]]


def measure(
    peer: str, split: tuple[ad.AnnData, ad.AnnData], seed: int, args: argparse.Namespace
) -> np.ndarray:
    """Return the metrics of a peer, and the seconds of its fit and of generating one set."""
    (train, test), key = split, args.label_key
    python, script = python_of(peer, args)
    made, second = generated(python, script, train, composition(test, key), key, seed, args.limit)
    seconds = made.uns["seconds"]
    return np.append(figures(train, test, made, second, key), [seconds["fit"], seconds["generate"]])


def floor(split: tuple[ad.AnnData, ad.AnnData], key: str) -> np.ndarray:
    """Return the metrics of the two halves of the training cells; there are no seconds."""
    train, test = split
    first, other = random_halves(train)
    return np.append(figures(train, test, first, other, key, train), [np.nan, np.nan])


def closer(values: dict[str, float], reference: dict[str, float]) -> str:
    """Return the AUCs that are nearer to 0.5 than those of the reference by more than `MARGIN`."""
    return ", ".join(a for a in AUCS if abs(values[a] - 0.5) < abs(reference[a] - 0.5) - MARGIN)


def compare(path: Path, args: argparse.Namespace) -> None:
    """Print the rows of a data set."""
    splits = [halves(path, args.label_key, split) for split in args.splits]
    names, reference = [*COLUMNS, "fit", "generate"], None
    for peer in ["floor", *sorted(args.peers, key=lambda peer: peer != "vaexprs")]:
        try:
            if peer == "floor":
                found = [floor(split, args.label_key) for split in splits]
            else:
                found = [measure(peer, split, seed, args) for split in splits for seed in args.seeds]
        except RuntimeError as error:
            row = [f"failed: {error}", *[""] * (len(SHOWN) + 2)]
        else:
            values = dict(zip(names, np.mean(found, axis=0), strict=True))
            row = [f"{values[name]:.3f}" for name in SHOWN]
            row += ["" if peer == "floor" else f"{values[name]:.0f}" for name in ("fit", "generate")]
            if peer == "vaexprs":
                reference = values
            row.append(closer(values, reference) if reference and peer not in ("floor", "vaexprs") else "")
        print(table_row([path.name, peer, *row]), flush=True)


def main() -> None:
    options = parser(__doc__, data="data", nargs="+")
    options.add_argument("--peers", nargs="+", default=list(SCRIPTS), choices=list(SCRIPTS))
    options.add_argument("--splits", type=int, nargs="+", default=[0])
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    add_environments(options)
    args = options.parse_args()
    print(table_head(["data", "peer", *SHOWN, "fit s", "generate s", "closer"], n_text=2), flush=True)
    for path in args.data:
        compare(path, args)


if __name__ == "__main__":
    main()
