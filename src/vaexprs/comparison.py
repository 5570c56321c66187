"""Generated and real cells side by side: the same genes, the same space, the same composition."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from vaexprs._checks import did_you_mean, reason, some, warn
from vaexprs.counts import AS_IT_IS
from vaexprs.io import from_object, read
from vaexprs.matching import at_one_depth, only_generated, with_levels_asked
from vaexprs.matrices import Matrix, as_float, densify, limits, stacked, stored
from vaexprs.ondisk import DiskCells, DiskMatrix, in_memory, note_of, open_large
from vaexprs.preprocessing import Preprocessing, Scaling, apportion, check_cells, column_of_levels

PCS = 50
LEAST_TELLING = 20  # genes with a value in a cell, for the values to tell which cell it is
MOST_CELLS_FOR_AXES = 2_500  # of each set
MOST_FROM_DISK = 20_000  # cells of a set that is left on disk that are looked at ...
BYTES_FROM_DISK = 256 * 2**20  # ... and what they take in memory


@dataclass(frozen=True)
class CellSet:
    """Some cells as they are compared.

    Parameters
    ----------
    raw
        Values in the user's units, (n_cells, n_genes); float32, CSR for counts.
    values
        The same as the model sees them: log(1 + counts per 10,000) for counts, the fit's scaling for
        other values.
    obs
        The columns asked for, as strings; the index names the cells.
    genes
        Names of the genes, (n_genes,).
    counts
        Whether the values are counts.
    """

    raw: Matrix
    values: Matrix
    obs: pd.DataFrame
    genes: pd.Index
    counts: bool

    def __len__(self) -> int:
        return int(self.raw.shape[0])

    def take(self, rows: np.ndarray) -> CellSet:
        """Return some of the cells."""
        return CellSet(self.raw[rows], self.values[rows], self.obs.iloc[rows], self.genes, self.counts)

    def joined(self, others: CellSet) -> CellSet:
        """Return these cells and others, in this order."""
        return CellSet(
            stacked([self.raw, others.raw]),
            stacked([self.values, others.values]),
            pd.concat([self.obs, others.obs]),
            self.genes,
            self.counts,
        )

    def column(self, *keys: str | None) -> np.ndarray:
        """Return columns of `obs` as one, (n_cells,); those that are None are left out."""
        named = [self.obs[key].to_numpy(str) for key in keys if key is not None]
        if not named:
            return np.full(len(self), "", dtype=object)
        return (
            named[0].astype(object)
            if len(named) == 1
            else np.array(["\t".join(row) for row in zip(*named, strict=True)], object)
        )


def as_cells(generated: Any) -> ad.AnnData | Path:
    """Return generated cells, given in any of the ways that they come in, as an AnnData or a path.

    Raises
    ------
    TypeError
        If they are something else.
    """
    generated = getattr(generated, "adata", generated)  # not `isinstance`: that would import Keras
    if isinstance(generated, (str, os.PathLike)):
        return Path(generated)
    if isinstance(generated, ad.AnnData):
        return generated
    if isinstance(generated, pd.DataFrame) or hasattr(generated, "get_assay_names"):
        return from_object(generated, name="generated")
    raise TypeError(
        "generated must be what gen_exprs returned, an AnnData, a BiocPy experiment, a DataFrame or a path, "
        f"got {type(generated).__name__}."
    )


def layer_like(generated: Any, layer: str | None) -> str | None:
    """Return the layer of real cells to compare generated ones with: X where those are not counts.

    Parameters
    ----------
    generated
        The generated cells, as `as_cells` returns them; how they were made is in ``uns["vaexprs"]``.
    layer
        What the user named; None to look for counts where the generated cells are counts.
    """
    return AS_IT_IS if layer is None and not recipe_of(generated).get("counts", True) else layer


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
    if layer not in (None, AS_IT_IS):
        found.cells.layers[layer] = found.cells.X
    recipe = recipe_of(cells)
    if recipe:
        found.cells.uns["vaexprs"] = recipe
    return found


def sampled(large: DiskCells, *, keys: Sequence[str], seed: int, most: int | None = None) -> AtHand:
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
    most = min(most or MOST_FROM_DISK, large.X.rows_in(BYTES_FROM_DISK))
    rows = stratified(strata, most, np.random.default_rng(seed))
    return AtHand(large.take(rows), large.n_obs if len(rows) < large.n_obs else None)


def sampled_training(prep: Preprocessing, *, seed: int, most: int | None = None) -> AtHand | None:
    """Return a random sample of the training cells of a fit that has left them on disk, else None."""
    if prep.train is None or not isinstance(prep.train.x, DiskMatrix):
        return None
    large = DiskCells(prep.train.x.mapped(None, None), prep.train.obs, prep.genes)
    return sampled(large, keys=prep.conditions.keys, seed=seed, most=most)


def side_by_side(
    generated: ad.AnnData,
    others: Mapping[str, Any],
    *,
    keys: Mapping[str, str | None],
    optional: Collection[str] = (),
    layer: str | None = None,
    notes: list[str] | None = None,
) -> dict[str, CellSet]:
    """Return generated and real cells with the same genes in the same space.

    Parameters
    ----------
    generated
        The generated cells; how they were made is read from ``uns["vaexprs"]`` where it is there.
    others
        Real cells by the name of their argument: AnnData, BiocPy experiments, DataFrames or paths. They
        may have more genes than the generated ones.
    keys
        Columns of `obs` that each set must have, by the name of the argument that names them; those that
        are None are left out.
    optional
        Arguments among them whose column the generated cells need not have.
    layer
        Layer of the real cells with the values.
    notes
        Gets sentences on what was done so that like is compared with like (see `vaexprs.matching`).

    Returns
    -------
    Sets of cells by name; that of the generated ones is "generated".

    Raises
    ------
    ValueError
        If a set is empty, has NaN, lacks a gene of the generated cells or a column, or real sets hold
        counts where others do not.
    """
    notes = [] if notes is None else notes
    recipe = recipe_of(generated)
    layer = layer_like(generated, layer)
    generated = only_generated(generated, notes)
    sets = {"generated": from_object(generated, layer=AS_IT_IS if recipe or layer == AS_IT_IS else None)}
    sets |= {name: from_object(cells, layer=layer, name=name) for name, cells in others.items()}
    genes = sets["generated"].var_names
    for name, cells in sets.items():
        check_cells(cells, name)
        missing = genes.difference(cells.var_names, sort=False)
        if len(missing):
            raise ValueError(
                f"{name} must have the genes of the generated cells; {len(missing):,} of {len(genes):,} are "
                f"missing: {some(list(missing))}."
            )
    real_sets = {name: cells for name, cells in sets.items() if name != "generated"}
    sets |= with_levels_asked(real_sets, recipe, notes)
    raw = {name: _matrix(cells, genes) for name, cells in sets.items()}
    counts = _all_counts(raw, recipe.get("counts"))
    if counts:
        raw = at_one_depth(raw, {name: cells.obs for name, cells in sets.items()}, recipe, notes)
    real = next(x for name, x in raw.items() if name != "generated")
    scaling = None if counts else scaling_of(recipe, real)
    return {
        name: CellSet(
            x,
            log_normalised(x) if scaling is None else densify(scaling.forward(x)),
            _columns(sets[name], name, keys, optional if name == "generated" else ()),
            genes,
            counts,
        )
        for name, x in raw.items()
    }


def scaling_of(recipe: Mapping[str, Any], real: Matrix) -> Scaling:
    """Return the scaling that cells were made with, by their recipe, with the limits of real ones."""
    return Scaling.fit(str(recipe.get("scaling", "none")), *limits(real), recipe.get("unit", 1))


def _all_counts(raw: dict[str, Matrix], made_as: Any) -> bool:
    """Return whether the values are compared as counts; generated ones that are not whole are made to fit.

    Parameters
    ----------
    raw
        Values by set; negative generated values beside real counts become 0.
    made_as
        Whether the recipe of the generated cells says counts; None where there is none.
    """
    whole = {name: _counts(x) for name, x in raw.items()}
    real = [is_ for name, is_ in whole.items() if name != "generated"]
    if made_as is not None and not made_as:
        return False
    if not all(real) and (any(real) or whole["generated"]):
        kinds = ", ".join(f"{name} {'counts' if is_ else 'other values'}" for name, is_ in whole.items())
        raise ValueError(
            "The sets must all hold counts or all other values, "
            f"got {kinds}. Name the layer of the real cells with the counts: layer='counts'."
        )
    if all(real) and not whole["generated"]:
        warn(
            "The generated values are not whole numbers while the real ones are counts; they are compared as "
            "expected counts, negative ones as 0. If they are logarithms, give the counts instead."
        )
        x = raw["generated"]
        raw["generated"] = as_float(x.maximum(0) if sp.issparse(x) else np.maximum(x, 0))
    return all(real)


def label_key_of(generated: ad.AnnData | Path, label_key: str | None) -> str | None:
    """Return `label_key`, or where it is None the one that the generated cells were made with."""
    return label_key or str(recipe_of(generated).get("label_key", "")) or None


def recipe_of(generated: Any) -> dict[str, Any]:
    """Return what ``uns["vaexprs"]`` says of how cells were made; empty where it is not one of ours.

    Raises
    ------
    ValueError
        If it is not what `gen_exprs` writes.
    """
    if isinstance(generated, (str, os.PathLike)):
        found = note_of(generated, "vaexprs")
    else:
        found = generated.uns.get("vaexprs", {})
    recipe = {str(key): value for key, value in found.items()} if isinstance(found, Mapping) else {}
    try:
        for name in ("labels", "covariates", "conditions"):
            json.loads(str(recipe.get(name, "")) or "null")
        float(0 if recipe.get("library_size", "real") == "real" else recipe["library_size"])
        int(recipe.get("seed", 0))
        bool(recipe.get("counts", True))
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(
            "uns['vaexprs'] of the generated cells is not what gen_exprs writes: "
            f"{reason(error)} Take it out: del adata.uns['vaexprs']."
        ) from error
    return recipe


def _matrix(cells: ad.AnnData, genes: pd.Index) -> Matrix:
    x = cells.X if cells.var_names.equals(genes) else cells[:, genes].X
    return as_float(x)


def _counts(x: Matrix) -> bool:
    values = stored(x)
    return bool(np.all(values >= 0) and np.all(values == np.round(values)))


def _columns(
    cells: ad.AnnData, name: str, keys: Mapping[str, str | None], optional: Collection[str]
) -> pd.DataFrame:
    columns = {}
    for argument, key in keys.items():
        if key is None or (argument in optional and key not in cells.obs):
            continue
        if key not in cells.obs:
            raise ValueError(
                f"{argument} must be a column of obs of the {name} cells "
                f"({some(list(cells.obs.columns), 20) or 'they have none'}), got {key!r}."
                f"{did_you_mean(key, cells.obs.columns)}"
            )
        columns[key] = column_of_levels(cells.obs, key, argument).astype(str)
    return pd.DataFrame(columns, index=cells.obs_names)


def log_normalised(x: Matrix) -> Matrix:
    """Return log(1 + counts per 10,000), (n_cells, n_genes); a sparse matrix stays sparse."""
    total = np.maximum(np.asarray(x.sum(axis=1), np.float32).ravel(), 1)
    if sp.issparse(x):
        return sp.csr_matrix(sp.diags(1e4 / total) @ x, dtype=np.float32).log1p()
    return np.log1p(1e4 * x / total[:, None])


def rows_in(cells: CellSet, others: CellSet) -> np.ndarray:
    """Return for each cell whether a cell of `others` has the same values, (n_cells,).

    Values in fewer than 20 genes may agree by chance: such a cell must have the same name too.
    """
    known = set(_fingerprints(others.raw))
    named = set(zip(others.obs.index, _fingerprints(others.raw), strict=True))
    many = np.asarray((cells.raw != 0).sum(axis=1)).ravel() >= LEAST_TELLING
    marks = zip(cells.obs.index, _fingerprints(cells.raw), many, strict=True)
    return np.array([mark in known if tells else (name, mark) in named for name, mark, tells in marks], bool)


def _fingerprints(x: Matrix) -> list[bytes]:
    if not sp.issparse(x):
        return [row.tobytes() for row in np.ascontiguousarray(x + 0.0)]  # + 0.0 makes -0.0 and 0.0 alike
    x = x.copy()
    x.eliminate_zeros()
    x.sort_indices()
    ends = x.indptr[1:-1]
    parts = zip(np.split(x.indices.astype(np.int32), ends), np.split(x.data, ends), strict=True)
    return [indices.tobytes() + data.tobytes() for indices, data in parts]


def random_rows(
    rng: np.random.Generator, column: np.ndarray, most: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Return random rows of each label in `most`, at most so many, in random order.

    Parameters
    ----------
    rng
        Source of randomness.
    column
        Label of each cell, (n_cells,).
    most
        Number of rows by label.
    """
    order = rng.permutation(len(column))
    shuffled = column[order]
    return {label: order[shuffled == label][:n] for label, n in most.items()}


