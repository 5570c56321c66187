"""`gen_exprs`: generate cells from a fitted model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import anndata as ad
import pandas as pd

from vaexprs.generation.dask import check_client, drawn_by
from vaexprs.generation.generated import Generated, origin, with_values
from vaexprs.generation.requests import counts_a_cell, plan_cells
from vaexprs.generation.sampler import BLOCK, Drawer, Plan, draw_part, drawn_here, with_progress
from vaexprs.interface.validation import check_integer
from vaexprs.io.write import check_new_cells
from vaexprs.model.vae_fit import VAEFit, check_fit

VALUES_A_TASK = 2**24  # cells times genes that a worker of a cluster draws at a time, about


def gen_exprs(
    x: VAEFit,
    num_samples: int | None = None,
    batch_size: int | None = None,
    use_generator: bool = False,
    *,
    labels: str | Mapping[str, int] | None = None,
    covariates: Mapping[str, str] | None = None,
    conditions: Any = None,
    library_size: float | str | None = None,
    stratified: bool = True,
    seed: int = 0,
    progress: bool = True,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    client: Any = None,
) -> Generated:
    """Generate cells.

    Parameters
    ----------
    x
        What `fit_vae` or `load_vae` returned.
    num_samples
        Number of cells; left out where `labels` gives the numbers.
    batch_size
        With `use_generator`, the most cells that are decoded and not yet drawn; by default 1,024.
    use_generator
        Whether to bound these cells by `batch_size` rather than by the number of processors. Few are in
        memory either way, and the cells are the same.
    labels
        A label, for `num_samples` cells of it, or numbers by label: ``{"CD34+": 500, "NK": 200}``. By
        default all labels in the training proportions.
    covariates
        Levels asked for: ``{"donor": "101", "stim": "stim"}``. Those not named come in the training
        proportions.
    conditions
        Or all of that as a table: a DataFrame (or a list of dicts) with a row for each wish, the number of
        cells in column "n" and levels of the label and of covariates in columns of their names. Those without
        a column, or without a value in a row, come in the training proportions.
    library_size
        Counts a cell to aim at: the expected total of each generated cell. By default (None or "real") it
        is drawn with the state of the cell, as in the real ones.
    stratified
        Whether the random numbers of cells of one condition are spread evenly rather than independently
        (Latin hypercube sampling; McKay, Beckman & Conover 1979, doi:10.2307/1268522). The distribution
        of each cell is the same. The means of a set of cells then carry the error of what was learned
        from the real ones, but little more of their own on top. For cells that must be independent draws,
        such as replicates for a test, say False.
    seed
        The same seed gives the same cells, whatever the batch size.
    progress
        Whether to show a progress bar where it takes longer.
    out
        File or folder to write the cells to, of any format that `write` writes. An ``.h5ad`` file or
        ``.zarr`` folder is written as the cells are made, so that any number of counts can be generated;
        the result's ``adata`` then leaves X on disk. For other formats, and for values that are not counts,
        they are put together first.
    overwrite
        Whether what is at `out` may be replaced.
    client
        A `distributed.Client`: the workers of its Dask cluster draw the cells, which are the same. They need
        this version of vaexprs; a worker that is lost costs no more than time. `batch_size` has no say there.
        By default the threads of this process draw.

    Returns
    -------
    Generated
        R's five fields (``x_gen``, ``y_gen``, ``x_train``, ``y_train``, ``latent_vector``) and ``adata``.

    Raises
    ------
    ValueError
        If a number is not positive, a label or level is unknown, or no number is given.
    FileExistsError
        If there is something at `out` and `overwrite` is false.
    TypeError
        If `x` is not a fit, a number is not whole, or `client` is not one.
    ConnectionError
        If the cluster of `client` is lost, or has no workers.
    ImportError
        If its workers do not have this version of vaexprs.
    BlockingIOError
        If another process is writing to `out`.
    MemoryError
        If there is not enough of it.
    KeyboardInterrupt
        On Ctrl-C. Of an ``.h5ad`` or ``.zarr`` file at `out` the cells that are written then are kept as
        ``name.partial.h5ad``; `out` itself is there whole or not at all.
    """
    check_fit(x, "x")
    if client is not None:
        check_client(client)
    seed = check_integer("seed", seed, 0)
    per_cell = counts_a_cell(x, library_size)
    rows, which = plan_cells(x, num_samples, labels, covariates, conditions)
    plan = Plan(rows, which, per_cell, bool(stratified), seed)
    n = len(which)
    size = n if not use_generator else (batch_size or 1024)
    if batch_size is not None:
        check_integer("batch_size", batch_size, 1)
    if out is not None:
        check_new_cells(out, overwrite=overwrite)
    adata = ad.AnnData(obs=plan.obs(x.preprocessing.conditions.levels), var=pd.DataFrame(index=x.genes))
    asked = dict(labels) if isinstance(labels, Mapping) else {} if labels is None else {labels: n}
    adata.uns["vaexprs"] = origin(x) | {
        "seed": seed,
        "stratified": bool(stratified),
        "n_cells": n,
        "labels": json.dumps({str(k): int(v) for k, v in asked.items()}),
        "covariates": json.dumps({str(k): str(v) for k, v in (covariates or {}).items()}),
        "conditions": "" if conditions is None else pd.DataFrame(conditions).to_json(orient="records"),
        "library_size": "real" if per_cell is None else per_cell,
    }
    if client is None:
        drawn = drawn_here(Drawer.of(x, plan), plan, max(1, size // BLOCK))
    else:
        drawn = drawn_by(client, draw_part, x, plan.parts(max(1, VALUES_A_TASK // (BLOCK * len(x.genes)))))
    blocks = with_progress(drawn, n, progress)
    return Generated(with_values(adata, blocks, out, counts=x.likelihood.counts, overwrite=overwrite), x)
