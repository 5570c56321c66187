"""Collect and prepare the cells of a fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from vaexprs.data.backed import BackedCells, BackedMatrix
from vaexprs.data.matrix import as_float
from vaexprs.interface.errors import warn
from vaexprs.interface.validation import as_keys, listed
from vaexprs.io import stores as ondisk
from vaexprs.io.convert import from_matrix, take_layer
from vaexprs.io.open import open_cells, select_layer
from vaexprs.latent.donors import MIN_DONORS
from vaexprs.likelihoods import default_likelihood, likelihood_named
from vaexprs.likelihoods.base import Likelihood
from vaexprs.preprocessing.conditions import check_continuous_keys, column_of_levels, learn_conditions
from vaexprs.preprocessing.genes import with_genes, with_variable_genes
from vaexprs.preprocessing.prepare import Cells, Preprocessing
from vaexprs.preprocessing.scaling import Scaling
from vaexprs.preprocessing.splits import split_rows
from vaexprs.preprocessing.summary import Summary, check_cells, summarise
from vaexprs.preprocessing.values import (
    check_enough_cells,
    check_enough_genes,
    warn_of_other_values,
    with_min_counts,
    without_empty,
)
from vaexprs.training.capacity import with_continuous

MAX_DENSE = 2 * 2**30  # maximum size in bytes of a matrix that is made dense, to speed up training


@dataclass(frozen=True)
class TrainingData:
    """Cells ready for training.

    Parameters
    ----------
    preprocessing
        With its prepared training cells, and validation cells if there are any.
    likelihood
        Likelihood of the values.
    summary
        Summary of the values in the user's units.
    """

    preprocessing: Preprocessing
    likelihood: Likelihood
    summary: Summary

    @property
    def cells(self) -> Cells:
        """The prepared training cells."""
        assert self.preprocessing.train is not None
        return self.preprocessing.train

    @property
    def shape(self) -> tuple[int, int]:
        """Number of training cells and of genes."""
        return len(self.cells), len(self.preprocessing.genes)


def may_be_counts(likelihood: Any, earlier: Preprocessing | None) -> bool:
    """Whether to search for counts: not if a likelihood for other values was requested."""
    named = likelihood or getattr(earlier, "likelihood", None)
    return not isinstance(named, str) or likelihood_named(named).counts


def gather_cells(
    obj: Any,
    x_train: Any,
    y_train: Any,
    x_val: Any,
    y_val: Any,
    label_key: str | None,
    covariate_keys: Any,
    layer: str | None,
    other_keys: Sequence[str] = (),
) -> tuple[ad.AnnData | BackedCells | None, ad.AnnData | None, str | None]:
    """Return checked training and validation cells with their labels in `obs`, and the label's key.

    Raises
    ------
    TypeError, ValueError
        If arguments cannot be combined, or cells or labels cannot be used.
    """
    if obj is not None and x_train is not None:
        raise ValueError("object and x_train cannot be combined. Give the cells as one of them.")
    if obj is not None and y_train is not None:
        raise ValueError("The labels of object come from its obs. Use label_key instead of y_train.")
    if x_train is None and y_train is not None:
        raise ValueError("y_train requires x_train.")
    if x_val is None and y_val is not None:
        raise ValueError("y_val requires x_val.")
    train: ad.AnnData | BackedCells | None = None
    if obj is not None:
        columns = [key for key in (label_key, *as_keys(covariate_keys), *other_keys) if isinstance(key, str)]
        train = select_layer(open_cells(obj, matrix="x_train", keys=columns), layer, columns)
        check_cells(train, "object")
    elif x_train is not None:
        train = matrix = from_matrix(x_train, "x_train", layer=layer)
        check_cells(train, "x_train")
        if y_train is not None:
            label_key = label_key or "label"
            _set_labels(matrix, y_train, label_key, "y_train", "x_train")
    val = None
    if x_val is not None:
        val = take_layer(x_val, layer) if isinstance(x_val, ad.AnnData) else from_matrix(x_val, "x_val")
        check_cells(val, "x_val")
        if y_val is not None:
            _set_labels(val, y_val, label_key or "label", "y_val", "x_val")
        elif label_key is not None and label_key not in val.obs:
            raise ValueError("y_val must give the labels of x_val, because the training cells have labels.")
    return train, val, label_key


def _set_labels(adata: ad.AnnData, labels: Any, key: str, name: str, cells: str) -> None:
    if isinstance(labels, str) or not np.iterable(labels):
        raise TypeError(f"{name} must be an array of one label per cell, got {type(labels).__name__}.")
    shape = np.shape(np.asarray(labels))
    if len(shape) != 1:
        raise ValueError(f"{name} must have one dimension, got shape {shape}.")
    values = pd.Series(labels)  # keeps the order of a categorical
    if len(values) != adata.n_obs:
        hint = f" If the genes are in the rows, give {cells}.T." if len(values) == adata.n_vars else ""
        raise ValueError(
            f"{name} must have one label for each of the {adata.n_obs:,} cells of {cells}, "
            f"got {len(values):,}.{hint}"
        )
    named = values.index.astype(str)
    known = named.isin(adata.obs_names)
    if known.all() and named.is_unique:  # align by name, as pandas does
        values = values.set_axis(named)[adata.obs_names]
    elif known.any():
        raise ValueError(
            f"The index of {name} must name the cells of {cells}, but {(~known).sum():,} of its "
            f"{len(named):,} names are unknown: {listed(list(named[~known]))}. To ignore the index, give "
            f"{name}.to_numpy()."
        )
    adata.obs[key] = values.array


def select_cells(
    train: ad.AnnData | BackedCells, val: ad.AnnData | None, n: int
) -> tuple[ad.AnnData | BackedCells, ad.AnnData | None]:
    """Return the cells with at least `n` counts."""
    if val is not None:
        kept = with_min_counts(val, "x_val", n)
        assert isinstance(kept, ad.AnnData)
        val = kept
    return with_min_counts(train, "object", n), val


def select_variable_genes(
    train: ad.AnnData | BackedCells, val: ad.AnnData | None, n: int, seed: int
) -> tuple[ad.AnnData | BackedCells, ad.AnnData | None]:
    """Return the cells with the most variable genes of the training cells."""
    return _with_genes_of(with_variable_genes(train, n, seed), val)


def select_genes(
    train: ad.AnnData | BackedCells, val: ad.AnnData | None, genes: Sequence[str]
) -> tuple[ad.AnnData | BackedCells, ad.AnnData | None]:
    """Return the cells with the listed genes."""
    return _with_genes_of(with_genes(train, genes), val)


def _with_genes_of(
    train: ad.AnnData | BackedCells, val: ad.AnnData | None
) -> tuple[ad.AnnData | BackedCells, ad.AnnData | None]:
    """Return training cells, and validation cells with the genes of these if they have them all."""
    if val is not None and set(train.var_names) <= set(val.var_names):
        val = val[:, train.var_names].copy()
    return train, val


def prepare_data(
    train: ad.AnnData | BackedCells | None,
    val: ad.AnnData | None,
    earlier: Preprocessing | None,
    likelihood: str | None,
    decoder_layers: Sequence[Any] | None,
    label_key: str | None,
    covariate_keys: Sequence[str],
    donor_key: str | None = None,
    continuous_keys: Sequence[str] = (),
    *,
    dense: bool,
    seed: int = 0,
    drop_empty: bool = True,
    private: bool = False,
    shown: bool = False,
) -> TrainingData:
    """Return the prepared cells with their likelihood and the summary of their values.

    Parameters
    ----------
    train, val, label_key
        As `gather_cells` returns them; without training cells those of `earlier` are used.
    earlier
        The preprocessing of an earlier fit to reuse, or None.
    likelihood, decoder_layers, covariate_keys, donor_key, continuous_keys
        See `fit_vae`.
    dense
        Whether to make sparse matrices dense, up to `MAX_DENSE`.
    seed
        Seed of the choice of cells from which degrees of freedom are chosen.
    drop_empty
        Whether to leave out cells without counts, with a warning; else they are refused.
    private
        Whether the fit is differentially private: categories without cells are levels, because their absence
        would reveal cells, and nothing is said about values, numbers of cells and cells without counts.
    shown
        Whether to show a progress bar if reading the cells takes longer than some seconds.

    Raises
    ------
    TypeError, ValueError
        If there are no cells, or they do not fit the likelihood or the earlier preprocessing.
    """
    if train is None:
        return _reuse_cells(earlier, val, likelihood, dense)
    check_enough_genes(train, "object")
    if not private:
        check_enough_cells(train, "object")
    x = train.X if isinstance(train, BackedCells) else as_float(train.X)
    summary = summarise(x, "object", shown=shown)
    kind = (
        _choose_likelihood(likelihood, decoder_layers, summary)
        if earlier is None
        else _same_likelihood(earlier, likelihood)
    )
    if kind.counts and summary.n_empty and drop_empty and summary.whole:
        train = without_empty(train, "object")
        x = train.X if isinstance(train, BackedCells) else as_float(train.X)
        summary = summarise(x, "object", shown=shown)
    if private:
        summary = replace(summary, n_empty=0)  # such cells are left out later, without a message
    conditions, numbers = None, {}
    if earlier is None:
        conditions = learn_conditions(train.obs, label_key, covariate_keys, keep_unused=private)
        numbers = check_continuous_keys(train.obs, continuous_keys, conditions)
    if conditions is None:
        assert earlier is not None
        chosen = kind.for_values(summary)
        prepared = earlier.without_cells()
    else:
        if likelihood is None and kind.name == "gaussian" and not private:
            warn_of_other_values(x, summary)
        chosen = kind.for_values(summary)
        unit = chosen.unit(summary)
        scaling = Scaling.fit(chosen.scaling(x, unit), summary.low, summary.high, unit)
        conditions = with_continuous(conditions, numbers, train.obs, x, chosen.counts, seed)
        if donor_key is not None:
            check_donors(train.obs, donor_key, conditions.all_keys, kind)
        prepared = Preprocessing(train.var_names, conditions, scaling, kind.name, donor_key=donor_key)
    chosen.check(summary, train.obs_names)
    if not private:
        _warn_constant_genes(summary.constant_genes(train.var_names))
    dense = dense and 4 * train.n_obs * train.n_vars <= MAX_DENSE
    cells = prepared.prepare(train, dense=dense)
    if val is not None and chosen.counts and drop_empty:
        kept = without_empty(val, "x_val")
        assert isinstance(kept, ad.AnnData)
        val = kept
    val_cells = None if val is None else _prepare_validation(prepared, chosen, val, dense)
    return TrainingData(replace(prepared, train=cells, val=val_cells), chosen, summary)


def check_donors(
    obs: pd.DataFrame, key: Any, conditions: Sequence[str], likelihood: type[Likelihood]
) -> None:
    """Check that the effects of donors can be fitted.

    Raises
    ------
    TypeError
        If `key` is not a string.
    ValueError
        If it is not a column of `obs`, is one of the conditions, or has fewer than three donors; or if the
        values are not counts.
    """
    if not isinstance(key, str):
        raise TypeError(f"donor_key must name a column of obs, got {key!r}.")
    if key in conditions:
        raise ValueError(f"donor_key must not be the label or a covariate, got {key!r}. Name it once.")
    n = len(column_of_levels(obs, key, "donor_key").cat.categories)
    if n < MIN_DONORS:
        raise ValueError(
            f"donor_key must name at least {MIN_DONORS} donors, got {n} in {key!r}: fewer do not determine "
            f"how donors vary. Use covariate_keys=[{key!r}] to generate cells of these donors."
        )
    if not likelihood.counts:
        raise ValueError(f"donor_key requires counts, got likelihood {likelihood.name!r}. Leave it out.")


def _reuse_cells(
    earlier: Preprocessing | None, val: ad.AnnData | None, likelihood: str | None, dense: bool
) -> TrainingData:
    """Return the training cells of an earlier fit, with new validation cells if there are any."""
    if earlier is None:
        raise ValueError("fit_vae requires cells. Give an AnnData as object, or a matrix as x_train.")
    if earlier.train is None:
        raise ValueError(
            "preprocessing contains no cells, because it was loaded from disk. Give the cells as object or "
            "x_train; its limits and codes will be used."
        )
    summary = summarise(earlier.train.x, "preprocessing")
    chosen = _same_likelihood(earlier, likelihood).for_values(summary)
    if val is not None:
        earlier = replace(earlier, val=_prepare_validation(earlier, chosen, val, dense))
    return TrainingData(earlier, chosen, summary)


def _prepare_validation(
    prepared: Preprocessing, likelihood: Likelihood, val: ad.AnnData, dense: bool
) -> Cells:
    likelihood.check(summarise(as_float(val.X), "x_val"), val.obs_names)
    return prepared.prepare(val, dense=dense)


def _warn_constant_genes(genes: Sequence[str]) -> None:
    if genes:
        warn(
            f"{len(genes):,} {'gene has' if len(genes) == 1 else 'genes have'} the same value in every cell "
            f"({listed(genes)}), so their variation cannot be learned. Leave them out, or select variable "
            "genes with n_top_genes."
        )


def _same_likelihood(earlier: Preprocessing, likelihood: str | None) -> type[Likelihood]:
    if not isinstance(earlier, Preprocessing):
        raise TypeError(
            f"preprocessing must be fit.preprocessing of an earlier fit, got {type(earlier).__name__}."
        )
    if likelihood is not None and likelihood_named(likelihood).name != earlier.likelihood:
        raise ValueError(
            f"preprocessing is for likelihood {earlier.likelihood!r}, got {likelihood!r}. "
            "Leave out preprocessing or likelihood."
        )
    return likelihood_named(earlier.likelihood)


def _choose_likelihood(
    name: str | None, decoder_layers: Sequence[Any] | None, summary: Summary
) -> type[Likelihood]:
    if name is not None:
        return likelihood_named(name)
    last = decoder_layers[-1] if isinstance(decoder_layers, Sequence) and len(decoder_layers) else None
    return default_likelihood(summary, last)


def split_validation(data: TrainingData, fraction: float, seed: int) -> TrainingData:
    """Hold out a fraction of the training cells for validation, unless it is 0 or there are validation cells.

    Raises
    ------
    ValueError
        If no cells are left for training or for validation.
    """
    prepared = data.preprocessing
    if prepared.val is not None or not fraction:
        return data
    cells = data.cells
    key = prepared.conditions.label_key
    labels = None if key is None else cells.obs[key].astype(str).to_numpy()
    rows, held = split_rows(labels, len(cells), fraction, seed)
    if not len(rows) or not len(held):
        raise ValueError(
            "validation_split must leave cells for training and for validation, "
            f"got {fraction:g} of {len(cells):,} cells."
        )
    large = isinstance(cells.x, BackedMatrix) and len(held) > cells.x.rows_in(ondisk.IN_MEMORY)
    val = cells.keep(held) if large else cells.take(held)
    return replace(data, preprocessing=replace(prepared, train=cells.keep(rows), val=val))