def stratified(column: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Return sorted random rows, at most `most`, in the labels' proportions but with some of every label.

    Parameters
    ----------
    column
        Label of each cell, (n_cells,).
    most
        Number of rows.
    rng
        Source of randomness.
    """
    if len(column) <= most:
        return np.arange(len(column))
    names, sizes = np.unique(column.astype(str), return_counts=True)
    sure = np.minimum(sizes, max(1, most // (4 * len(names))))
    sure = sure if sure.sum() <= most else np.zeros_like(sizes)
    share = sure + apportion(sizes - sure, most - int(sure.sum()))
    wanted = {str(name): int(n) for name, n in zip(names, share, strict=True)}
    return np.sort(np.concatenate(list(random_rows(rng, column.astype(str), wanted).values())))


def matched_rows(rng: np.random.Generator, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return random rows of two sets, as many of each label as both have.

    Parameters
    ----------
    rng
        Source of randomness.
    a, b
        Label of each cell, (n_cells,).
    """
    labels = sorted(set(a) & set(b))
    most = {label: int(min((a == label).sum(), (b == label).sum())) for label in labels}
    none = np.empty(0, int)
    rows_a, rows_b = (np.concatenate([none, *random_rows(rng, x, most).values()]) for x in (a, b))
    return rows_a, rows_b


@dataclass(frozen=True)
class Axes:
    """Principal axes that treat several sets of cells alike.

    Parameters
    ----------
    mean
        Mean of each gene, (n_genes,).
    components
        The axes, (n_axes, n_genes).
    """

    mean: np.ndarray
    components: np.ndarray

    @classmethod
    def of(cls, parts: Sequence[Matrix], seed: int, n_axes: int = PCS) -> Axes:
        """Return up to 50 principal axes of as many random cells of each part, (n_cells, n_genes)."""
        from sklearn.decomposition import PCA

        rng = np.random.default_rng(seed)
        n = min(MOST_CELLS_FOR_AXES, *(part.shape[0] for part in parts))
        some_cells = [densify(part[np.sort(rng.permutation(part.shape[0])[:n])]) for part in parts]
        x = np.concatenate(some_cells)
        pca = PCA(max(1, min(n_axes, len(x) - 1, x.shape[1])), random_state=seed)
        with np.errstate(invalid="ignore"):  # cells that are all alike have no variance to divide by
            pca.fit(x)
        return cls(pca.mean_.astype(np.float32), pca.components_.astype(np.float32))

    def of_cells(self, values: Matrix) -> np.ndarray:
        """Return the coordinates of cells, (n_cells, n_axes)."""
        return np.asarray(values @ self.components.T) - self.mean @ self.components.T
