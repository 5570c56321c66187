"""`compare`: evaluate several sets of generated cells against the same real cells."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from vaexprs.comparison.cell_sets import open_generated, rows_in, side_by_side
from vaexprs.comparison.matching import only_generated
from vaexprs.comparison.provenance import label_key_of, real_layer, recipe_of
from vaexprs.comparison.subsample import load_cells
from vaexprs.data.matrix import densify
from vaexprs.interface import html as markup
from vaexprs.interface.validation import as_keys, check_integer, listed
from vaexprs.interface.verdicts import LIGHTS
from vaexprs.io.open import load_layer, open_cells
from vaexprs.metrics.answers import NOT_REQUESTED, Answer, answers, label_lights
from vaexprs.metrics.evaluate import RESAMPLES, evaluate, shared_covariates
from vaexprs.metrics.plan import label_sizes
from vaexprs.metrics.registry import ALL, COLUMNS, METRICS
from vaexprs.preprocessing.splits import random_rows, split_rows

REAL_CONTROL = "real cells (control)"
INDEPENDENT_CONTROL = "independent genes (control)"
CONTROLS = {
    REAL_CONTROL: "a random half of the training cells, judged like generated cells: the best possible "
    "result",
    INDEPENDENT_CONTROL: "training cells with the values of each gene permuted within its label, so without "
    "correlations between genes: a poor result",
}
GENES_AT_ONCE = 1_000  # number of genes that are permuted as a dense matrix
CHANCE = 0.5  # AUC of a classifier that does not separate generated from real cells
MAX_SHOWN = 6  # maximum number of labels or genes named in a note


class Comparison(pd.DataFrame):
    """Table of `compare`: a DataFrame with a summary in notebooks; slices are plain DataFrames."""

    def _repr_html_(self) -> str:
        if not {"generator", *COLUMNS} <= set(self.columns) or "answers" not in self.attrs:
            return str(pd.DataFrame(self)._repr_html_())  # type: ignore[operator]
        return markup.render(
            "interface/templates/comparison.html",
            n_rows=len(self),
            columns=[str(name) for name in self.columns],
            **view(self),
        )


def compare(
    generated: Mapping[str, Any],
    real: Any,
    *,
    train: Any = None,
    label_key: str | None = None,
    donor_key: str | None = None,
    covariate_keys: Sequence[str] | None = None,
    layer: str | None = None,
    seed: int = 0,
    only: Collection[str] | None = None,
    resamples: int = RESAMPLES,
    controls: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Evaluate the cells of several generators against the same real cells.

    All generators are evaluated on the same number of cells of each label, the smallest that one of them has
    (a random sample of the others), on the labels that all of them have, and on the genes that they share.

    Parameters
    ----------
    generated
        Generated cells by the name of their generator, in any form that `evaluate` takes.
    real, train, label_key, donor_key, layer, seed, only, resamples
        As for `evaluate`. All generated cells must have the columns.
    covariate_keys
        Columns of `obs` with further conditions that are compared (default: those that generated cells record
        and all sets have).
    controls
        Whether to evaluate two sets of real cells in the same way, as a scale for the results: "real cells
        (control)", a random half of the training cells, with the other half as training cells, and
        "independent genes (control)", training cells with each gene permuted within its label. Requires
        `train`.
    progress
        Whether to show a progress bar for each generator.

    Returns
    -------
    DataFrame
        With the column ``generator`` and the columns of `evaluate`. The best generator is first: that with
        the most green answers, then with the lowest AUC of the random forest on genes, then with the fewest
        metrics that are off; controls are last. In ``attrs``, by generator: ``notes``, sentences on the cells
        that were compared; ``answers``, tuples of question, light and sentence; ``label_lights``, the light
        of each label; ``cells``, the number of cells per side. ``controls`` lists the controls.

    Raises
    ------
    ValueError
        If there is no generator, a name is empty or not unique, the generators have no label or gene in
        common, `controls` are requested without `train`, or a set cannot be evaluated.
    TypeError
        If `generated` is not a mapping, a name is not text, or another argument has the wrong type.

    Notes
    -----
    A rank is not a test. Compare the values with the baseline interval, and repeat with other cells of the
    same generators before small differences are interpreted. The baseline of a generator depends on the cells
    that it is compared with; it is the same for all generators unless they record different requests.

    Examples
    --------
    >>> import vaexprs as vx
    >>> cells = vx.demo_cells()
    >>> table = vx.compare(
    ...     {"first": cells[::3], "second": cells[1::3]},
    ...     cells[2::3],
    ...     label_key="cell_type",
    ...     only=["gene_means"],
    ...     resamples=3,
    ...     progress=False,
    ... )
    >>> sorted(set(table["generator"]))
    ['first', 'second']
    """
    seed = check_integer("seed", seed, 0)
    resamples = check_integer("resamples", resamples, 3)
    _check_names(generated, controls)
    if controls and train is None:
        raise ValueError("controls=True requires training cells. Give them as train, or use controls=False.")
    needed = [label_key, donor_key, *as_keys(covariate_keys)]
    opened = {}
    for name, cells in generated.items():
        with _errors_of(name):
            opened[name] = open_generated(cells, needed)
    label_key = _label_key(opened, label_key)
    needed = [label_key, *needed]  # the label that the generated cells record
    given = {"real": open_cells(real, name="real", keys=needed)}
    if train is not None:
        given["train"] = open_cells(train, name="train", keys=needed)
    covariates = shared_covariates(
        covariate_keys,
        [recipe_of(cells) for cells in opened.values()],
        [*opened.values(), *given.values()],
    )
    keys = [key for key in dict.fromkeys([label_key, donor_key, *covariates]) if key is not None]
    notes: dict[str, list[str]] = {name: [] for name in opened}
    made = {}
    for name, cells in opened.items():
        with _errors_of(name):
            part = load_cells(cells, keys=keys, seed=seed)
            notes[name] += part.notes("generated")
            made[name] = only_generated(part.cells, notes[name])
    recipe = recipe_of(next(iter(made.values())))
    layer = real_layer(next(iter(made.values())), layer)
    shared: list[str] = []
    loaded = {}
    for name, cells in given.items():
        part = load_cells(cells, keys=keys, seed=seed, layer=layer)
        shared += part.notes(name)
        loaded[name] = part.cells
    made = _with_shared_genes(made, shared)
    sizes = _equal_sizes(made, label_key, shared)
    sets = {
        name: (_sample(cells, label_key, sizes, seed), loaded.get("train")) for name, cells in made.items()
    }
    if controls:
        sets |= _controls(
            loaded, next(iter(made.values())), label_key, layer, sizes, recipe=recipe, seed=seed, notes=notes
        )
    tables = {}
    for name, (cells, training) in sets.items():
        with _errors_of(name):
            tables[name] = evaluate(
                cells,
                loaded["real"],
                train=training,
                label_key=label_key,
                donor_key=donor_key,
                covariate_keys=covariates,
                layer=layer,
                seed=seed,
                only=only,
                resamples=resamples,
                progress=progress,
            )
    return _joined(tables, {name: [*shared, *notes[name], *tables[name].attrs["notes"]] for name in tables})


