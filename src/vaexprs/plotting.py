"""plot_vae: the graph of the model. plot_aug: real and generated cells in one embedding."""

from __future__ import annotations

import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import keras
import numpy as np

from vaexprs import markup
from vaexprs._checks import check_choice, check_path, did_you_mean, some, warn
from vaexprs.comparison import (
    as_cells,
    at_hand,
    label_key_of,
    layer_like,
    recipe_of,
    sampled_training,
    scaling_of,
)
from vaexprs.generation import Generated, join_real, real_cells
from vaexprs.io import from_object, read
from vaexprs.matrices import as_float, densify
from vaexprs.networks import VAE
from vaexprs.ondisk import STORES, open_group
from vaexprs.result import VAEFit
from vaexprs.writing import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NODE_COLORS = {
    "encoder_col": "tomato",
    "mean_vector_col": "orange",
    "stddev_vector_col": "lavender",
    "latent_vector_col": "lightblue",
    "decoder_col": "palegreen",
    "condition_col": "gray",
}
COLORED_BY_NAME = {
    "z_mean": "mean_vector_col",
    "z_log_stddev": "stddev_vector_col",
    "latent": "latent_vector_col",
    "condition": "condition_col",
}
GRAPH_FORMATS = ("svg", "png", "pdf", "dot")
FIGURE_FORMATS = ("svg", "png", "pdf")

# blue and vermillion of Okabe & Ito's palette, which people with any colour vision can tell apart
GROUP_STYLE = {
    "real": ("#0072B2", "o"),
    "generated": ("#D55E00", "^"),
}
BACKGROUND = "#D9D9D9"
MOST_PANELS = 24
MOST_FROM_DISK = 5_000  # cells of each set that is left on disk
PCS = 50


