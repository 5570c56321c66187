"""Collect the content of the report."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from vaexprs.comparison.cell_sets import CellSet, open_generated, side_by_side
from vaexprs.comparison.provenance import label_key_of, real_layer, recipe_of
from vaexprs.comparison.subsample import LoadedCells, load_cells, sample_training_cells
from vaexprs.data.matrix import densify
from vaexprs.generation.generated import Generated
from vaexprs.io.convert import fingerprint
from vaexprs.io.open import load_layer, open_cells
from vaexprs.latent.density import LatentDensity
from vaexprs.model.vae_fit import VAEFit
from vaexprs.nn.predict import encode, posterior
from vaexprs.preprocessing.prepare import Cells
from vaexprs.preprocessing.splits import random_rows, stratified
from vaexprs.report.plotly_figures import STATISTICS, Ellipse, Embedding, GenePlotData, Latent
from vaexprs.report.render import Page
from vaexprs.report.reproduce import code, privacy_statements

MAX_SHOWN = 2_000  # maximum number of real and of generated cells in the embedding
MAX_CODES = 2_000  # maximum number of cells in the plot of the latent space
MAX_FOR_GENES = 5_000  # maximum number of cells per side for gene statistics
MIN_FOR_GENES = 10  # minimum number of cells per side for gene statistics
# packages whose versions are shown
PACKAGES = ("vaexprs", "keras", "jax", "numpy", "anndata", "scikit-learn")


def gather(
    fit: VAEFit,
    generated: Any,
    real: Any,
    *,
    train: Any,
    label_key: str | None,
    donor_key: str | None,
    layer: str | None,
    seed: int,
    progress: bool,
) -> Page:
    """Return the content of the report; the arguments are those of `write_report`."""
    from vaexprs.metrics import answers as metric_answers
    from vaexprs.metrics import evaluate as evaluation
    from vaexprs.metrics import registry
    from vaexprs.privacy import answers as audit_answers

    of_fit = fit.preprocessing.conditions.all_keys
    cells = open_generated(generated, [label_key, donor_key, *of_fit])
    label_key = label_key_of(cells, label_key) or fit.preprocessing.conditions.label_key
    keys, given = [label_key, donor_key], train is not None
    looked = {"generated": load_cells(cells, keys=keys, seed=seed)}
    made = looked["generated"].cells
    values = real_layer(made, layer)
    looked["real"] = _taken(real, "real", keys, values, seed)
    if given:
        looked["train"] = _taken(train, "train", keys, values, seed)
    elif fit.preprocessing.train is not None:
        looked["train"] = training_cells(fit, made, seed)
    sample_notes = [sentence for name, part in looked.items() for sentence in part.notes(name)]
    real, train = looked["real"].cells, looked["train"].cells if "train" in looked else None
    others = {"real": real} | ({} if train is None else {"train": train})
    sets = side_by_side(made, others, keys={"label_key": label_key})
    with_donor = donor_key is not None and donor_key in made.obs
    table = evaluation.evaluate(
        made,
        real,
        train=train,
        label_key=label_key,
        donor_key=donor_key if with_donor else None,
        covariate_keys=_covariates(fit, made, others),
        fit=fit if "n_cells" in recipe_of(made) else None,  # not for transformed or interpolated cells
        seed=seed,
        progress=progress,
    )
    notes = [*sample_notes, *table.attrs.get("notes", [])]
    if donor_key is not None and not with_donor:
        notes.append("The generated cells have no donor column, so donors were not compared.")
    found, audit_notes = audit(made, train, real, label_key, donor_key, seed)
    if sample_notes and found is not None:
        audit_notes.append("Copies of cells outside the random sample cannot be found.")
    n = looked["generated"].total or made.n_obs
    recipe = recipe_of(made)
    return Page(
        title=f"Report on {n:,} generated cells",
        facts=facts(sets, label_key, {name: part.total for name, part in looked.items()}),
        answers=[*metric_answers.answers(table), audit_answers.answer(found)],
        evaluation=table,
        label_lights=metric_answers.label_lights(table),
        metrics=registry.METRICS,
        questions=registry.QUESTIONS,
        curves=table.attrs.get("learning_curve", []),
        audit=found,
        audits=audit_answers.AUDITS,
        exposed=[] if found is None else found.attrs.get("exposed_cells", []),
        embedding=embedding(sets["real"], sets["generated"], label_key, seed),
        genes=gene_plot_data(sets["real"], sets["generated"], label_key, seed),
        history=fit.history,
        guarantee=privacy_statements(fit),
        architecture=architecture(fit),
        latent=latent_view(fit, real, seed),
        recipe=_recipe_tables(
            fit,
            recipe,
            looked,
            {"label_key": label_key, "donor_key": donor_key, "layer": layer, "seed": seed},
        ),
        code=code(
            fit,
            recipe,
            n,
            given=given,
            label_key=label_key,
            donor_key=donor_key,
            layer=layer,
            seed=seed,
        ),
        notes=notes,
        audit_notes=audit_notes,
    )


def _covariates(fit: VAEFit, made: ad.AnnData, others: Mapping[str, ad.AnnData]) -> list[str]:
    """Return the covariates of the fit that all sets have."""
    keys = fit.preprocessing.conditions.covariate_keys
    return [key for key in keys if all(key in cells.obs for cells in [made, *others.values()])]


def _recipe_tables(
    fit: VAEFit, recipe: Mapping[str, Any], looked: Mapping[str, LoadedCells], arguments: Mapping[str, Any]
) -> dict[str, dict[str, str]]:
    """Return the tables of settings and fingerprints by heading."""
    tables = {
        heading: {**described(looked[name]), "sha256": _fingerprint_of(looked[name])}
        for name, heading in (("real", "Real cells"), ("train", "Training cells"))
        if name in looked
    }
    tables.setdefault("Training cells", {"cells": "not available (the fit holds none)"})
    return {
        "Generated cells": {**readable(recipe), "sha256": _fingerprint_of(looked["generated"])},
        **tables,
        "Model": of_model(fit),
        "This report": readable(arguments),
        "Versions": {name: version(name) for name in PACKAGES} | {"Python": platform.python_version()},
    }


def audit(
    made: ad.AnnData,
    train: ad.AnnData | None,
    real: ad.AnnData,
    label_key: str | None,
    donor_key: str | None,
    seed: int,
) -> tuple[pd.DataFrame | None, list[str]]:
    """Return the table of `audit_privacy` and its notes, or None and the reason."""
    from vaexprs.privacy import audit as privacy_audit

    if train is None:
        return None, [
            "Not measured: it requires the training cells, which a fit loaded from disk or fitted with "
            "privacy does not hold."
        ]
    notes = []
    if donor_key is not None and set(real.obs[donor_key]) <= set(train.obs[donor_key]):
        donor_key = None
        notes.append("No donor was held out, so donor leakage was not measured.")
    try:
        table = privacy_audit.audit_privacy(
            made, train, real, donor_key=donor_key, label_key=label_key, seed=seed
        )
    except ValueError as error:  # too few held-out cells
        return None, [f"Not measured: {error}"]
    return table, [*notes, *table.attrs.get("notes", [])]


def _taken(cells: Any, name: str, keys: Sequence[str | None], layer: str | None, seed: int) -> LoadedCells:
    """Return real cells in memory, or a sample of them, as an AnnData with their values in X."""
    looked = load_cells(open_cells(cells, name=name, keys=keys), keys=keys, seed=seed, layer=layer)
    return LoadedCells(load_layer(looked.cells, layer), looked.total)


def training_cells(fit: VAEFit, made: ad.AnnData, seed: int) -> LoadedCells:
    """Return the fit's training cells in the user's units; a sample where they are on disk."""
    prep = fit.preprocessing
    assert prep.train is not None
    sample = sample_training_cells(prep, seed=seed)
    if sample is not None:
        return sample
    x = Generated(made, fit).x_train
    return LoadedCells(
        ad.AnnData(
            sp.csr_matrix(x) if sp.issparse(made.X) else densify(x),
            obs=prep.train.obs.copy(),
            var=pd.DataFrame(index=prep.genes),
        )
    )


def facts(
    sets: Mapping[str, CellSet], label_key: str | None, totals: Mapping[str, int | None]
) -> dict[str, str]:
    """Return the numbers in the header; `totals` has the total number of cells of sampled sets."""
    made = sets["generated"]
    found = {
        title: f"{totals.get(name) or len(sets[name]):,}"
        for name, title in (
            ("generated", "Generated cells"),
            ("real", "Real cells"),
            ("train", "Training cells"),
        )
        if name in sets
    }
    found["Genes"] = f"{len(made.genes):,}"
    if label_key is not None:
        found["Labels"] = f"{len(set(made.column(label_key))):,}"
    return found


def embedding(real: CellSet, made: CellSet, label_key: str | None, seed: int) -> Embedding:
    """Return the UMAP of real and generated cells on the scale of the model."""
    from vaexprs.plotting.reductions import REDUCTIONS

    rng = np.random.default_rng(seed)
    parts = {
        group: cells.take(stratified(cells.column(label_key), MAX_SHOWN, rng))
        for group, cells in {"real": real, "generated": made}.items()
    }
    values = np.concatenate([densify(part.values) for part in parts.values()])
    coordinates, axes = REDUCTIONS["UMAP"](values, seed, {})
    return Embedding(
        coordinates[:, :2],
        np.repeat(list(parts), [len(part) for part in parts.values()]),
        None if label_key is None else np.concatenate([part.column(label_key) for part in parts.values()]),
        np.concatenate([part.obs.index.to_numpy(dtype=object) for part in parts.values()]),
        axes,
        (len(real), len(made)),
    )


def gene_plot_data(real: CellSet, made: CellSet, label_key: str | None, seed: int) -> GenePlotData | None:
    """Return gene statistics of equal numbers of real and generated cells of each label.

    None if there are fewer than `MIN_FOR_GENES` cells per side.
    """
    from vaexprs.metrics import functions as metrics

    rng = np.random.default_rng(seed)
    columns = [cells.column(label_key).astype(str) for cells in (real, made)]
    sizes = [dict(zip(*np.unique(column, return_counts=True), strict=True)) for column in columns]
    most = {str(name): int(min(n, sizes[1].get(name, 0))) for name, n in sizes[0].items()}
    total = sum(most.values())
    if total < MIN_FOR_GENES:
        return None
    most = {name: max(1, n * MAX_FOR_GENES // max(total, MAX_FOR_GENES)) for name, n in most.items() if n}
    rows, made_rows = (np.concatenate(list(random_rows(rng, column, most).values())) for column in columns)
    # rows are sorted by label, so every other row is a half with the same composition
    parts = [real.values[rows], made.values[made_rows], real.values[rows[::2]], real.values[rows[1::2]]]
    statistics = [metrics.gene_statistics(densify(part)) for part in parts]
    names = [name.replace(" ", "_") for name in STATISTICS]
    arrays = [np.stack([getattr(found, name) for name in names]) for found in statistics]
    return GenePlotData(real.genes.to_numpy(dtype=object), arrays[0], arrays[1], (arrays[2], arrays[3]))


def latent_view(fit: VAEFit, real: ad.AnnData, seed: int) -> Latent | None:
    """Return codes and latent density on the first two principal axes of the codes; None without cells.

    The cells are the training cells or, if the fit has none, the real cells.
    """
    prep, density = fit.preprocessing, fit.density
    cells = prep.train if prep.train is not None else _prepared(fit, real)
    if cells is None or fit.latent_dim < 2 or len(cells) < 3:
        return None
    key = prep.conditions.label_key
    column = None if key is None else cells.obs[key].astype(str).to_numpy(dtype=object)
    rng = np.random.default_rng(seed)
    rows = stratified(np.full(len(cells), "") if column is None else column, MAX_CODES, rng)
    cells = cells.take(rows)
    codes = prep.conditions.code(cells.obs) if prep.conditions.width else None
    mean = encode(posterior(fit.model), cells.x, codes)[0]
    centre = mean.mean(axis=0)
    _, singular, axes = np.linalg.svd(mean - centre, full_matrices=False)
    share = 100 * singular**2 / max(float((singular**2).sum()), 1e-300)
    return Latent(
        (mean - centre) @ axes[:2].T,
        None if column is None else column[rows],
        cells.obs.index.to_numpy(dtype=object),
        (f"Axis 1 ({share[0]:.0f}% of the variance)", f"Axis 2 ({share[1]:.0f}%)"),
        ellipses(density, centre, axes[:2], key),
    )


def _prepared(fit: VAEFit, real: ad.AnnData) -> Cells | None:
    """Return the real cells with known conditions as input of the network, or None if there are none."""
    prep = fit.preprocessing
    if not set(prep.conditions.all_keys) <= set(real.obs) or not set(prep.genes) <= set(real.var_names):
        return None
    known = np.ones(real.n_obs, bool)
    for key, levels in prep.conditions.levels.items():
        known &= real.obs[key].astype(str).isin(levels).to_numpy()
    for key in prep.conditions.continuous:
        known &= np.isfinite(pd.to_numeric(real.obs[key].astype(object), errors="coerce").to_numpy(float))
    return prep.prepare(real[known, prep.genes].copy(), dense=True) if known.any() else None


def ellipses(density: LatentDensity, centre: np.ndarray, axes: np.ndarray, key: str | None) -> list[Ellipse]:
    """Return the components of a density projected on two axes, (2, latent_dim).

    The last dimension of the density for counts, the log library size, is left out.
    """
    d = axes.shape[1]
    return [
        Ellipse(
            levels[key] if key is not None else "", axes @ (mean[:d] - centre), axes @ cov[:d, :d] @ axes.T
        )
        for levels, mixture in zip(density.seen, density.mixtures, strict=True)
        for mean, cov in zip(mixture.means, mixture.covariances, strict=True)
    ]


def architecture(fit: VAEFit) -> str:
    """Return the graph of the network as SVG."""
    from vaexprs.plotting.model_graph import plot_vae

    return plot_vae(fit)._repr_svg_()


def described(looked: LoadedCells) -> dict[str, str]:
    """Return the number of cells and genes of a set."""
    return {"cells": f"{looked.total or looked.cells.n_obs:,}", "genes": f"{looked.cells.n_vars:,}"}


def _fingerprint_of(looked: LoadedCells) -> str:
    return fingerprint(looked.cells) if looked.total is None else "not computed: the cells are on disk"


def readable(entries: Mapping[str, Any]) -> dict[str, str]:
    """Return names and values as text, with empty values as "not given"."""
    return {str(key): _text(value) for key, value in entries.items()}


def _text(value: Any) -> str:
    if value is None or (isinstance(value, str) and value in ("", "{}")):
        return "not given"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    return str(value)


def of_model(fit: VAEFit) -> dict[str, str]:
    """Return properties and arguments of the fit."""
    prep = fit.preprocessing
    chosen = fit.recipe.get("choices", {}).get("latent_dim")
    properties = {
        "likelihood": fit.likelihood.name,
        "scaling": str(prep.scaling),
        "label": prep.conditions.label_key or "none",
        "covariates": ", ".join(prep.conditions.covariate_keys) or "none",
        "donors": "none" if fit.donors is None else f"{fit.donors.n_donors:,} in {fit.donors.key}",
        **{f"continuous covariate {key}": str(spline) for key, spline in prep.conditions.continuous.items()},
        "latent dimensions": f"{fit.latent_dim}{f' ({chosen})' if chosen else ''}",
        "weights": f"{fit.model.count_params():,}",
        "epochs": f"{len(fit.history['loss']):,}" if "loss" in fit.history else "not recorded",
        "seed": str(fit.seed),
    }
    properties |= {
        f"argument {name}": _text(value)
        for name, value in fit.recipe.get("arguments", {}).items()
        if name
        not in ("label_key", "covariate_keys", "continuous_keys", "donor_key", "seed", "verbose", "privacy")
    }
    data = fit.recipe.get("data", {})
    if data:
        source = f"sha256 {data['sha256']}" if "sha256" in data else f"on disk in {data['file']}"
        properties["trained on"] = f"{data['cells']:,} cells x {data['genes']:,} genes, {source}"
    return properties | {
        "components of the latent density": f"{sum(m.n_components for m in fit.density.mixtures):,} "
        f"for {len(fit.density.mixtures):,} conditions"
    }
