"""AnnData to prepared matrix and one-hot conditions, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from vaexprs._checks import check_choice, did_you_mean, some
from vaexprs.matrices import Matrix, as_float, densify, limits, stored
from vaexprs.ondisk import DiskCells, DiskMatrix, row_blocks

# Box & Cox's family ((1 + x)^p - 1) / p for the power p (1964, doi:10.1111/j.2517-6161.1964.tb00553.x): name,
# power, function, inverse. Each leaves 0 at 0, so that a sparse matrix stays sparse.
POWERS: dict[str, tuple[float, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "none": (1.0, lambda x: x, lambda y: y),
    "sqrt": (0.5, lambda x: 2 * x / (np.sqrt(1 + x) + 1), lambda y: y + y * y / 4),  # exact near 0
    "log1p": (0.0, np.log1p, np.expm1),
}
SCALINGS = (*POWERS, "minmax")
INPUT_TARGET = 1e4  # counts per cell after normalisation, as scanpy users know it
LOOKED_AT = 20_000  # cells that variable genes are chosen by, in runs of so many ...
RUN = 100  # ... cells that follow each other
LARGEST = 1e15  # value: sums of squares of larger ones may be beyond 32 bits
MOST_LOG = 50.0  # the logarithm of a count, or of a normalised one, is not larger
MOST_NAMED = 5  # rows that a summary remembers of a kind


@dataclass(frozen=True)
class Scaling:
    """How values become the matrix that the network sees.

    Parameters
    ----------
    kind
        "none": ``x``; "sqrt": ``2 (sqrt(1 + x) - 1)``; "log1p": ``log(1 + x)``, with x in units of `unit`;
        "minmax": ``(x - low) / range`` per gene, where a gene
        with a range of 0 (one that is constant) becomes 0.
    low, range
        Smallest value of each gene in the training cells and largest minus smallest, (n_genes,).
        Empty unless `kind` is "minmax".
    unit
        What values are divided by before; 1 unless they are small.
    """

    kind: str
    low: np.ndarray
    range: np.ndarray
    unit: float = 1.0

    @classmethod
    def fit(cls, kind: str, low: np.ndarray, high: np.ndarray, unit: float = 1.0) -> Scaling:
        """Return the scaling of this kind with the limits of each gene, (n_genes,).

        Raises
        ------
        ValueError
            If there is no such kind, or the unit is not a positive number.
        """
        check_choice("kind", kind, SCALINGS)
        if not isinstance(unit, Real) or not 0 < unit < np.inf:
            raise ValueError(f"unit must be a positive number, got {unit!r}.")
        if kind != "minmax":
            return cls(kind, np.empty(0), np.empty(0), float(unit))
        return cls(kind, low, high - low)

    def __str__(self) -> str:
        return self.kind if self.unit == 1 else f"{self.kind}, in units of {self.unit:g}"

    def forward(self, x: Matrix) -> Matrix:
        """Return `x`, (n_cells, n_genes), scaled; a sparse matrix stays sparse.

        Where the smallest value of a gene is not 0 its column is filled, as its zeros are no longer 0.
        """
        if self.kind in POWERS:
            function = POWERS[self.kind][1]
            values = x.data if sp.issparse(x) else x
            values = np.asarray(function(values if self.unit == 1 else values / self.unit), np.float32)
            return sp.csr_matrix((values, x.indices, x.indptr), x.shape) if sp.issparse(x) else values
        factor = np.divide(1.0, self.range, out=np.zeros_like(self.range), where=self.range > 0)
        offset = -self.low * factor
        if not sp.issparse(x):
            return (x * factor + offset).astype(np.float32)
        scaled = x @ sp.diags(factor)
        filled = np.flatnonzero(offset)
        if len(filled):
            row = sp.csr_matrix((offset[filled], (np.zeros(len(filled), int), filled)), (1, x.shape[1]))
            scaled = scaled + sp.csr_matrix(np.ones((x.shape[0], 1))) @ row
        return sp.csr_matrix(scaled, dtype=np.float32)

    def inverse(self, x: np.ndarray) -> np.ndarray:
        """Return scaled values, (n_cells, n_genes), in the user's units."""
        if self.kind in POWERS:
            return np.asarray(POWERS[self.kind][2](x) * self.unit)
        return (x * self.range + self.low).astype(np.float32)