@dataclass(frozen=True)
class ModelGraph:
    """The graph of a Keras model; shows itself in a notebook.

    Parameters
    ----------
    dot
        The graph in Graphviz' DOT language.
    layers
        Names of the layers in the order of the model.
    """

    dot: str
    layers: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f'ModelGraph: {len(self.layers)} layers; save("model.svg") draws it'

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the graph as svg, png, pdf or dot, by the suffix of `path`.

        Raises
        ------
        ValueError
            If the suffix is another one.
        FileExistsError
            If `path` exists and `overwrite` is false.
        """
        path = check_path(path)
        suffix = check_choice("The suffix of the file", path.suffix.removeprefix("."), GRAPH_FORMATS)
        with written_whole(path, overwrite=overwrite) as beside:
            beside.write_bytes(self.dot.encode() if suffix == "dot" else self._draw(suffix))
        return path

    def _draw(self, suffix: str, *, on_any_ground: bool = False) -> bytes:
        import pygraphviz

        graph = pygraphviz.AGraph(string=self.dot)
        if on_any_ground:  # nodes have a light one of their own; arrows must show on white and on black
            graph.graph_attr["bgcolor"] = "transparent"
            graph.edge_attr["color"] = "gray50"
        return bytes(graph.draw(format=suffix, prog="dot"))

    def _repr_svg_(self) -> str:
        return self._draw("svg").decode()

    def _repr_html_(self) -> str:
        # what a notebook shows
        picture = problem = None
        try:
            picture = markup.data_uri(self._draw("svg", on_any_ground=True).decode())
        except (ImportError, OSError) as error:
            problem = str(error)
        return markup.render("notebook/graph.html", layers=self.layers, source=picture, problem=problem)


def plot_vae(x: VAEFit | keras.Model, node_color: Mapping[str, str] | None = None) -> ModelGraph:
    """Draw the graph of a model: the layers with their names, types, input and output shapes.

    Parameters
    ----------
    x
        A fit, or a functional Keras model such as ``fit.model``, ``fit.encoder`` or ``fit.decoder``.
    node_color
        Colours to use instead of R's defaults: encoder_col ("tomato"), mean_vector_col ("orange"),
        stddev_vector_col ("lavender"), latent_vector_col ("lightblue"), decoder_col ("palegreen"),
        condition_col ("gray").

    Returns
    -------
    ModelGraph
        Shows itself in a notebook; ``save("model.svg")`` writes svg, png, pdf or dot.

    Raises
    ------
    TypeError
        If `x` is neither a fit nor a Keras model.
    ValueError
        If a name in `node_color` is not one of the six, or its colour is none.
    """
    model = x.model if isinstance(x, VAEFit) else x
    if not isinstance(model, keras.Model):
        raise TypeError(f"x must be a fit or a Keras model, got {type(x).__name__}.")
    colors = NODE_COLORS | _checked_colors(node_color)
    graph = keras.Model(model.input, model.output) if isinstance(model, VAE) else model
    layers = graph.get_config()["layers"]
    sources = {
        layer["name"]: list(dict.fromkeys(_tensor_sources(layer["inbound_nodes"]))) for layer in layers
    }
    roles = _roles(sources)
    number = {name: i + 1 for i, name in enumerate(sources)}
    lines = [
        "digraph {",
        "  graph [layout=dot, rankdir=TB]",
        '  node [shape=record, color=black, style=filled, fontname="Helvetica"]',
    ]
    for name, i in number.items():
        label = _record(model.get_layer(name))
        lines.append(f'  {i} [label="{label}", fillcolor="{colors[roles[name]]}"]')
    for name, before in sources.items():
        lines += [f"  {number[source]} -> {number[name]}" for source in before]
    return ModelGraph("\n".join([*lines, "}"]) + "\n", tuple(number))


def _checked_colors(node_color: Mapping[str, str] | None) -> dict[str, str]:
    from matplotlib import colors

    checked = {}
    for name, color in (node_color or {}).items():
        check_choice("node_color", name, tuple(NODE_COLORS))
        if not colors.is_color_like(color):
            raise ValueError(
                f"node_color[{name!r}] must be a colour such as 'tomato' or '#ff6347', got {color!r}."
                f"{did_you_mean(color, colors.CSS4_COLORS)}"
            )
        checked[name] = color if color in colors.CSS4_COLORS else colors.to_hex(color)
    return checked


def _tensor_sources(config: Any) -> Iterator[str]:
    """Yield the names of the layers whose output tensors stand in a functional model's configuration."""
    if isinstance(config, dict):
        if config.get("class_name") == "__keras_tensor__":
            yield config["config"]["keras_history"][0]
        else:
            for value in config.values():
                yield from _tensor_sources(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _tensor_sources(value)


def _roles(sources: Mapping[str, list[str]]) -> dict[str, str]:
    """Return for each layer the name of its colour: what feeds z_mean is the encoder."""
    encoder: set[str] = set()
    waiting = ["z_mean"] if "z_mean" in sources else []
    while waiting:
        name = waiting.pop()
        encoder.add(name)
        waiting += [source for source in sources[name] if source not in encoder]
    return {
        name: COLORED_BY_NAME.get(name, "encoder_col" if name in encoder else "decoder_col")
        for name in sources
    }


def _record(layer: keras.layers.Layer) -> str:
    def escaped(text: str) -> str:
        return re.sub(r'([{}|<>"\\ ])', r"\\\1", text)

    def shapes(tensors: Any) -> str:
        flat = [str(tuple(tensor.shape)) for tensor in keras.tree.flatten(tensors)]
        return escaped(flat[0] if len(flat) == 1 else f"[{', '.join(flat)}]")

    title = escaped(f"{layer.name} : {type(layer).__name__}")
    taken = layer.output if isinstance(layer, keras.layers.InputLayer) else layer.input
    return f"{title}|{{input:|output:}}|{{{shapes(taken)}|{shapes(layer.output)}}}"


def plot_aug(
    x: Generated | ad.AnnData | str | os.PathLike[str],
    plot_fun: str,
    *,
    real: Any = None,
    layer: str | None = None,
    label_key: str | None = None,
    seed: int = 0,
    **kwargs: Any,
) -> Figure:
    """Plot real and generated cells together: one panel of all, and one for each label.

    The reduction sees the cells as the model does: log(1 + counts per 10,000) for counts, the fit's own
    scaling for the rest. The embedding is also put into ``obsm`` of the AnnData: for generated cells into
    ``x.adata``, and real ones have theirs in ``x.to_anndata(real=True)``. Of cells that are on disk and take
    more than 64 MiB at most 5,000 real and as many generated ones are shown, drawn at random in the
    proportions of the labels but with some of each; a warning and the caption say so.

    Parameters
    ----------
    x
        What `gen_exprs` returned, or an AnnData of real and generated cells with ``obs["group"]``, or a path
        to one.
    plot_fun
        "PCA", "MDS" (classical), "TSNE", "UMAP", "NMF" or "DiffusionMap".
    real
        Real cells (AnnData, BiocPy experiment or path), where the fit was loaded from disk and has none.
    layer
        Layer of `real` with the values; by default X.
    label_key
        Column of `obs` with the labels of the panels; by default the label of the fit.
    seed
        Seed of the reduction.
    **kwargs
        Passed on to the reduction: scikit-learn's ``PCA``, ``ClassicalMDS``, ``TSNE`` and ``NMF``,
        ``umap.UMAP``, and ``scanpy.pp.neighbors`` and ``scanpy.tl.diffmap``.

    Returns
    -------
    matplotlib Figure.

    Raises
    ------
    ValueError
        If `plot_fun` is another one, or there are no real cells to show.
    TypeError
        If `x` is of another kind, or the reduction does not take an argument or its value.
    """
    method = check_choice("plot_fun", plot_fun, tuple(REDUCTIONS))
    joined, label_key, notes = _joined(x, real, layer, label_key, seed)
    for note in notes:
        warn(note)
    values = model_space(joined)
    try:
        embedding, axes = REDUCTIONS[method](values, seed, kwargs)
    except TypeError as error:  # of a name that it does not know, or a value of another kind
        given = ", ".join(kwargs) or "none"
        raise TypeError(f"{method} cannot be made with the arguments given ({given}): {error}") from error
    key = f"X_{method.lower()}" if method != "DiffusionMap" else "X_diffmap"
    joined.obsm[key] = embedding
    made = embedding[(joined.obs["group"] == "generated").to_numpy()]
    if isinstance(x, Generated) and len(made) == x.adata.n_obs:
        x.adata.obsm[key] = made
    figure = _figure(embedding[:, :2], axes, joined, label_key)
    if notes:
        figure.supxlabel("\n".join(notes), fontsize=7)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a figure as svg, png or pdf, by the suffix of `path`, whole or not at all.

    Raises
    ------
    ValueError
        If the suffix is another one.
    """
    path = check_path(path)
    suffix = check_choice("The suffix of the file", path.suffix.removeprefix("."), FIGURE_FORMATS)
    with written_whole(path, overwrite=overwrite) as beside:
        figure.savefig(beside, format=suffix, dpi=150)
    return path


def has_groups(path: str | os.PathLike[str]) -> bool:
    """Whether the cells of a file say which of them are real and which generated."""
    if Path(path).suffix not in STORES:
        return "group" in read(path).obs
    group = open_group(path)
    return "obs" in group and "group" in group["obs"]


def _joined(
    x: Any, real: Any, layer: str | None, label_key: str | None, seed: int
) -> tuple[ad.AnnData, str | None, list[str]]:
    """Return real and generated cells in one AnnData, the column of their labels, and what was left out."""
    cells = as_cells(x)
    layer = layer_like(cells, layer)
    if isinstance(x, Generated):
        label_key = label_key or x.fit.preprocessing.conditions.label_key
    else:
        label_key = label_key_of(cells, label_key)
    keys = [label_key] if isinstance(x, Generated) or real is not None else ["group", label_key]
    made = at_hand(cells, keys=keys, seed=seed, most=MOST_FROM_DISK)
    looked = {"generated": made}
    if real is not None:
        looked["real"] = at_hand(real, keys=[label_key], seed=seed, layer=layer, most=MOST_FROM_DISK)
        joined = join_real(from_object(looked["real"].cells, layer=layer, name="real"), made.cells)
    elif isinstance(x, Generated):
        train = sampled_training(x.fit.preprocessing, seed=seed, most=MOST_FROM_DISK)
        if train is not None:
            looked["training"] = train
            joined = join_real(train.cells, made.cells)
        else:
            joined = x.joined if made.of is None else join_real(real_cells(x), made.cells)
    else:
        looked = {"given": made}
        joined = made.cells
    notes = [note for name, part in looked.items() for note in part.told(name)]
    if not isinstance(x, Generated):
        groups = set(joined.obs["group"].astype(str)) if "group" in joined.obs else set()
        if not groups or not groups <= set(GROUP_STYLE):
            raise ValueError(
                "obs['group'] must say 'real' or 'generated' for each cell. Give generated cells together "
                "with real ones: plot_aug(generated, 'UMAP', real=adata)."
            )
    if label_key is not None and label_key not in joined.obs:
        raise ValueError(
            "label_key must be a column that real and generated cells have "
            f"({some(list(joined.obs.columns))}), got {label_key!r}."
            f"{did_you_mean(label_key, joined.obs.columns)}"
        )
    return joined, label_key, notes


def model_space(joined: ad.AnnData) -> np.ndarray:
    """Return real and generated cells as the model sees them, (n_cells, n_genes), dense float32."""
    dense = densify(as_float(joined.X))
    recipe = recipe_of(joined)
    if recipe.get("counts", bool(np.all(dense == np.round(dense)))):
        return np.log1p(1e4 * dense / np.maximum(dense.sum(axis=1, keepdims=True), 1))
    real = dense[(joined.obs["group"] == "real").to_numpy()]
    return np.asarray(scaling_of(recipe, real).forward(dense))


Reduction = Callable[[np.ndarray, int, dict[str, Any]], tuple[np.ndarray, tuple[str, str]]]


def _pca(x: np.ndarray, seed: int, kwargs: dict[str, Any]) -> tuple[np.ndarray, tuple[str, str]]:
    from sklearn.decomposition import PCA

    pca = PCA(**({"n_components": 2, "random_state": seed} | kwargs))
    z = pca.fit_transform(x)
    share = 100 * pca.explained_variance_ratio_
    return z, (f"PC1 ({share[0]:.1f}%)", f"PC2 ({share[1]:.1f}%)")


def _mds(x: np.ndarray, seed: int, kwargs: dict[str, Any]) -> tuple[np.ndarray, tuple[str, str]]:
    from sklearn.manifold import ClassicalMDS

    return ClassicalMDS(**({"n_components": 2} | kwargs)).fit_transform(_few_pcs(x, seed)), ("MDS1", "MDS2")


def _tsne(x: np.ndarray, seed: int, kwargs: dict[str, Any]) -> tuple[np.ndarray, tuple[str, str]]:
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(x) - 1) / 3)
    tsne = TSNE(**({"random_state": seed, "init": "pca", "perplexity": perplexity} | kwargs))
    return tsne.fit_transform(_few_pcs(x, seed)), ("TSNE1", "TSNE2")


def _umap(x: np.ndarray, seed: int, kwargs: dict[str, Any]) -> tuple[np.ndarray, tuple[str, str]]:
    from umap import UMAP

    settings = {"random_state": seed, "n_neighbors": min(15, len(x) - 1), "n_jobs": 1} | kwargs
    return UMAP(**settings).fit_transform(_few_pcs(x, seed)), ("UMAP1", "UMAP2")


def _nmf(x: np.ndarray, seed: int, kwargs: dict[str, Any]) -> tuple[np.ndarray, tuple[str, str]]:
    from sklearn.decomposition import NMF
    from sklearn.exceptions import ConvergenceWarning

    if (x < 0).any():
        raise ValueError("NMF needs values that are not negative, got some below 0. Use 'PCA'.")
    settings = {"n_components": 2, "init": "nndsvda", "random_state": seed, "max_iter": 500} | kwargs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return NMF(**settings).fit_transform(x), ("NMF1", "NMF2")


def _diffusion_map(x: np.ndarray, seed: int, kwargs: dict[str, Any]) -> tuple[np.ndarray, tuple[str, str]]:
    import scanpy as sc

    cells = ad.AnnData(_few_pcs(x, seed))
    of_neighbors = {k: v for k, v in kwargs.items() if k in inspect.signature(sc.pp.neighbors).parameters}
    settings = {"n_neighbors": min(15, len(x) - 1), "use_rep": "X", "random_state": seed} | of_neighbors
    sc.pp.neighbors(cells, **settings)
    rest = {k: v for k, v in kwargs.items() if k not in of_neighbors}
    sc.tl.diffmap(cells, **({"n_comps": min(15, len(x) - 2), "random_state": seed} | rest))
    return np.asarray(cells.obsm["X_diffmap"])[:, 1:], ("DC1", "DC2")  # the first is constant


def _few_pcs(x: np.ndarray, seed: int) -> np.ndarray:
    """Return up to 50 principal components, on which distances are cheap and less noisy."""
    most = min(PCS, len(x) - 1, x.shape[1])
    return x if most < 2 else _pca(x, seed, {"n_components": most})[0]


REDUCTIONS: dict[str, Reduction] = {
    "PCA": _pca,
    "MDS": _mds,
    "TSNE": _tsne,
    "UMAP": _umap,
    "NMF": _nmf,
    "DiffusionMap": _diffusion_map,
}


def _figure(z: np.ndarray, axes: tuple[str, str], joined: ad.AnnData, label_key: str | None) -> Figure:
    """Draw all cells in one panel and, beside it, each label in a panel of its own."""
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    if "IPython" in sys.modules:
        plt.draw_if_interactive()  # loads the backend, which tells notebooks how to show a figure
    group = joined.obs["group"].astype(str).to_numpy()
    labels = np.array([]) if label_key is None else joined.obs[label_key].astype(str).to_numpy()
    shown = _shown_labels(labels, group)
    rows = 0 if not shown else max(2, int(np.ceil(np.sqrt(len(shown) / 1.6))))
    columns = 0 if not shown else -(-len(shown) // rows)
    figure = Figure(figsize=(5.2 + 2.0 * columns, max(4.8, 2.0 * rows + 0.4)), layout="constrained")
    grid = figure.add_gridspec(max(rows, 1), columns + 1, width_ratios=[2.6] + [1.0] * columns)
    everything = figure.add_subplot(grid[:, 0])
    for name in GROUP_STYLE:
        _scatter(everything, z[group == name], name, len(z), f"{name} ({(group == name).sum():,})")
    everything.set_xlabel(axes[0])
    everything.set_ylabel(axes[1])
    everything.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 1.1), ncols=2, markerscale=2)
    everything.spines[["top", "right"]].set_visible(False)
    everything.tick_params(labelsize=8)
    for i, label in enumerate(shown):
        panel = figure.add_subplot(grid[i % rows, 1 + i // rows], sharex=everything, sharey=everything)
        panel.scatter(z[:, 0], z[:, 1], s=2, color=BACKGROUND, linewidths=0, rasterized=True)
        here = labels == label
        counts = []
        for name in GROUP_STYLE:
            chosen = here & (group == name)
            _scatter(panel, z[chosen], name, 9 * int(here.sum()), None)
            counts.append(f"{chosen.sum():,}")
        panel.set_title(f"{_short(label)}\n{counts[0]} real, {counts[1]} generated", fontsize=7)
        panel.tick_params(labelbottom=False, labelleft=False, length=0)
        for spine in panel.spines.values():
            spine.set_color(BACKGROUND)
    return figure


def _shown_labels(labels: np.ndarray, group: np.ndarray) -> list[str]:
    """Return the labels that get a panel: the largest, those with generated cells first."""
    names, real = np.unique(labels, return_counts=True)
    if len(names) < 2:
        return []
    made = np.array([(labels[group == "generated"] == name).sum() for name in names])
    order = np.lexsort((names, -real, -made))
    if len(names) > MOST_PANELS:
        warn(
            f"{len(names):,} labels are too many for a panel each; the {MOST_PANELS} with the most generated "
            "cells have one. For others select their cells: plot_aug(x.to_anndata(real=True)[...], ...)."
        )
    return [str(name) for name in names[order[:MOST_PANELS]]]


def _scatter(axes: Axes, z: np.ndarray, name: str, crowd: int, label: str | None) -> None:
    size = float(np.clip(9000 / max(crowd, 1), 4, 24))
    color, marker = GROUP_STYLE[name]
    axes.scatter(
        z[:, 0],
        z[:, 1],
        s=size,
        c=color,
        marker=marker,
        alpha=0.65,
        linewidths=0,
        label=label,
        rasterized=True,
    )


def _short(text: str, most: int = 30) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
