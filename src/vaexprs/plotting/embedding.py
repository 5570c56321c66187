"""`plot_aug`: plot real and generated cells in one embedding."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np

from vaexprs.comparison.cell_sets import open_generated, scaling_of
from vaexprs.comparison.provenance import label_key_of, real_layer, recipe_of
from vaexprs.comparison.subsample import load_cells, sample_training_cells
from vaexprs.data.groups import GROUP, OTHER_GROUP, group_key
from vaexprs.data.levels import find_level
from vaexprs.data.matrix import are_counts, as_float, densify, log_normalised
from vaexprs.generation.generated import Generated, join_real, real_cells
from vaexprs.interface.errors import warn
from vaexprs.interface.validation import check_choice, check_path, did_you_mean, listed
from vaexprs.io.atomic import written_whole
from vaexprs.io.open import load_layer, open_cells
from vaexprs.io.stores import StoredCells
from vaexprs.plotting.reductions import REDUCTIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


FIGURE_FORMATS = ("svg", "png", "pdf")
# blue and vermillion of the Okabe-Ito palette, distinguishable with colour vision deficiency
GROUP_STYLE = {
    "real": ("#0072B2", "o"),
    "generated": ("#D55E00", "^"),
}
BACKGROUND = "#D9D9D9"
MAX_PANELS = 24  # maximum number of labels with a panel of their own
MAX_FROM_DISK = 5_000  # maximum number of cells sampled from each set on disk


def plot_aug(
    x: Generated | ad.AnnData | str | os.PathLike[str],
    plot_fun: str,
    *,
    real: Any = None,
    layer: str | None = None,
    label_key: str | None = None,
    labels: str | Sequence[object] | None = None,
    seed: int = 0,
    **kwargs: Any,
) -> Figure:
    """Plot real and generated cells in one embedding: a panel of all cells, and a panel for each label.

    In each panel the smaller set is drawn on top, with open markers.

    The input of the reduction is on the model's scale: log(1 + counts per 10,000) for counts, else the
    scaling of the fit. The embedding is also stored in ``obsm``: of ``x.adata`` for generated cells, of
    ``x.to_anndata(real=True)`` for real and generated cells. For sets on disk that take more than 64 MiB, a
    random sample of at most 5,000 real and 5,000 generated cells is shown, stratified by label with cells of
    each label; a warning and the caption say so.

    Parameters
    ----------
    x
        Result of `gen_exprs`, or an AnnData of real and generated cells with ``obs["group"]``, or a path to
        one.
    plot_fun
        "PCA", "MDS" (classical), "TSNE", "UMAP", "NMF" or "DiffusionMap".
    real
        Real cells (AnnData, BiocPy experiment or path), required if the fit was loaded from disk, which does
        not hold training cells.
    layer
        Layer of `real` with the values (default: X).
    label_key
        Column of `obs` with the labels of the panels (default: the label key of the fit).
    labels
        Labels to show (default: all). The embedding is computed from their cells alone, and is not stored in
        ``obsm``.
    seed
        Seed of the reduction.
    **kwargs
        Arguments of the reduction: scikit-learn's ``PCA``, ``ClassicalMDS``, ``TSNE`` and ``NMF``,
        ``umap.UMAP``, and ``scanpy.pp.neighbors`` and ``scanpy.tl.diffmap``.

    Returns
    -------
    matplotlib Figure.

    Raises
    ------
    ValueError
        If `plot_fun` is not one of these, there are no real cells, or no cell has one of the `labels`.
    TypeError
        If `x` has the wrong type, or the reduction does not accept an argument or its value.
    """
    method = check_choice("plot_fun", plot_fun, tuple(REDUCTIONS))
    joined, label_key, notes = _real_and_generated(x, real, layer, label_key, seed)
    if labels is not None:
        joined = _of_labels(joined, label_key, labels)
    for note in notes:
        warn(note)
    values = model_space(joined)
    try:
        embedding, axes = REDUCTIONS[method](values, seed, kwargs)
    except TypeError as error:  # unknown argument or wrong type of its value
        given = ", ".join(kwargs) or "none"
        raise TypeError(f"{method} does not accept these arguments ({given}): {error}") from error
    key = f"X_{method.lower()}" if method != "DiffusionMap" else "X_diffmap"
    joined.obsm[key] = embedding
    made = embedding[(_group(joined) == "generated")]
    if isinstance(x, Generated) and labels is None and len(made) == x.adata.n_obs:
        x.adata.obsm[key] = made
    figure = _figure(embedding[:, :2], axes, joined, label_key)
    if notes:
        figure.supxlabel("\n".join(notes), fontsize=7)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a figure as svg, png or pdf, by the suffix of `path`, atomically.

    Raises
    ------
    ValueError
        If the suffix is not one of these.
    """
    path = check_path(path)
    suffix = check_choice("The suffix of the file", path.suffix.removeprefix("."), FIGURE_FORMATS)
    with written_whole(path, overwrite=overwrite) as temporary:
        figure.savefig(temporary, format=suffix, dpi=150)
    return path


