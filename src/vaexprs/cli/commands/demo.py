"""`vaexprs demo`."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vaexprs.cli.console import plain
from vaexprs.cli.options import Overwrite, Quiet, Seed

N_GENERATED = 1_000  # generated cells
N_RARE = 200  # generated cells of the rare type
HOLDOUT_FRACTION = 0.2  # fraction of the real cells held out from training
MIN_RARE = 10  # minimum number of real cells of the rare type


class _Steps:
    """Announces and times the steps of the demo."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.seconds: list[tuple[str, float]] = []

    @contextmanager
    def step(self, name: str, *, own_bar: bool = False) -> Iterator[None]:
        """Announce and time a step; show a spinner unless the step has its own progress bar."""
        self.console.print(f"[bold]{name}[/] ...")
        start = time.perf_counter()
        with nullcontext() if own_bar else self.console.status(name):
            yield
        self.seconds.append((name, time.perf_counter() - start))


def demo(
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("vaexprs-demo"),
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Fit a model to bundled blood cells, generate 1,000 cells, and evaluate them. Needs no network."""
    from vaexprs.io.atomic import check_output, written_whole
    from vaexprs.io.write import write

    check_output(out, overwrite=overwrite)
    console = Console(quiet=quiet, highlight=False, soft_wrap=True)
    steps = _Steps(console)
    with steps.step("loading libraries and cells"):
        from vaexprs.data.demo import demo_cells
        from vaexprs.generation.generate import gen_exprs
        from vaexprs.plotting.embedding import plot_aug, save_figure
        from vaexprs.plotting.model_graph import plot_vae
        from vaexprs.preprocessing.splits import apportion, split_rows
        from vaexprs.report import write_report
        from vaexprs.training.fit import fit_vae

        cells = demo_cells()
        labels = cells.obs["cell_type"].to_numpy(str)
        rows = split_rows(labels, cells.n_obs, HOLDOUT_FRACTION, seed)
        train, holdout = (cells[part].copy() for part in rows)
    sizes = cells.obs["cell_type"].value_counts()
    rare = str(sizes[sizes >= MIN_RARE].index[-1])
    others = sizes.drop(rare)
    numbers = dict(
        zip(others.index, map(int, apportion(others.to_numpy(), N_GENERATED - N_RARE)), strict=True)
    )
    with written_whole(out, overwrite=overwrite) as folder:
        folder.mkdir()
        with steps.step("fitting the model", own_bar=True):
            fitted = fit_vae(train, label_key="cell_type", seed=seed, verbose=0 if quiet else "auto")
            fitted.save(folder / "model")
        with steps.step("generating cells"):
            made = gen_exprs(fitted, labels={rare: N_RARE} | numbers, seed=seed, progress=not quiet)
        with steps.step("writing the cells"):
            write(made.adata, folder / "generated.h5ad")
            write(cells, folder / "real.h5ad")
            write(train, folder / "train.h5ad")
            write(holdout, folder / "holdout.h5ad")
        with steps.step("evaluating the cells and writing the report", own_bar=True):
            write_report(fitted, made, holdout, folder / "report.html", seed=seed, progress=not quiet)
        with steps.step("plotting"):  # UMAP has been compiled for the report
            plot_vae(fitted).save(folder / "architecture.svg")
            save_figure(plot_aug(made, "UMAP", seed=seed), folder / "umap.png")
    if not quiet:
        _print_summary(console, steps, cells, holdout.n_obs, made.adata, rare, out)


def _print_summary(
    console: Console, steps: _Steps, cells: Any, n_holdout: int, made: Any, rare: str, out: Path
) -> None:
    """Print the numbers of cells, the time of each step, the output files, and commands to try next."""
    table = Table("cell type", "real", "generated", box=None, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    generated = made.obs["cell_type"].value_counts()
    for name, n in cells.obs["cell_type"].value_counts().items():
        table.add_row(plain(str(name)), f"{n:,}", f"{generated[name]:,}")
    console.print()
    console.print(table)
    depths = [float(x.X.sum(axis=1).mean()) for x in (cells, made)]
    zeros = [100 * (1 - x.X.nnz / (x.n_obs * x.n_vars)) for x in (cells, made)]
    console.print(
        f"\n{cells.n_obs - n_holdout:,} training cells, {n_holdout:,} held-out cells.\n"
        f"Generated: {made.n_obs:,} cells x {made.n_vars:,} genes of integer counts; "
        f"mean library size {depths[1]:.0f} "
        f"(real {depths[0]:.0f}), zeros {zeros[1]:.1f}% (real {zeros[0]:.1f}%)\n"
    )
    times = Table("step", "seconds", box=None, header_style="bold")
    times.columns[1].justify = "right"
    for name, seconds in [*steps.seconds, ("total", sum(s for _, s in steps.seconds))]:
        times.add_row(name, f"{seconds:.1f}")
    console.print(times)
    console.print(f"\nwritten to {plain(str(out))}:")
    for name, what in {
        "generated.h5ad": "generated cells",
        "real.h5ad": "real cells (also as train.h5ad and holdout.h5ad)",
        "model": "fitted model",
        "architecture.svg": "layers of the model",
        "umap.png": "UMAP of real and generated cells",
    }.items():
        console.print(f"  {name:18}{what}")
    console.print(f"\nreport: {plain(str(out / 'report.html'))} (open it in a browser)")
    console.print("\nnext:")
    for command in next_commands(out, rare):
        console.print(f"  {plain(command)}")


def next_commands(out: Path, rare: str) -> list[str]:
    """Return shell commands to try after the demo."""
    q = {
        name: shlex.quote(str(out / name))
        for name in (
            "model", "generated.h5ad", "real.h5ad", "train.h5ad", "holdout.h5ad", "more.h5ad", "tsne.png",
            "mine",
        )
    }  # fmt: skip
    return [
        f"vaexprs generate {q['model']} --label {shlex.quote(rare)} -n 500 --out {q['more.h5ad']}",
        f"vaexprs plot {q['more.h5ad']} --real {q['real.h5ad']} --method TSNE --out {q['tsne.png']}",
        f"vaexprs audit {q['generated.h5ad']} --train {q['train.h5ad']} --holdout {q['holdout.h5ad']}",
        f"vaexprs fit {q['real.h5ad']} --label-key cell_type --covariate-key phase --out {q['mine']}",
    ]
