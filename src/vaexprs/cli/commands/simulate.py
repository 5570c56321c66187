"""`vaexprs simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from vaexprs.cli.console import plain, print_written, report_kept_cells
from vaexprs.cli.options import (
    WRITABLE,
    Direction,
    FoldSd,
    Genes,
    MinMean,
    Overwrite,
    Quiet,
    Seed,
    effects_of,
    numbers,
    pair,
    text_table,
)
from vaexprs.cli.output import claim


def simulate(
    model: Annotated[Path, typer.Argument(help="Folder with a model fitted with --donor-key.")],
    out: Annotated[
        Path, typer.Option(help=f"{WRITABLE} The true effects are written to NAME.truth.csv beside it.")
    ],
    donors: Annotated[
        list[str],
        typer.Option(
            help="Number of donors of a group, e.g. 'control=8' (repeatable; the first is the reference)."
        ),
    ],
    cells: Annotated[
        int | None,
        typer.Option(help="Cells of each donor (default: like a random training donor)."),
    ] = None,
    cells_per_label: Annotated[
        list[str] | None, typer.Option(help="Cells of a label of each donor, e.g. 'B=50' (repeatable).")
    ] = None,
    effects: Annotated[
        Path | None,
        typer.Option(
            help="CSV file of effects: columns gene, log2_fold_change, and optionally label and group."
        ),
    ] = None,
    genes: Genes = None,
    log2_fold_change: Annotated[
        float | None, typer.Option(help="Log2 fold change of random genes (default: 1).")
    ] = None,
    sd: FoldSd = None,
    direction: Direction = None,
    min_mean: MinMean = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Label with random effects (repeatable; default: all).")
    ] = None,
    scale: Annotated[
        list[str] | None,
        typer.Option(help="Factor of the effects of a covariate or the donor, e.g. 'batch=0' (repeatable)."),
    ] = None,
    depth: Annotated[float, typer.Option(help="Factor of the library sizes.")] = 1.0,
    paired: Annotated[bool, typer.Option("--paired", help="All groups have the same donors.")] = False,
    covariate: Annotated[
        list[str] | None,
        typer.Option(
            help="Level of a covariate in all groups, e.g. 'batch=1', or in one, e.g. 'treated:stim=stim' "
            "(repeatable)."
        ),
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Simulate a study with new donors and known effects.

    Without --effects and the options of random effects, the groups do not differ.
    """
    groups = numbers(donors, "--donors", "control=8")
    per_label = numbers(cells_per_label, "--cells-per-label", "B=50")
    if cells is not None and per_label:
        raise ValueError("--cells and --cells-per-label cannot be combined. Choose one of them.")
    random = {
        "genes": genes,
        "log2_fold_change": log2_fold_change,
        "sd": sd,
        "direction": direction,
        "min_mean": min_mean,
        "labels": label or None,
    }
    given = [name for name, value in random.items() if value is not None]
    if effects is not None and given:
        option = given[0].replace("_", "-").replace("labels", "label")
        raise ValueError(f"--effects and --{option} cannot be combined. Choose one of them.")
    factors = dict(_factor(text) for text in scale or [])
    by_group = _covariates(covariate, list(groups))
    wanted = None if effects is None else text_table(effects, "the columns gene and log2_fold_change")
    claim(out, overwrite=overwrite, cells=True)
    from vaexprs.model.load import load_vae
    from vaexprs.studies import simulate as studies
    from vaexprs.studies.design import Design

    design = Design(groups, per_label or cells, depth, by_group, paired)
    with report_kept_cells():
        study = studies.simulate(
            load_vae(model),
            design,
            effects_of(**random) if given else wanted,
            scale=factors or None,
            seed=seed,
            progress=not quiet,
            out=out,
            overwrite=overwrite,
        )
    if not quiet:
        print_written(study.adata, out)
        altered, path = int((~study.truth["null"].astype(bool)).sum()), studies.truth_beside(out)
        Console().print(f"{altered:,} effects -> {plain(str(path))}", soft_wrap=True, highlight=False)


def _factor(text: str) -> tuple[str, float]:
    name, factor = pair(text, "--scale", "batch=0")
    try:
        return name, float(factor)
    except ValueError:
        raise ValueError(f"--scale must give a number, as in 'batch=0', got {text!r}.") from None


def _covariates(texts: list[str] | None, groups: list[str]) -> dict[str, dict[str, str]]:
    """Return the levels of covariates by group; those without a group are of all groups."""
    found: dict[str, Any] = {}
    for text in texts or []:
        name, level = pair(text, "--covariate", "treated:stim=stim")
        group, colon, key = name.partition(":")
        one = bool(colon) and group in groups
        for each in [group] if one else groups:
            found.setdefault(each, {})[key if one else name] = level
    return found