def has_groups(cells: ad.AnnData | StoredCells) -> bool:
    """Whether `obs` of the cells has a column that says which are real and which generated."""
    return _group_key(cells) is not None


def _group_key(cells: ad.AnnData | StoredCells) -> str | None:
    if isinstance(cells, StoredCells):
        return group_key([key for key in (GROUP, OTHER_GROUP) if cells.has_column(key)])
    return group_key(cells.obs)


def _group(joined: ad.AnnData) -> np.ndarray:
    """Return "real" or "generated" for each cell, (n_cells,)."""
    key = group_key(joined.obs)
    return joined.obs[key].astype(str).to_numpy() if key is not None else np.full(joined.n_obs, "")


def _real_and_generated(
    x: Any, real: Any, layer: str | None, label_key: str | None, seed: int
) -> tuple[ad.AnnData, str | None, list[str]]:
    """Return real and generated cells in one AnnData, the label key, and notes on random samples.

    The real cells are `real`, the training cells of the fit, or already in `x`; `join_real` joins them.
    """
    cells = open_generated(x, [label_key])
    layer = real_layer(cells, layer)
    if isinstance(x, Generated):
        label_key = label_key or x.fit.preprocessing.conditions.label_key
    else:
        label_key = label_key_of(cells, label_key)
    keys = [label_key] if isinstance(x, Generated) or real is not None else [_group_key(cells), label_key]
    made = load_cells(cells, keys=keys, seed=seed, max_cells=MAX_FROM_DISK)
    looked = {"generated": made}
    if real is not None:
        looked["real"] = load_cells(
            open_cells(real, name="real", keys=[label_key]),
            keys=[label_key],
            seed=seed,
            layer=layer,
            max_cells=MAX_FROM_DISK,
        )
        joined = join_real(load_layer(looked["real"].cells, layer), made.cells)
    elif isinstance(x, Generated):
        train = sample_training_cells(x.fit.preprocessing, seed=seed, max_cells=MAX_FROM_DISK)
        if train is not None:
            looked["training"] = train
            joined = join_real(train.cells, made.cells)
        else:
            joined = x.joined if made.total is None else join_real(real_cells(x), made.cells)
    else:
        looked = {"given": made}
        joined = made.cells
    notes = [note for name, part in looked.items() for note in part.notes(name)]
    if not isinstance(x, Generated):
        groups = set(_group(joined)) - {""}
        if not groups or not groups <= set(GROUP_STYLE):
            raise ValueError(
                "obs['group'] must be 'real' or 'generated' for each cell. To plot generated cells with "
                "other real cells, use plot_aug(generated, 'UMAP', real=adata)."
            )
    if label_key is not None and label_key not in joined.obs:
        raise ValueError(
            "label_key must be a column of both real and generated cells "
            f"({listed(list(joined.obs.columns))}), got {label_key!r}."
            f"{did_you_mean(label_key, joined.obs.columns)}"
        )
    return joined, label_key, notes


def model_space(joined: ad.AnnData) -> np.ndarray:
    """Return real and generated cells on the scale of the model, (n_cells, n_genes), dense float32."""
    dense = densify(as_float(joined.X))
    recipe = recipe_of(joined)
    if recipe["counts"] if "counts" in recipe else are_counts(dense):
        return np.asarray(log_normalised(dense))
    real = dense[_group(joined) == "real"]
    return np.asarray(scaling_of(recipe, real).forward(dense))


