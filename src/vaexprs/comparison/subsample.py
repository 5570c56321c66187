"""Random samples of cells that are too many for memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import anndata as ad
import numpy as np

from vaexprs.comparison.provenance import recipe_of
from vaexprs.data.backed import BackedCells, BackedMatrix, in_memory
from vaexprs.data.count_detection import X_LAYER
from vaexprs.io.read import read
from vaexprs.io.stores import open_large
from vaexprs.preprocessing.prepare import Preprocessing
from vaexprs.preprocessing.splits import stratified

MAX_FROM_DISK = 20_000  # cells of a set that is left on disk that are looked at ...
BYTES_FROM_DISK = 256 * 2**20  # ... and what they take in memory


class AtHand(NamedTuple):
    """Cells to be looked at.

    Parameters
    ----------
    cells
        AnnData in memory, or what else was given that is not on disk.
    of
        Number of cells on disk that these are a sample of; None where these are all.
    """

    cells: Any
    of: int | None = None

    def told(self, name: str) -> list[str]:
        """Return a sentence that names the cells and says that they are a sample, if they are one."""
        if self.of is None:
            return []
        return [
            f"Of the {self.of:,} {name} cells, which are on disk, {self.cells.n_obs:,} drawn at random were "
            "looked at, in the proportions of the labels but with some of each."
        ]


def at_hand(
    cells: Any, *, keys: Sequence[str | None], seed: int, layer: str | None = None, most: int | None = None
) -> AtHand:
    """Return cells in memory: all of them, or a random sample of those of which X is better left on disk.

    Parameters
    ----------
    cells
        AnnData, BiocPy experiment, DataFrame or path.
    keys
        Columns of `obs` that are needed, of whose levels the sample has some each; those that are None are
        left out.
    seed
        Seed of the sample: that of the same file is the same.
    layer
        Layer with the values; it is a layer of the sample too.
    most
        Cells of a sample, by default 20,000; fewer where they would take more than 256 MiB.
    """
    wanted = [key for key in keys if key is not None]
    large = open_large(cells, layer=layer, keys=wanted)
    if large is None:
        if isinstance(cells, (str, os.PathLike)):
            return AtHand(read(cells))
        return AtHand(in_memory(cells) if isinstance(cells, ad.AnnData) else cells)
    found = sampled(large, keys=wanted, seed=seed, most=most)
    if layer not in (None, X_LAYER):
        found.cells.layers[layer] = found.cells.X
    recipe = recipe_of(cells)
    if recipe:
        found.cells.uns["vaexprs"] = recipe
    return found


def sampled(large: BackedCells, *, keys: Sequence[str], seed: int, most: int | None = None) -> AtHand:
    """Return a random sample of cells left on disk: in the proportions of the levels, with some of each.

    Parameters
    ----------
    large
        The cells.
    keys
        Columns of `obs`; those that are not there are left out.
    seed
        Seed of the sample.
    most
        Cells of the sample, by default 20,000; fewer where they would take more than 256 MiB.
    """
    known = [key for key in keys if key in large.obs]
    strata = np.zeros(large.n_obs, int)
    if known:
        strata = large.obs.groupby(known, observed=True, dropna=False).ngroup().to_numpy()
    most = min(most or MAX_FROM_DISK, large.X.rows_in(BYTES_FROM_DISK))
    rows = stratified(strata, most, np.random.default_rng(seed))
    return AtHand(large.take(rows), large.n_obs if len(rows) < large.n_obs else None)


def sampled_training(prep: Preprocessing, *, seed: int, most: int | None = None) -> AtHand | None:
    """Return a random sample of the training cells of a fit that has left them on disk, else None."""
    if prep.train is None or not isinstance(prep.train.x, BackedMatrix):
        return None
    large = BackedCells(prep.train.x.mapped(None, None), prep.train.obs, prep.genes)
    return sampled(large, keys=prep.conditions.keys, seed=seed, most=most)
