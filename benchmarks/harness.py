"""Shared parts of the benchmarks: arguments, data, timing, other processes, and Markdown tables.

Only NumPy is imported at the top: some scripts also run in environments without vaexprs.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    import anndata as ad

T = TypeVar("T")


def parser(doc: str | None, *, data: str | None = None, nargs: str | None = None) -> argparse.ArgumentParser:
    """Return a parser described by the docstring of a script.

    Parameters
    ----------
    doc
        Docstring of the script.
    data
        Name of the argument for data sets ("data" or "--data"); without it there is none, and no --label-key.
    nargs
        Number of data sets, as for `argparse`.
    """
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if data is not None:
        options.add_argument(data, type=Path, nargs=nargs, help=".h5ad file with raw counts in X")
        options.add_argument("--label-key", default="cell_type", help="column of obs with the cell type")
    return options


def random_halves(cells: ad.AnnData, seed: int = 0) -> tuple[ad.AnnData, ad.AnnData]:
    """Split cells at random into two halves."""
    order = np.random.default_rng(seed).permutation(cells.n_obs)
    return cells[order[: cells.n_obs // 2]].copy(), cells[order[cells.n_obs // 2 :]].copy()


def stratified_halves(labels: Sequence[str] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted rows of two halves in which each label has the same proportion."""
    from sklearn.model_selection import train_test_split

    rows = train_test_split(np.arange(len(labels)), test_size=0.5, stratify=labels, random_state=0)
    return np.sort(rows[0]), np.sort(rows[1])


def variable_genes(counts: Any, n_genes: int = 2_000) -> np.ndarray:
    """Return the sorted columns of the most variable genes (scanpy, log(1 + counts per 10,000))."""
    import anndata as ad
    import scanpy as sc

    from vaexprs.data.matrix import log_normalised

    if counts.shape[1] <= n_genes:
        return np.arange(counts.shape[1])
    cells = ad.AnnData(log_normalised(counts))
    found = sc.pp.highly_variable_genes(cells, n_top_genes=n_genes, inplace=False)
    return np.flatnonzero(found["highly_variable"])


def timed(function: Callable[..., T], *values: Any) -> tuple[float, T]:
    """Return the wall time of a call in seconds, and its result."""
    start = time.perf_counter()
    result = function(*values)
    return time.perf_counter() - start, result


def median_seconds(function: Callable[..., Any], *values: Any, repeats: int) -> float:
    """Return the median wall time of a call in seconds, after one call that does not count."""
    function(*values)
    return median(timed(function, *values)[0] for _ in range(repeats))


def in_turn(sides: dict[str, Callable[[], T]], repeats: int) -> Iterator[tuple[str, T]]:
    """Call each side once per repeat, alternating, and yield its name and result."""
    for _ in range(repeats):
        for side, function in sides.items():
            yield side, function()


def print_seconds(sides: dict[str, Callable[[], float]], runs: int) -> None:
    """Print median, minimum and maximum of the seconds that each side returns; a first run does not count."""
    times: dict[str, list[float]] = {side: [] for side in sides}
    for side, seconds in in_turn(sides, runs + 1):
        times[side].append(seconds)
    for side, (_, *values) in times.items():
        print(f"{side}: median {median(values):.2f} s ({min(values):.2f} to {max(values):.2f})")


def run_code(python: str, code: str, *words: object) -> str:
    """Run code in a new process of an interpreter and return its output; exit with its error if it fails."""
    done = subprocess.run([python, "-c", code, *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{python} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def table_row(cells: Sequence[object]) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def table_head(columns: Sequence[str], *, n_text: int = 1) -> str:
    """Return the head of a Markdown table; all columns but the first `n_text` are aligned to the right."""
    rule = "|---" * n_text + "|---:" * (len(columns) - n_text) + "|"
    return f"{table_row(columns)}\n{rule}"