def _figure(z: np.ndarray, axes: tuple[str, str], joined: ad.AnnData, label_key: str | None) -> Figure:
    """Return a figure with a large panel of all cells and a small panel for each label."""
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    if "IPython" in sys.modules:
        plt.draw_if_interactive()  # loads the backend, which registers how notebooks show figures
    group = _group(joined)
    labels = np.array([]) if label_key is None else joined.obs[label_key].astype(str).to_numpy()
    shown = _shown_labels(labels, group)
    rows = 0 if not shown else max(2, int(np.ceil(np.sqrt(len(shown) / 1.6))))
    columns = 0 if not shown else -(-len(shown) // rows)
    figure = Figure(figsize=(5.2 + 2.0 * columns, max(4.8, 2.0 * rows + 0.4)), layout="constrained")
    grid = figure.add_gridspec(max(rows, 1), columns + 1, width_ratios=[2.6] + [1.0] * columns)
    everything = figure.add_subplot(grid[:, 0])
    _scatter_groups(everything, z, group, len(z), in_legend=True)
    everything.set_xlabel(axes[0])
    everything.set_ylabel(axes[1])
    everything.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 1.1), ncols=2, markerscale=2)
    everything.spines[["top", "right"]].set_visible(False)
    everything.tick_params(labelsize=8)
    for i, label in enumerate(shown):
        panel = figure.add_subplot(grid[i % rows, 1 + i // rows], sharex=everything, sharey=everything)
        panel.scatter(z[:, 0], z[:, 1], s=2, color=BACKGROUND, linewidths=0, rasterized=True)
        here = labels == label
        _scatter_groups(panel, z[here], group[here], 9 * int(here.sum()))
        counts = ", ".join(f"{(group[here] == name).sum():,} {name}" for name in GROUP_STYLE)
        panel.set_title(f"{_short(label)}\n{counts}", fontsize=7)
        panel.tick_params(labelbottom=False, labelleft=False, length=0)
        for spine in panel.spines.values():
            spine.set_color(BACKGROUND)
    return figure


def _shown_labels(labels: np.ndarray, group: np.ndarray) -> list[str]:
    """Return the labels with a panel, sorted by decreasing number of generated, then of all cells."""
    names, real = np.unique(labels, return_counts=True)
    if len(names) < 2:
        return []
    made = np.array([(labels[group == "generated"] == name).sum() for name in names])
    order = np.lexsort((names, -real, -made))
    if len(names) > MAX_PANELS:
        warn(
            f"{len(names):,} labels are too many for one panel each; the {MAX_PANELS} with the most "
            "generated cells get one. To plot others, name them in labels=."
        )
    return [str(name) for name in names[order[:MAX_PANELS]]]


def _of_labels(joined: ad.AnnData, label_key: str | None, labels: str | Sequence[object]) -> ad.AnnData:
    """Return the cells of some labels.

    Raises
    ------
    ValueError
        If there is no label key, or a label is unknown.
    """
    if label_key is None:
        raise ValueError("labels requires label_key, the column of obs with the label.")
    column = joined.obs[label_key].astype(str).to_numpy()
    names = sorted(set(column))
    chosen = [labels] if isinstance(labels, str) or not isinstance(labels, Iterable) else list(labels)
    if not chosen:
        raise ValueError("labels must name at least one label, got none.")
    found = []
    for label in chosen:
        level = find_level(label, names)
        if level is None:
            raise ValueError(
                f"labels must be labels of the cells ({listed(names)}), got {str(label)!r}."
                f"{did_you_mean(label, names)}"
            )
        found.append(level)
    return joined[np.isin(column, found)].copy()


def _scatter_groups(
    axes: Axes, z: np.ndarray, group: np.ndarray, n_cells: int, *, in_legend: bool = False
) -> None:
    """Plot real and generated cells, the smaller set on top with open markers so that both can be seen."""
    cells = {name: z[group == name] for name in GROUP_STYLE}
    largest = max(cells, key=lambda name: len(cells[name]))
    size = float(np.clip(9000 / max(n_cells, 1), 4, 24))
    for name, (color, marker) in GROUP_STYLE.items():
        below = name == largest
        axes.scatter(
            cells[name][:, 0],
            cells[name][:, 1],
            s=size,
            facecolors=color if below else "none",
            edgecolors="none" if below else color,
            marker=marker,
            alpha=0.65 if below else 0.9,
            linewidths=0 if below else 0.7,
            zorder=2 if below else 3,
            label=f"{name} ({len(cells[name]):,})" if in_legend else None,
            rasterized=True,
        )


def _short(text: str, max_length: int = 30) -> str:
    return text if len(text) <= max_length else f"{text[: max_length - 1]}…"