def grouped_notes(table: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Return each note of a comparison with its generators, an empty list for notes on all generators."""
    found: dict[str, list[str]] = {}
    for name, notes in table.attrs["notes"].items():
        for note in notes:
            found.setdefault(note, []).append(name)
    n = len(table.attrs["notes"])
    common: list[tuple[str, list[str]]] = [(note, []) for note, names in found.items() if len(names) == n]
    return common + [(note, names) for note, names in found.items() if len(names) < n]


def view(table: pd.DataFrame) -> dict[str, Any]:
    """Return what tables of a comparison show, in the order of the generators.

    Parameters
    ----------
    table
        The table returned by `compare`.

    Returns
    -------
    dict
        ``generators``, their names; ``controls``, descriptions of the controls by name; ``questions``, those
        whose metrics were requested, as dicts of question and one entry per generator (kind, word and
        sentence); ``metrics``, dicts of name, title, what, question, floor, low and high (baseline of the
        first generator) and one entry per generator (value, kind and word); ``labels``, dicts of label and
        entries; ``notes``, notes with their generators.
    """
    of = table.attrs["answers"]
    names = list(of)
    questions = [answer[0] for answer in of[names[0]]]
    cards = {name: markup.cards(Answer(*answer) for answer in of[name]) for name in names}
    rows = {
        (str(row["generator"]), str(row["metric"])): row
        for row in markup.records(pd.DataFrame(table[table["label"] == ALL]))
    }
    metrics = []
    for metric in dict.fromkeys(name for _, name in rows):
        found = [rows.get((name, metric)) for name in names]
        first = next(row for row in found if row is not None)
        entries = [
            {"value": float("nan"), **markup.verdict(None)}
            if row is None
            else {"value": row["value"], **markup.verdict(row["verdict"])}
            for row in found
        ]
        known = METRICS[metric]
        metrics.append(
            {"name": metric, "title": known.title, "what": known.what, "question": known.question,
             "floor": first["floor"], "low": first["floor_low"], "high": first["floor_high"],
             "entries": entries}
        )  # fmt: skip
    lights = table.attrs["label_lights"]
    labels = [
        {"label": label, "entries": [_light_entry(lights[name].get(label, "unknown")) for name in names]}
        for label in sorted({label for found in lights.values() for label in found})
    ]
    return {
        "generators": names,
        "controls": {name: CONTROLS[name] for name in table.attrs["controls"]},
        "questions": [
            {"question": question, "entries": [cards[name][i] for name in names]}
            for i, question in enumerate(questions)
            if any(of[name][i][2] != NOT_REQUESTED for name in names)
        ],
        "metrics": metrics,
        "labels": labels,
        "notes": grouped_notes(table),
    }


def _light_entry(light: str) -> dict[str, str]:
    level = LIGHTS[light]
    return {"kind": level.css_class, "word": "not judged" if light == "unknown" else level.word}


def _check_names(generated: Any, controls: bool) -> None:
    if not isinstance(generated, Mapping):
        raise TypeError(
            "generated must be a mapping of names to generated cells, "
            f"got {type(generated).__name__}. Try {{'my generator': cells}}."
        )
    if not generated:
        raise ValueError("generated must have at least one entry, got none.")
    for name in generated:
        if not isinstance(name, str):
            raise TypeError(f"The names in generated must be text, got {name!r}.")
        if not name.strip():
            raise ValueError(f"The names in generated must not be empty, got {name!r}.")
        if controls and name in CONTROLS:
            raise ValueError(f"The name {name!r} is reserved for a control. Choose another name.")
    stripped = [name.strip() for name in generated]
    double = next((name for name in stripped if stripped.count(name) > 1), None)
    if double is not None:
        raise ValueError(f"The names in generated must be unique, got {double!r} more than once.")


@contextmanager
def _errors_of(name: str) -> Iterator[None]:
    """Name the generator in errors about its cells."""
    try:
        yield
    except (ValueError, TypeError) as error:
        if type(error) not in (ValueError, TypeError):  # the message of subclasses names the file
            raise
        raise type(error)(f"{name}: {error}") from error


def _label_key(opened: Mapping[str, Any], label_key: str | None) -> str | None:
    """Return the label key, by default the one that the generated cells record."""
    if label_key is not None:
        return label_key
    keys = {label_key_of(cells, None) for cells in opened.values()} - {None}
    if len(keys) > 1:
        raise ValueError(
            f"The generated cells record different label keys ({listed(sorted(map(str, keys)))}). Rename the "
            "columns, and give their name as label_key."
        )
    return next(iter(keys), None)


def _with_shared_genes(made: Mapping[str, ad.AnnData], notes: list[str]) -> dict[str, ad.AnnData]:
    """Return the generated cells with the genes that all of them have."""
    first = next(iter(made.values())).var_names
    if all(cells.var_names.equals(first) for cells in made.values()):
        return dict(made)
    shared = first
    for cells in made.values():
        shared = shared[shared.isin(cells.var_names)]
    if not len(shared):
        raise ValueError("The generators must share genes, got none in common. Use the same gene names.")
    most = max(cells.n_vars for cells in made.values())
    if len(shared) < most:
        notes.append(f"Compared on the {len(shared):,} genes that all generators have, of up to {most:,}.")
    return {name: cells[:, shared] for name, cells in made.items()}


def _column(cells: ad.AnnData, label_key: str | None) -> np.ndarray:
    """Return the label of each cell as text, "" for all without a label key."""
    if label_key is None:
        return np.full(cells.n_obs, "")
    if label_key not in cells.obs:
        raise ValueError(
            f"label_key must be a column of obs ({listed(list(cells.obs.columns), 20) or 'there are none'}), "
            f"got {label_key!r}."
        )
    return cells.obs[label_key].astype(str).to_numpy(dtype=object)


def _equal_sizes(made: Mapping[str, ad.AnnData], label_key: str | None, notes: list[str]) -> dict[str, int]:
    """Return the number of cells of each label that all generators have."""
    numbers = {}
    for name, cells in made.items():
        with _errors_of(name):
            numbers[name] = label_sizes(_column(cells, label_key))
    labels = dict.fromkeys(label for found in numbers.values() for label in found)
    sizes = {label: min(found.get(label, 0) for found in numbers.values()) for label in labels}
    left_out = sorted(label for label, n in sizes.items() if not n)
    sizes = {label: n for label, n in sizes.items() if n}
    if not sizes:
        raise ValueError(
            "The generators must share labels, got none in common: "
            + "; ".join(
                f"{name} has {listed(sorted(found), 3) or 'no cells'}" for name, found in numbers.items()
            )
            + "."
        )
    total = sum(sizes.values())
    if any(sum(found.values()) > total for found in numbers.values()):
        of_label = " of each label" if label_key is not None else ""
        notes.append(
            f"All generators were compared on the same number of cells{of_label}, the smallest that one of "
            f"them has ({total:,} cells in total); the others were sampled at random."
        )
    if left_out:
        notes.append(f"Labels that not all generators have, not compared: {listed(left_out, MAX_SHOWN)}.")
    return sizes


def _sample(cells: ad.AnnData, label_key: str | None, sizes: Mapping[str, int], seed: int) -> ad.AnnData:
    """Return up to `sizes[label]` random cells of each label, in their order."""
    chosen = random_rows(np.random.default_rng(seed), _column(cells, label_key), sizes)
    rows = np.sort(np.concatenate(list(chosen.values())))
    return cells if len(rows) == cells.n_obs else cells[rows].copy()


def _controls(
    loaded: Mapping[str, ad.AnnData],
    made: ad.AnnData,
    label_key: str | None,
    layer: str | None,
    sizes: Mapping[str, int],
    *,
    recipe: Mapping[str, Any],
    seed: int,
    notes: dict[str, list[str]],
) -> dict[str, tuple[ad.AnnData, ad.AnnData]]:
    """Return each control with its training cells; remarks are added to `notes`."""
    train = load_layer(loaded["train"], layer)
    missing = made.var_names.difference(train.var_names)
    if len(missing):
        raise ValueError(
            f"train must have the genes of the generated cells; {len(missing):,} of {made.n_vars:,} are "
            f"missing: {listed(list(missing))}."
        )
    train = train[:, made.var_names]
    # without layers and uns, so that the values of the requested layer are the only ones
    train = ad.AnnData(train.X, obs=train.obs, var=pd.DataFrame(index=train.var_names))
    sides = side_by_side(train, {"real": loaded["real"]}, keys={"label_key": label_key}, layer=layer)
    spare = np.flatnonzero(~rows_in(sides["generated"], sides["real"]))
    labels = _column(train, label_key)
    rows = spare[np.isin(labels[spare], list(sizes))]
    if len(rows) < 2:
        raise ValueError(
            "controls=True requires training cells with the labels of the generated cells that are not among "
            "the real cells. Give other training cells, or use controls=False."
        )
    codes = np.unique(labels[rows].astype(str), return_inverse=True)[1]
    rest, half = (rows[part] for part in split_rows(codes, len(rows), 0.5, seed))
    # scale of values that are not counts
    scale = {key: recipe[key] for key in ("counts", "scaling", "unit") if key in recipe}
    kept = {} if scale.get("counts", True) else {"vaexprs": scale}

    def as_generated(cells: ad.AnnData, x: Any) -> ad.AnnData:
        return ad.AnnData(x, obs=cells.obs, var=pd.DataFrame(index=cells.var_names), uns=kept)

    real_cells = _sample(train[half], label_key, sizes, seed)
    other = _sample(train[rows], label_key, sizes, seed)
    independent = _with_independent_genes(other, _column(other, label_key), seed)
    controls = {
        REAL_CONTROL: (as_generated(real_cells, real_cells.X), loaded["train"][np.sort(rest)]),
        INDEPENDENT_CONTROL: (as_generated(other, independent), loaded["train"]),
    }
    total = sum(sizes.values())
    for name, (cells, _) in controls.items():
        notes[name] = []
        if cells.n_obs < total:
            notes[name].append(
                f"This control has {cells.n_obs:,} cells, fewer than the {total:,} of each generator."
            )
    return controls


def _with_independent_genes(cells: ad.AnnData, labels: np.ndarray, seed: int) -> Any:
    """Return the values of the cells with each gene permuted among the cells of a label."""
    rng = np.random.default_rng(seed)
    x = cells.X.tocsc() if sp.issparse(cells.X) else np.asarray(cells.X)
    parts = []
    for start in range(0, cells.n_vars, GENES_AT_ONCE):
        block = np.array(densify(x[:, start : start + GENES_AT_ONCE]))
        for label in np.unique(labels.astype(str)):
            rows = np.flatnonzero(labels == label)
            block[rows] = rng.permuted(block[rows], axis=0)
        parts.append(sp.csr_matrix(block) if sp.issparse(x) else block)
    return sp.hstack(parts, format="csr") if sp.issparse(x) else np.concatenate(parts, axis=1)


def _joined(tables: Mapping[str, pd.DataFrame], notes: Mapping[str, list[str]]) -> Comparison:
    """Return one table of all generators, the best first and controls last."""
    found = {name: answers(table) for name, table in tables.items()}
    ranked = sorted(
        (name for name in tables if name not in CONTROLS),
        key=lambda name: _rank(pd.DataFrame(tables[name]), found[name]),
    )
    names = [*ranked, *(name for name in CONTROLS if name in tables)]
    parts = [pd.DataFrame(tables[name]).assign(generator=name) for name in names]
    for part in parts:
        part.attrs = {}
    joined = Comparison(pd.concat(parts, ignore_index=True)[["generator", *COLUMNS]])
    joined.attrs = {
        "notes": {name: list(dict.fromkeys(notes[name])) for name in names},
        "answers": {name: [tuple(answer) for answer in found[name]] for name in names},
        "label_lights": {name: label_lights(tables[name]) for name in names},
        "cells": {name: tables[name].attrs["cells"] for name in names},
        "controls": [name for name in names if name in CONTROLS],
    }
    return joined


def _rank(table: pd.DataFrame, of: Sequence[Answer]) -> tuple[float, float, float]:
    """Return a sort key of a generator, smaller for better ones."""
    green = sum(answer.light == "green" for answer in of)
    of_all = table[table["label"] == ALL]
    auc = of_all.loc[of_all["metric"] == "forest_auc_genes", "value"]
    # an AUC below chance level is noise, or due to copies, and no better than chance level
    separable = max(CHANCE, float(auc.iloc[0])) if len(auc) and np.isfinite(auc.iloc[0]) else np.inf
    return -green, separable, float((of_all["verdict"] == "off").mean())