@dataclass(frozen=True)
class Conditions:
    """The levels of the label and the covariates, and their one-hot code.

    Parameters
    ----------
    label_key
        Which of the keys is the label; None if there is none.
    levels
        For each key its levels, in the order of the one-hot columns.
    """

    label_key: str | None
    levels: Mapping[str, tuple[str, ...]]

    @property
    def keys(self) -> list[str]:
        """The label first, then the covariates."""
        return list(self.levels)

    @property
    def covariate_keys(self) -> list[str]:
        """All keys but the label."""
        return [key for key in self.levels if key != self.label_key]

    @property
    def labels(self) -> tuple[str, ...]:
        """The levels of the label, or an empty tuple."""
        return self.levels[self.label_key] if self.label_key is not None else ()

    @property
    def width(self) -> int:
        """Number of one-hot columns."""
        return sum(len(levels) for levels in self.levels.values())

    def check(self, key: str, value: object) -> str:
        """Return `value` as a level of `key`.

        Raises
        ------
        ValueError
            If it is none; the message suggests the nearest.
        """
        levels = self.levels[key]
        if str(value) not in levels:
            raise ValueError(
                f"{key} must be one of {some(levels, 20)}, got {str(value)!r}.{did_you_mean(value, levels)}"
            )
        return str(value)

    def columns(self, frame: pd.DataFrame) -> np.ndarray:
        """Return for rows of levels the one-hot column of each key, (n_cells, n_keys), int32.

        Raises
        ------
        ValueError
            If a value is not a level.
        """
        columns = np.empty((len(frame), len(self.levels)), np.int32)
        first = 0
        for i, (key, levels) in enumerate(self.levels.items()):
            values = frame[key].astype("category").cat
            known = pd.Index(levels).get_indexer(values.categories.astype(str))
            codes = np.append(known, -1)[values.codes]
            if (codes < 0).any():
                self.check(key, frame[key].to_numpy()[np.argmax(codes < 0)])
            columns[:, i] = first + codes
            first += len(levels)
        return columns

    def expand(self, columns: np.ndarray) -> np.ndarray:
        """Return the one-hot code of what `columns` gave, (n_cells, width), float32."""
        code = np.zeros((len(columns), self.width), np.float32)
        np.put_along_axis(code, columns, 1.0, axis=1)
        return code

    def one_hot(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the one-hot code of rows of levels, (n_cells, width), float32.

        Raises
        ------
        ValueError
            If a value is not a level.
        """
        return self.expand(self.columns(frame))


@dataclass(frozen=True)
class LevelCodes:
    """One-hot codes of many cells, kept as column numbers: rows are made when they are asked for."""

    conditions: Conditions
    columns: np.ndarray

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        return self.conditions.expand(self.columns[rows])

    def take(self, rows: np.ndarray) -> LevelCodes:
        """Return those of some of the cells."""
        return LevelCodes(self.conditions, self.columns[rows])


@dataclass(frozen=True)
class Cells:
    """Prepared cells.

    Parameters
    ----------
    x
        What the network sees, (n_cells, n_genes), float32, dense, CSR or left on disk.
    obs
        The label and the covariates of each cell, as strings; the index names the cells.
    """

    x: Matrix | DiskMatrix
    obs: pd.DataFrame

    def __len__(self) -> int:
        return int(self.x.shape[0])

    def take(self, rows: np.ndarray) -> Cells:
        """Return some of the cells, in memory; of a matrix on disk sorted ones."""
        x = self.x.take(rows) if isinstance(self.x, DiskMatrix) else self.x[rows]
        return Cells(x, self.obs.iloc[rows])

    def keep(self, rows: np.ndarray) -> Cells:
        """Return some of the cells, left on disk where they are there."""
        if isinstance(self.x, DiskMatrix):
            return Cells(self.x.keep(rows), self.obs.iloc[rows])
        return self.take(rows)


@dataclass(frozen=True)
class Preprocessing:
    """What a fit learned about its input before training; hand it to a second fit to reuse it.

    Parameters
    ----------
    genes
        Names of the genes, (n_genes,).
    conditions
        Levels of label and covariates.
    scaling
        From the user's values to the network's.
    likelihood
        Name of the likelihood it was made for.
    train, val
        Prepared cells; None after loading from disk, where no cell is saved.
    """

    genes: pd.Index
    conditions: Conditions
    scaling: Scaling
    likelihood: str
    train: Cells | None = None
    val: Cells | None = None

    @property
    def x_train(self) -> Matrix | None:
        """Prepared training cells, (n_cells, n_genes)."""
        return None if self.train is None else self.train.x

    @property
    def x_val(self) -> Matrix | None:
        """Prepared validation cells, (n_cells, n_genes), or None."""
        return None if self.val is None else self.val.x

    @property
    def y_train(self) -> np.ndarray | None:
        """One-hot conditions of the training cells, (n_cells, width), or None."""
        return self._codes(self.train)

    @property
    def y_val(self) -> np.ndarray | None:
        """One-hot conditions of the validation cells, (n_cells, width), or None."""
        return self._codes(self.val)

    @cached_property
    def codes_train(self) -> LevelCodes | None:
        """The same as `y_train`, made for the rows that are asked for; None without conditions."""
        if self.train is None or not self.conditions.levels:
            return None
        return LevelCodes(self.conditions, self.conditions.columns(self.train.obs))

    @property
    def level_cells(self) -> list[int]:
        """Number of training cells in each one-hot column, (width,); empty without conditions."""
        codes = self.codes_train
        if codes is None:
            return []
        return [int(n) for n in np.bincount(codes.columns.ravel(), minlength=self.conditions.width)]

    def _codes(self, cells: Cells | None) -> np.ndarray | None:
        return None if cells is None or not self.conditions.levels else self.conditions.one_hot(cells.obs)

    def prepare(self, adata: ad.AnnData | DiskCells, *, dense: bool) -> Cells:
        """Return cells scaled with this preprocessing's limits and checked against its codes.

        Parameters
        ----------
        adata
            Checked cells with these genes in any order and the label and covariates in `obs`.
        dense
            Whether a sparse matrix is made dense.
        """
        genes = self._order_of_genes(adata)
        x: Any
        if isinstance(adata, DiskCells):
            x = adata.X.mapped(genes, self.scaling.forward)
        else:
            x = self.scaling.forward(as_float(adata.X if genes is None else adata.X[:, genes]))
            if dense:
                x = densify(x)
        obs = pd.DataFrame(
            {
                key: column_of_levels(
                    adata.obs, key, "label_key" if key == self.conditions.label_key else "covariate_keys"
                )
                for key in self.conditions.keys
            },
            index=adata.obs_names,
        )
        for key in self.conditions.keys:
            for value in obs[key].unique():
                self.conditions.check(key, value)
        return Cells(x, obs)

    def _order_of_genes(self, adata: ad.AnnData | DiskCells) -> np.ndarray | None:
        """Return the columns of `adata` in this order of genes; None where they have it."""
        if list(adata.var_names) == list(self.genes):
            return None
        missing = self.genes.difference(adata.var_names, sort=False)
        extra = adata.var_names.difference(self.genes, sort=False)
        if len(missing) or len(extra):
            raise ValueError(
                f"The genes must be the {len(self.genes):,} of the training cells, got {adata.n_vars:,}: "
                f"missing {some(list(missing)) or 'none'}; not among them {some(list(extra)) or 'none'}."
            )
        return np.asarray(adata.var_names.get_indexer(self.genes))

    def without_cells(self) -> Preprocessing:
        """Return the same with no cell in it, as it is saved."""
        return replace(self, train=None, val=None)


def column_of_levels(obs: pd.DataFrame, key: str, what: str = "label_key") -> pd.Series:
    """Return a column of `obs` as a categorical of strings; one that is none has its values sorted.

    Raises
    ------
    ValueError
        If there is no such column or it has missing values.
    """
    if key not in obs:
        raise ValueError(
            f"{what} must be a column of obs ({some(list(obs.columns), 20) or 'it has none'}), got {key!r}."
            f"{did_you_mean(key, obs.columns)}"
        )
    values = obs[key]
    missing = int(values.isna().sum())
    if missing:
        raise ValueError(
            f"{key!r} must have a value in every cell, got {missing:,} without one. "
            f"Leave them out: adata[adata.obs[{key!r}].notna()]."
        )
    levels = values.astype("category").cat.remove_unused_categories()
    names = [str(level) for level in levels.cat.categories]
    if len(set(names)) < len(names):  # 1 and "1" are one level
        return values.astype(str).astype("category")
    named: pd.Series = levels.cat.rename_categories(names)
    return named


def learn_conditions(obs: pd.DataFrame, label_key: str | None, covariate_keys: Sequence[str]) -> Conditions:
    """Return the levels of the label and the covariates: a categorical's order, else sorted.

    Raises
    ------
    ValueError
        If a key is not in `obs`, is named twice, or has a value of its own for every cell.
    TypeError
        If a key is not a name.
    """
    if isinstance(covariate_keys, str):
        covariate_keys = [covariate_keys]
    if not isinstance(covariate_keys, (list, tuple, pd.Index, np.ndarray)):
        raise TypeError(f"covariate_keys must be a list of names, got {covariate_keys!r}.")
    named = ([] if label_key is None else [(label_key, "label_key")]) + [
        (key, "covariate_keys") for key in covariate_keys
    ]
    levels: dict[str, tuple[str, ...]] = {}
    for key, what in named:
        if not isinstance(key, str):
            raise TypeError(f"{what} must name columns of obs, got {key!r}.")
        if key in levels:
            raise ValueError(f"{what} must name each column once, got {key!r} twice.")
        column = column_of_levels(obs, key, what)
        levels[key] = tuple(column.cat.categories)
        if len(obs) > 1 and len(levels[key]) == len(obs):
            raise ValueError(
                f"{what} must group the cells, but {key!r} has a value of its own for each of the "
                f"{len(obs):,} cells. Choose a column such as the cell type."
            )
    return Conditions(label_key, levels)


def check_cells(adata: ad.AnnData | DiskCells, name: str) -> None:
    """Check that a matrix of cells can be learned from; its values where they are in memory.

    Raises
    ------
    ValueError
        If it is empty, holds NaN, infinite or absurdly large values, has duplicate gene names.
    """
    if 0 in adata.shape:
        raise ValueError(
            f"{name} must hold at least one cell and one gene, "
            f"got {adata.n_obs} cells x {adata.n_vars} genes."
        )
    if not adata.var_names.is_unique:
        twice = adata.var_names[adata.var_names.duplicated()].unique()
        raise ValueError(
            f"Gene names must be unique, got {len(twice):,} more than once: {some(list(twice))}. "
            "Make them so: adata.var_names_make_unique()."
        )
    if not isinstance(adata, DiskCells):
        check_finite(stored(adata.X), name)


def check_finite(values: np.ndarray, name: str) -> None:
    """Check that there is no NaN, nothing infinite and nothing that is absurdly large among some values.

    Raises
    ------
    ValueError
        If there is.
    """
    for bad, test in (("NaN", np.isnan), ("infinite", np.isinf)):
        n = int(test(values).sum())
        if n:
            raise ValueError(f"{name} must hold finite values, got {n:,} {bad} values.")
    most = max(float(values.max(initial=0)), -float(values.min(initial=0)))
    if most > LARGEST:
        raise ValueError(
            f"{name} must hold values between {-LARGEST:g} and {LARGEST:g}, got one of size {most:g}. "
            "Does it stand for a missing value?"
        )


@dataclass(frozen=True)
class Summary:
    """What is to be known of a matrix before training, taken in one pass over its rows.

    Parameters
    ----------
    cells
        Number of cells.
    low, high, total
        Smallest and largest value of each gene, and their sum, (n_genes,).
    nonzero, fractions
        How many values are not 0, and how many are not whole.
    empty
        Rows whose values sum up to 0, the first few: (at most MOST_NAMED,), and `n_empty`, their number.
    logged, logged_squares
        Sums over the cells of ``log(1 + 1e4 x / library size)`` and of its square, (n_genes,).
    """

    cells: int
    low: np.ndarray
    high: np.ndarray
    total: np.ndarray
    nonzero: int
    fractions: int
    empty: np.ndarray
    n_empty: int
    logged: np.ndarray
    logged_squares: np.ndarray

    @classmethod
    def of(cls, x: Matrix) -> Summary:
        """Return the summary of a matrix in memory, (n_cells, n_genes)."""
        values = stored(x)
        library = np.asarray(x.sum(axis=1, dtype=np.float64)).ravel()
        scale = INPUT_TARGET / np.maximum(library, 1)
        with np.errstate(invalid="ignore", divide="ignore"):  # values may be negative: then nobody asks
            if sp.issparse(x):
                data = np.log1p(values * np.repeat(scale, np.diff(x.indptr)))
                logged, squares = (sp.csr_matrix((d, x.indices, x.indptr), x.shape) for d in (data, data**2))
            else:
                logged = np.log1p(x * scale[:, None])
                squares = logged**2
        low, high = limits(x)
        empty = np.flatnonzero(library == 0)

        def column_sums(part: Matrix) -> np.ndarray:
            return np.asarray(part.sum(axis=0, dtype=np.float64)).ravel()

        return cls(
            cells=x.shape[0],
            low=low,
            high=high,
            total=column_sums(x),
            nonzero=int(np.count_nonzero(values)),
            fractions=int((values != np.round(values)).sum()),
            empty=empty[:MOST_NAMED],
            n_empty=len(empty),
            logged=column_sums(logged),
            logged_squares=column_sums(squares),
        )

    def joined(self, other: Summary) -> Summary:
        """Return the summary of these cells and others that follow them."""
        return Summary(
            cells=self.cells + other.cells,
            low=np.minimum(self.low, other.low),
            high=np.maximum(self.high, other.high),
            total=self.total + other.total,
            nonzero=self.nonzero + other.nonzero,
            fractions=self.fractions + other.fractions,
            empty=np.append(self.empty, self.cells + other.empty)[:MOST_NAMED],
            n_empty=self.n_empty + other.n_empty,
            logged=self.logged + other.logged,
            logged_squares=self.logged_squares + other.logged_squares,
        )

    def digest(self) -> str:
        """Return the SHA-256 of these figures: that of two matrices differs, or they are hardly different."""
        parts = (np.array([self.cells, self.nonzero]), self.low, self.high, self.total, self.logged)
        return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()

    @property
    def whole(self) -> bool:
        """Whether the values are counts: whole and not negative."""
        return not self.fractions and self.low.min() >= 0

    def constant_genes(self, genes: pd.Index) -> list[str]:
        """Return the names of the genes with the same value in every cell."""
        return list(genes[self.low == self.high])


def summarise(x: Matrix, name: str) -> Summary:
    """Return the summary of a matrix in memory or on disk, read once from its first row to its last.

    Raises
    ------
    ValueError
        If it holds NaN, infinite or absurdly large values.
    """
    summary = None
    for block in row_blocks(x):
        check_finite(stored(block), name)
        part = Summary.of(block)
        summary = part if summary is None else summary.joined(part)
    assert summary is not None
    return summary


def with_variable_genes(cells: ad.AnnData | DiskCells, n: int, seed: int) -> ad.AnnData | DiskCells:
    """Return cells with their `n` most variable genes, in the order they had.

    Scanpy's `highly_variable_genes` chooses, by default as Seurat does (Satija et al. 2015,
    doi:10.1038/nbt.3192), from the logarithms of counts per 10,000; values that are not counts are taken as
    they are, unless they are too large to be logarithms. Of many cells it looks at 20,000, in runs from
    random places.

    Raises
    ------
    ValueError
        If no gene varies, as in one cell, or none can be compared.
    """
    import scanpy as sc

    if n >= cells.n_vars:
        return cells
    rows = _some_runs(cells.n_obs, seed)
    x = cells.X.take(rows) if isinstance(cells, DiskCells) else as_float(cells.X[rows])
    some_cells = ad.AnnData(x.copy())
    summary = Summary.of(x)
    if not (summary.low < summary.high).any():
        raise ValueError(
            f"n_top_genes chooses genes that vary, but none does among {x.shape[0]:,} cells. Leave it out."
        )
    with np.errstate(all="ignore"):  # of genes that hardly vary
        if summary.whole:
            sc.pp.normalize_total(some_cells, target_sum=INPUT_TARGET)
        if summary.whole or (summary.low.min() >= 0 and summary.high.max() > MOST_LOG):
            sc.pp.log1p(some_cells)
        try:
            sc.pp.highly_variable_genes(some_cells, n_top_genes=n)
            columns = np.flatnonzero(some_cells.var["highly_variable"])
        except (IndexError, ValueError):  # not one gene has a dispersion that can be compared
            columns = np.arange(0)
    if not len(columns):
        raise ValueError(
            f"n_top_genes needs genes with values that can be compared, which the {x.shape[0]:,} cells "
            "do not have: too few of them are not zero, or vary. Leave it out."
        )
    if isinstance(cells, DiskCells):
        return replace(cells, X=cells.X.mapped(columns, None), var_names=cells.var_names[columns])
    return cells[:, columns].copy()


def _some_runs(n: int, seed: int) -> np.ndarray:
    """Return sorted rows, all or those of runs from random places."""
    if n <= LOOKED_AT:
        return np.arange(n)
    runs = np.random.default_rng(seed).choice(n // RUN, LOOKED_AT // RUN, replace=False)
    return np.sort((runs[:, None] * RUN + np.arange(RUN)).ravel())


def split_rows(
    labels: np.ndarray | None, n: int, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows for training and for validation, in proportion within each label.

    Parameters
    ----------
    labels
        A label for each row, (n,); None for one label.
    n
        Number of rows.
    fraction
        Fraction of the rows for validation, at least 0 and less than 1. A label keeps at least one row
        for training.
    seed
        Seed of the shuffle.

    Returns
    -------
    Sorted row numbers for training and for validation; ``round(n * fraction)`` of the latter where the
    labels are large enough.
    """
    rng = np.random.default_rng(seed)
    codes = np.zeros(n, int) if labels is None else np.unique(labels, return_inverse=True)[1]
    sizes = np.bincount(codes)
    share = np.minimum(apportion(sizes / n, round(n * fraction)), sizes - 1)
    order = rng.permutation(n)
    held = np.concatenate([order[codes[order] == k][:m] for k, m in enumerate(share)])
    return np.setdiff1d(np.arange(n), held), np.sort(held)


def split_levels(column: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows for training and held out, each level of a column on one side whole.

    Parameters
    ----------
    column
        A level for each row, (n,).
    fraction
        Of the levels to hold out, rounded, but at least one.
    seed
        Seed of the draw.
    """
    levels = np.random.default_rng(seed).permutation(np.unique(column))
    held = np.isin(column, levels[: max(1, round(fraction * len(levels)))])
    return np.flatnonzero(~held), np.flatnonzero(held)


def apportion(weights: np.ndarray, n: int) -> np.ndarray:
    """Return whole numbers in proportion to `weights` that sum to `n` (largest remainders)."""
    exact = np.asarray(weights, float) / np.sum(weights) * n
    counts = np.floor(exact).astype(int)
    rest = np.argsort(counts - exact, kind="stable")[: n - counts.sum()]
    counts[rest] += 1
    return counts
