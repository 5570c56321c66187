"""Random samples of cells that are too many for memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import anndata as ad
import numpy as np

from vaexprs.comparison.provenance import recipe_of
from vaexprs.data.backed import BackedCells, BackedMatrix, in_memory
from vaexprs.data.count_detection import X_LAYER
from vaexprs.io.stores import StoredCells, back_layer
from vaexprs.preprocessing.prepare import Preprocessing
from vaexprs.preprocessing.splits import stratified

MAX_FROM_DISK = 20_000  # maximum number of cells in a sample of cells on disk
BYTES_FROM_DISK = 256 * 2**20  # maximum size in bytes of such a sample in memory


class LoadedCells(NamedTuple):
    """Cells in memory: all that were given, or a random sample of them.

    Parameters
    ----------
    cells
        The cells.
    total
        Number of cells on disk that these are a sample of; None where these are all.
    """

    cells: ad.AnnData
    total: int | None = None

    def notes(self, name: str) -> list[str]:
        """Return a sentence that says how many of the cells were sampled, if they were."""
        if self.total is None:
            return []
        return [
            f"Used a random sample of {self.cells.n_obs:,} of the {self.total:,} {name} cells, which are on "
            "disk: in the proportions of the labels, with cells of every label."
        ]


def load_cells(
    cells: ad.AnnData | StoredCells,
    *,
    keys: Sequence[str | None],
    seed: int,
    layer: str | None = None,
    max_cells: int | None = None,
) -> LoadedCells:
    """Return open cells in memory: all, or a random sample where their matrix is too large.

    Parameters
    ----------
    cells
        What `open_cells` returned.
    keys
        Columns of `obs` that are needed, each of whose levels the sample covers; None entries are ignored.
    seed
        Seed of the sample; the same file and seed give the same sample.
    layer
        Layer with the values, which is a layer of the sample too.
    max_cells
        Maximum number of cells of a sample (default 20,000; fewer where they would exceed 256 MiB).
    """
    wanted = [key for key in keys if key is not None]
    backed = back_layer(cells, layer=layer, keys=wanted)
    if backed is None:
        return LoadedCells(cells.read() if isinstance(cells, StoredCells) else in_memory(cells))
    sample = sample_cells(backed, keys=wanted, seed=seed, max_cells=max_cells)
    if layer not in (None, X_LAYER):
        sample.cells.layers[layer] = sample.cells.X
    recipe = recipe_of(cells)
    if recipe:
        sample.cells.uns["vaexprs"] = recipe
    return sample


def sample_cells(
    backed: BackedCells, *, keys: Sequence[str], seed: int, max_cells: int | None = None
) -> LoadedCells:
    """Return a random sample of cells on disk, in the proportions of the levels but with some of each.

    Parameters
    ----------
    backed
        The cells.
    keys
        Columns of `obs`; those that are missing are ignored.
    seed
        Seed of the sample.
    max_cells
        Maximum number of cells (default 20,000; fewer where they would exceed 256 MiB).
    """
    known = [key for key in keys if key in backed.obs]
    strata = np.zeros(backed.n_obs, int)
    if known:
        strata = backed.obs.groupby(known, observed=True, dropna=False).ngroup().to_numpy()
    n = min(max_cells or MAX_FROM_DISK, backed.X.rows_in(BYTES_FROM_DISK))
    rows = stratified(strata, n, np.random.default_rng(seed))
    return LoadedCells(backed.take(rows), backed.n_obs if len(rows) < backed.n_obs else None)


def sample_training_cells(
    prep: Preprocessing, *, seed: int, max_cells: int | None = None
) -> LoadedCells | None:
    """Return a random sample of training cells that a fit has left on disk; None where they are in memory."""
    if prep.train is None or not isinstance(prep.train.x, BackedMatrix):
        return None
    backed = BackedCells(prep.train.x.mapped(None, None), prep.train.obs, prep.genes)
    return sample_cells(backed, keys=prep.conditions.keys, seed=seed, max_cells=max_cells)
